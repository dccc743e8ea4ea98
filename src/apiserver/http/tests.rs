//! The server over real TLS on loopback, asked by an ordinary HTTP client.

use std::time::Duration;

use super::*;
use crate::api::node::NoNode;
use crate::apiserver::Config;
use crate::apiserver::allocate::ServiceRanges;
use crate::apiserver::pki::{Pki, ServerNames, Tls};
use crate::apiserver::proxy::exchange::HostNetwork;
use crate::store::Store;
use futures::FutureExt;

#[tokio::test]
async fn certificates_open_the_door_and_a_drain_ends_watches() {
    let directory = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::open(&directory.path().join("pki")).unwrap());
    let names = ServerNames { node: "minik".into(), addresses: Vec::new() };
    let tls = Tls::new(pki.clone(), names, Duration::from_secs(3600)).unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let service_ranges = ServiceRanges::parse("10.96.0.0/16").unwrap();
    let api = ApiServer::new(Config { store, service_ranges, token_key: pki.token_key().to_vec() }).unwrap();
    api.bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
    api.bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let base = format!("https://127.0.0.1:{port}");
    // A machine without IPv6 has no such address.
    let other = crate::sys::socket::tcp_of(std::net::Ipv6Addr::LOCALHOST.into(), port)
        .and_then(tokio::net::TcpListener::from_std);
    let bases: Vec<String> =
        std::iter::once(base.clone()).chain(other.is_ok().then(|| format!("https://[::1]:{port}"))).collect();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let config = super::Config {
        node: Arc::new(NoNode),
        dial: Arc::new(HostNetwork),
        front_proxy: None,
        audit: None,
        deadline: super::DEADLINE,
        figures: Vec::new(),
    };
    let served = Server::new(api, config).serve(
        [Ok(listener), other].into_iter().flatten().collect(),
        tls.config.clone(),
        stopped.map(drop),
    );
    let served = tokio::spawn(served);

    // Another test may have installed the same provider before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(pki.ca_pem().as_bytes()).unwrap();
    let builder = || reqwest::Client::builder().no_proxy().tls_certs_only([ca.clone()]);
    let stranger = builder().build().unwrap();
    let code = |response: reqwest::Response| response.status().as_u16();
    for base in &bases {
        assert_eq!(code(stranger.get(format!("{base}/readyz")).send().await.unwrap()), 200);
    }
    assert_eq!(code(stranger.get(format!("{base}/api")).send().await.unwrap()), 403);

    let admin = pki.client("admin", &["system:masters"], Duration::from_secs(3600)).unwrap();
    let identity = format!("{}{}", admin.certificate, admin.key);
    let identity = reqwest::Identity::from_pem(identity.as_bytes()).unwrap();
    let admin = builder().identity(identity).build().unwrap();
    let maps = format!("{base}/api/v1/namespaces/default/configmaps");
    let made =
        admin.post(&maps).json(&serde_json::json!({"metadata": {"name": "one"}})).send().await.unwrap();
    assert_eq!(code(made), 201);
    let list: Value = admin.get(&maps).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&list["kind"], &list["items"][0]["metadata"]["name"]),
        (&"ConfigMapList".into(), &"one".into())
    );
    let odd = admin.post(&maps).header("content-type", "text/plain").body("x").send().await.unwrap();
    assert_eq!(code(odd), 415);

    let mut watch = admin.get(format!("{maps}?watch=1")).send().await.unwrap();
    let line = watch.chunk().await.unwrap().unwrap();
    assert!(line.starts_with(b"{\"type\":\"ADDED\""), "{line:?}");
    stop.send(()).unwrap();
    let rest = watch.bytes().await.unwrap();
    assert!(rest.is_empty(), "the watch ends with the server, not with {rest:?}");
    served.await.unwrap();
}
