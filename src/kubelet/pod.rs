//! A pod as messages name it, and its containers by name (pure).

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};

use crate::api::meta::MIRROR;

/// The uid of the static pod whose mirror this is.
pub fn mirrored(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(MIRROR).map(String::as_str)
}

/// Whether a pod has ended for good.
pub fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a kubelet has taken a pod before: that is when its status begins.
pub fn is_taken(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

/// `NAME_NAMESPACE(UID)`, as Kubernetes names a pod to its user.
pub fn full_name(pod: &Pod) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &pod.metadata;
    format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
}

/// The containers of a pod, then its init containers.
pub fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// The containers that were added to look into a pod.
pub fn ephemeral(pod: &Pod) -> impl Iterator<Item = &EphemeralContainer> {
    pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten())
}

/// The container of this name, of whatever sort it is.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let lasting = all_containers(pod.spec.as_ref()?).find(|c| c.name == name).map(Cow::Borrowed);
    lasting.or_else(|| ephemeral(pod).find(|c| c.name == name).map(|c| Cow::Owned(like_any_other(c))))
}

/// An ephemeral container as the container that it is once it runs.
fn like_any_other(container: &EphemeralContainer) -> Container {
    let container = container.clone();
    Container {
        args: container.args,
        command: container.command,
        env: container.env,
        env_from: container.env_from,
        image: container.image,
        image_pull_policy: container.image_pull_policy,
        name: container.name,
        security_context: container.security_context,
        stdin: container.stdin,
        stdin_once: container.stdin_once,
        termination_message_path: container.termination_message_path,
        termination_message_policy: container.termination_message_policy,
        tty: container.tty,
        volume_mounts: container.volume_mounts,
        working_dir: container.working_dir,
        ..Container::default()
    }
}

/// The image of a container as the spec names it.
pub fn image_of<'a>(pod: &'a Pod, name: &str) -> &'a str {
    let lasting = pod.spec.iter().flat_map(all_containers).map(|c| (&c.name, &c.image));
    let mut all = lasting.chain(ephemeral(pod).map(|c| (&c.name, &c.image)));
    all.find(|(found, _)| *found == name).and_then(|(_, image)| image.as_deref()).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_are_found_in_every_list() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"initContainers": [{"name": "i", "image": "one"}], "containers": [{"name": "c", "image": "two"}],
                     "ephemeralContainers": [{"name": "e", "image": "three", "tty": true}]},
        }))
        .unwrap();
        for (name, image) in [("i", "one"), ("c", "two"), ("e", "three"), ("x", "")] {
            assert_eq!(image_of(&pod, name), image, "{name}");
        }
        assert_eq!(container(&pod, "e").unwrap().tty, Some(true));
        assert_eq!(full_name(&pod), "p_d(u)");
    }
}
