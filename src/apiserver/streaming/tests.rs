//! Clients of every protocol against a node of a few lines, over real connections.

use std::io;
use std::net::SocketAddr;

use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::api::node::{LogOptions, NodeUsage, Page};
use crate::stdio::{Duplex, Exit, Reader};

/// `cat`: writes its input to its output, window sizes to its error output, and ends with 7 after its input.
struct Cat;

impl Node for Cat {
    fn logs(&self, of: ContainerRef, options: LogOptions) -> BoxFuture<'_, Result<Reader, Status>> {
        async move {
            if of.container == "none" {
                return Err(Status::bad_request("container none is not valid for pod p"));
            }
            let text = format!("{}/{} {:?}\n", of.namespace, of.pod, options.tail_lines);
            Ok(Box::new(io::Cursor::new(text.into_bytes())) as Reader)
        }
        .boxed()
    }

    fn exec(&self, _: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        async move {
            if options.command == ["missing"] {
                return Err(Status::internal("exec: \"missing\": executable file not found in $PATH"));
            }
            let (stdin, mut input) = tokio::io::duplex(1024);
            let (mut output, stdout) = tokio::io::duplex(1024);
            let (resize, mut sizes) = mpsc::channel(4);
            let (ended, exit) = oneshot::channel();
            let tty = options.tty;
            tokio::spawn(async move {
                if tty {
                    let size: crate::stdio::WindowSize = sizes.recv().await.unwrap();
                    output.write_all(format!("{}x{}\n", size.columns, size.rows).as_bytes()).await.unwrap();
                }
                let _ = tokio::io::copy(&mut input, &mut output).await;
                drop(output);
                let _ = ended.send(Exit::Code(7));
            });
            Ok(Session {
                stdin: Some(Box::new(stdin)),
                stdout: Some(Box::new(stdout)),
                stderr: None,
                resize: Some(resize),
                exit,
            })
        }
        .boxed()
    }

    fn attach(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        self.exec(of, options)
    }

    fn usage(&self) -> BoxFuture<'_, Result<NodeUsage, Status>> {
        async { Err(Status::unavailable("it uses nothing")) }.boxed()
    }

    fn page(&self, _: String, _: String) -> BoxFuture<'_, Result<Page, Status>> {
        async { Err(Status::no_such_path()) }.boxed()
    }

    fn port_forward(
        &self,
        _: String,
        _: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Duplex>, Status>> {
        async move {
            if port == 9 {
                return Err(Status::internal("connection refused"));
            }
            if port == HUNG_PORT {
                return Ok(Box::new(Hung) as Box<dyn Duplex>);
            }
            let (ours, mut theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let mut all = Vec::new();
                // Answers only after the end of the request: half-close must work.
                theirs.read_to_end(&mut all).await.unwrap();
                theirs.write_all(format!("{port}:").as_bytes()).await.unwrap();
                let _ = theirs.write_all(&all).await;
            });
            Ok(Box::new(ours) as Box<dyn Duplex>)
        }
        .boxed()
    }
}

/// Behind it is an application that neither reads nor writes.
const HUNG_PORT: u16 = 7;
/// Told when a connection to that application is closed.
static HUNG_UP: tokio::sync::Notify = tokio::sync::Notify::const_new();

struct Hung;

impl Drop for Hung {
    fn drop(&mut self) {
        HUNG_UP.notify_one();
    }
}

impl tokio::io::AsyncRead for Hung {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Pending
    }
}

impl tokio::io::AsyncWrite for Hung {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        std::task::Poll::Pending
    }

    fn poll_flush(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Pending
    }

    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Pending
    }
}

async fn server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: http::Request<Incoming>| async move {
                let target = Target {
                    version: "v1".into(),
                    resource: "pods".into(),
                    namespace: Some("n".into()),
                    name: Some("p".into()),
                    subresource: Some(request.uri().path().trim_start_matches('/').to_owned()),
                    ..Target::default()
                };
                let query = request.uri().query().unwrap_or_default().to_owned();
                Ok::<_, std::convert::Infallible>(serve(Arc::new(Cat), &target, &query, request).await)
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades(),
            );
        }
    });
    address
}

type Client = tokio_tungstenite::WebSocketStream<TcpStream>;

async fn connect(path: &str, protocol: &str) -> Client {
    let address = server().await;
    let mut request = format!("ws://{address}/{path}").into_client_request().unwrap();
    if !protocol.is_empty() {
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    }
    let stream = TcpStream::connect(address).await.unwrap();
    let (client, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let chosen = response.headers().get("sec-websocket-protocol").map(|v| v.to_str().unwrap().to_owned());
    assert_eq!(chosen.as_deref().unwrap_or(""), protocol.split(',').next().unwrap());
    client
}

/// Everything that the server sends on each channel until it closes.
async fn received(client: &mut Client) -> std::collections::BTreeMap<u8, String> {
    let mut channels = std::collections::BTreeMap::<u8, String>::new();
    while let Some(Ok(message)) = client.next().await {
        if let Message::Binary(bytes) = message {
            let text = std::str::from_utf8(&bytes[1..]).unwrap();
            channels.entry(bytes[0]).or_default().push_str(text);
        }
    }
    channels
}

async fn send(client: &mut Client, channel: u8, text: &[u8]) {
    let message = [&[channel], text].concat();
    client.send(Message::Binary(message.into())).await.unwrap();
}

#[tokio::test]
async fn exec_over_websocket_with_half_close_and_exit_code() {
    let mut client =
        connect("exec?command=cat&stdin=1&stdout=1", "v5.channel.k8s.io,v4.channel.k8s.io").await;
    send(&mut client, 0, b"hello ").await;
    send(&mut client, 0, b"world").await;
    send(&mut client, 255, &[0]).await;
    let all = received(&mut client).await;
    assert_eq!(all[&1], "hello world");
    let status: serde_json::Value = serde_json::from_str(&all[&3]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn a_terminal_is_resized() {
    let mut client = connect("exec?command=cat&stdin=1&stdout=1&tty=1", "v4.channel.k8s.io").await;
    send(&mut client, 4, br#"{"Width":80,"Height":24}"#).await;
    let shown = loop {
        let bytes = client.next().await.unwrap().unwrap().into_data();
        if bytes.len() > 1 {
            break bytes;
        }
    };
    assert_eq!(&shown[..], b"\x0180x24\n");
}

#[tokio::test]
async fn a_failed_start_is_told_on_the_error_channel() {
    let mut client = connect("exec?command=missing&stdout=1", "v5.channel.k8s.io").await;
    let all = received(&mut client).await;
    let status: serde_json::Value = serde_json::from_str(&all[&3]).unwrap();
    assert_eq!(status["status"], "Failure");
    assert!(status["message"].as_str().unwrap().contains("executable file not found"));
    let mut old = connect("exec?command=missing&stdout=1", "").await;
    assert!(received(&mut old).await[&3].starts_with("Internal error occurred: exec"));
}

#[tokio::test]
async fn ports_over_websocket_channels() {
    let mut client = connect("portforward?ports=9&ports=256", "v4.channel.k8s.io").await;
    let mut seen = std::collections::BTreeMap::<u8, Vec<u8>>::new();
    while seen.len() < 4 || seen[&1].len() < 3 {
        let bytes = client.next().await.unwrap().unwrap().into_data();
        seen.entry(bytes[0]).or_default().extend_from_slice(&bytes[1..]);
    }
    assert_eq!((&seen[&0][..], &seen[&2][..], &seen[&3][..]), (&[9, 0][..], &[0, 1][..], &[0, 1][..]));
    let told = String::from_utf8_lossy(&seen[&1][2..]).into_owned();
    assert!(told.starts_with("error forwarding port 9 to pod p: "), "{told}");
}

#[tokio::test]
async fn logs_and_refusals_over_plain_http() {
    let address = server().await;
    for (path, code, text) in [
        ("log?tailLines=3", "200 OK", "n/p Some(3)\n"),
        ("log?container=none", "400 Bad Request", "is not valid"),
        ("log?tailLines=-3", "422 ", "must be greater"),
        ("exec?command=a&stdout=1", "400 Bad Request", "Upgrade request required"),
        ("exec?stdout=1", "400 Bad Request", "at least one command"),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{path}: {answer}");
        assert!(answer.contains(text), "{path}: {answer}");
    }
}

/// A client's end of a SPDY session.
struct Spdy<S> {
    stream: S,
    encoder: spdy::frame::Encoder,
    decoder: spdy::frame::Decoder,
    buffer: bytes::BytesMut,
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Spdy<S> {
    fn new(stream: S) -> Spdy<S> {
        Spdy { stream, encoder: Default::default(), decoder: Default::default(), buffer: Default::default() }
    }

    async fn send(&mut self, frame: spdy::frame::Frame) {
        self.stream.write_all(&self.encoder.bytes(&frame)).await.unwrap();
    }

    async fn open(&mut self, stream: u32, fin: bool, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.send(spdy::frame::Frame::SynStream { stream, fin, headers }).await;
    }

    /// Reads until these streams have ended; what came on each.
    async fn until_ended(&mut self, streams: &[u32]) -> std::collections::BTreeMap<u32, String> {
        let mut all = std::collections::BTreeMap::<u32, String>::new();
        let mut ended = std::collections::BTreeSet::new();
        while !streams.iter().all(|stream| ended.contains(stream)) {
            match self.decoder.next(&mut self.buffer).unwrap() {
                Some(spdy::frame::Frame::Data { stream, fin, bytes }) => {
                    all.entry(stream).or_default().push_str(std::str::from_utf8(&bytes).unwrap());
                    if fin {
                        ended.insert(stream);
                    }
                }
                Some(_) => {}
                None => assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0),
            }
        }
        all
    }
}

async fn forwards<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: S) {
    use spdy::frame::Frame;
    let mut spdy = Spdy::new(stream);
    for (first, port, id) in [(1, "80", "0"), (5, "81", "1"), (9, "9", "2"), (13, "82", "3")] {
        spdy.open(first, true, &[("streamtype", "error"), ("port", port), ("requestid", id)]).await;
        spdy.open(first + 2, false, &[("streamtype", "data"), ("port", port), ("requestid", id)]).await;
    }
    // One connection is broken off; the others go on.
    spdy.send(Frame::Reset { stream: 7, status: 5 }).await;
    spdy.send(Frame::Ping { id: 1 }).await;
    let body = "x".repeat(200_000);
    for (stream, text) in [(3, "hello"), (15, body.as_str())] {
        for piece in text.as_bytes().chunks(32 << 10) {
            let bytes = Bytes::copy_from_slice(piece);
            spdy.send(Frame::Data { stream, fin: false, bytes }).await;
        }
        spdy.send(Frame::Data { stream, fin: true, bytes: Bytes::new() }).await;
    }
    let all = spdy.until_ended(&[1, 3, 9, 11, 13, 15]).await;
    assert_eq!(all[&3], "80:hello");
    assert_eq!((all[&1].as_str(), all[&11].as_str()), ("", ""));
    assert!(all[&9].starts_with("error forwarding port 9 to pod p: "), "{}", all[&9]);
    assert_eq!(all[&15], format!("82:{body}"));
}

#[tokio::test]
async fn ports_over_spdy_in_a_websocket() {
    let client = connect("portforward", TUNNEL_PROTOCOL).await;
    let (mut sink, mut source) = client.split();
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (mut reader, mut writer) = tokio::io::split(theirs);
    tokio::spawn(async move {
        let mut buffer = vec![0; 1000];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            if writer.write_all(&message.into_data()).await.is_err() {
                return;
            }
        }
    });
    tokio::time::timeout(std::time::Duration::from_secs(20), forwards(ours)).await.unwrap();
}

/// A connection that has changed to SPDY.
async fn spdy_session(path: &str, protocol: &str) -> Spdy<TcpStream> {
    let mut stream = TcpStream::connect(server().await).await.unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains(&format!("x-stream-protocol-version: {protocol}\r\n")), "{head}");
    Spdy::new(stream)
}

#[tokio::test]
async fn exec_over_spdy() {
    use spdy::frame::Frame;
    for (protocol, told) in [("v4.channel.k8s.io", "\"ExitCode\""), ("v2.channel.k8s.io", "exit code 7")] {
        let mut spdy = spdy_session("exec?command=cat&stdin=1&stdout=1", protocol).await;
        for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            spdy.open(stream, false, &[("streamtype", kind)]).await;
        }
        let bytes = Bytes::from_static(b"hello");
        spdy.send(Frame::Data { stream: 3, fin: false, bytes }).await;
        spdy.send(Frame::Data { stream: 3, fin: true, bytes: Bytes::new() }).await;
        let all = spdy.until_ended(&[1, 5]).await;
        assert_eq!(all[&5], "hello");
        assert!(all[&1].contains(told), "{protocol}: {}", all[&1]);
    }
}

#[tokio::test]
async fn a_terminal_over_spdy_is_resized() {
    use spdy::frame::Frame;
    let mut spdy = spdy_session("exec?command=cat&stdin=1&stdout=1&tty=1", "v4.channel.k8s.io").await;
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
        spdy.open(stream, false, &[("streamtype", kind)]).await;
    }
    let bytes = Bytes::from_static(br#"{"Width":80,"Height":24}"#);
    spdy.send(Frame::Data { stream: 7, fin: false, bytes }).await;
    spdy.send(Frame::Data { stream: 3, fin: true, bytes: Bytes::new() }).await;
    assert_eq!(spdy.until_ended(&[1, 5]).await[&5], "80x24\n");
}

#[tokio::test]
async fn ports_over_spdy() {
    let session = spdy_session("portforward", "portforward.k8s.io").await;
    tokio::time::timeout(Duration::from_secs(20), forwards(session.stream)).await.unwrap();
}

#[tokio::test]
async fn a_hung_application_stalls_only_its_own_connection() {
    use spdy::frame::Frame;
    let run = async {
        let mut spdy = spdy_session("portforward", "portforward.k8s.io").await;
        for (first, port, id) in [(1, "7", "0"), (5, "80", "1")] {
            spdy.open(first, true, &[("streamtype", "error"), ("port", port), ("requestid", id)]).await;
            spdy.open(first + 2, false, &[("streamtype", "data"), ("port", port), ("requestid", id)]).await;
        }
        for _ in 0..500 {
            let bytes = Bytes::from_static(&[0; 4096]);
            spdy.send(Frame::Data { stream: 3, fin: false, bytes }).await;
        }
        spdy.send(Frame::Data { stream: 7, fin: true, bytes: Bytes::from_static(b"hello") }).await;
        assert_eq!(spdy.until_ended(&[5, 7]).await[&7], "80:hello");
        // The client breaks the stalled one off: the application sees it.
        spdy.send(Frame::Reset { stream: 3, status: 5 }).await;
        HUNG_UP.notified().await;
    };
    tokio::time::timeout(Duration::from_secs(20), run).await.unwrap();
}

#[tokio::test]
async fn a_message_larger_than_what_may_wait_arrives_whole() {
    let mut client = connect("exec?command=cat&stdin=1&stdout=1", "v5.channel.k8s.io").await;
    let (mut sink, mut source) = (&mut client).split();
    let message = [vec![0], vec![b'x'; 2 << 20]].concat();
    let send = async {
        sink.send(Message::Binary(message.into())).await.unwrap();
        sink.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.unwrap();
    };
    let receive = async {
        let mut length = 0;
        while let Some(Ok(message)) = source.next().await {
            if let Message::Binary(bytes) = message
                && bytes[0] == channel::STDOUT
            {
                length += bytes.len() - 1;
            }
        }
        length
    };
    assert_eq!(tokio::join!(send, receive).1, 2 << 20);
}

#[tokio::test]
async fn channels_in_base64() {
    let mut client = connect("exec?command=cat&stdin=1&stdout=1", "v4.base64.channel.k8s.io").await;
    let mut text = String::new();
    // "hi" on channel 0; what is no base64 is passed over.
    for message in ["0!", "0aGk="] {
        client.send(Message::text(message)).await.unwrap();
    }
    while !text.contains("1aGk=") {
        match client.next().await.unwrap().unwrap() {
            Message::Text(piece) => text.push_str(&piece),
            other => panic!("{other:?}"),
        }
    }
}
