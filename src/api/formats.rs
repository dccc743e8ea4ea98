//! The named formats of texts in schemas (`format: date-time`), as k8s.io/kube-openapi `pkg/validation/strfmt` reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::OnceLock;

use base64::Engine;
use regex::Regex;

use super::{cel, names};

/// The formats that a schema's texts are checked for; others say nothing.
const KNOWN: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// The format's name without its dashes, by which they are known.
fn normal(format: &str) -> String {
    format.replace('-', "")
}

/// Whether texts are checked for the format.
pub fn is_known(format: &str) -> bool {
    KNOWN.contains(&normal(format).as_str())
}

/// Whether a text is in the format. Everything is in an unknown one.
pub fn matches(format: &str, text: &str) -> bool {
    match normal(format).as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => cel::is_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some('3')),
        "uuid4" => uuid(text, Some('4')),
        "uuid5" => uuid(text, Some('5')),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_card(text),
        "ssn" => pattern(&SSN, r"^\d{3}[- ]?\d{2}[- ]?\d{4}$", text),
        "hexcolor" => {
            let digits = text.strip_prefix('#').unwrap_or(text);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "rgbcolor" => is_rgb(text),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "datetime" => is_date_time(text),
        "k8sshortname" => names::dns_label(text).is_empty(),
        "k8slongname" => names::dns_subdomain(text).is_empty(),
        _ => true,
    }
}

static SSN: OnceLock<Option<Regex>> = OnceLock::new();
static CARD: OnceLock<Option<Regex>> = OnceLock::new();
static SPAN: OnceLock<Option<Regex>> = OnceLock::new();

fn pattern(of: &'static OnceLock<Option<Regex>>, text: &str, value: &str) -> bool {
    of.get_or_init(|| Regex::new(text).ok()).as_ref().is_some_and(|pattern| pattern.is_match(value))
}

/// An address alone, or one with a name before it: `Jo <jo@example.com>`.
fn is_email(text: &str) -> bool {
    let address = match text.trim().strip_suffix('>').and_then(|t| t.rsplit_once('<')) {
        Some((_, address)) => address,
        None => text.trim(),
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b) || b >= 0x80)
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    (quoted || local.split('.').all(atom)) && domain.split('.').all(atom)
}

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 255 && text.split('.').all(label)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    length.bytes().all(|b| b.is_ascii_digit()) && length.parse::<u32>().is_ok_and(|length| length <= most)
}

fn is_mac(text: &str) -> bool {
    let groups = |by: char, size: usize, counts: &[usize]| {
        let parts: Vec<&str> = text.split(by).collect();
        counts.contains(&parts.len())
            && parts.iter().all(|part| part.len() == size && part.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    groups(':', 2, &[6, 8, 20]) || groups('-', 2, &[6, 8, 20]) || groups('.', 4, &[3, 4, 10])
}

/// 32 hexadecimal digits with dashes between the groups, or without; of a version when one is asked for.
fn uuid(text: &str, version: Option<char>) -> bool {
    let mut digits = String::with_capacity(32);
    let mut rest = text;
    for (i, size) in [8usize, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        let Some(group) = rest.get(..size).filter(|group| group.bytes().all(|b| b.is_ascii_hexdigit()))
        else {
            return false;
        };
        digits.push_str(group);
        rest = &rest[size..];
    }
    let at = |index: usize| digits[index..].chars().next().unwrap_or_default();
    let variant = matches!(version, None | Some('3')) || "89abAB".contains(at(16));
    rest.is_empty() && version.is_none_or(|version| at(12) == version) && variant
}

fn digits_of(text: &str) -> Vec<u8> {
    text.bytes().filter(|b| !b" -".contains(b)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let digits = digits_of(text);
    let value = |(i, b): (usize, &u8)| match b {
        b'0'..=b'9' => Some(u32::from(b - b'0')),
        b'X' if i == 9 => Some(10),
        _ => None,
    };
    let values: Option<Vec<u32>> = digits.iter().enumerate().map(value).collect();
    values.is_some_and(|values| {
        values.len() == 10
            && values.iter().zip(1..).map(|(value, weight)| value * weight).sum::<u32>() % 11 == 0
    })
}

fn is_isbn13(text: &str) -> bool {
    let digits = digits_of(text);
    digits.len() == 13
        && digits.iter().all(u8::is_ascii_digit)
        && digits
            .iter()
            .enumerate()
            .map(|(i, b)| u32::from(b - b'0') * if i % 2 == 0 { 1 } else { 3 })
            .sum::<u32>()
            % 10
            == 0
}

fn is_card(text: &str) -> bool {
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let form = r"^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$";
    let doubled = |(i, b): (usize, u8)| {
        let digit = u32::from(b - b'0') * if i % 2 == 1 { 2 } else { 1 };
        digit / 10 + digit % 10
    };
    pattern(&CARD, form, &digits) && digits.bytes().rev().enumerate().map(doubled).sum::<u32>() % 10 == 0
}

fn is_rgb(text: &str) -> bool {
    let Some(inner) = text.trim().strip_prefix("rgb(").and_then(|t| t.strip_suffix(')')) else {
        return false;
    };
    let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok())
}

/// As Go reads it, or a number and a unit in words: `22 ns`, `3 days`.
fn is_duration(text: &str) -> bool {
    cel::parse_duration(text).is_some()
        || pattern(
            &SPAN,
            r"(?i)^\d+(\.\d+)?\s*(ns|nanos?|nanoseconds?|us|µs|micros?|microseconds?|ms|millis?|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)$",
            text,
        )
}

/// A date and a time with a zone, in RFC 3339.
fn is_date_time(text: &str) -> bool {
    let zoned = text.ends_with(['Z', 'z']) || text.get(19..).is_some_and(|tail| tail.contains(['+', '-']));
    text.len() >= 19
        && text.as_bytes()[10].eq_ignore_ascii_case(&b'T')
        && zoned
        && text.parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_tell_right_from_wrong() {
        let uuid = "123e4567-e89b-42d3-a456-426614174000";
        for (format, right, wrong) in [
            (
                "date-time",
                &["2024-01-02T03:04:05Z", "2024-01-02T03:04:05.5+01:00"][..],
                &["2024-01-02", "x"][..],
            ),
            ("date", &["2024-01-02"], &["2024-13-02", "2024-01-02T00:00:00Z"]),
            ("ipv4", &["192.0.2.1"], &["192.0.2", "::1"]),
            ("ipv6", &["::1"], &["192.0.2.1"]),
            ("cidr", &["192.0.2.0/24", "::/0"], &["192.0.2.0", "192.0.2.0/33"]),
            (
                "uuid",
                &[uuid, "123e4567e89b42d3a456426614174000"],
                &["123", "g23e4567-e89b-42d3-a456-426614174000"],
            ),
            ("uuid4", &[uuid], &["123e4567-e89b-12d3-a456-426614174000"]),
            ("email", &["jo@example.com", "Jo <jo@example.com>"], &["jo", "jo@", "a b@c"]),
            ("hostname", &["example.com", "a"], &["-a", "a..b", ""]),
            ("uri", &["https://example.com/a?b=c", "/a"], &["example.com", ""]),
            ("mac", &["01:23:45:67:89:ab", "0123.4567.89ab"], &["01:23:45", "x"]),
            ("byte", &["aGk="], &["a"]),
            ("duration", &["1h30m", "22 ns", "3 days"], &["1", "x"]),
            ("isbn", &["0321751043", "978-0321751041"], &["0321751044"]),
            ("creditcard", &["4111-1111-1111-1111"], &["4111-1111-1111-1112"]),
            ("hexcolor", &["#FFFFFF", "abc"], &["#ff"]),
            ("rgbcolor", &["rgb(255,255,255)"], &["rgb(256,0,0)"]),
            ("k8s-short-name", &["a-b"], &["a.b"]),
            ("k8s-long-name", &["a.b"], &["A"]),
            ("unheard-of", &["anything"], &[]),
        ] {
            for text in right {
                assert!(matches(format, text), "{format} {text}");
            }
            for text in wrong {
                assert!(!matches(format, text), "{format} {text}");
            }
        }
        assert!(is_known("date-time") && !is_known("unheard-of"));
    }
}
