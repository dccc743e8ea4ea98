//! Disruption budgets as `policy/v1beta1` meant them: an empty selector chose no pod there and chooses all of them
//! in version 1 (Kubernetes `pkg/apis/policy/v1beta1/conversion.go`).

use serde_json::{Value, json};

/// A key by which each version says what its empty selector cannot.
const KEY: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

fn requirement(operator: &str) -> Value {
    json!({"matchExpressions": [{"key": KEY, "operator": operator}]})
}

/// A selector without requirements.
fn is_empty(selector: &Value) -> bool {
    let none = |key: &str| match &selector[key] {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => true,
    };
    selector.is_object() && none("matchLabels") && none("matchExpressions")
}

/// The version of today.
pub(super) fn to_new(budget: &mut Value) {
    let Some(selector) = budget.pointer_mut("/spec/selector") else { return };
    if is_empty(selector) {
        *selector = requirement("Exists");
    } else if *selector == requirement("DoesNotExist") {
        *selector = json!({});
    } else if let Some(list) = selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        list.retain(|one| one["key"] != KEY);
    }
}

/// The old version.
pub(super) fn to_old(budget: &mut Value) {
    let Some(selector) = budget.pointer_mut("/spec/selector") else { return };
    if is_empty(selector) {
        *selector = requirement("DoesNotExist");
    } else if *selector == requirement("Exists") {
        *selector = json!({});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_selectors_keep_their_meaning() {
        let labels = json!({"matchLabels": {"a": "b"}});
        for (old, new) in [
            (json!({}), requirement("Exists")),
            (requirement("DoesNotExist"), json!({})),
            (labels.clone(), labels),
            (Value::Null, Value::Null),
        ] {
            let mut budget = json!({"spec": {"selector": old}});
            to_new(&mut budget);
            assert_eq!(budget["spec"]["selector"], new);
            to_old(&mut budget);
            assert_eq!(budget["spec"]["selector"], old);
        }
    }
}
