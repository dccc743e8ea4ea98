//! Jobs and cron jobs, from their first pod to their last.

use minik::runtime::sim::SimProgram;
use minik::stdio::Exit;
use serde_json::{Value, json};

use crate::cluster::Cluster;

const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: pi}
spec:
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: done}]
";

/// The job with more in its specification.
fn job(more: &str) -> String {
    JOB.replace("spec:\n  template:", &format!("spec:\n  {more}\n  template:"))
}

async fn cluster() -> Cluster {
    let cluster = Cluster::start().await;
    cluster.program("done", SimProgram::EndAtOnce(Exit::Code(0)));
    cluster.program("fails", SimProgram::EndAtOnce(Exit::Code(3)));
    cluster
}

fn is(object: &Value, condition: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == condition && c["status"] == "True")
}

fn reason(object: &Value, condition: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|c| c["type"] == condition);
    found.map_or(String::new(), |c| c["reason"].as_str().unwrap().to_owned())
}

fn held(pods: &[Value]) -> bool {
    pods.iter().any(|pod| pod["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()))
}

#[tokio::test]
async fn a_job_comes_to_its_end_and_goes_with_its_pods() {
    let cluster = cluster().await;
    cluster.apply(&job("completions: 3\n  parallelism: 2")).await;
    let pi = cluster.until("jobs/pi", |job| is(job, "Complete")).await;
    let status = &pi["status"];
    assert_eq!(
        (&status["succeeded"], &status["ready"], &status["terminating"]),
        (&json!(3), &json!(0), &json!(0))
    );
    assert_eq!(status["uncountedTerminatedPods"], json!({}));
    assert!(status["completionTime"].is_string() && status["active"].is_null());
    assert_eq!(reason(&pi, "SuccessCriteriaMet"), "CompletionsReached");
    let pods = cluster.until_all("pods", |pods| pods.len() == 3 && !held(pods)).await;
    assert_eq!(pods[0]["metadata"]["labels"]["batch.kubernetes.io/job-name"], "pi");
    cluster.until_event("Job/pi", "SuccessfulCreate: Created pod: pi-").await;
    cluster.until_event("Job/pi", "Completed: Job completed").await;
    cluster.delete("jobs/pi").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
}

#[tokio::test]
async fn every_index_comes_to_its_end_once() {
    let cluster = cluster().await;
    cluster.apply(&job("completions: 4\n  parallelism: 3\n  completionMode: Indexed")).await;
    let pi = cluster.until("jobs/pi", |job| is(job, "Complete")).await;
    assert_eq!((&pi["status"]["completedIndexes"], &pi["status"]["succeeded"]), (&json!("0-3"), &json!(4)));
    let pods = cluster.list("pods").await;
    let last = pods.iter().find(|pod| pod["spec"]["hostname"] == "pi-3").unwrap();
    assert!(last["metadata"]["name"].as_str().unwrap().starts_with("pi-3-"));
    assert_eq!(last["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"], "3");
}

#[tokio::test]
async fn failures_end_a_job() {
    let cluster = cluster().await;
    cluster.apply(&job("backoffLimit: 0").replace("image: done", "image: fails")).await;
    let pi = cluster.until("jobs/pi", |job| is(job, "Failed")).await;
    assert_eq!(
        (reason(&pi, "Failed"), &pi["status"]["failed"]),
        ("BackoffLimitExceeded".to_owned(), &json!(1))
    );
    let told = "BackoffLimitExceeded: Job has reached the specified backoff limit";
    cluster.until_event("Job/pi", told).await;
    let policy = "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [3]}}]}";
    let other = job(policy).replace("image: done", "image: fails").replace("name: pi", "name: other");
    cluster.apply(&other).await;
    let other = cluster.until("jobs/other", |job| is(job, "Failed")).await;
    assert_eq!(reason(&other, "Failed"), "PodFailurePolicy");
    let late = job("activeDeadlineSeconds: 1")
        .replace("image: done", "image: runs")
        .replace("name: pi", "name: late");
    cluster.apply(&late).await;
    let late = cluster.until("jobs/late", |job| is(job, "Failed")).await;
    assert_eq!(reason(&late, "Failed"), "DeadlineExceeded");
    cluster.until_all("pods", |pods| pods.len() == 2 && !held(pods)).await;
}

#[tokio::test]
async fn a_suspended_job_waits_and_goes_on() {
    let cluster = cluster().await;
    cluster.apply(&job("suspend: true").replace("image: done", "image: runs")).await;
    let pi = cluster.until("jobs/pi", |job| is(job, "Suspended")).await;
    assert!(pi["status"]["startTime"].is_null() && cluster.list("pods").await.is_empty());
    cluster.patch("jobs/pi", json!({"spec": {"suspend": false}})).await;
    cluster
        .until("jobs/pi", |job| job["status"]["ready"] == 1 && job["status"]["startTime"].is_string())
        .await;
    cluster.patch("jobs/pi", json!({"spec": {"suspend": true}})).await;
    let pi = cluster.until("jobs/pi", |job| is(job, "Suspended") && job["status"]["terminating"] == 0).await;
    assert!(pi["status"]["failed"].is_null(), "{pi}");
    cluster.until_all("pods", |pods| pods.is_empty()).await;
    for event in ["Suspended: Job suspended", "Resumed: Job resumed"] {
        cluster.until_event("Job/pi", event).await;
    }
}

#[tokio::test]
async fn a_finished_job_is_removed_in_time() {
    let cluster = cluster().await;
    cluster.apply(&job("ttlSecondsAfterFinished: 0")).await;
    cluster.until_all("pods", |pods| !pods.is_empty()).await;
    cluster.until_gone("jobs/pi").await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
}

#[tokio::test]
async fn a_cron_job_makes_jobs_and_forgets_the_old_ones() {
    let cluster = cluster().await;
    cluster
        .apply(
            "
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: '@every 1s'
  successfulJobsHistoryLimit: 1
  jobTemplate:
    metadata: {labels: {of: tick}}
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: c, image: done}]
",
        )
        .await;
    cluster.until_event("CronJob/tick", "SuccessfulCreate: Created job tick-").await;
    let saw = cluster.until_event("CronJob/tick", "SawCompletedJob: Saw completed job: tick-").await;
    assert!(saw.ends_with(", condition: Complete"), "{saw}");
    let tick = cluster.until("cronjobs/tick", |cron| cron["status"]["lastSuccessfulTime"].is_string()).await;
    assert!(tick["status"]["lastScheduleTime"].is_string());
    let jobs = cluster.list("jobs").await;
    let annotations = &jobs[0]["metadata"]["annotations"];
    assert!(annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(jobs[0]["metadata"]["labels"]["of"], "tick");
    cluster.delete("cronjobs/tick").await;
    cluster.until_all("jobs", |jobs| jobs.is_empty()).await;
    cluster.until_all("pods", |pods| pods.is_empty()).await;
}
