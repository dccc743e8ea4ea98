//! A SPDY/3.1 session over any byte stream: streams that the client opens, each with its own queues.
//!
//! # When a holder does not take what its stream brings
//!
//! The protocol has a window for each stream, and it is granted anew as the holder takes bytes; but the client of
//! kubectl (Go's spdystream) neither minds windows nor announces them, so that only the connection as a whole can make it
//! wait. Not reading it for the sake of one stream would stall all the others and keep the reset of that very stream
//! unread. So what arrives waits in memory, up to a bound for the session, and everything else goes on. Only at the
//! bound is the connection read no further, until bytes were taken. In a port-forward, whose streams have nothing to do
//! with each other, the stream that holds most of the bound is then broken off if its holder takes no byte at all for a
//! while: a slow reader is waited for, a dead one does not take the session with it. The streams of one process wait for
//! it without end, as a pipe would. A client that left is seen by reading; while it is not read, by what is sent to it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use self::frame::{Decoder, Encoder, Frame, Headers};
use super::pipe::{Inlet, Outlet};

pub mod frame;
#[cfg(test)]
mod tests;

/// Pieces to the client that wait on one stream.
const QUEUE: usize = 64;
/// Data frames that wait to be written.
const FRAMES: usize = 64;
/// Control frames that wait to be written. They have a queue of their own, so that a client which does not take its data
/// is still heard.
const CONTROLS: usize = 1024;
/// Bytes from the client that wait for the holders of all streams; beyond, the client is not read.
const SESSION_BYTES: usize = 16 << 20;
/// How long a holder may take nothing at all while it keeps the session from being read, and how often the client of a
/// session that is not read is asked whether it is still there.
const PATIENCE: Duration = Duration::from_secs(30);
/// Streams that may be open at once.
const STREAMS: usize = 2048;
/// The protocol's first window.
const WINDOW: i64 = 64 << 10;
/// What the client is asked with; the server's numbers are even.
const PING: u32 = 2;
/// Status of a reset: the stream is not accepted.
const REFUSED: u32 = 3;
/// Status of a reset: more came than could be taken.
const FLOW_CONTROL_ERROR: u32 = 7;

/// What becomes of a stream whose holder takes nothing while the session can hold no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stalled {
    /// The whole session waits for it.
    Wait,
    /// It is broken off, and the others go on.
    BreakOff,
}

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
    inlet: Option<mpsc::UnboundedSender<Bytes>>,
    /// Bytes that wait for the holder.
    waiting: usize,
    /// Bytes that the holder has taken and the client was not yet told of.
    taken: usize,
    /// When the holder last took something, or began to have something to take.
    progressed: Instant,
    window: Arc<Window>,
    pump: AbortHandle,
}

/// Runs a session until the client is gone, or until every holder of the streams and of `opened` is done.
pub async fn run(
    stream: impl AsyncRead + AsyncWrite,
    opened: mpsc::Sender<Stream>,
    stalled: Stalled,
) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    let (frames, queued) = mpsc::channel(FRAMES);
    let (controls, urgent) = mpsc::channel(CONTROLS);
    let (taken, told) = mpsc::unbounded_channel();
    let session = Session {
        frames,
        controls,
        opened,
        stalled,
        taken,
        streams: HashMap::new(),
        waiting: 0,
        pumps: JoinSet::new(),
        counts: Arc::default(),
        initial: WINDOW,
    };
    tokio::select! {
        ended = session.read(reader, told) => ended,
        ended = write(writer, urgent, queued) => ended,
    }
}

async fn write(
    mut writer: impl AsyncWrite + Unpin,
    mut controls: mpsc::Receiver<Frame>,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut encoder = Encoder::default();
    loop {
        let frame = tokio::select! {
            biased;
            Some(frame) = controls.recv() => frame,
            Some(frame) = frames.recv() => frame,
            else => return writer.shutdown().await,
        };
        writer.write_all(&encoder.bytes(&frame)).await?;
        if controls.is_empty() && frames.is_empty() {
            writer.flush().await?;
        }
    }
}

struct Session {
    frames: mpsc::Sender<Frame>,
    controls: mpsc::Sender<Frame>,
    opened: mpsc::Sender<Stream>,
    stalled: Stalled,
    /// For the holders: which stream, how many bytes of it were taken.
    taken: mpsc::UnboundedSender<(u32, usize)>,
    streams: HashMap<u32, Open>,
    /// Bytes of all streams that wait for their holders.
    waiting: usize,
    pumps: JoinSet<u32>,
    counts: Arc<Mutex<bool>>,
    initial: i64,
}

impl Session {
    async fn read(
        mut self,
        mut reader: impl AsyncRead + Unpin,
        mut taken: mpsc::UnboundedReceiver<(u32, usize)>,
    ) -> io::Result<()> {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::with_capacity(64 << 10);
        let opened = self.opened.clone();
        // When the client was last read or asked, while it is not read.
        let mut unheard = None;
        loop {
            while self.waiting < SESSION_BYTES
                && let Some(frame) = decoder.next(&mut buffer).map_err(io::Error::other)?
            {
                self.take(frame).await?;
            }
            let full = self.waiting >= SESSION_BYTES;
            unheard = full.then(|| unheard.unwrap_or_else(Instant::now));
            let ask = unheard.map_or_else(Instant::now, |since| since + PATIENCE);
            let hog = if full && self.stalled == Stalled::BreakOff { self.hog() } else { None };
            let until = hog.map_or_else(Instant::now, |(_, progressed)| progressed + PATIENCE);
            tokio::select! {
                read = reader.read_buf(&mut buffer), if !full => if read? == 0 {
                    return Ok(());
                },
                Some((id, bytes)) = taken.recv() => self.took(id, bytes).await?,
                Some(sent) = self.pumps.join_next() => if let Ok(id) = sent {
                    self.sent_all(id);
                },
                () = tokio::time::sleep_until(until), if hog.is_some() => if let Some((id, _)) = hog {
                    tracing::debug!(stream = id, "broke off a stream whose data nobody takes");
                    self.break_off(id);
                    self.put(Frame::Reset { stream: id, status: FLOW_CONTROL_ERROR }).await?;
                },
                () = tokio::time::sleep_until(ask), if full => {
                    unheard = Some(Instant::now());
                    self.put(Frame::Ping { id: PING }).await?;
                },
                () = opened.closed(), if self.pumps.is_empty() => {
                    // After all data.
                    let _ = self.frames.send(Frame::GoAway).await;
                    // Closing the queues lets the writer finish what is in them.
                    drop(self);
                    return std::future::pending().await;
                }
            }
        }
    }

    async fn put(&self, frame: Frame) -> io::Result<()> {
        self.controls.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn take(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::SynStream { stream, fin, headers } => self.open(stream, fin, headers).await,
            Frame::Data { stream, fin, bytes } => self.data(stream, fin, bytes).await,
            Frame::Reset { stream, .. } => {
                self.break_off(stream);
                Ok(())
            }
            // An even number answers a question of ours; that it could be asked is all there was to know.
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
        let (pieces, received) = mpsc::unbounded_channel();
        let taken = self.taken.clone();
        let inlet = Inlet::new(received, move |bytes| {
            // A session that is over does not count.
            let _ = taken.send((id, bytes));
        });
        let (outgoing, sent) = mpsc::channel(QUEUE);
        let window = Arc::new(Window { left: Mutex::new(self.initial), wake: Notify::new() });
        let pump = self.pumps.spawn(pump(id, sent, window.clone(), self.counts.clone(), self.frames.clone()));
        let open = Open {
            inlet: (!fin).then_some(pieces),
            waiting: 0,
            taken: 0,
            progressed: Instant::now(),
            window,
            pump,
        };
        self.streams.insert(id, open);
        // Nobody takes it when the conversation is over: then it ends by itself.
        let _ = self.opened.send(Stream { id, headers, inlet, outlet: Outlet::stream(outgoing) }).await;
        Ok(())
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) -> io::Result<()> {
        let Some(open) = self.streams.get_mut(&id) else { return Ok(()) };
        let length = bytes.len();
        let kept = length > 0 && open.inlet.as_ref().is_some_and(|inlet| inlet.send(bytes).is_ok());
        if kept {
            if open.waiting == 0 {
                open.progressed = Instant::now();
            }
            open.waiting += length;
            self.waiting += length;
        }
        if fin {
            open.inlet = None;
            if open.pump.is_finished() {
                self.forget(id);
            }
            return Ok(());
        }
        if length > 0 && !kept {
            // Nobody wants it; a client that counts goes on.
            self.put(Frame::WindowUpdate { stream: id, delta: length as u32 }).await?;
        }
        Ok(())
    }

    /// The holder of a stream has dealt with so many bytes of it.
    async fn took(&mut self, id: u32, bytes: usize) -> io::Result<()> {
        let Some(open) = self.streams.get_mut(&id) else { return Ok(()) };
        let bytes = bytes.min(open.waiting);
        open.waiting -= bytes;
        self.waiting -= bytes;
        open.progressed = Instant::now();
        open.taken += bytes;
        // Half a window at a time is soon enough.
        if open.inlet.is_some() && open.taken as i64 >= WINDOW / 2 {
            let delta = std::mem::take(&mut open.taken) as u32;
            self.put(Frame::WindowUpdate { stream: id, delta }).await?;
        }
        Ok(())
    }

    /// The stream of which most waits, and when its holder last took some of it.
    fn hog(&self) -> Option<(u32, Instant)> {
        let (id, open) = self.streams.iter().max_by_key(|(_, open)| open.waiting)?;
        Some((*id, open.progressed))
    }

    /// Ends a stream at once: its holder sees that nothing more can be sent.
    fn break_off(&mut self, id: u32) {
        if let Some(open) = self.forget(id) {
            open.pump.abort();
        }
    }

    fn forget(&mut self, id: u32) -> Option<Open> {
        let open = self.streams.remove(&id)?;
        self.waiting -= open.waiting;
        Some(open)
    }

    /// Our direction of a stream has ended; the stream goes when the other one has, too.
    fn sent_all(&mut self, id: u32) {
        let over = |open: &Open| open.inlet.as_ref().is_none_or(mpsc::UnboundedSender::is_closed);
        if self.streams.get(&id).is_some_and(over) {
            self.forget(id);
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
