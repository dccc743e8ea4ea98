//! Links of a proxied page, led back through the proxy (pure).
//!
//! The rules are those of apimachinery `pkg/util/proxy/transport.go`: what points to the same host by an absolute path
//! gets the proxy's path before it, everything else stays.

/// Where a page came from, and through which path it is reached.
#[derive(Debug, Clone)]
pub struct Rewriter {
    /// The path of the proxy, to which the page's own path is appended: `/api/v1/namespaces/a/services/b/proxy`.
    pub prefix: String,
    /// The host of the backend: `10.244.0.5:80`.
    pub backend: String,
    /// The host that the client named.
    pub asked: String,
}

/// The parts of a link that decide.
struct Link<'a> {
    host: &'a str,
    path: &'a str,
    /// Query and fragment with their marks.
    rest: &'a str,
}

fn split(text: &str) -> Option<Link<'_>> {
    if text.bytes().any(|byte| byte.is_ascii_control()) {
        return None;
    }
    let end = text.find(['?', '#']).unwrap_or(text.len());
    let (before, rest) = text.split_at(end);
    let scheme = before.find(':').filter(|at| {
        let name = &before.as_bytes()[..*at];
        name.first().is_some_and(u8::is_ascii_alphabetic)
            && name.iter().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(b))
    });
    let before = scheme.map_or(before, |at| &before[at + 1..]);
    match before.strip_prefix("//") {
        Some(authority) => {
            let (host, path) = authority.split_at(authority.find('/').unwrap_or(authority.len()));
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            Some(Link { host, path, rest })
        }
        None => Some(Link { host: "", path: before, rest }),
    }
}

impl Rewriter {
    /// The link as the client must see it; `None` when it stays as it is.
    pub fn link(&self, text: &str) -> Option<String> {
        let link = split(text)?;
        let elsewhere = !link.host.is_empty() && link.host != self.backend && link.host != self.asked;
        if elsewhere || !link.path.starts_with('/') {
            return None;
        }
        // Named by the host that the client asked for, it may stay named so.
        let head = if !link.host.is_empty() && link.host == self.asked {
            &text[..text.len() - link.path.len() - link.rest.len()]
        } else {
            ""
        };
        if link.path.starts_with(&self.prefix) {
            return Some(format!("{head}{}{}", link.path, link.rest));
        }
        Some(format!("{head}{}{}", self.under_prefix(link.path), link.rest))
    }

    /// The path after the proxy's, without empty segments and dots.
    fn under_prefix(&self, path: &str) -> String {
        let mut segments: Vec<&str> = Vec::new();
        for segment in self.prefix.split('/').chain(path.split('/')) {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                other => segments.push(other),
            }
        }
        let slash = if path.ends_with('/') { "/" } else { "" };
        format!("/{}{slash}", segments.join("/"))
    }
}

/// Whether this attribute of this element holds a link (the indexes of attributes of HTML 4 and 5).
pub fn is_link(element: &str, attribute: &str) -> bool {
    let elements: &[&str] = match attribute {
        "href" => &["a", "area", "base", "link"],
        "src" => &["audio", "embed", "frame", "iframe", "img", "input", "script", "source", "video"],
        "usemap" => &["img", "input", "object"],
        "longdesc" => &["frame", "iframe", "img"],
        "cite" => &["blockquote", "del", "ins", "q"],
        "formaction" => &["button", "input"],
        "codebase" => &["applet", "object"],
        "classid" | "data" => &["object"],
        "background" => &["body"],
        "icon" => &["command"],
        "action" => &["form"],
        "profile" => &["head"],
        "manifest" => &["html"],
        "poster" => &["video"],
        _ => &[],
    };
    elements.contains(&element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_same_host_go_through_the_proxy() {
        let rewriter = Rewriter {
            prefix: "/api/v1/namespaces/a/services/b/proxy".into(),
            backend: "10.244.0.5:80".into(),
            asked: "localhost:8001".into(),
        };
        let under = |path: &str| format!("/api/v1/namespaces/a/services/b/proxy{path}");
        for (link, led) in [
            ("/", Some(under("/"))),
            ("/x/?a=/b#c", Some(under("/x/?a=/b#c"))),
            ("/x/../y//z", Some(under("/y/z"))),
            ("http://10.244.0.5:80/x", Some(under("/x"))),
            ("//10.244.0.5:80/x", Some(under("/x"))),
            ("http://localhost:8001/x", Some(format!("http://localhost:8001{}", under("/x")))),
            (&under("/x"), Some(under("/x"))),
            ("http://elsewhere/x", None),
            ("//elsewhere/x", None),
            ("x/y", None),
            ("?a=b", None),
            ("#c", None),
            ("", None),
            ("mailto:a@b", None),
            ("javascript:go()", None),
            ("http://10.244.0.5:80", None),
            ("/a\nb", None),
        ] {
            assert_eq!(rewriter.link(link), led, "{link}");
        }
    }

    #[test]
    fn attributes_that_hold_links_are_known() {
        assert!(is_link("a", "href") && is_link("script", "src") && is_link("form", "action"));
        assert!(!is_link("div", "href") && !is_link("a", "title"));
    }
}
