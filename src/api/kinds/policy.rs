//! The group of rules about disruptions.

use super::{GroupVersion, Kind};

const V1: GroupVersion = GroupVersion { group: "policy", version: "v1", types: "io.k8s.api.policy.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![V1.namespaced("PodDisruptionBudget", "poddisruptionbudgets").short("pdb").with_status()]
}
