//! The API server alone, on loopback, for trying clients against it: `apiserver DIRECTORY PORT`.

use std::path::Path;
use std::sync::Arc;

use minik::api::node::NoNode;
use minik::apiserver::allocate::ServiceRanges;
use minik::apiserver::http::{self, Server};
use minik::apiserver::pki::{LEAF_LIFETIME, Pki, ServerNames, Tls};
use minik::apiserver::proxy::exchange::HostNetwork;
use minik::apiserver::{ApiServer, Config};
use minik::store::Store;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(port)) = (arguments.next(), arguments.next()) else {
        return Err("usage: apiserver DIRECTORY PORT".into());
    };
    let directory = Path::new(&directory);
    let port: u16 = port.parse()?;
    let pki = Arc::new(Pki::open(&directory.join("pki"))?);
    let names = ServerNames { node: "minik".into(), addresses: Vec::new() };
    let tls = Tls::new(pki.clone(), names, LEAF_LIFETIME)?;
    let service_ranges = ServiceRanges::parse("10.96.0.0/12").ok_or("service range")?;
    let store = Store::open(&directory.join("store"))?;
    let api = ApiServer::new(Config { store, service_ranges, token_key: pki.token_key().to_vec() })?;
    api.bootstrap([192, 0, 2, 1].into(), port).await?;
    let admin = pki.client("kubernetes-admin", &["system:masters"], LEAF_LIFETIME)?;
    for (name, text) in
        [("ca.pem", pki.ca_pem()), ("admin.pem", &admin.certificate), ("admin.key", &admin.key)]
    {
        std::fs::write(directory.join(name), text)?;
    }
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    let server = Server::new(
        api,
        http::Config {
            node: Arc::new(NoNode),
            dial: Arc::new(HostNetwork),
            front_proxy: None,
            audit: None,
            deadline: http::DEADLINE,
            figures: Vec::new(),
        },
    );
    server.serve(vec![listener], tls.config.clone(), stop).await;
    Ok(())
}
