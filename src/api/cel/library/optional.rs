//! Values that may be missing.

use super::{no_overload, row};
use crate::api::cel::declared::{Function, one};
use crate::api::cel::{Fault, Val};

/// The library.
pub const FUNCTIONS: &[Function] = &[
    row("optional.of", &["(A) optional(A)"], one, |a| match a {
        [value] => Ok(Val::some(value.clone())),
        _ => no_overload(),
    }),
    row("optional.ofNonZeroValue", &["(A) optional(A)"], one, |a| match a {
        [value] if is_zero(value) => Ok(Val::Optional(None)),
        [value] => Ok(Val::some(value.clone())),
        _ => no_overload(),
    }),
    row("optional.none", &["() optional(A)"], one, |_| Ok(Val::Optional(None))),
    row("hasValue", &["optional(A).() bool"], one, |a| match a {
        [Val::Optional(value)] => Ok(Val::Bool(value.is_some())),
        _ => no_overload(),
    }),
    row("value", &["optional(A).() A"], one, |a| match a {
        [Val::Optional(Some(value))] => Ok((**value).clone()),
        [Val::Optional(None)] => Err(Fault::new("optional.none() dereference")),
        _ => no_overload(),
    }),
    row("or", &["optional(A).(optional(A)) optional(A)"], one, |a| match a {
        [value @ Val::Optional(Some(_)), _] | [Val::Optional(None), value @ Val::Optional(_)] => {
            Ok(value.clone())
        }
        _ => no_overload(),
    }),
    row("orValue", &["optional(A).(A) A"], one, |a| match a {
        [Val::Optional(Some(value)), _] => Ok((**value).clone()),
        [Val::Optional(None), other] => Ok(other.clone()),
        _ => no_overload(),
    }),
];

fn is_zero(value: &Val) -> bool {
    match value {
        Val::Null
        | Val::Bool(false)
        | Val::Int(0)
        | Val::Uint(0)
        | Val::Duration(0)
        | Val::Optional(None) => true,
        Val::Double(n) => *n == 0.0,
        Val::String(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) => value.size() == 0,
        Val::Struct(built) => built.fields.is_empty(),
        _ => false,
    }
}
