//! Arithmetic, comparison, indexes and membership.

use std::cmp::Ordering;

use super::{no_overload, row};
use crate::api::cel::declared::{Function, comparison, items, one, traversal};
use crate::api::cel::value::Key;
use crate::api::cel::{Fault, Outcome, Val};

const ORDERED: &[&str] = &[
    "(bool, bool) bool",
    "(int, int) bool",
    "(int, double) bool",
    "(int, uint) bool",
    "(uint, uint) bool",
    "(uint, double) bool",
    "(uint, int) bool",
    "(double, double) bool",
    "(double, int) bool",
    "(double, uint) bool",
    "(string, string) bool",
    "(bytes, bytes) bool",
    "(timestamp, timestamp) bool",
    "(duration, duration) bool",
];

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("!_", &["(bool) bool"], one, |a| match a {
        [Val::Bool(b)] => Ok(Val::Bool(!b)),
        _ => no_overload(),
    }),
    row("-_", &["(int) int", "(double) double", "(duration) duration"], one, |a| match a {
        [Val::Int(n)] => n.checked_neg().map(Val::Int).ok_or_else(int_overflow),
        [Val::Double(n)] => Ok(Val::Double(-n)),
        [Val::Duration(n)] => {
            n.checked_neg().map(Val::Duration).ok_or_else(|| Fault::new("duration overflow"))
        }
        _ => no_overload(),
    }),
    row(
        "_+_",
        &[
            "(int, int) int",
            "(uint, uint) uint",
            "(double, double) double",
            "(string, string) string",
            "(bytes, bytes) bytes",
            "(list(A), list(A)) list(A)",
            "(duration, duration) duration",
            "(timestamp, duration) timestamp",
            "(duration, timestamp) timestamp",
        ],
        add_cost,
        add,
    ),
    row(
        "_-_",
        &[
            "(int, int) int",
            "(uint, uint) uint",
            "(double, double) double",
            "(duration, duration) duration",
            "(timestamp, duration) timestamp",
            "(timestamp, timestamp) duration",
        ],
        one,
        subtract,
    ),
    row("_*_", &["(int, int) int", "(uint, uint) uint", "(double, double) double"], one, |a| match a {
        [Val::Int(a), Val::Int(b)] => a.checked_mul(*b).map(Val::Int).ok_or_else(int_overflow),
        [Val::Uint(a), Val::Uint(b)] => a.checked_mul(*b).map(Val::Uint).ok_or_else(uint_overflow),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a * b)),
        _ => no_overload(),
    }),
    row("_/_", &["(int, int) int", "(uint, uint) uint", "(double, double) double"], one, |a| match a {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => Err(Fault::new("division by zero")),
        [Val::Int(a), Val::Int(b)] => a.checked_div(*b).map(Val::Int).ok_or_else(int_overflow),
        [Val::Uint(a), Val::Uint(b)] => Ok(Val::Uint(a / b)),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a / b)),
        _ => no_overload(),
    }),
    row("_%_", &["(int, int) int", "(uint, uint) uint"], one, |a| match a {
        [Val::Int(_), Val::Int(0)] | [Val::Uint(_), Val::Uint(0)] => Err(Fault::new("modulus by zero")),
        [Val::Int(a), Val::Int(b)] => a.checked_rem(*b).map(Val::Int).ok_or_else(int_overflow),
        [Val::Uint(a), Val::Uint(b)] => Ok(Val::Uint(a % b)),
        _ => no_overload(),
    }),
    row("_==_", &["(A, A) bool"], comparison, |a| match a {
        [a, b] => Ok(Val::Bool(a.same(b))),
        _ => no_overload(),
    }),
    row("_!=_", &["(A, A) bool"], comparison, |a| match a {
        [a, b] => Ok(Val::Bool(!a.same(b))),
        _ => no_overload(),
    }),
    row("_<_", ORDERED, comparison, |a| ordered(a, Ordering::is_lt)),
    row("_<=_", ORDERED, comparison, |a| ordered(a, Ordering::is_le)),
    row("_>_", ORDERED, comparison, |a| ordered(a, Ordering::is_gt)),
    row("_>=_", ORDERED, comparison, |a| ordered(a, Ordering::is_ge)),
    row("@in", &["(A, list(A)) bool", "(A, map(A, B)) bool"], in_cost, |a| match a {
        [item, Val::List(list)] => Ok(Val::Bool(list.iter().any(|other| item.same(other)))),
        [key, Val::Map(map)] => Ok(Val::Bool(Key::of(key).is_some_and(|key| map.contains_key(&key)))),
        _ => no_overload(),
    }),
    row(
        "_[_]",
        &[
            "(list(A), int) A",
            "(map(A, B), A) B",
            "(optional(list(A)), int) optional(A)",
            "(optional(map(A, B)), A) optional(B)",
        ],
        one,
        |a| match a {
            [Val::Optional(_), _] => optional_index(a),
            [container, index] => found(container, index)?.ok_or_else(|| match (container, index) {
                (Val::List(_), index) => Fault::new(format!("index out of bounds: {}", shown(index))),
                (_, key) => Fault::new(format!("no such key: {}", shown(key))),
            }),
            _ => no_overload(),
        },
    ),
    row(
        "_[?_]",
        &[
            "(list(A), int) optional(A)",
            "(map(A, B), A) optional(B)",
            "(optional(list(A)), int) optional(A)",
            "(optional(map(A, B)), A) optional(B)",
        ],
        one,
        optional_index,
    ),
];

fn int_overflow() -> Fault {
    Fault::new("integer overflow")
}

fn uint_overflow() -> Fault {
    Fault::new("unsigned integer overflow")
}

fn shown(value: &Val) -> String {
    Key::of(value).map_or_else(|| value.type_name().to_owned(), |key| key.to_string())
}

/// Texts and bytes are copied; lists are, too, which Kubernetes does not charge for.
fn add_cost(arguments: &[Val]) -> u64 {
    arguments.iter().map(|value| value.size().div_ceil(10)).sum::<u64>().max(1)
}

fn in_cost(arguments: &[Val]) -> u64 {
    match arguments.get(1) {
        Some(list @ Val::List(_)) => items(std::slice::from_ref(list)) * traversal(arguments),
        _ => 1,
    }
}

fn add(arguments: &[Val]) -> Outcome {
    match arguments {
        [Val::Int(a), Val::Int(b)] => a.checked_add(*b).map(Val::Int).ok_or_else(int_overflow),
        [Val::Uint(a), Val::Uint(b)] => a.checked_add(*b).map(Val::Uint).ok_or_else(uint_overflow),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a + b)),
        [Val::String(a), Val::String(b)] => Ok(Val::text(format!("{a}{b}"))),
        [Val::Bytes(a), Val::Bytes(b)] => Ok(Val::Bytes([a.as_ref(), b.as_ref()].concat().into())),
        [Val::List(a), Val::List(b)] => Ok(Val::list(a.iter().chain(b.iter()).cloned().collect())),
        [Val::Duration(a), Val::Duration(b)] => {
            a.checked_add(*b).map(Val::Duration).ok_or_else(|| Fault::new("duration overflow"))
        }
        [Val::Timestamp(at), Val::Duration(nanos)] | [Val::Duration(nanos), Val::Timestamp(at)] => {
            let sum = at.checked_add(jiff::SignedDuration::from_nanos(*nanos));
            sum.map(Val::Timestamp).map_err(|_| Fault::new("timestamp overflow"))
        }
        _ => no_overload(),
    }
}

fn subtract(arguments: &[Val]) -> Outcome {
    match arguments {
        [Val::Int(a), Val::Int(b)] => a.checked_sub(*b).map(Val::Int).ok_or_else(int_overflow),
        [Val::Uint(a), Val::Uint(b)] => a.checked_sub(*b).map(Val::Uint).ok_or_else(uint_overflow),
        [Val::Double(a), Val::Double(b)] => Ok(Val::Double(a - b)),
        [Val::Duration(a), Val::Duration(b)] => {
            a.checked_sub(*b).map(Val::Duration).ok_or_else(|| Fault::new("duration overflow"))
        }
        [Val::Timestamp(at), Val::Duration(nanos)] => {
            let difference = at.checked_sub(jiff::SignedDuration::from_nanos(*nanos));
            difference.map(Val::Timestamp).map_err(|_| Fault::new("timestamp overflow"))
        }
        [Val::Timestamp(a), Val::Timestamp(b)] => {
            let nanos = i64::try_from(a.duration_since(*b).as_nanos());
            nanos.map(Val::Duration).map_err(|_| Fault::new("duration overflow"))
        }
        _ => no_overload(),
    }
}

fn ordered(arguments: &[Val], is: fn(Ordering) -> bool) -> Outcome {
    match arguments {
        [a, b] => Ok(Val::Bool(a.order(b)?.is_some_and(is))),
        _ => no_overload(),
    }
}

/// The item at an index, or the entry of a key.
fn found(container: &Val, index: &Val) -> Result<Option<Val>, Fault> {
    match (container, Key::of(index)) {
        (Val::List(list), Some(Key::Int(at))) => {
            Ok(usize::try_from(at).ok().and_then(|at| list.get(at)).cloned())
        }
        (Val::Map(map), Some(key)) => Ok(map.get(&key).cloned()),
        _ => Err(Fault::no_overload()),
    }
}

fn optional_index(arguments: &[Val]) -> Outcome {
    match arguments {
        [Val::Optional(None), _] => Ok(Val::Optional(None)),
        [Val::Optional(Some(container)), index] => {
            Ok(found(container, index)?.map_or(Val::Optional(None), Val::some))
        }
        [container, index] => Ok(found(container, index)?.map_or(Val::Optional(None), Val::some)),
        _ => no_overload(),
    }
}
