//! ValidatingAdmissionWebhook: all webhooks at once have a say about what is to be written.

use futures::future::join_all;
use serde_json::Value;
use tokio::time::Instant;

use super::configuration::Webhook;
use super::{Failure, Seen, ask, concerned, configured, review};
use crate::api::status::Status;
use crate::apiserver::admission::Attributes;
use crate::apiserver::admission::figures::{Step, waited_since};
use crate::apiserver::audit::annotations;
use crate::apiserver::registry::Registry;

/// The annotation about a webhook that was passed over, before its place among those that were asked.
const FAILED_OPEN: &str = "failed-open.validating.webhook.admission.k8s.io/round_0_index_";

/// Asks every webhook that is concerned; the first refusal in the order of configurations is the answer.
pub async fn call(
    registry: &Registry,
    attributes: &mut Attributes<'_>,
    object: &Value,
) -> Result<(), Status> {
    let kept = &registry.admission().hooks.validating;
    let hooks = configured(registry, attributes, "validatingwebhookconfigurations", kept);
    let mut asked = Vec::new();
    for hook in hooks.iter() {
        if let Some(seen) = concerned(registry, hook, attributes, object).await? {
            asked.push((hook, seen));
        }
    }
    let questions = asked.iter().map(|(hook, seen)| judge(registry, hook, attributes, object, seen));
    let began = Instant::now();
    let answers = join_all(questions).await;
    waited_since(began);
    let mut refusal = None;
    for (index, ((hook, _), (warnings, judged))) in asked.iter().zip(answers).enumerate() {
        attributes.warnings.extend(warnings);
        let failed = judged.err();
        if failed.as_ref().is_some_and(|failure| failure.is_passed_over(hook)) {
            annotations::annotate(&format!("{FAILED_OPEN}{index}"), &hook.name);
        }
        let refused = failed.and_then(|failure| failure.refusal(hook));
        refusal = refusal.or(refused);
    }
    refusal.map_or(Ok(()), Err)
}

/// What one webhook says: its warnings, and whether it lets the request through.
async fn judge(
    registry: &Registry,
    hook: &Webhook,
    attributes: &Attributes<'_>,
    object: &Value,
    seen: &Seen,
) -> (Vec<String>, Result<(), Failure>) {
    let began = Instant::now();
    let (warnings, judged) = match ask(registry, hook, attributes, object, seen, false).await {
        Ok(answer) if answer.allowed => (answer.warnings, Ok(())),
        Ok(answer) => (answer.warnings, Err(review::rejection(&hook.name, &answer.result).into())),
        Err(failure) => (Vec::new(), Err(failure)),
    };
    let rejected = judged.as_ref().is_err_and(|failure: &Failure| failure.refuses(hook));
    let figures = &registry.admission().figures;
    figures.webhook(&hook.name, Step::Validate, attributes.operation, began, rejected);
    (warnings, judged)
}
