//! `minik stop`, `delete`, `status`, `logs`: what becomes of a cluster that was started.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::Duration;

use serde_json::json;

use super::failure::{Failure, Kind};
use super::kubeconfig::{self, Person};
use super::start::server;
use super::{Global, output};
use crate::daemon::cleanup;
use crate::daemon::config::{Cluster, Places};
use crate::daemon::control::{self, State};

/// How long containers get to end when their cluster stops (a pod's usual grace). Nothing of a deleted one is kept,
/// so nothing is waited for there.
const STOP_GRACE: Duration = Duration::from_secs(30);

fn no_cluster(places: &Places) -> Failure {
    Failure::new(Kind::NoCluster, format!("there is no cluster {:?}", places.profile))
        .hint(format!("make it: minik start -p {}", places.profile))
}

/// `minik stop`: every pod and the daemon end, everything is kept.
pub async fn stop(global: &Global) -> Result<(), Failure> {
    super::require_root("stop a cluster")?;
    let places = global.places()?;
    let cluster = Cluster::read(&places).map_err(Failure::general)?.ok_or_else(|| no_cluster(&places))?;
    halt(&places, &cluster, STOP_GRACE).await?;
    output::note(format!("minik: cluster {:?} is stopped; its objects and volumes are kept", places.profile));
    Ok(())
}

/// Ends the daemon and all that runs, whether the daemon still answers or not.
async fn halt(places: &Places, cluster: &Cluster, grace: Duration) -> Result<(), Failure> {
    let asked = control::stop(&places.control(), grace).await.map_err(|error| {
        Failure::general(format!("cannot ask the daemon of {:?} to stop: {error}", places.profile))
    })?;
    if asked {
        return Ok(());
    }
    // Killed, or never started: what it left running ends all the same.
    let failures = cleanup::end_without_daemon(places, cluster).await;
    if failures.is_empty() {
        return Ok(());
    }
    Err(Failure::general(format!(
        "not everything of {:?} ended:\n- {}",
        places.profile,
        failures.join("\n- ")
    )))
}

/// Flags of `minik delete`.
#[derive(Debug, clap::Args)]
pub struct DeleteArgs {
    /// Keep the images, which the last cluster otherwise takes with it
    #[arg(long)]
    keep_images: bool,
}

/// `minik delete`: the machine as it was before.
pub async fn delete(args: &DeleteArgs, global: &Global) -> Result<(), Failure> {
    super::require_root("delete a cluster")?;
    let places = global.places()?;
    let mut failures = Vec::new();
    let existed = places.data().exists() || places.run().exists();
    match Cluster::read(&places) {
        Ok(Some(cluster)) => {
            if let Err(failure) = halt(&places, &cluster, Duration::ZERO).await {
                failures.push(failure.message);
            }
            // Also after a stop in good order: what a crash before it may have left goes now.
            failures.extend(cleanup::end_without_daemon(&places, &cluster).await);
        }
        Ok(None) => {}
        Err(error) => failures.push(error.to_string()),
    }
    failures.extend(cleanup::remove_files(&places));
    if let Err(error) = kubeconfig::remove(&Person::invoking(), &places.profile) {
        failures.push(error.to_string());
    }
    if !args.keep_images && Cluster::all(&global.data_dir).is_empty() {
        match fs::remove_dir_all(places.images()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                failures.push(format!("images: {error}"))
            }
            _ => {}
        }
        let _ = fs::remove_dir(&global.data_dir);
    }
    if !failures.is_empty() {
        return Err(Failure::general(format!(
            "not everything of {:?} could be removed:\n- {}",
            places.profile,
            failures.join("\n- ")
        ))
        .hint("run minik delete once more when the cause is gone"));
    }
    output::note(if existed {
        format!("minik: cluster {:?} is deleted", places.profile)
    } else {
        format!("minik: there is no cluster {:?}; nothing to delete", places.profile)
    });
    Ok(())
}

/// Flags of `minik status`.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// text or json
    #[arg(short, long, default_value = "text", value_parser = ["text", "json"])]
    output: String,
}

/// `minik status`: each part's state; the exit code is 0 when all of them run, else minikube's sum of
/// 1 (host), 2 (cluster), 4 (Kubernetes).
pub async fn status(args: &StatusArgs, global: &Global) -> Result<u8, Failure> {
    let places = global.places()?;
    let asked = control::status(&places.control()).await;
    let state = match asked {
        Ok(state) => state,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(
                Failure::new(Kind::Permission, "only root may ask the daemon").hint("sudo minik status")
            );
        }
        Err(error) => return Err(Failure::general(error)),
    };
    let exists = Cluster::read(&places).map_err(Failure::general)?.is_some();
    if state.is_none() && !exists {
        if args.output == "json" {
            output::line(
                json!({"Name": places.profile, "Host": "Nonexistent", "Kubelet": "Nonexistent",
                                "APIServer": "Nonexistent", "Kubeconfig": "Nonexistent"})
                .to_string(),
            );
        }
        return Err(no_cluster(&places));
    }
    let ready = match &state {
        Some(state) => api_answers(&places, state).await,
        None => false,
    };
    let words = |runs: bool| if runs { "Running" } else { "Stopped" };
    let port = state.as_ref().map(|s| s.apiserver_port);
    let configured =
        port.is_some_and(|p| kubeconfig::leads_to(&Person::invoking(), &places.profile, &server(p)));
    let shown = json!({
        "Name": places.profile, "Host": words(state.is_some()), "Kubelet": words(state.is_some()),
        "APIServer": words(ready), "Kubeconfig": if configured { "Configured" } else { "Misconfigured" },
        "daemonPid": state.as_ref().map(|s| s.pid), "apiServerPort": port,
        "nodeAddress": state.as_ref().map(|s| s.node_address.clone()),
    });
    if args.output == "json" {
        output::line(shown.to_string());
    } else {
        output::line(&places.profile);
        for (label, field) in [
            ("host", "Host"),
            ("kubelet", "Kubelet"),
            ("apiserver", "APIServer"),
            ("kubeconfig", "Kubeconfig"),
        ] {
            output::line(format!("{label}: {}", shown[field].as_str().unwrap_or("")));
        }
        if let Some(state) = &state {
            output::line(format!("daemon pid: {}", state.pid));
        }
    }
    Ok(match (&state, ready) {
        (None, _) => 7,
        (Some(_), false) => 4,
        (Some(_), true) => 0,
    })
}

/// Whether the API server answers on its port over TLS.
async fn api_answers(places: &Places, state: &State) -> bool {
    let ask = async {
        let bytes = fs::read(places.admin()).ok()?;
        let admin: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = reqwest::Certificate::from_pem(admin["ca"].as_str()?.as_bytes()).ok()?;
        let http = reqwest::Client::builder()
            .tls_certs_only([ca])
            .no_proxy()
            .timeout(Duration::from_secs(5))
            .build()
            .ok()?;
        let answer = http.get(format!("{}/readyz", server(state.apiserver_port))).send().await.ok()?;
        Some(answer.status().is_success())
    };
    ask.await == Some(true)
}

/// Flags of `minik logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
    /// Show so many of the last lines
    #[arg(short = 'n', long, default_value_t = 60)]
    length: usize,
    /// Stay and show what comes
    #[arg(short, long)]
    follow: bool,
}

/// How much of the log is looked at for its last lines, in bytes.
const TAIL_BYTES: u64 = 1 << 20;
/// Between two looks at a followed log.
const LOOK: Duration = Duration::from_millis(250);

/// `minik logs`: what the daemon said.
pub async fn logs(args: &LogsArgs, global: &Global) -> Result<(), Failure> {
    let places = global.places()?;
    let path = places.log();
    let mut file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(no_cluster(&places)),
        Err(error) => return Err(Failure::general(format!("{}: {error}", path.display()))),
    };
    let length = file.metadata().map_err(Failure::general)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).map_err(Failure::general)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(Failure::general)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(args.length)..] {
        output::line(line);
    }
    if !args.follow {
        return Ok(());
    }
    loop {
        let mut more = Vec::new();
        file.read_to_end(&mut more).map_err(Failure::general)?;
        output::bytes(&more).map_err(Failure::general)?;
        tokio::time::sleep(LOOK).await;
    }
}
