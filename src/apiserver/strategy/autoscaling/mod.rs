//! The kinds of `autoscaling`.

mod hpa;
mod metrics;

use super::Strategy;

/// The behaviour of a kind of the group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "HorizontalPodAutoscaler" => Some(&hpa::HorizontalPodAutoscaler),
        _ => None,
    }
}
