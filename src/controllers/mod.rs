//! The controllers: each a pure `plan()` and a thin reconcile loop, mostly in one file.
//!
//! A controller's loop takes keys from a queue that reflectors fill, looks at the present state, and acts on
//! the difference; dropping every cache and starting again loses nothing.

pub mod account_tokens;
pub mod aggregated_roles;
pub mod autoscaling;
pub mod certificates;
pub mod cluster_dns;
pub mod cron_jobs;
pub mod custom_resources;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod elsewhere;
pub mod endpoints;
pub mod ephemeral_volumes;
pub mod events;
pub mod garbage_collector;
pub mod jobs;
pub mod kinds;
pub mod load_balancers;
pub mod namespaces;
pub mod node_health;
pub mod node_taints;
pub mod node_ttl;
pub mod owned;
pub mod pod_certificates;
pub mod pod_garbage;
pub mod policy_status;
pub mod replication;
pub mod resource_quota;
pub mod root_ca;
pub mod service_accounts;
pub mod service_cidrs;
pub mod stateful_set;
pub mod taint_eviction;
pub mod trust_bundles;
pub mod volume_protection;
pub mod volumes;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Namespace, Pod, ReplicationController};
use tokio::task::JoinSet;

use self::kinds::Kinds;
use crate::api::node;
use crate::api::request::ListOptions;
use crate::api::status::Status;
use crate::client::queue::Queue;
use crate::client::reflector::{Reflector, Subscription, key_of, split_key};
use crate::client::{Client, Resource};

/// What the keys of the cluster are used for.
pub trait Authority: Send + Sync + 'static {
    /// The token of a secret, for the service account of this name and uid.
    fn token(&self, namespace: &str, secret: &str, account: &str, uid: &str) -> Option<String>;

    /// The certificate (in PEM) that a signing request (in PEM) asks for, good for these usages and about so long.
    fn certificate(
        &self,
        request: &[u8],
        usages: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, String>;
}

/// What the controllers need to know of their cluster.
#[derive(Clone)]
pub struct Config {
    /// Its keys.
    pub authority: Arc<dyn Authority>,
    /// The authority's certificate, which pods get to trust.
    pub ca_pem: String,
    /// The address of the cluster's DNS service.
    pub dns_service: Ipv4Addr,
    /// Where the DNS server listens.
    pub dns_server: (Ipv4Addr, u16),
    /// Where the data of volumes is.
    pub storage: Arc<dyn volumes::Storage>,
    /// Who knows what pods use.
    pub node: Arc<dyn node::Node>,
}

/// All controllers of a cluster.
pub struct Controllers {
    client: Client,
    config: Config,
}

/// The first wait before a failed key is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(60);

impl Controllers {
    /// Controllers that speak through `client`.
    pub fn new(client: Client, config: Config) -> Controllers {
        Controllers { client, config }
    }

    /// Runs all of them until `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Controllers { client, config } = self;
        let mut tasks = JoinSet::new();
        let namespaces: Reflector<Namespace> = reflect(&mut tasks, &client);
        tasks.spawn(service_accounts::run(client.clone(), namespaces.clone()));
        tasks.spawn(root_ca::run(client.clone(), namespaces.clone(), config.ca_pem.clone()));
        tasks.spawn(trust_bundles::run(client.clone(), config.ca_pem.clone()));
        tasks.spawn(account_tokens::run(client.clone(), config.authority.clone(), config.ca_pem));
        tasks.spawn(certificates::run(client.clone(), config.authority));
        tasks.spawn(pod_certificates::run(client.clone()));
        let (services, pods) = (reflect(&mut tasks, &client), reflect::<Pod>(&mut tasks, &client));
        tasks.spawn(load_balancers::run(client.clone(), services.clone()));
        let (kinds, feed) = Kinds::new(&client);
        tasks.spawn(feed);
        tasks.spawn(custom_resources::run(client.clone()));
        tasks.spawn(namespaces::run(client.clone(), kinds.clone(), namespaces, pods.clone()));
        tasks.spawn(volume_protection::run(client.clone(), pods.clone()));
        let (revisions, nodes) = (reflect(&mut tasks, &client), reflect(&mut tasks, &client));
        let replica_sets = reflect::<ReplicaSet>(&mut tasks, &client);
        let replication = reflect::<ReplicationController>(&mut tasks, &client);
        let watched = daemon_set::Watched {
            sets: reflect(&mut tasks, &client),
            pods: pods.clone(),
            revisions: revisions.clone(),
            nodes: nodes.clone(),
        };
        tasks.spawn(daemon_set::run(client.clone(), watched));
        tasks.spawn(stateful_set::run(client.clone(), pods.clone(), revisions));
        let deployments = reflect(&mut tasks, &client);
        tasks.spawn(deployment::run(client.clone(), deployments, replica_sets.clone(), pods.clone()));
        tasks.spawn(replication::run(client.clone(), replica_sets, pods.clone()));
        tasks.spawn(replication::run(client.clone(), replication, pods.clone()));
        tasks.spawn(ephemeral_volumes::run(client.clone(), pods.clone()));
        tasks.spawn(volumes::run(client.clone(), pods.clone(), config.storage));
        let jobs = reflect(&mut tasks, &client);
        tasks.spawn(jobs::run(client.clone(), jobs.clone(), pods.clone()));
        tasks.spawn(cron_jobs::run(client.clone(), jobs));
        tasks.spawn(disruption::run(client.clone(), pods.clone(), kinds.clone()));
        tasks.spawn(autoscaling::run(client.clone(), pods.clone(), kinds.clone(), config.node));
        tasks.spawn(node_health::run(client.clone(), pods.clone(), nodes.clone()));
        tasks.spawn(node_taints::run(client.clone(), nodes.clone()));
        tasks.spawn(node_ttl::run(client.clone(), nodes.clone()));
        tasks.spawn(taint_eviction::run(client.clone(), pods.clone(), nodes.clone()));
        tasks.spawn(pod_garbage::run(client.clone(), pods.clone(), nodes));
        let (slices, addresses) = (reflect(&mut tasks, &client), reflect(&mut tasks, &client));
        tasks.spawn(endpoints::run(client.clone(), services, pods, slices, addresses));
        tasks.spawn(events::run(client.clone()));
        tasks.spawn(service_cidrs::run(client.clone()));
        tasks.spawn(policy_status::run(client.clone(), kinds.clone()));
        tasks.spawn(resource_quota::run(client.clone(), kinds.clone()));
        tasks.spawn(aggregated_roles::run(client.clone()));
        tasks.spawn(garbage_collector::run(client.clone(), kinds));
        tasks.spawn(cluster_dns::run(client, config.dns_service, config.dns_server));
        tokio::select! {
            () = shutdown => {}
            ended = tasks.join_next() => tracing::error!(?ended, "a controller ended"),
        }
    }
}

/// A reflector of all objects of a kind, fed by a task of the set.
fn reflect<K: Resource>(tasks: &mut JoinSet<()>, client: &Client) -> Reflector<K> {
    let (reflector, feed) = Reflector::new(client.all::<K>(), ListOptions::default());
    tasks.spawn(feed);
    reflector
}

/// Adds every changed key to a queue.
async fn enqueue(mut changes: Subscription, queue: Queue) {
    while let Some(key) = changes.next().await {
        queue.add(&key);
    }
}

/// Adds the key of every object that selects one that changes, before or after the change.
async fn enqueue_selecting<O: Resource, K: Resource>(
    selected: &Reflector<K>,
    selecting: &Reflector<O>,
    selects: impl Fn(&O, &K) -> bool,
    queue: &Queue,
) {
    let mut changes = selected.subscribe();
    let mut known: BTreeMap<String, Arc<K>> = BTreeMap::new();
    while let Some(key) = changes.next().await {
        let there = selecting.in_namespace(split_key(&key).0);
        let now = selected.get(&key);
        // What went, or is not selected any more, leaves those that have had it, even if they came later than it.
        let before = match &now {
            Some(object) => known.insert(key, object.clone()),
            None => known.remove(&key),
        };
        let concerned = |other: &O| now.iter().chain(&before).any(|object| selects(other, object));
        for other in there.iter().filter(|other| concerned(other)) {
            queue.add(&key_of(&**other));
        }
    }
}

/// What follows a reconciliation that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The next change.
    Await,
    /// Another look after a while, whatever happens.
    After(Duration),
}

/// Works on the keys of a queue for ever; a failed one is tried again after its back-off.
async fn work<F>(name: &str, queue: &Queue, reconcile: impl Fn(String) -> F)
where
    F: Future<Output = Result<Next, Status>>,
{
    loop {
        let key = queue.next().await;
        match reconcile(key.clone()).await {
            Ok(next) => {
                queue.done(&key);
                if let Next::After(wait) = next {
                    // A time that is over already must not keep everybody else from their turn.
                    queue.add_after(&key, wait.max(RETRY));
                }
            }
            // Somebody else was faster: look again at what there is now.
            Err(status) if status.is("Conflict") || status.is("AlreadyExists") => queue.retry(&key),
            Err(status) => {
                tracing::warn!(controller = name, key, %status, "reconciliation failed");
                queue.retry(&key);
            }
        }
    }
}

/// How many keys of one controller are worked on at the same time.
const WORKERS: usize = 5;

/// Works on several keys of a queue at a time, each by itself.
async fn work_side_by_side<F>(name: &str, queue: &Queue, reconcile: impl Fn(String) -> F)
where
    F: Future<Output = Result<Next, Status>>,
{
    futures::future::join_all((0..WORKERS).map(|_| work(name, queue, &reconcile))).await;
}

/// The moment in whole seconds, as objects bear it.
fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// To be looked at again at this time.
fn at(time: Option<Timestamp>, now: Timestamp) -> Next {
    match time {
        Some(time) => Next::After(time.duration_since(now).try_into().unwrap_or_default()),
        None => Next::Await,
    }
}

/// A queue that is counted under the name that Kubernetes has for it.
fn queue(client: &Client, name: &'static str) -> Queue {
    client.queue(name, RETRY, RETRY_MAX)
}
