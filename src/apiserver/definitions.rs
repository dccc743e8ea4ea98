//! What becomes of a CustomResourceDefinition that is written: its names are accepted, it is established, and its kinds
//! are served.
//!
//! Kubernetes' controllers decide this a moment after the write (k8s.io/apiextensions-apiserver `pkg/controller/status`
//! and `establish`); here the write itself does, so that whoever sees a definition established can use its kinds.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::registry::Registry;
use crate::api::custom::is_true;
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::clock;

/// The group of definitions.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Their plural.
pub const PLURAL: &str = "customresourcedefinitions";
/// What holds a definition until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Whether this is the kind of definitions.
pub fn concerns(kind: &Kind) -> bool {
    kind.is(GROUP, PLURAL)
}

/// Decides about the names of a definition that is to be written, and establishes it when they are free.
pub fn settle(registry: &Registry, kind: &Kind, definition: &mut Value) {
    if !concerns(kind) {
        return;
    }
    let all =
        registry.store().list(&kind.prefix(None), None, 0, None).map(|all| all.entries).unwrap_or_default();
    let others = all.iter().map(|entry| entry.json()).filter(|other| {
        meta::name(other) != meta::name(definition) && other["spec"]["group"] == definition["spec"]["group"]
    });
    let others: Vec<&Value> = others.collect();
    accept(definition, &others, clock::now());
}

/// The names of a definition that is being written, against those of the others of its group.
fn accept(definition: &mut Value, others: &[&Value], now: Timestamp) {
    let wanted = definition["spec"]["names"].clone();
    let mut accepted = definition["status"]["acceptedNames"].clone();
    if !accepted.is_object() {
        accepted = json!({});
    }
    let taken = |keys: &[&str], name: &str| {
        others.iter().map(|other| &other["status"]["acceptedNames"]).any(|names| {
            keys.iter().any(|key| names[*key] == name)
                || (keys.contains(&"plural")
                    && names["shortNames"].as_array().is_some_and(|short| short.iter().any(|s| s == name)))
        })
    };
    let mut conflict: Option<(&str, String)> = None;
    let (resources, kinds): (&[&str], &[&str]) = (&["plural", "singular"], &["kind", "listKind"]);
    let mut take = |key: &str, reason: &'static str, against: &[&str]| {
        let name = wanted[key].as_str().unwrap_or_default();
        if accepted[key] != name && taken(against, name) {
            conflict = Some((reason, format!("{name:?} is already in use")));
        } else {
            accepted[key] = json!(name);
        }
    };
    take("plural", "PluralConflict", resources);
    take("singular", "SingularConflict", resources);
    take("kind", "KindConflict", kinds);
    take("listKind", "ListKindConflict", kinds);
    let short = wanted["shortNames"].as_array().cloned().unwrap_or_default();
    let had = accepted["shortNames"].as_array().cloned().unwrap_or_default();
    let clash = short.iter().filter(|name| !had.contains(name));
    let clash: Vec<String> = clash
        .filter_map(Value::as_str)
        .filter(|name| taken(resources, name))
        .map(|name| format!("{name:?} is already in use"))
        .collect();
    match clash.as_slice() {
        [] => set(&mut accepted, "shortNames", &wanted["shortNames"]),
        [one] => conflict = Some(("ShortNamesConflict", one.clone())),
        many => conflict = Some(("ShortNamesConflict", format!("[{}]", many.join(", ")))),
    }
    set(&mut accepted, "categories", &wanted["categories"]);
    let status = meta::child_mut(definition, "status");
    status.insert("acceptedNames".to_owned(), accepted);
    match conflict {
        None => {
            set_condition(definition, "NamesAccepted", true, "NoConflicts", "no conflicts found", now);
            if !is_true(definition, "Established") {
                let why = "the initial names have been accepted";
                set_condition(definition, "Established", true, "InitialNamesAccepted", why, now);
            }
        }
        Some((reason, message)) => {
            set_condition(definition, "NamesAccepted", false, reason, &message, now);
            if !is_true(definition, "Established") {
                let why = "not all names are accepted";
                set_condition(definition, "Established", false, "NotAccepted", why, now);
            }
        }
    }
}

fn set(names: &mut Value, key: &str, value: &Value) {
    let names = meta::map_mut(names);
    match value.as_array().filter(|list| !list.is_empty()) {
        Some(_) => names.insert(key.to_owned(), value.clone()),
        None => names.remove(key),
    };
}

/// Writes a condition; its time changes with its status.
pub fn set_condition(
    definition: &mut Value,
    of: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let status = if status { "True" } else { "False" };
    let entry = meta::child_mut(definition, "status").entry("conditions").or_insert(Value::Null);
    if !entry.is_array() {
        *entry = json!([]);
    }
    let Some(conditions) = entry.as_array_mut() else { return };
    let before = conditions.iter_mut().find(|condition| condition["type"] == of);
    let since = match &before {
        Some(condition) if condition["status"] == status => condition["lastTransitionTime"].clone(),
        _ => json!(meta::timestamp(now)),
    };
    let condition = json!({"type": of, "status": status, "lastTransitionTime": since, "reason": reason, "message": message});
    match before {
        Some(before) => *before = condition,
        None => conditions.push(condition),
    }
}

/// A definition that is about to be deleted waits until its objects are gone.
pub fn hold<'d>(kind: &Kind, definition: &'d Value) -> Cow<'d, Value> {
    if !concerns(kind) || meta::is_deleting(definition) {
        return Cow::Borrowed(definition);
    }
    let mut held = definition.clone();
    let mut finalizers = meta::finalizers(definition);
    if !finalizers.contains(&CLEANUP) {
        finalizers.push(CLEANUP);
    }
    meta::set(&mut held, "finalizers", json!(finalizers));
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    set_condition(&mut held, "Terminating", true, "InstanceDeletionPending", message, clock::now());
    Cow::Owned(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, short: Value) -> Value {
        json!({"metadata": {"name": plural}, "spec": {"names": {"plural": plural, "singular": kind.to_lowercase(),
            "kind": kind, "listKind": format!("{kind}List"), "shortNames": short}}})
    }

    fn told<'a>(definition: &'a Value, condition: &str) -> (&'a str, &'a str, &'a str) {
        let conditions = definition["status"]["conditions"].as_array().unwrap();
        let condition = conditions.iter().find(|c| c["type"] == condition).unwrap();
        let text = |key: &str| condition[key].as_str().unwrap();
        (text("status"), text("reason"), text("message"))
    }

    #[test]
    fn free_names_establish_and_taken_ones_do_not() {
        let now = Timestamp::UNIX_EPOCH;
        let mut first = definition("widgets", "Widget", json!(["wd"]));
        accept(&mut first, &[], now);
        assert_eq!(told(&first, "NamesAccepted"), ("True", "NoConflicts", "no conflicts found"));
        assert_eq!(told(&first, "Established").0, "True");
        for (mut second, reason, message) in [
            (
                definition("others", "Widget", json!([])),
                "ListKindConflict",
                "\"WidgetList\" is already in use",
            ),
            (definition("others", "Other", json!(["wd"])), "ShortNamesConflict", "\"wd\" is already in use"),
            (
                definition("others", "Other", json!(["widget"])),
                "ShortNamesConflict",
                "\"widget\" is already in use",
            ),
        ] {
            accept(&mut second, &[&first], now);
            assert_eq!(told(&second, "NamesAccepted"), ("False", reason, message));
            assert_eq!(told(&second, "Established"), ("False", "NotAccepted", "not all names are accepted"));
        }
        let again = first.clone();
        accept(&mut first, &[], Timestamp::from_second(9).unwrap());
        assert_eq!(first, again);
    }

    #[test]
    fn a_definition_waits_for_its_objects() {
        let kind = crate::api::kinds::by_resource(GROUP, "v1", PLURAL).unwrap();
        let definition = definition("widgets", "Widget", json!([]));
        let held = hold(kind, &definition);
        assert_eq!(meta::finalizers(&held), [CLEANUP]);
        assert_eq!(told(&held, "Terminating").1, "InstanceDeletionPending");
    }
}
