//! Questions about other names, passed on as they are to the servers that the host itself uses.
//!
//! A server that was silent comes last for a while, so that a dead one does not cost every question its time. A server
//! that leads back here, by whatever way, would multiply each question for ever: each server that may is sent one
//! question that nobody else asks, and is left out when this question arrives here.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::time::{Instant, timeout};

use super::exchange::{self, Transport};
use super::resolvers;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the next server waits for one that was silent before and gets another chance.
const TRIAL: Duration = Duration::from_millis(300);
/// How long a silent server comes last.
const REST: Duration = Duration::from_secs(30);

/// The files that name the host's servers.
#[derive(Debug, Clone)]
pub struct Files {
    /// The host's `resolv.conf`.
    pub host: PathBuf,
    /// The one in which systemd-resolved names its real servers.
    pub resolved: PathBuf,
}

/// The servers of the host, as its resolver configuration names them at the moment.
#[derive(Debug)]
pub struct Upstream {
    files: Option<Files>,
    own: Vec<IpAddr>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When the files were written that the servers are from.
    written: Option<[Option<SystemTime>; 2]>,
    servers: Vec<SocketAddr>,
    /// Since when servers have not answered.
    silent: HashMap<SocketAddr, Instant>,
    /// The question by which each server is known to have been looked at.
    probes: HashMap<SocketAddr, Name>,
    circular: HashSet<SocketAddr>,
}

impl Upstream {
    /// Reads these files (again whenever they change); `own` are the addresses of the cluster's own server.
    pub fn new(files: Files, own: Vec<IpAddr>) -> Upstream {
        Upstream { files: Some(files), own, known: Mutex::default() }
    }

    /// Always these servers.
    pub fn fixed(servers: Vec<SocketAddr>) -> Upstream {
        let known = Known { servers, ..Known::default() };
        Upstream { files: None, own: Vec::new(), known: Mutex::new(known) }
    }

    /// The servers, in the order in which they are asked, each with the time before the next one is asked too.
    fn servers(&self) -> Vec<(SocketAddr, Duration)> {
        let mut known = self.lock();
        if let Some(files) = &self.files {
            known.read(files, &self.own);
        }
        known.order(Instant::now())
    }

    /// Asks one server after the other; `None` when none of them answered.
    pub async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut servers = self.servers().into_iter();
        self.probe();
        let (mut asked, mut waiting) = (FuturesUnordered::new(), Vec::new());
        let mut failure = None;
        loop {
            let head_start = match servers.next() {
                Some((server, head_start)) => {
                    let ask = timeout(PATIENCE, exchange::ask(server, question, transport));
                    asked.push(async move { (server, ask.await) });
                    waiting.push(server);
                    head_start
                }
                None if asked.is_empty() => return failure,
                None => PATIENCE,
            };
            let Ok(Some((server, answer))) = timeout(head_start, asked.next()).await else { continue };
            waiting.retain(|other| *other != server);
            match answer {
                Ok(Ok(answer)) if exchange::is_failure(&answer) => {
                    self.lock().silent.remove(&server);
                    failure.get_or_insert(answer);
                }
                Ok(Ok(answer)) => {
                    let mut known = self.lock();
                    known.silent.remove(&server);
                    known.failed_trial(&waiting, Instant::now());
                    return Some(answer);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, "a name server failed");
                    self.lock().silent.insert(server, Instant::now());
                }
                Err(_) => {
                    tracing::debug!(%server, "a name server did not answer in time");
                    self.lock().silent.insert(server, Instant::now());
                }
            }
        }
    }

    /// Sends its own question to each server that may lead back here and was not sent one yet.
    fn probe(&self) {
        for (server, name) in self.lock().new_probes() {
            let mut message = Message::query();
            message.metadata.recursion_desired = true;
            message.add_query(Query::query(name, RecordType::HINFO));
            let Ok(bytes) = message.to_vec() else { continue };
            tokio::spawn(async move {
                // What matters is whether the question arrives, not what is answered.
                let _ = timeout(PATIENCE, exchange::ask(server, &bytes, Transport::Udp)).await;
            });
        }
    }

    /// Whether a question that arrived here is one that was sent from here to see where it goes; the server that it was
    /// sent to is asked no more.
    pub fn hears_itself(&self, name: &Name) -> bool {
        let mut known = self.lock();
        let Some(server) = known.probes.iter().find(|(_, probe)| *probe == name).map(|(server, _)| *server)
        else {
            return false;
        };
        if known.circular.insert(server) {
            tracing::warn!(
                %server,
                "the host's name server leads back to this cluster's: it is left out for names of other domains"
            );
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Takes over what the files say when they have changed.
    fn read(&mut self, files: &Files, own: &[IpAddr]) {
        let modified = |file: &Path| std::fs::metadata(file).and_then(|m| m.modified()).ok();
        let written = Some([modified(&files.host), modified(&files.resolved)]);
        if self.written == written {
            return;
        }
        // A file that is not there names nobody.
        let text = |file| std::fs::read_to_string(file).unwrap_or_default();
        let (host, resolved) = (text(&files.host), text(&files.resolved));
        if resolvers::names_any(&host, own) {
            tracing::warn!(
                file = %files.host.display(),
                "the host's resolver asks this cluster: for names of other domains it needs another server beside"
            );
        }
        let link = |name: &str| nix::net::if_::if_nametoindex(name).ok();
        self.servers = resolvers::choose(&host, &resolved, own, link);
        // A way that led back here may have been changed with the files.
        self.probes.clear();
        self.circular.clear();
        self.written = written;
    }

    /// The order in which to ask, with head starts: servers that were silent lately come last. (pure)
    fn order(&self, now: Instant) -> Vec<(SocketAddr, Duration)> {
        let rests = |server: &SocketAddr| self.silent.get(server).is_some_and(|since| now - *since < REST);
        let usable = self.servers.iter().filter(|server| !self.circular.contains(server));
        let (last, first): (Vec<&SocketAddr>, Vec<&SocketAddr>) = usable.partition(|server| rests(server));
        let start = |server: &SocketAddr| match self.silent.contains_key(server) {
            true => TRIAL,
            false => PATIENCE,
        };
        first.into_iter().chain(last).map(|server| (*server, start(server))).collect()
    }

    /// Servers that were silent before have been overtaken by another.
    fn failed_trial(&mut self, servers: &[SocketAddr], now: Instant) {
        for server in servers {
            if let Some(since) = self.silent.get_mut(server) {
                *since = now;
            }
        }
    }

    /// Names to be asked of servers near this host, which alone can lead back to it.
    fn new_probes(&mut self) -> Vec<(SocketAddr, Name)> {
        let near = |server: &&SocketAddr| match server.ip() {
            IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
            IpAddr::V6(address) => {
                address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
            }
        };
        let unknown: Vec<SocketAddr> =
            self.servers.iter().filter(near).filter(|s| !self.probes.contains_key(s)).copied().collect();
        let mut new = Vec::new();
        for server in unknown {
            // Not below a domain that forwarders answer for by themselves.
            let (a, b) = (crate::client::random_u64(), crate::client::random_u64());
            let Ok(name) = Name::from_ascii(format!("{a:016x}.{b:016x}.")) else { continue };
            self.probes.insert(server, name.clone());
            new.push((server, name));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn changes_of_the_files_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files { host: dir.path().join("a"), resolved: dir.path().join("b") };
        std::fs::write(&files.host, "nameserver 127.0.0.53\n").unwrap();
        std::fs::write(&files.resolved, "nameserver 192.0.2.2\n").unwrap();
        let upstream = Upstream::new(files.clone(), Vec::new());
        let servers = || upstream.servers().into_iter().map(|(server, _)| server).collect::<Vec<_>>();
        assert_eq!(servers(), [at("192.0.2.2:53")]);
        std::fs::write(&files.host, "nameserver 192.0.2.1\n").unwrap();
        let later = SystemTime::now() + Duration::from_secs(9);
        std::fs::File::options().write(true).open(&files.host).unwrap().set_modified(later).unwrap();
        assert_eq!(servers(), [at("192.0.2.1:53")]);
    }

    #[test]
    fn silent_servers_come_last_and_then_get_a_trial() {
        let (a, b, c) = (at("192.0.2.1:53"), at("192.0.2.2:53"), at("192.0.2.3:53"));
        let start = Instant::now();
        let mut known = Known {
            servers: vec![a, b, c],
            silent: [(a, start)].into(),
            circular: [b].into(),
            ..Known::default()
        };
        assert_eq!(known.order(start), [(c, PATIENCE), (a, TRIAL)]);
        let later = start + REST;
        assert_eq!(known.order(later), [(a, TRIAL), (c, PATIENCE)]);
        known.failed_trial(&[a, c], later);
        assert_eq!(known.order(later), [(c, PATIENCE), (a, TRIAL)]);
    }

    #[test]
    fn only_servers_near_by_are_probed_once() {
        let near = [at("127.0.0.1:53"), at("10.1.2.3:53"), at("[fe80::1%2]:53")];
        let mut known = Known { servers: [&near[..], &[at("192.0.2.1:53")]].concat(), ..Known::default() };
        let sent: Vec<SocketAddr> = known.new_probes().into_iter().map(|(server, _)| server).collect();
        assert_eq!(sent, near);
        assert!(known.new_probes().is_empty());
    }
}
