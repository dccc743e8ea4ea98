//! What a new cluster is made with, and what an existing one keeps: flags, settings files, and what the host uses already.

use std::path::{Path, PathBuf};

use super::failure::{Failure, Kind};
use super::ranges;
use crate::daemon::cluster::{Cluster, DEFAULT_PORT, INGRESS_HTTP_PORT, INGRESS_HTTPS_PORT};
use crate::daemon::places::Places;
use crate::daemon::settings::{DualStack, Settings, parse_pod_ranges, parse_service_ranges};
use crate::ingress::gateway::Ports;
use crate::network::{Cidr, Cidr6, Ipv6};

/// How many ports from the usual one on are tried when nobody chose one.
const PORTS: u16 = 100;

/// What of the host the decision rests on.
pub struct Host {
    /// Its name.
    pub name: String,
    /// Ranges that it has addresses in or routes to.
    pub occupied: Vec<Cidr>,
    /// Those of IPv6.
    pub occupied6: Vec<Cidr6>,
    /// How far its IPv6 goes.
    pub ipv6: Ipv6,
    /// The other clusters of this data directory, running or not.
    pub others: Vec<(String, Cluster)>,
    /// The names of all other clusters of the machine, in other data directories and unreadable ones too.
    pub names: Vec<String>,
    /// Docker's configuration of the user, for its credentials.
    pub docker_config: PathBuf,
}

/// Decides everything that was left open, and keeps what an existing cluster cannot change.
///
/// `machine` are wishes for new clusters, which give way where the host or another cluster has what they name.
/// `is_free` tells whether a port can be listened on.
pub fn settle(
    profile: &str,
    asked: Settings,
    machine: Settings,
    before: Option<Cluster>,
    host: &Host,
    is_free: &dyn Fn(u16) -> bool,
) -> Result<Cluster, Failure> {
    if let Some(before) = &before {
        refuse_changes(profile, &asked, before)?;
    }
    refuse_name(profile, host)?;
    let (pod_cidr, service_cidr) = ranges::settle(&asked, &machine, before.as_ref(), host)?;
    let kept = before.map(Cluster::into_settings).unwrap_or_default();
    let apiserver_port =
        port(host, asked.apiserver_port.or(kept.apiserver_port), machine.apiserver_port, is_free)?;
    let name = asked.node_name.or(kept.node_name).or(machine.node_name);
    // An empty path takes both away.
    let stops = [&asked.audit_policy_file, &asked.audit_log_file]
        .into_iter()
        .flatten()
        .any(|path| path.as_os_str().is_empty());
    let file = |path: Option<PathBuf>| path.filter(|path| !stops && !path.as_os_str().is_empty());
    let audit_policy_file =
        file(asked.audit_policy_file.or(kept.audit_policy_file).or(machine.audit_policy_file));
    let audit_log_file = file(asked.audit_log_file.or(kept.audit_log_file).or(machine.audit_log_file));
    let cluster = Cluster {
        apiserver_port,
        pod_cidr,
        service_cidr,
        node_name: node_name(name.unwrap_or_else(|| host.name.to_lowercase()))?,
        registry_mirrors: asked
            .registry_mirrors
            .or(kept.registry_mirrors)
            .or(machine.registry_mirrors)
            .unwrap_or_default(),
        insecure_registries: asked
            .insecure_registries
            .or(kept.insecure_registries)
            .or(machine.insecure_registries)
            .unwrap_or_default(),
        share_process_namespace: asked
            .share_process_namespace
            .or(kept.share_process_namespace)
            .or(machine.share_process_namespace)
            .unwrap_or(true),
        external_ips: asked.external_ips.or(kept.external_ips).or(machine.external_ips).unwrap_or(false),
        kubelet: asked.kubelet.over(kept.kubelet).over(machine.kubelet),
        audit_policy_file,
        audit_log_file,
        audit_log_maxsize: asked.audit_log_maxsize.or(kept.audit_log_maxsize).or(machine.audit_log_maxsize),
        audit_log_maxbackup: asked
            .audit_log_maxbackup
            .or(kept.audit_log_maxbackup)
            .or(machine.audit_log_maxbackup),
        audit_log_maxage: asked.audit_log_maxage.or(kept.audit_log_maxage).or(machine.audit_log_maxage),
        ingress: asked.ingress.or(kept.ingress).or(machine.ingress),
        ingress_http_port: asked.ingress_http_port.or(kept.ingress_http_port).or(machine.ingress_http_port),
        ingress_https_port: asked
            .ingress_https_port
            .or(kept.ingress_https_port)
            .or(machine.ingress_https_port),
        docker_config: Some(host.docker_config.clone()),
    };
    check_audit(&cluster)?;
    check_ingress(&cluster)?;
    Ok(cluster)
}

/// A log without a policy would stay empty, a policy without a log has no effect.
fn check_audit(cluster: &Cluster) -> Result<(), Failure> {
    let missing = match (&cluster.audit_policy_file, &cluster.audit_log_file) {
        (Some(_), None) => "--audit-log-file",
        (None, Some(_)) => "--audit-policy-file",
        _ => return Ok(()),
    };
    let message = format!("an audit log needs a policy and a file: {missing} is missing");
    Err(Failure::new(Kind::Usage, message))
}

/// Two listeners cannot share a port.
fn check_ingress(cluster: &Cluster) -> Result<(), Failure> {
    let Some(Ports { http, https }) = cluster.ingress_ports() else { return Ok(()) };
    let message = match cluster.apiserver_port {
        _ if http == 0 || https == 0 => "must be 1 to 65535".to_owned(),
        _ if http == https => format!("must differ, and both are {http}"),
        // The usual ports give way: an event says so when there is an ingress.
        port if [cluster.ingress_http_port, cluster.ingress_https_port].contains(&Some(port)) => {
            format!("must not be {port}, the port of the API server")
        }
        _ => return Ok(()),
    };
    Err(Failure::new(Kind::Usage, format!("--ingress-http-port and --ingress-https-port {message}")))
}

/// The flags that ask for something else than what a running cluster has, of those that a start can change.
pub fn differing(asked: &Settings, running: &Cluster) -> Vec<&'static str> {
    let other = |asked: &Option<PathBuf>, running: &Option<PathBuf>| {
        let Some(asked) = asked else { return false };
        asked.as_os_str() != running.as_deref().unwrap_or(Path::new("")).as_os_str()
    };
    let number = |asked: Option<u32>, running: Option<u32>| asked.is_some() && asked != running;
    let differs = [
        ("--apiserver-port", asked.apiserver_port.is_some_and(|port| port != running.apiserver_port)),
        (
            "--registry-mirror",
            asked.registry_mirrors.as_ref().is_some_and(|m| *m != running.registry_mirrors),
        ),
        (
            "--insecure-registry",
            asked.insecure_registries.as_ref().is_some_and(|i| *i != running.insecure_registries),
        ),
        (
            "shareProcessNamespace",
            asked.share_process_namespace.is_some_and(|s| s != running.share_process_namespace),
        ),
        ("externalIPs", asked.external_ips.is_some_and(|e| e != running.external_ips)),
        ("kubelet", asked.kubelet.clone().over(running.kubelet.clone()) != running.kubelet),
        ("--audit-policy-file", other(&asked.audit_policy_file, &running.audit_policy_file)),
        ("--audit-log-file", other(&asked.audit_log_file, &running.audit_log_file)),
        ("--audit-log-maxsize", number(asked.audit_log_maxsize, running.audit_log_maxsize)),
        ("--audit-log-maxbackup", number(asked.audit_log_maxbackup, running.audit_log_maxbackup)),
        ("--audit-log-maxage", number(asked.audit_log_maxage, running.audit_log_maxage)),
        ("--ingress", asked.ingress.is_some_and(|ingress| ingress != running.ingress.unwrap_or(true))),
        (
            "--ingress-http-port",
            asked
                .ingress_http_port
                .is_some_and(|p| p != running.ingress_http_port.unwrap_or(INGRESS_HTTP_PORT)),
        ),
        (
            "--ingress-https-port",
            asked
                .ingress_https_port
                .is_some_and(|p| p != running.ingress_https_port.unwrap_or(INGRESS_HTTPS_PORT)),
        ),
    ];
    differs.into_iter().filter_map(|(flag, differs)| differs.then_some(flag)).collect()
}

/// The names of links begin by a short form of the cluster's name, which two names may share.
fn refuse_name(profile: &str, host: &Host) -> Result<(), Failure> {
    let prefix = |name: &str| Places::new(name, Path::new("")).link_prefix();
    match host.names.iter().find(|other| prefix(other) == prefix(profile)) {
        Some(other) => Err(Failure::new(
            Kind::Usage,
            format!("the network links of clusters {profile:?} and {other:?} would have the same names"),
        )
        .hint("choose another name: minik start -p NAME")),
        None => Ok(()),
    }
}

/// Addresses and names are in stored objects and running pods.
pub fn refuse_changes(profile: &str, asked: &Settings, before: &Cluster) -> Result<(), Failure> {
    let refuse = |flag: &str, kept: &str| {
        let message = format!("{flag} of the existing cluster {profile:?} is {kept} and cannot change");
        Err(Failure::new(Kind::Usage, message).hint(format!(
            "make another cluster (-p NAME), or delete this one first: minik delete -p {profile}"
        )))
    };
    // 10.244.1.0/16 is the same range as 10.244.0.0/16.
    let pods = |text: &str| parse_pod_ranges("--pod-cidr", text);
    let services = |text: &str| parse_service_ranges("--service-cidr", text);
    if asked.pod_cidr.as_ref().is_some_and(|asked| !ranges::is_same(asked, &before.pod_cidr, pods)) {
        return refuse("--pod-cidr", &before.pod_cidr);
    }
    if asked
        .service_cidr
        .as_ref()
        .is_some_and(|asked| !ranges::is_same(asked, &before.service_cidr, services))
    {
        return refuse("--service-cidr", &before.service_cidr);
    }
    if asked.node_name.as_ref().is_some_and(|asked| *asked != before.node_name) {
        return refuse("--node-name", &before.node_name);
    }
    let dual_stack = before.is_dual_stack();
    match asked.dual_stack {
        Some(DualStack::On) if !dual_stack => refuse("--dual-stack", "false"),
        Some(DualStack::Off) if dual_stack => refuse("--dual-stack", "true"),
        _ => Ok(()),
    }
}

fn port(
    host: &Host,
    chosen: Option<u16>,
    wish: Option<u16>,
    is_free: &dyn Fn(u16) -> bool,
) -> Result<u16, Failure> {
    if let Some(port) = chosen {
        return if is_free(port) {
            Ok(port)
        } else {
            Err(no_port(format!("port {port} for the API server is taken by another program")))
        };
    }
    let kept = |port: u16| host.others.iter().any(|(_, cluster)| cluster.apiserver_port == port);
    let mut candidates = wish.into_iter().chain(DEFAULT_PORT..DEFAULT_PORT + PORTS);
    candidates.find(|port| *port != 0 && !kept(*port) && is_free(*port)).ok_or_else(|| {
        no_port(format!("no port from {DEFAULT_PORT} to {} is free", DEFAULT_PORT + PORTS - 1))
    })
}

fn no_port(message: String) -> Failure {
    Failure::new(Kind::Host, message).hint("choose another: minik start --apiserver-port PORT")
}

/// A node's name as Kubernetes accepts it.
fn node_name(name: String) -> Result<String, Failure> {
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(name);
    }
    Err(Failure::new(
        Kind::Usage,
        format!("node name {name:?} must be lower-case letters, digits, '-' and '.'"),
    )
    .hint("name the node: minik start --node-name NAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(occupied: &[&str]) -> Host {
        Host {
            name: "Laptop".into(),
            occupied: occupied.iter().map(|range| range.parse().unwrap()).collect(),
            occupied6: Vec::new(),
            ipv6: Ipv6::Local,
            others: Vec::new(),
            names: Vec::new(),
            docker_config: "/root/.docker/config.json".into(),
        }
    }

    fn new(host: &Host, asked: Settings) -> Result<Cluster, Failure> {
        settle("x", asked, Settings::default(), None, host, &|_| true)
    }

    #[test]
    fn ranges_are_chosen_where_the_host_leaves_room() {
        for (occupied, pods, services) in [
            (&[][..], "10.244.0.0/16", "10.96.0.0/12"),
            (&["10.244.3.0/24"], "10.245.0.0/16", "10.96.0.0/12"),
            (&["10.100.0.0/16"], "10.244.0.0/16", "10.112.0.0/12"),
            (&["10.0.0.0/8"], "172.24.0.0/16", "172.28.0.0/16"),
        ] {
            let cluster = new(&host(occupied), Settings::default()).unwrap();
            assert_eq!((&*cluster.pod_cidr, &*cluster.service_cidr), (pods, services), "{occupied:?}");
            assert_eq!((&*cluster.node_name, cluster.apiserver_port), ("laptop", 8443));
        }
        let full = new(&host(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]), Settings::default());
        assert_eq!(full.unwrap_err().kind, Kind::Host);
    }

    #[test]
    fn clusters_stay_out_of_each_others_way() {
        let mut host = host(&[]);
        for name in ["a", "b", "c"] {
            let next = new(&host, Settings::default()).unwrap();
            for (_, other) in &host.others {
                assert_ne!((&next.pod_cidr, &next.service_cidr), (&other.pod_cidr, &other.service_cidr));
                assert_ne!(next.apiserver_port, other.apiserver_port);
            }
            host.others.push((name.into(), next));
        }
        let asked = Settings { service_cidr: Some("10.96.0.0/16".into()), ..Settings::default() };
        let refused = new(&host, asked).unwrap_err();
        assert!(refused.message.contains("of the cluster \"a\""), "{refused}");
    }

    #[test]
    fn what_was_asked_for_is_checked() {
        let refused = |asked: Settings, occupied: &[&str]| new(&host(occupied), asked).unwrap_err();
        let pods = |text: &str| Settings { pod_cidr: Some(text.into()), ..Settings::default() };
        assert_eq!(refused(pods("10.244.0.0/16"), &["10.244.1.0/24"]).kind, Kind::Host);
        assert_eq!(refused(pods("10.97.0.0/16"), &[]).kind, Kind::Usage);
        assert_eq!(refused(pods("house"), &[]).kind, Kind::Usage);
        let name = Settings { node_name: Some("My_Node".into()), ..Settings::default() };
        assert!(refused(name, &[]).message.contains("My_Node"));
        let port = Settings { apiserver_port: Some(80), ..Settings::default() };
        let taken = settle("x", port, Settings::default(), None, &host(&[]), &|port| port != 80).unwrap_err();
        assert!(taken.message.contains("port 80"), "{taken}");
        let none = Settings::default;
        let passed = settle("x", none(), none(), None, &host(&[]), &|port| port > 8445).unwrap();
        assert_eq!(passed.apiserver_port, 8446);
    }

    #[test]
    fn the_ports_of_the_ingress_are_its_own() {
        let ports = |http, https| Settings {
            ingress_http_port: http,
            ingress_https_port: https,
            ..Settings::default()
        };
        for (asked, wrong) in [
            (ports(None, None), None),
            (ports(Some(8080), Some(8444)), None),
            (ports(Some(443), None), Some("both are 443")),
            (ports(Some(0), None), Some("1 to 65535")),
            (ports(None, Some(8443)), Some("must not be 8443, the port of the API server")),
            (Settings { ingress: Some(false), ..ports(Some(443), None) }, None),
            (Settings { apiserver_port: Some(443), ..Settings::default() }, None),
        ] {
            let settled = new(&host(&[]), asked.clone());
            match wrong {
                None => assert!(settled.is_ok(), "{asked:?}"),
                Some(wrong) => assert!(settled.unwrap_err().message.contains(wrong), "{asked:?}"),
            }
        }
        let before = new(&host(&[]), Settings { ingress: Some(false), ..ports(Some(81), None) }).unwrap();
        assert_eq!(before.ingress_ports(), None);
        let again =
            |asked| settle("x", asked, Settings::default(), Some(before.clone()), &host(&[]), &|_| true);
        assert_eq!(again(Settings::default()).unwrap(), before);
        let on = Settings { ingress: Some(true), ..Settings::default() };
        assert_eq!(differing(&on, &before), ["--ingress"]);
        assert_eq!(again(on).unwrap().ingress_ports(), Some(Ports { http: 81, https: 443 }));
    }

    #[test]
    fn an_existing_cluster_keeps_its_addresses() {
        let before = new(&host(&[]), Settings::default()).unwrap();
        // Its own routes may still be there.
        let host = host(&["10.244.0.0/16"]);
        let again = |asked| settle("x", asked, Settings::default(), Some(before.clone()), &host, &|_| true);
        assert_eq!(again(Settings::default()).unwrap(), before);
        let other = Settings { pod_cidr: Some("10.250.0.0/16".into()), ..Settings::default() };
        assert!(again(other).unwrap_err().message.contains("cannot change"));
        let same = Settings { pod_cidr: Some("10.244.9.9/16".into()), ..Settings::default() };
        assert_eq!(again(same).unwrap(), before);
        let both = Settings { dual_stack: Some(DualStack::On), ..Settings::default() };
        let refused = again(both).unwrap_err().message;
        assert_eq!(refused, "--dual-stack of the existing cluster \"x\" is false and cannot change");
        let either = Settings { dual_stack: Some(DualStack::Auto), ..Settings::default() };
        assert_eq!(again(either).unwrap(), before);
        let moved = Settings { apiserver_port: Some(9443), ..Settings::default() };
        assert_eq!(again(moved).unwrap().apiserver_port, 9443);
    }

    #[test]
    fn lists_are_kept_until_others_are_given() {
        let mirrors = |url: &str| Some([("docker.io".to_owned(), vec![url.to_owned()])].into());
        let asked = Settings { registry_mirrors: mirrors("http://a"), ..Settings::default() };
        let before = new(&host(&[]), asked.clone()).unwrap();
        let again =
            |asked| settle("x", asked, Settings::default(), Some(before.clone()), &host(&[]), &|_| true);
        assert_eq!(Some(again(Settings::default()).unwrap().registry_mirrors), mirrors("http://a"));
        let other = Settings { registry_mirrors: mirrors("http://b"), ..Settings::default() };
        assert_eq!(Some(again(other.clone()).unwrap().registry_mirrors), mirrors("http://b"));
        let none = Settings { registry_mirrors: Some([].into()), ..Settings::default() };
        assert_eq!(again(none.clone()).unwrap().registry_mirrors, [].into());
        assert_eq!(differing(&asked, &before), Vec::<&str>::new());
        assert_eq!(differing(&none, &before), ["--registry-mirror"]);
        let port = Settings { apiserver_port: Some(1), insecure_registries: Some(vec!["x".into()]), ..other };
        assert_eq!(
            differing(&port, &before),
            ["--apiserver-port", "--registry-mirror", "--insecure-registry"]
        );
    }

    #[test]
    fn the_machines_wishes_give_way() {
        let wishes = || Settings {
            apiserver_port: Some(9443),
            pod_cidr: Some("10.50.0.0/16".into()),
            service_cidr: Some("10.60.0.0/16".into()),
            node_name: Some("wished".into()),
            insecure_registries: Some(vec!["r".into()]),
            ..Settings::default()
        };
        let mut host = host(&[]);
        let settle =
            |host: &Host, before| settle("x", Settings::default(), wishes(), before, host, &|_| true);
        let first = settle(&host, None).unwrap();
        assert_eq!((&*first.pod_cidr, &*first.service_cidr), ("10.50.0.0/16", "10.60.0.0/16"));
        assert_eq!((&*first.node_name, first.apiserver_port), ("wished", 9443));
        assert_eq!(first.insecure_registries, ["r"]);
        host.others.push(("a".into(), first));
        let second = settle(&host, None).unwrap();
        assert_eq!((&*second.pod_cidr, &*second.service_cidr), ("10.244.0.0/16", "10.96.0.0/12"));
        assert_eq!(second.apiserver_port, 8443);
        let existing = new(&self::host(&[]), Settings::default()).unwrap();
        assert_eq!(settle(&self::host(&[]), Some(existing.clone())).unwrap(), existing);
    }

    #[test]
    fn names_whose_links_would_be_confused_are_refused() {
        // Two names of one short form, by search.
        let prefix = |name: &str| Places::new(name, Path::new("")).link_prefix();
        let twin = (0..).map(|n| format!("c{n}")).find(|name| prefix(name) == prefix("x")).unwrap();
        let host = Host { names: vec!["y".into(), twin.clone()], ..host(&[]) };
        let refused = new(&host, Settings::default()).unwrap_err();
        assert!(refused.kind == Kind::Usage && refused.message.contains(&twin), "{refused}");
    }
}
