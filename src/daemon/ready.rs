//! When a cluster is ready, and telling so to whoever started it.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::io::AsyncWriteExt;
use tokio::net::{UdpSocket, UnixStream};

use super::{DNS_PORT, Error};
use crate::api::request::ListOptions;
use crate::client::Client;
use crate::client::reflector::Reflector;

/// Between two looks at what announces nothing: the route of services, the server's knowledge. The same long an answer is
/// waited for at first; a question that comes before the service's rules is lost.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// The longest that one answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Waits until this node is Ready, and DNS at the address that pods use knows the API server's name.
pub async fn wait(client: &Client, node: &str, dns: Dns<'_>) {
    tokio::join!(node_is_ready(client, node), answers(dns));
}

/// The DNS server as pods use it.
pub struct Dns<'a> {
    /// The address of its service.
    pub service: Ipv4Addr,
    /// The host's address on the pod network, from which the service is asked.
    pub gateway: Ipv4Addr,
    /// The domain of the cluster's names.
    pub domain: &'a str,
}

async fn node_is_ready(client: &Client, node: &str) {
    let selector = ListOptions { field_selector: format!("metadata.name={node}"), ..ListOptions::default() };
    let (nodes, feed) = Reflector::<Node>::new(client.all::<Node>(), selector);
    let is_ready = async {
        let mut changes = nodes.subscribe();
        loop {
            let ready = nodes.get(node).is_some_and(|n| {
                let conditions = n.status.iter().flat_map(|s| s.conditions.iter().flatten());
                conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
            });
            if ready || changes.next().await.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = feed => {}
        () = is_ready => {}
    }
}

/// Waits until the DNS server answers for `kubernetes.default.svc`.
async fn answers(dns: Dns<'_>) {
    let question = question(&format!("kubernetes.default.svc.{}", dns.domain));
    let mut patience = ASK_AGAIN;
    loop {
        match ask(&dns, &question, patience).await {
            Ok(Asked::Answered) => return,
            Ok(Asked::Lost) => patience = (patience * 2).min(ANSWER_MAX),
            Ok(Asked::NotYet) | Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

/// What became of a question.
enum Asked {
    /// The server knows the name.
    Answered,
    /// No answer came in time.
    Lost,
    /// Services have no route yet, or the server does not know the name.
    NotYet,
}

/// Asks from a socket of its own: a connection that was tracked before the service's rules would be led past them.
async fn ask(dns: &Dns<'_>, question: &[u8], patience: Duration) -> std::io::Result<Asked> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect((dns.service, DNS_PORT)).await?;
    // Before services have their route, the question would leave the host.
    if socket.local_addr()?.ip() != dns.gateway {
        return Ok(Asked::NotYet);
    }
    socket.send(question).await?;
    let mut answer = [0u8; 512];
    let Ok(got) = tokio::time::timeout(patience, socket.recv(&mut answer)).await else {
        return Ok(Asked::Lost);
    };
    // RFC 1035, 4.1.1: the low four bits of the fourth byte are the response code, bytes 6 and 7 the answers.
    let known = got? > 12 && answer[3] & 0x0f == 0 && (answer[6], answer[7]) != (0, 0);
    Ok(if known { Asked::Answered } else { Asked::NotYet })
}

/// A question for an A record (RFC 1035, 4.1).
fn question(name: &str) -> Vec<u8> {
    let mut bytes = vec![0x6d, 0x6b, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// The connection to whoever started the daemon, which is told how the start goes, a line each: `credentials` when those
/// of the administrator are written, then `ready` or `failed WHY`.
#[derive(Default)]
pub struct Notice(Option<UnixStream>);

impl Notice {
    /// Connects to the one who listens there; if nobody does, nobody is told.
    pub async fn to(socket: Option<&Path>) -> Notice {
        match socket {
            Some(socket) => Notice(UnixStream::connect(socket).await.ok()),
            None => Notice(None),
        }
    }

    /// The administrator's certificate and key can be read.
    pub async fn credentials(&mut self) {
        self.say("credentials\n").await;
    }

    /// The cluster is ready.
    pub async fn ready(&mut self) {
        self.say("ready\n").await;
    }

    /// The cluster does not start.
    pub async fn failed(&mut self, error: &Error) {
        self.say(&format!("failed {}\n", error.to_string().replace('\n', "; "))).await;
    }

    async fn say(&mut self, line: &str) {
        if let Some(stream) = &mut self.0
            && stream.write_all(line.as_bytes()).await.is_err()
        {
            // Who no longer listens need not know.
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_has_its_form() {
        let bytes = question("a.bc");
        assert_eq!(&bytes[12..], [1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
        assert_eq!(bytes[5], 1);
    }
}
