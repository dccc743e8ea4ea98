//! The zone of the cluster's domain, a pure function of services, their endpoints and pods.
//!
//! Source of the names: the specification of Kubernetes' DNS-based service discovery, version 1.1.0.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Seconds that clients may keep an answer.
pub const TTL: u32 = 5;
/// How the names end that lead from addresses back, of each family.
const REVERSE: [&str; 2] = [".in-addr.arpa", ".ip6.arpa"];
/// The label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What the zone says to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// These records; a single CNAME is still to be followed.
    Records(Vec<Record>),
    /// The name is there, but not with this type.
    NoData(Record),
    /// There is no such name. Both come with the zone's start of authority.
    NoSuchName(Record),
    /// The name belongs to another zone.
    NotOurs,
}

/// All names of the cluster; lower-case, without the last dot. A name without data is one that others are below.
#[derive(Debug, Default)]
pub struct Zone {
    domain: String,
    names: HashMap<String, Vec<RData>>,
}

impl Zone {
    /// The zone of these objects.
    pub fn build(
        domain: &str,
        services: &[Arc<Service>],
        slices: &[Arc<EndpointSlice>],
        pods: &[Arc<Pod>],
    ) -> Zone {
        let mut zone = Zone { domain: domain.trim_matches('.').to_ascii_lowercase(), names: HashMap::new() };
        zone.add(format!("dns-version.{}", zone.domain), RData::TXT(TXT::new(vec!["1.1.0".into()])));
        let mut by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
        for slice in slices {
            let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
            if let (Some(service), Some(namespace)) = (service, &slice.metadata.namespace) {
                by_service.entry((namespace, service)).or_default().push(slice);
            }
        }
        for service in services {
            let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
                continue;
            };
            let slices = by_service.get(&(namespace.as_str(), name.as_str()));
            zone.service(
                &format!("{name}.{namespace}.svc.{}", zone.domain),
                service,
                slices.map_or(&[], |s| s),
            );
        }
        for pod in pods {
            zone.pod(pod);
        }
        zone.sort_reverse();
        zone
    }

    /// What is known of a name.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let key = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let reverse = is_reverse(&key);
        let within =
            key == self.domain || key.strip_suffix(&self.domain).is_some_and(|rest| rest.ends_with('.'));
        let Some(data) = self.names.get(&key) else {
            return if within { self.no_such_name() } else { Answer::NotOurs };
        };
        if key == self.domain && kind == RecordType::SOA {
            return Answer::Records(self.authority().into_iter().collect());
        }
        let fits = |data: &&RData| {
            kind == RecordType::ANY || data.record_type() == kind || data.record_type() == RecordType::CNAME
        };
        let records: Vec<Record> = data
            .iter()
            .filter(fits)
            .map(|data| Record::from_rdata(name.clone(), TTL, data.clone()))
            .collect();
        match (records.is_empty(), self.authority()) {
            (false, _) => Answer::Records(records),
            (true, Some(authority)) if within && !reverse => Answer::NoData(authority),
            _ => Answer::NotOurs,
        }
    }

    /// Addresses of the services that SRV records name, to spare clients a second question.
    pub fn additional(&self, records: &[Record]) -> Vec<Record> {
        let mut targets: Vec<&Name> = records
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(service) => Some(&service.target),
                _ => None,
            })
            .collect();
        targets.sort_unstable();
        targets.dedup();
        let asked =
            targets.into_iter().flat_map(|target| [(target, RecordType::A), (target, RecordType::AAAA)]);
        let addresses = asked.filter_map(|(target, kind)| match self.answer(target, kind) {
            Answer::Records(records) => Some(records),
            _ => None,
        });
        addresses.flatten().collect()
    }

    fn no_such_name(&self) -> Answer {
        self.authority().map_or(Answer::NotOurs, Answer::NoSuchName)
    }

    fn authority(&self) -> Option<Record> {
        let zone = named(&self.domain)?;
        let (server, mail) =
            (named(&format!("ns.dns.{}", self.domain))?, named(&format!("hostmaster.{}", self.domain))?);
        // Nobody transfers this zone: its serial need not change.
        let data = SOA::new(server, mail, 1, 7200, 1800, 86400, TTL);
        Some(Record::from_rdata(zone, TTL, RData::SOA(data)))
    }

    /// Adds data to a name, which makes all names above it.
    fn add(&mut self, name: String, data: RData) {
        let name = name.to_ascii_lowercase();
        let mut above = name.as_str();
        while let Some((_, rest)) = above.split_once('.')
            && above != self.domain
        {
            if !rest.ends_with(&self.domain) {
                break;
            }
            self.names.entry(rest.to_owned()).or_default();
            above = rest;
        }
        let all = self.names.entry(name).or_default();
        if !all.contains(&data) {
            all.push(data);
        }
    }

    fn add_address(&mut self, name: &str, address: IpAddr) {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        self.add(name.to_owned(), data);
    }

    fn add_reverse(&mut self, address: IpAddr, name: &str) {
        if let Some(name) = named(name) {
            self.add(reverse(address), RData::PTR(PTR(name)));
        }
    }

    /// Puts the names that pods have chosen before those made of their addresses: most programs take the first.
    fn sort_reverse(&mut self) {
        let is_made = |data: &RData| match data {
            RData::PTR(PTR(name)) => {
                name.iter().next().and_then(|label| str::from_utf8(label).ok()).is_some_and(is_dashed)
            }
            _ => false,
        };
        for (_, all) in self.names.iter_mut().filter(|(name, _)| is_reverse(name)) {
            all.sort_by_key(is_made);
        }
    }

    fn add_port(&mut self, service: &str, port: &str, protocol: Option<&str>, number: i32, target: &str) {
        let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
        if let (false, Ok(number), Some(target)) = (port.is_empty(), u16::try_from(number), named(target)) {
            self.add(format!("_{port}._{protocol}.{service}"), RData::SRV(SRV::new(0, 100, number, target)));
        }
    }

    fn service(&mut self, name: &str, service: &Service, slices: &[&EndpointSlice]) {
        let Some(spec) = &service.spec else { return };
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = spec.external_name.as_deref().and_then(named) {
                self.add(name.to_owned(), RData::CNAME(CNAME(target)));
            }
            return;
        }
        let all = spec.publish_not_ready_addresses == Some(true);
        if spec.cluster_ip.as_deref() == Some("None") {
            return self.headless(name, all, slices);
        }
        let second = spec.cluster_ips.iter().flatten().filter(|ip| Some(*ip) != spec.cluster_ip.as_ref());
        let addresses = spec.cluster_ip.iter().chain(second).filter_map(|ip| ip.parse::<IpAddr>().ok());
        let addresses: Vec<IpAddr> = addresses.collect();
        if addresses.is_empty() {
            return;
        }
        self.endpoints(name, all, slices);
        for address in addresses {
            self.add_address(name, address);
            self.add_reverse(address, name);
        }
        for port in spec.ports.iter().flatten() {
            let port_name = port.name.as_deref().unwrap_or("");
            self.add_port(name, port_name, port.protocol.as_deref(), port.port, name);
        }
    }

    fn headless(&mut self, name: &str, all: bool, slices: &[&EndpointSlice]) {
        // The service is there even while nothing answers for it.
        self.names.entry(name.to_ascii_lowercase()).or_default();
        self.endpoints(name, all, slices);
        for (slice, address, host) in hosts(name, all, slices) {
            self.add_address(name, address);
            for port in slice.ports.iter().flatten() {
                let (port_name, number) = (port.name.as_deref().unwrap_or(""), port.port.unwrap_or(0));
                self.add_port(name, port_name, port.protocol.as_deref(), number, &host);
            }
        }
    }

    /// Names of single endpoints. The specification wants them for headless services; CoreDNS has them for all.
    fn endpoints(&mut self, name: &str, all: bool, slices: &[&EndpointSlice]) {
        for (_, address, host) in hosts(name, all, slices) {
            self.add_address(&host, address);
            self.add_reverse(address, &host);
        }
    }

    fn pod(&mut self, pod: &Pod) {
        let status = pod.status.as_ref();
        // A finished pod's address may already be another's.
        let over = status.is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        let (false, Some(status), Some(namespace)) = (over, status, &pod.metadata.namespace) else { return };
        let second = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
        let second = second.filter(|ip| Some(*ip) != status.pod_ip.as_ref());
        for address in status.pod_ip.iter().chain(second).filter_map(|ip| ip.parse().ok()) {
            self.add_address(&format!("{}.{namespace}.pod.{}", dashed(address), self.domain), address);
        }
    }
}

/// The endpoints that answer for a service: the slice of each, its address and its name.
fn hosts<'a>(
    service: &str,
    all: bool,
    slices: &[&'a EndpointSlice],
) -> impl Iterator<Item = (&'a EndpointSlice, IpAddr, String)> {
    slices.iter().copied().flat_map(move |slice| {
        let endpoints = slice.endpoints.iter().flatten().filter(move |endpoint| all || is_ready(endpoint));
        endpoints.flat_map(move |endpoint| {
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
            addresses.map(move |address| {
                let host = endpoint.hostname.clone().unwrap_or_else(|| dashed(address));
                (slice, address, format!("{host}.{service}"))
            })
        })
    })
}

fn named(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// An address as a label.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// Whether a label is an address.
fn is_dashed(label: &str) -> bool {
    label.replace('-', ".").parse::<Ipv4Addr>().is_ok() || label.replace('-', ":").parse::<Ipv6Addr>().is_ok()
}

/// The name that leads from an address back.
fn reverse(address: IpAddr) -> String {
    let [v4, v6] = REVERSE;
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}{v4}")
        }
        IpAddr::V6(address) => {
            let digits: Vec<String> =
                (0..32).map(|n| format!("{:x}", address.to_bits() >> (4 * n) & 0xf)).collect();
            format!("{}{v6}", digits.join("."))
        }
    }
}

fn is_reverse(name: &str) -> bool {
    REVERSE.iter().any(|end| name.ends_with(end))
}

/// An unknown readiness counts as ready (k8s.io/api discovery/v1 `EndpointConditions`).
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<K: serde::de::DeserializeOwned>(values: Vec<Value>) -> Vec<Arc<K>> {
        values.into_iter().map(|value| Arc::new(serde_json::from_value(value).unwrap())).collect()
    }

    fn service(name: &str, spec: Value) -> Value {
        json!({"metadata": {"namespace": "shop", "name": name}, "spec": spec})
    }

    fn zone() -> Zone {
        let services = read(vec![
            service(
                "web",
                json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}, {"port": 81}]}),
            ),
            service("bare", json!({"clusterIP": "10.96.0.9"})),
            service("db", json!({"clusterIP": "None"})),
            service("all", json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
            service("empty", json!({"clusterIP": "None"})),
            service("out", json!({"type": "ExternalName", "externalName": "example.org"})),
        ]);
        let slice = |service: &str| {
            json!({"metadata": {"namespace": "shop", "name": service, "labels": {SERVICE_NAME: service}},
            "addressType": "IPv4", "ports": [{"name": "sql", "port": 3306, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.244.0.2"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.244.0.3"], "conditions": {}},
                {"addresses": ["10.244.0.4"], "conditions": {"ready": false}}]})
        };
        let mut bare = slice("bare");
        bare["endpoints"] = json!([{"addresses": ["10.244.0.2"]}]);
        let pods = read(vec![
            json!({"metadata": {"namespace": "shop", "name": "p"}, "status": {"podIP": "10.244.0.9"}}),
            json!({"metadata": {"namespace": "shop", "name": "q"}, "status": {"podIP": "10.244.0.8", "phase": "Failed"}}),
        ]);
        Zone::build(
            "cluster.local",
            &services,
            &read(vec![slice("db"), slice("all"), slice("web"), bare]),
            &pods,
        )
    }

    fn shown(name: &str, kind: RecordType) -> Vec<String> {
        texts(zone().answer(&Name::from_ascii(name).unwrap(), kind))
    }

    fn texts(answer: Answer) -> Vec<String> {
        match answer {
            Answer::Records(records) => records.iter().map(|record| record.data.to_string()).collect(),
            Answer::NoData(_) => vec!["no data".into()],
            Answer::NoSuchName(_) => vec!["no such name".into()],
            Answer::NotOurs => vec!["not ours".into()],
        }
    }

    #[test]
    fn questions_and_answers() {
        use RecordType::{A, AAAA, CNAME, PTR, SRV, TXT};
        let cases: &[(&str, RecordType, &[&str])] = &[
            ("web.shop.svc.cluster.local.", A, &["10.96.0.7"]),
            ("WEB.Shop.svc.CLUSTER.local.", A, &["10.96.0.7"]),
            ("web.shop.svc.cluster.local.", AAAA, &["no data"]),
            ("_http._tcp.web.shop.svc.cluster.local.", SRV, &["0 100 80 web.shop.svc.cluster.local."]),
            ("_tcp.web.shop.svc.cluster.local.", SRV, &["no data"]),
            ("_https._tcp.web.shop.svc.cluster.local.", SRV, &["no such name"]),
            ("7.0.96.10.in-addr.arpa.", PTR, &["web.shop.svc.cluster.local."]),
            ("8.0.96.10.in-addr.arpa.", PTR, &["not ours"]),
            ("db.shop.svc.cluster.local.", A, &["10.244.0.2", "10.244.0.3"]),
            ("all.shop.svc.cluster.local.", A, &["10.244.0.2", "10.244.0.3", "10.244.0.4"]),
            ("empty.shop.svc.cluster.local.", A, &["no data"]),
            ("db-0.db.shop.svc.cluster.local.", A, &["10.244.0.2"]),
            ("10-244-0-3.db.shop.svc.cluster.local.", A, &["10.244.0.3"]),
            ("10-244-0-4.db.shop.svc.cluster.local.", A, &["no such name"]),
            (
                "_sql._tcp.db.shop.svc.cluster.local.",
                SRV,
                &[
                    "0 100 3306 db-0.db.shop.svc.cluster.local.",
                    "0 100 3306 10-244-0-3.db.shop.svc.cluster.local.",
                ],
            ),
            (
                "2.0.244.10.in-addr.arpa.",
                PTR,
                &[
                    "db-0.web.shop.svc.cluster.local.",
                    "db-0.db.shop.svc.cluster.local.",
                    "db-0.all.shop.svc.cluster.local.",
                    "10-244-0-2.bare.shop.svc.cluster.local.",
                ],
            ),
            // As CoreDNS has it, endpoints of every service have names.
            ("db-0.web.shop.svc.cluster.local.", A, &["10.244.0.2"]),
            ("10-244-0-4.web.shop.svc.cluster.local.", A, &["no such name"]),
            ("_sql._tcp.web.shop.svc.cluster.local.", SRV, &["no such name"]),
            ("out.shop.svc.cluster.local.", A, &["example.org."]),
            ("out.shop.svc.cluster.local.", CNAME, &["example.org."]),
            ("10-244-0-9.shop.pod.cluster.local.", A, &["10.244.0.9"]),
            ("10-244-0-8.shop.pod.cluster.local.", A, &["no such name"]),
            ("dns-version.cluster.local.", TXT, &["1.1.0"]),
            ("shop.svc.cluster.local.", A, &["no data"]),
            ("cluster.local.", A, &["no data"]),
            ("none.shop.svc.cluster.local.", A, &["no such name"]),
            ("example.org.svc.cluster.local.", A, &["no such name"]),
            ("notcluster.local.", A, &["not ours"]),
            ("example.org.", A, &["not ours"]),
            ("local.", A, &["not ours"]),
        ];
        for (name, kind, expected) in cases {
            assert_eq!(&shown(name, *kind), expected, "{name} {kind}");
        }
    }

    #[test]
    fn negative_answers_carry_the_authority_and_a_short_life() {
        let Answer::NoSuchName(record) =
            zone().answer(&Name::from_ascii("x.cluster.local.").unwrap(), RecordType::A)
        else {
            panic!("the name exists");
        };
        assert_eq!((record.record_type(), record.ttl), (RecordType::SOA, TTL));
        let name = Name::from_ascii("_http._tcp.web.shop.svc.cluster.local.").unwrap();
        let Answer::Records(records) = zone().answer(&name, RecordType::SRV) else { panic!("no records") };
        assert_eq!(zone().additional(&records).len(), 1);
    }

    #[test]
    fn names_have_the_addresses_of_both_families() {
        use RecordType::{A, AAAA, PTR, SRV};
        let services = read(vec![
            service(
                "web",
                json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00:10:96::7"],
                       "ports": [{"name": "http", "port": 80}]}),
            ),
            service("six", json!({"clusterIP": "fd00:10:96::8", "clusterIPs": ["fd00:10:96::8"]})),
            service("db", json!({"clusterIP": "None"})),
        ]);
        let slice = |family: &str, named: &str, unnamed: &str| {
            json!({"metadata": {"namespace": "shop", "name": family, "labels": {SERVICE_NAME: "db"}},
            "addressType": family, "ports": [{"name": "sql", "port": 3306, "protocol": "TCP"}],
            "endpoints": [{"addresses": [named], "hostname": "db-0"}, {"addresses": [unnamed]}]})
        };
        let slices = read(vec![
            slice("IPv4", "10.244.0.2", "10.244.0.3"),
            slice("IPv6", "fd00:10:244::2", "fd00:10:244::3"),
        ]);
        let pods = read(vec![json!({"metadata": {"namespace": "shop", "name": "p"}, "status":
            {"podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}, {"ip": "fd00:10:244::9"}]}})]);
        let zone = Zone::build("cluster.local", &services, &slices, &pods);
        let back = |address: &str| format!("{}.", reverse(address.parse().unwrap()));
        assert_eq!(
            back("fd00:10:96::7"),
            "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa."
        );
        for (name, kind, expected) in [
            ("web.shop.svc.cluster.local.".to_owned(), A, &["10.96.0.7"][..]),
            ("web.shop.svc.cluster.local.".into(), AAAA, &["fd00:10:96::7"]),
            ("six.shop.svc.cluster.local.".into(), AAAA, &["fd00:10:96::8"]),
            ("six.shop.svc.cluster.local.".into(), A, &["no data"]),
            ("db.shop.svc.cluster.local.".into(), A, &["10.244.0.2", "10.244.0.3"]),
            ("db.shop.svc.cluster.local.".into(), AAAA, &["fd00:10:244::2", "fd00:10:244::3"]),
            ("db-0.db.shop.svc.cluster.local.".into(), AAAA, &["fd00:10:244::2"]),
            ("fd00-10-244--3.db.shop.svc.cluster.local.".into(), AAAA, &["fd00:10:244::3"]),
            ("fd00-10-244--3.db.shop.svc.cluster.local.".into(), A, &["no data"]),
            ("fd00-10-244--9.shop.pod.cluster.local.".into(), AAAA, &["fd00:10:244::9"]),
            ("10-244-0-9.shop.pod.cluster.local.".into(), A, &["10.244.0.9"]),
            ("_http._tcp.web.shop.svc.cluster.local.".into(), SRV, &["0 100 80 web.shop.svc.cluster.local."]),
            (back("fd00:10:96::7"), PTR, &["web.shop.svc.cluster.local."]),
            (back("fd00:10:244::2"), PTR, &["db-0.db.shop.svc.cluster.local."]),
            (back("fd00:10:244::3"), PTR, &["fd00-10-244--3.db.shop.svc.cluster.local."]),
            (back("fd00:10:96::7"), AAAA, &["not ours"]),
            (back("fd00:10:96::9"), PTR, &["not ours"]),
        ] {
            let answer = zone.answer(&Name::from_ascii(&name).unwrap(), kind);
            assert_eq!(texts(answer), expected, "{name} {kind}");
        }
        let Answer::Records(ports) =
            zone.answer(&Name::from_ascii("_http._tcp.web.shop.svc.cluster.local.").unwrap(), SRV)
        else {
            panic!("no records");
        };
        let beside: Vec<String> =
            zone.additional(&ports).iter().map(|record| record.data.to_string()).collect();
        assert_eq!(beside, ["10.96.0.7", "fd00:10:96::7"]);
    }
}
