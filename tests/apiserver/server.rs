//! An API server in this process, and an HTTP client that is its administrator.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use minik::api::exposition::{Exposition, Source, Type};
use minik::api::node::{
    ContainerRef, ExecOptions, LogOptions, Node, NodeUsage, Page, PodUsage, Taken, Usage,
};
use minik::api::status::Status;
use minik::apiserver::aggregation::identity::FrontProxy;
use minik::apiserver::allocate::ServiceRanges;
use minik::apiserver::audit::Audit;
use minik::apiserver::http::{Config as Around, DEADLINE, Server};
use minik::apiserver::pki::{Identity, LEAF_LIFETIME, Pki, ServerNames, Tls};
use minik::apiserver::proxy::exchange::Dial;
use minik::apiserver::{ApiServer, Config};
use minik::stdio::{Duplex, Reader, Session};
use minik::store::Store;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// An API server that listens on loopback until it is dropped.
pub struct Fixture {
    /// What stands behind it.
    pub api: Arc<ApiServer>,
    /// Its HTTP side, by which components in this process reach other servers as well.
    pub server: Arc<Server>,
    /// Its authority.
    pub pki: Arc<Pki>,
    /// Its certificate.
    pub tls: Arc<Tls>,
    pub base: String,
    /// How it reaches backends.
    pub dial: Arc<Loopback>,
    /// The administrator's client.
    pub admin: reqwest::Client,
    /// Another one, with connections of its own.
    pub second: reqwest::Client,
    /// A client that nobody knows.
    pub stranger: reqwest::Client,
    pub store: Store,
    _stop: oneshot::Sender<()>,
    _directory: tempfile::TempDir,
}

/// A pod network on loopback: what is dialled at an address of the cluster is answered at another.
#[derive(Default)]
pub struct Loopback(Mutex<HashMap<SocketAddr, SocketAddr>>);

impl Loopback {
    /// Has whoever listens at `real` answer for `address`.
    pub fn lead(&self, address: &str, real: SocketAddr) {
        self.0.lock().unwrap().insert(address.parse().unwrap(), real);
    }
}

impl Dial for Loopback {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, std::io::Result<Box<dyn Duplex>>> {
        let real = self.0.lock().unwrap().get(&address).copied();
        async move {
            let real = real.ok_or(std::io::ErrorKind::ConnectionRefused)?;
            Ok(Box::new(tokio::net::TcpStream::connect(real).await?) as Box<dyn Duplex>)
        }
        .boxed()
    }
}

/// A node on which the pod `www` uses half of a CPU, and nothing can be started.
struct Idle;

impl Node for Idle {
    fn logs(&self, _: ContainerRef, _: LogOptions) -> BoxFuture<'_, Result<Reader, Status>> {
        refused(Status::unavailable("nothing was written here"))
    }
    fn exec(&self, _: ContainerRef, _: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        refused(Status::unavailable("nothing can be started here"))
    }
    fn attach(&self, _: ContainerRef, _: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        refused(Status::unavailable("nothing can be joined here"))
    }
    fn port_forward(&self, _: String, _: String, _: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, Status>> {
        refused(Status::unavailable("nothing listens here"))
    }
    fn usage(&self) -> BoxFuture<'_, Result<NodeUsage, Status>> {
        let taken = Taken { at: "2024-01-01T00:00:00Z".parse().unwrap(), window: Duration::from_secs(15) };
        let used = |nano_cpus| Usage { nano_cpus, working_set: 5 << 20 };
        let containers = vec![("c".to_owned(), used(500_000_000))];
        let pod = PodUsage { namespace: "default".into(), name: "www".into(), taken, containers };
        ready(Ok(NodeUsage { node: "minik".into(), taken, machine: used(1_500_000_000), pods: vec![pod] }))
            .boxed()
    }
    fn page(&self, path: String, query: String) -> BoxFuture<'_, Result<Page, Status>> {
        if path == "/none" {
            return refused(Status::failure(404, "NotFound", "404: Page Not Found"));
        }
        let content = format!("{path}?{query}").into();
        ready(Ok(Page { content_type: "application/json", content })).boxed()
    }
}

/// Who runs in the same process as the server, and counts something.
struct Beside;

impl Source for Beside {
    fn write(&self, page: &mut Exposition) {
        page.single("beside_total", Type::Counter, "What is beside.", 3);
    }
}

fn refused<T: Send + 'static>(status: Status) -> BoxFuture<'static, Result<T, Status>> {
    ready(Err(status)).boxed()
}

/// What came back.
pub struct Answer {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// The texts of its warnings.
    pub fn warnings(&self) -> Vec<String> {
        let of = |value: &http::HeaderValue| {
            let text = String::from_utf8_lossy(value.as_bytes()).replace("\\\"", "\"");
            text.strip_prefix("299 - \"").and_then(|t| t.strip_suffix('"')).unwrap().to_owned()
        };
        self.headers.get_all("warning").iter().map(of).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// The object, which must be there.
    pub fn expect(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", self.text());
        self.json()
    }
}

/// What servers of tests differ in.
struct Settings {
    lifetime: Duration,
    front_proxy: Option<FrontProxy>,
    audit: Option<Audit>,
    deadline: Duration,
    service_ranges: &'static str,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            lifetime: LEAF_LIFETIME,
            front_proxy: None,
            audit: None,
            deadline: DEADLINE,
            service_ranges: "10.96.0.0/16",
        }
    }
}

impl Fixture {
    /// A server that was made, bootstrapped, and serves.
    pub async fn start() -> Fixture {
        let fixture = Fixture::start_bare().await;
        fixture.api.bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
        fixture
    }

    /// A server of a cluster that has addresses of both families.
    pub async fn start_dual_stack() -> Fixture {
        let service_ranges = "10.96.0.0/16,fd00:10:96::/112";
        Fixture::start_with(Settings { service_ranges, ..Settings::default() }).await
    }

    /// A server that has not yet made the cluster's first objects.
    pub async fn start_bare() -> Fixture {
        Fixture::start_for(LEAF_LIFETIME).await
    }

    /// A server that has others beside it, for which `front` vouches.
    pub async fn start_beside(front: FrontProxy) -> Fixture {
        Fixture::start_with(Settings { front_proxy: Some(front), ..Settings::default() }).await
    }

    /// A server that keeps an audit log.
    pub async fn start_recorded(audit: Audit) -> Fixture {
        Fixture::start_with(Settings { audit: Some(audit), ..Settings::default() }).await
    }

    /// A server that gives requests so long.
    pub async fn start_impatient(deadline: Duration) -> Fixture {
        Fixture::start_with(Settings { deadline, ..Settings::default() }).await
    }

    /// A bare server with a server certificate of this lifetime.
    pub async fn start_for(lifetime: Duration) -> Fixture {
        Fixture::start_as(Settings { lifetime, ..Settings::default() }).await
    }

    async fn start_with(settings: Settings) -> Fixture {
        let fixture = Fixture::start_as(settings).await;
        fixture.api.bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
        fixture
    }

    async fn start_as(settings: Settings) -> Fixture {
        let Settings { lifetime, front_proxy, audit, deadline, service_ranges } = settings;
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let directory = tempfile::tempdir().unwrap();
        let pki = Arc::new(Pki::open(&directory.path().join("pki")).unwrap());
        let names = ServerNames { node: "minik".into(), addresses: Vec::new() };
        let tls = Arc::new(Tls::new(pki.clone(), names, lifetime).unwrap());
        let store = Store::open(&directory.path().join("store")).unwrap();
        let service_ranges = ServiceRanges::parse(service_ranges).unwrap();
        let token_key = pki.token_key().to_vec();
        let api = ApiServer::new(Config { store: store.clone(), service_ranges, token_key }).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dial = Arc::new(Loopback::default());
        let base = format!("https://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let (node, figures) = (Arc::new(Idle), vec![Arc::new(Beside) as Arc<dyn Source>]);
        let around = Around { node, dial: dial.clone(), front_proxy, audit, deadline, figures };
        let server = Server::new(api.clone(), around);
        tokio::spawn(server.clone().serve(vec![listener], tls.config.clone(), stopped.map(drop)));

        let leaf = pki.client("admin", &["system:masters"], LEAF_LIFETIME).unwrap();
        let admin = client(&pki, Some(&leaf)).build().unwrap();
        let second = client(&pki, Some(&leaf)).build().unwrap();
        let stranger = client(&pki, None).build().unwrap();
        Fixture {
            api,
            server,
            pki,
            tls,
            base,
            dial,
            admin,
            second,
            stranger,
            store,
            _stop: stop,
            _directory: directory,
        }
    }

    /// Another server over the same store, as after a restart.
    pub fn restarted(&self) -> Arc<ApiServer> {
        let service_ranges = *self.api.registry().allocator().ranges();
        let token_key = self.pki.token_key().to_vec();
        ApiServer::new(Config { store: self.store.clone(), service_ranges, token_key }).unwrap()
    }

    /// A request of the administrator's.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        self.admin.request(method, format!("{}{path}", self.base))
    }

    pub async fn get(&self, path: &str) -> Answer {
        sent(self.request("GET", path)).await
    }

    /// Reads an object until it is as it must be, and answers it; of one that is not there, the status that says so.
    pub async fn until(&self, within: Duration, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                let answer = self.get(path).await;
                let code = if answer.code == 404 { 404 } else { 200 };
                let seen = answer.expect(code);
                if holds(&seen) {
                    return seen;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = tokio::time::timeout(within, look).await;
        found.unwrap_or_else(|_| panic!("{path} does not come to be as it must"))
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        sent(self.request("POST", path).json(&body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        sent(self.request("PUT", path).json(&body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        sent(self.request("DELETE", path)).await
    }

    /// A merge patch.
    pub async fn patch(&self, path: &str, patch: Value) -> Answer {
        self.patch_as("application/merge-patch+json", path, patch.to_string()).await
    }

    /// A patch of this media type.
    pub async fn patch_as(&self, media: &str, path: &str, patch: impl Into<String>) -> Answer {
        sent(self.request("PATCH", path).header("content-type", media).body(patch.into())).await
    }

    /// What a watch tells.
    pub async fn watch(&self, path: &str) -> Events {
        Self::events(self.request("GET", path)).await
    }

    /// What a request that watches is told.
    pub async fn events(request: reqwest::RequestBuilder) -> Events {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        Events { response, read: Vec::new() }
    }

    /// A config map in `default`.
    pub async fn config(&self, name: &str) -> Value {
        self.post(MAPS, json!({"metadata": {"name": name}})).await.expect(201)
    }

    /// The account that pods of `default` run as, and a pod on a node that is not there.
    pub async fn pod(&self, name: &str) -> Value {
        let accounts = "/api/v1/namespaces/default/serviceaccounts";
        self.post(accounts, json!({"metadata": {"name": "default"}})).await;
        let pod = json!({"metadata": {"name": name}, "spec": {"nodeName": "minik",
            "containers": [{"name": "c", "image": "nginx"}]}});
        self.post(PODS, pod).await.expect(201)
    }
}

/// A client that trusts this authority and shows this certificate.
pub fn client(pki: &Pki, identity: Option<&Identity>) -> reqwest::ClientBuilder {
    let ca = reqwest::Certificate::from_pem(pki.ca_pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([ca]);
    let client = client.redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(30));
    let Some(identity) = identity else { return client };
    let pem = format!("{}{}", identity.certificate, identity.key);
    client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
}

/// A watch's events, one JSON document a line.
pub struct Events {
    response: reqwest::Response,
    read: Vec<u8>,
}

impl Events {
    /// The next event, which must come.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return serde_json::from_slice(&line).unwrap();
            }
            let chunk = self.response.chunk().await.unwrap().expect("the watch ended");
            self.read.extend_from_slice(&chunk);
        }
    }

    /// Waits for the end of the watch; whether no more events came before it.
    pub async fn ended(&mut self) -> bool {
        let rest = async {
            while let Some(chunk) = self.response.chunk().await.unwrap() {
                self.read.extend_from_slice(&chunk);
            }
        };
        tokio::time::timeout(Duration::from_secs(10), rest).await.expect("the watch goes on");
        self.read.is_empty()
    }
}

/// Config maps of `default`.
pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// Pods of `default`.
pub const PODS: &str = "/api/v1/namespaces/default/pods";

/// Sends a request and takes the whole answer.
pub async fn sent(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (code, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { code, headers, bytes: response.bytes().await.unwrap().to_vec() }
}

/// The names of a list's objects, in order.
pub fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}
