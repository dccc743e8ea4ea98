//! What a deployment asks for, read once. Pure.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::owned::Owner;
use super::super::owned::amount::{self, Rounding};

/// How pods are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// All old ones go before a new one comes.
    Recreate,
    /// So many more than wanted, and so many fewer, at any time.
    Rolling {
        /// More.
        surge: i32,
        /// Fewer.
        unavailable: i32,
    },
}

/// What a deployment asks for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How its replica sets refer to it.
    pub owner: OwnerReference,
    /// How often it has changed.
    pub generation: i64,
    /// Whether it is on its way out.
    pub deleting: bool,
    /// So many pods.
    pub replicas: i32,
    /// How they are replaced.
    pub strategy: Strategy,
    /// That have been ready for so long before they count.
    pub min_ready_seconds: i32,
    /// Whether changes of the template wait.
    pub paused: bool,
    /// After how many seconds without progress something must be wrong.
    pub deadline: Option<i32>,
    /// How many old replica sets are kept.
    pub history: Option<usize>,
    /// Which pods belong to it.
    pub selector: LabelSelector,
    /// What they are made from.
    pub template: PodTemplateSpec,
    /// How often the name of a new replica set was taken.
    pub collisions: Option<i32>,
}

impl Wanted {
    /// Reads a deployment.
    pub fn of(deployment: &Deployment, owner: &Owner) -> Wanted {
        let spec = deployment.spec.clone();
        let replicas = spec.replicas.unwrap_or(1);
        // The greatest number says "never".
        let limited = |number: Option<i32>| number.filter(|number| *number != i32::MAX);
        Wanted {
            name: owner.name().to_owned(),
            namespace: owner.namespace.clone(),
            owner: owner.reference.clone(),
            generation: deployment.metadata.generation.unwrap_or(0),
            deleting: owner.deleting,
            replicas,
            strategy: strategy(&spec, replicas),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            paused: spec.paused.unwrap_or(false),
            deadline: limited(spec.progress_deadline_seconds),
            history: limited(spec.revision_history_limit).and_then(|limit| usize::try_from(limit).ok()),
            selector: spec.selector,
            template: spec.template,
            collisions: deployment.status.as_ref().and_then(|status| status.collision_count),
        }
    }

    /// How many pods there may be beyond those wanted.
    pub fn max_surge(&self) -> i32 {
        match self.strategy {
            Strategy::Rolling { surge, .. } => surge,
            Strategy::Recreate => 0,
        }
    }

    /// How many of the wanted pods may be missing.
    pub fn max_unavailable(&self) -> i32 {
        match self.strategy {
            Strategy::Rolling { unavailable, .. } => unavailable.min(self.replicas),
            Strategy::Recreate => 0,
        }
    }

    /// How many pods there may be at all.
    pub fn most(&self) -> i32 {
        self.replicas.saturating_add(self.max_surge())
    }
}

fn strategy(spec: &DeploymentSpec, replicas: i32) -> Strategy {
    let said = spec.strategy.clone().unwrap_or_default();
    if said.type_.as_deref() == Some("Recreate") {
        return Strategy::Recreate;
    }
    let rolling = said.rolling_update.unwrap_or_default();
    let quarter = || IntOrString::String("25%".into());
    let read = |value: Option<IntOrString>, rounding| {
        amount::of(&value.unwrap_or_else(quarter), replicas, rounding).unwrap_or(0)
    };
    let surge = read(rolling.max_surge, Rounding::Up);
    match read(rolling.max_unavailable, Rounding::Down) {
        // Small numbers may round to none of either, and then nothing could move.
        0 if surge == 0 => Strategy::Rolling { surge, unavailable: 1 },
        unavailable => Strategy::Rolling { surge, unavailable },
    }
}
