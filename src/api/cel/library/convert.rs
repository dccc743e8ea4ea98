//! Sizes, types, and conversions between types.

use super::{no_overload, row, time};
use crate::api::cel::declared::{Function, one, traversal};
use crate::api::cel::{Fault, Outcome, Val};

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row(
        "size",
        &[
            "(string) int",
            "(bytes) int",
            "(list(A)) int",
            "(map(A, B)) int",
            "string.() int",
            "bytes.() int",
            "list(A).() int",
            "map(A, B).() int",
        ],
        one,
        |a| match a {
            [Val::String(text)] => Ok(Val::Int(text.chars().count() as i64)),
            [value @ (Val::Bytes(_) | Val::List(_) | Val::Map(_))] => Ok(Val::Int(value.size() as i64)),
            _ => no_overload(),
        },
    ),
    row("type", &["(A) type"], one, |a| match a {
        [value] => Ok(Val::Type(value.type_name().into())),
        _ => no_overload(),
    }),
    row("dyn", &["(A) dyn"], one, |a| match a {
        [value] => Ok(value.clone()),
        _ => no_overload(),
    }),
    row("bool", &["(bool) bool", "(string) bool"], one, |a| match a {
        [Val::Bool(b)] => Ok(Val::Bool(*b)),
        [Val::String(text)] => match text.as_ref() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => failed("string", "bool"),
        },
        _ => no_overload(),
    }),
    row(
        "int",
        &["(int) int", "(uint) int", "(double) int", "(string) int", "(timestamp) int", "(duration) int"],
        one,
        |a| match a {
            [Val::Int(n)] => Ok(Val::Int(*n)),
            [Val::Uint(n)] => i64::try_from(*n).map(Val::Int).map_err(|_| Fault::new("integer overflow")),
            [Val::Double(n)] if n.abs() < 9.223_372_036_854_775e18 => Ok(Val::Int(*n as i64)),
            [Val::Double(_)] => Err(Fault::new("integer overflow")),
            [Val::String(text)] => text.parse().map(Val::Int).or_else(|_| failed("string", "int")),
            [Val::Timestamp(at)] => Ok(Val::Int(at.as_second())),
            [Val::Duration(nanos)] => Ok(Val::Int(*nanos)),
            _ => no_overload(),
        },
    ),
    row("uint", &["(uint) uint", "(int) uint", "(double) uint", "(string) uint"], one, |a| match a {
        [Val::Uint(n)] => Ok(Val::Uint(*n)),
        [Val::Int(n)] => {
            u64::try_from(*n).map(Val::Uint).map_err(|_| Fault::new("unsigned integer overflow"))
        }
        [Val::Double(n)] if *n >= 0.0 && *n < 1.844_674_407_370_955e19 => Ok(Val::Uint(*n as u64)),
        [Val::Double(_)] => Err(Fault::new("unsigned integer overflow")),
        [Val::String(text)] => text.parse().map(Val::Uint).or_else(|_| failed("string", "uint")),
        _ => no_overload(),
    }),
    row(
        "double",
        &["(double) double", "(int) double", "(uint) double", "(string) double"],
        one,
        |a| match a {
            [Val::Double(n)] => Ok(Val::Double(*n)),
            [Val::Int(n)] => Ok(Val::Double(*n as f64)),
            [Val::Uint(n)] => Ok(Val::Double(*n as f64)),
            [Val::String(text)] => text.parse().map(Val::Double).or_else(|_| failed("string", "double")),
            _ => no_overload(),
        },
    ),
    row(
        "string",
        &[
            "(string) string",
            "(bool) string",
            "(int) string",
            "(uint) string",
            "(double) string",
            "(bytes) string",
            "(timestamp) string",
            "(duration) string",
            "(net.IP) string",
            "(net.CIDR) string",
        ],
        traversal,
        string,
    ),
    row("bytes", &["(bytes) bytes", "(string) bytes"], traversal, |a| match a {
        [Val::Bytes(bytes)] => Ok(Val::Bytes(bytes.clone())),
        [Val::String(text)] => Ok(Val::Bytes(text.as_bytes().into())),
        _ => no_overload(),
    }),
    row("timestamp", &["(timestamp) timestamp", "(string) timestamp", "(int) timestamp"], one, |a| match a {
        [Val::Timestamp(at)] => Ok(Val::Timestamp(*at)),
        [Val::Int(second)] => jiff::Timestamp::from_second(*second)
            .map(Val::Timestamp)
            .map_err(|_| Fault::new("timestamp overflow")),
        [Val::String(text)] => match text.parse() {
            Ok(at) => Ok(Val::Timestamp(at)),
            Err(_) => failed("string", "google.protobuf.Timestamp"),
        },
        _ => no_overload(),
    }),
    row("duration", &["(duration) duration", "(string) duration", "(int) duration"], one, |a| match a {
        [Val::Duration(nanos) | Val::Int(nanos)] => Ok(Val::Duration(*nanos)),
        [Val::String(text)] => match time::parse_span(text) {
            Some(nanos) => Ok(Val::Duration(nanos)),
            None => failed("string", "google.protobuf.Duration"),
        },
        _ => no_overload(),
    }),
];

fn failed(from: &str, to: &str) -> Outcome {
    Err(Fault::new(format!("type conversion error from '{from}' to '{to}'")))
}

fn string(arguments: &[Val]) -> Outcome {
    let text = match arguments {
        [Val::String(text)] => return Ok(Val::String(text.clone())),
        [Val::Bool(b)] => b.to_string(),
        [Val::Int(n)] => n.to_string(),
        [Val::Uint(n)] => n.to_string(),
        [Val::Double(n)] => double(*n),
        [Val::Bytes(bytes)] => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return Err(Fault::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        [Val::Timestamp(at)] => at.to_string(),
        [Val::Duration(nanos)] => time::show_span(*nanos),
        [Val::Ip(address)] => address.to_string(),
        [Val::Cidr(address, length)] => format!("{address}/{length}"),
        _ => return no_overload(),
    };
    Ok(Val::text(text))
}

/// A number as Go's `%g` writes it: with an exponent when it is very large or very small.
pub fn double(n: f64) -> String {
    if n.is_infinite() {
        return if n > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let magnitude = n.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{n:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    n.to_string()
}
