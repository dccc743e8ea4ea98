//! A pod network and a service proxy of both families: the same as of IPv4 alone, side by side with it.

use minik::network::Ipv6;
use minik::proxy::Configs;

use super::policies::{Side, kernel_agrees};
use super::*;

const PODS: &str = "fd00:10:244::/64";
const SERVICES: &str = "fd00:10:96::/112";
const FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// A setting of IPv6 for a link of the host.
fn setting(link: &str, name: &str) -> String {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/{name}");
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

fn set(link: &str, name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/{name}"), value).unwrap();
}

/// What a router says of itself, once, on the link that is named (RFC 4861): it leads everywhere for half an hour.
const ROUTER: &str = r#"
import socket, struct, sys
link = socket.if_nametoindex(sys.argv[1])
router = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
router.bind(("fe80::2", 0, 0, link))
router.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0, 0, link))
"#;

/// Has the outside be a router that says so.
fn advertise(outside: &Path, link: &str) {
    run_in_path(outside, || {
        let said = Command::new("python3").args(["-c", ROUTER, link]).output().unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    })
    .unwrap();
}

fn network(host: &Host) -> Config {
    Config { pods6: Some(PODS.parse().unwrap()), ..host.network() }
}

fn proxy(host: &Host) -> Configs {
    let v6 = minik::proxy::Config {
        table: "minik-test".into(),
        pods: PODS.parse().unwrap(),
        services: SERVICES.parse().unwrap(),
        gateway: Ipv6Addr::GATEWAY,
        link_prefix: "mkt".into(),
        links: host.network().pods,
    };
    Configs { v4: host.proxy(), v6: Some(v6) }
}

/// The uplink of [`add_uplink`] with addresses of IPv6 as well.
fn add_uplink6(directory: &Path) -> PathBuf {
    let outside = add_uplink(directory);
    for (setting, value) in [("addr_gen_mode", "1"), ("disable_ipv6", "0")] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/up0/{setting}"), value).unwrap();
    }
    ip("addr add 2001:db8::1/64 dev up0 nodad");
    ip("-6 route add default via 2001:db8::2");
    run_in_path(&outside, || ip("addr add 2001:db8::2/64 dev up1 nodad")).unwrap();
    serve_at(&outside, "outside", (Ipv6Addr::STRANGER, 7).into());
    outside
}

/// Three pods that serve on port 86 of any address.
async fn three_pods6(network: &PodNetwork) -> BTreeMap<&'static str, Attachment> {
    let mut pods = BTreeMap::new();
    for name in ["a", "b", "c"] {
        let pod = network.attach(name).await.unwrap();
        serve_at(&pod.namespace, name, (Ipv6Addr::UNSPECIFIED, 86).into());
        pods.insert(name, pod);
    }
    pods
}

fn endpoints(pods: &[&Attachment]) -> Backends<Ipv6Addr> {
    let mut endpoints: Vec<_> =
        pods.iter().map(|pod| Endpoint { address: Ipv6Addr::of(pod), port: 86 }).collect();
    endpoints.sort();
    Backends { endpoints, ..Backends::default() }
}

fn frontend6(address: Option<&str>, protocol: Protocol, port: u16) -> Frontend<Ipv6Addr> {
    Frontend { address: address.map(|text| text.parse().unwrap()), protocol, port }
}

#[test]
fn pods_have_addresses_of_both_families_at_once() {
    on_a_host(async |host: Host| {
        std::fs::write(FORWARDING, "0").unwrap();
        // What is for links that others make is none of the pods'.
        set("default", "disable_ipv6", "1");
        let before = host.inventory();
        let network = PodNetwork::open(self::network(&host)).await.unwrap();
        let pods = three_pods6(&network).await;
        let (a, b) = (&pods["a"], &pods["b"]);
        assert_eq!(std::fs::read_to_string(FORWARDING).unwrap().trim(), "1");
        for (name, to) in &pods {
            for from in pods.values() {
                let answer = ask(Some(&from.namespace), &format!("[{}]:86", Ipv6Addr::of(to))).unwrap();
                assert_eq!(answer, format!("{name} {}", Ipv6Addr::of(from)), "the source address is kept");
                assert!(ask(Some(&from.namespace), &format!("{}:86", to.address)).is_ok(), "IPv4 too");
            }
            let answer = ask(None, &format!("[{}]:86", Ipv6Addr::of(to))).unwrap();
            assert_eq!(answer, format!("{name} {}", Ipv6Addr::GATEWAY));
        }
        serve_host("[fd00:10:244::1]:7000");
        assert_eq!(ask(Some(&a.namespace), "[fd00:10:244::1]:7000").unwrap(), "host");
        // Nothing but what was given: no address of the link's own, and nothing that is still asked for.
        let shown = run_in_path(&a.namespace, || run("ip", "-6 -br addr show eth0")).unwrap();
        let addresses: Vec<&str> = shown.split_whitespace().skip(2).collect();
        assert_eq!(addresses, [format!("{}/128", Ipv6Addr::of(a))]);
        let host_end = format!("-6 -br addr show mkt{:08x}", a.address.to_bits());
        assert_eq!(run("ip", &host_end), "");
        let late = network.attach("late").await.unwrap();
        let asked_for = run_in_path(&late.namespace, || run("ip", "-6 addr show tentative")).unwrap();
        assert_eq!(asked_for, "", "nobody waits");
        serve_at(&late.namespace, "late", (Ipv6Addr::UNSPECIFIED, 86).into());
        assert!(ask(Some(&b.namespace), &format!("[{}]:86", Ipv6Addr::of(&late))).is_ok());
        // Links that containers make are as on any host.
        let defaults = || ["addr_gen_mode", "accept_ra", "disable_ipv6"].map(|name| setting("default", name));
        assert_eq!(run_in_path(&late.namespace, defaults).unwrap(), ["0", "1", "0"]);

        network.close().await;
        let network = PodNetwork::open(self::network(&host)).await.unwrap();
        assert_eq!(network.attach("b").await.unwrap(), *b);
        assert!(ask(None, &format!("[{}]:86", Ipv6Addr::of(b))).is_ok());
        network.close().await;
        // A pod that lived while there was no IPv6 is not said to have any.
        let network = PodNetwork::open(host.network()).await.unwrap();
        assert_eq!(network.attach("b").await.unwrap().address6, None);
        let plain = network.attach("plain").await.unwrap();
        network.close().await;
        let network = PodNetwork::open(self::network(&host)).await.unwrap();
        assert_eq!(network.attach("plain").await.unwrap(), plain);
        assert_eq!(network.attach("b").await.unwrap().address6, None);
        assert!(ask(None, &format!("{}:86", b.address)).is_ok());
        let new = network.attach("new").await.unwrap();
        assert!(new.address6.is_some());
        network.close().await;
        PodNetwork::destroy(&self::network(&host)).await.unwrap();
        assert_eq!(host.inventory(), before);
    });
}

#[test]
fn the_host_still_learns_of_its_router() {
    on_a_host(async |host: Host| {
        let outside = add_uplink6(host.directory.path());
        std::fs::write(FORWARDING, "0").unwrap();
        let accepts = || setting("up0", "accept_ra");
        set("up0", "accept_ra", "1");
        // As the kernel writes down what a router told it.
        ip("-6 route del default");
        ip("-6 route add default via 2001:db8::2 dev up0 proto ra");
        PodNetwork::open(self::network(&host)).await.unwrap().close().await;
        assert_eq!(accepts(), "2");
        assert!(run("ip", "-6 route show default").contains("proto ra"));
        assert_eq!(ask(None, "[2001:db8::2]:7").unwrap(), "outside 2001:db8::1");
        // Who knows IPv4 alone takes all of the note for what its own switch was.
        let note = std::fs::read_to_string("/sys/class/net/mkt0/ifalias").unwrap_or_default();
        let note = if note.is_empty() { run("ip", "link show mkt0") } else { note };
        let was = note.lines().find_map(|line| line.split_once("ip_forward was ")).unwrap().1;
        assert!(was.contains("ipv6 forwarding was 0 and learning on up0"), "{was}");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", was).unwrap();
        PodNetwork::destroy(&self::network(&host)).await.unwrap();
        assert_eq!(accepts(), "1");
        assert_eq!(std::fs::read_to_string(FORWARDING).unwrap().trim(), "0");
        drop(outside);
    });
}

#[test]
fn routers_are_heard_that_had_said_nothing_before() {
    on_a_host(async |host: Host| {
        let outside = add_uplink6(host.directory.path());
        std::fs::write(FORWARDING, "0").unwrap();
        set("up0", "accept_ra", "1");
        ip("-6 route del default");
        run_in_path(&outside, || ip("addr add fe80::2/64 dev up1 nodad")).unwrap();
        let network = PodNetwork::open(self::network(&host)).await.unwrap();
        assert_eq!(setting("up0", "accept_ra"), "2");
        advertise(&outside, "up1");
        until("the way out", || run("ip", "-6 route show default").contains("via fe80::2 dev up0 proto ra"))
            .await;
        assert_eq!(ask(None, "[2001:db8::2]:7").unwrap(), "outside 2001:db8::1");
        // A second card comes, and everything leaves by it.
        ip(&format!("link add up2 type veth peer name up3 netns {}", outside.display()));
        for (name, value) in [("disable_ipv6", "0"), ("accept_ra", "1")] {
            set("up2", name, value);
        }
        ip("addr add 198.51.100.1/24 dev up2");
        ip("link set up2 up");
        ip("route add default via 198.51.100.2 dev up2 metric 10");
        until("the second link", || setting("up2", "accept_ra") == "2").await;
        network.close().await;
        PodNetwork::destroy(&self::network(&host)).await.unwrap();
        assert_eq!(["up0", "up2"].map(|link| setting(link, "accept_ra")), ["1", "1"]);
        assert_eq!(setting("all", "forwarding"), "0");
    });
}

#[test]
fn a_router_listens_to_no_other() {
    on_a_host(async |host: Host| {
        add_uplink6(host.directory.path());
        std::fs::write(FORWARDING, "1").unwrap();
        set("up0", "accept_ra", "1");
        PodNetwork::open(self::network(&host)).await.unwrap().close().await;
        assert_eq!(setting("up0", "accept_ra"), "1");
        PodNetwork::destroy(&self::network(&host)).await.unwrap();
        assert_eq!(setting("all", "forwarding"), "1");
    });
}

#[test]
fn two_clusters_put_back_what_either_changed() {
    on_a_host(async |host: Host| {
        add_uplink6(host.directory.path());
        std::fs::write(FORWARDING, "0").unwrap();
        set("up0", "accept_ra", "0");
        let one = self::network(&host);
        let other = Config {
            prefix: "mku".into(),
            pods: "10.245.0.0/16".parse().unwrap(),
            pods6: Some("fd00:10:245::/64".parse().unwrap()),
            namespaces: host.directory.path().join("other"),
            state: host.directory.path().join("other-state"),
        };
        let first = PodNetwork::open(one.clone()).await.unwrap();
        let second = PodNetwork::open(other.clone()).await.unwrap();
        set("up0", "accept_ra", "1");
        // Only now the host is to listen there, and whoever is first sees to it.
        ip("route replace default via 192.0.2.2 metric 7");
        until("the link", || setting("up0", "accept_ra") == "2").await;
        for gateway in ["mkt0", "mku0"] {
            until("both notes", || run("ip", &format!("link show {gateway}")).contains("learning on up0"))
                .await;
        }
        for (network, config) in [(first, one), (second, other)] {
            assert_eq!(setting("up0", "accept_ra"), "2");
            network.close().await;
            PodNetwork::destroy(&config).await.unwrap();
        }
        assert_eq!(setting("up0", "accept_ra"), "1");
        assert_eq!(setting("all", "forwarding"), "0");
    });
}

#[test]
fn addresses_that_are_still_looked_for_are_waited_for() {
    on_a_host(async |host: Host| {
        let _outside = add_uplink6(host.directory.path());
        assert_eq!(minik::network::ipv6(|_| false).await.unwrap(), Ipv6::Global);
        ip("addr del 2001:db8::1/64 dev up0");
        assert_eq!(minik::network::ipv6(|_| false).await.unwrap(), Ipv6::Local);
        ip("addr add 2001:db8::9/64 dev up0");
        assert!(run("ip", "-6 addr show dev up0 tentative").contains("2001:db8::9"));
        assert_eq!(minik::network::ipv6(|_| false).await.unwrap(), Ipv6::Global);
        ip("link set up0 mtu 1279");
        assert!(matches!(minik::network::ipv6(|_| false).await.unwrap(), Ipv6::Absent(_)));
    });
}

#[test]
fn services_of_ipv6_are_reached_from_everywhere() {
    on_a_host(async |host: Host| {
        let outside = add_uplink6(host.directory.path());
        let before = host.inventory();
        let network = PodNetwork::open(self::network(&host)).await.unwrap();
        let pods = three_pods6(&network).await;
        let (a, b, c) = (&pods["a"], &pods["b"], &pods["c"]);
        let proxy = Proxy::start_with(self::proxy(&host));
        let mut state: State<Ipv6Addr> = State::default();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut add = |address, port, backends| {
                state.frontends.insert(frontend6(address, protocol, port), backends);
            };
            add(Some("fd00:10:96::8"), 8080, endpoints(&[a]));
            add(None, 30080, endpoints(&[a]));
            add(Some("fd00:10:96::9"), 80, Backends::default());
            add(None, 30090, Backends::default());
            let sticky = Backends { sticky: Some(100), ..endpoints(&[a, b, c]) };
            add(Some("fd00:10:96::a"), 80, sticky);
            let sources = Some(vec!["2001:db8:ffff::/48".parse().unwrap()]);
            add(Some("2001:db8:1::1"), 80, Backends { sources, ..endpoints(&[a]) });
            let outer = Endpoint { address: Ipv6Addr::STRANGER, port: 7 };
            add(Some("fd00:10:96::b"), 80, Backends { endpoints: vec![outer], ..Backends::default() });
            state.local.insert((protocol, 30080), endpoints(&[a]));
        }
        proxy.states.send(Some(Ipv6Addr::states(state.clone()))).unwrap();
        until("the rules", || listed_in("ip6", "map", "services") == 10).await;
        until_local(&state).await;
        let node = Ipv6Addr::GATEWAY;
        for (from, to, answer) in [
            (Some(b), "[fd00:10:96::8]:8080", format!("a {}", Ipv6Addr::of(b))),
            (Some(a), "[fd00:10:96::8]:8080", format!("a {node}")),
            (None, "[fd00:10:96::8]:8080", format!("a {node}")),
            (None, "[2001:db8::1]:30080", "a 2001:db8::1".into()),
            (None, "[fd00:10:244::1]:30080", format!("a {node}")),
            (None, "[::1]:30080", format!("a {node}")),
            (Some(b), "[2001:db8::1]:30080", format!("a {}", Ipv6Addr::of(b))),
            (Some(a), "[2001:db8::1]:30080", format!("a {node}")),
            (Some(b), "[2001:db8:1::1]:80", format!("a {}", Ipv6Addr::of(b))),
            (Some(b), "[2001:db8::2]:7", "outside 2001:db8::1".into()),
            (Some(b), "[fd00:10:96::b]:80", "outside 2001:db8::1".into()),
            (None, "[fd00:10:96::b]:80", "outside 2001:db8::1".into()),
        ] {
            assert_eq!(ask_from(from, to).await.as_ref(), Ok(&answer), "TCP to {to}");
            assert_eq!(ask_udp_from(from, to).await.as_ref(), Ok(&answer), "UDP to {to}");
        }
        let path = outside.clone();
        let from_outside = apart(move || ask(Some(&path), "[2001:db8::1]:30080")).await;
        assert_eq!(from_outside.unwrap(), "a 2001:db8::2", "the source address of strangers is kept");
        let first = ask_from(Some(b), "[fd00:10:96::a]:80").await.unwrap();
        for _ in 0..8 {
            assert_eq!(ask_from(Some(b), "[fd00:10:96::a]:80").await.unwrap(), first, "clients stay");
        }
        for from in [None, Some(b)] {
            for to in ["[fd00:10:96::9]:80", "[fd00:10:96::707]:1234", "[2001:db8::1]:30090"] {
                assert_eq!(ask_from(from, to).await, Err(ErrorKind::ConnectionRefused), "TCP to {to}");
                // A sender on the host itself is told by its own call.
                let refused = ask_udp_from(from, to).await.unwrap_err();
                let expected = [ErrorKind::ConnectionRefused, ErrorKind::PermissionDenied];
                assert!(expected.contains(&refused), "UDP to {to}: {refused}");
            }
        }
        // Whoever takes either table away has it made anew.
        for family in ["ip6", "ip"] {
            run("nft", &format!("delete table {family} minik-test"));
            until("the healed rules", || {
                listed_in("ip6", "map", "services") == 10
                    && run("nft", "list tables").contains("ip minik-test")
            })
            .await;
        }
        // A datagram's client that goes on talking notices that its endpoint went.
        let talk = run_in_path(&b.namespace, || UdpSocket::bind("[::]:5555").unwrap()).unwrap();
        talk.connect("[fd00:10:96::8]:8080").unwrap();
        talk.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // An answer that is on its way while the endpoint changes is lost, as datagrams are: asked again.
        let hears = async |whom: &str| {
            until(whom, || {
                talk.send(b"?").unwrap();
                let mut buffer = [0; 64];
                talk.recv(&mut buffer).is_ok_and(|length| buffer[..length].starts_with(whom.as_bytes()))
            })
            .await;
        };
        hears("a ").await;
        state.frontends.insert(frontend6(Some("fd00:10:96::8"), Protocol::Udp, 8080), endpoints(&[c]));
        proxy.states.send(Some(Ipv6Addr::states(state.clone()))).unwrap();
        hears("c ").await;
        proxy.stop().await;
        minik::proxy::Proxy::destroy(self::proxy(&host)).await.unwrap();
        network.close().await;
        PodNetwork::destroy(&self::network(&host)).await.unwrap();
        let stays = |inventory: &str| sorted(&without_neighbours(inventory));
        assert_eq!(stays(&host.inventory()), stays(&before));
    });
}

#[test]
fn policies_of_ipv6_let_through_what_they_allow_and_nothing_else() {
    on_a_host(async |host: Host| {
        let outside = add_uplink6(host.directory.path());
        run_in_path(&outside, || ip("route add fd00:10:244::/64 via 2001:db8::1")).unwrap();
        let network = PodNetwork::open(self::network(&host)).await.unwrap();
        let mut pods = BTreeMap::new();
        for name in ["a", "b", "c"] {
            let pod = network.attach(name).await.unwrap();
            for port in [80, 81] {
                serve_at(&pod.namespace, name, (Ipv6Addr::UNSPECIFIED, port).into());
            }
            pods.insert(name, pod);
        }
        for port in [53, 54] {
            serve_at(Path::new("/proc/thread-self/ns/net"), "host", (Ipv6Addr::UNSPECIFIED, port).into());
        }
        let configs = self::proxy(&host);
        let table = Table::new(configs.v6.clone().unwrap()).unwrap();
        kernel_agrees(Proxy::start_with(configs), table, &pods, &outside).await;
    });
}
