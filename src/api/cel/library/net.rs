//! Addresses and networks.

use std::net::{IpAddr, Ipv4Addr};

use super::{no_overload, row};
use crate::api::cel::declared::{Function, one, traversal};
use crate::api::cel::{Fault, Outcome, Val};
use crate::api::cidr::{bits, contains, masked};

/// The library.
pub const FUNCTIONS: &[Function] = &[
    // `ip('192.0.2.1')`, and the address of a network: `cidr('192.0.2.1/24').ip()`.
    row("ip", &["(string) net.IP", "net.CIDR.() net.IP"], traversal, |a| match a {
        [Val::String(text)] => parse_ip(text).map(Val::Ip).map_err(Fault::new),
        [Val::Cidr(address, _)] => Ok(Val::Ip(*address)),
        _ => no_overload(),
    }),
    row("isIP", &["(string) bool"], traversal, |a| match a {
        [Val::String(text)] => Ok(Val::Bool(parse_ip(text).is_ok())),
        _ => no_overload(),
    }),
    row("ip.isCanonical", &["(string) bool"], traversal, |a| match a {
        [Val::String(text)] => {
            let address = parse_ip(text).map_err(Fault::new)?;
            Ok(Val::Bool(address.to_string() == text.as_ref()))
        }
        _ => no_overload(),
    }),
    row("family", &["net.IP.() int"], one, |a| match a {
        [Val::Ip(address)] => Ok(Val::Int(if address.is_ipv4() { 4 } else { 6 })),
        _ => no_overload(),
    }),
    row("isUnspecified", &["net.IP.() bool"], one, |a| is(a, |ip| ip.is_unspecified())),
    row("isLoopback", &["net.IP.() bool"], one, |a| is(a, |ip| ip.is_loopback())),
    row("isLinkLocalMulticast", &["net.IP.() bool"], one, |a| is(a, is_link_local_multicast)),
    row("isLinkLocalUnicast", &["net.IP.() bool"], one, |a| is(a, is_link_local_unicast)),
    row("isGlobalUnicast", &["net.IP.() bool"], one, |a| {
        is(a, |ip| {
            let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
            !(broadcast
                || ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_multicast()
                || is_link_local_unicast(ip))
        })
    }),
    row("cidr", &["(string) net.CIDR"], traversal, |a| match a {
        [Val::String(text)] => network(text),
        _ => no_overload(),
    }),
    row("isCIDR", &["(string) bool"], traversal, |a| match a {
        [Val::String(text)] => Ok(Val::Bool(parse_cidr(text).is_ok())),
        _ => no_overload(),
    }),
    row("containsIP", &["net.CIDR.(net.IP) bool", "net.CIDR.(string) bool"], one, |a| match a {
        [Val::Cidr(base, length), Val::Ip(address)] => Ok(Val::Bool(contains(*base, *length, *address))),
        [Val::Cidr(base, length), Val::String(text)] => {
            let address = parse_ip(text).map_err(Fault::new)?;
            Ok(Val::Bool(contains(*base, *length, address)))
        }
        _ => no_overload(),
    }),
    row("containsCIDR", &["net.CIDR.(net.CIDR) bool", "net.CIDR.(string) bool"], one, |a| match a {
        [Val::Cidr(base, length), Val::Cidr(inner, inner_length)] => {
            Ok(Val::Bool(length <= inner_length && contains(*base, *length, *inner)))
        }
        [Val::Cidr(base, length), Val::String(text)] => {
            let (inner, inner_length) = parse_cidr(text).map_err(Fault::new)?;
            Ok(Val::Bool(*length <= inner_length && contains(*base, *length, inner)))
        }
        _ => no_overload(),
    }),
    row("prefixLength", &["net.CIDR.() int"], one, |a| match a {
        [Val::Cidr(_, length)] => Ok(Val::Int((*length).into())),
        _ => no_overload(),
    }),
    row("masked", &["net.CIDR.() net.CIDR"], one, |a| match a {
        [Val::Cidr(base, length)] => Ok(Val::Cidr(masked(*base, *length), *length)),
        _ => no_overload(),
    }),
];

fn is(arguments: &[Val], of: fn(IpAddr) -> bool) -> Outcome {
    match arguments {
        [Val::Ip(address)] => Ok(Val::Bool(of(*address))),
        _ => no_overload(),
    }
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, String> {
    if text.contains('%') && text.contains(':') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    let address: IpAddr = text.parse().map_err(|_| {
        format!("IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP")
    })?;
    unmapped(address, text)
}

/// IPv4 addresses in IPv6 are refused, because two texts would say the same.
fn unmapped(address: IpAddr, text: &str) -> Result<IpAddr, String> {
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        address => Ok(address),
    }
}

fn network(text: &str) -> Outcome {
    parse_cidr(text).map(|(address, length)| Val::Cidr(address, length)).map_err(Fault::new)
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), String> {
    let wrong = |why: &str| {
        Err(format!(
            "network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}"
        ))
    };
    let Some((address, length)) = text.rsplit_once('/') else { return wrong("no '/'") };
    let Ok(parsed) = address.parse::<IpAddr>() else {
        return wrong(&format!("ParseAddr({address:?}): unable to parse IP"));
    };
    let plain = !length.is_empty()
        && length.bytes().all(|b| b.is_ascii_digit())
        && (length.len() == 1 || !length.starts_with('0'));
    let Some(length) = Some(length).filter(|_| plain).and_then(|length| length.parse::<u8>().ok()) else {
        return wrong(&format!("bad bits after slash: {length:?}"));
    };
    if length > bits(parsed) {
        return wrong("prefix length out of range");
    }
    unmapped(parsed, text).map(|address| (address, length))
}
