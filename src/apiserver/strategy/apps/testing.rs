//! What the tests of several workloads need.

use serde_json::{Value, json};

use crate::api::status::FieldError;

/// A template of a pod of one container, labelled `app=web`.
pub(in super::super) fn pod_template() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}})
}

/// Errors as they are told.
pub(in super::super) fn told(errors: impl IntoIterator<Item = FieldError>) -> Vec<String> {
    errors.into_iter().map(|error| error.to_string()).collect()
}
