//! Jobs (`pkg/apis/batch/validation`, `pkg/registry/batch/job`).

mod policies;
mod status;
mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::apps::replicaset::{CONTAINERS, IMAGES, SELECTOR};
use super::super::checks;
use super::super::column::{self, AGE, NAME};
use super::super::deprecated;
use super::super::pod::template;
use super::super::value::{fill, fill_zero, items, items_mut, object, text};
use super::super::{Column, Strategy};
use crate::api::meta;
use crate::api::status::FieldError;

pub(super) use self::validate::without_selector;

/// The labels by which a job knows its pods, in the older and the newer form.
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// The strategy of jobs.
pub(in super::super) struct Job;

impl Strategy for Job {
    fn default(&self, job: &mut Value) {
        object(job, "spec");
        let spec = &mut job["spec"];
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            fill(spec, "completions", 1);
        }
        fill(spec, "parallelism", 1);
        let limit = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
        fill(spec, "backoffLimit", limit);
        fill(spec, "completionMode", "NonIndexed");
        fill(spec, "suspend", false);
        let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
        fill(spec, "podReplacementPolicy", replacement);
        fill(spec, "manualSelector", false);
        conditions(spec);
        object(spec, "template");
        template::default(&mut spec["template"]);
        let labels = spec["template"]["metadata"]["labels"].clone();
        let own = meta::labels(job).as_object().is_some_and(|own| !own.is_empty());
        if labels.is_object() && !own {
            meta::set(job, "labels", labels);
        }
    }

    fn prepare_create(&self, job: &mut Value) {
        if job["spec"]["manualSelector"] != true {
            select_by_uid(job);
        }
        job["status"] = json!({});
    }

    fn validate(&self, job: &Value) -> Vec<FieldError> {
        validate::job(job)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        validate::update(new, old)
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        status::update(new, old)
    }

    fn warnings(&self, job: &Value) -> Vec<String> {
        spec_warnings("spec", &job["spec"])
    }

    fn create_warnings(&self, job: &Value) -> Vec<String> {
        deprecated::pods_name(job).into_iter().chain(self.warnings(job)).collect()
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["spec"], &old["spec"])
    }

    fn fields(&self, job: &Value) -> Vec<(&'static str, String)> {
        let succeeded = job["status"]["succeeded"].as_i64().unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Status", "How far the job is."),
            column::text("Completions", "Successful pods of those wanted."),
            column::text("Duration", "How long the job took, or has taken so far."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn cells(&self, job: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&job["spec"], &job["status"]);
        let succeeded = status["succeeded"].as_i64().unwrap_or(0);
        let completions = match (spec["completions"].as_i64(), spec["parallelism"].as_i64().unwrap_or(0)) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, at_once) if at_once > 1 => format!("{succeeded}/1 of {at_once}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let took = meta::time(&status["startTime"]).map(|from| {
            let until = meta::time(&status["completionTime"]).unwrap_or(now);
            column::human(until.duration_since(from).as_secs())
        });
        let [names, images] = template::cells(&spec["template"]);
        vec![
            column::name(job),
            state(job).into(),
            completions.into(),
            took.unwrap_or_default().into(),
            column::age(job, now),
            names,
            images,
            column::selector(&spec["selector"]),
        ]
    }
}

/// What the author of a job's specification at `path` should know.
pub(super) fn spec_warnings(path: &str, spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let number = |field: &str| spec[field].as_i64().unwrap_or(0);
    let many =
        number("completions") > validate::MANY_COMPLETIONS && number("parallelism") > validate::MANY_AT_ONCE;
    if text(spec, "completionMode") == "Indexed" && many {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    warnings.extend(template::warnings(&format!("{path}.template"), &spec["template"]));
    warnings
}

/// A condition that a policy waits for is met when it is true, unless it says otherwise.
fn conditions(spec: &mut Value) {
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in items_mut(policy, "rules") {
            items_mut(rule, "onPodConditions").for_each(|pattern| fill_zero(pattern, "status", "True"));
        }
    }
}

/// The pods of the job get its uid and name for labels, by which it selects them.
fn select_by_uid(job: &mut Value) {
    let (uid, name) = (meta::uid(job).to_owned(), meta::name(job).to_owned());
    object(job, "spec");
    let spec = &mut job["spec"];
    object(spec, "template");
    object(&mut spec["template"], "metadata");
    let labels = object(&mut spec["template"]["metadata"], "labels");
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            labels.entry(key).or_insert_with(|| json!(value));
        }
    }
    object(spec, "selector");
    object(&mut spec["selector"], "matchLabels").entry(UID_LABELS[1]).or_insert_with(|| json!(uid));
}

/// Whether a condition of the job is true.
fn is_true(job: &Value, condition: &str) -> bool {
    items(&job["status"], "conditions").iter().any(|c| c["type"] == condition && c["status"] == "True")
}

fn state(job: &Value) -> &'static str {
    match () {
        () if is_true(job, "Complete") => "Complete",
        () if is_true(job, "Failed") => "Failed",
        () if meta::is_deleting(job) => "Terminating",
        () if is_true(job, "Suspended") => "Suspended",
        () if is_true(job, "FailureTarget") => "FailureTarget",
        () => "Running",
    }
}

#[cfg(test)]
mod tests;
