//! One question to one other server and its answer, over UDP or TCP.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// The largest answer over UDP.
const DATAGRAM: usize = 65_535;
/// A message's header, in bytes.
const HEADER: usize = 12;

/// Over which transport a question came, and so is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream, with two bytes of length before each message.
    Tcp,
}

/// Asks a server; the answer has the id of the question.
///
/// # Errors
/// When the server cannot be reached or answers another question.
pub async fn ask(server: SocketAddr, question: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    match transport {
        Transport::Udp => over_udp(server, question).await,
        Transport::Tcp => over_tcp(server, question).await,
    }
}

async fn over_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any = match server {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    // A port and an id of its own for each question: answers are hard to forge.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let (sent, id) = with_fresh_id(question);
    socket.send(&sent).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answers(&answer[..length], &sent, id) {
            answer.truncate(length);
            return Ok(with_id_of(answer, question));
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let (sent, id) = with_fresh_id(question);
    let length = u16::try_from(sent.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &sent].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if !answers(&answer, &sent, id) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is to another question"));
    }
    Ok(with_id_of(answer, question))
}

fn with_fresh_id(question: &[u8]) -> (Vec<u8>, [u8; 2]) {
    let random = crate::client::random_u64().to_be_bytes();
    let id = [random[0], random[1]];
    let mut sent = question.to_vec();
    sent.iter_mut().zip(id).for_each(|(byte, new)| *byte = new);
    (sent, id)
}

fn with_id_of(mut answer: Vec<u8>, question: &[u8]) -> Vec<u8> {
    answer.iter_mut().zip(question.iter().take(2)).for_each(|(byte, asked)| *byte = *asked);
    answer
}

/// Whether this is a response with our id to our question.
fn answers(answer: &[u8], sent: &[u8], id: [u8; 2]) -> bool {
    let Some(end) = question_end(sent) else { return false };
    answer.len() >= HEADER
        && answer[..2] == id
        && answer[2] & 0x80 != 0
        // A refusal may come without the question.
        && (answer[4..6] == [0, 0]
            || answer.get(HEADER..end).is_some_and(|asked| asked.eq_ignore_ascii_case(&sent[HEADER..end])))
}

/// Whether an answer says that the server could not or would not find out (`SERVFAIL`, `REFUSED`): another may.
pub fn is_failure(answer: &[u8]) -> bool {
    answer.get(3).is_some_and(|flags| matches!(flags & 0x0f, 2 | 5))
}

/// Where the first question ends: its name, type and class.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        if length == 0 {
            return (at + 4 <= message.len()).then_some(at + 4);
        }
    }
}
