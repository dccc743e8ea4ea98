//! The commonest write: a manager changes what is its own already, and only the time of its entry becomes another. That is
//! told from the entries as they are stored, of which nothing is read or written anew.

use serde_json::{Map, Value, json};

use super::compare::Comparison;
use super::managers::{Identity, MOST_UPDATERS};
use super::operation::{Context, NEVER_OWNED};
use super::set::Set;

/// The entries after these changes by `manager`, when nobody gains or loses a field by them; `None` is not to be told so.
pub fn renewed(entries: &Value, changes: &Comparison, manager: &str, context: &Context) -> Option<Value> {
    let all = entries.as_array().filter(|all| all.len() <= MOST_UPDATERS)?;
    let written = changes.modified.clone().union(&changes.added).difference(&NEVER_OWNED);
    let identity = Identity::updater(manager, context.version, context.subresource);
    let mut own = None;
    for (at, entry) in all.iter().enumerate() {
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let fields = entry["fieldsV1"].as_object()?;
        if text("apiVersion") != context.version || text("fieldsType") != "FieldsV1" {
            return None;
        }
        let is_own = text("operation") == identity.operation
            && text("manager") == identity.manager
            && text("subresource") == identity.subresource;
        let loses = meets(fields, &changes.removed)
            || !is_own && (meets(fields, &changes.added) || meets(fields, &changes.modified));
        if loses || is_own && (own.is_some() || !has_all(fields, &written)) {
            return None;
        }
        if is_own {
            own = Some(at);
        }
    }
    if written.is_empty() {
        return Some(entries.clone());
    }
    let own = own?;
    let mut all = all.clone();
    all[own]["time"] = json!(context.now);
    // As [`Managers::to_wire`](super::Managers::to_wire) orders them.
    all.sort_by(|a, b| {
        let key = |entry: &'_ Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        let order = |entry: &Value| {
            ["operation", "time", "manager", "apiVersion", "subresource"].map(|field| key(entry, field))
        };
        order(a).cmp(&order(b))
    });
    Some(all.into())
}

/// Whether the field that these are below is itself one of the set.
fn is_member(below: &Map<String, Value>) -> bool {
    below.is_empty() || below.contains_key(".")
}

/// Whether `fields`, as `fieldsV1` has them, have all of a set.
fn has_all(fields: &Map<String, Value>, set: &Set) -> bool {
    set.nodes().all(|(step, node)| match fields.get(&step.to_wire()) {
        Some(Value::Object(below)) => (!node.member || is_member(below)) && has_all(below, &node.below),
        _ => false,
    })
}

/// Whether they have any of it.
fn meets(fields: &Map<String, Value>, set: &Set) -> bool {
    set.nodes().any(|(step, node)| match fields.get(&step.to_wire()) {
        Some(Value::Object(below)) => node.member && is_member(below) || meets(below, &node.below),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Converted, Managers, Versions, changes, update};
    use super::*;
    use crate::api::kinds;
    use std::borrow::Cow;

    struct One;

    impl Versions for One {
        fn convert<'o>(&'o self, object: &'o Value, version: &str) -> Option<Converted<'o>> {
            let pods = kinds::by_resource("", "v1", "pods").unwrap();
            (version == "v1").then(|| (Cow::Borrowed(object), pods.types.schema()))
        }
    }

    #[test]
    fn it_says_what_the_whole_way_says() {
        let pods = kinds::by_resource("", "v1", "pods").unwrap();
        let reset = Set::default();
        let context = |subresource, now| Context {
            version: "v1",
            place: pods.types.schema(),
            subresource,
            reset: &reset,
            versions: &One,
            now,
        };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        let pod = |labels: Value, conditions: Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": labels},
                "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]},
                "status": {"phase": "Running", "conditions": conditions}})
        };
        let ready = |status: &str| json!([condition("Ready", status), condition("PodScheduled", "True")]);
        let first = pod(json!({"a": "1"}), json!([condition("PodScheduled", "True")]));
        let second = pod(json!({"a": "1"}), ready("True"));
        let nothing = json!({});
        let made = context("", "2027-01-01T00:00:01Z");
        let managers =
            update(Managers::default(), changes(&nothing, &first, &made), (&nothing, &first), "made", &made);
        let later = context("status", "2027-01-01T00:00:02Z");
        let managers =
            update(managers, changes(&first, &second, &later), (&first, &second), "kubelet", &later);
        let entries = managers.to_wire();
        for (what, new, manager, subresource, told) in [
            ("its own again", pod(json!({"a": "1"}), ready("False")), "kubelet", "status", true),
            ("another's", pod(json!({"a": "2"}), ready("True")), "kubelet", "", false),
            ("the maker's own", pod(json!({"a": "2"}), ready("True")), "made", "", true),
            ("one more", pod(json!({"a": "1", "b": "1"}), ready("True")), "made", "", false),
            ("one less", pod(json!({}), ready("True")), "made", "", false),
            ("its own by another way", pod(json!({"a": "1"}), ready("False")), "kubelet", "", false),
            ("nothing", second.clone(), "anybody", "", true),
        ] {
            let context = context(subresource, "2027-01-01T00:00:03Z");
            let found = changes(&second, &new, &context);
            let short = renewed(&entries, &found, manager, &context);
            assert_eq!(short.is_some(), told, "{what}");
            let whole = update(managers.clone(), found, (&second, &new), manager, &context).to_wire();
            if let Some(short) = short {
                assert_eq!(short, whole, "{what}");
            }
        }
        let other = json!([{"manager": "m", "operation": "Update", "apiVersion": "v2", "fieldsType": "FieldsV1",
            "fieldsV1": {}}]);
        let found = changes(&first, &second, &later);
        assert_eq!(renewed(&other, &found, "m", &later), None);
    }
}
