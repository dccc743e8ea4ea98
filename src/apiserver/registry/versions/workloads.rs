//! Workloads as `extensions/v1beta1` and `apps/v1beta1` had them: their selector followed from the template's labels,
//! and what was left out meant something else than today (Kubernetes `pkg/apis/extensions/v1beta1/defaults.go`,
//! `pkg/apis/apps/v1beta1`).

use serde_json::{Value, json};

use crate::api::meta;
use crate::apiserver::strategy::value::fill;

/// How a deployment remembers a wish that only the old versions have a field for.
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// The same for the count of a daemon set's templates.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
/// "No limit", where an old version left a number out.
const NO_LIMIT: i32 = i32::MAX;

/// What the template's labels stand for where nothing else is said.
fn from_template(object: &mut Value) {
    let labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if labels.as_object().is_none_or(serde_json::Map::is_empty) || !object["spec"].is_object() {
        return;
    }
    if object["spec"]["selector"].is_null() {
        object["spec"]["selector"] = json!({"matchLabels": labels});
    }
    if meta::labels(object).as_object().is_none_or(serde_json::Map::is_empty) {
        meta::set(object, "labels", labels);
    }
}

/// The spec, to have a field filled in.
fn spec(object: &mut Value) -> Option<&mut Value> {
    object.get_mut("spec").filter(|spec| spec.is_object())
}

/// The strategy that a rolling update is, with at most so much missing and so much beyond.
fn rolling(spec: &mut Value, field: &str, most: &[(&str, Value)]) {
    let strategy = &mut spec[field];
    if !strategy.is_object() || strategy["type"] != "RollingUpdate" {
        return;
    }
    fill(strategy, "rollingUpdate", json!({}));
    if strategy["rollingUpdate"].is_object() {
        most.iter().for_each(|(key, number)| fill(&mut strategy["rollingUpdate"], key, number.clone()));
    }
}

/// The name of the strategy that is meant when none is named.
fn strategy_type(spec: &mut Value, field: &str, default: &str) {
    fill(spec, field, json!({}));
    if spec[field].is_object() && spec[field]["type"].as_str().is_none_or(str::is_empty) {
        spec[field]["type"] = json!(default);
    }
}

/// A deployment of `extensions/v1beta1` as it is stored.
pub(super) fn extensions_deployment(object: &mut Value) {
    deployment(object, json!(1), NO_LIMIT, NO_LIMIT);
}

/// A deployment of `apps/v1beta1` as it is stored.
pub(super) fn apps_deployment(object: &mut Value) {
    deployment(object, json!("25%"), 2, 600);
}

fn deployment(object: &mut Value, most: Value, history: i32, deadline: i32) {
    from_template(object);
    let Some(spec) = spec(object) else { return };
    strategy_type(spec, "strategy", "RollingUpdate");
    rolling(spec, "strategy", &[("maxUnavailable", most.clone()), ("maxSurge", most)]);
    fill(spec, "revisionHistoryLimit", json!(history));
    fill(spec, "progressDeadlineSeconds", json!(deadline));
    let wish = spec.as_object_mut().and_then(|spec| spec.remove("rollbackTo")).unwrap_or_default();
    if wish.is_object() {
        let revision = wish["revision"].as_i64().unwrap_or(0);
        meta::set_annotation(object, ROLLBACK_TO, &revision.to_string());
    }
}

/// A stored deployment as the versions before `apps/v1beta2` serve it.
pub(super) fn old_deployment(object: &mut Value) {
    if let Some(revision) = numbered_annotation(object, ROLLBACK_TO)
        && let Some(spec) = spec(object)
    {
        spec["rollbackTo"] = json!({"revision": revision});
    }
}

/// A daemon set of `extensions/v1beta1` as it is stored.
pub(super) fn daemon_set(object: &mut Value) {
    from_template(object);
    let Some(spec) = spec(object) else { return };
    strategy_type(spec, "updateStrategy", "OnDelete");
    rolling(spec, "updateStrategy", &[("maxUnavailable", json!(1))]);
    fill(spec, "revisionHistoryLimit", json!(10));
    let count = spec.as_object_mut().and_then(|spec| spec.remove("templateGeneration")).unwrap_or_default();
    if let Some(count) = count.as_i64() {
        meta::set_annotation(object, TEMPLATE_GENERATION, &count.to_string());
    }
}

/// A stored daemon set as `extensions/v1beta1` serves it.
pub(super) fn old_daemon_set(object: &mut Value) {
    if let Some(count) = numbered_annotation(object, TEMPLATE_GENERATION)
        && let Some(spec) = spec(object)
    {
        spec["templateGeneration"] = json!(count);
    }
}

/// A replica set of `extensions/v1beta1` as it is stored.
pub(super) fn replica_set(object: &mut Value) {
    from_template(object);
}

/// A stateful set of `apps/v1beta1` as it is stored.
pub(super) fn stateful_set(object: &mut Value) {
    from_template(object);
    if let Some(spec) = spec(object) {
        strategy_type(spec, "updateStrategy", "OnDelete");
    }
}

/// Takes an annotation that holds a number.
fn numbered_annotation(object: &mut Value, key: &str) -> Option<i64> {
    let number = meta::annotation(object, key)?.parse().ok()?;
    meta::remove_annotation(object, key);
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "www"}, "spec": spec});
        object["spec"]["template"] = json!({"metadata": {"labels": {"app": "www"}}});
        object
    }

    #[test]
    fn what_old_versions_left_out_is_filled_in_as_they_meant_it() {
        let limits = |history: i32, deadline: i32, most: Value| {
            json!({"revisionHistoryLimit": history, "progressDeadlineSeconds": deadline,
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": most, "maxUnavailable": most}}})
        };
        type Turn = fn(&mut Value);
        let table: &[(Turn, Value, Value)] = &[
            (extensions_deployment, json!({}), limits(NO_LIMIT, NO_LIMIT, json!(1))),
            (apps_deployment, json!({"strategy": {}}), limits(2, 600, json!("25%"))),
            (
                extensions_deployment,
                json!({"strategy": {"type": "Recreate"}, "revisionHistoryLimit": 3, "progressDeadlineSeconds": 5}),
                json!({"strategy": {"type": "Recreate"}, "revisionHistoryLimit": 3, "progressDeadlineSeconds": 5}),
            ),
            (
                daemon_set,
                json!({}),
                json!({"updateStrategy": {"type": "OnDelete"}, "revisionHistoryLimit": 10}),
            ),
            (
                daemon_set,
                json!({"updateStrategy": {"type": "RollingUpdate"}}),
                json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}},
                    "revisionHistoryLimit": 10}),
            ),
            (stateful_set, json!({}), json!({"updateStrategy": {"type": "OnDelete"}})),
            (replica_set, json!({}), json!({})),
        ];
        for (turn, spec, expected) in table {
            let mut object = given(spec.clone());
            turn(&mut object);
            assert_eq!(object["metadata"]["labels"], json!({"app": "www"}));
            let mut expected = given(expected.clone())["spec"].take();
            expected["selector"] = json!({"matchLabels": {"app": "www"}});
            assert_eq!(object["spec"], expected);
            let once = object.clone();
            turn(&mut object);
            assert_eq!(object, once);
        }
    }

    #[test]
    fn what_is_said_stays() {
        let mut object = given(json!({"selector": {"matchLabels": {"a": "b"}}}));
        meta::set_label(&mut object, "c", "d");
        replica_set(&mut object);
        assert_eq!(object["spec"]["selector"], json!({"matchLabels": {"a": "b"}}));
        assert_eq!(object["metadata"]["labels"], json!({"c": "d"}));
    }

    #[test]
    fn fields_that_are_gone_are_annotations() {
        let mut deployment = given(json!({"rollbackTo": {"revision": 3}}));
        apps_deployment(&mut deployment);
        assert_eq!(meta::annotation(&deployment, ROLLBACK_TO), Some("3"));
        assert!(deployment["spec"].get("rollbackTo").is_none());
        old_deployment(&mut deployment);
        assert_eq!(deployment["spec"]["rollbackTo"], json!({"revision": 3}));
        assert_eq!(meta::annotation(&deployment, ROLLBACK_TO), None);
        let mut daemons = given(json!({"templateGeneration": 4}));
        daemon_set(&mut daemons);
        assert_eq!(meta::annotation(&daemons, TEMPLATE_GENERATION), Some("4"));
        old_daemon_set(&mut daemons);
        assert_eq!(daemons["spec"]["templateGeneration"], 4);
    }
}
