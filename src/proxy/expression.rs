//! Rules of nf_tables as lists of expressions, each encoded as the kernel wants it.
//!
//! Attribute numbers are those of linux/netfilter/nf_tables.h. Values pass between expressions in sixteen
//! registers of four bytes; neighbouring registers together make the key or the data of a set.

use super::family::{Address, Family, Range};
use crate::sys::netlink::Attributes;

/// A register of four bytes, 0 to 15 (`NFT_REG32_00` and following).
#[derive(Debug, Clone, Copy)]
pub(super) struct Reg(pub(super) u32);

/// `NFT_REG_VERDICT`, where a lookup in a verdict map leaves what to do.
const VERDICT: u32 = 0;

/// What becomes of the packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict<'a> {
    Accept,
    Drop,
    Return,
    Jump(&'a str),
    Goto(&'a str),
}

/// A part of the packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Field {
    SourceAddress,
    DestinationAddress,
    DestinationPort,
}

/// Where a route lookup or the packet's own path says it goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interface {
    In,
    Out,
}

/// A rule under construction: expressions run in order until one does not match.
pub(super) struct Rule<'a, 'b> {
    list: &'a mut Attributes<'b>,
    family: &'static Family,
}

impl<'a, 'b> Rule<'a, 'b> {
    /// A rule for packets of a family, whose expressions are written into `list`.
    pub(super) fn new(family: &'static Family, list: &'a mut Attributes<'b>) -> Self {
        Rule { list, family }
    }

    /// How many registers an address takes.
    pub(super) fn width(&self) -> u32 {
        self.family.width()
    }

    fn expression(self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) -> Self {
        self.list.nest(1, |element| {
            element.text(1, name).nest(2, fill);
        });
        self
    }

    /// Loads a part of the packet.
    pub(super) fn load(self, field: Field, into: Reg) -> Self {
        // Base 1 is the network header, 2 the transport header.
        let (base, offset, length) = match field {
            Field::SourceAddress => (1, self.family.offsets.0, self.family.length),
            Field::DestinationAddress => (1, self.family.offsets.1, self.family.length),
            Field::DestinationPort => (2, 2, 2),
        };
        self.expression("payload", |payload| {
            payload.u32(1, register(into)).u32(2, base).u32(3, offset).u32(4, length);
        })
    }

    /// Loads the protocol number of the transport header (`NFT_META_L4PROTO`).
    pub(super) fn load_protocol(self, into: Reg) -> Self {
        self.meta(16, into)
    }

    /// Loads the name of the link that the packet came by, into four registers.
    pub(super) fn load_link(self, into: Reg) -> Self {
        self.meta(6, into)
    }

    /// Loads a given address.
    pub(super) fn load_address<A: Address>(self, address: A, into: Reg) -> Self {
        self.load_bytes(address.bytes().as_ref(), into)
    }

    /// Loads what stands for every address of the node.
    pub(super) fn load_any_address(self, into: Reg) -> Self {
        let zeros = [0; 16];
        let length = self.family.length as usize;
        self.load_bytes(&zeros[..length], into)
    }

    /// Loads a given port.
    pub(super) fn load_port(self, port: u16, into: Reg) -> Self {
        self.load_bytes(&port.to_be_bytes(), into)
    }

    fn load_bytes(self, bytes: &[u8], into: Reg) -> Self {
        self.expression("immediate", |immediate| {
            immediate.u32(1, register(into)).nest(2, |data| {
                data.bytes(1, bytes);
            });
        })
    }

    /// Loads a random number below `bound`, each equally likely.
    pub(super) fn load_random(self, bound: u32, into: Reg) -> Self {
        self.expression("numgen", |numgen| {
            numgen.u32(1, register(into)).u32(2, bound).u32(3, 1).u32(4, 0);
        })
    }

    /// Goes on only for the transport protocol of this number.
    pub(super) fn protocol_is(self, protocol: u8) -> Self {
        self.meta(16, Reg(0)).compare(Reg(0), true, &[protocol])
    }

    /// Goes on only when the address does (or does not) lie in the range.
    pub(super) fn in_range(self, field: Field, range: impl Range, inside: bool) -> Self {
        let (first, mask) = (range.ends().0.bytes(), range.mask_bytes());
        self.load(field, Reg(0)).mask(mask.as_ref()).compare(Reg(0), inside, first.as_ref())
    }

    /// Goes on only for links whose name does (or does not) begin with `prefix`.
    pub(super) fn interface(self, interface: Interface, prefix: &str, begins: bool) -> Self {
        // NFT_META_IIFNAME and NFT_META_OIFNAME; a comparison of fewer bytes than the register is one of prefixes.
        let key = match interface {
            Interface::In => 6,
            Interface::Out => 7,
        };
        self.meta(key, Reg(0)).compare(Reg(0), begins, prefix.as_bytes())
    }

    /// Goes on only for packets that belong to no connection and begin none (`ct state invalid`).
    pub(super) fn invalid(self) -> Self {
        self.connection_bit(0, 1)
    }

    /// Goes on only for packets of a connection that was let through, and what comes of it (`ct state
    /// established,related`).
    pub(super) fn continues_connection(self) -> Self {
        self.connection_bit(0, 2 | 4)
    }

    /// Goes on only for TCP packets of a connection that nobody knows: they begin none, and yet belong to none.
    pub(super) fn stray_tcp(self) -> Self {
        /// FIN, SYN, RST and ACK; only SYN is set in a packet that begins a connection.
        const FLAGS: u8 = 0x17;
        const SYN: u8 = 0x02;
        self.protocol_is(6)
            .expression("payload", |payload| {
                payload.u32(1, register(Reg(0))).u32(2, 2).u32(3, 13).u32(4, 1);
            })
            .mask(&[FLAGS])
            .compare(Reg(0), false, &[SYN])
            .begins_connection()
    }

    /// Goes on only for destination ports from the first to the last, both included.
    pub(super) fn port_between(self, first: u16, last: u16) -> Self {
        let rule = self.load(Field::DestinationPort, Reg(0));
        match first == last {
            true => rule.compare(Reg(0), true, &first.to_be_bytes()),
            // NFT_CMP_GTE and NFT_CMP_LTE.
            false => rule.compare_with(Reg(0), 5, &first.to_be_bytes()).compare_with(
                Reg(0),
                3,
                &last.to_be_bytes(),
            ),
        }
    }

    /// Goes on only for packets that begin a connection (`ct state new`).
    pub(super) fn begins_connection(self) -> Self {
        self.connection_bit(0, 8)
    }

    /// Goes on only for connections whose destination was translated (`IPS_DST_NAT`).
    pub(super) fn translated(self) -> Self {
        self.connection_bit(2, 1 << 5)
    }

    fn connection_bit(self, key: u32, bit: u32) -> Self {
        self.expression("ct", |ct| {
            ct.u32(1, register(Reg(0))).u32(2, key);
        })
        .mask(&bit.to_ne_bytes())
        .compare(Reg(0), false, &[0; 4])
    }

    /// Goes on only for packets by which neighbours find each other (solicitations and advertisements of RFC 4861).
    pub(super) fn discovers_neighbours(self) -> Self {
        /// `IPPROTO_ICMPV6`, and the first and last of the types.
        const ICMPV6: u8 = 58;
        const TYPES: [u8; 2] = [135, 136];
        self.protocol_is(ICMPV6)
            .expression("payload", |payload| {
                payload.u32(1, register(Reg(0))).u32(2, 2).u32(3, 0).u32(4, 1);
            })
            .compare_with(Reg(0), 5, &TYPES[..1])
            .compare_with(Reg(0), 3, &TYPES[1..])
    }

    /// Keeps only these bits of the first registers.
    fn mask(self, mask: &[u8]) -> Self {
        self.expression("bitwise", |bitwise| {
            bitwise.u32(1, register(Reg(0))).u32(2, register(Reg(0))).u32(3, mask.len() as u32);
            bitwise.nest(4, |data| {
                data.bytes(1, mask);
            });
            bitwise.nest(5, |data| {
                data.bytes(1, &[0; 16][..mask.len()]);
            });
        })
    }

    /// Goes on only for packets to an address of this host.
    pub(super) fn destined_here(self) -> Self {
        // The type of the destination address (NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR) is RTN_LOCAL.
        self.expression("fib", |fib| {
            fib.u32(1, register(Reg(0))).u32(2, 3).u32(3, 2);
        })
        .compare(Reg(0), true, &2u32.to_ne_bytes())
    }

    /// Goes on only when the set holds what begins at `key`.
    pub(super) fn in_set(self, set: &str, key: Reg) -> Self {
        self.expression("lookup", |lookup| {
            lookup.text(1, set).u32(2, register(key));
        })
    }

    /// Looks what begins at `key` up in a map; goes on only when it is there.
    pub(super) fn look_up(self, map: &str, key: Reg, into: Reg) -> Self {
        self.expression("lookup", |lookup| {
            lookup.text(1, map).u32(2, register(key)).u32(3, register(into));
        })
    }

    /// Does what a verdict map says for what begins at `key`.
    pub(super) fn look_up_verdict(self, map: &str, key: Reg) -> Self {
        self.expression("lookup", |lookup| {
            lookup.text(1, map).u32(2, register(key)).u32(3, VERDICT);
        })
    }

    /// Puts what begins at `key` into a set for some seconds, or renews its time (`NFT_DYNSET_OP_UPDATE`).
    pub(super) fn remember(self, set: &str, key: Reg, seconds: u32) -> Self {
        self.expression("dynset", |dynset| {
            dynset.text(1, set).u32(3, 1).u32(4, register(key)).u64(6, u64::from(seconds) * 1000);
        })
    }

    /// Sends the connection to the address and port in two registers.
    pub(super) fn translate_destination(self, address: Reg, port: Reg) {
        self.nat(1, address, Some(port));
    }

    /// Makes the connection come from an address.
    pub(super) fn translate_source<A: Address>(self, address: A) {
        self.load_address(address, Reg(0)).nat(0, Reg(0), None);
    }

    fn nat(self, kind: u32, address: Reg, port: Option<Reg>) {
        let family = u32::from(self.family.number);
        self.expression("nat", |nat| {
            nat.u32(1, kind).u32(2, family).u32(3, register(address)).u32(4, register(address));
            if let Some(port) = port {
                nat.u32(5, register(port)).u32(6, register(port));
            }
        });
    }

    /// Makes the connection come from the address of the link that it leaves by, with a random port
    /// (`NF_NAT_RANGE_PROTO_RANDOM_FULLY`): fewer clashes between connections that begin at once.
    pub(super) fn masquerade(self) {
        self.expression("masq", |masq| {
            masq.u32(1, 1 << 4);
        });
    }

    /// Answers with a TCP reset.
    pub(super) fn reset(self) {
        self.expression("reject", |reject| {
            reject.u32(1, 1).bytes(2, &[0]);
        });
    }

    /// Answers that the port is unreachable, by ICMP.
    pub(super) fn unreachable(self) {
        let code = self.family.port_unreachable;
        self.expression("reject", |reject| {
            reject.u32(1, 0).bytes(2, &[code]);
        });
    }

    /// Ends with a verdict.
    pub(super) fn verdict(self, verdict: Verdict<'_>) {
        self.expression("immediate", |immediate| {
            immediate.u32(1, VERDICT).nest(2, |data| write_verdict(data, verdict));
        });
    }

    fn meta(self, key: u32, into: Reg) -> Self {
        self.expression("meta", |meta| {
            meta.u32(1, register(into)).u32(2, key);
        })
    }

    fn compare(self, reg: Reg, equal: bool, value: &[u8]) -> Self {
        self.compare_with(reg, u32::from(!equal), value)
    }

    fn compare_with(self, reg: Reg, operator: u32, value: &[u8]) -> Self {
        self.expression("cmp", |cmp| {
            cmp.u32(1, register(reg)).u32(2, operator).nest(3, |data| {
                data.bytes(1, value);
            });
        })
    }
}

/// A verdict as the data of an expression or of an element.
pub(super) fn write_verdict(data: &mut Attributes<'_>, verdict: Verdict<'_>) {
    data.nest(2, |attributes| {
        // NF_ACCEPT, NF_DROP, NFT_RETURN, NFT_JUMP and NFT_GOTO.
        match verdict {
            Verdict::Accept => attributes.u32(1, 1),
            Verdict::Return => attributes.u32(1, -5i32 as u32),
            Verdict::Drop => attributes.u32(1, 0),
            Verdict::Jump(chain) => attributes.u32(1, -3i32 as u32).text(2, chain),
            Verdict::Goto(chain) => attributes.u32(1, -4i32 as u32).text(2, chain),
        };
    });
}

fn register(reg: Reg) -> u32 {
    8 + reg.0
}
