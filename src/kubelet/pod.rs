//! A pod as messages name it, and its containers by name (pure).

use k8s_openapi::api::core::v1::{Container, Pod};

/// `NAME_NAMESPACE(UID)`, as Kubernetes names a pod to its user.
pub fn full_name(pod: &Pod) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &pod.metadata;
    format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
}

/// The container of this name, be it an init container or not.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name)
}

/// The image of a container as the spec names it.
pub fn image_of<'a>(pod: &'a Pod, name: &str) -> &'a str {
    container(pod, name).and_then(|c| c.image.as_deref()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_found_in_both_lists() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"initContainers": [{"name": "i", "image": "one"}], "containers": [{"name": "c", "image": "two"}]},
        }))
        .unwrap();
        for (name, image) in [("i", "one"), ("c", "two"), ("x", "")] {
            assert_eq!(image_of(&pod, name), image, "{name}");
        }
        assert_eq!(full_name(&pod), "p_d(u)");
    }
}
