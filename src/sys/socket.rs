//! Unix sockets that carry file descriptors and know their peer; sockets on addresses that are still to come.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrIn,
    SockaddrIn6, SockaddrLike, UnixAddr, bind, getsockopt, listen, recvmsg, sendmsg, setsockopt, sockopt,
};

/// The most descriptors in one message.
pub const MAX_FDS: usize = 8;

/// Connects, waiting at most so long for room in a listener's queue; the same holds for each later sending.
pub fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket =
        nix::sys::socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = nix::sys::time::TimeVal::new(patience.as_secs() as i64, patience.subsec_micros().into());
    setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

/// Sends bytes, and descriptors with the first of them; returns how many bytes were taken.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &control[..0] } else { &control[..] };
    loop {
        match sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => return Ok(result?),
        }
    }
}

/// Receives bytes and the descriptors that came with them, which are appended to `fds`; 0 bytes is the end.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut control = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => break result?,
        }
    };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::other("more descriptors than a message may carry"));
    }
    Ok(message.bytes)
}

/// A UDP socket on an address that this host may get only later (`IP_FREEBIND`); needs no root for ports above 1023.
pub fn udp_ahead(address: SocketAddrV4) -> io::Result<UdpSocket> {
    Ok(UdpSocket::from(ahead(SockType::Datagram, address)?))
}

/// A TCP listener on an address that this host may get only later.
pub fn tcp_ahead(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = ahead(SockType::Stream, address)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

/// So many bytes of datagrams wait at a socket until they are read; a small one takes about a thousand of them.
const QUEUE: usize = 4 << 20;

/// TCP listeners on a port of all addresses of the host: those of IPv4 and, where they can be had, those of IPv6.
pub fn tcp_everywhere(port: u16) -> io::Result<Vec<TcpListener>> {
    let v4 = tcp_of(Ipv4Addr::UNSPECIFIED.into(), port)?;
    // A host without IPv6, or one where another program has the port there.
    let v6 = tcp_of(Ipv6Addr::UNSPECIFIED.into(), port).ok();
    Ok([Some(v4), v6].into_iter().flatten().collect())
}

/// A TCP listener on an address, or on all of its family: those of IPv6 never stand for those of IPv4 as well.
pub fn tcp_of(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    match address {
        IpAddr::V4(address) => {
            let socket = unbound(SockType::Stream, AddressFamily::Inet)?;
            listening(socket, &SockaddrIn::from(SocketAddrV4::new(address, port)))
        }
        IpAddr::V6(address) => {
            let socket = unbound(SockType::Stream, AddressFamily::Inet6)?;
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            listening(socket, &SockaddrIn6::from(SocketAddrV6::new(address, port, 0, 0)))
        }
    }
}

fn listening(socket: OwnedFd, address: &dyn SockaddrLike) -> io::Result<TcpListener> {
    bind(socket.as_raw_fd(), address)?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(TcpListener::from(socket))
}

/// A non-blocking socket that is still to be bound.
fn unbound(kind: SockType, family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = nix::sys::socket::socket(family, kind, flags, None)?;
    if kind == SockType::Stream {
        // As the standard library does: connections of an earlier process may still be ending.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    Ok(socket)
}

/// A non-blocking socket, bound.
fn ahead(kind: SockType, address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = unbound(kind, AddressFamily::Inet)?;
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    if kind == SockType::Datagram {
        // What comes while nobody reads is lost when it does not fit. Not everybody may have more than is usual.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &QUEUE);
    }
    bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(socket)
}

/// The user id of the process at the other end.
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    Ok(getsockopt(&socket, sockopt::PeerCredentials)?.uid())
}

/// The process at the other end, as it was when it connected or listened.
pub fn peer_pid(socket: impl AsFd) -> io::Result<i32> {
    Ok(getsockopt(&socket, sockopt::PeerCredentials)?.pid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_come_can_be_had_and_taken_ports_not() {
        // TEST-NET-1 (RFC 5737): no host has it.
        let tcp = tcp_ahead("192.0.2.7:0".parse().unwrap()).unwrap();
        let std::net::SocketAddr::V4(address) = tcp.local_addr().unwrap() else { panic!("IPv4") };
        let taken = tcp_ahead(address).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        let all = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = all.local_addr().unwrap().port();
        let taken = udp_ahead(SocketAddrV4::new([192, 0, 2, 7].into(), port)).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_port_is_had_everywhere_or_not_at_all() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(tcp_everywhere(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let open = tcp_everywhere(0).unwrap();
        let port = open[0].local_addr().unwrap().port();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(
            !open[0].local_addr().unwrap().is_ipv6()
                && open.iter().skip(1).all(|v6| { v6.local_addr().unwrap().is_ipv6() })
        );
    }

    #[test]
    fn a_full_queue_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        assert_eq!(connect(&path, Duration::from_millis(50)).unwrap_err().kind(), io::ErrorKind::NotFound);
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, bind, listen, socket};
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&path, Duration::from_millis(50)) {
                Ok(connection) => waiting.push(connection),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(waiting.len() < 5, "{}", waiting.len());
    }
}
