//! What services cost beside what others do: rules for thousands of them, connections through them, names of them.
//!
//! `scripts/bench/services` (as root). Works in namespaces of its own, which end with it.
#![allow(clippy::disallowed_methods, reason = "a benchmark runs the programs that it compares with")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use minik::dns::server::Server;
use minik::dns::upstream::Upstream;
use minik::dns::zone::Zone;
use minik::network::{self, PodNetwork};
use minik::proxy::follow;
use minik::proxy::state::{Backends, Endpoint, Frontend, Protocol, State};
use minik::proxy::table::Table;
use minik::sys::namespace::run_in_path;
use minik::sys::program;
use serde_json::json;
use tokio::sync::watch;

mod common;

use common::others::{Numbered, OTHER, iptables_rules, nft_rules};
use common::{Result, config, median, service};

/// Services, and endpoints of each.
const SIZES: [(u32, u32); 3] = [(100, 3), (1_000, 10), (5_000, 10)];
/// How many connections are made and timed.
const CONNECTIONS: usize = 20_000;
/// How much is sent through one connection.
const BYTES: usize = 2 << 30;
/// For how long names are asked for.
const ASKING: Duration = Duration::from_secs(5);
/// Questions in flight at a time.
const IN_FLIGHT: u16 = 64;

/// What is left of the table that iptables translates by.
const EMPTY: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n";

fn main() -> Result<()> {
    let mut out = std::io::stdout();
    if !common::alone(&mut out)? {
        return Ok(());
    }
    program::run("ip", &["link", "set", "lo", "up"], &[])?;
    // A thousandth of everything shows that it works.
    let short = std::env::var_os("BENCH_SHORT").is_some();
    for (services, endpoints) in SIZES.into_iter().take(if short { 1 } else { SIZES.len() }) {
        rules(services, endpoints, &mut out)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(connections(short, &mut out))?;
    runtime.block_on(depth(short, &mut out))?;
    names(short, &mut out)
}

/// Loads of all rules and changes of one service, in minik's layout and in those of kube-proxy.
fn rules(services: u32, endpoints: u32, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{services} services of {endpoints} endpoints")?;
    let config = config()?;
    let mut table = Table::new(config.clone())?;
    let all: State =
        State { frontends: (0..services).map(|n| service(n, endpoints)).collect(), ..State::default() };
    let more = |n: u32| {
        let mut state = all.clone();
        state.frontends.extend([service(services + n, endpoints)]);
        state
    };
    let numbered = |numbers: std::ops::Range<u32>| -> Vec<Numbered> {
        numbers.map(|n| (n, service(n, endpoints))).collect()
    };
    let mut loads = Vec::new();
    for _ in 0..5 {
        table.invalidate();
        loads.push(timed(|| table.apply(all.clone()))?);
    }
    let mut changes = Vec::new();
    for n in 0..20 {
        let wanted = more(n);
        changes.push(timed(|| table.apply(wanted))?);
    }
    Table::<Ipv4Addr>::remove(&config.table)?;
    report(out, "minik", &mut loads, &mut changes)?;

    let text = nft_rules(&numbered(0..services), true);
    let load =
        |text: &str| program::run_within(Duration::from_secs(600), "nft", &["-f", "-"], text.as_bytes());
    let mut loads = vec![timed(|| load(&text))?];
    let mut changes = Vec::new();
    for n in 0..5 {
        let text = nft_rules(&numbered(services + n..services + n + 1), false);
        changes.push(timed(|| load(&text))?);
    }
    program::run("nft", &["delete", "table", "ip", OTHER], &[])?;
    report(out, "kube-proxy's layout, nft", &mut loads, &mut changes)?;

    if program::find("iptables-restore").is_none() {
        return Ok(writeln!(out, "  iptables-restore        not installed")?);
    }
    let load = |text: &str| {
        program::run_within(Duration::from_secs(600), "iptables-restore", &["--noflush"], text.as_bytes())
    };
    let text = iptables_rules(&numbered(0..services), true);
    let mut loads = vec![timed(|| load(&text))?];
    let mut changes = Vec::new();
    for n in 0..5 {
        let text = iptables_rules(&numbered(services + n..services + n + 1), false);
        changes.push(timed(|| load(&text))?);
    }
    program::run("iptables-restore", &[], EMPTY.as_bytes())?;
    report(out, "its layout, iptables", &mut loads, &mut changes)
}

fn report(out: &mut impl Write, what: &str, loads: &mut [Duration], changes: &mut [Duration]) -> Result<()> {
    let (load, change) = (median(loads), median(changes));
    Ok(writeln!(out, "  {what:<24}  all {load:>10.1?}   one more {change:>10.1?}")?)
}

/// New connections and a long one, to a pod's own address and to its service's.
async fn connections(short: bool, out: &mut impl Write) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let settings = network::Config {
        prefix: "mkb".into(),
        pods: "10.244.0.0/16".parse()?,
        pods6: None,
        namespaces: directory.path().join("namespaces"),
        state: directory.path().join("state"),
    };
    let network = PodNetwork::open(settings.clone()).await?;
    let (server, client) = (network.attach("server").await?, network.attach("client").await?);
    serve(&server.namespace)?;
    let frontends = [9000, 9001].map(|port| {
        let frontend = Frontend { address: Some(Ipv4Addr::new(10, 96, 0, 7)), protocol: Protocol::Tcp, port };
        let endpoints = vec![Endpoint { address: server.address, port }];
        (frontend, Backends { endpoints, ..Backends::default() })
    });
    let state = State { frontends: frontends.into(), ..State::default() };
    let (wanted, states) = watch::channel(None);
    wanted.send_replace(Some(state.into()));
    let led = watch::channel(None).0;
    let mut installed = led.subscribe();
    let proxy = tokio::spawn(follow(config()?, states, led, std::future::pending()));
    installed.wait_for(Option::is_some).await?;
    let (count, bytes) = if short { (CONNECTIONS / 100, BYTES / 100) } else { (CONNECTIONS, BYTES) };
    let measured = move || -> Result<Vec<(&str, Vec<Duration>, f64)>> {
        let targets = [("pod address", server.address), ("cluster address", Ipv4Addr::new(10, 96, 0, 7))];
        let mut found: Vec<_> = targets.iter().map(|(what, _)| (*what, Vec::new(), 0.0)).collect();
        // In turn, so that whatever else happens on the machine meets both.
        for _ in 0..10 {
            for ((_, address), (_, times, _)) in targets.iter().zip(&mut found) {
                for _ in 0..count / 10 {
                    let begin = Instant::now();
                    let stream = TcpStream::connect((*address, 9000))?;
                    times.push(begin.elapsed());
                    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
                }
            }
        }
        for ((_, address), (_, _, rate)) in targets.iter().zip(&mut found) {
            let mut stream = TcpStream::connect((*address, 9001))?;
            let (chunk, begin) = (vec![0; 1 << 18], Instant::now());
            for _ in 0..bytes / chunk.len() {
                stream.write_all(&chunk)?;
            }
            stream.shutdown(std::net::Shutdown::Write)?;
            // Everything has been read when the other end closes.
            stream.read_to_end(&mut Vec::new())?;
            *rate = bytes as f64 / begin.elapsed().as_secs_f64();
        }
        Ok(found)
    };
    let namespace = client.namespace.clone();
    let found = tokio::task::spawn_blocking(move || run_in_path(&namespace, measured)).await???;
    writeln!(out, "connections between pods")?;
    for (what, mut times, rate) in found {
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        writeln!(
            out,
            "  {what:<24}  connect p50 {:>8.1?} p99 {:>8.1?}   {:>6.1} Gbit/s",
            at(50),
            at(99),
            rate * 8.0 / 1e9
        )?;
    }
    proxy.abort();
    network.close().await;
    minik::proxy::Proxy::destroy(config()?).await?;
    PodNetwork::destroy(&settings).await?;
    Ok(())
}

/// New connections to the first and to the last of more and more services: what a packet costs must not grow with them.
async fn depth(short: bool, out: &mut impl Write) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let settings = network::Config {
        prefix: "mkb".into(),
        pods: "10.244.0.0/16".parse()?,
        pods6: None,
        namespaces: directory.path().join("namespaces"),
        state: directory.path().join("state"),
    };
    let network = PodNetwork::open(settings.clone()).await?;
    let (server, client) = (network.attach("server").await?, network.attach("client").await?);
    serve(&server.namespace)?;
    let (count, sizes) = if short { (100, 1) } else { (5_000, SIZES.len()) };
    for (size, endpoints) in SIZES.into_iter().take(sizes) {
        writeln!(out, "new connections to the first and the last of {size} services")?;
        let all: Vec<Numbered> = (0..size)
            .map(|n| {
                let (frontend, mut backends) = service(n, endpoints);
                if n == 0 || n + 1 == size {
                    // The others lead to nobody, and are not asked.
                    backends.endpoints = vec![Endpoint { address: server.address, port: 9000 }];
                }
                (n, (frontend, backends))
            })
            .collect();
        let ends: Vec<Ipv4Addr> = [0, all.len() - 1].iter().filter_map(|at| all[*at].1.0.address).collect();
        let measured = async || {
            let (namespace, ends) = (client.namespace.clone(), ends.clone());
            let work = move || run_in_path(&namespace, || connect_times(&ends, count));
            tokio::task::spawn_blocking(work).await??
        };
        let mut table = Table::new(config()?)?;
        let frontends = all.iter().map(|(_, service)| service.clone()).collect();
        table.apply(State { frontends, ..State::default() })?;
        tell_ends(out, "minik", measured().await?)?;
        <Table>::remove(&config()?.table)?;
        let load = |program: &str, args: &[&str], text: &str| {
            program::run_within(Duration::from_secs(600), program, args, text.as_bytes())
        };
        load("nft", &["-f", "-"], &nft_rules(&all, true))?;
        tell_ends(out, "kube-proxy's layout, nft", measured().await?)?;
        program::run("nft", &["delete", "table", "ip", OTHER], &[])?;
        if program::find("iptables-restore").is_some() {
            load("iptables-restore", &["--noflush"], &iptables_rules(&all, true))?;
            tell_ends(out, "its layout, iptables", measured().await?)?;
            program::run("iptables-restore", &[], EMPTY.as_bytes())?;
        }
    }
    network.close().await;
    PodNetwork::destroy(&settings).await?;
    Ok(())
}

/// How long new connections to each address take, in turn.
fn connect_times(addresses: &[Ipv4Addr], count: usize) -> Result<Vec<Vec<Duration>>> {
    let mut times = vec![Vec::with_capacity(count); addresses.len()];
    for _ in 0..count {
        for (address, times) in addresses.iter().zip(&mut times) {
            let begin = Instant::now();
            let stream =
                TcpStream::connect_timeout(&SocketAddr::from((*address, 80)), Duration::from_secs(5))?;
            times.push(begin.elapsed());
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        }
    }
    Ok(times)
}

fn tell_ends(out: &mut impl Write, what: &str, mut times: Vec<Vec<Duration>>) -> Result<()> {
    write!(out, "  {what:<24}")?;
    for (end, times) in ["first", "last"].iter().zip(&mut times) {
        times.sort();
        let at = |share: usize| times[(times.len() - 1) * share / 100];
        write!(out, "  {end} p50 {:>8.1?} p99 {:>8.1?}", at(50), at(99))?;
    }
    Ok(writeln!(out)?)
}

/// Accepts on port 9000, and reads what comes on port 9001 to its end.
fn serve(namespace: &Path) -> Result<()> {
    let listen = |port: u16| run_in_path(namespace, move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)));
    let (accepts, reads) = (listen(9000)??, listen(9001)??);
    std::thread::spawn(move || accepts.incoming().for_each(drop));
    std::thread::spawn(move || {
        for mut stream in reads.incoming().flatten() {
            let mut buffer = vec![0; 1 << 18];
            while stream.read(&mut buffer).is_ok_and(|length| length > 0) {}
        }
    });
    Ok(())
}

/// Questions for names of services, one at a time and many at once, to minik's server and to dnsmasq.
fn names(short: bool, out: &mut impl Write) -> Result<()> {
    let count = if short { 100 } else { 1_000 };
    let name = |n: u32| format!("service-{n}.default.svc.cluster.local");
    let address = |n: u32| Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + n);
    let services: Vec<Arc<Service>> = (0..count)
        .map(|n| {
            let meta = json!({"name": format!("service-{n}"), "namespace": "default"});
            let spec = json!({"clusterIP": address(n), "ports": [{"name": "http", "port": 80}]});
            Ok(Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec}))?))
        })
        .collect::<Result<_>>()?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let minik = socket.local_addr()?;
    let zone = Zone::build("cluster.local", &services, &[], &[]);
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let server = Arc::new(Server::new(Upstream::fixed(Vec::new())));
            server.set_zone(zone);
            socket.set_nonblocking(true)?;
            server.serve_udp(tokio::net::UdpSocket::from_std(socket)?).await;
            Ok(())
        })
    });
    let asking = if short { ASKING / 50 } else { ASKING };
    let names: Vec<String> = (0..count).map(name).collect();
    writeln!(out, "names of {count} services")?;
    tell(out, "minik", minik, &names, asking)?;
    if program::find("dnsmasq").is_none() {
        return Ok(writeln!(out, "  dnsmasq                 not installed")?);
    }
    let directory = tempfile::tempdir()?;
    let hosts = directory.path().join("hosts");
    let lines: String = (0..count).map(|n| format!("{} {}\n", address(n), name(n))).collect();
    std::fs::write(&hosts, lines)?;
    let other: SocketAddr = "127.0.0.1:5353".parse()?;
    let _dnsmasq = Ended(
        Command::new("dnsmasq")
            .args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--pid-file="])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--port=5353", "--conf-file=/dev/null"])
            .arg(format!("--addn-hosts={}", hosts.display()))
            .stderr(Stdio::null())
            .spawn()?,
    );
    tell(out, "dnsmasq", other, &names, asking)
}

/// A program that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tell(
    out: &mut impl Write,
    what: &str,
    server: SocketAddr,
    names: &[String],
    asking: Duration,
) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let questions: Vec<Vec<u8>> = names.iter().map(|name| question(name)).collect();
    let mut buffer = [0; 512];
    // It may still be starting.
    let until = Instant::now() + Duration::from_secs(5);
    while socket.send(&questions[0]).and_then(|_| socket.recv(&mut buffer)).is_err() {
        if Instant::now() > until {
            return Err(format!("{what} does not answer").into());
        }
    }
    let mut times = Vec::new();
    let end = Instant::now() + asking;
    for question in questions.iter().cycle() {
        let begin = Instant::now();
        socket.send(question)?;
        socket.recv(&mut buffer)?;
        times.push(begin.elapsed());
        if Instant::now() > end {
            break;
        }
    }
    let (mut asked, mut lost, begin) = (0u64, 0u64, Instant::now());
    let mut waiting: HashMap<u16, usize> = HashMap::new();
    let mut next = 0;
    let mut ask = |id: u16, waiting: &mut HashMap<u16, usize>| -> std::io::Result<()> {
        let mut question = questions[next % questions.len()].clone();
        question[..2].copy_from_slice(&id.to_be_bytes());
        waiting.insert(id, next);
        next += 1;
        socket.send(&question).map(drop)
    };
    for id in 0..IN_FLIGHT {
        ask(id, &mut waiting)?;
    }
    while begin.elapsed() < asking {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                if waiting.remove(&id).is_some() {
                    asked += 1;
                    ask(id, &mut waiting)?;
                }
            }
            Err(_) => {
                let all: Vec<u16> = waiting.keys().copied().collect();
                lost += all.len() as u64;
                for id in all {
                    ask(id, &mut waiting)?;
                }
            }
        }
    }
    let rate = asked as f64 / begin.elapsed().as_secs_f64();
    let p50 = median(&mut times);
    Ok(writeln!(out, "  {what:<24}  p50 {p50:>8.1?}   {rate:>8.0} answers/s   {lost} lost")?)
}

/// A question for an A record (RFC 1035, 4.1).
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

fn timed<T, E: std::error::Error + Send + Sync + 'static>(
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> Result<Duration> {
    let begin = Instant::now();
    work()?;
    Ok(begin.elapsed())
}
