//! A webhook as its configuration describes it.

use std::time::Duration;

use serde_json::Value;

use super::expressions::Condition;
use super::matching::Constraints;
use super::review::Version;
use crate::api::meta;

/// How long a webhook may take when its configuration does not say.
const TIMEOUT_SECONDS: u64 = 10;

/// One webhook.
pub struct Webhook {
    /// `pods.example.com`.
    pub name: String,
    /// The configuration that it stands in.
    pub configuration: String,
    /// What it wants to be asked about.
    pub constraints: Constraints,
    /// What must hold beside.
    pub conditions: Vec<Condition>,
    /// Whether it is passed over when it cannot be asked.
    pub ignores_failures: bool,
    /// Whether it does nothing that a dry run must not do.
    pub is_free_of_side_effects: bool,
    /// Whether it is asked again when another one changed the object after it.
    pub is_called_again: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// The first form of reviews that it knows and this server, too.
    pub review_version: Option<Version>,
    /// Where it is.
    pub client: Value,
}

impl Webhook {
    /// The webhooks of a configuration, in its order.
    pub fn all(configuration: &Value) -> Vec<Webhook> {
        let hooks = configuration["webhooks"].as_array().into_iter().flatten();
        hooks.map(|hook| Webhook::read(meta::name(configuration), hook)).collect()
    }

    fn read(configuration: &str, hook: &Value) -> Webhook {
        let text = |key: &str| hook[key].as_str().unwrap_or_default();
        let versions = hook["admissionReviewVersions"].as_array().into_iter().flatten();
        Webhook {
            name: text("name").to_owned(),
            configuration: configuration.to_owned(),
            constraints: Constraints::of_webhook(hook),
            conditions: Condition::all(&hook["matchConditions"]),
            ignores_failures: text("failurePolicy") == "Ignore",
            is_free_of_side_effects: ["None", "NoneOnDryRun"].contains(&text("sideEffects")),
            is_called_again: text("reinvocationPolicy") == "IfNeeded",
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(TIMEOUT_SECONDS)),
            review_version: versions.filter_map(Value::as_str).find_map(Version::parse),
            client: hook["clientConfig"].clone(),
        }
    }
}
