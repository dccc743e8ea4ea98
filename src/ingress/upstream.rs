//! Connections to backends, kept for the next request.
//!
//! A pool of our own over hyper's connections: it must know to which endpoint each connection leads, so that those to an
//! endpoint that is gone are closed, and give a request back that was not sent, so that another endpoint gets it.

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::annotations::Protocol;
use super::body::Body;

/// How long a connection that nobody uses is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How often idle connections are looked at, while there are any.
const LOOK: Duration = Duration::from_secs(15);
/// How many idle connections an endpoint may have.
const IDLE_MAX: usize = 64;
/// How often a connection that carries streams is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Where a connection leads, and what is spoken on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// To whom.
    pub address: SocketAddr,
    /// How.
    pub protocol: Protocol,
    /// The name that was looked up for it, unless it is an endpoint of the cluster.
    pub name: Option<String>,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It took too long.
    #[error("connecting to {0} took too long")]
    Late(SocketAddr),
    /// The kernel refused, or the other side.
    #[error("connecting to {address}: {source}")]
    Io {
        /// To whom.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The other side does not speak as it should.
    #[error("connecting to {address}: {source}")]
    Http {
        /// To whom.
        address: SocketAddr,
        /// Why.
        source: hyper::Error,
    },
}

/// A connection that carries one request at a time. It has no task of its own and moves when it is polled, by whoever waits for
/// an answer or takes it: a request so needs no other thread, which would have to be woken for each part of it.
struct Single {
    sender: http1::SendRequest<Body>,
    /// What moves it; `None` once it has ended.
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Single {
    /// Moves what can be moved.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Moves what can be moved and looks at what it brought, which comes in no other way.
    fn brings<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.drive(cx);
        match self.driver {
            // Who moves it looks again: to be woken for that as well would be once too often.
            Some(_) => look(&mut Context::from_waker(Waker::noop())),
            None => look(cx),
        }
    }

    /// Whether it may carry a request: it lives, and has brought the last answer to its end.
    fn is_free(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.driver.is_some() && self.sender.is_ready() && !self.sender.is_closed()
    }
}

/// A connection that carries one request at a time, or many.
enum Sender {
    One(Single),
    Many(http2::SendRequest<Body>),
}

/// A connection that is ready for a request.
pub struct Connection {
    pool: Pool,
    key: Key,
    sender: Sender,
    /// Whether it carried another one before.
    pub reused: bool,
}

struct Idle<S> {
    sender: S,
    since: Instant,
}

#[derive(Default)]
struct Kept {
    one: HashMap<Key, Vec<Idle<Single>>>,
    many: HashMap<Key, Idle<http2::SendRequest<Body>>>,
    /// The endpoints to which connections are kept.
    endpoints: HashSet<SocketAddr>,
    /// Whether somebody closes what is idle for too long.
    is_looked_at: bool,
}

impl Kept {
    fn may_keep(&self, key: &Key) -> bool {
        key.name.is_some() || self.endpoints.contains(&key.address)
    }
}

struct Shared {
    kept: Mutex<Kept>,
    /// For HTTP/1.1 and HTTP/2 in TLS.
    tls: [Arc<ClientConfig>; 2],
}

/// The connections; cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

impl Pool {
    /// An empty pool that speaks TLS with these settings.
    pub fn new(tls: &ClientConfig) -> Pool {
        let speaking = |protocol: &[u8]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(tls)
        };
        Pool(Arc::new(Shared { kept: Mutex::default(), tls: [speaking(b"http/1.1"), speaking(b"h2")] }))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps connections to these endpoints alone from now on. Requests that are under way end where they are.
    pub fn keep_only(&self, endpoints: HashSet<SocketAddr>) {
        let mut kept = self.kept();
        kept.endpoints = endpoints;
        let Kept { one, many, endpoints, .. } = &mut *kept;
        let stays = |key: &Key| key.name.is_some() || endpoints.contains(&key.address);
        one.retain(|key, _| stays(key));
        many.retain(|key, _| stays(key));
    }

    /// A connection: one that was kept unless it is to be `fresh`, or a new one.
    pub async fn connect(&self, key: &Key, fresh: bool, patience: Duration) -> Result<Connection, Error> {
        let made = |sender, reused| Connection { pool: self.clone(), key: key.clone(), sender, reused };
        if let Some(sender) = self.take(key).filter(|_| !fresh) {
            return Ok(made(sender, true));
        }
        // Aside: what it takes to open one would be moved with every request.
        let opened = tokio::time::timeout(patience, Box::pin(self.open(key))).await;
        let sender = opened.map_err(|_| Error::Late(key.address))??;
        if let Sender::Many(sender) = &sender {
            let mut kept = self.kept();
            if kept.may_keep(key) {
                kept.many.insert(key.clone(), Idle { sender: sender.clone(), since: Instant::now() });
                self.look_after(&mut kept);
            }
        }
        Ok(made(sender, false))
    }

    fn take(&self, key: &Key) -> Option<Sender> {
        let mut kept = self.kept();
        if let Some(idle) = kept.many.get_mut(key) {
            if !idle.sender.is_closed() {
                idle.since = Instant::now();
                return Some(Sender::Many(idle.sender.clone()));
            }
            kept.many.remove(key);
        }
        let idle = kept.one.get_mut(key)?;
        while let Some(mut last) = idle.pop() {
            if last.sender.is_free() {
                return Some(Sender::One(last.sender));
            }
        }
        kept.one.remove(key);
        None
    }

    fn put(&self, key: Key, sender: Single) {
        let mut kept = self.kept();
        if !kept.may_keep(&key) {
            return;
        }
        let idle = kept.one.entry(key).or_default();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { sender, since: Instant::now() });
        }
        self.look_after(&mut kept);
    }

    /// Closes what is idle for too long, for as long as there is something idle.
    fn look_after(&self, kept: &mut Kept) {
        if std::mem::replace(&mut kept.is_looked_at, true) {
            return;
        }
        let pool = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(pool) = pool.upgrade().map(Pool) else { return };
                let mut kept = pool.kept();
                kept.one.retain(|_, idle| {
                    idle.retain_mut(|one| one.since.elapsed() < IDLE && one.sender.is_free());
                    !idle.is_empty()
                });
                kept.many.retain(|_, idle| idle.since.elapsed() < IDLE && !idle.sender.is_closed());
                if kept.one.is_empty() && kept.many.is_empty() {
                    kept.is_looked_at = false;
                    return;
                }
            }
        });
    }

    async fn open(&self, key: &Key) -> Result<Sender, Error> {
        let address = key.address;
        let io = |source| Error::Io { address, source };
        let stream = TcpStream::connect(address).await.map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        let many = matches!(key.protocol, Protocol::Grpc | Protocol::Grpcs);
        if matches!(key.protocol, Protocol::Http | Protocol::Grpc) {
            return greet(address, stream, many).await;
        }
        let named = key.name.as_deref().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let name = named.unwrap_or_else(|| ServerName::from(address.ip()));
        let connector = TlsConnector::from(self.0.tls[usize::from(many)].clone());
        greet(address, connector.connect(name, stream).await.map_err(io)?, many).await
    }
}

async fn greet<S>(address: SocketAddr, stream: S, many: bool) -> Result<Sender, Error>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
{
    let http = |source| Error::Http { address, source };
    let log = move |ended: hyper::Result<()>| {
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "a connection to a backend ended");
        }
    };
    if many {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(http)?;
        tokio::spawn(async move { log(connection.await) });
        return Ok(Sender::Many(sender));
    }
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let driver = Box::pin(async move { log(connection.with_upgrades().await) });
    Ok(Sender::One(Single { sender, driver: Some(driver) }))
}

impl Connection {
    /// Sends the request; the error gives it back when nothing of it was sent.
    pub async fn send(self, request: Request<Body>) -> Result<Response<Reply>, TrySendError<Request<Body>>> {
        let Connection { pool, key, sender, .. } = self;
        match sender {
            Sender::Many(mut sender) => {
                let response = sender.try_send_request(request).await?;
                Ok(response.map(|body| Reply { body, ended: false, line: None }))
            }
            Sender::One(mut single) => {
                let mut answered = std::pin::pin!(single.sender.try_send_request(request));
                let response = poll_fn(|cx| single.brings(cx, |cx| answered.as_mut().poll(cx))).await?;
                let line = Some(Line { pool, key, single });
                Ok(response.map(|body| Reply { body, ended: false, line }))
            }
        }
    }
}

/// The body of a backend's answer.
pub struct Reply {
    body: Incoming,
    ended: bool,
    /// What brings it, unless that has a task of its own.
    line: Option<Line>,
}

/// A connection that brings an answer, and where it is kept for the next one.
struct Line {
    pool: Pool,
    key: Key,
    single: Single,
}

impl Reply {
    /// Lets the connection move by itself, as one must that has changed its protocol.
    pub fn detach(mut self) {
        if let Some(Line { single: Single { sender, driver: Some(driver) }, .. }) = self.line.take() {
            tokio::spawn(async move {
                driver.await;
                drop(sender);
            });
        }
    }
}

impl hyper::body::Body for Reply {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Reply { body, ended, line } = &mut *self;
        let mut look = |cx: &mut Context<'_>| Pin::new(&mut *body).poll_frame(cx);
        let frame = match line {
            None => look(cx),
            Some(line) => match look(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => line.single.brings(cx, look),
                ready => ready,
            },
        };
        *ended = matches!(frame, Poll::Ready(None));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        // The rest of an answer that was not taken to its end would be in the way of the next one.
        if (self.ended || self.body.is_end_stream()) && line.single.is_free() {
            line.pool.put(line.key, line.single);
        }
    }
}
