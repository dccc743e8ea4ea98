//! What waiting containers show and events say (pure).

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::api::go::duration;
use crate::client::events::EventType;
use crate::kubelet::observed::Ailment;
use crate::kubelet::plan::KillReason;
use crate::kubelet::pod::{full_name, image_of};
use crate::kubelet::status::Waiting;

/// `NAMESPACE/NAME`, for the daemon's log.
pub fn name_of(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!("{}/{}", meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
}

/// The `Killing` event of a container that is to end.
pub fn killing(name: &str, reason: KillReason) -> String {
    match reason {
        KillReason::PodStops => format!("Stopping container {name}"),
        KillReason::Changed => format!("Container {name} definition changed, will be restarted"),
        KillReason::Resized => format!("Container {name} resize requires restart"),
        KillReason::Ails { ailment: Ailment::PostStart, .. } => "FailedPostStartHook".to_owned(),
        KillReason::Ails { ailment: Ailment::Probe(kind), returns } => {
            let what = kind.name().to_lowercase();
            let then = if returns { ", will be restarted" } else { "" };
            format!("Container {name} failed {what} probe{then}")
        }
    }
}

/// How a container shows itself that keeps ending.
pub fn crash_loop(pod: &Pod, name: &str, delay: Duration) -> Waiting {
    let delay = duration(delay);
    Waiting {
        reason: "CrashLoopBackOff".into(),
        message: format!("back-off {delay} restarting failed container={name} pod={}", full_name(pod)),
    }
}

/// The `BackOff` event of a container that begins to wait, where there is one.
pub fn back_off_event(pod: &Pod, name: &str, waiting: &Waiting) -> Option<(EventType, String)> {
    match waiting.reason.as_str() {
        "CrashLoopBackOff" => {
            let message = format!("Back-off restarting failed container {name} in pod {}", full_name(pod));
            Some((EventType::Warning, message))
        }
        "ImagePullBackOff" => {
            Some((EventType::Normal, format!("Back-off pulling image {:?}", image_of(pod, name))))
        }
        _ => None,
    }
}
