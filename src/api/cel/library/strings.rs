//! Functions on texts.

use super::{no_overload, row};
use crate::api::cel::declared::{Function, one, traversal};
use crate::api::cel::{Fault, Outcome, Val};

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("contains", &["string.(string) bool"], traversal_of_both, |a| match a {
        [Val::String(text), Val::String(part)] => Ok(Val::Bool(text.contains(part.as_ref()))),
        _ => no_overload(),
    }),
    row("startsWith", &["string.(string) bool"], traversal_of_second, |a| match a {
        [Val::String(text), Val::String(part)] => Ok(Val::Bool(text.starts_with(part.as_ref()))),
        _ => no_overload(),
    }),
    row("endsWith", &["string.(string) bool"], traversal_of_second, |a| match a {
        [Val::String(text), Val::String(part)] => Ok(Val::Bool(text.ends_with(part.as_ref()))),
        _ => no_overload(),
    }),
    row("charAt", &["string.(int) string"], one, |a| match a {
        [Val::String(text), Val::Int(at)] => {
            let count = text.chars().count();
            let index =
                usize::try_from(*at).ok().filter(|at| *at <= count).ok_or_else(|| out_of_range(*at))?;
            Ok(Val::text(text.chars().nth(index).map(String::from).unwrap_or_default()))
        }
        _ => no_overload(),
    }),
    row("lowerAscii", &["string.() string"], traversal, |a| match a {
        [Val::String(text)] => Ok(Val::text(text.to_ascii_lowercase())),
        _ => no_overload(),
    }),
    row("upperAscii", &["string.() string"], traversal, |a| match a {
        [Val::String(text)] => Ok(Val::text(text.to_ascii_uppercase())),
        _ => no_overload(),
    }),
    row("trim", &["string.() string"], traversal, |a| match a {
        [Val::String(text)] => Ok(Val::text(text.trim())),
        _ => no_overload(),
    }),
    row("replace", &["string.(string, string) string", "string.(string, string, int) string"], twice, |a| {
        match a {
            [Val::String(text), Val::String(old), Val::String(new)] => replace(text, old, new, -1),
            [Val::String(text), Val::String(old), Val::String(new), Val::Int(most)] => {
                replace(text, old, new, *most)
            }
            _ => no_overload(),
        }
    }),
    row(
        "split",
        &["string.(string) list(string)", "string.(string, int) list(string)"],
        twice,
        |a| match a {
            [Val::String(text), Val::String(by)] => Ok(split(text, by, -1)),
            [Val::String(text), Val::String(by), Val::Int(most)] => Ok(split(text, by, *most)),
            _ => no_overload(),
        },
    ),
    row("substring", &["string.(int) string", "string.(int, int) string"], traversal, |a| match a {
        [Val::String(text), Val::Int(from)] => substring(text, *from, text.chars().count() as i64),
        [Val::String(text), Val::Int(from), Val::Int(to)] => substring(text, *from, *to),
        _ => no_overload(),
    }),
    row("jsonpatch.escapeKey", &["(string) string"], traversal, |a| match a {
        // The name of a field as it stands in the path of a JSON patch.
        [Val::String(text)] => Ok(Val::text(text.replace('~', "~0").replace('/', "~1"))),
        _ => no_overload(),
    }),
    row("join", &["list(string).() string", "list(string).(string) string"], items_twice, |a| match a {
        [Val::List(items)] => join(items, ""),
        [Val::List(items), Val::String(by)] => join(items, by),
        _ => no_overload(),
    }),
];

fn out_of_range(index: i64) -> Fault {
    Fault::new(format!("index out of range: {index}"))
}

fn traversal_of_both(arguments: &[Val]) -> u64 {
    arguments.iter().map(|value| value.size().div_ceil(10)).product::<u64>().max(1)
}

fn traversal_of_second(arguments: &[Val]) -> u64 {
    arguments.get(1).map_or(1, |value| value.size().div_ceil(10))
}

fn twice(arguments: &[Val]) -> u64 {
    arguments.first().map_or(1, |value| (value.size() * 2).div_ceil(10))
}

fn items_twice(arguments: &[Val]) -> u64 {
    match arguments.first() {
        Some(Val::List(items)) => items.iter().map(Val::size).sum::<u64>().div_ceil(5).max(1),
        _ => 1,
    }
}

/// The longest text that is made of others, in bytes: what it costs is known only when it is there.
const LONGEST: u64 = 10_000_000;

/// Replaces as often as `most` says; a negative number is no limit. Between any two characters stands an empty text.
fn replace(text: &str, old: &str, new: &str, most: i64) -> Outcome {
    let longest = text.len() as u64 + new.len() as u64 * (text.matches(old).count() as u64);
    if longest > LONGEST {
        return Err(Fault::Cost);
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Ok(Val::text(text.replacen(old, new, most)))
}

fn split(text: &str, by: &str, most: i64) -> Val {
    match (usize::try_from(most), by) {
        (Ok(0), _) => Val::list(Vec::new()),
        (Ok(1), _) => Val::texts([text]),
        // An empty separator parts the characters.
        (Ok(most), "") => {
            let mut parts: Vec<String> = text.chars().take(most - 1).map(String::from).collect();
            let rest: String = text.chars().skip(most - 1).collect();
            parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
            Val::texts(parts)
        }
        (Err(_), "") => Val::texts(text.chars().map(String::from)),
        (Ok(most), by) => Val::texts(text.splitn(most, by)),
        (Err(_), by) => Val::texts(text.split(by)),
    }
}

fn substring(text: &str, from: i64, to: i64) -> Outcome {
    let count = text.chars().count() as i64;
    if from > to {
        return Err(Fault::new(format!("invalid substring range. start: {from}, end: {to}")));
    }
    for at in [from, to] {
        if !(0..=count).contains(&at) {
            return Err(out_of_range(at));
        }
    }
    Ok(Val::text(text.chars().skip(from as usize).take((to - from) as usize).collect::<String>()))
}

fn join(items: &[Val], by: &str) -> Outcome {
    let parts: Option<Vec<&str>> = items.iter().map(Val::as_str).collect();
    match parts {
        // Two short texts make an endless one where there are many items.
        Some(parts) => {
            let between = (by.len() as u64).saturating_mul(parts.len().saturating_sub(1) as u64);
            let size = parts.iter().fold(between, |size, part| size.saturating_add(part.len() as u64));
            if size > LONGEST { Err(Fault::Cost) } else { Ok(Val::text(parts.join(by))) }
        }
        None => no_overload(),
    }
}

/// Where a part of a text is, counted in characters from `from`; -1 when it is not there.
pub fn index_of(text: &str, part: &str, from: i64) -> Outcome {
    let count = text.chars().count() as i64;
    if part.is_empty() && from == 0 {
        return Ok(Val::Int(0));
    }
    if !(0..=count).contains(&from) {
        return Err(out_of_range(from));
    }
    let start = text.char_indices().nth(from as usize).map_or(text.len(), |(at, _)| at);
    let found = text[start..].find(part).map(|at| text[..start + at].chars().count() as i64);
    Ok(Val::Int(found.unwrap_or(-1)))
}

/// The last such place, at `from` or before.
pub fn last_index_of(text: &str, part: &str, from: Option<i64>) -> Outcome {
    let count = text.chars().count() as i64;
    if part.is_empty() && from.is_none() {
        return Ok(Val::Int(count));
    }
    let from = from.unwrap_or(count);
    if !(0..=count).contains(&from) {
        return Err(out_of_range(from));
    }
    let start = text.char_indices().nth(from as usize).map_or(text.len(), |(at, _)| at);
    let end = text.floor_char_boundary((start + part.len()).min(text.len()));
    let found = text[..end].rfind(part).map(|at| text[..at].chars().count() as i64);
    Ok(Val::Int(found.unwrap_or(-1)))
}
