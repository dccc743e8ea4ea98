//! Stateful sets (`pkg/apis/apps/validation`, `pkg/registry/apps/statefulset`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::checks;
use super::super::column::{self, AGE, NAME};
use super::super::persistentvolumeclaim;
use super::super::pod::template;
use super::super::value::{fill, fill_zero, fill_zero_number, is_set, items, items_mut, object, text};
use super::super::{Column, Strategy};
use super::replicaset::{CONTAINERS, IMAGES};
use crate::api::names;
use crate::api::selector::LabelSelector;
use crate::api::status::FieldError;

/// The counts that a status always shows.
const SHOWN: &[&str] = &["replicas", "availableReplicas"];
/// What an update may change, as the message on all else names it.
const CHANGEABLE: &[&str] = &[
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// The strategy of stateful sets.
pub(in super::super) struct StatefulSet;

impl Strategy for StatefulSet {
    /// The name begins those of its pods, which are host names.
    fn name_errors(&self, _set: &Value, name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn default(&self, set: &mut Value) {
        object(set, "spec");
        let spec = &mut set["spec"];
        fill_zero(spec, "podManagementPolicy", "OrderedReady");
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        object(spec, "updateStrategy");
        let strategy = &mut spec["updateStrategy"];
        if !is_set(strategy, "type") {
            fill_zero(strategy, "type", "RollingUpdate");
            fill(strategy, "rollingUpdate", json!({}));
        }
        if text(strategy, "type") == "RollingUpdate" && strategy["rollingUpdate"].is_object() {
            fill(&mut strategy["rollingUpdate"], "partition", 0);
            fill(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
        }
        object(spec, "persistentVolumeClaimRetentionPolicy");
        for moment in ["whenDeleted", "whenScaled"] {
            fill_zero(&mut spec["persistentVolumeClaimRetentionPolicy"], moment, "Retain");
        }
        for claim in items_mut(spec, "volumeClaimTemplates").filter(|claim| claim.is_object()) {
            claim["apiVersion"] = json!("v1");
            claim["kind"] = json!("PersistentVolumeClaim");
            object(claim, "metadata");
            persistentvolumeclaim::default(claim);
        }
        object(spec, "template");
        template::default(&mut spec["template"]);
    }

    fn prepare_create(&self, set: &mut Value) {
        set["status"] = json!({});
        fill_zero_number(set, "status", SHOWN);
    }

    fn prepare_status_update(&self, new: &mut Value, _old: &Value) {
        fill_zero_number(new, "status", SHOWN);
    }

    fn validate(&self, set: &Value) -> Vec<FieldError> {
        let spec = &set["spec"];
        let (selector, pods) = (&spec["selector"], &spec["template"]);
        let mut errors = Vec::new();
        if !["OrderedReady", "Parallel"].contains(&text(spec, "podManagementPolicy")) {
            let why = "must be 'OrderedReady' or 'Parallel'";
            errors.push(FieldError::invalid("spec.podManagementPolicy", &spec["podManagementPolicy"], why));
        }
        errors.extend(strategy(&spec["updateStrategy"]));
        for moment in ["whenDeleted", "whenScaled"] {
            let policy = &spec["persistentVolumeClaimRetentionPolicy"][moment];
            if policy != "Retain" && policy != "Delete" {
                let path = format!("spec.persistentVolumeClaimRetentionPolicy.{moment}");
                errors.push(FieldError::not_supported(path, policy, &["Retain", "Delete"]));
            }
        }
        let counts = ["replicas", "minReadySeconds", "revisionHistoryLimit"];
        errors.extend(checks::nonnegative("spec", spec, &counts));
        errors.extend(checks::nonnegative("spec.ordinals", &spec["ordinals"], &["start"]));
        errors.extend(checks::required_selector(selector, "statefulset"));
        match LabelSelector::from_object(selector) {
            Err(_) => errors.push(FieldError::invalid("spec.selector", selector, "")),
            Ok(read) => errors.extend(checks::template_labels(&read, pods)),
        }
        errors.extend(template::runs_for_ever(pods, "StatefulSet"));
        errors
    }

    fn validate_create(&self, set: &Value) -> Vec<FieldError> {
        let spec = &set["spec"];
        let mut errors = template(spec);
        if is_set(spec, "serviceName") {
            let wrong = names::dns_label(text(spec, "serviceName"));
            let named = &spec["serviceName"];
            errors.extend(wrong.iter().map(|w| FieldError::invalid("spec.serviceName", named, w)));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        // What was taken with a wrong template can be changed in other ways.
        let mut errors = if template(&old["spec"]).is_empty() { template(&new["spec"]) } else { Vec::new() };
        let without = |set: &Value| {
            let mut spec = set["spec"].clone();
            if let Some(fields) = spec.as_object_mut() {
                fields.retain(|field, _| !CHANGEABLE.contains(&field.as_str()));
            }
            spec
        };
        if !checks::same(&without(new), &without(old)) {
            let quoted: Vec<String> = CHANGEABLE.iter().map(|field| format!("'{field}'")).collect();
            let (last, others) = quoted.split_last().map_or(("", &[][..]), |(l, o)| (l.as_str(), o));
            let why = format!(
                "updates to statefulset spec for fields other than {} and {last} are forbidden",
                others.join(", ")
            );
            errors.push(FieldError::forbidden("spec", &why));
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        const PARTS: &[&str] = &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        let status = &new["status"];
        let mut errors = checks::nonnegative("status", status, &["replicas"]);
        errors.extend(checks::nonnegative("status", status, PARTS));
        errors.extend(checks::nonnegative("status", status, &["observedGeneration", "collisionCount"]));
        errors.extend(checks::at_most(status, PARTS, "replicas", "cannot be greater than status.replicas"));
        let why = "cannot be greater than status.readyReplicas";
        errors.extend(checks::at_most(status, &["availableReplicas"], "readyReplicas", why));
        errors.extend(checks::collisions(new, old));
        errors
    }

    fn warnings(&self, set: &Value) -> Vec<String> {
        let spec = &set["spec"];
        let mut warnings = template::warnings("spec.template", &spec["template"]);
        for (i, claim) in items(spec, "volumeClaimTemplates").iter().enumerate() {
            let path = format!("spec.volumeClaimTemplates[{i}]");
            warnings.extend(persistentvolumeclaim::warnings(&path, claim));
        }
        warnings
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["spec"], &old["spec"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column::text("Ready", "Ready pods of those wanted."), AGE, CONTAINERS, IMAGES];
        COLUMNS
    }

    fn cells(&self, set: &Value, now: Timestamp) -> Vec<Value> {
        let count = |of: &str, field: &str| set[of][field].as_i64().unwrap_or(0);
        let ready = format!("{}/{}", count("status", "readyReplicas"), count("spec", "replicas"));
        let [names, images] = template::cells(&set["spec"]["template"]);
        vec![column::name(set), ready.into(), column::age(set, now), names, images]
    }
}

fn strategy(strategy: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.updateStrategy";
    let rolling = &strategy["rollingUpdate"];
    let path = format!("{PATH}.rollingUpdate");
    let mut errors = Vec::new();
    match text(strategy, "type") {
        "OnDelete" if !rolling.is_null() => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(path, rolling, why));
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            errors.extend(checks::nonnegative(&path, rolling, &["partition"]));
            let unavailable = &rolling["maxUnavailable"];
            let path = format!("{path}.maxUnavailable");
            errors.extend(checks::int_or_percent(&path, unavailable));
            if !unavailable.is_null() && checks::amount(unavailable) == 0 {
                errors.push(FieldError::invalid(path.as_str(), unavailable, "cannot be 0"));
            }
            errors.extend(checks::at_most_all(&path, unavailable));
        }
        _ => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid(PATH, strategy, why));
        }
    }
    errors
}

/// What is wrong with the template, whose pods have the claims for volumes, too.
fn template(spec: &Value) -> Vec<FieldError> {
    let mut pods = spec["template"].clone();
    let there: Vec<String> =
        items(&pods["spec"], "volumes").iter().map(|volume| text(volume, "name").to_owned()).collect();
    let claims = items(spec, "volumeClaimTemplates").iter().map(crate::api::meta::name);
    let volumes: Vec<Value> = claims
        .filter(|name| !there.iter().any(|known| known == name))
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}))
        .collect();
    if !volumes.is_empty() && pods["spec"].is_object() {
        fill(&mut pods["spec"], "volumes", json!([]));
        if let Some(all) = pods["spec"]["volumes"].as_array_mut() {
            all.extend(volumes);
        }
    }
    template::validate("spec.template", &pods)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{pod_template, told};
    use super::*;

    fn set(more: Value) -> Value {
        let mut set = json!({"metadata": {"name": "db"}, "spec": {"serviceName": "db",
            "selector": {"matchLabels": {"app": "web"}}, "template": pod_template()}});
        for (key, value) in more.as_object().unwrap() {
            set["spec"][key] = value.clone();
        }
        StatefulSet.default(&mut set);
        set
    }

    fn with_claim() -> Value {
        let mut template = pod_template();
        template["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        set(json!({"template": template, "volumeClaimTemplates": [{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}))
    }

    #[test]
    fn a_minimal_set_is_filled_in_once() {
        let made = with_claim();
        let mut again = made.clone();
        StatefulSet.default(&mut again);
        assert_eq!(made, again);
        let claim = &made["spec"]["volumeClaimTemplates"][0];
        assert_eq!(
            (&claim["kind"], &claim["status"]["phase"]),
            (&json!("PersistentVolumeClaim"), &json!("Pending"))
        );
        assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
        assert_eq!(
            made["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}})
        );
        assert_eq!(
            made["spec"]["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert!(StatefulSet.validate(&made).is_empty() && StatefulSet.validate_create(&made).is_empty());
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        for (more, errors) in [
            (
                json!({"podManagementPolicy": "X"}),
                &["spec.podManagementPolicy: Invalid value: \"X\": must be 'OrderedReady' or 'Parallel'"][..],
            ),
            (
                json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {}}}),
                &[
                    "spec.updateStrategy.rollingUpdate: Invalid value: {}: only allowed for updateStrategy 'RollingUpdate'",
                ],
            ),
            (
                json!({"updateStrategy": {"type": "Recreate"}}),
                &[
                    "spec.updateStrategy: Invalid value: {\"type\":\"Recreate\"}: must be 'RollingUpdate' or 'OnDelete'",
                ],
            ),
            (
                json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": -1, "maxUnavailable": 0}}}),
                &[
                    "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
                ],
            ),
            (
                json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "X"}}),
                &[
                    "spec.persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"X\": supported values: \"Retain\", \"Delete\"",
                ],
            ),
            (
                json!({"selector": {}}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for statefulset"],
            ),
        ] {
            assert_eq!(told(StatefulSet.validate(&set(more.clone()))), errors, "{more}");
        }
        let named = told(StatefulSet.validate_create(&set(json!({"serviceName": "A"}))));
        assert!(named[0].starts_with("spec.serviceName: Invalid value: \"A\": a lowercase RFC 1123 label"));
        let mut lost = with_claim();
        lost["spec"]["volumeClaimTemplates"] = json!([]);
        assert_eq!(
            told(StatefulSet.validate_create(&lost)),
            ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""]
        );
    }

    #[test]
    fn little_can_be_changed() {
        let old = with_claim();
        let mut new = old.clone();
        for (field, value) in [
            ("replicas", json!(3)),
            ("minReadySeconds", json!(3)),
            ("revisionHistoryLimit", json!(3)),
            ("ordinals", json!({"start": 1})),
        ] {
            new["spec"][field] = value;
        }
        assert!(StatefulSet.validate_update(&new, &old).is_empty());
        new["spec"]["serviceName"] = json!("other");
        assert_eq!(
            told(StatefulSet.validate_update(&new, &old)),
            [
                "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
            ]
        );
        let wrong = json!({"status": {"replicas": 1, "currentReplicas": 2}});
        assert_eq!(
            told(StatefulSet.validate_status_update(&wrong, &old)),
            ["status.currentReplicas: Invalid value: 2: cannot be greater than status.replicas"]
        );
        let cells = StatefulSet.cells(&old, Timestamp::UNIX_EPOCH);
        assert_eq!(cells, [json!("db"), json!("0/1"), json!("<unknown>"), json!("c"), json!("nginx:1")]);
    }
}
