//! The group of autoscalers; version 1 shows the same objects in an older form.

use super::{GroupVersion, Kind};

const V2: GroupVersion =
    GroupVersion { group: "autoscaling", version: "v2", types: "io.k8s.api.autoscaling.v2" };
const V1: GroupVersion =
    GroupVersion { group: "autoscaling", version: "v1", types: "io.k8s.api.autoscaling.v1" };

pub(super) fn kinds() -> Vec<Kind> {
    [V2, V1]
        .iter()
        .map(|version| {
            let autoscaler = version.namespaced("HorizontalPodAutoscaler", "horizontalpodautoscalers");
            autoscaler.short("hpa").in_all().with_status()
        })
        .collect()
}

pub(super) fn scale() -> Kind {
    V1.namespaced("Scale", "scales")
}
