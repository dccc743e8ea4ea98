//! A WebSocket as one stream of bytes: the boundaries of its binary messages mean nothing.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::tungstenite::Message;

use super::websocket::Socket;

/// Bytes between the WebSocket and its reader, and the largest message that is sent.
const BUFFER: usize = 64 << 10;

/// The bytes of a WebSocket; it closes when this is dropped, and this ends when it closes.
pub fn bytes(socket: Socket) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    tokio::spawn(carry(socket, ours));
    theirs
}

async fn carry(socket: Socket, stream: DuplexStream) {
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let receive = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) if writer.write_all(&bytes).await.is_err() => return,
                Message::Close(_) => return,
                _ => {}
            }
        }
    };
    let send = async {
        let mut buffer = vec![0; BUFFER];
        while let Ok(count) = reader.read(&mut buffer).await {
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..count]));
            if count == 0 || sink.send(message).await.is_err() {
                break;
            }
        }
        // Whether the client still hears the farewell does not matter.
        // Clients take a close without a status for a broken connection.
        let _ = sink.send(super::normal_close()).await;
        let _ = sink.close().await;
    };
    tokio::select! {
        () = receive => {}
        () = send => {}
    }
}
