//! What is to be done, by table.

use std::net::Ipv6Addr;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;

fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn service(spec: Value) -> Arc<Service> {
    object(json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec}))
}

/// A service with the addresses of a load balancer.
fn balanced(spec: Value, ingress: Value) -> Arc<Service> {
    let meta = json!({"name": "web", "namespace": "default"});
    object(json!({"metadata": meta, "spec": spec, "status": {"loadBalancer": {"ingress": ingress}}}))
}

fn slice(name: &str, ports: Value, endpoints: Value) -> Arc<EndpointSlice> {
    object(json!({
        "metadata": {"name": name, "namespace": "default", "labels": {SERVICE_NAME: "web"}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    }))
}

fn http() -> Value {
    json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "targetPort": "http"}]})
}

/// Frontends and endpoints as text: `ADDRESS:PORT/PROTOCOL -> ADDRESS:PORT …`.
fn show<A: Address>(state: &State<A>) -> Vec<String> {
    let lines = state.frontends.iter().map(|(frontend, backends)| {
        let address = frontend.address.map_or("node".into(), |address| address.to_string());
        let targets: Vec<_> =
            backends.endpoints.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
        format!("{address}:{}/{:?} -> {}", frontend.port, frontend.protocol, targets.join(" "))
    });
    lines.collect()
}

#[test]
fn only_ready_endpoints_count_unless_all_are_ending() {
    let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"}]);
    let cases = [
        (json!([]), "10.96.0.7:80/Tcp -> "),
        (
            json!([{"addresses": ["10.0.0.3"]}, {"addresses": ["10.0.0.2"], "conditions": {"ready": true}},
                   {"addresses": ["10.0.0.4"], "conditions": {"ready": false}}]),
            "10.96.0.7:80/Tcp -> 10.0.0.2:8080 10.0.0.3:8080",
        ),
        (
            json!([{"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                   {"addresses": ["10.0.0.4"], "conditions": {"ready": false, "serving": false, "terminating": true}},
                   {"addresses": ["10.0.0.5"], "conditions": {"ready": false, "serving": true, "terminating": false}}]),
            "10.96.0.7:80/Tcp -> 10.0.0.3:8080",
        ),
        (json!([{"addresses": ["nonsense"]}]), "10.96.0.7:80/Tcp -> "),
    ];
    for (endpoints, expected) in cases {
        let state: State = plan(
            &Options::default(),
            &[service(http())],
            &[slice("a", ports.clone(), endpoints.clone())],
            &[],
        );
        assert_eq!(show(&state), [expected], "{endpoints}");
    }
}

#[test]
fn ports_match_by_name_and_protocol_and_slices_may_differ() {
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.10", "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
        {"name": "dns-tcp", "port": 53},
    ]});
    let one = json!([{"name": "dns", "port": 5353, "protocol": "UDP"}, {"name": "dns-tcp", "port": 5353}]);
    let other = json!([{"name": "dns", "port": 1053, "protocol": "UDP"}]);
    let state: State = plan(
        &Options::default(),
        &[service(spec)],
        &[
            slice("a", one, json!([{"addresses": ["10.0.0.2"]}])),
            slice("b", other, json!([{"addresses": ["10.0.0.9", "10.0.0.2"]}])),
        ],
        &[],
    );
    assert_eq!(
        show(&state),
        [
            "node:30053/Udp -> 10.0.0.2:1053 10.0.0.2:5353 10.0.0.9:1053",
            "10.96.0.10:53/Tcp -> 10.0.0.2:5353",
            "10.96.0.10:53/Udp -> 10.0.0.2:1053 10.0.0.2:5353 10.0.0.9:1053",
        ]
    );
    assert_eq!(state.local.keys().collect::<Vec<_>>(), [&(Protocol::Udp, 30053)]);
}

#[test]
fn services_without_an_address_of_their_own_are_left_out() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
        json!({"clusterIP": "", "ports": [{"port": 80}]}),
        json!({"clusterIP": "fd00::1", "ports": [{"port": 80}]}),
    ] {
        let state: State = plan(&Options::default(), &[service(spec.clone())], &[], &[]);
        assert_eq!(state, State::default(), "{spec}");
    }
}

#[test]
fn a_service_has_its_cluster_address_and_its_balancers() {
    for (external_ips, ingress, expected) in [
        (false, json!([]), vec!["10.96.0.7:80/Tcp -> "]),
        (false, json!([{"ip": "192.0.2.9"}]), vec!["10.96.0.7:80/Tcp -> ", "192.0.2.9:80/Tcp -> "]),
        (
            false,
            json!([{"ip": "192.0.2.9", "ipMode": "VIP"}, {"ip": "192.0.2.8", "ipMode": "Proxy"}]),
            vec!["10.96.0.7:80/Tcp -> ", "192.0.2.9:80/Tcp -> "],
        ),
        (false, json!([{"hostname": "balancer.example"}]), vec!["10.96.0.7:80/Tcp -> "]),
        (true, json!([]), vec!["10.96.0.7:80/Tcp -> ", "192.0.2.1:80/Tcp -> "]),
        (
            false,
            json!([{"ip": "127.0.0.1"}, {"ip": "0.0.0.0"}, {"ip": "169.254.169.254"}, {"ip": "224.0.0.1"},
                   {"ip": "255.255.255.255"}]),
            vec!["10.96.0.7:80/Tcp -> "],
        ),
    ] {
        let spec = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80}],
                          "externalIPs": ["192.0.2.1", "127.0.0.1"]});
        let options = Options { external_ips, ..Options::default() };
        let state: State = plan(&options, &[balanced(spec, ingress.clone())], &[], &[]);
        assert_eq!(show(&state), expected, "{external_ips} {ingress}");
    }
}

#[test]
fn a_balancers_ranges_are_asked_for_where_its_address_is() {
    let sources = |state: &State| -> Vec<String> {
        let guarded = state.frontends.iter().filter(|(_, backends)| backends.sources.is_some());
        let address = |frontend: &Frontend| frontend.address.map_or("node".into(), |a| a.to_string());
        let ranges = |backends: &Backends| -> Vec<String> {
            backends.sources.iter().flatten().map(ToString::to_string).collect()
        };
        guarded.map(|(f, backends)| format!("{}: {}", address(f), ranges(backends).join(" "))).collect()
    };
    let spec = |ranges: Value| {
        json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7", "loadBalancerSourceRanges": ranges,
               "ports": [{"port": 80, "nodePort": 30080}]})
    };
    let (own, other) = (json!([{"ip": "10.96.0.7"}]), json!([{"ip": "192.0.2.9"}]));
    for (ranges, ingress, expected) in [
        (json!([]), own.clone(), vec![]),
        (json!(["192.0.2.0/24", " 10.0.0.0/8 "]), own.clone(), vec!["10.96.0.7: 192.0.2.0/24 10.0.0.0/8"]),
        (json!(["192.0.2.0/24"]), other, vec!["192.0.2.9: 192.0.2.0/24"]),
        (json!(["2001:db8::/32"]), own.clone(), vec!["10.96.0.7: "]),
    ] {
        let state: State = plan(&Options::default(), &[balanced(spec(ranges.clone()), ingress)], &[], &[]);
        assert_eq!(sources(&state), expected, "{ranges}");
    }
    let mut service = Service::clone(&balanced(spec(json!([])), own));
    let name = "service.beta.kubernetes.io/load-balancer-source-ranges";
    service.metadata.annotations = Some([(name.to_owned(), "192.0.2.0/25,192.0.2.128/25".to_owned())].into());
    let state: State = plan(&Options::default(), &[Arc::new(service)], &[], &[]);
    assert_eq!(sources(&state), ["10.96.0.7: 192.0.2.0/25 192.0.2.128/25"]);
}

#[test]
fn policies_choose_among_the_endpoints_of_the_node() {
    let endpoints = json!([{"addresses": ["10.0.0.2"], "nodeName": "here"},
        {"addresses": ["192.0.2.2"], "nodeName": "there"}, {"addresses": ["192.0.2.3"]},
        {"addresses": ["10.0.0.3"], "nodeName": "here", "conditions": {"ready": false}}]);
    let (local, all) = ("10.0.0.2:80", "10.0.0.2:80 192.0.2.2:80 192.0.2.3:80");
    for (internal, external, inside, outside) in [
        ("Cluster", "Cluster", all, all),
        ("Local", "Cluster", local, all),
        ("Cluster", "Local", all, local),
        ("Local", "Local", local, local),
    ] {
        let spec = json!({"type": "LoadBalancer", "clusterIP": "10.96.0.7", "healthCheckNodePort": 32000,
            "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
            "ports": [{"port": 80, "nodePort": 30080}]});
        let service = balanced(spec, json!([{"ip": "192.0.2.9"}]));
        let slice = slice("a", json!([{"port": 80}]), endpoints.clone());
        let options = Options { node: "here".into(), ..Options::default() };
        let state: State = plan(&options, &[service], &[slice], &[]);
        let expected = [
            format!("node:30080/Tcp -> {outside}"),
            format!("10.96.0.7:80/Tcp -> {inside}"),
            format!("192.0.2.9:80/Tcp -> {outside}"),
        ];
        assert_eq!(show(&state), expected, "{internal} {external}");
        let health = Health { namespace: "default".into(), name: "web".into(), endpoints: 1 };
        let health = (external == "Local").then_some((32000, health));
        assert_eq!(state.health, health.into_iter().collect(), "{internal} {external}");
    }
}

#[test]
fn who_ends_is_led_to_for_want_of_others_only() {
    let endpoint = |address: &str, ready: bool, ending: bool| {
        json!({"addresses": [address],
               "conditions": {"ready": ready, "serving": true, "terminating": ending}})
    };
    for (endpoints, led) in [
        (json!([endpoint("10.0.0.2", true, false), endpoint("10.0.0.3", false, true)]), vec![2]),
        (json!([endpoint("10.0.0.3", false, true)]), vec![]),
        // A service that publishes whatever it has.
        (json!([endpoint("10.0.0.3", true, true)]), vec![]),
        (json!([{"addresses": ["10.0.0.4"]}]), vec![4]),
    ] {
        let slice = slice("a", json!([{"name": "http", "port": 80}]), endpoints.clone());
        let state: State = plan(&Options::default(), &[service(http())], &[slice], &[]);
        let last: Vec<u8> = state.led.iter().map(|address| address.octets()[3]).collect();
        assert_eq!(last, led, "{endpoints}");
    }
}

#[test]
fn affinity_has_a_default_time() {
    for (affinity, sticky) in [
        (json!({}), None),
        (json!({"sessionAffinity": "None"}), None),
        (json!({"sessionAffinity": "ClientIP"}), Some(10_800)),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}}),
            Some(5),
        ),
    ] {
        let mut spec = http();
        spec.as_object_mut().unwrap().extend(affinity.as_object().unwrap().clone());
        let state: State = plan(&Options::default(), &[service(spec)], &[], &[]);
        assert_eq!(state.frontends.values().next().unwrap().sticky, sticky, "{affinity}");
    }
}

#[test]
fn host_ports_lead_to_running_pods() {
    let pod = |status: Value, host: Value| {
        let port = json!({"containerPort": 80, "hostPort": 8080, "hostIP": host});
        object::<Pod>(json!({"metadata": {"name": "a"}, "status": status,
            "spec": {"containers": [{"name": "c", "ports": [port, {"containerPort": 81}]}]}}))
    };
    let running = json!({"phase": "Running", "podIP": "10.0.0.2"});
    for (status, host, frontend, local) in [
        (running.clone(), json!(null), vec!["node:8080/Tcp -> 10.0.0.2:80"], 1),
        (running.clone(), json!("192.0.2.1"), vec!["192.0.2.1:8080/Tcp -> 10.0.0.2:80"], 0),
        (running, json!("127.0.0.1"), vec![], 1),
        (json!({"phase": "Succeeded", "podIP": "10.0.0.2"}), json!(null), vec![], 0),
        (json!({"phase": "Pending"}), json!(null), vec![], 0),
    ] {
        let pod = pod(status.clone(), host.clone());
        assert!(has_host_ports(&pod));
        let state: State = plan(&Options::default(), &[], &[], &[pod]);
        assert_eq!(
            (show(&state), state.local.len()),
            (frontend.into_iter().map(String::from).collect(), local),
            "{status} {host}"
        );
    }
}

#[test]
fn who_comes_first_keeps_a_contested_port() {
    let spec = |address: &str| json!({"clusterIP": address, "ports": [{"port": 80, "nodePort": 30080}]});
    let first = service(spec("10.96.0.1"));
    let other: Arc<Service> =
        object(json!({"metadata": {"name": "other", "namespace": "default"}, "spec": spec("10.96.0.2")}));
    let endpoints = slice("a", json!([{"port": 80}]), json!([{"addresses": ["10.0.0.2"]}]));
    let state: State = plan(&Options::default(), &[first, other], &[endpoints], &[]);
    assert_eq!(show(&state)[0], "node:30080/Tcp -> 10.0.0.2:80");
}

#[test]
fn each_family_has_a_plan_of_its_own() {
    let spec = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
        "ports": [{"port": 80, "nodePort": 30080}], "loadBalancerSourceRanges": ["2001:db8::/32", "192.0.2.0/24"]});
    let service = balanced(spec, json!([{"ip": "192.0.2.9"}, {"ip": "2001:db8::9"}]));
    let v4 = slice("a", json!([{"port": 80}]), json!([{"addresses": ["10.244.0.2"]}]));
    let mut v6 =
        EndpointSlice::clone(&slice("b", json!([{"port": 80}]), json!([{"addresses": ["fd00:1::2"]}])));
    v6.address_type = "IPv6".into();
    let pod = object::<Pod>(json!({"metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 81, "hostPort": 8081},
            {"containerPort": 82, "hostPort": 8082, "hostIP": "::"}, {"containerPort": 83, "hostPort": 8083, "hostIP": "0.0.0.0"}]}]},
        "status": {"phase": "Running", "podIP": "10.244.0.3", "podIPs": [{"ip": "10.244.0.3"}, {"ip": "fd00:1::3"}]}}));
    let (services, slices, pods) = (vec![service], vec![v4, Arc::new(v6)], vec![pod]);
    let state: State = plan(&Options::default(), &services, &slices, &pods);
    assert_eq!(
        show(&state),
        [
            "node:8081/Tcp -> 10.244.0.3:81",
            "node:8083/Tcp -> 10.244.0.3:83",
            "node:30080/Tcp -> 10.244.0.2:80",
            "10.96.0.7:80/Tcp -> 10.244.0.2:80",
            "192.0.2.9:80/Tcp -> 10.244.0.2:80",
        ]
    );
    let state: State<Ipv6Addr> = plan(&Options::default(), &services, &slices, &pods);
    assert_eq!(
        show(&state),
        [
            "node:8081/Tcp -> fd00:1::3:81",
            "node:8082/Tcp -> fd00:1::3:82",
            "node:30080/Tcp -> fd00:1::2:80",
            "2001:db8::9:80/Tcp -> fd00:1::2:80",
            "fd00::7:80/Tcp -> fd00:1::2:80",
        ]
    );
    let guarded = state.frontends.values().filter_map(|backends| backends.sources.as_ref());
    assert_eq!(guarded.collect::<Vec<_>>(), [&vec!["2001:db8::/32".parse().unwrap()]]);
    assert_eq!(state.local.len(), 3);
    // A service of one family only has no part in the other, not by its node port either.
    let single = json!({"clusterIP": "10.96.0.7", "ports": [{"port": 80, "nodePort": 30080}]});
    let state: State<Ipv6Addr> = plan(&Options::default(), &[self::service(single)], &slices, &[]);
    assert!(state.frontends.is_empty() && state.local.is_empty());
}

#[test]
fn further_ranges_of_services_are_those_of_their_family_each_once() {
    let cidr =
        |cidrs: &[&str]| object::<ServiceCIDR>(json!({"metadata": {"name": "a"}, "spec": {"cidrs": cidrs}}));
    let going = json!({"metadata": {"name": "b", "deletionTimestamp": "2027-01-01T00:00:00Z"},
        "spec": {"cidrs": ["10.6.0.0/24"]}});
    let all = [
        cidr(&["10.96.0.0/12", "fd00:10:96::/112"]),
        cidr(&["10.7.0.0/24", "fd07::/64"]),
        cidr(&["10.7.0.0/24"]),
        object(going),
    ];
    let shown = |ranges: Vec<String>| ranges.join(" ");
    let v4 = ranges::<std::net::Ipv4Addr>(&all, "10.96.0.0/12".parse().unwrap());
    assert_eq!(shown(v4.iter().map(ToString::to_string).collect()), "10.6.0.0/24 10.7.0.0/24");
    let v6 = ranges::<Ipv6Addr>(&all, "fd00:10:96::/112".parse().unwrap());
    assert_eq!(shown(v6.iter().map(ToString::to_string).collect()), "fd07::/64");
}
