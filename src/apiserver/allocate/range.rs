//! Addresses of services: their ranges, one for each family of the cluster, and who gets which.

use std::collections::HashSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::{Supply, Taken, free};
use crate::api::cidr;
use crate::api::status::FieldError;
use crate::apiserver::families::{self, Family, addresses};

/// A range from which services get their addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRange {
    base: IpAddr,
    prefix: u8,
    /// How many addresses it has, as far as they can be counted here.
    size: u64,
}

impl ServiceRange {
    /// One of the cluster's own, `10.96.0.0/12` or `fd00:10:96::/112`; `None` when it is no network of usable addresses, or
    /// too many.
    fn parse(cidr: &str) -> Option<ServiceRange> {
        let range = ServiceRange::of(cidr)?;
        let usable = match range.base {
            IpAddr::V4(_) => (8..=30).contains(&range.prefix),
            // Kubernetes' API server takes none larger than a /108 by its flag.
            IpAddr::V6(_) => (108..=124).contains(&range.prefix),
        };
        usable.then_some(range)
    }

    /// One of a ServiceCIDR. Of IPv6, Kubernetes gives out none from ranges larger than a /64.
    pub fn of(cidr: &str) -> Option<ServiceRange> {
        let (address, prefix) = cidr::parse(cidr).filter(|(base, prefix)| base.is_ipv4() || *prefix >= 64)?;
        let bits = cidr::bits(address) - prefix;
        let size = 1u64.checked_shl(bits.into()).unwrap_or(u64::MAX);
        Some(ServiceRange { base: cidr::masked(address, prefix), prefix, size })
    }

    /// The family of its addresses.
    pub fn family(self) -> Family {
        Family::of(self.base)
    }

    /// The `n`th address; the first usable one (1) of the first range is the `kubernetes` service's.
    pub fn nth(self, n: u64) -> IpAddr {
        match self.base {
            IpAddr::V4(base) => {
                let n = u32::try_from(n).unwrap_or(u32::MAX);
                IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().saturating_add(n)))
            }
            IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().saturating_add(n.into()))),
        }
    }

    /// The first number past the usable ones: IPv4 has a broadcast address at the end.
    fn end(self) -> u64 {
        match self.family() {
            Family::V4 => self.size - 1,
            Family::V6 => self.size,
        }
    }

    /// Neither network nor broadcast address, but within.
    fn holds(self, address: IpAddr) -> bool {
        cidr::has_host(self.base, self.prefix, address)
    }

    /// The lower band is given out automatically only when the upper is used up, so that it stays free for
    /// addresses chosen by people.
    fn reserved(self) -> u64 {
        (self.size / 16).clamp(16, 256).min(self.size.saturating_sub(2))
    }

    /// An address of it that nobody has.
    fn free(self, is_taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let is_taken = |n| is_taken(self.nth(n));
        let found =
            free(self.reserved()..self.end(), is_taken).or_else(|| free(1..self.reserved(), is_taken));
        found.map(|n| self.nth(n))
    }
}

impl Supply<'_> {
    /// Takes an address of a family that nobody has.
    fn take(self, family: Family, taken: &mut Taken, gained: &mut Taken) -> Result<IpAddr, Vec<FieldError>> {
        let is_taken = |address| taken.addresses.contains(&address) || (self.held)(address);
        let mut ranges = self.ranges.iter().filter(|range| range.family() == family);
        let address = ranges.find_map(|range| range.free(is_taken)).ok_or_else(|| {
            let detail = "failed to allocate a serviceIP: range is full";
            vec![FieldError::invalid("spec.clusterIPs", &json!([]), detail)]
        })?;
        taken.addresses.insert(address);
        gained.addresses.insert(address);
        Ok(address)
    }

    /// Takes the address that is asked for; why not, if that cannot be.
    fn take_this(self, address: IpAddr, taken: &mut Taken, gained: &mut Taken) -> Result<(), &'static str> {
        if !self.ranges.iter().any(|range| range.holds(address)) {
            return Err("the provided network does not match the current range");
        }
        if (self.held)(address) || !taken.addresses.insert(address) {
            return Err("provided IP is already allocated");
        }
        gained.addresses.insert(address);
        Ok(())
    }
}

impl fmt::Display for ServiceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// The ranges of a cluster: that of its first family, and that of the other where it has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRanges {
    first: ServiceRange,
    second: Option<ServiceRange>,
}

impl ServiceRanges {
    /// `10.96.0.0/12` or `10.96.0.0/12,fd00:10:96::/112`; `None` when it is not one range, or two of two families.
    pub fn parse(cidrs: &str) -> Option<ServiceRanges> {
        let mut cidrs = cidrs.split(',').map(|cidr| ServiceRange::parse(cidr.trim()));
        let first = cidrs.next()??;
        let second = match cidrs.next() {
            Some(second) => Some(second.filter(|range| range.family() != first.family())?),
            None => None,
        };
        cidrs.next().is_none().then_some(ServiceRanges { first, second })
    }

    /// That of the first family.
    pub fn first(&self) -> ServiceRange {
        self.first
    }

    /// All, in order.
    pub fn all(&self) -> impl Iterator<Item = ServiceRange> {
        std::iter::once(self.first).chain(self.second)
    }

    /// Their families.
    pub fn families(&self) -> Vec<Family> {
        self.all().map(ServiceRange::family).collect()
    }
}

/// Gives a service the addresses that are stored of it, in both fields for them, whatever the cluster would give it today.
pub(super) fn keep_addresses(service: &mut Value, stored: &Value) {
    for field in ["clusterIP", "clusterIPs"] {
        match stored["spec"].get(field) {
            Some(value) => service["spec"][field] = value.clone(),
            None => _ = service["spec"].as_object_mut().map(|spec| spec.remove(field)),
        }
    }
}

/// Takes an address of each of the service's families unless it had one, and writes them into it.
pub(super) fn take_addresses(
    supply: Supply<'_>,
    taken: &mut Taken,
    gained: &mut Taken,
    service: &mut Value,
    had: &HashSet<IpAddr>,
) -> Result<(), Vec<FieldError>> {
    if service["spec"]["type"] == "ExternalName" {
        return Ok(());
    }
    let mut given = addresses(service);
    if given.first().is_some_and(|first| first == "None") {
        service["spec"]["clusterIP"] = json!("None");
        service["spec"]["clusterIPs"] = json!(["None"]);
        return Ok(());
    }
    let families = families::of(service);
    // One that is not given is to be found.
    given.resize(families.len(), String::new());
    for (i, family) in families.iter().enumerate() {
        let asked: Option<IpAddr> = given[i].parse().ok();
        if asked.is_some_and(|asked| had.contains(&asked)) {
            continue;
        }
        match asked {
            None => given[i] = supply.take(*family, taken, gained)?.to_string(),
            Some(asked) => supply.take_this(asked, taken, gained).map_err(|why| {
                let detail = format!("failed to allocate IP {}: {why}", given[i]);
                vec![FieldError::invalid("spec.clusterIPs", &json!(given), &detail)]
            })?,
        }
    }
    service["spec"]["clusterIP"] = json!(given.first());
    service["spec"]["clusterIPs"] = json!(given);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::allocate::Allocator;
    use crate::apiserver::allocate::testing::{allocator, service};
    use std::sync::Arc;

    #[test]
    fn automatic_addresses_leave_the_lower_band_to_people() {
        let allocator = allocator();
        let mut seen = HashSet::new();
        for n in 0..254 {
            let mut new = service(json!({"type": "ClusterIP"}));
            allocator.reserve(&mut new, None).unwrap().commit();
            let address: Ipv4Addr = addresses(&new)[0].parse().unwrap();
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
    fn addresses_that_are_held_are_not_for_services() {
        let allocator = allocator();
        let held = |address: IpAddr| address != IpAddr::from([10, 96, 0, 77]);
        let ranges: Vec<ServiceRange> = allocator.ranges().all().collect();
        let supply = Supply { ranges: &ranges, held: &held };
        let mut new = service(json!({"type": "ClusterIP"}));
        let reservation = allocator.reserve_from(supply, &mut new, None).unwrap();
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.77");
        assert_eq!(reservation.taken().iter().collect::<Vec<_>>(), [&IpAddr::from([10, 96, 0, 77])]);
        let mut asked = service(json!({"clusterIP": "10.96.0.9"}));
        let error = allocator.reserve_from(supply, &mut asked, None).err().unwrap()[0].to_string();
        assert!(
            error.ends_with("failed to allocate IP 10.96.0.9: provided IP is already allocated"),
            "{error}"
        );
    }

    #[test]
    fn what_an_older_minik_stored_can_still_be_written() {
        let allocator = allocator();
        for (policy, families) in [
            ("PreferDualStack", ["IPv4", "IPv6"]),
            ("SingleStack", ["IPv6", "IPv4"]),
            ("SingleStack", ["IPv4"; 2]),
        ] {
            let stored =
                service(json!({"type": "ClusterIP", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
                                        "ipFamilyPolicy": policy, "ipFamilies": families}));
            let mut new = stored.clone();
            new["spec"]["sessionAffinity"] = json!("ClientIP");
            allocator.reserve(&mut new, Some(&stored)).unwrap().commit();
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                assert_eq!(new["spec"][field], stored["spec"][field], "{families:?} {field}");
            }
        }
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
        assert!(
            error[0].message.ends_with("the provided network does not match the current range"),
            "{error:?}"
        );
        let mut headless = service(json!({"clusterIP": "None"}));
        allocator.reserve(&mut headless, None).unwrap().commit();
        assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn each_family_has_its_range() {
        let ranges = ServiceRanges::parse("10.96.0.0/24,fd00:10:96::/112").unwrap();
        let allocator = Arc::new(Allocator::new(ranges, std::iter::empty()));
        let mut both = service(json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": "10.96.0.10"}));
        allocator.reserve(&mut both, None).unwrap().commit();
        let got = addresses(&both);
        let second: Ipv6Addr = got[1].parse().unwrap();
        let n = second.to_bits() - "fd00:10:96::".parse::<Ipv6Addr>().unwrap().to_bits();
        assert!((256..65536).contains(&n), "{second}");
        assert_eq!((got[0].as_str(), &both["spec"]["clusterIP"]), ("10.96.0.10", &json!("10.96.0.10")));
        assert_eq!(both["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
        // Who goes back to one family gives the second address back, and keeps the first.
        let mut single = both.clone();
        single["spec"]["ipFamilyPolicy"] = json!("SingleStack");
        allocator.reserve(&mut single, Some(&both)).unwrap().commit();
        assert_eq!(
            (addresses(&single), &single["spec"]["ipFamilies"]),
            (vec![got[0].clone()], &json!(["IPv4"]))
        );
        let mut again = single.clone();
        again["spec"]["ipFamilyPolicy"] = json!("PreferDualStack");
        again["spec"]["clusterIPs"] = json!([got[0], got[1]]);
        allocator.reserve(&mut again, Some(&single)).unwrap().commit();
        assert_eq!(addresses(&again), got);
        // It is his again.
        let mut rival = service(json!({"ipFamilies": ["IPv6"], "clusterIP": got[1], "clusterIPs": [got[1]]}));
        let error = allocator.reserve(&mut rival, None).err().unwrap()[0].to_string();
        assert!(error.ends_with("provided IP is already allocated"), "{error}");
        let mut outside = service(json!({"clusterIP": "fd00:10:97::1", "clusterIPs": ["fd00:10:97::1"]}));
        let error = allocator.reserve(&mut outside, None).err().unwrap()[0].to_string();
        assert!(error.ends_with("the provided network does not match the current range"), "{error}");
        let mut external = again.clone();
        external["spec"]["type"] = json!("ExternalName");
        allocator.reserve(&mut external, Some(&again)).unwrap().commit();
        allocator.reserve(&mut rival, None).unwrap().commit();
        assert_eq!(addresses(&rival), [got[1].clone()]);
    }

    #[test]
    fn ranges_are_parsed() {
        for (text, shown) in [
            ("10.96.3.4/12", Some("10.96.0.0/12")),
            ("10.96.0.0/12,fd00:10:96::7/112", Some("10.96.0.0/12 fd00:10:96::/112")),
            ("10.96.0.0/31", None),
            ("fd00::/64", None),
            ("10.96.0.0/12,10.112.0.0/12", None),
            ("10.96.0.0/12,fd00::/108,fd01::/108", None),
        ] {
            let ranges = ServiceRanges::parse(text);
            let all = ranges
                .map(|ranges| ranges.all().map(|range| range.to_string()).collect::<Vec<_>>().join(" "));
            assert_eq!(all.as_deref(), shown, "{text}");
        }
    }
}
