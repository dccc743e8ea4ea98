//! Taints keep pods from nodes, and tolerations let them there all the same.

use k8s_openapi::api::core::v1::{Taint, Toleration};

/// Whether one of the tolerations bears a taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| bears(toleration, taint))
}

/// Whether a toleration bears a taint.
pub fn bears(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let value = text(&taint.value);
    let (key, effect, given) = (text(&toleration.key), text(&toleration.effect), text(&toleration.value));
    let numbers = || given.parse::<i64>().ok().zip(value.parse::<i64>().ok());
    let fits = match toleration.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => !key.is_empty() && given == value,
        "Gt" => numbers().is_some_and(|(given, value)| value > given),
        "Lt" => numbers().is_some_and(|(given, value)| value < given),
        _ => false,
    };
    fits && (effect.is_empty() || effect == taint.effect) && (key.is_empty() || key == taint.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations_bear_what_they_name() {
        let taint: Taint =
            serde_json::from_value(json!({"key": "gpu", "value": "4", "effect": "NoSchedule"})).unwrap();
        for (toleration, bears) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "gpu", "operator": "Exists"}), true),
            (json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"key": "gpu", "value": "4", "effect": "NoSchedule"}), true),
            (json!({"key": "gpu", "operator": "Equal", "value": "5"}), false),
            (json!({"key": "gpu", "operator": "Gt", "value": "3"}), true),
            (json!({"key": "gpu", "operator": "Lt", "value": "3"}), false),
            (json!({"key": "other", "operator": "Exists"}), false),
            (json!({"value": "4"}), false),
        ] {
            let read: Toleration = serde_json::from_value(toleration.clone()).unwrap();
            assert_eq!(tolerates(&[read], &taint), bears, "{toleration}");
        }
        assert!(!tolerates(&[], &taint));
    }
}
