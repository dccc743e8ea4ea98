//! The two families of addresses, and what nf_tables and the host's programs call the parts of each.

use std::fmt::{Debug, Display};
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use nix::sys::socket::SockaddrStorage;

use crate::network::{Cidr, Cidr6, Destination};

/// What is different between the families, as far as rules are concerned.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Its number, which netfilter's tables have as well.
    pub(super) number: u8,
    /// Its type of addresses, numbered as the `nft` program does.
    pub(super) address_type: u32,
    /// How many bytes an address has.
    pub(super) length: u32,
    /// Where in the header the source address is, and where the destination.
    pub(super) offsets: (u32, u32),
    /// The code of an ICMP message that says that a port is unreachable.
    pub(super) port_unreachable: u8,
    /// Whether neighbours find each other by packets that the rules see.
    pub(super) discovers: bool,
    /// What the addresses of tracked connections are numbered as: source and destination.
    pub(super) tracked: (u16, u16),
    /// Which endpoint slices hold its addresses.
    pub(super) slices: &'static str,
    /// The program that changes its rules of the older kind, and where the tables of that are listed.
    pub(super) iptables: (&'static str, &'static str),
}

impl Family {
    /// How many registers an address takes.
    pub(super) fn width(&self) -> u32 {
        self.length / 4
    }
}

static V4: Family = Family {
    number: libc::AF_INET as u8,
    address_type: 7,
    length: 4,
    offsets: (12, 16),
    port_unreachable: 3,
    discovers: false,
    tracked: (1, 2),
    slices: "IPv4",
    iptables: ("iptables", "/proc/thread-self/net/ip_tables_names"),
};

static V6: Family = Family {
    number: libc::AF_INET6 as u8,
    address_type: 8,
    length: 16,
    offsets: (8, 24),
    port_unreachable: 4,
    discovers: true,
    tracked: (3, 4),
    slices: "IPv6",
    iptables: ("ip6tables", "/proc/thread-self/net/ip6_tables_names"),
};

/// An address of one of the families.
pub trait Address:
    Copy + Ord + Hash + Debug + Display + FromStr + Into<IpAddr> + Send + Sync + 'static
{
    /// A range of such addresses.
    type Range: Range<Address = Self>;
    /// The bytes of one.
    type Bytes: AsRef<[u8]>;
    /// What means any of them.
    const ANY: Self;
    /// The first and the last of all.
    const ALL: (Self, Self);
    /// Loopback's addresses.
    const LOOPBACK: Self::Range;
    /// Where node ports are served on loopback: the address that everybody means first, then others.
    const LOCAL: &'static [Self];

    /// Its family.
    fn family() -> &'static Family;
    /// As in a packet.
    fn bytes(self) -> Self::Bytes;
    /// From a packet; `None` for as many bytes as no address of this family has.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
    /// The one after it.
    fn next(self) -> Option<Self>;
    /// The one before it.
    fn previous(self) -> Option<Self>;
    /// Whether it means neither this host nor every one: to lead such an address elsewhere would take the host's own
    /// services away from it.
    fn can_be_led_elsewhere(self) -> bool;
    /// The address of a socket, if it is of this family.
    fn of_socket(address: &SockaddrStorage) -> Option<Self>;
}

/// A range of addresses with the same first bits.
pub trait Range: Copy + Eq + Debug + Display + FromStr + Into<Destination> + Send + Sync + 'static {
    /// What is in it.
    type Address: Address;

    /// The first and the last.
    fn ends(self) -> (Self::Address, Self::Address);
    /// The fixed bits.
    fn mask_bytes(self) -> <Self::Address as Address>::Bytes;
    /// Whether the address lies inside.
    fn has(self, address: Self::Address) -> bool {
        let (first, last) = self.ends();
        (first..=last).contains(&address)
    }
    /// The address at the same place in another range.
    fn transpose(self, address: Self::Address, to: Cidr) -> Ipv4Addr;
}

impl Address for Ipv4Addr {
    type Range = Cidr;
    type Bytes = [u8; 4];
    const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const ALL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    const LOOPBACK: Cidr = Cidr { base: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };
    // The second one is what Debian gives the host's own name.
    const LOCAL: &'static [Ipv4Addr] = &[Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 1, 1)];

    fn family() -> &'static Family {
        &V4
    }

    fn bytes(self) -> [u8; 4] {
        self.octets()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Ipv4Addr> {
        <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
    }

    fn next(self) -> Option<Ipv4Addr> {
        self.to_bits().checked_add(1).map(Ipv4Addr::from_bits)
    }

    fn previous(self) -> Option<Ipv4Addr> {
        self.to_bits().checked_sub(1).map(Ipv4Addr::from_bits)
    }

    fn can_be_led_elsewhere(self) -> bool {
        !(self.is_loopback()
            || self.is_unspecified()
            || self.is_link_local()
            || self.is_multicast()
            || self.is_broadcast())
    }

    fn of_socket(address: &SockaddrStorage) -> Option<Ipv4Addr> {
        address.as_sockaddr_in().map(|address| address.ip())
    }
}

impl Address for Ipv6Addr {
    type Range = Cidr6;
    type Bytes = [u8; 16];
    const ANY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;
    const ALL: (Ipv6Addr, Ipv6Addr) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::from_bits(u128::MAX));
    const LOOPBACK: Cidr6 = Cidr6 { base: Ipv6Addr::LOCALHOST, prefix: 128 };
    const LOCAL: &'static [Ipv6Addr] = &[Ipv6Addr::LOCALHOST];

    fn family() -> &'static Family {
        &V6
    }

    fn bytes(self) -> [u8; 16] {
        self.octets()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Ipv6Addr> {
        <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
    }

    fn next(self) -> Option<Ipv6Addr> {
        self.to_bits().checked_add(1).map(Ipv6Addr::from_bits)
    }

    fn previous(self) -> Option<Ipv6Addr> {
        self.to_bits().checked_sub(1).map(Ipv6Addr::from_bits)
    }

    fn can_be_led_elsewhere(self) -> bool {
        !(self.is_loopback() || self.is_unspecified() || self.is_unicast_link_local() || self.is_multicast())
    }

    fn of_socket(address: &SockaddrStorage) -> Option<Ipv6Addr> {
        address.as_sockaddr_in6().map(|address| address.ip())
    }
}

impl Range for Cidr {
    type Address = Ipv4Addr;

    fn ends(self) -> (Ipv4Addr, Ipv4Addr) {
        (self.nth(0), self.nth(u32::MAX))
    }

    fn mask_bytes(self) -> [u8; 4] {
        self.mask().to_be_bytes()
    }

    fn transpose(self, address: Ipv4Addr, to: Cidr) -> Ipv4Addr {
        to.nth(address.to_bits() & !self.mask())
    }
}

impl Range for Cidr6 {
    type Address = Ipv6Addr;

    fn ends(self) -> (Ipv6Addr, Ipv6Addr) {
        let mask = self.mask();
        (Ipv6Addr::from_bits(self.base.to_bits() & mask), Ipv6Addr::from_bits(self.base.to_bits() | !mask))
    }

    fn mask_bytes(self) -> [u8; 16] {
        self.mask().to_be_bytes()
    }

    fn transpose(self, address: Ipv6Addr, to: Cidr) -> Ipv4Addr {
        let number = address.to_bits() & !self.mask();
        // What has no place there is no pod's address: the network numbers both ranges alike.
        to.nth(u32::try_from(number).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends<R: Range>(text: &str) -> (String, String) {
        let range: R = text.parse().unwrap_or_else(|_| panic!("{text}"));
        let (first, last) = range.ends();
        assert!(range.has(first) && range.has(last));
        assert!(!first.previous().is_some_and(|before| range.has(before)), "{text}");
        assert!(!last.next().is_some_and(|after| range.has(after)), "{text}");
        (first.to_string(), last.to_string())
    }

    #[test]
    fn ranges_end_where_others_begin() {
        for (text, first, last) in [
            ("10.0.0.0/30", "10.0.0.0", "10.0.0.3"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("10.0.0.7/32", "10.0.0.7", "10.0.0.7"),
        ] {
            assert_eq!(ends::<Cidr>(text), (first.into(), last.into()));
        }
        for (text, first, last) in [
            ("fd00::/126", "fd00::", "fd00::3"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("2001:db8::7/128", "2001:db8::7", "2001:db8::7"),
        ] {
            assert_eq!(ends::<Cidr6>(text), (first.into(), last.into()));
        }
        assert_eq!(Cidr6 { base: "fd00::".parse().unwrap(), prefix: 9 }.mask_bytes()[..3], [0xff, 0x80, 0]);
    }

    #[test]
    fn addresses_have_the_same_place_in_both_ranges() {
        let (v4, v6): (Cidr, Cidr6) = ("10.244.0.0/16".parse().unwrap(), "fd00:10:244::/64".parse().unwrap());
        let pod = Ipv4Addr::new(10, 244, 1, 2);
        assert_eq!(v6.transpose("fd00:10:244::102".parse().unwrap(), v4), pod);
        assert_eq!(v4.transpose(pod, v4), pod);
    }

    #[test]
    fn what_means_this_host_is_led_nowhere() {
        for (text, can) in [
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("ff02::1", false),
        ] {
            assert_eq!(text.parse::<Ipv6Addr>().unwrap().can_be_led_elsewhere(), can, "{text}");
        }
    }
}
