//! URLs, read as Go's `url.ParseRequestURI` reads them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{no_overload, row};
use crate::api::cel::declared::{Function, one, traversal};
use crate::api::cel::value::{Entries, Key};
use crate::api::cel::{Fault, Outcome, Val};

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("url", &["(string) kubernetes.URL"], traversal, |a| match a {
        [Val::String(text)] => match parse(text) {
            Ok(url) => Ok(Val::Url(Arc::new(url))),
            Err(why) => Err(Fault::new(format!(
                "URL parse error during conversion from string: parse {text:?}: {why}"
            ))),
        },
        _ => no_overload(),
    }),
    row("isURL", &["(string) bool"], traversal, |a| match a {
        [Val::String(text)] => Ok(Val::Bool(parse(text).is_ok())),
        _ => no_overload(),
    }),
    row("getScheme", &["kubernetes.URL.() string"], one, |a| part(a, |url| url.scheme.clone())),
    row("getHost", &["kubernetes.URL.() string"], one, |a| part(a, |url| url.host.clone())),
    row("getHostname", &["kubernetes.URL.() string"], one, |a| part(a, |url| hostname(&url.host).to_owned())),
    row("getPort", &["kubernetes.URL.() string"], one, |a| part(a, |url| port(&url.host).to_owned())),
    row("getEscapedPath", &["kubernetes.URL.() string"], one, |a| part(a, |url| url.path.clone())),
    row("getQuery", &["kubernetes.URL.() map(string, list(string))"], one, |a| match a {
        [Val::Url(url)] => Ok(query(&url.query)),
        _ => no_overload(),
    }),
];

/// A URL's parts as they stand in its text.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

fn part(arguments: &[Val], of: fn(&Url) -> String) -> Outcome {
    match arguments {
        [Val::Url(url)] => Ok(Val::text(of(url))),
        _ => no_overload(),
    }
}

/// Reads an absolute URL or an absolute path; says why it is none.
pub fn parse(text: &str) -> Result<Url, String> {
    const INVALID: &str = "invalid URI for request";
    if text.is_empty() {
        return Err("empty url".to_owned());
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    let (scheme, rest) = match text.find(':') {
        Some(0) => return Err("missing protocol scheme".to_owned()),
        Some(end) if is_scheme(&text[..end]) => (text[..end].to_ascii_lowercase(), &text[end + 1..]),
        _ => (String::new(), text),
    };
    if !rest.starts_with('/') {
        return Err(INVALID.to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = match rest.strip_prefix("//") {
        // Three slashes are a path when there is no scheme.
        Some(after) if !scheme.is_empty() || !after.starts_with('/') => {
            let end = after.find('/').unwrap_or(after.len());
            let authority = &after[..end];
            (authority.rsplit('@').next().unwrap_or_default().to_owned(), &after[end..])
        }
        _ => (String::new(), rest),
    };
    check_host(&host)?;
    for part in [path, query] {
        if let Some(wrong) = bad_escape(part) {
            return Err(format!("invalid URL escape {wrong:?}"));
        }
    }
    Ok(Url { scheme, host, path: path.replace(' ', "%20"), query: query.to_owned() })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn check_host(host: &str) -> Result<(), String> {
    if let Some(wrong) = host.chars().find(|c| " \"<>\\^`{|}".contains(*c)) {
        return Err(format!("invalid character {:?} in host name", wrong.to_string()));
    }
    let after = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or("missing ']' in host")?.1,
        None => host.find(':').map_or("", |at| &host[at..]),
    };
    if after.is_empty()
        || after.strip_prefix(':').is_some_and(|port| port.bytes().all(|b| b.is_ascii_digit()))
    {
        Ok(())
    } else {
        Err(format!("invalid port {after:?} after host"))
    }
}

/// The first `%` that two hexadecimal digits do not follow.
fn bad_escape(text: &str) -> Option<&str> {
    let hex = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_hexdigit);
    let at = text.match_indices('%').map(|(at, _)| at).find(|at| !hex(at + 1) || !hex(at + 2))?;
    Some(&text[at..text.floor_char_boundary((at + 3).min(text.len()))])
}

fn hostname(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    }
}

fn port(host: &str) -> &str {
    let after = host.rsplit(']').next().unwrap_or_default();
    after.rsplit_once(':').map_or("", |(_, port)| port)
}

fn query(text: &str) -> Val {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        found.entry(unescape(key)).or_default().push(unescape(value));
    }
    let entries = found.into_iter().map(|(key, values)| (Key::String(key.into()), Val::texts(values)));
    Val::Map(Arc::new(entries.collect::<Entries>()))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let read = std::str::from_utf8(&digits).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
                bytes.extend(read);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
