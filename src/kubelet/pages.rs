//! The pages of the kubelet's own server, as `nodes/NAME/proxy` shows them.

use std::fs;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::context::Config;
use super::server::Server;
use super::statistics::summary::{self, Disk, Node};
use super::statistics::volumes::{self, VolumeReading};
use super::statistics::{ContainerReading, PodReading, disks, page};
use crate::api::exposition;
use crate::api::node::Page;
use crate::api::status::Status;
use crate::clock;
use crate::runtime::{ContainerState, Observed, Resources, Runtime};

impl<R: Runtime> Server<R> {
    /// The page at this path.
    pub(super) async fn read_page(&self, path: &str) -> Result<Page, Status> {
        let config = &self.context.config;
        match path.trim_end_matches('/') {
            "/healthz" | "/healthz/ping" | "/healthz/log" | "/healthz/syncloop" => {
                Ok(Page { content_type: "text/plain; charset=utf-8", content: "ok".into() })
            }
            "/pods" => Ok(document(&self.pod_list())),
            "/configz" => Ok(document(&json!({"kubeletconfig": configuration(config)}))),
            "/stats/summary" => {
                let measured = self.sampler.measure(&self.context).await?;
                let volumes = self.volumes().await;
                let node = Node {
                    name: &config.node,
                    memory: config.capacity.memory,
                    disk: disk(&config.pods).unwrap_or_default(),
                    booted: booted(clock::now()),
                    volumes: &volumes,
                };
                Ok(document(&summary::summary(&measured, &node)))
            }
            "/metrics/resource" => {
                let measured = self.sampler.measure(&self.context).await?;
                Ok(figures(page::resource(&measured.reading)))
            }
            "/metrics/cadvisor" => {
                let measured = self.sampler.measure(&self.context).await?;
                let capacity = &config.capacity;
                let limits = |pod: &PodReading, container: &ContainerReading| self.limits(pod, container);
                let disk = disk(&config.pods);
                let disks = disks::read(&self.context, &self.sizes, &measured, disk).await?;
                let machine = (capacity.milli_cpu, capacity.memory);
                Ok(figures(page::cadvisor(&measured.reading, &disks, &limits, machine)))
            }
            // Nothing is probed that would have to be counted.
            "/metrics/probes" => Ok(figures(String::new())),
            "/metrics" => {
                let observed = self.context.runtime.observe().await.map_err(Status::internal)?;
                let volumes = self.volumes().await;
                let client = &**self.context.client.figures();
                Ok(figures(page::kubelet(&config.node, counts(&observed), &volumes, client)))
            }
            _ => Err(Status::failure(404, "NotFound", "404: Page Not Found")),
        }
    }

    /// What there is on the volumes behind claims.
    async fn volumes(&self) -> Vec<VolumeReading> {
        volumes::read(&self.context.client, &self.pods.list(), |path| disk(&path)).await
    }

    /// What a container may use.
    fn limits(&self, of: &PodReading, container: &ContainerReading) -> Option<Resources> {
        let pod = self.pods.get(&format!("{}/{}", of.namespace, of.name))?;
        let container = super::pod::container(&pod, &container.name)?;
        Some(super::resources::of_container(pod.spec.as_ref()?, &container))
    }

    fn pod_list(&self) -> Value {
        let pods: Vec<Value> =
            self.pods.list().iter().map(|pod| serde_json::to_value(&**pod).unwrap_or_default()).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})
    }
}

fn document(value: &Value) -> Page {
    Page { content_type: "application/json", content: value.to_string().into() }
}

fn figures(text: String) -> Page {
    Page { content_type: exposition::MEDIA_TYPE, content: text.into() }
}

/// Sandboxes that live, containers that run, containers that have ended.
fn counts(observed: &Observed) -> (usize, usize, usize) {
    let running = |c: &&crate::runtime::ContainerStatus| matches!(c.state, ContainerState::Running { .. });
    let running = observed.containers.iter().filter(running).count();
    let alive = observed.sandboxes.iter().filter(|sandbox| sandbox.alive).count();
    (alive, running, observed.containers.len() - running)
}

/// What is fixed in a kubelet's configuration, in the words of kubelet.config.k8s.io/v1beta1 (pure).
fn configuration(config: &Config) -> Value {
    json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "address": config.address.to_string(),
        "port": 10250,
        "clusterDNS": [config.dns.to_string()],
        "clusterDomain": config.domain,
        "maxPods": config.max_pods,
        "containerLogMaxFiles": super::container::LOG_MAX_FILES,
        "nodeStatusUpdateFrequency": "10s",
        "nodeLeaseDurationSeconds": super::node::LEASE_SECONDS,
        "hairpinMode": "promiscuous-bridge",
        "cgroupsPerQOS": false,
        "failSwapOn": false,
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
        "authorization": {"mode": "Webhook"},
        "podLogsDir": config.logs,
    })
}

/// The file system that holds a directory, if it can be asked.
fn disk(directory: &Path) -> Option<Disk> {
    rustix::fs::statvfs(directory).ok().map(|s| Disk {
        capacity: s.f_blocks * s.f_frsize,
        available: s.f_bavail * s.f_frsize,
        inodes: s.f_files,
        inodes_free: s.f_ffree,
    })
}

/// When the machine was started.
fn booted(now: Timestamp) -> Timestamp {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0);
    now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(now)
}
