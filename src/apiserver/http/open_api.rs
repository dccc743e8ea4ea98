//! The OpenAPI documents: made once, kept compressed, told apart by the hash of their content.
//!
//! Caching follows k8s.io/kube-openapi `pkg/handler` and `pkg/handler3`: an entity tag on every document; one
//! that is asked for with its hash may be kept for ever, with another hash it is found elsewhere.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{self, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};

use super::accepts_gzip;
use crate::api::kinds::{KINDS, Kind};
use crate::api::status::Status;
use crate::apiserver::answer::{self, Body};
use crate::apiserver::{discovery, openapi};

/// How long a client may keep a document that it named by its hash.
const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);

/// All documents by their paths; made when the first of them is asked for, and those that tell of custom kinds anew
/// when these have changed.
#[derive(Debug, Default)]
pub(super) struct Documents {
    built_in: OnceLock<BTreeMap<String, Arc<Document>>>,
    custom: Mutex<Custom>,
}

/// The documents that tell of custom kinds, for one state of the table of kinds.
#[derive(Debug, Default)]
struct Custom {
    kinds: Arc<Vec<Arc<Kind>>>,
    made: BTreeMap<String, Arc<Document>>,
}

#[derive(Debug)]
struct Document {
    /// Most clients accept it like this, and it is a tenth of the size.
    compressed: Bytes,
    hash: String,
}

impl Document {
    fn new(value: &Value) -> Arc<Document> {
        let plain = serde_json::to_vec(value).unwrap_or_default();
        let hash = Sha512::digest(&plain).iter().map(|b| format!("{b:02X}")).collect();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        // Writing to memory does not fail.
        let compressed = encoder.write_all(&plain).and_then(|()| encoder.finish()).unwrap_or_default();
        Arc::new(Document { compressed: compressed.into(), hash })
    }

    fn plain(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        // What was compressed here can be read back.
        let _ = flate2::read::GzDecoder::new(self.compressed.as_ref()).read_to_end(&mut plain);
        plain
    }
}

fn address(path: &str, hash: &str) -> String {
    format!("{path}?hash={hash}")
}

fn make(kinds: &[Arc<Kind>]) -> BTreeMap<String, Arc<Document>> {
    let mut all = BTreeMap::new();
    add_v3(kinds, kinds, &mut all);
    all.insert(V2.to_owned(), Document::new(&openapi::v2(kinds)));
    all
}

/// The documents of the groups and versions of `changed`, and the index of all that there are then.
fn add_v3(kinds: &[Arc<Kind>], changed: &[Arc<Kind>], all: &mut BTreeMap<String, Arc<Document>>) {
    for (group, version) in discovery::group_versions(changed) {
        let Some(value) = openapi::v3(kinds, &group, &version) else { continue };
        let at = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        let path = format!("/openapi/v3/{at}");
        all.insert(path, Document::new(&value));
    }
    let paths = all.iter().filter_map(|(path, document)| {
        let at = path.strip_prefix("/openapi/v3/")?;
        Some((at.to_owned(), json!({"serverRelativeURL": address(path, &document.hash)})))
    });
    let index: serde_json::Map<String, Value> = paths.collect();
    all.insert(INDEX.to_owned(), Document::new(&json!({ "paths": index })));
}

const INDEX: &str = "/openapi/v3";
const V2: &str = "/openapi/v2";

impl Documents {
    fn find(&self, kinds: &Arc<Vec<Arc<Kind>>>, path: &str) -> Option<Arc<Document>> {
        let built_in = self.built_in.get_or_init(|| make(&KINDS));
        if kinds.len() == KINDS.len() {
            return built_in.get(path).cloned();
        }
        let mut custom = self.custom.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&custom.kinds, kinds) {
            let mut made = built_in.clone();
            made.remove(V2);
            add_v3(kinds, &kinds[KINDS.len()..], &mut made);
            *custom = Custom { kinds: kinds.clone(), made };
        }
        // The oldest form is the longest, and hardly anybody asks for it.
        if path == V2 && !custom.made.contains_key(V2) {
            custom.made.insert(V2.to_owned(), Document::new(&openapi::v2(kinds)));
        }
        custom.made.get(path).cloned()
    }

    /// Answers a request for `path` with the query parameter `hash`.
    pub(super) fn answer(
        &self,
        kinds: &Arc<Vec<Arc<Kind>>>,
        path: &str,
        hash: &str,
        headers: &HeaderMap,
    ) -> Result<http::Response<Body>, Status> {
        let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        // Clients that speak only protobuf here are told so, and ask again for JSON.
        if !accept.is_empty() && !accept.contains("json") && !accept.contains("*/*") {
            return Err(Status::failure(
                406,
                "NotAcceptable",
                "only the following media types are accepted: application/json",
            ));
        }
        let document = self.find(kinds, path).ok_or_else(Status::no_such_path)?;
        let tag = format!("\"{}\"", document.hash);
        let elsewhere = !hash.is_empty() && hash != document.hash && path.starts_with("/openapi/v3/");
        let given = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let known = given.split(',').map(|t| t.trim().trim_start_matches("W/")).any(|t| t == tag || t == "*");
        let mut response = if elsewhere {
            answer::typed(301, "application/json", "")
        } else if known {
            answer::typed(304, "application/json", "")
        } else if accepts_gzip(headers) {
            answer::typed(200, "application/json", document.compressed.clone())
        } else {
            answer::typed(200, "application/json", document.plain())
        };
        let sent = response.status() == http::StatusCode::OK;
        let headers_out = response.headers_mut();
        if sent && accepts_gzip(headers) {
            headers_out.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        headers_out.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
        let mut set = |name, text: &str| {
            if let Ok(value) = HeaderValue::from_str(text) {
                headers_out.insert(name, value);
            }
        };
        set(header::ETAG, &tag);
        if elsewhere {
            set(header::LOCATION, &address(path, &document.hash));
        } else if !hash.is_empty() {
            set(header::CACHE_CONTROL, "public, immutable");
            let ends = Timestamp::now().saturating_add(YEAR).unwrap_or(Timestamp::MAX);
            set(header::EXPIRES, &ends.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_known_by_their_hash() {
        let (documents, kinds) = (Documents::default(), Arc::new(KINDS.clone()));
        let mut headers = HeaderMap::new();
        let of = |path: &str, hash: &str, headers: &HeaderMap| {
            documents.answer(&kinds, path, hash, headers).unwrap()
        };
        let index = of("/openapi/v3", "", &headers);
        assert_eq!(index.status(), 200);
        let index: Value =
            serde_json::from_slice(&documents.built_in.get().unwrap()["/openapi/v3"].plain()).unwrap();
        let url = index["paths"]["api/v1"]["serverRelativeURL"].as_str().unwrap();
        let (path, hash) = url.split_once("?hash=").unwrap();
        assert_eq!((path, hash.len()), ("/openapi/v3/api/v1", 128));
        let named = of(path, hash, &headers);
        assert_eq!(named.headers()[header::CACHE_CONTROL], "public, immutable");
        assert!(named.headers()[header::EXPIRES].to_str().unwrap().ends_with(" GMT"));
        let old = of(path, "0", &headers);
        assert_eq!((old.status().as_u16(), old.headers()[header::LOCATION].to_str().unwrap()), (301, url));
        assert!(of(path, "", &headers).headers().get(header::CACHE_CONTROL).is_none());
        headers.insert(header::IF_NONE_MATCH, named.headers()[header::ETAG].clone());
        assert_eq!(of(path, "", &headers).status(), 304);
        assert_eq!(of("/openapi/v2", "", &headers).status(), 200);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(of("/openapi/v2", "", &headers).headers()[header::CONTENT_ENCODING], "gzip");
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/com.github.proto-openapi.spec.v3.v1.0+protobuf"),
        );
        assert_eq!(documents.answer(&kinds, path, "", &headers).unwrap_err().code, 406);
    }
}
