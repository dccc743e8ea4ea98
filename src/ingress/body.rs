//! Bodies on their way: requests with a limit and a mark of how far they are, answers that must not stand still.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::{Instant, Sleep, sleep_until};

use super::limits::Seat;
use super::upstream::Reply;

/// Why a body ended before its end.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The bodies of requests to backends and of answers to clients.
pub type Body = http_body_util::combinators::BoxBody<Bytes, Error>;

/// How long a client may take to send the next part of its request.
const CLIENT_PATIENCE: Duration = Duration::from_secs(60);
/// How much of a body that nobody wants is read, so that the client gets to read its answer.
const LINGER_BYTES: usize = 8 << 20;
/// And for how long.
const LINGER: Duration = Duration::from_secs(5);

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// Reads some of a body that nobody wants: a client that is still sending would not see its answer otherwise.
pub(super) fn linger<B>(mut body: B)
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Send,
{
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(tokio::time::timeout(LINGER, async move {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > LINGER_BYTES {
                return;
            }
        }
    }));
}

/// On whom a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// On the client, which is to send more of it.
    Client,
    /// On the backend, which is to take what was sent.
    Backend,
    /// On the answer.
    Answer,
}

/// How far a request's body is.
#[derive(Debug)]
pub struct Progress {
    at: Mutex<(Phase, Instant)>,
    changed: Notify,
    too_large: AtomicBool,
}

impl Progress {
    fn new(phase: Phase) -> Arc<Progress> {
        let at = Mutex::new((phase, Instant::now()));
        Arc::new(Progress { at, changed: Notify::new(), too_large: AtomicBool::new(false) })
    }

    fn set(&self, phase: Phase) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        // Waiting does not begin anew by asking again.
        if at.0 != phase || phase == Phase::Backend {
            let other = at.0 != phase;
            *at = (phase, Instant::now());
            drop(at);
            if other {
                self.changed.notify_one();
            }
        }
    }

    /// Begins to wait for an answer anew.
    pub fn restart(&self) {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.1 = Instant::now();
    }

    /// Whether the body was longer than it may be.
    pub fn too_large(&self) -> bool {
        self.too_large.load(Ordering::Acquire)
    }

    /// Waits until somebody has let the request wait for too long, and says who.
    pub async fn overdue(&self, send: Duration, read: Duration) -> Phase {
        loop {
            let (phase, since) = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
            let patience = match phase {
                Phase::Client => CLIENT_PATIENCE,
                Phase::Backend => send,
                Phase::Answer => read,
            };
            if since.elapsed() >= patience {
                return phase;
            }
            tokio::select! {
                () = sleep_until(since + patience) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// A request's body as the backend reads it.
///
/// What a backend that answers early leaves is read all the same: it would be in the way of the client's next request.
pub struct Upload {
    /// There until this ends.
    body: Option<Incoming>,
    left: Option<u64>,
    progress: Arc<Progress>,
}

impl Upload {
    /// A body of at most so many bytes, and where to see how far it is.
    pub fn new(body: Incoming, limit: Option<u64>) -> (Upload, Arc<Progress>) {
        let progress = Progress::new(if body.is_end_stream() { Phase::Answer } else { Phase::Client });
        (Upload { body: Some(body), left: limit, progress: progress.clone() }, progress)
    }
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) else {
            self.progress.set(Phase::Client);
            return Poll::Pending;
        };
        let ended = frame.is_none() || body.is_end_stream();
        self.progress.set(if ended { Phase::Answer } else { Phase::Backend });
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(frame) => frame?,
        };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match &mut self.left {
            Some(left) if length > *left => {
                self.progress.too_large.store(true, Ordering::Release);
                return Poll::Ready(Some(Err("the body is longer than proxy-body-size".into())));
            }
            Some(left) => *left -= length,
            None => {}
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            linger(body);
        }
    }
}

/// An answer's body, which breaks off when the backend keeps silent for too long.
pub struct Download {
    body: Reply,
    patience: Duration,
    silent: Option<Pin<Box<Sleep>>>,
    /// Its request is under way until its end.
    _held: Held,
}

/// What a request takes among all, for as long as it is under way.
pub struct Held {
    _turn: OwnedSemaphorePermit,
    _seat: Option<Seat>,
}

impl Held {
    /// Its turn, and its seat among those of its client.
    pub fn new(turn: OwnedSemaphorePermit, seat: Option<Seat>) -> Held {
        Held { _turn: turn, _seat: seat }
    }
}

impl Download {
    /// The body of an answer, and what its request holds.
    pub fn new(body: Reply, patience: Duration, held: Held) -> Download {
        Download { body, patience, silent: None, _held: held }
    }
}

impl hyper::body::Body for Download {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.silent = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::from)));
        }
        let patience = self.patience;
        let silent = self.silent.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(silent.as_mut().poll(cx));
        Poll::Ready(Some(Err("the backend kept silent for longer than proxy-read-timeout".into())))
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
    async fn who_lets_a_request_wait_is_known() {
        let (send, read) = (Duration::from_secs(5), Duration::from_secs(3));
        let progress = Progress::new(Phase::Client);
        let began = Instant::now();
        let change = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            progress.set(Phase::Answer);
        };
        let (phase, ()) = tokio::join!(progress.overdue(send, read), change);
        assert_eq!((phase, began.elapsed().as_secs()), (Phase::Answer, 13));
        let progress = Progress::new(Phase::Client);
        assert_eq!(progress.overdue(send, read).await, Phase::Client);
        progress.set(Phase::Backend);
        assert_eq!(progress.overdue(send, read).await, Phase::Backend);
    }
}
