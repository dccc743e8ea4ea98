//! Address ranges: arithmetic, and the choice of one that the host does not use yet.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rtnetlink::packet_route::AddressFamily;

use super::links::Links;
use super::told::Destination;
use super::{Cidr, Error};

/// Where pods live unless the host already uses it, in order of preference: Kubernetes' usual range and its
/// neighbours, then others for hosts that route all of 10.0.0.0/8 elsewhere.
pub const POD_RANGES: [Cidr; 10] = [
    network(10, 244, 16),
    network(10, 245, 16),
    network(10, 246, 16),
    network(10, 247, 16),
    network(10, 248, 16),
    network(10, 249, 16),
    network(10, 250, 16),
    network(10, 251, 16),
    network(172, 24, 16),
    network(172, 25, 16),
];

/// The same for services.
pub const SERVICE_RANGES: [Cidr; 10] = [
    network(10, 96, 12),
    network(10, 112, 12),
    network(10, 128, 12),
    network(10, 144, 12),
    network(10, 160, 12),
    network(10, 176, 12),
    network(10, 192, 12),
    network(10, 208, 12),
    network(172, 28, 16),
    network(172, 29, 16),
];

const fn network(first: u8, second: u8, prefix: u8) -> Cidr {
    Cidr { base: Ipv4Addr::new(first, second, 0, 0), prefix }
}

/// Where pods live in IPv6 unless the host already uses it, in order of preference: unique local addresses (RFC 4193),
/// as kind has them.
pub const POD_RANGES6: [Cidr6; 8] = [
    network6(244, 64),
    network6(245, 64),
    network6(246, 64),
    network6(247, 64),
    network6(248, 64),
    network6(249, 64),
    network6(250, 64),
    network6(251, 64),
];

/// The same for services.
pub const SERVICE_RANGES6: [Cidr6; 8] = [
    network6(96, 112),
    network6(97, 112),
    network6(98, 112),
    network6(99, 112),
    network6(100, 112),
    network6(101, 112),
    network6(102, 112),
    network6(103, 112),
];

/// `fd00:10:N::`, with the decimal digits of `N`.
const fn network6(digits: u16, prefix: u8) -> Cidr6 {
    let written = digits / 100 * 0x100 + digits / 10 % 10 * 0x10 + digits % 10;
    Cidr6 { base: Ipv6Addr::new(0xfd00, 0x10, written, 0, 0, 0, 0, 0), prefix }
}

/// The first preferred range that overlaps with none of `occupied`.
pub fn choose_range<R: Copy + fmt::Display>(
    occupied: &[R],
    preferred: &[R],
    overlaps: impl Fn(&R, &R) -> bool,
) -> Result<R, Error> {
    preferred.iter().copied().find(|range| !occupied.iter().any(|other| overlaps(other, range))).ok_or_else(
        || Error::NoRange { tried: preferred.iter().map(R::to_string).collect::<Vec<_>>().join(", ") },
    )
}

/// Every range that the host reaches by a route of any table or holds an address in; default routes excepted.
pub async fn occupied_ranges() -> Result<Vec<Cidr>, Error> {
    let reached = Links::connect()?.reached(AddressFamily::Inet).await?;
    Ok(reached.into_iter().filter_map(Destination::v4).collect())
}

/// As [`occupied_ranges`], of IPv6; nothing on a host without.
pub async fn occupied_ranges6() -> Result<Vec<Cidr6>, Error> {
    let reached = Links::connect()?.reached(AddressFamily::Inet6).await?;
    Ok(reached.into_iter().filter_map(Destination::v6).collect())
}

impl Cidr {
    /// The `n`th address of the range, counted from its base; stays inside.
    pub fn nth(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits((self.base.to_bits() & self.mask()) | (n & !self.mask()))
    }

    /// How many addresses there are, one less for the whole of IPv4.
    pub fn last(&self) -> u32 {
        !self.mask()
    }

    /// Whether the address lies inside.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (address.to_bits() ^ self.base.to_bits()) & self.mask() == 0
    }

    /// Whether any address lies in both.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        let mask = self.mask() & other.mask();
        (self.base.to_bits() ^ other.base.to_bits()) & mask == 0
    }

    /// The fixed bits.
    pub fn mask(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// The text is not `ADDRESS/BITS`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv4 range such as 10.244.0.0/16")]
pub struct InvalidCidr(String);

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Cidr, InvalidCidr> {
        let parse = || {
            let (base, prefix) = text.split_once('/')?;
            let range = Cidr { base: base.parse().ok()?, prefix: prefix.parse().ok().filter(|p| *p <= 32)? };
            Some(Cidr { base: range.nth(0), ..range })
        };
        parse().ok_or_else(|| InvalidCidr(text.to_owned()))
    }
}

/// An IPv6 range such as `fd00:10:244::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr6 {
    /// The first address.
    pub base: Ipv6Addr,
    /// Leading bits that are fixed.
    pub prefix: u8,
}

impl Cidr6 {
    /// The `n`th address of the range, counted from its base; stays inside.
    pub fn nth(&self, n: u64) -> Ipv6Addr {
        Ipv6Addr::from_bits((self.base.to_bits() & self.mask()) | (u128::from(n) & !self.mask()))
    }

    /// How many addresses there are, one less; of a range with more, as many as can be counted here.
    pub fn last(&self) -> u64 {
        u64::try_from(!self.mask()).unwrap_or(u64::MAX)
    }

    /// Whether the address lies inside.
    pub fn contains(&self, address: Ipv6Addr) -> bool {
        (address.to_bits() ^ self.base.to_bits()) & self.mask() == 0
    }

    /// Whether any address lies in both.
    pub fn overlaps(&self, other: &Cidr6) -> bool {
        let mask = self.mask() & other.mask();
        (self.base.to_bits() ^ other.base.to_bits()) & mask == 0
    }

    /// The fixed bits.
    pub fn mask(&self) -> u128 {
        u128::MAX.checked_shl(128 - u32::from(self.prefix.min(128))).unwrap_or(0)
    }
}

impl fmt::Display for Cidr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

/// The text is not `ADDRESS/BITS` of IPv6.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not an IPv6 range such as fd00:10:244::/64")]
pub struct InvalidCidr6(String);

impl FromStr for Cidr6 {
    type Err = InvalidCidr6;

    fn from_str(text: &str) -> Result<Cidr6, InvalidCidr6> {
        let parse = || {
            let (base, prefix) = text.split_once('/')?;
            let range =
                Cidr6 { base: base.parse().ok()?, prefix: prefix.parse().ok().filter(|p| *p <= 128)? };
            Some(Cidr6 { base: range.nth(0), ..range })
        };
        parse().ok_or_else(|| InvalidCidr6(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_prints() {
        for (text, printed) in
            [("10.244.0.0/16", "10.244.0.0/16"), ("10.96.3.4/12", "10.96.0.0/12"), ("0.0.0.0/0", "0.0.0.0/0")]
        {
            assert_eq!(cidr(text).to_string(), printed);
        }
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/8", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn finds_overlaps_in_both_directions() {
        for (a, b, overlap) in [
            ("10.244.0.0/16", "10.244.7.0/24", true),
            ("10.244.7.1/32", "10.244.0.0/16", true),
            ("10.96.0.0/12", "10.112.0.0/12", false),
            ("10.244.0.0/16", "10.245.0.0/16", false),
            ("0.0.0.0/0", "192.168.0.0/24", true),
        ] {
            assert_eq!(cidr(a).overlaps(&cidr(b)), overlap, "{a} {b}");
            assert_eq!(cidr(b).overlaps(&cidr(a)), overlap, "{b} {a}");
        }
    }

    #[test]
    fn chooses_the_first_free_range() {
        let cases: [(&[&str], Option<&str>); 5] = [
            (&[], Some("10.244.0.0/16")),
            (&["10.244.1.0/24", "192.168.0.0/16"], Some("10.245.0.0/16")),
            (&["10.244.0.0/15", "10.246.0.1/32"], Some("10.247.0.0/16")),
            (&["10.0.0.0/8"], Some("172.24.0.0/16")),
            (&["10.0.0.0/8", "172.16.0.0/12"], None),
        ];
        for (occupied, chosen) in cases {
            let occupied: Vec<Cidr> = occupied.iter().map(|text| cidr(text)).collect();
            assert_eq!(
                choose_range(&occupied, &POD_RANGES, Cidr::overlaps).ok(),
                chosen.map(cidr),
                "{occupied:?}"
            );
        }
    }

    #[test]
    fn counts_inside_the_range() {
        let range = cidr("10.244.0.0/30");
        assert_eq!(range.nth(1), Ipv4Addr::new(10, 244, 0, 1));
        assert_eq!(range.nth(5), Ipv4Addr::new(10, 244, 0, 1));
        assert_eq!(range.last(), 3);
        assert!(
            range.contains(Ipv4Addr::new(10, 244, 0, 3)) && !range.contains(Ipv4Addr::new(10, 244, 0, 4))
        );
    }

    #[test]
    fn ranges_of_ipv6_are_like_those_of_ipv4() {
        let cidr = |text: &str| text.parse::<Cidr6>().unwrap();
        for (text, printed) in [
            ("fd00:10:244::/64", "fd00:10:244::/64"),
            ("fd00:10:96::a/112", "fd00:10:96::/112"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(cidr(text).to_string(), printed);
        }
        for text in ["", "fd00::", "fd00::/129", "10.244.0.0/16", "fd00::/-1"] {
            assert!(text.parse::<Cidr6>().is_err(), "{text}");
        }
        let range = cidr("fd00:10:96::/112");
        assert_eq!(range.nth(10).to_string(), "fd00:10:96::a");
        assert_eq!(range.nth(0x1_0001).to_string(), "fd00:10:96::1");
        assert_eq!(
            (range.last(), cidr("fd00::/64").last(), cidr("fd00::/48").last()),
            (65535, u64::MAX, u64::MAX)
        );
        assert!(range.contains(range.nth(65535)) && !range.contains("fd00:10:96::1:0".parse().unwrap()));
        for (a, b, overlap) in [
            ("fd00:10:244::/64", "fd00:10:244::7/128", true),
            ("fd00:10:244::/64", "fd00:10:244:1::/64", false),
            ("fd00::/8", "fd00:10:96::/112", true),
        ] {
            assert_eq!(cidr(a).overlaps(&cidr(b)), overlap, "{a} {b}");
            assert_eq!(cidr(b).overlaps(&cidr(a)), overlap, "{b} {a}");
        }
        let choose = |occupied: &[&str]| {
            let occupied: Vec<_> = occupied.iter().map(|text| cidr(text)).collect();
            choose_range(&occupied, &POD_RANGES6, Cidr6::overlaps).map(|range| range.to_string()).ok()
        };
        assert_eq!(choose(&["2001:db8::/32"]).as_deref(), Some("fd00:10:244::/64"));
        assert_eq!(choose(&["fd00:10:244::1/128"]).as_deref(), Some("fd00:10:245::/64"));
        assert_eq!(choose(&["fd00::/8"]), None);
        assert_eq!(SERVICE_RANGES6[4].to_string(), "fd00:10:100::/112");
    }
}
