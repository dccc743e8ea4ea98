//! The downward API: fields and resources of a pod as text, for variables and files (pure).

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::resources::{self, NodeCapacity};

/// The value of `metadata.name`, `metadata.labels['x']`, `status.podIP`, ... of a pod.
pub fn field(pod: &Pod, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        };
        return Ok(map.and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()),
        "status.hostIP" => status.and_then(|s| s.host_ip.clone()),
        "status.podIP" => status.and_then(|s| s.pod_ip.clone()),
        "status.hostIPs" => status
            .and_then(|s| s.host_ips.as_ref())
            .map(|ips| ips.iter().map(|ip| ip.ip.clone()).collect::<Vec<_>>().join(",")),
        "status.podIPs" => status
            .and_then(|s| s.pod_ips.as_ref())
            .map(|ips| ips.iter().map(|ip| ip.ip.clone()).collect::<Vec<_>>().join(",")),
        _ => return Err(format!("unsupported fieldPath: {path}")),
    };
    Ok(text.unwrap_or_default())
}

/// The value of a `resourceFieldRef`, about its own container or the named one.
pub fn resource(
    pod: &Pod,
    selector: &ResourceFieldSelector,
    own: Option<&Container>,
    node: &NodeCapacity,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
    let container = match named {
        Some(name) => pod
            .spec
            .iter()
            .flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()))
            .find(|c| c.name == name)
            .ok_or_else(|| format!("container {name} not found"))?,
        None => own.ok_or("resourceFieldRef must name a container")?,
    };
    let divisor = selector.divisor.as_ref().map_or("", |q| q.0.as_str());
    resources::field(container, &selector.resource, divisor, node)
        .ok_or_else(|| format!("unsupported container resource: {}", selector.resource))
}

/// `metadata.labels['key']` as map and key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// `key="value"` lines, values escaped as Go quotes them.
fn lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map.into_iter().flatten().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_a_pod() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "www", "namespace": "d", "uid": "u", "labels": {"b": "2", "a": "1"}},
            "spec": {"containers": [], "nodeName": "n"},
            "status": {"podIPs": [{"ip": "10.244.0.5"}, {"ip": "fd00::5"}], "hostIPs": [{"ip": "192.0.2.1"}]},
        }))
        .unwrap();
        for (path, expected) in [
            ("metadata.name", "www"),
            ("metadata.labels", "a=\"1\"\nb=\"2\""),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("spec.nodeName", "n"),
            ("status.podIP", ""),
            ("status.podIPs", "10.244.0.5,fd00::5"),
            ("status.hostIPs", "192.0.2.1"),
        ] {
            assert_eq!(field(&pod, path).unwrap(), expected, "{path}");
        }
        assert!(field(&pod, "spec.containers").is_err());
    }
}
