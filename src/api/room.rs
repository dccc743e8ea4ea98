//! Whether a node has room for a pod beside others: amounts of resources, and ports of the host. The scheduler asks so
//! before it binds a pod, the kubelet before it takes one.

use k8s_openapi::api::core::v1::PodSpec;

use super::quantity::Quantity;
use super::resources::Resources;

/// What every node counts, in the order in which it is told what is short.
const FIRST: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
/// Every address of the host.
const ANY: &str = "0.0.0.0";

/// A resource of which a node has too little.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    /// Its name.
    pub name: String,
    /// How much of it the pod asks for.
    pub requested: Quantity,
    /// How much others have.
    pub used: Quantity,
    /// How much there is.
    pub capacity: Quantity,
}

impl Short {
    /// In the words of a kubelet: thousandths of CPUs, whole units of all else.
    pub fn words(&self) -> String {
        let number = |amount: &Quantity| amount_of(&self.name, amount);
        let (requested, used, capacity) =
            (number(&self.requested), number(&self.used), number(&self.capacity));
        format!(
            "Node didn't have enough resource: {}, requested: {requested}, used: {used}, capacity: {capacity}",
            self.name
        )
    }
}

/// An amount as kubelets tell it.
pub fn amount_of(name: &str, amount: &Quantity) -> i64 {
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

/// What a node with so many pods, which use so much of what it offers, has too little of for these requests.
pub fn short(
    requests: &Resources,
    pods: usize,
    used: impl Fn(&str) -> Quantity,
    allocatable: impl Fn(&str) -> Option<Quantity>,
) -> Vec<Short> {
    let zero = Quantity::units(0);
    let mut short = Vec::new();
    let most = allocatable("pods").unwrap_or(zero);
    let there = Quantity::units(i64::try_from(pods).unwrap_or(i64::MAX));
    if there >= most {
        let name = "pods".to_owned();
        short.push(Short { name, requested: Quantity::units(1), used: there, capacity: most });
    }
    let first = FIRST.into_iter().filter_map(|name| Some((name, requests.get(name)?)));
    let others = requests.iter().map(|(name, asked)| (&**name, asked));
    let others = others.filter(|(name, _)| !FIRST.contains(name));
    for (name, asked) in first.chain(others).filter(|(_, asked)| !asked.is_zero()) {
        let (used, capacity) = (used(name), allocatable(name).unwrap_or(zero));
        if asked.plus(&used) > capacity {
            short.push(Short { name: name.to_owned(), requested: *asked, used, capacity });
        }
    }
    short
}

/// A port of the host that a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    protocol: String,
    address: String,
    number: i32,
}

impl HostPort {
    /// Whether no two pods can have both.
    pub fn clashes(&self, other: &HostPort) -> bool {
        self.protocol == other.protocol
            && self.number == other.number
            && (self.address == other.address || self.address == ANY || other.address == ANY)
    }
}

/// The ports of the host that a pod asks for, for as long as it runs.
pub fn host_ports(spec: &PodSpec) -> impl Iterator<Item = HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|address| !address.is_empty()).unwrap_or(ANY);
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_owned();
        Some(HostPort { protocol, address: address.to_owned(), number })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::quantity::parse;

    #[test]
    fn what_is_short_is_told_in_kubernetes_order_and_units() {
        let list = |entries: &[(&str, &str)]| -> Resources {
            entries.iter().map(|(name, amount)| ((*name).to_owned(), parse(amount).unwrap())).collect()
        };
        let there = list(&[("cpu", "2"), ("memory", "1Gi"), ("pods", "2")]);
        let used = list(&[("cpu", "1500m"), ("memory", "512Mi")]);
        let zero = Quantity::units(0);
        let told = |asked: &[(&str, &str)], pods: usize| -> Vec<String> {
            let used = |name: &str| used.get(name).copied().unwrap_or(zero);
            let short = short(&list(asked), pods, used, |name| there.get(name).copied());
            short.iter().map(Short::words).collect()
        };
        assert!(told(&[("cpu", "500m"), ("memory", "512Mi"), ("a/gpu", "0")], 1).is_empty());
        assert_eq!(
            told(&[("a/gpu", "1"), ("memory", "1Gi"), ("cpu", "1")], 2),
            [
                "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2",
                "Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000",
                "Node didn't have enough resource: memory, requested: 1073741824, used: 536870912, capacity: 1073741824",
                "Node didn't have enough resource: a/gpu, requested: 1, used: 0, capacity: 0",
            ]
        );
    }
}
