//! Addresses and ranges of them, as fields hold them (k8s.io/apimachinery `pkg/util/validation/ip.go`).

use std::net::IpAddr;

use serde_json::Value;

use crate::api::cidr;
use crate::api::status::FieldError;

/// What an address must be.
pub(super) const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// What is wrong with an address to which a service forwards (`ValidateNonSpecialIP`): those of the machine itself and
/// of its links would let a service reach what only the machine may.
pub(super) fn endpoint(path: &str, given: &Value) -> Option<FieldError> {
    let text = given.as_str().unwrap_or_default();
    let Ok(address) = text.parse::<IpAddr>() else { return Some(FieldError::invalid(path, given, BAD_IP)) };
    // An IPv4 address in IPv6's clothes is led to as what it is.
    let address = address.to_canonical();
    let (link_local, link_multicast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    let why = if address.is_unspecified() {
        format!("may not be unspecified ({text})")
    } else if address.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if link_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return None;
    };
    Some(FieldError::invalid(path, given, &why))
}

/// Reads an address as older programs did, who took no notice of leading zeros.
fn sloppy(text: &str) -> Option<IpAddr> {
    let plain = |part: &str| part.trim_start_matches('0').to_owned();
    let fill = |part: String| if part.is_empty() { "0".to_owned() } else { part };
    text.parse().ok().or_else(|| {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = text.split('.').collect();
        let stripped: Vec<String> = parts.iter().map(|part| fill(plain(part))).collect();
        parts.iter().all(|part| digits(part)).then(|| stripped.join(".").parse().ok())?
    })
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// What is wrong with an address of a field that is older than the strict rules: it need not be in canonical form.
pub(super) fn ip(path: &str, given: &Value) -> Option<FieldError> {
    let text = given.as_str().unwrap_or_default();
    let why = match (sloppy(text), text.parse::<IpAddr>()) {
        (None, _) => BAD_IP,
        (Some(_), Err(_)) => "must not have leading 0s",
        (Some(address), _) if is_mapped(address) => "must not be an IPv4-mapped IPv6 address",
        _ => return None,
    };
    Some(FieldError::invalid(path, given, why))
}

/// What is wrong with an address that must be in canonical form.
pub(super) fn canonical_ip(path: &str, given: &Value) -> Option<FieldError> {
    ip(path, given).or_else(|| {
        let text = given.as_str().unwrap_or_default();
        let canonical = text.parse::<IpAddr>().ok()?.to_string();
        let why = format!("must be in canonical form ({canonical:?})");
        (canonical != text).then(|| FieldError::invalid(path, given, &why))
    })
}

/// A range of addresses: the first one and the length of what they have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    /// With whatever bits beyond the length it was written.
    written: IpAddr,
    length: u8,
}

impl Range {
    /// Reads a range as older programs did.
    pub(super) fn parse(text: &str) -> Option<Range> {
        let (address, length) = text.split_once('/')?;
        let written = sloppy(address)?;
        let digits = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
        let length = length.parse().ok().filter(|length| digits && *length <= cidr::bits(written))?;
        Some(Range { written, length })
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.written.is_ipv4()
    }

    fn first(&self) -> IpAddr {
        cidr::masked(self.written, self.length)
    }

    /// Whether `other` is a part of this range and smaller.
    pub(super) fn strictly_contains(&self, other: &Range) -> bool {
        self.length < other.length && cidr::contains(self.written, self.length, other.written)
    }
}

/// What is wrong with a range of a field that is older than the strict rules.
pub(super) fn cidr(path: &str, given: &Value) -> Option<FieldError> {
    let text = given.as_str().unwrap_or_default();
    let strict = text.split_once('/').is_some_and(|(address, length)| {
        address.parse::<IpAddr>().is_ok() && (length == "0" || !length.starts_with('0'))
    });
    let why = match Range::parse(text) {
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        Some(_) if !strict => "must not have leading 0s in IP or prefix length",
        Some(range) if is_mapped(range.written) => "must not have an IPv4-mapped IPv6 address",
        Some(range) if range.first() != range.written => "must not have bits set beyond the prefix length",
        Some(_) => return None,
    };
    Some(FieldError::invalid(path, given, why))
}

/// What is wrong with a range that must be in canonical form.
pub(super) fn canonical_cidr(path: &str, given: &Value) -> Option<FieldError> {
    cidr(path, given).or_else(|| {
        let text = given.as_str().unwrap_or_default();
        let range = Range::parse(text)?;
        let canonical = format!("{}/{}", range.first(), range.length);
        let why = format!("must be in canonical form ({canonical:?})");
        (canonical != text).then(|| FieldError::invalid(path, given, &why))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_no_endpoints() {
        for (address, error) in [
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            ("239.1.2.3", None),
            ("x", Some("must be a valid IP address")),
            ("0.0.0.0", Some("may not be unspecified (0.0.0.0)")),
            ("127.0.0.1", Some("may not be in the loopback range")),
            ("::1", Some("may not be in the loopback range")),
            ("169.254.169.254", Some("may not be in the link-local range")),
            ("fe80::1", Some("may not be in the link-local range")),
            ("224.0.0.5", Some("may not be in the link-local multicast range")),
            ("ff02::1", Some("may not be in the link-local multicast range")),
        ] {
            let wrong = endpoint("ip", &address.into()).map(|e| e.message);
            assert_eq!(wrong.is_some(), error.is_some(), "{address}");
            assert!(wrong.iter().all(|w| w.contains(error.unwrap())), "{address}: {wrong:?}");
        }
    }

    #[test]
    fn addresses_and_ranges_are_written_in_one_way() {
        type Rule = fn(&str, &Value) -> Option<FieldError>;
        let rows: &[(Rule, &str, Option<&str>)] = &[
            (canonical_ip, "10.0.0.1", None),
            (canonical_ip, "2001:db8::1", None),
            (
                canonical_ip,
                "10.0.0.256",
                Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ),
            (canonical_ip, "010.0.0.1", Some("must not have leading 0s")),
            (canonical_ip, "::ffff:1.2.3.4", Some("must not be an IPv4-mapped IPv6 address")),
            (canonical_ip, "2001:DB8::1", Some("must be in canonical form (\"2001:db8::1\")")),
            (ip, "2001:DB8::1", None),
            (cidr, "10.0.0.0/8", None),
            (cidr, "0.0.0.0/0", None),
            (cidr, "::/0", None),
            (cidr, "10.0.0.0", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
            (cidr, "10.0.0.0/33", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
            (cidr, "10.0.0.0/+8", Some("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
            (cidr, "10.0.0.0/08", Some("must not have leading 0s in IP or prefix length")),
            (cidr, "010.0.0.0/8", Some("must not have leading 0s in IP or prefix length")),
            (cidr, "10.0.0.1/8", Some("must not have bits set beyond the prefix length")),
            (cidr, "2001:DB8::/64", None),
            (canonical_cidr, "2001:DB8::/64", Some("must be in canonical form (\"2001:db8::/64\")")),
        ];
        for (rule, text, error) in rows {
            let given = Value::from(*text);
            let told = rule("x", &given).map(|e| e.message);
            let expected = error.map(|error| format!("Invalid value: {text:?}: {error}"));
            assert_eq!(told, expected, "{text}");
        }
        let range = |text: &str| Range::parse(text).unwrap();
        assert!(range("10.0.0.0/8").strictly_contains(&range("10.1.0.0/16")));
        assert!(!range("10.0.0.0/8").strictly_contains(&range("10.0.0.0/8")));
        assert!(!range("10.0.0.0/8").strictly_contains(&range("11.0.0.0/16")));
        assert!(!range("::/0").strictly_contains(&range("11.0.0.0/16")));
    }
}
