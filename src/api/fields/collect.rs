//! The fields that an object sets.

use std::collections::BTreeMap;

use serde_json::Value;

use super::set::{Node, Set};
use super::step::Step;
use super::types::{self, Form};
use crate::api::schema::Schema;

/// The fields that are set in `value`.
pub(super) fn collect(place: Option<Schema>, value: &Value) -> Set {
    below(place, value).below
}

/// The fields below a value; a member when the value itself is one.
fn below(place: Option<Schema>, value: &Value) -> Node {
    let mut set = Set::default();
    match (types::form(place, value), value) {
        (Form::Leaf, _) => return Node { member: true, below: set },
        (Form::Object, Value::Object(fields)) => {
            for (name, value) in fields {
                let mut node = below(types::child(place, name), value);
                let empty = value.is_null() || value.as_object().is_some_and(|fields| fields.is_empty());
                node.member |= empty || types::declared(place, name).is_none();
                set.put(Step::field(name), node);
            }
        }
        (Form::List, Value::Array(items)) => {
            let Some(list) = place else { return Node::default() };
            for (step, items) in by_step(list, items) {
                let node = match items.as_slice() {
                    [one] => Node { member: true, ..below(list.element(), one) },
                    // Of items that cannot be told apart nothing is owned but that they are there.
                    _ => Node { member: true, below: Set::default() },
                };
                set.put(step, node);
            }
        }
        (Form::Object | Form::List, _) => {}
    }
    Node { member: false, below: set }
}

/// The items of an associative list by what tells them apart; those that nothing tells apart are left out.
pub(super) fn by_step<'v>(list: Schema, items: &'v [Value]) -> BTreeMap<Step, Vec<&'v Value>> {
    let mut found: BTreeMap<Step, Vec<&Value>> = BTreeMap::new();
    for item in items {
        if let Ok(step) = types::item(list, item) {
            found.entry(step).or_default().push(item);
        }
    }
    found
}
