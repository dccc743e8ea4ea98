//! A cluster on a host with addresses of both families, driven by stock kubectl: pods, services and policies have both.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::time::Duration;

use testbed::{MINIK, Testbed};

/// How long rules may take to follow their objects, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

const OBJECTS: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80, nodePort: 30080}]
---
apiVersion: v1
kind: Service
metadata: {name: six}
spec:
  ipFamilyPolicy: SingleStack
  ipFamilies: [IPv6]
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec:
  clusterIP: None
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: busybox
    command: [sh, -c, "mkdir /www; echo $IPS > /www/index.html; exec httpd -f -p 80 -h /www"]
    env: [{name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}]
    ports: [{containerPort: 80, hostPort: 8088}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: onhost}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, "100000"]}]
"#;

const DENY: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]}
"#;

/// The values of a list that kubectl prints by a JSON path.
fn list(bed: &Testbed, words: &str) -> Vec<String> {
    bed.kubectl(words).split_whitespace().map(str::to_owned).collect()
}

/// What `curl` on the host or, by `wget`, the pod `client` gets within two seconds.
fn get(bed: &Testbed, from_pod: bool, url: &str) -> Option<String> {
    let run = match from_pod {
        true => bed.run(&["kubectl", "exec", "client", "--", "timeout", "2", "wget", "-qO-", url]),
        false => bed.run(&["curl", "-sgf", "-m", "2", url]),
    };
    run.status.success().then(|| run.stdout.trim().to_owned())
}

/// An address as it stands in a URL.
fn in_url(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

#[test]
fn everything_has_addresses_of_both_families() {
    let bed = Testbed::up_dual("dual");
    let before = bed.leftovers();
    bed.start();
    bed.apply(OBJECTS);
    for pod in ["web", "client", "onhost"] {
        bed.wait_ready(pod);
    }
    let pods = list(&bed, "get pod web -o jsonpath={.status.podIPs[*].ip}");
    let node =
        list(&bed, "get nodes -o jsonpath={.items[0].status.addresses[?(@.type==\"InternalIP\")].address}");
    let services = list(&bed, "get service web -o jsonpath={.spec.clusterIPs[*]}");
    for both in [&pods, &node, &services] {
        assert!(both.len() == 2 && !both[0].contains(':') && both[1].contains(':'), "{both:?}");
    }
    assert!(node[1].starts_with("2001:db8:77:"), "{node:?}");
    assert_eq!(list(&bed, "get pod onhost -o jsonpath={.status.podIPs[*].ip}"), node);
    assert_eq!(list(&bed, "get pod web -o jsonpath={.status.hostIPs[*].ip}"), node);
    // The API is reached by both, and its certificate is good for both.
    let server = bed.kubectl("config view --minify -o jsonpath={.clusters[0].cluster.server}");
    for address in [&node[0], &node[1], "::1"] {
        let server = server.replace("127.0.0.1", &in_url(address));
        assert_eq!(bed.kubectl(&format!("--server={server} get --raw /readyz")), "ok", "{server}");
    }
    let hosts = bed.kubectl("exec web -- cat /etc/hosts");
    assert!(pods.iter().all(|address| hosts.contains(&format!("{address}\tweb\n"))), "{hosts}");
    let six = list(&bed, "get service six -o jsonpath={.spec.clusterIPs[*]}");
    assert!(six.len() == 1 && six[0].contains(':'), "{six:?}");

    let page = pods.join(",");
    let answers = |from_pod: bool, address: &str, port: u16| {
        let url = format!("http://{}:{port}/", in_url(address));
        bed.wait(&url, SOON, || get(&bed, from_pod, &url).as_ref() == Some(&page));
    };
    for from_pod in [true, false] {
        for address in pods.iter().chain(&services).chain(&six) {
            answers(from_pod, address, 80);
        }
        for address in &node {
            answers(from_pod, address, 30080);
            answers(from_pod, address, 8088);
        }
    }
    for loopback in ["127.0.0.1", "::1"] {
        answers(false, loopback, 30080);
        answers(false, loopback, 8088);
    }
    for (name, address) in [("peers", &pods[1]), ("web", &services[1]), ("six", &six[0])] {
        let asked = format!("{name}.default.svc.cluster.local");
        bed.wait(name, SOON, || {
            bed.run(&["kubectl", "exec", "client", "--", "nslookup", "-type=aaaa", &asked])
                .stdout
                .contains(address.as_str())
        });
    }

    bed.apply(DENY);
    for address in &pods {
        let url = format!("http://{}/", in_url(address));
        // One answer that does not come may be a busy machine's.
        bed.wait("silence", SOON, || (0..3).all(|_| get(&bed, true, &url).is_none()));
        bed.wait("the node reaches its pods", SOON, || get(&bed, false, &url).is_some());
    }
    bed.kubectl("delete networkpolicy deny");
    for address in &pods {
        answers(true, address, 80);
    }
    bed.ok(&[MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
}
