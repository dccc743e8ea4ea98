//! Pulls from a real registry through a proxy that misbehaves on request, and archives as other tools read them.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

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
    /// All of it, and then the connection breaks instead of ending.
    Unfinished,
    /// Half of it, and then nothing more.
    Stall,
    /// The token that was good is so no more.
    Expire,
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
    /// The number of the good token, where there is a token service.
    tokens: Option<u32>,
    /// What the token service was told: `Authorization` or the form.
    asked: Vec<String>,
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
    if path == "/token" {
        return Ok(give_token(&plan, request).await);
    }
    let host = request.headers()["host"].to_str().unwrap().to_owned();
    let (fault, refused, bearer) = {
        let mut plan = plan.lock().unwrap();
        plan.seen.push(Seen { path: path.clone(), headers: request.headers().clone() });
        let fault = plan.faults.iter_mut().find(|(part, left, _)| path.contains(part) && *left > 0);
        let fault = fault.map(|(_, left, fault)| {
            *left -= 1;
            fault.clone()
        });
        if matches!(fault, Some(Fault::Expire)) {
            plan.expire();
        }
        let given = request.headers().get("authorization").and_then(|v| v.to_str().ok());
        let refused = plan.wants.as_deref().is_some_and(|wanted| given != Some(wanted));
        (fault, refused, plan.tokens.is_some())
    };
    if refused {
        let challenge = if bearer {
            format!(
                "Bearer realm=\"http://{host}/token\",service=\"test\",scope=\"repository:library/x:pull\""
            )
        } else {
            "Basic realm=\"test\"".to_owned()
        };
        let answer = Response::builder().status(401).header("www-authenticate", challenge);
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
    let endless = matches!(fault, Some(Fault::Unfinished));
    for name in ["content-type", "content-length", "content-range", "docker-content-digest"] {
        if endless && name == "content-length" {
            continue;
        }
        if let Some(value) = answer.headers().get(name) {
            response = response.header(name, value);
        }
    }
    let bytes = answer.bytes().await.unwrap();
    let body = match fault {
        Some(Fault::Stall) => {
            let head = Frame::data(bytes.slice(..bytes.len() / 2));
            let parts = stream::once(async { Ok(head) }).chain(stream::pending());
            BodyExt::boxed(StreamBody::new(Box::pin(parts)))
        }
        Some(Fault::Cut(_) | Fault::Unfinished) => {
            let at = if let Some(Fault::Cut(at)) = fault { at } else { bytes.len() };
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

impl Plan {
    /// From here on, another token is the good one.
    fn expire(&mut self) {
        let next = self.tokens.unwrap_or(0) + 1;
        (self.tokens, self.wants) = (Some(next), Some(format!("Bearer t{next}")));
    }
}

/// A token service: gives the token that is good at the time.
async fn give_token(plan: &Mutex<Plan>, request: Request<Incoming>) -> Response<Body> {
    let given = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
    let form = request.into_body().collect().await.unwrap().to_bytes();
    let mut plan = plan.lock().unwrap();
    plan.asked.push(given.unwrap_or_else(|| String::from_utf8(form.to_vec()).unwrap()));
    let fault = plan.faults.iter_mut().find(|(part, left, _)| *part == "/token" && *left > 0);
    if let Some((_, left, Fault::Says(status, _, body))) = fault {
        *left -= 1;
        return Response::builder().status(*status).body(whole(*body)).unwrap();
    }
    let number = plan.tokens.unwrap_or(0);
    Response::new(whole(format!(r#"{{"token":"t{number}"}}"#)))
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
        let message = shelf.pull(&proxy.name("library/busybox")).await.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
        assert!(message.starts_with(&proxy.name("library/busybox:latest")), "{message}");
    }
    let missing = shelf.pull(&proxy.name("library/busybox:nonsense")).await.unwrap_err().to_string();
    assert!(missing.contains("answered 404: manifest unknown"), "{missing}");
    let nobody = shelf.pull("127.0.0.1:1/library/busybox").await.unwrap_err();
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
    let image = Shelf::new().pull(&proxy.name("library/busybox")).await.unwrap();
    assert_eq!(image.references, [proxy.name("library/busybox:latest")]);
    let shelf = Shelf::new();
    proxy.fault("/manifests/", 100, Fault::Says(500, vec![], ""));
    let error = shelf.pull(&proxy.name("library/busybox")).await.unwrap_err().to_string();
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
    let plain = shelf.pull(&proxy.name("library/torture")).await.unwrap();
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
        let image = shelf.pull(&proxy.name("library/torture")).await.unwrap();
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
    Shelf::new().pull(&proxy.name("library/torture")).await.unwrap();
    proxy.fault(part, 1000, Fault::Cut(0));
    let shelf = Shelf::new();
    let error = shelf.pull(&proxy.name("library/torture")).await.unwrap_err();
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
    let image = good.pull(&proxy.name("library/torture")).await.unwrap();
    let shelf = Shelf::new();
    proxy.fault("/blobs/", 1, Fault::Flip);
    let config = shelf.pull(&proxy.name("library/torture")).await.unwrap_err().to_string();
    assert!(config.contains("its configuration is not what sha256:"), "{config}");
    let layer = proxy.blobs().into_keys().find(|d| *d != image.id).unwrap();
    proxy.fault(Box::leak(layer.into_boxed_str()), 1, Fault::Flip);
    let error = shelf.pull(&proxy.name("library/torture")).await.unwrap_err().to_string();
    assert!(error.contains("sha256:"), "{error}");
    let by_digest = image.repo_digests.last().unwrap().clone();
    proxy.fault("/manifests/sha256:", 1, Fault::Flip);
    let fresh = Shelf::new();
    let error = fresh.pull(&by_digest).await.unwrap_err().to_string();
    assert!(error.contains("the registry sent sha256:"), "{error}");
    for shelf in [&shelf, &fresh] {
        assert!(shelf.images.list().unwrap().is_empty());
        // Other layers that came whole stay until the next collection; the thread of a torn one ends by itself.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !(shelf.holds("layers").is_empty() && shelf.holds("tmp").is_empty()) {
            assert!(std::time::Instant::now() < until, "{:?}", shelf.holds("layers"));
            shelf.images.collect().unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
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
    let names = ["library/torture", "library/busybox", "instavote/vote:movies", "instavote/vote:indent"];
    let all = names.iter().chain(&names).map(|name| {
        let (shelf, name) = (&shelf, proxy.name(name));
        async move { shelf.pull(&name).await.unwrap() }
    });
    let images = futures::future::join_all(all).await;
    let bottom = images[0].layers[0].clone();
    assert!(images.iter().all(|image| image.layers[0] == bottom), "the images have no layer in common");
    let configs: Vec<&String> = images.iter().map(|image| &image.id).collect();
    let manifests =
        images.iter().flat_map(|image| &image.repo_digests).map(|name| name.split_once('@').unwrap().1);
    let documents: std::collections::BTreeSet<&str> =
        configs.iter().map(|id| id.as_str()).chain(manifests).collect();
    let kept = shelf
        .holds("blobs")
        .into_iter()
        .map(|path| format!("sha256:{}", path.file_name().unwrap().display()));
    let layers: Vec<String> = kept.filter(|digest| !documents.contains(digest.as_str())).collect();
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
    let name = proxy.name("library/busybox");
    let shelf = Shelf::new();
    let refused = shelf.pull(&name).await.unwrap_err().to_string();
    assert!(refused.contains("answered 401: Unauthorized (check the name, or log in"), "{refused}");
    let secret = |password: &str| Credential {
        registry: proxy.host.clone(),
        username: "dev".to_owned(),
        password: password.to_owned(),
        identity_token: None,
        holder: String::new(),
    };
    assert!(shelf.images.pull(&name, &[secret("wrong")], &Silent).await.is_err());
    let pulled = shelf.images.pull(&name, &[secret("secret")], &Silent).await.unwrap();
    assert!(pulled.is_open_to(&name, &[]), "what the user of the machine brings is for everybody");

    // What was fetched for somebody is theirs, until somebody else shows that they may have it as well.
    let of = |holder: &str, password: &str| Credential { holder: holder.to_owned(), ..secret(password) };
    shelf.images.pull_for(&name, &[of("one", "secret")], &Silent).await.unwrap();
    let here = || shelf.images.find(&name).unwrap().unwrap();
    assert!(
        here().is_open_to(&name, &[of("one", "renewed")]) && here().is_open_to(&name, &[of("two", "secret")])
    );
    assert!(!here().is_open_to(&name, &[]) && !here().is_open_to(&name, &[of("two", "wrong")]));
    assert!(!here().is_open_to("other.example/library/busybox", &[of("one", "secret")]));
    assert!(shelf.images.pull_for(&name, &[], &Silent).await.is_err());
    assert!(!here().is_open_to(&name, &[]));
    proxy.plan.lock().unwrap().wants = None;
    shelf.images.pull_for(&name, &[], &Silent).await.unwrap();
    assert!(here().is_open_to(&name, &[]) && here().is_open_to(&name, &[of("two", "wrong")]));
    proxy.plan.lock().unwrap().wants = Some("Basic ZGV2OnNlY3JldA==".to_owned());

    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    let auths = serde_json::json!({"auths": {(proxy.host.clone()): {"auth": "ZGV2OnNlY3JldA=="}}});
    std::fs::write(&config, auths.to_string()).unwrap();
    Shelf::with(|settings| settings.docker_config = Some(config)).pull(&name).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_as_somebody_and_again_when_they_expire() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    proxy.plan.lock().unwrap().expire();
    let name = proxy.name("library/busybox");
    let plain = Shelf::new().pull(&name).await.unwrap();
    let layer = proxy.blobs().into_keys().find(|digest| *digest != plain.id).unwrap();
    let layer: &'static str = Box::leak(layer.into_boxed_str());
    // Once at the first request for a layer, once where a broken transfer goes on.
    proxy.fault(layer, 1, Fault::Expire);
    proxy.fault(layer, 1, Fault::Cut(1000));
    proxy.fault(layer, 1, Fault::Expire);
    // The service itself has passing troubles.
    proxy.fault("/token", 2, Fault::Says(503, vec![], ""));
    let credential = Credential {
        registry: proxy.host.clone(),
        username: "dev".to_owned(),
        password: "secret".to_owned(),
        identity_token: None,
        holder: String::new(),
    };
    Shelf::new().images.pull(&name, std::slice::from_ref(&credential), &Silent).await.unwrap();
    assert!(proxy.plan.lock().unwrap().asked.iter().skip(1).all(|asked| asked == "Basic ZGV2OnNlY3JldA=="));
    assert!(proxy.plan.lock().unwrap().faults.iter().all(|(_, left, _)| *left == 0));

    let identity =
        Credential { identity_token: Some("a/b".to_owned()), username: String::new(), ..credential };
    Shelf::new().images.pull(&name, &[identity], &Silent).await.unwrap();
    let asked = proxy.plan.lock().unwrap().asked.pop().unwrap();
    for field in ["grant_type=refresh_token", "refresh_token=a%2Fb", "service=test", "client_id=minik"] {
        assert!(asked.contains(field), "{asked}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_fit_are_tried_in_turn() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    proxy.plan.lock().unwrap().wants = Some("Basic ZGV2OnNlY3JldA==".to_owned());
    let credential = |password: &str| Credential {
        registry: proxy.host.clone(),
        username: "dev".to_owned(),
        password: password.to_owned(),
        identity_token: None,
        holder: String::new(),
    };
    let both = [credential("outdated"), credential("secret")];
    let shelf = Shelf::new();
    shelf.images.pull(&proxy.name("library/busybox"), &both, &Silent).await.unwrap();
    // What let one user in is not remembered for the same user with another password.
    proxy.plan.lock().unwrap().wants = Some("Basic ZGV2Om90aGVy".to_owned());
    shelf.images.pull(&proxy.name("library/busybox"), &[credential("other")], &Silent).await.unwrap();
    let seen = &proxy.plan.lock().unwrap().seen;
    let last = seen.iter().rev().take(2).map(|s| s.headers.get("authorization").is_some());
    assert_eq!(last.collect::<Vec<_>>(), [true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_in_the_middle_of_a_layer_is_lived_through() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let plain = Shelf::new().pull(&proxy.name("library/busybox")).await.unwrap();
    let layer = proxy.blobs().into_keys().find(|digest| *digest != plain.id).unwrap();
    let layer: &'static str = Box::leak(layer.into_boxed_str());
    proxy.fault(layer, 1, Fault::Cut(1000));
    // More failures than one request is tried.
    proxy.fault(layer, 6, Fault::Says(503, vec![], ""));
    let shelf = Shelf::new();
    shelf.pull(&proxy.name("library/busybox")).await.unwrap();
    // A connection that breaks after the last byte leaves nothing to ask for.
    proxy.plan.lock().unwrap().seen.clear();
    proxy.fault(layer, 1, Fault::Unfinished);
    Shelf::new().pull(&proxy.name("library/busybox")).await.unwrap();
    assert_eq!(proxy.blobs()[layer].len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_not_removed_under_a_pull_or_a_start() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let shelf = Shelf::new();
    // Another process with the same store, which removes what it can all the time.
    let other =
        Images::open(Settings { dir: shelf.dir.path().join("images"), ..Settings::default() }).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = stop.clone();
    let remover = std::thread::spawn(move || {
        while !told.load(std::sync::atomic::Ordering::Relaxed) {
            other.collect().unwrap();
        }
        other
    });
    let image = shelf.pull(&proxy.name("library/torture")).await.unwrap();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let other = remover.join().unwrap();
    // The name goes; the layers stay for who has just been given them, until that is over.
    other.remove(&proxy.name("library/torture")).unwrap();
    assert!(image.layers.iter().all(|layer| layer.is_dir()));
    drop(image);
    other.collect().unwrap();
    // The end of a store waits for what it removes.
    drop(other);
    for part in ["layers", "blobs", "implied", "tmp"] {
        assert!(shelf.holds(part).is_empty(), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_leaves_nothing_in_the_way_of_the_next() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let shelf = Shelf::new();
    let name = proxy.name("library/torture");
    proxy.fault("/blobs/", 1, Fault::Whole);
    proxy.fault("/blobs/", 100, Fault::Stall);
    let mut child = minik(&shelf, &["pull", &name], &[]).spawn().unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while shelf.holds("tmp").is_empty() {
        assert!(std::time::Instant::now() < until, "no layer is being unpacked");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    proxy.plan.lock().unwrap().faults.clear();
    let done =
        tokio::task::spawn_blocking(move || (minik(&shelf, &["pull", &name], &[]).output().unwrap(), shelf));
    let (run, shelf) = done.await.unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let tmp: Vec<_> = std::fs::read_dir(shelf.dir.path().join("images/tmp")).unwrap().collect();
    assert!(tmp.is_empty(), "{tmp:?}");
}

/// `minik image` with a shelf and these words, with variables set.
fn minik(shelf: &Shelf, words: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minik"));
    command.arg("image").args(words).arg("--data-dir").arg(shelf.dir.path());
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", shelf.dir.path());
    command
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A server with TLS before another one; answers its address and the certificate of its authority.
async fn tls_before(target: String) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(vec![]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["registry.test".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&own, &issuer).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], own.serialize_der().try_into().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, target) = (acceptor.clone(), target.clone());
            tokio::spawn(async move {
                let Ok(mut inside) = acceptor.accept(stream).await else { return };
                let mut outside = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
            });
        }
    });
    (address, certificate.pem())
}

/// A proxy that leads every CONNECT to one server; answers its address and what was asked for.
async fn connect_proxy(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (target, log) = (target.clone(), log.clone());
            tokio::spawn(async move {
                let mut stream = tokio::io::BufReader::new(stream);
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                log.lock().unwrap().push(line.trim().to_owned());
                while line.trim() != "" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut outside = tokio::net::TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut outside).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_and_private_authorities_come_from_the_environment() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let (tls, authority) = tls_before(proxy.host.clone()).await;
    let (connect, asked) = connect_proxy(tls.clone()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, authority).unwrap();
    let (through, trusted) = (format!("http://{connect}"), file.to_str().unwrap().to_owned());
    let pull = |name: String, variables: Vec<(&'static str, String)>| {
        tokio::task::spawn_blocking(move || {
            let shelf = Shelf::new();
            let variables: Vec<_> = variables.iter().map(|(key, value)| (*key, value.as_str())).collect();
            let run = minik(&shelf, &["pull", &name], &variables).output().unwrap();
            (run.status.success(), String::from_utf8_lossy(&run.stderr).into_owned())
        })
    };
    let name = || "registry.test/library/busybox".to_owned();
    let both = || vec![("HTTPS_PROXY", through.clone()), ("SSL_CERT_FILE", trusted.clone())];
    let (good, said) = pull(name(), both()).await.unwrap();
    assert!(good, "{said}");
    assert_eq!(asked.lock().unwrap()[0], "CONNECT registry.test:443 HTTP/1.1");
    let (good, said) = pull(name(), vec![("HTTPS_PROXY", through.clone())]).await.unwrap();
    assert!(!good && said.contains("certificate"), "{said}");
    // The machine itself is behind no proxy; there, any certificate will do, and none.
    asked.lock().unwrap().clear();
    let all = || vec![("HTTPS_PROXY", through.clone()), ("HTTP_PROXY", through.clone())];
    for host in [&tls, &proxy.host] {
        let (good, said) = pull(format!("{host}/library/busybox"), all()).await.unwrap();
        assert!(good, "{host}: {said}");
    }
    assert!(asked.lock().unwrap().is_empty());
}

/// A layer of directories and files with their modes.
fn layer(entries: &[(&str, u32)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, mode) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_uid(u64::from(path.starts_with("owned")) * 1000);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        let directory = path.ends_with('/');
        header.set_entry_type(if directory { tar::EntryType::Directory } else { tar::EntryType::Regular });
        header.set_size(if directory { 0 } else { path.len() as u64 });
        let content = if directory { &[] } else { path.as_bytes() };
        builder.append_data(&mut header, path, content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// A docker archive of one image with these layers.
fn archive(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| digest_of(layer)).collect();
    let files: Vec<String> = (0..layers.len()).map(|number| format!("{number}.tar")).collect();
    let config = serde_json::json!({"os": "linux", "architecture": oci_spec::image::Arch::default().to_string(),
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": files}]);
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    };
    for (name, layer) in files.iter().zip(layers) {
        add(name, layer);
    }
    add("config.json", config.to_string().as_bytes());
    add("manifest.json", manifest.to_string().as_bytes());
    builder.into_inner().unwrap()
}

/// What a command says about an image's files, as a container would see them.
fn inside(image: &Image, command: &str) -> String {
    let dir = tempfile::Builder::new().prefix("minik-image-").tempdir_in("/var/tmp").unwrap();
    for name in ["upper", "work", "root"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let layers: Vec<&str> = image.layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
    let script = format!(
        "cd {} && mount -t overlay overlay -o lowerdir={},upperdir=upper,workdir=work root && cd root && {command}",
        dir.path().display(),
        layers.join(":")
    );
    let run = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_repeat_and_leave_directories_out_make_the_right_tree() {
    if !is_root() {
        return;
    }
    let shelf = Shelf::new();
    let empty = layer(&[]);
    let base = layer(&[("tmp/", 0o1777), ("owned/", 0o750), ("owned/deep/", 0o700), ("etc/", 0o755)]);
    let repeated = layer(&[("tmp/x", 0o644), ("owned/deep/y", 0o600)]);
    let between = layer(&[("tmp/.wh.x", 0o644), ("new/z", 0o644)]);
    let layers = [&empty, &base, &repeated, &between, &empty, &repeated].map(Clone::clone);
    let loaded = shelf.images.load(std::io::Cursor::new(archive("made:1", &layers))).await.unwrap();
    let seen = inside(&loaded[0], "stat -c '%n %a %u' tmp tmp/x owned owned/deep owned/deep/y new etc");
    let expected = "tmp 1777 0\ntmp/x 644 0\nowned 750 1000\nowned/deep 700 1000\nowned/deep/y 600 1000\nnew 755 0\netc 755 0\n";
    assert_eq!(seen, expected);
    assert_eq!(inside(&loaded[0], "stat -c %Y tmp owned/deep owned/deep/y"), "1000000\n1000000\n1000000\n");
    // All of it goes together, also the layer that no registry has.
    drop(loaded);
    let other =
        Images::open(Settings { dir: shelf.dir.path().join("images"), ..Settings::default() }).unwrap();
    other.remove("made:1").unwrap();
    // The end of a store waits for what it removes.
    drop(other);
    for part in ["layers", "blobs", "implied", "tmp"] {
        assert!(shelf.holds(part).is_empty(), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_loaded_side_by_side_and_only_within_limits() {
    if !is_root() {
        return;
    }
    let shelf = Shelf::new();
    let bytes = archive("made:1", &[layer(&[("a", 0o644)]), layer(&[("b", 0o644)])]);
    let other =
        Images::open(Settings { dir: shelf.dir.path().join("images"), ..Settings::default() }).unwrap();
    let loads = (0..8).map(|number| {
        let images = if number % 2 == 0 { shelf.images.clone() } else { other.clone() };
        let bytes = bytes.clone();
        async move { images.load(std::io::Cursor::new(bytes)).await.unwrap().remove(0).id }
    });
    let ids = futures::future::join_all(loads).await;
    assert!(ids.iter().all(|id| *id == ids[0]));

    let refusal = async |change: fn(&mut Settings), bytes: Vec<u8>| {
        let shelf = Shelf::with(change);
        let error = shelf.images.load(std::io::Cursor::new(bytes)).await.unwrap_err().to_string();
        assert!(shelf.holds("tmp").is_empty());
        error
    };
    let error = refusal(|settings| settings.limits.entries = 3, bytes.clone()).await;
    assert!(error.contains("more than 3 entries"), "{error}");
    let error = refusal(|settings| settings.limits.bytes = 3000, bytes.clone()).await;
    assert!(error.contains("or 3000 bytes"), "{error}");
    // A file larger than any disk.
    let mut header = tar::Header::new_gnu();
    header.set_path("0.tar").unwrap();
    header.set_size(1 << 62);
    header.set_mode(0o644);
    header.set_cksum();
    let error = refusal(|settings| settings.limits.bytes = u64::MAX, header.as_bytes().to_vec()).await;
    assert!(error.contains("0.tar needs 4611686018427387904 bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_in_order() {
    if !is_root() {
        return;
    }
    let proxy = Proxy::start().await;
    let mirrors = vec!["http://127.0.0.1:1".to_owned(), format!("http://{}", proxy.host)];
    let shelf = Shelf::with(|settings| settings.mirrors = [("example.test".to_owned(), mirrors)].into());
    let image = shelf.pull("example.test/library/busybox:latest").await.unwrap();
    assert_eq!(image.references, ["example.test/library/busybox:latest"]);
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
        let config = shelf.dir.path().join("images/blobs").join(image.id.trim_start_matches("sha256:"));
        let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
        let layers = config["rootfs"]["diff_ids"].as_array().unwrap().len();
        let alone = shelf.dir.path().join("alone.tar");
        let file = std::fs::File::create(&alone).unwrap();
        shelf.images.save(std::slice::from_ref(name), file).await.unwrap();
        let alone = format!("oci-archive:{}", alone.display());
        let oci = skopeo(&["inspect"], &alone);
        for shown in [&docker, &oci] {
            let shown: Value = serde_json::from_slice(shown).unwrap();
            assert_eq!(shown["Layers"].as_array().unwrap().len(), layers, "{name}");
            assert_eq!(shown["Os"], "linux");
        }
        let manifest = digest_of(&skopeo(&["inspect", "--raw"], &alone));
        assert!(image.repo_digests.iter().any(|one| one.ends_with(&manifest)), "{name}: {manifest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_replaced_whole_or_not_at_all() {
    if !is_root() {
        return;
    }
    let shelf = Shelf::new();
    let bytes = archive("made:1", &[layer(&[("a", 0o644)])]);
    shelf.images.load(std::io::Cursor::new(bytes)).await.unwrap();
    let directory = shelf.dir.path().join("archives");
    std::fs::create_dir(&directory).unwrap();
    let (there, link) = (directory.join("there.tar"), directory.join("link.tar"));
    std::fs::write(&there, "an archive").unwrap();
    std::os::unix::fs::symlink("there.tar", &link).unwrap();
    let save = |words: &[&str]| minik(&shelf, &[&["save", "-o"], words].concat(), &[]).output().unwrap();
    let run = save(&[there.to_str().unwrap(), "made:1", "mistyped"]);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(!run.status.success() && said.contains("no such image: mistyped"), "{said}");
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "an archive");
    for place in [link.to_str().unwrap(), "/dev/null"] {
        let run = save(&[place, "made:1"]);
        assert!(run.status.success(), "{place}: {}", String::from_utf8_lossy(&run.stderr));
    }
    assert!(link.is_symlink());
    let saved = std::fs::File::open(&there).unwrap();
    assert_eq!(Shelf::new().images.load(saved).await.unwrap()[0].references, ["docker.io/library/made:1"]);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2, "nothing lies beside it");
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(
        &std::fs::metadata("/dev/null").unwrap().file_type()
    ));
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

#[test]
fn pods_are_let_into_registries_and_keep_what_they_run_on() {
    use std::time::Duration;
    let bed = testbed::Testbed::up("image");
    bed.start();
    let registry = bed.mirror().split_once("http://").unwrap().1.to_owned();
    bed.ok(&[
        "kubectl",
        "create",
        "secret",
        "docker-registry",
        "config",
        &format!("--docker-server={registry}"),
        "--docker-username=dev",
        "--docker-password=secret",
    ]);
    let old = serde_json::json!({(registry): {"username": "dev", "password": "secret"}}).to_string();
    bed.apply(
        &serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "old"},
            "type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": old}})
        .to_string(),
    );
    let pod = |name: &str, image: &str, secret: &str, user: u32| {
        bed.apply(
            &serde_json::json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
                "securityContext": {"runAsUser": user},
                "imagePullSecrets": [{"name": secret}],
                "containers": [{"name": "main", "image": image, "imagePullPolicy": "Always",
                    "command": ["sleep", "1000"]}]}})
            .to_string(),
        );
    };
    pod("config", "private/app", "config", 0);
    pod("old", "private/app", "old", 0);
    pod("nobody", "private/app", "nothing", 0);
    pod("unnamed", "Private/App", "config", 0);
    pod("torture", "torture", "nothing", 1000);
    for name in ["config", "old", "torture"] {
        bed.wait_ready(name);
    }
    let column = |pod: &str| bed.kubectl(&format!("get pod {pod} --no-headers"));
    bed.wait("refusal", Duration::from_secs(60), || column("nobody").contains("ImagePull"));
    bed.wait("invalid name", Duration::from_secs(60), || column("unnamed").contains("InvalidImageName"));

    let shell = |pod: &str, script: &str| bed.ok(&["kubectl", "exec", pod, "--", "sh", "-c", script]);
    // A capability of a file, which its user does not have otherwise.
    let granted =
        shell("torture", "ln -s /data/capable /dev/shm/grep && /dev/shm/grep CapEff /proc/self/status");
    assert_eq!(granted.split_whitespace().last(), Some("0000000000002000"), "{granted}");

    // The name goes and the pod stays whole, also what nobody has looked at yet.
    let image = || bed.ok(&[testbed::MINIK, "image", "ls"]);
    assert!(image().contains("torture"));
    bed.ok(&[testbed::MINIK, "image", "rm", "torture"]);
    assert!(!image().contains("torture"));
    bed.ok(&["sh", "-c", "echo 2 > /proc/sys/vm/drop_caches"]);
    let whole = shell("torture", "find / -xdev -type f -exec cat {} + 2>/dev/null | wc -c");
    assert!(whole.trim().parse::<u64>().unwrap() > 1_000_000, "{whole}");
    bed.ok(&[testbed::MINIK, "delete"]);
}
