//! Follows the objects by which requests are sorted, and says in flow schemas whether their priority levels are there.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::{join_all, select_all};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Fairness;
use crate::api::kinds::{self, Kind};
use crate::api::meta;
use crate::api::request::{PatchKind, User, WriteOptions};
use crate::apiserver::registry::{Part, Place, Registry};
use crate::store::Entry;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas/";
const LEVELS: &str = "prioritylevelconfigurations/";
/// Who manages the condition, by Kubernetes' name.
const MANAGER: &str = "api-priority-and-fairness-config-consumer-v1";

impl Fairness {
    /// Sorts requests by the objects that there are, until dropped.
    pub async fn keep(&self, registry: &Registry) {
        let store = registry.store();
        loop {
            let seen = store.revision();
            let (schemas, levels) = (registry.all(SCHEMAS), registry.all(LEVELS));
            fn values(entries: &[Arc<Entry>]) -> Vec<&Value> {
                entries.iter().map(|entry| entry.json()).collect()
            }
            self.set(&values(&schemas), &values(&levels));
            if let Some(kind) = kinds::by_resource(GROUP, "v1", "flowschemas") {
                let levels = values(&levels);
                // At once, so that they wait for the disk together.
                join_all(values(&schemas).into_iter().map(|schema| tell(registry, kind, schema, &levels)))
                    .await;
            }
            let next = [SCHEMAS, LEVELS].map(|prefix| {
                let mut watch = store.watch(prefix, seen);
                // An error means that the log does not reach back that far: time to look.
                async move { drop(watch.next().await) }.boxed()
            });
            select_all(next).await;
        }
    }
}

/// Says in a flow schema whether its level is there, unless it says so already.
async fn tell(registry: &Registry, kind: &Arc<Kind>, schema: &Value, levels: &[&Value]) {
    let Some(condition) = condition(schema, levels, Timestamp::now()) else { return };
    let name = meta::name(schema);
    let change = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name},
        "status": {"conditions": [condition]}});
    let place = Place { kind, namespace: None, name };
    let user = User::component("system:apiserver");
    let options =
        WriteOptions { field_manager: Some(MANAGER.to_owned()), force: true, ..WriteOptions::default() };
    let told = registry.patch(&user, place, Part::Status, PatchKind::Apply, &change, &options).await;
    if let Err(status) = told {
        // It changes again before it is told next.
        tracing::debug!(%status, name, "a flow schema does not say whether its level is there");
    }
}

/// The condition of a schema, when it must be written.
fn condition(schema: &Value, levels: &[&Value], now: Timestamp) -> Option<Value> {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
    let there = super::MANDATORY.contains(&level) || levels.iter().any(|object| meta::name(object) == level);
    let about = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = match there {
        true => ("False", "Found", format!("{about} and it exists")),
        false => ("True", "NotFound", format!("{about} but there is no such object")),
    };
    let known = schema["status"]["conditions"].as_array().into_iter().flatten();
    let known = known.into_iter().find(|condition| condition["type"] == "Dangling");
    let same = |known: &Value| {
        known["status"] == status && known["reason"] == reason && known["message"] == message.as_str()
    };
    if known.is_some_and(same) {
        return None;
    }
    Some(json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": meta::timestamp(now)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_says_whether_its_level_is_there() {
        let mut schema = json!({"spec": {"priorityLevelConfiguration": {"name": "own"}}, "status": {}});
        let level = json!({"metadata": {"name": "own"}});
        let missing = condition(&schema, &[], Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(
            (&missing["status"], &missing["message"]),
            (
                &json!("True"),
                &json!(
                    "This FlowSchema references the PriorityLevelConfiguration object named \"own\" but there is no \
                     such object"
                )
            )
        );
        schema["status"]["conditions"] = json!([missing]);
        assert_eq!(condition(&schema, &[], Timestamp::UNIX_EPOCH), None);
        let found = condition(&schema, &[&level], Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!((&found["status"], &found["reason"]), (&json!("False"), &json!("Found")));
    }
}
