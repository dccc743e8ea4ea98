//! A session whose holders take nothing, or late; time is not waited for.

use tokio::io::DuplexStream;

use super::*;

/// A client's end and the streams that it opens.
struct Client {
    stream: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
    opened: mpsc::Receiver<Stream>,
}

impl Client {
    fn new(stalled: Stalled) -> Client {
        let (stream, theirs) = tokio::io::duplex(64 << 10);
        let (sender, opened) = mpsc::channel(8);
        tokio::spawn(run(theirs, sender, stalled));
        Client {
            stream,
            encoder: Encoder::default(),
            decoder: Decoder::default(),
            buffer: BytesMut::new(),
            opened,
        }
    }

    async fn send(&mut self, frame: Frame) {
        self.stream.write_all(&self.encoder.bytes(&frame)).await.unwrap();
    }

    async fn open(&mut self, stream: u32) -> Stream {
        self.send(Frame::SynStream { stream, fin: false, headers: Headers::new() }).await;
        self.opened.recv().await.unwrap()
    }

    /// More than a session holds, on one stream.
    async fn flood(&mut self, stream: u32) {
        let bytes = Bytes::from(vec![0; 512 << 10]);
        for _ in 0..SESSION_BYTES / bytes.len() {
            self.send(Frame::Data { stream, fin: false, bytes: bytes.clone() }).await;
        }
    }

    /// The next frame that is neither a reply nor a window nor a question.
    async fn next(&mut self) -> Frame {
        loop {
            match self.decoder.next(&mut self.buffer).unwrap() {
                Some(Frame::SynReply { .. } | Frame::WindowUpdate { .. } | Frame::Ping { id: PING }) => {}
                Some(frame) => return frame,
                None => assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_reader_is_broken_off_and_the_others_go_on() {
    let mut client = Client::new(Stalled::BreakOff);
    let dead = client.open(1).await;
    let mut alive = client.open(3).await;
    client.flood(1).await;
    let bytes = Bytes::from_static(b"hello");
    client.send(Frame::Data { stream: 3, fin: false, bytes: bytes.clone() }).await;
    client.send(Frame::Ping { id: 1 }).await;
    let start = Instant::now();
    assert_eq!(client.next().await, Frame::Reset { stream: 1, status: FLOW_CONTROL_ERROR });
    assert!(start.elapsed() >= PATIENCE - Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(client.next().await, Frame::Ping { id: 1 });
    assert_eq!(alive.inlet.recv().await, Some(bytes));
    dead.outlet.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_process_is_waited_for() {
    let mut client = Client::new(Stalled::Wait);
    let mut stream = client.open(1).await;
    client.flood(1).await;
    client.send(Frame::Data { stream: 1, fin: true, bytes: Bytes::from_static(b"end") }).await;
    tokio::time::sleep(PATIENCE * 10).await;
    let mut all = 0;
    while let Some(piece) = stream.inlet.recv().await {
        all += piece.len();
    }
    assert_eq!(all, SESSION_BYTES + 3);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_broken_off() {
    let mut client = Client::new(Stalled::BreakOff);
    let mut slow = client.open(1).await;
    client.flood(1).await;
    client.send(Frame::Ping { id: 1 }).await;
    for _ in 0..5 {
        tokio::time::sleep(PATIENCE / 3).await;
        slow.inlet.recv().await.unwrap();
    }
    assert_eq!(client.next().await, Frame::Ping { id: 1 });
    // A reset that comes behind the flood is seen as well.
    client.send(Frame::Reset { stream: 1, status: 5 }).await;
    slow.outlet.closed().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_left_a_full_session_is_missed() {
    let mut client = Client::new(Stalled::Wait);
    let stream = client.open(1).await;
    client.flood(1).await;
    let Client { stream: connection, .. } = client;
    drop(connection);
    tokio::time::timeout(PATIENCE * 3, stream.outlet.closed()).await.unwrap();
}
