//! What differs between two states of an object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::collect::by_step;
use super::set::{Node, Set};
use super::step::Step;
use super::types::{self, Form};
use crate::api::schema::Schema;

/// The fields in which a new state differs from an old one. No field is in two of the sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What only the new state has.
    pub added: Set,
    /// What both have with different values.
    pub modified: Set,
    /// What only the old state has.
    pub removed: Set,
}

impl Comparison {
    /// Whether there is no difference.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    /// The differences outside of these fields and what is below them.
    pub(super) fn without(self, fields: &Set) -> Comparison {
        if fields.is_empty() {
            return self;
        }
        Comparison {
            added: self.added.recursive_difference(fields),
            modified: self.modified.recursive_difference(fields),
            removed: self.removed.recursive_difference(fields),
        }
    }

    fn put(&mut self, step: Step, delta: Delta) {
        let Delta { own, below } = delta;
        for (set, below, is) in [
            (&mut self.added, below.added, Change::Added),
            (&mut self.modified, below.modified, Change::Modified),
            (&mut self.removed, below.removed, Change::Removed),
        ] {
            let node = Node { member: own == Some(is), below };
            if !node.is_empty() {
                set.put(step.clone(), node);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Added,
    Modified,
    Removed,
}

/// What happened to one field and below it.
#[derive(Default)]
struct Delta {
    own: Option<Change>,
    below: Comparison,
}

impl Delta {
    fn is_none(&self) -> bool {
        self.own.is_none() && self.below.is_same()
    }

    fn own(change: Change) -> Delta {
        Delta { own: Some(change), below: Comparison::default() }
    }
}

/// Compares two states of an object of one type.
pub fn compare(place: Option<Schema>, old: &Value, new: &Value) -> Comparison {
    delta(place, Some(old), Some(new)).below
}

fn delta(place: Option<Schema>, old: Option<&Value>, new: Option<&Value>) -> Delta {
    let forms = (old.map(|old| types::form(place, old)), new.map(|new| types::form(place, new)));
    match forms {
        (Some(Form::Object), None | Some(Form::Object)) | (None, Some(Form::Object)) => {
            objects(place, old, new)
        }
        (Some(Form::List), None | Some(Form::List)) | (None, Some(Form::List)) => lists(place, old, new),
        // What was owned below is gone when an object becomes one value.
        (Some(Form::Object), Some(_)) => {
            let gone = objects(place, old, None);
            Delta { own: Some(Change::Modified), below: gone.below }
        }
        (Some(_), Some(Form::Object)) => {
            let come = objects(place, None, new);
            Delta { own: Some(Change::Modified), below: come.below }
        }
        _ => leaf(old, new),
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Delta {
    match (old, new) {
        (None, Some(_)) => Delta::own(Change::Added),
        (Some(_), None) => Delta::own(Change::Removed),
        (Some(old), Some(new)) if old != new => Delta::own(Change::Modified),
        _ => Delta::default(),
    }
}

/// Whether the value itself came or went.
fn own(old: Option<&Value>, new: Option<&Value>) -> Option<Change> {
    match (old, new) {
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        _ => None,
    }
}

fn objects(place: Option<Schema>, old: Option<&Value>, new: Option<&Value>) -> Delta {
    let none = Map::new();
    let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
    let empty = |fields: Option<&Map<String, Value>>| fields.is_none_or(Map::is_empty);
    if empty(before) && empty(after) {
        // The difference between nothing and nothing in it is one of the whole value.
        return leaf(old, new);
    }
    let both = old.is_some() && new.is_some();
    let mut found = Delta { own: own(old, new), below: Comparison::default() };
    if both && before == after {
        return found;
    }
    let (before, after) = (before.unwrap_or(&none), after.unwrap_or(&none));
    let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    for name in names {
        // What one state lacks counts as empty where the type says so, unless it lacks all around it.
        let absent = || if both { types::absent(place, name) } else { None };
        let (old, new) = (before.get(name).or_else(absent), after.get(name).or_else(absent));
        let delta = delta(types::child(place, name), old, new);
        if !delta.is_none() {
            found.below.put(Step::field(name), delta);
        }
    }
    found
}

fn lists(place: Option<Schema>, old: Option<&Value>, new: Option<&Value>) -> Delta {
    let (before, after) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
    let empty = |items: Option<&Vec<Value>>| items.is_none_or(Vec::is_empty);
    let Some(list) = place.filter(|_| !(empty(before) && empty(after))) else {
        return leaf(old, new);
    };
    let mut found = Delta { own: own(old, new), below: Comparison::default() };
    if before == after {
        return found;
    }
    let before = by_step(list, before.map_or(&[], Vec::as_slice));
    let after = by_step(list, after.map_or(&[], Vec::as_slice));
    let all: BTreeSet<&Step> = before.keys().chain(after.keys()).collect();
    for step in all {
        let of = |steps: &BTreeMap<Step, Vec<_>>| steps.get(step).cloned().unwrap_or_default();
        let (old, new) = (of(&before), of(&after));
        let delta = duplicates(list.element(), &old, &new);
        if !delta.is_none() {
            found.below.put(step.clone(), delta);
        }
    }
    found
}

/// Compares the items that one step names: one on each side, usually. Several are one value.
fn duplicates(place: Option<Schema>, old: &[&Value], new: &[&Value]) -> Delta {
    match (old, new) {
        ([] | [_], [] | [_]) => delta(place, old.first().copied(), new.first().copied()),
        ([_, _, ..], [_, _, ..]) if old == new => Delta::default(),
        ([_, _, ..], [_, _, ..]) => Delta::own(Change::Modified),
        ([_, _, ..], _) => {
            let left = new.first().map(|one| delta(place, None, Some(one))).unwrap_or_default();
            Delta { own: Some(Change::Removed), below: left.below }
        }
        (_, _) => {
            let gone = old.first().map(|one| delta(place, Some(one), None)).unwrap_or_default();
            Delta { own: Some(Change::Added), below: gone.below }
        }
    }
}
