//! `/stats/summary`: the figures as kubelet's `stats/v1alpha1` has them (pure).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Measured;
use super::volumes::{self, VolumeReading};
use crate::api::meta;
use crate::runtime::{Consumer, Stats, Traffic};

/// What is known of the file system that pods' files lie on, in bytes and files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// All bytes.
    pub capacity: u64,
    /// Bytes that can still be written.
    pub available: u64,
    /// All inodes.
    pub inodes: u64,
    /// Those that are free.
    pub inodes_free: u64,
}

impl Disk {
    /// Bytes that are used or kept.
    pub fn used(&self) -> u64 {
        self.capacity.saturating_sub(self.available)
    }

    /// Inodes that are used.
    pub fn inodes_used(&self) -> u64 {
        self.inodes.saturating_sub(self.inodes_free)
    }

    /// As the page shows it.
    pub fn shown(&self, time: &str) -> Value {
        json!({"time": time, "capacityBytes": self.capacity, "availableBytes": self.available,
            "usedBytes": self.used(), "inodes": self.inodes, "inodesFree": self.inodes_free,
            "inodesUsed": self.inodes_used()})
    }
}

/// What the page says beside the figures.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    /// The node's name.
    pub name: &'a str,
    /// The machine's memory in bytes.
    pub memory: u64,
    /// Its disk.
    pub disk: Disk,
    /// When the machine was started.
    pub booted: Timestamp,
    /// The volumes of its pods.
    pub volumes: &'a [VolumeReading],
}

/// The page.
pub fn summary(measured: &Measured, node: &Node<'_>) -> Value {
    let reading = &measured.reading;
    let time = meta::timestamp(reading.at);
    let cpu = |of: &Consumer, stats: &Stats| json!({"time": time, "usageNanoCores": measured.nano_cpus(of), "usageCoreNanoSeconds": stats.cpu_nanos});
    let memory = |stats: &Stats, all: Option<u64>| {
        let mut memory = json!({"time": time, "usageBytes": stats.memory_usage,
            "workingSetBytes": stats.memory_working_set, "rssBytes": stats.memory_rss,
            "pageFaults": stats.page_faults.0, "majorPageFaults": stats.page_faults.1});
        if let Some(all) = all {
            memory["availableBytes"] = json!(all.saturating_sub(stats.memory_working_set));
        }
        memory
    };
    let fs = node.disk.shown(&time);
    let pods: Vec<Value> = reading
        .pods
        .iter()
        .map(|pod| {
            let containers: Vec<Value> = pod
                .containers
                .iter()
                .map(|container| {
                    let started = Timestamp::try_from(container.started).unwrap_or_default();
                    json!({"name": container.name, "startTime": meta::timestamp(started),
                        "cpu": cpu(&pod.consumer_of(container), &container.stats),
                        "memory": memory(&container.stats, None)})
                })
                .collect();
            let first = pod.containers.iter().map(|container| container.started).min();
            let started = first.and_then(|at| Timestamp::try_from(at).ok()).unwrap_or_default();
            let mut page = json!({"podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "startTime": meta::timestamp(started), "containers": containers,
                "cpu": cpu(&pod.consumer(), &pod.stats), "memory": memory(&pod.stats, None),
                "process_stats": {"process_count": pod.stats.pids}});
            let volumes = volumes::of_pod(node.volumes, &pod.uid, &time);
            if !volumes.is_empty() {
                page["volume"] = volumes.into();
            }
            if let Some(network) = network(&time, &pod.traffic) {
                page["network"] = network;
            }
            page
        })
        .collect();
    let mut page = json!({
        "node": {"nodeName": node.name, "startTime": meta::timestamp(node.booted),
            "systemContainers": [{"name": "pods", "startTime": meta::timestamp(node.booted),
                "cpu": cpu(&Consumer::Sandboxes, &reading.sandboxes),
                "memory": memory(&reading.sandboxes, Some(node.memory))}],
            "cpu": cpu(&Consumer::Machine, &reading.machine),
            "memory": memory(&reading.machine, Some(node.memory)),
            "fs": fs, "runtime": {"imageFs": fs, "containerFs": fs}},
        "pods": pods,
    });
    if let Some(network) = network(&time, &reading.traffic) {
        page["node"]["network"] = network;
    }
    page
}

/// What has gone through interfaces, of which the first stands for all; `None` without any.
fn network(time: &str, traffic: &[Traffic]) -> Option<Value> {
    let of = |traffic: &Traffic| {
        let (received, sent) = (&traffic.received, &traffic.sent);
        json!({"name": traffic.interface, "rxBytes": received.bytes, "rxErrors": received.errors,
            "txBytes": sent.bytes, "txErrors": sent.errors})
    };
    let mut network = of(traffic.first()?);
    network["time"] = time.into();
    network["interfaces"] = traffic.iter().map(of).collect();
    Some(network)
}

#[cfg(test)]
mod tests {
    use super::super::tests::moment;
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    #[tokio::test]
    async fn nodes_and_pods_are_told_with_their_rates() {
        let start = Instant::now();
        let before = moment(start, 0, &[("c", 0)]);
        let after = moment(start + Duration::from_secs(1), 9_000, &[("c", 7_000)]);
        let disk = Disk { capacity: 100, available: 40, inodes: 10, inodes_free: 3 };
        let volume = VolumeReading {
            pod: "u".into(),
            name: "v".into(),
            namespace: "default".into(),
            claim: "data".into(),
            disk,
        };
        let node = Node {
            name: "n",
            memory: 10 << 20,
            disk,
            booted: Timestamp::from_second(1_600_000_000).unwrap(),
            volumes: &[volume],
        };
        let page = summary(&Measured::between(&before, after), &node);
        assert_eq!(page["node"]["cpu"]["usageNanoCores"], 9_000);
        assert_eq!(page["node"]["memory"]["availableBytes"], 8 << 20);
        assert_eq!(page["node"]["fs"]["usedBytes"], 60);
        let pod = &page["pods"][0];
        assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "default", "uid": "u"}));
        assert_eq!(pod["containers"][0]["cpu"]["usageNanoCores"], 7_000);
        assert_eq!(pod["containers"][0]["startTime"], "2023-11-14T22:13:20Z");
        assert_eq!(pod["memory"]["workingSetBytes"], 2 << 20);
        assert_eq!(pod["volume"][0]["usedBytes"], 60);
        let eth0 = json!({"name": "eth0", "rxBytes": 2000, "rxErrors": 3, "txBytes": 0, "txErrors": 0});
        assert_eq!(pod["network"]["interfaces"], json!([eth0]));
        assert_eq!((&pod["network"]["rxErrors"], &page["node"]["network"]), (&json!(3), &Value::Null));
    }
}
