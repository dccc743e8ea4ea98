//! `format` of texts: `'%s has %d'.format([a, b])`, and `strings.quote`.

use super::{convert, no_overload, row, time};
use crate::api::cel::declared::{Function, traversal};
use crate::api::cel::{Fault, Val};

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("format", &["string.(list(dyn)) string"], traversal, |a| match a {
        [Val::String(pattern), Val::List(arguments)] => print(pattern, arguments).map(Val::text),
        _ => no_overload(),
    }),
    row("strings.quote", &["(string) string"], traversal, |a| match a {
        [Val::String(text)] => Ok(Val::text(quote(text))),
        _ => no_overload(),
    }),
];

fn print(pattern: &str, arguments: &[Val]) -> Result<String, Fault> {
    let mut shown = String::with_capacity(pattern.len());
    let mut left = arguments.iter();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '%' {
            shown.push(c);
            continue;
        }
        if rest.next_if_eq(&'%').is_some() {
            shown.push('%');
            continue;
        }
        let mut precision = None;
        if rest.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision = digits.parse::<usize>().ok().map(|digits| digits.min(100));
        }
        let clause = rest.next().ok_or_else(|| Fault::new("unexpected end of string"))?;
        let argument =
            left.next().ok_or_else(|| Fault::new(format!("index {} out of range", arguments.len())))?;
        shown.push_str(&one(clause, precision, argument)?);
    }
    Ok(shown)
}

fn one(clause: char, precision: Option<usize>, argument: &Val) -> Result<String, Fault> {
    let refused = |wanted: &str| {
        let of = argument.type_name();
        Err(Fault::new(format!("error during formatting: {wanted}, was given {of}")))
    };
    let number = match argument {
        Val::Int(n) => Some(i128::from(*n)),
        Val::Uint(n) => Some(i128::from(*n)),
        _ => None,
    };
    let float = match argument {
        Val::Double(n) => Some(*n),
        Val::Int(n) => Some(*n as f64),
        Val::Uint(n) => Some(*n as f64),
        _ => None,
    };
    let signed = |n: i128, digits: String| if n < 0 { format!("-{digits}") } else { digits };
    match (clause, number, float) {
        ('s', ..) => Ok(text(argument)),
        ('d', Some(n), _) => Ok(n.to_string()),
        ('d', ..) => refused("decimal clause can only be used on integers"),
        ('f', _, Some(n)) => Ok(format!("{n:.*}", precision.unwrap_or(6))),
        ('f', ..) => refused("fixed-point clause can only be used on doubles"),
        ('e', _, Some(n)) => {
            let shown = format!("{n:.*e}", precision.unwrap_or(6));
            let (digits, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            Ok(format!("{digits}e{sign}{:02}", exponent.abs()))
        }
        ('e', ..) => refused("scientific clause can only be used on doubles"),
        ('b', Some(n), _) => Ok(signed(n, format!("{:b}", n.unsigned_abs()))),
        ('o', Some(n), _) => Ok(signed(n, format!("{:o}", n.unsigned_abs()))),
        ('x', Some(n), _) => Ok(signed(n, format!("{:x}", n.unsigned_abs()))),
        ('X', Some(n), _) => Ok(signed(n, format!("{:X}", n.unsigned_abs()))),
        ('b', ..) => match argument {
            Val::Bool(b) => Ok(u8::from(*b).to_string()),
            _ => refused("only integers and bools can be formatted as binary"),
        },
        ('o', ..) => refused("octal clause can only be used on integers"),
        ('x' | 'X', ..) => {
            let bytes: &[u8] = match argument {
                Val::String(text) => text.as_bytes(),
                Val::Bytes(bytes) => bytes,
                _ => {
                    return refused("only integers, byte buffers, and strings can be formatted as hex");
                }
            };
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(if clause == 'X' { hex.to_uppercase() } else { hex })
        }
        (other, ..) => Err(Fault::new(format!(
            "could not parse formatting clause: unrecognized formatting clause \"{other}\""
        ))),
    }
}

/// A value as `%s` shows it.
fn text(value: &Val) -> String {
    match value {
        Val::Null => "null".to_owned(),
        Val::Bool(b) => b.to_string(),
        Val::Int(n) => n.to_string(),
        Val::Uint(n) => n.to_string(),
        Val::Double(n) => convert::double(*n),
        Val::String(text) | Val::Type(text) => text.to_string(),
        Val::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Val::Timestamp(at) => at.to_string(),
        Val::Duration(nanos) => time::show_span(*nanos),
        Val::List(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(", ")),
        Val::Map(entries) => {
            let shown = entries.iter().map(|(key, value)| format!("{key}: {}", text(value)));
            format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
        }
        other => other.to_json().map_or_else(|| other.type_name().to_owned(), |json| json.to_string()),
    }
}

/// The text in quotes, with what cannot be seen escaped.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x0b' => quoted.push_str("\\v"),
            '\\' => quoted.push_str("\\\\"),
            '"' => quoted.push_str("\\\""),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
