//! Answers of the server's own: a body, and the plainest answers that have one.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderValue};

use crate::api::status::Status;

/// The body of every answer.
pub type Body = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// An answer with a body of this type.
pub fn typed(code: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> http::Response<Body> {
    let mut response = http::Response::new(full(bytes));
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A `Status`, as JSON.
pub fn status(status: &Status) -> http::Response<Body> {
    let bytes = serde_json::to_vec(status).unwrap_or_default();
    let code = if status.code == 0 { 200 } else { status.code };
    let mut response = typed(code, "application/json", bytes);
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
