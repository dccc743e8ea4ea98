//! Cron jobs, by the clock.

use minik::clock;
use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::shows::names;

/// A cron job whose jobs run this image.
pub fn cron(name: &str, schedule: &str, image: &str, more: Value) -> String {
    let template = json!({"spec": {"backoffLimit": 0, "template": {"spec": {"restartPolicy": "Never",
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": image}]}}}});
    let mut spec = json!({"schedule": schedule, "jobTemplate": template});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": spec}).to_string()
}

pub async fn start(time: &str) -> Cluster {
    let cluster = Cluster::start_at(time).await;
    cluster.program("done", SimProgram::EndAtOnce(Exit::Code(0)));
    cluster.program("fails", SimProgram::EndAtOnce(Exit::Code(1)));
    cluster
}

/// Lets time go by up to a moment.
pub async fn until(cluster: &Cluster, time: &str) {
    let time: jiff::Timestamp = time.parse().unwrap();
    let left = time.duration_since(clock::now()).as_secs();
    cluster.pass(u64::try_from(left + 1).unwrap()).await;
}

/// The times for which a cron job's jobs were made that are still there, as its zone has them.
pub async fn times(cluster: &Cluster, name: &str) -> Vec<String> {
    let mut jobs = cluster.list("jobs").await;
    jobs.retain(|job| job["metadata"]["ownerReferences"][0]["name"] == name);
    let of = |job: &Value| {
        let at = &job["metadata"]["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"];
        at.as_str().unwrap().to_owned()
    };
    jobs.iter().map(of).collect()
}

#[tokio::test]
async fn jobs_are_made_at_their_times() {
    let cluster = start("2027-03-01T08:58:30Z").await;
    let cases = [
        (
            "five",
            "*/5 * * * *",
            json!({}),
            vec!["2027-03-01T09:00:00Z", "2027-03-01T09:05:00Z", "2027-03-01T09:10:00Z"],
        ),
        ("nine", "0 9 * * *", json!({}), vec!["2027-03-01T09:00:00Z"]),
        ("monday", "7 9 * * MON", json!({}), vec!["2027-03-01T09:07:00Z"]),
        ("tuesday", "7 9 * * 2", json!({}), vec![]),
        ("hourly", "@hourly", json!({}), vec!["2027-03-01T09:00:00Z"]),
        (
            "list",
            "1,3,8 9 1 3 *",
            json!({}),
            vec!["2027-03-01T09:01:00Z", "2027-03-01T09:03:00Z", "2027-03-01T09:08:00Z"],
        ),
        // The first of a month or a Tuesday: either is enough.
        ("either", "2 9 1 * 2", json!({}), vec!["2027-03-01T09:02:00Z"]),
        ("held", "*/5 * * * *", json!({"suspend": true}), vec![]),
        ("there", "4 4 * * *", json!({"timeZone": "America/New_York"}), vec!["2027-03-01T04:04:00-05:00"]),
        ("elsewhere", "30 14 * * *", json!({"timeZone": "Asia/Kolkata"}), vec!["2027-03-01T14:30:00+05:30"]),
        ("utc", "6 9 * * *", json!({"timeZone": "Etc/UTC"}), vec!["2027-03-01T09:06:00Z"]),
    ];
    for (name, schedule, more, _) in &cases {
        cluster.apply(&cron(name, schedule, "done", more.clone())).await;
    }
    until(&cluster, "2027-03-01T09:12:00Z").await;
    for (name, schedule, _, expected) in &cases {
        assert_eq!(times(&cluster, name).await, *expected, "{schedule}");
    }
    let five = cluster.get("cronjobs/five").await.unwrap();
    assert_eq!(five["status"]["lastScheduleTime"], "2027-03-01T09:10:00Z");
    assert!(five["status"]["active"].is_null() && five["status"]["lastSuccessfulTime"].is_string());
    let minutes = "2027-03-01T09:10:00Z".parse::<jiff::Timestamp>().unwrap().as_second() / 60;
    assert!(cluster.get(&format!("jobs/five-{minutes}")).await.is_some());
}

#[tokio::test]
async fn jobs_run_side_by_side_one_by_one_or_the_last_alone() {
    let cluster = start("2027-03-01T09:00:30Z").await;
    for policy in ["Allow", "Forbid", "Replace"] {
        let more = json!({"concurrencyPolicy": policy});
        cluster.apply(&cron(&policy.to_lowercase(), "*/2 * * * *", "runs", more)).await;
    }
    until(&cluster, "2027-03-01T09:06:30Z").await;
    assert_eq!(
        times(&cluster, "allow").await,
        ["2027-03-01T09:02:00Z", "2027-03-01T09:04:00Z", "2027-03-01T09:06:00Z"]
    );
    assert_eq!(times(&cluster, "forbid").await, ["2027-03-01T09:02:00Z"]);
    assert_eq!(times(&cluster, "replace").await, ["2027-03-01T09:06:00Z"]);
    for (name, active) in [("allow", 3), ("forbid", 1), ("replace", 1)] {
        let cron = cluster.get(&format!("cronjobs/{name}")).await.unwrap();
        assert_eq!(cron["status"]["active"].as_array().unwrap().len(), active, "{name}");
    }
    let told = "JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid";
    cluster.until_event("CronJob/forbid", told).await;
    cluster.until_event("CronJob/replace", "SuccessfulDelete: Deleted job replace-").await;
    // When the one that runs has ended, the time that it took is made up for.
    let running = cluster.list("jobs").await;
    let forbid = names(&running).into_iter().find(|name| name.starts_with("forbid-")).unwrap();
    let pods = cluster.list("pods").await;
    let pod = names(&pods).into_iter().find(|name| name.starts_with(forbid)).unwrap();
    cluster.patch_status(&format!("pods/{pod}"), json!({"phase": "Succeeded"})).await;
    cluster.pass(20).await;
    assert_eq!(times(&cluster, "forbid").await.last().unwrap(), "2027-03-01T09:06:00Z");
}

#[tokio::test]
async fn old_jobs_go_and_some_stay() {
    let cluster = start("2027-03-01T09:00:30Z").await;
    let cases = [
        ("usual", "done", json!({}), 3),
        ("two", "done", json!({"successfulJobsHistoryLimit": 2}), 2),
        ("none", "done", json!({"successfulJobsHistoryLimit": 0}), 0),
        ("bad", "fails", json!({}), 1),
        ("badtwo", "fails", json!({"failedJobsHistoryLimit": 2, "successfulJobsHistoryLimit": 0}), 2),
    ];
    for (name, image, more, _) in &cases {
        cluster.apply(&cron(name, "* * * * *", image, more.clone())).await;
    }
    until(&cluster, "2027-03-01T09:07:30Z").await;
    for (name, _, _, left) in &cases {
        let times = times(&cluster, name).await;
        assert_eq!(times.len(), *left, "{name}: {times:?}");
        assert!(times.last().is_none_or(|last| last == "2027-03-01T09:07:00Z"), "{name}: {times:?}");
    }
}

#[tokio::test]
async fn a_time_that_was_missed_is_made_up_for_once_while_it_may() {
    let cluster = start("2027-03-01T09:00:30Z").await;
    let cases = [
        ("always", json!({}), vec!["2027-03-01T09:10:00Z"]),
        ("intime", json!({"startingDeadlineSeconds": 200}), vec!["2027-03-01T09:10:00Z"]),
        ("toolate", json!({"startingDeadlineSeconds": 60}), vec![]),
    ];
    for (name, more, _) in &cases {
        let mut more = more.clone();
        more["suspend"] = json!(true);
        cluster.apply(&cron(name, "*/5 * * * *", "done", more)).await;
    }
    until(&cluster, "2027-03-01T09:12:00Z").await;
    for (name, _, expected) in &cases {
        cluster.patch(&format!("cronjobs/{name}"), json!({"spec": {"suspend": false}})).await;
        cluster.pass(2).await;
        assert_eq!(times(&cluster, name).await, *expected, "{name}");
    }
    until(&cluster, "2027-03-01T09:15:30Z").await;
    for (name, ..) in &cases {
        assert_eq!(times(&cluster, name).await.last().unwrap(), "2027-03-01T09:15:00Z", "{name}");
    }
}

#[tokio::test]
async fn suspiciously_many_missed_times_are_told() {
    let cluster = start("2027-03-01T09:00:30Z").await;
    cluster.apply(&cron("tick", "* * * * *", "done", json!({"suspend": true}))).await;
    until(&cluster, "2027-03-01T10:45:30Z").await;
    cluster.patch("cronjobs/tick", json!({"spec": {"suspend": false}})).await;
    let told = "TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
    cluster.until_event("CronJob/tick", told).await;
    cluster.pass(2).await;
    assert_eq!(times(&cluster, "tick").await, ["2027-03-01T10:45:00Z"]);
}

#[tokio::test]
async fn clocks_that_are_put_forward_skip_what_would_be_in_the_gap_and_go_on() {
    let cluster = start("2027-03-28T00:50:00Z").await;
    // In Berlin two o'clock is followed by three o'clock, at one o'clock UTC.
    for (name, schedule) in [("gap", "30 2 * * *"), ("after", "15 3 * * *"), ("half", "*/30 * * * *")] {
        cluster.apply(&cron(name, schedule, "done", json!({"timeZone": "Europe/Berlin"}))).await;
    }
    until(&cluster, "2027-03-28T01:40:00Z").await;
    assert_eq!(times(&cluster, "gap").await, Vec::<String>::new());
    assert_eq!(times(&cluster, "after").await, ["2027-03-28T03:15:00+02:00"]);
    assert_eq!(times(&cluster, "half").await, ["2027-03-28T03:00:00+02:00", "2027-03-28T03:30:00+02:00"]);
}

#[tokio::test]
async fn a_new_schedule_counts_from_when_it_was_given() {
    let cluster = start("2027-03-01T09:00:30Z").await;
    cluster.apply(&cron("tick", "0 12 * * *", "done", json!({}))).await;
    cluster.pass(60).await;
    cluster.patch("cronjobs/tick", json!({"spec": {"schedule": "*/4 * * * *"}})).await;
    until(&cluster, "2027-03-01T09:08:30Z").await;
    assert_eq!(times(&cluster, "tick").await, ["2027-03-01T09:04:00Z", "2027-03-01T09:08:00Z"]);
}

#[tokio::test]
async fn jobs_go_with_their_cron_job_or_stay() {
    let cluster = start("2027-03-01T09:00:30Z").await;
    for (name, policy) in [("gone", "Background"), ("left", "Orphan")] {
        cluster.apply(&cron(name, "* * * * *", "runs", json!({}))).await;
        cluster.until_event(&format!("CronJob/{name}"), "SuccessfulCreate: Created job ").await;
        cluster.delete_with(&format!("cronjobs/{name}"), policy).await;
        cluster.until_gone(&format!("cronjobs/{name}")).await;
    }
    cluster.pass(30).await;
    let jobs = cluster.list("jobs").await;
    assert_eq!(jobs.len(), 1);
    assert!(
        names(&jobs)[0].starts_with("left-") && jobs[0]["metadata"]["ownerReferences"].is_null(),
        "{jobs:#?}"
    );
}
