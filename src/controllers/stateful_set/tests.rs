//! What is planned for stateful sets, case by case.

use super::*;

/// A set of three places, with defaults as the server sets them.
fn set(spec: Value) -> StatefulSet {
    let mut set = json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "set", "generation": 4},
        "spec": {"replicas": 3, "podManagementPolicy": "OrderedReady", "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}}, "serviceName": "web",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    json_patch::merge(&mut set["spec"], &spec);
    serde_json::from_value(set).unwrap()
}

/// A pod by its ordinal and some words: `old` of the revision before; `unready`; `pending`; `failed`; `leaving`;
/// `fresh` ready for five seconds.
fn pod(words: &str) -> Arc<Pod> {
    let mut words = words.split(' ');
    let name = format!("web-{}", words.next().unwrap());
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name,
            "labels": {"app": "web", pod::POD_NAME: name, pod::REVISION: "web-new"}},
        "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    for word in words {
        match word {
            "old" => pod["metadata"]["labels"][pod::REVISION] = json!("web-old"),
            "bare" => pod["metadata"]["labels"] = json!({"app": "web", pod::REVISION: "web-new"}),
            "leaving" => pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            "unready" => pod["status"]["conditions"][0]["status"] = json!("False"),
            "fresh" => pod["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:59:55Z"),
            "pending" => pod["status"] = json!({"phase": "Pending"}),
            "failed" => pod["status"]["phase"] = json!("Failed"),
            _ => panic!("{word}"),
        }
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// Looks at a set with these pods and claims.
fn looked<T>(set: &StatefulSet, pods: &[&str], claims: &[Value], look: impl Fn(&Observed<'_>) -> T) -> T {
    let owner = Owner::new(set, selector(None).unwrap());
    let pods: Vec<Arc<Pod>> = pods.iter().map(|words| pod(words)).collect();
    let claims = claims.iter().map(|claim| {
        let claim: PersistentVolumeClaim = serde_json::from_value(claim.clone()).unwrap();
        (claim.metadata.name.clone().unwrap(), Arc::new(claim))
    });
    let (claims, now) = (claims.collect(), "2026-01-01T01:00:00Z".parse().unwrap());
    let spec = &set.spec;
    look(&Observed {
        owner: &owner,
        spec,
        current: "web-old",
        update: "web-new",
        pods: &pods,
        claims: &claims,
        now,
    })
}

/// The steps: `+2` makes a pod of the new revision, `+2old` of the one before, `-2` deletes, `c2` makes claims, `l2`
/// labels, `o2` sets owners.
fn steps(spec: Value, pods: &[&str], claims: &[Value]) -> String {
    let number = |pod: &Pod| pod.metadata.name.clone().unwrap().replace("web-", "");
    let step = |action: &Action| match action {
        Action::Create { ordinal, updated } => format!("+{ordinal}{}", if *updated { "" } else { "old" }),
        Action::Claims(pod) => format!("c{}", number(pod)),
        Action::Label(pod) => format!("l{}", number(pod)),
        Action::Owners(pod) => format!("o{}", number(pod)),
        Action::Delete(pod) => format!("-{}", number(pod)),
    };
    looked(&set(spec), pods, claims, |seen| plan(seen).iter().map(step).collect::<Vec<_>>().join(" "))
}

#[test]
fn places_are_filled_in_order() {
    for (spec, pods, expected) in [
        (json!({}), &[][..], "+0"),
        (json!({}), &["0 pending"], ""),
        (json!({}), &["0 unready"], ""),
        (json!({}), &["0"], "+1"),
        (json!({}), &["0", "2"], "+1"),
        (json!({}), &["0", "1", "2"], ""),
        (json!({"minReadySeconds": 10}), &["0 fresh"], ""),
        (json!({"minReadySeconds": 3}), &["0 fresh"], "+1"),
        (json!({}), &["0 leaving", "1"], ""),
        (json!({}), &["0 failed", "1"], "-0"),
        (json!({}), &["0 failed leaving", "1"], ""),
        (json!({}), &["0 bare"], "l0 +1"),
        (json!({"ordinals": {"start": 5}}), &["5"], "+6"),
        (json!({"podManagementPolicy": "Parallel"}), &["1 unready"], "+0 +2"),
        (json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}), &["0 old"], "+1old"),
        (json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}}), &["0 old"], "+1"),
    ] {
        assert_eq!(steps(spec.clone(), pods, &[]), expected, "{spec} {pods:?}");
    }
}

#[test]
fn the_last_goes_first() {
    for (spec, pods, expected) in [
        (json!({"replicas": 1}), &["0", "1", "2"][..], "-2"),
        (json!({"replicas": 1}), &["0", "1", "2 leaving"], ""),
        (json!({"replicas": 1}), &["0", "1 unready", "2"], "-2"),
        (json!({"replicas": 1}), &["0", "1 unready", "2 unready"], ""),
        (json!({"replicas": 1}), &["0", "1", "2 unready"], "-2"),
        (json!({"replicas": 1}), &["0 unready", "1"], ""),
        (json!({"replicas": 0, "podManagementPolicy": "Parallel"}), &["0", "1 unready"], "-1 -0"),
        (json!({"replicas": 1, "ordinals": {"start": 1}}), &["0", "1"], "-0"),
    ] {
        assert_eq!(steps(spec.clone(), pods, &[]), expected, "{spec} {pods:?}");
    }
}

#[test]
fn updates_roll_from_the_last() {
    let rolling = |rolling: Value, policy: &str| json!({"updateStrategy": {"rollingUpdate": rolling}, "podManagementPolicy": policy});
    let (ordered, parallel) = ("OrderedReady", "Parallel");
    let old = ["0 old", "1 old", "2 old"];
    for (spec, pods, expected) in [
        (json!({}), &old[..], "-2"),
        (json!({}), &["0 old", "1 old", "2 leaving old"], ""),
        (json!({}), &["0 old", "1 old", "2 unready"], ""),
        (json!({}), &["0 old", "1 old", "2"], "-1"),
        (json!({"updateStrategy": {"type": "OnDelete"}}), &old, ""),
        (rolling(json!({"partition": 2}), ordered), &["0 old", "1 old", "2"], ""),
        (rolling(json!({"maxUnavailable": 2}), ordered), &old, "-2 -1"),
        (rolling(json!({"maxUnavailable": "70%"}), ordered), &old, "-2 -1"),
        (rolling(json!({"maxUnavailable": "1%"}), ordered), &old, "-2"),
        (rolling(json!({}), parallel), &["0 old", "1 old unready", "2 old"], "-1"),
        (rolling(json!({"maxUnavailable": 2}), parallel), &["0 old unready", "1 old", "2 old"], "-0 -2"),
        (rolling(json!({}), parallel), &["0 old", "1 old", "2 unready"], ""),
    ] {
        assert_eq!(steps(spec.clone(), pods, &[]), expected, "{spec} {pods:?}");
    }
}

#[test]
fn claims_come_with_pods_and_go_by_their_owners() {
    let with = |policy: Value, replicas: i32| {
        json!({"replicas": replicas, "volumeClaimTemplates": [{"metadata": {"name": "data"}}],
            "persistentVolumeClaimRetentionPolicy": policy})
    };
    let claim = |ordinal: i32, owners: Value| json!({"metadata": {"name": format!("data-web-{ordinal}"), "ownerReferences": owners}});
    let pod_owner = |uid: &str| json!([{"apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": uid}]);
    let scaled = json!({"whenScaled": "Delete"});
    assert_eq!(steps(with(Value::Null, 2), &["0", "1 pending"], &[claim(0, Value::Null)]), "c1");
    let both = [claim(0, Value::Null), claim(1, Value::Null)];
    assert_eq!(steps(with(scaled.clone(), 1), &["0", "1"], &both), "o1 -1");
    // A claim that is to go with the pod before it must be gone first.
    let stale = [claim(0, Value::Null), claim(1, pod_owner("before"))];
    assert_eq!(steps(with(scaled.clone(), 2), &["0"], &stale), "");
    assert_eq!(steps(with(Value::Null, 2), &["0"], &stale), "+1");
    // A place that is there again keeps its claim.
    assert_eq!(
        steps(with(scaled, 2), &["0", "1"], &[claim(0, Value::Null), claim(1, pod_owner("web-1"))]),
        "o1"
    );
}

#[test]
fn the_status_counts_pods_and_revisions() {
    let shown = |spec: Value, pods: &[&str]| {
        let set = set(spec);
        let status = looked(&set, pods, &[], |seen| seen.status(&set, 0));
        let counts = [status.current_replicas, status.updated_replicas, status.ready_replicas];
        let [current, updated, ready] = counts.map(|count| count.unwrap_or(0));
        assert_eq!((status.observed_generation, status.collision_count), (Some(4), Some(0)));
        assert_eq!(status.update_revision.as_deref(), Some("web-new"));
        let revision = status.current_revision.unwrap();
        format!(
            "{} {current} {updated} {ready} {} {revision}",
            status.replicas,
            status.available_replicas.unwrap()
        )
    };
    // All, of the current and the updated revision, ready, available, and the current revision.
    assert_eq!(shown(json!({}), &[]), "0 0 0 0 0 web-old");
    assert_eq!(shown(json!({}), &["0 old", "1 old unready", "2"]), "3 2 1 2 2 web-old");
    assert_eq!(shown(json!({}), &["0 old", "1 leaving", "2 pending"]), "3 1 1 2 2 web-old");
    assert_eq!(shown(json!({"minReadySeconds": 10}), &["0", "1", "2 fresh"]), "3 3 3 3 2 web-new");
    assert_eq!(shown(json!({"updateStrategy": {"type": "OnDelete"}}), &["0", "1", "2"]), "3 0 3 3 3 web-old");
}

#[test]
fn a_set_that_goes_does_nothing() {
    let mut set = set(json!({}));
    set.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    assert!(looked(&set, &["0 failed"], &[], |seen| plan(seen).is_empty()));
}
