//! Functions on lists, and on what lists and texts have in common.

use std::cmp::Ordering;

use super::strings::{index_of, last_index_of};
use super::{no_overload, row};
use crate::api::cel::declared::{Function, items, one};
use crate::api::cel::{Fault, Outcome, Val};

const COMPARABLE: [&str; 8] = [
    "list(int).() bool",
    "list(uint).() bool",
    "list(double).() bool",
    "list(bool).() bool",
    "list(duration).() bool",
    "list(timestamp).() bool",
    "list(string).() bool",
    "list(bytes).() bool",
];
const CHOSEN: [&str; 8] = [
    "list(int).() int",
    "list(uint).() uint",
    "list(double).() double",
    "list(bool).() bool",
    "list(duration).() duration",
    "list(timestamp).() timestamp",
    "list(string).() string",
    "list(bytes).() bytes",
];
/// The longest list that `lists.range` makes.
const LONGEST_RANGE: i64 = 1_000_000;

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("isSorted", &COMPARABLE, items, |a| match a {
        [Val::List(list)] => {
            for pair in list.windows(2) {
                if pair[0].order(&pair[1])? == Some(Ordering::Greater) {
                    return Ok(Val::Bool(false));
                }
            }
            Ok(Val::Bool(true))
        }
        _ => no_overload(),
    }),
    row(
        "sum",
        &["list(int).() int", "list(uint).() uint", "list(double).() double", "list(duration).() duration"],
        items,
        sum,
    ),
    row("min", &CHOSEN, items, |a| chosen(a, "min", Ordering::Less)),
    row("max", &CHOSEN, items, |a| chosen(a, "max", Ordering::Greater)),
    row(
        "indexOf",
        &["list(A).(A) int", "string.(string) int", "string.(string, int) int"],
        items,
        |a| match a {
            [Val::List(list), item] => {
                Ok(Val::Int(list.iter().position(|other| other.same(item)).map_or(-1, |at| at as i64)))
            }
            [Val::String(text), Val::String(part)] => index_of(text, part, 0),
            [Val::String(text), Val::String(part), Val::Int(from)] => index_of(text, part, *from),
            _ => no_overload(),
        },
    ),
    row("lastIndexOf", &["list(A).(A) int", "string.(string) int", "string.(string, int) int"], items, |a| {
        match a {
            [Val::List(list), item] => {
                Ok(Val::Int(list.iter().rposition(|other| other.same(item)).map_or(-1, |at| at as i64)))
            }
            [Val::String(text), Val::String(part)] => last_index_of(text, part, None),
            [Val::String(text), Val::String(part), Val::Int(from)] => last_index_of(text, part, Some(*from)),
            _ => no_overload(),
        }
    }),
    row("includes", &["dyn.(dyn) bool"], items, |a| match a {
        [Val::List(list), item] => Ok(Val::Bool(list.iter().any(|other| other.same(item)))),
        [value, item] => Ok(Val::Bool(value.same(item))),
        _ => no_overload(),
    }),
    row("slice", &["list(A).(int, int) list(A)"], items, |a| match a {
        [Val::List(list), Val::Int(from), Val::Int(to)] => slice(list, *from, *to),
        _ => no_overload(),
    }),
    row("flatten", &["list(list(A)).() list(A)", "list(dyn).(int) list(dyn)"], items, |a| match a {
        [Val::List(list)] => Ok(Val::list(flat(list, 1))),
        [Val::List(_), Val::Int(depth)] if *depth < 0 => Err(Fault::new("level must be non-negative")),
        [Val::List(list), Val::Int(depth)] => Ok(Val::list(flat(list, *depth))),
        _ => no_overload(),
    }),
    row("sort", &["list(A).() list(A)"], items, |a| match a {
        [Val::List(list)] => {
            let keyed = list.iter().map(|item| (item.clone(), ())).collect();
            sort(keyed).map(|sorted| Val::list(sorted.into_iter().map(|(item, ())| item).collect()))
        }
        _ => no_overload(),
    }),
    row("reverse", &["list(A).() list(A)"], items, |a| match a {
        [Val::List(list)] => Ok(Val::list(list.iter().rev().cloned().collect())),
        _ => no_overload(),
    }),
    row("distinct", &["list(A).() list(A)"], squared, |a| match a {
        [Val::List(list)] => {
            let mut kept: Vec<Val> = Vec::new();
            for item in list.iter() {
                if !kept.iter().any(|other| other.same(item)) {
                    kept.push(item.clone());
                }
            }
            Ok(Val::list(kept))
        }
        _ => no_overload(),
    }),
    row("first", &["list(A).() optional(A)"], one, |a| match a {
        [Val::List(list)] => Ok(list.first().cloned().map_or(Val::Optional(None), Val::some)),
        _ => no_overload(),
    }),
    row("last", &["list(A).() optional(A)"], one, |a| match a {
        [Val::List(list)] => Ok(list.last().cloned().map_or(Val::Optional(None), Val::some)),
        _ => no_overload(),
    }),
    row("lists.range", &["(int) list(int)"], range_cost, |a| match a {
        [Val::Int(end)] if *end <= LONGEST_RANGE => Ok(Val::list((0..*end).map(Val::Int).collect())),
        _ => no_overload(),
    }),
];

fn squared(arguments: &[Val]) -> u64 {
    items(arguments).saturating_mul(items(arguments))
}

fn range_cost(arguments: &[Val]) -> u64 {
    match arguments {
        [Val::Int(end)] => u64::try_from(*end).unwrap_or(1).max(1),
        _ => 1,
    }
}

fn sum(arguments: &[Val]) -> Outcome {
    let [Val::List(list)] = arguments else { return no_overload() };
    let overflow = || Fault::new("integer overflow");
    let mut sum: Option<Val> = None;
    for item in list.iter() {
        sum = Some(match (sum, item) {
            (None, item) => item.clone(),
            (Some(Val::Int(a)), Val::Int(b)) => Val::Int(a.checked_add(*b).ok_or_else(overflow)?),
            (Some(Val::Uint(a)), Val::Uint(b)) => Val::Uint(a.checked_add(*b).ok_or_else(overflow)?),
            (Some(Val::Double(a)), Val::Double(b)) => Val::Double(a + b),
            (Some(Val::Duration(a)), Val::Duration(b)) => {
                Val::Duration(a.checked_add(*b).ok_or_else(overflow)?)
            }
            _ => return no_overload(),
        });
    }
    Ok(sum.unwrap_or(Val::Int(0)))
}

fn chosen(arguments: &[Val], name: &str, wanted: Ordering) -> Outcome {
    let [Val::List(list)] = arguments else { return no_overload() };
    let (first, rest) =
        list.split_first().ok_or_else(|| Fault::new(format!("{name} called on empty list")))?;
    let mut best = first;
    for item in rest {
        if item.order(best)? == Some(wanted) {
            best = item;
        }
    }
    Ok(best.clone())
}

fn slice(list: &[Val], from: i64, to: i64) -> Outcome {
    let length = list.len() as i64;
    let say = |why: String| Err(Fault::new(why));
    match () {
        () if from < 0 || to < 0 => {
            say(format!("cannot slice({from}, {to}), negative indexes not supported"))
        }
        () if from > to => {
            say(format!("cannot slice({from}, {to}), start index must be less than or equal to end index"))
        }
        () if length < to => say(format!("cannot slice({from}, {to}), list is length {length}")),
        () => Ok(Val::list(list[from as usize..to as usize].to_vec())),
    }
}

fn flat(list: &[Val], depth: i64) -> Vec<Val> {
    let mut items = Vec::new();
    for item in list {
        match item {
            Val::List(inner) if depth > 0 => items.extend(flat(inner, depth - 1)),
            other => items.push(other.clone()),
        }
    }
    items
}

/// Items in the order of their keys, which are all of one ordered type.
pub fn sort<T>(mut keyed: Vec<(Val, T)>) -> Result<Vec<(Val, T)>, Fault> {
    if let Some((first, _)) = keyed.first() {
        for (key, _) in &keyed {
            if key.type_name() != first.type_name() {
                return Err(Fault::new("list elements must have the same type"));
            }
            if key.order(first).is_err() {
                return Err(Fault::new("list elements must be comparable"));
            }
        }
    }
    keyed.sort_by(|(a, _), (b, _)| a.order(b).ok().flatten().unwrap_or(Ordering::Equal));
    Ok(keyed)
}
