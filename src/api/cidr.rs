//! Ranges of addresses of either family: the bits that all of a range have in common, and how many those are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address without the bits beyond the first `length`.
pub fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

/// Whether an address lies in the range of the first `length` bits of `base`.
pub fn contains(base: IpAddr, length: u8, address: IpAddr) -> bool {
    base.is_ipv4() == address.is_ipv4() && masked(base, length) == masked(address, length)
}

/// The same of a host: the address of the network itself is nobody's, nor is the broadcast address of one of IPv4.
pub fn has_host(base: IpAddr, length: u8, address: IpAddr) -> bool {
    let is_broadcast = match address {
        IpAddr::V4(ip) => ip.to_bits() | u32::MAX.checked_shr(length.into()).unwrap_or(0) == ip.to_bits(),
        IpAddr::V6(_) => false,
    };
    contains(base, length, address) && masked(address, length) != address && !is_broadcast
}

/// How many bits an address of this family has.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `10.96.0.0/12` or `fd00:10:96::/112`, taken apart.
pub fn parse(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length = length.parse().ok().filter(|length| *length <= bits(address))?;
    Some((address, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_begins_alike() {
        let has = |range: &str, address: &str| {
            let (base, length) = parse(range).unwrap();
            contains(base, length, address.parse().unwrap())
        };
        for (range, address, inside) in [
            ("10.96.0.0/12", "10.111.255.255", true),
            ("10.96.0.0/12", "10.112.0.0", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "::1", false),
            ("fd00::/112", "fd00::ffff", true),
            ("fd00::/112", "fd00::1:0", false),
            ("fd00::1/128", "fd00::1", true),
        ] {
            assert_eq!(has(range, address), inside, "{range} {address}");
        }
        let hosts = |range: &str, addresses: [&str; 3]| {
            let (base, length) = parse(range).unwrap();
            addresses.map(|address| has_host(base, length, address.parse().unwrap()))
        };
        assert_eq!(hosts("10.7.0.0/24", ["10.7.0.0", "10.7.0.1", "10.7.0.255"]), [false, true, false]);
        assert_eq!(hosts("fd07::/112", ["fd07::", "fd07::1", "fd07::ffff"]), [false, true, true]);
        assert_eq!(parse("10.0.0.0/33"), None);
        assert_eq!(parse("10.0.0.0"), None);
    }
}
