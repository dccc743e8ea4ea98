//! Network policies with real packets: what the kernel lets through is what the policies say.

use std::collections::BTreeSet;
use std::sync::Arc;

use minik::proxy::family::Address;
use minik::proxy::policy::plan::{Objects, plan};
use serde_json::{Value, json};

use super::*;

/// How long a client waits for what is denied. What is allowed has all the time in the world.
const PATIENCE: Duration = Duration::from_millis(300);

/// A family of addresses, and who has which on the stage.
pub(crate) trait Side: Address {
    /// How `nft` calls its tables.
    const TABLE: &str;
    /// The other end of the uplink, and the host on the pod network.
    const STRANGER: Self;
    const GATEWAY: Self;

    /// A pod's address.
    fn of(pod: &Attachment) -> Self;
    /// What the proxy is told.
    fn states(state: State<Self>) -> States;
    /// Where a block of the case is in this family.
    fn block(cidr: &'static str) -> &'static str;
}

impl Side for Ipv4Addr {
    const TABLE: &str = "ip";
    const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

    fn of(pod: &Attachment) -> Ipv4Addr {
        pod.address
    }

    fn states(state: State) -> States {
        state.into()
    }

    fn block(cidr: &'static str) -> &'static str {
        cidr
    }
}

impl Side for Ipv6Addr {
    const TABLE: &str = "ip6";
    const STRANGER: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);

    fn of(pod: &Attachment) -> Ipv6Addr {
        pod.address6.unwrap()
    }

    fn states(v6: State<Ipv6Addr>) -> States {
        States { v6, ..States::default() }
    }

    fn block(cidr: &'static str) -> &'static str {
        match cidr {
            "192.0.2.0/24" => "2001:db8::/64",
            "192.0.2.0/30" => "2001:db8::/126",
            "255.0.0.0/8" => "ff00::/8",
            "0.0.0.0/0" => "::/0",
            "::/0" => "0.0.0.0/0",
            other => panic!("{other}"),
        }
    }
}

/// Pods `a`, `b` and `c` of the namespace `n`, the last one of another team, with these policies.
fn state<A: Side>(pods: &BTreeMap<&str, Attachment>, specs: &[Value]) -> State<A> {
    let pod = |(name, at): (&&str, &Attachment)| {
        json!({"metadata": {"name": name, "namespace": if *name == "c" { "other" } else { "n" }, "labels": {"app": name}},
            "spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80}]}]},
            "status": {"phase": "Running", "podIP": at.address.to_string(), "podIPs": [{"ip": A::of(at).to_string()}]}})
    };
    let policy = |(number, spec): (usize, &Value)| json!({"metadata": {"name": number.to_string(), "namespace": "n"}, "spec": spec});
    let namespace = |name: &str| json!({"metadata": {"name": name, "labels": {"team": name}}});
    let objects = Objects {
        policies: objects(&specs.iter().enumerate().map(policy).collect::<Vec<_>>()),
        namespaces: objects(&[namespace("n"), namespace("other"), namespace("kube-system")]),
        pods: objects(&pods.iter().map(pod).collect::<Vec<_>>()),
        services: objects(&[json!({"metadata": {"name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns"}}})]),
        slices: objects(&[json!({"metadata": {"name": "kube-dns", "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [A::GATEWAY.to_string()]}],
            "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]})]),
    };
    State { policies: plan(&objects), ..State::default() }
}

impl Proxy {
    /// Tells it what to do, and waits until the kernel has it.
    async fn enforce<A: Side>(&self, state: &State<A>) {
        self.states.send(Some(A::states(state.clone()))).unwrap();
        let policies = state.policies.clone().unwrap_or_default();
        until("the policies", || {
            let rules = run("nft", &format!("list ruleset {}", A::TABLE));
            let listed = |kind: &str, name: &str| listed_in(A::TABLE, kind, name);
            rules.contains("chain services")
                && rules.contains("chain policy-forward") == state.policies.is_some()
                && policies.rule_sets.keys().all(|name| rules.contains(&format!("chain {name} ")))
                && listed("map", "egress") == policies.pods.len()
                && policies.selected.iter().all(|(name, pods)| listed("set", name) == pods.len())
        })
        .await;
        until_local(state).await;
    }
}

/// One attempt: from where (`None`: the host), the address that it comes from, to where.
struct Attempt<A: Side> {
    from: Option<PathBuf>,
    source: A,
    from_node: bool,
    protocol: Protocol,
    to: Endpoint<A>,
}

/// Makes all attempts at once and compares them with what the policies say.
async fn compare<A: Side>(what: &str, state: &State<A>, attempts: Vec<Attempt<A>>) {
    let mut running = Vec::new();
    for Attempt { from, source, from_node, protocol, to } in attempts {
        let expected = state
            .policies
            .as_ref()
            .is_none_or(|policies| policies.allows(source, from_node, protocol as u8, to));
        let patience = if expected { TIMEOUT } else { PATIENCE };
        let address = SocketAddr::new(to.address.into(), to.port);
        let work = move || inside(from.as_deref(), || reaches(protocol, address, patience));
        let name = format!("{what}: {protocol:?} {source} -> {address}");
        running.push((name, expected, tokio::task::spawn_blocking(work)));
    }
    let mut seen = BTreeSet::new();
    for (name, expected, attempt) in running {
        let outcome = attempt.await.unwrap();
        assert_eq!(outcome.is_ok(), expected, "{name}: {outcome:?}\n{}", run("nft", "list ruleset"));
        // Nothing tells a client that it was denied.
        let silent = [ErrorKind::TimedOut, ErrorKind::WouldBlock];
        assert!(outcome.is_ok() || silent.contains(&outcome.unwrap_err()), "{name}");
        seen.insert(expected);
    }
    assert!(!seen.is_empty());
}

/// Whether a server answers.
fn reaches(protocol: Protocol, to: SocketAddr, patience: Duration) -> Result<(), ErrorKind> {
    let attempt = || -> std::io::Result<()> {
        if protocol == Protocol::Tcp {
            return TcpStream::connect_timeout(&to, patience).map(drop);
        }
        let socket = UdpSocket::bind(any_like(to))?;
        socket.set_read_timeout(Some(patience))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        socket.recv(&mut [0; 64]).map(drop)
    };
    attempt().map_err(|error| error.kind())
}

/// Everybody to everybody, by both protocols: pods, the host and a stranger to each pod, each pod to the host, to DNS
/// and to the stranger.
fn everything<A: Side>(pods: &BTreeMap<&str, Attachment>, outside: &Path) -> Vec<Attempt<A>> {
    let (stranger, gateway) = (A::STRANGER, A::GATEWAY);
    let mut attempts = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut attempt = |from: Option<&Path>, source, from_node, address, port| {
            let (from, to) = (from.map(Path::to_owned), Endpoint { address, port });
            attempts.push(Attempt { from, source, from_node, protocol, to });
        };
        for to in pods.values() {
            for port in [80, 81] {
                for from in pods.values().filter(|from| *from != to) {
                    attempt(Some(&from.namespace), A::of(from), false, A::of(to), port);
                }
                attempt(Some(outside), stranger, false, A::of(to), port);
                attempt(None, gateway, true, A::of(to), port);
            }
        }
        for from in pods.values() {
            for (address, port) in [(gateway, 53), (gateway, 54), (stranger, 7)] {
                attempt(Some(&from.namespace), A::of(from), false, address, port);
            }
        }
    }
    attempts
}

/// Pods that serve on ports 80 and 81, a host that serves on ports 53 and 54, and an uplink whose other end knows the
/// way to the pods.
async fn stage(host: &Host) -> (PodNetwork, BTreeMap<&'static str, Attachment>, PathBuf) {
    let outside = add_uplink(host.directory.path());
    run_in_path(&outside, || ip("route add 10.244.0.0/16 via 192.0.2.1")).unwrap();
    let network = PodNetwork::open(host.network()).await.unwrap();
    let pods = three_pods(&network).await;
    for (name, pod) in &pods {
        serve(&pod.namespace, name, 81);
    }
    for port in [53, 54] {
        serve_here("host", port);
    }
    (network, pods, outside)
}

/// A server on the host itself.
fn serve_here(name: &str, port: u16) {
    serve(Path::new("/proc/thread-self/ns/net"), name, port);
}

#[test]
fn the_kernel_lets_through_what_policies_allow_and_nothing_else() {
    on_a_host(async |host: Host| {
        let (_network, pods, outside) = stage(&host).await;
        let proxy = Proxy::start(&host);
        kernel_agrees(proxy, Table::new(host.proxy()).unwrap(), &pods, &outside).await;
    });
}

/// Has a proxy enforce all kinds of policies on these pods, and then a table alone.
pub(crate) async fn kernel_agrees<A: Side>(
    proxy: Proxy,
    mut table: Table<A>,
    pods: &BTreeMap<&'static str, Attachment>,
    outside: &Path,
) {
    let a = json!({"matchLabels": {"app": "a"}});
    let b = json!({"matchLabels": {"app": "b"}});
    let other = json!({"matchLabels": {"team": "other"}});
    let dns = json!({"namespaceSelector": {"matchLabels": {"team": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}});
    let cases = [
        ("no policy", vec![]),
        ("deny ingress", vec![json!({"podSelector": {}, "policyTypes": ["Ingress"]})]),
        ("deny egress", vec![json!({"podSelector": {}, "policyTypes": ["Egress"]})]),
        ("deny all", vec![json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})]),
        (
            "allow all",
            vec![
                json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]}),
            ],
        ),
        ("from a pod", vec![json!({"podSelector": a, "ingress": [{"from": [{"podSelector": b}]}]})]),
        (
            "from a namespace",
            vec![json!({"podSelector": a, "ingress": [{"from": [{"namespaceSelector": other}]}]})],
        ),
        ("a port", vec![json!({"podSelector": a, "ingress": [{"ports": [{"port": 80}]}]})]),
        (
            "a range",
            vec![
                json!({"podSelector": a, "ingress": [{"ports": [{"port": 81, "endPort": 90}, {"protocol": "UDP", "port": 1, "endPort": 80}]}]}),
            ],
        ),
        ("a named port", vec![json!({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]})]),
        ("a protocol", vec![json!({"podSelector": {}, "ingress": [{"ports": [{"protocol": "UDP"}]}]})]),
        (
            "a block",
            vec![
                json!({"podSelector": a, "ingress": [{"from": [{"ipBlock": {"cidr": A::block("192.0.2.0/24")}}]}]}),
            ],
        ),
        (
            "a block but for one",
            vec![
                json!({"podSelector": a, "ingress": [{"from": [{"ipBlock": {"cidr": A::block("0.0.0.0/0"), "except": [A::block("192.0.2.0/30"), A::block("255.0.0.0/8")]}}]}]}),
            ],
        ),
        (
            "a block of the other family",
            vec![json!({"podSelector": a, "ingress": [{"from": [{"ipBlock": {"cidr": A::block("::/0")}}]}]})],
        ),
        (
            "DNS only",
            vec![
                json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [dns], "ports": [{"port": 53, "protocol": "UDP"}]}]}),
            ],
        ),
        (
            "out to a pod",
            vec![
                json!({"podSelector": a, "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": b}], "ports": [{"port": "web"}]}]}),
            ],
        ),
        (
            "out to a block",
            vec![
                json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [{"ipBlock": {"cidr": A::block("192.0.2.0/24")}}]}]}),
            ],
        ),
        (
            "both ends",
            vec![
                json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
                json!({"podSelector": a, "ingress": [{"from": [{"podSelector": b}, {"namespaceSelector": other}]}]}),
                json!({"podSelector": b, "policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": a}], "ports": [{"port": 80}]}]}),
            ],
        ),
    ];
    for (what, specs) in &cases {
        let state = state::<A>(pods, specs);
        proxy.enforce(&state).await;
        compare(what, &state, everything(pods, outside)).await;
    }
    proxy.stop().await;
    // By then the host of the next test may be another one.
    for (_, specs) in cases.iter().chain(cases.iter().rev()).chain(cases.iter().step_by(3)) {
        table.apply(state::<A>(pods, specs)).unwrap();
    }
    let last = state::<A>(pods, &cases[cases.len() - 3].1);
    table.apply(last.clone()).unwrap();
    // The kernel lists elements in any order, several in a line.
    let parts = || sorted(&run("nft", &format!("list ruleset {}", A::TABLE)).replace(", ", "\n"));
    let by_differences = parts();
    table.invalidate();
    table.apply(last).unwrap();
    assert_eq!(by_differences, parts());
    table.apply(state::<A>(pods, &[])).unwrap();
    let without = run("nft", &format!("list ruleset {}", A::TABLE));
    for part in ["policy-", "egress", "ingress", "from-pod", "pods-", "blocks-"] {
        assert!(!without.contains(part), "no policy costs nothing, but there is {part}:\n{without}");
    }
}

#[test]
fn a_pod_that_is_not_known_is_closed() {
    on_a_host(async |host: Host| {
        let (network, pods, outside) = stage(&host).await;
        let proxy = Proxy::start(&host);
        // Nothing is known at all yet: only the node gets through.
        until("the closed table", || run("nft", "list ruleset").contains("chain policy-forward")).await;
        compare::<Ipv4Addr>("closed", &State::closed(), closed(&pods, &outside)).await;
        let open = state::<Ipv4Addr>(&pods, &[json!({"podSelector": {"matchLabels": {"app": "nobody"}}})]);
        proxy.enforce(&open).await;
        compare("known and not isolated", &open, everything(&pods, &outside)).await;
        let late = network.attach("late").await.unwrap();
        serve(&late.namespace, "late", 80);
        let late = BTreeMap::from([("late", late)]);
        compare::<Ipv4Addr>("not known yet", &State::closed(), closed(&late, &outside)).await;
        // Nobody gets another pod's rights by its address.
        let (a, b) = (&pods["a"], &pods["b"]);
        let only_b = state::<Ipv4Addr>(
            &pods,
            &[json!({"podSelector": {"matchLabels": {"app": "a"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]})],
        );
        proxy.enforce(&only_b).await;
        let heard = run_in_path(&a.namespace, || UdpSocket::bind("0.0.0.0:9000").unwrap()).unwrap();
        heard.set_read_timeout(Some(PATIENCE)).unwrap();
        let say = |from: &Attachment, source: Ipv4Addr| {
            let to = SocketAddr::from((a.address, 9000));
            let send = || UdpSocket::bind((source, 0)).and_then(|socket| socket.send_to(b"?", to));
            run_in_path(&from.namespace, send).unwrap().unwrap();
        };
        run_in_path(&pods["c"].namespace, || ip(&format!("addr add {}/32 dev lo", b.address))).unwrap();
        say(&pods["c"], b.address);
        let heard = Arc::new(heard);
        let listen = || {
            let heard = heard.clone();
            apart(move || heard.recv(&mut [0; 8]).is_ok())
        };
        assert!(!listen().await, "sent in another's name");
        let end = Instant::now() + TIMEOUT;
        say(b, b.address);
        while !listen().await {
            assert!(Instant::now() < end, "not heard in its own name");
            say(b, b.address);
        }
        proxy.stop().await;
    });
}

/// Attempts that fail where nobody is known, and those of the node, which do not. (The evaluation knows only what
/// known pods may do.)
fn closed(pods: &BTreeMap<&str, Attachment>, outside: &Path) -> Vec<Attempt<Ipv4Addr>> {
    let shut = everything::<Ipv4Addr>(pods, outside).into_iter().filter(|attempt| attempt.from_node);
    let open = shut.filter(|attempt| attempt.to.port == 80);
    for attempt in everything::<Ipv4Addr>(pods, outside).into_iter().filter(|attempt| !attempt.from_node) {
        if attempt.protocol == Protocol::Tcp && attempt.to.port != 81 {
            let address = SocketAddr::from((attempt.to.address, attempt.to.port));
            let reached = inside(attempt.from.as_deref(), || reaches(Protocol::Tcp, address, PATIENCE));
            assert!(reached.is_err(), "{} -> {address}", attempt.source);
        }
    }
    open.collect()
}

#[test]
fn policies_hold_through_services() {
    on_a_host(async |host: Host| {
        let (_network, pods, outside) = stage(&host).await;
        let (a, b, c) = (&pods["a"], &pods["b"], &pods["c"]);
        let proxy = Proxy::start(&host);
        let web = frontend(Some([10, 96, 0, 7]), Protocol::Tcp, 8080);
        let node = frontend(None, Protocol::Tcp, 30080);
        let with_services = |specs: &[Value]| {
            let mut state: State = state(&pods, specs);
            state.frontends.extend([web, node].map(|frontend| (frontend, backends([a]))));
            state.local.insert((Protocol::Tcp, 30080), backends([a]));
            state
        };
        let to_a = json!({"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}], "ports": [{"port": 80}]}]});
        let from_b = json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "a"}}}], "ports": [{"port": 80}]}]});
        proxy.enforce(&with_services(&[to_a.clone(), from_b.clone()])).await;
        let reach = async |from: Option<&Path>, to: &str, allowed: bool| {
            let (from, to) = (from.map(Path::to_owned), to.parse().unwrap());
            let patience = if allowed { TIMEOUT } else { PATIENCE };
            let reached =
                apart(move || inside(from.as_deref(), || reaches(Protocol::Tcp, to, patience))).await;
            assert_eq!(reached.is_ok(), allowed, "{to}: {reached:?}");
        };
        let through = ["10.96.0.7:8080", "192.0.2.1:30080", "10.244.0.1:30080"];
        for to in through {
            reach(Some(&b.namespace), to, true).await;
            reach(Some(&c.namespace), to, false).await;
            reach(Some(&a.namespace), to, true).await;
            reach(None, to, true).await;
        }
        reach(None, "127.0.0.1:30080", true).await;
        reach(Some(&outside), "192.0.2.1:30080", false).await;
        let stranger =
            json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.2/32"}}]}]});
        proxy.enforce(&with_services(&[to_a, from_b, stranger])).await;
        reach(Some(&outside), "192.0.2.1:30080", true).await;
        for to in through {
            reach(Some(&c.namespace), to, false).await;
        }
        proxy.stop().await;
    });
}

/// A connection that is talked over.
struct Talk {
    near: TcpStream,
    far: TcpStream,
}

impl Talk {
    /// From a pod (or the host) to a port of a pod.
    fn begin(from: Option<&Attachment>, to: &Attachment, port: u16) -> Talk {
        let listener =
            run_in_path(&to.namespace, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()).unwrap();
        let address = SocketAddr::from((to.address, port));
        let connect = || TcpStream::connect_timeout(&address, TIMEOUT).unwrap();
        let near = inside(from.map(|pod| pod.namespace.as_path()), connect);
        let (far, _) = listener.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(TIMEOUT)).unwrap();
        }
        Talk { near, far }
    }

    /// A word of one end reaches the other.
    fn goes_on(&mut self) -> std::io::Result<()> {
        let (near, far) = (&mut self.near, &mut self.far);
        far.write_all(b"?")?;
        near.read_exact(&mut [0])?;
        near.write_all(b"!")?;
        far.read_exact(&mut [0])
    }
}

#[test]
fn a_change_ends_the_connections_that_it_denies_and_no_other() {
    on_a_host(async |host: Host| {
        let (_network, pods, _outside) = stage(&host).await;
        let (a, b, c) = (&pods["a"], &pods["b"], &pods["c"]);
        let proxy = Proxy::start(&host);
        proxy.enforce(&state::<Ipv4Addr>(&pods, &[])).await;
        let mut allowed = Talk::begin(Some(b), a, 1001);
        let mut of_host = Talk::begin(None, a, 1002);
        // The one of them that speaks first decides which end the kernel hears of.
        let mut denied = [Talk::begin(Some(c), a, 1003), Talk::begin(Some(c), a, 1004)];
        let datagrams = run_in_path(&c.namespace, || UdpSocket::bind("0.0.0.0:5555").unwrap()).unwrap();
        datagrams.connect((a.address, 80)).unwrap();
        datagrams.set_read_timeout(Some(PATIENCE)).unwrap();
        let datagrams = Arc::new(datagrams);
        let ask = || {
            let datagrams = datagrams.clone();
            apart(move || datagrams.send(b"?").and_then(|_| datagrams.recv(&mut [0; 64])).is_ok())
        };
        let until_answered = async || {
            let end = Instant::now() + TIMEOUT;
            while !ask().await {
                assert!(Instant::now() < end, "no datagram is answered");
            }
        };
        until_answered().await;
        let from = |app: &str| json!({"podSelector": {"matchLabels": {"app": "a"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]});
        for specs in [vec![from("b")], vec![from("b"), from("x")], vec![from("x"), from("b")]] {
            proxy.enforce(&state::<Ipv4Addr>(&pods, &specs)).await;
            allowed.goes_on().unwrap();
            of_host.goes_on().unwrap();
        }
        let end = Instant::now() + TIMEOUT;
        while ask().await {
            assert!(Instant::now() < end, "datagrams still get through");
        }
        let ended = |error: std::io::Error| {
            assert!([ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&error.kind()), "{error}");
        };
        let client_first = &mut denied[0];
        client_first.near.write_all(b"!").unwrap();
        ended(client_first.near.read_exact(&mut [0]).unwrap_err());
        let server_first = &mut denied[1];
        server_first.far.write_all(b"?").unwrap();
        ended(server_first.far.read_exact(&mut [0]).unwrap_err());
        // What is allowed again begins anew.
        proxy.enforce(&state::<Ipv4Addr>(&pods, &[])).await;
        until_answered().await;
        Talk::begin(Some(c), a, 1005).goes_on().unwrap();
        allowed.goes_on().unwrap();
        of_host.goes_on().unwrap();
        proxy.stop().await;
    });
}
