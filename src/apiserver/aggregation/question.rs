//! A question of this server's own to an aggregated one.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};

use super::identity;
use crate::api::request::User;
use crate::apiserver::proxy::exchange::{self, Backend, Dial};

const JSON: &str = "application/json";

/// What is asked.
pub struct Question<'q> {
    /// Usually GET.
    pub method: Method,
    /// The path, with its query if it has one.
    pub path: &'q str,
    /// What is sent; nothing when it is empty.
    pub body: Bytes,
    /// What that is.
    pub media: &'static str,
    /// Who asks.
    pub user: User,
    /// The tag of what is known already; empty when nothing is.
    pub tag: &'q str,
    /// The most bytes that are read of the answer.
    pub most: usize,
}

impl<'q> Question<'q> {
    /// Reads a document.
    pub fn read(path: &'q str, user: User, most: usize) -> Question<'q> {
        Question { method: Method::GET, path, body: Bytes::new(), media: JSON, user, tag: "", most }
    }
}

/// The answer.
pub struct Told {
    /// Its status.
    pub code: u16,
    /// What tells it from others; may be empty.
    pub tag: String,
    /// Its content.
    pub bytes: Bytes,
}

/// Asks the server behind this backend.
pub async fn ask(dial: &dyn Dial, backend: &Backend, question: Question<'_>) -> Result<Told, String> {
    let most = question.most;
    whole(begin(dial, backend, question).await?, most).await
}

/// All of an answer.
pub async fn whole(response: http::Response<Incoming>, most: usize) -> Result<Told, String> {
    let (head, body) = response.into_parts();
    let tag = head.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
    let bytes = Limited::new(body, most).collect().await.map_err(|error| error.to_string())?;
    Ok(Told { code: head.status.as_u16(), tag, bytes: bytes.to_bytes() })
}

/// Asks it; its answer is still to be read.
pub async fn begin(
    dial: &dyn Dial,
    backend: &Backend,
    question: Question<'_>,
) -> Result<http::Response<Incoming>, String> {
    let is_empty = question.body.is_empty();
    let mut request = http::Request::new(Full::new(question.body));
    *request.method_mut() = question.method;
    *request.uri_mut() = question.path.parse().map_err(|error| format!("{error}"))?;
    let mut headers: HeaderMap = identity::headers(&question.user);
    headers.insert(header::ACCEPT, HeaderValue::from_static(JSON));
    if !is_empty {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(question.media));
    }
    if let Ok(host) = HeaderValue::from_str(&backend.address.to_string()) {
        headers.insert(header::HOST, host);
    }
    if let Some(tag) = HeaderValue::from_str(question.tag).ok().filter(|tag| !tag.is_empty()) {
        headers.insert(header::IF_NONE_MATCH, tag);
    }
    *request.headers_mut() = headers;
    exchange::exchange(dial, backend, request).await.map_err(|error| error.to_string())
}
