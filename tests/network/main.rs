//! Pod network and service proxy with real packets, in network namespaces that have no way out of the machine.

// Helpers of tests may unwrap and run programs as tests may.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use minik::network::{Attachment, Config, PodNetwork};
use minik::proxy::Configs;
use minik::proxy::family::Address;
use minik::proxy::plan::{Options, plan};
use minik::proxy::state::{Backends, Endpoint, Frontend, Protocol, State, States};
use minik::proxy::table::Table;
use minik::sys::namespace::{run_in_path, unshare};
use nix::sched::CloneFlags;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

mod dualstack;
mod policies;
mod ranges;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a test on a thread with network and mount namespaces of its own: a host that ends with the thread.
fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("MINIK_REQUIRE_ROOT").is_none(), "this test needs root");
        eprintln!("SKIPPED: needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        // Mounts made in here are seen by nobody else, and the kernel removes them with the thread.
        let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(Host { directory: tempfile::tempdir().unwrap() }));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

struct Host {
    directory: tempfile::TempDir,
}

impl Drop for Host {
    /// Lets namespaces go that a test left, so that the directory can be removed.
    fn drop(&mut self) {
        let root = self.directory.path();
        for directory in [root.to_owned(), root.join("namespaces"), root.join("other")] {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.path().is_file() {
                    let _ = minik::sys::netns::release(&entry.path());
                }
            }
        }
    }
}

impl Host {
    fn network(&self) -> Config {
        Config {
            prefix: "mkt".into(),
            pods: "10.244.0.0/16".parse().unwrap(),
            pods6: None,
            namespaces: self.directory.path().join("namespaces"),
            state: self.directory.path().join("state"),
        }
    }

    fn proxy(&self) -> minik::proxy::Config {
        minik::proxy::Config {
            table: "minik-test".into(),
            pods: "10.244.0.0/16".parse().unwrap(),
            services: "10.96.0.0/12".parse().unwrap(),
            gateway: self.network().gateway(),
            link_prefix: "mkt".into(),
            links: "10.244.0.0/16".parse().unwrap(),
        }
    }

    /// What `ip` and `nft` say of this host, and the files of the network.
    fn inventory(&self) -> String {
        let files = Command::new("find").arg(self.directory.path()).output().unwrap();
        [
            run("ip", "-br link"),
            run("ip", "-br addr"),
            run("ip", "route show table all"),
            run("ip", "neigh"),
            run("nft", "list ruleset"),
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(),
            run("ip", "-6 route show table all"),
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/all/forwarding").unwrap(),
            String::from_utf8(files.stdout).unwrap(),
        ]
        .join("\n--\n")
    }
}

fn run(program: &str, args: &str) -> String {
    let output = Command::new(program).args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn ip(args: &str) {
    run("ip", args);
}

/// A server in a namespace that answers with its name and the address it sees the client at.
fn serve(namespace: &Path, name: &str, port: u16) {
    serve_at(namespace, name, (Ipv4Addr::UNSPECIFIED, port).into());
}

/// The same at an address.
fn serve_at(namespace: &Path, name: &str, address: SocketAddr) {
    let (tcp, udp) =
        run_in_path(namespace, || (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap()))
            .unwrap();
    let tcp_name = name.to_owned();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = tcp.accept() {
            let _ = stream.write_all(format!("{tcp_name} {}", peer.ip()).as_bytes());
        }
    });
    let name = name.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{name} {}", peer.ip()).as_bytes(), peer);
        }
    });
}

/// What a server says to a client in this namespace (`None`: on the host).
fn ask(from: Option<&Path>, address: &str) -> Result<String, ErrorKind> {
    let address: SocketAddr = address.parse().unwrap();
    let work = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    inside(from, work).map_err(|error| error.kind())
}

fn ask_udp(from: Option<&Path>, address: &str) -> Result<String, ErrorKind> {
    let address: SocketAddr = address.parse().unwrap();
    let work = move || -> std::io::Result<String> {
        let socket = UdpSocket::bind(any_like(address))?;
        // The kernel answers nobody with more than so many refusals in a second: asked again, it may.
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(address)?;
        let (mut buffer, end) = ([0; 64], Instant::now() + TIMEOUT);
        loop {
            socket.send(b"?")?;
            match socket.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {}
                other => return Ok(String::from_utf8_lossy(&buffer[..other?]).into_owned()),
            }
        }
    };
    inside(from, work).map_err(|error| error.kind())
}

/// Any address and port of the same family.
fn any_like(address: SocketAddr) -> SocketAddr {
    if address.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { (Ipv4Addr::UNSPECIFIED, 0).into() }
}

fn inside<T: Send>(namespace: Option<&Path>, work: impl FnOnce() -> T + Send) -> T {
    match namespace {
        Some(path) => run_in_path(path, work).unwrap(),
        None => work(),
    }
}

/// Three pods, `a`, `b` and `c`, each serving on port 80.
async fn three_pods(network: &PodNetwork) -> BTreeMap<&'static str, Attachment> {
    let mut pods = BTreeMap::new();
    for name in ["a", "b", "c"] {
        let pod = network.attach(name).await.unwrap();
        serve(&pod.namespace, name, 80);
        pods.insert(name, pod);
    }
    pods
}

fn backends<'a>(pods: impl IntoIterator<Item = &'a Attachment>) -> Backends {
    let mut endpoints: Vec<_> =
        pods.into_iter().map(|pod| Endpoint { address: pod.address, port: 80 }).collect();
    endpoints.sort();
    Backends { endpoints, ..Backends::default() }
}

fn frontend(address: Option<[u8; 4]>, protocol: Protocol, port: u16) -> Frontend {
    Frontend { address: address.map(Ipv4Addr::from), protocol, port }
}

/// The address of a service, and a port of the node.
fn by_address_and_port() -> [Frontend; 2] {
    [frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80), frontend(None, Protocol::Tcp, 30080)]
}

#[test]
fn attaching_is_idempotent_and_recovers() {
    on_a_host(async |host: Host| {
        let before = host.inventory();
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        assert_eq!(network.attach("a").await.unwrap(), pods["a"]);
        let mtu = run_in_path(&pods["a"].namespace, || run("ip", "-o link show eth0")).unwrap();
        assert!(mtu.contains("mtu 1500 "), "{mtu}");
        let (one, other) = tokio::join!(network.attach("twice"), network.attach("twice"));
        assert_eq!(one.unwrap(), other.unwrap());
        network.detach("twice").await.unwrap();
        for from in pods.values() {
            for (name, to) in &pods {
                let answer = ask(Some(&from.namespace), &format!("{}:80", to.address)).unwrap();
                let source = if from == to { to.address } else { from.address };
                assert_eq!(answer, format!("{name} {source}"), "the source address is kept");
            }
            assert!(ask(None, &format!("{}:80", from.address)).unwrap().ends_with("10.244.0.1"));
        }
        let host_end = format!("-6 -br addr show mkt{:08x}", pods["a"].address.to_bits());
        assert_eq!(run("ip", &host_end), "", "no other way to the host");
        serve_host("10.244.0.1:7000");
        assert_eq!(ask(Some(&pods["a"].namespace), "10.244.0.1:7000").unwrap(), "host");

        network.close().await;
        let network = PodNetwork::open(host.network()).await.unwrap();
        let kept: Vec<String> = network.attachments().into_keys().collect();
        assert_eq!(kept, ["a", "b", "c"]);
        assert_eq!(network.attach("b").await.unwrap(), pods["b"]);
        network.detach("c").await.unwrap();
        network.detach("c").await.unwrap();
        assert!(!pods["c"].namespace.exists());
        let d = network.attach("d").await.unwrap();
        assert_ne!(d.address, pods["c"].address, "an address rests before it is reused");

        network.close().await;
        PodNetwork::destroy(&host.network()).await.unwrap();
        PodNetwork::destroy(&host.network()).await.unwrap();
        assert_eq!(host.inventory(), before);
    });
}

fn serve_host(address: &str) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"host");
        }
    });
}

/// A running proxy that does what it is told.
struct Proxy {
    states: watch::Sender<Option<States>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), minik::proxy::Error>>,
}

impl Proxy {
    fn start(host: &Host) -> Proxy {
        Proxy::start_with(host.proxy())
    }

    fn start_with(config: impl Into<Configs> + Send + 'static) -> Proxy {
        let (states, receiver) = watch::channel(None);
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { _ = stopped.await };
        let task = tokio::spawn(minik::proxy::follow(config, receiver, watch::channel(None).0, shutdown));
        Proxy { states, stop, task }
    }

    /// Tells it what to do, and waits until the rules hold so many elements of services and loopback is served.
    async fn set(&self, state: &State, services: usize) {
        self.states.send(Some(state.clone().into())).unwrap();
        until("the rules", || elements("services") == services).await;
        until_local(state).await;
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// How many elements a map of the test's table has; 0 when there is no table.
fn elements(map: &str) -> usize {
    listed("map", map)
}

/// How many clients the test's table remembers.
fn clients() -> usize {
    listed("set", "clients")
}

fn listed(kind: &str, name: &str) -> usize {
    listed_in("ip", kind, name)
}

/// The same in the table of a family.
fn listed_in(family: &str, kind: &str, name: &str) -> usize {
    let output = Command::new("nft").args(["-j", "list", kind, family, "minik-test", name]).output().unwrap();
    let Ok(listing) = serde_json::from_slice::<serde_json::Value>(&output.stdout) else { return 0 };
    let found =
        listing["nftables"].as_array().into_iter().flatten().find_map(|part| part[kind]["elem"].as_array());
    found.map_or(0, Vec::len)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < end, "still waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the ports on loopback are served, which comes after the rules.
async fn until_local<A: Address>(state: &State<A>) {
    let ports = state.local.keys().map(|(protocol, port)| {
        let protocol = if *protocol == Protocol::Tcp { "tcp" } else { "udp" };
        A::LOCAL.iter().map(move |address| (protocol, SocketAddr::new((*address).into(), *port).to_string()))
    });
    let ports: Vec<(&str, String)> = ports.flatten().collect();
    until("loopback", || {
        let listeners = run("ss", "-Htuln");
        let open = |(protocol, address): &(&str, String)| {
            let is = |line: &str| line.starts_with(protocol) && line.contains(&format!(" {address} "));
            listeners.lines().any(is)
        };
        ports.iter().all(open)
    })
    .await;
}

/// Runs blocking work of a test while the proxy goes on.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn ask_from(from: Option<&Attachment>, address: &str) -> Result<String, ErrorKind> {
    let (from, address) = (from.map(|pod| pod.namespace.clone()), address.to_owned());
    apart(move || ask(from.as_deref(), &address)).await
}

async fn ask_udp_from(from: Option<&Attachment>, address: &str) -> Result<String, ErrorKind> {
    let (from, address) = (from.map(|pod| pod.namespace.clone()), address.to_owned());
    apart(move || ask_udp(from.as_deref(), &address)).await
}

/// A host with an address, whose only way out leads to another namespace that serves port 7 as `outside`.
fn add_uplink(directory: &Path) -> PathBuf {
    let outside = directory.join("outside");
    minik::sys::netns::create(&outside, || Ok(())).unwrap();
    ip(&format!("link add up0 mtu 1400 type veth peer name up1 netns {}", outside.display()));
    // No link-local address, whose route comes only when nobody else has been found to have it.
    std::fs::write("/proc/sys/net/ipv6/conf/up0/disable_ipv6", "1").unwrap();
    ip("addr add 192.0.2.1/24 dev up0");
    ip("link set up0 up");
    ip("route add default via 192.0.2.2");
    run_in_path(&outside, || {
        ip("link set lo up");
        ip("addr add 192.0.2.2/24 dev up1");
        ip("link set up1 up");
        // Knows nothing of pods: whatever comes from a pod's own address is not answered.
    })
    .unwrap();
    // The kernel tells the two ends of each other a little later.
    let end = Instant::now() + TIMEOUT;
    while run("ip", "-br link show up0").contains("NO-CARRIER") {
        assert!(Instant::now() < end, "the uplink has no carrier");
    }
    serve(&outside, "outside", 7);
    outside
}

/// Has the outside answer, as `outside`, for a service's address on port 80: what comes there has leaked.
fn tempt(outside: &Path, service: &str) {
    run_in_path(outside, || ip(&format!("addr add {service}/32 dev lo"))).unwrap();
    serve(outside, "outside", 80);
}

#[test]
fn what_is_for_a_pod_that_is_gone_leaves_by_no_other_way() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        // Whoever gets there is answered.
        tempt(&add_uplink(host.directory.path()), "10.244.9.9");
        let proxy = Proxy::start(&host);
        let gone = Endpoint { address: Ipv4Addr::new(10, 244, 9, 9), port: 80 };
        let gone = Backends { endpoints: vec![gone], ..Backends::default() };
        let frontends = by_address_and_port();
        let frontends = frontends.map(|frontend| (frontend, gone.clone()));
        proxy.set(&State { frontends: frontends.into(), ..State::default() }, 2).await;
        for from in [None, Some(&pods["a"])] {
            let refused = ask_from(from, "10.244.9.9:80").await.unwrap_err();
            assert_eq!(refused, ErrorKind::ConnectionRefused, "{from:?}");
            for address in ["10.96.0.7:80", "192.0.2.1:30080"] {
                let namespace = from.map(|pod| pod.namespace.clone());
                let connect = move || {
                    TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_millis(1200))
                };
                let connected = apart(move || inside(namespace.as_deref(), connect)).await;
                assert_eq!(connected.unwrap_err().kind(), ErrorKind::TimedOut, "{from:?} {address}");
            }
        }
        proxy.stop().await;
    });
}

#[test]
fn an_attempt_to_connect_to_a_pod_that_went_is_led_elsewhere() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let proxy = Proxy::start(&host);
        // It takes what is sent to it and says nothing.
        run_in_path(&pods["a"].namespace, || {
            run("nft", "add table ip silent");
            run("nft", "add chain ip silent input { type filter hook input priority 0; policy drop; }");
        })
        .unwrap();
        let frontends = by_address_and_port();
        let led_to = |pod: &Attachment| State {
            frontends: frontends.map(|frontend| (frontend, backends([pod]))).into(),
            ..State::default()
        };
        proxy.set(&led_to(&pods["a"]), 2).await;
        let asks = [(Some("c"), "10.96.0.7:80"), (None, "10.96.0.7:80"), (None, "10.244.0.1:30080")].map(
            |(from, address)| {
                let from = from.map(|name| pods[name].namespace.clone());
                tokio::task::spawn_blocking(move || ask(from.as_deref(), address))
            },
        );
        let waiting = || {
            let tracked = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
            tracked.lines().filter(|line| line.contains("SYN_SENT") && line.contains("[UNREPLIED]")).count()
        };
        until("three attempts", || waiting() == asks.len()).await;
        proxy.set(&led_to(&pods["b"]), 2).await;
        for asked in asks {
            let answer = asked.await.unwrap().unwrap();
            assert!(answer.starts_with("b "), "{answer}");
        }
        proxy.stop().await;
    });
}

#[test]
fn nothing_is_left_of_the_connections_of_a_pod_that_is_gone() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let proxy = Proxy::start(&host);
        let frontends = by_address_and_port();
        let led_to = |pod: &Attachment, port| {
            let endpoints = vec![Endpoint { address: pod.address, port }];
            let backends = Backends { endpoints, ..Backends::default() };
            State {
                frontends: frontends.map(|frontend| (frontend, backends.clone())).into(),
                ..State::default()
            }
        };
        let keeps = run_in_path(&pods["a"].namespace, || TcpListener::bind("0.0.0.0:81").unwrap()).unwrap();
        proxy.set(&led_to(&pods["a"], 81), 2).await;
        let asks = [(Some("c"), "10.96.0.7:80"), (None, "10.96.0.7:80"), (None, "10.244.0.1:30080")];
        let mut kept: Vec<TcpStream> = Vec::new();
        let mut servers = Vec::new();
        for (from, address) in asks {
            let from = from.map(|name| pods[name].namespace.clone());
            let connect = move || TcpStream::connect_timeout(&address.parse().unwrap(), TIMEOUT).unwrap();
            kept.push(apart(move || inside(from.as_deref(), connect)).await);
            servers.push(keeps.accept().unwrap());
        }
        proxy.set(&led_to(&pods["b"], 80), 2).await;
        // It ends without a word.
        run_in_path(&pods["a"].namespace, || {
            run("nft", "add table ip silent");
            run("nft", "add chain ip silent output { type filter hook output priority 0; policy drop; }");
        })
        .unwrap();
        drop((servers, keeps));
        let gone = network.detach("a").await.unwrap().unwrap();
        let gone = gone.addresses().collect();
        let ended = apart(move || minik::proxy::conntrack::forget(&gone)).await.unwrap();
        assert_eq!(ended, kept.len());
        for (mut stream, (from, address)) in kept.into_iter().zip(asks) {
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            stream.write_all(b"?").unwrap();
            let told = stream.read(&mut [0]).map_err(|error| error.kind());
            assert_eq!(told, Err(ErrorKind::ConnectionReset), "{from:?} {address}");
            let answer = ask_from(from.map(|name| &pods[name]), address).await.unwrap();
            assert!(answer.starts_with("b "), "{from:?} {address}: {answer}");
        }
        proxy.stop().await;
    });
}

#[test]
fn a_crash_leaves_nothing_that_the_next_start_does_not_mend() {
    on_a_host(async |host: Host| {
        let before = host.inventory();
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        network.close().await;
        // One pod loses its namespace, one its link, and there is a file that nobody knows.
        minik::sys::netns::release(&pods["a"].namespace).unwrap();
        ip(&format!("link del mkt{:08x}", pods["b"].address.to_bits()));
        std::fs::write(host.network().namespaces.join("10.244.9.9"), "").unwrap();
        let network = PodNetwork::open(host.network()).await.unwrap();
        assert_eq!(network.attachments().into_keys().collect::<Vec<_>>(), ["c"]);
        assert!(!host.network().namespaces.join("10.244.9.9").exists());
        let a = network.attach("a").await.unwrap();
        serve(&a.namespace, "a", 81);
        assert!(ask(Some(&pods["c"].namespace), &format!("{}:81", a.address)).is_ok());
        network.close().await;
        // What a process still holds goes as well.
        let held = run_in_path(&a.namespace, || TcpListener::bind("0.0.0.0:99").unwrap()).unwrap();
        PodNetwork::destroy(&host.network()).await.unwrap();
        assert_eq!(host.inventory(), before);
        drop(held);
    });
}

#[test]
fn the_forwarding_switch_is_put_back_by_the_last_cluster() {
    on_a_host(async |host: Host| {
        let switch = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim().to_owned();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let one = host.network();
        let other = Config {
            prefix: "mku".into(),
            pods: "10.245.0.0/16".parse().unwrap(),
            pods6: None,
            namespaces: host.directory.path().join("other"),
            state: host.directory.path().join("other-state"),
        };
        for config in [&one, &other] {
            PodNetwork::open(config.clone()).await.unwrap().close().await;
            assert_eq!(switch(), "1");
        }
        PodNetwork::destroy(&one).await.unwrap();
        assert_eq!(switch(), "1", "another cluster needs it");
        PodNetwork::destroy(&other).await.unwrap();
        assert_eq!(switch(), "0");
    });
}

#[test]
fn the_gateway_has_a_carrier_where_it_needs_one() {
    on_a_host(async |host: Host| {
        let before = host.inventory();
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        assert!(run("ip", "-br link show mkt0").contains("NO-CARRIER"));
        for _ in 0..2 {
            minik::network::connect_gateway(&host.network()).await.unwrap();
        }
        until("a carrier", || run("ip", "-br link show mkt0").contains("LOWER_UP")).await;
        assert!(ask(Some(&pods["a"].namespace), &format!("{}:80", pods["b"].address)).is_ok());
        network.close().await;
        PodNetwork::destroy(&host.network()).await.unwrap();
        assert_eq!(host.inventory(), before);
    });
}

#[test]
fn ranges_in_use_are_seen() {
    on_a_host(async |host: Host| {
        add_uplink(host.directory.path());
        ip("route add 10.244.128.0/20 via 192.0.2.2");
        ip("route add 10.245.0.0/16 via 192.0.2.2 table 77");
        let occupied = minik::network::occupied_ranges().await.unwrap();
        assert!(occupied.contains(&"192.0.2.0/24".parse().unwrap()), "{occupied:?}");
        let chosen = minik::network::choose_range(
            &occupied,
            &minik::network::POD_RANGES,
            minik::network::Cidr::overlaps,
        )
        .unwrap();
        assert_eq!(chosen.to_string(), "10.246.0.0/16");
    });
}

#[test]
fn services_are_reached_from_everywhere() {
    on_a_host(async |host: Host| {
        let outside = add_uplink(host.directory.path());
        let before = host.inventory();
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let (a, b) = (&pods["a"], &pods["b"]);
        let mtu = run_in_path(&a.namespace, || run("ip", "-o link show eth0")).unwrap();
        assert!(mtu.contains("mtu 1400 "), "the uplink's: {mtu}");
        let proxy = Proxy::start(&host);
        let mut state = State::default();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            state.frontends.insert(frontend(Some([10, 96, 0, 8]), protocol, 8080), backends([a]));
            state.frontends.insert(frontend(None, protocol, 30080), backends([a]));
            state.local.insert((protocol, 30080), backends([a]));
            state.frontends.insert(frontend(Some([10, 96, 0, 9]), protocol, 80), backends([]));
            state.frontends.insert(frontend(None, protocol, 30090), backends([]));
            state.local.insert((protocol, 30090), backends([]));
            let outer = Endpoint { address: Ipv4Addr::new(192, 0, 2, 2), port: 7 };
            let outer = Backends { endpoints: vec![outer], ..Backends::default() };
            state.frontends.insert(frontend(Some([10, 96, 0, 10]), protocol, 80), outer);
        }
        let api = Endpoint { address: Ipv4Addr::new(192, 0, 2, 1), port: 6443 };
        let api = Backends { endpoints: vec![api], ..Backends::default() };
        state.frontends.insert(frontend(Some([10, 96, 0, 1]), Protocol::Tcp, 443), api);
        serve_host("192.0.2.1:6443");
        proxy.set(&state, 7).await;
        for from in [None, Some(a)] {
            assert_eq!(
                ask_from(from, "10.96.0.1:443").await.unwrap(),
                "host",
                "an endpoint on the node itself"
            );
        }

        for (from, to, answer) in [
            (Some(b), "10.96.0.8:8080", format!("a {}", b.address)),
            (Some(a), "10.96.0.8:8080", "a 10.244.0.1".into()),
            (None, "10.96.0.8:8080", "a 10.244.0.1".into()),
            (None, "192.0.2.1:30080", "a 192.0.2.1".into()),
            (None, "10.244.0.1:30080", "a 10.244.0.1".into()),
            (None, "127.0.0.1:30080", "a 10.244.0.1".into()),
            (Some(b), "192.0.2.1:30080", format!("a {}", b.address)),
            (Some(a), "192.0.2.1:30080", "a 10.244.0.1".into()),
            (Some(b), "192.0.2.2:7", "outside 192.0.2.1".into()),
            (Some(b), "10.96.0.10:80", "outside 192.0.2.1".into()),
            (None, "10.96.0.10:80", "outside 192.0.2.1".into()),
        ] {
            assert_eq!(ask_from(from, to).await.as_ref(), Ok(&answer), "TCP to {to}");
            assert_eq!(ask_udp_from(from, to).await.as_ref(), Ok(&answer), "UDP to {to}");
        }
        let path = outside.clone();
        let from_outside = apart(move || ask(Some(&path), "192.0.2.1:30080")).await;
        assert_eq!(from_outside.unwrap(), "a 192.0.2.2", "the source address of strangers is kept");

        let start = Instant::now();
        for from in [None, Some(b)] {
            for to in ["10.96.0.9:80", "10.96.7.7:1234", "192.0.2.1:30090"] {
                assert_eq!(ask_from(from, to).await, Err(ErrorKind::ConnectionRefused), "TCP to {to}");
                // A sender on the host itself is told by its own call.
                let refused = ask_udp_from(from, to).await.unwrap_err();
                let expected = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
                assert!(expected.contains(&refused), "UDP to {to}: {refused}");
            }
        }
        assert_eq!(ask_from(None, "127.0.0.1:30090").await, Err(ErrorKind::ConnectionReset));
        assert!(start.elapsed() < TIMEOUT / 2, "refusals came after {:?}", start.elapsed());

        proxy.stop().await;
        assert!(ask_from(Some(b), "10.96.0.8:8080").await.is_ok(), "rules serve on without the proxy");
        minik::proxy::Proxy::destroy(host.proxy()).await.unwrap();
        minik::proxy::Proxy::destroy(host.proxy()).await.unwrap();
        network.close().await;
        PodNetwork::destroy(&host.network()).await.unwrap();
        assert_eq!(without_neighbours(&host.inventory()), without_neighbours(&before));
    });
}

/// The uplink's neighbours come and go by themselves.
fn without_neighbours(inventory: &str) -> String {
    const PASSING: [&str; 6] = ["REACHABLE", "STALE", "DELAY", "PROBE", "FAILED", "INCOMPLETE"];
    let stays = |line: &&str| !PASSING.iter().any(|state| line.trim_end().ends_with(state));
    inventory.lines().filter(stays).collect::<Vec<_>>().join("\n")
}

#[test]
fn thousands_of_short_connections_are_spread_evenly_and_none_fails() {
    on_a_host(async |host: Host| {
        tempt(&add_uplink(host.directory.path()), "10.96.0.7");
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let proxy = Proxy::start(&host);
        let mut state = State::default();
        state.frontends.insert(frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80), backends(pods.values()));
        proxy.set(&state, 1).await;
        let client = network.attach("client").await.unwrap().namespace;
        for from in [Some(client), None] {
            let counts = apart(move || inside(from.as_deref(), many_connections)).await;
            assert_eq!(counts.len(), 3, "{counts:?}");
            // Five standard deviations of a fair draw.
            assert!(counts.values().all(|count| count.abs_diff(1000) < 130), "{counts:?}");
        }
        proxy.stop().await;
    });
}

/// Makes three thousand connections one after the other, and counts who answered.
fn many_connections() -> BTreeMap<String, u32> {
    // Few source ports, so that connections meet the remains of earlier ones.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40499").unwrap();
    let mut counts = BTreeMap::new();
    for _ in 0..3000 {
        let mut stream = TcpStream::connect_timeout(&"10.96.0.7:80".parse().unwrap(), TIMEOUT).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        // A reset at the end, so that the port is free again at once.
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        *counts.entry(answer).or_default() += 1;
    }
    counts
}

#[test]
fn clients_stay_with_their_endpoint_while_it_lasts() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let client = network.attach("client").await.unwrap();
        let proxy = Proxy::start(&host);
        let mut state = State::default();
        let frontend = frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80);
        let all = Backends { sticky: Some(600), ..backends(pods.values()) };
        state.frontends.insert(frontend, all.clone());
        proxy.set(&state, 1).await;
        let first = ask_from(Some(&client), "10.96.0.7:80").await.unwrap();
        for _ in 0..20 {
            assert_eq!(ask_from(Some(&client), "10.96.0.7:80").await.unwrap(), first);
        }
        // Without its endpoint the client gets another one, and stays with that when the first comes back.
        let name = &first[..1];
        let others = pods.iter().filter(|(other, _)| **other != name).map(|(_, pod)| pod);
        state.frontends.insert(frontend, Backends { sticky: Some(600), ..backends(others) });
        proxy.states.send(Some(state.clone().into())).unwrap();
        until("two choices", || elements("choices") == 2).await;
        let second = ask_from(Some(&client), "10.96.0.7:80").await.unwrap();
        assert_ne!(second, first);
        for _ in 0..20 {
            assert_eq!(ask_from(Some(&client), "10.96.0.7:80").await.unwrap(), second);
        }
        proxy.stop().await;
    });
}

#[test]
fn a_client_too_many_to_be_remembered_is_served_all_the_same() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let client = network.attach("client").await.unwrap();
        let proxy = Proxy::start(&host);
        let all = Backends { sticky: Some(600), ..backends(pods.values()) };
        let state = State {
            frontends: [(frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80), all)].into(),
            ..State::default()
        };
        proxy.set(&state, 1).await;
        apart(|| {
            let others = (0..65_536u32).map(|n| {
                let address = std::net::Ipv4Addr::from_bits(0x6440_0000 + n);
                format!("{address} . 10.96.0.7 . tcp . 80 . 10.244.0.9 timeout 600s")
            });
            let others = others.collect::<Vec<_>>().join(", ");
            let text = format!("add element ip minik-test clients {{ {others} }}");
            minik::sys::program::run("nft", &["-f", "-"], text.as_bytes()).unwrap();
        })
        .await;
        for _ in 0..20 {
            ask_from(Some(&client), "10.96.0.7:80").await.unwrap();
        }
        assert_eq!(clients(), 65_536);
        proxy.stop().await;
    });
}

#[test]
fn clients_are_forgotten_after_a_while() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let proxy = Proxy::start(&host);
        let all = Backends { sticky: Some(1), ..backends(pods.values()) };
        let state = State {
            frontends: [(frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80), all)].into(),
            ..State::default()
        };
        proxy.set(&state, 1).await;
        let first = ask_from(None, "10.96.0.7:80").await.unwrap();
        // A new draw may well be the old one, but not for ever.
        let mut draws = 0;
        while ask_from(None, "10.96.0.7:80").await.unwrap() == first {
            until("the client to be forgotten", || clients() == 0).await;
            draws += 1;
            assert!(draws < 30, "always {first}");
        }
        proxy.stop().await;
    });
}

#[test]
fn a_restart_keeps_clients_where_they_were_and_ends_what_went() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let proxy = Proxy::start(&host);
        let mut state = State::default();
        let all = Backends { sticky: Some(600), ..backends(pods.values()) };
        state.frontends.insert(frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80), all);
        let datagrams = frontend(Some([10, 96, 0, 8]), Protocol::Udp, 80);
        state.frontends.insert(datagrams, backends([&pods["a"]]));
        proxy.set(&state, 2).await;
        let mut askers = Vec::new();
        for number in 0..5 {
            askers.push(network.attach(&format!("client-{number}")).await.unwrap());
        }
        let answers = async || {
            let mut answers = Vec::new();
            for asker in &askers {
                answers.push(ask_from(Some(asker), "10.96.0.7:80").await.unwrap());
            }
            answers
        };
        let before = answers().await;
        assert_eq!(clients(), askers.len());
        let socket = run_in_path(&askers[0].namespace, || UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
        socket.connect("10.96.0.8:80").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let socket = std::sync::Arc::new(socket);
        let send = async || {
            let socket = socket.clone();
            apart(move || socket.send(b"?").and_then(|_| socket.recv(&mut [0; 64])).map_err(|e| e.kind()))
                .await
        };
        let end = Instant::now() + TIMEOUT;
        while send().await.is_err() {
            assert!(Instant::now() < end, "nobody answers");
        }

        proxy.stop().await;
        state.frontends.remove(&datagrams);
        let proxy = Proxy::start(&host);
        proxy.set(&state, 1).await;
        assert_eq!(clients(), askers.len());
        assert_eq!(answers().await, before);
        // The service went while nobody watched: its client is told so.
        let end = Instant::now() + TIMEOUT;
        while send().await != Err(ErrorKind::ConnectionRefused) {
            assert!(Instant::now() < end, "datagrams still reach an endpoint");
        }
        proxy.stop().await;
    });
}

fn objects<T: serde::de::DeserializeOwned>(values: &[serde_json::Value]) -> Vec<std::sync::Arc<T>> {
    values
        .iter()
        .map(|value| serde_json::from_value(value.clone()).unwrap())
        .map(std::sync::Arc::new)
        .collect()
}

#[test]
fn objects_decide_where_packets_go() {
    use serde_json::{Value, json};
    on_a_host(async |host: Host| {
        add_uplink(host.directory.path());
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let (a, b) = (&pods["a"], &pods["b"]);
        let proxy = Proxy::start(&host);
        let service = json!({"metadata": {"name": "web", "namespace": "n"}, "spec": {"clusterIP": "10.96.0.7",
            "externalIPs": ["192.0.2.1"], "ports": [{"port": 8090}]}});
        let endpoint = |name: &str, ready: bool, serving: bool, terminating: bool| {
            json!({"addresses": [pods[name].address.to_string()],
                   "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
        };
        let state = |endpoints: Vec<Value>, with_host_ports: &[Value]| {
            let slice = json!({"metadata": {"name": "web-1", "namespace": "n",
                "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": endpoints});
            let (services, slices) = (objects(std::slice::from_ref(&service)), objects(&[slice]));
            plan(&Options::default(), &services, &slices, &objects(with_host_ports))
        };
        // While all endpoints end, those that still serve do; one that is ready takes over.
        let ending = vec![
            endpoint("a", false, true, true),
            endpoint("b", false, false, true),
            endpoint("c", false, true, false),
        ];
        proxy.set(&state(ending.clone(), &[]), 1).await;
        for _ in 0..8 {
            assert!(ask_from(None, "10.96.0.7:8090").await.unwrap().starts_with("a "));
        }
        let ready = endpoint("c", true, true, false);
        proxy.states.send(Some(state([ending, vec![ready.clone()]].concat(), &[]).into())).unwrap();
        until("the ready one", || {
            let rules = run("nft", "list map ip minik-test endpoints");
            !rules.contains(&a.address.to_string())
        })
        .await;
        for _ in 0..8 {
            assert!(ask_from(None, "10.96.0.7:8090").await.unwrap().starts_with("c "));
        }

        let pod = |at: &Attachment, host_ip: &str, port: u16| {
            let ports: Vec<Value> = ["TCP", "UDP"]
                .iter()
                .map(|p| json!({"containerPort": 80, "hostPort": port, "hostIP": host_ip, "protocol": p}))
                .collect();
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "ports": ports}]},
                   "status": {"phase": "Running", "podIP": at.address.to_string()}})
        };
        let with_ports = [pod(a, "", 8080), pod(b, "192.0.2.1", 8081), pod(b, "127.0.0.1", 8082)];
        proxy.set(&state(vec![ready], &with_ports), 5).await;
        let on_node = |name: &str| Some(format!("{name} 192.0.2.1"));
        let on_gateway = |name: &str| Some(format!("{name} 10.244.0.1"));
        for (from, to, answer) in [
            (None, "192.0.2.1:8080", on_node("a")),
            (None, "10.244.0.1:8080", on_gateway("a")),
            (None, "127.0.0.1:8080", on_gateway("a")),
            (None, "127.0.1.1:8080", on_gateway("a")),
            (Some(b), "192.0.2.1:8080", Some(format!("a {}", b.address))),
            // A pod that reaches itself by its own port of the node.
            (Some(a), "192.0.2.1:8080", on_gateway("a")),
            (None, "192.0.2.1:8081", on_node("b")),
            (Some(b), "192.0.2.1:8081", on_gateway("b")),
            (None, "10.244.0.1:8081", None),
            (None, "127.0.0.1:8081", None),
            (None, "127.0.0.1:8082", on_gateway("b")),
            (None, "192.0.2.1:8082", None),
            // An external address of a service is anybody's wish.
            (None, "192.0.2.1:8090", None),
        ] {
            let answer = answer.ok_or(ErrorKind::ConnectionRefused);
            assert_eq!(ask_from(from, to).await, answer, "TCP to {to}");
            assert_eq!(ask_udp_from(from, to).await, answer, "UDP to {to}");
        }
        proxy.stop().await;
    });
}

#[test]
fn datagrams_follow_their_service() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let client = network.attach("client").await.unwrap();
        let proxy = Proxy::start(&host);
        let mut state = State::default();
        let frontend = frontend(Some([10, 96, 0, 7]), Protocol::Udp, 80);
        state.frontends.insert(frontend, backends([&pods["a"]]));
        proxy.set(&state, 1).await;
        // One socket for all, so that it is one tracked connection for the kernel.
        let socket = run_in_path(&client.namespace, || UdpSocket::bind("0.0.0.0:5555").unwrap()).unwrap();
        socket.connect("10.96.0.7:80").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let socket = std::sync::Arc::new(socket);
        for name in ["a", "b", "c"] {
            state.frontends.insert(frontend, backends([&pods[name]]));
            proxy.states.send(Some(state.clone().into())).unwrap();
            let end = Instant::now() + TIMEOUT;
            loop {
                let socket = socket.clone();
                let answer = apart(move || {
                    let mut buffer = [0; 64];
                    socket.send(b"?").and_then(|_| socket.recv(&mut buffer)).map(|_| buffer[0])
                });
                if answer.await.ok() == name.bytes().next() {
                    break;
                }
                assert!(Instant::now() < end, "datagrams do not reach {name}");
            }
        }
        proxy.stop().await;
    });
}

#[test]
fn rules_that_vanish_come_back() {
    on_a_host(async |host: Host| {
        tempt(&add_uplink(host.directory.path()), "10.96.0.7");
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let proxy = Proxy::start(&host);
        let mut state = State::default();
        state.frontends.insert(frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80), backends(pods.values()));
        proxy.set(&state, 1).await;
        // Somebody talks all the while. He may fail, but never be heard outside.
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (stop, from) = (over.clone(), pods["b"].namespace.clone());
        let talk = tokio::task::spawn_blocking(move || {
            run_in_path(&from, || {
                let mut heard = std::collections::BTreeSet::new();
                let end = Instant::now() + TIMEOUT;
                // Until the harm is done, and then until each has been heard.
                let goes_on = |heard: usize| {
                    !stop.load(std::sync::atomic::Ordering::Relaxed) || heard < 3 && Instant::now() < end
                };
                while goes_on(heard.len()) {
                    let patience = Duration::from_millis(100);
                    let address = "10.96.0.7:80".parse().unwrap();
                    let Ok(mut stream) = TcpStream::connect_timeout(&address, patience) else { continue };
                    stream.set_read_timeout(Some(patience)).unwrap();
                    let mut answer = String::new();
                    if stream.read_to_string(&mut answer).is_ok() {
                        heard.insert(answer.split(' ').next().unwrap_or_default().to_owned());
                    }
                }
                heard
            })
        });
        for harm in
            ["flush ruleset", "delete table ip minik-test", "flush chain ip minik-test nat-prerouting"]
        {
            run("nft", harm);
            until(&format!("the rules to come back after {harm}"), || {
                elements("services") == 1 && run("nft", "list ruleset").matches("jump services").count() == 2
            })
            .await;
            assert!(ask_from(Some(&pods["a"]), "10.96.0.7:80").await.is_ok());
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let heard = talk.await.unwrap().unwrap();
        assert_eq!(heard.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c"]);
        proxy.stop().await;
    });
}

#[test]
fn other_firewalls_are_asked_to_let_pods_through() {
    on_a_host(async |host: Host| {
        if minik::sys::program::find("iptables").is_none() {
            eprintln!("SKIPPED: needs iptables");
            return;
        }
        let outside = add_uplink(host.directory.path());
        run("iptables", "-P FORWARD DROP");
        run("iptables", "-P INPUT DROP");
        let before = run("iptables", "-S");
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let proxy = Proxy::start(&host);
        until("the accept rules", || run("iptables", "-S").matches("minik:minik-test").count() == 3).await;
        let (a, b) = (&pods["a"], &pods["b"]);
        let mut state = State::default();
        let api = Endpoint { address: Ipv4Addr::new(192, 0, 2, 1), port: 6443 };
        let api = Backends { endpoints: vec![api], ..Backends::default() };
        state.frontends.insert(frontend(Some([10, 96, 0, 1]), Protocol::Tcp, 443), api);
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            state.frontends.insert(frontend(None, protocol, 30080), backends([a]));
        }
        proxy.set(&state, 3).await;
        // What stands for the API and for DNS, on the host that drops whatever it did not ask for.
        serve_host("192.0.2.1:6443");
        serve_host("10.244.0.1:53");
        for (from, to, answer) in [
            (Some(a), format!("{}:80", b.address), format!("b {}", a.address)),
            (None, format!("{}:80", b.address), "b 10.244.0.1".into()),
            (Some(a), "10.96.0.1:443".into(), "host".into()),
            (Some(a), "10.244.0.1:53".into(), "host".into()),
            (Some(a), "192.0.2.2:7".into(), "outside 192.0.2.1".into()),
            (Some(b), "192.0.2.1:30080".into(), format!("a {}", b.address)),
            (None, "192.0.2.1:30080".into(), "a 192.0.2.1".into()),
        ] {
            assert_eq!(ask_from(from, &to).await, Ok(answer), "{to}");
        }
        assert_eq!(ask_udp_from(Some(a), "192.0.2.2:7").await.unwrap(), "outside 192.0.2.1");
        for ask in [ask, ask_udp] {
            let from = outside.clone();
            let answer = apart(move || ask(Some(&from), "192.0.2.1:30080")).await;
            assert_eq!(answer.unwrap(), "a 192.0.2.2", "from outside to a port of the node");
        }
        // Somebody starts his firewall anew.
        run("iptables", "-F FORWARD");
        until("the accept rules", || run("iptables", "-S").matches("minik:minik-test").count() == 3).await;
        proxy.stop().await;
        minik::proxy::Proxy::destroy(host.proxy()).await.unwrap();
        assert_eq!(run("iptables", "-S"), before);
    });
}

#[test]
fn docker_starts_beside_a_cluster() {
    on_a_host(async |host: Host| {
        if minik::sys::program::find("iptables").is_none() {
            eprintln!("SKIPPED: needs iptables");
            return;
        }
        add_uplink(host.directory.path());
        run("nft", "add table ip theirs");
        run("nft", "add chain ip theirs forwards { type filter hook forward priority 5; }");
        run("nft", "add rule ip theirs forwards counter accept");
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let (a, b) = (&pods["a"], &pods["b"]);
        let proxy = Proxy::start(&host);
        let mut state = State::default();
        state.frontends.insert(frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80), backends([b]));
        proxy.set(&state, 1).await;
        assert!(ask_from(Some(a), "10.96.0.7:80").await.is_ok());
        // What its daemon does when it starts.
        for rule in
            ["-N DOCKER-USER", "-A DOCKER-USER -j RETURN", "-I FORWARD -j DOCKER-USER", "-P FORWARD DROP"]
        {
            run("iptables", rule);
        }
        let start = Instant::now();
        let own = || run("iptables", "-S DOCKER-USER").matches("minik:minik-test").count();
        until("the accept rules", || own() == 2).await;
        eprintln!("pods are let through again after {:?}", start.elapsed());
        assert!(ask_from(Some(a), "10.96.0.7:80").await.is_ok());
        assert_eq!(ask_from(Some(a), "192.0.2.2:7").await.unwrap(), "outside 192.0.2.1");
        let theirs = run("nft", "list table ip theirs");
        assert!(theirs.contains("counter packets") && theirs.contains("accept"), "{theirs}");
        proxy.stop().await;
        minik::proxy::Proxy::destroy(host.proxy()).await.unwrap();
        let left = run("iptables", "-S");
        assert!(left.contains("-A DOCKER-USER -j RETURN") && left.contains("-P FORWARD DROP"), "{left}");
        assert!(!left.contains("minik"), "{left}");
        assert!(run("nft", "list tables").contains("table ip theirs"));
    });
}

#[test]
fn balancers_take_only_whom_they_know() {
    on_a_host(async |host: Host| {
        let outside = add_uplink(host.directory.path());
        run_in_path(&outside, || ip("route add 10.96.0.0/12 via 192.0.2.1")).unwrap();
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let (a, b) = (&pods["a"], &pods["b"]);
        let proxy = Proxy::start(&host);
        // Dropped, so nobody is told.
        let reached = async |from: Option<&Path>| {
            let from = from.map(Path::to_owned);
            let connect = || {
                let patience = Duration::from_millis(500);
                let mut stream =
                    TcpStream::connect_timeout(&"10.96.0.7:80".parse().unwrap(), patience).ok()?;
                let mut answer = String::new();
                stream.read_to_string(&mut answer).ok().map(|_| answer)
            };
            apart(move || inside(from.as_deref(), connect)).await
        };
        let all = |ranges: &[&str], sticky: Option<u32>| {
            let sources = Some(ranges.iter().map(|range| range.parse().unwrap()).collect());
            let backends = Backends { sticky, sources, ..backends([a]) };
            let frontend = frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 80);
            State { frontends: [(frontend, backends)].into(), ..State::default() }
        };
        for sticky in [None, Some(60)] {
            for (ranges, from_host, from_outside) in [
                (&["192.0.2.0/30"][..], false, true),
                (&["198.51.100.0/24", "10.244.0.1/32"], true, false),
                (&["0.0.0.0/0"], true, true),
                (&[], false, false),
            ] {
                proxy.states.send(Some(all(ranges, sticky).into())).unwrap();
                let wanted = ranges.len() + 2;
                let rules = || {
                    let guard = ["list", "chain", "ip", "minik-test", "guard-10.96.0.7-6-80"];
                    let listing = Command::new("nft").args(guard).output().unwrap().stdout;
                    let listing = String::from_utf8(listing).unwrap();
                    let inner = if sticky.is_some() { "sticky-" } else { "spread-" };
                    listing.matches(&format!("goto {inner}")).count() + listing.matches("drop").count()
                };
                until("the guard", || rules() == wanted).await;
                assert_eq!(reached(None).await.is_some(), from_host, "{ranges:?}");
                let stranger = reached(Some(&outside)).await;
                assert_eq!(stranger.is_some(), from_outside, "{ranges:?}");
                assert!(stranger.is_none_or(|answer| answer == "a 192.0.2.2"));
                let from_pod = format!("a {}", b.address);
                assert_eq!(reached(Some(&b.namespace)).await, Some(from_pod), "pods always may");
            }
        }
        proxy.stop().await;
    });
}

#[test]
fn a_hundred_changes_leave_exactly_what_one_would() {
    on_a_host(async |host: Host| {
        let mut table = Table::new(host.proxy()).unwrap();
        let mut random = 1u64;
        let mut draw = |bound: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) % bound
        };
        let mut state = State::default();
        for _ in 0..100 {
            let port = 30000 + draw(12) as u16;
            let address = (draw(3) > 0).then(|| Ipv4Addr::new(10, 96, 0, draw(4) as u8));
            let protocol = if draw(2) == 0 { Protocol::Tcp } else { Protocol::Udp };
            let count = draw(5) as u8;
            let endpoints = (0..count)
                .map(|n| Endpoint {
                    address: Ipv4Addr::new(10, 244 + (draw(6) == 0) as u8, 0, n + 2),
                    port: 80,
                })
                .collect::<std::collections::BTreeSet<_>>();
            let sticky = (draw(3) == 0).then_some(60);
            let frontend = Frontend { address, protocol, port };
            match draw(4) {
                0 => _ = state.frontends.remove(&frontend),
                _ => {
                    let endpoints = endpoints.into_iter().collect();
                    state.frontends.insert(frontend, Backends { endpoints, sticky, ..Backends::default() });
                }
            }
            table.apply(state.clone()).unwrap();
        }
        let by_differences = sorted(&run("nft", "list ruleset"));
        table.invalidate();
        table.apply(state).unwrap();
        assert_eq!(by_differences, sorted(&run("nft", "list ruleset")));
    });
}

/// The kernel lists elements and chains in the order of their making: compare them as sets of parts.
fn sorted(ruleset: &str) -> Vec<String> {
    let mut lines: Vec<String> = ruleset
        .lines()
        .map(|line| {
            line.trim().trim_start_matches("elements = {").trim_end_matches(['}', ',', ' ']).trim().to_owned()
        })
        .collect();
    lines.sort();
    lines
}
