//! What is wrong with a job (`ValidateJob`, `ValidateJobUpdate`).

use serde_json::{Value, json};

use super::super::super::checks;
use super::super::super::pod::template;
use super::super::super::value::{carry_over, object, text};
use super::{NAME_LABELS, UID_LABELS, policies};
use crate::api::meta;
use crate::api::names;
use crate::api::selector::LabelSelector;
use crate::api::status::FieldError;

/// From so many completions on, other limits hold.
pub(super) const MANY_COMPLETIONS: i64 = 100_000;
/// So many pods at once, or indexes that may fail, are too many for that many completions.
pub(super) const MANY_AT_ONCE: i64 = 10_000;
/// How many pods an indexed job can have at once, and how many of its indexes can fail.
const MOST_INDEXES: i64 = 100_000;
const MANAGER_BYTES: usize = 63;

pub(super) fn job(job: &Value) -> Vec<FieldError> {
    let spec = &job["spec"];
    let mut errors = generated_selector(job);
    errors.extend(without_selector("spec", spec));
    match &spec["selector"] {
        Value::Null => errors.push(FieldError::required("spec.selector", "")),
        selector => errors.extend(checks::label_selector("spec.selector", selector)),
    }
    if let Ok(selector) = LabelSelector::from_object(&spec["selector"]) {
        errors.extend(checks::template_labels(&selector, &spec["template"]));
    }
    if text(spec, "completionMode") == "Indexed"
        && let Some(completions) = spec["completions"].as_i64().filter(|n| *n > 0)
    {
        // The last index is part of its pod's host name.
        let name = meta::name(job);
        let longest = format!("{name}-{}", completions - 1);
        if !names::dns_label(&longest).is_empty() {
            let why = format!("will not able to create pod with invalid DNS label: {longest}");
            errors.push(FieldError::invalid("metadata.name", &json!(name), &why));
        }
    }
    errors
}

/// A selector that was made by the server selects the job's own pods.
fn generated_selector(job: &Value) -> Vec<FieldError> {
    let spec = &job["spec"];
    if spec["manualSelector"] == true || spec["selector"].is_null() {
        return Vec::new();
    }
    let labels = &spec["template"]["metadata"]["labels"];
    let mut errors = Vec::new();
    let mut expected = serde_json::Map::new();
    for (uid, name) in UID_LABELS.iter().zip(NAME_LABELS) {
        for (key, value) in [(*uid, meta::uid(job)), (name, meta::name(job))] {
            expected.insert(key.to_owned(), json!(value));
            let path = format!("spec.template.metadata.labels[{key}]");
            match labels[key].as_str() {
                None => errors.push(FieldError::required(path, &format!("must be '{value}'"))),
                Some(given) if given != value => {
                    let why = format!("must be '{value}'");
                    errors.push(FieldError::invalid(path, labels, &why));
                }
                Some(_) => {}
            }
        }
    }
    let selector = LabelSelector::from_object(&spec["selector"]);
    if selector.is_ok_and(|selector| !selector.matches(&Value::Object(expected))) {
        let why = "`selector` not auto-generated";
        errors.push(FieldError::invalid("spec.selector", &spec["selector"], why));
    }
    errors
}

/// What is wrong with a job's specification at `path`, its selector aside.
pub(in super::super) fn without_selector(path: &str, spec: &Value) -> Vec<FieldError> {
    const COUNTS: &[&str] = &[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = checks::nonnegative(path, spec, COUNTS);
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        errors.push(FieldError::required(at("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        errors.extend(managed_by(&at("managedBy"), manager));
    }
    match text(spec, "completionMode") {
        "Indexed" => errors.extend(indexed(path, spec)),
        mode => {
            if mode != "NonIndexed" && !spec["completionMode"].is_null() {
                let known = ["NonIndexed", "Indexed"];
                errors.push(FieldError::not_supported(at("completionMode"), &json!(mode), &known));
            }
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if !spec[field].is_null() {
                    let why = "requires indexed completion mode";
                    errors.push(FieldError::invalid(at(field), &spec[field], why));
                }
            }
        }
    }
    errors.extend(policies::failure(&at("podFailurePolicy"), spec));
    errors.extend(policies::success(&at("successPolicy"), spec));
    errors.extend(policies::replacement(&at("podReplacementPolicy"), spec));
    errors.extend(template::validate(&at("template"), &spec["template"]));
    errors.extend(restart_policy(&at("template.spec.restartPolicy"), spec));
    errors
}

fn managed_by(path: &str, manager: &str) -> Vec<FieldError> {
    let given = json!(manager);
    let mut errors = Vec::new();
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(FieldError::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            let wrong = names::dns_subdomain(host);
            errors.extend(wrong.iter().map(|w| FieldError::invalid(path, &json!(host), w)));
            let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
            if !rest.chars().all(allowed) {
                let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.push(FieldError::invalid(path, &json!(rest), why));
            }
        }
        _ => {
            let why = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(path, &given, why));
        }
    }
    if manager.len() > MANAGER_BYTES {
        errors.push(FieldError::too_long(path, MANAGER_BYTES));
    }
    errors
}

fn indexed(path: &str, spec: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let number = |field: &str| spec[field].as_i64();
    let mut errors = Vec::new();
    let mut above = |field: &str, limit: i64, why: &str| {
        if number(field).is_some_and(|n| n > limit) {
            errors.push(FieldError::invalid(at(field), &spec[field], why));
        }
    };
    let why = format!("must be less than or equal to {MOST_INDEXES} when completion mode is Indexed");
    above("parallelism", MOST_INDEXES, &why);
    if let Some(completions) = number("completions") {
        above("maxFailedIndexes", completions, "must be less than or equal to completions");
    }
    above("maxFailedIndexes", MOST_INDEXES, &format!("must be less than or equal to {MOST_INDEXES}"));
    let many = number("completions").is_some_and(|n| n > MANY_COMPLETIONS);
    let many = many && number("backoffLimitPerIndex").is_some();
    if many {
        let why = format!(
            "must be less than or equal to {MANY_AT_ONCE} when completions are above {MANY_COMPLETIONS} and used with \
             backoff limit per index"
        );
        above("parallelism", MANY_AT_ONCE, &why);
        above("maxFailedIndexes", MANY_AT_ONCE, &why);
    }
    if many && number("maxFailedIndexes").is_none() {
        let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
        errors.push(FieldError::required(at("maxFailedIndexes"), &why));
    }
    if number("completions").is_none() {
        errors.insert(0, FieldError::required(at("completions"), "when completion mode is Indexed"));
    }
    errors
}

fn restart_policy(path: &str, spec: &Value) -> Option<FieldError> {
    let policy = &spec["template"]["spec"]["restartPolicy"];
    match policy.as_str().unwrap_or_default() {
        "" | "Always" => Some(FieldError::required(path, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => None,
        "OnFailure" if spec["podFailurePolicy"].is_null() => None,
        "OnFailure" => {
            let why = "only \"Never\" is supported when podFailurePolicy is specified";
            Some(FieldError::invalid(path, policy, why))
        }
        _ => Some(FieldError::not_supported(path, policy, &["OnFailure", "Never"])),
    }
}

pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    let (given, before) = (&new["spec"], &old["spec"]);
    let fixed = |field: &str| checks::immutable(&format!("spec.{field}"), &given[field], &before[field]);
    let mut errors = Vec::new();
    let (completions, at_once) = (&given["completions"], &given["parallelism"]);
    if text(given, "completionMode") != "Indexed" {
        errors.extend(fixed("completions"));
    } else if completions != &before["completions"] && !completions.is_null() && completions != at_once {
        let why = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid("spec.completions", completions, why));
    }
    errors.extend(fixed("selector"));
    let (pods, mut template) = (&given["template"], before["template"].clone());
    // Where a job's pods go, and how they are marked, is open until the first of them is made.
    if before["suspend"] == true && old["status"]["startTime"].is_null() {
        for field in ["nodeSelector", "tolerations", "schedulingGates"] {
            carry_over(&mut template["spec"], &pods["spec"], field);
        }
        for field in ["labels", "annotations"] {
            carry_over(&mut template["metadata"], &pods["metadata"], field);
        }
        node_affinity(&mut template["spec"], &pods["spec"]);
    }
    errors.extend(checks::immutable("spec.template", pods, &template));
    let fields = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];
    errors.extend(fields.iter().filter_map(|field| fixed(field)));
    errors
}

/// Takes the node affinity of another pod's specification.
fn node_affinity(spec: &mut Value, from: &Value) {
    let wanted = &from["affinity"]["nodeAffinity"];
    if !wanted.is_null() {
        object(spec, "affinity").insert("nodeAffinity".to_owned(), wanted.clone());
    } else if spec["affinity"].is_object() {
        carry_over(&mut spec["affinity"], &Value::Null, "nodeAffinity");
        let nothing_else = spec["affinity"].as_object().is_some_and(serde_json::Map::is_empty);
        if nothing_else && from["affinity"].is_null() {
            carry_over(spec, &Value::Null, "affinity");
        }
    } else if !from["affinity"].is_null() {
        object(spec, "affinity");
    }
}
