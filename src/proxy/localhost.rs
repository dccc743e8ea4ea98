//! Ports of the node on loopback, served in user space.
//!
//! The kernel would forward loopback's addresses only with `route_localnet`, which opens loopback services to the
//! neighbours (CVE-2020-8558). So here are ordinary listeners, one for each port, that exist as long as the
//! service does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::family::Address;
use super::state::{Backends, Endpoint, Protocol};

/// How long an endpoint has to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A UDP client that says and hears nothing for so long is forgotten; the kernel's own time for a stream.
const UDP_IDLE: Duration = Duration::from_secs(120);
/// How long to wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The largest datagram.
const DATAGRAM: usize = 65_535;
/// UDP clients served at a time by one port.
const UDP_CLIENTS: usize = 4096;

/// What a listener spreads over, and its tasks.
type Open<A> = (watch::Sender<Choice<A>>, JoinSet<()>);

/// The listeners that are open, with the endpoints each of them spreads over.
#[derive(Debug)]
pub struct Listeners<A: Address = Ipv4Addr> {
    open: BTreeMap<(Protocol, u16), Open<A>>,
}

impl<A: Address> Default for Listeners<A> {
    fn default() -> Self {
        Listeners { open: BTreeMap::new() }
    }
}

impl<A: Address> Listeners<A> {
    /// Opens, changes and closes listeners until there is one for each wanted port. Ports that cannot be had,
    /// with the reasons, are tried again on the next call.
    pub async fn set(
        &mut self,
        wanted: &BTreeMap<(Protocol, u16), Backends<A>>,
    ) -> Vec<(Protocol, u16, io::Error)> {
        // Dropping a listener's tasks closes its connections too, as the end of a service should.
        self.open.retain(|port, _| wanted.contains_key(port));
        let mut failed = Vec::new();
        for ((protocol, port), backends) in wanted {
            if let Some((choice, _)) = self.open.get(&(*protocol, *port)) {
                choice.send_if_modified(|choice| {
                    let differs = choice.backends != *backends;
                    if differs {
                        choice.backends = backends.clone();
                    }
                    differs
                });
                continue;
            }
            let (sender, choice) = watch::channel(Choice::new(backends.clone()));
            match listen(*protocol, *port, choice).await {
                Ok(tasks) => _ = self.open.insert((*protocol, *port), (sender, tasks)),
                Err(error) => failed.push((*protocol, *port, error)),
            }
        }
        failed
    }
}

/// An endpoint with which clients stay, and until when.
type Kept<A> = (Endpoint<A>, Instant);

/// Draws endpoints one after the other, or always the same one where clients stay: they all have one address.
#[derive(Debug, Clone)]
struct Choice<A: Address> {
    backends: Backends<A>,
    drawn: Arc<AtomicUsize>,
    /// With whom clients stay, and until when.
    kept: Arc<Mutex<Option<Kept<A>>>>,
}

impl<A: Address> Choice<A> {
    fn new(backends: Backends<A>) -> Choice<A> {
        Choice { backends, drawn: Arc::default(), kept: Arc::default() }
    }

    /// An endpoint, after so many that did not answer.
    fn draw(&self, refused: usize) -> Option<Endpoint<A>> {
        let endpoints = &self.backends.endpoints;
        let at = |number: usize| endpoints.get(number % endpoints.len().max(1)).copied();
        let Some(seconds) = self.backends.sticky else {
            return at(self.drawn.fetch_add(1, Ordering::Relaxed));
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let lasting = kept.filter(|(_, until)| now < *until);
        let known = lasting.and_then(|(known, _)| endpoints.iter().position(|endpoint| *endpoint == known));
        // Whoever did not answer was the last one that was drawn.
        let drawn = at(known.map_or(0, |known| known + usize::from(refused > 0)));
        *kept = drawn.map(|endpoint| (endpoint, now + Duration::from_secs(seconds.into())));
        drawn
    }
}

async fn listen<A: Address>(
    protocol: Protocol,
    port: u16,
    choice: watch::Receiver<Choice<A>>,
) -> io::Result<JoinSet<()>> {
    let mut tasks = JoinSet::new();
    for (number, address) in A::LOCAL.iter().enumerate() {
        let listening =
            listen_at(SocketAddr::new((*address).into(), port), protocol, choice.clone(), &mut tasks);
        match listening.await {
            Err(error) if number == 0 => return Err(error),
            // The second address is a courtesy; whoever has it may keep it.
            Err(error) => tracing::debug!(%address, port, %error, "opening a node port"),
            Ok(()) => {}
        }
    }
    Ok(tasks)
}

async fn listen_at<A: Address>(
    address: SocketAddr,
    protocol: Protocol,
    choice: watch::Receiver<Choice<A>>,
    tasks: &mut JoinSet<()>,
) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(address).await?;
            tasks.spawn(serve_tcp(listener, choice));
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(address).await?;
            tasks.spawn(serve_udp(Arc::new(socket), choice));
        }
        // The kernel part serves SCTP on the node's other addresses.
        Protocol::Sctp => {}
    }
    Ok(())
}

async fn serve_tcp<A: Address>(listener: TcpListener, choice: watch::Receiver<Choice<A>>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => _ = connections.spawn(splice(client, choice.clone())),
                Err(error) => {
                    tracing::warn!(%error, "accepting on a node port of loopback");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Copies both ways until both have ended; the end of one direction is passed on by itself. A connection that
/// cannot be made is reset, so that the client sees a failure and not an empty answer.
async fn splice<A: Address>(mut client: TcpStream, choice: watch::Receiver<Choice<A>>) {
    let Some(mut server) = connect(&choice).await else {
        // The client may be gone already.
        let _ = client.set_zero_linger();
        return;
    };
    // Small answers must not wait for acknowledgements. Failures show in the copying.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    if tokio::io::copy_bidirectional(&mut client, &mut server).await.is_err() {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Connects to an endpoint. One that refuses has just ended: nothing was sent to it, and another can have the connection.
async fn connect<A: Address>(choice: &watch::Receiver<Choice<A>>) -> Option<TcpStream> {
    let until = Instant::now() + CONNECT;
    let mut refused = 0;
    loop {
        let endpoint = choice.borrow().draw(refused)?;
        let connecting = TcpStream::connect(SocketAddr::new(endpoint.address.into(), endpoint.port));
        match timeout_at(until, connecting).await {
            Ok(Ok(server)) => return Some(server),
            Ok(Err(_)) => refused += 1,
            Err(_) => return None,
        }
        // The others may have changed meanwhile, but each of them gets one chance.
        if refused >= choice.borrow().backends.endpoints.len() {
            return None;
        }
    }
}

/// Hands each client's datagrams to a socket of its own, so that answers find back.
async fn serve_udp<A: Address>(socket: Arc<UdpSocket>, choice: watch::Receiver<Choice<A>>) {
    let mut clients: HashMap<SocketAddr, (Endpoint<A>, Arc<UdpSocket>)> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                // Errors here are refusals of earlier answers by clients that are gone.
                let Ok((length, client)) = received else { continue };
                let known = clients.get(&client).filter(|(endpoint, _)| {
                    choice.borrow().backends.endpoints.contains(endpoint)
                });
                let server = match known {
                    Some((_, server)) => server.clone(),
                    None if clients.len() >= UDP_CLIENTS => continue,
                    None => {
                        let endpoint = choice.borrow().draw(0);
                        let Some(endpoint) = endpoint else { continue };
                        let Ok(server) = connect_udp(endpoint).await else { continue };
                        let server = Arc::new(server);
                        clients.insert(client, (endpoint, server.clone()));
                        answers.spawn(answer(socket.clone(), client, server.clone()));
                        server
                    }
                };
                // A datagram may be lost; the client knows.
                let _ = server.send(&buffer[..length]).await;
            }
            Some(ended) = answers.join_next() => {
                if let Ok((client, server)) = ended
                    && clients.get(&client).is_some_and(|(_, current)| Arc::ptr_eq(current, &server))
                {
                    clients.remove(&client);
                }
            }
        }
    }
}

async fn connect_udp<A: Address>(endpoint: Endpoint<A>) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(A::ANY.into(), 0)).await?;
    socket.connect(SocketAddr::new(endpoint.address.into(), endpoint.port)).await?;
    Ok(socket)
}

/// Passes answers back until the endpoint is silent for long or refuses; says whose they were.
async fn answer(
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    server: Arc<UdpSocket>,
) -> (SocketAddr, Arc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM];
    while let Ok(Ok(length)) = tokio::time::timeout(UDP_IDLE, server.recv(&mut buffer)).await {
        let _ = socket.send_to(&buffer[..length], client).await;
    }
    (client, server)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const ADDRESSES: &[Ipv4Addr] = <Ipv4Addr as Address>::LOCAL;

    fn endpoint(address: SocketAddr) -> Endpoint {
        Endpoint { address: Ipv4Addr::LOCALHOST, port: address.port() }
    }

    /// A port that was free a moment ago.
    async fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    async fn one(port: (Protocol, u16), endpoints: Vec<Endpoint>) -> Listeners {
        let mut listeners = Listeners::default();
        let failed = listeners.set(&[(port, Backends { endpoints, ..Backends::default() })].into()).await;
        assert!(failed.is_empty(), "{failed:?}");
        listeners
    }

    #[tokio::test]
    async fn the_end_of_one_direction_leaves_the_other_open() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free_port().await;
        let mut listeners = one((Protocol::Tcp, port), vec![endpoint(server.local_addr().unwrap())]).await;
        let served = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut question = String::new();
            stream.read_to_string(&mut question).await.unwrap();
            stream.write_all(format!("heard {question}").as_bytes()).await.unwrap();
        });
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        client.write_all(b"all of it").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "heard all of it");
        served.await.unwrap();

        listeners.set(&BTreeMap::new()).await;
        // The aborted task closes its listener when the runtime gets to it.
        let refused = async {
            while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), refused).await.unwrap();
    }

    #[tokio::test]
    async fn without_an_endpoint_the_client_is_reset() {
        let port = free_port().await;
        let _listeners = one((Protocol::Tcp, port), vec![]).await;
        for address in ADDRESSES {
            let mut client = TcpStream::connect((*address, port)).await.unwrap();
            let error = client.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{address}");
        }
    }

    #[tokio::test]
    async fn whoever_refuses_is_passed_over() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = endpoint(server.local_addr().unwrap());
        let gone = Endpoint { port: free_port().await, ..here };
        for sticky in [None, Some(10)] {
            let port = free_port().await;
            let backends = Backends { endpoints: vec![gone, here], sticky, ..Backends::default() };
            let mut listeners = Listeners::default();
            assert!(listeners.set(&[((Protocol::Tcp, port), backends)].into()).await.is_empty());
            for _ in 0..4 {
                let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
                let accepted = tokio::time::timeout(Duration::from_secs(5), server.accept()).await;
                drop((accepted.unwrap().unwrap(), client));
            }
        }
    }

    #[tokio::test]
    async fn ports_of_ipv6_lead_to_endpoints_of_ipv6() {
        // A machine without IPv6 has no such address.
        let Ok(server) = TcpListener::bind("[::1]:0").await else { return };
        let (here, port) = (server.local_addr().unwrap().port(), free_port().await);
        let endpoint = Endpoint { address: std::net::Ipv6Addr::LOCALHOST, port: here };
        let backends = Backends { endpoints: vec![endpoint], ..Backends::default() };
        let mut listeners = Listeners::default();
        assert!(listeners.set(&[((Protocol::Tcp, port), backends)].into()).await.is_empty());
        let both = async {
            tokio::join!(TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)), server.accept())
        };
        let (client, accepted) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
        assert!(client.is_ok() && accepted.is_ok());
    }

    #[tokio::test]
    async fn the_second_address_is_a_courtesy() {
        let port = free_port().await;
        let other = TcpListener::bind((ADDRESSES[1], port)).await.unwrap();
        let _listeners = one((Protocol::Tcp, port), vec![]).await;
        assert!(TcpStream::connect((ADDRESSES[0], port)).await.is_ok());
        let (client, accepted) = tokio::join!(TcpStream::connect((ADDRESSES[1], port)), other.accept());
        assert!(client.is_ok() && accepted.is_ok());
    }

    #[tokio::test]
    async fn datagrams_go_there_and_back() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = free_port().await;
        let _listeners = one((Protocol::Udp, port), vec![endpoint(server.local_addr().unwrap())]).await;
        for (text, address) in [("one", ADDRESSES[0]), ("two", ADDRESSES[1])] {
            let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            client.send_to(text.as_bytes(), (address, port)).await.unwrap();
            let mut buffer = [0; 16];
            let (length, peer) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(&buffer[..length], peer).await.unwrap();
            let length = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], text.as_bytes());
        }
    }

    #[test]
    fn connections_are_spread_evenly_unless_clients_stay() {
        let endpoints: Vec<_> = (1..4).map(|port| Endpoint { address: Ipv4Addr::LOCALHOST, port }).collect();
        let choice = Choice::new(Backends { endpoints: endpoints.clone(), ..Backends::default() });
        let drawn: Vec<u16> = (0..6).filter_map(|_| choice.draw(0)).map(|e| e.port).collect();
        assert_eq!(drawn, [1, 2, 3, 1, 2, 3]);
        let sticky = |endpoints: &[Endpoint<Ipv4Addr>]| Backends {
            endpoints: endpoints.to_vec(),
            sticky: Some(10),
            ..Backends::default()
        };
        let mut choice = Choice::new(sticky(&endpoints[1..]));
        assert!((0..6).filter_map(|_| choice.draw(0)).all(|e| e.port == 2));
        choice.backends = sticky(&endpoints);
        assert_eq!(choice.draw(0).unwrap().port, 2, "another endpoint takes no clients away");
        let others: Vec<u16> = (1..3).filter_map(|refused| choice.draw(refused)).map(|e| e.port).collect();
        assert_eq!(others, [3, 1], "each that does not answer is followed by another one");
        assert_eq!(choice.draw(0).unwrap().port, 1, "and clients stay with that");
        assert_eq!(Choice::<Ipv4Addr>::new(Backends::default()).draw(0), None);
    }
}
