//! What the proxy and the pod network cost: full loads, single changes, attachments. Run as root:
//! `cargo bench --bench proxy`. Works in namespaces of its own, which end with it.

use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use minik::network::{self, PodNetwork};
use minik::proxy::plan::{Options, plan};
use minik::proxy::state::State;
use minik::proxy::table::{Table, difference, full};
use serde_json::json;

mod common;

use common::{Result, config, median, service, time};

fn main() -> Result<()> {
    let mut out = std::io::stdout();
    if !common::alone(&mut out)? {
        return Ok(());
    }
    for services in [1_000, 5_000] {
        measure_services(services, &mut out)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure_attachments(&mut out))
}

fn measure_services(count: u32, out: &mut impl Write) -> Result<()> {
    let config = config()?;
    let state: State = State { frontends: (0..count).map(|n| service(n, 3)).collect(), ..State::default() };
    let (services, slices) = objects(count)?;
    let mut plannings: Vec<_> =
        (0..7).map(|_| time(|| plan::<Ipv4Addr>(&Options::default(), &services, &slices, &[])).0).collect();
    let mut table = Table::new(config.clone())?;
    let (mut loads, mut encodes, mut changes, mut plans, mut comings) =
        (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..7 {
        table.invalidate();
        let wanted = state.clone();
        encodes.push(time(|| full(&config, &wanted)).0);
        let (took, done) = time(|| table.apply(wanted));
        done?;
        loads.push(took);
    }
    for round in 0..100 {
        // An endpoint is replaced; then a service comes and goes.
        let mut wanted = state.clone();
        let (frontend, mut backends) = service(round, 3);
        backends.endpoints[1].port = 9090;
        wanted.frontends.insert(frontend, backends);
        let installed = table.installed().cloned().unwrap_or_default();
        plans.push(time(|| difference(&config, &installed, &wanted)).0);
        let (took, done) = time(|| table.apply(wanted));
        done?;
        changes.push(took);
        let mut wanted = state.clone();
        let (frontend, backends) = service(count + round, 3);
        wanted.frontends.insert(frontend, backends);
        let (took, done) = time(|| table.apply(wanted));
        done?;
        comings.push(took);
    }
    writeln!(out, "{count} services of 3 endpoints, medians:")?;
    writeln!(
        out,
        "  full load            {:>10.1?} (of it encoding {:.1?})",
        median(&mut loads),
        median(&mut encodes)
    )?;
    writeln!(
        out,
        "  an endpoint changes  {:>10.1?} (of it difference {:.1?})",
        median(&mut changes),
        median(&mut plans)
    )?;
    writeln!(out, "  one comes, one goes  {:>10.1?}", median(&mut comings))?;
    writeln!(out, "  planning             {:>10.1?}", median(&mut plannings))?;
    Table::<Ipv4Addr>::remove(&config.table)?;
    Ok(())
}

type Objects = (Vec<Arc<Service>>, Vec<Arc<EndpointSlice>>);

fn objects(count: u32) -> Result<Objects> {
    let (mut services, mut slices) = (vec![], vec![]);
    for number in 0..count {
        let (frontend, backends) = service(number, 3);
        let endpoints: Vec<_> = backends
            .endpoints
            .iter()
            .map(|e| json!({"addresses": [e.address], "conditions": {"ready": true}}))
            .collect();
        let name = format!("service-{number}");
        services.push(Arc::new(serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"clusterIP": frontend.address, "ports": [{"name": "http", "port": 80}]},
        }))?));
        slices.push(Arc::new(serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        }))?));
    }
    Ok((services, slices))
}

async fn measure_attachments(out: &mut impl Write) -> Result<()> {
    let directory = std::env::temp_dir().join(format!("minik-bench-{}", std::process::id()));
    let config = network::Config {
        prefix: "mkb".into(),
        pods: "10.244.0.0/16".parse()?,
        pods6: None,
        namespaces: directory.join("namespaces"),
        state: directory.join("state"),
    };
    let network = PodNetwork::open(config.clone()).await?;
    let (mut pooled, mut unpooled, mut detached) = (vec![], vec![], vec![]);
    for round in 0..40 {
        // Time for the pool to fill.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let start = Instant::now();
        network.attach(&format!("pooled-{round}")).await?;
        pooled.push(start.elapsed());
    }
    network.close().await;
    for round in 0..40 {
        let start = Instant::now();
        network.attach(&format!("unpooled-{round}")).await?;
        unpooled.push(start.elapsed());
    }
    for id in network.attachments().into_keys() {
        let start = Instant::now();
        network.detach(&id).await?;
        detached.push(start.elapsed());
    }
    let start = Instant::now();
    PodNetwork::destroy(&config).await?;
    let destroyed = start.elapsed();
    std::fs::remove_dir(&directory)?;
    // The first few come out of the pool that closing left.
    unpooled.drain(..4);
    writeln!(out, "attach from the pool   {:>10.1?}", median(&mut pooled))?;
    writeln!(out, "attach without pool    {:>10.1?}", median(&mut unpooled))?;
    writeln!(out, "detach                 {:>10.1?}", median(&mut detached))?;
    writeln!(out, "destroy after 80 pods  {destroyed:>10.1?}")?;
    Ok(())
}
