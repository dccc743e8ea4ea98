//! Questions over UDP and TCP: answered from the zone, or passed on.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::exchange::Transport;
use super::upstream::Upstream;
use super::zone::{Answer, Zone};

/// The largest question.
const QUESTION_BYTES: usize = 4096;
/// Without EDNS, datagrams may have so many bytes (RFC 1035 4.2.1).
const PLAIN_BYTES: u16 = 512;
/// What we offer, and the most we send in a datagram however much a client takes: no fragments.
const DATAGRAM_BYTES: u16 = 1232;
/// How many questions may wait for other servers.
const PENDING: usize = 1024;
/// How many TCP connections are served at once.
const CONNECTIONS: usize = 256;
/// A TCP connection may be silent, or its client not read, for so long.
const IDLE: Duration = Duration::from_secs(10);
/// How many names an alias may lead through.
const ALIASES: usize = 8;

/// What answers are made of; the zone is swapped whole.
pub struct Server {
    zone: RwLock<Arc<Zone>>,
    upstream: Upstream,
    pending: Semaphore,
}

impl Server {
    /// A server with an empty zone.
    pub fn new(upstream: Upstream) -> Server {
        Server { zone: RwLock::default(), upstream, pending: Semaphore::new(PENDING) }
    }

    /// Answers from this zone from now on.
    pub fn set_zone(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
    }

    fn zone(&self) -> Arc<Zone> {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves datagrams for as long as it is polled.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut tasks = JoinSet::new();
        let mut buffer = vec![0; QUESTION_BYTES];
        loop {
            let (length, client) = tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok(received) => received,
                    // An earlier answer found no one; that is not this question's affair.
                    Err(error) => {
                        tracing::debug!(%error, "a datagram was not received");
                        continue;
                    }
                },
                Some(_) = tasks.join_next() => continue,
            };
            let (server, socket, question) = (self.clone(), socket.clone(), buffer[..length].to_vec());
            let answering = async move {
                if let Some(answer) = server.answer(&question, Transport::Udp).await
                    && let Err(error) = socket.send_to(&answer, client).await
                {
                    tracing::debug!(%error, %client, "an answer was not sent");
                }
            };
            tasks.spawn(answering);
        }
    }

    /// Serves connections for as long as it is polled.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            let permit = room.clone().acquire_owned().await;
            let stream = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "could not accept a connection to the name server");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                Some(_) = tasks.join_next() => continue,
            };
            let server = self.clone();
            tasks.spawn(async move {
                let _permit = permit;
                if let Err(error) = server.converse(stream).await {
                    tracing::debug!(%error, "a connection to the name server ended");
                }
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let read = async {
                let length = stream.read_u16().await?;
                let mut question = vec![0; usize::from(length)];
                stream.read_exact(&mut question).await.map(|_| question)
            };
            let question = match tokio::time::timeout(IDLE, read).await {
                Ok(Ok(question)) => question,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let Some(answer) = self.answer(&question, Transport::Tcp).await else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            let bytes = [&length.to_be_bytes()[..], &answer].concat();
            match tokio::time::timeout(IDLE, stream.write_all(&bytes)).await {
                Ok(written) => written?,
                Err(_) => return Ok(()),
            }
        }
    }

    /// The answer to one message; `None` when it deserves none.
    pub async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let Ok(question) = Message::from_vec(bytes) else { return refusal(bytes) };
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        if question.metadata.op_code != OpCode::Query {
            answer.metadata.response_code = ResponseCode::NotImp;
            return answer.to_vec().ok();
        }
        let [asked] = &question.queries[..] else {
            answer.metadata.response_code = ResponseCode::FormErr;
            return answer.to_vec().ok();
        };
        answer.add_query(asked.clone());
        let zone = self.zone();
        answer.metadata.authoritative = true;
        match zone.answer(asked.name(), asked.query_type()) {
            Answer::Records(records) => {
                let Followed { mut records, code, truncated, authority } =
                    self.follow(&zone, records, asked.query_type(), transport).await;
                answer.metadata.response_code = code;
                answer.metadata.truncation = truncated;
                answer.add_authorities(authority);
                // Clients take the first address: not always the same one.
                let turn = usize::from(question.metadata.id) % records.len().max(1);
                let is_address =
                    |record: &Record| matches!(record.record_type(), RecordType::A | RecordType::AAAA);
                if records.iter().all(is_address) {
                    records.rotate_left(turn);
                }
                answer.add_additionals(zone.additional(&records));
                answer.add_answers(records);
            }
            Answer::NoData(authority) => {
                answer.add_authority(authority);
            }
            Answer::NoSuchName(authority) => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                answer.add_authority(authority);
            }
            Answer::NotOurs if self.upstream.hears_itself(asked.name()) => {
                answer.metadata.authoritative = false;
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            Answer::NotOurs => match self.ask(bytes, transport).await {
                Some(passed_on) => return Some(passed_on),
                None => {
                    answer.metadata.authoritative = false;
                    answer.metadata.response_code = ResponseCode::ServFail;
                }
            },
        }
        let room = match transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => room(question.edns.as_ref()),
        };
        if question.edns.is_some() {
            answer.set_edns(own_edns());
        }
        fitted(answer, room)
    }

    /// What other servers say; `None` too when so many questions wait for them that one more would only wait as well.
    async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let _permit = self.pending.try_acquire().ok()?;
        self.upstream.ask(question, transport).await
    }

    /// Follows an alias to the records that were asked for.
    async fn follow(
        &self,
        zone: &Zone,
        records: Vec<Record>,
        kind: RecordType,
        transport: Transport,
    ) -> Followed {
        let mut followed =
            Followed { records, code: ResponseCode::NoError, truncated: false, authority: Vec::new() };
        for _ in 0..ALIASES {
            let target = match followed.records.last().map(|record| &record.data) {
                Some(RData::CNAME(target)) if !matches!(kind, RecordType::CNAME | RecordType::ANY) => {
                    target.0.clone()
                }
                _ => return followed,
            };
            match zone.answer(&target, kind) {
                Answer::Records(more) => followed.records.extend(more),
                Answer::NoData(authority) => {
                    followed.authority.push(authority);
                    return followed;
                }
                Answer::NoSuchName(authority) => {
                    followed.code = ResponseCode::NXDomain;
                    followed.authority.push(authority);
                    return followed;
                }
                Answer::NotOurs => {
                    match self.elsewhere(target, kind, transport).await {
                        Some(answer) => {
                            followed.records.extend(answer.answers);
                            followed.code = answer.metadata.response_code;
                            followed.truncated = answer.metadata.truncation;
                            followed.authority = answer.authorities;
                        }
                        None => followed.code = ResponseCode::ServFail,
                    }
                    return followed;
                }
            }
        }
        followed
    }

    async fn elsewhere(&self, name: Name, kind: RecordType, transport: Transport) -> Option<Message> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, kind));
        message.set_edns(own_edns());
        let answer = self.ask(&message.to_vec().ok()?, transport).await?;
        Message::from_vec(&answer).ok()
    }
}

/// Where an alias has led.
struct Followed {
    records: Vec<Record>,
    /// What is said of the last name.
    code: ResponseCode,
    truncated: bool,
    authority: Vec<Record>,
}

/// What we say of ourselves to clients and servers.
fn own_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM_BYTES);
    edns
}

/// How many bytes a client takes in a datagram.
fn room(edns: Option<&Edns>) -> u16 {
    edns.map_or(PLAIN_BYTES, |edns| edns.max_payload().clamp(PLAIN_BYTES, DATAGRAM_BYTES))
}

/// The message as bytes; truncated when it is too large, so that the client asks again over TCP.
fn fitted(mut message: Message, room: u16) -> Option<Vec<u8>> {
    let whole = message.to_vec().ok()?;
    if whole.len() <= usize::from(room) {
        return Some(whole);
    }
    // The addresses beside SRV records are a courtesy only.
    message.additionals.clear();
    let bare = message.to_vec().ok()?;
    if bare.len() <= usize::from(room) {
        return Some(bare);
    }
    message.metadata.truncation = true;
    while !message.answers.is_empty() {
        message.answers.truncate(message.answers.len() / 2);
        let less = message.to_vec().ok()?;
        if less.len() <= usize::from(room) {
            return Some(less);
        }
    }
    message.to_vec().ok()
}

/// What a damaged message gets: its id back, with `FORMERR`.
fn refusal(bytes: &[u8]) -> Option<Vec<u8>> {
    let (id, flags) = (bytes.get(..2)?, *bytes.get(2)?);
    if flags & 0x80 != 0 {
        return None;
    }
    let id = u16::from_be_bytes([id[0], id[1]]);
    Message::error_msg(id, OpCode::Query, ResponseCode::FormErr).to_vec().ok()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn too_many_questions_fail_at_once_instead_of_waiting() {
        // A server that never answers.
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = Server::new(Upstream::fixed(vec![silent.local_addr().unwrap()]));
        server.pending.forget_permits(PENDING);
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii("example.org.").unwrap(), RecordType::A));
        let bytes = question.to_vec().unwrap();
        let answer = server.answer(&bytes, Transport::Udp);
        let answer = answer.now_or_never().expect("an answer at once").unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }
}
