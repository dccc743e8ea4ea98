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
    RegexBuilder::new(pattern).size_limit(COMPILED_BYTES).build()
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
