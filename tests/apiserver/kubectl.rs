//! Stock kubectl's ways to write: apply on either side, diff, edit, replace, label.

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use minik::apiserver::pki::LEAF_LIFETIME;

use super::server::Fixture;

/// kubectl with the administrator's certificate.
pub struct Kubectl {
    pub fixture: Fixture,
    home: tempfile::TempDir,
}

impl Kubectl {
    pub async fn start() -> Kubectl {
        Kubectl::of(Fixture::start().await)
    }

    /// For this server.
    pub fn of(fixture: Fixture) -> Kubectl {
        let home = tempfile::tempdir().unwrap();
        let leaf = fixture.pki.client("admin", &["system:masters"], LEAF_LIFETIME).unwrap();
        for (name, text) in
            [("ca.crt", fixture.pki.ca_pem()), ("admin.crt", &leaf.certificate), ("admin.key", &leaf.key)]
        {
            std::fs::write(home.path().join(name), text).unwrap();
        }
        Kubectl { fixture, home }
    }

    fn file(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// Exit code and all that it printed, for words separated by blanks and a text on its standard input.
    async fn run(&self, words: &str, input: &str) -> (i32, String) {
        let tools: PathBuf =
            std::env::var_os("MINIK_TOOLS").map_or_else(|| "/opt/minik-tools".into(), PathBuf::from);
        let own = tools.join("kubectl");
        let program = if own.exists() { own } else { "kubectl".into() };
        let mut child = Command::new(program)
            .arg(format!("--server={}", self.fixture.base))
            .arg(format!("--certificate-authority={}", self.file("ca.crt")))
            .arg(format!("--client-certificate={}", self.file("admin.crt")))
            .arg(format!("--client-key={}", self.file("admin.key")))
            .args(words.split(' '))
            .env("HOME", self.home.path())
            .env("KUBECONFIG", "/dev/null")
            .env("KUBE_EDITOR", "sed -i s/edit:.*/edit:\\ after/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// All that it printed when all was well.
    pub async fn ok(&self, words: &str, input: &str) -> String {
        let (code, text) = self.run(words, input).await;
        assert_eq!(code, 0, "{words}: {text}");
        text
    }

    async fn get(&self) -> Value {
        let text = self.ok("get configmap one -o json --show-managed-fields", "").await;
        serde_json::from_str(&text).unwrap()
    }
}

fn manifest(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: one\ndata:\n  {data}\n")
}

fn managers(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries.map(|entry| entry["manager"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn client_side_apply_is_taken_over_on_the_server() {
    let k = Kubectl::start().await;
    assert_eq!(k.ok("apply -f -", &manifest("a: v1")).await.trim(), "configmap/one created");
    assert_eq!(k.ok("apply -f -", &manifest("a: v1")).await.trim(), "configmap/one unchanged");
    assert_eq!(k.ok("apply -f -", &manifest("a: v2")).await.trim(), "configmap/one configured");
    assert_eq!(managers(&k.get().await), ["kubectl-client-side-apply"]);

    let taken = k.ok("apply --server-side -f -", &manifest("a: v3")).await;
    assert_eq!(taken.trim(), "configmap/one serverside-applied");
    let object = k.get().await;
    assert_eq!(object["data"]["a"], "v3");
    // kubectl keeps the annotation of client-side apply in step, as a manager of its own.
    let mut now = managers(&object);
    now.sort_unstable();
    assert_eq!(now, ["kubectl", "kubectl-last-applied"], "{object}");
    let dropped = k.ok("apply --server-side -f -", &manifest("b: v3")).await;
    assert_eq!(dropped.trim(), "configmap/one serverside-applied");
    assert_eq!(k.get().await["data"], serde_json::json!({"b": "v3"}));
}

#[tokio::test]
async fn differences_and_conflicts_are_shown() {
    let k = Kubectl::start().await;
    let (code, shown) = k.run("diff --server-side -f -", &manifest("a: v1")).await;
    assert!(code == 1 && shown.contains("+  a: v1"), "{shown}");
    k.ok("apply --server-side -f -", &manifest("a: v1")).await;
    let before = k.get().await;
    assert_eq!(k.run("diff --server-side -f -", &manifest("a: v1")).await, (0, String::new()));
    let (code, shown) = k.run("diff --server-side -f -", &manifest("a: v2")).await;
    assert!(code == 1 && shown.contains("-  a: v1") && shown.contains("+  a: v2"), "{shown}");
    k.ok("apply --server-side -f -", &manifest("a: v1")).await;
    assert_eq!(k.get().await, before, "the same again writes nothing");

    let other = "apply --server-side --field-manager=other -f -";
    let (code, told) = k.run(other, &manifest("a: v2")).await;
    assert!(
        code == 1 && told.contains("Apply failed with 1 conflict: conflict with \"kubectl\": .data.a"),
        "{told}"
    );
    k.ok("apply --server-side --force-conflicts --field-manager=other -f -", &manifest("a: v2")).await;
    assert_eq!(managers(&k.get().await), ["other"]);
}

#[tokio::test]
async fn other_verbs_are_managers_of_their_own() {
    let k = Kubectl::start().await;
    k.ok("create configmap one --from-literal=edit=before", "").await;
    assert_eq!(managers(&k.get().await), ["kubectl-create"]);
    assert_eq!(k.ok("edit configmap one", "").await.trim(), "configmap/one edited");
    let edited = k.get().await;
    assert_eq!(edited["data"]["edit"], "after");
    assert_eq!(managers(&edited), ["kubectl-create", "kubectl-edit"]);
    k.ok("label configmap one l=1", "").await;
    assert!(managers(&k.get().await).contains(&"kubectl-label"));
    assert_eq!(k.ok("replace -f -", &manifest("a: v1")).await.trim(), "configmap/one replaced");
    let replaced = k.get().await;
    assert_eq!(replaced["data"], serde_json::json!({"a": "v1"}));
    assert!(managers(&replaced).contains(&"kubectl-replace"), "{replaced}");
}

#[tokio::test]
async fn every_field_is_explained() {
    let k = Kubectl::start().await;
    for (what, told) in [
        ("pod.spec.containers.imagePullPolicy", "ENUM:\n    Always\n    IfNotPresent\n    Never"),
        ("deployment --recursive", "maxSurge\t<IntOrString>"),
        ("networkpolicy.spec.ingress --recursive", "ipBlock\t<IPBlock>"),
        ("clusterrole.rules", "verbs\t<[]string> -required-"),
        ("csr.spec", "signerName\t<string> -required-"),
        ("hpa.spec.metrics --recursive", "averageUtilization\t<integer>"),
        ("storageclass", "volumeBindingMode\t<string>"),
        ("apiservice.spec.service", "port\t<integer>"),
        ("pods.containers --api-version=metrics.k8s.io/v1beta1", "usage\t<map[string]Quantity> -required-"),
    ] {
        let text = k.ok(&format!("explain {what}"), "").await;
        assert!(text.contains("DESCRIPTION:") && text.contains(told), "{what}: {text}");
    }
}

#[tokio::test]
async fn kinds_around_the_workloads_are_made_and_shown() {
    let k = Kubectl::start().await;
    assert!(k.ok("get servicecidrs", "").await.contains("10.96.0.0/16"));
    assert!(k.ok("get priorityclasses", "").await.contains("system-node-critical"));
    let table = k.ok("api-resources --api-group=networking.k8s.io --no-headers", "").await;
    assert_eq!(table.lines().count(), 5, "{table}");
    k.ok("create role reader --verb=get --resource=pods", "").await;
    k.ok("create rolebinding readers --role=reader --user=jane", "").await;
    assert!(k.ok("get rolebindings -o wide", "").await.contains("Role/reader"));
    k.ok("create ingress web --rule=example.com/*=web:80", "").await;
    assert!(k.ok("describe ingress web", "").await.contains("example.com"));
    k.ok("create priorityclass high --value=10", "").await;
}
