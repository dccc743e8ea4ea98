//! ResourceQuota: what a namespace may use up, checked before a write and charged after it.
//!
//! Check, write and charge are one step for everybody else in the namespace: whoever is to be charged holds the
//! namespace's lock until the write is stored and counted. Who counts the namespace's objects anew writes the result
//! under the same lock and only over the quota that it read before it counted, so that nothing is lost between.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/resourcequota/controller.go`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::{Attributes, Operation};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::quota;
use crate::api::resources::{self, Resources};
use crate::api::status::Status;
use crate::apiserver::registry::{Registry, encode_at};
use crate::clock;
use crate::store::{self, Store};

/// Who is let through by the quotas of a namespace, one after the other.
#[derive(Default)]
pub struct Locks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    async fn hold(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Locks that nobody holds or waits for.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(namespace.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// What is to be charged once a write is stored.
pub struct Charge {
    store: Store,
    /// Keys of quotas and what is to be added to each.
    added: Vec<(String, Resources)>,
    _alone: OwnedMutexGuard<()>,
}

impl Charge {
    /// Adds the charges to what the quotas say is used.
    pub async fn settle(self) {
        for (key, added) in &self.added {
            loop {
                let Some(entry) = self.store.get(key) else { break };
                let mut quota = entry.json().clone();
                let mut used = resources::read(&quota["status"]["used"]);
                resources::add(&mut used, added);
                meta::child_mut(&mut quota, "status").insert("used".to_owned(), resources::write(&used));
                match self.store.update(key, entry.revision, encode_at(quota)).await {
                    Err(store::Error::Conflict { .. }) => {}
                    Ok(_) => break,
                    Err(error) => {
                        // The controller counts what is there when the store works again.
                        tracing::warn!(key, %error, "a quota could not be charged");
                        break;
                    }
                }
            }
        }
    }
}

/// Decides whether the quotas of the namespace have room for a write; what is then to be charged.
pub async fn check(
    registry: &Registry,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<Option<Charge>, Status> {
    let Some(namespace) = attributes.namespace else { return Ok(None) };
    let (store, locks) = (registry.store(), &registry.admission().quotas);
    let counted_anew = attributes.kind.is("", "resourcequotas") && attributes.subresource == "status";
    let prefix = format!("resourcequotas/{namespace}/");
    if !counted_anew && (!uses_more(attributes) || registry.all(&prefix).is_empty()) {
        return Ok(None);
    }
    let alone = locks.hold(namespace).await;
    let mut added = Vec::new();
    if !counted_anew {
        for entry in registry.all(&prefix) {
            let quota = entry.json();
            let more = more_of(quota, attributes.kind, object, attributes.old)
                .map_err(|why| attributes.forbidden(object, &why))?;
            if !more.is_empty() {
                added.push((entry.key.clone(), more));
            }
        }
        if added.is_empty() {
            return Ok(None);
        }
    }
    if attributes.dry_run() {
        return Ok(None);
    }
    Ok(Some(Charge { store: store.clone(), added, _alone: alone }))
}

/// Whether the write can use up more than what is there already.
fn uses_more(attributes: &Attributes<'_>) -> bool {
    let whole = attributes.subresource.is_empty();
    match (&*attributes.kind.group, &*attributes.kind.plural, attributes.operation) {
        (_, _, Operation::Create) => whole,
        ("", "pods", Operation::Update) => attributes.subresource == "resize",
        ("", "services", Operation::Update) => true,
        ("", "persistentvolumeclaims", Operation::Update) => whole || attributes.subresource == "status",
        _ => false,
    }
}

/// What an object adds to what a quota says is used; or why the quota has no room for it.
fn more_of(quota: &Value, kind: &Kind, object: &Value, old: Option<&Value>) -> Result<Resources, String> {
    let name = meta::name(quota);
    let hard = resources::read(&quota["status"]["hard"]);
    let counted: Vec<&str> =
        hard.keys().map(String::as_str).filter(|name| quota::counts(kind, name)).collect();
    if counted.is_empty() || !quota::in_scope(kind, object, &quota["spec"]) {
        return Ok(Resources::new());
    }
    if kind.is("", "pods")
        && let Some(why) = quota::unstated(object, counted.iter().copied())
    {
        return Err(format!("failed quota: {name}: {why}"));
    }
    let used = resources::read(&quota["status"]["used"]);
    if counted.iter().any(|name| !used.contains_key(*name)) {
        return Err(format!("status unknown for quota: {name}, resources: {}", counted.join(",")));
    }
    let now = clock::now();
    let mut more = quota::usage(kind, object, now);
    let negative: Vec<&str> =
        more.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        return Err(format!("quota usage is negative for resource(s): {}", negative.join(",")));
    }
    if let Some(old) = old.filter(|old| quota::in_scope(kind, old, &quota["spec"])) {
        let before = quota::usage(kind, old, now);
        for (name, amount) in &mut more {
            *amount = before.get(name).map_or(*amount, |before| amount.minus(before));
        }
    }
    more.retain(|name, amount| hard.contains_key(name) && !amount.is_zero() && !amount.is_negative());
    let exceeds = |name: &str| {
        let sum = used.get(name).zip(more.get(name)).map(|(used, more)| used.plus(more));
        sum.zip(hard.get(name)).is_some_and(|(sum, hard)| sum > *hard)
    };
    let told = |list: &Resources| {
        let parts = list.iter().filter(|(name, _)| exceeds(name));
        parts.map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
    };
    if more.keys().any(|name| exceeds(name)) {
        return Err(format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            told(&more),
            told(&used),
            told(&hard)
        ));
    }
    Ok(more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;
    use serde_json::json;

    fn quota(hard: Value, used: Value) -> Value {
        json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}})
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn asked(quota: &Value, plural: &str, object: &Value, old: Option<&Value>) -> Result<Value, String> {
        let kind = kinds::by_resource("", "v1", plural).unwrap();
        more_of(quota, kind, object, old).map(|more| resources::write(&more))
    }

    #[test]
    fn quotas_have_room_or_say_why_not() {
        let (hard, used) =
            (json!({"pods": "2", "requests.cpu": "1"}), json!({"pods": "1", "requests.cpu": "500m"}));
        for (quota, object, expected) in [
            (
                quota(hard.clone(), used.clone()),
                pod("500m"),
                Ok(json!({"pods": "1", "requests.cpu": "500m"})),
            ),
            (
                quota(hard.clone(), json!({"pods": "2", "requests.cpu": "0"})),
                pod("100m"),
                Err("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
            ),
            (
                quota(hard.clone(), used.clone()),
                pod("600m"),
                Err(
                    "exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=500m, limited: requests.cpu=1",
                ),
            ),
            (
                quota(json!({"limits.cpu": "1"}), json!({"limits.cpu": "0"})),
                pod("1"),
                Err("failed quota: q: must specify limits.cpu for: c"),
            ),
            (
                quota(hard, json!({"pods": "1"})),
                pod("1"),
                Err("status unknown for quota: q, resources: pods,requests.cpu"),
            ),
            (quota(json!({"services": "1"}), json!({"services": "1"})), pod("1"), Ok(json!({}))),
            (json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}}), pod("1"), Ok(json!({}))),
        ] {
            assert_eq!(asked(&quota, "pods", &object, None), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn changes_are_charged_by_their_difference() {
        let quota = quota(json!({"services.nodeports": "2"}), json!({"services.nodeports": "1"}));
        let service = |of: &str, ports: usize| json!({"spec": {"type": of, "ports": vec![json!({}); ports]}});
        let (one, two, none) = (service("NodePort", 1), service("NodePort", 2), service("ClusterIP", 1));
        assert_eq!(asked(&quota, "services", &two, Some(&one)), Ok(json!({"services.nodeports": "1"})));
        assert_eq!(asked(&quota, "services", &none, Some(&one)), Ok(json!({})));
        assert_eq!(
            asked(&quota, "services", &two, Some(&none)).unwrap_err(),
            "exceeded quota: q, requested: services.nodeports=2, used: services.nodeports=1, limited: services.nodeports=2"
        );
    }

    #[tokio::test]
    async fn locks_are_for_one_at_a_time_and_leave_nothing() {
        let locks = Locks::default();
        let held = locks.hold("a").await;
        assert!(futures::poll!(Box::pin(locks.hold("a"))).is_pending());
        drop(held);
        drop(locks.hold("b").await);
        drop(locks.hold("a").await);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
