//! What is wrong with where volumes come from (`validateVolumeSource`).

use serde_json::{Value, json};

use super::super::persistentvolumeclaim as claim;
use super::super::value::{entries, is_set, items, text};
use super::containers::PULL;
use super::fields::{invalid, one_of, word};
use super::projected;
use super::volumes::{descending, mode, no_way_back};
use crate::api::meta;
use crate::api::names;
use crate::api::quantity;
use crate::api::status::FieldError;

/// The kinds of sources in the order in which Kubernetes looks at them; beyond the first, each is too many.
const KINDS: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
/// The texts that sources must have, of the kinds of which little else is asked.
const REQUIRED: &[(&str, &[&str])] = &[
    ("azureFile", &["secretName", "shareName"]),
    ("cinder", &["volumeID"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];
const HOST_PATHS: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const LONGEST_DRIVER: usize = 63;

/// What is wrong with a volume's source: there is one, and it is in order.
pub(super) fn validate(path: &str, volume: &Value, pod: &Value, is_pod: bool) -> Vec<FieldError> {
    let given: Vec<&str> = KINDS.into_iter().filter(|kind| !volume[*kind].is_null()).collect();
    let Some((kind, others)) = given.split_first() else {
        return vec![FieldError::required(path, "must specify a volume type")];
    };
    let mut errors = match *kind {
        "ephemeral" => ephemeral(path, volume, pod),
        // A template may leave it to whoever changes its pods.
        "image" if is_pod && text(&volume["image"], "reference").is_empty() => {
            vec![FieldError::required(format!("{path}.image.reference"), "")]
        }
        // The path is what Kubernetes says.
        "gcePersistentDisk" => source(&format!("{path}.persistentDisk"), kind, &volume[*kind]),
        _ => source(&format!("{path}.{kind}"), kind, &volume[*kind]),
    };
    for extra in others {
        // Two of the names are misspelt there.
        let said = match *extra {
            "cephfs" => "cephFS",
            "downwardAPI" => "downwarAPI",
            extra => extra,
        };
        let why = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(format!("{path}.{said}"), why));
    }
    let iscsi = &volume["iscsi"];
    if !iscsi["initiatorName"].is_null()
        && text(volume, "name").len() + 1 + text(iscsi, "targetPortal").len() > 64
    {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.push(FieldError::invalid(format!("{path}.name"), &json!(text(volume, "name")), why));
    }
    errors
}

/// What is wrong with a source of this kind, of a pod's volume or of a persistent one.
pub(in super::super) fn source(path: &str, kind: &str, source: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let required = |field: &str| text(source, field).is_empty().then(|| FieldError::required(at(field), ""));
    let fields = REQUIRED.iter().find(|(of, _)| *of == kind).map_or(&[][..], |(_, fields)| fields);
    let mut errors: Vec<FieldError> = fields.iter().filter_map(|field| required(field)).collect();
    match kind {
        "emptyDir" => {
            let limit = source["sizeLimit"].as_str().and_then(|t| quantity::parse(t).ok());
            if limit.is_some_and(|l| l.is_negative()) {
                let why = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(at("sizeLimit"), why));
            }
        }
        "hostPath" if text(source, "path").is_empty() => errors.extend(required("path")),
        "hostPath" => {
            errors.extend(no_way_back(&at("path"), &source["path"]));
            errors.extend(word(&at("type"), &source["type"], &HOST_PATHS));
        }
        "configMap" | "secret" => {
            errors.extend(required(if kind == "secret" { "secretName" } else { "name" }));
            errors.extend(mode(&at("defaultMode"), &source["defaultMode"]));
            errors.extend(projected::files(path, source));
        }
        "downwardAPI" => {
            errors.extend(mode(&at("defaultMode"), &source["defaultMode"]));
            errors.extend(projected::downward(path, source));
        }
        "projected" => {
            errors.extend(mode(&at("defaultMode"), &source["defaultMode"]));
            errors.extend(projected::sources(path, source));
        }
        "gitRepo" => errors.extend(descending(&at("directory"), &source["directory"])),
        "cinder" if !source["secretRef"].is_null() => {
            errors.extend(empty_name(&at("secretRef.name"), &source["secretRef"]));
        }
        "image" => {
            errors.extend(one_of(&at("pullPolicy"), &source["pullPolicy"], &PULL));
        }
        "nfs" => {
            errors.extend(required("server"));
            errors.extend(required("path"));
            if !text(source, "path").starts_with('/') {
                let given = json!(text(source, "path"));
                errors.push(FieldError::invalid(at("path"), &given, "must be an absolute path"));
            }
        }
        "csi" => errors.extend(csi(path, source)),
        "iscsi" => errors.extend(iscsi(path, source)),
        "fc" => errors.extend(fibre_channel(path, source)),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            errors.extend(required(if kind == "gcePersistentDisk" { "pdName" } else { "volumeID" }));
            if source["partition"].as_i64().is_some_and(|n| !(0..=255).contains(&n)) {
                let why = "must be between 1 and 255, inclusive";
                errors.push(FieldError::invalid(at("partition"), &source["partition"], why));
            }
        }
        "flexVolume" => errors.extend(flex(path, source)),
        "rbd" | "cephfs" => {
            if items(source, "monitors").is_empty() {
                errors.push(FieldError::required(at("monitors"), ""));
            }
            errors.extend(required("image").filter(|_| kind == "rbd"));
        }
        "flocker" => errors.extend(flocker(path, source)),
        "quobyte" => errors.extend(quobyte(path, source)),
        "storageos" => errors.extend(storage_os(path, source)),
        "azureDisk" => errors.extend(azure_disk(path, source)),
        _ => {}
    }
    errors
}

fn empty_name(path: &str, reference: &Value) -> Option<FieldError> {
    text(reference, "name").is_empty().then(|| FieldError::required(path, ""))
}

/// A volume that a driver makes for the pod.
fn csi(path: &str, source: &Value) -> Vec<FieldError> {
    let mut errors = driver(&format!("{path}.driver"), text(source, "driver"));
    let secret = &source["nodePublishSecretRef"];
    if !secret.is_null() {
        match text(secret, "name") {
            "" => errors.push(FieldError::required(format!("{path}.nodePublishSecretRef.name"), "")),
            // Kubernetes leaves the reference out of the path.
            name => {
                errors.extend(invalid(&format!("{path}.name"), &secret["name"], names::dns_subdomain(name)))
            }
        }
    }
    errors
}

/// The name of a driver (`ValidateCSIDriverName`).
fn driver(path: &str, name: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if name.len() > LONGEST_DRIVER {
        errors.push(FieldError::too_long(path, LONGEST_DRIVER));
    }
    errors.extend(invalid(path, &json!(name), names::dns_subdomain(&name.to_lowercase())));
    errors
}

/// A claim that is made for the pod and named after it.
fn ephemeral(path: &str, volume: &Value, pod: &Value) -> Vec<FieldError> {
    let at = format!("{path}.ephemeral.volumeClaimTemplate");
    let template = &volume["ephemeral"]["volumeClaimTemplate"];
    let mut errors = match template {
        Value::Null => vec![FieldError::required(at, "")],
        template => claim::template(&at, template),
    };
    let (pod, name) = (meta::name(pod), text(volume, "name"));
    if !pod.is_empty() && !name.is_empty() {
        let claim = format!("{pod}-{name}");
        let told = |why: &String| {
            FieldError::invalid(
                format!("{path}.name"),
                &volume["name"],
                &format!("PVC name {claim:?}: {why}"),
            )
        };
        errors.extend(names::dns_subdomain(&claim).iter().map(told));
    }
    errors
}

fn iscsi(path: &str, source: &Value) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    if text(source, "targetPortal").is_empty() {
        errors.push(FieldError::required(at("targetPortal"), ""));
    }
    match text(source, "iqn") {
        "" => errors.push(FieldError::required(at("iqn"), "")),
        name => errors.extend(initiator(&at("iqn"), name)),
    }
    if source["lun"].as_i64().is_some_and(|n| !(0..=255).contains(&n)) {
        let why = "must be between 0 and 255, inclusive";
        errors.push(FieldError::invalid(at("lun"), &source["lun"], why));
    }
    let authenticates = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if authenticates && source["secretRef"].is_null() {
        errors.push(FieldError::required(at("secretRef"), ""));
    }
    if let Some(name) = source["initiatorName"].as_str() {
        errors.extend(initiator(&at("initiatorname"), name));
    }
    errors
}

/// The name of an initiator or of a target: of one of three forms.
fn initiator(path: &str, name: &str) -> Option<FieldError> {
    let number =
        |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let good = match name.get(..3) {
        Some("iqn") => {
            name.strip_prefix("iqn.").and_then(|rest| rest.split_once('.')).is_some_and(|(date, rest)| {
                let dated =
                    date.split_once('-').is_some_and(|(year, month)| digits(year, 4) && digits(month, 2));
                let (authority, own) = rest.split_once(':').unwrap_or((rest, ""));
                let authority = !authority.is_empty()
                    && authority.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'));
                dated
                    && authority
                    && !own.is_empty()
                    && !own.contains(|c: char| c.is_whitespace() || ",;*&$|".contains(c))
            })
        }
        Some("eui") => name.strip_prefix("eui.").is_some_and(|rest| number(rest, 16)),
        Some("naa") => name.strip_prefix("naa.").is_some_and(|rest| number(rest, 32)),
        _ => {
            let why = "must be valid format starting with iqn, eui, or naa";
            return Some(FieldError::invalid(path, &json!(name), why));
        }
    };
    (!good).then(|| FieldError::invalid(path, &json!(name), "must be valid format"))
}

fn fibre_channel(path: &str, source: &Value) -> Vec<FieldError> {
    let targets = !items(source, "targetWWNs").is_empty();
    let names = !items(source, "wwids").is_empty();
    let at = format!("{path}.targetWWNs");
    let mut errors = Vec::new();
    if !targets && !names {
        errors.push(FieldError::required(&at, "must specify either targetWWNs or wwids, but not both"));
    }
    if targets && names {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(&at, &source["targetWWNs"], why));
    }
    if targets {
        let at = format!("{path}.lun");
        match source["lun"].as_i64() {
            None => errors.push(FieldError::required(at, "lun is required if targetWWNs is specified")),
            Some(0..=255) => {}
            Some(_) => {
                errors.push(FieldError::invalid(at, &source["lun"], "must be between 0 and 255, inclusive"));
            }
        }
    }
    errors
}

fn flex(path: &str, source: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if text(source, "driver").is_empty() {
        errors.push(FieldError::required(format!("{path}.driver"), ""));
    }
    for (key, _) in entries(source, "options") {
        let domain = format!(".{}", key.split('/').next().unwrap_or(key).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(format!("{path}.options[{key}]"), &json!(key), why));
        }
    }
    errors
}

fn flocker(path: &str, source: &Value) -> Vec<FieldError> {
    let (name, uuid) = (is_set(source, "datasetName"), is_set(source, "datasetUUID"));
    let mut errors = Vec::new();
    if !name && !uuid {
        errors.push(FieldError::required(path, "one of datasetName and datasetUUID is required"));
    }
    if name && uuid {
        let why = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(FieldError::invalid(path, &json!("resource"), why));
    }
    if text(source, "datasetName").contains('/') {
        let at = format!("{path}.datasetName");
        errors.push(FieldError::invalid(at, &source["datasetName"], "must not contain '/'"));
    }
    errors
}

fn quobyte(path: &str, source: &Value) -> Vec<FieldError> {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let at = format!("{path}.registry");
    let registry = text(source, "registry");
    let mut errors = Vec::new();
    if registry.is_empty() {
        errors.push(FieldError::required(at, PAIRS));
    } else if text(source, "tenant").len() >= 65 {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(format!("{path}.tenant"), why));
    } else {
        let wrong = registry.split(',').filter(|pair| !is_pair(pair));
        errors.extend(wrong.map(|_| FieldError::invalid(&at, &source["registry"], PAIRS)));
    }
    if text(source, "volume").is_empty() {
        errors.push(FieldError::required(format!("{path}.volume"), ""));
    }
    errors
}

/// Whether a text is a host and a port.
fn is_pair(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((_, port)) => !port.contains(':'),
        None => text.matches(':').count() == 1,
    }
}

fn storage_os(path: &str, source: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for field in ["volumeName", "volumeNamespace"] {
        let at = format!("{path}.{field}");
        match text(source, field) {
            "" if field == "volumeName" => errors.push(FieldError::required(at, "")),
            "" => {}
            name => errors.extend(invalid(&at, &source[field], names::dns_label(name))),
        }
    }
    if !source["secretRef"].is_null() {
        errors.extend(empty_name(&format!("{path}.secretRef.name"), &source["secretRef"]));
    }
    errors
}

fn azure_disk(path: &str, source: &Value) -> Vec<FieldError> {
    const MANAGED: [&str; 1] =
        ["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"];
    const BLOB: [&str; 1] = ["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"];
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    for field in ["diskName", "diskURI"] {
        if text(source, field).is_empty() {
            errors.push(FieldError::required(at(field), ""));
        }
    }
    errors.extend(word(&at("cachingMode"), &source["cachingMode"], &["None", "ReadOnly", "ReadWrite"]));
    errors.extend(word(&at("kind"), &source["kind"], &["Dedicated", "Managed", "Shared"]));
    let (uri, shown) = (text(source, "diskURI"), &source["diskURI"]);
    match source["kind"].as_str() {
        Some("Managed") if !uri.starts_with("/subscriptions/") => {
            errors.push(FieldError::not_supported(at("diskURI"), shown, &MANAGED));
        }
        Some(kind) if kind != "Managed" && !uri.starts_with("https://") => {
            errors.push(FieldError::not_supported(at("diskURI"), shown, &BLOB));
        }
        _ => {}
    }
    errors
}
