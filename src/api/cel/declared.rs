//! The functions of the language, by name, with their signatures.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::types::{Overload, signature};
use super::{Outcome, Val, library};

/// A function: the same name for all its overloads, which it tells apart by the values that it is given.
#[derive(Debug)]
pub struct Function {
    /// `contains`, `_+_`.
    pub name: &'static str,
    /// How it is called: `string.(string) bool`.
    pub signatures: &'static [&'static str],
    /// What a call costs.
    pub cost: fn(&[Val]) -> u64,
    /// What a call gives.
    pub call: fn(&[Val]) -> Outcome,
}

/// A function and how it can be called.
pub struct Declared {
    /// The function.
    pub function: &'static Function,
    /// Its signatures, read.
    pub overloads: Vec<Overload>,
}

/// A call that costs the same whatever it is given.
pub fn one(_: &[Val]) -> u64 {
    1
}

/// A walk through the first argument's text or bytes.
pub fn traversal(arguments: &[Val]) -> u64 {
    arguments.first().map_or(1, |value| value.size().div_ceil(10))
}

/// A walk through the first argument's items.
pub fn items(arguments: &[Val]) -> u64 {
    arguments.first().map_or(1, Val::size)
}

/// A regular expression over a text: each is walked through for the other.
pub fn matching(arguments: &[Val]) -> u64 {
    let size = |at: usize| arguments.get(at).map_or(0, Val::size);
    (size(0) + 1).div_ceil(10).saturating_mul(size(1).div_ceil(4))
}

/// A comparison of two values: of the shorter one's length.
pub fn comparison(arguments: &[Val]) -> u64 {
    let deep = |value: &Val| match value {
        Val::List(_) | Val::Map(_) => weight(value, 10_000),
        other => other.size().div_ceil(10),
    };
    arguments.iter().take(2).map(deep).min().unwrap_or(1).max(1)
}

/// How many values there are in a value, as far as `most`.
fn weight(value: &Val, most: u64) -> u64 {
    let mut sum = 1;
    let mut add = |value: &Val| {
        if sum < most {
            sum += weight(value, most - sum);
        }
    };
    match value {
        Val::List(items) => items.iter().for_each(&mut add),
        Val::Map(entries) => entries.values().for_each(&mut add),
        other => return other.size().div_ceil(10).max(1),
    }
    sum
}

/// The function of a name.
pub fn find(name: &str) -> Option<&'static Declared> {
    static TABLE: OnceLock<HashMap<&'static str, Declared>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let functions = library::ALL.iter().flat_map(|library| library.iter());
        let declared = functions.map(|function| {
            let overloads = function.signatures.iter().filter_map(|text| signature(text)).collect();
            (function.name, Declared { function, overloads })
        });
        declared.collect()
    });
    table.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_read_and_every_name_is_given_once() {
        let mut names = std::collections::HashSet::new();
        for function in library::ALL.iter().flat_map(|library| library.iter()) {
            assert!(names.insert(function.name), "{} is declared twice", function.name);
            let declared = find(function.name).unwrap();
            assert_eq!(declared.overloads.len(), function.signatures.len(), "{}", function.name);
            assert!(!function.signatures.is_empty());
        }
    }
}
