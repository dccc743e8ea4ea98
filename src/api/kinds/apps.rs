//! The group of workloads that run for ever.

use super::{GroupVersion, Kind};

const V1: GroupVersion = GroupVersion { group: "apps", version: "v1", types: "io.k8s.api.apps.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.namespaced("ControllerRevision", "controllerrevisions"),
        V1.namespaced("DaemonSet", "daemonsets").short("ds").in_all().with_status(),
        V1.namespaced("Deployment", "deployments").short("deploy").in_all().with_scale().with_status(),
        V1.namespaced("ReplicaSet", "replicasets").short("rs").in_all().with_scale().with_status(),
        V1.namespaced("StatefulSet", "statefulsets").short("sts").in_all().with_scale().with_status(),
    ]
}
