//! What several parts of a pod's specification may say, in the same words.

use serde_json::Value;

pub(super) use super::super::error::{invalid, one_of, word};
use crate::api::status::FieldError;

/// A user or group id.
pub(super) fn id(path: &str, value: &Value) -> Option<FieldError> {
    let id = value.as_i64()?;
    if (0..=i64::from(i32::MAX)).contains(&id) {
        return None;
    }
    Some(FieldError::invalid(path, value, "must be between 0 and 2147483647, inclusive"))
}
