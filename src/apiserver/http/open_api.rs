//! The OpenAPI documents: made when they are asked for, told apart by the hash of their content.
//!
//! Only the hashes are kept, for as long as the same kinds are served: documents are large, and clients keep them.
//! Caching follows k8s.io/kube-openapi `pkg/handler` and `pkg/handler3`: an entity tag on every document; one
//! that is asked for with its hash may be kept for ever, with another hash it is found elsewhere.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::HeaderMap;
use hyper::header::{self, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use super::accepts_gzip;
use crate::api::kinds::Kind;
use crate::api::status::Status;
use crate::apiserver::answer::{self, Body};
use crate::apiserver::openapi::others::{self, Description};
use crate::apiserver::openapi::{self, Source};
use crate::apiserver::resource_metrics;
use crate::sys::memory;

/// How long a client may keep a document that it named by its hash.
const YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);
const INDEX: &str = "/openapi/v3";
const OLDER: &str = "/openapi/v2";
/// What clients call the older document's protobuf, formerly with a letter that media types do not have.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
];

/// What the documents are about, by which it is known whether something has changed.
#[derive(Debug, Clone)]
pub(super) struct Subjects {
    /// The kinds that are stored and served.
    pub kinds: Arc<Vec<Arc<Kind>>>,
    /// Whether what nodes and pods use is served, too.
    pub usage: bool,
    /// What other servers say of what they serve.
    pub others: Arc<Vec<Description>>,
}

impl Subjects {
    fn is(&self, other: &Subjects) -> bool {
        let none = self.others.is_empty() && other.others.is_empty();
        Arc::ptr_eq(&self.kinds, &other.kinds)
            && self.usage == other.usage
            && (none || Arc::ptr_eq(&self.others, &other.others))
    }

    /// All kinds that this server serves.
    fn own(&self) -> Vec<Arc<Kind>> {
        let usage = resource_metrics::KINDS.iter().filter(|_| self.usage);
        self.kinds.iter().chain(usage).cloned().collect()
    }

    /// The documents of version 3 that this server makes from what others say.
    fn converted(&self) -> impl Iterator<Item = (String, Value)> {
        self.others.iter().filter_map(|other| Some((format!("{INDEX}/{}", other.own()), other.converted()?)))
    }

    /// `/openapi/v2`.
    fn older(&self) -> Value {
        let mut all = Source::new(&self.own()).v2();
        for other in self.others.iter().filter_map(Description::older) {
            others::merge(&mut all, other);
        }
        all
    }
}

/// The hashes of all documents by their paths, made when the first document is asked for; cheap to clone.
#[derive(Debug, Default, Clone)]
pub(super) struct Documents {
    known: Arc<Mutex<Option<(Subjects, Hashes)>>>,
}

type Hashes = Arc<BTreeMap<String, String>>;

fn hash(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|b| format!("{b:02X}")).collect()
}

fn address(path: &str, hash: &str) -> String {
    format!("{path}?hash={hash}")
}

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

fn hashes(subjects: &Subjects) -> Hashes {
    let mut all = BTreeMap::new();
    {
        let own = subjects.own();
        let source = Source::new(&own);
        for name in openapi::names(&own) {
            all.insert(format!("{INDEX}/{name}"), hash(&bytes(&source.v3(&name))));
        }
    }
    for (path, document) in subjects.converted() {
        all.insert(path, hash(&bytes(&document)));
    }
    all.insert(OLDER.to_owned(), hash(&bytes(&subjects.older())));
    all.insert(INDEX.to_owned(), hash(&bytes(&index(subjects, &all))));
    Arc::new(all)
}

/// `/openapi/v3`: where each document is found. Other servers' own documents are where these say, which is below the same
/// path: requests for them are led there.
fn index(subjects: &Subjects, hashes: &BTreeMap<String, String>) -> Value {
    let mut paths = Map::new();
    for (path, hash) in hashes {
        if let Some(name) = path.strip_prefix(INDEX).and_then(|rest| rest.strip_prefix('/')) {
            paths.insert(name.to_owned(), json!({"serverRelativeURL": address(path, hash)}));
        }
    }
    for (name, place) in subjects.others.iter().flat_map(|other| other.shown(&subjects.kinds)) {
        paths.insert(name.clone(), place.clone());
    }
    json!({ "paths": paths })
}

fn document(subjects: &Subjects, hashes: &BTreeMap<String, String>, path: &str) -> Vec<u8> {
    match path {
        INDEX => bytes(&index(subjects, hashes)),
        OLDER => bytes(&subjects.older()),
        _ => match subjects.converted().find(|(own, _)| own == path) {
            Some((_, document)) => bytes(&document),
            None => {
                let name = path.trim_start_matches(INDEX).trim_start_matches('/');
                bytes(&Source::new(&subjects.own()).v3(name))
            }
        },
    }
}

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

/// The first form that the client accepts. Clients that speak only protobuf where there is only JSON are told so, and
/// ask again.
fn negotiated(path: &str, headers: &HeaderMap) -> Result<Form, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let form = |choice: &str| match choice.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "application/*" | "*/*" => Some(Form::Json),
        media if path == OLDER && PROTOBUF.contains(&media) => Some(Form::Protobuf),
        _ => None,
    };
    accept.split(',').find_map(form).ok_or_else(|| {
        let message = "only the following media types are accepted: application/json";
        Status::failure(406, "NotAcceptable", message)
    })
}

fn compressed(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    // Writing to memory does not fail.
    encoder.write_all(plain).and_then(|()| encoder.finish()).unwrap_or_default()
}

impl Documents {
    /// The hashes of the documents about all this.
    fn hashes(&self, subjects: &Subjects) -> Hashes {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, hashes)) if of.is(subjects) => hashes.clone(),
            _ => {
                let made = hashes(subjects);
                memory::give_back();
                *known = Some((subjects.clone(), made.clone()));
                made
            }
        }
    }

    /// Answers a request for `path` with the query parameter `hash`. This may take as long as it takes to make all
    /// documents.
    pub(super) fn answer(
        &self,
        subjects: &Subjects,
        path: &str,
        hash: &str,
        headers: &HeaderMap,
    ) -> Result<http::Response<Body>, Status> {
        let hashes = self.hashes(subjects);
        let current = hashes.get(path).ok_or_else(Status::no_such_path)?;
        let form = negotiated(path, headers)?;
        let tag = match form {
            Form::Json => format!("\"{current}\""),
            Form::Protobuf => format!("\"{current}-protobuf\""),
        };
        let media = match form {
            Form::Json => "application/json",
            Form::Protobuf => PROTOBUF[0],
        };
        let elsewhere = !hash.is_empty() && hash != current && path.starts_with("/openapi/v3/");
        let given = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let known = given.split(',').map(|t| t.trim().trim_start_matches("W/")).any(|t| t == tag || t == "*");
        let mut response = if elsewhere {
            answer::typed(301, media, "")
        } else if known {
            answer::typed(304, media, "")
        } else {
            let plain = match form {
                Form::Json => document(subjects, &hashes, path),
                Form::Protobuf => openapi::protobuf::encode(&subjects.older()),
            };
            let body = if accepts_gzip(headers) { compressed(&plain) } else { plain };
            memory::give_back();
            answer::typed(200, media, body)
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
            set(header::LOCATION, &address(path, current));
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
    use crate::api::kinds::KINDS;

    fn about(kinds: &[Arc<Kind>]) -> Subjects {
        Subjects { kinds: Arc::new(kinds.to_vec()), usage: true, others: Arc::default() }
    }

    #[test]
    fn documents_are_known_by_their_hash() {
        let documents = Documents::default();
        let subjects = about(&KINDS);
        let mut headers = HeaderMap::new();
        let of = |path: &str, hash: &str, headers: &HeaderMap| {
            documents.answer(&subjects, path, hash, headers).unwrap()
        };
        let first = of("/openapi/v3", "", &headers);
        assert_eq!(first.status(), 200);
        let index = index(&subjects, &documents.hashes(&subjects));
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
        headers.insert(header::ACCEPT, HeaderValue::from_static(PROTOBUF[1]));
        let older = of("/openapi/v2", "", &headers);
        assert_eq!(older.status(), 200);
        assert_eq!(older.headers()[header::CONTENT_TYPE], PROTOBUF[0]);
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_static("application/com.github.proto-openapi.spec.v3.v1.0+protobuf"),
        );
        assert_eq!(documents.answer(&subjects, path, "", &headers).unwrap_err().code, 406);
    }

    #[test]
    fn documents_change_with_the_kinds() {
        let documents = Documents::default();
        let subjects = about(&KINDS);
        let before = documents.hashes(&subjects);
        assert!(Arc::ptr_eq(&before, &documents.hashes(&subjects)));
        let fewer = about(&KINDS[1..]);
        let after = documents.hashes(&fewer);
        assert_ne!(before["/openapi/v3"], after["/openapi/v3"]);
        assert_ne!(before["/openapi/v3/api/v1"], after["/openapi/v3/api/v1"]);
        let plain = document(&fewer, &after, "/openapi/v3/api/v1");
        assert_eq!(super::hash(&plain), after["/openapi/v3/api/v1"]);
        let other = Description {
            service: "v1.w".into(),
            group: "w".into(),
            version: "v1".into(),
            documents: None,
            older: Some(r#"{"paths": {"/apis/w/v1/f": {}}, "definitions": {}}"#.into()),
        };
        let more = Subjects { others: Arc::new(vec![other]), ..fewer };
        let with = documents.hashes(&more);
        assert_ne!(with["/openapi/v2"], after["/openapi/v2"]);
        assert_eq!(
            super::hash(&document(&more, &with, "/openapi/v3/apis/w/v1")),
            with["/openapi/v3/apis/w/v1"]
        );
    }
}
