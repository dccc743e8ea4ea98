//! `Status`: the one error of the API, with Kubernetes' reasons, codes and messages.
//!
//! Source of reasons, codes and message forms: k8s.io/apimachinery `pkg/api/errors` and
//! `pkg/util/validation/field`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The answer to a request that failed (or that succeeded and has no object to show).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    pub kind: String,
    /// Always `v1`.
    pub api_version: String,
    /// Always empty; clients expect the field.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs: `NotFound`, `Conflict`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What exactly was wrong with what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// The HTTP status code.
    #[serde(default)]
    pub code: u16,
}

/// The object of a [`Status`] and the causes of the failure.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// The object's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The object's group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// The plural of the kind, or for `Invalid` the kind itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The object's uid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One for each thing that was wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// One thing that was wrong.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// `FieldValueRequired`, ...
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// `spec.containers[0].image`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// What is wrong with one field of an object, in the words of Kubernetes' validation.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// `spec.containers[0].image`.
    pub field: String,
    /// `FieldValueRequired`, `FieldValueInvalid`, ...
    pub reason: &'static str,
    /// `Required value: ...`, without the field.
    pub message: String,
}

/// A value as it stands in a validation message: strings quoted, the rest as JSON.
fn shown(value: &serde_json::Value) -> String {
    value.to_string()
}

impl FieldError {
    /// A field that must be there is not.
    pub fn required(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError {
            field: field.into(),
            reason: "FieldValueRequired",
            message: join("Required value", detail),
        }
    }

    /// A field's value cannot be accepted.
    pub fn invalid(field: impl Into<String>, value: &serde_json::Value, detail: &str) -> FieldError {
        FieldError {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: join(&format!("Invalid value: {}", shown(value)), detail),
        }
    }

    /// The same of a field whose value is not shown.
    pub fn invalid_without_value(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError {
            field: field.into(),
            reason: "FieldValueInvalid",
            message: join("Invalid value", detail),
        }
    }

    /// A field's value is none of those allowed.
    pub fn not_supported(
        field: impl Into<String>,
        value: &serde_json::Value,
        allowed: &[&str],
    ) -> FieldError {
        let allowed: Vec<String> = allowed.iter().map(|a| format!("{a:?}")).collect();
        FieldError {
            field: field.into(),
            reason: "FieldValueNotSupported",
            message: format!("Unsupported value: {}: supported values: {}", shown(value), allowed.join(", ")),
        }
    }

    /// Something is there that must not be.
    pub fn forbidden(field: impl Into<String>, detail: &str) -> FieldError {
        FieldError { field: field.into(), reason: "FieldValueForbidden", message: join("Forbidden", detail) }
    }

    /// A value that must be unique stands twice.
    pub fn duplicate(field: impl Into<String>, value: &serde_json::Value) -> FieldError {
        FieldError {
            field: field.into(),
            reason: "FieldValueDuplicate",
            message: format!("Duplicate value: {}", shown(value)),
        }
    }

    /// A reference to something that is not there.
    pub fn not_found(field: impl Into<String>, value: &serde_json::Value) -> FieldError {
        FieldError {
            field: field.into(),
            reason: "FieldValueNotFound",
            message: format!("Not found: {}", shown(value)),
        }
    }

    /// The same complaint with the value in another form: some values Kubernetes shows as its own types have them.
    pub fn showing(mut self, value: &serde_json::Value, form: &str) -> FieldError {
        self.message = self.message.replacen(&shown(value), form, 1);
        self
    }

    /// A list of more items than allowed.
    pub fn too_many(field: impl Into<String>, count: usize, most: usize) -> FieldError {
        FieldError {
            field: field.into(),
            reason: "FieldValueTooMany",
            message: format!("Too many: {count}: must have at most {most} items"),
        }
    }

    /// A value that is longer than allowed.
    pub fn too_long(field: impl Into<String>, max: usize) -> FieldError {
        FieldError {
            field: field.into(),
            reason: "FieldValueTooLong",
            message: format!("Too long: may not be more than {max} bytes"),
        }
    }
}

fn join(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Several complaints as one; what is said in the same words is told once.
pub fn together(complaints: &[impl fmt::Display]) -> String {
    let mut all: Vec<String> = Vec::new();
    for text in complaints.iter().map(ToString::to_string) {
        if !all.contains(&text) {
            all.push(text);
        }
    }
    match all.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// `pods` for the core group, `deployments.apps` for others: how messages name a resource.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    /// A failure with this code, reason and message.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: serde_json::Map::new(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            details: None,
            code,
        }
    }

    /// Done; `details` names the object.
    pub fn success(details: Details) -> Status {
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: serde_json::Map::new(),
            status: "Success".into(),
            message: String::new(),
            reason: String::new(),
            details: Some(details),
            code: 200,
        }
    }

    /// The same failure, about this object.
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Status {
        let details = self.details.get_or_insert_default();
        details.group = group.into();
        details.kind = kind.into();
        details.name = name.into();
        self
    }

    /// 404: no such object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Status::failure(404, "NotFound", message).about(group, resource, name)
    }

    /// 404: no such path.
    pub fn no_such_path() -> Status {
        let message = "the server could not find the requested resource";
        Status { details: Some(Details::default()), ..Status::failure(404, "NotFound", message) }
    }

    /// 405: the path does not know the method.
    pub fn no_such_method() -> Status {
        let message = "the server does not allow this method on the requested resource";
        Status { details: Some(Details::default()), ..Status::failure(405, "MethodNotAllowed", message) }
    }

    /// 422: what was asked cannot be done to the object as it is. Kubernetes tells no cause.
    pub fn unprocessable() -> Status {
        let message = "the server rejected our request due to an error in our request";
        Status { details: Some(Details::default()), ..Status::failure(422, "Invalid", message) }
    }

    /// 409: a creation met an existing object.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Status::failure(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409: the object changed since it was read.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let message =
            format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource));
        Status::failure(409, "Conflict", message).about(group, resource, name)
    }

    /// 422: the object does not validate. `kind` is the kind, not the plural.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
        // Programs see each complaint.
        let message = format!("{} {name:?} is invalid: {}", qualified(group, kind), together(errors));
        let mut status = Status::failure(422, "Invalid", message).about(group, kind, name);
        status.details.get_or_insert_default().causes = errors
            .iter()
            .map(|e| Cause { reason: e.reason.into(), message: e.message.clone(), field: e.field.clone() })
            .collect();
        status
    }

    /// 403: not allowed, `why` says why. What has no name is a collection; what has no resource is a path.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", qualified(group, resource)),
            _ => format!("{} {name:?} is forbidden: {why}", qualified(group, resource)),
        };
        Status::failure(403, "Forbidden", message).about(group, resource, name)
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::failure(400, "BadRequest", message)
    }

    /// 401: who are you?
    pub fn unauthorized() -> Status {
        Status::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 405: the resource does not know the verb.
    pub fn method_not_allowed(group: &str, resource: &str, verb: &str) -> Status {
        let message =
            format!("{verb} is not supported on resources of kind {:?}", qualified(group, resource));
        Status::failure(405, "MethodNotAllowed", message).about(group, resource, "")
    }

    /// 410: the revision asked for is no longer known.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::failure(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl fmt::Display) -> Status {
        Status::failure(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 415.
    pub fn unsupported_media_type(message: impl Into<String>) -> Status {
        Status::failure(415, "UnsupportedMediaType", message)
    }

    /// 429, with the time to wait in seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> Status {
        let mut status = Status::failure(429, "TooManyRequests", message);
        status.details.get_or_insert_default().retry_after_seconds = retry_after;
        status
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> Status {
        let mut status = Status::failure(500, "InternalError", format!("Internal error occurred: {message}"));
        let cause = Cause { message: message.to_string(), ..Cause::default() };
        status.details.get_or_insert_default().causes.push(cause);
        status
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::failure(503, "ServiceUnavailable", message)
    }

    /// Whether this is the failure with that reason.
    pub fn is(&self, reason: &str) -> bool {
        self.reason == reason
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() { f.write_str(&self.reason) } else { f.write_str(&self.message) }
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_are_those_of_kubernetes() {
        assert_eq!(Status::not_found("", "pods", "www").message, "pods \"www\" not found");
        assert_eq!(
            Status::already_exists("apps", "deployments", "vote").message,
            "deployments.apps \"vote\" already exists"
        );
        let one = [FieldError::required("spec.containers", "")];
        assert_eq!(
            Status::invalid("", "Pod", "www", &one).message,
            "Pod \"www\" is invalid: spec.containers: Required value"
        );
        let two = [
            FieldError::required("spec.a", "must be set"),
            FieldError::not_supported("spec.b", &json!("x"), &["y", "z"]),
        ];
        assert_eq!(
            Status::invalid("", "Pod", "www", &two).message,
            "Pod \"www\" is invalid: [spec.a: Required value: must be set, \
             spec.b: Unsupported value: \"x\": supported values: \"y\", \"z\"]"
        );
        let twice = [one[0].clone(), one[0].clone()];
        let told = Status::invalid("", "Pod", "www", &twice);
        assert_eq!(told.message, "Pod \"www\" is invalid: spec.containers: Required value");
        assert_eq!(told.details.unwrap().causes.len(), 2);
    }
}
