//! `/metrics/resource`, `/metrics/cadvisor` and `/metrics` of the kubelet: the figures in Prometheus' form (pure).
//!
//! Names and labels are those of kubernetes `pkg/kubelet/metrics` and of cAdvisor.

use std::time::UNIX_EPOCH;

use super::disks::{self, Disks};
use super::volumes::{self, VolumeReading};
use super::{ContainerReading, PodReading, Reading};
use crate::api::exposition::{Exposition, Source, Type, seconds};
use crate::kubelet::resources::QUOTA_PERIOD as PERIOD;
use crate::runtime::{Resources, Stats, Traffic};

/// One family of figures of containers or pods.
pub(super) struct Family<T> {
    pub(super) name: &'static str,
    pub(super) kind: Type,
    pub(super) help: &'static str,
    pub(super) of: fn(&T) -> f64,
}

#[allow(clippy::cast_precision_loss)] // Sizes and counts below 2^53.
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

fn started(container: &ContainerReading) -> f64 {
    container.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn each_container(reading: &Reading) -> impl Iterator<Item = (&PodReading, &ContainerReading)> {
    reading.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

/// `/metrics/resource`.
pub fn resource(reading: &Reading) -> String {
    let mut page = Exposition::default();
    let at = reading.at.as_millisecond();
    let containers: [Family<ContainerReading>; 3] = [
        Family {
            name: "container_cpu_usage_seconds_total",
            kind: Type::Counter,
            help: "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
            of: |c| seconds(c.stats.cpu_nanos),
        },
        Family {
            name: "container_memory_working_set_bytes",
            kind: Type::Gauge,
            help: "[STABLE] Current working set of the container in bytes",
            of: |c| float(c.stats.memory_working_set),
        },
        Family {
            name: "container_start_time_seconds",
            kind: Type::Gauge,
            help: "[STABLE] Start time of the container since unix epoch in seconds",
            of: started,
        },
    ];
    for family in &containers {
        page.family(family.name, family.kind, family.help);
        for (pod, container) in each_container(reading) {
            let labels =
                [("container", &*container.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
            page.sample_at(family.name, &labels, (family.of)(container), at);
        }
    }
    let machine = &reading.machine;
    page.family(
        "node_cpu_usage_seconds_total",
        Type::Counter,
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    )
    .sample_at("node_cpu_usage_seconds_total", &[], seconds(machine.cpu_nanos), at);
    page.family(
        "node_memory_working_set_bytes",
        Type::Gauge,
        "[STABLE] Current working set of the node in bytes",
    )
    .sample_at("node_memory_working_set_bytes", &[], machine.memory_working_set, at);
    let pods: [Family<PodReading>; 2] = [
        Family {
            name: "pod_cpu_usage_seconds_total",
            kind: Type::Counter,
            help: "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
            of: |pod| seconds(pod.stats.cpu_nanos),
        },
        Family {
            name: "pod_memory_working_set_bytes",
            kind: Type::Gauge,
            help: "[STABLE] Current working set of the pod in bytes",
            of: |pod| float(pod.stats.memory_working_set),
        },
    ];
    for family in &pods {
        page.family(family.name, family.kind, family.help);
        for pod in &reading.pods {
            let labels = [("namespace", &*pod.namespace), ("pod", &*pod.name)];
            page.sample_at(family.name, &labels, (family.of)(pod), at);
        }
    }
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    page.single("resource_scrape_error", Type::Gauge, help, 0);
    page.into_text()
}

/// What a container that runs may use.
pub type Limits<'a> = &'a dyn Fn(&PodReading, &ContainerReading) -> Option<Resources>;

/// `/metrics/cadvisor`; the machine has so many thousandths of a CPU and so much memory.
pub fn cadvisor(
    reading: &Reading,
    disks: &Disks,
    limits: Limits<'_>,
    (milli_cpu, memory): (u64, u64),
) -> String {
    let mut page = Exposition::default();
    let version = [("cadvisorRevision", ""), ("cadvisorVersion", ""), ("osVersion", "")];
    page.family("cadvisor_version_info", Type::Gauge, "A metric with a constant '1' value.").sample(
        "cadvisor_version_info",
        &version,
        1,
    );
    let families: [Family<Stats>; 10] = [
        Family {
            name: "container_cpu_usage_seconds_total",
            kind: Type::Counter,
            help: "Cumulative cpu time consumed in seconds.",
            of: |s| seconds(s.cpu_nanos),
        },
        Family {
            name: "container_cpu_cfs_periods_total",
            kind: Type::Counter,
            help: "Number of elapsed enforcement period intervals.",
            of: |s| float(s.periods.0),
        },
        Family {
            name: "container_cpu_cfs_throttled_periods_total",
            kind: Type::Counter,
            help: "Number of throttled period intervals.",
            of: |s| float(s.periods.1),
        },
        Family {
            name: "container_memory_usage_bytes",
            kind: Type::Gauge,
            help: "Current memory usage in bytes, including all memory regardless of when it was accessed",
            of: |s| float(s.memory_usage),
        },
        Family {
            name: "container_memory_working_set_bytes",
            kind: Type::Gauge,
            help: "Current working set in bytes.",
            of: |s| float(s.memory_working_set),
        },
        Family {
            name: "container_memory_rss",
            kind: Type::Gauge,
            help: "Size of RSS in bytes.",
            of: |s| float(s.memory_rss),
        },
        Family {
            name: "container_memory_cache",
            kind: Type::Gauge,
            help: "Number of bytes of page cache memory.",
            of: |s| float(s.memory_cache),
        },
        Family {
            name: "container_processes",
            kind: Type::Gauge,
            help: "Number of processes running inside the container.",
            of: |s| float(s.pids),
        },
        Family {
            name: "container_page_faults_total",
            kind: Type::Counter,
            help: "Number of page faults.",
            of: |s| float(s.page_faults.0),
        },
        Family {
            name: "container_major_page_faults_total",
            kind: Type::Counter,
            help: "Number of page faults for which the disk was read.",
            of: |s| float(s.page_faults.1),
        },
    ];
    let at = reading.at.as_millisecond();
    for family in &families {
        page.family(family.name, family.kind, family.help);
        let total = family.name == "container_cpu_usage_seconds_total";
        let mut sample = |[container, id, image, name, namespace, pod]: [&str; 6], stats: &Stats| {
            let mut labels = vec![("container", container)];
            labels.extend(total.then_some(("cpu", "total")));
            labels.extend([
                ("id", id),
                ("image", image),
                ("name", name),
                ("namespace", namespace),
                ("pod", pod),
            ]);
            page.sample_at(family.name, &labels, (family.of)(stats), at);
        };
        sample(["", "/", "", "", "", ""], &reading.machine);
        for pod in &reading.pods {
            let id = format!("/pods/{}", pod.sandbox);
            sample(["", &id, "", "", &pod.namespace, &pod.name], &pod.stats);
            for container in &pod.containers {
                let id = format!("{id}/{}", container.id);
                let of =
                    [&*container.name, &*id, &*container.image, &*container.id, &*pod.namespace, &*pod.name];
                sample(of, &container.stats);
            }
        }
    }
    let name = "container_start_time_seconds";
    page.family(name, Type::Gauge, "Start time of the container since unix epoch in seconds.");
    for (pod, container) in each_container(reading) {
        let labels = [("container", &*container.name), ("namespace", &*pod.namespace), ("pod", &*pod.name)];
        page.sample_at(name, &labels, started(container), at);
    }
    of_limits(&mut page, reading, limits);
    network(&mut page, reading);
    disks::write(&mut page, reading, disks);
    page.single("machine_cpu_cores", Type::Gauge, "Number of logical CPU cores.", milli_cpu / 1000);
    page.single("machine_memory_bytes", Type::Gauge, "Amount of memory installed on the machine.", memory);
    page.into_text()
}

/// What containers may use.
fn of_limits(page: &mut Exposition, reading: &Reading, limits: Limits<'_>) {
    type Limit = fn(&Resources) -> Option<u64>;
    let at = reading.at.as_millisecond();
    let all: Vec<_> = each_container(reading)
        .filter_map(|(pod, container)| Some((pod, container, limits(pod, container)?)))
        .collect();
    let families: [(&str, &str, Limit); 4] = [
        // A quota without a period is none.
        ("container_spec_cpu_period", "CPU period of the container.", |r| r.cpu_quota.map(|_| PERIOD)),
        ("container_spec_cpu_quota", "CPU quota of the container.", |r| r.cpu_quota),
        ("container_spec_cpu_shares", "CPU share of the container.", |r| r.cpu_shares),
        // Without a limit it is zero.
        ("container_spec_memory_limit_bytes", "Memory limit for the container.", |r| {
            Some(r.memory_limit.unwrap_or(0))
        }),
    ];
    for (name, help, of) in families {
        page.family(name, Type::Gauge, help);
        for (pod, container, limits) in &all {
            let Some(value) = of(limits) else { continue };
            let id = format!("/pods/{}/{}", pod.sandbox, container.id);
            let labels = [
                ("container", &*container.name),
                ("id", &*id),
                ("image", &*container.image),
                ("name", &*container.id),
                ("namespace", &*pod.namespace),
                ("pod", &*pod.name),
            ];
            page.sample_at(name, &labels, value, at);
        }
    }
}

/// What goes through the interfaces of the machine and of the pods that have their own.
fn network(page: &mut Exposition, reading: &Reading) {
    let families: [Family<Traffic>; 8] = [
        Family {
            name: "container_network_receive_bytes_total",
            kind: Type::Counter,
            help: "Cumulative count of bytes received",
            of: |t| float(t.received.bytes),
        },
        Family {
            name: "container_network_receive_packets_total",
            kind: Type::Counter,
            help: "Cumulative count of packets received",
            of: |t| float(t.received.packets),
        },
        Family {
            name: "container_network_receive_errors_total",
            kind: Type::Counter,
            help: "Cumulative count of errors encountered while receiving",
            of: |t| float(t.received.errors),
        },
        Family {
            name: "container_network_receive_packets_dropped_total",
            kind: Type::Counter,
            help: "Cumulative count of packets dropped while receiving",
            of: |t| float(t.received.dropped),
        },
        Family {
            name: "container_network_transmit_bytes_total",
            kind: Type::Counter,
            help: "Cumulative count of bytes transmitted",
            of: |t| float(t.sent.bytes),
        },
        Family {
            name: "container_network_transmit_packets_total",
            kind: Type::Counter,
            help: "Cumulative count of packets transmitted",
            of: |t| float(t.sent.packets),
        },
        Family {
            name: "container_network_transmit_errors_total",
            kind: Type::Counter,
            help: "Cumulative count of errors encountered while transmitting",
            of: |t| float(t.sent.errors),
        },
        Family {
            name: "container_network_transmit_packets_dropped_total",
            kind: Type::Counter,
            help: "Cumulative count of packets dropped while transmitting",
            of: |t| float(t.sent.dropped),
        },
    ];
    let at = reading.at.as_millisecond();
    for family in &families {
        page.family(family.name, family.kind, family.help);
        let mut sample = |[id, namespace, pod]: [&str; 3], traffic: &Traffic| {
            let labels = [
                ("container", ""),
                ("id", id),
                ("image", ""),
                ("interface", &traffic.interface),
                ("name", ""),
                ("namespace", namespace),
                ("pod", pod),
            ];
            page.sample_at(family.name, &labels, (family.of)(traffic), at);
        };
        reading.traffic.iter().for_each(|traffic| sample(["/", "", ""], traffic));
        for pod in &reading.pods {
            let id = format!("/pods/{}", pod.sandbox);
            pod.traffic.iter().for_each(|traffic| sample([&id, &pod.namespace, &pod.name], traffic));
        }
    }
}

/// `/metrics`: the kubelet itself, with the figures of its client.
pub fn kubelet(
    node: &str,
    (sandboxes, running, exited): (usize, usize, usize),
    volumes: &[VolumeReading],
    client: &dyn Source,
) -> String {
    let mut page = Exposition::default();
    page.family("kubelet_node_name", Type::Gauge, "[ALPHA] The node's name. The count is always 1.").sample(
        "kubelet_node_name",
        &[("node", node)],
        1,
    );
    let help = "[BETA] Number of pods that have a running pod sandbox";
    page.single("kubelet_running_pods", Type::Gauge, help, sandboxes);
    let name = "kubelet_running_containers";
    page.family(name, Type::Gauge, "[BETA] Number of containers currently running")
        .sample(name, &[("container_state", "exited")], exited)
        .sample(name, &[("container_state", "running")], running);
    volumes::write(&mut page, volumes);
    client.write(&mut page);
    page.into_text()
}

#[cfg(test)]
mod tests {
    use super::super::tests::moment;
    use super::*;
    use tokio::time::Instant;

    #[tokio::test]
    async fn pages_have_the_names_that_are_looked_for() {
        let reading = moment(Instant::now(), 3_000_000_000, &[("c", 1_500_000_000)]);
        let page = resource(&reading);
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"default\",pod=\"web\"} 1.5 1700000100000",
            "container_memory_working_set_bytes{container=\"c\",namespace=\"default\",pod=\"web\"} 2097152 1700000100000",
            "container_start_time_seconds{container=\"c\",namespace=\"default\",pod=\"web\"} 1700000000 1700000100000",
            "node_cpu_usage_seconds_total 3 1700000100000",
            "pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"} 2097152 1700000100000",
            "resource_scrape_error 0",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
        let limits = Resources {
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            memory_limit: Some(1 << 20),
            pids_limit: None,
        };
        let page = cadvisor(&reading, &Disks::default(), &|_, _| Some(limits.clone()), (2000, 4096));
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",cpu=\"total\",id=\"/pods/u-0/id-c\",image=\"nginx\",\
             name=\"id-c\",namespace=\"default\",pod=\"web\"} 1.5 1700000100000",
            "container_memory_usage_bytes{container=\"\",id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"} \
             3145728 1700000100000",
            "container_network_receive_bytes_total{container=\"\",id=\"/pods/u-0\",image=\"\",interface=\"eth0\",name=\"\",\
             namespace=\"default\",pod=\"web\"} 2000 1700000100000",
            "container_spec_cpu_quota{container=\"c\",id=\"/pods/u-0/id-c\",image=\"nginx\",name=\"id-c\",\
             namespace=\"default\",pod=\"web\"} 50000 1700000100000",
            "container_spec_memory_limit_bytes{container=\"c\",id=\"/pods/u-0/id-c\",image=\"nginx\",name=\"id-c\",\
             namespace=\"default\",pod=\"web\"} 1048576 1700000100000",
            "machine_cpu_cores 2",
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
        let text = kubelet("n", (2, 3, 1), &[], &crate::client::figures::Figures::default());
        assert!(text.contains("kubelet_running_containers{container_state=\"running\"} 3\n"), "{text}");
        assert!(text.contains("# TYPE rest_client_requests_total counter\n"), "{text}");
    }
}
