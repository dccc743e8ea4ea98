//! What several parts of a pod's specification may say, in the same words.

use serde_json::Value;

pub(super) use super::super::error::{invalid, one_of};
use super::super::value::text;
use crate::api::status::FieldError;

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
