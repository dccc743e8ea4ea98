//! Service addresses and node ports: who has which, and who gets which next.
//!
//! The tables live in memory and are rebuilt from the stored services at start. A write takes what it needs
//! in a [`Reservation`], which gives everything back when the write is refused. What a write had to do with whose end
//! nobody knows is in doubt, and stays taken until the store can say.
//! Bands and messages are those of Kubernetes' `pkg/registry/core/service/{ipallocator,portallocator}`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::families::{self, addresses};
use crate::api::kinds::Kind;
use crate::api::status::FieldError;

mod ports;
mod range;
mod supply;

pub use ports::{NODE_PORTS, carry};
pub use range::{ServiceRange, ServiceRanges};
pub use supply::{OWN, Supply, ready};

use ports::{health_port, node_ports, take_ports};

#[derive(Debug, Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

impl Taken {
    /// What a stored service has.
    fn of(service: &Value) -> Taken {
        Taken {
            addresses: addresses(service).iter().filter_map(|text| text.parse().ok()).collect(),
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
    ranges: ServiceRanges,
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
    /// The addresses that the write takes.
    pub fn taken(&self) -> &HashSet<IpAddr> {
        &self.gained.addresses
    }

    /// The addresses that it will free.
    pub fn freed(&self) -> &HashSet<IpAddr> {
        &self.lost.addresses
    }

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
    /// Tables for `ranges`, in which what these services have is taken.
    pub fn new<'a>(ranges: ServiceRanges, services: impl Iterator<Item = &'a Value>) -> Allocator {
        let mut taken = Taken::default();
        services.for_each(|service| taken.add(Taken::of(service)));
        Allocator { ranges, tables: Mutex::new(Tables { taken, ..Tables::default() }) }
    }

    /// The cluster's own ranges.
    pub fn ranges(&self) -> &ServiceRanges {
        &self.ranges
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

    /// Whether a service has an address, or is getting it.
    pub fn is_taken(&self, address: IpAddr) -> bool {
        self.tables().taken.addresses.contains(&address)
    }

    /// Takes what `new` needs beyond what `old` has, and writes it into `new`.
    pub fn reserve_from(
        self: &Arc<Self>,
        supply: Supply<'_>,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation, Vec<FieldError>> {
        let mut reservation =
            Reservation { allocator: self.clone(), gained: Taken::default(), lost: Taken::default() };
        let addresses = families::set(new, old, &self.ranges.families())?;
        let had = old.map(Taken::of).unwrap_or_default();
        let old_health = old.and_then(health_port);
        {
            let taken = &mut self.tables().taken;
            match (addresses, old) {
                (families::Addresses::Kept, Some(old)) => range::keep_addresses(new, old),
                _ => {
                    let gained = &mut reservation.gained;
                    range::take_addresses(supply, taken, gained, new, &had.addresses)?
                }
            }
            take_ports(taken, &mut reservation.gained, new, (&had.ports, old_health))?;
        }
        let has = Taken::of(new);
        reservation.lost.ports = had.ports.difference(&has.ports).copied().collect();
        reservation.lost.addresses = had.addresses.difference(&has.addresses).copied().collect();
        Ok(reservation)
    }
}

/// Whether objects of this kind have addresses and node ports.
pub fn concerns(kind: &Kind) -> bool {
    kind.group.is_empty() && kind.plural == "services"
}

/// A free number of a range, looked for from a random place so that addresses are not used again at once.
fn free(range: std::ops::Range<u64>, is_taken: impl Fn(u64) -> bool) -> Option<u64> {
    let count = range.end.checked_sub(range.start).filter(|count| *count > 0)?;
    let mut random = [0u8; 8];
    // Without random bytes the search begins at the start, which is as correct.
    let _ = getrandom::fill(&mut random);
    let first = range.start + u64::from_le_bytes(random) % count;
    (first..range.end).chain(range.start..first).find(|n| !is_taken(*n))
}

/// What the tests of all files here begin with.
#[cfg(test)]
mod testing {
    use super::*;

    pub fn allocator() -> Arc<Allocator> {
        Arc::new(Allocator::new(ServiceRanges::parse("10.96.0.0/24").unwrap(), std::iter::empty()))
    }

    pub fn service(spec: Value) -> Value {
        serde_json::json!({"spec": spec})
    }

    impl Allocator {
        /// A write where all addresses of the cluster's own ranges are for services.
        pub fn reserve(
            self: &Arc<Self>,
            new: &mut Value,
            old: Option<&Value>,
        ) -> Result<Reservation, Vec<FieldError>> {
            let ranges: Vec<ServiceRange> = self.ranges.all().collect();
            self.reserve_from(Supply { ranges: &ranges, held: &|_| false }, new, old)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{allocator, service};
    use serde_json::json;

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
}
