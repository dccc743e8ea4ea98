//! Service addresses and node ports: who has which, and who gets which next.
//!
//! The tables live in memory and are rebuilt from the stored services at start. A write takes what it needs
//! in a [`Reservation`], which gives everything back when the write is refused. What a write had to do with whose end
//! nobody knows is in doubt, and stays taken until the store can say.
//! Bands and messages are those of Kubernetes' `pkg/registry/core/service/{ipallocator,portallocator}`.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::families;
use crate::api::kinds::Kind;
use crate::api::status::FieldError;

/// Kubernetes' default `--service-node-port-range`.
pub const NODE_PORTS: RangeInclusive<u16> = 30000..=32767;

/// An IPv4 range from which services get their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRange {
    base: u32,
    prefix: u8,
}

impl ServiceRange {
    /// `10.96.0.0/12`; `None` when it is no IPv4 network of at least two usable addresses.
    pub fn parse(cidr: &str) -> Option<ServiceRange> {
        let (address, prefix) = cidr.split_once('/')?;
        let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
        let prefix: u8 = prefix.parse().ok().filter(|p| (8..=30).contains(p))?;
        Some(ServiceRange { base: address & (u32::MAX << (32 - prefix)), prefix })
    }

    fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    /// The `n`th address; the first usable one (1) is the `kubernetes` service's.
    pub fn nth(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base.saturating_add(n))
    }

    /// Neither network nor broadcast address, but within.
    fn holds(self, address: Ipv4Addr) -> bool {
        let n = u32::from(address).wrapping_sub(self.base);
        n > 0 && n < self.size() - 1
    }

    /// The lower band is given out automatically only when the upper is used up, so that it stays free for
    /// addresses chosen by people.
    fn reserved(self) -> u32 {
        (self.size() / 16).clamp(16, 256).min(self.size() - 2)
    }
}

impl std::fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<Ipv4Addr>,
    ports: HashSet<u16>,
}

impl Taken {
    /// What a stored service has.
    fn of(service: &Value) -> Taken {
        Taken {
            addresses: address(service).into_iter().collect(),
            ports: node_ports(service).into_iter().collect(),
        }
    }

    fn add(&mut self, more: Taken) {
        self.addresses.extend(more.addresses);
        self.ports.extend(more.ports);
    }

    fn remove(&mut self, what: &Taken) {
        for address in &what.addresses {
            self.addresses.remove(address);
        }
        for port in &what.ports {
            self.ports.remove(port);
        }
    }
}

#[derive(Debug, Default)]
struct Tables {
    taken: Taken,
    /// What of it may be nobody's.
    doubtful: Taken,
    /// How often anything came into doubt.
    doubts: u64,
}

/// The tables of one cluster.
#[derive(Debug)]
pub struct Allocator {
    range: ServiceRange,
    tables: Mutex<Tables>,
}

/// What a write took, and what it will free; dropped without [`commit`](Reservation::commit) or
/// [`keep`](Reservation::keep), it gives back what it took.
#[must_use]
pub struct Reservation {
    allocator: Arc<Allocator>,
    gained: Taken,
    lost: Taken,
}

impl Reservation {
    /// The write succeeded: what the object no longer has is free.
    pub fn commit(mut self) {
        self.gained = Taken::default();
        self.allocator.give_back(&self.lost);
    }

    /// Nobody knows whether the write succeeded: nothing of it may be given to somebody else.
    pub fn keep(mut self) {
        let mut tables = self.allocator.tables();
        tables.doubtful.add(std::mem::take(&mut self.gained));
        tables.doubtful.add(std::mem::take(&mut self.lost));
        tables.doubts += 1;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.allocator.give_back(&self.gained);
    }
}

impl Allocator {
    /// Tables for `range`, in which what these services have is taken.
    pub fn new<'a>(range: ServiceRange, services: impl Iterator<Item = &'a Value>) -> Allocator {
        let mut taken = Taken::default();
        services.for_each(|service| taken.add(Taken::of(service)));
        Allocator { range, tables: Mutex::new(Tables { taken, ..Tables::default() }) }
    }

    /// The range that addresses come from.
    pub fn range(&self) -> ServiceRange {
        self.range
    }

    /// What the removal of a service will free.
    pub fn release(self: &Arc<Self>, service: &Value) -> Reservation {
        Reservation { allocator: self.clone(), gained: Taken::default(), lost: Taken::of(service) }
    }

    /// A mark for [`settle`](Self::settle) when anything is in doubt.
    pub fn doubts(&self) -> Option<u64> {
        let tables = self.tables();
        let none = tables.doubtful.addresses.is_empty() && tables.doubtful.ports.is_empty();
        (!none).then_some(tables.doubts)
    }

    /// Ends the doubts: what none of these services has is free. They must be those that there were after all writes
    /// that came into doubt up to `mark` had come to their ends.
    pub fn settle<'a>(&self, mark: u64, services: impl Iterator<Item = &'a Value>) {
        let mut tables = self.tables();
        if tables.doubts != mark {
            return;
        }
        let mut free = std::mem::take(&mut tables.doubtful);
        services.for_each(|service| free.remove(&Taken::of(service)));
        tables.taken.remove(&free);
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self, what: &Taken) {
        let mut tables = self.tables();
        tables.taken.remove(what);
        tables.doubtful.remove(what);
    }

    /// Takes what `new` needs beyond what `old` has, and writes it into `new`.
    pub fn reserve(
        self: &Arc<Self>,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Vec<FieldError>> {
        let mut reservation =
            Reservation { allocator: self.clone(), gained: Taken::default(), lost: Taken::default() };
        families::set(new, old)?;
        let old_address = old.and_then(address);
        let old_health = old.and_then(health_port);
        let old_ports: HashSet<u16> = old.map(node_ports).unwrap_or_default().into_iter().collect();
        {
            let taken = &mut self.tables().taken;
            self.take_address(taken, &mut reservation.gained, new, old_address)?;
            take_ports(taken, &mut reservation.gained, new, (&old_ports, old_health))?;
        }
        let new_ports: HashSet<u16> = node_ports(new).into_iter().collect();
        reservation.lost.ports = old_ports.difference(&new_ports).copied().collect();
        reservation.lost.addresses = old_address.filter(|a| address(new) != Some(*a)).into_iter().collect();
        Ok(reservation)
    }

    fn take_address(
        &self,
        taken: &mut Taken,
        gained: &mut Taken,
        service: &mut Value,
        had: Option<Ipv4Addr>,
    ) -> Result<(), Vec<FieldError>> {
        if service["spec"]["type"] == "ExternalName" {
            return Ok(());
        }
        let asked = asked_address(service);
        let address = match asked.as_deref() {
            Some("None") => {
                service["spec"]["clusterIP"] = json!("None");
                service["spec"]["clusterIPs"] = json!(["None"]);
                return Ok(());
            }
            Some(text) => {
                let refused = |why: String| {
                    let detail = format!("failed to allocate IP {text}: {why}");
                    vec![FieldError::invalid("spec.clusterIPs", &json!([text]), &detail)]
                };
                let Ok(address) = text.parse::<Ipv4Addr>() else {
                    return Err(vec![FieldError::invalid(
                        "spec.clusterIPs[0]",
                        &json!(text),
                        "must be a valid IPv4 address",
                    )]);
                };
                if had != Some(address) {
                    if !self.range.holds(address) {
                        return Err(refused(format!(
                            "the provided IP ({text}) is not in the valid range. The range of valid IPs is {}",
                            self.range
                        )));
                    }
                    if !taken.addresses.insert(address) {
                        return Err(refused("provided IP is already allocated".into()));
                    }
                    gained.addresses.insert(address);
                }
                address
            }
            None => {
                let address = self.free_address(taken).ok_or_else(|| {
                    let detail = "failed to allocate a serviceIP: range is full";
                    vec![FieldError::invalid("spec.clusterIPs", &json!([]), detail)]
                })?;
                taken.addresses.insert(address);
                gained.addresses.insert(address);
                address
            }
        };
        service["spec"]["clusterIP"] = json!(address.to_string());
        service["spec"]["clusterIPs"] = json!([address.to_string()]);
        Ok(())
    }

    fn free_address(&self, taken: &Taken) -> Option<Ipv4Addr> {
        let (size, reserved) = (self.range.size(), self.range.reserved());
        free(reserved..size - 1, |n| taken.addresses.contains(&self.range.nth(n)))
            .or_else(|| free(1..reserved, |n| taken.addresses.contains(&self.range.nth(n))))
            .map(|n| self.range.nth(n))
    }
}

/// A free number of a range, looked for from a random place so that addresses are not used again at once.
fn free(range: std::ops::Range<u32>, is_taken: impl Fn(u32) -> bool) -> Option<u32> {
    let count = range.end.checked_sub(range.start).filter(|count| *count > 0)?;
    let mut random = [0u8; 4];
    // Without random bytes the search begins at the start, which is as correct.
    let _ = getrandom::fill(&mut random);
    let first = u32::from_le_bytes(random) % count;
    (0..count).map(|i| range.start + (first + i) % count).find(|n| !is_taken(*n))
}

fn take_ports(
    taken: &mut Taken,
    gained: &mut Taken,
    service: &mut Value,
    (had, had_health): (&HashSet<u16>, Option<u16>),
) -> Result<(), Vec<FieldError>> {
    // A port that is asked after a service is no port of it.
    take_health_port(taken, gained, service, had_health)?;
    if !has_node_ports(service) {
        return Ok(());
    }
    let wants = wants_node_ports(service);
    let Some(ports) = service["spec"]["ports"].as_array_mut() else { return Ok(()) };
    let mut mine: HashSet<u16> = had.iter().copied().filter(|port| Some(*port) != had_health).collect();
    for (i, port) in ports.iter_mut().enumerate() {
        let asked = port["nodePort"].as_u64().unwrap_or(0);
        if asked == 0 {
            continue;
        }
        // One port may serve TCP and UDP of the same service.
        take_port(taken, gained, &mut mine, asked, &format!("spec.ports[{i}].nodePort"))?;
    }
    for (i, port) in ports.iter_mut().enumerate().filter(|_| wants) {
        if port["nodePort"].as_u64().unwrap_or(0) != 0 {
            continue;
        }
        let Some(number) = free_port(taken, gained) else {
            let detail = "failed to allocate a nodePort: range is full";
            return Err(vec![FieldError::invalid(format!("spec.ports[{i}].nodePort"), &json!(0), detail)]);
        };
        port["nodePort"] = json!(number);
    }
    Ok(())
}

/// The port by which load balancers ask after a service comes from the same range.
fn take_health_port(
    taken: &mut Taken,
    gained: &mut Taken,
    service: &mut Value,
    had: Option<u16>,
) -> Result<(), Vec<FieldError>> {
    const FIELD: &str = "spec.healthCheckNodePort";
    if !is_checked(service) {
        return Ok(());
    }
    match service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) {
        0 => {
            let Some(number) = free_port(taken, gained) else {
                let detail = "failed to allocate a HealthCheck NodePort: range is full";
                return Err(vec![FieldError::invalid(FIELD, &json!(0), detail)]);
            };
            service["spec"]["healthCheckNodePort"] = json!(number);
            Ok(())
        }
        asked => take_port(taken, gained, &mut had.into_iter().collect(), asked, FIELD),
    }
}

/// Takes a port that a field asks for, unless it is one of the service's own.
fn take_port(
    taken: &mut Taken,
    gained: &mut Taken,
    mine: &mut HashSet<u16>,
    asked: u64,
    field: &str,
) -> Result<(), Vec<FieldError>> {
    let number = u16::try_from(asked).ok().filter(|n| NODE_PORTS.contains(n)).ok_or_else(|| {
        let detail = format!(
            "provided port is not in the valid range. The range of valid ports is {}-{}",
            NODE_PORTS.start(),
            NODE_PORTS.end()
        );
        vec![FieldError::invalid(field, &json!(asked), &detail)]
    })?;
    if mine.insert(number) {
        if !taken.ports.insert(number) {
            let detail = "provided port is already allocated";
            return Err(vec![FieldError::invalid(field, &json!(number), detail)]);
        }
        gained.ports.insert(number);
    }
    Ok(())
}

/// Takes a port that nobody has.
fn free_port(taken: &mut Taken, gained: &mut Taken) -> Option<u16> {
    let (first, last) = (u32::from(*NODE_PORTS.start()), u32::from(*NODE_PORTS.end()) + 1);
    let reserved = first + ((last - first) / 32).clamp(16, 128);
    let is_taken = |n: u32| u16::try_from(n).is_ok_and(|n| taken.ports.contains(&n));
    let found = free(reserved..last, is_taken).or_else(|| free(first..reserved, is_taken));
    let number = u16::try_from(found?).ok()?;
    taken.ports.insert(number);
    gained.ports.insert(number);
    Some(number)
}

/// Whether objects of this kind have addresses and node ports.
pub fn concerns(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

/// Whether a service may have node ports.
fn has_node_ports(service: &Value) -> bool {
    matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

/// Whether it has those too that it does not ask for.
fn wants_node_ports(service: &Value) -> bool {
    let spec = &service["spec"];
    has_node_ports(service)
        && (spec["type"] != "LoadBalancer" || spec["allocateLoadBalancerNodePorts"] != false)
}

/// Whether load balancers ask on a port of its own whether a service has endpoints on the node.
fn is_checked(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// The port on which they ask.
fn health_port(service: &Value) -> Option<u16> {
    let port = service["spec"]["healthCheckNodePort"].as_u64()?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// The address that the spec asks for, in either of its two fields.
fn asked_address(service: &Value) -> Option<String> {
    let spec = &service["spec"];
    let of = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    of(&spec["clusterIP"]).or_else(|| of(&spec["clusterIPs"][0]))
}

/// The address that a stored service has.
fn address(service: &Value) -> Option<Ipv4Addr> {
    asked_address(service)?.parse().ok()
}

/// The ports of the node that a stored service has.
fn node_ports(service: &Value) -> Vec<u16> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|p| p["nodePort"].as_u64())
        .filter_map(|n| u16::try_from(n).ok())
        .filter(|n| *n > 0)
        .chain(health_port(service))
        .collect()
}

/// Carries the ports that were allocated over into an update that leaves them out, and drops those that a change of type
/// makes meaningless (`patchAllocatedValues` and `dropTypeDependentFields`).
pub fn carry(new: &mut Value, old: &Value) {
    let name = |port: &Value| port["name"].as_str().unwrap_or("").to_owned();
    let number = |port: &Value| port["nodePort"].as_u64().filter(|number| *number > 0);
    let ports = |service: &Value| service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let before: HashMap<String, u64> =
        ports(old).iter().filter_map(|port| Some((name(port), number(port)?))).collect();
    let mut given: HashSet<u64> = ports(new).iter().filter_map(number).collect();
    let (has, had) = (has_node_ports(new), has_node_ports(old));
    // Who changes a type and the ports at once is told what is wrong with them.
    let drops = had && !has && given.iter().all(|number| before.values().any(|before| before == number));
    for port in new["spec"]["ports"].as_array_mut().into_iter().flatten() {
        let kept = before.get(&name(port)).copied();
        let asked = number(port);
        let Some(fields) = port.as_object_mut() else { continue };
        if drops {
            fields.remove("nodePort");
        } else if let (true, None, Some(kept)) = (has && had, asked, kept)
            && given.insert(kept)
        {
            fields.insert("nodePort".into(), kept.into());
        }
    }
    if is_checked(new) && is_checked(old) && health_port(new).is_none() && health_port(old).is_some() {
        new["spec"]["healthCheckNodePort"] = old["spec"]["healthCheckNodePort"].clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> Arc<Allocator> {
        Arc::new(Allocator::new(ServiceRange::parse("10.96.0.0/24").unwrap(), std::iter::empty()))
    }

    fn service(spec: Value) -> Value {
        json!({"spec": spec})
    }

    #[test]
    fn automatic_addresses_leave_the_lower_band_to_people() {
        let allocator = allocator();
        let mut seen = HashSet::new();
        for n in 0..254 {
            let mut new = service(json!({"type": "ClusterIP"}));
            allocator.reserve(&mut new, None).unwrap().commit();
            let address = address(&new).unwrap();
            assert!(seen.insert(address));
            let low = u32::from(address) - u32::from(Ipv4Addr::new(10, 96, 0, 0)) < 16;
            assert_eq!(low, n >= 239, "{address} came as number {n}");
            assert_eq!(new["spec"]["ipFamilies"], json!(["IPv4"]));
            assert_eq!(new["spec"]["clusterIPs"], json!([address.to_string()]));
        }
        let errors = allocator.reserve(&mut service(json!({})), None).err().unwrap();
        assert!(errors[0].message.contains("range is full"));
    }

    #[test]
    fn addresses_asked_for_are_given_once() {
        let allocator = allocator();
        let asked = || service(json!({"clusterIP": "10.96.0.10"}));
        drop(allocator.reserve(&mut asked(), None).unwrap());
        allocator.reserve(&mut asked(), None).unwrap().commit();
        let error = allocator.reserve(&mut asked(), None).err().unwrap().remove(0);
        assert_eq!(
            error.to_string(),
            "spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: provided IP is \
             already allocated"
        );
        let error = allocator.reserve(&mut service(json!({"clusterIP": "10.97.0.1"})), None).err().unwrap();
        assert!(error[0].message.ends_with("The range of valid IPs is 10.96.0.0/24"), "{error:?}");
        let mut headless = service(json!({"clusterIP": "None"}));
        allocator.reserve(&mut headless, None).unwrap().commit();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn what_is_in_doubt_is_taken_until_the_store_can_say() {
        let allocator = allocator();
        let asked = |address: &str| service(json!({"clusterIP": address}));
        let keep = |address: &str| allocator.reserve(&mut asked(address), None).unwrap().keep();
        let is_free = |address: &str| allocator.reserve(&mut asked(address), None).is_ok();
        assert_eq!(allocator.doubts(), None);
        keep("10.96.0.1");
        let early = allocator.doubts().unwrap();
        keep("10.96.0.2");
        allocator.settle(early, std::iter::empty());
        assert!(!is_free("10.96.0.1") && !is_free("10.96.0.2"), "the second came into doubt later");
        let there = asked("10.96.0.2");
        allocator.settle(allocator.doubts().unwrap(), std::iter::once(&there));
        assert!(is_free("10.96.0.1") && !is_free("10.96.0.2"));
        assert_eq!(allocator.doubts(), None);
        // What was freed in between may be somebody else's.
        allocator.release(&there).keep();
        let mark = allocator.doubts().unwrap();
        allocator.release(&there).commit();
        let _new = allocator.reserve(&mut asked("10.96.0.2"), None).unwrap();
        allocator.settle(mark, std::iter::empty());
        assert!(!is_free("10.96.0.2"));
    }

    #[test]
    fn node_ports_come_and_go_with_the_type() {
        let allocator = allocator();
        let ports = json!([{"name": "web", "port": 80, "nodePort": 31000}, {"name": "dns", "port": 53}]);
        let mut old = service(json!({"type": "NodePort", "ports": ports}));
        allocator.reserve(&mut old, None).unwrap().commit();
        assert_eq!(node_ports(&old).len(), 2);
        let mut rival = service(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 31000}]}));
        let error = allocator.reserve(&mut rival, None).err().unwrap().remove(0);
        assert_eq!(
            error.to_string(),
            "spec.ports[0].nodePort: Invalid value: 31000: provided port is already allocated"
        );
        let mut same = service(json!({"type": "NodePort", "ports": [{"name": "web", "port": 80}]}));
        carry(&mut same, &old);
        assert_eq!(node_ports(&same), [31000]);
        let mut plain = old.clone();
        plain["spec"]["type"] = json!("ClusterIP");
        carry(&mut plain, &old);
        assert_eq!(node_ports(&plain), Vec::<u16>::new());
        allocator.reserve(&mut plain, Some(&old)).unwrap().commit();
        allocator.reserve(&mut rival, None).unwrap().commit();
    }

    #[test]
    fn ports_stay_with_their_names() {
        let old = service(json!({"type": "NodePort", "ports": [
            {"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30002}]}));
        for (kind, ports, expected) in [
            ("NodePort", json!([{"name": "b", "port": 8081}, {"name": "c", "port": 80}]), vec![30002]),
            (
                "NodePort",
                json!([{"name": "a", "port": 80}, {"name": "b", "port": 1, "nodePort": 30001}]),
                vec![30001],
            ),
            ("LoadBalancer", json!([{"name": "a", "port": 80}]), vec![30001]),
            ("ClusterIP", json!([{"name": "a", "port": 80, "nodePort": 30001}]), vec![]),
            // Validation has a word on this one.
            ("ClusterIP", json!([{"name": "a", "port": 80, "nodePort": 30009}]), vec![30009]),
        ] {
            let mut new = service(json!({"type": kind, "ports": ports}));
            carry(&mut new, &old);
            assert_eq!(node_ports(&new), expected, "{kind} {ports}");
        }
    }

    #[test]
    fn balancers_have_only_the_ports_that_they_need() {
        let allocator = allocator();
        let spec = |allocate: bool, policy: &str, ports: Value| {
            service(json!({"type": "LoadBalancer", "externalTrafficPolicy": policy,
                "allocateLoadBalancerNodePorts": allocate, "ports": ports}))
        };
        let plain = json!([{"port": 80, "protocol": "TCP"}]);
        for (allocate, policy, ports, count) in [
            (true, "Cluster", plain.clone(), 1),
            (false, "Cluster", plain.clone(), 0),
            (true, "Local", plain.clone(), 2),
            (false, "Local", json!([{"port": 80, "nodePort": 31234}]), 2),
        ] {
            let mut new = spec(allocate, policy, ports);
            allocator.reserve(&mut new, None).unwrap().commit();
            assert_eq!(node_ports(&new).len(), count, "{new}");
            assert_eq!(new["spec"]["healthCheckNodePort"].is_u64(), policy == "Local");
        }
        // An update that leaves it out keeps it; one that has no use for it gives it back.
        let mut old = spec(false, "Local", plain.clone());
        allocator.reserve(&mut old, None).unwrap().commit();
        let port = old["spec"]["healthCheckNodePort"].clone();
        let mut new = spec(false, "Local", plain.clone());
        carry(&mut new, &old);
        assert_eq!(new["spec"]["healthCheckNodePort"], port);
        let mut taker = spec(false, "Local", plain.clone());
        taker["spec"]["healthCheckNodePort"] = port.clone();
        assert!(allocator.reserve(&mut taker, None).is_err());
        allocator.reserve(&mut spec(false, "Cluster", plain), Some(&old)).unwrap().commit();
        allocator.reserve(&mut taker, None).unwrap().commit();
    }
}
