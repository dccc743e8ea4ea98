//! What the API costs over HTTPS on loopback: reads, lists, durable writes, and watches of many. Run by
//! `scripts/bench/api`, which puts an etcd on the same disk beside it; or `cargo bench --bench api` without.
//!
//! The server is a process of its own, so that its processor time can be told from that of the load.
#![allow(clippy::disallowed_methods, clippy::exit)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::try_join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use minik::api::node::NoNode;
use minik::apiserver::allocate::ServiceRanges;
use minik::apiserver::http::{Config as Serving, Server};
use minik::apiserver::pki::{LEAF_LIFETIME, Pki, ServerNames, Tls};
use minik::apiserver::proxy::exchange::HostNetwork;
use minik::apiserver::{ApiServer, Config};
use minik::store::Store;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
/// What an object carries.
const PAYLOAD: usize = 1000;

fn main() -> Result<()> {
    // An installed provider is what was wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--serve") {
        Some(at) => runtime.block_on(serve(Path::new(&arguments[at + 1]))),
        None => runtime.block_on(measure()),
    }
}

/// Serves from `directory` until its parent is gone, and says where and to whom on the first line.
async fn serve(directory: &Path) -> Result<()> {
    let pki = Arc::new(Pki::open(&directory.join("pki"))?);
    let names = ServerNames { node: "bench".into(), addresses: Vec::new() };
    let tls = Tls::new(pki.clone(), names, LEAF_LIFETIME)?;
    let store = Store::open(&directory.join("store"))?;
    let service_ranges = ServiceRanges::parse("10.96.0.0/16").ok_or("not a range")?;
    let api = ApiServer::new(Config { store, service_ranges, token_key: pki.token_key().to_vec() })?;
    api.bootstrap([192, 0, 2, 1].into(), 6443).await.map_err(|status| status.to_string())?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let admin = pki.client("bench", &["system:masters"], LEAF_LIFETIME)?;
    let told = json!({"address": listener.local_addr()?.to_string(), "ca": pki.ca_pem(),
        "identity": format!("{}{}", admin.certificate, admin.key)});
    writeln!(std::io::stdout(), "{told}")?;
    let config = Serving {
        node: Arc::new(NoNode),
        dial: Arc::new(HostNetwork),
        front_proxy: None,
        audit: None,
        deadline: minik::apiserver::http::DEADLINE,
        figures: Vec::new(),
    };
    let parent = async {
        // The load holds the other end.
        let mut end = String::new();
        let read = tokio::task::spawn_blocking(move || std::io::stdin().read_line(&mut end));
        drop(read.await);
    };
    Server::new(api, config).serve(vec![listener], tls.config.clone(), parent).await;
    Ok(())
}

/// A server in a process of its own.
struct Served {
    child: Child,
    address: String,
    tls: Arc<rustls::ClientConfig>,
    _directory: tempfile::TempDir,
}

impl Served {
    fn start() -> Result<Served> {
        // On the disk that is to be measured; the default is the system's.
        let directory = match std::env::var("BENCH_DIR") {
            Ok(parent) => tempfile::tempdir_in(parent)?,
            Err(_) => tempfile::tempdir()?,
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", &directory.path().to_string_lossy()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let told: Value = serde_json::from_str(&line)?;
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(text("ca").as_bytes()) {
            roots.add(certificate?)?;
        }
        let identity = text("identity");
        let chain = CertificateDer::pem_slice_iter(identity.as_bytes());
        let chain = chain.collect::<std::result::Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(identity.as_bytes())?;
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Served { child, address: text("address"), tls: Arc::new(tls), _directory: directory })
    }

    /// A client with a connection of its own.
    async fn client(&self) -> Result<Client> {
        let stream = connected(&self.address).await?;
        let name = ServerName::from(stream.peer_addr()?.ip());
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        Client::over(stream, format!("https://{}", self.address)).await
    }

    async fn clients(&self, count: usize) -> Result<Vec<Client>> {
        try_join_all((0..count).map(|_| self.client())).await
    }

    /// Processor seconds that the server has used.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        let ticks = |at: usize| after.split(' ').nth(at).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        (ticks(11) + ticks(12)) / 100.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Whatever became of it, there is nothing more to be done.
        let _ = self.child.wait();
    }
}

async fn connected(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection of HTTP/2 and nothing beside: what a library for clients does with each request would take the processors
/// from the server that is to be measured.
#[derive(Clone)]
struct Client {
    requests: SendRequest<Full<Bytes>>,
    base: String,
}

/// How much a server may send ahead on a stream and on a connection: what Go's client grants, with which kubectl is built
/// (golang.org/x/net/http2, `transportDefaultStreamFlow` and `transportDefaultConnFlow`).
const WINDOWS: (u32, u32) = (4 << 20, 1 << 30);

impl Client {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        base: String,
    ) -> Result<Client> {
        let (requests, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(async move {
            // Who asks on it hears of its end.
            let _ = connection.await;
        });
        Ok(Client { requests, base })
    }

    async fn ask(&self, request: http::request::Builder, body: Bytes) -> Result<http::Response<Incoming>> {
        let mut requests = self.requests.clone();
        requests.ready().await?;
        let response = requests.send_request(request.body(Full::new(body))?).await?;
        match response.status() {
            code if code.is_success() => Ok(response),
            code => Err(format!("{code}: {:?}", response.into_body().collect().await?.to_bytes()).into()),
        }
    }

    async fn start(&self, path: &str) -> Result<Incoming> {
        let request = http::Request::get(format!("{}{path}", self.base));
        Ok(self.ask(request, Bytes::new()).await?.into_body())
    }

    async fn get(&self, path: &str) -> Result<Bytes> {
        Ok(self.start(path).await?.collect().await?.to_bytes())
    }

    /// Reads an answer to its end and keeps nothing of it; how many bytes it had.
    async fn read(&self, path: &str) -> Result<usize> {
        let mut body = self.start(path).await?;
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(bytes)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<()> {
        let request = http::Request::post(format!("{}{path}", self.base));
        let request = request.header("content-type", "application/json");
        self.ask(request, serde_json::to_vec(body)?.into()).await?.into_body().collect().await?;
        Ok(())
    }
}

/// How long each figure is taken over, and how large the large things are.
#[derive(Clone, Copy)]
struct Scale {
    time: Duration,
    pods: usize,
    watchers: &'static [usize],
}

impl Scale {
    fn of_environment() -> Scale {
        match std::env::var_os("BENCH_SHORT") {
            Some(_) => Scale { time: Duration::from_secs(1), pods: 1_000, watchers: &[1, 100] },
            None => Scale { time: Duration::from_secs(10), pods: 10_000, watchers: &[1, 100, 1_000] },
        }
    }
}

fn say(name: &str, mut samples: Vec<Duration>, rest: &str) -> Result<()> {
    samples.sort_unstable();
    let at = |part: f64| {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let index = ((samples.len() - 1) as f64 * part).round() as usize;
        samples[index].as_secs_f64() * 1000.0
    };
    writeln!(std::io::stdout(), "{name:<44} p50 {:8.3}  p99 {:8.3} ms  {rest}", at(0.5), at(0.99))?;
    Ok(())
}

/// Has so many clients do something again and again; what each turn took, and how many turns a second there were.
async fn load<F, Fut>(clients: Vec<Client>, time: Duration, turn: F) -> Result<(Vec<Duration>, f64)>
where
    F: Fn(Client, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let (turn, next) = (Arc::new(turn), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let each = clients.into_iter().map(|client| {
        let (turn, next) = (turn.clone(), next.clone());
        tokio::spawn(async move {
            let mut samples = Vec::new();
            while began.elapsed() < time {
                let start = Instant::now();
                turn(client.clone(), next.fetch_add(1, Ordering::Relaxed)).await?;
                samples.push(start.elapsed());
            }
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(samples)
        })
    });
    let mut all = Vec::new();
    for samples in try_join_all(each).await? {
        all.extend(samples?);
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = all.len() as f64 / began.elapsed().as_secs_f64();
    Ok((all, rate))
}

fn config(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": "x".repeat(PAYLOAD)}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "bench"}}, "spec": {"nodeName": "bench",
        "containers": [{"name": "c", "image": "nginx:1.27", "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "value": "x".repeat(100)}]}]}})
}

async fn measure() -> Result<()> {
    let scale = Scale::of_environment();
    let served = Served::start()?;
    let client = served.client().await?;
    client
        .post("/api/v1/namespaces/default/serviceaccounts", &json!({"metadata": {"name": "default"}}))
        .await
        .ok();
    writes(&served, scale).await?;
    reads(&served, scale).await?;
    lists(&served, scale).await?;
    for watchers in scale.watchers {
        watches(&served, *watchers).await?;
    }
    if let Ok(etcd) = std::env::var("BENCH_ETCD") {
        for clients in [1, 64] {
            etcd_writes(&etcd, clients, scale.time).await?;
        }
    }
    Ok(())
}

async fn writes(served: &Served, scale: Scale) -> Result<()> {
    for count in [1, 64] {
        let turn = move |client: Client, n: u64| async move {
            client.post(MAPS, &config(&format!("w{count}-{n}"))).await
        };
        told(served, &format!("create, durable, {count} clients"), count, scale, turn).await?;
    }
    Ok(())
}

/// Takes the figures of a load, and says what it cost the server.
async fn told<F, Fut>(served: &Served, name: &str, count: usize, scale: Scale, turn: F) -> Result<()>
where
    F: Fn(Client, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send,
{
    let clients = served.clients(count).await?;
    let before = served.cpu();
    let (samples, rate) = load(clients, scale.time, turn).await?;
    #[allow(clippy::cast_precision_loss)]
    let per_core = samples.len() as f64 / (served.cpu() - before).max(0.01);
    say(name, samples, &format!("{rate:.0}/s, {per_core:.0} a core-second"))
}

async fn reads(served: &Served, scale: Scale) -> Result<()> {
    for count in [1, 64] {
        let turn = |client: Client, _| async move { client.read(&format!("{MAPS}/w1-0")).await.map(drop) };
        told(served, &format!("get, {count} clients"), count, scale, turn).await?;
    }
    Ok(())
}

async fn lists(served: &Served, scale: Scale) -> Result<()> {
    let makers = served.clients(16).await?;
    let made = makers.iter().enumerate().map(|(at, client)| async move {
        for n in (at..scale.pods).step_by(16) {
            client.post(PODS, &pod(&format!("p{n:05}"))).await?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    });
    try_join_all(made).await?;
    let client = served.client().await?;
    for (name, path, rounds) in [
        ("500 pods, a page".to_owned(), format!("{PODS}?limit=500"), 20),
        (format!("{} pods", scale.pods), PODS.to_owned(), 10),
        (format!("{} pods of a label", scale.pods), format!("{PODS}?labelSelector=app%3Dbench"), 10),
    ] {
        let mut samples = Vec::new();
        let mut bytes = 0;
        for _ in 0..rounds {
            let start = Instant::now();
            bytes = client.read(&path).await?;
            samples.push(start.elapsed());
        }
        say(&format!("list, {name}"), samples, &format!("{} KiB", bytes / 1024))?;
    }
    Ok(())
}

/// How long it takes from the write of an object until every watcher has heard of it.
async fn watches(served: &Served, watchers: usize) -> Result<()> {
    const WRITES: usize = 50;
    let connections = served.clients(watchers.min(100)).await?;
    let (heard, mut told) = tokio::sync::mpsc::unbounded_channel::<Instant>();
    let version = {
        let list: Value =
            serde_json::from_slice(&served.client().await?.get(&format!("{MAPS}?limit=1")).await?)?;
        list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
    };
    let mut watching = tokio::task::JoinSet::new();
    for at in 0..watchers {
        let client = &connections[at % connections.len()];
        let mut body = client.start(&format!("{MAPS}?watch=1&resourceVersion={version}")).await?;
        let heard = heard.clone();
        watching.spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                for _ in frame.data_ref().map_or(&[][..], Bytes::as_ref).iter().filter(|byte| **byte == b'\n')
                {
                    // Nobody counts any more at the end.
                    let _ = heard.send(Instant::now());
                }
            }
        });
    }
    let writer = served.client().await?;
    let mut samples = Vec::new();
    for n in 0..WRITES {
        let start = Instant::now();
        let name = format!("e{watchers}-{n}");
        writer.post(MAPS, &config(&name)).await?;
        let mut last = start;
        for _ in 0..watchers {
            last = last.max(told.recv().await.ok_or("the watches ended")?);
        }
        samples.push(last - start);
    }
    let rest = format!("{} events each", WRITES);
    say(&format!("create until {watchers} watchers have heard"), samples, &rest)
}

/// Durable writes of the same size to etcd, by its own protocol.
async fn etcd_writes(address: &str, count: usize, time: Duration) -> Result<()> {
    let clients = try_join_all(
        (0..count)
            .map(|_| async { Client::over(connected(address).await?, format!("http://{address}")).await }),
    );
    let clients = clients.await?;
    let turn = move |client: Client, n: u64| async move {
        let body = put(format!("/bench/{count}-{n}").as_bytes(), &[b'x'; PAYLOAD]);
        let request = http::Request::post(format!("{}/etcdserverpb.KV/Put", client.base));
        let request = request.header("content-type", "application/grpc").header("te", "trailers");
        let answer = client.ask(request, body).await?.into_body().collect().await?.to_bytes();
        if answer.len() < 5 { Err("etcd did not answer".into()) } else { Ok(()) }
    };
    let (samples, rate) = load(clients, time, turn).await?;
    say(&format!("etcd put, durable, {count} clients"), samples, &format!("{rate:.0}/s"))
}

/// A gRPC message of a `PutRequest`: field 1 is the key, field 2 the value.
fn put(key: &[u8], value: &[u8]) -> Bytes {
    let mut message = BytesMut::new();
    for (field, bytes) in [(1u8, key), (2, value)] {
        message.put_u8(field << 3 | 2);
        let mut length = bytes.len();
        while length >= 0x80 {
            message.put_u8(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.put_u8(u8::try_from(length).unwrap_or(0));
        message.put_slice(bytes);
    }
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}
