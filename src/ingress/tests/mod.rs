//! Requests through the whole gateway, over real connections on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::annotations::{Protocol, Settings};
use super::class;
use super::gateway::{Gateway, Ports, REQUESTS};
use super::route::{Backend, Host, Location, Matcher, Table, Target};
use super::server::Server;
use super::{Config, Ingress, Names, tls};
use crate::client::testing::FakeApi;

mod annotated;

/// A cluster in which every name has these addresses.
pub(super) struct Cluster(pub(super) Vec<IpAddr>);

impl Names for Cluster {
    fn addresses(&self, _: &str) -> BoxFuture<'static, Vec<IpAddr>> {
        futures::future::ready(self.0.clone()).boxed()
    }
}

/// A gateway with a port.
struct Front {
    address: SocketAddr,
    gateway: Arc<Gateway>,
    _accepting: AbortOnDropHandle<()>,
}

fn location(endpoints: &[SocketAddr], settings: Settings) -> Location {
    Location {
        ingress: "d/web".into(),
        path: "/".into(),
        matcher: Matcher::Start("/".into()),
        exact: false,
        settings: Arc::new(settings),
        guard: None,
        backend: Arc::new(Backend::new("d/web:80".into(), Target::Endpoints(endpoints.to_vec()))),
        canary: None,
        errors: None,
    }
}

fn table(endpoints: &[SocketAddr], settings: Settings) -> Table {
    of_location(location(endpoints, settings))
}

fn of_location(location: Location) -> Table {
    let host = Host { locations: vec![Arc::new(location)], ..Host::default() };
    Table { exact: [("a.example".to_owned(), host)].into(), ..Table::default() }
}

fn client_tls() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

impl Front {
    async fn new(endpoints: &[SocketAddr], settings: Settings) -> Front {
        let front = Front::with(Ports { http: 80, https: 443 }, &client_tls(), Vec::new()).await;
        front.gateway.set_table(table(endpoints, settings));
        front
    }

    /// One in whose cluster all names have these addresses.
    async fn knowing(names: Vec<IpAddr>) -> Front {
        Front::with(Ports { http: 80, https: 443 }, &client_tls(), names).await
    }

    /// One that takes a port for its own.
    async fn at_ports(http: u16) -> Front {
        Front::with(Ports { http, https: 443 }, &client_tls(), Vec::new()).await
    }

    async fn with(ports: Ports, tls: &rustls::ClientConfig, names: Vec<IpAddr>) -> Front {
        let gateway = Arc::new(Gateway::new(ports, tls, Arc::new(Cluster(names))));
        let shown = Arc::new(tls::Shown::new().unwrap());
        let server = Server::new(gateway.clone(), tls::server(shown).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepting = tokio::spawn(server.accept(listener, false, CancellationToken::new()));
        Front { address, gateway, _accepting: AbortOnDropHandle::new(accepting) }
    }

    /// What comes back for these bytes until the connection ends.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(10), reading).await.expect("an end");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The status of the answer to a request for `/`.
    async fn status(&self, method: &str, more: &str) -> String {
        let head = format!("{method} / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{more}");
        self.raw(&head).await.chars().skip("HTTP/1.1 ".len()).take(3).collect()
    }
}

/// A backend that answers each connection's heads as `answer` says: with bytes, or by closing. It gets the number of the
/// connection, of the request on it, and the head.
async fn backend(
    answer: impl Fn(usize, usize, &str) -> Option<String> + Clone + Send + 'static,
) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        for connection in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let (mut seen, mut requests) = (Vec::new(), 0);
                let mut piece = [0; 4096];
                loop {
                    if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                        let head: Vec<u8> = seen.drain(..end + 4).collect();
                        let Some(text) = answer(connection, requests, &String::from_utf8_lossy(&head)) else {
                            return;
                        };
                        requests += 1;
                        stream.write_all(text.as_bytes()).await.unwrap();
                        if text.contains("Switching") {
                            let (mut from, mut to) = stream.split();
                            tokio::io::copy(&mut from, &mut to).await.unwrap();
                            return;
                        }
                    }
                    match stream.read(&mut piece).await {
                        Ok(0) | Err(_) => return,
                        Ok(got) => seen.extend_from_slice(&piece[..got]),
                    }
                }
            });
        }
    });
    (address, AbortOnDropHandle::new(serving))
}

fn ok(body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
}

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_connection_outlives_an_answer_that_comes_before_the_request_is_whole() {
    let (address, _serving) = backend(|_, _, _| ok("early")).await;
    let front = Front::new(&[address], Settings::default()).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let post = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\n";
    for _ in 0..3 {
        stream.write_all(post.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"early") {
            let got = tokio::time::timeout(Duration::from_secs(10), stream.read_buf(&mut answer)).await;
            assert_ne!(got.expect("an answer").unwrap(), 0, "{}", String::from_utf8_lossy(&answer));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
        stream.write_all(b"rest").await.unwrap();
    }
}

#[tokio::test]
async fn a_request_and_its_answer_pass_and_framing_is_made_anew() {
    let (address, _serving) = backend(|_, _, head| ok(head)).await;
    let front = Front::new(&[address], Settings::default()).await;
    let answer = front
        .raw(
            "POST /x?q=1 HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nX-Forwarded-For: 1.2.3.4\r\n\
             Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
        .await
        .to_lowercase();
    assert!(answer.starts_with("http/1.1 200 ok"), "{answer}");
    for line in [
        "post /x?q=1 http/1.1",
        "host: a.example",
        "x-forwarded-for: 127.0.0.1",
        "x-original-forwarded-for: 1.2.3.4",
        "transfer-encoding: chunked",
    ] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    assert!(!answer.contains("content-length: 3\r"), "{answer}");
}

#[tokio::test]
async fn what_makes_no_sense_goes_nowhere() {
    let (address, _serving) = backend(|_, _, _| ok("fine")).await;
    let front = Front::new(&[address], Settings::default()).await;
    for (request, code) in [
        ("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", "200"),
        ("GET http://a.example/ HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\nHost: b.example\r\nConnection: close\r\n\r\n", "404"),
        ("GET / HTTP/1.0\r\n\r\n", "404"),
        ("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\nConnection: close\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nHost: a.example/x\r\nConnection: close\r\n\r\n", "400"),
        ("GET /../x HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", "400"),
        ("TRACE / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n", "405"),
        ("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"),
    ] {
        let answer = front.raw(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code}"))
                || answer.starts_with(&format!("HTTP/1.0 {code}")),
            "{request} {answer}"
        );
    }
}

#[tokio::test]
async fn another_endpoint_gets_what_one_does_not_take() {
    let (address, _serving) = backend(|_, _, _| ok("fine")).await;
    let (closing, _closing) = backend(|_, _, _| None).await;
    let front = Front::new(&[nobody().await, address], Settings::default()).await;
    for _ in 0..6 {
        assert_eq!(front.status("POST", "Content-Length: 1\r\n\r\nx").await, "200");
    }
    // It took the request, and nobody knows what it did.
    front.gateway.set_table(table(&[closing, address], Settings::default()));
    let mut codes = Vec::new();
    for _ in 0..2 {
        assert_eq!(front.status("GET", "\r\n").await, "200");
        codes.push(front.status("POST", "Content-Length: 1\r\n\r\nx").await);
    }
    codes.sort();
    assert_eq!(codes, ["200", "200"], "each second request begins with the one that closes");
    front.gateway.set_table(table(&[closing], Settings::default()));
    assert_eq!(front.status("POST", "Content-Length: 1\r\n\r\nx").await, "502");
    for (endpoints, code) in [(vec![nobody().await], "502"), (vec![], "503")] {
        front.gateway.set_table(table(&endpoints, Settings::default()));
        assert_eq!(front.status("GET", "\r\n").await, code);
    }
}

#[tokio::test]
async fn a_kept_connection_may_be_closed_at_any_time() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = connections.clone();
    // Every second request on a connection is not answered.
    let (address, _serving) = backend(move |connection, request, _| {
        seen.fetch_max(connection + 1, Ordering::Relaxed);
        (request == 0).then(|| ok("fine").unwrap())
    })
    .await;
    let front = Front::new(&[address], Settings::default()).await;
    for _ in 0..6 {
        assert_eq!(front.status("GET", "\r\n").await, "200");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 6);
    let (address, _serving) =
        backend(|connection, request, _| ok(&format!("<{connection}.{request}>"))).await;
    front.gateway.set_table(table(&[address], Settings::default()));
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    front.raw(request).await;
    for n in 1..4 {
        assert!(front.raw(request).await.ends_with(&format!("<0.{n}>")), "kept");
    }
    // When its endpoint is gone, it is closed.
    front.gateway.set_table(Table::default());
    front.gateway.set_table(table(&[address], Settings::default()));
    assert!(front.raw(request).await.ends_with("<1.0>"), "a new one");
}

#[tokio::test]
async fn bodies_have_a_limit_and_backends_a_time() {
    let (address, _serving) =
        backend(|_, _, head| match head.starts_with("GET") || head.contains("chunked") {
            // Never an answer.
            true => Some(String::new()),
            false => ok("fine"),
        })
        .await;
    let settings =
        Settings { body_limit: Some(4), read_timeout: Duration::from_secs(2), ..Settings::default() };
    let front = Front::new(&[address], settings).await;
    for (method, rest, code) in [
        ("POST", "Content-Length: 4\r\n\r\nabcd", "200"),
        ("POST", "Content-Length: 5\r\n\r\nabcde", "413"),
        ("POST", "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n", "413"),
        ("GET", "\r\n", "504"),
    ] {
        assert_eq!(front.status(method, rest).await, code, "{rest}");
    }
}

#[tokio::test]
async fn too_many_requests_at_a_time_are_refused() {
    let (address, _serving) = backend(|_, _, _| ok("fine")).await;
    let front = Front::new(&[address], Settings::default()).await;
    let all = front.gateway.requests.clone().acquire_many_owned(REQUESTS as u32).await.unwrap();
    assert_eq!(front.status("GET", "\r\n").await, "503");
    drop(all);
    assert_eq!(front.status("GET", "\r\n").await, "200");
}

#[tokio::test]
async fn no_other_endpoint_is_tried_where_the_ingress_says_so() {
    let (address, _serving) = backend(|_, _, _| ok("fine")).await;
    let front = Front::new(&[nobody().await, address], Settings { tries: 1, ..Settings::default() }).await;
    let mut codes = [front.status("GET", "\r\n").await, front.status("GET", "\r\n").await];
    codes.sort();
    assert_eq!(codes, ["200", "502"]);
}

#[tokio::test]
async fn connections_change_their_protocol() {
    let (address, _serving) = backend(|_, _, head| {
        assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
        Some(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                .to_owned(),
        )
    })
    .await;
    let front = Front::new(&[address], Settings::default()).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let request =
        "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(seen).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    for word in ["ping", "pong"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, word.as_bytes());
    }
}

#[tokio::test]
async fn the_class_comes_and_goes_with_the_ingress_and_never_takes_anothers_place() {
    let (api, node) = (FakeApi::default(), [192, 168, 1, 7].into());
    let ingress = |name: &str, class: &str, address: &str| {
        json!({
            "metadata": {"namespace": "d", "name": name, "uid": name},
            "spec": {"ingressClassName": class},
            "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
        })
    };
    for _ in 0..2 {
        class::announce(&api.client()).await;
    }
    let made = api.all("ingressclasses").remove(0);
    assert_eq!(made["spec"]["controller"], "k8s.io/ingress-nginx");
    assert_eq!(made["metadata"]["annotations"]["ingressclass.kubernetes.io/is-default-class"], "true");
    for (name, class, address) in
        [("a", "nginx", "192.168.1.7"), ("b", "nginx", "10.0.0.1"), ("c", "other", "192.168.1.7")]
    {
        api.put("ingresses", ingress(name, class, address));
    }
    for _ in 0..2 {
        class::withdraw(&api.client(), &[node]).await;
        assert!(api.all("ingressclasses").is_empty());
    }
    let mut shown: Vec<String> = api
        .all("ingresses")
        .iter()
        .map(|ingress| format!("{}", ingress["status"]["loadBalancer"]["ingress"]))
        .collect();
    shown.sort();
    assert_eq!(shown, ["[]", r#"[{"ip":"10.0.0.1"}]"#, r#"[{"ip":"192.168.1.7"}]"#]);
    let foreign = json!({"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}});
    api.put("ingressclasses", foreign);
    class::announce(&api.client()).await;
    class::withdraw(&api.client(), &[node]).await;
    assert_eq!(api.all("ingressclasses")[0]["metadata"].get("labels"), None);
}

/// Says in trailers what it was asked, as gRPC does.
async fn with_trailers(request: Request<Incoming>) -> Result<Response<super::body::Body>, hyper::Error> {
    let te = request.headers().get("te").cloned();
    let path = request.uri().to_string();
    let sent = request.into_body().collect().await?.to_bytes();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    trailers.insert("asked", path.parse().unwrap());
    if let Some(te) = te {
        trailers.insert("te-was", te);
    }
    let frames = [Ok::<_, super::body::Error>(Frame::data(sent)), Ok(Frame::trailers(trailers))];
    Ok(Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))))
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service_fn(with_trailers)));
        }
    }));
    let front = Front::new(&[address], Settings { protocol: Protocol::Grpc, ..Settings::default() }).await;
    let stream = TcpStream::connect(front.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let _driving = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    for message in ["one", "two"] {
        let request = Request::post("http://a.example/service/Method")
            .header("te", "trailers")
            .body(http_body_util::Full::new(Bytes::from(message)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        assert_eq!(
            (&trailers["grpc-status"], &trailers["te-was"]),
            (&"0".parse().unwrap(), &"trailers".parse().unwrap())
        );
        assert_eq!(trailers["asked"], "http://a.example/service/Method");
        assert_eq!(body.to_bytes(), message);
    }
}

/// A slice of the service `web` with one endpoint.
fn slice(address: &str, ending: bool) -> serde_json::Value {
    json!({
        "metadata": {"namespace": "d", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": [address],
                       "conditions": {"ready": !ending, "serving": true, "terminating": ending}}],
    })
}

#[tokio::test]
async fn the_ingress_says_whom_it_asks() {
    let api = FakeApi::default();
    // Ports that were free a moment ago.
    let (http, https) = (nobody().await.port(), nobody().await.port());
    let (node, gateway) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
    let config = Config {
        ports: Ports { http, https },
        node,
        gateway,
        tls: Arc::new(client_tls()),
        names: Arc::new(Cluster(Vec::new())),
    };
    let ingress = Ingress::new(api.client(), config);
    let mut asked = ingress.asked();
    assert!(asked.borrow().is_empty(), "without an ingress, nobody is asked");
    let _running = AbortOnDropHandle::new(tokio::spawn(ingress.run(std::future::pending())));
    let pod: IpAddr = "10.244.0.5".parse().unwrap();
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let mut until = async |is: bool| {
        let waiting = asked.wait_for(|asked| asked.contains(&pod) == is);
        drop(tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("a change"));
    };
    api.put(
        "services",
        json!({"metadata": {"namespace": "d", "name": "web"}, "spec": {"ports": [{"port": 80}]}}),
    );
    api.put("endpointslices", slice("10.244.0.5", false));
    api.put(
        "ingresses",
        json!({"metadata": {"namespace": "d", "name": "web", "uid": "u"},
               "spec": {"ingressClassName": "nginx", "defaultBackend": backend}}),
    );
    until(true).await;
    // It still has the requests, as there is nobody else; it need not wait for their end.
    api.put("endpointslices", slice("10.244.0.5", true));
    until(false).await;
    api.put("endpointslices", slice("10.244.0.5", false));
    until(true).await;
    api.remove("ingresses", "d", "web");
    until(false).await;
}
