//! Address ranges: arithmetic, and the choice of one that the host does not use yet.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::links::Links;
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

/// The first preferred range that overlaps with none of `occupied`.
pub fn choose_range(occupied: &[Cidr], preferred: &[Cidr]) -> Result<Cidr, Error> {
    preferred.iter().copied().find(|range| !occupied.iter().any(|other| other.overlaps(range))).ok_or_else(
        || Error::NoRange { tried: preferred.iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ") },
    )
}

/// Every range that the host reaches by a route of any table or holds an address in; default routes excepted.
pub async fn occupied_ranges() -> Result<Vec<Cidr>, Error> {
    let links = Links::connect()?;
    let mut occupied = links.routes().await?;
    occupied.extend(links.addresses().await?);
    occupied.retain(|range| range.prefix > 0);
    Ok(occupied)
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
            assert_eq!(choose_range(&occupied, &POD_RANGES).ok(), chosen.map(cidr), "{occupied:?}");
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
}
