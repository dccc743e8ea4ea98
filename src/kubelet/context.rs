//! What all pod workers of a node share: configuration, clients, and the layers below as traits.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};

use super::allocation::Allocations;
use super::eviction::{self, Eviction};
use super::handlers::get::Getter;
use super::node;
use super::observed::{ObservedPod, label};
use super::pod::ephemeral;
use super::references::Watches;
use super::resources::NodeCapacity;
use super::statics::Statics;
use super::volumes::certificates::Issuance;
use super::volumes::{Maker, PodDirs};
use crate::api::resources::{Resources, amounts};
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::Reflector;
use crate::image::{Credential, Image};
use crate::network::Attachment;
use crate::runtime::{Runtime, Users};

/// The node's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// The address by which the node is known.
    pub address: Ipv4Addr,
    /// The same of IPv6, in a cluster that has both families.
    pub address6: Option<Ipv6Addr>,
    /// The cluster's DNS server, for pods.
    pub dns: Ipv4Addr,
    /// `cluster.local`.
    pub domain: String,
    /// Where pods' disk directories go.
    pub pods: PathBuf,
    /// Where pods' memory directories go (a tmpfs).
    pub memory: PathBuf,
    /// `/var/log/pods`.
    pub logs: PathBuf,
    /// `/var/log/containers`.
    pub container_logs: PathBuf,
    /// Where images are, for all clusters of the machine.
    pub images: PathBuf,
    /// Where manifests of static pods are looked up.
    pub manifests: PathBuf,
    /// Where seccomp profiles of pods are looked up.
    pub seccomp: PathBuf,
    /// Whether the kernel confines programs by AppArmor.
    pub app_armor: bool,
    /// What the node has.
    pub capacity: NodeCapacity,
    /// Whether the containers of a pod share processes when the pod does not say.
    pub share_processes: bool,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// When the node runs short.
    pub eviction: eviction::Settings,
}

/// Where images come from.
pub trait ImageSource: Send + Sync + 'static {
    /// The image, when it is here.
    fn find<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, String>>;

    /// The image, fetched when it is not here or has changed.
    fn pull<'a>(
        &'a self,
        reference: &'a str,
        credentials: Vec<Credential>,
    ) -> BoxFuture<'a, Result<Image, String>>;

    /// Removes images that no container has used for so long, until so many bytes are free; answers how many that are,
    /// or `None` when nothing can go at this moment.
    fn free(&self, bytes: u64, age: Duration) -> BoxFuture<'_, Result<Option<u64>, String>>;
}

impl Config {
    /// The node's addresses, the one that is meant by "its address" first.
    pub fn addresses(&self) -> Vec<String> {
        std::iter::once(self.address.to_string()).chain(self.address6.map(|a| a.to_string())).collect()
    }
}

/// Where pods get their addresses, and what becomes of connections to those.
pub trait Addresses: Send + Sync + 'static {
    /// The pod's network, made when missing.
    fn attach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Attachment, String>>;

    /// Gives it back; none there is success.
    fn detach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>>;

    /// The pods that have not given theirs back, or their users.
    fn held(&self) -> BoxFuture<'_, Result<BTreeSet<String>, String>>;

    /// The host's users that a pod with users of its own gets, the same until its network is given back.
    fn users<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Users, String>> {
        Box::pin(std::future::ready(Err("this node has no users for pods".to_owned())))
    }

    /// Resolves when services lead no new connections to these addresses of a pod that ends, unless they have no other;
    /// at once where nobody leads any.
    fn left(&self, _addresses: Vec<IpAddr>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Whether something waits in the sockets of this pod for its processes: a connection that none has accepted, or
    /// bytes that none has read.
    fn is_waited_for<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(false))
    }
}

/// Shared by all workers.
pub struct Context<R> {
    /// Settings.
    pub config: Config,
    /// The API server.
    pub client: Client,
    /// Containers.
    pub runtime: R,
    /// Images.
    pub images: Arc<dyn ImageSource>,
    /// Addresses.
    pub network: Arc<dyn Addresses>,
    /// For service variables.
    pub services: Reflector<Service>,
    /// Of objects that pods refer to.
    pub watches: Watches,
    /// Events.
    pub recorder: Recorder,
    /// Pods by manifests of this host.
    pub statics: Statics,
    /// Pods that go when the node runs short.
    pub eviction: Eviction,
    /// What pods have of the node.
    pub allocations: Allocations,
    /// The node's own object.
    pub nodes: Reflector<Node>,
    /// Of pods' certificates.
    pub issuance: Issuance,
    /// For probes and hooks.
    pub http: Getter,
}

impl<R: Runtime> Context<R> {
    /// What the runtime holds of a pod.
    ///
    /// # Errors
    /// When the runtime does not say.
    pub async fn observe(&self, uid: &str) -> Result<ObservedPod, crate::runtime::Error> {
        Ok(ObservedPod::of(uid, &self.runtime.observe_labelled(label::UID, uid).await?))
    }
}

impl<R> Context<R> {
    /// The node as the API shows it, or as it would be made anew.
    pub fn node(&self) -> Arc<Node> {
        let shown = self.nodes.get(&self.config.node);
        shown.unwrap_or_else(|| Arc::new(node::bare(&self.config)))
    }

    /// What the node offers to its pods.
    pub fn allocatable(&self) -> Resources {
        amounts(self.node().status.as_ref().and_then(|status| status.allocatable.as_ref()))
    }

    /// Where a pod's files lie.
    pub fn dirs(&self, uid: &str) -> PodDirs {
        PodDirs::new(&self.config.pods, &self.config.memory, uid)
    }

    /// What making a pod's volumes needs.
    pub fn maker<'a>(&'a self, pod: &'a Pod, dirs: &'a PodDirs) -> Maker<'a> {
        let Context { client, issuance, config, .. } = self;
        Maker { client, pod, dirs, node: &config.capacity, issuance }
    }

    /// The directory of a pod's logs: `NAMESPACE_NAME_UID`.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let name = format!("{}_{}_{}", part(&meta.namespace), part(&meta.name), part(&meta.uid));
        self.config.logs.join(name)
    }

    /// The log of one attempt of a container.
    pub fn log_file(&self, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
        self.log_dir(pod).join(container).join(format!("{attempt}.log"))
    }

    /// Records an event about a pod, or one of its containers.
    pub fn event(&self, pod: &Pod, container: Option<&str>, kind: EventType, reason: &str, message: &str) {
        self.recorder.record(&about(pod, container), kind, reason, message);
    }

    /// Records an event about the node, which kubelets name by its name alone.
    pub fn node_event(&self, kind: EventType, reason: &str, message: &str) {
        let node = &self.config.node;
        let about = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.clone()),
            uid: Some(node.clone()),
            ..ObjectReference::default()
        };
        self.recorder.record(&about, kind, reason, message);
    }
}

/// What an event about a pod's container points at.
fn about(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let mut about = reference(pod);
    about.field_path = container.map(|name| {
        let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == name);
        let list = match init {
            true => "initContainers",
            false if ephemeral(pod).any(|c| c.name == name) => "ephemeralContainers",
            false => "containers",
        };
        format!("spec.{list}{{{name}}}")
    });
    about
}
