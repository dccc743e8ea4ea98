//! Lists as sets.

use super::{no_overload, row};
use crate::api::cel::declared::{Function, items};
use crate::api::cel::{Outcome, Val};

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("sets.contains", &["(list(A), list(A)) bool"], product, |a| of_two(a, contains)),
    row("sets.equivalent", &["(list(A), list(A)) bool"], product, |a| {
        of_two(a, |one, other| contains(one, other) && contains(other, one))
    }),
    row("sets.intersects", &["(list(A), list(A)) bool"], product, |a| {
        of_two(a, |one, other| other.iter().any(|item| holds(one, item)))
    }),
];

fn product(arguments: &[Val]) -> u64 {
    arguments.iter().map(|list| items(std::slice::from_ref(list))).product::<u64>().max(1)
}

fn of_two(arguments: &[Val], decide: fn(&[Val], &[Val]) -> bool) -> Outcome {
    match arguments {
        [Val::List(one), Val::List(other)] => Ok(Val::Bool(decide(one, other))),
        _ => no_overload(),
    }
}

fn holds(list: &[Val], item: &Val) -> bool {
    list.iter().any(|other| other.same(item))
}

fn contains(list: &[Val], part: &[Val]) -> bool {
    part.iter().all(|item| holds(list, item))
}
