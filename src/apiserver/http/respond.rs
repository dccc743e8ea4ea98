//! Answers as bytes: objects, lists, tables, statuses, watches.

use std::io::Write;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{self, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::header::{self, HeaderValue};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::negotiate::{Form, Format, Shown};
use super::warnings;
use crate::api::kinds::Kind;
use crate::api::request::{Change, Changes, Response};
use crate::api::status::Status;
use crate::api::yaml;
use crate::apiserver::answer::{Body, full, in_pieces, status, typed};
use crate::apiserver::registry::encode;
use crate::apiserver::table::{self, IncludeObject};
use crate::clock;
use crate::store::{Entry, Snapshot};

/// Lists go out in pieces of this size: with the head of their HTTP/2 frame (RFC 9113, section 4.1) they fill one TLS record
/// (RFC 8446, section 5.1).
const PIECE_BYTES: usize = (1 << 14) - 9;

/// What is needed to show the answer to one request.
#[derive(Debug, Clone)]
pub struct Show {
    /// The kind of the objects, unless the answer is no object of the table.
    pub kind: Option<Arc<Kind>>,
    /// How.
    pub form: Form,
    /// How much of objects comes along with table rows.
    pub include: IncludeObject,
}

/// The head of an answer alone, with the length that its body would have.
pub fn without_body(mut response: http::Response<Body>) -> http::Response<Body> {
    if let Some(length) = response.body().size_hint().exact() {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.body_mut() = full(Bytes::new());
    response
}

/// A value in the client's format.
pub fn value(code: u16, value: &Value, form: Form) -> http::Response<Body> {
    match form.format {
        Format::Yaml => typed(code, "application/yaml", yaml::to_yaml(value)),
        Format::Json if form.pretty => {
            let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
            bytes.push(b'\n');
            typed(code, "application/json", bytes)
        }
        Format::Json => typed(code, "application/json", encode(value)),
    }
}

/// A registry's answer; watches end with `stopping`, and what they are sent is counted in `watched`.
pub fn response(
    answer: Response,
    show: Show,
    stopping: &CancellationToken,
    watched: Arc<AtomicU64>,
) -> http::Response<Body> {
    match answer {
        Response::Object { entry, created, warnings } => {
            let code = if created { 201 } else { 200 };
            let plain = show.form.shown == Shown::Plain && show.form == Form::default();
            let mut response = if plain {
                typed(code, "application/json", entry.bytes.clone())
            } else {
                value(code, &object(&show, entry.json()), show.form)
            };
            warnings::add(&mut response, &warnings);
            response
        }
        Response::Transient { value: shown, created, warnings } => {
            let code = if created { 201 } else { 200 };
            let mut response = value(code, &object(&show, &shown), show.form);
            warnings::add(&mut response, &warnings);
            response
        }
        Response::List { snapshot, continue_token } => list(snapshot, &continue_token, &show),
        Response::Watch(changes) => watch(changes, show, stopping.clone(), watched),
        Response::Status(done) => status(&done),
    }
}

/// A table or metadata in the version that the client asked for.
pub fn in_version(mut shown: Value, form: Form) -> Value {
    if form.beta {
        table::as_beta(&mut shown);
    }
    shown
}

/// One object as the client wants it shown.
fn object(show: &Show, object: &Value) -> Value {
    let shown = match (show.form.shown, &show.kind) {
        (Shown::Table, Some(kind)) => {
            let mut table = table::render(kind, &[object], show.include, clock::now());
            table["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
            table
        }
        (Shown::Metadata, _) => table::partial(object),
        _ => object.clone(),
    };
    in_version(shown, show.form)
}

fn list_metadata(snapshot: &Snapshot, continue_token: &str) -> Value {
    let mut metadata = json!({"resourceVersion": snapshot.revision.to_string()});
    if !continue_token.is_empty() {
        metadata["continue"] = json!(continue_token);
        if snapshot.remaining > 0 {
            metadata["remainingItemCount"] = json!(snapshot.remaining);
        }
    }
    metadata
}

fn list(snapshot: Snapshot, continue_token: &str, show: &Show) -> http::Response<Body> {
    let metadata = list_metadata(&snapshot, continue_token);
    let Some(kind) = &show.kind else {
        return status(&Status::internal("a list of an unknown kind"));
    };
    let objects = || snapshot.entries.iter().map(|e| e.json());
    let whole = match (show.form.shown, show.form.format, show.form.pretty) {
        (Shown::Table, ..) => {
            let objects: Vec<&Value> = objects().collect();
            let mut table = table::render(kind, &objects, show.include, clock::now());
            table["metadata"] = metadata;
            table
        }
        (Shown::Metadata, ..) => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata, "items": objects().map(table::partial).collect::<Vec<_>>()}),
        (_, Format::Json, false) => return streamed(snapshot, &metadata, kind),
        _ => json!({"kind": kind.list, "apiVersion": kind.api_version(),
            "metadata": metadata, "items": objects().collect::<Vec<_>>()}),
    };
    value(200, &in_version(whole, show.form), show.form)
}

/// A list whose items are written as they lie in the store, piece by piece.
fn streamed(snapshot: Snapshot, metadata: &Value, kind: &Kind) -> http::Response<Body> {
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        kind.list,
        kind.api_version()
    );
    let entries = snapshot.entries.into_iter().enumerate();
    let items = entries.flat_map(|(i, entry)| {
        let comma = (i > 0).then(|| Bytes::from_static(b","));
        comma.into_iter().chain([entry.bytes.clone()])
    });
    let mut parts = iter::once(Bytes::from(head)).chain(items).chain([Bytes::from_static(b"]}\n")]);
    let mut rest = Bytes::new();
    let pieces = iter::from_fn(move || {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        while piece.len() < PIECE_BYTES {
            if rest.is_empty() {
                let Some(part) = parts.next() else { break };
                rest = part;
            }
            piece.put(rest.split_to(rest.len().min(PIECE_BYTES - piece.len())));
        }
        (!piece.is_empty()).then(|| Ok(piece.freeze()))
    });
    let mut response = typed(200, "application/json", Bytes::new());
    *response.body_mut() = in_pieces(stream::iter(pieces));
    response
}

/// A watch: one JSON document a line.
fn watch(
    changes: Box<dyn Changes>,
    show: Show,
    stopping: CancellationToken,
    watched: Arc<AtomicU64>,
) -> http::Response<Body> {
    struct Following {
        changes: Box<dyn Changes>,
        show: Show,
        stopping: CancellationToken,
        failed: bool,
        /// Only the first table of a watch names its columns.
        columns_told: bool,
    }
    let following = Following { changes, show, stopping, failed: false, columns_told: false };
    let lines = stream::unfold((following, watched), |(mut following, watched)| async move {
        if following.failed {
            return None;
        }
        let change = tokio::select! {
            () = following.stopping.cancelled() => return None,
            change = following.changes.next() => change?,
        };
        let line = match change {
            Ok(change) => line(&change, &following.show, &mut following.columns_told),
            Err(error) => {
                following.failed = true;
                encode(&json!({"type": "ERROR", "object": error}))
            }
        };
        watched.fetch_add(1, Ordering::Relaxed);
        // Nobody else has these bytes, so that they are not copied for the end of the line.
        let mut bytes = line.try_into_mut().unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
        bytes.put_u8(b'\n');
        Some((Ok(bytes.freeze()), (following, watched)))
    });
    let mut response = typed(200, "application/json", Bytes::new());
    *response.body_mut() = in_pieces(lines.boxed());
    response
}

fn line(change: &Change, show: &Show, columns_told: &mut bool) -> Bytes {
    let (name, entry): (&str, &Arc<Entry>) = match change {
        Change::Added(entry) => ("ADDED", entry),
        Change::Modified(entry) => ("MODIFIED", entry),
        Change::Deleted(entry) => ("DELETED", entry),
        Change::Bookmark { revision, initial_events_end } => {
            return bookmark(&revision.to_string(), *initial_events_end, show);
        }
    };
    if show.form.shown == Shown::Plain {
        let mut bytes = BytesMut::with_capacity(entry.bytes.len() + 40);
        bytes.put(format!("{{\"type\":\"{name}\",\"object\":").as_bytes());
        bytes.put(entry.bytes.as_ref());
        bytes.put_u8(b'}');
        return bytes.freeze();
    }
    let mut shown = object(show, entry.json());
    if show.form.shown == Shown::Table {
        if *columns_told && let Some(table) = shown.as_object_mut() {
            table.insert("columnDefinitions".into(), Value::Null);
        }
        *columns_told = true;
    }
    encode(&json!({"type": name, "object": shown}))
}

fn bookmark(revision: &str, initial_events_end: bool, show: &Show) -> Bytes {
    let mut metadata = json!({"resourceVersion": revision, "creationTimestamp": null});
    if initial_events_end {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let object = match (show.form.shown, &show.kind) {
        (Shown::Table, _) => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
            "metadata": {"resourceVersion": revision}, "columnDefinitions": null, "rows": []}),
        (Shown::Metadata, _) | (_, None) => {
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
        }
        (_, Some(kind)) => json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata}),
    };
    encode(&json!({"type": "BOOKMARK", "object": in_version(object, show.form)}))
}

/// The same answer compressed, when it is a whole document large enough to gain from it.
pub async fn compressed(response: http::Response<Body>, least: usize) -> http::Response<Body> {
    let (mut head, body) = response.into_parts();
    let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return status(&Status::internal("the answer could not be written"));
    };
    if bytes.len() < least {
        return http::Response::from_parts(head, full(bytes));
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    match encoder.write_all(&bytes).and_then(|()| encoder.finish()) {
        Ok(small) => {
            head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            head.headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            http::Response::from_parts(head, full(small))
        }
        // Writing to memory does not fail; if it did, the plain answer is as good.
        Err(_) => http::Response::from_parts(head, full(bytes)),
    }
}
