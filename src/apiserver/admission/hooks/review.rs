//! AdmissionReviews: the question that a webhook is asked, and what its answer must be.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/webhook/request` and `errors`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use json_patch::Patch;
use serde_json::{Value, json};

use super::matching::{Match, Seen};
use crate::api::status::{Details, Status};
use crate::apiserver::admission::Attributes;

/// A form of reviews.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// `v1`.
    V1,
    /// `v1beta1`, of which less is checked.
    V1Beta1,
}

impl Version {
    /// The version of this name.
    pub fn parse(name: &str) -> Option<Version> {
        match name {
            "v1" => Some(Version::V1),
            "v1beta1" => Some(Version::V1Beta1),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V1Beta1 => "v1beta1",
        }
    }
}

/// What a webhook answered.
#[derive(Debug, Default)]
pub struct Answer {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Why not.
    pub result: Value,
    /// What to do to the object.
    pub patch: Option<Vec<u8>>,
    /// How the patch is to be read.
    pub patch_type: String,
    /// For the user.
    pub warnings: Vec<String>,
    /// For the log.
    pub annotations: BTreeMap<String, String>,
}

/// The question about a request; `user` is who asks, as reviews show it.
pub fn request(
    uid: &str,
    version: Version,
    attributes: &Attributes<'_>,
    object: &Value,
    seen: &Seen,
    user: Value,
) -> Value {
    let mut request = about(attributes, object, &seen.found, user);
    request["uid"] = json!(uid);
    request["object"] = seen.object.clone();
    request["oldObject"] = seen.old.clone();
    json!({
        "kind": "AdmissionReview",
        "apiVersion": format!("admission.k8s.io/{}", version.name()),
        "request": request,
    })
}

/// A request without its objects, as expressions see it, too.
pub fn about(attributes: &Attributes<'_>, object: &Value, found: &Match, user: Value) -> Value {
    let kind = attributes.kind;
    let (group, version, name) = attributes.body();
    let mut request = json!({
        "kind": found.kind,
        "resource": found.resource,
        "requestKind": {"group": group, "version": version, "kind": name},
        "requestResource": {"group": kind.group, "version": kind.version, "resource": kind.plural},
        "operation": attributes.operation.name(),
        "userInfo": user,
        "dryRun": attributes.dry_run(),
        "options": attributes.options.object(),
    });
    let known = if attributes.name.is_empty() { crate::api::meta::name(object) } else { attributes.name };
    for (key, value) in [
        ("subResource", attributes.subresource),
        ("requestSubResource", attributes.subresource),
        ("name", known),
        ("namespace", attributes.namespace_seen(object)),
    ] {
        if !value.is_empty() {
            request[key] = json!(value);
        }
    }
    request
}

/// Reads an answer; an error says what is not as it must be.
pub fn read(review: &Value, uid: &str, version: Version, mutating: bool) -> Result<Answer, String> {
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let text = |key: &str| response[key].as_str().unwrap_or_default();
    let (patch, patch_type) = (text("patch"), response.get("patchType").filter(|of| !of.is_null()));
    if version == Version::V1 {
        if text("uid") != uid {
            return Err(format!("expected response.uid={uid:?}, got {:?}", text("uid")));
        }
        let top = |key: &str| review[key].as_str().unwrap_or_default();
        if (top("apiVersion"), top("kind")) != ("admission.k8s.io/v1", "AdmissionReview") {
            return Err(format!(
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
                top("apiVersion"),
                top("kind")
            ));
        }
        match (mutating, patch.is_empty(), patch_type) {
            (true, false, None) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (true, true, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (true, false, Some(of)) if of == "" => {
                return Err("webhook returned invalid response.patchType of \"\"".to_owned());
            }
            (false, false, _) => return Err("validating webhook may not return response.patch".to_owned()),
            (false, _, Some(_)) => {
                return Err("validating webhook may not return response.patchType".to_owned());
            }
            _ => {}
        }
    }
    let patch = match patch {
        "" => None,
        _ if !mutating => None,
        patch => Some(BASE64.decode(patch).map_err(|error| format!("response.patch: {error}"))?),
    };
    let texts = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    let annotations = annotations.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    // The older form knows no other type.
    let patch_type = match version {
        Version::V1 => patch_type.and_then(Value::as_str).unwrap_or_default(),
        Version::V1Beta1 => "JSONPatch",
    };
    Ok(Answer {
        allowed: response["allowed"] == true,
        result: response["status"].clone(),
        patch,
        patch_type: patch_type.to_owned(),
        warnings: texts.map(str::to_owned).collect(),
        annotations: annotations.collect(),
    })
}

/// The refusal that a webhook's answer is.
pub fn rejection(webhook: &str, result: &Value) -> Status {
    let text = |key: &str| result[key].as_str().unwrap_or_default();
    let denied = format!("admission webhook {webhook:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = result["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| (400..600).contains(code)).unwrap_or(400);
    let mut status = Status::failure(code, text("reason"), message);
    status.details = serde_json::from_value::<Details>(result["details"].clone()).ok();
    status
}

/// The object as a webhook's patch leaves it.
pub fn patched(object: &Value, patch: &Patch) -> Result<Value, Status> {
    let mut patched = object.clone();
    json_patch::patch(&mut patched, patch).map_err(Status::internal)?;
    Ok(patched)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers_are_checked() {
        let patch = BASE64.encode("[]");
        for (response, mutating, error) in [
            (json!({"uid": "u", "allowed": true}), true, ""),
            (json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch"}), true, ""),
            (Value::Null, true, "webhook response was absent"),
            (json!({"uid": "v"}), true, "expected response.uid=\"u\", got \"v\""),
            (
                json!({"uid": "u", "patch": patch}),
                true,
                "webhook returned response.patch but not response.patchType",
            ),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                true,
                "webhook returned response.patchType but not response.patch",
            ),
            (json!({"uid": "u", "patch": patch}), false, "validating webhook may not return response.patch"),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                false,
                "validating webhook may not return response.patchType",
            ),
        ] {
            let read = read(&review(response.clone()), "u", Version::V1, mutating);
            assert_eq!(read.err().unwrap_or_default(), error, "{response}");
        }
        let other = json!({"apiVersion": "v1", "kind": "Pod", "response": {"uid": "u"}});
        assert_eq!(
            read(&other, "u", Version::V1, true).unwrap_err(),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Pod"
        );
        // The older form answers as it likes.
        let old = json!({"response": {"allowed": true, "patch": patch}});
        assert_eq!(read(&old, "u", Version::V1Beta1, true).unwrap().patch_type, "JSONPatch");
    }

    #[test]
    fn refusals_have_a_code_and_a_sentence() {
        for (result, code, message) in [
            (Value::Null, 400, "admission webhook \"h\" denied the request without explanation"),
            (json!({"message": "no"}), 400, "admission webhook \"h\" denied the request: no"),
            (json!({"reason": "Bad", "code": 200}), 400, "admission webhook \"h\" denied the request: Bad"),
            (json!({"message": "no", "code": 403}), 403, "admission webhook \"h\" denied the request: no"),
        ] {
            let status = rejection("h", &result);
            assert_eq!((status.code, status.message.as_str()), (code, message));
            assert_eq!(status.status, "Failure");
        }
    }
}
