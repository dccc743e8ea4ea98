//! Netfilter's netlink: sockets, the encoding of messages and attributes, transactions, dumps and events.
//!
//! Layouts are those of linux/netlink.h and linux/netfilter/nfnetlink.h. Nothing here knows what the messages
//! mean: the tables are `proxy`'s.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, sendto,
    setsockopt, socket, sockopt,
};

/// `NFNL_SUBSYS_CTNETLINK`: connection tracking.
pub const CONNTRACK: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`: the rules.
pub const NFTABLES: u8 = 10;
/// `NFNLGRP_NFTABLES`: the multicast group that hears of every change to the rules.
const GROUP_NFTABLES: u32 = 7;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// Room for one datagram from the kernel; dumps come in pieces of at most 32 KiB.
const RECEIVE: usize = 64 * 1024;
/// Space asked for events that wait while minik itself changes thousands of elements.
const EVENT_BUFFER: usize = 16 << 20;

/// Message flags, from linux/netlink.h.
pub mod flag {
    /// `NLM_F_REQUEST`.
    pub const REQUEST: u16 = 1;
    /// `NLM_F_ACK`.
    pub const ACK: u16 = 4;
    /// `NLM_F_DUMP`.
    pub const DUMP: u16 = 0x300;
    /// `NLM_F_CREATE`.
    pub const CREATE: u16 = 0x400;
    /// `NLM_F_APPEND`.
    pub const APPEND: u16 = 0x800;
}

/// Messages under construction, one behind the other.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Messages {
    bytes: Vec<u8>,
    count: u32,
    /// Where the last message begins.
    last: usize,
}

impl Messages {
    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a message of a subsystem (`family` is an address family, 0 for any) with the attributes that `fill` writes.
    pub fn push(
        &mut self,
        subsystem: u8,
        kind: u8,
        flags: u16,
        family: u8,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.raw(u16::from(subsystem) << 8 | u16::from(kind), flags, family, 0, fill);
    }

    fn raw(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        self.last = start;
        self.count += 1;
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | flag::REQUEST).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        fill(&mut Attributes { bytes: &mut self.bytes });
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn set_last_flags(&mut self, flags: u16) {
        let at = self.last + 6;
        let old = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]);
        self.bytes[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }
}

/// The attributes of a message or of a nested attribute.
#[derive(Debug)]
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    /// An attribute with these bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nest_as(kind, |inner| inner.bytes.extend(value))
    }

    /// A number in network order.
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A number in network order.
    pub fn u64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text with its final zero.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.nest_as(kind, |inner| {
            inner.bytes.extend(value.as_bytes());
            inner.bytes.push(0);
        })
    }

    /// An attribute that holds the attributes that `fill` writes (at most 64 KiB).
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.nest_as(kind | NESTED, fill)
    }

    /// An attribute that holds attributes which are encoded already.
    pub fn nest_bytes(&mut self, kind: u16, encoded: &[u8]) -> &mut Self {
        self.bytes(kind | NESTED, encoded)
    }

    fn nest_as(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        fill(&mut Attributes { bytes: self.bytes });
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Subsystem and kind, as `nlmsg_type`.
    pub kind: u16,
    /// Which request it answers.
    pub sequence: u32,
    /// The port of the socket that caused it; 0 for the kernel itself.
    pub port: u32,
    /// What follows the netlink header.
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The family that it is about; `None` of what has no netfilter header.
    pub fn family(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// The attributes behind the netfilter header, as kind (without flags) and value.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        attributes(self.payload.get(4..).unwrap_or_default())
    }
}

/// The attributes in the value of a nested attribute, as kind (without flags) and value.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a kind.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(other, _)| *other == kind).map(|(_, value)| value)
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let number = |bytes: &[u8]| Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
    std::iter::from_fn(move || {
        let length = number(bytes)? as usize;
        let message = Message {
            kind: u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?),
            sequence: number(bytes.get(8..)?)?,
            port: number(bytes.get(12..)?)?,
            payload: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// A netfilter socket; it stays in the network namespace in which it was made. Its calls block, but only for as
/// long as the kernel works on them.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port: u32,
}

impl Socket {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> io::Result<Socket> {
        Self::open_with(SockFlag::SOCK_CLOEXEC, 0)
    }

    fn open_with(flags: SockFlag, groups: u32) -> io::Result<Socket> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        let port = getsockname::<NetlinkAddr>(fd.as_raw_fd())?.pid();
        Ok(Socket { fd, port })
    }

    /// The number by which the kernel names this socket as the cause of events.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Applies rule messages as one transaction: all of them or none.
    ///
    /// # Errors
    /// The first refusal.
    pub fn transact(&self, changes: &Messages) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let mut changes = changes.clone();
        // Only the last message asks for an answer: refusals are told unasked, and thousands of answers would
        // not fit the socket.
        changes.set_last_flags(flag::ACK);
        let mut begin = Messages::default();
        begin.raw(BATCH_BEGIN, 0, 0, u16::from(NFTABLES), |_| {});
        // Sequence 0 for the frame, so that its refusals are told apart from the answers to the messages.
        begin.bytes[8..12].fill(0);
        let mut end = Messages::default();
        end.raw(BATCH_END, 0, 0, u16::from(NFTABLES), |_| {});
        end.bytes[8..12].fill(0);
        self.send(&[begin.bytes, changes.bytes, end.bytes].concat())?;

        let mut refusal = Ok(());
        self.receive(|message| {
            let answer = error_number(message);
            if refusal.is_ok()
                && let Some(errno) = answer.filter(|errno| *errno != 0)
            {
                refusal = Err(io::Error::from_raw_os_error(errno));
            }
            // An error of the frame itself is the only and last answer.
            answer.is_some() && (message.sequence == changes.count || message.sequence == 0)
        })?;
        refusal
    }

    /// Sends one request and hands every answer to `each`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn request(&self, request: &Messages, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.send(&request.bytes)?;
        let mut refusal = Ok(());
        self.receive(|message| match error_number(message) {
            Some(0) => true,
            Some(errno) => {
                refusal = Err(io::Error::from_raw_os_error(errno));
                true
            }
            None if message.kind == libc::NLMSG_DONE as u16 => true,
            None => {
                each(message);
                false
            }
        })?;
        refusal
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        // A transaction is one datagram however large. The forced size is root's right; where it is refused
        // the plain one is what there is.
        let size = bytes.len() * 2 + 4096;
        if setsockopt(&self.fd, sockopt::SndBufForce, &size).is_err() {
            setsockopt(&self.fd, sockopt::SndBuf, &size)?;
        }
        sendto(self.fd.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// Reads until `last` says that a message was the last one.
    fn receive(&self, mut last: impl FnMut(&Message<'_>) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            for message in messages(&buffer[..length]) {
                if last(&message) {
                    return Ok(());
                }
            }
        }
    }
}

/// The error number of an answer, 0 for success; `None` for other messages.
fn error_number(message: &Message<'_>) -> Option<i32> {
    if message.kind != libc::NLMSG_ERROR as u16 {
        return None;
    }
    Some(-i32::from_ne_bytes(message.payload.get(..4)?.try_into().ok()?))
}

/// Hears of every change to the rules of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Events {
    socket: tokio::io::unix::AsyncFd<EventFd>,
}

#[derive(Debug)]
struct EventFd(Socket);

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.0.fd.as_raw_fd()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// What [`Events::next`] heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Only what the caller is not interested in.
    Nothing,
    /// Something that the caller is interested in.
    Match,
    /// So much at once that some of it was lost.
    Overflow,
}

impl Events {
    /// Starts to listen. Must be called inside the async runtime.
    pub fn open() -> io::Result<Events> {
        let socket = Socket::open_with(SockFlag::SOCK_NONBLOCK, 1 << (GROUP_NFTABLES - 1))?;
        // Overflow is survivable; where the size is refused there is only more of it.
        let _ = setsockopt(&socket.fd, sockopt::RcvBufForce, &EVENT_BUFFER);
        // SAFETY: the descriptor is owned by the `EventFd`, which always gives the same one and closes it only
        // when it is dropped, by then taken out of the reactor.
        let socket = unsafe { tokio::io::unix::AsyncFd::register(EventFd(socket)) }?;
        Ok(Events { socket })
    }

    /// Waits for the next datagram of events and says whether `interesting` is true for one of them.
    ///
    /// # Errors
    /// When the socket breaks.
    pub async fn next(&self, mut interesting: impl FnMut(&Message<'_>) -> bool) -> io::Result<Heard> {
        let mut buffer = vec![0; RECEIVE];
        loop {
            let mut ready = self.socket.readable().await?;
            let read = ready.try_io(|socket| {
                Ok(recv(socket.get_ref().0.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?)
            });
            return match read {
                Err(_would_block) => continue,
                Ok(Ok(length)) => {
                    let heard = messages(&buffer[..length]).any(|message| interesting(&message));
                    Ok(if heard { Heard::Match } else { Heard::Nothing })
                }
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Overflow),
                Ok(Err(error)) => Err(error),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let mut written = Messages::default();
        written.push(NFTABLES, 9, flag::CREATE, 2, |set| {
            set.text(1, "minik").nest(9, |inner| {
                inner.u32(1, 7).bytes(2, &[1, 2, 3]);
            });
        });
        written.push(NFTABLES, 3, 0, 2, |_| {});
        assert_eq!(written.len(), 2);
        let read: Vec<Message<'_>> = messages(&written.bytes).collect();
        assert_eq!(read.iter().map(|m| (m.kind, m.sequence)).collect::<Vec<_>>(), [(0xa09, 1), (0xa03, 2)]);
        let parts: Vec<_> = read[0].attributes().collect();
        assert_eq!(parts[0], (1, &b"minik\0"[..]));
        assert_eq!(attribute(parts[1].1, 1), Some(&[0, 0, 0, 7][..]));
        assert_eq!(attribute(parts[1].1, 2), Some(&[1, 2, 3][..]));
        assert_eq!(attribute(parts[1].1, 3), None);
        assert_eq!(written.bytes.len() % 4, 0);
    }

    #[test]
    fn broken_messages_end_the_reading() {
        for bytes in [&[][..], &[1, 0], &[3, 0, 1, 0], &[200, 0, 1, 0, 9, 9]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
        let mut cut = Messages::default();
        cut.push(NFTABLES, 0, 0, 2, |table| {
            table.text(1, "minik");
        });
        assert_eq!(messages(&cut.bytes[..HEADER + 4]).count(), 0);
    }
}
