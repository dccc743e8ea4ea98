//! Regular expressions, in RE2's syntax.

use std::borrow::Cow;

use ::regex::{Error, Regex, RegexBuilder};

use super::{no_overload, row};
use crate::api::cel::declared::{Function, matching};
use crate::api::cel::{Fault, Val};

/// The memory that a compiled expression may take.
const COMPILED_BYTES: usize = 2 << 20;

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("matches", &["string.(string) bool", "(string, string) bool"], matching, |a| match a {
        [Val::String(text), pattern] => Ok(Val::Bool(read(pattern, "")?.is_match(text))),
        _ => no_overload(),
    }),
    row("find", &["string.(string) string"], matching, |a| match a {
        [Val::String(text), pattern] => {
            let found =
                read(pattern, "Illegal regex: ")?.find(text).map_or(String::new(), |m| m.as_str().to_owned());
            Ok(Val::text(found))
        }
        _ => no_overload(),
    }),
    row("findAll", &["string.(string) list(string)", "string.(string, int) list(string)"], matching, |a| {
        let (text, pattern, most) = match a {
            [Val::String(text), pattern] => (text, pattern, -1),
            [Val::String(text), pattern, Val::Int(most)] => (text, pattern, *most),
            _ => return no_overload(),
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let pattern = read(pattern, "Illegal regex: ")?;
        Ok(Val::texts(pattern.find_iter(text).take(most).map(|m| m.as_str())))
    }),
];

/// Reads an expression.
pub fn compile(pattern: &str) -> Result<Regex, Error> {
    RegexBuilder::new(&translated(pattern)).size_limit(COMPILED_BYTES).build()
}

/// An expression of RE2's in the words of this crate's: classes such as `\w` are of ASCII there (and small), braces that
/// count nothing stand for themselves, and so does what only this crate takes for an operation on classes.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern.chars().peekable();
    let mut in_class = false;
    let mut class_begins = false;
    while let Some(c) = rest.next() {
        let begins = std::mem::take(&mut class_begins);
        match c {
            '\\' => {
                let ascii = match (rest.peek(), in_class) {
                    (Some('d'), false) => "[0-9]",
                    (Some('w'), false) => "[0-9A-Za-z_]",
                    (Some('s'), false) => "[\\t\\n\\f\\r ]",
                    (Some('d'), true) => "0-9",
                    (Some('w'), true) => "0-9A-Za-z_",
                    (Some('s'), true) => "\\t\\n\\f\\r ",
                    (Some('D'), _) => "[^0-9]",
                    (Some('W'), _) => "[^0-9A-Za-z_]",
                    (Some('S'), _) => "[^\\t\\n\\f\\r ]",
                    (Some('b'), false) => "(?-u:\\b)",
                    // Everything up to the end mark is meant as it stands.
                    (Some('Q'), false) => {
                        rest.next();
                        let left: String = rest.by_ref().collect();
                        let (quoted, after) = left.split_once("\\E").unwrap_or((&left, ""));
                        out.push_str(&::regex::escape(quoted));
                        out.push_str(&translated(after));
                        return out;
                    }
                    _ => {
                        out.push('\\');
                        out.extend(rest.next());
                        continue;
                    }
                };
                rest.next();
                out.push_str(ascii);
            }
            '[' if in_class && rest.peek() == Some(&':') => {
                // A named class such as `[:alpha:]`.
                out.push('[');
                for c in rest.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            '[' if in_class => out.push_str("\\["),
            '[' => {
                in_class = true;
                class_begins = true;
                out.push('[');
                if rest.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            // The first one of a class stands for itself.
            ']' if begins => out.push_str("\\]"),
            ']' => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => out.extend(['\\', c]),
            '-' if in_class && rest.peek() == Some(&'-') => out.push_str("\\-"),
            '{' if !in_class && !counts(rest.clone()) => out.push_str("\\{"),
            c => out.push(c),
        }
    }
    out
}

/// Whether what follows a brace makes a number of times of it: `N}`, `N,}` or `N,M}`.
fn counts(rest: impl Iterator<Item = char>) -> bool {
    let text: String = rest.take_while(|c| *c != '}').take(24).collect();
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.split_once(',') {
        None => number(&text),
        Some((least, most)) => number(least) && (most.is_empty() || number(most)),
    }
}

fn read<'a>(pattern: &'a Val, complaint: &str) -> Result<Cow<'a, Regex>, Fault> {
    match pattern {
        Val::Pattern(pattern) => Ok(Cow::Borrowed(pattern)),
        Val::String(text) => match compile(text) {
            Ok(pattern) => Ok(Cow::Owned(pattern)),
            Err(_) => Err(Fault::new(format!("{complaint}error parsing regexp: `{text}`"))),
        },
        _ => Err(Fault::no_overload()),
    }
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn expressions_are_of_re2() {
        for (pattern, yes, no) in [
            (r"^\w{1,63}$", "a_9", "é"),
            (r"^[\w.-]+$", "a.b-c", "ä"),
            (r"^\d+$", "12", "\u{0663}"),
            (r"^\S+\s\S+$", "a b", "a\u{a0}b"),
            (r"^a{b}$", "a{b}", "ab"),
            ("^{$", "{", "a"),
            ("^x{2,3}$", "xx", "x"),
            (r"^[^[]+$", "a]b", "a[b"),
            ("^[]a]+$", "]a", "b"),
            ("^[a&&b]+$", "&a", "c"),
            ("^[[:alpha:]~~]+$", "ab~", "1"),
            (r"^[\D]$", "a", "1"),
            (r"^\Qa.b\E+$", "a.bb", "axb"),
            (r"\bword\b", "a word.", "sword"),
            (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", "-a"),
        ] {
            let read = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert!(read.is_match(yes) && !read.is_match(no), "{pattern}");
        }
        assert!(compile("a(").is_err() && compile("[a").is_err());
    }
}
