//! Cron jobs (`pkg/apis/batch/validation`, `pkg/registry/batch/cronjob`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::apps::replicaset::{CONTAINERS, IMAGES, SELECTOR};
use super::super::checks;
use super::super::column::{self, AGE, NAME, NONE};
use super::super::deprecated;
use super::super::pod::template;
use super::super::value::{fill, fill_zero, items, object, text};
use super::super::{Column, Strategy};
use super::job;
use crate::api::cron::Schedule;
use crate::api::meta;
use crate::api::status::FieldError;

/// The names of jobs are this much longer than those of their cron jobs.
const SUFFIX: usize = 11;

/// The strategy of cron jobs.
pub(in super::super) struct CronJob;

impl Strategy for CronJob {
    fn default(&self, cron: &mut Value) {
        object(cron, "spec");
        let spec = &mut cron["spec"];
        fill_zero(spec, "concurrencyPolicy", "Allow");
        fill(spec, "suspend", false);
        fill(spec, "successfulJobsHistoryLimit", 3);
        fill(spec, "failedJobsHistoryLimit", 1);
        // What jobs have by default they get when they are made.
        object(spec, "jobTemplate");
        let jobs = &mut spec["jobTemplate"];
        for field in ["metadata", "spec"] {
            object(jobs, field);
        }
        object(&mut jobs["spec"], "template");
        template::default(&mut jobs["spec"]["template"]);
    }

    fn prepare_create(&self, cron: &mut Value) {
        cron["status"] = json!({});
    }

    fn validate(&self, cron: &Value) -> Vec<FieldError> {
        let spec = &cron["spec"];
        let mut errors = Vec::new();
        match text(spec, "schedule") {
            "" => errors.push(FieldError::required("spec.schedule", "")),
            schedule => {
                let wrong = Schedule::parse(schedule).err();
                errors.extend(wrong.map(|why| FieldError::invalid("spec.schedule", &spec["schedule"], &why)));
            }
        }
        errors.extend(checks::nonnegative("spec", spec, &["startingDeadlineSeconds"]));
        const POLICIES: &[&str] = &["Allow", "Forbid", "Replace"];
        let policy = &spec["concurrencyPolicy"];
        match policy.as_str().unwrap_or_default() {
            "" => errors.push(FieldError::required("spec.concurrencyPolicy", "")),
            word if POLICIES.contains(&word) => {}
            _ => errors.push(FieldError::not_supported("spec.concurrencyPolicy", policy, POLICIES)),
        }
        let jobs = &spec["jobTemplate"]["spec"];
        const JOBS: &str = "spec.jobTemplate.spec";
        errors.extend(job::without_selector(JOBS, jobs));
        if !jobs["selector"].is_null() {
            let why = "`selector` will be auto-generated";
            errors.push(FieldError::invalid(format!("{JOBS}.selector"), &jobs["selector"], why));
        }
        if jobs["manualSelector"] == true {
            let path = format!("{JOBS}.manualSelector");
            errors.push(FieldError::not_supported(path, &json!(true), &["nil", "false"]));
        }
        let limits = ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"];
        errors.extend(checks::nonnegative("spec", spec, &limits));
        errors
    }

    fn validate_create(&self, cron: &Value) -> Vec<FieldError> {
        let mut errors = zones(&cron["spec"], &Value::Null);
        if meta::name(cron).len() > 63 - SUFFIX {
            let why = format!("must be no more than {} characters", 63 - SUFFIX);
            errors.push(FieldError::invalid("metadata.name", &json!(meta::name(cron)), &why));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        zones(&new["spec"], &old["spec"])
    }

    fn warnings(&self, cron: &Value) -> Vec<String> {
        zone_warning(cron).into_iter().chain(job_warnings(cron)).collect()
    }

    fn create_warnings(&self, cron: &Value) -> Vec<String> {
        deprecated::pods_name(cron).into_iter().chain(self.warnings(cron)).collect()
    }

    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        let jobs = if self.generation_changes(new, old) { job_warnings(new) } else { Vec::new() };
        jobs.into_iter().chain(zone_warning(new)).collect()
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["spec"], &old["spec"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Schedule", "When jobs are made."),
            column::text("Timezone", "The time zone that the schedule is meant in."),
            Column { kind: "boolean", ..column::text("Suspend", "Whether no jobs are made.") },
            column::integer("Active", "How many of its jobs are running."),
            column::text("Last Schedule", "When a job was last made."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn cells(&self, cron: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&cron["spec"], &cron["status"]);
        let jobs = &spec["jobTemplate"]["spec"];
        let [names, images] = template::cells(&jobs["template"]);
        let last = match &status["lastScheduleTime"] {
            Value::Null => NONE.to_owned(),
            time => column::since(time, now),
        };
        vec![
            column::name(cron),
            text(spec, "schedule").into(),
            spec["timeZone"].as_str().unwrap_or(NONE).into(),
            spec["suspend"].as_bool().map_or("<unset>", |on| if on { "True" } else { "False" }).into(),
            items(status, "active").len().into(),
            last.into(),
            column::age(cron, now),
            names,
            images,
            column::selector(&jobs["selector"]),
        ]
    }
}

/// Only older schedules name their zone themselves.
fn zone_warning(cron: &Value) -> Option<String> {
    // The doubled word is Kubernetes' own.
    let told = "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see \
                https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";
    text(&cron["spec"], "schedule").contains("TZ").then(|| told.to_owned())
}

fn job_warnings(cron: &Value) -> Vec<String> {
    job::spec_warnings("spec.jobTemplate.spec", &cron["spec"]["jobTemplate"]["spec"])
}

/// What is wrong with the time zone, in its field and in the schedule; what was taken once may stay.
fn zones(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let schedule = text(new, "schedule");
    if schedule.contains("TZ") {
        let why = match (text(old, "schedule").contains("TZ"), new["timeZone"].is_null()) {
            (true, true) => None,
            (true, false) => Some("cannot use both timeZone field and TZ or CRON_TZ in schedule"),
            (false, _) => Some("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
        };
        errors.extend(why.map(|why| FieldError::invalid("spec.schedule", &new["schedule"], why)));
    }
    if new["timeZone"] != old["timeZone"]
        && let Some(zone) = new["timeZone"].as_str()
    {
        errors.extend(time_zone(zone));
    }
    errors
}

fn time_zone(zone: &str) -> Option<FieldError> {
    let wrong = |why: &str| Some(FieldError::invalid("spec.timeZone", &json!(zone), why));
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        (1..=14).contains(&part.len())
            && part.chars().all(allowed)
            && !matches!(part, "." | "..")
            && !part.starts_with('-')
    };
    if zone.is_empty() {
        return wrong("timeZone must be nil or non-empty string");
    }
    let unknown = format!("unknown time zone {zone}");
    if !zone.split('/').all(part) {
        return wrong(&unknown);
    }
    if zone.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return wrong(why);
    }
    if jiff::tz::TimeZone::get(zone).is_err() { wrong(&unknown) } else { None }
}

#[cfg(test)]
mod tests {
    use super::super::super::apps::testing::{pod_template, told};
    use super::*;

    fn cron(more: Value) -> Value {
        let mut template = pod_template();
        template["spec"]["restartPolicy"] = json!("OnFailure");
        let mut cron = json!({"metadata": {"name": "backup"}, "spec": {"schedule": "*/5 * * * *",
            "jobTemplate": {"spec": {"template": template}}}});
        for (key, value) in more.as_object().unwrap() {
            cron["spec"][key] = value.clone();
        }
        CronJob.default(&mut cron);
        cron
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        let made = cron(json!({}));
        let mut again = made.clone();
        CronJob.default(&mut again);
        assert_eq!(made, again);
        assert_eq!(
            (&made["spec"]["concurrencyPolicy"], &made["spec"]["failedJobsHistoryLimit"]),
            (&json!("Allow"), &json!(1))
        );
        assert!(made["spec"]["jobTemplate"]["spec"].get("completions").is_none());
        for (more, errors) in [
            (json!({}), &[][..]),
            (json!({"timeZone": "Europe/Paris"}), &[]),
            (json!({"schedule": ""}), &["spec.schedule: Required value"]),
            (
                json!({"schedule": "* * * *"}),
                &["spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4: [* * * *]"],
            ),
            (
                json!({"concurrencyPolicy": "X"}),
                &[
                    "spec.concurrencyPolicy: Unsupported value: \"X\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
                ],
            ),
            (
                json!({"timeZone": "Mars/Olympus"}),
                &["spec.timeZone: Invalid value: \"Mars/Olympus\": unknown time zone Mars/Olympus"],
            ),
            (
                json!({"timeZone": ""}),
                &["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"],
            ),
            (
                json!({"schedule": "TZ=Europe/Paris 0 8 * * *"}),
                &[
                    "spec.schedule: Invalid value: \"TZ=Europe/Paris 0 8 * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                ],
            ),
            (
                json!({"jobTemplate": {"spec": {"manualSelector": true, "template": pod_template()}}}),
                &[
                    "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
                    "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"nil\", \"false\"",
                ],
            ),
        ] {
            let given = cron(more.clone());
            let mut all = CronJob.validate(&given);
            all.extend(CronJob.validate_create(&given));
            assert_eq!(told(all), errors, "{more}");
        }
        let mut long = cron(json!({}));
        long["metadata"]["name"] = json!("x".repeat(53));
        assert!(told(CronJob.validate_create(&long))[0].ends_with("must be no more than 52 characters"));
        assert!(CronJob.validate_update(&long, &long).is_empty());
    }

    #[test]
    fn a_line_is_kubectls() {
        let mut shown = cron(json!({}));
        shown["status"] = json!({"active": [{}], "lastScheduleTime": "2024-01-01T00:00:00Z"});
        let now = "2024-01-01T00:00:30Z".parse().unwrap();
        assert_eq!(
            CronJob.cells(&shown, now),
            [
                json!("backup"),
                json!("*/5 * * * *"),
                json!("<none>"),
                json!("False"),
                json!(1),
                json!("30s"),
                json!("<unknown>"),
                json!("c"),
                json!("nginx:1"),
                json!("<none>")
            ]
        );
    }
}
