//! Pulls from a real registry through a proxy that misbehaves on request, and archives as other tools read them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use minik::image::{Credential, Error, Image, Images, Settings, Silent};
use serde_json::Value;
use tokio::net::TcpListener;

/// Debian's registry over the fixture images, on loopback; ends with the test.
struct Registry {
    process: Child,
    base: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Registry {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/rootfs-fixtures/build");
        let built = Command::new(build).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let fixtures = String::from_utf8(built.stdout).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: json}}\nhttp: {{addr: \"127.0.0.1:0\"}}\nstorage:\n  \
             filesystem: {{rootdirectory: {}/registry}}\n  maintenance: {{readonly: {{enabled: true}}}}\n",
            fixtures.trim()
        );
        std::fs::write(&config, text).unwrap();
        let mut process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line: Value = serde_json::from_str(&line.unwrap()).ok()?;
            line["msg"].as_str()?.strip_prefix("listening on ").map(str::to_owned)
        });
        let base = format!("http://{}", address.expect("the registry listens"));
        // What it says later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Registry { process, base, _dir: dir }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the proxy does to an answer.
#[derive(Clone)]
enum Fault {
    /// Another answer: status, headers, body.
    Says(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// One byte in the middle is another.
    Flip,
    /// All of it, whatever range was asked for.
    Whole,
}

/// A request that came.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    headers: HeaderMap,
}

#[derive(Default)]
struct Plan {
    /// Which paths, by a part of them; how often; what.
    faults: Vec<(&'static str, usize, Fault)>,
    /// The only `Authorization` that is let through.
    wants: Option<String>,
    seen: Vec<Seen>,
}

/// A proxy before the registry.
struct Proxy {
    host: String,
    plan: Arc<Mutex<Plan>>,
    _registry: Registry,
    _task: tokio_util::task::AbortOnDropHandle<()>,
}

type Body = BoxBody<Bytes, std::io::Error>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

async fn forward(
    plan: Arc<Mutex<Plan>>,
    base: String,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let (fault, refused) = {
        let mut plan = plan.lock().unwrap();
        plan.seen.push(Seen { path: path.clone(), headers: request.headers().clone() });
        let given = request.headers().get("authorization").and_then(|v| v.to_str().ok());
        let refused = plan.wants.as_deref().is_some_and(|wanted| given != Some(wanted));
        let fault = plan.faults.iter_mut().find(|(part, left, _)| path.contains(part) && *left > 0);
        let fault = fault.map(|(_, left, fault)| {
            *left -= 1;
            fault.clone()
        });
        (fault, refused)
    };
    if refused {
        let answer = Response::builder().status(401).header("www-authenticate", "Basic realm=\"test\"");
        return Ok(answer.body(whole("")).unwrap());
    }
    if let Some(Fault::Says(status, headers, body)) = fault {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(name, value);
        }
        return Ok(answer.body(whole(body)).unwrap());
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut onward = client.get(format!("{base}{}", request.uri()));
    for name in ["accept", "range"] {
        let dropped = name == "range" && matches!(fault, Some(Fault::Whole));
        if let Some(value) = request.headers().get(name).filter(|_| !dropped) {
            onward = onward.header(name, value);
        }
    }
    let answer = onward.send().await.unwrap();
    let mut response = Response::builder().status(answer.status());
    for name in ["content-type", "content-length", "content-range", "docker-content-digest"] {
        if let Some(value) = answer.headers().get(name) {
            response = response.header(name, value);
        }
    }
    let bytes = answer.bytes().await.unwrap();
    let body = match fault {
        Some(Fault::Cut(at)) => {
            let head = Frame::data(bytes.slice(..at.min(bytes.len())));
            let end = async {
                // The server flushes what it has when there is nothing more at once.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            };
            let parts = stream::once(async { Ok(head) }).chain(stream::once(end));
            BodyExt::boxed(StreamBody::new(Box::pin(parts)))
        }
        Some(Fault::Flip) => {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            whole(bytes)
        }
        _ => whole(bytes),
    };
    Ok(response.body(body).unwrap())
}

impl Proxy {
    async fn start() -> Proxy {
        let registry = tokio::task::spawn_blocking(Registry::start).await.unwrap();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (shared, base) = (plan.clone(), registry.base.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (plan, base) = (shared.clone(), base.clone());
                let service = service_fn(move |request| forward(plan.clone(), base.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        let task = tokio_util::task::AbortOnDropHandle::new(task);
        Proxy { host, plan, _registry: registry, _task: task }
    }

    /// The next `times` answers for paths with this part in them go wrong.
    fn fault(&self, part: &'static str, times: usize, fault: Fault) {
        self.plan.lock().unwrap().faults.push((part, times, fault));
    }

    /// An image's name here.
    fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.host)
    }

    /// The requests for blobs, by digest.
    fn blobs(&self) -> BTreeMap<String, Vec<Seen>> {
        let mut blobs: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for seen in &self.plan.lock().unwrap().seen {
            if let Some((_, digest)) = seen.path.split_once("/blobs/") {
                blobs.entry(digest.to_owned()).or_default().push(seen.clone());
            }
        }
        blobs
    }
}

/// An image store of a test's own.
struct Shelf {
    dir: tempfile::TempDir,
    images: Images,
}

impl Shelf {
    fn new() -> Shelf {
        Shelf::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Settings)) -> Shelf {
        let dir = tempfile::Builder::new().prefix("minik-image-").tempdir_in("/var/tmp").unwrap();
        let mut settings = Settings { dir: dir.path().join("images"), ..Settings::default() };
        change(&mut settings);
        Shelf { images: Images::open(settings).unwrap(), dir }
    }

    async fn pull(&self, name: &str) -> Result<Image, Error> {
        self.images.pull(name, &[], &Silent).await
    }

    /// What lies in one of the store's directories, but for locks.
    fn holds(&self, part: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join("images").join(part)).unwrap();
        let paths = entries.map(|e| e.unwrap().path());
        paths.filter(|p| p.extension().is_none_or(|e| e != "lock")).collect()
    }
}

/// Whether this process may unpack images. Skips loudly; fails where root is required.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("MINIK_REQUIRE_ROOT").is_none(), "root is required here");
        eprintln!("SKIPPED: needs root");
    }
    root
}

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn refusals_carry_the_registrys_own_words() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let shelf = Shelf::new();
    let cases = [
        (
            Fault::Says(
                401,
                vec![JSON],
                r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
            ),
            "answered 401: authentication required (check the name, or log in",
        ),
        (
            Fault::Says(
                403,
                vec![JSON],
                r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#,
            ),
            "answered 403: requested access is denied (check the name, or log in",
        ),
        (
            Fault::Says(
                429,
                vec![JSON, ("retry-after", "3600")],
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit"}]}"#,
            ),
            "answered 429: You have reached your pull rate limit (try again in 3600 s) (the registry's pull limit",
        ),
        (Fault::Says(418, vec![("content-type", "text/html")], "<html>"), "answered 418: I'm a teapot"),
    ];
    for (fault, expected) in cases {
        proxy.fault("/manifests/", 1, fault);
        let message = shelf.pull(&proxy.name("library/alpine")).await.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.starts_with(&proxy.name("library/alpine:latest")), "{message}");
    }
    let missing = shelf.pull(&proxy.name("library/alpine:nonsense")).await.unwrap_err().to_string();
    assert!(missing.contains("answered 404: manifest unknown"), "{missing}");
    let nobody = shelf.pull("127.0.0.1:1/library/alpine").await.unwrap_err();
    assert!(matches!(&nobody, Error::Unreachable { host, .. } if host == "http://127.0.0.1:1"), "{nobody}");
    assert!(shelf.images.list().unwrap().is_empty() && shelf.holds("layers").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_troubles_are_tried_again() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    proxy.fault("/manifests/", 2, Fault::Says(503, vec![], ""));
    proxy.fault("/blobs/", 1, Fault::Says(429, vec![("retry-after", "1")], ""));
    let image = Shelf::new().pull(&proxy.name("library/alpine")).await.unwrap();
    assert_eq!(image.references, [proxy.name("library/alpine:latest")]);
    let shelf = Shelf::new();
    proxy.fault("/manifests/", 100, Fault::Says(500, vec![], ""));
    let error = shelf.pull(&proxy.name("library/alpine")).await.unwrap_err().to_string();
    assert!(error.contains("answered 500: Internal Server Error"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_layer_goes_on_where_it_was() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let cut = 60_000;
    let shelf = Shelf::new();
    let plain = shelf.pull(&proxy.name("library/nginx")).await.unwrap();
    let largest = {
        let sizes: BTreeMap<String, u64> = proxy
            .blobs()
            .into_keys()
            .map(|d| {
                let path = shelf.dir.path().join("images/blobs").join(d.trim_start_matches("sha256:"));
                (d, std::fs::metadata(path).unwrap().len())
            })
            .collect();
        sizes.into_iter().max_by_key(|(_, size)| *size).unwrap().0
    };
    let part: &'static str = Box::leak(largest.clone().into_boxed_str());
    for (again, ranged) in [(None, true), (Some(Fault::Whole), false)] {
        proxy.plan.lock().unwrap().seen.clear();
        proxy.fault(part, 1, Fault::Cut(cut));
        proxy.fault(part, 1, again.unwrap_or(Fault::Cut(2 * cut)));
        let shelf = Shelf::new();
        let image = shelf.pull(&proxy.name("library/nginx")).await.unwrap();
        assert_eq!(image.id, plain.id);
        let seen = &proxy.blobs()[&largest];
        let ranges: Vec<&str> =
            seen.iter().map(|s| s.headers.get("range").map_or("", |r| r.to_str().unwrap())).collect();
        let first = format!("bytes={cut}-");
        if ranged {
            assert_eq!(ranges, ["", &first, &format!("bytes={}-", 3 * cut)]);
        } else {
            assert_eq!(ranges, ["", &first]);
        }
    }
    // What comes in ever so small pieces comes whole; a registry that sends nothing more is given up on.
    proxy.fault(part, 8, Fault::Cut(1000));
    Shelf::new().pull(&proxy.name("library/nginx")).await.unwrap();
    proxy.fault(part, 1000, Fault::Cut(0));
    let shelf = Shelf::new();
    let error = shelf.pull(&proxy.name("library/nginx")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(shelf.images.list().unwrap().is_empty() && shelf.holds("tmp").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_was_announced_is_refused() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let good = Shelf::new();
    let image = good.pull(&proxy.name("library/alpine")).await.unwrap();
    let shelf = Shelf::new();
    proxy.fault("/blobs/", 1, Fault::Flip);
    let config = shelf.pull(&proxy.name("library/alpine")).await.unwrap_err().to_string();
    assert!(config.contains("its configuration is not what sha256:"), "{config}");
    let layer = proxy.blobs().into_keys().find(|d| *d != image.id).unwrap();
    proxy.fault(Box::leak(layer.into_boxed_str()), 1, Fault::Flip);
    let error = shelf.pull(&proxy.name("library/alpine")).await.unwrap_err().to_string();
    assert!(error.contains("sha256:"), "{error}");
    let by_digest = image.repo_digests.last().unwrap().clone();
    proxy.fault("/manifests/sha256:", 1, Fault::Flip);
    let fresh = Shelf::new();
    let error = fresh.pull(&by_digest).await.unwrap_err().to_string();
    assert!(error.contains("the registry sent sha256:"), "{error}");
    for shelf in [&shelf, &fresh] {
        assert!(shelf.images.list().unwrap().is_empty());
        assert!(shelf.holds("layers").is_empty() && shelf.holds("tmp").is_empty());
    }
    assert_eq!(fresh.pull(&by_digest).await.unwrap().id, image.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_share_a_layer_fetch_it_once() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let shelf = Shelf::new();
    let names =
        ["library/nginx", "library/nginx:1.12.2", "library/mysql:5.7", "library/wordpress:4.9-apache"];
    let all = names.iter().chain(&names).map(|name| {
        let (shelf, name) = (&shelf, proxy.name(name));
        async move { shelf.pull(&name).await.unwrap() }
    });
    let images = futures::future::join_all(all).await;
    let bottom = images[0].layers[0].clone();
    assert!(images.iter().all(|image| image.layers[0] == bottom), "the images have no layer in common");
    let layers: Vec<String> = std::fs::read_dir(bottom.parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let configs: Vec<&String> = images.iter().map(|image| &image.id).collect();
    let fetched: Vec<(String, usize)> = proxy
        .blobs()
        .into_iter()
        .filter(|(digest, _)| !configs.contains(&digest))
        .map(|(digest, seen)| (digest, seen.len()))
        .collect();
    assert_eq!(fetched.len(), layers.len());
    assert!(fetched.iter().all(|(_, times)| *times == 1), "{fetched:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_come_from_the_pull_or_from_dockers_file() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    // dev:secret
    proxy.plan.lock().unwrap().wants = Some("Basic ZGV2OnNlY3JldA==".to_owned());
    let name = proxy.name("library/alpine");
    let shelf = Shelf::new();
    let refused = shelf.pull(&name).await.unwrap_err().to_string();
    assert!(refused.contains("answered 401: Unauthorized (check the name, or log in"), "{refused}");
    let secret = |password: &str| Credential {
        registry: proxy.host.clone(),
        username: "dev".to_owned(),
        password: password.to_owned(),
    };
    assert!(shelf.images.pull(&name, &[secret("wrong")], &Silent).await.is_err());
    shelf.images.pull(&name, &[secret("secret")], &Silent).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    let auths = serde_json::json!({"auths": {(proxy.host.clone()): {"auth": "ZGV2OnNlY3JldA=="}}});
    std::fs::write(&config, auths.to_string()).unwrap();
    Shelf::with(|settings| settings.docker_config = Some(config)).pull(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_order() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let mirrors = vec!["http://127.0.0.1:1".to_owned(), format!("http://{}", proxy.host)];
    let shelf = Shelf::with(|settings| settings.mirrors = [("example.test".to_owned(), mirrors)].into());
    let image = shelf.pull("example.test/library/alpine:latest").await.unwrap();
    assert_eq!(image.references, ["example.test/library/alpine:latest"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_archive_is_the_same_image_for_everybody() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let shelf = Shelf::new();
    let names = ["library/torture", "instavote/vote:indent", "library/alpine"].map(|n| proxy.name(n));
    let mut ids = Vec::new();
    for name in &names {
        ids.push(shelf.pull(name).await.unwrap().id);
    }
    let archive = shelf.dir.path().join("images.tar");
    shelf.images.save(&names, std::fs::File::create(&archive).unwrap()).await.unwrap();
    let other = Shelf::new();
    let loaded = other.images.load(std::fs::File::open(&archive).unwrap()).await.unwrap();
    assert_eq!(loaded.iter().map(|image| image.id.clone()).collect::<Vec<_>>(), ids);
    for (name, id) in names.iter().zip(&ids) {
        assert_eq!(other.images.find(name).unwrap().unwrap().id, *id);
    }
    for name in &names {
        let docker = skopeo(&["inspect"], &format!("docker-archive:{}:{name}", archive.display()));
        let image = shelf.images.find(name).unwrap().unwrap();
        let alone = shelf.dir.path().join("alone.tar");
        let file = std::fs::File::create(&alone).unwrap();
        shelf.images.save(std::slice::from_ref(name), file).await.unwrap();
        let alone = format!("oci-archive:{}", alone.display());
        let oci = skopeo(&["inspect"], &alone);
        for shown in [&docker, &oci] {
            let shown: Value = serde_json::from_slice(shown).unwrap();
            assert_eq!(shown["Layers"].as_array().unwrap().len(), image.layers.len(), "{name}");
            assert_eq!(shown["Os"], "linux");
        }
        let manifest = digest_of(&skopeo(&["inspect", "--raw"], &alone));
        assert!(image.repo_digests.iter().any(|one| one.ends_with(&manifest)), "{name}: {manifest}");
    }
}

fn digest_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn skopeo(verb: &[&str], image: &str) -> Vec<u8> {
    let run = Command::new("skopeo").args(verb).arg(image).output().unwrap();
    assert!(run.status.success(), "{image}: {}", String::from_utf8_lossy(&run.stderr));
    run.stdout
}
