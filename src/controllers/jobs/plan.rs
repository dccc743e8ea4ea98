//! What is to become of a job and its pods (Kubernetes `pkg/controller/job/job_controller.go`). Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::backoff::Backoff;
use super::number::manage;
use super::policies::{self, Failure};
use super::tally::{
    Tally, counts, has_failed, has_succeeded, index_of, is_indexed, is_tracked, uid, valid_index,
};
use crate::client::events::EventType;
use crate::controllers::owned::state::phase;

/// The most pods that a status lists as not yet counted.
const MOST_UNCOUNTED: usize = 500;

/// What is to be done, in this order: the pods; then, with them as they are afterwards, the status; then the release.
#[derive(Debug)]
pub(super) struct Plan {
    /// What is to become of the pods. When there is anything to do, the rest is to be asked for again after it.
    pub(super) pods: Pods,
    /// The status that the job is to have.
    pub(super) status: JobStatus,
    /// What is to be told of it.
    pub(super) events: Vec<(EventType, String, String)>,
    /// Pods that the status counts, or does not have to.
    pub(super) release: Vec<Arc<Pod>>,
    /// The failures that count for the next wait.
    pub(super) backoff: Backoff,
    /// When to look again, whatever happens.
    pub(super) again: Option<SignedDuration>,
}

/// What is to become of the pods of a job.
#[derive(Debug)]
pub(super) enum Pods {
    /// They stay as they are.
    Stay,
    /// These are deleted, and count as far as the job's end lets them.
    End(Vec<Arc<Pod>>),
    /// These are deleted without counting.
    Remove(Vec<Arc<Pod>>),
    /// More are made.
    Create(Vec<NewPod>),
}

/// A pod that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewPod {
    /// Its index, in an indexed job.
    pub(super) index: Option<i32>,
    /// How often the index has failed, where each has a limit of its own: what counts, and what does not.
    pub(super) failures: Option<(i32, i32)>,
}

/// How a job ends.
struct Outcome {
    success: bool,
    reason: String,
    message: String,
}

/// Decides; `before` are the failures that have been counted for the back-off.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], before: &Backoff, now: Timestamp) -> Plan {
    let default = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&default);
    let deleting = job.metadata.deletion_timestamp.is_some();
    let tally = Tally::new(job, spec, pods);
    let backoff = before.after(&tally.newly.succeeded, &tally.newly.failed);
    let mut plan = Plan {
        pods: Pods::Stay,
        status: tally.status.clone(),
        events: Vec::new(),
        release: Vec::new(),
        backoff,
        again: None,
    };
    if !is_suspended(spec) && (plan.status.start_time.is_none() || is_resumed(&tally.status)) {
        plan.status.start_time = Some(Time(now));
    }
    let mut outcome = ended(&tally, plan.status.start_time.as_ref(), now);
    match &outcome {
        Some(_) if !tally.active.is_empty() => plan.pods = Pods::End(cloned(&tally.active)),
        Some(_) => {}
        None => {
            plan.again = deadline_left(spec, plan.status.start_time.as_ref(), now);
            if !deleting {
                plan.pods = manage(&tally, &plan.backoff, now, &mut plan.again);
            }
            let wanted = spec.completions.unwrap_or(1);
            if tally.succeeded >= wanted && tally.active.is_empty() && matches!(plan.pods, Pods::Stay) {
                outcome = Some(Outcome {
                    success: true,
                    reason: "CompletionsReached".to_owned(),
                    message: "Reached expected number of succeeded pods".to_owned(),
                });
            } else if !deleting {
                suspension(spec, &mut plan, now);
            }
        }
    }
    count(&tally, deleting, outcome.as_ref(), &mut plan);
    if let Some(outcome) = outcome.filter(|_| tally.active.is_empty()) {
        finish(&tally, &outcome, &mut plan, now);
    }
    plan
}

/// Whether a condition of a job is true.
pub(in crate::controllers) fn is_true(job: &Job, condition: &str) -> bool {
    job.status.as_ref().is_some_and(|status| true_condition(status, condition).is_some())
}

/// Whether a job has come to its end.
pub(in crate::controllers) fn is_finished(job: &Job) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

fn true_condition<'a>(status: &'a JobStatus, name: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|c| c.type_ == name && c.status == "True")
}

pub(super) fn is_suspended(spec: &JobSpec) -> bool {
    spec.suspend == Some(true)
}

pub(super) fn cloned(pods: &[&Arc<Pod>]) -> Vec<Arc<Pod>> {
    pods.iter().map(|pod| Arc::clone(pod)).collect()
}

/// How the job ends before all its completions are reached, if it does.
fn ended(tally: &Tally, started: Option<&Time>, now: Timestamp) -> Option<Outcome> {
    let (spec, status) = (tally.spec, &tally.status);
    let decided = |name: &str, success: bool| {
        let condition = true_condition(status, name)?;
        let (reason, message) = (condition.reason.clone(), condition.message.clone());
        Some(Outcome { success, reason: reason.unwrap_or_default(), message: message.unwrap_or_default() })
    };
    let failure = |reason: &str, message: &str| {
        Some(Outcome { success: false, reason: reason.to_owned(), message: message.to_owned() })
    };
    if let Some(outcome) = decided("SuccessCriteriaMet", true).or_else(|| decided("FailureTarget", false)) {
        return Some(outcome);
    }
    let failed = tally.pods.iter().filter(|pod| has_failed(spec, pod));
    for pod in failed {
        if let Failure::FailsJob(why) = policies::failure(spec.pod_failure_policy.as_ref(), pod) {
            return failure("PodFailurePolicy", &why);
        }
    }
    if tally.failed > spec.backoff_limit.unwrap_or(i32::MAX) || restarted_too_often(tally) {
        return failure("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if deadline_left(spec, started, now).is_some_and(|left| left <= SignedDuration::ZERO) {
        return failure("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    let indexed = tally.indexed.as_ref()?;
    let failed = indexed.failed.as_ref().map_or(0, |failed| failed.total());
    if spec.max_failed_indexes.is_some_and(|most| failed > most) {
        let why = "Job has exceeded the specified maximal number of failed indexes";
        return failure("MaxFailedIndexesExceeded", why);
    }
    if failed > 0 && failed + indexed.succeeded.total() >= indexed.completions {
        return failure("FailedIndexes", "Job has failed indexes");
    }
    let message = policies::success(spec.success_policy.as_ref(), indexed.completions, &indexed.succeeded)?;
    Some(Outcome { success: true, reason: "SuccessPolicy".to_owned(), message })
}

/// Whether the containers of running pods were started anew as often as the limit, where the kubelet does that.
fn restarted_too_often(tally: &Tally) -> bool {
    let template = tally.spec.template.spec.as_ref();
    if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let running = tally.pods.iter().filter(|pod| matches!(phase(pod), "Running" | "Pending"));
    let statuses = running.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    });
    let restarts: i64 = statuses.map(|status| i64::from(status.restart_count)).sum();
    restarts >= i64::from(tally.spec.backoff_limit.unwrap_or(i32::MAX)).max(1)
}

/// How long the job may still go on, when that is limited; a suspended one does not use its time.
fn deadline_left(spec: &JobSpec, started: Option<&Time>, now: Timestamp) -> Option<SignedDuration> {
    let seconds = spec.active_deadline_seconds.filter(|_| !is_suspended(spec))?;
    Some(SignedDuration::from_secs(seconds) - now.duration_since(started?.0))
}

/// Whether a job that is not suspended has been until this moment: then its time begins anew.
fn is_resumed(status: &JobStatus) -> bool {
    let is = |name: &str| true_condition(status, name).is_some();
    is("Suspended") && !is("SuccessCriteriaMet") && !is("FailureTarget")
}

/// Says whether the job is suspended; as long as it is, it has no time in which it began.
fn suspension(spec: &JobSpec, plan: &mut Plan, now: Timestamp) {
    let mut tell = |reason: &str, message: &str| {
        plan.events.push((EventType::Normal, reason.to_owned(), message.to_owned()));
    };
    if is_suspended(spec) {
        if set(&mut plan.status, "Suspended", "True", "JobSuspended", "Job suspended", now) {
            tell("Suspended", "Job suspended");
            plan.status.start_time = None;
        }
    } else if set(&mut plan.status, "Suspended", "False", "JobResumed", "Job resumed", now) {
        tell("Resumed", "Job resumed");
    }
}

/// Sets a condition; one that is not there does not begin as false. Answers whether anything changed.
fn set(status: &mut JobStatus, name: &str, value: &str, reason: &str, message: &str, now: Timestamp) -> bool {
    let conditions = status.conditions.get_or_insert_default();
    let condition = JobCondition {
        type_: name.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    let same = |old: &JobCondition| {
        old.status == value && old.reason == condition.reason && old.message == condition.message
    };
    match conditions.iter_mut().find(|old| old.type_ == name) {
        Some(old) if same(old) => return false,
        Some(old) => *old = condition,
        None if value == "False" => return false,
        None => conditions.push(condition),
    }
    true
}

/// Counts what has ended: pods that were listed and let go move into the numbers, new ones are listed and then let go.
fn count(tally: &Tally, deleting: bool, outcome: Option<&Outcome>, plan: &mut Plan) {
    let spec = tally.spec;
    let active = i32::try_from(tally.active.len()).unwrap_or(i32::MAX);
    let status = &mut plan.status;
    (status.active, status.ready, status.terminating) =
        (some(active), Some(tally.ready), Some(tally.terminating));
    let tracked: BTreeSet<&str> =
        tally.pods.iter().filter(|pod| is_tracked(pod)).map(|pod| uid(pod)).collect();
    let mut uncounted = status.uncounted_terminated_pods.take().unwrap_or_default();
    for (list, number) in
        [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
    {
        let mut uids = list.take().unwrap_or_default();
        let before = uids.len();
        uids.retain(|uid| tracked.contains(uid.as_str()));
        let gone = i32::try_from(before - uids.len()).unwrap_or(i32::MAX);
        *number = some(number.unwrap_or(0).saturating_add(gone));
        *list = Some(uids);
    }
    let (succeeded, failed) =
        (uncounted.succeeded.get_or_insert_default(), uncounted.failed.get_or_insert_default());
    // The end that is decided counts only when nothing runs any more.
    let outcome = outcome.filter(|_| tally.active.is_empty());
    let mut indexes = 0;
    for pod in tally.pods.iter().filter(|pod| is_tracked(pod)) {
        let fails = has_failed(spec, pod);
        let held = tally.indexed.as_ref().is_some_and(|indexed| {
            let last = index_of(pod).and_then(|index| indexed.last_failed.get(&index));
            last.is_some_and(|last| uid(last) == uid(pod))
        });
        if !(deleting || outcome.is_some() || has_succeeded(pod) || fails && !held) {
            continue;
        }
        plan.release.push(Arc::clone(pod));
        let id = uid(pod).to_owned();
        if has_succeeded(pod) && !failed.contains(&id) {
            if tally.indexed.is_some() {
                indexes += 1;
            } else if !succeeded.contains(&id) {
                succeeded.push(id);
            }
        } else if (fails || outcome.is_some_and(|outcome| !outcome.success))
            && !failed.contains(&id)
            && (!is_indexed(spec) || valid_index(spec, pod).is_some())
            && counts(spec, pod)
        {
            failed.push(id);
        }
        if indexes + succeeded.len() + failed.len() >= MOST_UNCOUNTED {
            break;
        }
    }
    for list in [&mut uncounted.succeeded, &mut uncounted.failed] {
        *list = list.take().filter(|uids| !uids.is_empty());
    }
    status.uncounted_terminated_pods = Some(uncounted);
    if let Some(indexed) = &tally.indexed {
        status.succeeded = some(indexed.succeeded.total());
        status.completed_indexes = Some(indexed.succeeded.to_string()).filter(|text| !text.is_empty());
        status.failed_indexes = indexed.failed.as_ref().map(ToString::to_string);
    }
}

/// A count, which is left out when it is zero.
fn some(count: i32) -> Option<i32> {
    Some(count).filter(|count| *count != 0)
}

/// Says that the job is about to end, and when everything is counted that it has.
fn finish(tally: &Tally, outcome: &Outcome, plan: &mut Plan, now: Timestamp) {
    let (interim, end) =
        if outcome.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
    let (reason, message) = (&outcome.reason, &outcome.message);
    set(&mut plan.status, interim, "True", reason, message, now);
    let uncounted = plan.status.uncounted_terminated_pods.clone().unwrap_or_default();
    let pending = uncounted.succeeded.is_some() || uncounted.failed.is_some();
    if pending || !plan.release.is_empty() || tally.terminating > 0 {
        return;
    }
    set(&mut plan.status, end, "True", reason, message, now);
    // One that ends while it is suspended has none.
    plan.status.start_time.get_or_insert(Time(now));
    if outcome.success {
        plan.status.completion_time = Some(Time(now));
        let too_many = tally.spec.completions.is_some_and(|wanted| tally.succeeded > wanted);
        if too_many {
            let message = "Too many succeeded pods running after completion count reached";
            plan.events.push((EventType::Warning, "TooManySucceededPods".to_owned(), message.to_owned()));
        }
        plan.events.push((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()));
    } else {
        plan.events.push((EventType::Warning, reason.clone(), message.clone()));
    }
}
