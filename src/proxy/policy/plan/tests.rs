//! Which connections the policies allow that people write, by the plan alone.

use std::net::Ipv4Addr;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::*;
use crate::proxy::state::Endpoint;

fn object<T: DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// A running pod of an application, with a port called `http`.
fn pod(namespace: &str, app: &str, address: &str, http: u16) -> Value {
    json!({"metadata": {"name": app, "namespace": namespace, "labels": {"app": app}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": http}]}]},
        "status": {"phase": "Running", "podIP": address}})
}

const WEB: &str = "10.244.0.2";
const DB: &str = "10.244.0.3";
const BLUE: &str = "10.244.0.4";
const GREEN: &str = "10.244.0.5";
const DNS_SERVER: &str = "10.244.0.1";
const STRANGER: &str = "192.0.2.9";

/// Two namespaces, `default` with `web` and `db`, `blue` (of a team of that name) with `web` and `green`, and DNS.
fn objects(policies: &[Value]) -> Objects {
    let namespace = |name: &str, labels: Value| {
        let mut all = json!({"kubernetes.io/metadata.name": name});
        all.as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
        object(json!({"metadata": {"name": name, "labels": all}}))
    };
    let mut finished = pod("default", "web", "10.244.0.7", 80);
    finished["status"]["phase"] = "Succeeded".into();
    let mut on_host = pod("blue", "web", "192.0.2.1", 80);
    on_host["spec"]["hostNetwork"] = true.into();
    let mut waiting = pod("default", "web", "", 80);
    waiting["status"] = json!({"phase": "Pending"});
    let pods = [
        pod("default", "web", WEB, 80),
        pod("default", "db", DB, 8080),
        pod("blue", "web", BLUE, 8000),
        pod("blue", "green", GREEN, 80),
        finished,
        on_host,
        waiting,
    ];
    let with_name = |(number, policy): (usize, &Value)| {
        let mut policy = policy.clone();
        policy["metadata"]["name"] = number.to_string().into();
        policy["metadata"]["namespace"] = "default".into();
        object(policy)
    };
    Objects {
        policies: policies.iter().enumerate().map(with_name).collect(),
        namespaces: vec![
            namespace("default", json!({})),
            namespace("blue", json!({"team": "blue"})),
            namespace("kube-system", json!({})),
        ],
        pods: pods.into_iter().map(object).collect(),
        services: vec![object(json!({"metadata": {"name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns"}}, "spec": {"clusterIP": "10.96.0.10"}}))],
        slices: vec![object(json!({"metadata": {"name": "kube-dns", "namespace": "kube-system",
            "labels": {SERVICE_NAME: "kube-dns"}}, "addressType": "IPv4",
            "endpoints": [{"addresses": [DNS_SERVER]}],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"},
                      {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]}))],
    }
}

/// Whether a connection may be.
fn allows(policies: &Policies, from: &str, of: Protocol, to: &str, port: u16) -> bool {
    let to = Endpoint { address: to.parse().unwrap(), port };
    policies.allows(from.parse().unwrap(), false, of as u8, to)
}

/// From, to, port, whether it may be.
type Case<'a> = (&'a str, &'a str, u16, bool);

fn check(what: &str, policies: &[Value], cases: &[Case<'_>]) {
    let planned: Policies = plan(&objects(policies)).unwrap();
    for (from, to, port, expected) in cases {
        let allowed = allows(&planned, from, Protocol::Tcp, to, *port);
        assert_eq!(allowed, *expected, "{what}: {from} -> {to}:{port}\n{planned:#?}");
    }
}

fn policy(spec: Value) -> Value {
    json!({ "spec": spec })
}

fn for_web(rest: Value) -> Value {
    let mut spec = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    policy(spec)
}

#[test]
fn without_a_policy_nothing_is_judged() {
    assert_eq!(plan::<Ipv4Addr>(&objects(&[])), None);
}

#[test]
fn pods_are_isolated_only_when_selected_and_only_in_that_direction() {
    let deny_in = json!({"podSelector": {}, "policyTypes": ["Ingress"]});
    let deny_out = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    let into =
        [(DB, WEB, 80, false), (STRANGER, WEB, 80, false), (WEB, BLUE, 80, true), (WEB, STRANGER, 1, true)];
    check("deny ingress", &[policy(deny_in.clone())], &into);
    let out =
        [(BLUE, WEB, 80, true), (STRANGER, WEB, 80, true), (WEB, BLUE, 80, false), (WEB, STRANGER, 1, false)];
    check("deny egress", &[policy(deny_out.clone())], &out);
    let both =
        [(BLUE, WEB, 80, false), (WEB, BLUE, 80, false), (BLUE, GREEN, 80, true), (WEB, WEB, 80, true)];
    check("deny all", &[policy(deny_in), policy(deny_out)], &both);
    check("without a selector", &[policy(json!({}))], &into);
    check("the default types, without rules", &[policy(json!({"podSelector": {}}))], &into);
    let egress = json!({"podSelector": {}, "egress": [{}]});
    let open = [(WEB, STRANGER, 1, true), (STRANGER, WEB, 80, false)];
    check("the default types, with rules for egress", &[policy(egress)], &open);
    check(
        "somebody else",
        &[policy(json!({"podSelector": {"matchLabels": {"app": "other"}}}))],
        &[(DB, WEB, 1, true)],
    );
}

#[test]
fn finished_pods_and_those_on_the_host_are_no_pods() {
    let planned: Policies = plan(&objects(&[policy(json!({"podSelector": {}}))])).unwrap();
    let known: Vec<String> = planned.pods.keys().map(Ipv4Addr::to_string).collect();
    assert_eq!(known, [WEB, DB, BLUE, GREEN]);
    let from_blue = for_web(json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]}));
    check(
        "a pod on the host as a peer",
        &[from_blue],
        &[("192.0.2.1", WEB, 80, false), (BLUE, WEB, 80, true)],
    );
}

#[test]
fn peers_are_selected_by_pod_by_namespace_and_by_both() {
    let from = |peers: Value| [for_web(json!({"ingress": [{"from": peers}]}))];
    let app = |name: &str| json!({"matchLabels": {"app": name}});
    let team = json!({"matchLabels": {"team": "blue"}});
    // From db, from web and green of the namespace blue, from elsewhere.
    for (peers, db, blue, green, stranger) in [
        (json!([]), true, true, true, true),
        (Value::Null, true, true, true, true),
        (json!([{"podSelector": {}}]), true, false, false, false),
        (json!([{"podSelector": app("web")}]), false, false, false, false),
        (json!([{"namespaceSelector": team}]), false, true, true, false),
        (json!([{"namespaceSelector": {}}]), true, true, true, false),
        (json!([{"namespaceSelector": team, "podSelector": app("green")}]), false, false, true, false),
        (json!([{"namespaceSelector": team}, {"podSelector": app("db")}]), true, true, true, false),
        (
            json!([{"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}}]),
            true,
            false,
            false,
            false,
        ),
        (json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]), false, false, false, true),
        (
            json!([{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.8/29"]}}]),
            false,
            false,
            false,
            false,
        ),
        (json!([{"ipBlock": {"cidr": "0.0.0.0/0"}}]), true, true, true, true),
        (
            json!([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}, {"podSelector": app("db")}]),
            true,
            false,
            false,
            true,
        ),
        // Ranges that cannot be here allow nothing; above all they do not count as absent.
        (json!([{"ipBlock": {"cidr": "::/0"}}]), false, false, false, false),
        (json!([{}]), false, false, false, false),
    ] {
        let cases = [
            (DB, WEB, 80, db),
            (BLUE, WEB, 80, blue),
            (GREEN, WEB, 80, green),
            (STRANGER, WEB, 80, stranger),
        ];
        check(&peers.to_string(), &from(peers.clone()), &cases);
    }
}

#[test]
fn what_any_policy_allows_is_allowed_if_the_other_end_does_too() {
    let from =
        |app: &str| for_web(json!({"ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}]}));
    let deny = policy(json!({"podSelector": {}}));
    check(
        "union",
        &[deny.clone(), from("db"), from("other")],
        &[(DB, WEB, 80, true), (BLUE, WEB, 80, false)],
    );
    let no_way_out =
        policy(json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"]}));
    check("both ends", &[deny, from("db"), no_way_out], &[(DB, WEB, 80, false)]);
}

#[test]
fn ports_are_numbers_ranges_and_names_of_a_protocol() {
    let ports = |ports: Value| [for_web(json!({"ingress": [{"ports": ports}]}))];
    for (given, open, shut) in [
        (json!([{"port": 80}]), vec![80], vec![79, 81]),
        (json!([{"port": 80}, {"port": 443}]), vec![80, 443], vec![81]),
        (json!([{"port": 8000, "endPort": 8005}]), vec![8000, 8003, 8005], vec![7999, 8006]),
        (json!([{"protocol": "TCP"}]), vec![1, 65535], vec![]),
        (json!([{"protocol": "UDP"}]), vec![], vec![80]),
        (json!([{"port": "http"}]), vec![80], vec![8000, 8080]),
        (json!([{"port": "http", "protocol": "UDP"}, {"port": "other"}]), vec![], vec![80]),
        (json!([]), vec![1], vec![]),
    ] {
        let open = open.into_iter().map(|port| (DB, WEB, port, true));
        let cases: Vec<Case<'_>> = open.chain(shut.into_iter().map(|port| (DB, WEB, port, false))).collect();
        check(&given.to_string(), &ports(given.clone()), &cases);
    }
    // Each peer has the port of that name where it says.
    let out = policy(json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {}}, {"namespaceSelector": {"matchLabels": {"team": "blue"}}}],
                    "ports": [{"port": "http"}]}]}));
    let cases = [
        (DB, WEB, 80, true),
        (DB, WEB, 8000, false),
        (DB, BLUE, 8000, true),
        (DB, BLUE, 80, false),
        (DB, GREEN, 80, true),
        (DB, STRANGER, 80, false),
    ];
    check("named ports of peers", &[out], &cases);
    let sctp = for_web(json!({"ingress": [{"ports": [{"port": 80, "protocol": "SCTP"}]}]}));
    let planned: Policies = plan(&objects(&[sctp])).unwrap();
    assert!(allows(&planned, DB, Protocol::Sctp, WEB, 80));
    assert!(!allows(&planned, DB, Protocol::Udp, WEB, 80));
}

#[test]
fn labels_of_a_namespace_count_as_they_are() {
    let from_blue =
        for_web(json!({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}]}));
    let mut objects = objects(&[from_blue]);
    let before: Policies = plan(&objects).unwrap();
    assert!(allows(&before, BLUE, Protocol::Tcp, WEB, 80));
    objects.namespaces[1] = object(json!({"metadata": {"name": "blue", "labels": {"team": "red"}}}));
    let after: Policies = plan(&objects).unwrap();
    assert!(!allows(&after, BLUE, Protocol::Tcp, WEB, 80));
    assert!(after.may_deny_more_than(Some(&before)) && !before.may_deny_more_than(Some(&after)));
    assert_eq!(before.rule_sets, after.rule_sets, "only elements change");
}

#[test]
fn dns_is_a_pod_of_kube_system_that_serves_nothing_else() {
    let labels = json!({"matchLabels": {"k8s-app": "kube-dns"}});
    let system = json!({"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}});
    let both = json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]);
    for (to, ports, udp, tcp) in [
        (json!([{"namespaceSelector": system, "podSelector": labels}]), both.clone(), true, true),
        (
            json!([{"namespaceSelector": system, "podSelector": labels}]),
            json!([{"port": 53, "protocol": "UDP"}]),
            true,
            false,
        ),
        (json!([{"namespaceSelector": {}, "podSelector": labels}]), json!([]), true, true),
        (
            json!([{"namespaceSelector": system}]),
            json!([{"port": "dns", "protocol": "UDP"}, {"port": "dns-tcp"}]),
            true,
            true,
        ),
        (json!([{"namespaceSelector": {}}]), both.clone(), true, true),
        (Value::Null, both.clone(), true, true),
        (json!([{"ipBlock": {"cidr": "10.244.0.1/32"}}]), both.clone(), true, true),
        (json!([{"podSelector": labels}]), both.clone(), false, false),
        (
            json!([{"namespaceSelector": system, "podSelector": {"matchLabels": {"app": "web"}}}]),
            both.clone(),
            false,
            false,
        ),
        (json!([{"namespaceSelector": system}]), json!([{"port": 54, "protocol": "UDP"}]), false, false),
    ] {
        let policy = for_web(json!({"policyTypes": ["Egress"], "egress": [{"to": to, "ports": ports}]}));
        let planned: Policies = plan(&objects(&[policy])).unwrap();
        let what = format!("{to} {ports}");
        assert_eq!(allows(&planned, WEB, Protocol::Udp, DNS_SERVER, 53), udp, "{what}");
        assert_eq!(allows(&planned, WEB, Protocol::Tcp, DNS_SERVER, 53), tcp, "{what}");
    }
    let all =
        for_web(json!({"policyTypes": ["Egress"], "egress": [{"to": [{"namespaceSelector": system}]}]}));
    check("the host's other ports", &[all], &[(WEB, DNS_SERVER, 6443, false)]);
}

#[test]
fn pods_with_the_same_policies_share_their_rules() {
    let one = policy(json!({"podSelector": {}}));
    let planned: Policies =
        plan(&objects(&[one.clone(), for_web(json!({"policyTypes": ["Egress"]}))])).unwrap();
    assert_eq!(planned.rule_sets.len(), 2);
    let ingress = |address: &str| planned.pods[&address.parse().unwrap()].ingress.clone();
    assert_eq!(ingress(WEB), ingress(DB));
    assert_eq!(ingress(BLUE), None);
}

#[test]
fn each_family_is_judged_by_its_own_addresses() {
    let mut objects = objects(&[policy(json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [
        {"from": [{"podSelector": {"matchLabels": {"app": "db"}}}, {"ipBlock": {"cidr": "2001:db8::/32"}}]}]}))]);
    for pod in &mut objects.pods {
        let status = Arc::make_mut(pod).status.get_or_insert_default();
        let second = status.pod_ip.clone().map(|ip| format!("fd00::{}", ip.replace('.', ":")));
        let both = status.pod_ip.iter().cloned().chain(second);
        status.pod_ips = Some(both.map(|ip| k8s_openapi::api::core::v1::PodIP { ip }).collect());
    }
    let planned: Policies<std::net::Ipv6Addr> = plan(&objects).unwrap();
    let web = Endpoint { address: "fd00::10:244:0:2".parse().unwrap(), port: 80 };
    for (from, allowed) in [
        ("fd00::10:244:0:3", true),
        ("fd00::10:244:0:5", false),
        ("2001:db8::9", true),
        ("2001:db9::9", false),
    ] {
        let from = from.parse().unwrap();
        assert_eq!(planned.allows(from, false, Protocol::Tcp as u8, web), allowed, "{from}");
    }
    let planned: Policies = plan(&objects).unwrap();
    let web = Endpoint { address: WEB.parse().unwrap(), port: 80 };
    assert!(planned.allows(DB.parse().unwrap(), false, Protocol::Tcp as u8, web));
    assert!(!planned.allows(STRANGER.parse().unwrap(), false, Protocol::Tcp as u8, web));
}
