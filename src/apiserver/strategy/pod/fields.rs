//! What several parts of a pod's specification may say, in the same words.

use serde_json::Value;

use super::super::value::text;
use crate::api::status::FieldError;

/// A field that must be there and be one of a few words.
pub(super) fn one_of(path: &str, value: &Value, allowed: &[&str]) -> Option<FieldError> {
    match value.as_str().unwrap_or_default() {
        "" => Some(FieldError::required(path, "")),
        word if allowed.contains(&word) => None,
        _ => Some(FieldError::not_supported(path, value, allowed)),
    }
}

/// An error for each thing that is wrong with a value.
pub(super) fn invalid(path: &str, value: &Value, wrong: Vec<String>) -> Vec<FieldError> {
    wrong.iter().map(|w| FieldError::invalid(path, value, w)).collect()
}

/// A user or group id.
pub(super) fn id(path: &str, value: &Value) -> Option<FieldError> {
    let id = value.as_i64()?;
    if (0..=i64::from(i32::MAX)).contains(&id) {
        return None;
    }
    Some(FieldError::invalid(path, value, "must be between 0 and 2147483647, inclusive"))
}

/// A profile of system calls.
pub(super) fn seccomp(path: &str, profile: &Value) -> Vec<FieldError> {
    const TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
    if profile.is_null() {
        return Vec::new();
    }
    let mut errors = Vec::new();
    errors.extend(one_of(&format!("{path}.type"), &profile["type"], &TYPES));
    let file = format!("{path}.localhostProfile");
    match (text(profile, "type"), text(profile, "localhostProfile")) {
        ("Localhost", "") => {
            errors.push(FieldError::required(file, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", name) if name.starts_with('/') => {
            errors.push(FieldError::invalid(file, &profile["localhostProfile"], "must be a relative path"));
        }
        ("Localhost", name) if name.split('/').any(|part| part == "..") => {
            errors.push(FieldError::invalid(file, &profile["localhostProfile"], "must not contain '..'"));
        }
        (other, name) if other != "Localhost" && !name.is_empty() => {
            let why = "can only be set when seccomp type is Localhost";
            errors.push(FieldError::invalid(file, &profile["localhostProfile"], why));
        }
        _ => {}
    }
    errors
}
