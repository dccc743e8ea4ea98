//! Services of whole clusters under load: connections drain, balancers and policies keep their word.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    /// Kept connections that the server closed between two requests, as it may: clients make a new one.
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

/// Clients on the test host that ask without end, each at one address.
struct Load {
    over: Arc<AtomicBool>,
    counts: Arc<Counts>,
    clients: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    /// For each address one client that connects anew for each request, and one that keeps its connection.
    fn begin(bed: &Testbed, addresses: &[SocketAddr]) -> Load {
        let (over, counts) = (Arc::<AtomicBool>::default(), Arc::<Counts>::default());
        let namespace = PathBuf::from(format!("/run/netns/{}-host", bed.name));
        // Threads are where the thread was that made them.
        let clients = run_in_path(&namespace, || {
            let both = addresses.iter().flat_map(|address| [(*address, false), (*address, true)]);
            both.map(|(address, keeps)| {
                let (over, counts) = (over.clone(), counts.clone());
                std::thread::spawn(move || ask_without_end(address, keeps, &over, &counts))
            })
            .collect()
        })
        .unwrap();
        Load { over, counts, clients }
    }

    fn answered(&self) -> u64 {
        self.counts.ok.load(Ordering::Relaxed)
    }

    /// Waits for some more answers.
    fn goes_on(&self, bed: &Testbed) {
        let before = self.answered();
        bed.wait("answers", MINUTE, || self.answered() > before + 200);
    }

    /// Ends the clients; answers how many requests were answered, and what became of the others.
    fn end(self) -> (u64, u64, BTreeMap<String, u64>) {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        let failed = self.counts.failed.lock().unwrap().clone();
        (self.counts.ok.load(Ordering::Relaxed), self.counts.reopened.load(Ordering::Relaxed), failed)
    }
}

fn ask_without_end(address: SocketAddr, keeps: bool, over: &AtomicBool, counts: &Counts) {
    let mut kept: Option<BufReader<TcpStream>> = None;
    while !over.load(Ordering::Relaxed) {
        let result = match kept.take() {
            Some(mut stream) => match ask(&mut stream, keeps) {
                // Nothing of an answer had come, so the question may be asked again.
                Err(error) if error.kind() != io::ErrorKind::InvalidData => {
                    counts.reopened.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                result => result.map(|open| open.then_some(stream)),
            },
            None => connect(address).and_then(|mut stream| {
                let open = ask(&mut stream, keeps)?;
                Ok(open.then_some(stream))
            }),
        };
        let how = if keeps { "kept" } else { "new" };
        counts.take(&format!("{address} {how}"), result.map(|stream| kept = stream));
        std::thread::park_timeout(PACE);
    }
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

/// One request; answers whether the connection may be used again. What ends in the middle of an answer is invalid data.
fn ask(stream: &mut BufReader<TcpStream>, keeps: bool) -> io::Result<bool> {
    let connection = if keeps { "keep-alive" } else { "close" };
    write!(stream.get_mut(), "GET / HTTP/1.1\r\nHost: web\r\nConnection: {connection}\r\n\r\n")?;
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
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: web
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: inside, port: {number: 8080}}}}]}
"#;

#[test]
fn no_request_is_lost_while_pods_come_and_go() {
    let bed = Testbed::up("drain");
    bed.start();
    bed.apply(WEB);
    bed.kubectl("rollout status deployment/web --timeout=90s");
    let balancer = "get svc balanced -o jsonpath={.status.loadBalancer.ingress[0].ip}";
    bed.wait("a load balancer", MINUTE, || !bed.kubectl(balancer).is_empty());
    let node = bed.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    let name = bed.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let addresses: Vec<SocketAddr> = [
        format!("{}:8080", bed.kubectl("get svc inside -o jsonpath={.spec.clusterIP}")),
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

    let load = Load::begin(&bed, &addresses);
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
    let (ok, reopened, failed) = load.end();
    eprintln!("{ok} requests answered, {reopened} kept connections made anew, failed: {failed:?}");
    assert!(failed.is_empty(), "{failed:?} of {ok}");
}

#[test]
fn balancers_and_policies_keep_their_word() {
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
