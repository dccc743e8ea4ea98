//! Answers of the server's own: a body, and the plainest answers that have one.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use tokio_util::io::ReaderStream;

use crate::api::status::Status;
use crate::stdio::Reader;

/// How much is read at once of what is streamed.
const PIECE_BYTES: usize = 32 << 10;

/// The body of every answer.
pub type Body = http_body_util::combinators::BoxBody<Bytes, std::io::Error>;

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}

/// The same body, with which something is held until it has ended or its client is gone.
pub fn holding<T: Send + Sync + Unpin + 'static>(body: Body, held: T) -> Body {
    Holding { body, _held: held }.boxed()
}

struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T: Unpin> hyper::body::Body for Holding<T> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// The same body; when it has ended or its client is gone, it is told how many bytes have left.
pub fn counted<T: Fn(u64) + Send + Sync + Unpin + 'static>(body: Body, tell: T) -> Body {
    Counted { body, bytes: 0, tell }.boxed()
}

struct Counted<T: Fn(u64)> {
    body: Body,
    bytes: u64,
    tell: T,
}

impl<T: Fn(u64) + Unpin> hyper::body::Body for Counted<T> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

impl<T: Fn(u64)> Drop for Counted<T> {
    fn drop(&mut self) {
        (self.tell)(self.bytes);
    }
}

/// A body that is read as the client takes it.
pub fn streamed(reader: Reader) -> Body {
    in_pieces(ReaderStream::with_capacity(reader, PIECE_BYTES))
}

/// A body of pieces that are made as the client takes them. What makes them need not be `Sync`, a body must: a mutex that
/// nobody contends makes it so.
pub fn in_pieces(pieces: impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static) -> Body {
    let pieces = std::sync::Mutex::new(pieces);
    let frames = futures::stream::poll_fn(move |cx| {
        let mut pieces = pieces.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pieces.poll_next_unpin(cx).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    });
    BodyExt::boxed(StreamBody::new(frames))
}

/// An answer with a body of this type.
pub fn typed(code: u16, content_type: &'static str, bytes: impl Into<Bytes>) -> http::Response<Body> {
    let mut response = http::Response::new(full(bytes));
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A `Status`, as JSON.
pub fn status(status: &Status) -> http::Response<Body> {
    let bytes = serde_json::to_vec(status).unwrap_or_default();
    let code = if status.code == 0 { 200 } else { status.code };
    let mut response = typed(code, "application/json", bytes);
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
