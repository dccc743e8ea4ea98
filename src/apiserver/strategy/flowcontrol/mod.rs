//! `flowcontrol.apiserver.k8s.io`: which requests wait for which others.

mod level;
mod schema;

use super::Strategy;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "FlowSchema" => &schema::FlowSchema,
        "PriorityLevelConfiguration" => &level::PriorityLevel,
        _ => return None,
    })
}
