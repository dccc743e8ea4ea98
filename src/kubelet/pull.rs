//! A container's image: pull policy, pull secrets, events and the reasons that statuses show.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use serde_json::Value;
use tokio::time::Instant;

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
    fn of(text: Option<&str>) -> Policy {
        match text {
            Some("Always") => Policy::Always,
            Some("Never") => Policy::Never,
            _ => Policy::IfNotPresent,
        }
    }
}

/// The images that a container is made of.
#[derive(Debug, Clone, Default)]
pub struct Images {
    /// Its own.
    pub own: Image,
    /// Those of the image volumes that it mounts, by volume.
    pub volumes: BTreeMap<String, Image>,
}

impl Images {
    fn add(&mut self, need: &Need<'_>, image: Image) {
        match need.volume {
            Some(volume) => drop(self.volumes.insert(volume.to_owned(), image)),
            None => self.own = image,
        }
    }
}

/// One of them, as the spec names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Need<'a> {
    /// The volume that shows it; `None` for the container's own.
    volume: Option<&'a str>,
    name: &'a str,
    policy: Policy,
}

/// The images that a container needs, volumes first (pure).
fn needs<'a>(pod: &'a Pod, container: &'a Container) -> Vec<Need<'a>> {
    let mounts = container.volume_mounts.as_deref().unwrap_or(&[]);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mounted = volumes.filter(|volume| mounts.iter().any(|mount| mount.name == volume.name));
    let of_volume = mounted.filter_map(|volume| {
        let image = volume.image.as_ref()?;
        let policy = Policy::of(image.pull_policy.as_deref());
        let name = image.reference.as_deref().unwrap_or("");
        Some(Need { volume: Some(&volume.name), name, policy })
    });
    let policy = Policy::of(container.image_pull_policy.as_deref());
    let own = Need { volume: None, name: container.image.as_deref().unwrap_or(""), policy };
    of_volume.chain([own]).collect()
}

/// An image that could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// As the spec names it.
    pub image: String,
    /// Why.
    pub message: String,
}

impl Failure {
    /// Why the container waits.
    pub fn waiting(&self) -> Waiting {
        Waiting { reason: "ErrImagePull".into(), message: self.message.clone() }
    }

    /// Why it waits until the next try.
    pub fn backed_off(&self) -> Waiting {
        Waiting {
            reason: "ImagePullBackOff".into(),
            message: format!("Back-off pulling image {:?}: ErrImagePull: {}", self.image, self.message),
        }
    }
}

/// What events about an image are about: its container, or the pod whose volume shows it.
fn tell<R>(
    context: &Context<R>,
    pod: &Pod,
    container: &Container,
    need: &Need<'_>,
    event: (EventType, &str, &str),
) {
    let about = need.volume.is_none().then_some(container.name.as_str());
    let (kind, reason, message) = event;
    context.event(pod, about, kind, reason, message);
}

fn present(name: &str) -> String {
    format!("Container image {name:?} already present on machine and can be accessed by the pod")
}

/// The images of a container, when their policies have them used as they are here; `None` when one is to be fetched
/// first. An error is why the container waits.
pub async fn find<R>(
    context: &Context<R>,
    pod: &Pod,
    container: &Container,
) -> Result<Option<Images>, Waiting> {
    let mut found = Images::default();
    let needs = needs(pod, container);
    let mut all_here = true;
    for need in &needs {
        match find_one(context, pod, container, need).await? {
            Some(image) => found.add(need, image),
            None => all_here = false,
        }
    }
    if !all_here {
        return Ok(None);
    }
    for need in &needs {
        tell(context, pod, container, need, (EventType::Normal, "Pulled", &present(need.name)));
    }
    Ok(Some(found))
}

async fn find_one<R>(
    context: &Context<R>,
    pod: &Pod,
    container: &Container,
    need: &Need<'_>,
) -> Result<Option<Image>, Waiting> {
    let name = need.name;
    let wrong = |event: &str, reason: &str, message: String| {
        tell(context, pod, container, need, (EventType::Warning, event, &message));
        Waiting { reason: reason.into(), message }
    };
    if let Err(error) = Reference::parse(name) {
        let message = format!("Failed to apply default image tag {name:?}: {error}");
        return Err(wrong("InspectFailed", "InvalidImageName", message));
    }
    if need.policy == Policy::Always {
        return Ok(None);
    }
    let found = context.images.find(name).await.map_err(|error| {
        let message = format!("Failed to inspect image {name:?}: {error}");
        wrong("InspectFailed", "ImageInspectError", message)
    })?;
    let found = match found {
        Some(image) if !is_open(context, pod, need, &image).await => None,
        found => found,
    };
    if found.is_none() && need.policy == Policy::Never {
        let message = format!("Container image {name:?} is not present with pull policy of Never");
        return Err(wrong("ErrImageNeverPull", "ErrImageNeverPull", message));
    }
    Ok(found)
}

/// Whether an image that is here is one that the pod may use (`KubeletEnsureSecretPulledImages` of Kubernetes, with
/// `NeverVerifyPreloadedImages`): one that was fetched with somebody's secret is for those who have it.
async fn is_open<R>(context: &Context<R>, pod: &Pod, need: &Need<'_>, image: &Image) -> bool {
    // Secrets are asked for only where they matter.
    image.is_open_to(need.name, &[]) || image.is_open_to(need.name, &pull_secrets(context, pod).await)
}

/// Fetches the images of a container that are not here.
pub async fn fetch<R>(context: &Context<R>, pod: &Pod, container: &Container) -> Result<Images, Failure> {
    let credentials = pull_secrets(context, pod).await;
    let mut images = Images::default();
    for need in needs(pod, container) {
        let here = match need.policy {
            Policy::Always => None,
            Policy::Never => context.images.find(need.name).await.unwrap_or_default(),
            Policy::IfNotPresent => {
                let here = context.images.find(need.name).await.unwrap_or_default();
                here.filter(|image| image.is_open_to(need.name, &credentials))
            }
        };
        let image = match here {
            Some(image) => {
                tell(context, pod, container, &need, (EventType::Normal, "Pulled", &present(need.name)));
                image
            }
            None => fetch_one(context, pod, container, &need, credentials.clone()).await?,
        };
        images.add(&need, image);
    }
    Ok(images)
}

async fn fetch_one<R>(
    context: &Context<R>,
    pod: &Pod,
    container: &Container,
    need: &Need<'_>,
    credentials: Vec<Credential>,
) -> Result<Image, Failure> {
    let name = need.name;
    let event =
        |kind, reason: &str, message: &str| tell(context, pod, container, need, (kind, reason, message));
    event(EventType::Normal, "Pulling", &format!("Pulling image {name:?}"));
    let started = Instant::now();
    match context.images.pull(name, credentials).await {
        Ok(image) => {
            context.eviction.look();
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
            Err(Failure { image: name.to_owned(), message })
        }
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
    let meta = &secret.metadata;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    let holder = [&meta.uid, &meta.namespace, &meta.name].map(text).join("/");
    let found = credentials::parse(&auths.unwrap_or_default());
    found.into_iter().map(|credential| Credential { holder: holder.clone(), ..credential }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::json;

    #[test]
    fn a_container_needs_its_own_image_and_those_that_it_mounts() {
        let image = |reference: &str, policy: &str| json!({"reference": reference, "pullPolicy": policy});
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "containers": [{"name": "c", "image": "own", "imagePullPolicy": "Never", "volumeMounts": [
                {"name": "a", "mountPath": "/a"}, {"name": "dir", "mountPath": "/d"}]}],
            "volumes": [{"name": "a", "image": image("one", "Always")}, {"name": "b", "image": image("two", "")},
                        {"name": "dir", "emptyDir": {}}]}}))
        .unwrap();
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let need = |volume, name, policy| Need { volume, name, policy };
        let expected = [need(Some("a"), "one", Policy::Always), need(None, "own", Policy::Never)];
        assert_eq!(needs(&pod, container), expected);
    }

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
