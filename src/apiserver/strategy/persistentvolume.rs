//! Persistent volumes (`ValidatePersistentVolume` of Kubernetes' core validation).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::checks;
use super::column::{self, AGE, NAME};
use super::deprecated;
use super::persistentvolumeclaim::{
    access_modes, amounts, beta_class, class, class_name, modes, positive, volume_mode,
};
use super::pod::{affinity, sources};
use super::value::{carry_over, fill, fill_zero, items, object, text};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::status::FieldError;

/// What a volume can be, in the order in which Kubernetes looks at them.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];

/// The strategy of volumes.
pub(super) struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, volume: &mut Value) {
        object(volume, "spec");
        object(volume, "status");
        fill_zero(&mut volume["status"], "phase", "Pending");
        let spec = &mut volume["spec"];
        fill_zero(spec, "persistentVolumeReclaimPolicy", "Retain");
        fill(spec, "volumeMode", "Filesystem");
        if let Some(path) = spec.get_mut("hostPath") {
            fill(path, "type", "");
        }
    }

    fn prepare_create(&self, volume: &mut Value) {
        volume["status"] = json!({"phase": "Pending"});
    }

    fn validate(&self, volume: &Value) -> Vec<FieldError> {
        let spec = &volume["spec"];
        let mut errors = Vec::new();
        if items(spec, "accessModes").is_empty() {
            errors.push(FieldError::required("spec.accessModes", ""));
        }
        errors.extend(access_modes("spec.accessModes", spec));
        errors.extend(capacity(&spec["capacity"]));
        let policy = text(spec, "persistentVolumeReclaimPolicy");
        const POLICY: &str = "spec.persistentVolumeReclaimPolicy";
        if !POLICIES.contains(&policy) {
            errors.push(FieldError::not_supported(POLICY, &json!(policy), POLICIES));
        }
        let nodes = &spec["nodeAffinity"];
        if nodes.is_object() {
            if nodes["required"].is_null() {
                let why = "must specify required node constraints";
                errors.push(FieldError::required("spec.nodeAffinity.required", why));
            }
            errors.extend(affinity::node_selector("spec.nodeAffinity.required", &nodes["required"]));
        }
        errors.extend(sources(spec));
        let path = text(&spec["hostPath"], "path");
        if policy == "Recycle" && !path.is_empty() && path.split('/').all(|part| matches!(part, "" | ".")) {
            errors.push(FieldError::forbidden(POLICY, "may not be 'recycle' for a hostPath mount of '/'"));
        }
        errors.extend(class_name("spec.storageClassName", &spec["storageClassName"]));
        errors.extend(volume_mode("spec.volumeMode", spec));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let (new, old) = (&new["spec"], &old["spec"]);
        let source = |spec: &Value| {
            let given = spec.as_object().into_iter().flatten();
            let given = given.filter(|(key, _)| SOURCES.contains(&key.as_str()));
            given.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>()
        };
        let (mut given, before) = (Value::Object(source(new)), Value::Object(source(old)));
        // A secret for growing the volume may be named later.
        if before["csi"].is_object() && before["csi"]["controllerExpandSecretRef"].is_null() {
            carry_over(&mut given["csi"], &Value::Null, "controllerExpandSecretRef");
        }
        let mut errors = Vec::new();
        if !checks::same(&given, &before) {
            let difference = checks::difference(&before, &given);
            let why = format!("spec.persistentvolumesource is immutable after creation\n{difference}");
            errors.push(FieldError::forbidden("spec.persistentvolumesource", &why));
        }
        errors.extend(checks::immutable("volumeMode", &new["volumeMode"], &old["volumeMode"]));
        if !old["nodeAffinity"].is_null() {
            errors.extend(checks::immutable("nodeAffinity", &new["nodeAffinity"], &old["nodeAffinity"]));
        }
        errors
    }

    fn warnings(&self, volume: &Value) -> Vec<String> {
        warnings(volume)
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Capacity", "Its size."),
            column::text("Access Modes", "How it can be used."),
            column::text("Reclaim Policy", "What becomes of it when its claim is gone."),
            column::text("Status", "Whether a claim has it."),
            column::text("Claim", "The claim that has it."),
            column::text("StorageClass", "Its class of storage."),
            column::text("VolumeAttributesClass", "Its class of attributes."),
            column::text("Reason", "Why it is in its state."),
            AGE,
            column::wide("VolumeMode", "Whether it is a file system or a block device."),
        ];
        COLUMNS
    }

    fn cells(&self, volume: &Value, now: Timestamp) -> Vec<Value> {
        let (spec, status) = (&volume["spec"], &volume["status"]);
        let claim = match &spec["claimRef"] {
            Value::Null => String::new(),
            claim => format!("{}/{}", text(claim, "namespace"), text(claim, "name")),
        };
        let phase = if meta::is_deleting(volume) { "Terminating" } else { text(status, "phase") };
        vec![
            column::name(volume),
            spec["capacity"]["storage"].as_str().unwrap_or("0").into(),
            modes(&spec["accessModes"]).into(),
            text(spec, "persistentVolumeReclaimPolicy").into(),
            phase.into(),
            claim.into(),
            class(volume).into(),
            column::or_unset(&spec["volumeAttributesClassName"]),
            text(status, "reason").into(),
            column::age(volume, now),
            column::or_unset(&spec["volumeMode"]),
        ]
    }
}

/// What the author of a volume should know (`pkg/api/persistentvolume`).
fn warnings(volume: &Value) -> Vec<String> {
    let spec = &volume["spec"];
    let mut warnings: Vec<_> = beta_class(volume).into_iter().collect();
    if text(spec, "persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push(
            "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended \
             approach is to use dynamic provisioning."
                .to_owned(),
        );
    }
    for (i, term) in items(&spec["nodeAffinity"]["required"], "nodeSelectorTerms").iter().enumerate() {
        let path = format!("spec.nodeAffinity.required.nodeSelectorTerms[{i}]");
        warnings.extend(deprecated::node_term(&path, term, false));
    }
    warnings
        .extend(deprecated::volumes("spec", spec, |kind| !matches!(kind, "gitRepo" | "flocker" | "quobyte")));
    warnings
}

fn capacity(capacity: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.capacity";
    let names: Vec<&String> = capacity.as_object().into_iter().flatten().map(|(name, _)| name).collect();
    let mut errors = Vec::new();
    if names.is_empty() {
        errors.push(FieldError::required(PATH, ""));
    }
    if names != ["storage"] {
        errors.push(FieldError::not_supported(PATH, capacity, &["storage"]));
    }
    errors.extend(amounts(PATH, capacity));
    for (name, value) in capacity.as_object().into_iter().flatten() {
        errors.extend(positive(&format!("{PATH}[{name}]"), value));
    }
    errors
}

fn sources(spec: &Value) -> Vec<FieldError> {
    let given: Vec<&str> = SOURCES.iter().copied().filter(|kind| !spec[*kind].is_null()).collect();
    let Some((kind, others)) = given.split_first() else {
        return vec![FieldError::required("spec", "must specify a volume type")];
    };
    let path = format!("spec.{kind}");
    let source = &spec[*kind];
    let required = |field: &str| {
        text(source, field).is_empty().then(|| FieldError::required(format!("{path}.{field}"), ""))
    };
    let mut errors = match *kind {
        "local" => required("path").into_iter().collect(),
        "csi" => ["driver", "volumeHandle"].iter().filter_map(|field| required(field)).collect(),
        kind => sources::source(&path, kind, source),
    };
    if *kind == "local" && spec["nodeAffinity"]["required"].is_null() {
        let why = "Local volume requires node affinity";
        errors.push(FieldError::required("spec.nodeAffinity", why));
    }
    let why = "may not specify more than 1 volume type";
    errors.extend(others.iter().map(|other| FieldError::forbidden(format!("spec.{other}"), why)));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(more: Value) -> Value {
        let mut volume = json!({"metadata": {"name": "pv"}, "spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/data"}}});
        for (key, value) in more.as_object().unwrap() {
            volume["spec"][key] = value.clone();
        }
        PersistentVolume.default(&mut volume);
        volume
    }

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_and_words_are_kubernetes() {
        let good = volume(json!({}));
        let mut again = good.clone();
        PersistentVolume.default(&mut again);
        assert_eq!(good, again);
        for (more, errors) in [
            (json!({}), &[][..]),
            (json!({"hostPath": null, "nfs": {"server": "a", "path": "/"}}), &[]),
            (json!({"hostPath": null}), &["spec: Required value: must specify a volume type"]),
            (
                json!({"nfs": {"server": "a", "path": "/"}}),
                &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                json!({"hostPath": null, "local": {"path": "/a"}}),
                &["spec.nodeAffinity: Required value: Local volume requires node affinity"],
            ),
            (
                json!({"hostPath": null, "local": {"path": "/a"}, "nodeAffinity": {"required": {}}}),
                &[
                    "spec.nodeAffinity.required.nodeSelectorTerms: Required value: must have at least one node selector term",
                ],
            ),
            (
                json!({"capacity": {"storage": "0"}}),
                &["spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"],
            ),
            (
                json!({"capacity": null}),
                &[
                    "spec.capacity: Required value",
                    "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                ],
            ),
            (
                json!({"persistentVolumeReclaimPolicy": "X"}),
                &[
                    "spec.persistentVolumeReclaimPolicy: Unsupported value: \"X\": supported values: \"Delete\", \"Recycle\", \"Retain\"",
                ],
            ),
            (
                json!({"persistentVolumeReclaimPolicy": "Recycle", "hostPath": {"path": "/"}}),
                &[
                    "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
                ],
            ),
        ] {
            assert_eq!(told(PersistentVolume.validate(&volume(more.clone()))), errors, "{more}");
        }
    }

    #[test]
    fn what_a_volume_is_stays() {
        let old = volume(json!({}));
        let mut new = old.clone();
        new["spec"]["claimRef"] = json!({"namespace": "default", "name": "data"});
        new["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
        assert!(PersistentVolume.validate_update(&new, &old).is_empty());
        new["spec"]["hostPath"]["path"] = json!("/other");
        new["spec"]["volumeMode"] = json!("Block");
        let errors = told(PersistentVolume.validate_update(&new, &old));
        assert!(
            errors[0].starts_with("spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n- hostPath"),
            "{errors:?}"
        );
        assert_eq!(errors[1], "volumeMode: Invalid value: \"Block\": field is immutable");
        new["status"]["phase"] = json!("Bound");
        assert_eq!(
            PersistentVolume.cells(&new, Timestamp::UNIX_EPOCH),
            ["pv", "1Gi", "RWO", "Delete", "Bound", "default/data", "", "<unset>", "", "<unknown>", "Block"]
                .map(Value::from)
        );
    }
}
