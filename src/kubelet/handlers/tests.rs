//! What containers answer, by servers on this machine's loopback.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::*;

const LIMIT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(500);

/// A server that answers what its function says, and the heads of the requests that it got.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
    _task: AbortOnDropHandle<()>,
}

async fn serve(answer: fn(&str) -> http::Response<Full<Bytes>>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heads = seen.clone();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let heads = heads.clone();
            let service = service_fn(move |request: http::Request<Incoming>| {
                let header = |name: &str| {
                    request.headers().get(name).map_or("-", |value| value.to_str().unwrap()).to_owned()
                };
                let uri = request.uri().to_string();
                heads.lock().unwrap().push(format!(
                    "{uri} host={} agent={} x={}",
                    header("host"),
                    header("user-agent"),
                    header("x-a")
                ));
                async move { Ok::<_, std::convert::Infallible>(answer(&uri)) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    Server { port, seen, _task: AbortOnDropHandle::new(task) }
}

/// The requests of an HTTP handler to a container with a port by name.
async fn answer_of(port: u16, fields: Value, limit: Duration) -> Answer {
    let mut action = json!({"port": port, "path": "/"});
    action.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let container: Container =
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]}))
            .unwrap();
    let pod = Pod::default();
    let target = Target { pod: &pod, container: &container, id: "c", address: "127.0.0.1" };
    match get::Get::new(&target, &serde_json::from_value(action).unwrap(), "probe") {
        Ok(get) => get.probe(&get::Getter::default(), limit).await,
        Err(error) => Answer::Unknown(error),
    }
}

fn failure(text: impl Into<String>) -> Answer {
    Answer::Failure(text.into())
}

#[tokio::test]
async fn http_is_judged_by_status_and_follows_redirects_at_home() {
    let answer = |uri: &str| {
        let to = |place: &str| {
            http::Response::builder().status(302).header("location", place).body(Full::default()).unwrap()
        };
        match uri {
            "/moved" => to("/fine?a=b"),
            "/away" => to("http://away.invalid/"),
            "/round" => to("/round"),
            "/fine?a=b" => http::Response::new(Full::default()),
            _ => http::Response::builder().status(503).body(Full::default()).unwrap(),
        }
    };
    let server = serve(answer).await;
    let at = |path: &str| answer_of(server.port, json!({"path": path, "port": "web"}), LIMIT);
    assert_eq!(at("/fine?a=b").await, Answer::Success);
    assert_eq!(at("fine?a=b").await, Answer::Success, "a path without its slash");
    assert_eq!(at("/moved").await, Answer::Success);
    assert_eq!(at("/ill").await, failure("HTTP probe failed with statuscode: 503"));
    assert_eq!(at("/away").await, Answer::Warning("Probe terminated redirects, Response body: ".into()));
    let url = format!("http://127.0.0.1:{}/round", server.port);
    assert_eq!(at("/round").await, failure(format!("Get {url:?}: stopped after 10 redirects")));
}

#[tokio::test]
async fn http_headers_are_the_manifests() {
    let server = serve(|_| http::Response::new(Full::default())).await;
    let headers = json!([{"name": "Host", "value": "me.test"}, {"name": "X-A", "value": "1"}]);
    assert_eq!(answer_of(server.port, json!({"httpHeaders": headers}), LIMIT).await, Answer::Success);
    let own = json!([{"name": "User-Agent", "value": "mine"}]);
    assert_eq!(
        answer_of(server.port, json!({"httpHeaders": own, "host": "localhost"}), LIMIT).await,
        Answer::Success
    );
    let seen = server.seen.lock().unwrap().clone();
    assert_eq!(
        seen,
        [
            "/ host=me.test agent=kube-probe/1.37 x=1".to_owned(),
            format!("/ host=localhost:{} agent=mine x=-", server.port)
        ]
    );
}

#[tokio::test]
async fn connections_that_fail_are_told_in_gos_words() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/");
    let late = answer_of(port, json!({}), SHORT).await;
    let words = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(late, failure(format!("Get {url:?}: {words}")));
    drop(closed);
    let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(answer_of(port, json!({}), LIMIT).await, failure(format!("Get {url:?}: {refused}")));
    let container = Container::default();
    let target = Target { pod: &Pod::default(), container: &container, id: "c", address: "127.0.0.1" };
    let tcp = TCPSocketAction { port: IntOrString::Int(port.into()), host: None };
    assert_eq!(by_connection(&target, &tcp, port, LIMIT).await, failure(refused));
    let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = open.local_addr().unwrap().port();
    assert_eq!(by_connection(&target, &tcp, port, LIMIT).await, Answer::Success);
}

#[tokio::test]
async fn a_silent_server_and_one_without_tls_are_failures() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let url = format!("http://127.0.0.1:{port}/");
    assert_eq!(answer_of(port, json!({}), LIMIT).await, failure(format!("Get {url:?}: EOF")));
    let secure = answer_of(port, json!({"scheme": "HTTPS"}), LIMIT).await;
    assert!(
        matches!(&secure, Answer::Failure(text) if text.starts_with("Get \"https://127.0.0.1:")),
        "{secure:?}"
    );
    task.abort();
}

#[tokio::test]
async fn https_takes_any_certificate() {
    let key = rcgen::generate_simple_self_signed(vec!["somebody.test".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = acceptor.accept(stream).await.unwrap();
        let service = service_fn(|_: http::Request<Incoming>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::default()))
        });
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    });
    assert_eq!(answer_of(port, json!({"scheme": "HTTPS"}), LIMIT).await, Answer::Success);
    task.await.unwrap();
}

/// A gRPC server: the state of the service `well` is 1, of `ill` 2, others are unknown to it.
async fn health() -> (u16, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = service_fn(|request: http::Request<Incoming>| async {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        let asked = request.into_body().collect().await?.to_bytes();
        let (state, code) = match &asked[5..] {
            b"\x0a\x04well" => (1, "0"),
            b"\x0a\x03ill" => (2, "0"),
            b"" => (0, "12"),
            _ => (0, "5"),
        };
        let mut ends = http::HeaderMap::new();
        ends.insert("grpc-status", code.parse().unwrap());
        ends.insert("grpc-message", "no such thing".parse().unwrap());
        let body = Bytes::from(vec![0, 0, 0, 0, 2, 8, state]);
        let frames =
            futures::stream::iter([Ok::<_, hyper::Error>(Frame::data(body)), Ok(Frame::trailers(ends))]);
        Ok::<_, hyper::Error>(http::Response::new(StreamBody::new(frames)))
    });
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    (port, AbortOnDropHandle::new(task))
}

#[tokio::test]
async fn grpc_services_say_how_they_are() {
    let (port, _server) = health().await;
    let ask = |service: &'static str| grpc::check("127.0.0.1", port, service, LIMIT);
    assert_eq!(ask("well").await, Answer::Success);
    assert_eq!(ask("ill").await, failure("service unhealthy (responded with \"NOT_SERVING\")"));
    assert_eq!(
        ask("other").await,
        failure("error: health rpc probe failed: rpc error: code = NotFound desc = no such thing")
    );
    assert_eq!(
        ask("").await,
        failure(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): no such thing"
        )
    );
}

#[tokio::test]
async fn a_grpc_server_that_is_none_or_silent_fails() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let late = grpc::check("127.0.0.1", port, "", SHORT).await;
    assert_eq!(late, failure("timeout: health rpc did not complete within 500ms"));
    drop(listener);
    let gone = grpc::check("127.0.0.1", port, "", LIMIT).await;
    assert!(
        matches!(&gone, Answer::Failure(text) if text.starts_with("error: failed to connect service at \"127.0.0.1:")
            && text.contains("connect: connection refused")),
        "{gone:?}"
    );
}

#[test]
fn ports_go_by_number_or_name() {
    let container: Container =
        serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": 8080}]}))
            .unwrap();
    for (port, expected) in [
        (json!(80), Ok(80)),
        (json!("web"), Ok(8080)),
        (json!("81"), Ok(81)),
        (json!("other"), Err("strconv.Atoi: parsing \"other\": invalid syntax".to_owned())),
        (json!(0), Err("invalid port number: 0".to_owned())),
        (json!("70000"), Err("invalid port number: 70000".to_owned())),
    ] {
        let parsed: IntOrString = serde_json::from_value(port.clone()).unwrap();
        assert_eq!(port_number(&parsed, &container), expected, "{port}");
    }
}
