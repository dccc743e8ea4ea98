//! Ranges of services' addresses beside the cluster's own.

use super::*;

#[test]
fn addresses_of_further_ranges_are_led_and_refused_like_those_of_the_first() {
    on_a_host(async |host: Host| {
        let network = PodNetwork::open(host.network()).await.unwrap();
        let pods = three_pods(&network).await;
        let (a, b) = (&pods["a"], &pods["b"]);
        // Nothing else leads anywhere from here, but for what the host knows better itself.
        ip("route add 10.9.0.0/24 dev lo");
        let proxy = Proxy::start(&host);
        let mut state = State::default();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            state.frontends.insert(frontend(Some([10, 7, 0, 8]), protocol, 80), backends([a]));
        }
        let range = |text: &str| text.parse::<minik::network::Cidr>().unwrap();
        // The last of them has pods in it, who come first.
        state.ranges = ["10.7.0.0/24", "10.8.0.0/28", "10.9.0.0/24", "10.240.0.0/12"].map(range).into();
        proxy.set(&state, 2).await;
        for (from, answer) in [(None, "a 10.244.0.1".to_owned()), (Some(b), format!("a {}", b.address))] {
            assert_eq!(ask_from(from, "10.7.0.8:80").await.as_ref(), Ok(&answer));
            assert_eq!(ask_udp_from(from, "10.7.0.8:80").await.as_ref(), Ok(&answer));
            for to in ["10.7.0.9:80", "10.8.0.3:80", "10.96.0.3:80", "10.255.0.1:80"] {
                assert_eq!(ask_from(from, to).await, Err(ErrorKind::ConnectionRefused), "TCP to {to}");
            }
            let pod = format!("{}:80", a.address);
            assert_eq!(ask_from(from, &pod).await.as_ref(), Ok(&answer), "a pod itself");
        }
        let routes = run("ip", "route");
        assert!(routes.contains("10.9.0.0/24 dev lo"), "the host's own way stays: {routes}");

        // One goes with its services, another comes.
        state.frontends.clear();
        state.ranges = ["10.6.0.0/24", "10.8.0.0/16"].map(range).into();
        proxy.states.send(Some(state.into())).unwrap();
        let through = || -> Vec<String> {
            let routes = run("ip", "route show dev mkt0");
            routes.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
        };
        until("the new routes", || through() == ["10.6.0.0/24", "10.8.0.0/16", "10.96.0.0/12"]).await;
        let rules = || run("nft", "list chain ip minik-test service-ranges");
        until("the new rules", || !rules().contains("10.7.0.0/24") && rules().contains("10.6.0.0/24")).await;
        assert_eq!(ask_from(None, "10.8.7.7:80").await, Err(ErrorKind::ConnectionRefused));

        // A proxy that begins later takes back what its forerunner left.
        proxy.stop().await;
        let proxy = Proxy::start(&host);
        proxy.states.send(Some(State::default().into())).unwrap();
        until("the first range alone", || through() == ["10.96.0.0/12"]).await;
        proxy.stop().await;
        network.close().await;
    });
}
