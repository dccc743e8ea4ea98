//! Connections of clients: accepted, agreed on TLS, ended when nobody uses them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::body::{self, Body};
use super::gateway::{Gateway, Peer};

/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's head, as with ingress-nginx.
const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection may be without a request, likewise.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a client may take nothing of an answer, likewise.
const TAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a connection that is to end may take for that.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How large a request's head may be.
const HEAD_BYTES: usize = 64 << 10;
/// How many streams of HTTP/2 a connection may have at a time.
const STREAMS: u32 = 64;
/// How much of an answer one of them may hold back until its client takes it.
const STREAM_BYTES: usize = 32 << 10;
/// How many connections there may be at a time; further ones wait. The daemon has other work for its descriptors.
const CONNECTIONS: usize = 8192;
/// How long to wait when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What connections are served with; cheap to clone.
#[derive(Clone)]
pub struct Server {
    gateway: Arc<Gateway>,
    tls: Arc<ServerConfig>,
    places: Arc<Semaphore>,
}

impl Server {
    /// Serves by this gateway; `tls` is how clients of HTTPS are spoken to.
    pub fn new(gateway: Arc<Gateway>, tls: Arc<ServerConfig>) -> Server {
        Server { gateway, tls, places: Arc::new(Semaphore::new(CONNECTIONS)) }
    }

    /// Serves the listener's connections until dropped; when `ending`, they end as soon as they have no request.
    pub async fn accept(self, listener: TcpListener, secure: bool, ending: CancellationToken) {
        loop {
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, address)) => {
                    let peer = Peer { address, tls: secure, place: Arc::new(place) };
                    tokio::spawn(self.clone().greet(stream, peer, ending.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection for the ingress");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn greet(self, stream: TcpStream, peer: Peer, ending: CancellationToken) {
        let address = peer.address;
        if let Err(error) = stream.set_nodelay(true) {
            return tracing::debug!(%address, %error, "a client is gone");
        }
        if !peer.tls {
            return self.serve(stream, peer, ending).await;
        }
        let acceptor = TlsAcceptor::from(self.tls.clone());
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.serve(stream, peer, ending).await,
            Ok(Err(error)) => tracing::debug!(%address, %error, "a client did not agree on TLS"),
            Err(_) => tracing::debug!(%address, "a client did not agree on TLS in time"),
        }
    }

    /// Serves one connection to its end.
    async fn serve<S>(self, stream: S, peer: Peer, ending: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let use_ = Arc::new(Use::default());
        let (gateway, address) = (self.gateway, peer.address);
        let service = {
            let use_ = use_.clone();
            service_fn(move |request: Request<Incoming>| {
                let (gateway, peer, held) = (gateway.clone(), peer.clone(), use_.begin());
                async move {
                    let response = gateway.serve(peer, request).await;
                    Ok::<_, Infallible>(response.map(|body| Watched { body, held }.boxed()))
                }
            })
        };
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HEAD_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(STREAM_BYTES)
            .max_header_list_size(HEAD_BYTES as u32);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        let mut connection = std::pin::pin!(connection);
        let until_unused = async {
            tokio::select! {
                () = use_.over(IDLE_TIMEOUT, TAKE_TIMEOUT) => true,
                () = ending.cancelled() => false,
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            is_over = until_unused => {
                connection.as_mut().graceful_shutdown();
                match is_over {
                    // A client that neither asks nor takes its answer nor goes is left.
                    true => tokio::time::timeout(END_TIMEOUT, connection.as_mut()).await.ok(),
                    false => Some(connection.as_mut().await),
                }
            }
        };
        if let Some(Err(error)) = ended {
            tracing::debug!(%address, %error, "a client's connection ended");
        }
    }
}

/// How much a connection is in use.
struct Use(Mutex<State>);

struct State {
    /// Of the requests that are under way, those whose client is to take what was answered, and since when.
    requests: HashMap<u64, Option<Instant>>,
    next: u64,
    /// Since when there has been none.
    unused: Instant,
}

impl Default for Use {
    fn default() -> Use {
        Use(Mutex::new(State { requests: HashMap::new(), next: 0, unused: Instant::now() }))
    }
}

/// A request that is under way.
struct InUse {
    connection: Arc<Use>,
    id: u64,
}

impl Use {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(self: &Arc<Use>) -> InUse {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.requests.insert(id, None);
        InUse { connection: self.clone(), id }
    }

    /// Waits until there has been no request for as long as `idle`, or a client has taken nothing for as long as `taking`.
    async fn over(&self, idle: Duration, taking: Duration) {
        loop {
            let until = {
                let state = self.state();
                let oldest = state.requests.values().flatten().min();
                match (state.requests.is_empty(), oldest) {
                    (true, _) => state.unused + idle,
                    (false, Some(since)) => *since + taking,
                    (false, None) => Instant::now() + taking,
                }
            };
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

impl InUse {
    /// Notes whether it is the client's turn to take something.
    fn note(&self, client_takes: bool) {
        let since = client_takes.then(Instant::now);
        self.connection.state().requests.insert(self.id, since);
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        state.requests.remove(&self.id);
        state.unused = Instant::now();
    }
}

/// The body of an answer: a part of it is asked for when the client has taken those before.
struct Watched {
    body: Body,
    held: InUse,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = body::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, body::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.held.note(frame.is_ready());
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_over_when_nobody_asks_or_nobody_takes() {
        let (idle, taking) = (Duration::from_secs(75), Duration::from_secs(60));
        let (use_, began) = (Arc::new(Use::default()), Instant::now());
        let held = use_.begin();
        let request = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(held);
        };
        tokio::join!(request, use_.over(idle, taking));
        assert_eq!(began.elapsed().as_secs(), 175);
        let (slow, fast, began) = (use_.begin(), use_.begin(), Instant::now());
        slow.note(true);
        let takes = async {
            for _ in 0..10 {
                fast.note(true);
                tokio::time::sleep(Duration::from_secs(20)).await;
                fast.note(false);
            }
        };
        tokio::select! {
            () = takes => panic!("a client takes nothing"),
            () = use_.over(idle, taking) => {}
        }
        assert_eq!(began.elapsed().as_secs(), 60);
    }
}
