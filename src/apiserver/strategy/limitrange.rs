//! Limit ranges (`ValidateLimitRange` of Kubernetes' core validation).

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::column::{self, NAME};
use super::resources;
use super::value::{entries, items, items_mut, object, text};
use super::{Column, Strategy};
use crate::api::names;
use crate::api::quantity::{self, Quantity};
use crate::api::status::FieldError;

const LISTS: &[&str] = &["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];

/// The strategy of limit ranges.
pub(super) struct LimitRange;

impl Strategy for LimitRange {
    fn created_on_update(&self) -> bool {
        true
    }

    fn default(&self, range: &mut Value) {
        object(range, "spec");
        let items = items_mut(&mut range["spec"], "limits");
        items.filter(|item| text(item, "type") == "Container").for_each(container_defaults);
    }

    fn validate(&self, range: &Value) -> Vec<FieldError> {
        let all = items(&range["spec"], "limits");
        let mut errors = Vec::new();
        for (i, item) in all.iter().enumerate() {
            let path = format!("spec.limits[{i}]");
            errors.extend(limit_type(&format!("{path}.type"), text(item, "type")));
            if all[..i].iter().any(|before| before["type"] == item["type"]) {
                errors.push(FieldError::duplicate(format!("{path}.type"), &item["type"]));
            }
            errors.extend(names_of(&path, item));
            for name in named(item) {
                errors.extend(amounts(&path, item, name));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column::CREATED_AT];
        COLUMNS
    }

    fn cells(&self, range: &Value, _now: Timestamp) -> Vec<Value> {
        vec![column::name(range), column::created_at(range)]
    }
}

/// What is not said of a container's defaults follows from its bounds.
fn container_defaults(item: &mut Value) {
    let list = |item: &Value, key: &str| item[key].as_object().cloned().unwrap_or_default();
    let (min, max) = (list(item, "min"), list(item, "max"));
    let mut add = |key: &str, more: Map<String, Value>| {
        let there = object(item, key);
        for (name, value) in more {
            there.entry(name).or_insert(value);
        }
        there.clone()
    };
    let limits = add("default", max);
    add("defaultRequest", limits);
    add("defaultRequest", min);
    // Nothing is said where there is nothing to say.
    if let Some(fields) = item.as_object_mut() {
        fields.retain(|key, value| {
            !LISTS.contains(&key.as_str()) || value.as_object().is_none_or(|m| !m.is_empty())
        });
    }
}

fn limit_type(path: &str, kind: &str) -> Vec<FieldError> {
    let wrong = names::qualified_name(kind);
    if !wrong.is_empty() {
        return wrong.iter().map(|w| FieldError::invalid(path, &json!(kind), w)).collect();
    }
    if kind.contains('/') || ["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) {
        return Vec::new();
    }
    vec![FieldError::invalid(path, &json!(kind), "must be a standard limit type or fully qualified")]
}

/// The resources that an item names anywhere, each once.
fn named(item: &Value) -> Vec<&String> {
    let mut all: Vec<&String> =
        LISTS.iter().flat_map(|list| entries(item, list)).map(|(name, _)| name).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn names_of(path: &str, item: &Value) -> Vec<FieldError> {
    let kind = text(item, "type");
    let mut errors = Vec::new();
    for list in LISTS {
        let at = format!("{path}.{list}");
        if kind == "Pod" && ["default", "defaultRequest"].contains(list) {
            if entries(item, list).next().is_some() {
                errors.push(FieldError::forbidden(at, "may not be specified when `type` is 'Pod'"));
            }
            continue;
        }
        for (name, _) in entries(item, list) {
            let at = format!("{at}[{name}]");
            errors.extend(match kind {
                "Pod" | "Container" => resources::container_name(&at, name),
                _ => resources::name(&at, name),
            });
        }
    }
    let storage = |list: &str| !item[list]["storage"].is_null();
    if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(format!("{path}.limits"), why));
    }
    errors
}

/// What is wrong with the amounts of one resource beside each other.
fn amounts(path: &str, item: &Value, name: &str) -> Vec<FieldError> {
    let pod = text(item, "type") == "Pod";
    let of = |list: &str| -> Option<Quantity> {
        let shown = !(pod && ["default", "defaultRequest"].contains(&list));
        item[list][name].as_str().filter(|_| shown).and_then(|text| quantity::parse(text).ok())
    };
    let [max, min, default, request, ratio] =
        ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"].map(of);
    let mut errors = Vec::new();
    let mut order = |list: &str,
                     shown: Option<Quantity>,
                     low: (&str, Option<Quantity>),
                     high: (&str, Option<Quantity>)| {
        if let (Some(shown), Some(below), Some(above)) = (shown, low.1, high.1)
            && below > above
        {
            let why = format!("{} value {below} is greater than {} value {above}", low.0, high.0);
            errors.push(FieldError::invalid(
                format!("{path}.{list}[{name}]"),
                &json!(shown.to_string()),
                &why,
            ));
        }
    };
    order("min", min, ("min", min), ("max", max));
    order("defaultRequest", request, ("min", min), ("default request", request));
    order("defaultRequest", request, ("default request", request), ("max", max));
    order("defaultRequest", request, ("default request", request), ("default limit", default));
    order("default", min, ("min", min), ("default", default));
    order("default", max, ("default", default), ("max", max));
    if let Some(ratio) = ratio {
        let at = format!("{path}.maxLimitRequestRatio[{name}]");
        let shown = json!(ratio.to_string());
        if ratio < Quantity::units(1) {
            errors.push(FieldError::invalid(at.as_str(), &shown, &format!("ratio {ratio} is less than 1")));
        }
        if let (Some(min), Some(max)) = (min, max) {
            let most = max.milli_value() as f64 / min.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > most {
                let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
                errors.push(FieldError::invalid(at.as_str(), &shown, &why));
            }
        }
    }
    if let (Some(default), Some(request)) = (default, request)
        && !resources::can_be_overcommitted(name)
        && default != request
    {
        let why = format!("default value {default} must equal to defaultRequest value {request} in {name}");
        let at = format!("{path}.defaultRequest[{name}]");
        errors.push(FieldError::invalid(at, &json!(request.to_string()), &why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(item: Value) -> Value {
        let mut range = json!({"metadata": {"name": "r"}, "spec": {"limits": [item]}});
        LimitRange.default(&mut range);
        range
    }

    #[test]
    fn defaults_follow_from_the_bounds() {
        let made =
            range(json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m", "memory": "1Mi"}}));
        let mut again = made.clone();
        LimitRange.default(&mut again);
        assert_eq!(made, again);
        let item = &made["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "1"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "1", "memory": "1Mi"}));
        assert!(LimitRange.validate(&made).is_empty());
        let pod = range(json!({"type": "Pod", "max": {"cpu": "1"}}));
        assert!(pod["spec"]["limits"][0].get("default").is_none());
        assert_eq!(LimitRange.cells(&made, Timestamp::UNIX_EPOCH), [json!("r"), json!("<unknown>")]);
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        for (item, errors) in [
            (
                json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}}),
                &[
                    "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
                    "spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
                ][..],
            ),
            (
                json!({"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "2"}}),
                &[
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": default request value 2 is greater than default limit value 1",
                ],
            ),
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
            ),
            (
                json!({"type": "X"}),
                &[
                    "spec.limits[0].type: Invalid value: \"X\": must be a standard limit type or fully qualified",
                ],
            ),
            (
                json!({"type": "PersistentVolumeClaim", "default": {"storage": "1Gi"}}),
                &[
                    "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
                ],
            ),
            (
                json!({"type": "Pod", "max": {"cpu": "2"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "3"}}),
                &[
                    "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
                ],
            ),
        ] {
            let told: Vec<String> =
                LimitRange.validate(&range(item.clone())).iter().map(ToString::to_string).collect();
            assert_eq!(told, errors, "{item}");
        }
        let twice = json!({"spec": {"limits": [{"type": "Pod"}, {"type": "Pod"}]}});
        assert_eq!(
            LimitRange.validate(&twice)[0].to_string(),
            "spec.limits[1].type: Duplicate value: \"Pod\""
        );
    }
}
