//! Plans by table, and whole rollouts by playing the replica sets' part.

use jiff::Timestamp;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::DeploymentStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::plan::Plan;
use super::*;

fn deployment(spec: Value) -> Deployment {
    let mut deployment = json!({
        "metadata": {"name": "web", "namespace": "d", "uid": "u", "generation": 1},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                 "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                 "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                 "template": {"metadata": {"labels": {"app": "web"}},
                              "spec": {"containers": [{"name": "c", "image": "web:1"}]}}},
    });
    json_patch::merge(&mut deployment["spec"], &spec);
    serde_json::from_value(deployment).unwrap()
}

fn image(deployment: &mut Deployment, image: &str) {
    deployment.spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.into());
    changed(deployment);
}

fn changed(deployment: &mut Deployment) {
    *deployment.metadata.generation.as_mut().unwrap() += 1;
}

/// A deployment with the replica sets that it made, and a clock.
struct Play {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: Timestamp,
    made: i64,
    told: Vec<String>,
}

impl Play {
    fn new(spec: Value) -> Play {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Play { deployment: deployment(spec), sets: Vec::new(), now, made: 0, told: Vec::new() }
    }

    fn pass(&mut self, seconds: i64) {
        self.now += jiff::SignedDuration::from_secs(seconds);
    }

    fn plan(&self) -> Plan {
        let selector = selector(Some(&self.deployment.spec.selector)).unwrap();
        let wanted = Wanted::of(&self.deployment, &Owner::new(&self.deployment, selector));
        let sets: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        plan(&self.deployment, &wanted, &sets, |set| sets::actual(set) > 0, self.now)
    }

    /// Plans and does as planned; answers whether there was anything to do.
    fn step(&mut self) -> bool {
        let plan = self.plan();
        let idle = plan.steps.is_empty() && Some(&plan.status) == self.deployment.status.as_ref();
        for step in plan.steps {
            match step {
                Step::Create(set) => {
                    self.made += 1;
                    let mut set = *set;
                    set.metadata.uid = Some(self.made.to_string());
                    set.metadata.generation = Some(1);
                    set.metadata.creation_timestamp = Some(Time(Timestamp::from_second(self.made).unwrap()));
                    self.told.push(format!("+{}", replicas(&set)));
                    self.sets.push(set);
                }
                Step::Update { mut set, from } => {
                    if from != replicas(&set) {
                        self.told.push(format!("{from}>{}", replicas(&set)));
                    }
                    *set.metadata.generation.as_mut().unwrap() += 1;
                    let uid = set.metadata.uid.clone();
                    *self.sets.iter_mut().find(|old| old.metadata.uid == uid).unwrap() = *set;
                }
                Step::Delete(gone) => self.sets.retain(|set| set.metadata.uid != gone.metadata.uid),
            }
        }
        self.deployment.status = Some(plan.status);
        let annotations = self.deployment.metadata.annotations.get_or_insert_default();
        annotations.extend(plan.revision.map(|revision| (revision::REVISION.to_owned(), revision)));
        !idle
    }

    /// Has the pods of every replica set become as many as it wants; `healthy` says which of them become available.
    fn work(&mut self, healthy: impl Fn(&ReplicaSet) -> bool) {
        self.work_on(|_| true, healthy);
    }

    /// The same, where the pods of some replica sets alone are looked after meanwhile.
    fn work_on(&mut self, whose: impl Fn(&ReplicaSet) -> bool, healthy: impl Fn(&ReplicaSet) -> bool) {
        for set in self.sets.iter_mut().filter(|set| whose(set)) {
            let good = healthy(set);
            let count = replicas(set);
            let generation = set.metadata.generation;
            let status = set.status.get_or_insert_default();
            let before = status.available_replicas.unwrap_or(0);
            let available = Some(if good { count } else { before.min(count) });
            status.replicas = count;
            status.ready_replicas = available;
            status.available_replicas = available;
            status.observed_generation = generation;
        }
    }

    /// Goes on until nothing happens any more.
    fn settle(&mut self) {
        for _ in 0..200 {
            let mut any = self.step();
            let before = self.sets.clone();
            self.work(|_| true);
            any |= before != self.sets;
            if !any {
                return;
            }
        }
        panic!("it never ends: {:?}", self.told);
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(replicas).collect()
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let conditions = self.deployment.status.as_ref().unwrap().conditions.as_ref().unwrap();
        let found = conditions.iter().find(|c| c.type_.as_deref() == Some(kind)).unwrap().clone();
        (found.status.unwrap(), found.reason.unwrap(), found.message.unwrap())
    }

    fn progress(&self) -> String {
        self.condition("Progressing").1
    }

    fn annotation(&self, set: usize, key: &str) -> Option<&str> {
        self.sets[set].metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }
}

#[test]
fn the_first_replica_set_gets_everything() {
    let mut play = Play::new(json!({"minReadySeconds": 2}));
    play.deployment.metadata.annotations =
        Some([("kubernetes.io/change-cause".to_owned(), "first".to_owned())].into());
    assert!(play.step());
    let set = serde_json::to_value(&play.sets[0]).unwrap();
    let hash = set["metadata"]["labels"]["pod-template-hash"].as_str().unwrap();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(
        set["metadata"]["annotations"],
        json!({"deployment.kubernetes.io/desired-replicas": "3", "deployment.kubernetes.io/max-replicas": "4",
               "deployment.kubernetes.io/revision": "1", "kubernetes.io/change-cause": "first"})
    );
    assert_eq!(set["metadata"]["ownerReferences"][0]["kind"], "Deployment");
    assert_eq!(set["spec"]["selector"]["matchLabels"], json!({"app": "web", "pod-template-hash": hash}));
    assert_eq!(set["spec"]["template"]["metadata"]["labels"], set["metadata"]["labels"]);
    assert_eq!((&set["spec"]["replicas"], &set["spec"]["minReadySeconds"]), (&json!(3), &json!(2)));
    assert_eq!(play.progress(), "NewReplicaSetCreated");
    let name = play.sets[0].metadata.name.clone().unwrap();
    assert_eq!(play.condition("Progressing").2, format!("Created new replica set {name:?}"));
    assert_eq!(play.condition("Available").1, "MinimumReplicasUnavailable");
    play.settle();
    let (status, reason, message) = play.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NewReplicaSetAvailable"));
    assert_eq!(message, format!("ReplicaSet {name:?} has successfully progressed."));
    assert_eq!(play.condition("Available").2, "Deployment has minimum availability.");
    let mut status = serde_json::to_value(play.deployment.status.as_ref().unwrap()).unwrap();
    status.as_object_mut().unwrap().remove("conditions");
    assert_eq!(
        status,
        json!({"observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "readyReplicas": 3,
               "availableReplicas": 3, "terminatingReplicas": 0})
    );
    assert_eq!(play.plan().next, None);
}

#[test]
fn rolling_updates_keep_their_promise() {
    let parts = [json!(0), json!(1), json!(3), json!("25%"), json!("100%")];
    for count in [1, 2, 3, 4, 10] {
        for (surge, unavailable) in parts.iter().flat_map(|surge| parts.iter().map(move |down| (surge, down)))
        {
            let mut play = Play::new(json!({"replicas": count, "strategy": {"rollingUpdate": {
                "maxSurge": surge, "maxUnavailable": unavailable}}}));
            play.settle();
            image(&mut play.deployment, "web:2");
            let owner = Owner::new(&play.deployment, Default::default());
            let wanted = Wanted::of(&play.deployment, &owner);
            for round in 0..200 {
                play.step();
                let total: i32 = play.sets.iter().map(replicas).sum();
                let least = count - wanted.max_unavailable();
                // Of pods that go, those that are available go last.
                let available: i32 =
                    play.sets.iter().map(|set| sets::available(set).min(replicas(set))).sum();
                let what = format!("{count} +{surge} -{unavailable}: {:?}", play.told);
                assert!(total <= wanted.most() && available >= least, "{what}");
                // What was told to shrink may be late to say that it did.
                let old = |set: &ReplicaSet| set.metadata.uid.as_deref() == Some("1");
                play.work_on(|set| round % 3 == 2 || !old(set), |_| true);
            }
            assert_eq!(play.sizes(), [0, count], "{count} +{surge} -{unavailable}: {:?}", play.told);
            assert_eq!(play.progress(), "NewReplicaSetAvailable");
        }
    }
}

#[test]
fn the_steps_of_a_rolling_update() {
    for (spec, steps) in [
        (json!({"replicas": 3}), &["+3", "+1", "3>2", "1>2", "2>1", "2>3", "1>0"][..]),
        (json!({"replicas": 4}), &["+4", "+1", "4>3", "1>2", "3>1", "2>4", "1>0"]),
        (
            json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}),
            &["+3", "+0", "3>2", "0>1", "2>1", "1>2", "1>0", "2>3"],
        ),
        (json!({"strategy": {"type": "Recreate", "rollingUpdate": null}}), &["+3", "3>0", "+3"]),
    ] {
        let mut play = Play::new(spec.clone());
        play.settle();
        image(&mut play.deployment, "web:2");
        play.settle();
        assert_eq!(play.told, steps, "{spec}");
    }
}

#[test]
fn old_pods_end_before_new_ones_are_made() {
    let mut play = Play::new(json!({"strategy": {"type": "Recreate", "rollingUpdate": null}}));
    play.settle();
    image(&mut play.deployment, "web:2");
    play.step();
    assert_eq!(play.sizes(), [0]);
    // Its pods are still there.
    play.step();
    assert_eq!(play.sizes(), [0]);
    play.work(|_| true);
    play.step();
    assert_eq!(play.sizes(), [0, 3]);
}

#[test]
fn history_is_numbered_and_limited() {
    let mut play = Play::new(json!({"revisionHistoryLimit": 2}));
    play.settle();
    for n in 2..=5 {
        image(&mut play.deployment, &format!("web:{n}"));
        play.settle();
    }
    assert_eq!(play.sizes(), [0, 0, 3]);
    let numbers = |play: &Play| -> Vec<String> {
        (0..play.sets.len()).map(|n| play.annotation(n, revision::REVISION).unwrap().to_owned()).collect()
    };
    assert_eq!(numbers(&play), ["3", "4", "5"]);
    // Back to an earlier template, as clients that write what is empty send it.
    image(&mut play.deployment, "web:3");
    play.deployment.spec.template.spec.as_mut().unwrap().tolerations = Some(Vec::new());
    play.settle();
    assert_eq!(numbers(&play), ["6", "4", "5"]);
    assert_eq!(play.annotation(0, "deployment.kubernetes.io/revision-history"), Some("3"));
    assert_eq!(play.deployment.metadata.annotations.as_ref().unwrap()[revision::REVISION], "6");
    assert_eq!(play.sizes(), [3, 0, 0]);
}

#[test]
fn a_held_deployment_is_scaled_but_not_changed() {
    let mut play = Play::new(json!({}));
    play.settle();
    play.deployment.spec.paused = Some(true);
    image(&mut play.deployment, "web:2");
    play.deployment.spec.replicas = Some(5);
    play.settle();
    assert_eq!(play.sizes(), [5]);
    assert_eq!(play.condition("Progressing").2, "Deployment is paused");
    play.deployment.spec.paused = Some(false);
    changed(&mut play.deployment);
    play.step();
    assert_eq!(play.progress(), "NewReplicaSetCreated");
    play.settle();
    assert_eq!(play.sizes(), [0, 5]);
}

#[test]
fn sizes_change_in_proportion_while_an_update_is_stuck() {
    let mut play = Play::new(json!({"replicas": 10,
        "strategy": {"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}}));
    play.settle();
    image(&mut play.deployment, "broken");
    for _ in 0..5 {
        play.step();
        play.work(|set| set.metadata.uid.as_deref() == Some("1"));
    }
    assert_eq!(play.sizes(), [8, 5]);
    // The example of Kubernetes' documentation.
    play.deployment.spec.replicas = Some(15);
    changed(&mut play.deployment);
    play.step();
    assert_eq!(play.sizes(), [11, 7]);
    play.deployment.spec.replicas = Some(0);
    changed(&mut play.deployment);
    play.step();
    assert_eq!(play.sizes(), [0, 0]);
}

#[test]
fn lack_of_progress_is_told_in_time() {
    let mut play = Play::new(json!({"progressDeadlineSeconds": 60}));
    play.settle();
    image(&mut play.deployment, "broken");
    for _ in 0..5 {
        play.step();
        play.work(|set| set.metadata.uid.as_deref() == Some("1"));
    }
    assert_eq!(play.progress(), "ReplicaSetUpdated");
    let at = play.plan().next.unwrap();
    assert_eq!(at, play.now + jiff::SignedDuration::from_secs(60));
    play.pass(59);
    assert!(!play.step());
    play.pass(1);
    assert!(play.step());
    let (status, reason, message) = play.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ProgressDeadlineExceeded"));
    let name = play.sets[1].metadata.name.clone().unwrap();
    assert_eq!(message, format!("ReplicaSet {name:?} has timed out progressing."));
    assert_eq!(play.plan().next, None);
    // The way back is progress.
    image(&mut play.deployment, "web:1");
    play.settle();
    assert_eq!((play.sizes(), play.progress()), (vec![3, 0], "NewReplicaSetAvailable".into()));
}

/// Else it would be looked at without end.
#[test]
fn what_was_complete_has_no_deadline_any_more() {
    let mut play = Play::new(json!({"progressDeadlineSeconds": 60}));
    play.settle();
    play.pass(61);
    play.sets[0].status.as_mut().unwrap().available_replicas = Some(2);
    play.step();
    assert_eq!((play.plan().next, play.progress()), (None, "NewReplicaSetAvailable".into()));
}

#[test]
fn failures_of_replica_sets_are_repeated() {
    let mut play = Play::new(json!({}));
    play.step();
    play.sets[0].status = serde_json::from_value(json!({"replicas": 1, "conditions": [
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota",
         "lastTransitionTime": "2026-01-01T00:00:00Z"}]}))
    .unwrap();
    play.step();
    assert_eq!(play.condition("ReplicaFailure"), ("True".into(), "FailedCreate".into(), "quota".into()));
    play.sets[0].status = None;
    play.settle();
    let conditions = play.deployment.status.as_ref().unwrap().conditions.as_ref().unwrap();
    assert!(conditions.iter().all(|c| c.type_.as_deref() != Some("ReplicaFailure")));
}

#[test]
fn without_a_deadline_nothing_is_said_of_progress() {
    let mut play = Play::new(json!({"progressDeadlineSeconds": i32::MAX}));
    play.settle();
    let types: Vec<_> = play.deployment.status.as_ref().unwrap().conditions.iter().flatten().collect();
    assert_eq!(types.len(), 1);
    // One that goes changes nothing but what it says.
    play.deployment.metadata.deletion_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().unwrap()));
    image(&mut play.deployment, "web:2");
    assert!(play.plan().steps.is_empty());
    assert_ne!(play.plan().status, DeploymentStatus::default());
}

#[test]
fn a_taken_name_leads_to_another() {
    let mut play = Play::new(json!({}));
    play.step();
    let mut other = Play::new(json!({}));
    other.deployment.status =
        Some(DeploymentStatus { collision_count: Some(1), ..DeploymentStatus::default() });
    other.step();
    assert_ne!(play.sets[0].metadata.name, other.sets[0].metadata.name);
    assert_eq!(other.deployment.status.unwrap().collision_count, Some(1));
}
