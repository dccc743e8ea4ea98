//! The kinds of `autoscaling`.

mod hpa;
mod metrics;
mod scale;

use super::Strategy;

/// The behaviour of a kind of the group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "HorizontalPodAutoscaler" => Some(&hpa::HorizontalPodAutoscaler),
        "Scale" => Some(&scale::Scale),
        _ => None,
    }
}
