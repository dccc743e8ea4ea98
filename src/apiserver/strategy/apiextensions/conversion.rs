//! What is wrong with how a definition converts its objects.

use serde_json::{Value, json};

use crate::api::names;
use crate::api::status::FieldError;
use crate::apiserver::strategy::value::{is_set, items, text};

/// The versions of conversion reviews that are known.
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const PATH: &str = "spec.conversion";

/// What is wrong with `spec.conversion`.
pub(super) fn errors(conversion: &Value, errors: &mut Vec<FieldError>) {
    let path = |field: &str| format!("{PATH}.{field}");
    let webhook = &conversion["webhook"];
    match text(conversion, "strategy") {
        "Webhook" => {}
        "None" => {
            if is_set(webhook, "clientConfig") {
                let why = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden(path("webhookClientConfig"), why));
            }
            if is_set(webhook, "conversionReviewVersions") {
                let why = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden(path("conversionReviewVersions"), why));
            }
            return;
        }
        "" => return errors.push(FieldError::required(path("strategy"), "")),
        _ => {
            let given = &conversion["strategy"];
            return errors.push(FieldError::not_supported(path("strategy"), given, &["None", "Webhook"]));
        }
    }
    let client = &webhook["clientConfig"];
    if client.is_null() {
        let why = "required when strategy is set to Webhook";
        errors.push(FieldError::required(path("webhookClientConfig"), why));
    } else {
        match (client["url"].as_str(), client["service"].is_object()) {
            (Some(url), false) => url_errors(url, &path("webhookClientConfig.url"), errors),
            (None, true) => service_errors(&client["service"], &path("webhookClientConfig.service"), errors),
            _ => {
                let why = "exactly one of url or service is required";
                errors.push(FieldError::required(path("webhookClientConfig"), why));
            }
        }
    }
    review_errors(webhook, &path("conversionReviewVersions"), errors);
}

fn url_errors(url: &str, path: &str, errors: &mut Vec<FieldError>) {
    const FORM: &str = "; desired format: https://host[/path]";
    let mut wrong = |why: &str| errors.push(FieldError::invalid(path, &json!(url), &format!("{why}{FORM}")));
    let rest = match url.split_once("://") {
        Some(("https", rest)) => rest,
        Some((scheme, rest)) => {
            errors.push(FieldError::invalid(
                path,
                &json!(scheme),
                &format!("'https' is the only allowed URL scheme{FORM}"),
            ));
            rest
        }
        None => return wrong("url must be a valid URL"),
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.is_empty() {
        errors.push(FieldError::invalid(path, &json!(host), &format!("host must be specified{FORM}")));
    }
    let rest_of = |c: char| rest.split_once(c).map(|(_, after)| after.to_owned());
    if host.contains('@') {
        errors.push(FieldError::invalid(path, &json!(host), "user information is not permitted in the URL"));
    }
    if let Some(fragment) = rest_of('#') {
        errors.push(FieldError::invalid(path, &json!(fragment), "fragments are not permitted in the URL"));
    }
    if let Some(query) = rest_of('?') {
        errors.push(FieldError::invalid(
            path,
            &json!(query),
            "query parameters are not permitted in the URL",
        ));
    }
}

fn service_errors(service: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (key, why) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        if text(service, key).is_empty() {
            errors.push(FieldError::required(format!("{path}.{key}"), why));
        }
    }
    if service["port"].as_i64().is_some_and(|port| !names::port_number(port).is_empty()) {
        let why = format!("port is not valid: {}", names::port_number(0).join(", "));
        errors.push(FieldError::invalid(format!("{path}.port"), &service["port"], &why));
    }
    if let Some(given) = service["path"].as_str().filter(|given| !given.is_empty())
        && (!given.starts_with('/') || given.contains("//"))
    {
        let why = "must start with a '/' and have no empty segments";
        errors.push(FieldError::invalid(format!("{path}.path"), &json!(given), why));
    }
}

fn review_errors(webhook: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let versions = items(webhook, "conversionReviewVersions");
    if versions.is_empty() {
        return errors.push(FieldError::required(path, ""));
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.push(FieldError::invalid(format!("{path}[{i}]"), version, "duplicate version"));
            continue;
        }
        for why in names::dns1035_label(version.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(format!("{path}[{i}]"), version, &why));
        }
    }
    if !versions.iter().any(|version| version.as_str().is_some_and(|version| REVIEWS.contains(&version))) {
        let why = format!("must include at least one of {}", REVIEWS.join(", "));
        errors.push(FieldError::invalid(path, &json!(versions), &why));
    }
}
