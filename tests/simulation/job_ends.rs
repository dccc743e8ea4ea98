//! How jobs come to their end, and when.

use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::shows::{message, names};

/// A job whose pods run an image of its own name, with more in its specification.
pub fn job(name: &str, more: Value) -> String {
    let template = json!({"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
        "containers": [{"name": "c", "image": name}]}});
    let mut spec = json!({"template": template});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}).to_string()
}

/// Lays down how the pods of a job end, one after the other; the last goes for all that follow. `None` is one that runs on.
pub fn ends(cluster: &Cluster, name: &str, codes: &[Option<i32>]) {
    for code in codes {
        let program = match code {
            Some(code) => SimProgram::EndAtOnce(Exit::Code(*code)),
            None => SimProgram::RunUntilTerm(Exit::Code(0)),
        };
        cluster.program(name, program);
    }
}

fn on_exit(action: &str, code: i32) -> Value {
    json!({"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [code]}}]})
}

pub fn with(fields: &[Value]) -> Value {
    let mut all = json!({});
    for field in fields {
        all.as_object_mut().unwrap().extend(field.as_object().unwrap().clone());
    }
    all
}

#[tokio::test]
async fn every_end_has_its_reason() {
    let cluster = Cluster::start().await;
    let indexed =
        |count: i32| json!({"completionMode": "Indexed", "completions": count, "parallelism": count});
    let cases: &[(&str, Value, &[Option<i32>], Value)] = &[
        (
            "plain",
            json!({}),
            &[Some(0)],
            json!({"succeeded": 1, "failed": null, "active": null, "conditions": {"Complete": "True CompletionsReached"}}),
        ),
        (
            "five",
            json!({"completions": 5, "parallelism": 2}),
            &[Some(0)],
            json!({"succeeded": 5, "conditions": {"Complete": "True"}}),
        ),
        (
            "flaky",
            json!({}),
            &[Some(1), Some(2), Some(0)],
            json!({"succeeded": 1, "failed": 2, "conditions": {"Complete": "True CompletionsReached"}}),
        ),
        (
            "bad",
            json!({"backoffLimit": 2}),
            &[Some(1)],
            json!({"succeeded": null, "failed": 3, "conditions": {"Failed": "True BackoffLimitExceeded",
                "FailureTarget": "True BackoffLimitExceeded"}}),
        ),
        (
            "ignored",
            json!({"backoffLimit": 0, "podFailurePolicy": on_exit("Ignore", 3)}),
            &[Some(3), Some(3), Some(0)],
            json!({"succeeded": 1, "failed": null, "conditions": {"Complete": "True"}}),
        ),
        (
            "counted",
            json!({"backoffLimit": 0, "podFailurePolicy": on_exit("Count", 3)}),
            &[Some(3)],
            json!({"failed": 1, "conditions": {"Failed": "True BackoffLimitExceeded"}}),
        ),
        (
            "hopeless",
            json!({"podFailurePolicy": on_exit("FailJob", 42)}),
            &[Some(1), Some(42)],
            json!({"failed": 2, "conditions": {"Failed": "True PodFailurePolicy", "FailureTarget": "True PodFailurePolicy"}}),
        ),
        (
            "indexed",
            indexed(3),
            &[Some(0)],
            json!({"succeeded": 3, "completedIndexes": "0-2", "conditions": {"Complete": "True CompletionsReached"}}),
        ),
        (
            "each",
            with(&[indexed(2), json!({"backoffLimitPerIndex": 1})]),
            &[Some(1)],
            json!({"failed": 4, "failedIndexes": "0,1", "conditions": {"Failed": "True FailedIndexes"}}),
        ),
        (
            "toomany",
            with(&[indexed(4), json!({"parallelism": 1, "backoffLimitPerIndex": 0, "maxFailedIndexes": 1})]),
            &[Some(1)],
            json!({"failed": 2, "failedIndexes": "0,1", "conditions": {"Failed": "True MaxFailedIndexesExceeded"}}),
        ),
        (
            "someindexes",
            with(&[indexed(2), json!({"parallelism": 1, "backoffLimitPerIndex": 0})]),
            &[Some(1), Some(0)],
            json!({"succeeded": 1, "failed": 1, "completedIndexes": "1", "failedIndexes": "0",
                "conditions": {"Failed": "True FailedIndexes"}}),
        ),
        (
            "failindex",
            with(&[
                indexed(2),
                json!({"backoffLimitPerIndex": 5, "podFailurePolicy": on_exit("FailIndex", 9)}),
            ]),
            &[Some(9)],
            json!({"failed": 2, "failedIndexes": "0,1", "conditions": {"Failed": "True FailedIndexes"}}),
        ),
        (
            "enough",
            with(&[
                indexed(3),
                json!({"parallelism": 1, "successPolicy": {"rules": [{"succeededCount": 1}]}}),
            ]),
            &[Some(0)],
            json!({"succeeded": 1, "completedIndexes": "0",
                "conditions": {"SuccessCriteriaMet": "True SuccessPolicy", "Complete": "True SuccessPolicy"}}),
        ),
        (
            "leader",
            // Each index runs a program of its own; those of the others run on.
            with(&[
                indexed(3),
                json!({"successPolicy": {"rules": [{"succeededIndexes": "0"}]},
                    "template": {"spec": {"restartPolicy": "Never", "containers": [
                        {"name": "c", "image": "leader", "command": ["leader-$(JOB_COMPLETION_INDEX)"]}]}}}),
            ]),
            &[],
            json!({"succeeded": 1, "completedIndexes": "0", "active": null, "ready": 0, "terminating": 0,
                "conditions": {"Complete": "True SuccessPolicy"}}),
        ),
        (
            "late",
            json!({"activeDeadlineSeconds": 600}),
            &[None],
            json!({"failed": 1, "conditions": {"Failed": "True DeadlineExceeded", "FailureTarget": "True DeadlineExceeded"}}),
        ),
        (
            "queue",
            json!({"parallelism": 3}),
            &[Some(0)],
            json!({"succeeded": 3, "conditions": {"Complete": "True CompletionsReached"}}),
        ),
        (
            "nothing",
            json!({"completions": 0}),
            &[Some(0)],
            json!({"succeeded": null, "conditions": {"Complete": "True CompletionsReached"}}),
        ),
        (
            "nobody",
            json!({"parallelism": 0}),
            &[Some(0)],
            json!({"active": null, "succeeded": null, "completionTime": null}),
        ),
    ];
    ends(&cluster, "leader-0", &[Some(0)]);
    for (name, more, codes, _) in cases {
        ends(&cluster, name, codes);
        cluster.apply(&job(name, more.clone())).await;
    }
    for (name, _, _, status) in cases {
        cluster.shows(&format!("jobs/{name}"), json!({"status": status})).await;
    }
    cluster.pass(1200).await;
    for (name, _, _, status) in cases {
        cluster.is(&format!("jobs/{name}"), json!({"status": status})).await;
    }
    for (name, kind, text) in [
        ("bad", "Failed", "Job has reached the specified backoff limit"),
        ("late", "Failed", "Job was active longer than specified deadline"),
        ("each", "Failed", "Job has failed indexes"),
        ("toomany", "Failed", "Job has exceeded the specified maximal number of failed indexes"),
        ("plain", "Complete", "Reached expected number of succeeded pods"),
        ("enough", "Complete", "Matched rules at index 0"),
    ] {
        let job = cluster.get(&format!("jobs/{name}")).await.unwrap();
        assert_eq!(message(&job, kind), text, "{name}");
    }
    let hopeless = cluster.get("jobs/hopeless").await.unwrap();
    let told = message(&hopeless, "Failed");
    let ends = " failed with exit code 42 matching FailJob rule at index 0";
    assert!(told.starts_with("Container c for pod default/hopeless-") && told.ends_with(ends), "{told}");
    // Nothing holds a pod that was counted.
    let pods = cluster.list("pods").await;
    assert!(pods.iter().all(|pod| pod["metadata"]["finalizers"].is_null()), "{pods:#?}");
}

#[tokio::test]
async fn a_new_pod_comes_later_and_later() {
    let cluster = Cluster::start().await;
    ends(&cluster, "bad", &[Some(1)]);
    cluster.apply(&job("bad", json!({"backoffLimit": 5}))).await;
    cluster.shows("jobs/bad", json!({"status": {"failed": 6}})).await;
    let mut times: Vec<i64> = Vec::new();
    for pod in cluster.list("pods").await {
        let time: jiff::Timestamp = pod["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
        times.push(time.as_second());
    }
    times.sort_unstable();
    let waits: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, expected) in waits.iter().zip([10, 20, 40, 80, 160]) {
        assert!((expected..expected + 3).contains(wait), "{waits:?}");
    }
}

#[tokio::test]
async fn finished_jobs_stay_as_long_as_is_said() {
    let cluster = Cluster::start().await;
    ends(&cluster, "done", &[Some(0)]);
    ends(&cluster, "bad", &[Some(1)]);
    let begun = Instant::now();
    cluster.apply(&job("done", json!({"ttlSecondsAfterFinished": 100}))).await;
    cluster.apply(&job("bad", json!({"ttlSecondsAfterFinished": 1000, "backoffLimit": 0}))).await;
    for (name, seconds) in [("done", 100), ("bad", 1000)] {
        cluster.until_gone(&format!("jobs/{name}")).await;
        let took = begun.elapsed().as_secs();
        assert!((seconds..seconds + 5).contains(&took), "{name} after {took}");
    }
    cluster.until_all("pods", |pods| pods.is_empty()).await;
}

#[tokio::test]
async fn a_deadline_counts_from_the_last_start() {
    let cluster = Cluster::start().await;
    cluster.apply(&job("runs", json!({"activeDeadlineSeconds": 300}))).await;
    cluster.shows("jobs/runs", json!({"status": {"active": 1, "ready": 1}})).await;
    cluster.pass(200).await;
    cluster.patch("jobs/runs", json!({"spec": {"suspend": true}})).await;
    cluster.shows("jobs/runs", json!({"status": {"active": null, "startTime": null, "conditions": {"Suspended": "True JobSuspended"}}})).await;
    cluster.pass(1000).await;
    cluster.patch("jobs/runs", json!({"spec": {"suspend": false}})).await;
    let begun = Instant::now();
    cluster
        .shows("jobs/runs", json!({"status": {"active": 1, "conditions": {"Suspended": "False JobResumed"}}}))
        .await;
    cluster.shows("jobs/runs", json!({"status": {"conditions": {"Failed": "True DeadlineExceeded"}}})).await;
    let took = begun.elapsed().as_secs();
    assert!((300..340).contains(&took), "{took}");
}

#[tokio::test]
async fn pods_that_go_are_replaced_at_once_or_when_they_are_gone() {
    let cluster = Cluster::start().await;
    for (policy, at_once) in [("TerminatingOrFailed", true), ("Failed", false)] {
        let name = policy.to_lowercase();
        cluster.program(&name, SimProgram::IgnoreTerm);
        cluster.apply(&job(&name, json!({"podReplacementPolicy": policy}))).await;
        cluster.shows(&format!("jobs/{name}"), json!({"status": {"ready": 1}})).await;
        let mut pods = cluster.list("pods").await;
        pods.retain(|pod| pod["metadata"]["labels"]["job-name"] == *name);
        cluster.delete(&format!("pods/{}", names(&pods)[0])).await;
        cluster.pass(15).await;
        let active = if at_once { json!(1) } else { Value::Null };
        cluster.is(&format!("jobs/{name}"), json!({"status": {"active": active, "terminating": 1}})).await;
        cluster.pass(60).await;
        cluster
            .is(&format!("jobs/{name}"), json!({"status": {"active": 1, "terminating": 0, "failed": 1}}))
            .await;
    }
}

#[tokio::test]
async fn a_job_of_another_controller_is_left_alone() {
    let cluster = Cluster::start().await;
    cluster
        .apply(&job("theirs", json!({"managedBy": "example.com/queue", "ttlSecondsAfterFinished": 0})))
        .await;
    cluster.pass(600).await;
    let theirs = cluster.get("jobs/theirs").await.unwrap();
    assert_eq!((&theirs["status"], cluster.list("pods").await.len()), (&json!({}), 0));
}

#[tokio::test]
async fn containers_that_are_started_again_count_as_failures() {
    let cluster = Cluster::start().await;
    ends(&cluster, "again", &[Some(1)]);
    let mut again: Value = serde_json::from_str(&job("again", json!({"backoffLimit": 2}))).unwrap();
    again["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
    cluster.apply(&again.to_string()).await;
    cluster
        .shows("jobs/again", json!({"status": {"conditions": {"Failed": "True BackoffLimitExceeded"}}}))
        .await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
}

#[tokio::test]
async fn an_indexed_job_grows_and_shrinks() {
    let cluster = Cluster::start().await;
    cluster
        .apply(&job("wide", json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2})))
        .await;
    for count in [4, 1, 3] {
        cluster.patch("jobs/wide", json!({"spec": {"completions": count, "parallelism": count}})).await;
        let job = json!({"status": {"active": count, "ready": count, "terminating": 0, "failed": null}});
        cluster.shows("jobs/wide", job).await;
        let pods = cluster.until_all("pods", |pods| pods.len() == count as usize).await;
        let indexes: Vec<_> =
            pods.iter().map(|pod| pod["spec"]["hostname"].as_str().unwrap().to_owned()).collect();
        assert_eq!(indexes, (0..count).map(|n| format!("wide-{n}")).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn pods_that_wait_for_their_namespace_are_made_when_there_is_room() {
    let cluster = Cluster::start().await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}});
    cluster.apply(&quota.to_string()).await;
    cluster.shows("resourcequotas/few", json!({"status": {"hard": {"pods": "1"}}})).await;
    cluster.apply(&job("wide", json!({"completions": 3, "parallelism": 3}))).await;
    cluster.until_event("Job/wide", "FailedCreate: Error creating: pods \"wide-").await;
    cluster.is("jobs/wide", json!({"status": {"active": 1}})).await;
    cluster.patch("resourcequotas/few", json!({"spec": {"hard": {"pods": "3"}}})).await;
    cluster.shows("jobs/wide", json!({"status": {"active": 3}})).await;
}
