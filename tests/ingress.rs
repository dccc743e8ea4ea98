//! The built-in ingress in whole clusters: what people do with ingresses, by stock kubectl and curl.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::collections::BTreeSet;
use std::time::Duration;

use testbed::{MINIK, Testbed};

const MINUTE: Duration = Duration::from_secs(60);

/// curl to the ingress by these words, with a host's name; answers what it printed.
fn curl(bed: &Testbed, host: &str, path: &str, more: &[&str]) -> String {
    let url = format!("http://{host}{path}");
    let mut args = vec!["curl", "-s", "-m", "20", "--connect-to", "::127.0.0.1:"];
    args.extend(more);
    args.push(&url);
    bed.run(&args).stdout
}

/// The status of the answer.
fn code(bed: &Testbed, host: &str, path: &str, more: &[&str]) -> String {
    let mut all = vec!["-o", "/dev/null", "-w", "%{http_code}"];
    all.extend(more);
    curl(bed, host, path, &all)
}

/// A deployment of the course's application with a service of the same name.
fn vote(name: &str, tag: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n  strategy: {{rollingUpdate: {{maxUnavailable: 0, maxSurge: 1}}}}\n  \
         template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      terminationGracePeriodSeconds: 2\n      \
         containers:\n      - {{name: vote, image: 'instavote/vote:{tag}', ports: [{{containerPort: 80}}],\n         \
         readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}}}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: 80}}]}}\n"
    )
}

/// An ingress that leads one path of one host to a service.
fn ingress(name: &str, host: &str, path: &str, kind: &str, service: &str, annotations: &str) -> String {
    let annotations: String = annotations
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| format!("    nginx.ingress.kubernetes.io/{}\n", line.trim()))
        .collect();
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: {name}\n  annotations:\n{annotations}spec:\n  \
         rules:\n  - host: {host}\n    http:\n      paths:\n      - {{path: '{path}', pathType: {kind}, backend: {{service: \
         {{name: {service}, port: {{number: 80}}}}}}}}\n"
    )
}

#[test]
fn hosts_paths_and_annotations() {
    let bed = Testbed::up("ingress");
    let before = bed.leftovers();
    bed.start();
    let listens = || bed.ok(&["ss", "-Hltn"]).lines().filter(|line| line.contains(":80 ")).count();
    assert_eq!(listens(), 0, "nobody wanted an ingress yet");
    let class = bed.kubectl("get ingressclass");
    assert!(class.contains("nginx") && class.contains("k8s.io/ingress-nginx"), "{class}");
    bed.apply(&vote("one", "latest", 1));
    bed.apply(&vote("two", "movies", 1));
    bed.kubectl("run web --image=nginx --port=80 --expose");
    for waited in ["deployment/one", "deployment/two"] {
        bed.kubectl(&format!("rollout status {waited} --timeout=90s"));
    }
    bed.wait_ready("web");

    course(&bed);
    paths(&bed);
    canaries(&bed);
    passwords(&bed);
    secured(&bed);
    refusals(&bed);
    elsewhere(&bed);
    streams(&bed);

    for name in bed.kubectl("get ingress -o name").lines() {
        bed.kubectl(&format!("delete {name}"));
    }
    bed.wait("closed ports", MINUTE, || listens() == 0);
    bed.ok(&[MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
}

/// The course's own manifest, which is of a version that Kubernetes no longer has.
fn course(bed: &Testbed) {
    bed.kubectl("create service clusterip www --tcp=80:80");
    bed.kubectl("set selector service www run=web");
    let created = bed.kubectl_all("create -f tests/manifests/www-domain-ingress.yaml");
    assert!(created.contains("created") && created.contains("deprecated"), "{created}");
    bed.wait("the page", MINUTE, || curl(bed, "www.example.com", "/", &[]).contains("Welcome to nginx!"));
    bed.wait("the address", MINUTE, || {
        let table = bed.kubectl("get ingress www-domain");
        let node = bed
            .kubectl("get node -o jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
        table.contains("nginx") && table.contains("www.example.com") && table.contains(&node)
    });
    let described = bed.kubectl("describe ingress www-domain");
    assert!(described.contains("Scheduled for sync"), "{described}");
    assert_eq!(code(bed, "other.example.com", "/", &[]), "404");
}

fn paths(bed: &Testbed) {
    bed.apply(&ingress("a", "a.example", "/", "Prefix", "one", ""));
    bed.apply(&ingress("b", "a.example", "/movies", "Prefix", "two", "app-root: /movies"));
    bed.apply(&ingress(
        "rewritten",
        "b.example",
        "/app(/|$)(.*)",
        "ImplementationSpecific",
        "web",
        "rewrite-target: /$2\nuse-regex: 'true'",
    ));
    bed.wait("both", MINUTE, || {
        curl(bed, "a.example", "/x", &[]).contains("404") && code(bed, "b.example", "/app/", &[]) == "200"
    });
    assert!(curl(bed, "a.example", "/index.html", &[]).contains("version latest"));
    assert!(curl(bed, "b.example", "/App/", &[]).contains("Welcome to nginx!"));
    assert_eq!(code(bed, "b.example", "/apple", &[]), "404");
    let root = curl(bed, "a.example", "/", &["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"]);
    assert_eq!(root, "302 http://a.example/movies");
}

fn canaries(bed: &Testbed) {
    bed.apply(&ingress("main", "c.example", "/", "Prefix", "one", ""));
    let canary = "canary: 'true'\ncanary-by-header: X-New\ncanary-by-cookie: new\ncanary-weight: '30'";
    bed.apply(&ingress("canary", "c.example", "/", "Prefix", "two", canary));
    let is_new = |more: &[&str]| curl(bed, "c.example", "/", more).contains("version movies");
    bed.wait("the canary", MINUTE, || is_new(&["-H", "X-New: always"]));
    assert!(!is_new(&["-H", "X-New: never"]) && is_new(&["-b", "new=always"]));
    assert!(!is_new(&["-b", "new=never"]));
    let many =
        "for i in $(seq 100); do curl -s -H 'Host: c.example' http://127.0.0.1/; done | grep -c movies";
    let some: u32 = bed.ok(&["bash", "-c", many]).trim().parse().unwrap();
    assert!((8..60).contains(&some), "{some} of 100");
}

fn passwords(bed: &Testbed) {
    let made = "hash=$(openssl passwd -apr1 secret); kubectl create secret generic users --from-literal=auth=me:$hash";
    bed.ok(&["bash", "-c", made]);
    let asks = "auth-type: basic\nauth-secret: users\nauth-realm: Who are you";
    bed.apply(&ingress("closed", "d.example", "/", "Prefix", "one", asks));
    bed.wait("a question", MINUTE, || code(bed, "d.example", "/", &[]) == "401");
    assert_eq!(code(bed, "d.example", "/", &["-u", "me:wrong"]), "401");
    assert_eq!(code(bed, "d.example", "/", &["-u", "me:secret"]), "200");
    bed.apply(&ingress("open", "d.example", "/", "Prefix", "one", "auth-type: basic\nauth-secret: nobody"));
    bed.kubectl("delete ingress closed");
    bed.wait("a refusal", MINUTE, || code(bed, "d.example", "/", &["-u", "me:secret"]) == "503");
    bed.wait("its reason", MINUTE, || {
        bed.kubectl("describe ingress open").contains("the secret default/nobody does not exist")
    });
}

fn secured(bed: &Testbed) {
    let make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=e \
                -addext subjectAltName=DNS:e.example -keyout /root/.kube/k -out /root/.kube/c 2>/dev/null && \
                kubectl create secret tls e --cert=/root/.kube/c --key=/root/.kube/k";
    bed.ok(&["bash", "-c", make]);
    let tls = "  tls:\n  - {hosts: [e.example], secretName: e}\n";
    bed.apply(&(ingress("e", "e.example", "/", "Prefix", "web", "") + tls));
    let trusted = || {
        let seen = bed.run(&[
            "curl",
            "-s",
            "-m",
            "20",
            "--cacert",
            "/root/.kube/c",
            "--resolve",
            "e.example:443:127.0.0.1",
            "-w",
            "%{http_version}",
            "https://e.example/",
        ]);
        seen.stdout
    };
    bed.wait("its certificate", MINUTE, || trusted().contains("Welcome to nginx!"));
    assert!(trusted().ends_with('2'), "HTTP/2");
    let moved = curl(bed, "e.example", "/x?y=1", &["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"]);
    assert_eq!(moved, "308 https://e.example/x?y=1");
    let other = "echo | openssl s_client -connect 127.0.0.1:443 -servername other.example 2>/dev/null | \
                 openssl x509 -noout -subject";
    let other = bed.ok(&["bash", "-c", other]);
    assert!(other.contains("Kubernetes Ingress Controller Fake Certificate"), "{other}");
}

fn refusals(bed: &Testbed) {
    bed.apply(&ingress("small", "f.example", "/", "Prefix", "web", "proxy-body-size: 1k"));
    bed.apply(&ingress("ranged", "g.example", "/", "Prefix", "web", "whitelist-source-range: 192.0.2.0/24"));
    bed.apply(&ingress("shared", "h.example", "/", "Prefix", "web", "enable-cors: 'true'"));
    bed.apply(&ingress("wrong", "i.example", "/", "Prefix", "web", "proxy-body-size: much"));
    bed.apply(&ingress("lonely", "j.example", "/", "Prefix", "nobody", ""));
    bed.wait("the last one", MINUTE, || code(bed, "j.example", "/", &[]) == "503");
    let big = ["-X", "POST", "-d", &"x".repeat(2000)];
    assert_eq!(code(bed, "f.example", "/", &big), "413");
    assert_eq!(code(bed, "g.example", "/", &[]), "403");
    let preflight = ["-X", "OPTIONS", "-H", "Origin: https://x.example"];
    assert_eq!(code(bed, "h.example", "/", &preflight), "204");
    assert!(curl(bed, "h.example", "/", &["-i"]).to_lowercase().contains("access-control-allow-origin: *"));
    bed.wait("a complaint", MINUTE, || {
        bed.kubectl("describe ingress wrong").contains("proxy-body-size: \"much\" must be a size such as 8m")
    });
}

/// Names of the cluster that the host does not know, clients that come back, and two ingresses of the same path.
fn elsewhere(bed: &Testbed) {
    bed.kubectl("create namespace aside");
    bed.kubectl("create service externalname near -n aside --external-name web.default.svc.cluster.local");
    let aside = ingress("near", "k.example", "/", "Prefix", "near", "")
        .replace("name: near\n", "name: near\n  namespace: aside\n");
    bed.apply(&aside);
    bed.wait("the page of another namespace", MINUTE, || {
        curl(bed, "k.example", "/", &[]).contains("Welcome to nginx!")
    });
    bed.apply(&ingress("taken", "k.example", "/", "Prefix", "web", ""));
    bed.wait("a conflict", MINUTE, || {
        let told = bed.kubectl("describe ingress taken");
        told.contains("are already defined in ingress aside/near") && told.contains("Warning")
    });
    bed.kubectl("delete ingress near -n aside");
    bed.kubectl("scale deployment one --replicas=3");
    bed.kubectl("rollout status deployment/one --timeout=90s");
    bed.apply(&ingress(
        "affine",
        "l.example",
        "/",
        "Prefix",
        "one",
        "affinity: cookie\nsession-cookie-name: route",
    ));
    let jar = ["-b", "/root/.kube/jar", "-c", "/root/.kube/jar"];
    bed.wait("a cookie", MINUTE, || {
        code(bed, "l.example", "/", &jar) == "200"
            && bed.run(&["grep", "-q", "route", "/root/.kube/jar"]).status.success()
    });
    // The page names the pod that made it.
    let pods = |more: &[&str]| {
        let pages = (0..12).map(|_| curl(bed, "l.example", "/", more));
        pages.inspect(|page| assert!(page.contains("pod one-"), "{page}")).collect::<BTreeSet<_>>()
    };
    assert_eq!(pods(&jar).len(), 1, "a client with its cookie comes back to its pod");
    assert!(pods(&[]).len() > 1, "others do not");
}

/// An echo that changes the protocol, and a server that answers as gRPC does.
const STREAMS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: streams}
data:
  echo: |
    while read -r line; do [ "$line" != "$(printf '\r')" ] || break; done
    printf 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
    exec cat
  grpc.conf: |
    server {
      listen 81 http2;
      add_trailer grpc-status 0;
      location / { default_type application/grpc; return 200 "$request_method $host$request_uri"; }
    }
---
apiVersion: v1
kind: Pod
metadata: {name: echo, labels: {run: echo}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: echo, image: alpine, command: [nc, -ll, -p, '80', -e, sh, /streams/echo],
     volumeMounts: [{name: streams, mountPath: /streams}]}
  volumes: [{name: streams, configMap: {name: streams}}]
---
apiVersion: v1
kind: Pod
metadata: {name: grpc, labels: {run: grpc}}
spec:
  containers:
  - {name: nginx, image: nginx,
     volumeMounts: [{name: streams, mountPath: /etc/nginx/conf.d/grpc.conf, subPath: grpc.conf}]}
  volumes: [{name: streams, configMap: {name: streams}}]
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {run: echo}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: grpc}
spec: {selector: {run: grpc}, ports: [{port: 80, targetPort: 81}]}
"#;

/// WebSocket and gRPC by TLS.
fn streams(bed: &Testbed) {
    bed.apply(STREAMS);
    bed.wait_ready("echo");
    bed.wait_ready("grpc");
    bed.apply(&ingress("echo", "m.example", "/", "Prefix", "echo", ""));
    bed.apply(&ingress("grpc", "n.example", "/", "Prefix", "grpc", "backend-protocol: GRPC"));
    let client = r#"
import socket, ssl
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
stream = context.wrap_socket(socket.create_connection(("127.0.0.1", 443), 20), server_hostname="m.example")
stream.sendall(b"GET /chat HTTP/1.1\r\nHost: m.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
seen = b""
while not seen.endswith(b"\r\n\r\n"):
    seen += stream.recv(1) or exit("an early end after %r" % seen)
print(seen.split(b"\r\n")[0].decode())
for word in (b"ping", b"pong"):
    stream.sendall(word)
    back = b""
    while len(back) < len(word):
        back += stream.recv(10) or exit("an early end")
    print(back.decode())
"#;
    bed.wait("an echo", MINUTE, || {
        bed.run(&["python3", "-c", client]).stdout == "HTTP/1.1 101 Switching Protocols\nping\npong\n"
    });
    // curl 7.88 loses a body that comes together with its trailers.
    let call = [
        "nghttp",
        "-v",
        "-d",
        "/etc/hosts",
        "-H",
        ":authority: n.example",
        "-H",
        "te: trailers",
        "-H",
        "content-type: application/grpc",
        "https://127.0.0.1/service/Method",
    ];
    bed.wait("an answer with trailers", MINUTE, || {
        let answer = bed.run(&call).stdout;
        [":status: 200", "POST n.example/service/Method", "grpc-status: 0"]
            .iter()
            .all(|part| answer.contains(part))
    });
}

#[test]
fn no_request_fails_while_pods_are_replaced() {
    let bed = Testbed::up("ingress-roll");
    bed.start();
    bed.apply(&vote("vote", "latest", 2));
    bed.kubectl("rollout status deployment/vote --timeout=90s");
    bed.apply(&ingress("vote", "vote.example", "/", "Prefix", "vote", ""));
    bed.wait("the page", MINUTE, || curl(&bed, "vote.example", "/", &[]).contains("version latest"));
    // One client that keeps its connection and one that makes a new one each time, until the file is there.
    let client = r#"
        ask() { curl -s -o /dev/null -m 10 -w '%{http_code}\n' -H 'Host: vote.example' "$@"; }
        until [ -e /root/.kube/over ]; do ask http://127.0.0.1/; done &
        until [ -e /root/.kube/over ]; do ask "http://127.0.0.1/?[1-50]"; done &
        kubectl set image deployment/vote vote=instavote/vote:movies >&2
        kubectl rollout status deployment/vote --timeout=100s >&2
        touch /root/.kube/over
        wait
    "#;
    let answers = bed.ok(&["bash", "-c", client]);
    let (good, all) = (answers.lines().filter(|code| *code == "200").count(), answers.lines().count());
    eprintln!("{good} of {all} requests were answered while pods were replaced");
    assert!(all > 50, "{all}");
    assert_eq!(good, all, "{answers}");
    assert!(curl(&bed, "vote.example", "/", &[]).contains("version movies"));
    bed.ok(&[MINIK, "delete"]);
}

#[test]
fn a_port_that_is_taken_disturbs_nobody() {
    let bed = Testbed::up("ingress-port");
    let server = "setsid python3 -c \"import http.server,os; s=http.server.ThreadingHTTPServer(('0.0.0.0',80),\
                  http.server.SimpleHTTPRequestHandler); open('/root/.kube/pid','w').write(str(os.getpid())); \
                  s.serve_forever()\" >/dev/null 2>&1 </dev/null & until [ -s /root/.kube/pid ]; do :; done";
    bed.ok(&["bash", "-c", server]);
    bed.ok(&[MINIK, "start", "--registry-mirror", &bed.mirror(), "--ingress-https-port", "8444"]);
    bed.kubectl("run web --image=nginx --port=80 --expose");
    bed.wait_ready("web");
    bed.apply(&ingress("web", "web.example", "/", "Prefix", "web", ""));
    bed.wait("the reason", MINUTE, || {
        bed.kubectl("describe ingress web").contains("cannot listen on port 80")
    });
    assert_eq!(bed.kubectl("get ingress web -o jsonpath={.status.loadBalancer.ingress}"), "");
    assert!(bed.kubectl("get --raw /readyz").contains("ok"));
    let secure = ["curl", "-sk", "-m", "20", "--connect-to", "::127.0.0.1:", "https://web.example:8444/"];
    assert!(bed.ok(&secure).contains("Welcome to nginx!"));
    bed.ok(&["bash", "-c", "kill $(cat /root/.kube/pid)"]);
    bed.wait("the page", MINUTE, || curl(&bed, "web.example", "/", &[]).contains("Welcome to nginx!"));
    bed.wait("the address", MINUTE, || {
        !bed.kubectl("get ingress web -o jsonpath={.status.loadBalancer.ingress}").is_empty()
    });
    bed.ok(&[MINIK, "stop"]);
    bed.ok(&[MINIK, "start", "--ingress=false"]);
    bed.wait("a cluster without the class", MINUTE, || {
        bed.kubectl_all("get ingressclass").contains("No resources found")
    });
    let shown = bed.kubectl("get ingress web -o jsonpath={.status.loadBalancer.ingress}");
    assert!(matches!(shown.as_str(), "" | "[]"), "{shown}");
    assert_eq!(code(&bed, "web.example", "/", &[]), "000");
    bed.ok(&[MINIK, "delete"]);
}
