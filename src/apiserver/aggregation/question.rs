//! A question of this server's own to an aggregated one.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{self, HeaderMap, HeaderValue};

use super::identity;
use crate::api::request::User;
use crate::apiserver::proxy::exchange::{self, Backend, Dial};

/// What is asked.
pub struct Question<'q> {
    /// The path of a document.
    pub path: &'q str,
    /// Who asks.
    pub user: User,
    /// The tag of what is known already; empty when nothing is.
    pub tag: &'q str,
    /// The most bytes that are read of the answer.
    pub most: usize,
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
    let mut request = http::Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = question.path.parse().map_err(|error| format!("{error}"))?;
    let mut headers: HeaderMap = identity::headers(&question.user);
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Ok(host) = HeaderValue::from_str(&backend.address.to_string()) {
        headers.insert(header::HOST, host);
    }
    if let Some(tag) = HeaderValue::from_str(question.tag).ok().filter(|tag| !tag.is_empty()) {
        headers.insert(header::IF_NONE_MATCH, tag);
    }
    *request.headers_mut() = headers;
    let response = exchange::exchange(dial, backend, request).await.map_err(|error| error.to_string())?;
    let (head, body) = response.into_parts();
    let tag = head.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().to_owned();
    let bytes = Limited::new(body, question.most).collect().await.map_err(|error| error.to_string())?;
    Ok(Told { code: head.status.as_u16(), tag, bytes: bytes.to_bytes() })
}
