//! Volumes and their claims, from one binding to the next.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::shows::names;

fn class(name: &str, more: Value) -> String {
    let mut class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": "minik.io/hostpath"});
    class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    class.to_string()
}

fn claim(name: &str, more: Value) -> String {
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn volume(name: &str, size: &str, more: Value) -> String {
    let mut spec = json!({"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

fn pod(name: &str, claim: &str) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}],
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/data"}]}]}}).to_string()
}

fn phase(phase: &str) -> Value {
    json!({"status": {"phase": phase}})
}

#[tokio::test]
async fn a_claim_gets_the_smallest_volume_that_suits_it() {
    let cluster = Cluster::start().await;
    for (name, size, more) in [
        ("large", "10Gi", json!({})),
        ("small", "2Gi", json!({})),
        ("tiny", "100Mi", json!({})),
        ("shared", "3Gi", json!({"accessModes": ["ReadWriteMany", "ReadOnlyMany"]})),
        ("block", "2Gi", json!({"volumeMode": "Block"})),
        ("other", "1Gi", json!({"storageClassName": "other"})),
    ] {
        cluster.apply(&volume(name, size, more)).await;
        cluster.shows(&format!(":persistentvolumes/{name}"), phase("Available")).await;
    }
    cluster.patch(":persistentvolumes/large", json!({"metadata": {"labels": {"disk": "fast"}}})).await;
    let manual = |more: Value| {
        let mut spec = json!({"storageClassName": "manual"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let cases = [
        ("shares", manual(json!({"accessModes": ["ReadWriteMany"]})), Some("shared")),
        ("raw", manual(json!({"volumeMode": "Block"})), Some("block")),
        ("fast", manual(json!({"selector": {"matchLabels": {"disk": "fast"}}})), Some("large")),
        ("fits", manual(json!({})), Some("small")),
        ("greedy", manual(json!({"resources": {"requests": {"storage": "100Gi"}}})), None),
        ("late", manual(json!({})), None),
        (
            "named",
            manual(json!({"volumeName": "tiny", "resources": {"requests": {"storage": "50Mi"}}})),
            Some("tiny"),
        ),
        ("elsewhere", json!({"storageClassName": "other"}), Some("other")),
    ];
    for (name, spec, volume) in &cases {
        cluster.apply(&claim(name, spec.clone())).await;
        cluster.pass(2).await;
        let path = format!("persistentvolumeclaims/{name}");
        match volume {
            Some(volume) => {
                cluster
                    .is(&path, json!({"spec": {"volumeName": volume}, "status": {"phase": "Bound"}}))
                    .await;
                let bound = json!({"spec": {"claimRef": {"name": name}}, "status": {"phase": "Bound"}});
                cluster.is(&format!(":persistentvolumes/{volume}"), bound).await;
            }
            None => drop(
                cluster
                    .is(&path, json!({"spec": {"volumeName": null}, "status": {"phase": "Pending"}}))
                    .await,
            ),
        }
    }
    let bound = cluster.get("persistentvolumeclaims/fits").await.unwrap();
    assert_eq!(bound["status"]["capacity"]["storage"], "2Gi");
    // What comes later is taken by who waits.
    cluster.apply(&volume("more", "1Gi", json!({}))).await;
    cluster.shows("persistentvolumeclaims/late", json!({"spec": {"volumeName": "more"}})).await;
}

#[tokio::test]
async fn what_becomes_of_a_volume_whose_claim_has_gone() {
    let cluster = Cluster::start().await;
    cluster.apply(&class("keeps", json!({"reclaimPolicy": "Retain"}))).await;
    cluster.apply(&volume("mine", "1Gi", json!({}))).await;
    for (name, class) in [("made", "standard"), ("kept", "keeps"), ("manual", "manual")] {
        cluster.apply(&claim(name, json!({"storageClassName": class}))).await;
        cluster.shows(&format!("persistentvolumeclaims/{name}"), phase("Bound")).await;
    }
    let volume_of = async |name: &str| {
        let claim = cluster.get(&format!("persistentvolumeclaims/{name}")).await.unwrap();
        format!(":persistentvolumes/{}", claim["spec"]["volumeName"].as_str().unwrap())
    };
    let (made, kept) = (volume_of("made").await, volume_of("kept").await);
    let provisioned = cluster.get(&made).await.unwrap();
    assert_eq!(provisioned["spec"]["persistentVolumeReclaimPolicy"], "Delete");
    for name in ["made", "kept", "manual"] {
        cluster.delete(&format!("persistentvolumeclaims/{name}")).await;
        cluster.until_gone(&format!("persistentvolumeclaims/{name}")).await;
    }
    cluster.until_gone(&made).await;
    for path in [kept.as_str(), ":persistentvolumes/mine"] {
        cluster.shows(path, phase("Released")).await;
    }
    // A new claim of the same name is another one.
    cluster.apply(&claim("manual", json!({"storageClassName": "manual"}))).await;
    cluster.pass(60).await;
    cluster.is("persistentvolumeclaims/manual", phase("Pending")).await;
    cluster.patch(":persistentvolumes/mine", json!({"spec": {"claimRef": null}})).await;
    cluster.shows("persistentvolumeclaims/manual", phase("Bound")).await;
}

#[tokio::test]
async fn a_claim_that_waits_for_its_pod() {
    let cluster = Cluster::start().await;
    cluster.apply(&class("later", json!({"volumeBindingMode": "WaitForFirstConsumer"}))).await;
    cluster.apply(&claim("data", json!({"storageClassName": "later"}))).await;
    let told = "WaitForFirstConsumer: waiting for first consumer to be created before binding";
    cluster.until_event("PersistentVolumeClaim/data", told).await;
    cluster.pass(600).await;
    cluster.is("persistentvolumeclaims/data", phase("Pending")).await;
    cluster.apply(&pod("user", "data")).await;
    cluster.shows("pods/user", phase("Running")).await;
    let data = cluster.shows("persistentvolumeclaims/data", phase("Bound")).await;
    assert_eq!(data["metadata"]["annotations"]["volume.kubernetes.io/selected-node"], "minik");
    cluster
        .until_event(
            "PersistentVolumeClaim/data",
            "ProvisioningSucceeded: Successfully provisioned volume pvc-",
        )
        .await;
}

#[tokio::test]
async fn a_pod_waits_for_its_claim() {
    let cluster = Cluster::start().await;
    cluster.apply(&pod("user", "data")).await;
    let expected = json!({"status": {"conditions": {"PodScheduled": "False Unschedulable"}}});
    let user = cluster.shows("pods/user", expected).await;
    let told = crate::shows::message(&user, "PodScheduled");
    assert!(told.starts_with("0/1 nodes are available: persistentvolumeclaim \"data\" not found."), "{told}");
    cluster.apply(&claim("data", json!({"storageClassName": "manual"}))).await;
    cluster.pass(30).await;
    let user = cluster.get("pods/user").await.unwrap();
    let told = crate::shows::message(&user, "PodScheduled");
    assert!(
        told.starts_with("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
        "{told}"
    );
    cluster.apply(&volume("mine", "1Gi", json!({}))).await;
    cluster.shows("pods/user", phase("Running")).await;
}

#[tokio::test]
async fn what_is_used_stays_until_it_is_not() {
    let cluster = Cluster::start().await;
    cluster.apply(&claim("data", json!({}))).await;
    cluster.apply(&pod("user", "data")).await;
    cluster.shows("pods/user", phase("Running")).await;
    let data = cluster.get("persistentvolumeclaims/data").await.unwrap();
    assert_eq!(data["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let volume = format!(":persistentvolumes/{}", data["spec"]["volumeName"].as_str().unwrap());
    cluster.delete(&volume).await;
    cluster.delete("persistentvolumeclaims/data").await;
    cluster.pass(600).await;
    cluster.is("persistentvolumeclaims/data", phase("Bound")).await;
    cluster.is(&volume, phase("Bound")).await;
    cluster.delete("pods/user").await;
    cluster.until_gone("persistentvolumeclaims/data").await;
    cluster.until_gone(&volume).await;
}

#[tokio::test]
async fn claims_grow_where_their_class_allows() {
    let cluster = Cluster::start().await;
    cluster.apply(&class("fixed", json!({"allowVolumeExpansion": false}))).await;
    for (name, class, grows) in [("grows", "standard", true), ("stays", "fixed", false)] {
        cluster.apply(&claim(name, json!({"storageClassName": class}))).await;
        let path = format!("persistentvolumeclaims/{name}");
        cluster.shows(&path, phase("Bound")).await;
        let more = json!({"spec": {"resources": {"requests": {"storage": "5Gi"}}}});
        let grown = cluster.try_patch(&path, more).await;
        assert_eq!(grown.is_ok(), grows, "{grown:?}");
        if grows {
            let claim = cluster.shows(&path, json!({"status": {"capacity": {"storage": "5Gi"}}})).await;
            let volume = format!(":persistentvolumes/{}", claim["spec"]["volumeName"].as_str().unwrap());
            cluster.is(&volume, json!({"spec": {"capacity": {"storage": "5Gi"}}})).await;
        }
        let less = json!({"spec": {"resources": {"requests": {"storage": "500Mi"}}}});
        assert!(cluster.try_patch(&path, less).await.is_err());
    }
}

#[tokio::test]
async fn the_default_class_is_given_even_later() {
    let cluster = Cluster::start().await;
    cluster.delete(":storageclasses/standard").await;
    cluster.apply(&claim("data", json!({}))).await;
    cluster.apply(&claim("none", json!({"storageClassName": ""}))).await;
    cluster.pass(30).await;
    cluster
        .is(
            "persistentvolumeclaims/data",
            json!({"spec": {"storageClassName": null}, "status": {"phase": "Pending"}}),
        )
        .await;
    let mut new: Value = serde_json::from_str(&class("new", json!({}))).unwrap();
    new["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    cluster.apply(&new.to_string()).await;
    cluster
        .shows(
            "persistentvolumeclaims/data",
            json!({"spec": {"storageClassName": "new"}, "status": {"phase": "Bound"}}),
        )
        .await;
    cluster.pass(30).await;
    cluster.is("persistentvolumeclaims/none", phase("Pending")).await;
}

#[tokio::test]
async fn a_claim_whose_volume_is_taken_away_is_lost() {
    let cluster = Cluster::start().await;
    cluster.apply(&volume("mine", "1Gi", json!({}))).await;
    cluster.apply(&claim("data", json!({"storageClassName": "manual"}))).await;
    cluster.shows("persistentvolumeclaims/data", phase("Bound")).await;
    cluster.delete(":persistentvolumes/mine").await;
    // It is held while it is bound; somebody takes even that away.
    cluster.patch(":persistentvolumes/mine", json!({"metadata": {"finalizers": null}})).await;
    cluster.until_gone(":persistentvolumes/mine").await;
    cluster.shows("persistentvolumeclaims/data", phase("Lost")).await;
    let told = "ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!";
    cluster.until_event("PersistentVolumeClaim/data", told).await;
}

#[tokio::test]
async fn a_volume_of_a_pod_comes_and_goes_with_it() {
    let cluster = Cluster::start().await;
    let template =
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"}, "spec": {"terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}],
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]}]}});
    cluster.apply(&pod.to_string()).await;
    cluster.shows("pods/user", phase("Running")).await;
    let claims = cluster.list("persistentvolumeclaims").await;
    assert_eq!(names(&claims), ["user-scratch"]);
    assert_eq!(claims[0]["metadata"]["ownerReferences"][0]["kind"], "Pod");
    cluster.delete("pods/user").await;
    cluster.until_gone("persistentvolumeclaims/user-scratch").await;
    cluster.until_all(":persistentvolumes", |volumes| volumes.is_empty()).await;
}

#[tokio::test]
async fn a_volume_that_is_recycled_is_there_for_the_next_claim() {
    let cluster = Cluster::start().await;
    cluster.apply(&volume("v", "1Gi", json!({"persistentVolumeReclaimPolicy": "Recycle"}))).await;
    for name in ["first", "second"] {
        cluster.apply(&claim(name, json!({"storageClassName": "manual"}))).await;
        cluster.shows(&format!("persistentvolumeclaims/{name}"), phase("Bound")).await;
        cluster.delete(&format!("persistentvolumeclaims/{name}")).await;
        let volume = cluster.shows(":persistentvolumes/v", phase("Available")).await;
        assert_eq!(volume["spec"]["claimRef"], Value::Null);
    }
    cluster.until_event("PersistentVolume/v", "VolumeRecycled: Volume recycled").await;
    // One that nobody can empty is of no use to others.
    let local = json!({"hostPath": null, "local": {"path": "/tmp"}, "persistentVolumeReclaimPolicy": "Recycle",
        "storageClassName": "local", "nodeAffinity": {"required": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "Exists"}]}]}}});
    cluster.apply(&volume("local", "1Gi", local)).await;
    cluster.apply(&claim("third", json!({"storageClassName": "local"}))).await;
    cluster.shows("persistentvolumeclaims/third", phase("Bound")).await;
    cluster.delete("persistentvolumeclaims/third").await;
    let message = "No recycler plugin found for the volume!";
    cluster
        .shows(":persistentvolumes/local", json!({"status": {"phase": "Failed", "message": message}}))
        .await;
    cluster.until_event("PersistentVolume/local", &format!("VolumeFailedRecycle: {message}")).await;
}
