//! Clients of every kind, unchanged, against a whole cluster: kubectl of several years, helm,
//! what Python programs use, and an operator in a pod.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testbed::Testbed;

/// The oldest and the newest that are at hand, and some between.
const KUBECTLS: [(&str, &str); 5] = [
    ("kubectl-1.27", "v1.27."),
    ("kubectl-1.29", "v1.29."),
    ("kubectl-1.30", "v1.30."),
    ("kubectl-1.33", "v1.33."),
    ("kubectl", "v1.37."),
];
const CHART: &str = "tests/clients/chart";

const OBJECTS: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: nginx, image: nginx, ports: [{containerPort: 80, name: http}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {color: green}
"#;

/// An ingress of the version that a course of 2019 prints.
const OLD: &str = r"
apiVersion: extensions/v1beta1
kind: Ingress
metadata: {name: old}
spec: {rules: [{http: {paths: [{backend: {serviceName: old, servicePort: 80}}]}}]}
";

#[test]
fn kubectl_of_several_years() {
    let bed = Testbed::up("kubectls");
    bed.start();
    for (file, text) in [("objects", OBJECTS), ("old", OLD)] {
        bed.ok(&["bash", "-c", &format!("cat > /root/.kube/{file}.yaml <<'END'{text}END")]);
    }
    for words in
        ["get nodes -o wide", "run old --image=nginx", "wait --for=condition=Ready pod/old", "delete pod old"]
    {
        let args: Vec<&str> = std::iter::once("kubectl-1.27").chain(words.split(' ')).collect();
        bed.ok(&args);
    }
    for (client, version) in KUBECTLS {
        let run = |words: &str| {
            let args: Vec<&str> = std::iter::once(client).chain(words.split(' ')).collect();
            bed.run(&args)
        };
        let ok = |words: &str| {
            let ran = run(words);
            assert!(ran.status.success(), "{client} {words}: {}{}", ran.stdout, ran.stderr);
            ran.stdout
        };
        assert!(ok("version --client").contains(version), "{client}");
        let file = "-f /root/.kube/objects.yaml";
        // By the client and by the server, over each other and back.
        assert!(ok(&format!("apply {file}")).contains("deployment.apps/web created"), "{client}");
        assert!(ok(&format!("apply {file}")).contains("deployment.apps/web unchanged"), "{client}");
        assert!(ok(&format!("apply --server-side {file}")).contains("web serverside-applied"), "{client}");
        ok("label deployment web tier=front");
        ok("annotate configmap web note=seen");
        ok("patch configmap web -p {\"data\":{\"size\":\"1\"}}");
        assert_eq!(ok("get configmap web -o jsonpath={.data}"), r#"{"color":"green","size":"1"}"#);
        let changed = "sed s/green/red/ /root/.kube/objects.yaml > /root/.kube/changed.yaml";
        bed.ok(&["bash", "-c", changed]);
        let diff = run("diff --server-side -f /root/.kube/changed.yaml");
        assert_eq!(diff.status.code(), Some(1), "{client}: {diff:?}");
        assert!(diff.stdout.contains("-  color: green") && diff.stdout.contains("+  color: red"), "{diff:?}");
        let conflict = run("apply --server-side --field-manager=other -f /root/.kube/changed.yaml");
        assert!(!conflict.status.success(), "{client}: {conflict:?}");
        assert!(
            conflict.stderr.contains("Apply failed with 1 conflict: conflict with \"kubectl\""),
            "{conflict:?}"
        );
        ok("apply --server-side --field-manager=other --force-conflicts -f /root/.kube/changed.yaml");
        assert_eq!(ok("get configmap web -o jsonpath={.data.color}"), "red");
        let edit = format!("KUBE_EDITOR='sed -i s/red/blue/' {client} edit configmap web");
        assert!(bed.ok(&["bash", "-c", &edit]).contains("configmap/web edited"), "{client}");
        assert!(ok(&format!("replace {file}")).contains("configmap/web replaced"), "{client}");
        ok("scale deployment web --replicas=0");
        assert!(ok("explain deployment --recursive").contains("terminationGracePeriodSeconds"), "{client}");
        assert!(ok("explain pod.spec.containers.livenessProbe.grpc.port").contains("<integer>"), "{client}");
        assert!(ok("api-resources --categories=all").contains("deployments"), "{client}");
        assert_eq!(ok("auth can-i create pods").trim(), "yes");
        let denied = run("auth can-i create pods --as=nobody");
        assert_eq!((denied.status.code(), denied.stdout.trim()), (Some(1), "no"), "{client}: {denied:?}");
        ok("create secret generic s --from-literal=a=b");
        ok("create namespace more");
        ok("create quota q --hard=pods=1 -n more");
        ok("run once --image=nginx --dry-run=server -o yaml");
        assert!(ok("get deployments -o wide").contains("nginx"), "{client}");
        assert!(ok("describe deployment web").contains("app=web"), "{client}");
        assert!(ok("get --raw /readyz").contains("ok"), "{client}");
        ok(&format!("delete {file}"));
        // What the client finds by no document of today.
        let old = run("apply -f /root/.kube/old.yaml");
        assert!(old.stdout.contains("ingress.extensions/old created"), "{client}: {old:?}");
        assert!(old.stderr.contains("extensions/v1beta1 Ingress is deprecated"), "{client}: {old:?}");
        assert_eq!(ok("get all,ingresses -o name").matches("/old").count(), 1, "{client}");
        ok("delete -f /root/.kube/old.yaml");
        ok("delete secret s");
        ok("delete namespace more --timeout=30s");
    }
    bed.ok(&[testbed::MINIK, "delete"]);
}

#[test]
fn a_chart_is_installed_upgraded_rolled_back_and_gone() {
    let bed = Testbed::up("helm");
    bed.start();
    let helm = |words: &str| {
        let args: Vec<&str> = std::iter::once("helm").chain(words.split(' ')).collect();
        bed.ok(&args)
    };
    let message = || bed.kubectl("get configmap shop -o jsonpath={.data.message}");
    let size = || bed.kubectl("get widget shop -o jsonpath={.spec.size}/{.spec.color}");
    helm(&format!("install shop {CHART} --set size=1"));
    assert_eq!((message().as_str(), size().as_str()), ("first", "1/blue"));
    assert_eq!(bed.kubectl("get pod shop-before -o jsonpath={.status.phase}"), "Succeeded");
    assert_eq!(bed.kubectl("logs shop-before"), "before first\n");
    assert!(bed.kubectl("get widgets").lines().next().unwrap().contains("SIZE   COLOR"));
    assert!(helm("test shop").contains("Phase:          Succeeded"));
    helm(&format!("upgrade shop {CHART} --set message=second --set size=2"));
    assert_eq!((message().as_str(), size().as_str()), ("second", "2/blue"));
    let refused = bed.run(&["helm", "upgrade", "shop", CHART, "--set", "size=12"]);
    assert!(refused.stderr.contains("spec.size in body should be less than or equal to 9"), "{refused:?}");
    helm("rollback shop 1");
    assert_eq!((message().as_str(), size().as_str()), ("first", "1/blue"));
    let history = helm("history shop");
    assert!(history.contains("Rollback to 1") && history.contains("superseded"), "{history}");
    assert!(helm("get manifest shop").contains("kind: Widget"));
    assert!(helm("list").contains("deployed"));
    helm("uninstall shop");
    assert_eq!(
        bed.kubectl("get deployments,services,widgets -l app.kubernetes.io/managed-by=Helm -o name"),
        ""
    );
    assert!(!bed.run(&["kubectl", "get", "configmap", "shop"]).status.success());
    // What its hook made stays, as helm leaves it; so does the kind.
    assert_eq!(bed.kubectl("get configmap shop-gone -o jsonpath={.data.message}"), "first");
    bed.kubectl("get crd widgets.shop.example.com");
    bed.ok(&[testbed::MINIK, "delete"]);
}

#[test]
fn programs_in_python() {
    let bed = Testbed::up("pythons");
    bed.start();
    for (program, end) in
        [("typed", "typed: good\n"), ("dynamic", "dynamic: good\n"), ("easy", "kr8s: good\n")]
    {
        let path = format!("tests/clients/{program}.py");
        assert_eq!(bed.ok(&["python3", &path]), end);
    }
    bed.ok(&[testbed::MINIK, "delete"]);
}

#[test]
fn a_client_generated_from_the_servers_own_documents() {
    let bed = Testbed::up("generated");
    bed.start();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display().to_string();
    assert_eq!(bed.ok(&["python3", "tests/clients/generated.py", &folder]), "generated: good\n");
    bed.ok(&[testbed::MINIK, "delete"]);
}

/// Builds the operator, whose packages are no part of minik's own; answers where the program is.
fn operator() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("operator");
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/operator/Cargo.toml");
    // Whole in itself, so that it runs in any image.
    let machine = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--target", &machine, "--manifest-path"])
        .arg(package)
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .status()
        .unwrap();
    assert!(built.success(), "the operator's build");
    target.join(machine).join("debug/operator")
}

#[test]
fn an_operator_in_a_pod_keeps_what_it_owns() {
    let program = operator();
    let bed = Testbed::up("operator");
    bed.start();
    let folder = program.parent().unwrap().display();
    let manifest = include_str!("clients/operator.yaml").replace("FOLDER", &folder.to_string());
    bed.apply(&manifest);
    bed.wait_ready("operator");
    let long = Duration::from_secs(30);
    let seen = |words: &str, wanted: &str| {
        bed.wait(&format!("{wanted} of {words}"), long, || {
            let args: Vec<&str> = std::iter::once("kubectl").chain(words.split(' ')).collect();
            bed.run(&args).stdout.trim() == wanted
        });
    };
    bed.kubectl("wait --for=create crd/echoes.example.com --timeout=60s");
    bed.kubectl("wait --for=condition=Established crd/echoes.example.com --timeout=30s");
    let echo = |text: &str| {
        format!("{{apiVersion: example.com/v1, kind: Echo, metadata: {{name: one}}, spec: {{text: {text}}}}}")
    };
    bed.apply(&echo("hello"));
    seen("get configmap one -o jsonpath={.data.text}", "hello");
    seen("get echo one -o jsonpath={.status.said}", "hello");
    assert_eq!(bed.kubectl("get echo one -o jsonpath={.metadata.finalizers[*]}"), "example.com/echo");

    // Another manager's field stays when the operator applies again.
    bed.kubectl(r#"patch configmap one --type=merge -p {"data":{"other":"kept"}}"#);
    bed.apply(&echo("again"));
    seen("get configmap one -o jsonpath={.data}", r#"{"other":"kept","text":"again"}"#);
    let managers = bed.kubectl("get configmap one -o jsonpath={.metadata.managedFields[*].manager}");
    assert_eq!(managers, "echo-operator kubectl-patch");
    // The operator's own field comes back when somebody else changes it.
    bed.kubectl(r#"patch configmap one --type=merge -p {"data":{"text":"theirs"}}"#);
    seen("get configmap one -o jsonpath={.data.text}", "again");

    // What is owned is made again; what is deleted is cleaned up first, and what it owned goes with it.
    let before = bed.kubectl("get configmap one -o jsonpath={.metadata.uid}");
    bed.kubectl("delete configmap one");
    bed.kubectl("wait --for=create configmap/one --timeout=30s");
    assert_ne!(bed.kubectl("get configmap one -o jsonpath={.metadata.uid}"), before);
    bed.kubectl("delete echo one --timeout=30s");
    bed.kubectl("wait --for=delete configmap/one --timeout=30s");
    let said = bed.kubectl("logs operator");
    assert!(said.contains("cleaned up one"), "{said}");
    bed.ok(&[testbed::MINIK, "delete"]);
}
