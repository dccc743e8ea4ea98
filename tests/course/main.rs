//! The main job, end to end: whole clusters in test hosts, driven by stock kubectl with the course's manifests.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod printed;
#[path = "../testbed/mod.rs"]
mod testbed;

use std::time::Duration;

use testbed::Testbed;

const MINUTE: Duration = Duration::from_secs(60);

/// The page that a port-forward to a pod's port 80 shows once something listens there; redirects are followed.
fn forwarded_page(bed: &Testbed, pod: &str, local: u16) -> String {
    let script = format!(
        "exec 3< <(exec kubectl port-forward {pod} {local}:80); pid=$!; read -r line <&3; \
         curl -sSL -m 20 http://127.0.0.1:{local}/; status=$?; kill $pid; exit $status"
    );
    let mut page = String::new();
    bed.wait(&format!("page of {pod}"), MINUTE, || {
        let run = bed.run(&["bash", "-c", &script]);
        page = run.stdout;
        run.status.success()
    });
    page
}

#[test]
fn an_nginx_pod_from_create_to_delete() {
    let bed = Testbed::up("nginx");
    let before = bed.leftovers();
    bed.start();
    assert!(bed.kubectl("get nodes").contains(" Ready "));
    assert_eq!(bed.kubectl("config current-context").trim(), bed.name);
    let again = bed.run(&[testbed::MINIK, "start"]);
    assert!(again.status.success() && again.stderr.contains("running already"), "{again:?}");

    assert_eq!(bed.kubectl("create -f tests/manifests/nginx-pod.yaml").trim(), "pod/nginx created");
    bed.wait_ready("nginx");
    let table = bed.kubectl("get pods");
    assert!(
        table.starts_with("NAME    READY   STATUS    RESTARTS   AGE\nnginx   1/1     Running   0"),
        "{table}"
    );
    for reason in ["Scheduled", "Pulling", "Pulled", "Created", "Started"] {
        bed.wait(reason, MINUTE, || {
            bed.kubectl("describe po/nginx").contains(&format!("  Normal  {reason} "))
        });
    }
    assert!(bed.kubectl_all("exec nginx -- nginx -v").contains("nginx version"));
    let failed = bed.run(&["kubectl", "exec", "nginx", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((failed.status.code(), failed.stdout.trim()), (Some(7), "out"));
    assert!(failed.stderr.contains("err"));
    let piped = bed.ok(&["bash", "-c", "printf 'a\\nb\\n' | kubectl exec -i nginx -- wc -l"]);
    assert_eq!(piped.trim(), "2");

    assert!(forwarded_page(&bed, "nginx", 8080).contains("Welcome to nginx!"));
    bed.wait("its log", MINUTE, || bed.kubectl("logs nginx").contains("\"GET / HTTP/1.1\" 200"));
    // Following ends with the pod, and shows what is written meanwhile.
    let followed = bed.ok(&[
        "bash",
        "-c",
        "exec 3< <(exec kubectl logs -f --tail=0 nginx); pid=$!; \
         until kubectl exec nginx -- sh -c 'echo followed > /proc/2/fd/1' && read -r -t 1 line <&3; do :; done; \
         kill $pid; echo \"$line\"",
    ]);
    assert_eq!(followed.trim(), "followed");
    bed.ok(&["bash", "-c", "echo copied > /root/.kube/f && kubectl cp /root/.kube/f nginx:/tmp/f"]);
    assert_eq!(bed.kubectl("exec nginx -- cat /tmp/f").trim(), "copied");

    assert_eq!(bed.kubectl("delete pod nginx").trim(), "pod \"nginx\" deleted from default namespace");
    assert!(bed.kubectl_all("get pods").contains("No resources found"));

    bed.ok(&[testbed::MINIK, "delete"]);
    bed.ok(&[testbed::MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
    assert_eq!(bed.run(&["kubectl", "config", "get-contexts", &bed.name]).status.code(), Some(1));
}

#[test]
fn an_interactive_shell_knows_its_window() {
    let bed = Testbed::up("tty");
    bed.start();
    bed.kubectl("create -f tests/manifests/pod-debug.yaml");
    bed.wait_ready("debug");
    let mut shell = bed.terminal(&["kubectl", "exec", "-it", "debug", "--", "/bin/sh"], 24, 80);
    shell.wait_for("#");
    shell.type_line("until [ \"$(stty size)\" = '24 80' ]; do :; done; echo $((6*7))");
    shell.wait_for("42");
    shell.resize(50, 132);
    shell.type_line("until [ \"$(stty size)\" = '50 132' ]; do :; done; echo resized-$((1+1))");
    shell.wait_for("resized-2");
    shell.type_line("exit 3");
    assert_eq!(shell.end(), Some(3));
}

#[test]
fn wordpress_outlives_its_daemon() {
    let bed = Testbed::up("wordpress");
    let before = bed.leftovers();
    bed.start();
    bed.kubectl("create -f tests/manifests/wordpress-pod.yaml");
    bed.wait_ready("wp");
    assert!(bed.kubectl("get pod wp").contains("2/2     Running   0"));
    let page = forwarded_page(&bed, "wp", 8080);
    assert!(page.contains("WordPress") && page.contains("Installation"), "{page}");
    let processes = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done";
    for container in ["wordpress", "mysql"] {
        let seen = bed.ok(&["kubectl", "exec", "wp", "-c", container, "--", "sh", "-c", processes]);
        assert!(seen.contains("apache2") && seen.contains("mariadbd"), "{container} sees {seen}");
    }
    let address = bed.kubectl("get pod wp -o jsonpath={.status.podIP}");

    // A container that ends while nobody is there: its exit code and last line must not be lost.
    bed.ok(&[
        "kubectl",
        "run",
        "once",
        "--image=busybox",
        "--restart=Never",
        "--",
        "sh",
        "-c",
        "until [ -e /tmp/go ]; do sleep 0.05; done; echo last words; exit 9",
    ]);
    bed.wait_ready("once");
    let pid = bed.daemon_pid();
    // Released by a process that does not need the daemon.
    let release = "until [ -e /tmp/dead ]; do sleep 0.05; done; touch /tmp/go";
    bed.ok(&[
        "kubectl",
        "exec",
        "once",
        "--",
        "sh",
        "-c",
        &format!("({release}) >/dev/null 2>&1 </dev/null &"),
    ]);
    bed.kill(pid);
    let status = bed.run(&[testbed::MINIK, "status"]);
    assert_eq!(status.status.code(), Some(7), "{status:?}");
    let served = bed.ok(&["curl", "-sSL", "-m", "20", &format!("http://{address}/")]);
    assert!(served.contains("WordPress"), "{served}");
    bed.touch_in_container("until . -e /tmp/go", "tmp/dead");
    bed.start();
    bed.wait("the ended pod's exit code", MINUTE, || {
        bed.kubectl("get pod once -o jsonpath={.status.containerStatuses[0].state.terminated.exitCode}")
            == "9"
    });
    assert_eq!(bed.kubectl("logs once").trim(), "last words");
    assert!(bed.kubectl("get pod wp").contains("2/2     Running   0"));
    assert_ne!(bed.daemon_pid(), pid);

    // Stop and start: the same objects, the same data, containers anew.
    bed.ok(&[testbed::MINIK, "stop"]);
    assert!(bed.processes().is_empty(), "{:?}", bed.processes());
    bed.start();
    bed.wait("wp to run again", MINUTE, || bed.kubectl("get pod wp").contains("2/2     Running"));
    assert!(forwarded_page(&bed, "wp", 8080).contains("Installation"));
    bed.ok(&[testbed::MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
}

#[test]
fn services_by_name_address_and_node_port() {
    let bed = Testbed::up("services");
    bed.start();
    bed.kubectl("create -f tests/manifests/vote-pod.yaml -f tests/manifests/pod-debug.yaml");
    bed.kubectl("create -f tests/manifests/vote-service.yaml");
    bed.wait_ready("vote");
    bed.wait_ready("debug");
    bed.wait("endpoints", MINUTE, || !bed.kubectl("get endpoints vote-service").contains("<none>"));
    for name in ["vote-service", "vote-service.default", "vote-service.default.svc.cluster.local"] {
        let url = format!("http://{name}");
        let curl = ["kubectl", "exec", "debug", "--", "curl", "-sS", "-m", "20", &url];
        bed.wait(name, MINUTE, || bed.run(&curl).stdout.contains("version latest, pod vote"));
    }
    let node = bed.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    for address in [node.as_str(), "127.0.0.1", "localhost"] {
        let curl = ["curl", "-sS", "-m", "20", &format!("http://{address}:31000/")];
        bed.wait(address, MINUTE, || bed.run(&curl).stdout.contains("version latest"));
    }
    // A load balancer's address answers inside and on the host; an external name is another name for what is outside.
    bed.kubectl("expose pod vote --name balanced --port 8080 --target-port 80 --type LoadBalancer");
    let ip = "get svc balanced -o jsonpath={.status.loadBalancer.ingress[0].ip}";
    bed.wait("load balancer", MINUTE, || !bed.kubectl(ip).is_empty());
    let balanced = format!("http://{}:8080/", bed.kubectl(ip));
    for mut curl in [vec![], vec!["kubectl", "exec", "debug", "--"]] {
        curl.extend(["curl", "-sS", "-m", "5", "--retry", "10", "--retry-connrefused", &balanced]);
        let page = bed.ok(&curl);
        assert!(page.contains("version latest"), "{page}");
    }
    bed.kubectl("create service externalname elsewhere --external-name example.test");
    let elsewhere = ["kubectl", "exec", "debug", "--", "curl", "-sS", "-m", "20", "http://elsewhere/"];
    bed.wait("another name", MINUTE, || bed.run(&elsewhere).stdout.contains("outside world"));
    // From a pod: the outside world, and the API with the mounted token.
    let outside = bed.kubectl("exec debug -- curl -sS -m 5 http://example.test/");
    assert!(outside.contains("outside world"), "{outside}");
    let api = "cd /var/run/secrets/kubernetes.io/serviceaccount; curl -sS -m 5 --cacert ca.crt \
               -H \"Authorization: Bearer $(cat token)\" https://kubernetes.default/api/v1/namespaces/$(cat namespace)/pods/debug";
    let ask = || bed.ok(&["kubectl", "exec", "debug", "--", "sh", "-c", api]);
    let refused = ask();
    assert!(
        refused.contains("User \\\"system:serviceaccount:default:default\\\" cannot get resource"),
        "{refused}"
    );
    bed.kubectl("create rolebinding debug --clusterrole=view --serviceaccount=default:default");
    let answer = ask();
    assert!(answer.contains("\"name\":\"debug\"") || answer.contains("\"name\": \"debug\""), "{answer}");
    // Without a pod behind it, the service refuses at once.
    bed.kubectl("delete pod vote");
    bed.wait("refusal", MINUTE, || {
        let run = bed.run(&["curl", "-sS", "-m", "5", &format!("http://{node}:31000/")]);
        run.status.code() == Some(7)
    });
    bed.kubectl("delete svc vote-service");
    bed.ok(&[testbed::MINIK, "delete"]);
}

#[test]
fn images_are_loaded_listed_saved_and_removed() {
    let bed = Testbed::up("images");
    let minik = |args: &[&str]| bed.ok(&[&[testbed::MINIK, "image"], args].concat());
    bed.ok(&[testbed::MINIK, "start", "--registry-mirror", &bed.mirror()]);
    minik(&["pull", "torture", "alpine"]);
    let listed = minik(&["ls"]);
    assert!(listed.contains("docker.io/library/alpine:latest"), "{listed}");
    minik(&["save", "torture", "-o", "/root/.kube/torture.tar"]);
    minik(&["rm", "torture"]);
    assert!(!minik(&["ls"]).contains("torture"));
    minik(&["load", "/root/.kube/torture.tar"]);
    bed.kubectl("run torture --image=torture --image-pull-policy=Never");
    bed.wait_ready("torture");
    let look = "cd /data; ls -A . emptied kept; ls -l one setuid; [ one -ef two ] && echo same";
    let seen = bed.ok(&["kubectl", "exec", "torture", "--", "sh", "-c", look]);
    assert!(!seen.contains("gone") && !seen.contains("hidden") && seen.contains("above"), "{seen}");
    assert!(seen.contains("same") && seen.contains("-rwsr-xr-x"), "{seen}");
    let missing = bed.run(&[testbed::MINIK, "image", "pull", "nginx:no-such-tag"]);
    assert!(!missing.status.success() && missing.stderr.contains("404"), "{missing:?}");
    let private = bed.run(&[testbed::MINIK, "image", "pull", "private/app"]);
    assert!(!private.status.success() && private.stderr.contains("401"), "{private:?}");
    bed.ok(&[testbed::MINIK, "delete"]);
}

#[test]
fn a_failing_pod_shows_why() {
    let bed = Testbed::up("failing");
    bed.start();
    bed.kubectl("run crash --image=busybox -- sh -c");
    bed.ok(&["kubectl", "run", "ends", "--image=busybox", "--restart=Never", "--", "sh", "-c", "echo done"]);
    bed.kubectl("run nowhere --image=busybox:no-such-tag");
    bed.kubectl("run nothing --image=busybox --command -- /no/such/program");
    let column = |pod: &str| bed.kubectl(&format!("get pod {pod} --no-headers"));
    bed.wait("completion", MINUTE, || column("ends").contains("Completed"));
    assert_eq!(bed.kubectl("logs ends").trim(), "done");
    bed.wait("a crash loop", MINUTE, || column("crash").contains("CrashLoopBackOff"));
    bed.wait("a failed pull", MINUTE, || column("nowhere").contains("ImagePull"));
    let described = bed.kubectl("describe pod nowhere");
    assert!(described.contains("manifest unknown") || described.contains("404"), "{described}");
    bed.wait("a failed start", MINUTE, || {
        bed.kubectl("describe pod nothing").contains("no such file or directory")
    });
    bed.ok(&[testbed::MINIK, "delete"]);
}

#[test]
fn typed_commands_send_protobuf() {
    let bed = Testbed::up("typed");
    bed.start();
    bed.kubectl("create namespace blue");
    bed.kubectl("create configmap settings -n blue --from-literal=colour=blue");
    bed.kubectl("create secret generic password -n blue --from-literal=password=hunter2");
    bed.kubectl("create serviceaccount robot -n blue");
    bed.kubectl("create service nodeport web -n blue --tcp=80:8080 --node-port=31234");
    assert_eq!(bed.kubectl("get cm settings -n blue -o jsonpath={.data}"), r#"{"colour":"blue"}"#);
    assert_eq!(bed.kubectl("get secret password -n blue -o jsonpath={.data.password}"), "aHVudGVyMg==");
    let ports = bed.kubectl("get service web -n blue -o jsonpath={.spec.ports}");
    assert_eq!(
        ports,
        r#"[{"name":"80-8080","nodePort":31234,"port":80,"protocol":"TCP","targetPort":8080}]"#
    );
    let token = bed.kubectl("create token robot -n blue --duration=1h");
    let whoami = bed.ok(&[
        "bash",
        "-c",
        "kubectl config view --minify --raw | sed /client-/d > /root/.kube/nobody && \
         kubectl --kubeconfig /root/.kube/nobody auth whoami --token=$0",
        token.trim(),
    ]);
    assert!(whoami.contains("system:serviceaccount:blue:robot"), "{whoami}");
    assert_eq!(bed.kubectl("auth can-i create pods").trim(), "yes");
    let robot = "--as=system:serviceaccount:blue:robot";
    let refused = bed.kubectl_all(&format!("get pods -n blue {robot}"));
    assert!(
        refused.contains(
            "pods is forbidden: User \"system:serviceaccount:blue:robot\" cannot list resource \"pods\" in API group \"\" \
             in the namespace \"blue\""
        ),
        "{refused}"
    );
    bed.kubectl("create role reader -n blue --verb=get,list --resource=pods");
    bed.kubectl("create rolebinding reader -n blue --role=reader --serviceaccount=blue:robot");
    assert_eq!(bed.kubectl(&format!("auth can-i list pods -n blue {robot}")).trim(), "yes");
    let may = bed.kubectl(&format!("auth can-i --list -n blue {robot}"));
    assert!(may.lines().any(|line| line.starts_with("pods ") && line.contains("[get list]")), "{may}");
    bed.kubectl("create deployment web --image=nginx -n blue");
    assert_eq!(bed.kubectl("get deployment web -n blue -o jsonpath={.spec.strategy.type}"), "RollingUpdate");
    bed.kubectl("delete namespace blue");
    bed.ok(&[testbed::MINIK, "delete"]);
}

/// An administrator's exercise: a user with a key of their own, whose certificate the cluster signs.
#[test]
fn a_user_logs_in_with_a_signed_certificate() {
    let bed = Testbed::up("user");
    bed.start();
    let shell = |line: &str| bed.ok(&["bash", "-c", &format!("cd /root/.kube && {line}")]);
    shell(
        "openssl req -new -newkey rsa:2048 -nodes -keyout jane.key -out jane.csr -subj /O=devs/O=night/CN=jane",
    );
    shell(
        "kubectl create -f - <<END
{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {name: jane},
 spec: {request: $(base64 -w0 jane.csr), signerName: kubernetes.io/kube-apiserver-client, expirationSeconds: 86400,
        usages: [client auth]}}
END",
    );
    assert!(bed.kubectl("get csr jane").contains("Pending"));
    bed.kubectl("certificate approve jane");
    bed.wait("the certificate", MINUTE, || bed.kubectl("get csr jane").contains("Approved,Issued"));
    shell("kubectl get csr jane -o jsonpath={.status.certificate} | base64 -d > jane.crt");
    shell(
        "kubectl config view --minify --raw | sed /client-/d > jane && \
         kubectl --kubeconfig jane config set-credentials jane --client-key jane.key --client-certificate jane.crt && \
         kubectl --kubeconfig jane config set-context --current --user jane",
    );
    let jane = |command: &str| {
        let run = bed.run(&["bash", "-c", &format!("cd /root/.kube && kubectl --kubeconfig jane {command}")]);
        format!("{}{}", run.stdout, run.stderr)
    };
    let who = jane("auth whoami");
    assert!(who.contains("jane") && who.contains("[devs night system:authenticated]"), "{who}");
    let refused = jane("get pods");
    assert!(refused.contains("User \"jane\" cannot list resource \"pods\""), "{refused}");
    bed.kubectl("create rolebinding devs --clusterrole=edit --group=night");
    let made = jane("create configmap mine");
    assert!(made.contains("configmap/mine created"), "{made}");
    let refused = jane("create rolebinding more --clusterrole=cluster-admin --user=jane");
    assert!(refused.contains("cannot create resource \"rolebindings\""), "{refused}");
    bed.ok(&[testbed::MINIK, "delete"]);
}

/// The image that answers at a service's node port, and the pod that it comes from.
fn voted(bed: &Testbed) -> String {
    bed.run(&["curl", "-sS", "-m", "5", "http://127.0.0.1:31000/"]).stdout
}

#[test]
fn a_deployment_is_rolled_forth_and_back() {
    let bed = Testbed::up("deployments");
    bed.start();
    let created = bed.kubectl_all("create -f tests/manifests/vote-deployment.yaml --record=true");
    assert!(created.contains("deployment.apps/vote-deploy created"), "{created}");
    let rolled = "deployment \"vote-deploy\" successfully rolled out";
    let done = || assert!(bed.kubectl("rollout status deploy/vote-deploy --timeout=90s").contains(rolled));
    done();
    let table = bed.kubectl("get deploy");
    assert!(
        table.starts_with(
            "NAME          READY   UP-TO-DATE   AVAILABLE   AGE\nvote-deploy   3/3     3            3"
        ),
        "{table}"
    );
    let first = bed.kubectl("get rs -o name").trim().trim_start_matches("replicaset.apps/").to_owned();
    assert!(first.starts_with("vote-deploy-"), "{first}");
    let table = bed.kubectl("get rs");
    assert!(table.starts_with("NAME ") && table.contains(" 3         3         3  "), "{table}");
    let pods = bed.kubectl("get pod");
    assert_eq!((pods.matches(&first).count(), pods.matches("Running").count()), (3, 3), "{pods}");
    bed.kubectl("create -f tests/manifests/vote-service.yaml");
    bed.wait("page", MINUTE, || voted(&bed).contains("version latest"));

    // While pods are replaced, somebody asks all the time.
    let ask = "touch /root/.kube/asking; while [ -e /root/.kube/asking ]; do \
               curl -sS -m 20 -o /dev/null http://127.0.0.1:31000/ && echo answered; done";
    let asked = std::thread::scope(|scope| {
        let asking = scope.spawn(|| bed.run(&["bash", "-c", ask]));
        for version in ["indent", "movies"] {
            let image = format!("vote=instavote/vote:{version}");
            bed.kubectl_all(&format!("set image deployment/vote-deploy {image} --record=true"));
            done();
            bed.wait("page", MINUTE, || voted(&bed).contains(&format!("version {version}")));
        }
        bed.ok(&["rm", "/root/.kube/asking"]);
        asking.join().unwrap()
    });
    assert!(asked.stdout.contains("answered") && asked.stderr.is_empty(), "{}", asked.stderr);

    let described = bed.kubectl("describe deploy/vote-deploy");
    let newest = described.lines().find(|line| line.starts_with("NewReplicaSet:")).unwrap();
    assert!(newest.contains("vote-deploy-") && newest.contains("(3/3 replicas created)"), "{described}");
    bed.wait("events", MINUTE, || {
        let described = bed.kubectl("describe deploy/vote-deploy");
        described.contains("ScalingReplicaSet")
            && described.contains(&format!("Scaled up replica set {first} from 0 to 3"))
            && described.contains(&format!("Scaled down replica set {first} from 1 to 0"))
    });
    assert!(described.contains("NewReplicaSetAvailable") && described.contains("MinimumReplicasAvailable"));
    let history = bed.kubectl("rollout history deploy/vote-deploy");
    let causes: Vec<&str> = history.lines().filter(|line| line.contains("kubectl")).collect();
    assert_eq!(causes.len(), 3, "{history}");
    assert!(causes[0].starts_with("1 ") && causes[0].contains("kubectl create"), "{history}");
    assert!(causes[1].starts_with("2 ") && causes[1].contains("vote=instavote/vote:indent"), "{history}");
    let second = bed.kubectl("rollout history deploy/vote-deploy --revision=2");
    assert!(second.contains("instavote/vote:indent"), "{second}");
    let sets = bed.kubectl("get rs");
    assert_eq!(sets.matches(" 0         0         0 ").count(), 2, "{sets}");

    bed.kubectl("rollout undo deployment/vote-deploy");
    done();
    bed.wait("page", MINUTE, || voted(&bed).contains("version indent"));
    bed.kubectl("rollout undo deployment/vote-deploy --to-revision=1");
    done();
    bed.wait("page", MINUTE, || voted(&bed).contains("version latest"));
    // The first replica set has its pods again, under a new number.
    assert!(bed.kubectl("get pod").contains(&first));
    let history = bed.kubectl("rollout history deploy/vote-deploy");
    let numbers: Vec<&str> =
        history.lines().filter(|line| line.contains("kubectl")).map(|line| &line[..1]).collect();
    assert_eq!(numbers, ["3", "4", "5"], "{history}");

    bed.kubectl("scale deployment/vote-deploy --replicas=5");
    done();
    assert!(bed.kubectl("get deploy").contains(" 5/5 "));
    bed.kubectl("scale deployment/vote-deploy --replicas=2");
    bed.wait("two pods", MINUTE, || bed.kubectl("get pod").matches("vote-deploy-").count() == 2);
    let pod = bed.kubectl("get pod -o name").lines().next().unwrap().to_owned();
    bed.kubectl(&format!("delete {pod}"));
    bed.wait("another pod", MINUTE, || {
        bed.kubectl("get deploy").contains(" 2/2 ") && bed.kubectl("get pod").matches(" 1/1 ").count() == 2
    });
    bed.kubectl("rollout restart deployment/vote-deploy");
    done();
    bed.kubectl("rollout pause deployment/vote-deploy");
    bed.kubectl("set image deployment/vote-deploy vote=instavote/vote:movies");
    bed.kubectl("rollout resume deployment/vote-deploy");
    done();

    let recreate = r#"{"spec":{"strategy":{"type":"Recreate","rollingUpdate":null}}}"#;
    bed.ok(&["kubectl", "patch", "deploy/vote-deploy", "-p", recreate]);
    bed.kubectl("set image deployment/vote-deploy vote=instavote/vote:indent");
    done();
    bed.wait("page", MINUTE, || voted(&bed).contains("version indent"));
    bed.kubectl("delete deploy/vote-deploy");
    bed.wait("end of the pods", MINUTE, || bed.kubectl_all("get pods,rs").contains("No resources found"));
    bed.ok(&[testbed::MINIK, "delete"]);
}

/// A Deployment of this version of the vote application, in a colour.
fn coloured(colour: &str, version: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {colour}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: vote, colour: {colour}}}}}
  template:
    metadata: {{labels: {{app: vote, colour: {colour}}}}}
    spec: {{containers: [{{name: vote, image: 'instavote/vote:{version}'}}]}}
"
    )
}

#[test]
fn releases_by_colour_and_daemons_by_node() {
    let bed = Testbed::up("releases");
    bed.start();
    // Blue/green: the service says which of two versions is shown.
    bed.apply(&coloured("blue", "latest", 2));
    bed.apply(&coloured("green", "indent", 1));
    bed.kubectl("create -f tests/manifests/vote-service.yaml");
    let select = |selector: &str| {
        let patch = format!(r#"[{{"op":"replace","path":"/spec/selector","value":{selector}}}]"#);
        bed.ok(&["kubectl", "patch", "svc", "vote-service", "--type=json", "-p", &patch]);
    };
    for colour in ["blue", "green"] {
        bed.kubectl(&format!("rollout status deploy/{colour} --timeout=90s"));
    }
    for (colour, version) in [("blue", "latest"), ("green", "indent"), ("blue", "latest")] {
        select(&format!(r#"{{"app":"vote","colour":"{colour}"}}"#));
        bed.wait("page", MINUTE, || {
            let pages: Vec<String> = (0..6).map(|_| voted(&bed)).collect();
            pages.iter().all(|page| page.contains(&format!("version {version}")))
        });
    }
    // Canary: some requests meet the new version.
    select(r#"{"app":"vote"}"#);
    bed.wait("both versions", MINUTE, || {
        let pages: Vec<String> = (0..20).map(|_| voted(&bed)).collect();
        ["latest", "indent"].iter().all(|v| pages.iter().any(|page| page.contains(&format!("version {v}"))))
    });

    bed.apply(
        "apiVersion: apps/v1
kind: DaemonSet
metadata: {name: logs, annotations: {kubernetes.io/change-cause: first}}
spec:
  selector: {matchLabels: {app: logs}}
  template:
    metadata: {labels: {app: logs}}
    spec: {terminationGracePeriodSeconds: 1, containers: [{name: c, image: 'instavote/vote:latest'}]}
",
    );
    let done = || {
        let told = bed.kubectl("rollout status ds/logs --timeout=90s");
        assert!(told.contains("daemon set \"logs\" successfully rolled out"), "{told}");
    };
    done();
    let table = bed.kubectl("get ds");
    assert!(table.contains("logs   1         1         1       1            1           <none>"), "{table}");
    bed.kubectl("annotate ds/logs kubernetes.io/change-cause=second --overwrite");
    bed.kubectl("set image ds/logs c=instavote/vote:indent");
    done();
    let history = bed.kubectl("rollout history ds/logs");
    let lines: Vec<&str> = history.lines().filter(|line| line.starts_with(['1', '2'])).collect();
    assert!(lines.len() == 2 && lines[0].ends_with("first") && lines[1].ends_with("second"), "{history}");
    bed.kubectl("rollout undo ds/logs --to-revision=1");
    done();
    let images = bed.kubectl("get pods -l app=logs -o jsonpath={.items[*].spec.containers[0].image}");
    assert_eq!(images.trim(), "instavote/vote:latest");
    let history = bed.kubectl("rollout history ds/logs");
    assert!(history.lines().any(|line| line.starts_with("3 ") && line.ends_with("first")), "{history}");
    bed.kubectl("delete ds/logs deploy/blue deploy/green");
    bed.wait("end of the pods", MINUTE, || bed.kubectl_all("get pods").contains("No resources found"));
    bed.ok(&[testbed::MINIK, "delete"]);
}
