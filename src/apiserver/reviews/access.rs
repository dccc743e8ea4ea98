//! May somebody do something; what may I do at all.
//!
//! Sources: Kubernetes `pkg/registry/authorization` and `pkg/apis/authorization/validation`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::AUTHORIZATION;
use crate::api::meta;
use crate::api::request::User;
use crate::api::selector::{FieldSelector, LabelSelector};
use crate::api::status::{FieldError, Status, together};
use crate::apiserver::auth::attributes::{Asked, Attributes};
use crate::apiserver::auth::rbac::{Authorizer, Decision};

/// The status of an access review of this kind, asked by this user.
pub(super) fn review(
    authorizer: &Authorizer,
    user: &User,
    kind: &str,
    review: &Value,
) -> Result<Value, Status> {
    let errors = wrong(kind, review);
    if !errors.is_empty() {
        return Err(Status::invalid(AUTHORIZATION, kind, "", &errors));
    }
    let spec = &review["spec"];
    let named;
    let user = if kind == "SelfSubjectAccessReview" {
        user
    } else {
        named = user_of(spec);
        &named
    };
    let Decision { allowed, reason } = authorizer.decide(user, &attributes(spec));
    let mut status = json!({ "allowed": allowed });
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    let ignored = unreadable_selectors(&spec["resourceAttributes"]);
    if !ignored.is_empty() {
        status["evaluationError"] = json!(ignored.join("; "));
    }
    Ok(status)
}

/// The status of a review of all that a user may do in a namespace.
pub(super) fn rules(authorizer: &Authorizer, user: &User, spec: &Value) -> Result<Value, Status> {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    if namespace.is_empty() {
        return Err(Status::bad_request("no namespace on request"));
    }
    let (rules, missing) = authorizer.policy().rules_for(user, namespace);
    let of = |paths: bool| -> Vec<Value> {
        let chosen = rules.iter().filter(|r| paths != r.non_resource_urls.is_empty());
        let chosen = chosen.filter(|r| paths || !r.resources.is_empty());
        chosen.map(|rule| serde_json::to_value(rule).unwrap_or_default()).collect()
    };
    let mut status = json!({"resourceRules": of(false), "nonResourceRules": of(true), "incomplete": false});
    if !missing.is_empty() {
        status["evaluationError"] = json!(together(&missing));
    }
    Ok(status)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn attributes(spec: &Value) -> Attributes<'_> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_null() {
        return Attributes::path(text(path, "path"), text(path, "verb"));
    }
    let asked = Asked::Resource {
        group: text(resource, "group"),
        resource: text(resource, "resource"),
        subresource: text(resource, "subresource"),
        namespace: text(resource, "namespace"),
        name: text(resource, "name"),
    };
    Attributes { verb: text(resource, "verb"), asked }
}

fn user_of(spec: &Value) -> User {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let extra: BTreeMap<String, Vec<String>> =
        spec["extra"].as_object().into_iter().flatten().map(|(key, v)| (key.clone(), list(v))).collect();
    let uid = Some(text(spec, "uid").to_owned()).filter(|uid| !uid.is_empty());
    User { name: text(spec, "user").to_owned(), groups: list(&spec["groups"]), uid, extra }
}

/// What is wrong with a review, in field order.
fn wrong(kind: &str, review: &Value) -> Vec<FieldError> {
    let spec = &review["spec"];
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let mut errors = Vec::new();
    match (resource.is_null(), path.is_null()) {
        (false, false) => {
            let why = "cannot be specified in combination with resourceAttributes";
            errors.push(FieldError::invalid("spec.nonResourceAttributes", path, why));
        }
        (true, true) => {
            let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            errors.push(FieldError::invalid("spec.resourceAttributes", path, why));
        }
        _ => {}
    }
    for selector in ["fieldSelector", "labelSelector"] {
        let (field, given) = (format!("spec.resourceAttributes.{selector}"), &resource[selector]);
        let raw = text(given, "rawSelector");
        let listed = given["requirements"].as_array().is_some_and(|list| !list.is_empty());
        if !raw.is_empty() && listed {
            let why = "may not specified at the same time as requirements";
            errors.push(FieldError::invalid(format!("{field}.rawSelector"), &json!(raw), why));
        }
        if !given.is_null() && raw.is_empty() && !listed {
            let why = format!("when {field} is specified, requirements or rawSelector is required");
            errors.push(FieldError::required(format!("{field}.requirements"), &why));
        }
    }
    let nobody =
        text(spec, "user").is_empty() && spec["groups"].as_array().is_none_or(|groups| groups.is_empty());
    if kind != "SelfSubjectAccessReview" && nobody {
        let why = "at least one of user or group must be specified";
        errors.push(FieldError::invalid("spec.user", &json!(""), why));
    }
    let local = kind == "LocalSubjectAccessReview";
    let mut metadata = review["metadata"].clone();
    if let Some(fields) = metadata.as_object_mut() {
        fields.retain(|key, value| {
            key != "managedFields" && !value.is_null() && !(local && key == "namespace")
        });
        if !fields.is_empty() {
            let why = if local { "must be empty except for namespace" } else { "must be empty" };
            errors.push(FieldError::invalid("metadata", &review["metadata"], why));
        }
    }
    if local && !resource.is_null() && text(resource, "namespace") != meta::namespace(review) {
        let given = json!(text(resource, "namespace"));
        let why = "must match metadata.namespace";
        errors.push(FieldError::invalid("spec.resourceAttributes.namespace", &given, why));
    }
    if local && !path.is_null() {
        let why = "disallowed on this kind of request";
        errors.push(FieldError::invalid("spec.nonResourceAttributes", path, why));
    }
    errors
}

/// Selectors narrow what is asked; ones that cannot be read are told, and the question is answered without them.
fn unreadable_selectors(resource: &Value) -> Vec<&'static str> {
    let field = FieldSelector::parse(text(&resource["fieldSelector"], "rawSelector")).map(drop);
    let label = LabelSelector::parse(text(&resource["labelSelector"], "rawSelector")).map(drop);
    let mut told = Vec::new();
    if field.is_err() {
        told.push("spec.resourceAttributes.fieldSelector ignored due to parse error");
    }
    if label.is_err() {
        told.push("spec.resourceAttributes.labelSelector ignored due to parse error");
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_are_checked_as_kubernetes_does() {
        let pods = json!({"verb": "get", "resource": "pods", "namespace": "a"});
        let both =
            json!({"resourceAttributes": pods, "nonResourceAttributes": {"path": "/x", "verb": "get"}});
        let selected = |selector: Value| json!({"user": "u", "resourceAttributes": {"verb": "list", "fieldSelector": selector}});
        for (kind, review, expected) in [
            ("SelfSubjectAccessReview", json!({"spec": {"resourceAttributes": pods}}), vec![]),
            (
                "SelfSubjectAccessReview",
                json!({"spec": {}}),
                vec![
                    "spec.resourceAttributes: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                ],
            ),
            (
                "SelfSubjectAccessReview",
                json!({ "spec": both }),
                vec![
                    "spec.nonResourceAttributes: Invalid value: {\"path\":\"/x\",\"verb\":\"get\"}: cannot be specified in combination with resourceAttributes",
                ],
            ),
            (
                "SubjectAccessReview",
                json!({"metadata": {"name": "x"}, "spec": {"resourceAttributes": pods}}),
                vec![
                    "spec.user: Invalid value: \"\": at least one of user or group must be specified",
                    "metadata: Invalid value: {\"name\":\"x\"}: must be empty",
                ],
            ),
            ("SubjectAccessReview", json!({"spec": {"groups": ["g"], "resourceAttributes": pods}}), vec![]),
            (
                "LocalSubjectAccessReview",
                json!({"metadata": {"namespace": "b"}, "spec": {"user": "u", "resourceAttributes": pods}}),
                vec![
                    "spec.resourceAttributes.namespace: Invalid value: \"a\": must match metadata.namespace",
                ],
            ),
            (
                "SubjectAccessReview",
                json!({"spec": selected(json!({"rawSelector": "a=b", "requirements": [{}]}))}),
                vec![
                    "spec.resourceAttributes.fieldSelector.rawSelector: Invalid value: \"a=b\": may not specified at the same time as requirements",
                ],
            ),
            (
                "SubjectAccessReview",
                json!({"spec": selected(json!({}))}),
                vec![
                    "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
                ],
            ),
        ] {
            let errors: Vec<String> = wrong(kind, &review).iter().map(ToString::to_string).collect();
            assert_eq!(errors, expected, "{kind} {review}");
        }
        let odd = json!({"labelSelector": {"rawSelector": "a in b"}});
        assert_eq!(
            unreadable_selectors(&odd),
            ["spec.resourceAttributes.labelSelector ignored due to parse error"]
        );
    }
}
