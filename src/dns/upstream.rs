//! Questions about other names, passed on as they are to the servers that the host itself uses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one server may take before the next is asked.
const PATIENCE: Duration = Duration::from_secs(2);
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

/// The servers of the host, as its resolver configuration names them at the moment.
#[derive(Debug)]
pub struct Upstream {
    /// The first that names a server that is not of this machine counts.
    files: Vec<PathBuf>,
    own: Vec<IpAddr>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    written: Vec<Option<SystemTime>>,
    servers: Vec<SocketAddr>,
}

impl Upstream {
    /// Reads these files (again whenever they change); `own` are the addresses of the cluster's own server.
    pub fn new(files: Vec<PathBuf>, own: Vec<IpAddr>) -> Upstream {
        Upstream { files, own, known: Mutex::default() }
    }

    /// Always these servers.
    pub fn fixed(servers: Vec<SocketAddr>) -> Upstream {
        let known = Known { written: Vec::new(), servers };
        Upstream { files: Vec::new(), own: Vec::new(), known: Mutex::new(known) }
    }

    /// The servers, in the order in which they are asked.
    pub fn servers(&self) -> Vec<SocketAddr> {
        let written: Vec<_> =
            self.files.iter().map(|file| std::fs::metadata(file).and_then(|m| m.modified()).ok()).collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.written != written {
            let read =
                |file| std::fs::read_to_string(file).map(|text| parse(&text, &self.own)).unwrap_or_default();
            known.servers = self.files.iter().map(read).find(|found| !found.is_empty()).unwrap_or_default();
            known.written = written;
        }
        known.servers.clone()
    }

    /// Asks one server after the other; `None` when none of them answered.
    pub async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        for server in self.servers() {
            let asked = async {
                match transport {
                    Transport::Udp => over_udp(server, question).await,
                    Transport::Tcp => over_tcp(server, question).await,
                }
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a name server failed"),
                Err(_) => tracing::debug!(%server, "a name server did not answer in time"),
            }
        }
        None
    }
}

/// The `nameserver` lines that name a server outside of this machine.
fn parse(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        })
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .filter(|address| !address.is_loopback() && !address.is_unspecified() && !own.contains(address))
        .map(|address| SocketAddr::new(address, 53))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_outside_are_asked() {
        let own = ["10.96.0.10".parse().unwrap()];
        let text = "# comment\nsearch a b\nnameserver 127.0.0.53\nnameserver 10.96.0.10\n nameserver 192.0.2.1 \n\
                    nameserver\nnameserver ::1\nnameserver 2001:db8::1\n";
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(parse(text, &own), expected);
    }

    #[test]
    fn changes_of_the_files_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&first, "nameserver 127.0.0.53\n").unwrap();
        std::fs::write(&second, "nameserver 192.0.2.2\n").unwrap();
        let upstream = Upstream::new(vec![first.clone(), second], Vec::new());
        assert_eq!(upstream.servers(), ["192.0.2.2:53".parse().unwrap()]);
        std::fs::write(&first, "nameserver 192.0.2.1\n").unwrap();
        let later = SystemTime::now() + Duration::from_secs(9);
        std::fs::File::options().write(true).open(&first).unwrap().set_modified(later).unwrap();
        assert_eq!(upstream.servers(), ["192.0.2.1:53".parse().unwrap()]);
    }
}
