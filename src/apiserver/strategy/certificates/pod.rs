//! PodCertificateRequests: kubelets ask for a pod's certificate, a signer issues, denies or fails. Facts that the
//! certificate is to state are checked where the request is made.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::column::{self, CREATED_AT, NAME};
use super::super::error::{immutable, invalid};
use super::super::value::{entries, fill, object, text};
use super::super::{Column, Strategy};
use super::{issued, signer, stub};
use crate::api::names;
use crate::api::status::FieldError;
use crate::clock;

/// Lifetimes in seconds: the shortest; what who says nothing gets, which is the longest of Kubernetes' own signers; and
/// the longest.
const SHORTEST: i64 = 3600;
const DAY: i64 = 24 * 3600;
const LONGEST: i64 = 91 * DAY;
/// The longest unique identifier.
const UID_BYTES: usize = 128;
/// All annotations together, keys and values.
const ANNOTATIONS_BYTES: usize = 256 << 10;

/// The strategy of pods' requests.
pub(super) struct PodCertificateRequest;

impl Strategy for PodCertificateRequest {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn default(&self, request: &mut Value) {
        object(request, "spec");
        fill(&mut request["spec"], "maxExpirationSeconds", DAY);
    }

    fn prepare_create(&self, request: &mut Value) {
        if let Some(fields) = request.as_object_mut() {
            fields.insert("status".to_owned(), json!({}));
        }
    }

    fn validate_create(&self, request: &Value) -> Vec<FieldError> {
        let spec = &request["spec"];
        let mut errors = signer::errors("spec.signerName", &spec["signerName"]);
        errors.extend(annotations(spec));
        for of in ["pod", "serviceAccount", "node"] {
            let (name, uid) = (format!("{of}Name"), format!("{of}UID"));
            let given = text(spec, &name);
            errors.extend(invalid(&format!("spec.{name}"), &given.into(), names::dns_subdomain(given)));
            let path = format!("spec.{uid}");
            match text(spec, &uid).len() {
                0 => errors.push(FieldError::invalid(path, &"".into(), "must not be empty")),
                1..=UID_BYTES => {}
                _ => errors.push(FieldError::too_long(path, UID_BYTES)),
            }
        }
        errors.extend(lifetime(spec));
        errors.extend(stub::error("spec.stubPKCS10Request", &spec["stubPKCS10Request"]));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        immutable("spec", &new["spec"], &old["spec"]).into_iter().collect()
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        issued::errors(new, old, clock::now())
    }

    fn fields(&self, request: &Value) -> Vec<(&'static str, String)> {
        let field = |name: &str| text(&request["spec"], name).to_owned();
        vec![
            ("spec.signerName", field("signerName")),
            ("spec.podName", field("podName")),
            ("spec.nodeName", field("nodeName")),
        ]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, CREATED_AT];
        COLUMNS
    }

    fn cells(&self, request: &Value, _now: Timestamp) -> Vec<Value> {
        vec![column::name(request), request["metadata"]["creationTimestamp"].clone()]
    }
}

fn lifetime(spec: &Value) -> Option<FieldError> {
    const PATH: &str = "spec.maxExpirationSeconds";
    let given = &spec["maxExpirationSeconds"];
    let Some(seconds) = given.as_i64() else { return Some(FieldError::required(PATH, "must be set")) };
    let domain = text(spec, "signerName").split('/').next().unwrap_or_default();
    let reserved = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let longest = if reserved { DAY } else { LONGEST };
    let why = || format!("must be in the range [{SHORTEST}, {longest}]");
    (!(SHORTEST..=longest).contains(&seconds)).then(|| FieldError::invalid(PATH, given, &why()))
}

/// What is wrong with the annotations that a pod's author has for the signer: each is somebody's.
fn annotations(spec: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.unverifiedUserAnnotations";
    let (mut errors, mut size) = (Vec::new(), 0);
    for (key, value) in entries(spec, "unverifiedUserAnnotations") {
        size += key.len() + value.as_str().map_or(0, str::len);
        let key = key.to_lowercase();
        if key.is_empty() {
            errors.push(FieldError::required(PATH, ""));
            continue;
        }
        let mut wrong = names::qualified_name(&key);
        if wrong.is_empty() && !key.contains('/') {
            wrong.push("must be a domain-prefixed key (such as \"acme.io/foo\")".to_owned());
        }
        errors.extend(invalid(PATH, &key.into(), wrong));
    }
    if size > ANNOTATIONS_BYTES {
        errors.push(FieldError::too_long(PATH, ANNOTATIONS_BYTES));
    }
    errors
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    const STRATEGY: PodCertificateRequest = PodCertificateRequest;

    /// A right request with these fields changed.
    fn request(changes: Value) -> Value {
        let key = rcgen::KeyPair::generate().unwrap();
        let stub = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let mut spec = json!({"signerName": "example.com/signer", "podName": "www", "podUID": "1",
            "serviceAccountName": "default", "serviceAccountUID": "2", "nodeName": "minik", "nodeUID": "3",
            "stubPKCS10Request": STANDARD.encode(stub.der())});
        for (key, value) in changes.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut request = json!({ "spec": spec });
        STRATEGY.default(&mut request);
        request
    }

    #[test]
    fn a_day_is_asked_for_unless_another_time_is() {
        assert_eq!(request(json!({}))["spec"]["maxExpirationSeconds"], 86400);
        assert_eq!(request(json!({"maxExpirationSeconds": 7200}))["spec"]["maxExpirationSeconds"], 7200);
        let mut empty = json!({});
        STRATEGY.default(&mut empty);
        assert_eq!(empty, json!({"spec": {"maxExpirationSeconds": 86400}}));
    }

    #[test]
    fn requests_are_checked() {
        const RANGE: &str = "must be in the range [3600, 7862400]";
        const RESERVED: &str = "must be in the range [3600, 86400]";
        const KUBERNETES: &str = "kubernetes.io/kube-apiserver-client-pod";
        for (changes, expected) in [
            (json!({}), vec![]),
            (json!({"maxExpirationSeconds": 3600}), vec![]),
            (json!({"maxExpirationSeconds": 7862400}), vec![]),
            (
                json!({"maxExpirationSeconds": 3599}),
                vec![format!("spec.maxExpirationSeconds: Invalid value: 3599: {RANGE}")],
            ),
            (
                json!({"maxExpirationSeconds": 7862401}),
                vec![format!("spec.maxExpirationSeconds: Invalid value: 7862401: {RANGE}")],
            ),
            (json!({"signerName": KUBERNETES}), vec![]),
            (
                json!({"signerName": KUBERNETES, "maxExpirationSeconds": 86401}),
                vec![format!("spec.maxExpirationSeconds: Invalid value: 86401: {RESERVED}")],
            ),
            (
                json!({"signerName": "x.kubernetes.io/y", "maxExpirationSeconds": 86401}),
                vec![format!("spec.maxExpirationSeconds: Invalid value: 86401: {RESERVED}")],
            ),
            (json!({"signerName": ""}), vec!["spec.signerName: Required value".to_owned()]),
            (
                json!({"podUID": "", "nodeUID": "x".repeat(129)}),
                vec![
                    "spec.podUID: Invalid value: \"\": must not be empty".to_owned(),
                    "spec.nodeUID: Too long: may not be more than 128 bytes".to_owned(),
                ],
            ),
            (json!({"unverifiedUserAnnotations": {"acme.io/foo": "any, thing"}}), vec![]),
            (
                json!({"unverifiedUserAnnotations": {"Foo": "x", "": "y"}}),
                vec![
                    "spec.unverifiedUserAnnotations: Required value".to_owned(),
                    "spec.unverifiedUserAnnotations: Invalid value: \"foo\": must be a domain-prefixed key (such as \
                     \"acme.io/foo\")"
                        .to_owned(),
                ],
            ),
            (
                json!({"unverifiedUserAnnotations": {"acme.io/foo": "x".repeat(256 << 10)}}),
                vec!["spec.unverifiedUserAnnotations: Too long: may not be more than 262144 bytes".to_owned()],
            ),
        ] {
            let errors = STRATEGY.validate_create(&request(changes.clone()));
            let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(told, expected, "{changes:.200}");
        }
        let nothing = STRATEGY.validate_create(&json!({}));
        let fields: Vec<String> = nothing.into_iter().map(|error| error.field).collect();
        assert_eq!(
            fields,
            [
                "spec.signerName",
                "spec.podName",
                "spec.podUID",
                "spec.serviceAccountName",
                "spec.serviceAccountUID",
                "spec.nodeName",
                "spec.nodeUID",
                "spec.maxExpirationSeconds",
                "spec.stubPKCS10Request"
            ]
        );
    }

    #[test]
    fn what_is_asked_for_stays() {
        let old = request(json!({}));
        assert!(STRATEGY.validate_update(&old, &old).is_empty());
        let mut new = old.clone();
        new["spec"]["podName"] = "other".into();
        let errors = STRATEGY.validate_update(&new, &old);
        assert!(errors[0].to_string().ends_with("field is immutable"), "{errors:?}");
    }
}
