//! Tables of jobs and what is wrong with them.

use super::super::super::apps::testing::{pod_template, told};
use super::*;

fn job(more: Value) -> Value {
    let mut template = pod_template();
    template["spec"]["restartPolicy"] = json!("Never");
    let mut job = json!({"metadata": {"name": "pi", "uid": "u-1"}, "spec": {"template": template}});
    for (key, value) in more.as_object().unwrap() {
        job["spec"][key] = value.clone();
    }
    Job.default(&mut job);
    Job.prepare_create(&mut job);
    job
}

#[test]
fn a_minimal_job_is_filled_in_once() {
    let made = job(json!({}));
    let mut again = made.clone();
    Job.default(&mut again);
    assert_eq!(made, again);
    let labels = json!({"app": "web", "job-name": "pi", "controller-uid": "u-1",
        "batch.kubernetes.io/job-name": "pi", "batch.kubernetes.io/controller-uid": "u-1"});
    assert_eq!(made["spec"]["template"]["metadata"]["labels"], labels);
    assert_eq!(made["metadata"]["labels"], json!({"app": "web"}));
    let mut spec = made["spec"].clone();
    spec.as_object_mut().unwrap().remove("template");
    assert_eq!(
        spec,
        json!({"completions": 1, "parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": false,
            "podReplacementPolicy": "TerminatingOrFailed", "manualSelector": false,
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}})
    );
    assert!(Job.validate(&made).is_empty());
    assert_eq!(job(json!({"parallelism": 2}))["spec"].get("completions"), None);
    assert_eq!(job(json!({"backoffLimitPerIndex": 2}))["spec"]["backoffLimit"], i32::MAX);
}

#[test]
fn rules_and_words_are_kubernetes() {
    for (more, errors) in [
        (
            json!({"parallelism": -1}),
            &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"][..],
        ),
        (
            json!({"maxFailedIndexes": 1}),
            &[
                "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
            ],
        ),
        (
            json!({"completionMode": "X"}),
            &["spec.completionMode: Unsupported value: \"X\": supported values: \"NonIndexed\", \"Indexed\""],
        ),
        (
            json!({"completionMode": "Indexed", "parallelism": 1}),
            &["spec.completions: Required value: when completion mode is Indexed"],
        ),
        (
            json!({"managedBy": "x"}),
            &[
                "spec.managedBy: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
            ],
        ),
        (
            json!({"successPolicy": {}}),
            &["spec.successPolicy: Invalid value: {}: requires indexed completion mode"],
        ),
        (
            json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [
            {"succeededIndexes": "0,2-5"}, {"succeededIndexes": "0-1", "succeededCount": 3}, {}]}}),
            &[
                "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0,2-5\": error parsing succeededIndexes: too large index: \"5\"",
                "spec.successPolicy.rules[1].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
                "spec.successPolicy.rules[2]: Required value: at least one of succeededCount or succeededIndexes must be specified",
            ],
        ),
        (
            json!({"podFailurePolicy": {"rules": [
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0, 3, 2], "containerName": "x"}},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}, {"action": "X"}]}}),
            &[
                "spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [0,3,2]: must be ordered",
                "spec.podFailurePolicy.rules[2].action: Unsupported value: \"X\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                "spec.podFailurePolicy.rules[2]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ],
        ),
        (
            json!({"podReplacementPolicy": "X"}),
            &[
                "spec.podReplacementPolicy: Unsupported value: \"X\": supported values: \"Failed\", \"TerminatingOrFailed\"",
            ],
        ),
        (
            json!({"template": pod_template()}),
            &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
        ),
        (
            json!({"manualSelector": true}),
            &[
                "spec.selector: Required value",
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ],
        ),
    ] {
        assert_eq!(told(Job.validate(&job(more.clone()))), errors, "{more}");
    }
    let mut other = job(json!({}));
    other["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] = json!("x");
    let errors = told(Job.validate(&other));
    assert!(errors[0].ends_with(": `selector` not auto-generated"), "{errors:?}");
}

#[test]
fn little_can_be_changed() {
    let old = job(json!({}));
    let mut new = old.clone();
    new["spec"]["parallelism"] = json!(2);
    new["spec"]["suspend"] = json!(true);
    assert!(Job.validate_update(&new, &old).is_empty());
    new["spec"]["completions"] = json!(2);
    new["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    let errors = told(Job.validate_update(&new, &old));
    assert_eq!(errors[0], "spec.completions: Invalid value: 2: field is immutable");
    assert!(
        errors[1].starts_with("spec.template: Invalid value: {")
            && errors[1].ends_with(": field is immutable")
    );
    // A job that has not begun can still be sent elsewhere.
    let mut suspended = old.clone();
    suspended["spec"]["suspend"] = json!(true);
    new["spec"]["completions"] = json!(1);
    assert!(Job.validate_update(&new, &suspended).is_empty());
    suspended["status"]["startTime"] = json!("2024-01-01T00:00:00Z");
    assert_eq!(Job.validate_update(&new, &suspended).len(), 1);
    let indexed = job(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2}));
    let mut grown = indexed.clone();
    grown["spec"]["completions"] = json!(3);
    assert_eq!(
        told(Job.validate_update(&grown, &indexed)),
        ["spec.completions: Invalid value: 3: can only be modified in tandem with spec.parallelism"]
    );
    grown["spec"]["parallelism"] = json!(3);
    assert!(Job.validate_update(&grown, &indexed).is_empty());
}

#[test]
fn a_finished_job_stays_finished() {
    let with = |status: Value| {
        let mut job = job(json!({}));
        job["status"] = status;
        job
    };
    let time = "2024-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let running = with(json!({"startTime": time, "active": 1, "ready": 1}));
    let complete = with(json!({"startTime": time, "completionTime": time, "succeeded": 1,
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")]}));
    assert!(Job.validate_status_update(&complete, &running).is_empty());
    // A job that goes on after it was suspended begins its time anew.
    let suspended = with(json!({"startTime": time, "conditions": [condition("Suspended")]}));
    let resumed = with(json!({"startTime": "2024-01-01T00:01:00Z",
        "conditions": [{"type": "Suspended", "status": "False"}]}));
    assert!(Job.validate_status_update(&resumed, &suspended).is_empty());
    for (new, old, error) in [
        (
            &running,
            &complete,
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
        ),
        (
            &with(json!({"conditions": [condition("Complete")]})),
            &running,
            "status.completionTime: Required value: completionTime is required for Complete jobs",
        ),
        (
            &with(json!({"active": -1})),
            &running,
            "status.active: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            &with(json!({"startTime": time, "active": 1, "ready": 2})),
            &running,
            "status.ready: Invalid value: 2: cannot set more ready pods than active",
        ),
        (
            &with(json!({"active": 1, "ready": 1})),
            &running,
            "status.startTime: Required value: startTime cannot be removed for unsuspended job",
        ),
        (
            &with(json!({"completionTime": time})),
            &running,
            "status.completionTime: Invalid value: \"2024-01-01T00:00:00Z\": cannot set completionTime when there is no Complete=True condition",
        ),
        (
            &with(json!({"conditions": [condition("Failed")], "startTime": time})),
            &running,
            "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition",
        ),
    ] {
        let errors = told(Job.validate_status_update(new, old));
        assert!(errors.iter().any(|e| e == error), "{error}: {errors:?}");
    }
}

#[test]
fn a_line_is_kubectls() {
    let mut shown = job(json!({}));
    let now = "2024-01-01T00:01:00Z".parse().unwrap();
    shown["status"] = json!({"startTime": "2024-01-01T00:00:00Z"});
    assert_eq!(Job.cells(&shown, now)[1..4], ["Running", "0/1", "60s"].map(Value::from));
    shown["status"]["completionTime"] = json!("2024-01-01T00:00:05Z");
    shown["status"]["succeeded"] = json!(1);
    shown["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]);
    assert_eq!(Job.cells(&shown, now)[1..4], ["Complete", "1/1", "5s"].map(Value::from));
    let at_once = job(json!({"parallelism": 3}));
    assert_eq!(Job.cells(&at_once, now)[2..4], ["0/1 of 3", ""].map(Value::from));
    assert_eq!(Job.fields(&shown), [("status.successful", "1".to_owned())]);
    let mut named = job(json!({}));
    named["metadata"]["name"] = json!("a.b");
    assert!(
        Job.create_warnings(&named)[0]
            .starts_with("metadata.name: this is used in Pod names and hostnames, ")
    );
}
