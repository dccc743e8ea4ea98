//! Network policies as people copy them, in a whole cluster driven by stock kubectl: what each allows passes, and
//! nothing else does.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use testbed::{MINIK, Testbed};

const MINUTE: Duration = Duration::from_secs(60);
/// How long rules may take to follow their objects, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

const PODS: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: prod, labels: {purpose: production}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30080}, {name: admin, port: 8080, nodePort: 30081}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox
        command: [sh, -c, "mkdir /www; echo hello > /www/index.html; httpd -p 8080 -h /www; nc -ll -p 9000 -e cat & exec httpd -f -p 80 -h /www"]
        ports: [{name: http, containerPort: 80}, {name: admin, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: friend, labels: {app: friend, role: monitoring}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: friend, namespace: prod, labels: {app: friend}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: onhost, labels: {app: friend}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, "100000"]}]
"#;

/// A cluster with a web server and its clients.
struct Stage {
    bed: Testbed,
    /// How the tests call places, and what `wget` calls them.
    places: BTreeMap<&'static str, String>,
}

impl Stage {
    fn up(name: &str) -> Stage {
        let bed = Testbed::up(name);
        bed.start();
        bed.apply(PODS);
        bed.kubectl("rollout status deployment/web --timeout=90s");
        for pod in ["friend", "other", "onhost"] {
            bed.wait_ready(pod);
        }
        bed.kubectl("wait --for=condition=Ready pod/friend -n prod --timeout=90s");
        let mut stage = Stage { bed, places: BTreeMap::new() };
        stage.learn_places();
        stage
    }

    fn learn_places(&mut self) {
        let one = |words: &str| self.bed.kubectl(words).trim().to_owned();
        // One that was replaced may still be about to go.
        let pods = || one("get pods -l app=web -o jsonpath={.items[*].status.podIP}");
        self.bed.wait("one pod", SOON, || pods().split(' ').count() == 1 && !pods().is_empty());
        let pod = pods();
        let service = one("get service web -o jsonpath={.spec.clusterIP}");
        let host = one("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
        let internet = host.rsplit_once('.').map(|(network, _)| format!("{network}.1")).unwrap();
        self.places = [
            ("pod", pod.clone()),
            ("pod:8080", format!("{pod}:8080")),
            ("service", service.clone()),
            ("service:8080", format!("{service}:8080")),
            ("node", format!("{host}:30080")),
            ("loopback", "127.0.0.1:30080".to_owned()),
            ("internet", internet),
        ]
        .into();
    }

    /// From where to which of some places something comes through, and to which of others that it should not come to: they
    /// are given less time.
    fn reached(&self, from: &str, through: &[&str], stopped: &[&str]) -> Vec<bool> {
        let mut script = String::new();
        let patient = through.iter().map(|place| (place, 20));
        for (place, seconds) in patient.chain(stopped.iter().map(|place| (place, 2))) {
            // By name, which needs DNS, and by address.
            let place = self.places.get(place).map_or(*place, String::as_str);
            script += &format!(
                "(timeout {seconds} busybox wget -q -O /dev/null http://{place}/ && echo '+{place}+') 2>/dev/null & "
            );
        }
        script += "wait";
        let said = match from {
            "host" => self.bed.run(&["sh", "-c", &script]).stdout,
            "outside" => {
                let namespace = format!("{}-net", self.bed.name);
                let output =
                    Command::new("ip").args(["netns", "exec", &namespace, "sh", "-c", &script]).output();
                String::from_utf8(output.unwrap().stdout).unwrap()
            }
            pod => {
                let (namespace, pod) = pod.split_once('/').unwrap_or(("default", pod));
                self.bed.run(&["kubectl", "exec", "-n", namespace, pod, "--", "sh", "-c", &script]).stdout
            }
        };
        let place = |to: &&str| self.places.get(to).map_or((*to).to_owned(), String::clone);
        [through, stopped].concat().iter().map(|to| said.contains(&format!("+{}+", place(to)))).collect()
    }

    /// Waits until everything is as expected, and sees that it stays so.
    fn expect(&self, what: &str, cases: &[Case<'_>]) {
        let wrong_in = |(from, through, stopped): &Case<'_>| -> Vec<String> {
            let to: Vec<&str> = [*through, *stopped].concat();
            let reached = self.reached(from, through, stopped).into_iter().enumerate();
            let wrong = reached.filter(|(n, reached)| *reached != (*n < through.len()));
            wrong.map(|(n, reached)| format!("{from} -> {}: {reached}", to[n])).collect()
        };
        // Each waits for its own timeouts.
        let differing = || -> Vec<String> {
            std::thread::scope(|scope| {
                let each: Vec<_> = cases.iter().map(|case| scope.spawn(|| wrong_in(case))).collect();
                each.into_iter().flat_map(|one| one.join().unwrap()).collect()
            })
        };
        let until = std::time::Instant::now() + SOON;
        loop {
            let wrong = differing();
            if wrong.is_empty() {
                break;
            }
            assert!(std::time::Instant::now() < until, "{what}: {wrong:?}\n{}", self.table());
        }
        assert_eq!(differing(), [""; 0], "{what}, a little later");
    }

    fn table(&self) -> String {
        self.bed.run(&["nft", "list", "ruleset"]).stdout
    }

    /// Replaces all policies of the namespace `default`.
    fn policies(&self, specs: &[&str]) {
        self.bed.kubectl("delete networkpolicies --all");
        for (number, spec) in specs.iter().enumerate() {
            self.bed.apply(&format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: recipe-{number}}}\nspec: {spec}\n"
            ));
        }
    }
}

/// From where, what comes through from there, what does not.
type Case<'a> = (&'a str, &'a [&'a str], &'a [&'a str]);

const FOR_WEB: &str = "podSelector: {matchLabels: {app: web}}";
const WEB: &[&str] = &["pod", "service", "node", "pod:8080", "service:8080"];
const NOTHING: &[&str] = &[];

#[test]
fn recipes_for_what_comes_in() {
    let stage = Stage::up("ingress");
    let open: &[Case<'_>] =
        &[("other", WEB, NOTHING), ("prod/friend", WEB, NOTHING), ("outside", &["node"], NOTHING)];
    stage.expect("no policy", open);
    assert!(!stage.table().contains("policy-forward"), "what nobody asked for costs nothing");

    // Whatever the policies are: the node, and who is on its network, reach their pods, and kubectl and probes with them.
    let node: &[Case<'_>] =
        &[("host", &["pod", "service", "node", "loopback", "pod:8080"], NOTHING), ("onhost", WEB, NOTHING)];
    let denied: &[Case<'_>] = &[
        ("friend", NOTHING, WEB),
        ("other", NOTHING, WEB),
        ("prod/friend", NOTHING, WEB),
        ("outside", NOTHING, &["node"]),
    ];
    let web = |rest: &str| format!("{{{FOR_WEB}, {rest}}}");
    let recipes: Vec<(&str, Vec<String>, Vec<Case<'_>>)> = vec![
        ("deny all to an application", vec![web("ingress: []")], denied.to_vec()),
        (
            "deny all in a namespace",
            vec!["{podSelector: {}, policyTypes: [Ingress]}".into()],
            denied.to_vec(),
        ),
        (
            "limit to an application",
            vec![web("ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]")],
            vec![
                ("friend", WEB, NOTHING),
                ("other", NOTHING, WEB),
                ("prod/friend", NOTHING, WEB),
                ("outside", NOTHING, &["node"]),
            ],
        ),
        (
            "deny from other namespaces",
            vec!["{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}".into()],
            vec![
                ("friend", WEB, NOTHING),
                ("other", WEB, NOTHING),
                ("prod/friend", NOTHING, WEB),
                ("outside", NOTHING, &["node"]),
            ],
        ),
        (
            "allow all to an application after denying all",
            vec!["{podSelector: {}, policyTypes: [Ingress]}".into(), web("ingress: [{}]")],
            open.to_vec(),
        ),
        (
            "allow from all namespaces",
            vec![web("ingress: [{from: [{namespaceSelector: {}}]}]")],
            vec![("other", WEB, NOTHING), ("prod/friend", WEB, NOTHING), ("outside", NOTHING, &["node"])],
        ),
        (
            "allow from a namespace",
            vec![web("ingress: [{from: [{namespaceSelector: {matchLabels: {purpose: production}}}]}]")],
            vec![("friend", NOTHING, WEB), ("prod/friend", WEB, NOTHING)],
        ),
        (
            "allow from some pods of a namespace",
            vec![web(
                "ingress: [{from: [{namespaceSelector: {matchLabels: {purpose: production}}, podSelector: {matchLabels: {app: none}}}]}]",
            )],
            denied.to_vec(),
        ),
        (
            "allow a port",
            vec![web(
                "ingress: [{ports: [{port: 8080}], from: [{podSelector: {matchLabels: {role: monitoring}}}]}]",
            )],
            vec![
                ("friend", &["pod:8080", "service:8080"], &["pod", "service", "node"]),
                ("other", NOTHING, WEB),
            ],
        ),
        (
            "allow a named port and a range",
            vec![web(
                "ingress: [{ports: [{port: http}]}, {ports: [{port: 8000, endPort: 8100}], from: [{podSelector: {matchLabels: {app: friend}}}]}]",
            )],
            vec![
                ("friend", WEB, NOTHING),
                ("other", &["pod", "service", "node"], &["pod:8080", "service:8080"]),
                ("outside", &["node"], NOTHING),
            ],
        ),
        (
            "allow from outside only",
            vec![web("ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.244.0.0/15]}}]}]")],
            vec![("other", NOTHING, WEB), ("outside", &["node"], NOTHING)],
        ),
    ];
    for (what, policies, cases) in recipes {
        stage.policies(&policies.iter().map(String::as_str).collect::<Vec<_>>());
        stage.expect(what, &cases);
        stage.expect(what, node);
    }
    stage.policies(&[&web("ingress: []")]);
    stage.expect("denied again", denied);
    let proxied = "get --raw /api/v1/namespaces/default/services/web:http/proxy/";
    assert_eq!(stage.bed.kubectl(proxied).trim(), "hello", "through the API server");
    // A pod that is replaced is isolated as well, and its probes reach it.
    stage.bed.kubectl("rollout restart deployment/web");
    stage.bed.kubectl("rollout status deployment/web --timeout=90s");
    let mut stage = stage;
    stage.learn_places();
    stage.expect("another pod", denied);
    // The labels of a namespace decide as they are.
    stage.policies(&[&web("ingress: [{from: [{namespaceSelector: {matchLabels: {purpose: production}}}]}]")]);
    stage.expect("of production", &[("prod/friend", WEB, NOTHING)]);
    stage.bed.kubectl("label namespace prod purpose=test --overwrite");
    stage.expect("no longer", &[("prod/friend", NOTHING, WEB)]);
    stage.bed.kubectl("label namespace prod purpose=production --overwrite");
    stage.expect("of production again", &[("prod/friend", WEB, NOTHING)]);
    stage.policies(&[]);
    stage.expect("no policy any more", open);
    stage.bed.wait("the end of the rules", SOON, || !stage.table().contains("policy-forward"));
    stage.bed.ok(&[MINIK, "delete"]);
}

#[test]
fn recipes_for_what_goes_out() {
    let stage = Stage::up("egress");
    let name = "web.default.svc.cluster.local";
    let other = |rest: &str| {
        format!("{{podSelector: {{matchLabels: {{app: other}}}}, policyTypes: [Egress], {rest}}}")
    };
    let dns = "{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, \
        podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}";
    let resolves = |name: &str| {
        let script = format!("timeout 4 nslookup {name} >/dev/null 2>&1 && echo yes");
        stage.bed.run(&["kubectl", "exec", "other", "--", "sh", "-c", &script]).stdout.trim() == "yes"
    };
    let talks_to_api = |from: &str| {
        let script = "echo | timeout 3 nc -w 2 $KUBERNETES_SERVICE_HOST 443 >/dev/null 2>&1; echo $?";
        stage.bed.run(&["kubectl", "exec", from, "--", "sh", "-c", script]).stdout.trim() == "0"
    };
    stage.bed.wait("DNS and the API", SOON, || resolves(name) && talks_to_api("other"));
    stage.expect("no policy", &[("other", &["pod", "internet", name], NOTHING)]);

    stage.policies(&[&other("egress: []")]);
    stage.expect(
        "deny egress",
        &[
            ("other", NOTHING, &["pod", "service", "node", "internet"]),
            ("friend", &["pod", "internet"], NOTHING),
        ],
    );
    assert!(!resolves(name), "DNS is denied with everything else");
    assert!(!talks_to_api("other"));
    stage.bed.wait("the API for others", SOON, || talks_to_api("friend"));
    stage.expect("into a pod that may not go out", &[("host", &["pod"], NOTHING)]);

    stage.policies(&[&other(&format!("egress: [{dns}]"))]);
    stage.expect("DNS only", &[("other", NOTHING, &["pod", "service", "internet"])]);
    stage.bed.wait("DNS", SOON, || resolves(name));
    assert!(!talks_to_api("other"));

    stage.policies(&[&other(&format!(
        "egress: [{dns}, {{to: [{{podSelector: {{matchLabels: {{app: web}}}}}}], ports: [{{port: http}}]}}]"
    ))]);
    stage.expect(
        "to an application, by name",
        &[("other", &["pod", "service", "node", name], &["pod:8080", "internet"])],
    );

    stage.policies(&[&other("egress: [{to: [{namespaceSelector: {}}]}]")]);
    stage.expect("to the cluster only", &[("other", &["pod", "service", name], &["internet"])]);
    assert!(!talks_to_api("other"), "a process of the host is no pod");

    let internet = &stage.places["internet"];
    stage.policies(&[&other(&format!("egress: [{{to: [{{ipBlock: {{cidr: {internet}/32}}}}]}}]"))]);
    stage.expect("to a network", &[("other", &["internet"], &["pod", "service"])]);
    let api = "get endpoints kubernetes -o jsonpath={.subsets[0].addresses[0].ip}";
    let api = stage.bed.kubectl(api);
    stage.policies(&[&other(&format!("egress: [{{to: [{{ipBlock: {{cidr: {api}/32}}}}]}}]"))]);
    stage.expect("to the API server", &[("other", NOTHING, &["internet", "pod"])]);
    stage.bed.wait("the API", SOON, || talks_to_api("other"));
    stage.policies(&[&other(&format!(
        "egress: [{{to: [{{ipBlock: {{cidr: 0.0.0.0/0, except: [{internet}/32]}}}}]}}]"
    ))]);
    stage.expect("to all but one", &[("other", &["pod", "service", name], &["internet"])]);

    // Both directions, both ends: the policies of a whole namespace.
    let all = "{podSelector: {}, policyTypes: [Ingress, Egress]}";
    stage.policies(&[all]);
    stage.expect(
        "deny all",
        &[("friend", NOTHING, &["pod", "service", "internet"]), ("prod/friend", &["internet"], &["pod"])],
    );
    let dns_for_all = format!("{{podSelector: {{}}, policyTypes: [Egress], egress: [{dns}]}}");
    let web_in =
        format!("{{{FOR_WEB}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: friend}}}}}}]}}]}}");
    stage.policies(&[all, &dns_for_all, &web_in]);
    stage.expect("one end is not enough", &[("friend", NOTHING, &["pod", name])]);
    let friend_out = "{podSelector: {matchLabels: {app: friend}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: web}}}]}]}";
    stage.policies(&[all, &dns_for_all, &web_in, friend_out]);
    stage.expect(
        "both ends",
        &[("friend", &["pod", name], &["internet"]), ("other", NOTHING, &["pod", name])],
    );
    stage.bed.ok(&[MINIK, "delete"]);
}

#[test]
fn a_policy_holds_from_the_first_packet_and_for_connections_that_are_there() {
    let stage = Stage::up("moments");
    let web = &stage.places["pod"];
    let talk = |pod: &str| {
        let script = format!(
            "(while echo x; do sleep 0.1; done) 2>/dev/null | nc {web} 9000 > /tmp/heard 2>/dev/null; echo > /tmp/ended"
        );
        stage.bed.kubectl(&format!("exec {pod} -- rm -f /tmp/heard /tmp/ended"));
        stage.bed.ok(&[
            "kubectl",
            "exec",
            pod,
            "--",
            "sh",
            "-c",
            &format!("({script}) </dev/null >/dev/null 2>&1 &"),
        ]);
    };
    let heard = |pod: &str| stage.bed.run(&["kubectl", "exec", pod, "--", "wc", "-c", "/tmp/heard"]).stdout;
    let has_ended =
        |pod: &str| stage.bed.run(&["kubectl", "exec", pod, "--", "ls", "/tmp/ended"]).status.success();
    let goes_on = |pod: &str, what: &str| {
        let before = heard(pod);
        stage.bed.wait(what, SOON, || heard(pod) != before);
        assert!(!has_ended(pod), "{what}");
    };
    for pod in ["friend", "other"] {
        talk(pod);
        goes_on(pod, "a conversation");
    }
    let friends = "{podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}]}]}";
    stage.policies(&[friends]);
    stage.bed.wait("the end of what is denied", MINUTE, || has_ended("other"));
    goes_on("friend", "what is still allowed");
    stage.bed.kubectl("label pod friend app=foe --overwrite");
    stage.bed.wait("the end for who is no friend any more", MINUTE, || has_ended("friend"));

    // Pods that try from their first instruction on never get through, as often as they are started.
    let early = |name: &str, app: &str, tries: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
             - name: main\n    image: busybox\n    command: [sh, -c, \"for i in $(seq {tries}); do nc -w 1 {web} 80 </dev/null && echo through \
             && exit 0; done; true\"]\n---\n"
        )
    };
    let denied: Vec<String> = (0..6).map(|n| early(&format!("early-{n}"), "foe", 4)).collect();
    stage.bed.apply(&denied.concat());
    stage.bed.apply(&early("welcome", "friend", 60));
    for pod in (0..6).map(|n| format!("early-{n}")).chain(["welcome".to_owned()]) {
        stage
            .bed
            .kubectl(&format!("wait --for=jsonpath={{.status.phase}}=Succeeded pod/{pod} --timeout=90s"));
        let said = stage.bed.kubectl(&format!("logs {pod}"));
        assert_eq!(said.contains("through"), pod == "welcome", "{pod}: {said}");
    }
    // A daemon that dies leaves the rules behind, and the next one finds them.
    let closed: &[Case<'_>] = &[("other", NOTHING, &["pod", "service"])];
    stage.expect("before", closed);
    stage.bed.kill(stage.bed.daemon_pid());
    let namespace = stage.table();
    assert!(namespace.contains("policy-forward"));
    stage.bed.ok(&[MINIK, "start", "--registry-mirror", &stage.bed.mirror()]);
    stage.expect("after", closed);
    stage.bed.ok(&[MINIK, "delete"]);
    assert!(!stage.table().contains("policy-forward"));
}
