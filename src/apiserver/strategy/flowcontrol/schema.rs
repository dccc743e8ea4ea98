//! FlowSchemas: which requests belong to which priority level.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, AGE, NAME, NONE};
use super::super::error::{condition_types, invalid, word};
use super::super::value::{fill_zero, is_set, items, object, text};
use super::super::{Column, Strategy};
use crate::api::status::FieldError;
use crate::api::{meta, names};

/// The schema of requests that never wait, which alone comes first.
const EXEMPT: &str = "exempt";
const PRECEDENCE: i64 = 10_000;
const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// The strategy of flow schemas.
pub(super) struct FlowSchema;

impl Strategy for FlowSchema {
    fn default(&self, schema: &mut Value) {
        object(schema, "spec");
        fill_zero(&mut schema["spec"], "matchingPrecedence", 1000);
    }

    fn prepare_create(&self, schema: &mut Value) {
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("status".to_owned(), json!({}));
        }
    }

    fn validate(&self, schema: &Value) -> Vec<FieldError> {
        let spec = &schema["spec"];
        let precedence = spec["matchingPrecedence"].as_i64().unwrap_or(0);
        let mut errors = Vec::new();
        let mut wrong = |why: &str| {
            errors.push(FieldError::invalid("spec.matchingPrecedence", &precedence.into(), why));
        };
        if precedence <= 0 {
            wrong("must be a positive value");
        }
        if precedence > PRECEDENCE {
            wrong(&format!("must not be greater than {PRECEDENCE}"));
        }
        if precedence == 1 && meta::name(schema) != EXEMPT {
            wrong("only the schema named 'exempt' may have matchingPrecedence 1");
        }
        let method = &spec["distinguisherMethod"];
        if !method.is_null() {
            errors.extend(word("spec.distinguisherMethod.type", &method["type"], &["ByNamespace", "ByUser"]));
        }
        let level = text(&spec["priorityLevelConfiguration"], "name");
        let path = "spec.priorityLevelConfiguration.name";
        match level {
            "" => errors.push(FieldError::required(path, "must reference a priority level")),
            _ => errors.extend(invalid(path, &level.into(), names::dns_subdomain(level))),
        }
        for (i, one) in items(spec, "rules").iter().enumerate() {
            errors.extend(rule(&format!("spec.rules[{i}]"), one));
        }
        errors.extend(condition_types("status.conditions", items(&schema["status"], "conditions")));
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        condition_types("status.conditions", items(&new["status"], "conditions"))
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("PriorityLevel", "The priority level of the requests."),
            column::text("MatchingPrecedence", "Which schema is asked first: that with the lowest number."),
            column::text("DistinguisherMethod", "What tells the flows of a schema apart."),
            AGE,
            column::text("MissingPL", "Whether the priority level is not there."),
        ];
        COLUMNS
    }

    fn cells(&self, schema: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &schema["spec"];
        let dangling = items(&schema["status"], "conditions").iter().find(|c| c["type"] == "Dangling");
        vec![
            column::name(schema),
            text(&spec["priorityLevelConfiguration"], "name").into(),
            spec["matchingPrecedence"].as_i64().unwrap_or(0).into(),
            spec["distinguisherMethod"]["type"].as_str().unwrap_or(NONE).into(),
            column::age(schema, now),
            dangling.map_or("?", |condition| text(condition, "status")).into(),
        ]
    }
}

fn rule(path: &str, rule: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let subjects = items(rule, "subjects");
    if subjects.is_empty() {
        let why = "subjects must contain at least one value";
        errors.push(FieldError::required(format!("{path}.subjects"), why));
    }
    for (i, one) in subjects.iter().enumerate() {
        errors.extend(subject(&format!("{path}.subjects[{i}]"), one));
    }
    let (resources, others) = (items(rule, "resourceRules"), items(rule, "nonResourceRules"));
    if resources.is_empty() && others.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, why));
    }
    for (i, one) in resources.iter().enumerate() {
        errors.extend(resource_rule(&format!("{path}.resourceRules[{i}]"), one));
    }
    for (i, one) in others.iter().enumerate() {
        let path = format!("{path}.nonResourceRules[{i}]");
        errors.extend(verbs(&path, one));
        let lone = ("nonResourceURLs must contain at least one value", "non-resource URLs");
        errors.extend(list(&path, one, "nonResourceURLs", lone));
        for (j, url) in items(one, "nonResourceURLs").iter().enumerate().filter(|(_, url)| *url != "*") {
            errors.extend(wrong_url(&format!("{path}.nonResourceURLs[{j}]"), url));
        }
    }
    errors
}

/// A list that must say something, and says nothing else when it says everything.
fn list(path: &str, of: &Value, field: &str, (empty, others): (&str, &str)) -> Option<FieldError> {
    let path = format!("{path}.{field}");
    let given = items(of, field);
    if given.is_empty() {
        return Some(FieldError::required(path, empty));
    }
    let why = format!("if '*' is present, must not specify other {others}");
    (given.len() > 1 && given.iter().any(|one| one == "*"))
        .then(|| FieldError::invalid(path, &of[field], &why))
}

fn verbs(path: &str, rule: &Value) -> Option<FieldError> {
    let given = items(rule, "verbs");
    list(path, rule, "verbs", ("verbs must contain at least one value", "verbs")).or_else(|| {
        let known = |verb: &Value| verb == "*" || VERBS.iter().any(|known| verb == known);
        let wrong = !given.iter().all(known);
        wrong.then(|| FieldError::not_supported(format!("{path}.verbs"), &rule["verbs"], &VERBS))
    })
}

fn resource_rule(path: &str, rule: &Value) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = verbs(path, rule).into_iter().collect();
    let groups = ("resource rules must supply at least one api group", "api groups");
    errors.extend(list(path, rule, "apiGroups", groups));
    let resources = ("resource rules must supply at least one resource", "resources");
    errors.extend(list(path, rule, "resources", resources));
    let namespaces = items(rule, "namespaces");
    if namespaces.is_empty() && is_set(rule, "clusterScope") {
        return errors;
    }
    let empty = "resource rules that are not cluster scoped must supply at least one namespace";
    errors.extend(list(path, rule, "namespaces", (empty, "namespaces")));
    if !namespaces.iter().any(|namespace| namespace == "*") {
        for (i, namespace) in namespaces.iter().enumerate() {
            for wrong in names::dns_label(namespace.as_str().unwrap_or_default()) {
                let why = format!("each member of this list must be '*' or a DNS-1123 label; {wrong}");
                errors.push(FieldError::invalid(format!("{path}.namespaces[{i}]"), namespace, &why));
            }
        }
    }
    errors
}

fn subject(path: &str, subject: &Value) -> Vec<FieldError> {
    const KINDS: [(&str, &str); 3] =
        [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = text(subject, "kind");
    let Some((_, own)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        let allowed = KINDS.map(|(kind, _)| kind);
        return vec![FieldError::not_supported(format!("{path}.kind"), &kind.into(), &allowed)];
    };
    let mut errors = Vec::new();
    let given = &subject[*own];
    let at = format!("{path}.{own}");
    let name = text(given, "name");
    if given.is_null() {
        errors.push(FieldError::required(&at, &format!("{own} is required when subject kind is '{kind}'")));
    } else if name.is_empty() {
        errors.push(FieldError::required(format!("{at}.name"), ""));
    } else if kind == "ServiceAccount" && name != "*" {
        errors.extend(invalid(&format!("{at}.name"), &name.into(), names::dns_subdomain(name)));
    }
    if kind == "ServiceAccount" && !given.is_null() {
        let at = format!("{at}.namespace");
        match text(given, "namespace") {
            "" => errors.push(FieldError::required(at, "must specify namespace for service account")),
            namespace => errors.extend(invalid(&at, &namespace.into(), names::dns_label(namespace))),
        }
    }
    for (other, field) in KINDS.iter().filter(|(other, field)| *other != kind && !subject[*field].is_null()) {
        let why = format!("{field} is forbidden when subject kind is not '{other}'");
        errors.push(FieldError::forbidden(format!("{path}.{field}"), &why));
    }
    errors
}

fn wrong_url(path: &str, url: &Value) -> Option<FieldError> {
    let text = url.as_str().unwrap_or_default();
    let why = match text {
        "" => "must not be empty",
        "/" => return None,
        _ if !text.starts_with('/') => "must start with slash",
        _ if text.contains(' ') => "must not contain white-space",
        _ if text.contains("//") => "must not contain double slash",
        _ => match text.matches('*').count() {
            0 => return None,
            1 if text.ends_with("/*") => return None,
            _ => "wildcard can only do suffix matching",
        },
    };
    Some(FieldError::invalid(path, url, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(rule: Value) -> Value {
        let mut schema = json!({"metadata": {"name": "s"}, "spec":
            {"priorityLevelConfiguration": {"name": "global-default"}, "rules": [rule]}});
        FlowSchema.default(&mut schema);
        schema
    }

    #[test]
    fn schemas_are_checked() {
        let user = || json!([{"kind": "User", "user": {"name": "*"}}]);
        let at = "spec.rules[0]";
        let url = |url: &str| json!({"subjects": user(), "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [url]}]});
        for (rule, errors) in [
            (url("/healthz/*"), vec![]),
            (
                json!({"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "n"}}],
                    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]}),
                vec![],
            ),
            (
                json!({}),
                vec![
                    format!("{at}.subjects: Required value: subjects must contain at least one value"),
                    format!(
                        "{at}: Required value: at least one of resourceRules and nonResourceRules has to be non-empty"
                    ),
                ],
            ),
            (
                url("/a*"),
                vec![format!(
                    "{at}.nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": wildcard can only do suffix \
                     matching"
                )],
            ),
            (
                json!({"subjects": [{"kind": "User", "group": {"name": "g"}}], "resourceRules":
                    [{"verbs": ["*", "get"], "apiGroups": [""], "resources": ["pods"]}]}),
                vec![
                    format!(
                        "{at}.subjects[0].user: Required value: user is required when subject kind is 'User'"
                    ),
                    format!(
                        "{at}.subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'"
                    ),
                    format!(
                        "{at}.resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not \
                         specify other verbs"
                    ),
                    format!(
                        "{at}.resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped \
                         must supply at least one namespace"
                    ),
                ],
            ),
        ] {
            let told: Vec<String> =
                FlowSchema.validate(&schema(rule)).iter().map(ToString::to_string).collect();
            assert_eq!(told, errors);
        }
        let first = json!({"metadata": {"name": "s"}, "spec": {"matchingPrecedence": 1}});
        assert_eq!(FlowSchema.validate(&first).len(), 2);
    }
}
