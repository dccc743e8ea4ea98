//! A request on its way: what a backend is sent, and to which endpoints it goes until one answers.

use http::header;
use http::request::Parts;
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Body as _;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use super::annotations::{Protocol, Settings};
use super::body::{Body, Phase, Progress, Upload, empty};
use super::external::Granted;
use super::gateway::Peer;
use super::headers::{self, Client};
use super::path;
use super::route::{Asked, Location, Matcher};
use super::upstream::{self, Key, Pool, Reply};
use crate::client::random_u64;

/// A request that goes to a backend.
pub(super) struct Passage<'a> {
    pub asked: Asked<'a>,
    pub location: &'a Location,
    pub parts: &'a Parts,
    pub peer: &'a Peer,
    pub upgrade: Option<OnUpgrade>,
    /// What another server that was asked says to the backend.
    pub granted: Granted,
}

impl Passage<'_> {
    /// Path and query for the backend.
    fn uri(&self) -> String {
        let settings = &self.location.settings;
        match (&settings.rewrite_target, &self.location.matcher) {
            (Some(target), Matcher::Pattern(pattern)) if *target != self.location.path => {
                path::rewritten(pattern, target, self.asked.path, self.parts.uri.query())
            }
            _ => self.asked.uri.to_owned(),
        }
    }

    /// The head of the request for the backend.
    pub fn head(&self, port: u16) -> Result<Request<()>, http::Error> {
        let settings = &self.location.settings;
        // In a path that is an expression, the prefix may name what was found.
        let prefix = settings.forwarded_prefix.as_ref().map(|prefix| match &self.location.matcher {
            Matcher::Pattern(pattern) => path::captured(pattern, prefix, self.asked.path),
            _ => prefix.clone(),
        });
        let client = Client { prefix: prefix.as_deref(), ..client_of(&self.asked, self.location, port) };
        let host = settings.upstream_vhost.as_deref().unwrap_or(self.asked.authority);
        let mut headers = headers::to_backend(&self.parts.headers, host, &client);
        if let Some(external) = &settings.external {
            // What the client says in these itself is not what the other server says.
            external.headers.iter().for_each(|name| drop(headers.remove(name)));
            headers.extend(self.granted.headers.clone());
        }
        let mut uri = self.uri();
        let scheme = match settings.protocol {
            Protocol::Grpc => Some("http"),
            Protocol::Grpcs => Some("https"),
            Protocol::Http | Protocol::Https => None,
        };
        if let Some(scheme) = scheme {
            // HTTP/2 names the host beside the path.
            headers.remove(header::HOST);
            uri = format!("{scheme}://{host}{uri}");
        }
        let mut head =
            Request::builder().method(self.parts.method.clone()).uri(uri.parse::<Uri>()?).body(())?;
        *head.headers_mut() = headers;
        Ok(head)
    }
}

/// What a server learns of the client; `port` is that at which it came.
pub(super) fn client_of<'a>(asked: &Asked<'a>, location: &Location, port: u16) -> Client<'a> {
    Client {
        authority: asked.authority,
        address: asked.client,
        tls: asked.tls,
        port,
        id: format!("{:016x}{:016x}", asked.dice, random_u64()),
        prefix: None,
        authenticated: location.guard.is_some(),
    }
}

/// A request on its way to one of several endpoints.
pub(super) struct Exchange<'a> {
    pub pool: &'a Pool,
    pub passage: &'a Passage<'a>,
    pub settings: &'a Settings,
    pub progress: &'a Progress,
}

/// What came of one endpoint.
#[allow(clippy::large_enum_variant)] // It is taken apart where it was made; boxing the answer would only cost an allocation.
enum Tried {
    Answered(Box<Response<Reply>>),
    /// It could not be reached, or broke off.
    Broken,
    /// It took too long.
    Late,
    /// The client is to be told this, whatever others would say.
    Over(StatusCode),
}

impl Exchange<'_> {
    /// Tries one endpoint after the other, as the ingress wants it; the error is what the client gets instead.
    pub async fn run(
        &self,
        keys: impl Iterator<Item = Key>,
        upload: Upload,
        port: u16,
    ) -> Result<Response<Reply>, StatusCode> {
        let head = self.passage.head(port).map_err(|_| StatusCode::BAD_REQUEST)?;
        let (next, began) = (&self.settings.next, Instant::now());
        let may_repeat = self.passage.parts.method.is_idempotent() || next.non_idempotent;
        let repeatable = upload.is_end_stream() && may_repeat;
        let mut body = Some(http_body_util::BodyExt::boxed(upload));
        let mut keys = keys.peekable();
        while let Some(key) = keys.next() {
            let tried = self.attempt(&key, &head, &mut body, repeatable).await;
            let in_time = self.settings.next_timeout.is_none_or(|limit| began.elapsed() < limit);
            let may_go_on = in_time && keys.peek().is_some() && (body.is_some() || repeatable);
            let (goes_on, failure) = match tried {
                Tried::Over(status) => return Err(status),
                Tried::Answered(response) => match repeatable && next.statuses.contains(&response.status()) {
                    true if may_go_on => continue,
                    _ => return Ok(*response),
                },
                Tried::Broken => (next.error, StatusCode::BAD_GATEWAY),
                Tried::Late => (next.timeout, StatusCode::GATEWAY_TIMEOUT),
            };
            if !goes_on || !may_go_on {
                return Err(failure);
            }
        }
        Err(StatusCode::BAD_GATEWAY)
    }

    /// Sends the request to an endpoint. Its `body` stays, or comes back, when nothing of it was sent.
    async fn attempt(
        &self,
        key: &Key,
        head: &Request<()>,
        body: &mut Option<Body>,
        repeatable: bool,
    ) -> Tried {
        let mut fresh = false;
        // A connection that was kept may be closed just then: that says nothing about the endpoint.
        loop {
            let opened = self.pool.connect(key, fresh, self.settings.connect_timeout).await;
            let connection = match opened {
                Ok(connection) => connection,
                Err(error) => {
                    tracing::debug!(ingress = self.passage.location.ingress, %error);
                    return if matches!(error, upstream::Error::Late(_)) {
                        Tried::Late
                    } else {
                        Tried::Broken
                    };
                }
            };
            let Some(sent) = body.take().or_else(|| repeatable.then(empty)) else { return Tried::Broken };
            let reused = connection.reused;
            self.progress.restart();
            let answered = tokio::select! {
                answered = connection.send(with_body(head, sent)) => answered,
                phase = self.progress.overdue(self.settings.send_timeout, self.settings.read_timeout) => {
                    return match phase {
                        Phase::Client => Tried::Over(StatusCode::REQUEST_TIMEOUT),
                        Phase::Backend | Phase::Answer => Tried::Late,
                    };
                }
            };
            let mut error = match answered {
                Ok(response) => return Tried::Answered(Box::new(response)),
                Err(error) => error,
            };
            if self.progress.too_large() {
                return Tried::Over(StatusCode::PAYLOAD_TOO_LARGE);
            }
            *body = error.take_message().map(Request::into_body);
            tracing::debug!(ingress = self.passage.location.ingress, address = %key.address,
                error = %error.error(), "a backend did not answer");
            if !reused || fresh || (body.is_none() && !repeatable) {
                return Tried::Broken;
            }
            fresh = true;
        }
    }
}

pub(super) fn with_body(head: &Request<()>, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method().clone();
    *request.uri_mut() = head.uri().clone();
    *request.headers_mut() = head.headers().clone();
    request
}
