//! Headers on their way to a backend and back (pure).

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::api::hops::{self, Hops};

/// What a backend learns of the client's side.
pub struct Client<'a> {
    /// Whom it asked, as it wrote that.
    pub authority: &'a str,
    /// Its address.
    pub address: IpAddr,
    /// Whether it came by TLS.
    pub tls: bool,
    /// The port at which it came.
    pub port: u16,
    /// What the request is called if the client has no name for it.
    pub id: String,
    /// `X-Forwarded-Prefix`, where the ingress wants it.
    pub prefix: Option<&'a str>,
    /// Whether the ingress has checked a password, which is none of the backend's business then.
    pub authenticated: bool,
}

/// What the client says about itself is replaced by what is known: backends take these for true.
const TOLD: &[&str] = &[
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-original-forwarded-for",
    "x-real-ip",
    "x-scheme",
    // A CGI program would take it for its own setting (CVE-2016-5385).
    "proxy",
    // What is expected is expected of the ingress.
    "expect",
    // Of a protocol that is not changed to.
    "http2-settings",
];

/// So many headers are added to most requests.
const ADDED: usize = 9;

/// Protocols in which further requests would follow, which no rule would see.
const OTHER_REQUESTS: &[&str] = &["h2", "http", "tls"];

/// The protocol that client and backend may change to, such as WebSocket.
pub fn upgrade(asked: &HeaderMap) -> Option<HeaderValue> {
    let protocols = hops::upgrade(asked)?;
    let text = protocols.to_str().ok()?.to_ascii_lowercase();
    let refused = |name: &str| OTHER_REQUESTS.iter().any(|begin| name.trim().starts_with(begin));
    (!text.split(',').any(refused)).then_some(protocols)
}

/// The headers that a backend gets; `host` is the one that it is asked for.
pub fn to_backend(asked: &HeaderMap, host: &str, client: &Client<'_>) -> HeaderMap {
    let (upgrade, trailers) = (upgrade(asked), hops::takes_trailers(asked));
    let before = asked.get("x-forwarded-for").cloned();
    let hops = Hops::of(asked);
    let is_kept = |name: &HeaderName| {
        // The length is that of the body as it is read, whatever the client says. Names with underscores go, as with nginx:
        // CGI and its kin cannot tell `X_Real_IP` from `X-Real-IP`.
        let used_up = client.authenticated && *name == header::AUTHORIZATION;
        *name != header::CONTENT_LENGTH
            && !used_up
            && !name.as_str().contains('_')
            && !TOLD.contains(&name.as_str())
            && !hops.contains(name)
    };
    let mut headers = HeaderMap::with_capacity(asked.len() + ADDED);
    for (name, value) in asked.iter().filter(|(name, _)| is_kept(name)) {
        headers.append(name.clone(), value.clone());
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    one_cookie_header(&mut headers);
    let scheme = if client.tls { "https" } else { "http" };
    let (address, port) = (client.address.to_string(), client.port.to_string());
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("host", host);
    set("x-forwarded-for", &address);
    set("x-forwarded-host", client.authority);
    set("x-forwarded-port", &port);
    set("x-forwarded-proto", scheme);
    set("x-forwarded-scheme", scheme);
    set("x-real-ip", &address);
    set("x-scheme", scheme);
    if let Some(prefix) = client.prefix {
        set("x-forwarded-prefix", prefix);
    }
    if !asked.contains_key("x-request-id") {
        set("x-request-id", &client.id);
    }
    if let Some(before) = before {
        headers.insert(HeaderName::from_static("x-original-forwarded-for"), before);
    }
    headers
}

/// Joins cookies that HTTP/2 carries one by one: servers of HTTP/1.1 look for one header (RFC 9113, 8.2.3).
fn one_cookie_header(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Makes a backend's headers those of the answer to the client.
pub fn to_client(headers: &mut HeaderMap, switches: bool) {
    let upgrade = headers.get(header::UPGRADE).filter(|_| switches).cloned();
    hops::remove(headers);
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Sends the client to an address that begins with `to` where the backend sends it to one that begins with `from`.
pub fn lead_elsewhere(headers: &mut HeaderMap, from: &str, to: &str) {
    let place = headers.get(header::LOCATION).and_then(|place| place.to_str().ok());
    let rest = place.and_then(|place| place.strip_prefix(from));
    if let Some(place) = rest.and_then(|rest| HeaderValue::from_str(&format!("{to}{rest}")).ok()) {
        headers.insert(header::LOCATION, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(asked: &[(&'static str, &'static str)], authenticated: bool) -> Vec<String> {
        let asked =
            asked.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let client = Client {
            authority: "a.example:8080",
            address: "192.168.1.7".parse().unwrap(),
            tls: true,
            port: 443,
            id: "id".into(),
            prefix: None,
            authenticated,
        };
        let sent = to_backend(&asked, "a.example:8080", &client);
        let mut all: Vec<String> =
            sent.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        all.sort();
        all
    }

    const ALWAYS: [&str; 8] = [
        "host: a.example:8080",
        "x-forwarded-for: 192.168.1.7",
        "x-forwarded-host: a.example:8080",
        "x-forwarded-port: 443",
        "x-forwarded-proto: https",
        "x-forwarded-scheme: https",
        "x-real-ip: 192.168.1.7",
        "x-scheme: https",
    ];

    #[test]
    fn clients_are_led_elsewhere() {
        for (place, is) in
            [("http://web:8080/x", "https://a.example/x"), ("http://other/", "http://other/"), ("/x", "/x")]
        {
            let mut headers: HeaderMap = [(header::LOCATION, place.parse().unwrap())].into_iter().collect();
            lead_elsewhere(&mut headers, "http://web:8080", "https://a.example");
            assert_eq!(headers[header::LOCATION], is);
        }
    }

    #[test]
    fn a_backend_learns_who_asked_and_believes_no_client() {
        for (asked, authenticated, more) in [
            (&[][..], false, &["x-request-id: id"][..]),
            (&[("x-request-id", "own")], false, &["x-request-id: own"]),
            (
                &[("x-forwarded-for", "1.2.3.4"), ("x-real-ip", "1.2.3.4"), ("proxy", "http://evil")],
                false,
                &["x-original-forwarded-for: 1.2.3.4", "x-request-id: id"],
            ),
            (
                &[("connection", "close, x-private"), ("x-private", "1"), ("transfer-encoding", "chunked")],
                false,
                &["x-request-id: id"],
            ),
            (&[("content-length", "5"), ("expect", "100-continue")], false, &["x-request-id: id"]),
            (&[("te", "trailers, deflate")], false, &["te: trailers", "x-request-id: id"]),
            (
                &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")],
                false,
                &["connection: Upgrade", "upgrade: websocket", "x-request-id: id"],
            ),
            (&[("upgrade", "h2c")], false, &["x-request-id: id"]),
            (
                &[
                    ("connection", "Upgrade, HTTP2-Settings"),
                    ("upgrade", "h2c"),
                    ("http2-settings", "AAMAAAB"),
                ],
                false,
                &["x-request-id: id"],
            ),
            (
                &[("connection", "Upgrade"), ("upgrade", "websocket, H2C"), ("http2-settings", "AAMAAAB")],
                false,
                &["x-request-id: id"],
            ),
            (&[("connection", "Upgrade"), ("upgrade", "HTTP/2.0")], false, &["x-request-id: id"]),
            (
                &[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")],
                false,
                &["connection: Upgrade", "upgrade: SPDY/3.1", "x-request-id: id"],
            ),
            (
                &[
                    ("x_real_ip", "1.2.3.4"),
                    ("x-forwarded_for", "1.2.3.4"),
                    ("forwarded", "for=1.2.3.4"),
                    ("x-forwarded-prefix", "/admin"),
                    ("x-forwarded-ssl", "on"),
                    ("x-forwarded-server", "a"),
                ],
                false,
                &["x-request-id: id"],
            ),
            (&[("cookie", "a=1"), ("cookie", "b=2")], false, &["cookie: a=1; b=2", "x-request-id: id"]),
            (&[("authorization", "Basic x")], false, &["authorization: Basic x", "x-request-id: id"]),
            (&[("authorization", "Basic x")], true, &["x-request-id: id"]),
        ] {
            let mut wanted: Vec<&str> = ALWAYS.into_iter().chain(more.iter().copied()).collect();
            wanted.sort_unstable();
            assert_eq!(sent(asked, authenticated), wanted, "{asked:?}");
        }
    }
}
