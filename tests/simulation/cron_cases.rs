//! Which times a schedule has, in which zone, and what becomes of those that were missed.

use minik::runtime::sim::SimProgram;
use serde_json::{Value, json};

use crate::cron_jobs::{cron, start, times, until};
use crate::scenarios::scenarios;

/// The times of a schedule between two moments.
struct Schedule {
    schedule: &'static str,
    zone: Option<&'static str>,
    from: &'static str,
    to: &'static str,
    expected: &'static [&'static str],
}

async fn comes(case: Schedule) {
    let Schedule { schedule, zone, from, to, expected } = case;
    let cluster = start(from).await;
    let more = json!({"timeZone": zone, "successfulJobsHistoryLimit": 100});
    cluster.apply(&cron("tick", schedule, "done", more)).await;
    until(&cluster, to).await;
    assert_eq!(times(&cluster, "tick").await, expected);
}

scenarios! { comes;
    every_twenty_minutes: Schedule { schedule: "*/20 * * * *", zone: None,
        from: "2027-03-01T09:00:30Z", to: "2027-03-01T10:05:00Z",
        expected: &["2027-03-01T09:20:00Z", "2027-03-01T09:40:00Z", "2027-03-01T10:00:00Z"] },
    a_range_with_steps: Schedule { schedule: "10-30/10 9 * * *", zone: None,
        from: "2027-03-01T09:00:30Z", to: "2027-03-01T10:30:00Z",
        expected: &["2027-03-01T09:10:00Z", "2027-03-01T09:20:00Z", "2027-03-01T09:30:00Z"] },
    a_leap_day: Schedule { schedule: "0 0 29 2 *", zone: None,
        from: "2028-02-28T23:50:00Z", to: "2028-02-29T00:10:00Z", expected: &["2028-02-29T00:00:00Z"] },
    no_leap_day: Schedule { schedule: "0 0 29 2 *", zone: None,
        from: "2027-02-28T23:50:00Z", to: "2027-03-01T00:10:00Z", expected: &[] },
    months_and_days_by_name: Schedule { schedule: "15 9 * MAR mon-wed", zone: None,
        from: "2027-03-01T09:00:30Z", to: "2027-03-01T09:30:00Z", expected: &["2027-03-01T09:15:00Z"] },
    another_month_by_name: Schedule { schedule: "15 9 * APR *", zone: None,
        from: "2027-03-01T09:00:30Z", to: "2027-03-01T09:30:00Z", expected: &[] },
    every_day_at_midnight: Schedule { schedule: "@daily", zone: None,
        from: "2027-03-01T23:50:00Z", to: "2027-03-02T00:10:00Z", expected: &["2027-03-02T00:00:00Z"] },
    every_sunday_at_midnight: Schedule { schedule: "@weekly", zone: None,
        from: "2027-03-06T23:50:00Z", to: "2027-03-07T00:10:00Z", expected: &["2027-03-07T00:00:00Z"] },
    every_first_of_a_month: Schedule { schedule: "@monthly", zone: None,
        from: "2027-03-31T23:50:00Z", to: "2027-04-01T00:10:00Z", expected: &["2027-04-01T00:00:00Z"] },
    every_new_year: Schedule { schedule: "@yearly", zone: None,
        from: "2027-12-31T23:50:00Z", to: "2028-01-01T00:10:00Z", expected: &["2028-01-01T00:00:00Z"] },
    midnight_of_another_zone: Schedule { schedule: "0 0 * * *", zone: Some("Asia/Tokyo"),
        from: "2027-03-01T14:50:00Z", to: "2027-03-01T15:10:00Z", expected: &["2027-03-02T00:00:00+09:00"] },
    a_zone_of_quarters_of_an_hour: Schedule { schedule: "0 15 * * *", zone: Some("Asia/Kathmandu"),
        from: "2027-03-01T09:00:30Z", to: "2027-03-01T09:30:00Z", expected: &["2027-03-01T15:00:00+05:45"] },
    the_day_of_another_zone: Schedule { schedule: "30 22 28 2 *", zone: Some("Pacific/Honolulu"),
        from: "2027-03-01T08:20:00Z", to: "2027-03-01T08:40:00Z", expected: &["2027-02-28T22:30:00-10:00"] },
    an_hour_that_there_is_not_in_new_york: Schedule { schedule: "30 2 * * *", zone: Some("America/New_York"),
        from: "2027-03-14T06:00:00Z", to: "2027-03-14T09:00:00Z", expected: &[] },
    hours_go_on_where_one_is_left_out: Schedule { schedule: "0 * * * *", zone: Some("America/New_York"),
        from: "2027-03-14T05:30:00Z", to: "2027-03-14T08:10:00Z",
        expected: &["2027-03-14T01:00:00-05:00", "2027-03-14T03:00:00-04:00", "2027-03-14T04:00:00-04:00"] },
    an_hour_that_comes_twice_in_berlin: Schedule { schedule: "30 2 * * *", zone: Some("Europe/Berlin"),
        from: "2027-10-31T00:00:00Z", to: "2027-10-31T02:00:00Z",
        expected: &["2027-10-31T02:30:00+02:00", "2027-10-31T02:30:00+01:00"] },
    an_hour_after_that_comes_once: Schedule { schedule: "0 4 * * *", zone: Some("Europe/Berlin"),
        from: "2027-10-31T00:00:00Z", to: "2027-10-31T04:00:00Z", expected: &["2027-10-31T04:00:00+01:00"] },
    half_an_hour_that_is_left_out_at_lord_howe: Schedule { schedule: "15 2 * * *", zone: Some("Australia/Lord_Howe"),
        from: "2027-10-02T15:00:00Z", to: "2027-10-02T17:00:00Z", expected: &[] },
}

/// What becomes of runs that overlap: how long each takes, in minutes, and which start within ten of them.
struct Overlap {
    policy: &'static str,
    runs: u64,
    started: usize,
    active: usize,
}

async fn overlaps(case: Overlap) {
    let Overlap { policy, runs, started, active } = case;
    let cluster = start("2027-03-01T09:00:30Z").await;
    let more = json!({"concurrencyPolicy": policy, "successfulJobsHistoryLimit": 100, "failedJobsHistoryLimit": 100});
    let mut object: Value = serde_json::from_str(&cron("tick", "* * * * *", "runs", more)).unwrap();
    object["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] = json!(runs);
    cluster.apply(&object.to_string()).await;
    until(&cluster, "2027-03-01T09:10:30Z").await;
    let jobs = cluster.list("jobs").await;
    assert_eq!(jobs.len(), started, "{:?}", times(&cluster, "tick").await);
    let tick = cluster.get("cronjobs/tick").await.unwrap();
    assert_eq!(tick["status"]["active"].as_array().map_or(0, Vec::len), active);
}

scenarios! { overlaps;
    short_runs_side_by_side: Overlap { policy: "Allow", runs: 20, started: 10, active: 0 },
    long_runs_side_by_side: Overlap { policy: "Allow", runs: 200, started: 10, active: 3 },
    short_runs_one_by_one: Overlap { policy: "Forbid", runs: 20, started: 10, active: 0 },
    the_last_run_alone: Overlap { policy: "Replace", runs: 2000, started: 1, active: 1 },
}

/// A time that passes while a cron job is suspended: whether it is made up for.
struct Missed {
    schedule: &'static str,
    deadline: Value,
    /// When it may go on.
    at: &'static str,
    expected: &'static [&'static str],
}

async fn makes_up(case: Missed) {
    let Missed { schedule, deadline, at, expected } = case;
    let cluster = start("2027-03-01T09:00:30Z").await;
    let more = json!({"suspend": true, "startingDeadlineSeconds": deadline});
    cluster.apply(&cron("tick", schedule, "done", more)).await;
    until(&cluster, at).await;
    cluster.patch("cronjobs/tick", json!({"spec": {"suspend": false}})).await;
    cluster.pass(5).await;
    assert_eq!(times(&cluster, "tick").await, expected);
}

scenarios! { makes_up;
    nothing_was_missed: Missed { schedule: "30 9 * * *", deadline: Value::Null, at: "2027-03-01T09:20:00Z", expected: &[] },
    one_was_missed: Missed { schedule: "10 9 * * *", deadline: Value::Null, at: "2027-03-01T09:20:00Z",
        expected: &["2027-03-01T09:10:00Z"] },
    the_last_of_some_that_were_missed: Missed { schedule: "*/5 * * * *", deadline: Value::Null, at: "2027-03-01T09:21:00Z",
        expected: &["2027-03-01T09:20:00Z"] },
    missed_just_in_time: Missed { schedule: "10 9 * * *", deadline: json!(660), at: "2027-03-01T09:20:00Z",
        expected: &["2027-03-01T09:10:00Z"] },
    missed_and_too_late: Missed { schedule: "10 9 * * *", deadline: json!(300), at: "2027-03-01T09:20:00Z", expected: &[] },
}

#[tokio::test]
async fn a_run_that_is_in_the_way_is_followed_by_the_last_that_it_held_up() {
    let cluster = start("2027-03-01T09:00:30Z").await;
    cluster.program("slow", SimProgram::IgnoreTerm);
    let mut object: Value =
        serde_json::from_str(&cron("tick", "* * * * *", "slow", json!({"concurrencyPolicy": "Forbid"})))
            .unwrap();
    object["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"] = json!(150);
    cluster.apply(&object.to_string()).await;
    until(&cluster, "2027-03-01T09:04:00Z").await;
    let times = times(&cluster, "tick").await;
    assert_eq!(times.last().unwrap(), "2027-03-01T09:03:00Z", "{times:?}");
}

#[tokio::test]
async fn a_suspended_cron_job_lets_its_jobs_run_on() {
    let cluster = start("2027-03-01T09:00:30Z").await;
    cluster.apply(&cron("tick", "* * * * *", "runs", json!({}))).await;
    until(&cluster, "2027-03-01T09:01:30Z").await;
    cluster.patch("cronjobs/tick", json!({"spec": {"suspend": true}})).await;
    until(&cluster, "2027-03-01T10:00:00Z").await;
    assert_eq!(times(&cluster, "tick").await, ["2027-03-01T09:01:00Z"]);
    cluster.is("cronjobs/tick", json!({"status": {"lastScheduleTime": "2027-03-01T09:01:00Z"}})).await;
    let jobs = cluster.list("jobs").await;
    assert_eq!(jobs[0]["status"]["ready"], 1);
}
