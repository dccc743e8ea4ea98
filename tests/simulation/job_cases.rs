//! Jobs whose pods end as is laid down: what their policies make of it.

use minik::api::meta;
use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::job_ends::{ends, job, with};
use crate::scenarios::scenarios;
use crate::shows::{message, names};

fn indexed(count: i32) -> Value {
    json!({"completionMode": "Indexed", "completions": count, "parallelism": 1})
}

fn rules(rules: Value) -> Value {
    json!({"podFailurePolicy": {"rules": rules}})
}

fn on_codes(action: &str, operator: &str, codes: &[i32]) -> Value {
    json!({"action": action, "onExitCodes": {"operator": operator, "values": codes}})
}

/// How a job's pods end, one after the other, and what it then shows.
struct Ends {
    codes: &'static [Option<i32>],
    more: Value,
    status: Value,
}

async fn shows_in_the_end(case: Ends) {
    let Ends { codes, more, status } = case;
    let cluster = Cluster::start().await;
    ends(&cluster, "work", codes);
    cluster.apply(&job("work", more)).await;
    cluster.shows("jobs/work", json!({"status": status})).await;
    cluster.pass(1200).await;
    cluster.is("jobs/work", json!({"status": status})).await;
    let pods = cluster.list("pods").await;
    let held = pods.iter().filter(|pod| !pod["metadata"]["finalizers"].is_null()).count();
    let active = status["active"].as_u64().unwrap_or(0);
    assert_eq!(held as u64, active, "those that were counted are let go: {pods:#?}");
}

scenarios! { shows_in_the_end;
    a_code_that_is_none_of_these_fails_the_job: Ends {
        codes: &[Some(1), Some(2), Some(7)],
        more: rules(json!([on_codes("FailJob", "NotIn", &[1, 2])])),
        status: json!({"failed": 3, "conditions": {"Failed": "True PodFailurePolicy"}}),
    },
    the_first_rule_that_matches_counts: Ends {
        codes: &[Some(5), Some(5), Some(0)],
        more: with(&[json!({"backoffLimit": 0}), rules(json!([on_codes("Ignore", "In", &[5]), on_codes("FailJob", "In", &[5])]))]),
        status: json!({"failed": null, "succeeded": 1, "conditions": {"Complete": "True CompletionsReached"}}),
    },
    what_no_rule_matches_counts: Ends {
        codes: &[Some(9)],
        more: with(&[json!({"backoffLimit": 1}), rules(json!([on_codes("Ignore", "In", &[5])]))]),
        status: json!({"failed": 2, "conditions": {"Failed": "True BackoffLimitExceeded"}}),
    },
    a_rule_for_another_container_does_not_match: Ends {
        codes: &[Some(5)],
        more: with(&[json!({"backoffLimit": 0, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onExitCodes": {"containerName": "c", "operator": "In", "values": [6]}}]}})]),
        status: json!({"failed": 1, "conditions": {"Failed": "True BackoffLimitExceeded"}}),
    },
    a_failure_that_ends_the_job_ends_the_pods_that_run: Ends {
        codes: &[None, None, Some(42)],
        more: with(&[json!({"completions": 3, "parallelism": 3}), rules(json!([on_codes("FailJob", "In", &[42])]))]),
        status: json!({"active": null, "failed": 3, "terminating": 0, "conditions": {"Failed": "True PodFailurePolicy",
            "FailureTarget": "True PodFailurePolicy"}}),
    },
    an_index_that_is_given_up_leaves_the_others: Ends {
        codes: &[Some(0), Some(9), Some(0)],
        more: with(&[indexed(3), json!({"backoffLimitPerIndex": 4}), rules(json!([on_codes("FailIndex", "In", &[9])]))]),
        status: json!({"succeeded": 2, "failed": 1, "completedIndexes": "0,2", "failedIndexes": "1",
            "conditions": {"Failed": "True FailedIndexes"}}),
    },
    every_index_has_its_own_tries: Ends {
        codes: &[Some(1), Some(0), Some(0), Some(0)],
        more: with(&[indexed(3), json!({"backoffLimitPerIndex": 1})]),
        status: json!({"succeeded": 3, "failed": 1, "failedIndexes": "", "completedIndexes": "0-2",
            "conditions": {"Complete": "True CompletionsReached"}}),
    },
    some_indexes_may_fail: Ends {
        codes: &[Some(1), Some(1), Some(0), Some(0)],
        more: with(&[indexed(4), json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 2})]),
        status: json!({"succeeded": 2, "failed": 2, "failedIndexes": "0,1", "completedIndexes": "2,3",
            "conditions": {"Failed": "True FailedIndexes"}}),
    },
    three_in_a_row_are_a_range: Ends {
        codes: &[Some(1), Some(1), Some(1), Some(0)],
        more: with(&[indexed(4), json!({"backoffLimitPerIndex": 0})]),
        status: json!({"succeeded": 1, "failed": 3, "failedIndexes": "0-2", "completedIndexes": "3",
            "conditions": {"Failed": "True FailedIndexes"}}),
    },
    no_index_may_fail: Ends {
        codes: &[Some(1), Some(0)],
        more: with(&[indexed(3), json!({"backoffLimitPerIndex": 0, "maxFailedIndexes": 0})]),
        status: json!({"succeeded": null, "failed": 1, "failedIndexes": "0",
            "conditions": {"Failed": "True MaxFailedIndexesExceeded"}}),
    },
    ignored_failures_do_not_count_for_their_index: Ends {
        codes: &[Some(3), Some(3), Some(0), Some(0)],
        more: with(&[indexed(2), json!({"backoffLimitPerIndex": 0}), rules(json!([on_codes("Ignore", "In", &[3])]))]),
        status: json!({"succeeded": 2, "failed": null, "completedIndexes": "0,1", "conditions": {"Complete": "True"}}),
    },
    some_successes_are_enough: Ends {
        codes: &[Some(0)],
        more: with(&[indexed(5), json!({"successPolicy": {"rules": [{"succeededCount": 3}]}})]),
        status: json!({"succeeded": 3, "completedIndexes": "0-2", "conditions": {"SuccessCriteriaMet": "True SuccessPolicy",
            "Complete": "True SuccessPolicy"}}),
    },
    some_of_these_are_enough: Ends {
        codes: &[Some(0)],
        more: with(&[indexed(5), json!({"successPolicy": {"rules": [{"succeededIndexes": "1-4", "succeededCount": 2}]}})]),
        status: json!({"succeeded": 3, "completedIndexes": "0-2", "conditions": {"Complete": "True SuccessPolicy"}}),
    },
    all_of_these_are_enough: Ends {
        codes: &[Some(0)],
        more: with(&[indexed(5), json!({"successPolicy": {"rules": [{"succeededIndexes": "0,2"}]}})]),
        status: json!({"succeeded": 3, "completedIndexes": "0-2", "conditions": {"Complete": "True SuccessPolicy"}}),
    },
    success_in_time_excuses_an_index_that_failed: Ends {
        codes: &[Some(1), Some(0)],
        more: with(&[indexed(3), json!({"backoffLimitPerIndex": 0, "successPolicy": {"rules": [{"succeededIndexes": "1"}]}})]),
        status: json!({"succeeded": 1, "failed": 1, "failedIndexes": "0", "completedIndexes": "1",
            "conditions": {"Complete": "True SuccessPolicy"}}),
    },
    a_policy_that_is_not_met_is_not_needed: Ends {
        codes: &[Some(0)],
        more: with(&[indexed(2), json!({"successPolicy": {"rules": [{"succeededIndexes": "0-1", "succeededCount": 2}]}})]),
        status: json!({"succeeded": 2, "completedIndexes": "0,1", "conditions": {"Complete": "True"}}),
    },
    no_more_than_are_needed_run: Ends {
        codes: &[Some(0), Some(0), None],
        more: json!({"completions": 4, "parallelism": 10}),
        status: json!({"succeeded": 2, "active": 2, "ready": 2, "failed": null}),
    },
    six_tries_where_nothing_is_said: Ends {
        codes: &[Some(1)],
        more: json!({}),
        status: json!({"failed": 7, "conditions": {"Failed": "True BackoffLimitExceeded"}}),
    },
    failures_of_all_pods_count_together: Ends {
        codes: &[Some(1)],
        more: json!({"completions": 3, "parallelism": 3, "backoffLimit": 2}),
        status: json!({"failed": 3, "succeeded": null, "active": null, "conditions": {"Failed": "True BackoffLimitExceeded"}}),
    },
}

/// A rule for pods that something takes away, and what the job makes of one.
struct Disrupted {
    rule: Value,
    status: Value,
}

async fn bears(case: Disrupted) {
    let Disrupted { rule, status } = case;
    let cluster = Cluster::start().await;
    cluster.program("work", SimProgram::RunUntilTerm(Exit::Code(143)));
    cluster.apply(&job("work", with(&[json!({"backoffLimit": 0}), rules(json!([rule]))]))).await;
    cluster.shows("jobs/work", json!({"status": {"ready": 1}})).await;
    let pods = cluster.list("pods").await;
    let taint = json!([{"key": "example.com/away", "effect": "NoExecute"}]);
    cluster.patch(":nodes/minik", json!({"spec": {"taints": taint}})).await;
    cluster
        .until_event(
            &format!("Pod/{}", names(&pods)[0]),
            "TaintManagerEviction: Marking for deletion Pod default/work-",
        )
        .await;
    cluster.pass(60).await;
    cluster.patch(":nodes/minik", json!({"spec": {"taints": null}})).await;
    cluster.shows("jobs/work", json!({"status": status})).await;
}

scenarios! { bears;
    what_is_sent_away_does_not_count: Disrupted {
        rule: json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}),
        status: json!({"failed": null, "active": 1, "ready": 1}),
    },
    what_is_sent_away_ends_the_job: Disrupted {
        rule: json!({"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}),
        status: json!({"failed": 1, "conditions": {"Failed": "True PodFailurePolicy"}}),
    },
    what_is_sent_away_counts: Disrupted {
        rule: json!({"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}),
        status: json!({"failed": 1, "conditions": {"Failed": "True BackoffLimitExceeded"}}),
    },
    what_is_sent_away_has_another_condition: Disrupted {
        rule: json!({"action": "Ignore", "onPodConditions": [{"type": "example.com/Other", "status": "True"}]}),
        status: json!({"failed": 1, "conditions": {"Failed": "True BackoffLimitExceeded"}}),
    },
}

/// A job of which so many pods run at a time.
#[tokio::test]
async fn more_or_fewer_may_run_at_a_time() {
    let cluster = Cluster::start().await;
    cluster.apply(&job("work", json!({"completions": 10, "parallelism": 2}))).await;
    for (parallelism, active) in
        [(2, json!(2)), (5, json!(5)), (1, json!(1)), (0, Value::Null), (20, json!(10))]
    {
        cluster.patch("jobs/work", json!({"spec": {"parallelism": parallelism}})).await;
        cluster
            .shows("jobs/work", json!({"status": {"active": active, "terminating": 0, "failed": null}}))
            .await;
    }
}

#[tokio::test]
async fn what_was_done_before_a_job_was_suspended_stays_done() {
    let cluster = Cluster::start().await;
    ends(&cluster, "work", &[Some(0), Some(0), None, Some(0)]);
    cluster.apply(&job("work", indexed(4))).await;
    cluster.shows("jobs/work", json!({"status": {"succeeded": 2, "ready": 1}})).await;
    cluster.patch("jobs/work", json!({"spec": {"suspend": true}})).await;
    let held = json!({"status": {"active": null, "succeeded": 2, "completedIndexes": "0,1", "failed": null,
        "conditions": {"Suspended": "True JobSuspended"}}});
    cluster.shows("jobs/work", held).await;
    cluster.pass(3600).await;
    cluster.patch("jobs/work", json!({"spec": {"suspend": false}})).await;
    let done = json!({"status": {"succeeded": 4, "completedIndexes": "0-3", "failed": null,
        "conditions": {"Complete": "True CompletionsReached", "Suspended": "False JobResumed"}}});
    cluster.shows("jobs/work", done).await;
}

#[tokio::test]
async fn a_suspended_job_may_be_told_where_to_run() {
    let cluster = Cluster::start().await;
    cluster.apply(&job("work", json!({"suspend": true}))).await;
    cluster.shows("jobs/work", json!({"status": {"conditions": {"Suspended": "True"}}})).await;
    let there =
        json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "minik"}}}}});
    cluster.patch("jobs/work", there.clone()).await;
    cluster.patch("jobs/work", json!({"spec": {"suspend": false}})).await;
    cluster.shows("jobs/work", json!({"status": {"ready": 1}})).await;
    let pods = cluster.list("pods").await;
    assert_eq!(pods[0]["spec"]["nodeSelector"]["kubernetes.io/hostname"], "minik");
    let late = json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "other"}}}}});
    let refused = cluster.try_patch("jobs/work", late).await.unwrap_err();
    assert!(refused.message.contains("field is immutable"), "{refused}");
}

#[tokio::test]
async fn tries_of_an_index_come_later_and_later() {
    let cluster = Cluster::start().await;
    ends(&cluster, "work", &[Some(1)]);
    cluster.apply(&job("work", with(&[indexed(1), json!({"backoffLimitPerIndex": 3})]))).await;
    cluster.shows("jobs/work", json!({"status": {"failed": 4}})).await;
    let created = |pod: &Value| {
        let time: jiff::Timestamp = pod["metadata"]["creationTimestamp"].as_str().unwrap().parse().unwrap();
        time.as_second()
    };
    let mut times: Vec<i64> = cluster.list("pods").await.iter().map(created).collect();
    times.sort_unstable();
    let waits: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, expected) in waits.iter().zip([10, 20, 40]) {
        assert!((expected..expected + 3).contains(wait), "{waits:?}");
    }
}

#[tokio::test]
async fn the_rule_that_was_met_is_told() {
    let cluster = Cluster::start().await;
    ends(&cluster, "work", &[Some(0)]);
    let policy = json!({"rules": [{"succeededIndexes": "4"}, {"succeededCount": 2}]});
    cluster.apply(&job("work", with(&[indexed(5), json!({"successPolicy": policy})]))).await;
    let job = cluster
        .shows("jobs/work", json!({"status": {"conditions": {"Complete": "True SuccessPolicy"}}}))
        .await;
    assert_eq!(message(&job, "Complete"), "Matched rules at index 1");
    assert_eq!(meta::name(&job), "work");
}

#[tokio::test]
async fn a_deadline_ends_what_retries() {
    let cluster = Cluster::start().await;
    ends(&cluster, "work", &[Some(1)]);
    let begun = Instant::now();
    cluster.apply(&job("work", json!({"backoffLimit": 100, "activeDeadlineSeconds": 120}))).await;
    cluster.shows("jobs/work", json!({"status": {"conditions": {"Failed": "True DeadlineExceeded"}}})).await;
    let took = begun.elapsed().as_secs();
    assert!((120..125).contains(&took), "{took}");
}

#[tokio::test]
async fn pods_go_or_stay_with_their_job() {
    let cluster = Cluster::start().await;
    for (name, policy, left) in [("kept", "Orphan", 1), ("gone", "Background", 1), ("first", "Foreground", 1)]
    {
        cluster.apply(&job(name, json!({}))).await;
        cluster.shows(&format!("jobs/{name}"), json!({"status": {"ready": 1}})).await;
        cluster.delete_with(&format!("jobs/{name}"), policy).await;
        cluster.until_gone(&format!("jobs/{name}")).await;
        cluster.pass(60).await;
        let pods = cluster.list("pods").await;
        assert_eq!(pods.len(), left, "{policy}");
        assert!(names(&pods)[0].starts_with("kept-"), "{policy}");
        assert!(pods[0]["metadata"]["finalizers"].is_null(), "{pods:#?}");
    }
}
