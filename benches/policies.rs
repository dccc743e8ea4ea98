//! What network policies cost: planning, full loads, one more pod, and connections between pods. Run as root:
//! `cargo bench --bench policies`. Works in namespaces of its own, which end with it.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use minik::network::{self, PodNetwork};
use minik::proxy::Config;
use minik::proxy::policy::plan::{Objects, plan};
use minik::proxy::state::State;
use minik::proxy::table::Table;
use minik::sys::namespace::run_in_path;
use serde_json::{Value, json};

mod common;

use common::{Result, time};

/// How many pods there are; two of them are real.
const PODS: u32 = 200;
const CONNECTIONS: usize = 5000;

fn main() -> Result<()> {
    let mut out = std::io::stdout();
    if !common::alone(&mut out)? {
        return Ok(());
    }
    let directory = std::env::temp_dir().join(format!("minik-bench-{}", std::process::id()));
    let network = network::Config {
        prefix: "mkb".into(),
        pods: "10.244.0.0/16".parse()?,
        pods6: None,
        namespaces: directory.join("namespaces"),
        state: directory.join("state"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let pods = PodNetwork::open(network.clone()).await?;
        let measured = measure(&network, &pods, &mut out).await;
        pods.close().await;
        PodNetwork::destroy(&network).await?;
        measured
    });
    std::fs::remove_dir(&directory)?;
    measured
}

async fn measure(network: &network::Config, pods: &PodNetwork, out: &mut impl Write) -> Result<()> {
    let (server, client) = (pods.attach("server").await?, pods.attach("client").await?);
    let listener = run_in_path(&server.namespace, || TcpListener::bind("0.0.0.0:80"))??;
    std::thread::spawn(move || while listener.accept().is_ok() {});
    let mut table = Table::new(Config {
        table: "minik-bench".into(),
        pods: network.pods,
        services: "10.96.0.0/12".parse()?,
        gateway: network.gateway(),
        link_prefix: network.prefix.clone(),
        links: network.pods,
    })?;
    for count in [0, 100, 1000] {
        let mut all = objects(count, [server.address, client.address])?;
        let (planning, policies) = time(|| plan(&all));
        table.invalidate();
        let (loading, done) = time(|| table.apply(State { policies, ..State::default() }));
        done?;
        let last = all.pods.pop();
        table.apply(State { policies: plan(&all), ..State::default() })?;
        all.pods.extend(last);
        let wanted = State { policies: plan(&all), ..State::default() };
        let (changing, done) = time(|| table.apply(wanted));
        done?;
        let to = SocketAddr::from((server.address, 80));
        let mut times = run_in_path(&client.namespace, || connections(to))??;
        times.sort();
        writeln!(
            out,
            "{count} policies, {PODS} pods: planned in {planning:.1?}, loaded in {loading:.1?}, one more pod in \
             {changing:.1?}, connect p50 {:.1?} p99 {:.1?}",
            times[CONNECTIONS / 2],
            times[CONNECTIONS * 99 / 100],
        )?;
    }
    Ok(())
}

/// Each application may be spoken to by the next one and by a network, on a port and on some others.
fn objects(policies: u32, real: [Ipv4Addr; 2]) -> Result<Objects> {
    let app = |number: u32| format!("app-{}", number % PODS);
    let pod = |number: u32| {
        let address = real.get(number as usize).copied();
        let address = address.unwrap_or(Ipv4Addr::new(10, 244, 1, number as u8));
        json!({"metadata": {"name": number.to_string(), "namespace": "n", "labels": {"app": app(number)}},
            "spec": {"containers": []}, "status": {"phase": "Running", "podIP": address}})
    };
    let policy = |number: u32| {
        let peers = json!([{"podSelector": {"matchLabels": {"app": app(number + 1)}}},
            {"ipBlock": {"cidr": "192.0.2.0/24"}}]);
        json!({"metadata": {"name": number.to_string(), "namespace": "n"}, "spec": {
            "podSelector": {"matchLabels": {"app": app(number)}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": peers, "ports": [{"port": 80}, {"port": 8000, "endPort": 8010}]}]}})
    };
    Ok(Objects {
        policies: read((0..policies).map(policy))?,
        namespaces: read([json!({"metadata": {"name": "n"}})])?,
        pods: read((0..PODS).map(pod))?,
        ..Objects::default()
    })
}

fn read<T: serde::de::DeserializeOwned>(values: impl IntoIterator<Item = Value>) -> Result<Vec<Arc<T>>> {
    values.into_iter().map(|value| Ok(Arc::new(serde_json::from_value(value)?))).collect()
}

/// How long each of many connections takes to be made.
fn connections(to: SocketAddr) -> std::io::Result<Vec<Duration>> {
    let connect = |_| {
        let (took, stream) = time(|| TcpStream::connect(to));
        // A reset at the end, so that the port is free again at once.
        rustix::net::sockopt::set_socket_linger(&stream?, Some(Duration::ZERO))?;
        Ok(took)
    };
    (0..CONNECTIONS).map(connect).collect()
}
