//! A container's image: pull policy, pull secrets, events and the reasons that statuses show.

use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use serde_json::Value;

use super::context::Context;
use super::status::Waiting;
use crate::client::events::EventType;
use crate::image::reference::Reference;
use crate::image::{Credential, Image, credentials};

/// Whether and when an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Always,
    IfNotPresent,
    Never,
}

impl Policy {
    fn of(container: &Container) -> Policy {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Policy::Always,
            Some("Never") => Policy::Never,
            _ => Policy::IfNotPresent,
        }
    }
}

/// The image of a container, when its policy has it used as it is here; `None` when it is to be fetched first. An error
/// is why the container waits.
pub async fn find<R>(
    context: &Context<R>,
    pod: &Pod,
    container: &Container,
) -> Result<Option<Image>, Waiting> {
    let name = container.image.as_deref().unwrap_or("");
    let event = |kind, reason: &str, message: &str| {
        context.event(pod, Some(&container.name), kind, reason, message);
    };
    if let Err(error) = Reference::parse(name) {
        let message = format!("Failed to apply default image tag {name:?}: {error}");
        event(EventType::Warning, "InspectFailed", &message);
        return Err(Waiting { reason: "InvalidImageName".into(), message });
    }
    let policy = Policy::of(container);
    if policy != Policy::Always {
        let found = context.images.find(name).await.map_err(|error| {
            let message = format!("Failed to inspect image {name:?}: {error}");
            event(EventType::Warning, "InspectFailed", &message);
            Waiting { reason: "ImageInspectError".into(), message }
        })?;
        if let Some(image) = found {
            let message =
                format!("Container image {name:?} already present on machine and can be accessed by the pod");
            event(EventType::Normal, "Pulled", &message);
            return Ok(Some(image));
        }
    }
    if policy == Policy::Never {
        let message = format!("Container image {name:?} is not present with pull policy of Never");
        event(EventType::Warning, "ErrImageNeverPull", &message);
        return Err(Waiting { reason: "ErrImageNeverPull".into(), message });
    }
    Ok(None)
}

/// Fetches the image of a container; or why the container waits.
pub async fn fetch<R>(context: &Context<R>, pod: &Pod, container: &Container) -> Result<Image, Waiting> {
    let name = container.image.as_deref().unwrap_or("");
    let event = |kind, reason: &str, message: &str| {
        context.event(pod, Some(&container.name), kind, reason, message);
    };
    event(EventType::Normal, "Pulling", &format!("Pulling image {name:?}"));
    let credentials = pull_secrets(context, pod).await;
    let started = Instant::now();
    match context.images.pull(name, credentials).await {
        Ok(image) => {
            let took = duration(started.elapsed());
            let message = format!(
                "Successfully pulled image {name:?} in {took} ({took} including waiting). Image size: {} bytes.",
                image.size
            );
            event(EventType::Normal, "Pulled", &message);
            Ok(image)
        }
        Err(message) => {
            event(EventType::Warning, "Failed", &format!("Failed to pull image {name:?}: {message}"));
            event(EventType::Warning, "Failed", "Error: ErrImagePull");
            Err(failed(message))
        }
    }
}

/// Why a container waits whose image could not be fetched.
pub fn failed(message: String) -> Waiting {
    Waiting { reason: "ErrImagePull".into(), message }
}

/// How a failed start shows itself while it waits for its next try.
pub fn backed_off(failure: &Waiting, image: &str) -> Waiting {
    if failure.reason != "ErrImagePull" {
        return failure.clone();
    }
    Waiting {
        reason: "ImagePullBackOff".into(),
        message: format!("Back-off pulling image {image:?}: ErrImagePull: {}", failure.message),
    }
}

/// `1.234s` or `85ms`, as Go prints durations.
fn duration(took: std::time::Duration) -> String {
    if took.as_secs() > 0 { format!("{:.3}s", took.as_secs_f64()) } else { format!("{}ms", took.as_millis()) }
}

/// What the pod's pull secrets hold; one that is missing or broken does not keep others from being tried.
async fn pull_secrets<R>(context: &Context<R>, pod: &Pod) -> Vec<Credential> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut found = Vec::new();
    for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        match context.client.namespaced::<Secret>(namespace).get(&reference.name).await {
            Ok(secret) => found.extend(from_secret(&secret)),
            Err(status) => {
                let message = format!(
                    "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                    reference.name
                );
                tracing::debug!(%status, secret = reference.name, "pull secret");
                context.event(pod, None, EventType::Warning, "FailedToRetrieveImagePullSecret", &message);
            }
        }
    }
    found
}

/// The credentials of a `dockerconfigjson` or `dockercfg` secret (pure).
fn from_secret(secret: &Secret) -> Vec<Credential> {
    let data = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        serde_json::from_slice::<Value>(&bytes.0).ok()
    };
    let auths =
        data(".dockerconfigjson").map(|config| config["auths"].clone()).or_else(|| data(".dockercfg"));
    credentials::parse(&auths.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    #[test]
    fn pull_secrets_in_both_forms() {
        let config = json!({"auths": {"registry.example": {"auth": STANDARD.encode("bob:pa:ss")},
                                       "other": {"username": "u", "password": "p"}, "empty": {}}});
        for (key, content) in [(".dockerconfigjson", &config), (".dockercfg", &config["auths"])] {
            let data = json!({"data": {(key): STANDARD.encode(content.to_string())}});
            let secret: Secret = serde_json::from_value(data).unwrap();
            let found = from_secret(&secret);
            let shown: Vec<_> = found
                .iter()
                .map(|c| (c.registry.as_str(), c.username.as_str(), c.password.as_str()))
                .collect();
            assert_eq!(shown, [("other", "u", "p"), ("registry.example", "bob", "pa:ss")], "{key}");
        }
    }
}
