//! Virtual resources that are only asked, never stored: who am I, may I.

use serde_json::{Value, json};

use super::auth;
use crate::api::request::{Action, Request, Response, Target};
use crate::api::status::Status;

/// The virtual resources: group, plural, kind.
pub const REVIEWS: &[(&str, &str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview"),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
];

/// The virtual resource that a request is about.
pub fn find(target: &Target) -> Option<&'static (&'static str, &'static str, &'static str)> {
    REVIEWS.iter().find(|(group, plural, _)| {
        target.group == *group && target.resource == *plural && target.version == "v1"
    })
}

/// The answer, when the request is about a virtual resource.
pub fn answer(request: &Request) -> Option<Result<Response, Status>> {
    let target = &request.target;
    let (group, plural, kind) = find(target)?;
    let Action::Create(body, _) = &request.action else {
        return Some(Err(Status::method_not_allowed(plural, "create")));
    };
    let mut value = body.clone();
    if !value.is_object() {
        return Some(Err(Status::bad_request("the body of the request must be a JSON object")));
    }
    value["apiVersion"] = json!(format!("{group}/v1"));
    value["kind"] = json!(kind);
    value["status"] = match *plural {
        "selfsubjectreviews" => json!({"userInfo": auth::user_info(&request.user)}),
        "selfsubjectaccessreviews" => access(request, &value["spec"]),
        _ => json!({
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
            "incomplete": false,
        }),
    };
    Some(Ok(Response::Transient { value, created: true, warnings: Vec::new() }))
}

/// Asks the one function that decides about real requests.
fn access(request: &Request, spec: &Value) -> Value {
    let attributes = &spec["resourceAttributes"];
    let mut asked = request.clone();
    asked.target.group = attributes["group"].as_str().unwrap_or_default().to_owned();
    asked.target.resource = attributes["resource"].as_str().unwrap_or_default().to_owned();
    asked.target.name = attributes["name"].as_str().map(str::to_owned);
    match auth::authorize(&asked) {
        Ok(()) => json!({"allowed": true}),
        Err(status) => json!({"allowed": false, "reason": status.message}),
    }
}
