//! The audit log: who asked for what, as a policy wants it recorded, a JSON line of audit.k8s.io/v1 for each stage.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use hyper::header::{self, HeaderMap};
use jiff::Timestamp;
use serde_json::{Value, json};

use self::log::Log;
use self::policy::{Asked, Decision, Policy, Stage};
use super::answer::Body;
use super::auth;
use super::auth::rbac;
use crate::api::meta;
use crate::api::request::{Target, User};
use crate::clock;

pub mod annotations;

mod log;
mod policy;
mod rotation;

pub use self::policy::Level;
pub use self::rotation::Limits;

/// The most of an answer that is recorded.
const CAPTURED_BYTES: usize = 3 << 20;

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// The policy is none.
    #[error("{path}: {message}")]
    Policy {
        /// Where it was read.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

/// A policy, and the file in which what it wants is recorded.
#[derive(Debug, Clone)]
pub struct Audit {
    policy: Arc<Policy>,
    log: Log,
}

impl Audit {
    /// Reads the policy and opens the log.
    pub fn open(policy: &Path, log: &Path, limits: Limits) -> Result<Audit, Error> {
        let shown = |path: &Path| path.display().to_string();
        let text =
            std::fs::read_to_string(policy).map_err(|source| Error::File { path: shown(policy), source })?;
        let parsed = Policy::parse(&text);
        let parsed = parsed.map_err(|message| Error::Policy { path: shown(policy), message })?;
        let log = Log::open(log, limits).map_err(|source| Error::File { path: shown(log), source })?;
        Ok(Audit { policy: Arc::new(parsed), log })
    }

    /// A request has come.
    pub fn begin(&self, request: Received) -> Record {
        let draft = Draft {
            request,
            user: None,
            acting: None,
            decision: None,
            sent: None,
            annotations: BTreeMap::new(),
            at: clock::now(),
        };
        Record { audit: self.clone(), draft: Arc::new(Mutex::new(draft)) }
    }

    /// Waits until everything that was recorded is in the file.
    pub async fn flush(&self) {
        self.log.flush().await;
    }
}

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Received {
    /// What tells it from all others.
    pub id: String,
    /// Path and query as they were sent.
    pub uri: String,
    /// Its path.
    pub path: String,
    /// `get`, `create`, ..., or the method in lower case.
    pub verb: String,
    /// The objects, when it is about objects.
    pub target: Option<Target>,
    /// What the client calls itself.
    pub agent: String,
    /// From where it came, through which proxies.
    pub sources: Vec<String>,
}

/// The addresses of a request: what proxies say, then the one that is known.
pub fn sources(headers: &HeaderMap, peer: Option<std::net::IpAddr>) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let address = |text: &str| text.trim().parse::<std::net::IpAddr>().ok().map(|ip| ip.to_string());
    let mut all: Vec<String> = text("x-forwarded-for").split(',').filter_map(address).collect();
    if let Some(real) = address(text("x-real-ip"))
        && !all.contains(&real)
    {
        all.push(real);
    }
    let peer = peer.map(|peer| peer.to_string());
    all.extend(peer.filter(|peer| all.last() != Some(peer)));
    all
}

#[derive(Debug)]
struct Draft {
    request: Received,
    user: Option<User>,
    /// As whom the user acts, when that is somebody else.
    acting: Option<User>,
    decision: Option<Decision>,
    sent: Option<Value>,
    /// What was noted on the way.
    annotations: BTreeMap<String, String>,
    at: Timestamp,
}

/// A request on its way; clones are the same request.
#[derive(Clone)]
pub struct Record {
    audit: Audit,
    draft: Arc<Mutex<Draft>>,
}

impl Record {
    fn draft(&self) -> MutexGuard<'_, Draft> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is known who asks.
    pub fn identified(&self, user: &User) {
        self.draft().user = Some(user.clone());
        self.decide();
        self.write(Stage::RequestReceived, &Answered::default());
    }

    /// As whom the user acts.
    pub fn acting_as(&self, user: &User) {
        let mut draft = self.draft();
        if draft.user.as_ref() != Some(user) {
            draft.acting = Some(user.clone());
        }
    }

    /// Whether the user may do it, and why.
    pub fn authorized(&self, decision: &rbac::Decision) {
        let decided = if decision.allowed { "allow" } else { "forbid" };
        self.note("authorization.k8s.io/decision", decided.to_owned());
        self.note("authorization.k8s.io/reason", decision.reason.clone());
    }

    /// Adds an annotation, unless there is one of this name.
    fn note(&self, key: &str, value: String) {
        self.draft().annotations.entry(key.to_owned()).or_insert(value);
    }

    /// Whether its events show what belongs to this level.
    fn shows(&self, level: Level) -> bool {
        self.draft().decision.as_ref().is_some_and(|decision| decision.level >= level)
    }

    fn decide(&self) -> Decision {
        let mut draft = self.draft();
        let request = &draft.request;
        let asked = Asked {
            user: draft.user.as_ref(),
            verb: &request.verb,
            path: &request.path,
            target: request.target.as_ref(),
        };
        let decision = self.audit.policy.decide(&asked);
        draft.decision = Some(decision.clone());
        decision
    }

    /// What was sent with it.
    pub fn sent(&self, object: &Value) {
        if self.shows(Level::Request) {
            self.draft().sent = Some(object.clone());
        }
    }

    /// It has its answer, whose end is recorded when it comes.
    pub fn answered(self, response: http::Response<Body>, long_running: bool) -> http::Response<Body> {
        let known = self.draft().decision.clone();
        // Of a request that nobody was recognised for.
        let decision = known.unwrap_or_else(|| self.decide());
        if decision.level == Level::None {
            return response;
        }
        let (head, body) = response.into_parts();
        let code = head.status.as_u16();
        if long_running {
            self.write(Stage::ResponseStarted, &Answered { code, object: None });
        }
        let media = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let readable = media.is_some_and(|media| media.starts_with("application/json"));
        let wanted = decision.level == Level::RequestResponse || code >= 400;
        let captured = (wanted && readable && !long_running).then(Vec::new);
        http::Response::from_parts(head, Recorded { body, record: self, code, captured }.boxed())
    }

    fn write(&self, stage: Stage, answered: &Answered) {
        let draft = self.draft();
        let Some(decision) = draft.decision.as_ref().filter(|decision| decision.level != Level::None) else {
            return;
        };
        if decision.omit_stages.contains(&stage) {
            return;
        }
        let event = event(&draft, decision, stage, answered, clock::now());
        drop(draft);
        self.audit.log.line(serde_json::to_vec(&event).unwrap_or_default());
    }
}

/// What is known of the answer at a stage.
#[derive(Debug, Default)]
struct Answered {
    /// 0 before there is one.
    code: u16,
    object: Option<Value>,
}

/// The event of a stage (pure).
fn event(draft: &Draft, decision: &Decision, stage: Stage, answered: &Answered, now: Timestamp) -> Value {
    let request = &draft.request;
    let user = draft.user.as_ref().map_or_else(|| json!({}), auth::user_info);
    let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": decision.level.name(),
        "auditID": request.id, "stage": stage.name(), "requestURI": request.uri, "verb": request.verb,
        "user": user, "sourceIPs": request.sources,
        "requestReceivedTimestamp": meta::micro_timestamp(draft.at),
        "stageTimestamp": meta::micro_timestamp(now)});
    if let Some(acting) = &draft.acting {
        event["impersonatedUser"] = auth::user_info(acting);
    }
    if !request.agent.is_empty() {
        event["userAgent"] = json!(request.agent);
    }
    if let Some(target) = &request.target {
        let fields = [
            ("resource", Some(target.resource.clone())),
            ("namespace", target.namespace.clone()),
            ("name", target.name.clone()),
            ("apiGroup", Some(target.group.clone())),
            ("apiVersion", Some(target.version.clone())),
            ("subresource", target.subresource.clone()),
        ];
        let known = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
        event["objectRef"] =
            Value::Object(known.filter(|(_, value): &(String, Value)| value != "").collect());
    }
    if answered.code != 0 {
        let mut status = json!({"metadata": {}, "code": answered.code});
        if let Some(told) = answered.object.as_ref().filter(|object| object["kind"] == "Status") {
            for field in ["status", "message", "reason", "details"] {
                if !told[field].is_null() {
                    status[field] = told[field].clone();
                }
            }
        }
        event["responseStatus"] = status;
    }
    if !draft.annotations.is_empty() {
        event["annotations"] = json!(draft.annotations);
    }
    let shown = |object: &Value| match decision.omit_managed_fields {
        true => without_managed_fields(object.clone()),
        false => object.clone(),
    };
    if decision.level >= Level::Request
        && let Some(sent) = &draft.sent
    {
        event["requestObject"] = shown(sent);
    }
    if decision.level == Level::RequestResponse
        && request.target.is_some()
        && let Some(object) = &answered.object
    {
        event["responseObject"] = shown(object);
    }
    event
}

fn without_managed_fields(mut object: Value) -> Value {
    let take = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    take(&mut object);
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(take);
    }
    object
}

/// The body of a recorded answer: its end, however it comes, is the last stage.
struct Recorded {
    body: Body,
    record: Record,
    code: u16,
    captured: Option<Vec<u8>>,
}

impl hyper::body::Body for Recorded {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(piece) = frame.data_ref()
        {
            match &mut self.captured {
                Some(captured) if captured.len() + piece.len() <= CAPTURED_BYTES => {
                    captured.extend_from_slice(piece)
                }
                // What is not whole says nothing.
                other => *other = None,
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        let object = self.captured.take().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        self.record.write(Stage::ResponseComplete, &Answered { code: self.code, object });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_in_order() {
        let mut headers = HeaderMap::new();
        let peer = Some([127, 0, 0, 1].into());
        assert_eq!(sources(&headers, peer), ["127.0.0.1"]);
        headers.insert("x-forwarded-for", "192.0.2.1, nonsense, 127.0.0.1".parse().unwrap());
        assert_eq!(sources(&headers, peer), ["192.0.2.1", "127.0.0.1"]);
        headers.insert("x-real-ip", "192.0.2.9".parse().unwrap());
        assert_eq!(sources(&headers, peer), ["192.0.2.1", "127.0.0.1", "192.0.2.9", "127.0.0.1"]);
    }

    #[test]
    fn events_hold_as_much_as_their_level() {
        let request = Received {
            id: "id".into(),
            uri: "/api/v1/namespaces/default/pods?x=y".into(),
            path: "/api/v1/namespaces/default/pods".into(),
            verb: "create".into(),
            target: Some(Target {
                version: "v1".into(),
                resource: "pods".into(),
                namespace: Some("default".into()),
                ..Target::default()
            }),
            agent: "kubectl".into(),
            sources: vec!["127.0.0.1".into()],
        };
        let at: Timestamp = "2024-01-01T00:00:00Z".parse().unwrap();
        let object = json!({"metadata": {"name": "a", "managedFields": [{}]}});
        let draft = Draft {
            request,
            user: Some(User::component("jane")),
            acting: None,
            decision: None,
            sent: Some(object.clone()),
            annotations: [("a.b/c".to_owned(), "d".to_owned())].into(),
            at,
        };
        let of = |level, omit_managed_fields, answered: &Answered| {
            let decision = Decision { level, omit_stages: vec![], omit_managed_fields };
            event(&draft, &decision, Stage::ResponseComplete, answered, at)
        };
        let created = Answered { code: 201, object: Some(object.clone()) };
        let metadata = of(Level::Metadata, false, &created);
        assert_eq!((metadata.get("requestObject"), metadata.get("responseObject")), (None, None));
        assert_eq!(
            metadata["objectRef"],
            json!({"resource": "pods", "namespace": "default", "apiVersion": "v1"})
        );
        assert_eq!(metadata["responseStatus"], json!({"metadata": {}, "code": 201}));
        assert_eq!(metadata["user"]["username"], "jane");
        assert_eq!(metadata["stageTimestamp"], "2024-01-01T00:00:00.000000Z");
        assert_eq!(of(Level::Request, false, &created)["requestObject"], object);
        let whole = of(Level::RequestResponse, true, &created);
        assert_eq!(whole["responseObject"], json!({"metadata": {"name": "a"}}));
        let status = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"});
        let refused = of(Level::Metadata, false, &Answered { code: 403, object: Some(status) });
        assert_eq!(
            refused["responseStatus"],
            json!({"metadata": {}, "code": 403, "status": "Failure", "reason": "Forbidden", "message": "no"})
        );
        assert_eq!(refused["annotations"], json!({"a.b/c": "d"}));
    }
}
