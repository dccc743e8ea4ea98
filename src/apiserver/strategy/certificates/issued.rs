//! How PodCertificateRequests end: issued, denied or failed, once and for all.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use super::super::checks;
use super::super::error::same;
use super::super::value::{items, text};
use super::stub;
use crate::api::go;
use crate::api::status::FieldError;

/// The conditions by which requests end.
const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];
/// What a signer says of the certificate.
const FACTS: [&str; 4] = ["certificateChain", "notBefore", "beginRefreshAt", "notAfter"];
/// The longest chain.
const CHAIN_BYTES: usize = 100 << 10;
/// The shortest life of a certificate.
const SHORTEST: SignedDuration = SignedDuration::from_hours(1);
/// How far from now a certificate may begin.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// How far from both ends of the certificate's life it is to be renewed.
const MARGIN: SignedDuration = SignedDuration::from_mins(10);

const CHAIN: &str = "status.certificateChain";
const NOT_BEFORE: &str = "status.notBefore";
const NOT_AFTER: &str = "status.notAfter";
const BEGIN_REFRESH: &str = "status.beginRefreshAt";

/// What is wrong with the change of a request's status.
pub(super) fn errors(new: &Value, old: &Value, now: Timestamp) -> Vec<FieldError> {
    let (status, before) = (&new["status"], &old["status"]);
    let errors = conditions(items(status, "conditions"));
    if !errors.is_empty() {
        return errors;
    }
    let stays = |why: &str| {
        let changed = !same(&status["conditions"], &before["conditions"]) || facts_differ(status, before);
        changed.then(|| FieldError::invalid_without_value("status", why)).into_iter().collect()
    };
    match (end(before), end(status)) {
        (Some(_), _) => stays("immutable after PodCertificateRequest is issued, denied, or failed"),
        (None, Some("Issued")) => issued(new, now),
        (None, Some(_)) => {
            let why =
                "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
            let extra = facts_differ(status, &Value::Null);
            extra.then(|| FieldError::invalid_without_value("status", why)).into_iter().collect()
        }
        (None, None) => {
            stays("status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")
        }
    }
}

/// How a request ended.
fn end(status: &Value) -> Option<&str> {
    let ended = |condition: &&Value| condition["status"] == "True" && ENDS.contains(&text(condition, "type"));
    items(status, "conditions").iter().find(ended).map(|condition| text(condition, "type"))
}

fn facts_differ(one: &Value, other: &Value) -> bool {
    FACTS.iter().any(|fact| !same(&one[*fact], &other[*fact]))
}

/// At most one condition is there, and it is true.
fn conditions(all: &[Value]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut known = 0;
    for (i, condition) in all.iter().enumerate() {
        let at = |field: &str| format!("status.conditions[{i}].{field}");
        if !ENDS.contains(&text(condition, "type")) {
            errors.push(FieldError::not_supported(at("type"), &text(condition, "type").into(), &ENDS));
            continue;
        }
        known += 1;
        if known > 1 {
            let why = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(FieldError::invalid(at("type"), &condition["type"], why));
        }
        if condition["status"] != "True" {
            let given = text(condition, "status").into();
            errors.push(FieldError::not_supported(at("status"), &given, &["True"]));
        }
    }
    errors.extend(checks::conditions(all));
    errors
}

/// What is wrong with the certificate of a request that was just issued.
fn issued(request: &Value, now: Timestamp) -> Vec<FieldError> {
    let status = &request["status"];
    let chain = text(status, "certificateChain");
    if chain.len() > CHAIN_BYTES {
        return vec![FieldError::too_long(CHAIN, CHAIN_BYTES)];
    }
    let in_chain = |why: &str| vec![FieldError::invalid(CHAIN, &chain.into(), why)];
    let blocks: Vec<Pem> = Pem::iter_from_buffer(chain.as_bytes()).filter_map(Result::ok).collect();
    let Some((first, others)) = blocks.split_first() else {
        return in_chain("issued certificate chain must contain at least one certificate");
    };
    if blocks.iter().any(|block| block.label != "CERTIFICATE") {
        return in_chain("issued certificate chain must consist entirely of CERTIFICATE PEM blocks");
    }
    let Some(leaf) = certificate(first) else {
        return in_chain("leaf certificate does not parse as valid X.509");
    };
    let mut errors = names(&leaf);
    if stub::key(&request["spec"]["stubPKCS10Request"]).as_deref() != Some(leaf.public_key().raw) {
        errors.extend(in_chain("leaf certificate was not issued to the requested public key"));
        return errors;
    }
    errors.extend(times(request, &leaf, now));
    if errors.is_empty() && others.iter().any(|block| certificate(block).is_none()) {
        return in_chain("intermediate certificate does not parse as valid X.509");
    }
    errors
}

fn certificate(block: &Pem) -> Option<X509Certificate<'_>> {
    let (rest, certificate) = X509Certificate::from_der(&block.contents).ok()?;
    rest.is_empty().then_some(certificate)
}

/// What is wrong with the names that a certificate is good for.
fn names(leaf: &X509Certificate<'_>) -> Vec<FieldError> {
    let Ok(names) = leaf.subject_alternative_name() else {
        return vec![FieldError::invalid_without_value(
            CHAIN,
            "leaf certificate does not parse as valid X.509",
        )];
    };
    let mut errors = Vec::new();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match *name {
            GeneralName::DNSName(host) => {
                let wrong = [
                    (host.is_empty(), "leaf certificate should not contain empty DNSName"),
                    (host.contains(".."), "leaf certificate's DNSName should not contain '..'"),
                    (
                        host.starts_with('.') || host.ends_with('.'),
                        "leaf certificate's DNSName should not start or end with '.'",
                    ),
                ];
                let wrong = wrong.into_iter().filter(|(wrong, _)| *wrong);
                errors.extend(wrong.map(|(_, why)| FieldError::invalid(CHAIN, &host.into(), why)));
            }
            GeneralName::RFC822Name(address) if !is_address(address) => {
                let why = "leaf certificate should not contain invalid EmailAddress";
                errors.push(FieldError::invalid(CHAIN, &address.into(), why));
            }
            _ => {}
        }
    }
    errors
}

/// Whether a text is a mailbox at a domain.
fn is_address(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "<>()[],;:\\\"".contains(c);
    let parts = text.rsplit_once('@');
    parts.is_some_and(|(mailbox, domain)| {
        [mailbox, domain].iter().all(|part| part.split('.').all(|atom| !atom.is_empty()))
            && !mailbox.contains('@')
            && !text.contains(odd)
    })
}

/// What is wrong with what a status says of the times of its certificate, and with these.
fn times(request: &Value, leaf: &X509Certificate<'_>, now: Timestamp) -> Vec<FieldError> {
    const CONSISTENT: &str = "must be present and consistent with the issued certificate";
    let status = &request["status"];
    let at = |field: &str| text(status, field).parse::<Timestamp>().ok();
    let times = (at("notBefore"), at("notAfter"), at("beginRefreshAt"));
    let (Some(begins), Some(ends), Some(refresh)) = times else {
        return [
            (times.0, NOT_BEFORE, CONSISTENT),
            (times.1, NOT_AFTER, CONSISTENT),
            (times.2, BEGIN_REFRESH, "must be present and in the range [notbefore+10min, notafter-10min]"),
        ]
        .into_iter()
        .filter(|(time, ..)| time.is_none())
        .map(|(_, path, why)| FieldError::required(path, why))
        .collect();
    };
    // As Go prints its own type.
    let wrong = |path: &str, time: Timestamp, why: &str| {
        let form = time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string();
        let given = json!(time.to_string());
        vec![FieldError::invalid(path, &given, why).showing(&given, &form)]
    };
    let validity = leaf.validity();
    if begins.as_second() != validity.not_before.timestamp() {
        return wrong(
            NOT_BEFORE,
            begins,
            "must be set to the NotBefore time encoded in the leaf certificate",
        );
    }
    if begins.duration_since(now).abs() >= SKEW {
        return wrong(NOT_BEFORE, begins, "must be set to within 5 minutes of kube-apiserver's current time");
    }
    if ends.as_second() != validity.not_after.timestamp() {
        return wrong(NOT_AFTER, ends, "must be set to the NotAfter time encoded in the leaf certificate");
    }
    let life = ends.duration_since(begins);
    let asked = request["spec"]["maxExpirationSeconds"].as_i64().unwrap_or_default();
    let too = |why: &str| {
        let shown = go::duration(life.unsigned_abs());
        let given = json!(life.as_secs());
        vec![FieldError::invalid(CHAIN, &given, why).showing(&given, &shown)]
    };
    if life < SHORTEST {
        return too("leaf certificate lifetime must be >= 1 hour");
    }
    if life > SignedDuration::from_secs(asked) {
        return too(&format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({asked})"));
    }
    if refresh.duration_since(begins) < MARGIN {
        return wrong(BEGIN_REFRESH, refresh, "must be at least 10 minutes after status.notBefore");
    }
    if ends.duration_since(refresh) < MARGIN {
        return wrong(BEGIN_REFRESH, refresh, "must be at least 10 minutes before status.notAfter");
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "Test", "message": "",
            "lastTransitionTime": "2030-01-01T00:00:00Z"})
    }

    /// A certificate of 2030-01-01 for so many minutes.
    fn certificate(key: &KeyPair, minutes: u64, names: Vec<SanType>) -> String {
        let mut params = CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2030, 1, 1);
        params.not_after = params.not_before + Duration::from_secs(minutes * 60);
        params.subject_alt_names = names;
        params.self_signed(key).unwrap().pem()
    }

    fn told(status: Value, before: Value, key: &KeyPair) -> String {
        let stub = CertificateParams::default().serialize_request(key).unwrap();
        let spec = json!({"maxExpirationSeconds": 86400, "stubPKCS10Request": STANDARD.encode(stub.der())});
        let now = "2030-01-01T00:04:59Z".parse().unwrap();
        let (new, old) = (json!({"spec": spec, "status": status}), json!({"spec": spec, "status": before}));
        errors(&new, &old, now).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn requests_end_once() {
        let key = KeyPair::generate().unwrap();
        let with = |conditions: &[Value]| json!({ "conditions": conditions });
        let ends = "\"Issued\", \"Denied\", \"Failed\"";
        let denied = with(&[condition("Denied", "True")]);
        let unsupported = "Unsupported value";
        for (status, before, expected) in [
            (json!({}), Value::Null, String::new()),
            (denied.clone(), json!({}), String::new()),
            (denied.clone(), denied.clone(), String::new()),
            (with(&[condition("Failed", "True")]), json!({}), String::new()),
            (
                with(&[condition("Failed", "True")]),
                denied.clone(),
                "status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed".to_owned(),
            ),
            (
                with(&[]),
                denied,
                "status: Invalid value: immutable after PodCertificateRequest is issued, denied, or failed".to_owned(),
            ),
            (
                with(&[condition("Odd", "True")]),
                json!({}),
                format!("status.conditions[0].type: {unsupported}: \"Odd\": supported values: {ends}"),
            ),
            (
                with(&[condition("Denied", "False")]),
                json!({}),
                format!("status.conditions[0].status: {unsupported}: \"False\": supported values: \"True\""),
            ),
            (
                with(&[condition("Denied", "True"), condition("Failed", "True")]),
                json!({}),
                "status.conditions[1].type: Invalid value: \"Failed\": There may be at most one condition with type \
                 \"Issued\", \"Denied\", or \"Failed\""
                    .to_owned(),
            ),
            (
                with(&[json!({"type": "Denied", "status": "True"})]),
                json!({}),
                "status.conditions[0].lastTransitionTime: Required value; status.conditions[0].reason: Required value"
                    .to_owned(),
            ),
            (
                json!({"conditions": [condition("Denied", "True")], "certificateChain": "x"}),
                json!({}),
                "status: Invalid value: non-condition status fields must be empty when denying or failing the \
                 PodCertificateRequest"
                    .to_owned(),
            ),
            (
                json!({"certificateChain": "x"}),
                json!({}),
                "status: Invalid value: status is immutable unless transitioning to \"Issued\", \"Denied\", or \
                 \"Failed\""
                    .to_owned(),
            ),
        ] {
            assert_eq!(told(status.clone(), before, &key), expected, "{status}");
        }
    }

    #[test]
    fn certificates_are_what_was_asked_for() {
        let key = KeyPair::generate().unwrap();
        let (day, hour) = (certificate(&key, 1440, vec![]), certificate(&key, 60, vec![]));
        let (short, long) = (certificate(&key, 59, vec![]), certificate(&key, 1441, vec![]));
        let foreign = certificate(&KeyPair::generate().unwrap(), 1440, vec![]);
        let named = |name: SanType| certificate(&key, 1440, vec![name]);
        let host = |name: &str| named(SanType::DnsName(name.try_into().unwrap()));
        let mail = |name: &str| named(SanType::Rfc822Name(name.try_into().unwrap()));
        let broken = "-----BEGIN CERTIFICATE-----\neA==\n-----END CERTIFICATE-----\n";
        let (next, noon) = ("2030-01-02T00:00:00Z", "2030-01-01T12:00:00Z");
        for (chain, changes, expected) in [
            (day.clone(), json!({}), ""),
            (format!("{day}{hour}"), json!({}), ""),
            (
                hour.clone(),
                json!({"notAfter": "2030-01-01T01:00:00Z", "beginRefreshAt": "2030-01-01T00:50:00Z"}),
                "",
            ),
            (host("www.example.com"), json!({}), ""),
            (mail("jane@example.com"), json!({}), ""),
            (String::new(), json!({}), "issued certificate chain must contain at least one certificate"),
            (key.serialize_pem(), json!({}), "must consist entirely of CERTIFICATE PEM blocks"),
            (
                format!("{day}{}", key.serialize_pem()),
                json!({}),
                "must consist entirely of CERTIFICATE PEM blocks",
            ),
            (broken.to_owned(), json!({}), "leaf certificate does not parse as valid X.509"),
            (format!("{day}{broken}"), json!({}), "intermediate certificate does not parse as valid X.509"),
            ("x".repeat(CHAIN_BYTES + 1), json!({}), "Too long: may not be more than 102400 bytes"),
            (foreign, json!({}), "leaf certificate was not issued to the requested public key"),
            (host("a..b"), json!({}), "\"a..b\": leaf certificate's DNSName should not contain '..'"),
            (host(".a"), json!({}), "\".a\": leaf certificate's DNSName should not start or end with '.'"),
            (host(""), json!({}), "\"\": leaf certificate should not contain empty DNSName"),
            (mail("jane"), json!({}), "\"jane\": leaf certificate should not contain invalid EmailAddress"),
            (
                day.clone(),
                json!({"notBefore": null}),
                "status.notBefore: Required value: must be present and consistent with the issued certificate",
            ),
            (
                day.clone(),
                json!({"notBefore": "2030-01-01T00:00:01Z"}),
                "status.notBefore: Invalid value: 2030-01-01 00:00:01 +0000 UTC: must be set to the NotBefore time \
                 encoded in the leaf certificate",
            ),
            (
                day.clone(),
                json!({"notAfter": noon}),
                "must be set to the NotAfter time encoded in the leaf certificate",
            ),
            (
                short,
                json!({"notAfter": "2030-01-01T00:59:00Z"}),
                "status.certificateChain: Invalid value: 59m0s: leaf certificate lifetime must be >= 1 hour",
            ),
            (
                long,
                json!({"notAfter": "2030-01-02T00:01:00Z"}),
                "status.certificateChain: Invalid value: 24h1m0s: leaf certificate lifetime must be <= \
                 spec.maxExpirationSeconds (86400)",
            ),
            (
                day.clone(),
                json!({"beginRefreshAt": "2030-01-01T00:09:59Z"}),
                "must be at least 10 minutes after status.notBefore",
            ),
            (
                day.clone(),
                json!({"beginRefreshAt": "2030-01-01T23:50:01Z"}),
                "must be at least 10 minutes before status.notAfter",
            ),
        ] {
            let mut status = json!({"conditions": [condition("Issued", "True")], "certificateChain": chain,
                "notBefore": "2030-01-01T00:00:00Z", "notAfter": next, "beginRefreshAt": noon});
            for (field, value) in changes.as_object().unwrap() {
                status[field] = value.clone();
            }
            let told = told(status, json!({}), &key);
            assert!(told.ends_with(expected) && told.is_empty() == expected.is_empty(), "{told}: {expected}");
        }
    }

    #[test]
    fn certificates_begin_now() {
        let key = KeyPair::generate().unwrap();
        let stub = CertificateParams::default().serialize_request(&key).unwrap();
        let request = json!({
            "spec": {"maxExpirationSeconds": 86400, "stubPKCS10Request": STANDARD.encode(stub.der())},
            "status": {"conditions": [condition("Issued", "True")],
                "certificateChain": certificate(&key, 1440, vec![]), "notBefore": "2030-01-01T00:00:00Z",
                "notAfter": "2030-01-02T00:00:00Z", "beginRefreshAt": "2030-01-01T12:00:00Z"},
        });
        for (now, right) in [
            ("2029-12-31T23:55:00Z", false),
            ("2029-12-31T23:55:01Z", true),
            ("2030-01-01T00:04:59Z", true),
            ("2030-01-01T00:05:00Z", false),
        ] {
            let errors = errors(&request, &json!({}), now.parse().unwrap());
            assert_eq!(errors.is_empty(), right, "{now}: {errors:?}");
        }
    }
}
