//! The built-in ingress: hosts and paths of Ingress objects lead requests from the host's ports to the pods.
//!
//! [`plan`] turns ingresses and the objects that they name into one table (pure), swapped whole; [`route`] and [`gate`]
//! decide about a request by it (pure); [`gateway`] carries the request to an [`upstream`] and its answer back;
//! [`server`] and [`listen`] have the connections and ports. Endpoints come from EndpointSlices, so requests go straight
//! to pods, whose network the host reaches.
//!
//! Its class is `nginx` and its annotations are those of ingress-nginx, for which the manifests of the world are written;
//! [`annotations`] says which are carried out. It differs where ingress-nginx' way would hurt on a developer's machine:
//! answers by HTTPS do not bind browsers to HTTPS (no `Strict-Transport-Security`).
//!
//! Without an ingress of its class no port is open and nothing but ingresses and classes is followed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress as Object, IngressClass};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::api::request::ListOptions;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::Reflector;
use crate::client::{Client, rest};

mod affinity;
pub mod annotations;
mod body;
mod class;
mod endpoints;
mod exchange;
mod external;
pub mod gate;
pub mod gateway;
mod headers;
mod htpasswd;
mod limits;
pub mod listen;
mod names;
mod path;
mod patterns;
pub mod plan;
pub mod route;
mod secrets;
pub mod server;
mod status;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;
pub mod upstream;
mod variables;

use gateway::{Gateway, Ports};
use listen::Opened;
use plan::{Memory, Observed, Plan, is_ours};
use server::Server;
use tls::Shown;

/// Who says what was done, in events, as with ingress-nginx.
const NAME: &str = "nginx-ingress-controller";

/// The addresses of endpoints that new requests are led to for as long as they last: not those of endpoints that end and
/// have requests only where there is nobody else.
pub type Asked = Arc<BTreeSet<IpAddr>>;

/// The names of the cluster itself, which its host need not know.
pub trait Names: Send + Sync {
    /// The addresses of a name; none when it is none of the cluster's.
    fn addresses(&self, name: &str) -> BoxFuture<'static, Vec<IpAddr>>;
}

/// What the ingress of a cluster needs.
pub struct Config {
    /// The ports at which clients come.
    pub ports: Ports,
    /// The node's address, by which clients come.
    pub node: Ipv4Addr,
    /// The cluster's own address on the host, where clients come when another has a port.
    pub gateway: Ipv4Addr,
    /// How backends are spoken to that want TLS.
    pub tls: Arc<ClientConfig>,
    /// The cluster's own names.
    pub names: Arc<dyn Names>,
}

/// The ingress of one cluster.
pub struct Ingress {
    client: Client,
    config: Config,
    asked: watch::Sender<Asked>,
}

impl Ingress {
    /// One that follows the objects of `client`.
    pub fn new(client: Client, config: Config) -> Ingress {
        Ingress { client, config, asked: watch::Sender::new(Asked::default()) }
    }

    /// Where new requests are led to, as it changes.
    pub fn asked(&self) -> watch::Receiver<Asked> {
        self.asked.subscribe()
    }

    /// Instead of one: takes the class away that an ingress of this cluster made, and the addresses that it gave.
    pub async fn withdraw(client: Client, given: [Ipv4Addr; 2], shutdown: impl Future<Output = ()>) {
        let withdrawn = async {
            class::withdraw(&client, &given).await;
            std::future::pending().await
        };
        tokio::select! {
            () = shutdown => {}
            () = withdrawn => {}
        }
    }

    /// Serves until `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (ingresses, feed_ingresses) = reflect::<Object>(&self.client);
        let (classes, feed_classes) = reflect::<IngressClass>(&self.client);
        let (recorder, record) = Recorder::new(self.client.clone(), NAME, "");
        let report = watch::Sender::new(None);
        let serve = async {
            tokio::join!(ingresses.synced(), classes.synced());
            let mut teller = Teller { recorder, told: HashMap::new() };
            loop {
                until_any(&ingresses, &classes, true).await;
                tokio::select! {
                    () = until_any(&ingresses, &classes, false) => {}
                    () = self.session(&ingresses, &classes, &report, &mut teller) => {}
                }
                report.send_replace(None);
                self.asked.send_replace(Asked::default());
            }
        };
        let statuses = async {
            tokio::join!(ingresses.synced(), classes.synced());
            status::keep(&self.client, &ingresses, &classes, report.subscribe()).await;
        };
        let feeds = async { tokio::join!(feed_ingresses, feed_classes) };
        tokio::select! {
            () = shutdown => {}
            () = serve => {}
            _ = feeds => {}
            _ = async { tokio::join!(statuses, record, class::announce(&self.client)) } => {}
        }
    }

    /// Serves the ingresses that there are.
    async fn session(
        &self,
        ingresses: &Reflector<Object>,
        classes: &Reflector<IngressClass>,
        report: &watch::Sender<Option<Opened>>,
        teller: &mut Teller,
    ) {
        let (services, feed_services) = reflect::<Service>(&self.client);
        let (slices, feed_slices) = reflect::<EndpointSlice>(&self.client);
        let (secrets, feed_secrets) = reflect::<Secret>(&self.client);
        let shown = Shown::new().map(Arc::new);
        let made = shown.and_then(|shown| Ok((tls::server(shown.clone())?, shown)));
        let (accepted, shown) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::error!(error, "the ingress cannot speak TLS");
                return std::future::pending().await;
            }
        };
        let gateway = Gateway::new(self.config.ports, &self.config.tls, self.config.names.clone());
        let gateway = Arc::new(gateway);
        let front = Front { gateway: &gateway, shown: &shown, asked: &self.asked };
        let objects = Objects { ingresses, classes, services: &services, slices: &slices, secrets: &secrets };
        let serve = async {
            // Not before everything is known: a path that is merely not known yet must not be denied.
            tokio::join!(services.synced(), slices.synced(), secrets.synced());
            let mut memory = Memory::default();
            let first = objects.plan(&mut memory);
            let first = front.apply(first);
            let Config { ports, node, gateway: own, .. } = self.config;
            let server = Server::new(gateway.clone(), accepted);
            let open = listen::keep_open(server, ports, node, own, report);
            let follow = objects.follow(first, memory, &front, report.subscribe(), teller);
            tokio::join!(open, follow);
        };
        let feeds = async { tokio::join!(feed_services, feed_slices, feed_secrets) };
        tokio::select! {
            () = serve => {}
            _ = feeds => {}
        }
    }
}

fn reflect<K: crate::client::Resource>(
    client: &Client,
) -> (Reflector<K>, impl Future<Output = ()> + Send + 'static) {
    Reflector::new(client.all::<K>(), ListOptions::default())
}

/// Waits until there is an ingress of ours, or none.
async fn until_any(ingresses: &Reflector<Object>, classes: &Reflector<IngressClass>, any: bool) {
    let mut changes = (ingresses.subscribe(), classes.subscribe());
    loop {
        let known = classes.list();
        if ingresses.list().iter().any(|ingress| is_ours(ingress, &known)) == any {
            return;
        }
        let changed = tokio::select! {
            key = changes.0.next() => key,
            key = changes.1.next() => key,
        };
        if changed.is_none() {
            return std::future::pending().await;
        }
    }
}

/// What is wrong with each ingress of ours.
type Told = Vec<(Arc<Object>, Vec<String>)>;

/// What a plan is for.
struct Front<'a> {
    gateway: &'a Gateway,
    shown: &'a Shown,
    asked: &'a watch::Sender<Asked>,
}

impl Front<'_> {
    /// Does what the plan says, and answers what there is to tell.
    fn apply(&self, plan: Plan) -> Told {
        self.shown.set(plan.certificates);
        self.gateway.set_table(plan.table);
        // Not before: whoever sees an address go takes it that no request is led there any more.
        self.asked.send_replace(Arc::new(plan.asked));
        plan.ours
    }
}

/// What the plan is made of.
struct Objects<'a> {
    ingresses: &'a Reflector<Object>,
    classes: &'a Reflector<IngressClass>,
    services: &'a Reflector<Service>,
    slices: &'a Reflector<EndpointSlice>,
    secrets: &'a Reflector<Secret>,
}

impl Objects<'_> {
    fn plan(&self, memory: &mut Memory) -> Plan {
        let observed = Observed {
            ingresses: &self.ingresses.list(),
            classes: &self.classes.list(),
            services: &self.services.list(),
            slices: &self.slices.list(),
            secrets: &self.secrets.list(),
        };
        plan::plan(&observed, memory)
    }

    /// Makes the plan anew whenever an object has changed.
    async fn follow(
        &self,
        first: Told,
        mut memory: Memory,
        front: &Front<'_>,
        mut opened: watch::Receiver<Option<Opened>>,
        teller: &mut Teller,
    ) {
        let mut ours = first;
        let mut changes = (
            self.ingresses.subscribe(),
            self.classes.subscribe(),
            self.services.subscribe(),
            self.slices.subscribe(),
            self.secrets.subscribe(),
        );
        loop {
            let problems = opened.borrow_and_update().as_ref().map(|opened| opened.problems.clone());
            teller.tell(&ours, &problems.unwrap_or_default());
            let changed = tokio::select! {
                key = changes.0.next() => key,
                key = changes.1.next() => key,
                key = changes.2.next() => key,
                key = changes.3.next() => key,
                key = changes.4.next() => key,
                changed = opened.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => None,
                },
            };
            if changed.is_none() {
                return;
            }
            // Everything that has changed until now goes into one plan.
            while changes.0.next().now_or_never().flatten().is_some() {}
            while changes.1.next().now_or_never().flatten().is_some() {}
            while changes.2.next().now_or_never().flatten().is_some() {}
            while changes.3.next().now_or_never().flatten().is_some() {}
            while changes.4.next().now_or_never().flatten().is_some() {}
            let began = Instant::now();
            ours = front.apply(self.plan(&mut memory));
            rest::after(began).await;
        }
    }
}

/// What an ingress asked for when it was last told about.
type Version = (Option<i64>, Option<BTreeMap<String, String>>);

/// Tells people what becomes of their ingresses, each thing once.
struct Teller {
    recorder: Recorder,
    /// By uid.
    told: HashMap<String, (Version, HashSet<String>)>,
}

impl Teller {
    fn tell(&mut self, ours: &Told, problems: &[String]) {
        let mut before = std::mem::take(&mut self.told);
        for (ingress, complaints) in ours {
            let meta = &ingress.metadata;
            let uid = meta.uid.clone().unwrap_or_default();
            let version = (meta.generation, meta.annotations.clone());
            let about = reference(&**ingress);
            let known = before.remove(&uid);
            if known.as_ref().is_none_or(|(known, _)| *known != version) {
                self.recorder.record(&about, EventType::Normal, "Sync", "Scheduled for sync");
            }
            let already = known.map(|(_, told)| told).unwrap_or_default();
            for complaint in complaints.iter().filter(|one| !already.contains(*one)) {
                let annotation = complaint.starts_with(annotations::PREFIX);
                let reason = if annotation { "InvalidAnnotation" } else { "InvalidIngress" };
                self.recorder.record(&about, EventType::Warning, reason, complaint);
            }
            for problem in problems.iter().filter(|one| !already.contains(*one)) {
                self.recorder.record(&about, EventType::Warning, "PortUnavailable", problem);
            }
            let told = complaints.iter().chain(problems).cloned().collect();
            self.told.insert(uid, (version, told));
        }
    }
}
