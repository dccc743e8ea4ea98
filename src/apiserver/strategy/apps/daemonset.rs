//! Daemon sets (`pkg/apis/apps/validation`, `pkg/registry/apps/daemonset`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::checks;
use super::super::column::{self, AGE, NAME};
use super::super::pod::template;
use super::super::value::{fill, fill_zero, fill_zero_number, object, text};
use super::super::{Column, Strategy};
use super::replicaset::{CONTAINERS, IMAGES, SELECTOR};
use crate::api::meta;
use crate::api::selector::LabelSelector;
use crate::api::status::FieldError;

/// Counts the changes of the template; older versions have a field of the spec for it.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
/// The counts that a status always shows.
const SHOWN: &[&str] =
    &["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"];

/// The strategy of daemon sets.
pub(in super::super) struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, set: &mut Value) {
        object(set, "spec");
        let spec = &mut set["spec"];
        fill(spec, "revisionHistoryLimit", 10);
        object(spec, "updateStrategy");
        fill_zero(&mut spec["updateStrategy"], "type", "RollingUpdate");
        if text(&spec["updateStrategy"], "type") == "RollingUpdate" {
            object(&mut spec["updateStrategy"], "rollingUpdate");
            let rolling = &mut spec["updateStrategy"]["rollingUpdate"];
            fill(rolling, "maxUnavailable", 1);
            fill(rolling, "maxSurge", 0);
        }
        object(spec, "template");
        template::default(&mut spec["template"]);
    }

    fn prepare_create(&self, set: &mut Value) {
        set["status"] = json!({});
        fill_zero_number(set, "status", SHOWN);
        if generation_of_template(set) < 1 {
            meta::set_annotation(set, TEMPLATE_GENERATION, "1");
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let changed = !checks::same(&new["spec"]["template"], &old["spec"]["template"]);
        let generation = generation_of_template(old) + i64::from(changed);
        meta::set_annotation(new, TEMPLATE_GENERATION, &generation.to_string());
    }

    fn prepare_status_update(&self, new: &mut Value, _old: &Value) {
        fill_zero_number(new, "status", SHOWN);
    }

    fn validate(&self, set: &Value) -> Vec<FieldError> {
        let spec = &set["spec"];
        let (selector, pods) = (&spec["selector"], &spec["template"]);
        let mut errors = checks::label_selector("spec.selector", selector);
        if let Ok(read) = LabelSelector::from_object(selector) {
            errors.extend(checks::template_labels(&read, pods));
        }
        if !selector.is_null() && checks::selects_everything(selector) {
            let why = "empty selector is invalid for daemonset";
            errors.push(FieldError::invalid("spec.selector", selector, why));
        }
        errors.extend(template::validate("spec.template", pods));
        errors.extend(template::runs_for_ever(pods, "DaemonSet"));
        errors.extend(checks::nonnegative("spec", spec, &["minReadySeconds"]));
        errors.extend(strategy(&spec["updateStrategy"]));
        errors.extend(checks::nonnegative("spec", spec, &["revisionHistoryLimit"]));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let selector = |object: &Value| object["spec"]["selector"].clone();
        checks::immutable("spec.selector", &selector(new), &selector(old)).into_iter().collect()
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = checks::nonnegative("status", &new["status"], SHOWN);
        const OTHERS: &[&str] = &[
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        errors.extend(checks::nonnegative("status", &new["status"], OTHERS));
        errors.extend(checks::collisions(new, old));
        errors
    }

    fn warnings(&self, set: &Value) -> Vec<String> {
        template::warnings("spec.template", &set["spec"]["template"])
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        !checks::same(&new["spec"], &old["spec"])
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::integer("Desired", "Nodes that should run a pod of it."),
            column::integer("Current", "Nodes that run one."),
            column::integer("Ready", "Nodes on which it is ready."),
            column::integer("Up-to-date", "Nodes on which it is made from the present template."),
            column::integer("Available", "Nodes on which it has been ready for long enough."),
            column::text("Node Selector", "The labels of the nodes that it is for."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ];
        COLUMNS
    }

    fn cells(&self, set: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&set["spec"], &set["status"]);
        let count = |field: &str| Value::from(status[field].as_i64().unwrap_or(0));
        let [names, images] = template::cells(&spec["template"]);
        vec![
            column::name(set),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            column::labels(&spec["template"]["spec"]["nodeSelector"]),
            column::age(set, now),
            names,
            images,
            column::selector(&spec["selector"]),
        ]
    }
}

fn generation_of_template(set: &Value) -> i64 {
    meta::annotation(set, TEMPLATE_GENERATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn strategy(strategy: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.updateStrategy";
    let rolling = &strategy["rollingUpdate"];
    let mut errors = Vec::new();
    match text(strategy, "type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => {
            errors.push(FieldError::required(format!("{PATH}.rollingUpdate"), ""));
        }
        "RollingUpdate" => {
            let both = ["maxUnavailable", "maxSurge"];
            let at = |field: &str| format!("{PATH}.rollingUpdate.{field}");
            errors.extend(both.iter().filter_map(|f| checks::int_or_percent(&at(f), &rolling[*f])));
            errors.extend(both.iter().filter_map(|f| checks::at_most_all(&at(f), &rolling[*f])));
            match both.map(|field| checks::amount(&rolling[field]) != 0) {
                [true, true] => {
                    let why = "may not be set when maxUnavailable is non-zero";
                    errors.push(FieldError::invalid(at("maxSurge"), &rolling["maxSurge"], why));
                }
                [false, false] => {
                    let why = "cannot be 0 when maxSurge is 0";
                    errors.push(FieldError::required(at("maxUnavailable"), why));
                }
                _ => {}
            }
        }
        other => {
            let form = format!("{{\"Type\":{other:?},\"RollingUpdate\":{rolling}}}");
            let error = FieldError::not_supported(PATH, strategy, &["RollingUpdate", "OnDelete"]);
            errors.push(error.showing(strategy, &form));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::testing::{pod_template, told};
    use super::*;

    fn set(more: Value) -> Value {
        let mut set = json!({"metadata": {"name": "logs"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}}, "template": pod_template()}});
        for (key, value) in more.as_object().unwrap() {
            set["spec"][key] = value.clone();
        }
        DaemonSet.default(&mut set);
        set
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        let good = set(json!({}));
        let mut again = good.clone();
        DaemonSet.default(&mut again);
        assert_eq!(good, again);
        assert_eq!(
            good["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        for (more, errors) in [
            (json!({}), &[][..]),
            (json!({"updateStrategy": {"type": "OnDelete"}}), &[]),
            (
                json!({"selector": null}),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                json!({"selector": {}}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for daemonset"],
            ),
            (
                json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}}),
                &[
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
                ],
            ),
            (
                json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0}}}),
                &[
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                ],
            ),
            (
                json!({"updateStrategy": {"type": "X"}}),
                &[
                    "spec.updateStrategy: Unsupported value: {\"Type\":\"X\",\"RollingUpdate\":null}: supported values: \"RollingUpdate\", \"OnDelete\"",
                ],
            ),
        ] {
            assert_eq!(told(DaemonSet.validate(&set(more.clone()))), errors, "{more}");
        }
    }

    #[test]
    fn changes_of_the_template_are_counted() {
        let mut made = set(json!({}));
        DaemonSet.prepare_create(&mut made);
        assert_eq!(meta::annotation(&made, TEMPLATE_GENERATION), Some("1"));
        assert_eq!(made["status"]["numberReady"], 0);
        let mut new = made.clone();
        meta::remove(&mut new, "annotations");
        new["spec"]["minReadySeconds"] = json!(5);
        DaemonSet.prepare_update(&mut new, &made);
        assert_eq!(meta::annotation(&new, TEMPLATE_GENERATION), Some("1"));
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("nginx:2");
        DaemonSet.prepare_update(&mut new, &made);
        assert_eq!(meta::annotation(&new, TEMPLATE_GENERATION), Some("2"));
        assert!(DaemonSet.validate_update(&new, &made).is_empty());
        new["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
        assert_eq!(DaemonSet.validate_update(&new, &made).len(), 1);
        let wrong = json!({"status": {"numberReady": -1}});
        assert_eq!(told(DaemonSet.validate_status_update(&wrong, &made)).len(), 1);
    }

    #[test]
    fn a_line_is_kubectls() {
        let mut shown = set(json!({}));
        shown["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
        shown["status"] = json!({"desiredNumberScheduled": 1, "numberReady": 1});
        assert_eq!(
            DaemonSet.cells(&shown, Timestamp::UNIX_EPOCH)[1..],
            [
                json!(1),
                json!(0),
                json!(1),
                json!(0),
                json!(0),
                json!("disk=ssd"),
                json!("<unknown>"),
                json!("c"),
                json!("nginx:1"),
                json!("app=web")
            ]
        );
    }
}
