//! What is wrong with a job's policies: when it fails, when it succeeds, and when a pod is replaced.

use serde_json::{Value, json};

use super::super::super::checks;
use super::super::super::value::{items, text};
use crate::api::names;
use crate::api::status::FieldError;

const MOST_RULES: usize = 20;
const MOST_PATTERNS: usize = 20;
const MOST_EXIT_CODES: usize = 255;
const INDEXES_BYTES: usize = 64 * 1024;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];

/// One of a few words, which must be there.
fn word(path: String, value: &Value, known: &[&str]) -> Option<FieldError> {
    match value.as_str().unwrap_or_default() {
        "" => {
            let quoted: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
            Some(FieldError::required(path, &format!("valid values: [{}]", quoted.join(" "))))
        }
        given if known.contains(&given) => None,
        _ => Some(FieldError::not_supported(path, value, known)),
    }
}

fn too_many(path: &str, list: &[Value], most: usize) -> Option<FieldError> {
    (list.len() > most).then(|| FieldError::too_many(path, list.len(), most))
}

pub(super) fn replacement(path: &str, spec: &Value) -> Option<FieldError> {
    let policy = spec["podReplacementPolicy"].as_str()?;
    let known: &[&str] =
        if spec["podFailurePolicy"].is_null() { &["Failed", "TerminatingOrFailed"] } else { &["Failed"] };
    (!known.contains(&policy)).then(|| FieldError::not_supported(path, &spec["podReplacementPolicy"], known))
}

pub(super) fn failure(path: &str, spec: &Value) -> Vec<FieldError> {
    let rules = items(&spec["podFailurePolicy"], "rules");
    let path = format!("{path}.rules");
    let mut errors: Vec<FieldError> = too_many(&path, rules, MOST_RULES).into_iter().collect();
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(failure_rule(&format!("{path}[{i}]"), rule, spec));
    }
    errors
}

fn failure_rule(path: &str, rule: &Value, spec: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    if rule["action"] != "FailIndex" {
        errors.extend(word(at("action"), &rule["action"], ACTIONS));
    } else if spec["backoffLimitPerIndex"].is_null() {
        let why = "requires the backoffLimitPerIndex to be set";
        errors.push(FieldError::invalid(at("action"), &rule["action"], why));
    }
    let (codes, patterns) = (&rule["onExitCodes"], items(rule, "onPodConditions"));
    if !codes.is_null() {
        errors.extend(exit_codes(&at("onExitCodes"), codes, spec));
    }
    errors.extend(too_many(&at("onPodConditions"), patterns, MOST_PATTERNS));
    for (j, pattern) in patterns.iter().enumerate() {
        let at = |field: &str| format!("{path}.onPodConditions[{j}].{field}");
        let kind = text(pattern, "type");
        let wrong = names::qualified_name(kind);
        errors.extend(wrong.iter().map(|w| FieldError::invalid(at("type"), &json!(kind), w)));
        errors.extend(word(at("status"), &pattern["status"], &["False", "True", "Unknown"]));
    }
    let why = match (codes.is_null(), patterns.is_empty()) {
        (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return errors,
    };
    errors.push(FieldError::invalid_without_value(path, why));
    errors
}

fn exit_codes(path: &str, codes: &Value, spec: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors: Vec<FieldError> =
        word(at("operator"), &codes["operator"], &["In", "NotIn"]).into_iter().collect();
    if let Some(name) = codes["containerName"].as_str() {
        let pod = &spec["template"]["spec"];
        let lists = ["containers", "initContainers"];
        if !lists.iter().flat_map(|list| items(pod, list)).any(|c| text(c, "name") == name) {
            let why = "must be one of the container or initContainer names in the pod template";
            errors.push(FieldError::invalid(at("containerName"), &codes["containerName"], why));
        }
    }
    let values = items(codes, "values");
    if values.is_empty() {
        errors.push(FieldError::invalid(at("values"), &codes["values"], "at least one value is required"));
    }
    errors.extend(too_many(&at("values"), values, MOST_EXIT_CODES));
    for (j, value) in values.iter().enumerate() {
        let at = format!("{path}.values[{j}]");
        if codes["operator"] == "In" && value == 0 {
            errors.push(FieldError::invalid(at.as_str(), value, "must not be 0 for the In operator"));
        }
        if values[..j].contains(value) {
            errors.push(FieldError::duplicate(at, value));
        }
    }
    if !values.is_sorted_by_key(|value| value.as_i64().unwrap_or(0)) {
        errors.push(FieldError::invalid(at("values"), &codes["values"], "must be ordered"));
    }
    errors
}

pub(super) fn success(path: &str, spec: &Value) -> Vec<FieldError> {
    let policy = &spec["successPolicy"];
    if policy.is_null() {
        return Vec::new();
    }
    if text(spec, "completionMode") != "Indexed" {
        return vec![FieldError::invalid(path, policy, "requires indexed completion mode")];
    }
    let rules = items(policy, "rules");
    let path = format!("{path}.rules");
    let mut errors = Vec::new();
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(path.as_str(), why));
    }
    errors.extend(too_many(&path, rules, MOST_RULES));
    let completions = spec["completions"].as_i64().unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        errors.extend(success_rule(&format!("{path}[{i}]"), rule, completions));
    }
    errors
}

fn success_rule(path: &str, rule: &Value, completions: i64) -> Vec<FieldError> {
    let (indexes, count) = (&rule["succeededIndexes"], &rule["succeededCount"]);
    let mut errors = Vec::new();
    if indexes.is_null() && count.is_null() {
        let why = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, why));
    }
    let mut named = 0;
    if let Some(given) = indexes.as_str() {
        let at = format!("{path}.succeededIndexes");
        if given.len() > INDEXES_BYTES {
            errors.push(FieldError::too_long(at.as_str(), INDEXES_BYTES));
        }
        match self::indexes(given, completions) {
            Ok(intervals) => named = intervals.iter().map(|(from, to)| to - from + 1).sum(),
            Err(wrong) => {
                let why = format!("error parsing succeededIndexes: {wrong}");
                errors.push(FieldError::invalid(at, indexes, &why));
            }
        }
    }
    if let Some(number) = count.as_i64() {
        let at = format!("{path}.succeededCount");
        errors.extend(checks::nonnegative(path, rule, &["succeededCount"]));
        if number > completions {
            let why =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(FieldError::invalid(at.as_str(), count, &why));
        }
        if !indexes.is_null() && number > named {
            let why = format!(
                "must be less than or equal to {named} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.push(FieldError::invalid(at, count, &why));
        }
    }
    errors
}

/// The intervals of `0,2-5`, both ends within, of a job of so many completions.
pub(super) fn indexes(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let number = |part: &str| {
        let read = part.parse::<i64>();
        let read = read.map_err(|_| format!("cannot convert string to integer for index: {part:?}"))?;
        if read >= completions { Err(format!("too large index: {part:?}")) } else { Ok(read) }
    };
    let mut intervals: Vec<(i64, i64)> = Vec::new();
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let mut parts = interval.split('-');
        let (from, to, rest) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if rest.is_some() {
            return Err(format!(
                "the fragment {interval:?} violates the requirement that an index interval can have at most two parts \
                 separated by '-'"
            ));
        }
        let from = number(from)?;
        let to = match to.map(number).transpose()? {
            Some(to) if from >= to => {
                return Err(format!("non-increasing order, previous: {from}, current: {to}"));
            }
            to => to.unwrap_or(from),
        };
        if let Some((_, last)) = intervals.last().filter(|(_, last)| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        intervals.push((from, to));
    }
    Ok(intervals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_read_in_order() {
        for (text, expected) in [
            ("", Ok(vec![])),
            ("0,2-4", Ok(vec![(0, 0), (2, 4)])),
            ("5", Err("too large index: \"5\"")),
            ("2,1", Err("non-increasing order, previous: 2, current: 1")),
            ("3-2", Err("non-increasing order, previous: 3, current: 2")),
            ("x", Err("cannot convert string to integer for index: \"x\"")),
            (
                "1-2-3",
                Err(
                    "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
                ),
            ),
        ] {
            assert_eq!(indexes(text, 5), expected.map_err(str::to_owned), "{text}");
        }
    }
}
