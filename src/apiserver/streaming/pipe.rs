//! One stream of a conversation with a client, whatever the protocol: pieces of bytes in bounded queues.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// How much is read from a process or connection at once (as Go's `io.Copy`, which clients expect to see).
const PIECE: usize = 32 << 10;

/// What a client sends on one stream. Whoever fills it is told what its holder has dealt with, and bounds by that how
/// much waits here.
pub struct Inlet {
    pieces: mpsc::UnboundedReceiver<Bytes>,
    /// Bytes that the holder was given last and may still be dealing with.
    held: usize,
    taken: Box<dyn Fn(usize) + Send + Sync>,
}

impl Inlet {
    /// An inlet of these pieces; `taken` is told of bytes that no longer wait.
    pub fn new(
        pieces: mpsc::UnboundedReceiver<Bytes>,
        taken: impl Fn(usize) + Send + Sync + 'static,
    ) -> Inlet {
        Inlet { pieces, held: 0, taken: Box::new(taken) }
    }

    /// The next piece, when the one before it has been dealt with; `None` is the end of the stream.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.settle(0);
        let piece = self.pieces.recv().await?;
        self.held = piece.len();
        Some(piece)
    }

    fn settle(&mut self, more: usize) {
        let bytes = std::mem::take(&mut self.held) + more;
        if bytes > 0 {
            (self.taken)(bytes);
        }
    }
}

impl Drop for Inlet {
    /// What nobody will take waits no longer.
    fn drop(&mut self) {
        self.pieces.close();
        let mut left = 0;
        while let Ok(piece) = self.pieces.try_recv() {
            left += piece.len();
        }
        self.settle(left);
    }
}

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

    /// Resolves when nothing more can be sent: the client is gone or has broken this stream off.
    pub async fn closed(&self) {
        self.queue.closed().await;
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
