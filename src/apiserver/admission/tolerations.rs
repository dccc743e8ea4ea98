//! DefaultTolerationSeconds: how long a pod stays on a node in trouble unless it says so itself.

use serde_json::{Value, json};

/// How long a pod stays on a node that is not ready or not reachable, in seconds.
const NODE_TROUBLE_SECONDS: i64 = 300;

/// Completes a pod that is to be made.
pub fn mutate(pod: &mut Value) {
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if tolerations.is_null() {
        *tolerations = json!([]);
    }
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let is = |value: &Value, wanted: &str| value.as_str().is_none_or(|v| v.is_empty() || v == wanted);
        if !tolerations.iter().any(|t| is(&t["key"], key) && is(&t["effect"], "NoExecute")) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_TROUBLE_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_tolerate_node_trouble_unless_they_say_how_long() {
        let mut pod = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "tolerationSeconds": 5}]}});
        mutate(&mut pod);
        mutate(&mut pod);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0]["tolerationSeconds"], 5);
        assert_eq!(list[1]["key"], "node.kubernetes.io/unreachable");
    }
}
