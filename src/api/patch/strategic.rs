//! Strategic merge patches: merge patches that know which lists are maps in disguise.
//!
//! The semantics are those of k8s.io/apimachinery `pkg/util/strategicpatch`.

use serde_json::{Map, Value};

use super::order::{arrange, position};
use crate::api::go::Plain;
use crate::api::schema::Schema;
use crate::api::status::Status;

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Why a strategic merge patch cannot be applied.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// `$patch` says what it cannot say there.
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective { directive: String, map: String },
    /// An item of a merging list cannot be told from the others.
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey { item: String, key: String },
    /// `$patch: merge` on an item of a list.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeItem,
    /// `$retainKeys` is no list of names, or the patch sets what it does not name.
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    /// `$setElementOrder` is no list.
    #[error("invalid patch format of setElementOrder list")]
    SetElementOrder,
    /// The patch's list has another order than `$setElementOrder`, or an item that is not in it.
    #[error("The order in patch list:\n{list}\n doesn't match $setElementOrder list:\n{order}\n")]
    OtherOrder { list: String, order: String },
    /// `$deleteFromPrimitiveList` is no list.
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
}

impl Error {
    fn unknown(directive: &Value, map: &Value) -> Error {
        Error::UnknownDirective { directive: Plain(directive).to_string(), map: Plain(map).to_string() }
    }

    fn no_key(item: &Value, key: &str) -> Error {
        Error::NoMergeKey { item: Plain(item).to_string(), key: key.to_owned() }
    }

    /// Only some are the client's faults to Kubernetes; the others it tells without a reason.
    pub(super) fn status(&self) -> Status {
        match self {
            Error::RetainKeys | Error::SetElementOrder | Error::PrimitiveList => {
                Status::bad_request(self.to_string())
            }
            _ => Status::failure(500, "", self.to_string()),
        }
    }
}

/// The object as the patch leaves it.
pub(super) fn merge(schema: Option<Schema<'_>>, object: &Value, patch: &Value) -> Result<Value, Error> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Ok(without_directives(patch).unwrap_or_default());
    };
    merge_map(schema, object.clone(), patch.clone()).map(Value::Object)
}

type Object = Map<String, Value>;

fn merge_map(schema: Option<Schema<'_>>, mut object: Object, mut patch: Object) -> Result<Object, Error> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        match directive.as_str() {
            Some("replace") => return Ok(plain(patch)),
            Some("delete") => return Ok(Object::new()),
            _ => {
                patch.insert(DIRECTIVE.to_owned(), directive.clone());
                return Err(Error::unknown(&directive, &Value::Object(patch)));
            }
        }
    }
    retain_keys(&mut object, &mut patch)?;
    ordered_lists(schema, &mut object, &mut patch)?;
    for (key, value) in patch {
        let name = key.strip_prefix(DELETE_FROM);
        let deletes = name.is_some();
        let key = name.unwrap_or(&key);
        if value.is_null() {
            object.remove(key);
            continue;
        }
        let field = schema.and_then(|s| s.child(key));
        let merged = match (object.remove(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !replaces(field) => {
                Value::Object(merge_map(field, old, new)?)
            }
            (Some(Value::Array(mut old)), Value::Array(new)) if deletes => {
                old.retain(|item| !new.contains(item));
                Value::Array(old)
            }
            (Some(Value::Array(old)), Value::Array(new)) => Value::Array(merge_list(field, old, new)?),
            (Some(old), Value::Array(_)) if deletes => old,
            (None, Value::Array(_)) if deletes => continue,
            (_, _) if deletes => return Err(Error::PrimitiveList),
            (_, new) => match without_directives(&new) {
                Some(new) => new,
                None => continue,
            },
        };
        object.insert(key.to_owned(), merged);
    }
    Ok(object)
}

/// Whether the field is replaced as a whole though it is an object.
fn replaces(field: Option<Schema<'_>>) -> bool {
    field.is_some_and(|f| f.has_strategy("replace"))
}

/// Drops the fields that `$retainKeys` does not name.
fn retain_keys(object: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let Some(retained) = patch.remove(RETAIN) else { return Ok(()) };
    let retained = retained.as_array().ok_or(Error::RetainKeys)?;
    let kept = |key: &str| retained.iter().any(|name| name == key);
    let field = |key: &str| {
        let key = key.strip_prefix(DELETE_FROM).unwrap_or(key);
        key.strip_prefix(ORDER).unwrap_or(key).to_owned()
    };
    // What the patch removes need not be named, what it sets must be.
    if patch.iter().any(|(key, value)| !value.is_null() && !kept(&field(key))) {
        return Err(Error::RetainKeys);
    }
    object.retain(|key, _| kept(key));
    Ok(())
}

/// Merges the lists that have a `$setElementOrder` beside them, and takes both out of the patch.
fn ordered_lists(schema: Option<Schema<'_>>, object: &mut Object, patch: &mut Object) -> Result<(), Error> {
    let directives: Vec<String> = patch.keys().filter(|key| key.starts_with(ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else {
            return Err(Error::SetElementOrder);
        };
        let name = directive.trim_start_matches(ORDER);
        let field = schema.and_then(|s| s.child(name));
        if patch.get(name).is_some_and(|value| !value.is_array()) {
            continue;
        }
        let old = match object.get(name) {
            Some(Value::Array(old)) => Some(old.clone()),
            _ => None,
        };
        let key = field.map_or("", |f| f.merge_key());
        if let Some(Value::Array(list)) = patch.get(name) {
            check_order(list, &order, key)?;
        }
        let merged = match (old.clone(), patch.remove(name)) {
            (Some(old), Some(Value::Array(new))) => merge_list(field, old, new)?,
            (Some(old), _) => old,
            (None, Some(Value::Array(new))) => plain_list(&new),
            (None, _) => continue,
        };
        let arranged = arrange(merged, &order, &old.unwrap_or_default(), key);
        object.insert(name.to_owned(), Value::Array(arranged));
    }
    Ok(())
}

fn merge_list(field: Option<Schema<'_>>, old: Vec<Value>, new: Vec<Value>) -> Result<Vec<Value>, Error> {
    let Some(field) = field.filter(|f| f.has_strategy("merge")) else {
        return Ok(plain_list(&new));
    };
    let key = field.merge_key();
    let before = old.clone();
    if key.is_empty() {
        let mut merged = old;
        for item in &new {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(arrange(merged, &new, &before, key));
    }
    let (mut merged, new) = special_items(old, new, key)?;
    for item in &new {
        let Value::Object(patch) = item else {
            return Err(Error::no_key(item, key));
        };
        if !patch.contains_key(key) {
            return Err(Error::no_key(item, key));
        }
        match position(&merged, item, key).map(|at| (at, merged[at].take())) {
            Some((at, Value::Object(old))) => {
                merged[at] = Value::Object(merge_map(field.element(), old, patch.clone())?);
            }
            _ => merged.extend(without_directives(item)),
        }
    }
    Ok(arrange(merged, &new, &before, key))
}

/// Carries out the items with a `$patch`; what is left of the list and of the patch.
fn special_items(mut old: Vec<Value>, new: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), Error> {
    let mut rest = Vec::new();
    let mut replace = false;
    for item in new {
        match item.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => rest.push(item),
            Some("replace") => replace = true,
            Some("delete") if item.get(key).is_none() => return Err(Error::no_key(&item, key)),
            Some("delete") => old.retain(|o| o.get(key) != item.get(key)),
            Some("merge") => return Err(Error::MergeItem),
            Some(_) => return Err(Error::unknown(&item[DIRECTIVE], &item)),
        }
    }
    if replace { Ok((plain_list(&rest), Vec::new())) } else { Ok((old, rest)) }
}

/// A new value, without what only a patch understands: directives, and nulls within objects. Nothing comes of an object
/// that says what is to become of the one that is not there.
fn without_directives(value: &Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(Value::Object(plain(map.clone()))),
        Value::Array(items) => Some(Value::Array(plain_list(items))),
        other => Some(other.clone()),
    }
}

fn plain(map: Object) -> Object {
    let directive = |key: &str| key == RETAIN || key.starts_with(ORDER) || key.starts_with(DELETE_FROM);
    map.into_iter()
        .filter(|(key, value)| !directive(key) && !value.is_null())
        .filter_map(|(key, value)| Some((key, without_directives(&value)?)))
        .collect()
}

fn plain_list(items: &[Value]) -> Vec<Value> {
    items.iter().filter_map(without_directives).collect()
}

/// Refuses a patch's list that has another order than its `$setElementOrder`.
fn check_order(list: &[Value], order: &[Value], key: &str) -> Result<(), Error> {
    if list.is_empty() || order.is_empty() {
        return Ok(());
    }
    let same = |item: &Value, other: &Value| -> Result<bool, Error> {
        if key.is_empty() {
            return Ok(item == other);
        }
        let of = |item: &Value| item.get(key).cloned().ok_or_else(|| Error::no_key(item, key));
        Ok(of(item)? == of(other)?)
    };
    let mut named = order.iter();
    for item in list.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        loop {
            let Some(next) = named.next() else {
                let shown = |list: &[Value]| Plain(&Value::Array(list.to_vec())).to_string();
                return Err(Error::OtherOrder { list: shown(list), order: shown(order) });
            };
            if same(item, next)? {
                break;
            }
        }
    }
    Ok(())
}
