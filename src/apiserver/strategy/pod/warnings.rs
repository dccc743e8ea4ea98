//! What the author of a pod should know though it is accepted (`pkg/api/pod/warnings.go` of Kubernetes).

use serde_json::Value;

use super::super::value::{is_set, items, text};

pub(super) fn pod(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut warnings = Vec::new();
    for list in ["initContainers", "containers"] {
        for (i, container) in items(spec, list).iter().enumerate() {
            let path = format!("spec.{list}[{i}]");
            warnings.extend(hidden_variables(&path, container));
            warnings.extend(same_ports(&path, container));
        }
    }
    for (i, secret) in items(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            warnings.push(format!("spec.imagePullSecrets[{i}].name: invalid empty name \"\""));
        }
    }
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|s| s < 0) {
        warnings.push(
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
                .to_owned(),
        );
    }
    warnings
}

fn hidden_variables(path: &str, container: &Value) -> Vec<String> {
    let all = items(container, "env");
    let hides = |i: &usize| all[..*i].iter().any(|before| before["name"] == all[*i]["name"]);
    (0..all.len())
        .filter(hides)
        .map(|i| {
            let name = text(&all[i], "name");
            format!("{path}.env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply")
        })
        .collect()
}

fn same_ports(path: &str, container: &Value) -> Vec<String> {
    let all = items(container, "ports");
    let same = |a: &Value, b: &Value| {
        let bound = |port: &Value| is_set(port, "hostPort");
        a["containerPort"] == b["containerPort"] && a["protocol"] == b["protocol"] && !bound(a) && !bound(b)
    };
    let earlier = |i: usize| all[..i].iter().position(|before| same(before, &all[i])).map(|j| (i, j));
    (0..all.len())
        .filter_map(earlier)
        .map(|(i, j)| format!("{path}.ports[{i}]: duplicate port definition with {path}.ports[{j}]"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::pod;
    use serde_json::json;

    #[test]
    fn what_apply_would_drop_is_told() {
        let given = json!({"spec": {"containers": [{
            "env": [{"name": "A"}, {"name": "B"}, {"name": "A"}],
            "ports": [{"containerPort": 80}, {"containerPort": 81}, {"containerPort": 80}]
        }]}});
        assert_eq!(
            pod(&given),
            [
                "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
                "spec.containers[0].ports[2]: duplicate port definition with spec.containers[0].ports[0]"
            ]
        );
        assert!(pod(&json!({})).is_empty());
    }
}
