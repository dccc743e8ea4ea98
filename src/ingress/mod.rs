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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress as Object, IngressClass};
use rustls::ClientConfig;
use serde_json::json;
use tokio::sync::watch;

use crate::api::request::{DeleteOptions, ListOptions};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::Reflector;

mod affinity;
pub mod annotations;
mod body;
mod endpoints;
pub mod gate;
pub mod gateway;
mod headers;
mod htpasswd;
pub mod listen;
mod names;
mod path;
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

use gateway::{Gateway, Ports};
use listen::Opened;
use plan::{CLASS, CONTROLLER, Observed, Plan, is_ours};
use secrets::Memory;
use server::Server;
use tls::Shown;

/// Who says what was done, in events, as with ingress-nginx.
const NAME: &str = "nginx-ingress-controller";

/// The label by which a class that was made here is known.
const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "minik");

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
}

/// The ingress of one cluster.
pub struct Ingress {
    client: Client,
    config: Config,
}

impl Ingress {
    /// One that follows the objects of `client`.
    pub fn new(client: Client, config: Config) -> Ingress {
        Ingress { client, config }
    }

    /// Makes the class that ingresses have by default, unless there is one of its name.
    pub async fn announce(&self) -> Result<(), Status> {
        let class = json!({
            "metadata": {
                "name": CLASS,
                "labels": {MADE_BY.0: MADE_BY.1},
                "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
            },
            "spec": {"controller": CONTROLLER},
        });
        let class: IngressClass = serde_json::from_value(class).map_err(Status::internal)?;
        match self.client.all::<IngressClass>().create(&class).await {
            Err(status) if !status.is("AlreadyExists") => Err(status),
            _ => Ok(()),
        }
    }

    /// Takes the class away that [`Ingress::announce`] made: somebody else is to have ingresses. Theirs stays.
    pub async fn withdraw(client: &Client) -> Result<(), Status> {
        let classes = client.all::<IngressClass>();
        let class = match classes.get(CLASS).await {
            Err(status) if status.is("NotFound") => return Ok(()),
            found => found?,
        };
        let label = class.metadata.labels.as_ref().and_then(|labels| labels.get(MADE_BY.0));
        if label.map(String::as_str) != Some(MADE_BY.1) {
            return Ok(());
        }
        match classes.delete(CLASS, DeleteOptions::default()).await {
            Err(status) if !status.is("NotFound") => Err(status),
            _ => Ok(()),
        }
    }

    /// Serves until `shutdown`.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let (ingresses, feed_ingresses) = reflect::<Object>(&self.client);
        let (classes, feed_classes) = reflect::<IngressClass>(&self.client);
        let (recorder, record) = Recorder::new(self.client.clone(), NAME, "");
        let report = watch::Sender::new(Opened::default());
        let serve = async {
            tokio::join!(ingresses.synced(), classes.synced());
            let mut teller = Teller { recorder, told: HashMap::new() };
            loop {
                until_any(&ingresses, &classes, true).await;
                tokio::select! {
                    () = until_any(&ingresses, &classes, false) => {}
                    () = self.session(&ingresses, &classes, &report, &mut teller) => {}
                }
                report.send_replace(Opened::default());
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
            _ = async { tokio::join!(statuses, record) } => {}
        }
    }

    /// Serves the ingresses that there are.
    async fn session(
        &self,
        ingresses: &Reflector<Object>,
        classes: &Reflector<IngressClass>,
        report: &watch::Sender<Opened>,
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
        let gateway = Arc::new(Gateway::new(self.config.ports, &self.config.tls));
        let objects = Objects { ingresses, classes, services: &services, slices: &slices, secrets: &secrets };
        let serve = async {
            // Not before everything is known: a path that is merely not known yet must not be denied.
            tokio::join!(services.synced(), slices.synced(), secrets.synced());
            let mut memory = Memory::default();
            let first = objects.plan(&mut memory);
            let first = apply(first, &gateway, &shown);
            let Config { ports, node, gateway: own, .. } = self.config;
            let server = Server::new(gateway.clone(), accepted);
            let open = listen::keep_open(server, ports, node, own, report);
            let follow = objects.follow(first, memory, &gateway, &shown, report.subscribe(), teller);
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

/// Does what the plan says, and answers what there is to tell.
fn apply(plan: Plan, gateway: &Gateway, shown: &Shown) -> Told {
    shown.set(plan.certificates);
    gateway.set_table(plan.table);
    plan.ours
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
        gateway: &Gateway,
        shown: &Shown,
        mut opened: watch::Receiver<Opened>,
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
            teller.tell(&ours, &opened.borrow_and_update().problems);
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
            ours = apply(self.plan(&mut memory), gateway, shown);
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
