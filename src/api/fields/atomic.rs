//! Parts of a configuration that would replace all that was there: lists, maps and objects that are one value.

use serde_json::Value;

use super::types;
use crate::api::schema::{Schema, Shape};

/// The paths of the parts of `value` that are one value each: `.spec.tolerations`.
pub fn atomics(place: Option<Schema>, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(place, value, String::new(), &mut found);
    found
}

fn collect(place: Option<Schema>, value: &Value, path: String, found: &mut Vec<String>) {
    // What nobody states the structure of may be anything.
    let Some(of) = place else { return };
    let is_list = of.shape() == Shape::List;
    match value {
        Value::Object(fields) if !is_list => {
            if types::is_atomic(of) {
                found.push(path.clone());
            }
            for (name, value) in fields {
                collect(types::child(place, name), value, format!("{path}.{name}"), found);
            }
        }
        Value::Array(items) if is_list => {
            if types::is_atomic(of) {
                found.push(path.clone());
            }
            for (i, item) in items.iter().enumerate() {
                collect(of.element(), item, format!("{path}[{i}]"), found);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_replaces_everything_is_found() {
        let pod = Schema::of("io.k8s.api.core.v1.Pod");
        let value = json!({"spec": {"tolerations": [{"key": "a"}], "containers": [{"name": "c", "command": ["x"]}],
            "nodeSelector": {"a": "b"}}});
        assert_eq!(
            atomics(pod, &value),
            [".spec.containers[0].command", ".spec.nodeSelector", ".spec.tolerations"]
        );
        assert!(atomics(pod, &json!({"metadata": {"labels": {"a": "b"}}})).is_empty());
        assert!(atomics(None, &value).is_empty());
    }
}
