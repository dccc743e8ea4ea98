//! The IPAddress objects that say which service has which cluster IP.
//!
//! The allocator decides and the services hold the truth; these objects are made and removed with what a write of a
//! service takes and frees. [`Registry::keep_addresses`] makes up for what a crash, an older store or somebody else's
//! hand left behind, as Kubernetes' `ipallocator-repair-controller` does.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};

use super::{Place, Registry};
use crate::api::kinds::{self, Kind};
use crate::api::meta;
use crate::api::request::{DeleteOptions, User, WriteOptions};
use crate::api::status::Status;
use crate::apiserver::allocate::{self, ServiceRange};
use crate::apiserver::families::{self, Family};
use crate::store;

/// Who manages the objects that are made here.
const MANAGER: &str = "ipallocator.k8s.io";
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// As whom the server makes them.
const SERVER: &str = "system:apiserver";
/// How many are written at the same time when many are amiss, so that they share transactions.
const AT_ONCE: usize = 64;

/// The namespace and name of a service.
type Owner = (String, String);

fn kind() -> Option<&'static Arc<Kind>> {
    kinds::by_resource("networking.k8s.io", "v1", "ipaddresses")
}

/// The object of a service's address.
fn object(address: IpAddr, (namespace, name): &Owner) -> Value {
    json!({
        "metadata": {
            "name": address.to_string(),
            "labels": {FAMILY: Family::of(address).name(), MANAGED_BY: MANAGER},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    })
}

/// The object of a range of services' addresses.
pub(super) fn ranges_kind() -> Option<&'static Arc<Kind>> {
    kinds::by_resource("networking.k8s.io", "v1", "servicecidrs")
}

/// Whether an object of an address is managed here.
fn is_managed(object: &Value) -> bool {
    object["metadata"]["labels"][MANAGED_BY] == MANAGER
}

/// The service that an object of an address names, if it names one.
fn parent(object: &Value) -> Option<Owner> {
    let parent = &object["spec"]["parentRef"];
    let of = |field: &str| parent[field].as_str().unwrap_or_default().to_owned();
    (of("group").is_empty() && of("resource") == "services").then(|| (of("namespace"), of("name")))
}

/// Whether an object says of its address what it should when this service has it.
fn fits(object: &Value, address: IpAddr, owner: &Owner) -> bool {
    let family = Family::of(address).name();
    is_managed(object)
        && object["metadata"]["labels"][FAMILY] == family
        && parent(object).as_ref() == Some(owner)
}

/// The addresses that a service has.
fn addresses_of(service: &Value) -> impl Iterator<Item = IpAddr> {
    families::addresses(service).into_iter().filter_map(|text| text.parse().ok())
}

/// What is to be done so that each address of a service has its object, and no object that is managed here has none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Repair {
    remove: Vec<IpAddr>,
    make: BTreeMap<IpAddr, Owner>,
}

/// The objects that there are and the services that there are (pure).
fn plan<'a>(objects: impl Iterator<Item = &'a Value>, services: impl Iterator<Item = &'a Value>) -> Repair {
    let mut repair = Repair::default();
    for service in services {
        let owner = (meta::namespace(service).to_owned(), meta::name(service).to_owned());
        addresses_of(service).for_each(|address| {
            repair.make.entry(address).or_insert_with(|| owner.clone());
        });
    }
    for object in objects {
        let Ok(address) = meta::name(object).parse::<IpAddr>() else { continue };
        match repair.make.get(&address) {
            Some(owner) if fits(object, address, owner) => {
                repair.make.remove(&address);
            }
            None if !is_managed(object) => {}
            _ => repair.remove.push(address),
        }
    }
    repair
}

/// A service whose addresses change with a write.
pub(super) struct Books {
    registry: Registry,
    owner: Owner,
}

impl Books {
    /// Those of a service.
    pub(super) fn of(registry: &Registry, place: Place<'_>) -> Books {
        let owner = (place.namespace.unwrap_or_default().to_owned(), place.name.to_owned());
        Books { registry: registry.clone(), owner }
    }

    /// Makes the objects of addresses that the service has taken, and removes those of what it gives up. What fails is
    /// made up for later.
    pub(super) fn change(&self, taken: &HashSet<IpAddr>, freed: &HashSet<IpAddr>) -> BoxFuture<'static, ()> {
        if taken.is_empty() && freed.is_empty() {
            return std::future::ready(()).boxed();
        }
        let make = taken.iter().map(|address| (*address, self.owner.clone())).collect();
        let repair = Repair { make, remove: freed.iter().copied().collect() };
        let registry = self.registry.clone();
        async move { registry.carry_out_repair(repair).await }.boxed()
    }
}

impl Registry {
    /// Whether an object that is not managed here keeps an address for somebody who is no service.
    pub(super) fn is_held(&self, address: IpAddr) -> bool {
        let held = kind().and_then(|kind| self.store.get(&kind.key(None, &address.to_string())));
        held.is_some_and(|entry| !is_managed(entry.json()))
    }

    /// The ranges from which services get addresses now.
    pub(super) fn service_ranges(&self) -> Vec<ServiceRange> {
        let objects = ranges_kind().map(|kind| self.all(&kind.prefix(None))).unwrap_or_default();
        allocate::ready(self.allocator.ranges(), objects.iter().map(|entry| entry.json()))
    }

    /// Keeps the objects in step with the services, until dropped.
    pub async fn keep_addresses(&self) {
        let Some(kind) = kind() else { return };
        loop {
            let mut changes = self.store.watch(&kind.prefix(None), self.store.revision());
            loop {
                self.repair_addresses(kind).await;
                let wrong = loop {
                    match changes.next().await {
                        Ok(event) if self.is_amiss(&event) => break true,
                        Ok(_) => {}
                        Err(store::Error::Closed) => return,
                        // The log no longer reaches back to the last look.
                        Err(_) => break false,
                    }
                };
                if !wrong {
                    break;
                }
            }
        }
    }

    /// Whether an address is without the right object, or an object without its address, after a change of that object.
    fn is_amiss(&self, event: &store::Event) -> bool {
        let Ok(address) = meta::name(event.entry.json()).parse::<IpAddr>() else { return false };
        let has = |(namespace, name): &Owner| {
            let service = self.store.get(&format!("services/{namespace}/{name}"));
            service.is_some_and(|service| addresses_of(service.json()).any(|one| one == address))
        };
        // What is there counts: of several changes only the last may be amiss.
        match self.store.get(&event.entry.key) {
            None => parent(event.entry.json()).is_some_and(|owner| has(&owner)),
            Some(entry) => {
                let right = parent(entry.json())
                    .is_some_and(|owner| has(&owner) && fits(entry.json(), address, &owner));
                !right && (is_managed(entry.json()) || self.allocator.is_taken(address))
            }
        }
    }

    async fn repair_addresses(&self, kind: &Arc<Kind>) {
        let objects = self.all(&kind.prefix(None));
        // Whoever takes an address writes the service and the object at the same time: what was under way for these
        // objects is over before the services are looked at.
        if self.store.check().await.is_err() {
            return;
        }
        let services = self.all("services/");
        let json = |entry: &Arc<store::Entry>| entry.parse();
        let (objects, services): (Vec<Value>, Vec<Value>) =
            (objects.iter().map(json).collect(), services.iter().map(json).collect());
        self.carry_out_repair(plan(objects.iter(), services.iter())).await;
    }

    async fn carry_out_repair(&self, repair: Repair) {
        let Some(kind) = kind() else { return };
        let remove = repair.remove.into_iter().map(|address| self.unbook(kind, address));
        stream::iter(remove).buffer_unordered(AT_ONCE).collect::<()>().await;
        let make = repair.make.into_iter().map(|(address, owner)| self.book(kind, address, owner));
        stream::iter(make).buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    async fn book(&self, kind: &Arc<Kind>, address: IpAddr, owner: Owner) {
        let (user, options) = (User::component(SERVER), WriteOptions::default());
        let made = self.create(&user, kind, None, object(address, &owner), &options).await;
        told(address, made.map(drop));
    }

    async fn unbook(&self, kind: &Arc<Kind>, address: IpAddr) {
        let (user, name) = (User::component(SERVER), address.to_string());
        let place = Place { kind, namespace: None, name: &name };
        told(address, self.delete(&user, place, &DeleteOptions::default()).await.map(drop));
    }
}

/// Says of an address that its object could not be made or removed.
fn told(address: IpAddr, result: Result<(), Status>) {
    match result {
        // Somebody else has just done the same.
        Err(status) if status.is("NotFound") || status.is("AlreadyExists") => {}
        Err(status) => tracing::warn!(%address, %status, "the object of a service's address is not right"),
        Ok(()) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, addresses: &[&str]) -> Value {
        json!({"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIPs": addresses}})
    }

    #[test]
    fn each_address_of_a_service_has_its_object_and_no_other_is_managed_here() {
        let owner = |name: &str| ("default".to_owned(), name.to_owned());
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let of = |text: &str, name: &str| object(address(text), &owner(name));
        let changed = |mut object: Value, pointer: &str, value: Value| {
            *object.pointer_mut(pointer).unwrap() = value;
            object
        };
        let services = [
            service("both", &["10.96.0.1", "fd00::1"]),
            service("headless", &["None"]),
            service("missing", &["10.96.0.2"]),
            service("unlabelled", &["10.96.0.3"]),
            service("renamed", &["10.96.0.4"]),
        ];
        let labels = "/metadata/labels";
        let objects = [
            of("10.96.0.1", "both"),
            of("fd00::1", "both"),
            changed(of("10.96.0.3", "unlabelled"), labels, json!({})),
            of("10.96.0.4", "both"),
            of("10.96.0.5", "gone"),
            changed(of("10.96.0.6", "gone"), labels, json!({})),
            changed(of("10.96.0.7", "both"), "/spec/parentRef", json!({"resource": "gateways", "name": "g"})),
        ];
        assert_eq!(objects[1]["metadata"]["labels"][FAMILY], "IPv6");
        let repair = plan(objects.iter(), services.iter());
        assert_eq!(repair.remove, ["10.96.0.3", "10.96.0.4", "10.96.0.5", "10.96.0.7"].map(address));
        let made = [("10.96.0.2", "missing"), ("10.96.0.3", "unlabelled"), ("10.96.0.4", "renamed")];
        assert_eq!(repair.make, made.map(|(text, name)| (address(text), owner(name))).into());
    }
}
