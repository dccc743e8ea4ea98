//! WebSocket conversations: the handshake, and channels multiplexed by the first byte of each message.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;

use super::pipe::{Inlet, Outlet};
use super::upgrade;
use crate::api::hops::words;
use crate::api::status::Status;
use crate::apiserver::answer::{self, Body};

/// Messages to the client that wait to be written.
const QUEUE: usize = 16;
/// The largest message a client may send.
const MESSAGE_BYTES: usize = 16 << 20;
/// Bytes that wait on one channel for their reader. The protocol has no windows: beyond this the connection is not read,
/// so that the client waits, with all its channels. They are those of one process, or the ports of a client that chose
/// not to give each connection a stream of its own.
const INLET_BYTES: usize = 1 << 20;
/// A message is handed over in pieces of this size.
const PIECE_BYTES: usize = 32 << 10;
/// How often a silent client is asked whether it is there.
const PING: Duration = Duration::from_secs(30);
/// With protocol v5: the next byte names a channel that the client has ended.
const CLOSE: u8 = 255;

/// A connection whose handshake is done.
pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Whether a request asks for a WebSocket.
pub fn is_asked(headers: &HeaderMap) -> bool {
    upgrade::is_asked(headers, "websocket")
}

/// The protocol that is spoken: the first of ours that the client offers; an old client offers none.
pub fn choose(headers: &HeaderMap, ours: &[&'static str]) -> Result<&'static str, Status> {
    let offered: Vec<&str> = words(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    if offered.is_empty() {
        return Ok("");
    }
    ours.iter().find(|protocol| offered.contains(protocol)).copied().ok_or_else(|| {
        Status::bad_request(format!(
            "unable to upgrade: none of the protocols {offered:?} is known, only {ours:?}"
        ))
    })
}

/// The answer that switches protocols.
pub fn accept(headers: &HeaderMap, protocol: &'static str) -> Result<http::Response<Body>, Status> {
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or_else(|| Status::bad_request("unable to upgrade: there is no Sec-WebSocket-Key"))?;
    let mut response = http::Response::new(answer::full(Bytes::new()));
    *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(Status::internal)?;
    answer.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    if !protocol.is_empty() {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    Ok(response)
}

/// The connection after the answer was sent.
pub async fn open(upgraded: Upgraded) -> Socket {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES)).max_frame_size(Some(MESSAGE_BYTES));
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await
}

/// How a message carries its channel and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Coding {
    /// The channel's number as a byte, then the bytes.
    #[default]
    Binary,
    /// The channel's number as a digit, then the bytes in base64, for clients that can read only text.
    Base64,
}

impl Coding {
    /// That of a protocol by its name.
    pub fn of(protocol: &str) -> Coding {
        if protocol.contains("base64.") { Coding::Base64 } else { Coding::Binary }
    }

    fn message(self, bytes: Bytes) -> Message {
        match (self, bytes.split_first()) {
            (Coding::Base64, Some((channel, rest))) => {
                Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(rest)))
            }
            _ => Message::Binary(bytes),
        }
    }

    /// The channel's number and the bytes; `None` when that is not what came.
    fn read(self, mut message: Bytes) -> Option<(u8, Bytes)> {
        if message.is_empty() {
            return None;
        }
        let channel = message.split_to(1)[0];
        match self {
            Coding::Binary => Some((channel, message)),
            Coding::Base64 => Some((channel.checked_sub(b'0')?, STANDARD.decode(message).ok()?.into())),
        }
    }
}

/// Where what the client sends on a channel goes.
struct Way {
    pieces: mpsc::UnboundedSender<Bytes>,
    room: Arc<Semaphore>,
}

impl Way {
    /// Hands a message over; false when its reader is gone.
    async fn send(&self, mut message: Bytes) -> bool {
        while !message.is_empty() {
            let piece = message.split_to(message.len().min(PIECE_BYTES));
            let room = tokio::select! {
                room = self.room.acquire_many(piece.len() as u32) => room,
                () = self.pieces.closed() => return false,
            };
            // The reader gives it back.
            let Ok(room) = room else { return false };
            room.forget();
            if self.pieces.send(piece).is_err() {
                return false;
            }
        }
        true
    }
}

/// The channels of a connection before it runs.
pub struct Channels {
    coding: Coding,
    inlets: HashMap<u8, Way>,
    queue: mpsc::Sender<Bytes>,
    outgoing: mpsc::Receiver<Bytes>,
}

impl Channels {
    /// Channels whose messages are written so.
    pub fn new(coding: Coding) -> Channels {
        let (queue, outgoing) = mpsc::channel(QUEUE);
        Channels { coding, inlets: HashMap::new(), queue, outgoing }
    }

    /// What the client sends on a channel.
    pub fn inlet(&mut self, channel: u8) -> Inlet {
        let (pieces, received) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(INLET_BYTES));
        self.inlets.insert(channel, Way { pieces, room: room.clone() });
        Inlet::new(received, move |bytes| room.add_permits(bytes))
    }

    /// What the client receives on a channel.
    pub fn outlet(&self, channel: u8) -> Outlet {
        Outlet::channel(channel, self.queue.clone())
    }

    /// Carries messages until every outlet is dropped and everything is sent, or the client is gone, which
    /// cancels `gone`.
    pub async fn run(self, socket: Socket, gone: CancellationToken) {
        let (mut sink, mut source) = socket.split();
        let Channels { coding, mut inlets, queue, mut outgoing } = self;
        drop(queue);
        let receive = async {
            while let Some(Ok(message)) = source.next().await {
                let bytes = match message {
                    Message::Binary(bytes) => bytes,
                    // Some clients send terminal input as text.
                    Message::Text(text) => Bytes::from(text),
                    Message::Close(_) => break,
                    _ => continue,
                };
                if let Some((channel, bytes)) = coding.read(bytes) {
                    deliver(&mut inlets, channel, bytes).await;
                }
            }
            inlets.clear();
            gone.cancel();
            std::future::pending::<()>().await;
        };
        let send = async {
            let mut pings = tokio::time::interval(PING);
            pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pings.reset();
            loop {
                let message = tokio::select! {
                    bytes = outgoing.recv() => match bytes {
                        Some(bytes) => coding.message(bytes),
                        None => break,
                    },
                    _ = pings.tick() => Message::Ping(Bytes::new()),
                };
                if sink.send(message).await.is_err() {
                    gone.cancel();
                    return;
                }
            }
            // The conversation is over; whether the client still hears the farewell does not matter.
            // Clients take a close without a status for a broken connection.
            let _ = sink.send(super::normal_close()).await;
            let _ = sink.close().await;
        };
        tokio::select! {
            () = send => {}
            () = receive => {}
        }
    }
}

async fn deliver(inlets: &mut HashMap<u8, Way>, channel: u8, message: Bytes) {
    if channel == CLOSE {
        if let Some(ended) = message.first() {
            inlets.remove(ended);
        }
        return;
    }
    // An empty message says that the client is there.
    if message.is_empty() {
        return;
    }
    if let Some(inlet) = inlets.get(&channel)
        && !inlet.send(message).await
    {
        // The process no longer reads.
        inlets.remove(&channel);
    }
}
