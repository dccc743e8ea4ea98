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
use futures::StreamExt;
use futures::future::{join_all, try_join_all};
use minik::api::node::NoNode;
use minik::apiserver::allocate::ServiceRanges;
use minik::apiserver::http::{self, Server};
use minik::apiserver::pki::{LEAF_LIFETIME, Pki, ServerNames, Tls};
use minik::apiserver::proxy::exchange::HostNetwork;
use minik::apiserver::{ApiServer, Config};
use minik::store::Store;
use serde_json::{Value, json};

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
    let config = http::Config {
        node: Arc::new(NoNode),
        dial: Arc::new(HostNetwork),
        front_proxy: None,
        audit: None,
        deadline: http::DEADLINE,
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
    base: String,
    ca: reqwest::Certificate,
    identity: String,
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
        let ca = reqwest::Certificate::from_pem(text("ca").as_bytes())?;
        let base = format!("https://{}", text("address"));
        Ok(Served { child, base, ca, identity: text("identity"), _directory: directory })
    }

    /// A client with a connection of its own.
    fn client(&self) -> Result<Client> {
        let identity = reqwest::Identity::from_pem(self.identity.as_bytes())?;
        let client =
            reqwest::Client::builder().no_proxy().tls_certs_only([self.ca.clone()]).identity(identity);
        Ok(Client { http: client.build()?, base: self.base.clone() })
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

#[derive(Clone)]
struct Client {
    http: reqwest::Client,
    base: String,
}

impl Client {
    async fn get(&self, path: &str) -> Result<Bytes> {
        Ok(self.http.get(format!("{}{path}", self.base)).send().await?.error_for_status()?.bytes().await?)
    }

    async fn post(&self, path: &str, body: &Value) -> Result<()> {
        let sent = self.http.post(format!("{}{path}", self.base)).json(body).send().await?;
        sent.error_for_status()?.bytes().await?;
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
    // Whatever comes of it (an etcd refuses a GET): the connection is there.
    join_all(clients.iter().map(|client| client.http.get(&client.base).send())).await;
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
    let client = served.client()?;
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

fn clients(served: &Served, count: usize) -> Result<Vec<Client>> {
    (0..count).map(|_| served.client()).collect()
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
    let clients = clients(served, count)?;
    let before = served.cpu();
    let (samples, rate) = load(clients, scale.time, turn).await?;
    #[allow(clippy::cast_precision_loss)]
    let per_core = samples.len() as f64 / (served.cpu() - before).max(0.01);
    say(name, samples, &format!("{rate:.0}/s, {per_core:.0} a core-second"))
}

async fn reads(served: &Served, scale: Scale) -> Result<()> {
    for count in [1, 64] {
        let turn = |client: Client, _| async move { client.get(&format!("{MAPS}/w1-0")).await.map(drop) };
        told(served, &format!("get, {count} clients"), count, scale, turn).await?;
    }
    Ok(())
}

async fn lists(served: &Served, scale: Scale) -> Result<()> {
    let makers = clients(served, 16)?;
    let made = makers.iter().enumerate().map(|(at, client)| async move {
        for n in (at..scale.pods).step_by(16) {
            client.post(PODS, &pod(&format!("p{n:05}"))).await?;
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    });
    try_join_all(made).await?;
    let client = served.client()?;
    for (name, path, rounds) in [
        ("500 pods, a page".to_owned(), format!("{PODS}?limit=500"), 20),
        (format!("{} pods", scale.pods), PODS.to_owned(), 10),
        (format!("{} pods of a label", scale.pods), format!("{PODS}?labelSelector=app%3Dbench"), 10),
    ] {
        let mut samples = Vec::new();
        let mut bytes = 0;
        for _ in 0..rounds {
            let start = Instant::now();
            bytes = client.get(&path).await?.len();
            samples.push(start.elapsed());
        }
        say(&format!("list, {name}"), samples, &format!("{} KiB", bytes / 1024))?;
    }
    Ok(())
}

/// How long it takes from the write of an object until every watcher has heard of it.
async fn watches(served: &Served, watchers: usize) -> Result<()> {
    const WRITES: usize = 50;
    let connections = clients(served, watchers.min(100))?;
    let (heard, mut told) = tokio::sync::mpsc::unbounded_channel::<Instant>();
    let version = {
        let list: Value = serde_json::from_slice(&served.client()?.get(&format!("{MAPS}?limit=1")).await?)?;
        list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
    };
    let mut watching = tokio::task::JoinSet::new();
    for at in 0..watchers {
        let client = &connections[at % connections.len()];
        let path = format!("{}{MAPS}?watch=1&resourceVersion={version}", client.base);
        let mut stream = client.http.get(path).send().await?.error_for_status()?.bytes_stream();
        let heard = heard.clone();
        watching.spawn(async move {
            while let Some(Ok(piece)) = stream.next().await {
                for _ in piece.iter().filter(|byte| **byte == b'\n') {
                    // Nobody counts any more at the end.
                    let _ = heard.send(Instant::now());
                }
            }
        });
    }
    let writer = served.client()?;
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
    let client = || {
        let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build()?;
        Ok(Client { http, base: format!("http://{address}") })
    };
    let clients = (0..count).map(|_| client()).collect::<Result<Vec<Client>>>()?;
    let turn = move |client: Client, n: u64| async move {
        let body = put(format!("/bench/{count}-{n}").as_bytes(), &[b'x'; PAYLOAD]);
        let sent = client
            .http
            .post(format!("{}/etcdserverpb.KV/Put", client.base))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body)
            .send();
        let answer = sent.await?.error_for_status()?.bytes().await?;
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
