//! What is answered without a backend: redirects, refusals, preflight requests (pure).
//!
//! The order is nginx': where `/` leads, HTTPS, who may not be here at all, preflight requests, redirects, the length of
//! the body, and last who must say who they are ([`super::htpasswd`], which takes its time).

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::annotations::Cors;
use super::path;
use super::route::{Asked, Host, Location, cookie};
use super::variables;

/// What certificates are proven with must be reachable without TLS.
const ACME: &str = "/.well-known/acme-challenge";

/// An answer of the ingress' own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing but a status.
    Status(StatusCode),
    /// Elsewhere.
    Redirect(StatusCode, String),
    /// What another origin may do.
    Preflight,
    /// Who are you?
    Unauthorized(String),
}

/// Where a client of this host is sent before its path matters.
pub fn at_host(host: &Host, asked: &Asked<'_>) -> Option<Answer> {
    if let Some(to) = &host.moved {
        let port = asked.authority.strip_prefix(&host_literal(asked.host)).unwrap_or_default();
        let to = format!("{}://{to}{port}{}", scheme(asked), asked.uri);
        return Some(Answer::Redirect(StatusCode::PERMANENT_REDIRECT, to));
    }
    let root = host.app_root.as_ref().filter(|_| asked.path == "/")?;
    Some(Answer::Redirect(StatusCode::FOUND, format!("{}://{}{root}", scheme(asked), asked.authority)))
}

/// By what the client came.
pub fn scheme(asked: &Asked<'_>) -> &'static str {
    if asked.tls { "https" } else { "http" }
}

/// The text with the values that its variables have for this request: see [`variables::is_of_request`].
pub fn filled(asked: &Asked<'_>, text: &str) -> String {
    variables::filled(text, |name| variable(asked, name))
}

fn variable(asked: &Asked<'_>, name: &str) -> Option<String> {
    let query = || asked.uri.split_once('?').map_or("", |(_, query)| query);
    // What the request does not have is empty.
    let header =
        |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    Some(match name {
        "request_uri" => asked.uri.to_owned(),
        "escaped_request_uri" => path::escaped(asked.uri),
        "uri" => path::encoded(asked.path),
        "args" | "query_string" => query().to_owned(),
        "host" => host_literal(asked.host),
        "http_host" => asked.authority.to_owned(),
        "scheme" => scheme(asked).to_owned(),
        "remote_addr" | "binary_remote_addr" => asked.client.to_string(),
        "request_method" => asked.method.to_string(),
        _ => {
            let (kind, rest) = name.split_once('_')?;
            match kind {
                "http" => header(&rest.replace('_', "-")).to_owned(),
                "cookie" => cookie(asked.headers, rest).unwrap_or_default().to_owned(),
                "arg" => {
                    let pairs = query().split('&').filter_map(|pair| pair.split_once('='));
                    let mut values = pairs.filter(|(own, _)| *own == rest).map(|(_, value)| value);
                    values.next().unwrap_or_default().to_owned()
                }
                _ => return None,
            }
        }
    })
}

/// A host as addresses name it: IPv6 in brackets.
fn host_literal(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// What a request for this location is answered, if not by its backend. `length` is what the client says that it sends.
pub fn at_location(
    location: &Location,
    host: &Host,
    asked: &Asked<'_>,
    https_port: u16,
    length: Option<u64>,
) -> Option<Answer> {
    let settings = &location.settings;
    let wants_tls = settings.force_ssl_redirect || (host.tls && settings.ssl_redirect);
    if wants_tls && !asked.tls && !location.path.starts_with(ACME) {
        return Some(Answer::Redirect(StatusCode::PERMANENT_REDIRECT, to_https(asked, https_port)));
    }
    if settings.denied.is_some() {
        return Some(Answer::Status(StatusCode::SERVICE_UNAVAILABLE));
    }
    let inside =
        |ranges: &[super::annotations::Range]| ranges.iter().any(|range| range.contains(asked.client));
    if inside(&settings.refused) || settings.allowed.as_ref().is_some_and(|allowed| !inside(allowed)) {
        return Some(Answer::Status(StatusCode::FORBIDDEN));
    }
    if let Some(cors) = &settings.cors
        && asked.method == Method::OPTIONS
        && allowed_origin(cors, asked.headers).is_some()
    {
        return Some(Answer::Preflight);
    }
    if let Some(redirect) = &settings.redirect {
        let code = StatusCode::from_u16(redirect.code).unwrap_or(StatusCode::FOUND);
        let to = filled(asked, &redirect.to);
        return Some(Answer::Redirect(code, to));
    }
    match (settings.body_limit, length) {
        (Some(limit), Some(length)) if length > limit => Some(Answer::Status(StatusCode::PAYLOAD_TOO_LARGE)),
        _ => None,
    }
}

fn to_https(asked: &Asked<'_>, port: u16) -> String {
    let host = host_literal(asked.host);
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    format!("https://{host}{port}{}", asked.uri)
}

/// The origin that the answer allows.
fn allowed_origin(cors: &Cors, headers: &HeaderMap) -> Option<HeaderValue> {
    if cors.origins.iter().any(|origin| origin == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let origin = headers.get(header::ORIGIN)?;
    let asked = origin.to_str().ok()?.to_ascii_lowercase();
    let is = |own: &String| match own.split_once("://*.") {
        None => *own == asked,
        Some((scheme, rest)) => asked
            .strip_prefix(scheme)
            .and_then(|asked| asked.strip_prefix("://"))
            .and_then(|asked| asked.split_once('.'))
            .is_some_and(|(label, domain)| !label.is_empty() && domain == rest),
    };
    cors.origins.iter().any(is).then(|| origin.clone())
}

/// What a page of another origin may do, into the headers of an answer to it.
pub fn allow_origin(cors: &Cors, asked: &HeaderMap, answer: &mut HeaderMap) {
    let Some(origin) = allowed_origin(cors, asked) else { return };
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            answer.insert(name, value);
        }
    };
    set(header::ACCESS_CONTROL_ALLOW_METHODS, &cors.methods);
    set(header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.headers);
    set(header::ACCESS_CONTROL_MAX_AGE, &cors.max_age.to_string());
    if let Some(exposed) = &cors.exposed {
        set(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    if cors.credentials {
        set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
    }
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ingress::annotations::{PREFIX, parse};
    use crate::ingress::route::{Backend, Matcher, Target};

    fn location(annotations: &[(&str, &str)]) -> Location {
        let all = annotations.iter().map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()));
        Location {
            ingress: "default/web".into(),
            path: "/".into(),
            matcher: Matcher::Start("/".into()),
            exact: false,
            settings: Arc::new(parse(&all.collect()).settings),
            guard: None,
            backend: Arc::new(Backend::new("web".into(), Target::Endpoints(Vec::new()))),
            canary: None,
            errors: None,
        }
    }

    #[test]
    fn what_needs_no_backend_gets_none() {
        let to =
            |code: u16, to: &str| Some(Answer::Redirect(StatusCode::from_u16(code).unwrap(), to.to_owned()));
        let status = |code: u16| Some(Answer::Status(StatusCode::from_u16(code).unwrap()));
        let secure = "https://a.example:8443/x?q=1";
        for (annotations, certificate, tls, method, length, answer) in [
            (&[][..], false, false, "GET", None, None),
            (&[], true, false, "GET", None, to(308, secure)),
            (&[], true, true, "GET", None, None),
            (&[("ssl-redirect", "false")], true, false, "GET", None, None),
            (&[("force-ssl-redirect", "true")], false, false, "GET", None, to(308, secure)),
            (&[("force-ssl-redirect", "true")], false, true, "GET", None, None),
            (
                &[("permanent-redirect", "https://b.example")],
                false,
                false,
                "GET",
                None,
                to(301, "https://b.example"),
            ),
            (
                &[("temporal-redirect", "https://b.example")],
                false,
                false,
                "GET",
                None,
                to(302, "https://b.example"),
            ),
            (
                &[("permanent-redirect", "https://b.example$request_uri")],
                false,
                false,
                "GET",
                None,
                to(301, "https://b.example/x?q=1"),
            ),
            (
                &[("temporal-redirect", "$scheme://$http_host/to/${host}$uri?$args")],
                false,
                true,
                "GET",
                None,
                to(302, "https://a.example:81/to/a.example/x?q=1"),
            ),
            (&[("whitelist-source-range", "10.0.0.0/8")], false, false, "GET", None, status(403)),
            (&[("whitelist-source-range", "192.168.0.0/16")], false, false, "GET", None, None),
            (&[("denylist-source-range", "192.168.1.0/24")], false, false, "GET", None, status(403)),
            (&[("whitelist-source-range", "all")], false, false, "GET", None, status(503)),
            (&[], false, false, "POST", Some(1 << 20), None),
            (&[], false, false, "POST", Some((1 << 20) + 1), status(413)),
            (&[("proxy-body-size", "0")], false, false, "POST", Some(1 << 40), None),
            (&[("enable-cors", "true")], false, false, "OPTIONS", None, Some(Answer::Preflight)),
            (&[("enable-cors", "true")], false, false, "GET", None, None),
            (&[], false, false, "OPTIONS", None, None),
        ] {
            let host = Host { tls: certificate, ..Host::default() };
            let (headers, method) = (HeaderMap::new(), method.parse().unwrap());
            let asked = Asked {
                host: "a.example",
                authority: "a.example:81",
                path: "/x",
                uri: "/x?q=1",
                method: &method,
                headers: &headers,
                tls,
                client: "192.168.1.7".parse().unwrap(),
                dice: 0,
            };
            let location = location(annotations);
            let got = at_location(&location, &host, &asked, 8443, length);
            assert_eq!(got, answer, "{annotations:?} {certificate} {tls} {method}");
        }
    }

    #[test]
    fn a_host_that_is_elsewhere_says_so() {
        let host = Host { moved: Some("www.a.example".into()), ..Host::default() };
        let (headers, method) = (HeaderMap::new(), Method::GET);
        for (authority, tls, there) in [
            ("a.example", false, "http://www.a.example/x?q=1"),
            ("A.example:8443", true, "https://www.a.example/x?q=1"),
            ("a.example:8443", true, "https://www.a.example:8443/x?q=1"),
        ] {
            let asked = Asked {
                host: "a.example",
                authority,
                path: "/x",
                uri: "/x?q=1",
                method: &method,
                headers: &headers,
                tls,
                client: "192.168.1.7".parse().unwrap(),
                dice: 0,
            };
            let moved = Answer::Redirect(StatusCode::PERMANENT_REDIRECT, there.into());
            assert_eq!(at_host(&host, &asked), Some(moved));
        }
    }

    #[test]
    fn the_root_leads_to_the_application() {
        let host = Host { app_root: Some("/app".into()), ..Host::default() };
        let (headers, method) = (HeaderMap::new(), Method::GET);
        let asked = |path| Asked {
            host: "a.example",
            authority: "a.example:81",
            path,
            uri: path,
            method: &method,
            headers: &headers,
            tls: false,
            client: "192.168.1.7".parse().unwrap(),
            dice: 0,
        };
        let there = Answer::Redirect(StatusCode::FOUND, "http://a.example:81/app".into());
        assert_eq!(at_host(&host, &asked("/")), Some(there));
        assert_eq!(at_host(&host, &asked("/x")), None);
    }

    #[test]
    fn origins_are_compared_whole() {
        let cors = |origins: &str| {
            let all = location(&[("enable-cors", "true"), ("cors-allow-origin", origins)]);
            all.settings.cors.clone().unwrap()
        };
        for (own, asked, allowed) in [
            ("*", None, Some("*")),
            ("*", Some("https://x.example"), Some("*")),
            ("https://a.example", Some("https://a.example"), Some("https://a.example")),
            ("https://a.example", Some("http://a.example"), None),
            ("https://a.example", Some("https://a.example.evil"), None),
            ("https://a.example", None, None),
            ("https://*.a.example:81", Some("https://b.a.example:81"), Some("https://b.a.example:81")),
            ("https://*.a.example:81", Some("https://c.b.a.example:81"), None),
            ("https://*.a.example", Some("https://.a.example"), None),
            ("http://a.example, https://b.example", Some("https://b.example"), Some("https://b.example")),
        ] {
            let headers = asked.map(|origin| (header::ORIGIN, origin.parse().unwrap())).into_iter().collect();
            let mut answer = HeaderMap::new();
            allow_origin(&cors(own), &headers, &mut answer);
            let got = answer.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|value| value.to_str().unwrap());
            assert_eq!(got, allowed, "{own} {asked:?}");
            assert_eq!(answer.contains_key(header::ACCESS_CONTROL_MAX_AGE), allowed.is_some());
        }
    }
}
