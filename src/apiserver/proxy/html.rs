//! HTML with its links changed, piece by piece as it passes.

use super::rewrite::{Rewriter, is_link};

/// A tag or a mark that grows beyond this without an end passes as it is.
const TAG_BYTES: usize = 64 << 10;
/// Elements whose content is text up to their end tag, whatever stands in it.
const RAW: &[&str] =
    &["script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext"];

/// Where in the page the next byte is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Text,
    Comment,
    /// Inside an element of [`RAW`].
    Raw(String),
}

/// A page on its way.
#[derive(Debug)]
pub struct Page {
    rewriter: Rewriter,
    place: Place,
    /// What cannot be told before more has come.
    pending: Vec<u8>,
}

impl Page {
    /// A page at its beginning.
    pub fn new(rewriter: Rewriter) -> Page {
        Page { rewriter, place: Place::Text, pending: Vec::new() }
    }

    /// How many bytes it has room for.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.pending.capacity()
    }

    /// Takes the next piece, and answers what can be sent on.
    pub fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(piece);
        let mut out = Vec::with_capacity(self.pending.len() + 256);
        let mut at = 0;
        while let Some(step) = self.step(&self.pending[at..]) {
            match step {
                Step::Pass(bytes, next) => {
                    out.extend_from_slice(&self.pending[at..at + bytes]);
                    at += bytes;
                    self.place = next;
                }
                Step::Tag(bytes) => {
                    let tag = self.pending[at..at + bytes].to_vec();
                    let (changed, name) = self.tag(&tag);
                    out.extend_from_slice(&changed);
                    at += bytes;
                    if RAW.contains(&name.as_str()) && !tag.ends_with(b"/>") {
                        self.place = Place::Raw(name);
                    }
                }
            }
        }
        self.pending.drain(..at);
        out
    }

    /// What is left at the end of the page.
    pub fn finish(self) -> Vec<u8> {
        self.pending
    }

    /// What stands at the beginning of `rest`; `None` when more must come before it can be told.
    fn step(&self, rest: &[u8]) -> Option<Step> {
        if rest.is_empty() {
            return None;
        }
        match &self.place {
            Place::Comment => match find_ignoring_case(rest, b"-->") {
                Some(found) => Some(Step::Pass(found + 3, Place::Text)),
                None => pass_all_but(rest, 2, Place::Comment),
            },
            Place::Raw(name) => {
                let end = format!("</{name}");
                match find_ignoring_case(rest, end.as_bytes()) {
                    Some(found) => Some(Step::Pass(found, Place::Text)),
                    // The end tag may have begun.
                    None => pass_all_but(rest, end.len() - 1, self.place.clone()),
                }
            }
            Place::Text => match rest.iter().position(|byte| *byte == b'<') {
                None => Some(Step::Pass(rest.len(), Place::Text)),
                Some(0) => self.mark(rest),
                Some(text) => Some(Step::Pass(text, Place::Text)),
            },
        }
    }

    /// What a `<` in the text begins.
    fn mark(&self, rest: &[u8]) -> Option<Step> {
        let whole = |end: Option<usize>| match end {
            Some(end) => Some(end + 1),
            None if rest.len() > TAG_BYTES => Some(rest.len()),
            None => None,
        };
        match rest.get(1)? {
            b'!' if rest.starts_with(b"<!--") => Some(Step::Pass(4, Place::Comment)),
            b'!' if b"<!--".starts_with(rest) => None,
            b'!' | b'?' => {
                let end = whole(rest.iter().position(|byte| *byte == b'>'))?;
                Some(Step::Pass(end, Place::Text))
            }
            b'/' => Some(Step::Pass(whole(tag_end(rest))?, Place::Text)),
            byte if byte.is_ascii_alphabetic() => match tag_end(rest) {
                Some(end) => Some(Step::Tag(end + 1)),
                None => Some(Step::Pass(whole(None)?, Place::Text)),
            },
            _ => Some(Step::Pass(1, Place::Text)),
        }
    }

    /// A start tag with its links changed, and its name.
    fn tag(&self, tag: &[u8]) -> (Vec<u8>, String) {
        let name_end = 1 + tag[1..].iter().position(|b| ends_name(*b)).unwrap_or(tag.len() - 1);
        let element = String::from_utf8_lossy(&tag[1..name_end]).to_ascii_lowercase();
        let mut out = tag[..name_end].to_vec();
        let mut at = name_end;
        while let Some(attribute) = next_attribute(tag, at) {
            let name = String::from_utf8_lossy(&tag[attribute.name.clone()]).to_ascii_lowercase();
            let value = std::str::from_utf8(&tag[attribute.value.clone()]).ok();
            let led = value.filter(|_| is_link(&element, &name)).and_then(|link| self.rewriter.link(link));
            match led {
                Some(led) => {
                    out.extend_from_slice(&tag[at..attribute.value.start]);
                    out.extend_from_slice(led.as_bytes());
                }
                None => out.extend_from_slice(&tag[at..attribute.value.end]),
            }
            at = attribute.value.end;
        }
        out.extend_from_slice(&tag[at..]);
        (out, element)
    }
}

/// What is done with the next bytes.
enum Step {
    /// So many go on as they are, and that is where the page is then.
    Pass(usize, Place),
    /// So many are a start tag.
    Tag(usize),
}

/// As much as cannot be the beginning of what ends the place.
fn pass_all_but(rest: &[u8], kept: usize, here: Place) -> Option<Step> {
    (rest.len() > kept).then(|| Step::Pass(rest.len() - kept, here))
}

fn find_ignoring_case(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window.eq_ignore_ascii_case(wanted))
}

fn ends_name(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'/' || byte == b'>'
}

/// Where the `>` of a tag is; one within quotes does not end it.
fn tag_end(tag: &[u8]) -> Option<usize> {
    let mut quote = None;
    let mut after_equals = false;
    for (at, byte) in tag.iter().enumerate().skip(1) {
        match (quote, byte) {
            (Some(open), byte) if open == *byte => quote = None,
            (Some(_), _) => {}
            (None, b'>') => return Some(at),
            (None, b'"' | b'\'') if after_equals => quote = Some(*byte),
            _ => {}
        }
        after_equals = *byte == b'=' || (after_equals && byte.is_ascii_whitespace());
    }
    None
}

/// Name and value of an attribute, as ranges of its tag; a value without its quotes.
struct Attribute {
    name: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

/// The next attribute that has a value.
fn next_attribute(tag: &[u8], from: usize) -> Option<Attribute> {
    let skip = |mut at: usize, when: fn(u8) -> bool| {
        while tag.get(at).is_some_and(|byte| when(*byte)) {
            at += 1;
        }
        at
    };
    let space = |byte: u8| byte.is_ascii_whitespace();
    let mut at = from;
    loop {
        // A quote here closed the value before.
        let start = skip(at, |byte| byte.is_ascii_whitespace() || b"/\"'".contains(&byte));
        let end = skip(start, |byte| !ends_name(byte) && byte != b'=');
        let equals = skip(end, space);
        if tag.get(equals) != Some(&b'=') {
            if matches!(tag.get(end), None | Some(b'>')) {
                return None;
            }
            at = end.max(start + 1);
            continue;
        }
        let value = skip(equals + 1, space);
        let value = match tag.get(value)? {
            quote @ (b'"' | b'\'') => {
                let length = tag[value + 1..].iter().position(|byte| byte == quote)?;
                value + 1..value + 1 + length
            }
            _ => value..skip(value, |byte| !byte.is_ascii_whitespace() && byte != b'>'),
        };
        return Some(Attribute { name: start..end, value });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewriter() -> Rewriter {
        Rewriter { prefix: "/proxy".into(), backend: "10.0.0.1:80".into(), asked: "host".into() }
    }

    /// The page rewritten in pieces of so many bytes.
    fn rewritten(page: &str, size: usize) -> String {
        let mut rewriting = Page::new(rewriter());
        let mut out = Vec::new();
        for piece in page.as_bytes().chunks(size) {
            out.extend(rewriting.push(piece));
        }
        out.extend(rewriting.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn links_are_changed_and_nothing_else() {
        for (page, expected) in [
            ("<a href=\"/x\">x</a>", "<a href=\"/proxy/x\">x</a>"),
            ("<A HREF='/x' title=\"/x\">", "<A HREF='/proxy/x' title=\"/x\">"),
            ("<a href=/x/>", "<a href=/proxy/x/>"),
            ("<a href = \"/x\" class=b>", "<a href = \"/proxy/x\" class=b>"),
            ("<a data-x href=\"/x?a=b&amp;c\">", "<a data-x href=\"/proxy/x?a=b&amp;c\">"),
            ("<img alt=\"a > b\" src=\"/i.png\"/>", "<img alt=\"a > b\" src=\"/proxy/i.png\"/>"),
            (
                "<img src=\"i.png\"><a href=\"http://other/x\">",
                "<img src=\"i.png\"><a href=\"http://other/x\">",
            ),
            ("<!-- <a href=\"/x\"> --><a href=\"/y\">", "<!-- <a href=\"/x\"> --><a href=\"/proxy/y\">"),
            (
                "<script src=\"/s.js\">if (a<b) '<a href=\"/x\">'</script><a href=\"/y\">",
                "<script src=\"/proxy/s.js\">if (a<b) '<a href=\"/x\">'</script><a href=\"/proxy/y\">",
            ),
            ("<!DOCTYPE html><p>1 < 2 <b>b</b>", "<!DOCTYPE html><p>1 < 2 <b>b</b>"),
            ("<form action=\"/go\" method=post>ä", "<form action=\"/proxy/go\" method=post>ä"),
            ("text <a href=\"/unfinished", "text <a href=\"/unfinished"),
            ("", ""),
        ] {
            for size in [1, 2, 3, 7, 4096] {
                assert_eq!(rewritten(page, size), expected, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn what_never_ends_is_passed_on() {
        let mut page = Page::new(rewriter());
        let long = format!("<a title=\"{}", "x".repeat(TAG_BYTES));
        assert_eq!(page.push(long.as_bytes()), long.as_bytes());
    }
}
