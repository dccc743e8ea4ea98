//! Which requests a webhook or policy is about: rules, selectors, conditions, parameters.

use serde_json::{Value, json};

use super::super::error::{invalid, named, one_of, word};
use super::super::selector;
use super::super::value::{fill, is_set, items, items_mut, text};
use crate::api::status::FieldError;
use crate::api::{meta, names};

const MATCH_POLICIES: [&str; 2] = ["Equivalent", "Exact"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
/// What policies that change objects may be asked at.
const MUTATING_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
/// The most conditions.
const CONDITIONS: usize = 64;

/// Completes the fields that webhooks and policies' `matchConstraints` share.
pub(super) fn default(of: &mut Value, lists_of_rules: &[&str]) {
    if !of.is_object() {
        return;
    }
    fill(of, "matchPolicy", "Equivalent");
    fill(of, "namespaceSelector", json!({}));
    fill(of, "objectSelector", json!({}));
    for list in lists_of_rules {
        items_mut(of, list).for_each(|rule| fill(rule, "scope", "*"));
    }
}

/// The `matchPolicy` of a webhook.
pub(super) fn policy(path: &str, of: &Value) -> Option<FieldError> {
    word(&format!("{path}.matchPolicy"), &of["matchPolicy"], &MATCH_POLICIES)
}

/// The selectors of a webhook or policy.
pub(super) fn selectors(path: &str, of: &Value) -> Vec<FieldError> {
    let fields = ["namespaceSelector", "objectSelector"];
    fields.iter().flat_map(|field| selector::errors(&format!("{path}.{field}"), &of[*field])).collect()
}

/// The resources of a policy.
pub(super) fn resources(path: &str, of: &Value) -> Vec<FieldError> {
    if of.is_null() {
        return Vec::new();
    }
    let policy = one_of(&format!("{path}.matchPolicy"), &of["matchPolicy"], &MATCH_POLICIES);
    let mut errors: Vec<FieldError> = policy.into_iter().collect();
    errors.extend(selectors(path, of));
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, one) in items(of, list).iter().enumerate() {
            let path = format!("{path}.{list}[{i}]");
            errors.extend(resource_names(&format!("{path}.resourceNames"), items(one, "resourceNames")));
            errors.extend(rule(&path, one));
        }
    }
    errors
}

/// Operations of rules that a policy which changes objects cannot be about.
pub(super) fn only_mutating(path: &str, of: &Value) -> Vec<FieldError> {
    let operations = items(of, "resourceRules").iter().flat_map(|rule| items(rule, "operations"));
    let path = format!("{path}.resourceRules.operations");
    operations.filter_map(|operation| word(&path, operation, &MUTATING_OPERATIONS)).collect()
}

fn resource_names(path: &str, given: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, name) in given.iter().enumerate() {
        let path = format!("{path}[{i}]");
        errors.extend(invalid(&path, name, names::path_segment(name.as_str().unwrap_or_default())));
        if given[..i].contains(name) {
            errors.push(FieldError::duplicate(path, name));
        }
    }
    errors
}

/// Operations on resources.
pub(super) fn rule(path: &str, rule: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (field, others) in
        [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")]
    {
        let given = items(rule, field);
        let path = format!("{path}.{field}");
        if given.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        if given.len() > 1 && given.iter().any(|one| one == "*") {
            let why = format!("if '*' is present, must not specify other {others}");
            errors.push(FieldError::invalid(&path, &rule[field], &why));
        }
        for (i, one) in given.iter().enumerate() {
            let path = format!("{path}[{i}]");
            match field {
                "operations" => errors.extend(word(&path, one, &OPERATIONS)),
                "apiVersions" if one == "" => errors.push(FieldError::required(path, "")),
                _ => {}
            }
        }
    }
    errors.extend(rule_resources(&format!("{path}.resources"), &rule["resources"]));
    errors.extend(word(&format!("{path}.scope"), &rule["scope"], &SCOPES));
    errors
}

/// `pods`, `pods/status`, `*/scale`, `*`, `*/*`: none of which may be said twice in other words.
fn rule_resources(path: &str, given: &Value) -> Vec<FieldError> {
    let resources: Vec<&str> = given.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if resources.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    for (i, resource) in resources.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if resource.is_empty() {
            errors.push(FieldError::required(path, ""));
            continue;
        }
        let Some((of, sub)) = resource.split_once('/') else { continue };
        for all in [format!("{of}/*"), format!("*/{sub}")] {
            if resources[..i].contains(&all.as_str()) {
                let why = format!("if '{all}' is present, must not specify {resource}");
                errors.push(FieldError::invalid(&path, &(*resource).into(), &why));
            }
        }
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, given, why));
    }
    let plain = |resource: &&str| !resource.contains('/') && !resource.is_empty() && *resource != "*";
    if resources.contains(&"*") && resources.iter().any(plain) {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, given, why));
    }
    errors
}

/// Conditions that a request must meet beside.
pub(super) fn conditions(path: &str, conditions: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if conditions.len() > CONDITIONS {
        errors.push(FieldError::too_many(path, conditions.len(), CONDITIONS));
    }
    for (i, condition) in conditions.iter().enumerate() {
        errors.extend(expression(&format!("{path}[{i}].expression"), condition, ""));
        let path = format!("{path}[{i}].name");
        errors.extend(named(&path, &condition["name"], names::qualified_name));
        let name = text(condition, "name");
        if !name.is_empty() && conditions[..i].iter().any(|before| text(before, "name") == name) {
            errors.push(FieldError::duplicate(path, &name.into()));
        }
    }
    errors
}

/// The expression of a condition, validation, variable or mutation, which must be there.
pub(super) fn expression(path: &str, of: &Value, why: &str) -> Option<FieldError> {
    text(of, "expression").trim().is_empty().then(|| FieldError::required(path, why))
}

/// The kind of a policy's parameters.
pub(super) fn param_kind(path: &str, kind: &Value) -> Vec<FieldError> {
    if kind.is_null() {
        return Vec::new();
    }
    let at = format!("{path}.apiVersion");
    let version = text(kind, "apiVersion");
    let mut errors = Vec::new();
    if version.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {version}");
        errors.push(FieldError::invalid(&at, &version.into(), &why));
    } else {
        let (group, version) = meta::group_version(version);
        let mut joined = |part: &str, wrong: Vec<String>| {
            if !wrong.is_empty() {
                errors.push(FieldError::invalid(&at, &part.into(), &wrong.join(",")));
            }
        };
        if !group.is_empty() {
            joined(group, names::dns_subdomain(group));
        }
        joined(version, names::dns1035_label(version));
    }
    let at = format!("{path}.kind");
    let name = text(kind, "kind");
    let wrong = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !wrong.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        errors.push(FieldError::invalid(at, &name.into(), &why));
    }
    errors
}

/// Which objects a binding takes as a policy's parameters.
pub(super) fn param_ref(path: &str, of: &Value) -> Vec<FieldError> {
    if of.is_null() {
        return Vec::new();
    }
    let exclusive = |field: &str| {
        FieldError::forbidden(format!("{path}.{field}"), "name and selector are mutually exclusive")
    };
    let (name, by_labels) = (text(of, "name"), &of["selector"]);
    let mut errors = Vec::new();
    if !name.is_empty() {
        errors.extend(invalid(&format!("{path}.name"), &name.into(), names::path_segment(name)));
        errors.extend((!by_labels.is_null()).then(|| exclusive("name")));
    }
    if !by_labels.is_null() {
        errors.extend(selector::errors(&format!("{path}.selector"), by_labels));
        errors.extend((!name.is_empty()).then(|| exclusive("selector")));
    }
    if name.is_empty() && by_labels.is_null() {
        errors.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    let action = &of["parameterNotFoundAction"];
    errors.extend(one_of(&format!("{path}.parameterNotFoundAction"), action, &["Deny", "Allow"]));
    errors
}

/// Whether a policy says what it is about.
pub(super) fn constraints(spec: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.matchConstraints";
    let constraints = &spec["matchConstraints"];
    if constraints.is_null() {
        return vec![FieldError::required(PATH, "")];
    }
    let mut errors = resources(PATH, constraints);
    if !is_set(constraints, "resourceRules") {
        errors.push(FieldError::required(format!("{PATH}.resourceRules"), ""));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_nothing_twice() {
        let of = |resources: &[&str]| {
            let one = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": resources});
            rule("rules[0]", &one).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (resources, error) in [
            (&["pods", "pods/status"][..], None),
            (&["*", "pods/status"], None),
            (&["*/*"], None),
            (
                &["pods/*", "pods/status"],
                Some(
                    "rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify \
                      pods/status",
                ),
            ),
            (
                &["*/*", "pods"],
                Some(
                    "rules[0].resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify \
                      other resources",
                ),
            ),
            (
                &["*", "pods"],
                Some(
                    "rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other \
                      resources without subresources",
                ),
            ),
            (&[], Some("rules[0].resources: Required value")),
        ] {
            assert_eq!(of(resources), error.into_iter().collect::<Vec<_>>());
        }
        let wrong =
            json!({"operations": ["*", "READ"], "apiVersions": [""], "resources": ["a"], "scope": "x"});
        let fields: Vec<String> = rule("r", &wrong).into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["r.operations", "r.operations[1]", "r.apiGroups", "r.apiVersions[0]", "r.scope"]);
    }

    #[test]
    fn parameters_are_named_in_one_way() {
        assert!(param_ref("p", &json!({"name": "a", "parameterNotFoundAction": "Deny"})).is_empty());
        let fields = |of: Value| param_ref("p", &of).into_iter().map(|e| e.field).collect::<Vec<_>>();
        assert_eq!(
            fields(json!({"name": "a", "selector": {}})),
            ["p.name", "p.selector", "p.parameterNotFoundAction"]
        );
        assert_eq!(fields(json!({"parameterNotFoundAction": "Allow"})), ["p"]);
        let kind =
            |version: &str, kind: &str| param_kind("k", &json!({"apiVersion": version, "kind": kind})).len();
        assert_eq!((kind("v1", "ConfigMap"), kind("a/b/c", "X"), kind("A.b/v1", "1")), (0, 1, 2));
    }

    #[test]
    fn conditions_have_names() {
        let conditions = conditions(
            "c",
            &[json!({"name": "a", "expression": "true"}), json!({"name": "a", "expression": " "}), json!({})],
        );
        let fields: Vec<String> = conditions.into_iter().map(|e| e.field).collect();
        assert_eq!(fields, ["c[1].expression", "c[1].name", "c[2].expression", "c[2].name"]);
    }
}
