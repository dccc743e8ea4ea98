//! Resource quantities: `quantity('1Gi').isGreaterThan(quantity('500Mi'))`; what orders them orders versions, too.

use std::cmp::Ordering;

use super::{no_overload, row};
use crate::api::cel::declared::{Function, one, traversal};
use crate::api::cel::{Fault, Outcome, Val};
use crate::api::quantity::{self, Quantity};

const COMPARED: &[&str] =
    &["kubernetes.Quantity.(kubernetes.Quantity) bool", "kubernetes.Semver.(kubernetes.Semver) bool"];
const CHANGED: &[&str] = &[
    "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity",
    "kubernetes.Quantity.(int) kubernetes.Quantity",
];

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("quantity", &["(string) kubernetes.Quantity"], traversal, |a| match a {
        [Val::String(text)] => {
            quantity::parse(text).map(Val::Quantity).map_err(|error| Fault::new(error.to_string()))
        }
        _ => no_overload(),
    }),
    row("isQuantity", &["(string) bool"], traversal, |a| match a {
        [Val::String(text)] => Ok(Val::Bool(quantity::parse(text).is_ok())),
        _ => no_overload(),
    }),
    row("sign", &["kubernetes.Quantity.() int", "(kubernetes.Quantity) int"], one, |a| match a {
        [Val::Quantity(q)] if q.is_zero() => Ok(Val::Int(0)),
        [Val::Quantity(q)] => Ok(Val::Int(if q.is_negative() { -1 } else { 1 })),
        _ => no_overload(),
    }),
    row("isGreaterThan", COMPARED, one, |a| Ok(Val::Bool(order(a)? == Ordering::Greater))),
    row("isLessThan", COMPARED, one, |a| Ok(Val::Bool(order(a)? == Ordering::Less))),
    row(
        "compareTo",
        &["kubernetes.Quantity.(kubernetes.Quantity) int", "kubernetes.Semver.(kubernetes.Semver) int"],
        one,
        |a| Ok(Val::Int(order(a)? as i64)),
    ),
    row("asApproximateFloat", &["kubernetes.Quantity.() double"], one, |a| match a {
        [Val::Quantity(q)] => Ok(Val::Double(q.approximate())),
        _ => no_overload(),
    }),
    row("asInteger", &["kubernetes.Quantity.() int"], one, |a| match a {
        [Val::Quantity(q)] if q.is_integer() => Ok(Val::Int(q.value())),
        [Val::Quantity(_)] => Err(Fault::new("cannot convert value to integer")),
        _ => no_overload(),
    }),
    row("isInteger", &["kubernetes.Quantity.() bool"], one, |a| match a {
        [Val::Quantity(q)] => Ok(Val::Bool(q.is_integer())),
        _ => no_overload(),
    }),
    row("add", CHANGED, one, |a| changed(a, Quantity::plus)),
    row("sub", CHANGED, one, |a| changed(a, Quantity::minus)),
];

fn order(arguments: &[Val]) -> Result<Ordering, Fault> {
    match arguments {
        [Val::Quantity(a), Val::Quantity(b)] => Ok(a.cmp(b)),
        [Val::Semver(a), Val::Semver(b)] => Ok(a.cmp(b)),
        _ => Err(Fault::no_overload()),
    }
}

fn changed(arguments: &[Val], change: fn(&Quantity, &Quantity) -> Quantity) -> Outcome {
    match arguments {
        [Val::Quantity(a), Val::Quantity(b)] => Ok(Val::Quantity(change(a, b))),
        [Val::Quantity(a), Val::Int(b)] => Ok(Val::Quantity(change(a, &Quantity::units(*b)))),
        _ => no_overload(),
    }
}
