//! Requests per second through the ingress, beside nginx as a reverse proxy to the same two backends.
//!
//! `scripts/bench/services` (as root). Both proxies have two threads, the same certificate and kept connections to their
//! backends; `wrk` asks. Works in a network namespace of its own, which ends with it.
#![allow(clippy::disallowed_methods, reason = "a benchmark runs the programs that it compares with")]

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use minik::ingress::Names;
use minik::ingress::gateway::{Gateway, Ports};
use minik::ingress::route::{Backend, Host, Location, Matcher, Table, Target};
use minik::ingress::server::Server;
use minik::sys::program;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

mod common;

use common::Result;

/// Where the backends are.
const BACKENDS: [u16; 2] = [9001, 9002];
/// The ports of the ingress and of nginx: for HTTP and for HTTPS.
const PORTS: [(&str, Ports); 2] =
    [("minik", Ports { http: 8080, https: 8443 }), ("nginx", Ports { http: 9080, https: 9443 })];
/// For how long each is asked, in seconds.
const ASKING: u32 = 10;
/// Clients at a time.
const CLIENTS: u32 = 32;

fn main() -> Result<()> {
    let mut out = std::io::stdout();
    if !common::alone(&mut out)? {
        return Ok(());
    }
    program::run("ip", &["link", "set", "lo", "up"], &[])?;
    for needed in ["nginx", "wrk"] {
        // Also one that was unpacked somewhere and is on the path.
        if Command::new(needed).arg("-v").output().is_err() {
            return Ok(writeln!(out, "SKIPPED: {needed} is not installed")?);
        }
    }
    let asking = if std::env::var_os("BENCH_SHORT").is_some() { 1 } else { ASKING };
    let directory = tempfile::tempdir()?;
    let pair = rcgen::generate_simple_self_signed(["web.example".to_owned()])?;
    std::fs::write(directory.path().join("certificate"), pair.cert.pem())?;
    std::fs::write(directory.path().join("key"), pair.signing_key.serialize_pem())?;
    let _backends = start(directory.path(), "backends", &backends())?;
    let nginx = start(directory.path(), "proxy", &proxy())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(
        PORTS[0].1,
        pair.cert.pem().as_bytes(),
        pair.signing_key.serialize_pem().as_bytes(),
    ))?;
    for port in PORTS.iter().flat_map(|(_, ports)| [ports.http, ports.https]).chain(BACKENDS) {
        until_open(port)?;
    }
    for (what, secure, header) in [
        ("kept connections", false, "X-Kept: yes"),
        ("new connections", false, "Connection: close"),
        ("TLS, kept connections", true, "X-Kept: yes"),
        ("TLS, new connections", true, "Connection: close"),
    ] {
        writeln!(out, "{what}, {CLIENTS} clients")?;
        for (name, ports) in PORTS {
            let url = match secure {
                true => format!("https://127.0.0.1:{}/", ports.https),
                false => format!("http://127.0.0.1:{}/", ports.http),
            };
            let used = || match name {
                "minik" => cpu_seconds(std::process::id(), false),
                _ => cpu_seconds(nginx.0.id(), true),
            };
            let before = used()?;
            let said = asked(&url, header, asking)?;
            writeln!(out, "  {name:<8} {said}   {:>6.2} s of CPU", used()? - before)?;
        }
    }
    Ok(())
}

/// The cluster has no names here.
struct NoNames;

impl Names for NoNames {
    fn addresses(&self, _: &str) -> BoxFuture<'static, Vec<IpAddr>> {
        futures::future::ready(Vec::new()).boxed()
    }
}

/// The ingress, as the daemon makes it.
async fn serve(ports: Ports, certificate: &[u8], key: &[u8]) -> Result<()> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let endpoints = BACKENDS.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).to_vec();
    let location = Location {
        ingress: "default/web".into(),
        path: "/".into(),
        matcher: Matcher::Prefix(String::new()),
        exact: false,
        settings: Arc::default(),
        guard: None,
        backend: Arc::new(Backend::new("default/web:80".into(), Target::Endpoints(endpoints))),
        canary: None,
        errors: None,
    };
    let gateway = Gateway::new(ports, &client, Arc::new(NoNames));
    let any = Host { locations: vec![Arc::new(location)], ..Host::default() };
    gateway.set_table(Table { any, ..Table::default() });
    let server = Server::new(Arc::new(gateway), Arc::new(tls));
    for (port, secure) in [(ports.http, false), (ports.https, true)] {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        tokio::spawn(server.clone().accept(listener, secure, CancellationToken::new()));
    }
    Ok(())
}

/// What nginx is to be told for all it does here.
fn settings(workers: u32, http: &str) -> String {
    format!(
        "daemon off; user root; worker_processes {workers}; events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000; client_body_temp_path one; proxy_temp_path two;\n\
         fastcgi_temp_path three; uwsgi_temp_path four; scgi_temp_path five;\n{http} }}\n"
    )
}

fn backends() -> String {
    let server =
        |port| format!("server {{ listen 127.0.0.1:{port}; location / {{ return 200 'a page\\n'; }} }}\n");
    settings(1, &BACKENDS.map(server).concat())
}

fn proxy() -> String {
    let [one, other] = BACKENDS.map(|port| format!("server 127.0.0.1:{port}; "));
    let Ports { http, https } = PORTS[1].1;
    settings(
        2,
        &format!(
            "upstream backends {{ {one} {other} keepalive 64; keepalive_requests 1000000; }}\n\
             server {{ listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl http2;\n\
             ssl_certificate certificate; ssl_certificate_key key;\n\
             location / {{ proxy_pass http://backends; proxy_http_version 1.1; proxy_set_header Connection '';\n\
             proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n\
             proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; }} }}\n"
        ),
    )
}

/// A program that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // Its workers end with an nginx that is told to, and not with one that is killed.
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

fn start(directory: &Path, name: &str, settings: &str) -> Result<Ended> {
    let file = directory.join(name);
    std::fs::write(&file, format!("pid {name}.pid; {settings}"))?;
    let child = Command::new("nginx")
        .args(["-e", "stderr"])
        .arg("-p")
        .arg(directory)
        .arg("-c")
        .arg(&file)
        .stdout(Stdio::null())
        .spawn()?;
    Ok(Ended(child))
}

fn until_open(port: u16) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > until {
            return Err(format!("nobody listens on port {port}").into());
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    Ok(())
}

/// What `wrk` says of an address: requests per second, and how long they took.
fn asked(url: &str, header: &str, seconds: u32) -> Result<String> {
    let (clients, time) = (CLIENTS.to_string(), format!("{seconds}s"));
    let output = Command::new("wrk")
        .args([
            "-t",
            "1",
            "-c",
            &clients,
            "-d",
            &time,
            "--latency",
            "-H",
            header,
            "-H",
            "Host: web.example",
            url,
        ])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let line = said.lines().find(|line| line.trim_start().starts_with(name))?;
        line.split_whitespace().last().map(str::to_owned)
    };
    let (Some(rate), Some(p50), Some(p99)) = (value("Requests/sec:"), value("50%"), value("99%")) else {
        return Err(format!("wrk said: {said}").into());
    };
    let wrong: String =
        said.lines().filter(|line| line.contains("errors") || line.contains("Non-2xx")).collect();
    Ok(format!("{rate:>10} requests/s   p50 {p50:>9}   p99 {p99:>9}   {}", wrong.trim()))
}

/// The CPU time of a process, and of its children that still run if they do its work.
fn cpu_seconds(process: u32, with_children: bool) -> Result<f64> {
    /// The kernel counts for programs in hundredths of a second.
    const TICKS: f64 = 100.0;
    let mut ticks = 0u64;
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        // The reader itself is there by other names too.
        let is_process = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        let stat = is_process.then(|| std::fs::read_to_string(entry.path().join("stat")).ok());
        let Some(stat) = stat.flatten() else { continue };
        // Behind the name, which may hold anything, come the state and the parent; user and system time are ten further.
        let Some((head, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number =
            |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        let own = head.split(' ').next().and_then(|pid| pid.parse::<u32>().ok()) == Some(process);
        if own || (with_children && number(1) == u64::from(process)) {
            ticks += number(11) + number(12);
        }
    }
    Ok(ticks as f64 / TICKS)
}
