//! What the course prints, command by command and as it prints them, with its manifests as they are.

use super::testbed::{MINIK, Testbed};
use super::{MINUTE, forwarded_page};

/// The host, with the course's folder of manifests as working directory.
fn typed(bed: &Testbed, line: &str) -> String {
    bed.ok(&["bash", "-c", &format!("cd tests/manifests && {line}")])
}

/// Types a line until what it prints shows something.
fn shows(bed: &Testbed, line: &str, wanted: &str) {
    let script = format!("cd tests/manifests && {line}");
    bed.wait(&format!("{line} to show {wanted:?}"), MINUTE, || {
        bed.run(&["bash", "-c", &script]).stdout.contains(wanted)
    });
}

#[test]
fn the_first_pods() {
    let bed = Testbed::up("printed-pods");
    bed.start();
    assert!(typed(&bed, "kubectl get nodes").contains(" Ready "));
    assert_eq!(typed(&bed, "kubectl run --image=nginx:1.12.2 www").trim(), "pod/www created");
    bed.wait_ready("www");
    let all = typed(&bed, "kubectl get pods,deploy,svc");
    assert!(all.contains("pod/www   1/1     Running   0") && all.contains("service/kubernetes"), "{all}");
    assert!(typed(&bed, "kubectl exec www -- nginx -v 2>&1").contains("nginx version"));
    let mut shell = bed.terminal(&["kubectl", "exec", "-t", "-i", "www", "--", "/bin/bash"], 24, 80);
    shell.wait_for("#");
    shell.type_line("exit $((6*7))");
    assert_eq!(shell.end(), Some(42));
    for reason in ["Scheduled", "Pulled", "Created", "Started"] {
        shows(&bed, "kubectl describe po/www", &format!("  Normal  {reason} "));
    }
    assert!(forwarded_page(&bed, "www", 8080).contains("Welcome to nginx!"));
    // Where log shippers look.
    shows(&bed, "cat /var/log/containers/www_default_www-*.log", "\"GET / HTTP/1.1\" 200");

    // A container that dies is restarted.
    typed(&bed, "kubectl exec www -- nginx -s quit");
    bed.wait("the restart", MINUTE, || {
        bed.kubectl("get pod www -o jsonpath={.status.containerStatuses[0].restartCount}") == "1"
    });
    bed.wait_ready("www");
    assert_eq!(typed(&bed, "kubectl delete pod www").trim(), "pod \"www\" deleted from default namespace");

    assert_eq!(typed(&bed, "kubectl create -f www-pod.yaml").trim(), "pod/www created");
    bed.wait_ready("www");
    typed(&bed, "kubectl delete -f www-pod.yaml");
    // A pod for another node's control plane, of an image that is no longer there: taken as it is, and told why it waits.
    typed(&bed, "kubectl create -f static-kube-proxy.yaml");
    shows(&bed, "kubectl get pod kube-proxy -n kube-system", "ImagePull");
    typed(&bed, "kubectl delete -f static-kube-proxy.yaml");
    bed.ok(&[MINIK, "delete"]);
}

#[test]
fn a_service_with_a_cluster_address() {
    let bed = Testbed::up("printed-service");
    bed.start();
    typed(&bed, "kubectl create -f vote-pod.yaml");
    typed(&bed, "kubectl create -f vote-service-clusterIP.yaml");
    typed(&bed, "kubectl create -f pod-debug.yaml");
    bed.wait_ready("vote");
    bed.wait_ready("debug");
    for name in ["vote-service", "vote-service.default"] {
        shows(
            &bed,
            &format!("kubectl exec debug -- curl -sS -m 20 http://{name}"),
            "version latest, pod vote",
        );
    }
    let address = bed.kubectl("get pod vote -o jsonpath={.status.podIP}");
    shows(&bed, "kubectl describe svc vote-service", &format!("Endpoints:                {address}:80\n"));
    assert_eq!(
        typed(&bed, "kubectl delete svc vote-service").trim(),
        "service \"vote-service\" deleted from default namespace"
    );
    bed.ok(&[MINIK, "delete"]);
}

/// What `run` did when the course was written, which minik's own kubectl still takes.
#[test]
fn a_deployment_by_the_old_run() {
    let bed = Testbed::up("printed-run");
    bed.start();
    let run = "run vote-dep --image=instavote/vote --replicas=2";
    let made = bed.run(&["bash", "-c", &format!("{MINIK} kubectl {run}")]);
    assert_eq!(
        (made.status.code(), made.stdout.trim()),
        (Some(0), "deployment.apps/vote-dep created"),
        "{made:?}"
    );
    assert!(made.stderr.contains("kubectl create deployment vote-dep"), "{made:?}");
    typed(&bed, "kubectl rollout status deploy/vote-dep --timeout=90s");
    let table = typed(&bed, "kubectl get deploy");
    assert!(table.contains("vote-dep   2/2     2            2"), "{table}");
    assert!(typed(&bed, "kubectl describe deploy/vote-dep").contains("NewReplicaSet:   vote-dep-"));
    // A pod that goes is replaced.
    let first = bed.kubectl("get pods -l run=vote-dep -o jsonpath={.items[0].metadata.name}");
    bed.kubectl(&format!("delete pod {first} --wait=false"));
    bed.wait("another pod", MINUTE, || {
        let pods = bed.kubectl("get pods -l run=vote-dep --no-headers");
        !pods.contains(&first) && pods.matches("Running").count() == 2
    });
    // Arguments and exit codes are kubectl's.
    let unknown = bed.run(&[MINIK, "kubectl", "get", "nosuchthings"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(
        unknown.stderr.contains("the server doesn't have a resource type \"nosuchthings\""),
        "{unknown:?}"
    );
    let refused = bed.run(&["bash", "-c", &format!("{MINIK} kubectl {run}")]);
    assert!(refused.status.code() == Some(1) && refused.stderr.contains("already exists"), "{refused:?}");
    bed.ok(&[MINIK, "delete"]);
}

/// The explicit rules of the scheduler that the course names.
#[test]
fn a_node_is_chosen_by_labels_and_affinity() {
    let bed = Testbed::up("printed-rules");
    bed.start();
    let pod = |name: &str, rules: &str| {
        bed.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {name}}}}}, spec: {{{rules}, \
             containers: [{{name: c, image: busybox, command: [sleep, infinity]}}]}}}}"
        ));
    };
    let waits = |name: &str, why: &str| {
        shows(&bed, &format!("kubectl describe pod {name}"), &format!("0/1 nodes are available: {why}"));
        assert_eq!(bed.kubectl(&format!("get pod {name} -o jsonpath={{.status.phase}}")), "Pending");
    };
    let unmatched = "1 node(s) didn't match Pod's node affinity/selector.";
    pod("fast", "nodeSelector: {disktype: ssd}");
    waits("fast", unmatched);
    let require = |what: &str| {
        format!(
            "affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [\
                 {{matchExpressions: [{{key: disktype, operator: In, values: [{what}]}}]}}]}}}}}}"
        )
    };
    pod("slow", &require("tape, disk"));
    waits("slow", unmatched);
    pod("either", &require("tape, ssd"));
    bed.kubectl("label node --all disktype=ssd");
    bed.wait_ready("fast");
    bed.wait_ready("either");
    waits("slow", unmatched);
    // Beside a pod, and never beside one.
    let beside = |kind: &str, app: &str| {
        format!(
            "affinity: {{{kind}: {{requiredDuringSchedulingIgnoredDuringExecution: [{{topologyKey: \
                 kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: {app}}}}}}}]}}}}"
        )
    };
    pod("near", &beside("podAffinity", "fast"));
    bed.wait_ready("near");
    pod("alone", &beside("podAntiAffinity", "fast"));
    waits("alone", "1 node(s) didn't match pod anti-affinity rules.");
    bed.kubectl("delete pod fast");
    bed.wait_ready("alone");
    // A taint keeps pods away that do not tolerate it, and drives out those that run.
    bed.kubectl("taint nodes --all team=blue:NoExecute");
    bed.kubectl("wait --for=delete pod/either pod/near pod/alone --timeout=90s");
    pod("late", "terminationGracePeriodSeconds: 1");
    waits("late", "1 node(s) had untolerated taint(s).");
    bed.kubectl("taint nodes --all team-");
    bed.wait_ready("late");
    bed.ok(&[MINIK, "delete"]);
}

/// Without kubectl on the machine, minik brings the one that belongs to it, if its sum is right.
#[test]
fn kubectl_is_fetched() {
    let bed = Testbed::up("printed-fetch");
    let before = bed.leftovers();
    bed.start();
    let fetch = format!(
        "set -e
         dir=$(mktemp -d); trap 'kill $server; rm -rf $dir' EXIT
         release=$dir/v1.37.0/bin/linux/$(dpkg --print-architecture); mkdir -p $release
         ln -s $(command -v kubectl) $release/kubectl
         echo wrong > $release/kubectl.sha256
         python3 -m http.server --bind 127.0.0.1 --directory $dir 8099 >/dev/null 2>&1 & server=$!
         until curl -sSo /dev/null http://127.0.0.1:8099/ 2>/dev/null; do kill -0 $server; done
         export MINIK_BINARY_MIRROR=http://127.0.0.1:8099
         if PATH=$dir {MINIK} kubectl get nodes 2>$dir/wrong; then exit 4; fi
         grep 'its SHA-256 is' $dir/wrong
         sha256sum <$release/kubectl | cut -d' ' -f1 >$release/kubectl.sha256
         PATH=$dir {MINIK} kubectl get nodes -o name
         rm -r $dir/v1.37.0
         PATH=$dir {MINIK} kubectl version --client"
    );
    let told = bed.ok(&["bash", "-c", &fetch]);
    assert!(told.contains("node/") && told.contains("Client Version: v1.37"), "{told}");
    bed.ok(&[MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
}
