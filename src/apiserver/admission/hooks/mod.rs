//! Admission by others: webhooks that clients configured.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/webhook`.

mod authorizer;
mod configuration;
pub mod expressions;
pub mod matching;
pub mod mutating;
mod review;
pub mod validating;

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use self::configuration::Webhook;
use self::expressions::Input;
use self::matching::Seen;
use super::Attributes;
use crate::api::status::Status;
use crate::apiserver::audit::annotations;
use crate::apiserver::auth;
use crate::apiserver::registry::{Registry, metadata};
use crate::apiserver::webhook::Webhooks;
use crate::store::{Entry, Revision};

/// What is kept of configurations between requests, and the connections to those that they name.
#[derive(Default)]
pub struct Hooks {
    client: Webhooks,
    mutating: Kept<Vec<Webhook>>,
    validating: Kept<Vec<Webhook>>,
}

/// Something made from stored objects, made anew when one of them changes.
#[derive(Default)]
pub struct Kept<T>(Mutex<Option<Made<T>>>);

struct Made<T> {
    /// The objects it was made from: their keys and revisions.
    of: Vec<(String, Revision)>,
    value: Arc<T>,
}

impl<T> Kept<T> {
    /// What `make` makes of these objects.
    pub fn of(&self, entries: &[Arc<Entry>], make: impl FnOnce(&[Arc<Entry>]) -> T) -> Arc<T> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |made: &&Made<T>| {
            made.of.len() == entries.len()
                && made
                    .of
                    .iter()
                    .zip(entries)
                    .all(|((key, revision), entry)| *key == entry.key && *revision == entry.revision)
        };
        if let Some(made) = kept.as_ref().filter(same) {
            return made.value.clone();
        }
        let value = Arc::new(make(entries));
        let of = entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect();
        *kept = Some(Made { of, value: value.clone() });
        value
    }
}

/// Kinds that decide about admission themselves; nobody may lock everybody out of changing them.
pub fn is_exempt(attributes: &Attributes<'_>) -> bool {
    const KINDS: [&str; 6] = [
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
    ];
    attributes.kind.group == "admissionregistration.k8s.io" && KINDS.contains(&&*attributes.kind.plural)
}

/// The webhooks that the stored configurations of one sort name, by the names of the configurations.
fn configured(
    registry: &Registry,
    attributes: &Attributes<'_>,
    plural: &str,
    kept: &Kept<Vec<Webhook>>,
) -> Arc<Vec<Webhook>> {
    let entries = registry.all(&format!("{plural}/"));
    if entries.is_empty() || is_exempt(attributes) {
        return Arc::default();
    }
    kept.of(&entries, |entries| entries.iter().flat_map(|entry| Webhook::all(entry.json())).collect())
}

/// Why a webhook did not let a request through.
enum Failure {
    /// It said no.
    Rejected(Box<Status>),
    /// It could not be asked, or gave no proper answer: what then happens is in its configuration.
    Unreachable(String),
}

impl Failure {
    /// Whether it leads to a refusal.
    fn refuses(&self, hook: &Webhook) -> bool {
        matches!(self, Failure::Rejected(_)) || !hook.ignores_failures
    }

    /// The refusal that it leads to; `None` when the webhook may be passed over.
    fn refusal(self, hook: &Webhook) -> Option<Status> {
        match self {
            Failure::Rejected(status) => Some(*status),
            Failure::Unreachable(why) => {
                let why = format!("failed calling webhook {:?}: {why}", hook.name);
                if hook.ignores_failures {
                    tracing::warn!("passed over: {why}");
                    return None;
                }
                Some(Status::internal(why))
            }
        }
    }

    /// Whether the webhook is passed over although it was to be asked.
    fn is_passed_over(&self, hook: &Webhook) -> bool {
        matches!(self, Failure::Unreachable(_)) && hook.ignores_failures
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure::Rejected(Box::new(status))
    }
}

/// Whether a webhook is to be asked about a request, and as what it then sees it.
async fn concerned(
    registry: &Registry,
    hook: &Webhook,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<Option<Seen>, Status> {
    let Some(found) = hook.constraints.matches(registry, attributes, object)? else { return Ok(None) };
    let seen = found.see(registry, attributes, object).await?;
    if hook.conditions.is_empty() {
        return Ok(Some(seen));
    }
    let input = Input::of(registry, attributes, object, &seen);
    match expressions::all_hold(&hook.conditions, &input, hook.ignores_failures) {
        Ok(holds) => Ok(holds.then_some(seen)),
        Err(why) => Err(attributes.forbidden(object, &why)),
    }
}

/// Asks a webhook about a request; its answer, which is a proper one.
async fn ask(
    registry: &Registry,
    hook: &Webhook,
    attributes: &Attributes<'_>,
    object: &Value,
    seen: &Seen,
    mutating: bool,
) -> Result<review::Answer, Failure> {
    if attributes.dry_run() && !hook.is_free_of_side_effects {
        let why = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Status::bad_request(why).into());
    }
    let Some(version) = hook.review_version else {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, \
                   v1beta1)";
        return Err(Failure::Unreachable(why.to_owned()));
    };
    let uid = metadata::new_uid();
    let user = auth::user_info(attributes.user);
    let request = review::request(&uid, version, attributes, object, seen, user);
    let client = &registry.admission().hooks.client;
    let answer = client.call(registry.store(), &hook.client, &request, hook.timeout).await;
    let answer = answer.map_err(|why| Failure::Unreachable(format!("failed to call webhook: {why}")))?;
    let invalid = |why| Failure::Unreachable(format!("received invalid webhook response: {why}"));
    let answer = review::read(&answer, &uid, version, mutating).map_err(invalid)?;
    for (key, value) in &answer.annotations {
        annotations::annotate(&format!("{}/{key}", hook.name), value);
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn what_is_made_of_objects_lasts_until_they_change() {
        let entry = |key: &str, revision| Entry::new(key.to_owned(), Bytes::new(), 1, revision);
        let kept = Kept::default();
        let first = kept.of(&[entry("a", 1)], <[_]>::len);
        assert!(Arc::ptr_eq(&first, &kept.of(&[entry("a", 1)], |_| 7)));
        assert_eq!(*kept.of(&[entry("a", 2)], |_| 8), 8);
        assert_eq!(*kept.of(&[entry("a", 2), entry("b", 1)], |_| 9), 9);
    }
}
