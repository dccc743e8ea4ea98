//! What a job's status may become (`ValidateJobUpdateStatus`).
//!
//! Most rules hold only for what an update changes, so that a status that broke one stays writable.

use serde_json::{Value, json};

use super::super::super::checks;
use super::super::super::value::{items, text};
use super::{is_true, policies};
use crate::api::meta;
use crate::api::status::FieldError;

const PATH: &str = "status.conditions";

pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let status = &new["status"];
    let mut errors =
        checks::nonnegative("status", status, &["active", "succeeded", "failed", "ready", "terminating"]);
    errors.extend(uncounted(status));
    errors.extend(conditions(new, old));
    errors.extend(times(new, old));
    errors.extend(counts(new, old));
    errors.extend(indexes(new, old));
    errors
}

fn is_finished(job: &Value) -> bool {
    is_true(job, "Complete") || is_true(job, "Failed")
}

fn uncounted(status: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen: Vec<&Value> = Vec::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in items(&status["uncountedTerminatedPods"], list).iter().enumerate() {
            let path = format!("status.uncountedTerminatedPods.{list}[{i}]");
            if uid == "" {
                errors.push(FieldError::invalid(path, uid, "must not be empty"));
            } else if seen.contains(&uid) {
                errors.push(FieldError::duplicate(path, uid));
            }
            seen.push(uid);
        }
    }
    errors
}

fn conditions(new: &Value, old: &Value) -> Vec<FieldError> {
    let turned = |condition: &str| is_true(new, condition) != is_true(old, condition);
    let both = |one: &str, other: &str| is_true(new, one) && is_true(new, other);
    let mut errors = Vec::new();
    let mut wrong = |why: &str| errors.push(FieldError::invalid_without_value(PATH, why));
    if (turned("Complete") || turned("Failed")) && both("Complete", "Failed") {
        wrong("cannot set Complete=True and Failed=true conditions");
    }
    if (turned("Complete") || turned("FailureTarget")) && both("Complete", "FailureTarget") {
        wrong("cannot set Complete=True and FailureTarget=true conditions");
    }
    if turned("Failed") && is_true(new, "Failed") && !is_true(new, "FailureTarget") {
        wrong("cannot set Failed=True condition without the FailureTarget=true condition");
    }
    if turned("Complete") && is_true(new, "Complete") && !is_true(new, "SuccessCriteriaMet") {
        wrong("cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
    }
    if both("SuccessCriteriaMet", "Failed") {
        wrong("cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if both("SuccessCriteriaMet", "FailureTarget") {
        wrong("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if !new["spec"]["successPolicy"].is_null()
        && is_true(new, "Complete")
        && !is_true(new, "SuccessCriteriaMet")
    {
        wrong("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True");
    }
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if is_true(old, condition) && !is_true(new, condition) {
            wrong(&format!("cannot disable the terminal {condition}=True condition"));
        }
    }
    if is_true(old, "SuccessCriteriaMet") && !is_true(new, "SuccessCriteriaMet") {
        wrong("cannot disable the SuccessCriteriaMet=True condition");
    }
    if is_true(old, "Complete") && !is_true(old, "SuccessCriteriaMet") && is_true(new, "SuccessCriteriaMet") {
        wrong("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions");
    }
    errors
}

fn times(new: &Value, old: &Value) -> Vec<FieldError> {
    let (status, before) = (&new["status"], &old["status"]);
    let (started, ended) = (&status["startTime"], &status["completionTime"]);
    let (start_changed, end_changed) = (*started != before["startTime"], *ended != before["completionTime"]);
    let complete_turned = is_true(new, "Complete") != is_true(old, "Complete");
    let (complete, finished) = (is_true(new, "Complete"), is_finished(new));
    let mut errors = Vec::new();
    if complete_turned || end_changed {
        const END: &str = "status.completionTime";
        if !ended.is_null() && !complete {
            let why = "cannot set completionTime when there is no Complete=True condition";
            errors.push(FieldError::invalid(END, ended, why));
        }
        if ended.is_null() && complete {
            errors.push(FieldError::required(END, "completionTime is required for Complete jobs"));
        }
    }
    let backwards = meta::time(started).zip(meta::time(ended)).is_some_and(|(from, to)| to < from);
    if (start_changed || end_changed) && backwards {
        let why = "completionTime cannot be set before startTime";
        errors.push(FieldError::invalid("status.completionTime", ended, why));
    }
    if (finished != is_finished(old) || start_changed) && started.is_null() && finished {
        errors.push(FieldError::required("status.startTime", "startTime is required for finished job"));
    }
    if end_changed && !ended.is_null() && !before["completionTime"].is_null() {
        let why = "completionTime cannot be mutated";
        errors.push(FieldError::invalid("status.completionTime", ended, why));
    }
    let resumed = is_true(old, "Suspended") && !is_true(new, "Suspended");
    if start_changed && !before["startTime"].is_null() && new["spec"]["suspend"] != true && !resumed {
        let why = "startTime cannot be removed for unsuspended job";
        errors.push(FieldError::required("status.startTime", why));
    }
    errors
}

fn counts(new: &Value, old: &Value) -> Vec<FieldError> {
    let (status, before, spec) = (&new["status"], &old["status"], &new["spec"]);
    let number = |status: &Value, field: &str| status[field].as_i64().unwrap_or(0);
    let changed = |field: &str| status[field] != before[field];
    let finished = is_finished(new);
    let turned = finished != is_finished(old);
    let mut errors = Vec::new();
    let mut wrong = |field: &str, why: &str| {
        errors.push(FieldError::invalid(format!("status.{field}"), &status[field], why));
    };
    if (turned || changed("active")) && finished && number(status, "active") > 0 {
        wrong("active", "active>0 is invalid for finished job");
    }
    let pending = &status["uncountedTerminatedPods"];
    let any = ["failed", "succeeded"].iter().any(|list| !items(pending, list).is_empty());
    if (turned || changed("uncountedTerminatedPods")) && finished && any {
        wrong("uncountedTerminatedPods", "uncountedTerminatedPods needs to be empty for finished job");
    }
    if (turned || changed("terminating")) && finished && number(status, "terminating") > 0 {
        wrong("terminating", "terminating>0 is invalid for finished job");
    }
    if (changed("ready") || changed("active")) && number(status, "ready") > number(status, "active") {
        wrong("ready", "cannot set more ready pods than active");
    }
    let fewer = |field: &str| number(status, field) < number(before, field);
    let why = |field: &str| format!("cannot decrease the {field} counter");
    // An indexed job that is made smaller counts anew.
    let elastic = text(spec, "completionMode") == "Indexed" && spec["completions"] == spec["parallelism"];
    let counters = [("failed", fewer("failed")), ("succeeded", fewer("succeeded") && !elastic)];
    for (field, _) in counters.iter().filter(|(_, fewer)| *fewer) {
        let given = json!(number(status, field));
        errors.push(FieldError::invalid(format!("status.{field}"), &given, &why(field)));
    }
    errors
}

fn indexes(new: &Value, old: &Value) -> Vec<FieldError> {
    let (status, before, spec) = (&new["status"], &old["status"], &new["spec"]);
    let changed = |field: &str| status[field] != before[field];
    let completions = spec["completions"].as_i64();
    let read =
        |field: &str| completions.map(|completions| policies::indexes(text(status, field), completions));
    let mut errors = Vec::new();
    let mut wrong = |field: &str, why: &str| {
        errors.push(FieldError::invalid(format!("status.{field}"), &status[field], why));
    };
    if changed("completedIndexes") {
        if let Some(Err(why)) = read("completedIndexes") {
            wrong("completedIndexes", &format!("error parsing completedIndexes: {why}"));
        }
        if !text(status, "completedIndexes").is_empty() && text(spec, "completionMode") != "Indexed" {
            wrong(
                "completedIndexes",
                "cannot set non-empty completedIndexes when non-indexed completion mode",
            );
        }
    }
    if changed("failedIndexes") && !status["failedIndexes"].is_null() {
        if spec["backoffLimitPerIndex"].is_null() {
            wrong("failedIndexes", "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
        } else if let Some(Err(why)) = read("failedIndexes") {
            wrong("failedIndexes", &format!("error parsing failedIndexes: {why}"));
        }
    }
    if (changed("failedIndexes") || changed("completedIndexes"))
        && let (Some(Ok(done)), Some(Ok(failed))) = (read("completedIndexes"), read("failedIndexes"))
    {
        let common = |(a, b): &(i64, i64)| {
            let with = failed.iter().find(|(c, d)| a <= d && c <= b)?;
            Some(*a.max(&with.0))
        };
        if let Some(index) = done.iter().find_map(common) {
            wrong("failedIndexes", &format!("failedIndexes and completedIndexes overlap at index: {index}"));
        }
    }
    errors
}
