//! One stream of a conversation with a client, whatever the protocol: pieces of bytes in bounded queues.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// How much is read from a process or connection at once (as Go's `io.Copy`, which clients expect to see).
const PIECE: usize = 32 << 10;

/// What a client sends on one stream; `None` is the end of the stream.
pub type Inlet = mpsc::Receiver<Bytes>;

/// What is sent to a client on one stream; dropping it ends the stream.
pub struct Outlet {
    /// The WebSocket channel, which goes before each piece; SPDY streams have their own queues.
    channel: Option<u8>,
    queue: mpsc::Sender<Bytes>,
}

impl Outlet {
    /// An outlet into the queue that all channels share.
    pub fn channel(number: u8, queue: mpsc::Sender<Bytes>) -> Outlet {
        Outlet { channel: Some(number), queue }
    }

    /// An outlet with a queue of its own.
    pub fn stream(queue: mpsc::Sender<Bytes>) -> Outlet {
        Outlet { channel: None, queue }
    }

    /// Sends a piece; an error when the client is gone.
    pub async fn send(&self, bytes: Bytes) -> io::Result<()> {
        let bytes = match self.channel {
            Some(channel) => {
                let mut message = BytesMut::with_capacity(bytes.len() + 1);
                message.put_u8(channel);
                message.put(bytes);
                message.freeze()
            }
            None => bytes,
        };
        self.queue.send(bytes).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Sends what a reader gives until its end.
    pub async fn copy(&self, mut from: impl AsyncRead + Unpin) -> io::Result<()> {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            if from.read_buf(&mut piece).await? == 0 {
                return Ok(());
            }
            self.send(piece.freeze()).await?;
        }
    }
}

/// Writes what a client sends until its end, and then ends the writer.
pub async fn write_all(inlet: &mut Inlet, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    while let Some(bytes) = inlet.recv().await {
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
    to.shutdown().await
}
