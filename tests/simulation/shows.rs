//! What an object is to show, written as a part of it.

use serde_json::Value;

/// Whether an object shows what is expected of it: of maps the fields that are named, of lists everything, in order.
/// `null` is a field that is not there. Conditions are a map from their types to `STATUS` or `STATUS REASON`.
pub fn shows(actual: &Value, expected: &Value) -> bool {
    match (actual, expected) {
        (_, Value::Object(fields)) => fields.iter().all(|(name, wanted)| match (&actual[name], wanted) {
            (Value::Array(conditions), Value::Object(wanted)) => wanted.iter().all(|(kind, wanted)| {
                told(conditions, kind) == wanted.as_str().map(str::to_owned)
                    || status(conditions, kind) == wanted.as_str()
            }),
            (field, wanted) => shows(field, wanted),
        }),
        (Value::Array(all), Value::Array(wanted)) => {
            all.len() == wanted.len() && all.iter().zip(wanted).all(|(one, wanted)| shows(one, wanted))
        }
        _ => actual == expected,
    }
}

fn find<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a Value> {
    conditions.iter().find(|condition| condition["type"] == kind)
}

fn status<'a>(conditions: &'a [Value], kind: &str) -> Option<&'a str> {
    find(conditions, kind)?["status"].as_str()
}

fn told(conditions: &[Value], kind: &str) -> Option<String> {
    let condition = find(conditions, kind)?;
    Some(format!("{} {}", condition["status"].as_str()?, condition["reason"].as_str().unwrap_or("")))
}

/// The names of objects.
pub fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect()
}

/// The message of a condition.
pub fn message<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    find(conditions, kind).and_then(|condition| condition["message"].as_str()).unwrap_or("")
}

/// Whether a pod is ready and stays.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    pod["metadata"]["deletionTimestamp"].is_null() && status(conditions, "Ready") == Some("True")
}
