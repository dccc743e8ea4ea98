//! The node object: what the machine is and has, and the heartbeat that says it is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use serde_json::json;

use super::context::Config;
use super::eviction::thresholds::{Condition, Signal};
use super::resources::NodeCapacity;
use super::sandbox::HANDLERS;
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::api::{kinds, meta, quantity, version};
use crate::client::Client;
use crate::clock;

/// kubelet's `nodeLeaseDurationSeconds`.
pub(super) const LEASE_SECONDS: i32 = 40;
/// kubelet renews at a quarter of that.
const RENEW: Duration = Duration::from_secs(10);
/// Where leases of nodes live.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// kubelet's default `maxPods`.
pub const MAX_PODS: u32 = 110;

/// What is known of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// CPUs, memory, disk.
    pub capacity: NodeCapacity,
    info: Info,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Info {
    machine_id: String,
    system_uuid: String,
    boot_id: String,
    kernel: String,
    os_image: String,
}

impl Machine {
    /// Reads `/proc`, `/etc` and the file system of `data`.
    pub fn read(data: &Path) -> Machine {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let disk = rustix::fs::statvfs(data).map_or(0, |s| s.f_blocks * s.f_frsize);
        let machine_id = line("/etc/machine-id");
        let uuid = line("/sys/class/dmi/id/product_uuid");
        Machine {
            capacity: NodeCapacity {
                milli_cpu: cpus as u64 * 1000,
                memory: memory_total(&line("/proc/meminfo")),
                disk,
            },
            info: Info {
                system_uuid: if uuid.is_empty() { machine_id.clone() } else { uuid },
                machine_id,
                boot_id: line("/proc/sys/kernel/random/boot_id"),
                kernel: line("/proc/sys/kernel/osrelease"),
                os_image: os_name(&line("/etc/os-release")),
            },
        }
    }
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn memory_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// `PRETTY_NAME` of `/etc/os-release`.
fn os_name(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches('"').to_owned()
}

fn labels(config: &Config) -> BTreeMap<String, String> {
    [
        ("kubernetes.io/hostname", config.node.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", version::ARCHITECTURE),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", version::ARCHITECTURE),
        ("node-role.kubernetes.io/control-plane", ""),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// What the node says for those that attach volumes: Kubernetes' kubelets leave that to its controllers.
fn annotations() -> BTreeMap<String, String> {
    [("volumes.kubernetes.io/controller-managed-attach-detach", "true")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// What the node has, less so much of its memory and disk.
fn offers(
    config: &Config,
    memory: quantity::Quantity,
    disk: quantity::Quantity,
) -> BTreeMap<String, Quantity> {
    let NodeCapacity { milli_cpu, memory: all_memory, disk: all_disk } = config.capacity;
    let bytes = |amount: u64| quantity::Quantity::bytes(i64::try_from(amount).unwrap_or(i64::MAX));
    let zero = quantity::Quantity::bytes(0);
    [
        ("cpu", quantity::Quantity::millis(i64::try_from(milli_cpu).unwrap_or(i64::MAX))),
        ("memory", bytes(all_memory).minus(&memory).max(zero)),
        ("ephemeral-storage", bytes(all_disk).minus(&disk).max(zero)),
        ("pods", quantity::Quantity::units(config.max_pods.into())),
    ]
    .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_string())))
    .into()
}

/// What the node has.
fn capacity(config: &Config) -> BTreeMap<String, Quantity> {
    offers(config, quantity::Quantity::bytes(0), quantity::Quantity::bytes(0))
}

/// What of it pods may have: what must be left is for nobody.
fn allocatable(config: &Config) -> BTreeMap<String, Quantity> {
    let least = |signal: Signal, capacity: u64| {
        let threshold = config.eviction.thresholds.iter().find(|t| t.signal == signal && t.is_hard());
        threshold.map_or(quantity::Quantity::bytes(0), |threshold| threshold.amount(capacity))
    };
    let NodeCapacity { memory, disk, .. } = config.capacity;
    offers(config, least(Signal::Memory, memory), least(Signal::NodeFs, disk))
}

/// The node object with nothing but what pods are measured against.
pub fn bare(config: &Config) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.node.clone()),
            labels: Some(labels(config)),
            annotations: Some(annotations()),
            ..ObjectMeta::default()
        },
        status: Some(NodeStatus {
            capacity: Some(capacity(config)),
            allocatable: Some(allocatable(config)),
            features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
            ..NodeStatus::default()
        }),
        ..Node::default()
    }
}

/// The node object as this machine says it (pure), in these conditions, which keep their times through `old`.
pub fn node(
    config: &Config,
    machine: &Machine,
    pod_cidrs: &[String],
    pressure: &BTreeSet<Condition>,
    old: Option<&Node>,
    now: jiff::Timestamp,
) -> Node {
    let info = &machine.info;
    let bare = bare(config);
    Node {
        metadata: bare.metadata,
        spec: Some(NodeSpec {
            pod_cidr: pod_cidrs.first().cloned(),
            pod_cidrs: Some(pod_cidrs.to_vec()),
            provider_id: Some(format!("minik://{}", config.node)),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses(config)),
            conditions: Some(conditions(pressure, old, now)),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: 10250 }),
            }),
            node_info: Some(NodeSystemInfo {
                architecture: version::ARCHITECTURE.to_owned(),
                boot_id: info.boot_id.clone(),
                container_runtime_version: format!("minik://{}", env!("CARGO_PKG_VERSION")),
                kernel_version: info.kernel.clone(),
                kube_proxy_version: String::new(),
                kubelet_version: version::KUBERNETES.to_owned(),
                machine_id: info.machine_id.clone(),
                operating_system: "linux".to_owned(),
                os_image: info.os_image.clone(),
                system_uuid: info.system_uuid.clone(),
                ..NodeSystemInfo::default()
            }),
            runtime_handlers: Some(runtime_handlers()),
            ..bare.status.unwrap_or_default()
        }),
    }
}

/// What the node says of itself; what has not changed keeps its time.
pub fn conditions(
    pressure: &BTreeSet<Condition>,
    old: Option<&Node>,
    now: jiff::Timestamp,
) -> Vec<NodeCondition> {
    let pressures = Condition::ALL.map(|condition| {
        let holds = pressure.contains(&condition);
        let (reason, message, _) = condition.words(holds);
        (condition.name(), if holds { "True" } else { "False" }, reason, message)
    });
    let ready = ("Ready", "True", "KubeletReady", "kubelet is posting ready status");
    pressures
        .into_iter()
        .chain([ready])
        .map(|(type_, status, reason, message)| {
            let before = old
                .and_then(|n| n.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == type_))
                .filter(|c| c.status == status)
                .and_then(|c| c.last_transition_time.clone());
            NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(before.unwrap_or(Time(now))),
            }
        })
        .collect()
}

/// The handlers that runtime classes may name, the first of which is that of pods without one.
fn runtime_handlers() -> Vec<NodeRuntimeHandler> {
    let features =
        NodeRuntimeHandlerFeatures { recursive_read_only_mounts: Some(true), user_namespaces: Some(true) };
    let handler =
        |name: &str| NodeRuntimeHandler { name: Some(name.to_owned()), features: Some(features.clone()) };
    [""].into_iter().chain(HANDLERS).map(handler).collect()
}

/// By what the node is reached: its addresses, that of IPv4 first, and its name.
fn addresses(config: &Config) -> Vec<NodeAddress> {
    let of = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let internal = std::iter::once(IpAddr::V4(config.address)).chain(config.address6.map(IpAddr::V6));
    internal
        .map(|address| of("InternalIP", address.to_string()))
        .chain([of("Hostname", config.node.clone())])
        .collect()
}

/// Makes the node object, or brings an old one up to date; labels, annotations, taints and cordons of the user stay.
pub async fn register(
    client: &Client,
    config: &Config,
    machine: &Machine,
    pod_cidrs: &[String],
    pressure: &BTreeSet<Condition>,
) -> Result<(), Status> {
    let nodes = client.all::<Node>();
    let old = match nodes.get(&config.node).await {
        Ok(old) => Some(old),
        Err(status) if status.is("NotFound") => None,
        Err(status) => return Err(status),
    };
    let fresh = node(config, machine, pod_cidrs, pressure, old.as_ref(), clock::now());
    if old.is_none() {
        // With its status: nodes are made as they say they are.
        return nodes.create(&fresh).await.map(drop);
    }
    let metadata = json!({"labels": fresh.metadata.labels, "annotations": fresh.metadata.annotations});
    let body = json!({"metadata": metadata, "spec": fresh.spec});
    nodes.patch(&config.node, None, PatchKind::Merge, body).await?;
    let body = json!({"status": fresh.status});
    nodes.patch(&config.node, Some("status"), PatchKind::Merge, body).await.map(drop)
}

/// Renews the node's lease for ever.
pub async fn heartbeat(client: Client, node: String) {
    loop {
        if let Err(status) = renew(&client, &node).await {
            tracing::warn!(%status, "node lease not renewed");
        }
        tokio::time::sleep(RENEW).await;
    }
}

/// Renews a node's lease, which its node owns: it goes with it.
async fn renew(client: &Client, node: &str) -> Result<(), Status> {
    let kind = kinds::by_resource("coordination.k8s.io", "v1", "leases");
    let kind = kind.ok_or_else(|| Status::internal("leases are not served"))?;
    let (namespace, now) = (Some(LEASE_NAMESPACE), MicroTime(clock::now()));
    let body = json!({"spec": {"renewTime": now}});
    let renewed = match client.merged(kind, namespace, node, body).await {
        Err(status) if status.is("NotFound") => {
            let leases = client.namespaced::<Lease>(LEASE_NAMESPACE);
            return leases.create(&lease(node, now, owner(client, node).await?)).await.map(drop);
        }
        renewed => renewed?,
    };
    if meta::owner_references(renewed.json()).is_empty() {
        let body = json!({"metadata": {"ownerReferences": [owner(client, node).await?]}});
        client.merge(kind, namespace, node, body).await?;
    }
    Ok(())
}

/// Says that a node owns what is its.
async fn owner(client: &Client, node: &str) -> Result<OwnerReference, Status> {
    let object = client.all::<Node>().get(node).await?;
    Ok(OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_owned(),
        uid: object.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    })
}

fn lease(node: &str, now: MicroTime, owner: OwnerReference) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::eviction::{self, thresholds, thresholds::Threshold};

    fn config(thresholds: Vec<Threshold>) -> Config {
        Config {
            node: "n".into(),
            address: [127, 0, 0, 1].into(),
            address6: None,
            dns: [127, 0, 0, 1].into(),
            domain: "d".into(),
            pods: "/pods".into(),
            memory: "/memory".into(),
            logs: "/logs".into(),
            container_logs: "/links".into(),
            images: "/images".into(),
            manifests: "/manifests".into(),
            seccomp: "/seccomp".into(),
            app_armor: false,
            capacity: NodeCapacity { milli_cpu: 2000, memory: 4 << 30, disk: 100 << 30 },
            share_processes: false,
            max_pods: 30,
            eviction: eviction::Settings { thresholds, ..eviction::Settings::default() },
        }
    }

    #[test]
    fn pods_may_have_what_need_not_be_left() {
        let shown = |thresholds: Vec<Threshold>| {
            let node = bare(&config(thresholds));
            let status = node.status.unwrap();
            let list = |list: Option<BTreeMap<String, Quantity>>| {
                ["cpu", "memory", "ephemeral-storage", "pods"]
                    .map(|name| list.as_ref().unwrap()[name].0.clone())
            };
            (list(status.capacity), list(status.allocatable))
        };
        let all = ["2", "4Gi", "100Gi", "30"].map(str::to_owned);
        assert_eq!(shown(Vec::new()), (all.clone(), all.clone()));
        let (capacity, allocatable) = shown(thresholds::usual());
        assert_eq!(capacity, all);
        assert_eq!(allocatable, ["2", "3996Mi", "99Gi", "30"]);
        let statements = thresholds::statements("memory.available<5Gi,nodefs.available<50%").unwrap();
        let (_, allocatable) = shown(thresholds::parse(&statements).unwrap());
        assert_eq!(allocatable, ["2", "0", "50Gi", "30"], "never less than nothing");
    }

    #[test]
    fn proc_and_etc_are_read() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert!(Machine::read(Path::new("/")).capacity.memory > 0);
    }
}
