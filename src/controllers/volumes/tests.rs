//! Decisions about claims and volumes, one case a row.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::patches;
use super::plan::{self, ForClaim, ForVolume, World};
use crate::api::volumes::tie;

fn read<K: serde::de::DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn claim(change: impl FnOnce(&mut Value)) -> Arc<PersistentVolumeClaim> {
    let mut value = json!({"metadata": {"name": "data", "namespace": "d", "uid": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}});
    change(&mut value);
    read(value)
}

fn volume(change: impl FnOnce(&mut Value)) -> Arc<PersistentVolume> {
    let mut value = json!({"metadata": {"name": "v", "uid": "v"}, "status": {"phase": "Available"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}}});
    change(&mut value);
    read(value)
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode})
}

/// What is done, in a word each.
fn claims_words(actions: &[ForClaim]) -> Vec<String> {
    let word = |action: &ForClaim| match action {
        ForClaim::Bind(_) => "bind".to_owned(),
        ForClaim::Class(name) => format!("class {name}"),
        ForClaim::Pending => "pending".to_owned(),
        ForClaim::Lost(news) => format!("lost {}", news.reason),
        ForClaim::Tell(news) => format!("{}: {}", news.reason, news.message),
        ForClaim::Provisioner(name) => format!("by {name}"),
        ForClaim::Provision(_) => "provision".to_owned(),
        ForClaim::Expand(_) => "expand".to_owned(),
    };
    actions.iter().map(word).collect()
}

fn volumes_words(actions: &[ForVolume]) -> Vec<String> {
    let word = |action: &ForVolume| match action {
        ForVolume::Phase(phase) => (*phase).to_owned(),
        ForVolume::Release => "release".to_owned(),
        ForVolume::Fail(news) => format!("{}: {}", news.reason, news.message),
        ForVolume::Unbind => "unbind".to_owned(),
        ForVolume::Wait(news) => format!("wait {}: {}", news.reason, news.message),
        ForVolume::Scrub => "scrub".to_owned(),
        ForVolume::Guard(hold) => format!("guard {hold}"),
        ForVolume::RemoveData => "remove data".to_owned(),
        ForVolume::Remove => "remove".to_owned(),
    };
    actions.iter().map(word).collect()
}

#[test]
fn claims_without_a_volume() {
    let of_class = |name: &'static str| claim(move |c| c["spec"]["storageClassName"] = json!(name));
    let selected = claim(|c| {
        c["spec"]["storageClassName"] = json!("late");
        c["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "n"});
    });
    let none = claim(|c| drop(c["spec"].as_object_mut().unwrap().remove("storageClassName")));
    let named = claim(|c| c["spec"]["volumeName"] = json!("v"));
    let large = claim(|c| {
        c["spec"]["volumeName"] = json!("v");
        c["spec"]["resources"]["requests"]["storage"] = json!("9Gi");
    });
    let block = claim(|c| {
        c["spec"]["storageClassName"] = json!("standard");
        c["spec"]["volumeMode"] = json!("Block");
    });
    let mut default = class("standard", "minik.io/hostpath", "Immediate");
    default["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    let classes = [
        default,
        class("late", "k8s.io/minikube-hostpath", "WaitForFirstConsumer"),
        class("manual", "kubernetes.io/no-provisioner", "Immediate"),
        class("cloud", "cloud.example.com", "Immediate"),
    ];
    let foreign = volume(|v| v["spec"]["claimRef"] = json!({"name": "x", "namespace": "d", "uid": "x"}));
    let waiting = |provisioner: &str| {
        format!(
            "ExternalProvisioning: Waiting for a volume to be created either by the external provisioner '{provisioner}' \
             or manually by the system administrator. If volume creation is delayed, please verify that the provisioner \
             is running and correctly registered."
        )
    };
    let nothing = "FailedBinding: no persistent volumes available for this claim and no storage class is set";
    let own = "minik.io/hostpath";
    let rows: Vec<(_, Vec<_>, Vec<String>)> = vec![
        (claim(|_| {}), vec![volume(|_| {})], vec!["bind".into()]),
        (claim(|_| {}), vec![], vec![nothing.into(), "pending".into()]),
        (none, vec![], vec!["class standard".into()]),
        (named.clone(), vec![], vec!["pending".into()]),
        (named.clone(), vec![volume(|_| {})], vec!["bind".into()]),
        (
            large,
            vec![volume(|_| {})],
            vec![
                "VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small".into(),
                "pending".into(),
            ],
        ),
        (
            named,
            vec![foreign],
            vec!["FailedBinding: volume \"v\" already bound to a different claim.".into(), "pending".into()],
        ),
        (
            of_class("nothing"),
            vec![],
            vec![
                "ProvisioningFailed: storageclass.storage.k8s.io \"nothing\" not found".into(),
                "pending".into(),
            ],
        ),
        (
            of_class("manual"),
            vec![],
            vec![
                "ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner".into(),
                "pending".into(),
            ],
        ),
        (
            of_class("cloud"),
            vec![],
            vec!["by cloud.example.com".into(), waiting("cloud.example.com"), "pending".into()],
        ),
        (
            of_class("standard"),
            vec![],
            vec![format!("by {own}"), waiting(own), "provision".into(), "pending".into()],
        ),
        (
            block,
            vec![],
            vec![
                format!("by {own}"),
                waiting(own),
                "ProvisioningFailed: failed to provision volume with StorageClass \"standard\": block volumes are not supported".into(),
                "pending".into(),
            ],
        ),
        (
            of_class("late"),
            vec![volume(|v| v["spec"]["storageClassName"] = json!("late"))],
            vec![
                "WaitForFirstConsumer: waiting for first consumer to be created before binding".into(),
                "pending".into(),
            ],
        ),
        (
            selected,
            vec![],
            vec![
                "by k8s.io/minikube-hostpath".into(),
                waiting("k8s.io/minikube-hostpath"),
                "provision".into(),
                "pending".into(),
            ],
        ),
    ];
    for (claim, volumes, expected) in rows {
        let world =
            World { volumes, classes: classes.iter().cloned().map(read).collect(), ..World::default() };
        assert_eq!(claims_words(&plan::claim(&claim, &world)), expected, "{claim:?}");
    }
}

#[test]
fn a_claim_that_waits_names_the_pods_that_it_waits_for() {
    let pod = |name: &str, node: Option<&str>| {
        read(
            json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"nodeName": node, "containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}),
        )
    };
    let claim = claim(|c| c["spec"]["storageClassName"] = json!("late"));
    for (pods, expected) in [
        (vec![pod("a", None)], "WaitForPodScheduled: waiting for pod a to be scheduled"),
        (vec![pod("a", None), pod("b", None)], "WaitForPodScheduled: waiting for pods a,b to be scheduled"),
        (
            vec![pod("a", Some("n"))],
            "WaitForFirstConsumer: waiting for first consumer to be created before binding",
        ),
    ] {
        let classes = vec![read(class("late", "x", "WaitForFirstConsumer"))];
        let world = World { pods, classes, ..World::default() };
        assert_eq!(claims_words(&plan::claim(&claim, &world))[0], expected);
    }
}

#[test]
fn claims_that_had_a_volume() {
    let bound = |size: &'static str| {
        claim(move |c| {
            c["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
            c["spec"]["volumeName"] = json!("v");
            c["spec"]["resources"]["requests"]["storage"] = json!(size);
            c["status"] =
                json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]});
        })
    };
    let held = |by: Option<&'static str>, uid: &'static str| {
        volume(move |v| {
            v["spec"]["claimRef"] = json!({"name": "data", "namespace": "d", "uid": uid});
            v["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": by});
            v["status"]["phase"] = json!("Bound");
        })
    };
    let own = Some("minik.io/hostpath");
    for (claim, volume, expected) in [
        (bound("1Gi"), Some(held(own, "c")), vec!["bind"]),
        (bound("2Gi"), Some(held(own, "c")), vec!["bind", "expand"]),
        (
            bound("2Gi"),
            Some(held(Some("cloud"), "c")),
            vec!["bind", "ExternalExpanding: waiting for an external controller to expand this PVC"],
        ),
        (bound("1Gi"), None, vec!["lost ClaimLost"]),
        (bound("1Gi"), Some(held(own, "x")), vec!["lost ClaimMisbound"]),
    ] {
        let world = World { volumes: volume.iter().cloned().collect(), ..World::default() };
        assert_eq!(claims_words(&plan::claim(&claim, &world)), expected, "{volume:?}");
    }
    let (claim, volume) = (bound("1Gi"), held(own, "c"));
    assert_eq!(tie::volume(&volume, &claim), None, "what is tied is not written again");
    assert_eq!(patches::tie_claim(&claim, &volume), None);
    assert_eq!(patches::claim_status(&claim, "Bound", Some(&volume)), None);
}

#[test]
fn volumes_and_their_claims() {
    let held = |uid: &'static str, policy: &'static str, by: Option<&'static str>, phase: &'static str| {
        volume(move |v| {
            v["spec"]["claimRef"] = json!({"name": "data", "namespace": "d", "uid": uid});
            v["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
            v["status"]["phase"] = json!(phase);
            if let Some(by) = by {
                v["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": by});
            }
            if by == Some("minik.io/hostpath") && policy == "Delete" {
                v["metadata"]["finalizers"] = json!([plan::DATA_FINALIZER]);
            }
        })
    };
    let own = Some("minik.io/hostpath");
    let naming = |volume: &'static str| claim(move |c| c["spec"]["volumeName"] = json!(volume));
    let reserved = volume(|v| v["spec"]["claimRef"] = json!({"name": "data", "namespace": "d"}));
    let temporary = |path: &'static str| {
        volume(move |v| {
            v["spec"]["claimRef"] = json!({"name": "data", "namespace": "d", "uid": "c"});
            v["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
            v["spec"]["hostPath"]["path"] = json!(path);
            v["status"]["phase"] = json!("Released");
        })
    };
    for (volume, claims, expected) in [
        (volume(|v| v["status"] = json!({"phase": "Pending"})), vec![], vec!["Available"]),
        (volume(|_| {}), vec![], vec![]),
        (reserved, vec![], vec![]),
        (held("c", "Retain", None, "Available"), vec![naming("v")], vec!["Bound"]),
        (held("c", "Retain", None, "Bound"), vec![naming("v")], vec![]),
        (held("c", "Retain", None, "Bound"), vec![naming("")], vec![]),
        (held("c", "Retain", None, "Bound"), vec![naming("other")], vec!["unbind"]),
        (held("c", "Retain", None, "Bound"), vec![], vec!["release"]),
        (held("c", "Retain", None, "Released"), vec![], vec![]),
        (held("c", "Delete", own, "Bound"), vec![], vec!["release", "remove data"]),
        (held("c", "Delete", own, "Bound"), vec![naming("other")], vec!["release", "remove data"]),
        (held("c", "Retain", own, "Bound"), vec![], vec!["release"]),
        (held("c", "Delete", Some("cloud"), "Released"), vec![], vec![]),
        (temporary("/tmp/data"), vec![], vec!["remove"]),
        (
            temporary("/data"),
            vec![],
            vec!["VolumeFailedDelete: host_path deleter only supports /tmp/.+ but received provided /data"],
        ),
    ] {
        let world = World { claims, ..World::default() };
        assert_eq!(volumes_words(&plan::volume(&volume, &world)), expected, "{volume:?}");
    }
}

#[test]
fn volumes_are_scrubbed_for_others() {
    let recycled = |phase: &'static str, source: Value| {
        volume(move |v| {
            v["spec"]["claimRef"] = json!({"name": "data", "namespace": "d", "uid": "gone"});
            v["spec"]["persistentVolumeReclaimPolicy"] = json!("Recycle");
            v["status"]["phase"] = json!(phase);
            drop(v["spec"].as_object_mut().unwrap().remove("hostPath"));
            v["spec"].as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        })
    };
    let (host_path, nfs) =
        (json!({"hostPath": {"path": "/data"}}), json!({"nfs": {"server": "s", "path": "/"}}));
    let pod = |name: &str, namespace: &str, phase: &str| {
        read::<Pod>(json!({"metadata": {"name": name, "namespace": namespace}, "status": {"phase": phase},
            "spec": {"containers": [], "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}))
    };
    let pods = vec![
        pod("two", "d", "Running"),
        pod("one", "d", "Pending"),
        pod("over", "d", "Succeeded"),
        pod("other", "e", "Running"),
    ];
    let used = "wait VolumeFailedRecycle: Volume is used by pods: d/one,d/two";
    let none = "VolumeFailedRecycle: No recycler plugin found for the volume!";
    let none_of_it = json!({"local": {"path": "/data"}});
    for (volume, claims, pods, expected) in [
        (recycled("Bound", host_path.clone()), vec![], vec![], vec!["release", "scrub"]),
        (recycled("Released", host_path.clone()), vec![], vec![], vec!["scrub"]),
        (recycled("Failed", host_path.clone()), vec![], vec![], vec!["scrub"]),
        (recycled("Released", nfs), vec![], vec![], vec!["scrub"]),
        (recycled("Released", none_of_it.clone()), vec![], vec![], vec![none]),
        (recycled("Failed", none_of_it.clone()), vec![], vec![], vec![]),
        (recycled("Released", host_path.clone()), vec![], pods.clone(), vec![used]),
        (recycled("Released", none_of_it), vec![], pods.clone(), vec![used]),
        // They use the volume of the new claim.
        (recycled("Released", host_path), vec![claim(|_| {})], pods, vec!["scrub"]),
    ] {
        let world = World { claims, pods, ..World::default() };
        assert_eq!(volumes_words(&plan::volume(&volume, &world)), expected, "{volume:?}");
    }
}

#[test]
fn the_data_of_volumes_is_guarded_while_they_are_to_take_it_along() {
    let own = |policy: &'static str, finalizers: Value, deleting: bool| {
        volume(move |v| {
            v["metadata"]["annotations"] = json!({"pv.kubernetes.io/provisioned-by": "minik.io/hostpath"});
            v["metadata"]["finalizers"] = finalizers;
            v["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
            if deleting {
                v["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
        })
    };
    let guarded = json!([plan::DATA_FINALIZER]);
    for (volume, expected) in [
        (own("Delete", json!([]), false), vec!["guard true"]),
        (own("Delete", guarded.clone(), false), vec![]),
        (own("Delete", guarded.clone(), true), vec!["remove data"]),
        (own("Retain", guarded, true), vec!["guard false"]),
    ] {
        assert_eq!(volumes_words(&plan::volume(&volume, &World::default())), expected, "{volume:?}");
    }
}

#[test]
fn both_sides_of_a_binding_say_who_chose() {
    let (claim, volume) = (claim(|c| c["metadata"]["resourceVersion"] = json!("7")), volume(|_| {}));
    let tie = tie::volume(&volume, &claim).unwrap();
    assert_eq!(tie["metadata"]["annotations"], json!({"pv.kubernetes.io/bound-by-controller": "yes"}));
    assert_eq!(tie["spec"]["claimRef"]["uid"], "c");
    let tie = patches::tie_claim(&claim, &volume).unwrap();
    assert_eq!(tie["spec"], json!({"volumeName": "v"}));
    assert_eq!(
        tie["metadata"],
        json!({"resourceVersion": "7", "annotations": {"pv.kubernetes.io/bound-by-controller": "yes",
            "pv.kubernetes.io/bind-completed": "yes"}})
    );
    let status = patches::claim_status(&claim, "Bound", Some(&volume)).unwrap();
    assert_eq!(
        status["status"],
        json!({"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}})
    );
    let mut mine = PersistentVolume::clone(&volume);
    mine.spec.as_mut().unwrap().claim_ref =
        serde_json::from_value(json!({"name": "data", "namespace": "d"})).unwrap();
    let tie = tie::volume(&mine, &claim).unwrap();
    assert!(tie["metadata"].get("annotations").is_none(), "the user chose: {tie}");
    assert_eq!(
        patches::untie_volume(&mine)["spec"],
        json!({"claimRef": {"uid": null, "resourceVersion": null}})
    );
}
