//! The group of workloads that end.

use super::{GroupVersion, Kind};

const V1: GroupVersion = GroupVersion { group: "batch", version: "v1", types: "io.k8s.api.batch.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        V1.namespaced("CronJob", "cronjobs").short("cj").in_all().with_status(),
        V1.namespaced("Job", "jobs").in_all().with_status(),
    ]
}
