//! What a body must be before its kind's rules are asked: an object of the right kind in the right place.

use serde_json::{Value, json};

use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::FieldValidation;
use crate::api::schema;
use crate::api::status::Status;

/// A client's object with its kind set and its fields checked against the schema, and what to warn about.
pub fn read(
    kind: &'static Kind,
    mut body: Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Status> {
    check_kind(kind, &mut body)?;
    let checked = schema::check(kind.schema, &mut body);
    if let Some(refusal) = checked.refusal(kind.version, kind.kind) {
        return Err(Status::bad_request(refusal));
    }
    match validation {
        FieldValidation::Strict if !checked.unknown.is_empty() => Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            kind.kind,
            kind.version,
            kind.kind,
            checked.unknown.join(", ")
        ))),
        FieldValidation::Warn => Ok((body, checked.unknown)),
        FieldValidation::Strict | FieldValidation::Ignore => Ok((body, Vec::new())),
    }
}

/// Fills in a missing kind, as Kubernetes' decoder does, and refuses another one.
fn check_kind(kind: &Kind, body: &mut Value) -> Result<(), Status> {
    let Some(fields) = body.as_object_mut() else {
        return Err(Status::bad_request("the body of the request must be a JSON object"));
    };
    let version = kind.api_version();
    let given = |fields: &serde_json::Map<String, Value>, name: &str| {
        fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let (given_kind, given_version) = (given(fields, "kind"), given(fields, "apiVersion"));
    if !given_version.is_empty() && given_version != version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({version})"
        )));
    }
    if !given_kind.is_empty() && given_kind != kind.kind {
        return Err(Status::bad_request(format!(
            "{given_kind} in version {:?} cannot be handled as a {}: the kind in the data does not match the \
             expected kind",
            kind.version, kind.kind
        )));
    }
    fields.insert("kind".into(), json!(kind.kind));
    fields.insert("apiVersion".into(), json!(version));
    Ok(())
}

/// The namespace in the body, when there is one, is that of the path.
pub fn check_namespace(namespace: Option<&str>, body: &Value) -> Result<(), Status> {
    let given = meta::namespace(body);
    if given.is_empty() || namespace.is_none() || namespace == Some(given) {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the namespace of the provided object does not match the namespace sent on the request ({given} does not \
         equal {})",
        namespace.unwrap_or_default()
    )))
}

/// The name in the body, when there is one, is that of the path.
pub fn check_name(name: &str, body: &Value) -> Result<(), Status> {
    let given = meta::name(body);
    if given.is_empty() || given == name {
        return Ok(());
    }
    Err(Status::bad_request(format!(
        "the name of the object ({given}) does not match the name on the URL ({name})"
    )))
}
