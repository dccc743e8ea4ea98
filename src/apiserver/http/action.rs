//! From a request's parameters and body to the action that it asks for.

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::header;
use serde_json::Value;

use super::parse::Verb;
use super::query::{self, Query};
use crate::api::request::{Action, PatchKind, WriteOptions};
use crate::api::schema::protobuf;
use crate::api::status::Status;
use crate::api::{go, schema, syntax, yaml};

/// Kubernetes' limit for request bodies.
const BODY_BYTES: usize = 3 * 1024 * 1024;
/// A watch without a time of its own ends after this and up to as much again, so that watchers spread.
const WATCH_SECONDS: u64 = 1800;
/// So much of a body that cannot be read is shown.
const SUMMARY_BYTES: usize = 30;

/// Reads the body as the verb needs it; `of` is the kind that a new object must be of.
pub(super) async fn read(
    verb: Verb,
    of: &str,
    query: &Query,
    request: http::Request<Incoming>,
) -> Result<Action, Status> {
    let (head, content) = request.into_parts();
    let headers = &head.headers;
    match verb {
        Verb::Options => Err(Status::no_such_method()),
        Verb::Get => Ok(Action::Get { resource_version: query.text("resourceVersion").to_owned() }),
        Verb::List => Ok(Action::List(query.list()?)),
        Verb::Watch => {
            let mut options = query.watch()?;
            options.timeout_seconds =
                options.timeout_seconds.or_else(|| Some(WATCH_SECONDS + random_below(WATCH_SECONDS)));
            Ok(Action::Watch(options))
        }
        Verb::Create | Verb::Update => {
            let read = reader(&media_type(headers))?;
            let bytes = body(content).await?;
            let options = if verb == Verb::Create { "CreateOptions" } else { "UpdateOptions" };
            let mut options = managed_by(query.write(options)?, headers);
            let value;
            (value, options.duplicates) = read(&bytes).map_err(|why| unrecognized(of, &why, &bytes))?;
            let action = if verb == Verb::Create { Action::Create } else { Action::Update };
            Ok(action(value, options))
        }
        Verb::Patch => {
            let kind = patch_kind(&media_type(headers))?;
            let bytes = body(content).await?;
            let mut options = managed_by(query.patch(kind == PatchKind::Apply)?, headers);
            let (value, duplicates) = patch(kind, &bytes)?;
            let within = if kind == PatchKind::Json { "json patch " } else { "" };
            options.duplicates = duplicates.iter().map(|twice| format!("{within}{twice}")).collect();
            Ok(Action::Patch(kind, value, options))
        }
        Verb::Delete | Verb::DeleteCollection => {
            let list = if verb == Verb::DeleteCollection { Some(query.list()?) } else { None };
            let bytes = body(content).await?;
            let given = match bytes.is_empty() {
                true => None,
                false => Some(reader(&media_type(headers))?(&bytes).map_err(Status::bad_request)?.0),
            };
            let options = query.delete(given)?;
            Ok(match list {
                None => Action::Delete(options),
                Some(list) => Action::DeleteCollection(list, options),
            })
        }
    }
}

/// Options with the manager that the client's name stands for, when they name none.
fn managed_by(mut options: WriteOptions, headers: &HeaderMap) -> WriteOptions {
    let agent = || headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    options.field_manager.get_or_insert_with(|| query::agent_manager(agent()));
    options
}

fn random_below(limit: u64) -> u64 {
    let mut bytes = [0u8; 8];
    // Without random bytes watches only spread less.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % limit
}

fn media_type(headers: &HeaderMap) -> String {
    let media = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The bytes of a body.
async fn body(content: Incoming) -> Result<Bytes, Status> {
    match Limited::new(content, BODY_BYTES).collect().await {
        Ok(bytes) => Ok(bytes.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Status::too_large(format!("limit is {BODY_BYTES}")))
        }
        Err(error) => Err(Status::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// A document's JSON and a message for each field that it gives twice, or why it cannot be read.
type Read = fn(&[u8]) -> Result<(Value, Vec<String>), String>;

/// How documents of a media type are read.
fn reader(media: &str) -> Result<Read, Status> {
    match media {
        "" | "application/json" | "*/*" => Ok(|bytes| {
            json(bytes).map_err(|e| unparsed(&e)).and_then(|(value, twice)| Ok((typed(value)?, twice)))
        }),
        "application/yaml" => {
            Ok(|bytes| yaml::strict_yaml(bytes).and_then(|(value, twice)| Ok((typed(value)?, twice))))
        }
        protobuf::MEDIA_TYPE => {
            Ok(|bytes| protobuf::decode(bytes).map(|value| (value, Vec::new())).map_err(|e| e.to_string()))
        }
        _ => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json, application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

fn json(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    // What only one of the two parsers refuses is told in the words of that one.
    schema::strict_json(bytes).map_err(|e| syntax::complaint(bytes).unwrap_or_else(|| e.to_string()))
}

fn unparsed(why: &str) -> String {
    format!("couldn't get version/kind; json parse error: {why}")
}

/// A document from which it can be told what it is. As in Go, null is an object of which nothing is said.
fn typed(value: Value) -> Result<Value, String> {
    let Value::Object(fields) = &value else {
        return match value {
            Value::Null => Ok(Value::Object(serde_json::Map::new())),
            other => Err(unparsed(&format!(
                "json: cannot unmarshal {} into Go value of type struct {{ APIVersion string \
                 \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}",
                go::given(&other)
            ))),
        };
    };
    for name in ["apiVersion", "kind"] {
        if let Some(other) = fields.get(name).filter(|value| !value.is_string() && !value.is_null()) {
            let given = go::given(other);
            return Err(unparsed(&format!(
                "json: cannot unmarshal {given} into Go struct field .{name} of type string"
            )));
        }
    }
    match fields.get("apiVersion").and_then(Value::as_str) {
        Some(version) if version.matches('/').count() > 1 => {
            Err(format!("unexpected GroupVersion string: {version}"))
        }
        _ => Ok(value),
    }
}

/// 400 for a body that cannot be read at all.
fn unrecognized(of: &str, why: &str, bytes: &[u8]) -> Status {
    let shown = &bytes[..bytes.len().min(SUMMARY_BYTES)];
    let more = if bytes.len() > SUMMARY_BYTES { " ..." } else { "" };
    let summary = match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Status::bad_request(format!(
        "the object provided is unrecognized (must be of type {of}): {why} ({summary}{more})"
    ))
}

fn patch_kind(media: &str) -> Result<PatchKind, Status> {
    match media {
        "application/json-patch+json" => Ok(PatchKind::Json),
        "application/merge-patch+json" => Ok(PatchKind::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchKind::Strategic),
        "application/apply-patch+yaml" => Ok(PatchKind::Apply),
        _ => Err(Status::unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: \
             application/json-patch+json, application/merge-patch+json, \
             application/strategic-merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

/// A patch's JSON, and a message for each field that it gives twice.
fn patch(kind: PatchKind, bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    match kind {
        PatchKind::Apply => {
            yaml::strict_yaml(bytes).map_err(|e| Status::bad_request(format!("error encoding patch: {e}")))
        }
        _ => json(bytes).map_err(|_| Status::bad_request("invalid JSON patch")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_that_cannot_be_read_are_shown() {
        let read = reader("application/json").unwrap();
        let plain = "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse \
                     error: ";
        let structure = "Go value of type struct { APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \
                         \"json:\\\"kind,omitempty\\\"\" }";
        for (text, told) in [
            ("", format!("{plain}unexpected end of JSON input (<empty>)")),
            ("{", format!("{plain}unexpected end of JSON input ({{)")),
            ("[]", format!("{plain}json: cannot unmarshal array into {structure} (5b5d)")),
            (
                "{\"kind\": 5}",
                format!(
                    "{plain}json: cannot unmarshal number into Go struct field .kind of type string ({{\"kind\": 5}})"
                ),
            ),
            (
                "{\"apiVersion\": \"a/b/c\", \"kind\": \"Pod\"}",
                "the object provided is unrecognized (must be of type Pod): unexpected GroupVersion string: a/b/c \
                 ({\"apiVersion\": \"a/b/c\", \"kind\" ...)"
                    .to_owned(),
            ),
        ] {
            let why = read(text.as_bytes()).unwrap_err();
            assert_eq!(unrecognized("Pod", &why, text.as_bytes()).message, told);
        }
        assert_eq!(read(b"null").unwrap().0, serde_json::json!({}));
        assert_eq!(reader("text/plain").unwrap_err().code, 415);
    }

    #[test]
    fn patches_that_are_no_documents_are_refused() {
        let told = |kind, text: &str| patch(kind, text.as_bytes()).unwrap_err().message;
        assert_eq!(told(PatchKind::Merge, "{"), "invalid JSON patch");
        assert_eq!(told(PatchKind::Json, ""), "invalid JSON patch");
        let apply = told(PatchKind::Apply, "a: b: c");
        assert!(apply.starts_with("error encoding patch: yaml: "), "{apply}");
    }
}
