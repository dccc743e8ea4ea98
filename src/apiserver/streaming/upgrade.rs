//! Connections that change from HTTP to SPDY/3.1, as clients before WebSockets do it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::api::hops::words;
use crate::api::status::Status;
use crate::apiserver::answer::{self, Body};

/// What the connection changes to.
const SPDY: &str = "SPDY/3.1";
/// The protocols that a client offers within the session, and the one that is chosen.
const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What a client may offer, said when it offered nothing of that.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Whether a request asks to change to `protocol`.
pub fn is_asked(headers: &HeaderMap, protocol: &str) -> bool {
    let names = |name, wanted: &str| words(headers, name).any(|word| word.eq_ignore_ascii_case(wanted));
    names(header::UPGRADE, protocol) && names(header::CONNECTION, "upgrade")
}

/// Whether a request asks for a SPDY session.
pub fn is_spdy(headers: &HeaderMap) -> bool {
    is_asked(headers, SPDY)
}

/// The answer that changes to SPDY, and the protocol spoken in it: the first of the client's that is one of `ours`. A
/// client that offers none gets the last of ours, the oldest.
///
/// The error is an answer, too: it names what would be understood (apimachinery `pkg/util/httpstream`).
pub fn accept(
    headers: &HeaderMap,
    ours: &[&'static str],
) -> Result<(http::Response<Body>, &'static str), Box<http::Response<Body>>> {
    let offered: Vec<&str> = words(headers, VERSION).collect();
    let known = offered.iter().find_map(|offer| ours.iter().find(|own| *own == offer));
    let chosen = match known.or(ours.last().filter(|_| offered.is_empty())) {
        Some(chosen) => *chosen,
        None => return Err(Box::new(refusal(&offered, ours))),
    };
    let mut response = http::Response::new(answer::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if !offered.is_empty() {
        answer.insert(VERSION, HeaderValue::from_static(chosen));
    }
    Ok((response, chosen))
}

fn refusal(offered: &[&str], ours: &[&'static str]) -> http::Response<Body> {
    let message = format!(
        "unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offered.join(" "),
        ours.join(" ")
    );
    let mut response = answer::status(&Status::failure(403, "Forbidden", message));
    for own in ours {
        response.headers_mut().append(ACCEPTED, HeaderValue::from_static(own));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_first_common_protocol_is_spoken() {
        let ours = &["v4.channel.k8s.io", "v3.channel.k8s.io", "channel.k8s.io"];
        for (offered, chosen) in [
            (&[][..], Some("channel.k8s.io")),
            (&["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"], Some("v4.channel.k8s.io")),
            (&["v3.channel.k8s.io, v4.channel.k8s.io"], Some("v3.channel.k8s.io")),
            (&["v9"], None),
        ] {
            let mut asked = headers(&[("connection", "Upgrade"), ("upgrade", "spdy/3.1")]);
            for offer in offered {
                asked.append(VERSION, HeaderValue::from_static(offer));
            }
            assert!(is_spdy(&asked) && !is_asked(&asked, "websocket"));
            match accept(&asked, ours) {
                Ok((response, protocol)) => {
                    assert_eq!((response.status().as_u16(), Some(protocol)), (101, chosen));
                    assert_eq!(response.headers().contains_key(VERSION), !offered.is_empty());
                }
                Err(response) => {
                    assert_eq!((response.status().as_u16(), chosen), (403, None));
                    assert_eq!(response.headers().get_all(ACCEPTED).iter().count(), 3);
                }
            }
        }
        assert!(!is_spdy(&headers(&[("upgrade", "SPDY/3.1")])));
    }
}
