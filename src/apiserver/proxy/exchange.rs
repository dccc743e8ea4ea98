//! One request carried to a backend and its answer back, over a connection of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::go::dial_cause;
use crate::stdio::Duplex;

/// How long a connection may take to come about.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of an upgraded connection is on its way in each direction.
const TUNNEL_BYTES: usize = 32 << 10;

/// Who makes connections to pods, services and nodes.
pub trait Dial: Send + Sync + 'static {
    /// A TCP connection to this address.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Duplex>>>;
}

/// Connections from the host's own network, which reaches pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostNetwork;

impl Dial for HostNetwork {
    fn dial(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Duplex>>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}

/// Where a request is carried.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Its address.
    pub address: SocketAddr,
    /// How its TLS is to be, unless it speaks none.
    pub tls: Option<Secure>,
}

/// The client's side of TLS, and the name that the backend's certificate must have.
#[derive(Debug, Clone)]
pub struct Secure {
    /// Settings.
    pub config: Arc<ClientConfig>,
    /// The name.
    pub name: ServerName<'static>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection came about.
    #[error("dial tcp {address}: {}", dial_cause(source))]
    Dial {
        /// To where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Its certificate is not what it must be, or it speaks no TLS.
    #[error("tls: {0}")]
    Tls(io::Error),
    /// The connection broke off, or what came was no HTTP.
    #[error("{0}")]
    Http(#[from] hyper::Error),
}

async fn connect(dial: &dyn Dial, backend: &Backend) -> Result<Box<dyn Duplex>, Error> {
    let address = backend.address;
    let connection = async {
        let stream = dial.dial(address).await.map_err(|source| Error::Dial { address, source })?;
        let Some(secure) = &backend.tls else { return Ok(stream) };
        let connector = TlsConnector::from(secure.config.clone());
        let stream = connector.connect(secure.name.clone(), stream).await.map_err(Error::Tls)?;
        Ok(Box::new(stream) as Box<dyn Duplex>)
    };
    let late = Error::Dial { address, source: io::ErrorKind::TimedOut.into() };
    tokio::time::timeout(DIAL_TIMEOUT, connection).await.unwrap_or(Err(late))
}

/// Sends the request and answers with the head of what comes back; bodies flow as they are taken, both ways.
pub async fn exchange<B>(
    dial: &dyn Dial,
    backend: &Backend,
    request: http::Request<B>,
) -> Result<http::Response<Incoming>, Error>
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = connect(dial, backend).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let address = backend.address;
    // It ends with the answer's body, or when nobody waits for the answer.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%address, %error, "a proxied connection ended");
        }
    });
    Ok(sender.send_request(request).await?)
}

/// Joins two connections that have changed to another protocol, until either side ends.
pub async fn tunnel(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => return tracing::debug!(%error, "a proxied upgrade did not come about"),
    };
    let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
    let (mut from_backend, mut to_backend) = tokio::io::split(TokioIo::new(backend));
    let up = copy(&mut from_client, &mut to_backend);
    let down = copy(&mut from_backend, &mut to_client);
    let ended = tokio::select! {
        ended = up => ended,
        ended = down => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a proxied connection broke off");
    }
}

async fn copy<R, W>(reader: &mut R, writer: &mut W) -> io::Result<()>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let mut reader = tokio::io::BufReader::with_capacity(TUNNEL_BYTES, reader);
    tokio::io::copy_buf(&mut reader, writer).await?;
    tokio::io::AsyncWriteExt::shutdown(writer).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_in_the_words_that_people_know() {
        let address = "10.244.0.5:80".parse().unwrap();
        for (kind, message) in [
            (io::ErrorKind::ConnectionRefused, "dial tcp 10.244.0.5:80: connect: connection refused"),
            (io::ErrorKind::HostUnreachable, "dial tcp 10.244.0.5:80: connect: no route to host"),
            (io::ErrorKind::TimedOut, "dial tcp 10.244.0.5:80: i/o timeout"),
        ] {
            assert_eq!(Error::Dial { address, source: kind.into() }.to_string(), message);
        }
    }
}
