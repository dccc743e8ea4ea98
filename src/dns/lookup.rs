//! Addresses of names, as another part of the daemon asks this server for them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};

use super::exchange::{self, Transport};

/// How long one answer is waited for. A datagram is lost at times, so that a second question goes by a stream.
const PATIENCE: Duration = Duration::from_secs(2);

/// The addresses that a server has for a name, of both families; none when there is no such name.
///
/// # Errors
/// When it is no name, or the server does not answer.
pub async fn addresses(server: SocketAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).map_err(io::Error::other)?;
    let (v4, v6) =
        tokio::join!(records(server, &name, RecordType::A), records(server, &name, RecordType::AAAA));
    let mut found = v4?;
    found.extend(v6?);
    Ok(found)
}

async fn records(server: SocketAddr, name: &Name, kind: RecordType) -> io::Result<Vec<IpAddr>> {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let question = question.to_vec().map_err(io::Error::other)?;
    let ask = async |transport| {
        let answer = tokio::time::timeout(PATIENCE, exchange::ask(server, &question, transport)).await??;
        Message::from_vec(&answer).map_err(io::Error::other)
    };
    let answer = match ask(Transport::Udp).await {
        Ok(answer) if !answer.metadata.truncation => answer,
        _ => ask(Transport::Tcp).await?,
    };
    let address = |data: &RData| match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    };
    // Aliases come along, and from some servers what nobody asked for.
    let asked = answer.answers.iter().filter(|record| record.record_type() == kind);
    Ok(asked.filter_map(|record| address(&record.data)).collect())
}
