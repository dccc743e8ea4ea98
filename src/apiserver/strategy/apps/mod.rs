//! The workloads of `apps/v1`.

mod daemonset;
mod deployment;
pub(super) mod replicaset;
mod revision;
mod statefulset;
#[cfg(test)]
pub(super) mod testing;

use super::Strategy;

/// The behaviour of a kind of the group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "ControllerRevision" => &revision::ControllerRevision,
        "DaemonSet" => &daemonset::DaemonSet,
        "Deployment" => &deployment::Deployment,
        "ReplicaSet" => &replicaset::ReplicaSet,
        "StatefulSet" => &statefulset::StatefulSet,
        _ => return None,
    })
}
