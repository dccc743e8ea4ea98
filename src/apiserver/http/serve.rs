//! Connections: TLS, who is at the other end, and a drain at the end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::Server;
use crate::apiserver::auth::{self, Peer};
use crate::apiserver::pki::{ClientAuthority, Settings};
use crate::apiserver::proxy::Origin;
use crate::clock;

/// How long a client may take to agree on TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long running requests get when the server stops; watches end at once.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait when the system has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Server {
    /// Serves connections of `listeners` until `shutdown`, then lets running requests finish.
    pub async fn serve(
        self: Arc<Self>,
        listeners: Vec<TcpListener>,
        tls: Settings,
        shutdown: impl Future<Output = ()>,
    ) {
        let acceptor = TlsAcceptor::from(tls.server);
        let graceful = Arc::new(GracefulShutdown::new());
        let mut shutdown = std::pin::pin!(shutdown);
        let _keeper = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_api_services()));
        let _sorter = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_fair()));
        let api = self.api.clone();
        let definitions = async move { api.registry().follow_definitions().await };
        let _follower = AbortOnDropHandle::new(tokio::spawn(definitions));
        let api = self.api.clone();
        let addresses = async move { api.registry().keep_addresses().await };
        let _bookkeeper = AbortOnDropHandle::new(tokio::spawn(addresses));
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listeners) => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let (server, acceptor, watcher) = (self.clone(), acceptor.clone(), graceful.watcher());
                    let clients = tls.clients.clone();
                    tokio::spawn(async move {
                        match handshake(&acceptor, &clients, stream).await {
                            Ok((stream, user)) => server.connection(stream, peer, user, watcher).await,
                            Err(error) => tracing::debug!(%peer, %error, "tls handshake failed"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listeners);
        self.stopping.cancel();
        if let Some(graceful) = Arc::into_inner(graceful)
            && tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err()
        {
            tracing::warn!("some requests did not finish before the server stopped");
        }
        if let Some(audit) = &self.audit {
            audit.flush().await;
        }
    }

    /// Serves one connection, over any stream, from this address and as the user of its client certificate.
    pub async fn connection<S>(
        self: Arc<Self>,
        stream: S,
        address: SocketAddr,
        peer: Peer,
        watcher: hyper_util::server::graceful::Watcher,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = Arc::new(peer);
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(Origin(address));
            let (server, peer) = (self.clone(), peer.clone());
            // Boxed, as it is moved several times before it begins.
            Box::pin(async move { Ok::<_, std::convert::Infallible>(server.handle(&peer, request).await) })
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(30)));
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

/// The next connection to any of the listeners.
async fn accept(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    let any = |context: &mut Context<'_>| {
        let mut all = listeners.iter().map(|listener| listener.poll_accept(context));
        all.find(Poll::is_ready).unwrap_or(Poll::Pending)
    };
    std::future::poll_fn(any).await
}

async fn handshake(
    acceptor: &TlsAcceptor,
    clients: &ClientAuthority,
    stream: TcpStream,
) -> std::io::Result<(tokio_rustls::server::TlsStream<TcpStream>, Peer)> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream))
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let vouched = clients.vouches_for(chain, SystemTime::from(clock::now()));
    let peer = match chain.first() {
        None => Peer::Unnamed,
        Some(leaf) => {
            let certified = vouched.then(|| auth::user_of_certificate(leaf)).flatten();
            certified.map_or(Peer::Unknown, Peer::Certified)
        }
    };
    Ok((stream, peer))
}
