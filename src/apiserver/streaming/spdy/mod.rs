//! A SPDY/3.1 session over any byte stream: streams that the client opens, each with its own queues.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use self::frame::{Decoder, Encoder, Frame, Headers};
use super::pipe::{Inlet, Outlet};

pub mod frame;

/// Pieces that wait on one stream in each direction.
const QUEUE: usize = 64;
/// Frames that wait to be written.
const FRAMES: usize = 64;
/// Streams that may be open at once.
const STREAMS: usize = 2048;
/// The protocol's first window.
const WINDOW: i64 = 64 << 10;
/// Status of a reset: the stream is not accepted.
const REFUSED: u32 = 3;

/// A stream that the client has opened.
pub struct Stream {
    /// Its number.
    pub id: u32,
    /// What it is for.
    pub headers: Headers,
    /// What the client sends.
    pub inlet: Inlet,
    /// What the client receives.
    pub outlet: Outlet,
}

impl Stream {
    /// The value of a header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

/// How much may be sent on a stream. Go's spdystream knows no windows, so they count only once a client has
/// shown that it does.
#[derive(Default)]
struct Window {
    left: Mutex<i64>,
    wake: Notify,
}

impl Window {
    async fn take(&self, most: usize, counts: &Mutex<bool>) -> usize {
        loop {
            let woken = self.wake.notified();
            {
                let counts = *counts.lock().unwrap_or_else(PoisonError::into_inner);
                let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
                let taken = if counts { most.min(usize::try_from(*left).unwrap_or(0)) } else { most };
                if taken > 0 || most == 0 {
                    *left -= taken as i64;
                    return taken;
                }
            }
            woken.await;
        }
    }

    fn give(&self, delta: i64) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) += delta;
        self.wake.notify_one();
    }
}

struct Open {
    inlet: Option<mpsc::Sender<Bytes>>,
    window: Arc<Window>,
    pump: AbortHandle,
}

/// Runs a session until the client is gone, or until every holder of the streams and of `opened` is done.
pub async fn run(stream: impl AsyncRead + AsyncWrite, opened: mpsc::Sender<Stream>) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    let (frames, queued) = mpsc::channel(FRAMES);
    let session = Session {
        frames,
        opened,
        streams: HashMap::new(),
        pumps: JoinSet::new(),
        counts: Arc::default(),
        initial: WINDOW,
    };
    tokio::select! {
        ended = session.read(reader) => ended,
        ended = write(writer, queued) => ended,
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) -> io::Result<()> {
    let mut encoder = Encoder::default();
    while let Some(frame) = frames.recv().await {
        writer.write_all(&encoder.bytes(&frame)).await?;
        if frames.is_empty() {
            writer.flush().await?;
        }
    }
    writer.shutdown().await
}

struct Session {
    frames: mpsc::Sender<Frame>,
    opened: mpsc::Sender<Stream>,
    streams: HashMap<u32, Open>,
    pumps: JoinSet<u32>,
    counts: Arc<Mutex<bool>>,
    initial: i64,
}

impl Session {
    async fn read(mut self, mut reader: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::with_capacity(64 << 10);
        let opened = self.opened.clone();
        loop {
            while let Some(frame) = decoder.next(&mut buffer).map_err(io::Error::other)? {
                self.take(frame).await?;
            }
            tokio::select! {
                read = reader.read_buf(&mut buffer) => if read? == 0 {
                    return Ok(());
                },
                Some(sent) = self.pumps.join_next() => if let Ok(id) = sent {
                    self.sent_all(id);
                },
                () = opened.closed(), if self.pumps.is_empty() => {
                    self.put(Frame::GoAway).await?;
                    // Closing the queue lets the writer finish what is in it.
                    drop(self);
                    return std::future::pending().await;
                }
            }
        }
    }

    async fn put(&self, frame: Frame) -> io::Result<()> {
        self.frames.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn take(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::SynStream { stream, fin, headers } => self.open(stream, fin, headers).await,
            Frame::Data { stream, fin, bytes } => self.data(stream, fin, bytes).await,
            Frame::Reset { stream, .. } => {
                // Only this stream ends; its holder sees the end of both directions.
                if let Some(open) = self.streams.remove(&stream) {
                    open.pump.abort();
                }
                Ok(())
            }
            // An even number answers a question of ours, and we ask none.
            Frame::Ping { id } if id % 2 == 1 => self.put(frame).await,
            Frame::Settings { window: Some(window) } => {
                let change = i64::from(window) - self.initial;
                self.initial += change;
                self.count_windows();
                self.streams.values().for_each(|open| open.window.give(change));
                Ok(())
            }
            Frame::WindowUpdate { stream, delta } => {
                self.count_windows();
                if let Some(open) = self.streams.get(&stream) {
                    open.window.give(i64::from(delta));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn count_windows(&self) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Headers) -> io::Result<()> {
        if self.streams.len() >= STREAMS || self.streams.contains_key(&id) {
            return self.put(Frame::Reset { stream: id, status: REFUSED }).await;
        }
        self.put(Frame::SynReply { stream: id }).await?;
        let (sender, inlet) = mpsc::channel(QUEUE);
        let (outgoing, pieces) = mpsc::channel(QUEUE);
        let window = Arc::new(Window { left: Mutex::new(self.initial), wake: Notify::new() });
        let pump =
            self.pumps.spawn(pump(id, pieces, window.clone(), self.counts.clone(), self.frames.clone()));
        self.streams.insert(id, Open { inlet: (!fin).then_some(sender), window, pump });
        // Nobody takes it when the conversation is over: then it ends by itself.
        let _ = self.opened.send(Stream { id, headers, inlet, outlet: Outlet::stream(outgoing) }).await;
        Ok(())
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) -> io::Result<()> {
        let Some(open) = self.streams.get_mut(&id) else { return Ok(()) };
        let length = bytes.len() as u32;
        if let (Some(inlet), false) = (&open.inlet, bytes.is_empty())
            && inlet.send(bytes).await.is_err()
        {
            open.inlet = None;
        }
        if fin {
            open.inlet = None;
            if open.pump.is_finished() {
                self.streams.remove(&id);
            }
            return Ok(());
        }
        if length > 0 {
            self.put(Frame::WindowUpdate { stream: id, delta: length }).await?;
        }
        Ok(())
    }

    /// Our direction of a stream has ended; the stream goes when the other one has, too.
    fn sent_all(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|open| open.inlet.as_ref().is_none_or(mpsc::Sender::is_closed)) {
            self.streams.remove(&id);
        }
    }
}

/// Sends what a stream's holder gives, as much as its window allows, and then the end of it.
async fn pump(
    id: u32,
    mut pieces: mpsc::Receiver<Bytes>,
    window: Arc<Window>,
    counts: Arc<Mutex<bool>>,
    frames: mpsc::Sender<Frame>,
) -> u32 {
    while let Some(mut piece) = pieces.recv().await {
        while !piece.is_empty() {
            let bytes = piece.split_to(window.take(piece.len(), &counts).await);
            if frames.send(Frame::Data { stream: id, fin: false, bytes }).await.is_err() {
                return id;
            }
        }
    }
    // A session that is over needs no end of its streams.
    let _ = frames.send(Frame::Data { stream: id, fin: true, bytes: Bytes::new() }).await;
    id
}
