//! Headers about one connection, which whoever passes a message on takes away (RFC 9110, 7.6.1).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Never about the message.
const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The parts of a header that may be given several times, or once with commas.
pub fn words(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty())
}

/// The protocol that a request asks to change to.
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asked = words(headers, header::CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asked).cloned()
}

/// Whether the client takes trailers.
pub fn takes_trailers(headers: &HeaderMap) -> bool {
    words(headers, header::TE).any(|word| word.eq_ignore_ascii_case("trailers"))
}

/// The headers of a message that are about one connection alone: always the same ones, and those that it names itself.
pub struct Hops(Vec<HeaderName>);

impl Hops {
    /// Those of a message.
    pub fn of(headers: &HeaderMap) -> Hops {
        Hops(words(headers, header::CONNECTION).filter_map(|name| name.parse().ok()).collect())
    }

    /// Whether a header is one of them.
    pub fn contains(&self, name: &HeaderName) -> bool {
        HOP_BY_HOP.contains(&name.as_str()) || self.0.contains(name)
    }
}

/// Takes away what is about one connection alone.
pub fn remove(headers: &mut HeaderMap) {
    let hops = Hops::of(headers);
    let found: Vec<HeaderName> = headers.keys().filter(|name| hops.contains(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}
