//! The replica sets of a deployment as they are to become: the one of the present template, and older ones. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use super::super::owned::hash;
use super::revision;
use super::wanted::Wanted;

/// The label by which the pods of different templates are told apart.
pub const HASH: &str = "pod-template-hash";
/// How many pods the deployment wanted when it last scaled a replica set.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// How many it would have had at most.
pub const MOST: &str = "deployment.kubernetes.io/max-replicas";

/// What has to happen to a replica set.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It must be made.
    Create(Box<ReplicaSet>),
    /// It must become so.
    Update {
        /// The new form.
        set: Box<ReplicaSet>,
        /// How many pods it wants so far.
        from: i32,
    },
    /// It must go.
    Delete(Arc<ReplicaSet>),
}

/// A replica set with what was planned for it.
#[derive(Debug, Clone)]
pub struct Set {
    /// What there is of it.
    pub present: Option<Arc<ReplicaSet>>,
    /// What it is to be.
    pub next: ReplicaSet,
    /// Whether it is to go.
    pub gone: bool,
}

/// All replica sets of a deployment, oldest first.
#[derive(Debug, Clone)]
pub struct Sets {
    all: Vec<Set>,
    newest: Option<usize>,
}

/// How many pods a replica set wants.
pub fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

/// How many it has.
pub fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// How many of them are ready.
pub fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0)
}

/// How many of them are available.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// How many of its pods are on their way out.
pub fn terminating(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.terminating_replicas).unwrap_or(0)
}

/// Its name.
pub fn name(set: &ReplicaSet) -> &str {
    set.metadata.name.as_deref().unwrap_or("")
}

/// A number in one of its annotations.
pub fn number(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

/// Older first.
pub fn by_age(a: &ReplicaSet, b: &ReplicaSet) -> Ordering {
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.clone();
    created(a).cmp(&created(b)).then_with(|| name(a).cmp(name(b)))
}

/// Whether two templates mean the same, apart from the label that is only for telling them apart.
pub fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    plain(a) == plain(b)
}

/// What a template means.
fn plain(template: &PodTemplateSpec) -> Value {
    let mut value = serde_json::to_value(template).unwrap_or_default();
    if let Some(labels) = value.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH);
    }
    hash::canonical(&value)
}

impl Sets {
    /// What there is of a deployment.
    pub fn new(wanted: &Wanted, present: &[Arc<ReplicaSet>]) -> Sets {
        let mut present = present.to_vec();
        present.sort_by(|a, b| by_age(a, b));
        let template = plain(&wanted.template);
        let is_new =
            |set: &Arc<ReplicaSet>| set.spec.template.as_ref().is_some_and(|other| plain(other) == template);
        // Should there be several, the oldest one counts.
        let newest = present.iter().position(is_new);
        let set = |set: Arc<ReplicaSet>| Set { next: (*set).clone(), present: Some(set), gone: false };
        Sets { all: present.into_iter().map(set).collect(), newest }
    }

    /// The one of the present template.
    pub fn newest(&self) -> Option<&ReplicaSet> {
        self.newest.map(|index| &self.all[index].next)
    }

    /// The same, to be changed.
    pub fn newest_mut(&mut self) -> Option<&mut ReplicaSet> {
        self.newest.map(|index| &mut self.all[index].next)
    }

    /// The others, oldest first.
    pub fn old(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.all.iter().enumerate().filter(|(index, _)| Some(*index) != self.newest).map(|(_, set)| &set.next)
    }

    /// The others, to be changed.
    pub fn old_mut(&mut self) -> impl Iterator<Item = &mut Set> {
        let newest = self.newest;
        self.all.iter_mut().enumerate().filter(move |(index, _)| Some(*index) != newest).map(|(_, set)| set)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.all.iter().map(|set| &set.next)
    }

    /// All of them, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut ReplicaSet> {
        self.all.iter_mut().map(|set| &mut set.next)
    }

    /// How many pods they want together.
    pub fn total(&self) -> i32 {
        self.all().map(replicas).sum()
    }

    /// Adds the one of the present template, which does not exist.
    pub fn add_newest(&mut self, wanted: &Wanted, annotations: &BTreeMap<String, String>) {
        let mut set = make(wanted);
        let number = revision::latest(self.old()) + 1;
        revision::stamp(&mut set, annotations, number);
        self.all.push(Set { present: None, next: set, gone: false });
        self.newest = Some(self.all.len() - 1);
    }

    /// What leads from what there is to what was planned: first the newest one, then the others.
    pub fn steps(mut self) -> Vec<Step> {
        if let Some(newest) = self.newest {
            self.all[..=newest].rotate_right(1);
        }
        let step = |set: Set| match set.present {
            None => Some(Step::Create(Box::new(set.next))),
            Some(present) if set.gone => Some(Step::Delete(present)),
            Some(present) if *present != set.next => {
                Some(Step::Update { from: replicas(&present), set: Box::new(set.next) })
            }
            Some(_) => None,
        };
        self.all.into_iter().filter_map(step).collect()
    }
}

/// A replica set of the present template, without pods.
fn make(wanted: &Wanted) -> ReplicaSet {
    let hash = hash::of_template(&wanted.template, wanted.collisions);
    let mut template = wanted.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = wanted.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(set_name(&wanted.name, &hash)),
            namespace: Some(wanted.namespace.clone()),
            labels: Some(labels),
            owner_references: Some(vec![wanted.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: Some(wanted.min_ready_seconds).filter(|seconds| *seconds != 0),
            selector,
            template: Some(template),
        },
        status: None,
    }
}

/// `DEPLOYMENT-HASH`, within the length of a name.
fn set_name(deployment: &str, hash: &str) -> String {
    const LONGEST: usize = 253;
    let room = LONGEST.saturating_sub(hash.len() + 1);
    let prefix = deployment.get(..room.min(deployment.len())).unwrap_or(deployment);
    format!("{prefix}-{hash}")
}
