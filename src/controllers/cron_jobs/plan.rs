//! What is to become of a cron job and its jobs (Kubernetes `pkg/controller/cronjob/cronjob_controllerv2.go`). Pure.

use std::sync::Arc;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::schedule::{self, Due, Times};
use crate::client::events::EventType;
use crate::controllers::jobs;
use crate::controllers::owned::Owner;

/// The annotation that says for which time a job was made.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What is to be done, in this order.
#[derive(Debug)]
pub(super) struct Plan {
    /// Finished jobs that are too many.
    pub(super) remove: Vec<Arc<Job>>,
    /// What is known of the jobs that there are.
    pub(super) status: CronJobStatus,
    /// What is to be told.
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// The job whose time has come.
    pub(super) start: Option<Start>,
    /// When the next one's time comes.
    pub(super) again: Option<SignedDuration>,
}

/// A job that is to be made.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) job: Box<Job>,
    pub(super) at: Timestamp,
    /// Whether the ones that run are to go first.
    pub(super) replace: bool,
}

/// Decides; `jobs` are the cron job's own.
pub(super) fn plan(cron: &CronJob, owner: &Owner, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let spec = &cron.spec;
    let mut plan = Plan {
        remove: too_old(spec, jobs),
        status: cron.status.clone().unwrap_or_default(),
        events: Vec::new(),
        start: None,
        again: None,
    };
    take_stock(&mut plan, jobs);
    if owner.deleting {
        return plan;
    }
    let zone = match schedule::zone(spec) {
        Ok(zone) => zone,
        Err(why) => {
            plan.events.push((EventType::Warning, "UnknownTimeZone", why));
            return plan;
        }
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    if spec.schedule.contains("TZ") {
        let why = format!(
            "CRON_TZ or TZ used in schedule {:?} is not officially supported, see \
             https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
            spec.schedule
        );
        plan.events.push((EventType::Warning, "UnsupportedSchedule", why));
    }
    let times = match Times::new(cron, spec, zone.clone()) {
        Ok(times) => times,
        Err(why) => {
            plan.events.push((EventType::Warning, "UnparseableSchedule", why));
            return plan;
        }
    };
    plan.again = times.wait(now);
    match times.due(now) {
        Ok(Some(due)) => start(&mut plan, cron, spec, owner, (&times, zone, due), now),
        Ok(None) => {}
        Err(why) => {
            let why = format!("invalid schedule: {} : {why}", spec.schedule);
            plan.events.push((EventType::Warning, "InvalidSchedule", why));
            plan.again = None;
        }
    }
    plan
}

/// Makes the job whose time has come, unless there is a reason not to.
fn start(
    plan: &mut Plan,
    cron: &CronJob,
    spec: &CronJobSpec,
    owner: &Owner,
    (times, zone, due): (&Times, Option<TimeZone>, Due),
    now: Timestamp,
) {
    let mut tell = |kind, reason, message: String| plan.events.push((kind, reason, message));
    if due.after_many {
        let why =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        tell(EventType::Warning, "TooManyMissedTimes", why.to_owned());
    }
    if times.is_too_late(due.at, now) {
        let at = due.at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        tell(EventType::Warning, "MissSchedule", format!("Missed scheduled time to start a job: {at}"));
        return;
    }
    let active = plan.status.active.as_deref().unwrap_or_default();
    let name = job_name(owner.name(), due.at);
    let last = plan.status.last_schedule_time.as_ref().map(|time| time.0);
    if last == Some(due.at) || active.iter().any(|job| job.name.as_deref() == Some(&name)) {
        return;
    }
    let policy = spec.concurrency_policy.as_deref().unwrap_or("Allow");
    if policy == "Forbid" && !active.is_empty() {
        let why = "Not starting job because prior execution is running and concurrency policy is Forbid";
        tell(EventType::Normal, "JobAlreadyActive", why.to_owned());
        return;
    }
    let job = Box::new(job(cron, spec, owner, name, scheduled(due.at, zone)));
    plan.start = Some(Start { job, at: due.at, replace: policy == "Replace" });
}

/// The name of the job of a time: the same for the same minute, so that no job is made twice.
fn job_name(cron: &str, at: Timestamp) -> String {
    format!("{cron}-{}", at.as_second() / 60)
}

fn job(cron: &CronJob, spec: &CronJobSpec, owner: &Owner, name: String, scheduled: String) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), scheduled);
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: cron.metadata.namespace.clone(),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owner.reference.clone()]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

/// A time in RFC 3339, as the cron job's zone has it.
fn scheduled(at: Timestamp, zone: Option<TimeZone>) -> String {
    let zoned = at.to_zoned(zone.unwrap_or(TimeZone::UTC));
    let format = if zoned.offset().is_zero() { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" };
    zoned.strftime(format).to_string()
}

/// Brings the list of running jobs, and the time of the last success, in line with the jobs that there are.
fn take_stock(plan: &mut Plan, jobs: &[Arc<Job>]) {
    let status = &mut plan.status;
    let mut active = status.active.take().unwrap_or_default();
    for job in jobs {
        let listed = active.iter().position(|known| known.uid == job.metadata.uid);
        let name = job.metadata.name.as_deref().unwrap_or_default();
        match (listed, jobs::is_finished(job)) {
            (None, false) => {
                let why = format!("Saw a job that the controller did not create or forgot: {name}");
                plan.events.push((EventType::Warning, "UnexpectedJob", why));
            }
            (Some(at), true) => {
                active.remove(at);
                let condition = if jobs::is_true(job, "Complete") { "Complete" } else { "Failed" };
                let what = format!("Saw completed job: {name}, condition: {condition}");
                plan.events.push((EventType::Normal, "SawCompletedJob", what));
            }
            _ => {}
        }
        let ended = job.status.as_ref().and_then(|status| status.completion_time.clone());
        if jobs::is_true(job, "Complete") && ended > status.last_successful_time {
            status.last_successful_time = ended;
        }
    }
    active.retain(|known| {
        let there = jobs.iter().any(|job| job.metadata.uid == known.uid);
        if !there {
            let what = format!("Active job went missing: {}", known.name.as_deref().unwrap_or_default());
            plan.events.push((EventType::Normal, "MissingJob", what));
        }
        there
    });
    status.active = Some(active).filter(|active| !active.is_empty());
}

/// The oldest finished jobs beyond those that are to be kept.
fn too_old(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let limits =
        [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    let mut remove = Vec::new();
    for (condition, limit) in limits {
        let Some(limit) = limit else { continue };
        let mut ended: Vec<&Arc<Job>> = jobs.iter().filter(|job| jobs::is_true(job, condition)).collect();
        let started =
            |job: &Job| job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|t| t.0);
        ended.sort_by_key(|job| (started(job).is_none(), started(job), job.metadata.name.clone()));
        let more = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        // What goes already needs no second word.
        let oldest = ended.into_iter().take(more);
        remove.extend(oldest.filter(|job| job.metadata.deletion_timestamp.is_none()).cloned());
    }
    remove
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::owned::selector;
    use serde_json::{Value, json};

    fn cron(spec: Value, status: Value) -> CronJob {
        let mut cron = json!({
            "metadata": {"name": "tick", "namespace": "d", "uid": "c", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"schedule": "0 * * * *", "jobTemplate": {
                "metadata": {"labels": {"a": "b"}, "annotations": {"note": "n"}},
                "spec": {"template": {"spec": {"containers": []}}}}},
            "status": status});
        json_patch::merge(&mut cron["spec"], &spec);
        serde_json::from_value(cron).unwrap()
    }

    fn job(name: &str, ended: &str, start: &str) -> Arc<Job> {
        let conditions: Vec<Value> =
            (!ended.is_empty()).then(|| json!({"type": ended, "status": "True"})).into_iter().collect();
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "d", "uid": name},
                "status": {"conditions": conditions, "startTime": start, "completionTime": start}}))
            .unwrap(),
        )
    }

    fn planned(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
        plan(cron, &Owner::new(cron, selector(None).unwrap()), jobs, now.parse().unwrap())
    }

    fn reasons(plan: &Plan) -> Vec<&'static str> {
        plan.events.iter().map(|(_, reason, _)| *reason).collect()
    }

    const NOON: &str = "2026-01-01T12:00:00.1Z";

    #[test]
    fn a_job_is_made_when_its_time_comes() {
        let early = planned(
            &cron(json!({}), json!({"lastScheduleTime": "2026-01-01T11:00:00Z"})),
            &[],
            "2026-01-01T11:59:00Z",
        );
        assert!(early.start.is_none() && early.events.is_empty());
        assert_eq!(early.again, Some(SignedDuration::from_millis(60_100)));
        let cron =
            cron(json!({"timeZone": "Europe/Paris"}), json!({"lastScheduleTime": "2026-01-01T11:00:00Z"}));
        let plan = planned(&cron, &[], NOON);
        let start = plan.start.unwrap();
        let meta = &start.job.metadata;
        assert_eq!(meta.name.as_deref(), Some("tick-29454480"));
        assert_eq!(start.at.to_string(), "2026-01-01T12:00:00Z");
        assert_eq!(meta.annotations.as_ref().unwrap()[SCHEDULED], "2026-01-01T13:00:00+01:00");
        assert_eq!(meta.annotations.as_ref().unwrap()["note"], "n");
        assert_eq!(meta.labels.as_ref().unwrap()["a"], "b");
        assert_eq!(meta.owner_references.as_ref().unwrap()[0].controller, Some(true));
        assert!(!start.replace);
        assert_eq!(scheduled(start.at, None), "2026-01-01T12:00:00Z");
    }

    #[test]
    fn reasons_to_make_none() {
        let before = "2026-01-01T11:00:00Z";
        let active = json!([{"name": "tick-1", "uid": "tick-1"}]);
        let running = [job("tick-1", "", before)];
        for (spec, status, expected, starts) in [
            (json!({"suspend": true}), json!({"active": active}), vec![], false),
            (json!({"timeZone": "Mars/Base"}), json!({"active": active}), vec!["UnknownTimeZone"], false),
            (json!({"schedule": "x"}), json!({"active": active}), vec!["UnparseableSchedule"], false),
            (json!({"schedule": "59 23 31 2 *"}), json!({"active": active}), vec!["InvalidSchedule"], false),
            (
                json!({"concurrencyPolicy": "Forbid"}),
                json!({"active": active}),
                vec!["JobAlreadyActive"],
                false,
            ),
            (json!({"concurrencyPolicy": "Replace"}), json!({"active": active}), vec![], true),
            (json!({}), json!({"active": active}), vec![], true),
            (json!({}), json!({"active": active, "lastScheduleTime": "2026-01-01T12:00:00Z"}), vec![], false),
            (
                json!({"schedule": "TZ=UTC 0 * * * *"}),
                json!({"active": active}),
                vec!["UnsupportedSchedule"],
                true,
            ),
            (json!({"schedule": "* * * * *"}), json!({"active": active}), vec!["TooManyMissedTimes"], true),
            (json!({}), json!({}), vec!["UnexpectedJob"], true),
        ] {
            let plan = planned(&cron(spec.clone(), status), &running, NOON);
            assert_eq!((reasons(&plan), plan.start.is_some()), (expected, starts), "{spec}");
        }
    }

    #[test]
    fn what_ended_is_noted_and_old_ones_go() {
        let active = json!([{"name": "a", "uid": "a"}, {"name": "gone", "uid": "gone"}]);
        let hours = ["2026-01-01T06:00:00Z", "2026-01-01T07:00:00Z", "2026-01-01T08:00:00Z"];
        let jobs = [
            job("a", "Complete", hours[1]),
            job("b", "Complete", hours[2]),
            job("c", "Complete", hours[0]),
            job("d", "Failed", hours[0]),
            job("e", "Failed", hours[1]),
        ];
        let cron = cron(
            json!({"suspend": true, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 5}),
            json!({"active": active}),
        );
        let plan = planned(&cron, &jobs, NOON);
        assert_eq!(reasons(&plan), ["SawCompletedJob", "MissingJob"]);
        assert_eq!(plan.status.active, None);
        assert_eq!(plan.status.last_successful_time.unwrap().0.to_string(), hours[2]);
        let gone: Vec<_> = plan.remove.iter().map(|job| job.metadata.name.clone().unwrap()).collect();
        assert_eq!(gone, ["c", "a"]);
    }
}
