//! What a simulated cluster has instead of images, metrics, a network, keys and disks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use minik::api::meta;
use minik::api::node::{
    ContainerRef, ExecOptions, LogOptions, NoNode, Node, NodeUsage, Page, PodUsage, Taken, Usage,
};
use minik::api::status::Status;
use minik::client::Client;
use minik::clock;
use minik::controllers::Authority;
use minik::controllers::volumes::Storage;
use minik::image::{Credential, Image, ImageConfig};
use minik::kubelet::context::{Addresses, ImageSource};
use minik::network::Attachment;
use minik::stdio::{Duplex, Reader, Session};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::NAMESPACE;
use super::objects::kind;

/// Images that are all here, but for those that are held back or cannot be fetched.
#[derive(Default)]
pub struct Images {
    pub held: watch::Sender<BTreeSet<String>>,
    /// Why images cannot be fetched, by name.
    pub broken: Mutex<BTreeMap<String, String>>,
    /// The images that were fetched, and when.
    pub pulls: Mutex<Vec<(String, Instant)>>,
}

impl ImageSource for Images {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Image>, String>> {
        let config = ImageConfig { cmd: vec![name.to_owned()], ..ImageConfig::default() };
        let image = Image { id: format!("sha256:{name}"), config, ..Image::default() };
        let here = !self.held.borrow().contains(name) && !self.broken.lock().unwrap().contains_key(name);
        async move { Ok(here.then_some(image)) }.boxed()
    }

    fn pull<'a>(&'a self, name: &'a str, _: Vec<Credential>) -> BoxFuture<'a, Result<Image, String>> {
        async move {
            self.pulls.lock().unwrap().push((name.to_owned(), Instant::now()));
            let mut held = self.held.subscribe();
            let _ = held.wait_for(|held| !held.contains(name)).await;
            if let Some(why) = self.broken.lock().unwrap().get(name) {
                return Err(why.clone());
            }
            Ok(self.find(name).await?.unwrap_or_default())
        }
        .boxed()
    }

    fn free(&self, _: u64, _: Duration) -> BoxFuture<'_, Result<Option<u64>, String>> {
        async { Ok(Some(0)) }.boxed()
    }
}

/// What pods use, as the test says: the memory of their container `c`; nothing else of a node.
pub struct Metrics {
    pub client: Client,
    /// Of each pod.
    pub pods: Mutex<BTreeMap<String, u64>>,
    /// Of all pods with a value of the label `app` together.
    pub apps: Mutex<BTreeMap<String, u64>>,
}

impl Metrics {
    /// What each of these pods uses, in bytes.
    fn of(&self, pods: &[Value]) -> BTreeMap<String, u64> {
        let mut used = self.pods.lock().unwrap().clone();
        for (app, bytes) in self.apps.lock().unwrap().iter() {
            let of = |pod: &&Value| {
                pod["metadata"]["labels"]["app"] == **app && pod["status"]["phase"] == "Running"
            };
            let running: Vec<&str> = pods.iter().filter(of).map(meta::name).collect();
            let share = bytes / running.len().max(1) as u64;
            used.extend(running.into_iter().map(|pod| (pod.to_owned(), share)));
        }
        used
    }
}

impl Node for Metrics {
    fn logs(&self, of: ContainerRef, options: LogOptions) -> BoxFuture<'_, Result<Reader, Status>> {
        NoNode.logs(of, options)
    }

    fn exec(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        NoNode.exec(of, options)
    }

    fn attach(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        NoNode.attach(of, options)
    }

    fn port_forward(
        &self,
        namespace: String,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Duplex>, Status>> {
        NoNode.port_forward(namespace, pod, port)
    }

    fn usage(&self) -> BoxFuture<'_, Result<NodeUsage, Status>> {
        async {
            let pods = self.client.objects(&kind("pods"), Some(NAMESPACE)).await?;
            let pods: Vec<Value> = pods.iter().map(|entry| entry.json().clone()).collect();
            let taken = Taken { at: clock::now(), window: Duration::from_secs(1) };
            let of = |(name, bytes)| {
                let usage = Usage { nano_cpus: 0, working_set: bytes };
                PodUsage { namespace: NAMESPACE.into(), name, taken, containers: vec![("c".into(), usage)] }
            };
            let pods = self.of(&pods).into_iter().map(of).collect();
            Ok(NodeUsage { node: "minik".into(), taken, machine: Usage::default(), pods })
        }
        .boxed()
    }

    fn page(&self, path: String, query: String) -> BoxFuture<'_, Result<Page, Status>> {
        NoNode.page(path, query)
    }
}

/// Addresses that nobody has.
#[derive(Default)]
pub struct Network {
    given: AtomicU32,
    held: Mutex<BTreeSet<String>>,
}

impl Addresses for Network {
    fn attach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Attachment, String>> {
        self.held.lock().unwrap().insert(id.to_owned());
        let host = 2 + self.given.fetch_add(1, Ordering::Relaxed);
        let address = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(192, 0, 2, 0)) + host);
        async move { Ok(Attachment { namespace: "/nowhere".into(), address, address6: None }) }.boxed()
    }

    fn detach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        self.held.lock().unwrap().remove(id);
        async { Ok(()) }.boxed()
    }

    fn held(&self) -> BoxFuture<'_, Result<BTreeSet<String>, String>> {
        let held = self.held.lock().unwrap().clone();
        async { Ok(held) }.boxed()
    }
}

/// The certificate by which the API server would be known.
pub fn authority() -> &'static str {
    static MADE: LazyLock<String> = LazyLock::new(|| {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    });
    &MADE
}

/// Nothing is signed here.
pub struct NoKeys;

impl Authority for NoKeys {
    fn token(&self, _: &str, _: &str, _: &str, _: &str) -> Option<String> {
        None
    }

    fn certificate(&self, _: &[u8], _: &[String], _: SignedDuration, _: Timestamp) -> Result<String, String> {
        Err("nothing is signed here".into())
    }
}

/// Volumes are directories here.
pub struct Disk(pub PathBuf);

impl Storage for Disk {
    fn make(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        Ok(path)
    }

    fn remove(&self, path: &Path) -> Result<(), String> {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    fn scrub(&self, path: &Path) -> Result<(), String> {
        // Nothing outside of the test's own directory is touched.
        self.remove(&self.0.join(path.file_name().unwrap_or_default())).and_then(|()| self.make("").map(drop))
    }
}
