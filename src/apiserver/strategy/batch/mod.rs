//! The kinds of `batch/v1`.

mod cronjob;
mod job;

use super::Strategy;

/// The behaviour of a kind of the group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    Some(match kind {
        "CronJob" => &cronjob::CronJob,
        "Job" => &job::Job,
        _ => return None,
    })
}
