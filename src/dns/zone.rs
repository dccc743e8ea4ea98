//! The zone of the cluster's domain, a pure function of services, their endpoints and pods.
//!
//! Source of the names: the specification of Kubernetes' DNS-based service discovery, version 1.1.0.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use hickory_proto::rr::rdata::{A, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// Seconds that clients may keep an answer.
pub const TTL: u32 = 5;
/// How the names end that lead from addresses back.
const REVERSE: &str = ".in-addr.arpa";
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
        let reverse = key.ends_with(REVERSE);
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
        let addresses = targets.into_iter().filter_map(|target| match self.answer(target, RecordType::A) {
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

    fn add_address(&mut self, name: &str, address: Ipv4Addr) {
        self.add(name.to_owned(), RData::A(A(address)));
    }

    fn add_reverse(&mut self, address: Ipv4Addr, name: &str) {
        let [a, b, c, d] = address.octets();
        if let Some(name) = named(name) {
            self.add(format!("{d}.{c}.{b}.{a}{REVERSE}"), RData::PTR(PTR(name)));
        }
    }

    /// Puts the names that pods have chosen before those made of their addresses: most programs take the first.
    fn sort_reverse(&mut self) {
        let is_made = |data: &RData| match data {
            RData::PTR(PTR(name)) => name
                .iter()
                .next()
                .is_some_and(|label| label.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-')),
            _ => false,
        };
        for (_, all) in self.names.iter_mut().filter(|(name, _)| name.ends_with(REVERSE)) {
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
        match spec.cluster_ip.as_deref() {
            Some("None") => self.headless(name, all, slices),
            Some(address) => {
                let Ok(address) = address.parse() else { return };
                self.endpoints(name, all, slices);
                self.add_address(name, address);
                self.add_reverse(address, name);
                for port in spec.ports.iter().flatten() {
                    let port_name = port.name.as_deref().unwrap_or("");
                    self.add_port(name, port_name, port.protocol.as_deref(), port.port, name);
                }
            }
            None => {}
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
        let address = status.and_then(|s| s.pod_ip.as_deref()?.parse().ok());
        if let (false, Some(address), Some(namespace)) = (over, address, &pod.metadata.namespace) {
            self.add_address(&format!("{}.{namespace}.pod.{}", dashed(address), self.domain), address);
        }
    }
}

/// The endpoints that answer for a service: the slice of each, its address and its name.
fn hosts<'a>(
    service: &str,
    all: bool,
    slices: &[&'a EndpointSlice],
) -> impl Iterator<Item = (&'a EndpointSlice, Ipv4Addr, String)> {
    let slices = slices.iter().copied().filter(|slice| slice.address_type == "IPv4");
    slices.flat_map(move |slice| {
        let endpoints = slice.endpoints.iter().flatten().filter(move |endpoint| all || is_ready(endpoint));
        endpoints.flat_map(move |endpoint| {
            let addresses = endpoint.addresses.iter().filter_map(|text| text.parse::<Ipv4Addr>().ok());
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

fn dashed(address: Ipv4Addr) -> String {
    address.to_string().replace('.', "-")
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
        match zone().answer(&Name::from_ascii(name).unwrap(), kind) {
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
}
