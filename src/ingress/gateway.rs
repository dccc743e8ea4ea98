//! One request: where it goes, what it is answered, and how it gets there and back.
//!
//! Nothing is put aside: bodies flow both ways as they are taken. A request goes to another endpoint when nothing of it was
//! sent, or when it has no body, may be repeated, and the backend broke off before it answered anything.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::Names;
use super::affinity::{self, Session};
use super::body::{Body, Download, Held, Upload, empty, full, linger};
use super::exchange::{Exchange, Passage};
use super::external::{self, Granted};
use super::gate::{self, Answer};
use super::headers;
use super::limits::{Limiter, Seat};
use super::names::Known;
use super::path;
use super::route::{self, Asked, Guard, Matcher, Table, Target};
use super::tunnel::tunnel;
use super::upstream::{Key, Pool, Reply};
use crate::client::random_u64;

/// How many requests may be on their way to backends at a time: each has a connection and buffers of its own.
pub const REQUESTS: usize = 4096;
/// How many passwords are checked at a time.
const CHECKS: usize = 2;

/// The other end of a connection.
#[derive(Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its place among all connections.
    pub place: Arc<OwnedSemaphorePermit>,
}

/// The ports at which clients come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// For HTTP.
    pub http: u16,
    /// For HTTPS.
    pub https: u16,
}

/// What serves requests.
pub struct Gateway {
    table: RwLock<Arc<Table>>,
    pub(super) pool: Pool,
    pub(super) ports: Ports,
    checks: Semaphore,
    pub(super) names: Known,
    limiter: Limiter,
    /// A permit for each request that may be on its way to a backend.
    pub(super) requests: Arc<Semaphore>,
}

impl Gateway {
    /// One that knows no host yet; `tls` is how backends are spoken to, and `names` knows the cluster's.
    pub fn new(ports: Ports, tls: &ClientConfig, names: Arc<dyn Names>) -> Gateway {
        Gateway {
            table: RwLock::default(),
            pool: Pool::new(tls),
            ports,
            checks: Semaphore::new(CHECKS),
            names: Known::new(names),
            limiter: Limiter::default(),
            requests: Arc::new(Semaphore::new(REQUESTS)),
        }
    }

    /// From now on requests go where this table says. Those under way end as they began.
    pub fn set_table(&self, table: Table) {
        let endpoints = table.endpoints().collect();
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.pool.keep_only(endpoints);
    }

    /// Answers one request.
    pub async fn serve(&self, peer: Peer, mut request: Request<Incoming>) -> Response<Body> {
        let upgrade = headers::upgrade(request.headers()).is_some().then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let refuse = |code, body| {
            linger(body);
            page(code)
        };
        let Some(authority) = authority(&parts) else { return refuse(StatusCode::BAD_REQUEST, body) };
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return refuse(StatusCode::METHOD_NOT_ALLOWED, body);
        }
        let Some(path) = path::normalized(parts.uri.path()) else {
            return refuse(StatusCode::BAD_REQUEST, body);
        };
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        let name = route::host_name(&authority);
        let host = table.host(&name);
        let asked = Asked {
            host: &name,
            authority: &authority,
            path: &path,
            uri: parts.uri.path_and_query().map_or("/", |uri| uri.as_str()),
            method: &parts.method,
            headers: &parts.headers,
            tls: peer.tls,
            client: peer.address.ip().to_canonical(),
            dice: random_u64(),
        };
        let at_host = gate::at_host(host, &asked);
        let Some(location) = host.find(&path).filter(|_| at_host.is_none()) else {
            linger(body);
            return at_host.map_or_else(|| page(StatusCode::NOT_FOUND), answer);
        };
        let length = body.size_hint().exact();
        let own = gate::at_location(location, host, &asked, self.ports.https, length);
        let seat = match own {
            Some(own) => Err(own),
            None => {
                let (limits, now) = (&location.settings.limits, Instant::now());
                let seat = self.limiter.admit(&location.ingress, limits, asked.client, now);
                seat.map_err(|_| Answer::Status(StatusCode::SERVICE_UNAVAILABLE))
            }
        };
        let admitted = match seat {
            Ok(seat) => match self.unauthorized(location.guard.as_ref(), &parts.headers).await {
                None => Ok(seat),
                Some(own) => Err(own),
            },
            Err(own) => Err(own),
        };
        let mut response = match admitted {
            Err(own) => {
                linger(body);
                answer(own)
            }
            Ok(seat) => {
                let granted = Granted::default();
                let passage = Passage { asked, location, parts: &parts, peer: &peer, upgrade, granted };
                self.forward(passage, &table, body, seat).await
            }
        };
        if let Some(backend) = &location.errors
            && location.settings.custom_errors.contains(&response.status().as_u16())
            && let Some(instead) =
                Box::pin(self.explained(response.status(), backend, location, &parts)).await
        {
            response = instead;
        }
        if let Some(cors) = &location.settings.cors {
            gate::allow_origin(cors, &parts.headers, response.headers_mut());
        }
        response
    }

    /// Asks whom else the ingress wants to be asked, and then a backend.
    async fn forward(
        &self,
        mut passage: Passage<'_>,
        table: &Table,
        body: Incoming,
        seat: Option<Seat>,
    ) -> Response<Body> {
        let Ok(turn) = self.requests.clone().try_acquire_owned() else {
            linger(body);
            return page(StatusCode::SERVICE_UNAVAILABLE);
        };
        let external = passage.location.settings.external.as_ref();
        if let Some(external) = external {
            let (asked, parts) = (&passage.asked, passage.parts);
            // Aside, as all that few requests need: it would be moved with every one.
            match Box::pin(self.granted(external, asked, passage.location, parts, table)).await {
                Ok(granted) => passage.granted = granted,
                Err(refused) => {
                    linger(body);
                    return refused;
                }
            }
        }
        let cookies = std::mem::take(&mut passage.granted.cookies);
        let mut response = self.pass(passage, body, Held::new(turn, seat)).await.unwrap_or_else(page);
        if external.is_some_and(|external| external::gives_cookies(external, response.status())) {
            for cookie in cookies {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
        }
        response
    }

    /// The answer to somebody who is not let in.
    async fn unauthorized(&self, guard: Option<&Guard>, headers: &HeaderMap) -> Option<Answer> {
        let guard = guard?;
        let refused = || Some(Answer::Unauthorized(guard.realm.clone()));
        let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return refused();
        };
        if guard.users.knows(given) {
            return None;
        }
        let _turn = self.checks.acquire().await.ok();
        let (users, given) = (guard.users.clone(), given.to_owned());
        match tokio::task::spawn_blocking(move || users.check(&given)).await {
            Ok(true) => None,
            _ => refused(),
        }
    }

    /// Carries the request to a backend and its answer back; the error is the status that the client gets instead.
    async fn pass(
        &self,
        mut passage: Passage<'_>,
        body: Incoming,
        held: Held,
    ) -> Result<Response<Body>, StatusCode> {
        let location = passage.location;
        let settings = &*location.settings;
        let session = settings.affinity.as_ref().and_then(|a| affinity::session(a, passage.asked.headers));
        let (backend, canary) = location.choose(&passage.asked, session.as_ref());
        let (endpoints, name) = match &backend.target {
            Target::Endpoints(endpoints) => (endpoints.clone(), None),
            Target::Name(host, port) => {
                let found = self.names.addresses(host, *port, settings.connect_timeout);
                (Box::pin(found).await, Some(host.clone()))
            }
        };
        if endpoints.is_empty() {
            linger(body);
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
        let hash = settings.hash_by.as_ref().map(|text| gate::filled(&passage.asked, text));
        let (hash, dice) = (hash.as_deref(), passage.asked.dice);
        let (order, session) =
            route::candidates((backend, canary), &endpoints, location, session, hash, dice);
        let (upload, progress) = Upload::new(body, settings.body_limit);
        let keys = order.into_iter().take(settings.tries).map(|address| Key {
            address,
            protocol: settings.protocol,
            name: name.clone(),
        });
        let exchange = Exchange { pool: &self.pool, passage: &passage, settings, progress: &progress };
        let port = if passage.peer.tls { self.ports.https } else { self.ports.http };
        let response = exchange.run(keys, upload, port).await?;
        let mut response = match passage.upgrade.take() {
            Some(client) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                switched(response, client, (passage.peer.place.clone(), held), settings.read_timeout)
            }
            _ if response.status() == StatusCode::SWITCHING_PROTOCOLS => return Err(StatusCode::BAD_GATEWAY),
            _ => {
                let mut response =
                    response.map(|body| Download::new(body, settings.read_timeout, held).boxed());
                headers::to_client(response.headers_mut(), false);
                if let Some((from, to)) = &settings.moved {
                    headers::lead_elsewhere(response.headers_mut(), from, to);
                }
                response
            }
        };
        if let Some(cookie) = session.and_then(|session| new_cookie(&passage, &session)) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
        Ok(response)
    }
}

fn new_cookie(passage: &Passage<'_>, session: &Session) -> Option<HeaderValue> {
    let affinity = passage.location.settings.affinity.as_ref()?;
    // An expression is no path.
    let path = match passage.location.matcher {
        Matcher::Pattern(_) => "/",
        _ => &passage.location.path,
    };
    affinity::set_cookie(affinity, session, path, passage.peer.tls, SystemTime::now())
}

/// Joins client and backend, which both have changed to another protocol, and answers so. The places of connection and
/// request are `held` until both end.
fn switched(
    mut response: Response<Reply>,
    client: OnUpgrade,
    held: (Arc<OwnedSemaphorePermit>, Held),
    patience: Duration,
) -> Response<Body> {
    let backend = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        if let Err(error) = tunnel(client, backend, patience).await {
            tracing::debug!(%error, "a connection that changed its protocol broke off");
        }
        drop(held);
    });
    let (head, body) = response.into_parts();
    body.detach();
    let mut response = Response::from_parts(head, empty());
    headers::to_client(response.headers_mut(), true);
    response
}

/// Whom the client asked: in its first line, or in its one header. Before HTTP/1.1 it need not say.
fn authority(parts: &Parts) -> Option<String> {
    if let Some(authority) = parts.uri.authority() {
        // `user@` is none of the host.
        return Some(authority.as_str().rsplit('@').next().unwrap_or_default().to_owned());
    }
    let mut hosts = parts.headers.get_all(header::HOST).into_iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            let host = host.to_str().ok()?;
            let good = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]*".contains(&b);
            host.bytes().all(good).then(|| host.to_owned())
        }
        (None, _) if parts.version < Version::HTTP_11 => Some(String::new()),
        _ => None,
    }
}

/// An answer that says nothing but its status.
pub(super) fn page(code: StatusCode) -> Response<Body> {
    let title = format!("{} {}", code.as_u16(), code.canonical_reason().unwrap_or_default());
    let text = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n\
         <hr><center>minik</center>\r\n</body>\r\n</html>\r\n"
    );
    let mut response = Response::new(full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    response
}

pub(super) fn answer(answer: Answer) -> Response<Body> {
    match answer {
        Answer::Status(code) => page(code),
        Answer::Redirect(code, to) => {
            let mut response = page(code);
            if let Ok(to) = HeaderValue::from_str(&to) {
                response.headers_mut().insert(header::LOCATION, to);
            }
            response
        }
        Answer::Preflight => {
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Answer::Unauthorized(realm) => {
            let mut response = page(StatusCode::UNAUTHORIZED);
            if let Ok(value) = HeaderValue::from_str(&format!("Basic realm=\"{realm}\"")) {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
            }
            response
        }
    }
}
