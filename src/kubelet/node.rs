//! The node object: what the machine is and has, and the heartbeat that says it is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use serde_json::json;

use super::context::Config;
use super::eviction::thresholds::Condition;
use super::resources::NodeCapacity;
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::api::version;
use crate::client::Client;

/// kubelet's `nodeLeaseDurationSeconds`.
pub(super) const LEASE_SECONDS: i32 = 40;
/// kubelet renews at a quarter of that.
const RENEW: Duration = Duration::from_secs(10);
/// Where leases of nodes live.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// kubelet's default `maxPods`.
pub(super) const MAX_PODS: u32 = 110;

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

/// The kernel's name of this architecture in Go's words, as labels have it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
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
    let labels = [
        ("kubernetes.io/hostname", config.node.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
        ("node-role.kubernetes.io/control-plane", ""),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let capacity = &machine.capacity;
    let resources: BTreeMap<String, Quantity> = [
        ("cpu", (capacity.milli_cpu / 1000).to_string()),
        ("memory", format!("{}Ki", capacity.memory / 1024)),
        ("ephemeral-storage", format!("{}Ki", capacity.disk / 1024)),
        ("pods", MAX_PODS.to_string()),
    ]
    .map(|(name, text)| (name.to_owned(), Quantity(text)))
    .into();
    let pressures = Condition::ALL.map(|condition| {
        let holds = pressure.contains(&condition);
        let (reason, message, _) = condition.words(holds);
        (condition.name(), if holds { "True" } else { "False" }, reason, message)
    });
    let ready = ("Ready", "True", "KubeletReady", "kubelet is posting ready status");
    let conditions = pressures.into_iter().chain([ready]).map(|(type_, status, reason, message)| {
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
    });
    let info = &machine.info;
    Node {
        metadata: ObjectMeta {
            name: Some(config.node.clone()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: pod_cidrs.first().cloned(),
            pod_cidrs: Some(pod_cidrs.to_vec()),
            provider_id: Some(format!("minik://{}", config.node)),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(addresses(config)),
            capacity: Some(resources.clone()),
            allocatable: Some(resources),
            conditions: Some(conditions.collect()),
            daemon_endpoints: Some(NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint { port: 10250 }),
            }),
            node_info: Some(NodeSystemInfo {
                architecture: architecture().to_owned(),
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
            ..NodeStatus::default()
        }),
    }
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

/// Makes the node object, or brings an old one up to date; labels, taints and cordons of the user stay.
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
    let fresh = node(config, machine, pod_cidrs, pressure, old.as_ref(), jiff::Timestamp::now());
    if old.is_none() {
        nodes.create(&fresh).await?;
    } else {
        let body = json!({"metadata": {"labels": fresh.metadata.labels}, "spec": fresh.spec});
        nodes.patch(&config.node, None, PatchKind::Merge, body).await?;
    }
    let body = json!({"status": fresh.status});
    nodes.patch(&config.node, Some("status"), PatchKind::Merge, body).await.map(drop)
}

/// Renews the node's lease for ever.
pub async fn heartbeat(client: Client, node: String) {
    let leases = client.namespaced::<Lease>(LEASE_NAMESPACE);
    loop {
        let now = MicroTime(jiff::Timestamp::now());
        let body = json!({"spec": {"renewTime": now}});
        let renewed = match leases.patch(&node, None, PatchKind::Merge, body).await {
            Err(status) if status.is("NotFound") => leases.create(&lease(&node, now)).await,
            other => other,
        };
        if let Err(status) = renewed {
            tracing::warn!(%status, "node lease not renewed");
        }
        tokio::time::sleep(RENEW).await;
    }
}

fn lease(node: &str, now: MicroTime) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
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

    #[test]
    fn proc_and_etc_are_read() {
        assert_eq!(memory_total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), 2 << 20);
        assert_eq!(os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"), "Debian GNU/Linux 12");
        assert!(Machine::read(Path::new("/")).capacity.memory > 0);
    }
}
