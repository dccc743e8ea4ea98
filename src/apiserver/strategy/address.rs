//! Addresses to which packets are sent: of endpoints and of services from outside.

use std::net::IpAddr;

use serde_json::Value;

use crate::api::status::FieldError;

/// What an address must be.
pub(super) const BAD_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// What is wrong with an address to which a service forwards (`ValidateNonSpecialIP`): those of the machine itself and
/// of its links would let a service reach what only the machine may.
pub(super) fn endpoint(path: &str, given: &Value) -> Option<FieldError> {
    let text = given.as_str().unwrap_or_default();
    let Ok(address) = text.parse::<IpAddr>() else { return Some(FieldError::invalid(path, given, BAD_IP)) };
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
}
