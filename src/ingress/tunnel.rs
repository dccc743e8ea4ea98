//! Client and backend joined after both have changed to another protocol, such as WebSocket.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// How much is on its way in each direction.
const PIECE: usize = 32 << 10;

/// Carries bytes both ways until both sides have ended, one breaks off, or neither says anything for this long.
pub async fn tunnel(client: OnUpgrade, backend: OnUpgrade, patience: Duration) -> io::Result<()> {
    let both = async { tokio::try_join!(client, backend) };
    let (client, backend) = tokio::time::timeout(patience, both)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        .map_err(io::Error::other)?;
    join(TokioIo::new(client), TokioIo::new(backend), patience).await
}

async fn join<A, B>(client: A, backend: B, patience: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let heard = Mutex::new(Instant::now());
    let (from_client, to_client) = tokio::io::split(client);
    let (from_backend, to_backend) = tokio::io::split(backend);
    let carry = async {
        tokio::try_join!(carry(from_client, to_backend, &heard), carry(from_backend, to_client, &heard))
    };
    let silence = async {
        loop {
            let since = *heard.lock().unwrap_or_else(PoisonError::into_inner);
            if since.elapsed() >= patience {
                return;
            }
            tokio::time::sleep_until(since + patience).await;
        }
    };
    tokio::select! {
        carried = carry => carried.map(drop),
        () = silence => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    heard: &Mutex<Instant>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let got = from.read(&mut piece).await?;
        if got == 0 {
            return to.shutdown().await;
        }
        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        to.write_all(&piece[..got]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_until_all_is_said_or_nobody_speaks() {
        let patience = Duration::from_secs(60);
        let ((mut client, near), (far, mut backend)) = (duplex(64), duplex(64));
        let joined = tokio::spawn(join(near, far, patience));
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let mut got = String::new();
        backend.read_to_string(&mut got).await.unwrap();
        backend.write_all(b"pong").await.unwrap();
        drop(backend);
        client.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "pingpong");
        joined.await.unwrap().unwrap();
        let ((mut client, near), (far, _backend)) = (duplex(64), duplex(64));
        let joined = tokio::spawn(join(near, far, patience));
        let began = Instant::now();
        tokio::time::sleep(Duration::from_secs(50)).await;
        client.write_all(b"x").await.unwrap();
        assert_eq!(joined.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 110);
    }
}
