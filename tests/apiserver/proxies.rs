//! Requests that go on to pods, services and nodes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::server::{Fixture, PODS, sent};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

type Answered = http::Response<BoxBody<Bytes, Infallible>>;

fn full(text: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(text.into()).boxed()
}

/// A program in a pod: it tells what it was asked, and knows a page, a redirect, a stream and an upgrade.
async fn answer(mut request: http::Request<Incoming>) -> Result<Answered, Infallible> {
    let path = request.uri().path().to_owned();
    let answer = |code: u16, header: (&str, &str), body| {
        http::Response::builder().status(code).header(header.0, header.1).body(body).unwrap()
    };
    Ok(match path.as_str() {
        "/page" => answer(200, ("content-type", "text/html; charset=utf-8"), full("<a href=\"/x\">x</a>")),
        "/moved/" => answer(302, ("location", "/elsewhere?a=b"), full("")),
        "/broken" => answer(500, ("access-control-allow-origin", "*"), full("it broke")),
        "/stream" => {
            // Ends only when the client has seen the beginning.
            let (sender, pieces) = tokio::sync::mpsc::channel::<&'static str>(1);
            tokio::spawn(async move {
                for piece in ["one\n", "two\n"] {
                    let _ = sender.send(piece).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let frames = futures::stream::unfold(pieces, |mut pieces| async move {
                pieces.recv().await.map(|piece| (Ok(Frame::data(Bytes::from(piece))), pieces))
            });
            let body = StreamBody::new(frames);
            let body = http_body_util::BodyExt::boxed(SyncBody(Box::pin(body)));
            answer(200, ("content-type", "text/plain"), body)
        }
        "/echo" if request.headers().contains_key("upgrade") => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut io = TokioIo::new(upgrade.await.unwrap());
                let mut bytes = [0; 5];
                io.read_exact(&mut bytes).await.unwrap();
                io.write_all(&bytes).await.unwrap();
            });
            let mut response = answer(101, ("upgrade", "echo"), full(""));
            response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            response
        }
        _ => {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let headers: Value = parts
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())))
                .collect::<serde_json::Map<_, _>>()
                .into();
            let told = json!({"method": parts.method.as_str(), "uri": parts.uri.to_string(), "headers": headers,
                "body": String::from_utf8_lossy(&body)});
            answer(200, ("content-type", "application/json"), full(told.to_string()))
        }
    })
}

/// A body that is only `Send`, in one that must be `Sync`: it is polled by one at a time.
struct SyncBody<B>(std::pin::Pin<Box<B>>);

impl<B: hyper::body::Body> hyper::body::Body for SyncBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.0.as_mut().poll_frame(cx)
    }
}

async fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(async move { drop(serving.with_upgrades().await) });
        }
    });
    address
}

/// A pod `www` and a service `www` before it, and a program that answers for it.
async fn with_backend() -> Fixture {
    let f = Fixture::start().await;
    f.dial.lead("10.244.0.5:8080", backend().await);
    f.pod("www").await;
    let status = json!({"status": {"podIP": "10.244.0.5", "podIPs": [{"ip": "10.244.0.5"}]}});
    f.patch(&format!("{PODS}/www/status"), status).await.expect(200);
    let ports = json!([{"name": "web", "port": 80, "targetPort": 8080}]);
    f.post(SERVICES, json!({"metadata": {"name": "www"}, "spec": {"ports": ports}})).await.expect(201);
    let slice = json!({"metadata": {"name": "www-1", "labels": {"kubernetes.io/service-name": "www"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.244.0.4"], "conditions": {"ready": false}},
                      {"addresses": ["10.244.0.5"], "conditions": {"ready": true}}]});
    f.post(SLICES, slice).await.expect(201);
    f
}

#[tokio::test]
async fn a_pod_is_asked_as_the_client_asked() {
    let f = with_backend().await;
    let at = format!("{PODS}/www:8080/proxy");
    let request = f.request("POST", &format!("{at}/a%2Fb/?c=d%20e")).header("x-mine", "1").body("hello");
    let told = sent(request.bearer_auth("secret")).await.expect(200);
    assert_eq!((&told["method"], &told["uri"]), (&json!("POST"), &json!("/a%2Fb/?c=d%20e")));
    assert_eq!((&told["body"], &told["headers"]["x-mine"]), (&json!("hello"), &json!("1")));
    assert_eq!(told["headers"]["x-forwarded-uri"], format!("{at}/a%2Fb/"));
    assert_eq!(told["headers"]["x-forwarded-for"], "127.0.0.1");
    assert_eq!(told["headers"]["host"], f.base.trim_start_matches("https://"));
    assert_eq!(told["headers"].get("authorization"), None);
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        assert_eq!(sent(f.request(method, &format!("{at}/x"))).await.expect(200)["method"], method);
    }
    let head = sent(f.request("HEAD", &format!("{at}/page"))).await;
    assert_eq!((head.code, head.header("content-length")), (200, "18"));
    let moved = f.get(&format!("{at}?a=b")).await;
    assert_eq!((moved.code, moved.header("location")), (301, format!("{at}/?a=b").as_str()));
}

#[tokio::test]
async fn links_lead_through_the_proxy_and_errors_stay_the_backends() {
    let f = with_backend().await;
    let at = format!("{SERVICES}/http:www:80/proxy");
    let page = f.get(&format!("{at}/page")).await;
    assert_eq!(page.text(), format!("<a href=\"{at}/x\">x</a>"));
    let moved = f.get(&format!("{at}/moved/")).await;
    assert_eq!((moved.code, moved.header("location")), (302, format!("{at}/elsewhere?a=b").as_str()));
    let broken = f.get(&format!("{at}/broken")).await;
    assert_eq!((broken.code, broken.text().as_str()), (500, "it broke"));
    assert_eq!(broken.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn services_lead_to_a_ready_endpoint_or_say_that_there_is_none() {
    let f = with_backend().await;
    for name in ["www:80", "www:web", "http:www:web"] {
        for _ in 0..3 {
            let told = f.get(&format!("{SERVICES}/{name}/proxy/x")).await.expect(200);
            assert_eq!(told["uri"], "/x", "{name}");
        }
    }
    let none = "no endpoints available for service \"www\"";
    let unknown = "no service port 81 found for service \"www\"";
    for (path, code, message) in [
        ("services/www/proxy/", 503, none),
        ("services/www:other/proxy/", 503, none),
        ("services/www:81/proxy/", 503, unknown),
        ("services/none:80/proxy/", 404, "services \"none\" not found"),
        ("services/a:b:c:d/proxy/", 400, "invalid service request \"a:b:c:d\""),
        ("pods/none/proxy/", 404, "pods \"none\" not found"),
        (
            "pods/www:9/proxy/",
            503,
            "error trying to reach service: dial tcp 10.244.0.5:9: connect: connection refused",
        ),
    ] {
        let refused = f.get(&format!("/api/v1/namespaces/default/{path}")).await.expect(code);
        assert_eq!((&refused["kind"], &refused["message"]), (&json!("Status"), &json!(message)), "{path}");
    }
    let stranger = sent(f.stranger.get(format!("{}{SERVICES}/www:80/proxy/", f.base))).await;
    assert_eq!(stranger.code, 403);
}

#[tokio::test]
async fn what_streams_is_not_held_back() {
    let f = with_backend().await;
    let response = f.request("GET", &format!("{PODS}/www:8080/proxy/stream")).send().await.unwrap();
    let pieces: Vec<_> = response.bytes_stream().map(|piece| piece.unwrap()).collect().await;
    // The end of the body may come by itself.
    let pieces: Vec<_> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
    assert_eq!(pieces, ["one\n", "two\n"]);
}

#[tokio::test]
async fn upgrades_pass_through() {
    let f = with_backend().await;
    let upgrade = |path: &str| {
        let client = super::server::client(
            &f.pki,
            Some(&f.pki.client("a", &["system:masters"], minik::apiserver::pki::LEAF_LIFETIME).unwrap()),
        );
        let client = client.http1_only().build().unwrap();
        client.get(format!("{}{path}", f.base)).header("connection", "Upgrade").header("upgrade", "echo")
    };
    let response = upgrade(&format!("{PODS}/www:8080/proxy/echo")).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["upgrade"]),
        (101, &http::HeaderValue::from_static("echo"))
    );
    let mut io = response.upgrade().await.unwrap();
    io.write_all(b"hello").await.unwrap();
    let mut bytes = Vec::new();
    io.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"hello");
    let refused = sent(upgrade(&format!("{PODS}/www:8080/proxy/page"))).await.expect(500);
    assert_eq!(refused["message"], "invalid upgrade response: status code 200");
    let unreachable = sent(upgrade(&format!("{PODS}/www:9/proxy/echo"))).await.expect(500);
    assert!(
        unreachable["message"].as_str().unwrap().starts_with("error dialing backend: dial tcp"),
        "{unreachable}"
    );
}

#[tokio::test]
async fn a_nodes_pages_are_the_kubelets() {
    let f = Fixture::start().await;
    let node = json!({"metadata": {"name": "minik"}});
    f.post("/api/v1/nodes", node).await.expect(201);
    let status = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    f.patch("/api/v1/nodes/minik/status", status).await.expect(200);
    for name in ["minik", "https:minik:10250"] {
        let page = f.get(&format!("/api/v1/nodes/{name}/proxy/stats/summary?only_cpu=true")).await;
        assert_eq!((page.code, page.text().as_str()), (200, "/stats/summary?only_cpu=true"), "{name}");
    }
    let none = f.get("/api/v1/nodes/minik/proxy/none").await;
    assert_eq!((none.code, none.text().as_str()), (404, "404: Page Not Found\n"));
    f.dial.lead("192.0.2.1:9100", backend().await);
    assert_eq!(f.get("/api/v1/nodes/minik:9100/proxy/metrics").await.expect(200)["uri"], "/metrics");
    assert_eq!(f.get("/api/v1/nodes/none/proxy/metrics").await.code, 404);
}
