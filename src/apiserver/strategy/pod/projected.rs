//! What is wrong with files that objects, or the pod itself, become in a volume (`validateProjectionSources`,
//! `validateDownwardAPIVolumeFile`).

use serde_json::{Value, json};

use super::super::certificates::signer;
use super::super::checks;
use super::super::value::{items, text};
use super::references::{field_ref, resource_ref};
use super::volumes::{mode, relative};
use crate::api::names;
use crate::api::status::FieldError;

/// The fields of the pod that can be a file.
const FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const KEYS: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const HOUR: i64 = 3600;
/// For how long a pod's certificate may be good: 91 days, and a day where Kubernetes itself signs.
const LONGEST: i64 = 91 * 24 * HOUR;
const LONGEST_OF_KUBERNETES: i64 = 24 * HOUR;
const SEVERAL: &str = "may not specify more than 1 volume type per source";

/// What is wrong with the sources of a projected volume, whose files must not be in each other's way.
pub(super) fn sources(path: &str, volume: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut taken: Vec<&str> = Vec::new();
    for (i, source) in items(volume, "sources").iter().enumerate() {
        let at = format!("{path}.sources[{i}]");
        let mut count = 0;
        for kind in [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ] {
            let of = &source[kind];
            if of.is_null() {
                continue;
            }
            count += 1;
            errors.extend(self::source(path, &format!("{at}.{kind}"), kind, of));
            for (file, shown) in files_of(kind, of) {
                if taken.contains(&file) {
                    errors.push(FieldError::invalid(path, &json!(shown), "conflicting duplicate paths"));
                }
                taken.push(file);
            }
        }
        if count > 1 {
            errors.push(FieldError::forbidden(at, SEVERAL));
        }
    }
    errors
}

/// The files of a source, each with what Kubernetes shows when another has its path. Tokens may be overwritten.
fn files_of<'a>(kind: &str, source: &'a Value) -> Vec<(&'a str, &'a str)> {
    let listed = items(source, "items").iter().map(|item| text(item, "path")).filter(|path| !path.is_empty());
    match kind {
        "secret" | "configMap" => listed.map(|path| (path, text(source, "name"))).collect(),
        "downwardAPI" => listed.map(|path| (path, path)).collect(),
        "clusterTrustBundle" => vec![(text(source, "path"), text(source, "path"))],
        "podCertificate" => ["credentialBundlePath", "keyPath", "certificateChainPath"]
            .iter()
            .map(|field| text(source, field))
            .filter(|path| !path.is_empty())
            .map(|path| (path, path))
            .collect(),
        _ => Vec::new(),
    }
}

fn source(volume: &str, path: &str, kind: &str, source: &Value) -> Vec<FieldError> {
    match kind {
        "secret" | "configMap" => {
            let name = text(source, "name").is_empty();
            let mut errors: Vec<FieldError> =
                name.then(|| FieldError::required(format!("{path}.name"), "")).into_iter().collect();
            errors.extend(files(path, source));
            errors
        }
        "downwardAPI" => downward(path, source),
        "serviceAccountToken" => token(volume, path, source),
        "clusterTrustBundle" => bundle(path, source),
        _ => certificate(path, source),
    }
}

/// The files that keys become.
pub(super) fn files(path: &str, source: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, item) in items(source, "items").iter().enumerate() {
        let at = format!("{path}.items[{i}]");
        for field in ["key", "path"] {
            if text(item, field).is_empty() {
                errors.push(FieldError::required(format!("{at}.{field}"), ""));
            }
        }
        errors.extend(relative(&format!("{at}.path"), &item["path"]));
        errors.extend(mode(&format!("{at}.mode"), &item["mode"]));
    }
    errors
}

/// The files that fields of the pod become; Kubernetes does not say which item it means.
pub(super) fn downward(path: &str, source: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    for item in items(source, "items") {
        if text(item, "path").is_empty() {
            errors.push(FieldError::required(at("path"), ""));
        }
        errors.extend(relative(&at("path"), &item["path"]));
        match (&item["fieldRef"], &item["resourceFieldRef"]) {
            (Value::Null, Value::Null) => {
                errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
            }
            (Value::Null, reference) => errors.extend(resource_ref(&at("resourceFieldRef"), reference, true)),
            (reference, other) => {
                errors.extend(field_ref(&at("fieldRef"), reference, &FIELDS));
                if !other.is_null() {
                    let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    errors.push(FieldError::invalid(path, &json!("resource"), why));
                }
            }
        }
        errors.extend(mode(&at("mode"), &item["mode"]));
    }
    errors
}

/// A token of the pod's account; of its path Kubernetes tells as the volume's.
fn token(volume: &str, path: &str, token: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let seconds = token["expirationSeconds"].as_i64().unwrap_or(HOUR);
    let why = match seconds {
        ..600 => Some("may not specify a duration less than 10 minutes"),
        600..=0x1_0000_0000 => None,
        _ => Some("may not specify a duration larger than 2^32 seconds"),
    };
    let at = format!("{path}.expirationSeconds");
    errors.extend(why.map(|why| FieldError::invalid(at, &json!(seconds), why)));
    let at = format!("{volume}.path");
    match text(token, "path") {
        "" => errors.push(FieldError::required(at, "")),
        _ => errors.extend(relative(&at, &token["path"])),
    }
    errors
}

/// Certificates to trust: those of one bundle by its name, or those of a signer.
fn bundle(path: &str, bundle: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    match (bundle["name"].as_str(), bundle["signerName"].as_str()) {
        (Some(_), Some(_)) => {
            errors.push(FieldError::invalid(path, bundle, "only one of name and signerName may be used"));
        }
        (Some(name), None) => {
            if name.is_empty() {
                errors.push(FieldError::required(at("name"), "must be a valid object name"));
            }
            // Beyond the signer that the name begins with, it is that of an object.
            let own = name.rsplit(':').next().unwrap_or(name);
            for why in names::dns_subdomain(own) {
                let why = format!("not a valid clustertrustbundlename: {why}");
                errors.push(FieldError::invalid(at("name"), &bundle["name"], &why));
            }
            if !bundle["labelSelector"].is_null() {
                let why = "labelSelector must be unset if name is specified";
                errors.push(FieldError::invalid(at("labelSelector"), &bundle["labelSelector"], why));
            }
        }
        (None, Some(name)) => {
            if name.is_empty() {
                errors.push(FieldError::required(at("signerName"), "must be a valid signer name"));
            }
            errors.extend(signer::errors(&at("signerName"), &bundle["signerName"]));
            errors.extend(checks::label_selector(&at("labelSelector"), &bundle["labelSelector"]));
        }
        (None, None) => {
            errors.push(FieldError::required(path, "either name or signerName must be specified"));
        }
    }
    if text(bundle, "path").is_empty() {
        errors.push(FieldError::required(at("path"), ""));
    }
    errors.extend(relative(&at("path"), &bundle["path"]));
    errors
}

/// A certificate of the pod with its key.
fn certificate(path: &str, certificate: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = signer::errors(&at("signerName"), &certificate["signerName"]);
    let kind = text(certificate, "keyType");
    if !KEYS.contains(&kind) {
        errors.push(FieldError::not_supported(at("keyType"), &json!(kind), &KEYS));
    }
    if let Some(seconds) = certificate["maxExpirationSeconds"].as_i64() {
        let domain = text(certificate, "signerName").split('/').next().unwrap_or_default();
        let kubernetes = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
        let most = if kubernetes { LONGEST_OF_KUBERNETES } else { LONGEST };
        let bound = [(seconds < HOUR, ">=", HOUR), (seconds > most, "<=", most)];
        for (_, sign, bound) in bound.into_iter().filter(|(wrong, ..)| *wrong) {
            let why = format!("if provided, maxExpirationSeconds must be {sign} {bound}");
            errors.push(FieldError::invalid(at("maxExpirationSeconds"), &json!(seconds), &why));
        }
    }
    let fields = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    errors.extend(fields.iter().flat_map(|field| relative(&at(field), &certificate[*field])));
    if fields.iter().all(|field| text(certificate, field).is_empty()) {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(FieldError::required(path, why));
    }
    errors
}
