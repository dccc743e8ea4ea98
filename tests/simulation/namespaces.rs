//! Namespaces that go, and what may be in those that stay.

use minik::api::request::WriteOptions;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::shows::message;

fn object(namespace: &str, kind: &str, name: &str, more: Value) -> String {
    let mut object =
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}});
    object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object.to_string()
}

async fn team() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
    cluster.until("team:serviceaccounts/default", |_| true).await;
    cluster
}

#[tokio::test]
async fn everything_in_a_namespace_goes_before_it() {
    let cluster = team().await;
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 20,
        "containers": [{"name": "c", "image": "web"}]}});
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "team"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template}});
    cluster.program("web", minik::runtime::sim::SimProgram::IgnoreTerm);
    cluster.apply(&web.to_string()).await;
    cluster.apply(&object("team", "ConfigMap", "settings", json!({}))).await;
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    cluster.apply(&object("team", "PersistentVolumeClaim", "data", json!({"spec": claim}))).await;
    cluster.shows("team:deployments/web", json!({"status": {"readyReplicas": 2}})).await;
    cluster.delete(":namespaces/team").await;
    cluster.pass(5).await;
    let expected = json!({"status": {"phase": "Terminating", "conditions": {
        "NamespaceContentRemaining": "True SomeResourcesRemain",
        "NamespaceDeletionDiscoveryFailure": "False ResourcesDiscovered",
        "NamespaceDeletionContentFailure": "False ContentDeleted"}}});
    let gone = cluster.is(":namespaces/team", expected).await;
    assert_eq!(
        message(&gone, "NamespaceContentRemaining"),
        "Some resources are remaining: pods. has 2 resource instances"
    );
    cluster.until_gone(":namespaces/team").await;
    for plural in [
        "pods",
        "deployments",
        "replicasets",
        "configmaps",
        "persistentvolumeclaims",
        "serviceaccounts",
        "events",
    ] {
        assert!(cluster.list(&format!("team:{plural}")).await.is_empty(), "{plural}");
    }
    // The next one of the name is new.
    cluster.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}").await;
    cluster.until("team:serviceaccounts/default", |_| true).await;
}

#[tokio::test]
async fn what_is_held_holds_its_namespace() {
    let cluster = team().await;
    cluster.apply(&object("team", "ConfigMap", "held", json!({}))).await;
    let held = json!({"metadata": {"finalizers": ["example.com/a", "example.com/b"]}});
    cluster.patch("team:configmaps/held", held).await;
    cluster.delete(":namespaces/team").await;
    cluster.pass(600).await;
    let expected = json!({"status": {"conditions": {
        "NamespaceContentRemaining": "True SomeResourcesRemain",
        "NamespaceFinalizersRemaining": "True SomeFinalizersRemain"}}});
    let team = cluster.is(":namespaces/team", expected).await;
    let told = "Some content in the namespace has finalizers remaining: example.com/a in 1 resource instances, example.com/b in 1 resource instances";
    assert_eq!(message(&team, "NamespaceFinalizersRemaining"), told);
    // Nothing new comes in.
    let kind = minik::api::kinds::by_kind("", "v1", "ConfigMap").unwrap();
    let late: Value = serde_json::from_str(&object("team", "ConfigMap", "late", json!({}))).unwrap();
    let target = minik::api::request::Target {
        group: String::new(),
        version: "v1".into(),
        resource: kind.plural.to_string(),
        namespace: Some("team".into()),
        name: None,
        subresource: None,
    };
    let made = minik::api::request::Action::Create(late, WriteOptions::default());
    let refused = cluster.client.call(target, made).await.err().unwrap();
    assert_eq!(refused.code, 403);
    let why = "unable to create new content in namespace team because it is being terminated";
    assert!(refused.message.ends_with(why), "{refused}");
    cluster.patch("team:configmaps/held", json!({"metadata": {"finalizers": null}})).await;
    cluster.until_gone(":namespaces/team").await;
}

#[tokio::test]
async fn a_quota_counts_what_there_is() {
    let cluster = team().await;
    let hard = json!({"pods": "3", "requests.cpu": "2", "limits.memory": "1Gi", "count/configmaps": "3", "services": "1",
        "requests.storage": "3Gi", "persistentvolumeclaims": "2", "count/deployments.apps": "1"});
    cluster.apply(&object("team", "ResourceQuota", "q", json!({"spec": {"hard": hard}}))).await;
    let used = |used: Value| json!({"status": {"used": used}});
    cluster
        .shows(
            "team:resourcequotas/q",
            used(json!({"pods": "0", "count/configmaps": "1", "requests.cpu": "0"})),
        )
        .await;
    let pod = |name: &str, cpu: &str| {
        let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}, "limits": {"memory": "300Mi"}}});
        object(
            "team",
            "Pod",
            name,
            json!({"spec": {"terminationGracePeriodSeconds": 1, "containers": [container]}}),
        )
    };
    cluster.apply(&pod("a", "500m")).await;
    cluster.apply(&pod("b", "1")).await;
    cluster.apply(&object("team", "ConfigMap", "one", json!({}))).await;
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}});
    cluster.apply(&object("team", "PersistentVolumeClaim", "data", json!({"spec": claim}))).await;
    cluster
        .shows(
            "team:resourcequotas/q",
            used(json!({"pods": "2", "requests.cpu": "1500m", "limits.memory": "600Mi",
        "count/configmaps": "2", "services": "0", "requests.storage": "2Gi", "persistentvolumeclaims": "1"})),
        )
        .await;
    // What has ended counts no more, nor what has gone.
    cluster.patch_status("team:pods/a", json!({"phase": "Succeeded"})).await;
    cluster.delete("team:pods/b").await;
    cluster.delete("team:configmaps/one").await;
    cluster
        .shows(
            "team:resourcequotas/q",
            used(json!({"pods": "0", "requests.cpu": "0", "count/configmaps": "1"})),
        )
        .await;
}

#[tokio::test]
async fn quotas_of_scopes_count_their_pods_alone() {
    let cluster = team().await;
    for (name, scope) in [
        ("ends", "Terminating"),
        ("stays", "NotTerminating"),
        ("best", "BestEffort"),
        ("better", "NotBestEffort"),
    ] {
        cluster
            .apply(&object(
                "team",
                "ResourceQuota",
                name,
                json!({"spec": {"hard": {"pods": "9"}, "scopes": [scope]}}),
            ))
            .await;
    }
    let pod = |name: &str, more: Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object("team", "Pod", name, json!({"spec": spec}))
    };
    let asks = json!([{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]);
    cluster.apply(&pod("a", json!({}))).await;
    cluster.apply(&pod("b", json!({"activeDeadlineSeconds": 3600}))).await;
    cluster.apply(&pod("c", json!({"containers": asks}))).await;
    for (name, count) in [("ends", "1"), ("stays", "2"), ("best", "2"), ("better", "1")] {
        cluster
            .shows(&format!("team:resourcequotas/{name}"), json!({"status": {"used": {"pods": count}}}))
            .await;
    }
}
