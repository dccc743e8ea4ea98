//! `minik status`: each part's state.

use std::fs;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use super::failure::{Failure, Kind};
use super::kubeconfig::{self, Entries, Person};
use super::{Global, output, target};
use crate::daemon::cluster::Cluster;
use crate::daemon::control::{self, State};
use crate::daemon::places::Places;

/// Flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// text or json
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

/// What is known of a cluster's daemon.
enum Daemon {
    /// None runs.
    Stopped,
    /// One runs and says so.
    Running {
        state: State,
        /// Whether the API server answers.
        api: bool,
    },
    /// One runs and does not answer.
    Wedged(String),
}

/// Runs the verb. The exit code is 0 when all parts run, else minikube's sum of 1 (host), 2 (cluster), 4 (Kubernetes).
pub async fn run(args: &Args, global: &Global) -> Result<u8, Failure> {
    let places = global.places()?;
    target::check_data_dir(&places)?;
    let for_root =
        |what: &str| Failure::new(Kind::Permission, format!("only root may {what}")).hint(super::with_sudo());
    let daemon = match control::status(&places.control()).await {
        Ok(None) => Daemon::Stopped,
        Ok(Some(state)) => Daemon::Running { api: api_answers(&places, &state).await, state },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(for_root("ask the daemon"));
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Daemon::Wedged(error.to_string()),
        Err(error) => return Err(Failure::general(error)),
    };
    let cluster = match fs::metadata(places.settings()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(for_root("look at the cluster"));
        }
        _ => Cluster::read(&places).map_err(Failure::general)?,
    };
    if let (Daemon::Stopped, None) = (&daemon, &cluster) {
        if args.output == "json" {
            output::line(nonexistent(&places.profile).to_string());
        }
        return Err(target::none(&places));
    }
    let port = match &daemon {
        Daemon::Running { state, .. } => Some(state.apiserver_port),
        _ => cluster.as_ref().map(|cluster| cluster.apiserver_port),
    };
    let entries = port.and_then(|port| Entries::read(&places, port).ok());
    let configured = entries.is_some_and(|entries| kubeconfig::leads_to(&Person::invoking(), &entries));
    let shown = shown(&places.profile, &daemon, port, configured, cluster.as_ref());
    if args.output == "json" {
        output::line(shown.to_string());
    } else {
        print(&shown);
    }
    if let Daemon::Wedged(why) = &daemon {
        output::note(format!("minik: {why}; end it: minik stop -p {}", places.profile));
    }
    Ok(code(&daemon))
}

fn nonexistent(name: &str) -> Value {
    let no = "Nonexistent";
    json!({"Name": name, "Host": no, "Kubelet": no, "APIServer": no, "Kubeconfig": no})
}

fn shown(
    name: &str,
    daemon: &Daemon,
    port: Option<u16>,
    configured: bool,
    cluster: Option<&Cluster>,
) -> Value {
    let words = |runs: bool| if runs { "Running" } else { "Stopped" };
    let (host, kubelet, api, state) = match daemon {
        Daemon::Stopped => ("Stopped", "Stopped", "Stopped", None),
        Daemon::Running { state, api } => ("Running", words(state.kubelet), words(*api), Some(state)),
        Daemon::Wedged(_) => ("Running", "Error", "Error", None),
    };
    json!({
        "Name": name, "Host": host, "Kubelet": kubelet, "APIServer": api,
        "Kubeconfig": if configured { "Configured" } else { "Misconfigured" },
        "daemonPid": state.map(|s| s.pid), "apiServerPort": port,
        "nodeAddress": state.map(|s| s.node_address.clone()),
        "podCIDR": cluster.map(|c| c.pod_cidr.clone()), "serviceCIDR": cluster.map(|c| c.service_cidr.clone()),
    })
}

fn print(shown: &Value) {
    output::line(shown["Name"].as_str().unwrap_or(""));
    for (label, field) in
        [("host", "Host"), ("kubelet", "Kubelet"), ("apiserver", "APIServer"), ("kubeconfig", "Kubeconfig")]
    {
        output::line(format!("{label}: {}", shown[field].as_str().unwrap_or("")));
    }
    if let Some(pid) = shown["daemonPid"].as_u64() {
        output::line(format!("daemon pid: {pid}"));
    }
    for (label, field) in [("pods", "podCIDR"), ("services", "serviceCIDR")] {
        if let Some(ranges) = shown[field].as_str() {
            output::line(format!("{label}: {ranges}"));
        }
    }
}

fn code(daemon: &Daemon) -> u8 {
    match daemon {
        Daemon::Stopped => 7,
        Daemon::Running { state, api } if *api && state.kubelet => 0,
        Daemon::Running { .. } | Daemon::Wedged(_) => 4,
    }
}

/// Whether the API server answers on its port over TLS.
async fn api_answers(places: &Places, state: &State) -> bool {
    let ask = async {
        let entries = Entries::read(places, state.apiserver_port).ok()?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(entries.ca.as_bytes()).ok()?;
        let http = reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()
            .ok()?;
        let answer = http.get(format!("{}/readyz", entries.server)).send().await.ok()?;
        Some(answer.status().is_success())
    };
    ask.await == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_state() {
        let state = |kubelet| State {
            pid: 7,
            apiserver_port: 8443,
            node_address: "10.0.0.1".into(),
            node_name: "n".into(),
            kubelet,
            ready: false,
        };
        let cluster: Cluster = serde_json::from_value(json!({
            "apiserverPort": 8443, "podCidr": "10.244.0.0/16,fd00:10:244::/64",
            "serviceCidr": "10.96.0.0/12,fd00:10:96::/112", "nodeName": "n", "registryMirrors": {},
            "insecureRegistries": [], "shareProcessNamespace": true,
        }))
        .unwrap();
        let running = |kubelet, api| Daemon::Running { state: state(kubelet), api };
        for (daemon, parts, exit) in [
            (Daemon::Stopped, ["Stopped", "Stopped", "Stopped"], 7),
            (running(true, true), ["Running", "Running", "Running"], 0),
            (running(false, true), ["Running", "Stopped", "Running"], 4),
            (running(true, false), ["Running", "Running", "Stopped"], 4),
            (Daemon::Wedged("x".into()), ["Running", "Error", "Error"], 4),
        ] {
            let shown = shown("c", &daemon, Some(8443), true, Some(&cluster));
            assert_eq!(["Host", "Kubelet", "APIServer"].map(|f| shown[f].as_str().unwrap()), parts);
            assert_eq!(code(&daemon), exit, "{parts:?}");
            assert_eq!(shown["podCIDR"], "10.244.0.0/16,fd00:10:244::/64");
            assert_eq!(shown["serviceCIDR"], "10.96.0.0/12,fd00:10:96::/112");
        }
    }
}
