//! The kinds of `policy/v1`.

mod disruption;

use super::Strategy;

/// The behaviour of a kind of the group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "PodDisruptionBudget" => Some(&disruption::PodDisruptionBudget),
        _ => None,
    }
}
