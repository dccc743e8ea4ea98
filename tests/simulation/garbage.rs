//! What goes with its owner, and what stays.

use minik::clock;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::shows::names;

fn object(kind: &str, name: &str, owners: Vec<Value>) -> String {
    let api = if kind == "ClusterRole" { "rbac.authorization.k8s.io/v1" } else { "v1" };
    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "ownerReferences": owners}})
        .to_string()
}

/// A reference to an object, which blocks its deletion or does not.
async fn owner(cluster: &Cluster, path: &str, blocks: bool) -> Value {
    let object = cluster.get(path).await.unwrap();
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "name": object["metadata"]["name"],
        "uid": object["metadata"]["uid"], "blockOwnerDeletion": blocks})
}

/// A config map `top` with two that it owns: `blocks`, and `free`, which does not block its deletion.
async fn family(held: bool) -> Cluster {
    let cluster = Cluster::start().await;
    cluster.apply(&object("ConfigMap", "top", vec![])).await;
    for (name, blocks) in [("blocks", true), ("free", false)] {
        let owners = vec![owner(&cluster, "configmaps/top", blocks).await];
        cluster.apply(&object("ConfigMap", name, owners)).await;
        if held {
            hold(&cluster, name, true).await;
        }
    }
    cluster.pass(1).await;
    cluster
}

async fn hold(cluster: &Cluster, name: &str, on: bool) {
    let finalizers = if on { json!(["example.com/held"]) } else { Value::Null };
    cluster.patch(&format!("configmaps/{name}"), json!({"metadata": {"finalizers": finalizers}})).await;
}

async fn left(cluster: &Cluster) -> Vec<String> {
    let mut all = cluster.list("configmaps").await;
    all.retain(|object| object["metadata"]["name"] != "kube-root-ca.crt");
    names(&all).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_owned_goes_afterwards() {
    let cluster = family(true).await;
    cluster.delete_with("configmaps/top", "Background").await;
    // At once, whatever holds the others.
    assert!(cluster.get("configmaps/top").await.is_none());
    cluster.pass(5).await;
    assert_eq!(left(&cluster).await, ["blocks", "free"]);
    for name in ["blocks", "free"] {
        assert!(
            cluster.get(&format!("configmaps/{name}")).await.unwrap()["metadata"]["deletionTimestamp"]
                .is_string()
        );
        hold(&cluster, name, false).await;
    }
    assert_eq!(left(&cluster).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_owned_goes_before() {
    let cluster = family(true).await;
    cluster.delete_with("configmaps/top", "Foreground").await;
    cluster.pass(5).await;
    let top = cluster.get("configmaps/top").await.unwrap();
    assert_eq!(top["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    assert_eq!(left(&cluster).await, ["blocks", "free", "top"]);
    hold(&cluster, "blocks", false).await;
    // The other one does not block.
    cluster.until_gone("configmaps/top").await;
    assert_eq!(left(&cluster).await, ["free"]);
    hold(&cluster, "free", false).await;
    assert_eq!(left(&cluster).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_let_go_stays() {
    let cluster = family(false).await;
    cluster.delete_with("configmaps/top", "Orphan").await;
    cluster.until_gone("configmaps/top").await;
    cluster.pass(60).await;
    assert_eq!(left(&cluster).await, ["blocks", "free"]);
    for name in ["blocks", "free"] {
        cluster.is(&format!("configmaps/{name}"), json!({"metadata": {"ownerReferences": null}})).await;
    }
}

#[tokio::test]
async fn the_last_owner_takes_along_what_several_own() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.apply(&object("ConfigMap", name, vec![])).await;
    }
    let owners =
        vec![owner(&cluster, "configmaps/a", true).await, owner(&cluster, "configmaps/b", true).await];
    cluster.apply(&object("ConfigMap", "child", owners)).await;
    cluster.delete("configmaps/a").await;
    cluster.pass(5).await;
    let child = cluster.get("configmaps/child").await.unwrap();
    let owners = child["metadata"]["ownerReferences"].as_array().unwrap();
    assert_eq!((owners.len(), &owners[0]["name"]), (1, &json!("b")));
    cluster.delete("configmaps/b").await;
    cluster.pass(5).await;
    assert_eq!(left(&cluster).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_chain_goes_link_by_link() {
    let cluster = Cluster::start().await;
    cluster.apply(&object("ConfigMap", "n0", vec![])).await;
    for n in 1..6 {
        let owners = vec![owner(&cluster, &format!("configmaps/n{}", n - 1), true).await];
        cluster.apply(&object("ConfigMap", &format!("n{n}"), owners)).await;
    }
    hold(&cluster, "n5", true).await;
    cluster.delete_with("configmaps/n0", "Foreground").await;
    cluster.pass(5).await;
    assert_eq!(left(&cluster).await.len(), 6);
    hold(&cluster, "n5", false).await;
    cluster.until_gone("configmaps/n0").await;
    assert_eq!(left(&cluster).await, Vec::<String>::new());
}

#[tokio::test]
async fn owners_that_there_are_not_own_nothing() {
    let cluster = Cluster::start().await;
    cluster.apply(&object("ConfigMap", "real", vec![])).await;
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
    let real = owner(&cluster, "configmaps/real", true).await;
    let role = "11111111-1111-1111-1111-111111111111";
    let mut other_uid = real.clone();
    other_uid["uid"] = json!(role);
    let never = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "never", "uid": role});
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Thing", "name": "never", "uid": role});
    let cases = [
        ("fine", "default", vec![real.clone()], true),
        ("renewed", "default", vec![other_uid], false),
        ("orphan", "default", vec![never.clone()], false),
        ("half", "default", vec![never, real.clone()], true),
        // In another namespace there is no such owner.
        ("across", "team", vec![real], false),
        // Of a kind that is not known nothing is known.
        ("strange", "default", vec![unknown], true),
    ];
    for (name, namespace, owners, _) in &cases {
        let mut object: Value = serde_json::from_str(&object("ConfigMap", name, owners.clone())).unwrap();
        object["metadata"]["namespace"] = json!(namespace);
        cluster.apply(&object.to_string()).await;
    }
    cluster.pass(60).await;
    for (name, namespace, _, stays) in &cases {
        assert_eq!(cluster.get(&format!("{namespace}:configmaps/{name}")).await.is_some(), *stays, "{name}");
    }
    let half = cluster.get("configmaps/half").await.unwrap();
    assert_eq!(half["metadata"]["ownerReferences"].as_array().unwrap().len(), 1);
    let events = cluster.list("team:events").await;
    let told = events.iter().find(|event| event["reason"] == "OwnerRefInvalidNamespace").unwrap();
    let message = told["message"].as_str().unwrap();
    assert!(message.starts_with("ownerRef [v1/ConfigMap, namespace: team, name: real, uid: "), "{message}");
    assert!(message.ends_with("] does not exist in namespace \"team\""), "{message}");
}

#[tokio::test]
async fn what_belongs_to_no_namespace_is_not_owned_by_what_does() {
    let cluster = Cluster::start().await;
    cluster.apply(&object("ConfigMap", "real", vec![])).await;
    let real = owner(&cluster, "configmaps/real", true).await;
    cluster.apply(&object("ClusterRole", "wide", vec![real])).await;
    cluster.delete("configmaps/real").await;
    cluster.pass(120).await;
    assert!(cluster.get(":clusterroles/wide").await.is_some());
    // The other way about is fine.
    cluster.apply(&object("ClusterRole", "top", vec![])).await;
    let top = owner(&cluster, ":clusterroles/top", true).await;
    cluster.apply(&object("ConfigMap", "child", vec![top])).await;
    cluster.pass(5).await;
    assert_eq!(left(&cluster).await, ["child"]);
    cluster.delete(":clusterroles/top").await;
    cluster.pass(5).await;
    assert_eq!(left(&cluster).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_deployment_goes_after_its_pods_where_that_is_asked_for() {
    let cluster = Cluster::start().await;
    cluster.program("web", minik::runtime::sim::SimProgram::IgnoreTerm);
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 60,
        "containers": [{"name": "c", "image": "web"}]}});
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    cluster.apply(&web.to_string()).await;
    cluster.shows("deployments/web", json!({"status": {"readyReplicas": 2}})).await;
    let begun = clock::now();
    cluster.delete_with("deployments/web", "Foreground").await;
    cluster.pass(30).await;
    assert_eq!((cluster.list("pods").await.len(), cluster.list("replicasets").await.len()), (2, 1));
    assert!(cluster.get("deployments/web").await.is_some());
    cluster.until_gone("deployments/web").await;
    let took = clock::now().duration_since(begun).as_secs();
    assert!((60..70).contains(&took), "{took}");
    assert!(cluster.list("pods").await.is_empty());
}
