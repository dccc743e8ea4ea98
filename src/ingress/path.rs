//! Paths of requests: what rules are compared with, and what becomes of them by `rewrite-target` (pure).
//!
//! nginx compares the decoded path without empty and dotted parts, and passes the one on that the client sent, unless it
//! rewrites it. So does this: what a rule forbids cannot be reached by another spelling.

use regex::Regex;

use super::variables;

/// The path as rules see it: decoded, with single slashes, without `.` and `..`. `None` when it is none: it leaves the
/// root, or is not encoded as it should be. Bytes that are no text become U+FFFD.
pub fn normalized(path: &str) -> Option<String> {
    let bytes = decoded(path.strip_prefix('/')?)?;
    let mut parts: Vec<&[u8]> = Vec::new();
    // Whether the path ends with a slash.
    let mut open = true;
    for part in bytes.split(|byte| *byte == b'/') {
        open = true;
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            _ => {
                parts.push(part);
                open = false;
            }
        }
    }
    let mut whole = vec![b'/'];
    whole.extend(parts.join(&b'/'));
    if open && !parts.is_empty() {
        whole.push(b'/');
    }
    Some(String::from_utf8_lossy(&whole).into_owned())
}

/// The bytes that a percent-encoded text stands for.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let byte = u8::try_from(digit()? * 16 + digit()?).ok().filter(|byte| *byte != 0)?;
        bytes.push(byte);
    }
    Some(bytes)
}

/// The path and query for the backend: the target with what the pattern's groups found in `path`, and the query that the
/// client sent behind that of the target (as nginx' `rewrite` does it).
pub fn rewritten(pattern: &Regex, target: &str, path: &str, query: Option<&str>) -> String {
    let (target, own_query) = match target.split_once('?') {
        Some((target, own)) => (target, Some(own)),
        None => (target, None),
    };
    let fill = |text: &str| captured(pattern, text, path);
    let mut rewritten = encoded(&fill(target));
    if !rewritten.starts_with('/') {
        rewritten.insert(0, '/');
    }
    // A target that ends with `?` is to have no query.
    let query = match own_query {
        Some("") => None,
        Some(own) => {
            let own = encoded_query(&fill(own));
            Some(query.map_or(own.clone(), |query| format!("{own}&{query}")))
        }
        None => query.map(str::to_owned),
    };
    query.map_or(rewritten.clone(), |query| format!("{rewritten}?{query}"))
}

/// The text with what the pattern's groups found in `path`.
pub fn captured(pattern: &Regex, text: &str, path: &str) -> String {
    let groups = pattern.captures(path);
    variables::filled(text, |name| {
        let number: usize = name.parse().ok()?;
        let found = groups.as_ref().and_then(|groups| groups.get(number));
        Some(found.map_or("", |found| found.as_str()).to_owned())
    })
}

fn encode(text: &str, plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match plain(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A text as a part of a query.
pub fn escaped(text: &str) -> String {
    encode(text, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !br##""#<>\^`{|}"##.contains(&byte)
}

/// A path as it is sent.
pub fn encoded(path: &str) -> String {
    encode(path, |byte| is_plain(byte) && byte != b'%' && byte != b'?')
}

fn encoded_query(query: &str) -> String {
    encode(query, is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_path_is_the_same_path() {
        for (path, is) in [
            ("/", Some("/")),
            ("/a/b", Some("/a/b")),
            ("/a//b/", Some("/a/b/")),
            ("/a/./b/.", Some("/a/b/")),
            ("/a/../b", Some("/b")),
            ("/a/..", Some("/")),
            ("/public/..%2Fadm%69n", Some("/admin")),
            ("/%2e%2e/etc", None),
            ("/../etc", None),
            ("/a%zz", None),
            ("/a%0", None),
            ("/a%00b", None),
            ("/%61dmin/%ff", Some("/admin/\u{fffd}")),
            ("/caf%C3%A9", Some("/café")),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(normalized(path).as_deref(), is, "{path}");
        }
    }

    #[test]
    fn targets_are_filled_with_what_was_found() {
        for (pattern, target, path, query, is) in [
            ("(?i)^/app(/|$)(.*)", "/$2", "/app/x/y", None, "/x/y"),
            ("(?i)^/app(/|$)(.*)", "/$2", "/APP", Some("q=1"), "/?q=1"),
            ("(?i)^/app", "/", "/app/x", None, "/"),
            ("(?i)^/a/(.*)", "/b/$1", "/a/x y?%", None, "/b/x%20y%3F%25"),
            ("(?i)^/a/(.*)", "/b?of=$1", "/a/x", Some("q=1"), "/b?of=x&q=1"),
            ("(?i)^/a/(.*)", "/b?", "/a/x", Some("q=1"), "/b"),
            ("(?i)^/a/(.*)", "$1", "/a/x", None, "/x"),
            ("(?i)^/a/(.*)", "/$2$", "/a/x", None, "/$"),
        ] {
            let pattern = Regex::new(pattern).unwrap();
            assert_eq!(rewritten(&pattern, target, path, query), is, "{path} -> {target}");
        }
    }
}
