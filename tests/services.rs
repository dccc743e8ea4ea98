//! Services of whole clusters under load: connections drain, balancers and policies keep their word.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use minik::sys::namespace::run_in_path;
use testbed::Testbed;

const MINUTE: Duration = Duration::from_secs(60);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two requests of one client: the machine is to be busy, not the test's own victim.
const PACE: Duration = Duration::from_millis(1);

/// What clients got.
#[derive(Default)]
struct Counts {
    ok: AtomicU64,
    /// Kept connections that were closed before the next request was sent: clients make a new one, and nothing is lost.
    closed: AtomicU64,
    /// Kept connections that were closed, without a byte of an answer, while the next request was on its way: the server
    /// had ended its idle connections. Only who may repeat a request makes a new one, and not more often than servers end.
    reopened: AtomicU64,
    /// By what went wrong.
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Counts {
    fn take(&self, what: &str, result: io::Result<()>) {
        match result {
            Ok(()) => _ = self.ok.fetch_add(1, Ordering::Relaxed),
            Err(error) => *self.failed.lock().unwrap().entry(format!("{what}: {error}")).or_default() += 1,
        }
    }
}

/// What a client asks for, and where.
#[derive(Clone, Copy)]
struct Asks {
    address: SocketAddr,
    method: &'static str,
    /// The ingress has no excuse for ending a connection.
    excused: bool,
    keeps: bool,
}

impl Asks {
    /// One client that connects anew for each request, and one that keeps its connection; at the ingress the same with
    /// requests that must not be repeated.
    fn all(address: SocketAddr, ingress: bool) -> Vec<Asks> {
        let methods: &[&str] = if ingress { &["GET", "POST"] } else { &["GET"] };
        let each = |method| [false, true].map(|keeps| Asks { address, method, excused: !ingress, keeps });
        methods.iter().flat_map(|method| each(*method)).collect()
    }
}

/// Clients that ask without end.
struct Load {
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn new() -> Load {
        Load { over: Arc::default(), counts: Arc::default(), clients: Vec::new() }
    }

    /// Clients in a network namespace.
    fn begin(&mut self, namespace: &Path, asks: Vec<Asks>) {
        for asks in asks {
            let (over, counts) = (self.over.clone(), self.counts.clone());
            self.thread(namespace, move || ask_without_end(asks, &over, &counts));
        }
    }

    /// One that asks a name server for names, each with what its answer must be like.
    fn ask_names(&mut self, namespace: &Path, server: SocketAddr, names: Vec<(String, Option<Ipv4Addr>)>) {
        let (over, counts) = (self.over.clone(), self.counts.clone());
        self.thread(namespace, move || {
            while !over.load(Ordering::Relaxed) {
                for (name, address) in &names {
                    counts.take(&format!("the name {name}"), look_up(server, name, *address));
                    std::thread::park_timeout(PACE);
                }
            }
        });
    }

    fn thread(&mut self, namespace: &Path, work: impl FnOnce() + Send + 'static) {
        // Threads are where the thread was that made them.
        let client = run_in_path(namespace, || std::thread::spawn(work)).unwrap();
        self.clients.push(client);
    }

    fn answered(&self) -> u64 {
        self.counts.ok.load(Ordering::Relaxed)
    }

    /// Waits for some more answers.
    fn goes_on(&self, bed: &Testbed) {
        let before = self.answered();
        bed.wait("answers", MINUTE, || self.answered() > before + 400);
    }

    /// Ends the clients; answers how many questions were answered, how many connections were made anew, and what became
    /// of the other questions.
    fn end(self) -> (u64, u64, BTreeMap<String, u64>) {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        let failed = self.counts.failed.lock().unwrap().clone();
        let closed = self.counts.closed.load(Ordering::Relaxed);
        eprintln!("{closed} kept connections were closed between two requests");
        (self.counts.ok.load(Ordering::Relaxed), self.counts.reopened.load(Ordering::Relaxed), failed)
    }
}

fn ask_without_end(asks: Asks, over: &AtomicBool, counts: &Counts) {
    let mut kept: Option<BufReader<TcpStream>> = None;
    while !over.load(Ordering::Relaxed) {
        let old = kept.take().filter(|stream| {
            let open = is_open(stream);
            counts.closed.fetch_add(u64::from(!open), Ordering::Relaxed);
            open
        });
        let was_kept = old.is_some();
        let result = old.map_or_else(|| connect(asks.address), Ok).and_then(|mut stream| {
            let open = ask(&mut stream, asks)?;
            Ok(open.then_some(stream))
        });
        let is_end = |error: &io::Error| {
            use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
            matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
        };
        if was_kept && asks.excused && result.as_ref().is_err_and(is_end) {
            counts.reopened.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let Asks { address, method, keeps, .. } = asks;
        let how = if keeps { "kept" } else { "new" };
        counts.take(&format!("{method} {address} {how}"), result.map(|stream| kept = stream));
        std::thread::park_timeout(PACE);
    }
}

/// Whether the other side has not ended the connection, as far as is known here.
fn is_open(stream: &BufReader<TcpStream>) -> bool {
    let stream = stream.get_ref();
    stream.set_nonblocking(true).unwrap();
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    seen.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// Asks for an address of a name: this one, or any one. What is late is lost.
fn look_up(server: SocketAddr, name: &str, address: Option<Ipv4Addr>) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    socket.send(&question.to_vec().unwrap())?;
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer)?;
    let answer = Message::from_vec(&buffer[..length]).map_err(io::Error::other)?;
    let found: Vec<Ipv4Addr> = answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(a) => Some(a.0),
            _ => None,
        })
        .collect();
    match address {
        Some(address) if found == [address] => Ok(()),
        None if !found.is_empty() => Ok(()),
        _ => Err(io::Error::other("a wrong answer")),
    }
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// One request; answers whether the connection may be used again. What ends in the middle of an answer is invalid data.
fn ask(stream: &mut BufReader<TcpStream>, asks: Asks) -> io::Result<bool> {
    let Asks { method, keeps, .. } = asks;
    let connection = if keeps { "keep-alive" } else { "close" };
    // Files are not posted to.
    let (host, body) = if method == "POST" { ("posted", "content") } else { ("web", "") };
    let head = format!("{method} / HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n");
    write!(stream.get_mut(), "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
    if stream.fill_buf()?.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let broken = |error: io::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let (mut length, mut open, mut line) = (0, keeps, String::new());
    stream.read_line(&mut line).map_err(broken)?;
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, line));
    }
    loop {
        line.clear();
        stream.read_line(&mut line).map_err(broken)?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        open &= header != "connection: close";
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(broken)?;
    match String::from_utf8_lossy(&body).contains("Welcome to nginx!") {
        true => Ok(open),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "another page")),
    }
}

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 6
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: nginx
        image: nginx
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
        volumeMounts: [{name: posted, mountPath: /etc/nginx/conf.d}]
      volumes: [{name: posted, configMap: {name: posted}}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: posted}
data:
  posted.conf: |
    server { listen 80; server_name posted; location / { return 200 "Welcome to nginx!"; } }
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: Service
metadata: {name: inside}
spec: {selector: {app: web}, ports: [{port: 8080, targetPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web
    http: &paths
      paths: [{path: /, pathType: Prefix, backend: {service: {name: inside, port: {number: 8080}}}}]
  - host: posted
    http: *paths
"#;

/// The load of one test would leave another one none of the machine.
static ALONE: Mutex<()> = Mutex::new(());

/// How many pods end in the course of the test: those of a rollout, of a scale down, of a drain, and one by one.
const ENDED: u64 = 6 + 4 + 4 + 6;

/// `wrk` with two connections until it is told to end.
struct Wrk<'a> {
    bed: &'a Testbed,
    child: std::process::Child,
    pid: String,
}

impl<'a> Wrk<'a> {
    fn begin(bed: &'a Testbed, name: &str, header: &str, url: &str) -> Wrk<'a> {
        let pid = format!("/root/.kube/{name}.pid");
        let work = format!(
            "echo 'function delay() return 1 end' > /root/.kube/pace.lua; echo $$ > {pid}; \
             exec wrk -t 1 -c 2 -d 900s --timeout 10s -s /root/.kube/pace.lua -H '{header}' {url}"
        );
        Wrk { bed, child: bed.begin(&["bash", "-c", &work]), pid }
    }

    /// How many requests were answered; what wrk says of others.
    fn end(self) -> (u64, Vec<String>) {
        self.bed.ok(&["bash", "-c", &format!("kill -INT $(cat {})", self.pid)]);
        let said = self.child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let line =
            said.lines().find(|line| line.contains(" requests in ")).unwrap_or_else(|| panic!("{said}"));
        let wrong = said.lines().filter(|line| line.contains("errors") || line.contains("Non-2xx"));
        (line.split_whitespace().next().unwrap().parse().unwrap(), wrong.map(str::to_owned).collect())
    }
}

#[test]
fn no_request_is_lost_while_pods_come_and_go() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bed = Testbed::up("drain");
    bed.start();
    bed.apply(WEB);
    bed.kubectl("rollout status deployment/web --timeout=90s");
    let balancer = "get svc balanced -o jsonpath={.status.loadBalancer.ingress[0].ip}";
    bed.wait("a load balancer", MINUTE, || !bed.kubectl(balancer).is_empty());
    let node = bed.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    let name = bed.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let inside = bed.kubectl("get svc inside -o jsonpath={.spec.clusterIP}");
    let addresses: Vec<SocketAddr> = [
        format!("{inside}:8080"),
        format!("{}:80", bed.kubectl(balancer)),
        format!("{node}:30080"),
        "127.0.0.1:30080".to_owned(),
        // The ingress.
        "127.0.0.1:80".to_owned(),
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect();
    for address in &addresses {
        let url = format!("http://{address}/");
        let curl = ["curl", "-sS", "-m", "20", "-H", "Host: web", &url];
        bed.wait("the page", MINUTE, || bed.run(&curl).stdout.contains("Welcome to nginx!"));
    }

    // What pods ask takes another way through the kernel than what the host does.
    // Found among all processes of this machine by a number that no other run of the test has.
    let sleep = format!("sleep {}", 1_000_000_000 + std::process::id());
    bed.kubectl(&format!("run asks --image=alpine -- {sleep}"));
    bed.wait_ready("asks");
    let pid = bed.ok(&["pgrep", "-o", "-f", &format!("^{sleep}$")]);
    let pod = PathBuf::from(format!("/proc/{}/ns/net", pid.trim()));
    let host = PathBuf::from(format!("/run/netns/{}-host", bed.name));
    let [cluster, balancer, port, _, ingress] = addresses[..] else { panic!("{addresses:?}") };
    let mut load = Load::new();
    for address in &addresses {
        load.begin(&host, Asks::all(*address, *address == ingress));
    }
    for address in [cluster, balancer, port] {
        load.begin(&pod, Asks::all(address, false));
    }
    load.begin(&pod, Asks::all(SocketAddr::new(port.ip(), 80), true));
    let dns = bed.kubectl("get svc kube-dns -n kube-system -o jsonpath={.spec.clusterIP}");
    let within = |service: &str| format!("{service}.default.svc.cluster.local.");
    let names = vec![(within("inside"), Some(inside.parse().unwrap())), (within("headless"), None)];
    load.ask_names(&pod, SocketAddr::new(dns.parse().unwrap(), 53), names);
    let keeping = Wrk::begin(&bed, "keeping", "Host: web", "http://127.0.0.1/");
    let closing = Wrk::begin(&bed, "closing", "Connection: close", &format!("http://{cluster}/"));
    // Clients that keep their connections, and are led by the kernel or past the ingress.
    let keeps = addresses.len() as u64 - 1 + 3;
    load.goes_on(&bed);
    bed.kubectl("rollout restart deployment/web");
    bed.kubectl("rollout status deployment/web --timeout=110s");
    load.goes_on(&bed);
    let pods = || bed.kubectl("get pods -l app=web -o name").lines().count();
    bed.kubectl("scale deployment/web --replicas=2");
    bed.wait("two pods", MINUTE, || pods() == 2);
    load.goes_on(&bed);
    bed.kubectl("scale deployment/web --replicas=6");
    bed.kubectl("rollout status deployment/web --timeout=110s");
    // There is no other node for them, but a budget: two stay where they are.
    let drain = ["kubectl", "drain", &name, "--ignore-daemonsets", "--pod-selector=app=web", "--timeout=15s"];
    assert!(!bed.run(&drain).status.success());
    load.goes_on(&bed);
    bed.kubectl(&format!("uncordon {name}"));
    bed.kubectl("rollout status deployment/web --timeout=110s");
    load.goes_on(&bed);
    // One by one, as somebody who is in no hurry does it.
    for pod in bed.kubectl("get pods -l app=web -o name").lines() {
        bed.kubectl(&format!("delete {pod}"));
    }
    bed.kubectl("rollout status deployment/web --timeout=110s");
    load.goes_on(&bed);
    for (what, wrk) in [("to the ingress", keeping), ("with new connections", closing)] {
        let (answered, wrong) = wrk.end();
        eprintln!("wrk {what}: {answered} requests answered");
        assert!(answered > 1_000 && wrong.is_empty(), "wrk {what}: {answered} {wrong:?}");
    }
    let (ok, reopened, failed) = load.end();
    eprintln!("{ok} questions answered, {reopened} kept connections made anew, failed: {failed:?}");
    assert!(failed.is_empty(), "{failed:?} of {ok}");
    assert!(reopened <= keeps * ENDED, "{reopened} kept connections made anew");
}

#[test]
fn balancers_and_policies_keep_their_word() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let bed = Testbed::up("balance");
    bed.ok(&["bash", "-c", "echo 'externalIPs: true' > /root/.kube/settings.yaml"]);
    let mirror = bed.mirror();
    bed.ok(&[testbed::MINIK, "start", "--config", "/root/.kube/settings.yaml", "--registry-mirror", &mirror]);
    bed.kubectl("run web --image=nginx --labels=app=web");
    bed.kubectl("run asks --image=alpine -- sleep 1000");
    bed.wait_ready("web");
    bed.wait_ready("asks");
    bed.apply(
        r#"
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: bare}
spec: {type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: closed}
spec: {type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.0/24], selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: foreign}
spec: {type: LoadBalancer, loadBalancerClass: example.org/other, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: extra}
spec: {selector: {app: web}, externalIPs: [203.0.113.9], ports: [{port: 80}]}
"#,
    );
    let get = |service: &str, path: &str| bed.kubectl(&format!("get svc {service} -o jsonpath={{{path}}}"));
    let ip = |service: &str| {
        bed.wait("an address", MINUTE, || !get(service, ".status.loadBalancer.ingress[0].ip").is_empty());
        get(service, ".status.loadBalancer.ingress[0].ip")
    };
    let page = |from: &[&str], address: &str| {
        let url = format!("http://{address}/");
        let curl = ["curl", "-sS", "-m", "3", &url];
        bed.run(&[from, &curl].concat()).stdout.contains("Welcome to nginx!")
    };
    const POD: [&str; 4] = ["kubectl", "exec", "asks", "--"];
    for address in [ip("local"), ip("bare"), "203.0.113.9".to_owned()] {
        bed.wait("the page", MINUTE, || page(&[], &address) && page(&POD, &address));
    }
    assert_eq!(get("bare", ".spec.ports[0].nodePort"), "");
    // From the host, which is in no range, nothing comes in; pods have it as a cluster address too.
    let closed = ip("closed");
    bed.wait("the page in a pod", MINUTE, || page(&POD, &closed));
    assert!(!page(&[], &closed));
    bed.kubectl_all("patch svc closed -p {\"spec\":{\"loadBalancerSourceRanges\":[\"10.0.0.0/8\"]}}");
    bed.wait("the page on the host", MINUTE, || page(&[], &closed));
    assert_eq!(get("foreign", ".status.loadBalancer"), "{}");

    let health = get("local", ".spec.healthCheckNodePort");
    let checked =
        || bed.run(&["curl", "-sS", "-m", "5", "-w", "%{http_code}", &format!("http://127.0.0.1:{health}/")]);
    let said = checked().stdout;
    assert!(said.contains("\"localEndpoints\": 1") && said.ends_with("200"), "{said}");
    bed.kubectl("label pod web app=other --overwrite");
    bed.wait("no endpoint", MINUTE, || checked().stdout.ends_with("503"));
    // A type that has no use for all that takes it along.
    bed.kubectl_all("patch svc local -p {\"spec\":{\"type\":\"ClusterIP\"}}");
    for field in
        ["healthCheckNodePort", "externalTrafficPolicy", "allocateLoadBalancerNodePorts", "ports[0].nodePort"]
    {
        assert_eq!(get("local", &format!(".spec.{field}")), "", "{field}");
    }
    assert_eq!(get("local", ".status.loadBalancer"), "{}");
    bed.wait("a closed port", MINUTE, || !checked().status.success());
}

/// Services of one pod that never gets ready, one of another node's, and one that keeps to its node.
const POLICIES: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: waits}, spec: {selector: {app: late}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: hurries}, spec: {publishNotReadyAddresses: true, selector: {app: late},
  ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: peers}, spec: {publishNotReadyAddresses: true, clusterIP: None,
  selector: {app: late}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: unready-peers}, spec: {clusterIP: None, selector: {app: late},
  ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: here}, spec: {internalTrafficPolicy: Local, selector: {app: web},
  trafficDistribution: PreferSameNode, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: elsewhere}, spec: {internalTrafficPolicy: Local, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: elsewhere,
  labels: {kubernetes.io/service-name: elsewhere}}, addressType: IPv4, ports: [{port: 80}],
  endpoints: [{addresses: [WEB], nodeName: another}]}
"#;

#[test]
fn services_reach_whom_their_fields_say() {
    let bed = Testbed::up("fields");
    bed.start();
    for (pod, probe) in [("web", "/"), ("late", "/no-such-page")] {
        bed.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, labels: {{app: {pod}}}}}, spec: {{containers: [\
             {{name: c, image: \"instavote/vote:indent\", readinessProbe: {{httpGet: {{path: {probe}, port: 80}}, \
             periodSeconds: 1}}}}]}}}}"
        ));
    }
    bed.wait_ready("web");
    let web = bed.kubectl("get pod web -o jsonpath={.status.podIP}");
    bed.apply(&POLICIES.replace("WEB", &web));
    let late = bed.kubectl("get pod late -o jsonpath={.status.podIP}");
    bed.kubectl("create -f tests/manifests/pod-debug.yaml");
    bed.wait_ready("debug");
    let asked = |words: &[&str]| bed.run(&[&["kubectl", "exec", "debug", "--"], words].concat());
    let answers =
        |name: &str| asked(&["curl", "-sS", "-m", "3", &format!("http://{name}/")]).stdout.contains("indent");
    for name in ["hurries", "here"] {
        bed.wait(name, MINUTE, || answers(name));
    }
    // What is programmed for one of them is programmed for all.
    for name in ["waits", "elsewhere"] {
        assert!(!answers(name), "{name}");
    }
    let found = |name: &str| asked(&["getent", "ahostsv4", name]).stdout;
    bed.wait("the name of one that is not ready", MINUTE, || found("peers").contains(&late));
    assert!(!found("unready-peers").contains(&late));
    let hints =
        "get endpointslices -l kubernetes.io/service-name=here -o jsonpath={.items[*].endpoints[*].hints}";
    let node = bed.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    bed.wait("its hint", MINUTE, || {
        bed.kubectl(hints) == format!("{{\"forNodes\":[{{\"name\":\"{node}\"}}]}}")
    });
    let shown = bed.kubectl("describe service here");
    for line in ["Internal Traffic Policy:  Local", "Traffic Distribution:     PreferSameNode"] {
        assert!(shown.lines().any(|shown| shown == line), "{line} of\n{shown}");
    }
}
