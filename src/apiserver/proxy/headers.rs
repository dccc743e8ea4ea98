//! Headers of proxied requests and answers: what stays on one connection, what the backend must not see (pure).

use std::net::IpAddr;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::api::hops::{self, takes_trailers, upgrade, words};

/// What a backend may say about other origins holds for its own, not for the API server's.
const CROSS_ORIGIN: &[&str] = &[
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-allow-origin",
];
/// How a browser sends a bearer token as the name of a WebSocket protocol.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

/// Takes away whatever tells who the client is: that is between the client and this server.
fn without_identity(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let telling: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in telling {
        headers.remove(name);
    }
    let protocols: Vec<&str> = words(headers, header::SEC_WEBSOCKET_PROTOCOL).collect();
    if protocols.iter().any(|protocol| protocol.starts_with(TOKEN_PROTOCOL)) {
        let others: Vec<&str> =
            protocols.into_iter().filter(|protocol| !protocol.starts_with(TOKEN_PROTOCOL)).collect();
        let others = HeaderValue::from_str(&others.join(", "));
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        if let Ok(others) = others
            && !others.is_empty()
        {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
        }
    }
}

/// The headers that a backend gets; `host` is what the client named, `uri` the path by which it came.
pub fn to_backend(
    asked: &HeaderMap,
    host: Option<HeaderValue>,
    uri: &str,
    client: Option<IpAddr>,
) -> HeaderMap {
    let mut headers = asked.clone();
    let upgrade = upgrade(asked);
    let trailers = takes_trailers(asked);
    hops::remove(&mut headers);
    without_identity(&mut headers);
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
    if let Ok(uri) = HeaderValue::from_str(uri) {
        headers.insert(HeaderName::from_static("x-forwarded-uri"), uri);
    }
    if let Some(client) = client {
        let name = HeaderName::from_static("x-forwarded-for");
        let before: Vec<&str> = words(asked, name.clone()).collect();
        let all = before.into_iter().map(str::to_owned).chain([client.to_string()]);
        if let Ok(all) = HeaderValue::from_str(&all.collect::<Vec<_>>().join(", ")) {
            headers.insert(name, all);
        }
    }
    headers
}

/// Makes a backend's headers those of the answer to the client.
pub fn to_client(headers: &mut HeaderMap, switches: bool) {
    let upgrade = headers.get(header::UPGRADE).filter(|_| switches).cloned();
    hops::remove(headers);
    for name in CROSS_ORIGIN {
        headers.remove(*name);
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    fn shown(headers: &HeaderMap) -> Vec<String> {
        let mut all: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        all.sort();
        all
    }

    #[test]
    fn a_backend_learns_what_is_asked_but_not_by_whom() {
        let asked = headers(&[
            ("authorization", "Bearer secret"),
            ("impersonate-user", "root"),
            ("x-remote-user", "root"),
            ("connection", "keep-alive, x-mine"),
            ("x-mine", "1"),
            ("te", "trailers"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "192.0.2.1"),
        ]);
        let sent = to_backend(
            &asked,
            Some(HeaderValue::from_static("host:8001")),
            "/api/v1/x",
            Some([192, 0, 2, 2].into()),
        );
        assert_eq!(
            shown(&sent),
            [
                "cookie: a=b",
                "host: host:8001",
                "te: trailers",
                "x-forwarded-for: 192.0.2.1, 192.0.2.2",
                "x-forwarded-uri: /api/v1/x"
            ]
        );
    }

    #[test]
    fn an_upgrade_is_passed_on_without_its_token() {
        let asked = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.c2VjcmV0, chat"),
        ]);
        let sent = to_backend(&asked, None, "/", None);
        assert_eq!(
            shown(&sent),
            [
                "connection: Upgrade",
                "sec-websocket-protocol: chat",
                "upgrade: websocket",
                "x-forwarded-uri: /"
            ]
        );
        assert_eq!(upgrade(&headers(&[("upgrade", "websocket")])), None);
    }

    #[test]
    fn an_answer_keeps_what_is_about_its_content() {
        let pairs = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("access-control-allow-origin", "*"),
            ("content-type", "text/plain"),
            ("transfer-encoding", "chunked"),
        ];
        let mut plain = headers(&pairs);
        to_client(&mut plain, false);
        assert_eq!(shown(&plain), ["content-type: text/plain"]);
        let mut switching = headers(&pairs);
        to_client(&mut switching, true);
        assert_eq!(
            shown(&switching),
            ["connection: Upgrade", "content-type: text/plain", "upgrade: websocket"]
        );
    }
}
