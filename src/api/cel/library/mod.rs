//! The functions that Kubernetes' expressions know.
//!
//! The standard library and the extensions are cel-go's (strings version 2, lists version 3, sets, optionals), the rest
//! is k8s.io/apiserver `pkg/cel/library`.

pub mod lists;
pub mod regex;
pub mod time;

pub mod format;
pub mod semver;
pub mod url;

mod convert;
mod net;
mod operators;
mod optional;
mod print;
mod quantity;
mod sets;
mod strings;

use super::declared::Function;
use super::{Fault, Outcome, Val};

/// Every library.
pub const ALL: &[&[Function]] = &[
    operators::FUNCTIONS,
    convert::FUNCTIONS,
    strings::FUNCTIONS,
    print::FUNCTIONS,
    lists::FUNCTIONS,
    sets::FUNCTIONS,
    optional::FUNCTIONS,
    time::FUNCTIONS,
    regex::FUNCTIONS,
    quantity::FUNCTIONS,
    semver::FUNCTIONS,
    url::FUNCTIONS,
    net::FUNCTIONS,
    format::FUNCTIONS,
];

/// A row of a library.
const fn row(
    name: &'static str,
    signatures: &'static [&'static str],
    cost: fn(&[Val]) -> u64,
    call: fn(&[Val]) -> Outcome,
) -> Function {
    Function { name, signatures, cost, call }
}

/// The answer to values that no overload takes, which shows only at run time when their types were not known.
fn no_overload() -> Outcome {
    Err(Fault::no_overload())
}
