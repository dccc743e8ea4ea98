//! When a cron job is to make a job, and when it will again (Kubernetes `pkg/controller/cronjob/utils.go`). Pure.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec};

use crate::api::cron::Schedule;

/// More missed times than this are told.
const MANY: i64 = 100;
/// How long after its time a cron job is looked at, so that the time has surely come.
const DELTA: SignedDuration = SignedDuration::from_millis(100);

/// The times of a cron job.
#[derive(Debug)]
pub(super) struct Times {
    schedule: Schedule,
    zone: TimeZone,
    /// The time of the last job, or of the cron job itself.
    from: Timestamp,
    deadline: Option<SignedDuration>,
}

/// A time that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: Timestamp,
    /// Whether suspiciously many came before it and were missed.
    pub(super) after_many: bool,
}

/// The zone that a cron job names, or why there is none.
pub(super) fn zone(spec: &CronJobSpec) -> Result<Option<TimeZone>, String> {
    let Some(name) = &spec.time_zone else { return Ok(None) };
    let zone = TimeZone::get(name);
    zone.map(Some).map_err(|_| format!("invalid timeZone: {name:?}: unknown time zone {name}"))
}

impl Times {
    /// Reads the schedule of a cron job; a zone that stands in it counts more than `zone`.
    pub(super) fn new(cron: &CronJob, spec: &CronJobSpec, zone: Option<TimeZone>) -> Result<Times, String> {
        let text = &spec.schedule;
        let schedule =
            Schedule::parse(text).map_err(|why| format!("unparseable schedule: {text:?} : {why}"))?;
        let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
        let from = last.or(cron.metadata.creation_timestamp.as_ref()).map(|time| time.0);
        Ok(Times {
            schedule,
            zone: Schedule::zone(text).or(zone).unwrap_or(TimeZone::UTC),
            from: from.unwrap_or_default(),
            deadline: spec.starting_deadline_seconds.map(SignedDuration::from_secs),
        })
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, &self.zone)
    }

    /// The last time that has come since the last job.
    pub(super) fn due(&self, now: Timestamp) -> Result<Option<Due>, String> {
        // What came before the deadline is not started any more.
        let earliest = self.deadline.and_then(|deadline| now.checked_sub(deadline).ok());
        let latest = earliest.map_or(self.from, |earliest| self.from.max(earliest));
        self.last_since(latest, now)
    }

    fn last_since(&self, from: Timestamp, now: Timestamp) -> Result<Option<Due>, String> {
        let never = || "time difference between two schedules is less than 1 second".to_owned();
        let first = self.next(from).ok_or_else(never)?;
        if now < first {
            return Ok(None);
        }
        let second = self.next(first).ok_or_else(never)?;
        if now < second {
            return Ok(Some(Due { at: first, after_many: false }));
        }
        // The times between are estimated, not counted: they may be very many.
        let between = second.duration_since(first).as_secs();
        if between < 1 {
            return Err(never());
        }
        let missed = now.duration_since(first).as_secs() / between + 1;
        let near = first + SignedDuration::from_secs((missed - 2) * between);
        let mut last = None;
        let mut time = self.next(near);
        while let Some(at) = time.filter(|at| *at <= now) {
            last = Some(at);
            time = self.next(at);
        }
        Ok(last.map(|at| Due { at, after_many: missed > MANY }))
    }

    /// How long to wait for the next time.
    pub(super) fn wait(&self, now: Timestamp) -> Option<SignedDuration> {
        let from = match self.last_since(self.from, now) {
            Ok(Some(due)) => due.at,
            Ok(None) if self.next(self.from).is_some_and(|next| next > now) => self.from,
            Ok(None) | Err(_) => now,
        };
        Some(self.next(from)?.duration_since(now) + DELTA)
    }

    /// Whether a time is too long ago for a job to be made.
    pub(super) fn is_too_late(&self, at: Timestamp, now: Timestamp) -> bool {
        // Beyond the end of time nothing is too late.
        let latest = self.deadline.and_then(|deadline| at.checked_add(deadline).ok());
        latest.is_some_and(|latest| latest < now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn times(schedule: &str, last: &str, deadline: Option<i64>) -> Times {
        let cron: CronJob = serde_json::from_value(json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"schedule": schedule, "startingDeadlineSeconds": deadline, "jobTemplate": {}},
            "status": if last.is_empty() { json!({}) } else { json!({"lastScheduleTime": last}) }}))
        .unwrap();
        Times::new(&cron, &cron.spec, None).unwrap()
    }

    #[test]
    fn the_last_of_the_times_that_have_come() {
        for (schedule, last, deadline, now, due, many) in [
            ("0 * * * *", "", None, "2026-01-01T00:59:59Z", "", false),
            ("0 * * * *", "", None, "2026-01-01T01:00:00Z", "2026-01-01T01:00:00Z", false),
            ("0 * * * *", "2026-01-01T01:00:00Z", None, "2026-01-01T01:30:00Z", "", false),
            (
                "0 * * * *",
                "2026-01-01T01:00:00Z",
                None,
                "2026-01-01T05:30:00Z",
                "2026-01-01T05:00:00Z",
                false,
            ),
            ("* * * * *", "2026-01-01T01:00:00Z", None, "2026-01-01T03:00:10Z", "2026-01-01T03:00:00Z", true),
            (
                "* * * * *",
                "2026-01-01T01:00:00Z",
                Some(300),
                "2026-01-01T03:00:10Z",
                "2026-01-01T03:00:00Z",
                false,
            ),
            ("0 6 * * *", "2026-01-01T06:00:00Z", Some(60), "2026-01-03T08:00:00Z", "", false),
            // Longer than there is time.
            ("0 * * * *", "2026-01-01T01:00:00Z", Some(i64::MAX), "2026-01-01T01:30:00Z", "", false),
            // Unequal distances.
            (
                "0 0 1,3,20 * *",
                "2026-01-01T00:00:00Z",
                None,
                "2026-01-28T00:00:00Z",
                "2026-01-20T00:00:00Z",
                false,
            ),
        ] {
            let found = times(schedule, last, deadline).due(now.parse().unwrap()).unwrap();
            let expected = (!due.is_empty()).then(|| Due { at: due.parse().unwrap(), after_many: many });
            assert_eq!(found, expected, "{schedule} at {now}");
        }
        assert!(times("59 23 31 2 *", "", None).due(Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn waits_are_for_the_next_time() {
        let now: Timestamp = "2026-01-01T05:30:00Z".parse().unwrap();
        for last in ["", "2026-01-01T05:00:00Z"] {
            let wait = times("0 * * * *", last, None).wait(now).unwrap();
            assert_eq!(wait, SignedDuration::from_mins(30) + DELTA, "{last}");
        }
        assert_eq!(times("59 23 31 2 *", "", None).wait(now), None);
        assert!(times("0 6 * * *", "", Some(60)).is_too_late("2026-01-01T05:28:59Z".parse().unwrap(), now));
    }

    #[test]
    fn nothing_is_too_late_for_an_endless_deadline() {
        let now: Timestamp = "2026-01-03T08:00:00Z".parse().unwrap();
        let early: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        assert!(!times("0 * * * *", "", Some(i64::MAX)).is_too_late(early, now));
        assert!(times("0 * * * *", "", Some(60)).is_too_late(early, now));
    }
}
