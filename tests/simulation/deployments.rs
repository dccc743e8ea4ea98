//! Deployments, as `kubectl rollout` sees them.

use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const WEB: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: 'web:1'}]
";

fn image(image: &str) -> Value {
    json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "c", "image": image}]}}}})
}

/// Whether `kubectl rollout status` would call it done.
fn done(deployment: &Value) -> bool {
    let (wanted, status) = (&deployment["spec"]["replicas"], &deployment["status"]);
    status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|count| status[count] == *wanted)
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

fn set_of(image: &str) -> impl Fn(&&Value) -> bool {
    move |set| set["spec"]["template"]["spec"]["containers"][0]["image"] == image
}

#[tokio::test]
async fn a_deployment_comes_changes_and_goes() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    let web = cluster.until("deployments/web", done).await;
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    assert_eq!(condition(&web, "Available")["reason"], "MinimumReplicasAvailable");
    cluster.patch("deployments/web", image("web:2")).await;
    let web = cluster
        .until("deployments/web", |web| {
            done(web) && condition(web, "Progressing")["reason"] == "NewReplicaSetAvailable"
        })
        .await;
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    let sets = cluster.list("replicasets").await;
    let (old, new) = (sets.iter().find(set_of("web:1")).unwrap(), sets.iter().find(set_of("web:2")).unwrap());
    assert_eq!((&old["spec"]["replicas"], &new["spec"]["replicas"]), (&json!(0), &json!(3)));
    let name = |set: &Value| set["metadata"]["name"].as_str().unwrap().to_owned();
    let last = format!("ScalingReplicaSet: Scaled down replica set {} from 1 to 0", name(old));
    cluster.until_event("Deployment/web", &last).await;
    let scaled: Vec<String> = cluster.events("Deployment/web").await;
    let (old, new) = (name(old), name(new));
    assert_eq!(
        scaled,
        [
            format!("ScalingReplicaSet: Scaled up replica set {old} from 0 to 3"),
            format!("ScalingReplicaSet: Scaled up replica set {new} from 0 to 1"),
            format!("ScalingReplicaSet: Scaled down replica set {old} from 3 to 2"),
            format!("ScalingReplicaSet: Scaled up replica set {new} from 1 to 2"),
            format!("ScalingReplicaSet: Scaled down replica set {old} from 2 to 1"),
            format!("ScalingReplicaSet: Scaled up replica set {new} from 2 to 3"),
            last,
        ]
    );
    cluster.delete("deployments/web").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    cluster.until_all("replicasets", |sets| sets.is_empty()).await;
}

#[tokio::test]
async fn there_are_never_too_few_pods_and_never_too_many() {
    let cluster = Cluster::start().await;
    let spec = WEB
        .replace("replicas: 3", "replicas: 8\n  strategy: {rollingUpdate: {maxSurge: 2, maxUnavailable: 1}}");
    cluster.apply(&spec).await;
    cluster.until("deployments/web", done).await;
    cluster.patch("deployments/web", image("web:2")).await;
    cluster
        .until_all("pods", |pods| {
            let living: Vec<_> =
                pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
            let ready = living.iter().filter(|pod| condition(pod, "Ready")["status"] == "True").count();
            assert!(living.len() <= 10 && ready >= 7, "{} pods, {ready} ready", living.len());
            let new = living.iter().filter(|pod| pod["spec"]["containers"][0]["image"] == "web:2").count();
            new == 8 && living.len() == 8
        })
        .await;
    cluster.until("deployments/web", done).await;
}

#[tokio::test]
async fn an_update_that_cannot_work_stops_and_is_undone() {
    let cluster = Cluster::start().await;
    cluster.program("broken", SimProgram::EndAtOnce(Exit::Code(1)));
    cluster.apply(&WEB.replace("replicas: 3", "replicas: 3\n  progressDeadlineSeconds: 2")).await;
    cluster.until("deployments/web", done).await;
    cluster.patch("deployments/web", image("broken")).await;
    let late = |web: &Value| condition(web, "Progressing")["reason"] == "ProgressDeadlineExceeded";
    let web = cluster.until("deployments/web", late).await;
    assert_eq!(condition(&web, "Progressing")["status"], "False");
    assert_eq!(web["status"]["availableReplicas"], 3);
    cluster.patch("deployments/web", image("web:1")).await;
    let web = cluster.until("deployments/web", |web| done(web) && !late(web)).await;
    assert_eq!(web["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    assert_eq!(cluster.list("replicasets").await.len(), 2);
}

#[tokio::test]
async fn all_old_pods_end_before_a_new_one_comes() {
    let cluster = Cluster::start().await;
    cluster.apply(&WEB.replace("replicas: 3", "replicas: 3\n  strategy: {type: Recreate}")).await;
    cluster.until("deployments/web", done).await;
    cluster.patch("deployments/web", image("web:2")).await;
    cluster
        .until_all("pods", |pods| {
            // A pod that has ended may still be there.
            let of = |image: &str| {
                let ended =
                    |pod: &Value| ["Succeeded", "Failed"].iter().any(|p| pod["status"]["phase"] == *p);
                pods.iter()
                    .filter(|pod| pod["spec"]["containers"][0]["image"] == image && !ended(pod))
                    .count()
            };
            assert!(of("web:1") == 0 || of("web:2") == 0, "{} old, {} new", of("web:1"), of("web:2"));
            of("web:2") == 3
        })
        .await;
    cluster.until("deployments/web", done).await;
}

#[tokio::test]
async fn a_held_deployment_waits() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    cluster.until("deployments/web", done).await;
    cluster.patch("deployments/web", json!({"spec": {"paused": true}})).await;
    let held = |web: &Value| condition(web, "Progressing")["reason"] == "DeploymentPaused";
    cluster.until("deployments/web", held).await;
    cluster.patch("deployments/web", image("web:2")).await;
    cluster.scale("deployments/web", 4).await;
    cluster.until("deployments/web", |web| web["status"]["availableReplicas"] == 4).await;
    assert_eq!(cluster.list("replicasets").await.len(), 1);
    cluster.patch("deployments/web", json!({"spec": {"paused": null}})).await;
    cluster.until("deployments/web", |web| done(web) && web["status"]["updatedReplicas"] == 4).await;
    assert_eq!(cluster.list("replicasets").await.len(), 2);
}

#[tokio::test]
async fn history_is_kept_as_long_as_asked() {
    let cluster = Cluster::start().await;
    cluster.apply(&WEB.replace("replicas: 3", "replicas: 1\n  revisionHistoryLimit: 1")).await;
    cluster.until("deployments/web", done).await;
    for n in 2..=4 {
        let mut patch = image(&format!("web:{n}"));
        patch["metadata"] = json!({"annotations": {"kubernetes.io/change-cause": format!("to {n}")}});
        cluster.patch("deployments/web", patch).await;
        let revision = json!(n.to_string());
        let there = |web: &Value| {
            done(web) && web["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == revision
        };
        cluster.until("deployments/web", there).await;
    }
    let sets = cluster.until_all("replicasets", |sets| sets.len() == 2).await;
    let mut causes: Vec<_> = sets
        .iter()
        .map(|set| {
            let annotations = &set["metadata"]["annotations"];
            let text = |key: &str| annotations[key].as_str().unwrap().to_owned();
            (text("deployment.kubernetes.io/revision"), text("kubernetes.io/change-cause"))
        })
        .collect();
    causes.sort();
    assert_eq!(causes, [("3".into(), "to 3".into()), ("4".into(), "to 4".into())] as [(String, String); 2]);
}

#[tokio::test]
async fn a_pod_that_is_not_ready_holds_the_update() {
    let cluster = Cluster::start().await;
    cluster.apply(WEB).await;
    cluster.until("deployments/web", done).await;
    cluster.hold_image("web:2");
    cluster.patch("deployments/web", image("web:2")).await;
    let web = cluster.until("deployments/web", |web| web["status"]["updatedReplicas"] == 1).await;
    assert_eq!(web["status"]["availableReplicas"], 3);
    let pods = cluster.until_all("pods", |pods| pods.len() == 4).await;
    assert_eq!(pods.iter().filter(|pod| condition(pod, "Ready")["status"] == "True").count(), 3);
    cluster.release_image("web:2");
    cluster.until("deployments/web", done).await;
}
