//! What is planned for jobs, case by case.

use super::*;
use crate::client::events::EventType;
use jiff::SignedDuration;
use jiff::Timestamp;
use serde_json::Value;

const START: &str = "2026-01-01T00:00:00Z";

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

/// A job with defaults as the server sets them.
fn job(spec: Value, status: Value) -> Job {
    let mut job = json!({
        "metadata": {"name": "pi", "namespace": "d", "uid": "job"},
        "spec": {"parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
            "suspend": false, "podReplacementPolicy": "TerminatingOrFailed",
            "template": {"spec": {"restartPolicy": "Never", "containers": []}}},
        "status": {"startTime": START}});
    json_patch::merge(&mut job["spec"], &spec);
    json_patch::merge(&mut job["status"], &status);
    serde_json::from_value(job).unwrap()
}

/// A pod by its name and some words: its phase; `i3` its index; `f2` the failures before it; `gone` one that was let
/// go; `leaving` one that is to end; `long` one that ended long ago; `x7` its exit code.
fn pod(words: &str) -> Arc<Pod> {
    let mut words = words.split(' ');
    let name = words.next().unwrap();
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "d", "uid": name, "finalizers": [FINALIZER],
            "creationTimestamp": START, "annotations": {}},
        "status": {"phase": "Running"}});
    let mut ended = "2026-01-01T00:59:58Z";
    let mut code = 1;
    for word in words {
        match word.split_at(1) {
            _ if word == "gone" => pod["metadata"]["finalizers"] = json!([]),
            _ if word == "leaving" => pod["metadata"]["deletionTimestamp"] = json!(START),
            _ if word == "long" => ended = START,
            ("i", index) => pod["metadata"]["annotations"][INDEX] = json!(index),
            ("f", count) => pod["metadata"]["annotations"][FAILURES] = json!(count),
            ("x", number) => code = number.parse().unwrap(),
            _ => pod["status"]["phase"] = json!(word),
        }
    }
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        pod["status"]["containerStatuses"] = json!([{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": code, "finishedAt": ended}}}]);
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn pods(all: &[&str]) -> Vec<Arc<Pod>> {
    all.iter().map(|words| pod(words)).collect()
}

fn planned(job: &Job, all: &[&str]) -> Plan {
    plan(job, &pods(all), &Backoff::default(), now())
}

fn names(pods: &[Arc<Pod>]) -> String {
    pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect::<Vec<_>>().join(" ")
}

/// What is to become of the pods: `end a b`, `remove a`, `create 2`, `create 0 3` (by index), nothing.
fn shown(plan: &Plan) -> String {
    match &plan.pods {
        Pods::Stay => String::new(),
        Pods::End(pods) => format!("end {}", names(pods)),
        Pods::Remove(pods) => format!("remove {}", names(pods)),
        Pods::Create(new) if new[0].index.is_none() => format!("create {}", new.len()),
        Pods::Create(new) => {
            let indexes: Vec<String> = new.iter().map(|new| new.index.unwrap().to_string()).collect();
            format!("create {}", indexes.join(" "))
        }
    }
}

/// The conditions that are true, with their reasons.
fn conditions(plan: &Plan) -> Vec<String> {
    let all = plan.status.conditions.iter().flatten().filter(|c| c.status == "True");
    all.map(|c| format!("{} {}", c.type_, c.reason.as_deref().unwrap())).collect()
}

#[test]
fn pods_are_made_and_removed() {
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 5, "parallelism": 3});
        json_patch::merge(&mut spec, &more);
        spec
    };
    for (spec, status, there, expected) in [
        (json!({}), json!({}), &[][..], "create 1"),
        (json!({}), json!({}), &["a"], ""),
        (json!({"completions": 5, "parallelism": 3}), json!({}), &["a"], "create 2"),
        (json!({"completions": 5, "parallelism": 3}), json!({"succeeded": 4}), &[], "create 1"),
        (
            json!({"completions": 5, "parallelism": 3}),
            json!({"succeeded": 4}),
            &["a", "b Pending"],
            "remove b",
        ),
        (json!({"completions": null, "parallelism": 3}), json!({}), &["a"], "create 2"),
        // The first success ends the making, not the running.
        (json!({"completions": null, "parallelism": 3}), json!({}), &["a", "b Succeeded"], ""),
        (json!({"suspend": true, "parallelism": 2}), json!({}), &["a", "b"], "remove a b"),
        (json!({"parallelism": 0}), json!({}), &[], ""),
        // Pods on their way out are replaced at once, or when they are gone.
        (json!({}), json!({}), &["a Pending leaving long"], "create 1"),
        (json!({"podReplacementPolicy": "Failed"}), json!({}), &["a leaving"], ""),
        (indexed(json!({})), json!({}), &[], "create 0 1 2"),
        (indexed(json!({})), json!({"completedIndexes": "0,2"}), &["a i1"], "create 3 4"),
        (indexed(json!({})), json!({}), &["a i0", "b i0 Pending", "c i1"], "remove b"),
        (indexed(json!({})), json!({}), &["a i0", "b", "c i9"], "remove b c"),
        (indexed(json!({"podReplacementPolicy": "Failed"})), json!({}), &["a i0 leaving"], "create 1 2"),
    ] {
        let job = job(spec.clone(), status);
        let plan = plan(&job, &pods(there), &Backoff::default(), now());
        assert_eq!(shown(&plan), expected, "{spec} {there:?}");
    }
}

#[test]
fn failures_are_followed_by_longer_and_longer_waits() {
    let job = job(json!({"parallelism": 2, "completions": 4}), json!({}));
    let first = planned(&job, &["a", "b Failed"]);
    assert_eq!((shown(&first), first.again), (String::new(), Some(SignedDuration::from_secs(8))));
    assert_eq!(first.status.active, Some(1));
    let both = planned(&job, &["a Failed", "b Failed"]);
    assert_eq!(both.again, Some(SignedDuration::from_secs(18)));
    // Those that were counted before are in the record, not in the pods.
    let next = plan(&job, &pods(&["c Failed"]), &both.backoff, now());
    assert_eq!(next.again, Some(SignedDuration::from_secs(38)));
    assert_eq!(shown(&planned(&job, &["a", "b Failed long"])), "create 1");
}

#[test]
fn a_pod_is_counted_once() {
    let job = job(json!({"completions": 3, "parallelism": 3}), json!({}));
    let seen = planned(&job, &["a Succeeded", "b Failed", "c"]);
    let uncounted = seen.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.succeeded.as_deref(), Some(&["a".to_owned()][..]));
    assert_eq!(uncounted.failed.as_deref(), Some(&["b".to_owned()][..]));
    assert_eq!((seen.status.succeeded, names(&seen.release).as_str()), (None, "a b"));
    // Before they are let go nothing changes; then the numbers grow.
    let listed = Job { status: Some(seen.status.clone()), ..job.clone() };
    let again = plan(&listed, &pods(&["a Succeeded", "b Failed", "c"]), &seen.backoff, now());
    assert_eq!((again.status, again.backoff.clone()), (seen.status, seen.backoff));
    let gone = planned(&listed, &["a Succeeded gone", "c"]);
    assert_eq!((gone.status.succeeded, gone.status.failed), (Some(1), Some(1)));
    let uncounted = gone.status.uncounted_terminated_pods.unwrap();
    assert_eq!((uncounted.succeeded, uncounted.failed), (None, None));
    assert!(gone.release.is_empty());
}

#[test]
fn good_and_bad_ends() {
    let codes = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}}]});
    let indexed = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3});
        json_patch::merge(&mut spec, &more);
        spec
    };
    let nothing: &[&str] = &[];
    for (spec, status, there, pods, expected) in [
        (json!({}), json!({}), &["a Succeeded"][..], "", &["SuccessCriteriaMet CompletionsReached"][..]),
        (
            json!({}),
            json!({"succeeded": 1}),
            &[],
            "",
            &["SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached"],
        ),
        (
            json!({"completions": 0}),
            json!({}),
            &[],
            "",
            &["SuccessCriteriaMet CompletionsReached", "Complete CompletionsReached"],
        ),
        (json!({"completions": null}), json!({}), &["a Succeeded", "b"], "", nothing),
        (
            json!({"completions": null}),
            json!({"succeeded": 1}),
            &["a leaving"],
            "",
            &["SuccessCriteriaMet CompletionsReached"],
        ),
        (json!({"backoffLimit": 0}), json!({}), &["a Failed"], "", &["FailureTarget BackoffLimitExceeded"]),
        (json!({"backoffLimit": 1}), json!({"failed": 2}), &["a"], "end a", nothing),
        (
            json!({"backoffLimit": 1}),
            json!({"failed": 2}),
            &["a leaving"],
            "",
            &["FailureTarget BackoffLimitExceeded"],
        ),
        (
            json!({"backoffLimit": 1}),
            json!({"failed": 2}),
            &["a leaving gone"],
            "",
            &["FailureTarget BackoffLimitExceeded"],
        ),
        (
            json!({"backoffLimit": 1}),
            json!({"failed": 2}),
            &[],
            "",
            &["FailureTarget BackoffLimitExceeded", "Failed BackoffLimitExceeded"],
        ),
        (
            json!({"activeDeadlineSeconds": 3600}),
            json!({}),
            &[],
            "",
            &["FailureTarget DeadlineExceeded", "Failed DeadlineExceeded"],
        ),
        (
            json!({"podFailurePolicy": codes}),
            json!({}),
            &["a Failed x42"],
            "",
            &["FailureTarget PodFailurePolicy"],
        ),
        (
            json!({"podFailurePolicy": codes, "backoffLimit": 0}),
            json!({}),
            &["a Failed x7 long"],
            "create 1",
            nothing,
        ),
        (
            indexed(json!({"backoffLimitPerIndex": 0})),
            json!({"completedIndexes": "0,1"}),
            &["a i2 Failed"],
            "",
            &["FailureTarget FailedIndexes"],
        ),
        (
            indexed(json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0})),
            json!({}),
            &["a i2 Failed", "b i0"],
            "end b",
            nothing,
        ),
        (
            indexed(json!({"successPolicy": {"rules": [{"succeededIndexes": "1"}]}})),
            json!({"completedIndexes": "1"}),
            &[],
            "",
            &["SuccessCriteriaMet SuccessPolicy", "Complete SuccessPolicy"],
        ),
    ] {
        let job = job(spec.clone(), status.clone());
        let plan = planned(&job, there);
        assert_eq!(shown(&plan), pods, "{spec} {status} {there:?}");
        assert_eq!(conditions(&plan), expected, "{spec} {status} {there:?}");
    }
}

#[test]
fn the_end_is_told_with_its_time() {
    let done = planned(&job(json!({}), json!({"succeeded": 2})), &[]);
    assert_eq!(done.status.completion_time.as_ref().map(|time| time.0), Some(now()));
    let told: Vec<&str> = done.events.iter().map(|(_, reason, _)| reason.as_str()).collect();
    assert_eq!(told, ["TooManySucceededPods", "Completed"]);
    let failed = planned(&job(json!({"backoffLimit": 0}), json!({"failed": 1})), &[]);
    assert!(failed.status.completion_time.is_none());
    let message = "Job has reached the specified backoff limit";
    let expected = (EventType::Warning, "BackoffLimitExceeded".to_owned(), message.to_owned());
    assert_eq!(failed.events, [expected]);
}

#[test]
fn what_runs_when_a_job_fails_counts_as_failed() {
    let target =
        json!([{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded", "message": "m"}]);
    let job = job(json!({"podReplacementPolicy": "Failed"}), json!({"conditions": target}));
    let plan = planned(&job, &["a leaving", "b Succeeded"]);
    let uncounted = plan.status.uncounted_terminated_pods.unwrap();
    assert_eq!(
        (uncounted.failed, uncounted.succeeded),
        (Some(vec!["a".to_owned()]), Some(vec!["b".to_owned()]))
    );
    assert_eq!(names(&plan.release), "a b");
    assert_eq!(plan.status.terminating, Some(1));
}

#[test]
fn indexes_are_tried_again_by_themselves() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3, "backoffLimitPerIndex": 1,
        "backoffLimit": i32::MAX});
    let job = job(spec, json!({}));
    // The failed pod stays until its successor knows of it.
    let plan = planned(&job, &["a i0 Failed long", "b i1", "c i2 f1 Failed long"]);
    assert_eq!((shown(&plan).as_str(), names(&plan.release).as_str()), ("create 0", "c"));
    let Pods::Create(new) = &plan.pods else { panic!("{plan:?}") };
    assert_eq!(new[0].failures, Some((1, 0)));
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("2"));
    assert_eq!(names(&planned(&job, &["a i0 Failed long", "b i1", "d i0 f1"]).release), "a");
    let early = planned(&job, &["a i0 Failed", "b i1 Succeeded", "c i2"]);
    assert_eq!((shown(&early).as_str(), early.again), ("", Some(SignedDuration::from_secs(8))));
    assert_eq!(early.status.completed_indexes.as_deref(), Some("1"));
}

#[test]
fn suspended_jobs_begin_their_time_anew() {
    let suspended = planned(&job(json!({"suspend": true}), json!({})), &[]);
    assert_eq!(conditions(&suspended), ["Suspended JobSuspended"]);
    assert_eq!(suspended.events[0].1, "Suspended");
    assert!(suspended.status.start_time.is_none());
    // Resumed before it was seen that it has no time any more, too.
    let mut status = serde_json::to_value(&suspended.status).unwrap();
    status["startTime"] = json!(START);
    let resumed = planned(&job(json!({"activeDeadlineSeconds": 60}), status), &[]);
    assert!(conditions(&resumed).is_empty());
    assert_eq!(resumed.status.start_time.as_ref().map(|time| time.0), Some(now()));
    assert_eq!((resumed.events[0].1.as_str(), resumed.events[0].2.as_str()), ("Resumed", "Job resumed"));
    let never: Job = Job { status: None, ..job(json!({"suspend": true}), json!({})) };
    assert!(planned(&never, &[]).status.start_time.is_none());
}

#[test]
fn restarts_of_containers_count_where_the_kubelet_restarts() {
    let job =
        job(json!({"backoffLimit": 2, "template": {"spec": {"restartPolicy": "OnFailure"}}}), json!({}));
    for (restarts, expected) in [(1, ""), (2, "end a")] {
        let mut running = Pod::clone(&pod("a"));
        let status =
            json!([{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": restarts}]);
        running.status.as_mut().unwrap().container_statuses = serde_json::from_value(status).unwrap();
        let plan = plan(&job, &[Arc::new(running)], &Backoff::default(), now());
        assert_eq!(shown(&plan), expected, "{restarts}");
    }
}

#[test]
fn a_job_that_is_deleted_lets_its_pods_go() {
    let mut job = job(json!({"parallelism": 2, "completions": 2}), json!({}));
    job.metadata.deletion_timestamp = serde_json::from_value(json!(START)).unwrap();
    let plan = planned(&job, &["a"]);
    assert_eq!((shown(&plan).as_str(), names(&plan.release).as_str()), ("", "a"));
}
