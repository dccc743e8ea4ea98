//! Merging an applied configuration into a live object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::step::Step;
use super::types::{self, Form, ItemError};
use crate::api::schema::Schema;

/// Why two values cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An item of a list cannot be told from the others.
    #[error("{at}: element {index}: {why}")]
    Item {
        /// The list.
        at: String,
        /// Its place in the list.
        index: usize,
        /// Why not.
        why: ItemError,
    },
    /// The applied configuration has two items of one key.
    #[error("{at}: duplicate entries for key {key}")]
    Duplicate {
        /// The list.
        at: String,
        /// The key that both have.
        key: String,
    },
}

/// The live value with what `applied` sets.
pub fn merge(place: Option<Schema>, live: &Value, applied: &Value) -> Result<Value, Error> {
    both(place, live, applied, &mut Vec::new())
}

fn both(place: Option<Schema>, live: &Value, applied: &Value, path: &mut Vec<Step>) -> Result<Value, Error> {
    match (types::form(place, applied), live, applied) {
        (Form::Object, Value::Object(old), Value::Object(new)) if !(old.is_empty() && new.is_empty()) => {
            objects(place, old, new, path).map(Value::Object)
        }
        // Nothing applied is nothing changed.
        (Form::Object, Value::Object(old), Value::Null) if !old.is_empty() => Ok(live.clone()),
        (Form::List, Value::Array(old), Value::Array(new)) if !(old.is_empty() && new.is_empty()) => {
            let Some(list) = place else { return Ok(applied.clone()) };
            lists(list, old, new, path).map(Value::Array)
        }
        (Form::List, Value::Array(old), Value::Null) if !old.is_empty() => Ok(live.clone()),
        (Form::Leaf | Form::Object | Form::List, _, _) => Ok(applied.clone()),
    }
}

fn objects(
    place: Option<Schema>,
    live: &Map<String, Value>,
    applied: &Map<String, Value>,
    path: &mut Vec<Step>,
) -> Result<Map<String, Value>, Error> {
    let mut merged = live.clone();
    for (name, applied) in applied {
        let value = match live.get(name) {
            None => applied.clone(),
            Some(live) => {
                path.push(Step::field(name));
                let value = both(types::child(place, name), live, applied, path)?;
                path.pop();
                value
            }
        };
        merged.insert(name.clone(), value);
    }
    Ok(merged)
}

/// Merges the items of the same steps. Those that are applied stand in the order of the configuration; those that are
/// not keep their place among the live ones.
fn lists(list: Schema, live: &[Value], applied: &[Value], path: &mut Vec<Step>) -> Result<Vec<Value>, Error> {
    let new = steps(list, applied, path)?;
    let old = steps(list, live, path)?;
    let mut given: BTreeMap<&Step, &Value> = BTreeMap::new();
    for (step, value) in new.iter().zip(applied) {
        if given.insert(step, value).is_some() {
            let at = super::step::shown(path);
            return Err(Error::Duplicate { at, key: step.to_string() });
        }
    }
    // Live items that nothing tells apart are not merged with what replaces them.
    let mut there: BTreeMap<&Step, Option<&Value>> = BTreeMap::new();
    for (step, value) in old.iter().zip(live) {
        there.entry(step).and_modify(|one| *one = None).or_insert(Some(value));
    }
    let mut shared = new.iter().filter(|step| there.contains_key(step)).peekable();
    let mut done: BTreeSet<&Step> = BTreeSet::new();
    let mut merged = Vec::with_capacity(live.len().max(applied.len()));
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if let Some(step) = old.get(l) {
            match (given.contains_key(step), new.get(r)) {
                (false, _) => {
                    // A live item waits for its turn only behind those that both have.
                    merged.push(live[l].clone());
                    l += 1;
                    continue;
                }
                (true, Some(next)) if next == step => l += 1,
                (true, Some(_)) if shared.peek().is_some_and(|turn| *turn != step) => {
                    l += 1;
                    continue;
                }
                (true, _) if done.contains(step) => {
                    l += 1;
                    if r >= new.len() {
                        continue;
                    }
                }
                (true, _) => {}
            }
        }
        let Some(step) = new.get(r) else { continue };
        path.push(step.clone());
        let item = match there.get(step).copied().flatten() {
            Some(live) => both(list.element(), live, &applied[r], path)?,
            None => applied[r].clone(),
        };
        path.pop();
        merged.push(item);
        done.insert(step);
        if shared.peek() == Some(&step) {
            shared.next();
        }
        r += 1;
    }
    Ok(merged)
}

fn steps(list: Schema, items: &[Value], path: &[Step]) -> Result<Vec<Step>, Error> {
    let step = |(index, item)| {
        types::item(list, item).map_err(|why| Error::Item { at: super::step::shown(path), index, why })
    };
    items.iter().enumerate().map(step).collect()
}
