//! Values of annotations: taken by name, checked, complained about (pure).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::HeaderValue;
use regex::{Regex, RegexBuilder};

use super::PREFIX;
use crate::ingress::variables;

/// How large a compiled expression may become.
const PATTERN_BYTES: usize = 1 << 20;
/// The longest that anything is waited for: beyond, a number of seconds is a slip.
const SECONDS_MAX: u64 = 365 * 24 * 3600;

/// The annotations of one ingress while they are read.
pub(super) struct Reader<'a> {
    all: &'a BTreeMap<String, String>,
    known: BTreeSet<String>,
    complaints: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(all: &'a BTreeMap<String, String>) -> Reader<'a> {
        Reader { all, known: BTreeSet::new(), complaints: Vec::new() }
    }

    /// Says what is wrong with an annotation.
    pub(super) fn complain(&mut self, name: &str, why: &str) {
        self.complaints.push(format!("{PREFIX}{name}: {why}"));
    }

    /// Says that an annotation of this name is none to complain about.
    pub(super) fn know(&mut self, name: &str) {
        self.known.insert(format!("{PREFIX}{name}"));
    }

    /// The value, unless it is empty.
    pub(super) fn text(&mut self, name: &str) -> Option<&'a str> {
        let name = format!("{PREFIX}{name}");
        let text = self.all.get(&name).map(|text| text.trim()).filter(|text| !text.is_empty());
        self.known.insert(name);
        text
    }

    /// The value as `read` understands it; if it does not, what is `wanted` is told.
    pub(super) fn checked<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let value = read(text);
        if value.is_none() {
            self.complain(name, &format!("{text:?} must be {wanted}"));
        }
        value
    }

    /// `true` or `false`, as Go's `strconv.ParseBool` takes them.
    pub(super) fn flag(&mut self, name: &str) -> Option<bool> {
        self.checked(name, "\"true\" or \"false\"", |text| match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            _ => None,
        })
    }

    /// A time, given as a number of seconds.
    pub(super) fn seconds(&mut self, name: &str) -> Option<Duration> {
        self.checked(name, "a number of seconds such as 120", |text| {
            let seconds = text.parse().ok().filter(|seconds| (1..=SECONDS_MAX).contains(seconds))?;
            Some(Duration::from_secs(seconds))
        })
    }

    /// A text that can be a header's value.
    pub(super) fn header_text(&mut self, name: &str) -> Option<String> {
        self.checked(name, "a text of printable characters", |text| {
            HeaderValue::from_str(text).is_ok().then(|| text.to_owned())
        })
    }

    /// Complains about a variable in the value that is not among those that are `known` there.
    pub(super) fn know_variables(&mut self, name: &str, known: impl Fn(&str) -> bool) {
        if let Some(other) = self.text(name).and_then(|text| variables::unknown(text, known)) {
            self.complain(
                name,
                &format!("minik does not know the variable ${other} here; it stands as it is written"),
            );
        }
    }

    /// The parts of a list with commas.
    pub(super) fn list(&mut self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.text(name).unwrap_or("").split(',').map(str::trim).filter(|part| !part.is_empty())
    }

    /// The complaints, with one for each annotation that nobody asked for.
    pub(super) fn finish(mut self) -> Vec<String> {
        let unknown = self.all.keys().filter(|name| name.starts_with(PREFIX) && !self.known.contains(*name));
        self.complaints.extend(unknown.map(|name| format!("{name}: minik does not carry this out")));
        self.complaints
    }
}

/// A size as nginx writes it: bytes, or with `k`, `m` or `g`.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (&text[..at], 1 << 10),
        (at, 'm' | 'M') => (&text[..at], 1 << 20),
        (at, 'g' | 'G') => (&text[..at], 1 << 30),
        _ => (text, 1u64),
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// An expression that cannot become too large.
pub(super) fn pattern(text: &str, any_case: bool) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).case_insensitive(any_case).size_limit(PATTERN_BYTES).build()
}

/// A name of a cookie (RFC 6265, 4.1.1).
pub(super) fn is_token(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// What an attribute of a cookie may hold.
pub(super) fn is_attribute(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() && b != b';')
}

/// `*`, `https://example.com:8443` or `https://*.example.com`.
pub(super) fn is_origin(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest else { return false };
    let (host, port) = rest.split_once(':').unwrap_or((rest, "80"));
    let host = host.strip_prefix("*.").unwrap_or(host);
    let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    named && !host.is_empty() && port.parse::<u16>().is_ok()
}
