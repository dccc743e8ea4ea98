//! Webhook configurations: servers that are asked.

use http::Uri;
use jiff::Timestamp;
use serde_json::Value;

use super::super::column::{self, AGE, NAME};
use super::super::error::{named, word};
use super::super::value::{fill, items, items_mut, text};
use super::super::{Column, Strategy};
use super::matching;
use super::{FAILURE_POLICIES, REINVOCATION_POLICIES, compiled};
use crate::api::names;
use crate::api::status::FieldError;

const SIDE_EFFECTS: [&str; 2] = ["None", "NoneOnDryRun"];
/// The versions of the question that a server may know.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// The strategy of webhook configurations.
pub(super) struct Webhooks {
    /// Whether they may change objects.
    mutating: bool,
}

pub(super) const MUTATING: Webhooks = Webhooks { mutating: true };
pub(super) const VALIDATING: Webhooks = Webhooks { mutating: false };

impl Strategy for Webhooks {
    fn default(&self, configuration: &mut Value) {
        for hook in items_mut(configuration, "webhooks") {
            fill(hook, "failurePolicy", "Fail");
            fill(hook, "timeoutSeconds", 10);
            matching::default(hook, &["rules"]);
            if self.mutating {
                fill(hook, "reinvocationPolicy", "Never");
            }
            if let Some(service) = hook.pointer_mut("/clientConfig/service").filter(|s| s.is_object()) {
                fill(service, "port", 443);
            }
        }
    }

    fn validate(&self, configuration: &Value) -> Vec<FieldError> {
        let hooks = items(configuration, "webhooks");
        let mut errors = Vec::new();
        for (i, one) in hooks.iter().enumerate() {
            let path = format!("webhooks[{i}]");
            errors.extend(hook(&path, one));
            errors
                .extend(reviews(&format!("{path}.admissionReviewVersions"), &one["admissionReviewVersions"]));
            let name = text(one, "name");
            if !name.is_empty() && hooks[..i].iter().any(|before| text(before, "name") == name) {
                errors.push(FieldError::duplicate(format!("{path}.name"), &name.into()));
            }
        }
        if errors.is_empty() {
            errors = compiled::of_webhooks(configuration);
        }
        errors
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        new.get("webhooks") != old.get("webhooks")
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            Column { kind: "integer", ..column::text("Webhooks", "How many webhooks there are.") },
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, configuration: &Value, now: Timestamp) -> Vec<Value> {
        let count = items(configuration, "webhooks").len();
        vec![column::name(configuration), count.into(), column::age(configuration, now)]
    }
}

fn hook(path: &str, hook: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = named(&at("name"), &hook["name"], names::fully_qualified);
    for (i, rule) in items(hook, "rules").iter().enumerate() {
        errors.extend(matching::rule(&format!("{path}.rules[{i}]"), rule));
    }
    errors.extend(word(&at("failurePolicy"), &hook["failurePolicy"], &FAILURE_POLICIES));
    errors.extend(matching::policy(path, hook));
    match hook["sideEffects"].is_null() {
        true => {
            let why = format!("must specify one of {}", SIDE_EFFECTS.join(", "));
            errors.push(FieldError::required(at("sideEffects"), &why));
        }
        false => errors.extend(word(&at("sideEffects"), &hook["sideEffects"], &SIDE_EFFECTS)),
    }
    let timeout = &hook["timeoutSeconds"];
    if timeout.as_i64().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        let why = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(at("timeoutSeconds"), timeout, why));
    }
    errors.extend(matching::selectors(path, hook));
    errors.extend(word(&at("reinvocationPolicy"), &hook["reinvocationPolicy"], &REINVOCATION_POLICIES));
    errors.extend(client(&at("clientConfig"), &hook["clientConfig"]));
    errors.extend(matching::conditions(&at("matchConditions"), items(hook, "matchConditions")));
    errors
}

/// Where the server is.
fn client(path: &str, client: &Value) -> Vec<FieldError> {
    match (client["url"].as_str(), client["service"].is_null()) {
        (None, true) | (Some(_), false) => {
            vec![FieldError::required(path, "exactly one of url or service is required")]
        }
        (Some(given), true) => url(&format!("{path}.url"), given),
        (None, false) => service(&format!("{path}.service"), &client["service"]),
    }
}

fn url(path: &str, given: &str) -> Vec<FieldError> {
    const FORM: &str = "; desired format: https://host[/path]";
    let (plain, fragment) = given.split_once('#').unwrap_or((given, ""));
    let Ok(uri) = plain.parse::<Uri>() else {
        let why = format!("url must be a valid URL: parse {given:?}{FORM}");
        return vec![FieldError::required(path, &why)];
    };
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let (user, host) =
        authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    let mut errors = Vec::new();
    let mut wrong = |value: &str, why: String| errors.push(FieldError::invalid(path, &value.into(), &why));
    let scheme = uri.scheme_str().unwrap_or_default();
    if scheme != "https" {
        wrong(scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if host.is_empty() {
        wrong("", format!("host must be specified{FORM}"));
    }
    if let Some(user) = user {
        wrong(user, "user information is not permitted in the URL".to_owned());
    }
    if !fragment.is_empty() {
        wrong(fragment, "fragments are not permitted in the URL".to_owned());
    }
    if let Some(query) = uri.query().filter(|query| !query.is_empty()) {
        wrong(query, "query parameters are not permitted in the URL".to_owned());
    }
    errors
}

fn service(path: &str, service: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["name", "namespace"] {
        if text(service, field).is_empty() {
            errors.push(FieldError::required(format!("{path}.{field}"), ""));
        }
    }
    let port = service["port"].as_i64().unwrap_or(0);
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let why = format!("port is not valid: {}", wrong.join(", "));
        errors.push(FieldError::invalid(format!("{path}.port"), &port.into(), &why));
    }
    errors.extend(service_path(&format!("{path}.path"), &service["path"]));
    errors
}

fn service_path(path: &str, given: &Value) -> Vec<FieldError> {
    let text = given.as_str().unwrap_or_default();
    let wrong = |why: &str| FieldError::invalid(path, given, why);
    match text {
        "" | "/" => return Vec::new(),
        "//" => return vec![wrong("segment[0] may not be empty")],
        _ => {}
    }
    let mut errors = Vec::new();
    if !text.starts_with('/') {
        errors.push(wrong("must start with a '/'"));
    }
    let steps = text.get(1..).unwrap_or_default();
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        if step.is_empty() {
            errors.push(wrong(&format!("segment[{i}] may not be empty")));
            continue;
        }
        errors.extend(names::dns_subdomain(step).iter().map(|w| wrong(&format!("segment[{i}]: {w}"))));
    }
    errors
}

fn reviews(path: &str, given: &Value) -> Vec<FieldError> {
    let all = REVIEWS.join(", ");
    let versions: Vec<&str> = given.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if versions.is_empty() {
        return vec![FieldError::required(path, &format!("must specify one of {all}"))];
    }
    let mut errors = Vec::new();
    for (i, version) in versions.iter().enumerate() {
        let path = format!("{path}[{i}]");
        let value = Value::from(*version);
        if versions[..i].contains(version) {
            errors.push(FieldError::invalid(path, &value, "duplicate version"));
            continue;
        }
        errors.extend(super::super::error::invalid(&path, &value, names::dns1035_label(version)));
    }
    if !versions.iter().any(|version| REVIEWS.contains(version)) {
        errors.push(FieldError::invalid(path, given, &format!("must include at least one of {all}")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn configuration(hook: Value) -> Value {
        let mut configuration = json!({ "webhooks": [hook] });
        MUTATING.default(&mut configuration);
        configuration
    }

    fn right() -> Value {
        json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"namespace": "n", "name": "s", "path": "/mutate"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]})
    }

    #[test]
    fn webhooks_are_completed() {
        let hook = &configuration(right())["webhooks"][0];
        assert_eq!(
            (
                &hook["failurePolicy"],
                &hook["timeoutSeconds"],
                &hook["matchPolicy"],
                &hook["reinvocationPolicy"]
            ),
            (&json!("Fail"), &json!(10), &json!("Equivalent"), &json!("Never"))
        );
        assert_eq!(
            (&hook["clientConfig"]["service"]["port"], &hook["rules"][0]["scope"]),
            (&json!(443), &json!("*"))
        );
        assert!(MUTATING.validate(&configuration(right())).is_empty());
        let mut validating = json!({"webhooks": [{}]});
        VALIDATING.default(&mut validating);
        assert!(validating["webhooks"][0].get("reinvocationPolicy").is_none());
    }

    #[test]
    fn wrong_webhooks_are_told() {
        let with = |field: &str, value: Value| {
            let mut hook = right();
            hook[field] = value;
            let errors = MUTATING.validate(&configuration(hook));
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (field, value, error) in [
            (
                "name",
                json!("a.b"),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated \
                 by dots",
            ),
            (
                "sideEffects",
                json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                "sideEffects",
                Value::Null,
                "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (
                "timeoutSeconds",
                json!(31),
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                "clientConfig",
                json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                "clientConfig",
                json!({"url": "http://host/path"}),
                "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; \
                 desired format: https://host[/path]",
            ),
            (
                "clientConfig",
                json!({"service": {"namespace": "n", "name": "s", "path": "a//b"}}),
                "webhooks[0].clientConfig.service.path: Invalid value: \"a//b\": must start with a '/'",
            ),
            (
                "admissionReviewVersions",
                json!(["v2"]),
                "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, \
                 v1beta1",
            ),
        ] {
            assert_eq!(with(field, value)[0], error);
        }
        for url in ["https://user@host/", "https://host/?a=b", "https://host/#a", "/path"] {
            assert!(!with("clientConfig", json!({ "url": url })).is_empty(), "{url}");
        }
        assert!(with("clientConfig", json!({"url": "https://host:8443/path"})).is_empty());
    }
}
