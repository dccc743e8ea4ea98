//! CertificateSigningRequests: asked for by one, approved by another, signed by a third.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, AGE, NAME, NONE};
use super::super::value::{carry_over, is_set, items, items_mut, text};
use super::super::{Column, Strategy};
use super::{pem, signer};
use crate::api::meta;
use crate::api::request::User;
use crate::api::status::FieldError;
use crate::clock;

/// What keys may be for (`KeyUsage` of k8s.io/api certificates/v1).
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// The shortest life of a certificate, in seconds.
const LIFE: i64 = 600;
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// The conditions by which a request is decided, and all that stay for ever.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];

/// The strategy of requests.
pub(super) struct CertificateSigningRequest;

/// Writes into a new request who asks.
pub fn set_requester(request: &mut Value, user: &User) {
    let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["uid", "extra"] {
        spec.remove(field);
    }
    spec.insert("username".to_owned(), user.name.as_str().into());
    spec.insert("groups".to_owned(), json!(user.groups));
    if let Some(uid) = &user.uid {
        spec.insert("uid".to_owned(), uid.as_str().into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".to_owned(), json!(user.extra));
    }
}

impl Strategy for CertificateSigningRequest {
    fn name_errors(&self, _object: &Value, _name: &str) -> Vec<String> {
        Vec::new()
    }

    fn prepare_create(&self, request: &mut Value) {
        if let Some(fields) = request.as_object_mut() {
            fields.insert("status".to_owned(), json!({}));
        }
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        carry_over(new, old, "spec");
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        for decision in DECISIONS {
            let before = of_type(&old["status"], decision);
            let now: Vec<&mut Value> = items_mut(&mut new["status"], "conditions")
                .filter(|condition| text(condition, "type") == decision)
                .collect();
            if now.len() == before.len() {
                now.into_iter().zip(before).for_each(|(now, before)| *now = before.clone());
            }
        }
        stamp(new, old, clock::now());
    }

    fn prepare_approval_update(&self, new: &mut Value, old: &Value) {
        let conditions = new["status"]["conditions"].clone();
        carry_over(new, old, "spec");
        carry_over(new, old, "status");
        if !new["status"].is_object() {
            new["status"] = json!({});
        }
        if conditions.is_array() {
            new["status"]["conditions"] = conditions;
        }
        stamp(new, old, clock::now());
    }

    fn validate_create(&self, request: &Value) -> Vec<FieldError> {
        let spec = &request["spec"];
        let mut errors = Vec::new();
        if let Some(why) = pem::wrong_request(&spec["request"]) {
            errors.push(FieldError::invalid("spec.request", &spec["request"], &why));
        }
        errors.extend(usages(items(spec, "usages")));
        if text(spec, "signerName") == LEGACY_SIGNER {
            let why = "the legacy signerName is not allowed via this API version";
            errors.push(FieldError::invalid("spec.signerName", &spec["signerName"], why));
        } else {
            errors.extend(signer::errors("spec.signerName", &spec["signerName"]));
        }
        let life = &spec["expirationSeconds"];
        if life.as_i64().is_some_and(|seconds| seconds < LIFE) {
            let why = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.push(FieldError::invalid("spec.expirationSeconds", life, why));
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = conditions(&new["status"], &old["status"]);
        errors.extend(decided_elsewhere(&new["status"], &old["status"]));
        let (now, before) = (&new["status"]["certificate"], &old["status"]["certificate"]);
        if now != before {
            if let Some(why) = pem::wrong_certificate(now) {
                errors.push(FieldError::invalid("status.certificate", &"<certificate data>".into(), &why));
            }
            if is_set(&old["status"], "certificate") {
                let why = "updates may not modify existing certificate content";
                errors.push(FieldError::forbidden("status.certificate", why));
            }
        }
        errors
    }

    fn validate_approval_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        conditions(&new["status"], &old["status"])
    }

    fn fields(&self, request: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(&request["spec"], "signerName").to_owned())]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            AGE,
            column::text("SignerName", "Who is to sign."),
            column::text("Requestor", "Who asks."),
            column::text("RequestedDuration", "How long the certificate is to be good."),
            column::text("Condition", "How far the request has come."),
        ];
        COLUMNS
    }

    fn cells(&self, request: &Value, now: Timestamp) -> Vec<Value> {
        let spec = &request["spec"];
        let life = spec["expirationSeconds"].as_i64().map_or(NONE.to_owned(), column::human);
        vec![
            column::name(request),
            column::age(request, now),
            column::or_none(text(spec, "signerName")),
            text(spec, "username").into(),
            life.into(),
            progress(&request["status"]).into(),
        ]
    }
}

fn progress(status: &Value) -> String {
    let has = |of: &str| !of_type(status, of).is_empty();
    let decision = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = if is_set(status, "certificate") { ",Issued" } else { "" };
    format!("{decision}{failed}{issued}")
}

fn of_type<'a>(status: &'a Value, of: &str) -> Vec<&'a Value> {
    items(status, "conditions").iter().filter(|condition| text(condition, "type") == of).collect()
}

/// Fills in the times that new conditions lack; a condition whose status is the old one keeps the old time.
fn stamp(new: &mut Value, old: &Value, now: Timestamp) {
    let now = meta::timestamp(now);
    for condition in items_mut(&mut new["status"], "conditions") {
        if !condition.is_object() {
            continue;
        }
        if !is_set(condition, "lastUpdateTime") {
            condition["lastUpdateTime"] = now.as_str().into();
        }
        if !is_set(condition, "lastTransitionTime") {
            let before = of_type(&old["status"], text(condition, "type"));
            let same = before.iter().find(|before| before["status"] == condition["status"]);
            let time = same.map(|before| text(before, "lastTransitionTime")).filter(|time| !time.is_empty());
            condition["lastTransitionTime"] = time.unwrap_or(&now).into();
        }
    }
}

fn usages(usages: &[Value]) -> Vec<FieldError> {
    if usages.is_empty() {
        return vec![FieldError::required("spec.usages", "")];
    }
    let mut errors = Vec::new();
    let at = |i: usize| format!("spec.usages[{i}]");
    for (i, usage) in usages.iter().enumerate() {
        if !USAGES.iter().any(|known| usage == known) {
            errors.push(FieldError::not_supported(at(i), usage, USAGES));
        }
    }
    let twice = usages.iter().enumerate().filter(|(i, usage)| usages[..*i].contains(usage));
    errors.extend(twice.map(|(i, usage)| FieldError::duplicate(at(i), usage)));
    errors
}

/// What is wrong with the conditions of a request, and with what became of the old ones.
fn conditions(new: &Value, old: &Value) -> Vec<FieldError> {
    const PATH: &str = "status.conditions";
    let given = items(new, "conditions");
    let mut errors = Vec::new();
    for (i, condition) in given.iter().enumerate() {
        let of = text(condition, "type");
        let path = format!("{PATH}[{i}].type");
        if of.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        let allowed: &[&str] = if LASTING.contains(&of) { &["True"] } else { &["False", "True", "Unknown"] };
        errors.extend(super::super::error::one_of(
            &format!("{PATH}[{i}].status"),
            &condition["status"],
            allowed,
        ));
        let before = &given[..i];
        let other = DECISIONS.iter().find(|decision| DECISIONS.contains(&of) && **decision != of);
        if other.is_some_and(|other| before.iter().any(|condition| text(condition, "type") == *other)) {
            let why = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(&path, &condition["type"], why));
        }
        if before.iter().any(|before| before["type"] == condition["type"]) {
            errors.push(FieldError::duplicate(&path, &condition["type"]));
        }
    }
    for of in LASTING {
        if of_type(new, of).len() < of_type(old, of).len() {
            let why = format!("updates may not remove a condition of type {of:?}");
            errors.push(FieldError::forbidden(PATH, &why));
        }
    }
    errors
}

/// Decisions that a write made which has none to make.
fn decided_elsewhere(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for decision in DECISIONS {
        let (now, before) = (of_type(new, decision), of_type(old, decision));
        let what = if now.len() > before.len() {
            "add"
        } else if now.len() == before.len() && now != before {
            "modify"
        } else {
            continue;
        };
        let why = format!("updates may not {what} a condition of type {decision:?}");
        errors.push(FieldError::forbidden("status.conditions", &why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRATEGY: CertificateSigningRequest = CertificateSigningRequest;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn with(conditions: Value) -> Value {
        json!({"spec": {"signerName": "a.b/c"}, "status": {"conditions": conditions}})
    }

    #[test]
    fn the_server_says_who_asks() {
        let mut request = json!({"spec": {"username": "root", "uid": "1", "extra": {}, "groups": ["x"]}});
        let user = User { name: "jane".to_owned(), groups: vec!["dev".to_owned()], ..User::default() };
        set_requester(&mut request, &user);
        assert_eq!(request["spec"], json!({"username": "jane", "groups": ["dev"]}));
        let extra = [("team".to_owned(), vec!["blue".to_owned()])].into();
        set_requester(&mut request, &User { extra, ..user });
        assert_eq!(request["spec"]["extra"], json!({"team": ["blue"]}));
    }

    #[test]
    fn requests_are_checked() {
        let request = json!({"spec": {"request": "", "usages": ["client auth", "client auth", "magic"],
            "signerName": LEGACY_SIGNER, "expirationSeconds": 1}});
        let fields: Vec<String> = STRATEGY.validate_create(&request).into_iter().map(|e| e.field).collect();
        assert_eq!(
            fields,
            ["spec.request", "spec.usages[2]", "spec.usages[1]", "spec.signerName", "spec.expirationSeconds"]
        );
    }

    #[test]
    fn an_approval_changes_conditions_alone() {
        let old = json!({"spec": {"signerName": "a.b/c"}, "status": {}});
        let mut new = json!({"spec": {"signerName": "x"}, "status": {"certificate": "eA==",
            "conditions": [{"type": "Approved", "status": "True"}]}});
        STRATEGY.prepare_approval_update(&mut new, &old);
        assert_eq!((&new["spec"], new["status"].get("certificate")), (&old["spec"], None));
        assert!(is_set(&new["status"]["conditions"][0], "lastTransitionTime"));
        assert!(STRATEGY.validate_approval_update(&new, &old).is_empty());
        let both =
            with(json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]));
        assert_eq!(
            told(STRATEGY.validate_approval_update(&both, &old)),
            [
                "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually \
                 exclusive",
            ]
        );
        assert_eq!(
            told(STRATEGY.validate_approval_update(&old, &new)),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
    }

    #[test]
    fn a_status_decides_nothing() {
        let old = with(json!([{"type": "Approved", "status": "True", "reason": "old"}]));
        let mut new = with(json!([{"type": "Approved", "status": "True", "reason": "new"}]));
        STRATEGY.prepare_status_update(&mut new, &old);
        assert_eq!(new["status"]["conditions"][0]["reason"], "old");
        let mut new = with(json!([{"type": "Denied", "status": "True"}]));
        STRATEGY.prepare_status_update(&mut new, &old);
        assert_eq!(
            told(STRATEGY.validate_status_update(&new, &old)),
            [
                "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\"",
                "status.conditions: Forbidden: updates may not add a condition of type \"Denied\"",
            ]
        );
        let issued = json!({"status": {"certificate": "eA=="}});
        assert_eq!(
            told(STRATEGY.validate_status_update(&issued, &json!({}))),
            [
                "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"
            ]
        );
    }

    #[test]
    fn progress_is_shown() {
        for (status, shown) in [
            (json!({}), "Pending"),
            (json!({"conditions": [{"type": "Approved"}], "certificate": "eA=="}), "Approved,Issued"),
            (json!({"conditions": [{"type": "Denied"}, {"type": "Failed"}]}), "Denied,Failed"),
        ] {
            assert_eq!(progress(&status), shown);
        }
    }
}
