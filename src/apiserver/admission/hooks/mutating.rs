//! MutatingAdmissionWebhook: webhooks change an object one after the other, and some get to see what others made of it.

use std::sync::Arc;

use json_patch::Patch;
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;

use super::configuration::Webhook;
use super::{Failure, Seen, ask, concerned, configured, review};
use crate::api::status::Status;
use crate::apiserver::admission::Attributes;
use crate::apiserver::admission::figures::{Step, waited_since};
use crate::apiserver::audit::{Level, annotations};
use crate::apiserver::registry::Registry;
use crate::apiserver::structure;

/// The annotation that tells whether a webhook changed the object, before its place.
const MUTATION: &str = "mutation.webhook.admission.k8s.io/";
/// The annotation that tells how it did.
const PATCH: &str = "patch.webhook.admission.k8s.io/";

/// The webhooks of one request, and which of them are to be asked once more.
pub struct Round {
    hooks: Arc<Vec<Webhook>>,
    /// Those that were asked and want to know of later changes.
    asked: Vec<bool>,
    /// Those for which there was one.
    again: Vec<bool>,
    /// The object as the last webhook left it.
    last: Value,
}

impl Round {
    /// The webhooks that there are; `None` when there are none at all.
    pub fn begin(registry: &Registry, attributes: &Attributes<'_>) -> Option<Round> {
        let kept = &registry.admission().hooks.mutating;
        let hooks = configured(registry, attributes, "mutatingwebhookconfigurations", kept);
        let none = vec![false; hooks.len()];
        let last = Value::Null;
        (!hooks.is_empty()).then(|| Round { asked: none.clone(), again: none, hooks, last })
    }

    /// Asks them; whether one of them changed the object.
    pub async fn call(
        &mut self,
        registry: &Registry,
        attributes: &mut Attributes<'_>,
        object: &mut Value,
    ) -> Result<bool, Status> {
        self.ask_all(registry, attributes, object, false).await
    }

    /// Asks those once more that want to know of changes that came after them.
    pub async fn again(
        &mut self,
        registry: &Registry,
        attributes: &mut Attributes<'_>,
        object: &mut Value,
    ) -> Result<(), Status> {
        if *object != self.last {
            self.has_changed();
        }
        if self.again.contains(&true) {
            self.ask_all(registry, attributes, object, true).await?;
        }
        Ok(())
    }

    /// Everybody who was asked so far and wants to know of changes has missed one.
    fn has_changed(&mut self) {
        for (asked, again) in self.asked.iter_mut().zip(&mut self.again) {
            *again |= *asked;
            *asked = false;
        }
    }

    async fn ask_all(
        &mut self,
        registry: &Registry,
        attributes: &mut Attributes<'_>,
        object: &mut Value,
        only_again: bool,
    ) -> Result<bool, Status> {
        let hooks = self.hooks.clone();
        let mut changed = false;
        for (i, hook) in hooks.iter().enumerate() {
            if only_again && !self.again[i] {
                continue;
            }
            let Some(seen) = concerned(registry, hook, attributes, object).await? else { continue };
            let place = format!("round_{}_index_{i}", u8::from(only_again));
            let began = Instant::now();
            let asked = change(registry, hook, attributes, object, (&seen, &place)).await;
            let rejected = asked.as_ref().is_err_and(|failure| failure.refuses(hook));
            let figures = &registry.admission().figures;
            figures.webhook(&hook.name, Step::Admit, attributes.operation, began, rejected);
            waited_since(began);
            let changes = matches!(asked, Ok(true));
            annotations::annotate(&format!("{MUTATION}{place}"), Note::of(hook).mutated(changes).text());
            if asked.as_ref().is_err_and(|failure| failure.is_passed_over(hook)) {
                annotations::annotate(&format!("failed-open.{MUTATION}{place}"), &hook.name);
            }
            if changes {
                self.has_changed();
                changed = true;
            }
            self.asked[i] |= hook.is_called_again;
            if let Err(failure) = asked
                && let Some(refusal) = failure.refusal(hook)
            {
                return Err(refusal);
            }
        }
        self.last = object.clone();
        Ok(changed)
    }
}

/// What is noted of a webhook's answer, in the order of Kubernetes' fields.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Note<'a> {
    configuration: &'a str,
    webhook: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mutated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<&'a Patch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'a str>,
}

impl<'a> Note<'a> {
    fn of(hook: &'a Webhook) -> Note<'a> {
        Note {
            configuration: &hook.configuration,
            webhook: &hook.name,
            mutated: None,
            patch: None,
            patch_type: None,
        }
    }

    fn mutated(self, mutated: bool) -> Note<'a> {
        Note { mutated: Some(mutated), ..self }
    }

    fn patch(self, patch: &'a Patch) -> Note<'a> {
        Note { patch: Some(patch), patch_type: Some("JSONPatch"), ..self }
    }

    fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Asks one webhook and applies what it answers; whether that changed the object. `place` is its own among the webhooks and
/// rounds.
async fn change(
    registry: &Registry,
    hook: &Webhook,
    attributes: &mut Attributes<'_>,
    object: &mut Value,
    (seen, place): (&Seen, &str),
) -> Result<bool, Failure> {
    let answer = ask(registry, hook, attributes, object, seen, true).await?;
    attributes.warnings.extend(answer.warnings);
    if !answer.allowed {
        return Err(review::rejection(&hook.name, &answer.result).into());
    }
    let Some(patch) = answer.patch else { return Ok(false) };
    let undecodable =
        |error| Failure::Unreachable(format!("received undecodable patch in webhook response: {error}"));
    let patch: Patch = serde_json::from_slice(&patch).map_err(undecodable)?;
    if patch.0.is_empty() {
        return Ok(false);
    }
    if object.is_null() {
        let why = format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            hook.name
        );
        return Err(Status::internal(why).into());
    }
    if answer.patch_type != "JSONPatch" {
        return Err(Failure::Unreachable(format!("unsupported patch type {:?}", answer.patch_type)));
    }
    let patched = review::patched(&seen.object, &patch)?;
    annotations::annotate_at(Level::Request, &format!("{PATCH}{place}"), || {
        Note::of(hook).patch(&patch).text()
    });
    // What a webhook writes is read as what a client sends: without what its kind does not know.
    let patched = match attributes.subresource.is_empty() {
        true => structure::read_merged(seen.found.kind(), patched).map_err(Status::internal)?,
        false => patched,
    };
    if patched == seen.object {
        return Ok(false);
    }
    let patched = seen.found.taken(registry, attributes, patched).await?;
    let changed = patched != *object;
    *object = patched;
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_to_know_of_changes_is_asked_once_more() {
        let round = |asked: [bool; 3]| Round {
            hooks: Arc::default(),
            asked: asked.to_vec(),
            again: vec![false; 3],
            last: Value::Null,
        };
        let mut one = round([true, false, true]);
        one.has_changed();
        assert_eq!((one.asked, one.again), (vec![false; 3], vec![true, false, true]));
    }
}
