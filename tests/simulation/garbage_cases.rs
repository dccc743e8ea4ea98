//! What becomes of the pods and replica sets of a deployment that is deleted, by how that is asked for.

use minik::api::request::DeleteOptions;
use minik::api::status::Status;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::scenarios::scenarios;
use crate::shows::names;

/// A controller of two pods that take ten seconds to end.
async fn started(kind: &str) -> Cluster {
    let cluster = Cluster::start().await;
    cluster.program("web", minik::runtime::sim::SimProgram::IgnoreTerm);
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"terminationGracePeriodSeconds": 10,
        "containers": [{"name": "c", "image": "web"}]}});
    let mut spec = json!({"selector": {"matchLabels": {"app": "web"}}, "template": template});
    match kind {
        "DaemonSet" => {}
        "Job" => {
            spec = json!({"parallelism": 2, "template": template});
            spec["template"]["spec"]["restartPolicy"] = json!("Never");
        }
        "ReplicationController" => {
            spec["replicas"] = json!(2);
            spec["selector"] = json!({"app": "web"});
        }
        _ => spec["replicas"] = json!(2),
    }
    let api = match kind {
        "Job" => "batch/v1",
        "ReplicationController" => "v1",
        _ => "apps/v1",
    };
    let object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": "web"}, "spec": spec});
    cluster.apply(&object.to_string()).await;
    let count = if kind == "DaemonSet" { 1 } else { 2 };
    cluster
        .until_all("pods", |pods| pods.iter().filter(|pod| crate::shows::is_ready(pod)).count() == count)
        .await;
    cluster
}

/// How something is deleted, and what is there five seconds later (while its pods end) and half a minute later.
struct Deletion {
    kind: &'static str,
    path: &'static str,
    policy: &'static str,
    /// Whether it is there while its pods end.
    waits: bool,
    /// How many pods stay.
    left: usize,
}

async fn goes(case: Deletion) {
    let Deletion { kind, path, policy, waits, left } = case;
    let cluster = started(kind).await;
    cluster.delete_with(path, policy).await;
    cluster.pass(5).await;
    assert_eq!(cluster.get(path).await.is_some(), waits);
    let ending =
        |pods: &[Value]| pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_string()).count();
    let pods = cluster.list("pods").await;
    assert_eq!(ending(&pods), pods.len() - left);
    cluster.pass(30).await;
    assert!(cluster.get(path).await.is_none());
    let pods = cluster.list("pods").await;
    assert_eq!((pods.len(), ending(&pods)), (left, 0));
    // A deployment's replica set stays with them, and owns them.
    let owned = pods.iter().filter(|pod| !pod["metadata"]["ownerReferences"].is_null()).count();
    assert_eq!(owned, if kind == "Deployment" { left } else { 0 });
    assert_eq!(cluster.list("replicasets").await.len(), usize::from(owned > 0));
}

scenarios! { goes;
    a_deployment_first:
        Deletion { kind: "Deployment", path: "deployments/web", policy: "Background", waits: false, left: 0 },
    a_deployment_last:
        Deletion { kind: "Deployment", path: "deployments/web", policy: "Foreground", waits: true, left: 0 },
    a_deployment_alone:
        Deletion { kind: "Deployment", path: "deployments/web", policy: "Orphan", waits: false, left: 2 },
    a_replica_set_first:
        Deletion { kind: "ReplicaSet", path: "replicasets/web", policy: "Background", waits: false, left: 0 },
    a_replica_set_last:
        Deletion { kind: "ReplicaSet", path: "replicasets/web", policy: "Foreground", waits: true, left: 0 },
    a_replica_set_alone:
        Deletion { kind: "ReplicaSet", path: "replicasets/web", policy: "Orphan", waits: false, left: 2 },
    a_stateful_set_first:
        Deletion { kind: "StatefulSet", path: "statefulsets/web", policy: "Background", waits: false, left: 0 },
    a_stateful_set_last:
        Deletion { kind: "StatefulSet", path: "statefulsets/web", policy: "Foreground", waits: true, left: 0 },
    a_stateful_set_alone:
        Deletion { kind: "StatefulSet", path: "statefulsets/web", policy: "Orphan", waits: false, left: 2 },
    a_daemon_set_last:
        Deletion { kind: "DaemonSet", path: "daemonsets/web", policy: "Foreground", waits: true, left: 0 },
    a_daemon_set_alone:
        Deletion { kind: "DaemonSet", path: "daemonsets/web", policy: "Orphan", waits: false, left: 1 },
    a_job_last: Deletion { kind: "Job", path: "jobs/web", policy: "Foreground", waits: true, left: 0 },
    a_job_alone: Deletion { kind: "Job", path: "jobs/web", policy: "Orphan", waits: false, left: 2 },
    a_replication_controller_alone: Deletion {
        kind: "ReplicationController", path: "replicationcontrollers/web", policy: "Orphan", waits: false, left: 2 },
}

/// A deletion that is meant for another object, or another state of it.
#[tokio::test]
async fn what_is_not_meant_stays() {
    let cluster = started("Deployment").await;
    let web = cluster.get("deployments/web").await.unwrap();
    let uid = web["metadata"]["uid"].as_str().unwrap().to_owned();
    let delete = async |uid: Option<&str>, version: Option<&str>| -> Result<Value, Status> {
        let options = DeleteOptions {
            precondition_uid: uid.map(str::to_owned),
            precondition_resource_version: version.map(str::to_owned),
            ..DeleteOptions::default()
        };
        cluster.try_delete("deployments/web", options).await
    };
    for (uid, version) in
        [(Some("11111111-1111-1111-1111-111111111111"), None), (Some(uid.as_str()), Some("1"))]
    {
        let refused = delete(uid, version).await.unwrap_err();
        assert_eq!(refused.code, 409, "{refused}");
    }
    delete(Some(&uid), None).await.unwrap();
    cluster.until_all("pods", |pods| pods.is_empty()).await;
}

#[tokio::test]
async fn pods_that_do_not_block_are_not_waited_for() {
    let cluster = started("ReplicaSet").await;
    let pods = cluster.list("pods").await;
    for name in names(&pods) {
        let mut owners = pods[0]["metadata"]["ownerReferences"].clone();
        owners[0]["blockOwnerDeletion"] = json!(false);
        cluster.patch(&format!("pods/{name}"), json!({"metadata": {"ownerReferences": owners}})).await;
    }
    cluster.delete_with("replicasets/web", "Foreground").await;
    cluster.pass(5).await;
    assert!(cluster.get("replicasets/web").await.is_none());
    cluster.pass(30).await;
    assert!(cluster.list("pods").await.is_empty());
}
