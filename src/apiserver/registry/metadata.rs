//! The rules of `metadata`, which are the same for every kind: what the server sets, what nobody may change.
//! Reading and writing single fields is [`meta`]'s.
//!
//! Messages are those of k8s.io/apimachinery `pkg/api/validation/objectmeta.go`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::names;
use crate::api::status::{FieldError, Status};
use crate::apiserver::strategy;

/// The letters of generated names: no vowels, no look-alikes (k8s.io/apimachinery `pkg/util/rand`).
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// A generated base is cut so that base and suffix fit a DNS label.
const GENERATED_BASE_LENGTH: usize = 63 - SUFFIX_LENGTH;
/// All annotations of an object together, keys and values.
const ANNOTATIONS_BYTES: usize = 256 * 1024;

/// A random version 4 UUID.
pub fn new_uid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Five random letters for a generated name.
pub fn random_suffix() -> Result<String, Status> {
    let mut bytes = [0u8; SUFFIX_LENGTH * 2];
    getrandom::fill(&mut bytes).map_err(|e| Status::internal(format!("no random bytes: {e}")))?;
    let letter = |pair: &[u8]| {
        let n = usize::from(u16::from_le_bytes([pair[0], pair[1]])) % SUFFIX_LETTERS.len();
        char::from(SUFFIX_LETTERS[n])
    };
    Ok(bytes.chunks_exact(2).map(letter).collect())
}

/// `generateName` with a suffix.
pub fn generated_name(base: &str) -> Result<String, Status> {
    let mut end = base.len().min(GENERATED_BASE_LENGTH);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    Ok(format!("{}{}", &base[..end], random_suffix()?))
}

/// What only the server may set, dropped from a new object, and its namespace set.
pub fn begin_create(object: &mut Value, kind: &Kind, namespace: Option<&str>) {
    const SET_BY_SERVER: [&str; 6] = [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ];
    for field in SET_BY_SERVER {
        meta::remove(object, field);
    }
    match namespace {
        Some(namespace) if kind.namespaced => meta::set(object, "namespace", json!(namespace)),
        _ => meta::remove(object, "namespace"),
    }
}

/// Makes the metadata of a new object: the server's fields set, what only the server may set dropped.
pub fn prepare_create(
    object: &mut Value,
    kind: &Kind,
    namespace: Option<&str>,
    now: Timestamp,
) -> Result<(), Status> {
    begin_create(object, kind, namespace);
    if meta::name(object).is_empty() && !meta::generate_name(object).is_empty() {
        let name = generated_name(meta::generate_name(object))?;
        meta::set(object, "name", json!(name));
    }
    meta::set(object, "uid", new_uid());
    meta::set(object, "creationTimestamp", json!(meta::timestamp(now)));
    drop_empty(object);
    Ok(())
}

/// Carries over what an update may leave out and drops what it may not set.
pub fn prepare_update(new: &mut Value, old: &Value) {
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if new["metadata"].get(field).is_none_or(|v| v.is_null() || v == "") {
            meta::carry(new, old, field);
        }
    }
    for field in ["name", "namespace"] {
        if meta::field(new, field).is_empty() {
            meta::carry(new, old, field);
        }
    }
    for field in ["generation", "selfLink", "generateName"] {
        meta::carry(new, old, field);
    }
    drop_empty(new);
}

/// Drops owners that are named twice, and says so as a warning; `after` tells when they were seen. Source: k8s.io/apiserver
/// `pkg/endpoints/handlers/rest.go`.
pub fn unite_owners(object: &mut Value, after: Seen) -> Option<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences")?.as_array_mut()?;
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut twice = Vec::new();
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            twice.push(owner["uid"].as_str().unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    let when = if after == Seen::Admitted { " after mutating admission happens" } else { "" };
    (!twice.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and \
             may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        )
    })
}

/// When something was seen in an object that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// In what the client sent.
    Sent,
    /// In what admission made of it.
    Admitted,
}

/// Absent and empty are the same for maps and lists of metadata; the stored form is absent.
fn drop_empty(object: &mut Value) {
    meta::metadata_mut(object).retain(|_, value| match value {
        Value::Null => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    });
}

/// What is wrong with an object's metadata.
pub fn validate(object: &Value, kind: &Kind) -> Vec<FieldError> {
    let mut errors = name_errors(object, &|name| strategy::of(kind).name_errors(object, name));
    if meta::name(object).is_empty() {
        errors.push(FieldError::required("metadata.name", "name or generateName is required"));
    }
    errors.extend(common_errors(object));
    errors
}

/// The same for an object that stands within another one, of whose kind nothing is known.
pub fn validate_embedded(object: &Value) -> Vec<FieldError> {
    let mut errors = name_errors(object, &names::path_segment);
    let namespace = meta::namespace(object);
    for detail in names::dns_label(namespace).iter().filter(|_| !namespace.is_empty()) {
        errors.push(FieldError::invalid("metadata.namespace", &json!(namespace), detail));
    }
    errors.extend(common_errors(object));
    errors
}

/// What is wrong with the names that an object has.
fn name_errors(object: &Value, rule: &dyn Fn(&str) -> Vec<String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (name, base) = (meta::name(object), meta::generate_name(object));
    if !base.is_empty() {
        for detail in rule(&as_prefix(base)) {
            errors.push(FieldError::invalid("metadata.generateName", &json!(base), &detail));
        }
    }
    if !name.is_empty() {
        for detail in rule(name) {
            errors.push(FieldError::invalid("metadata.name", &json!(name), &detail));
        }
    }
    errors
}

fn common_errors(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let metadata = &object["metadata"];
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        for detail in names::qualified_name(key) {
            errors.push(FieldError::invalid("metadata.labels", &json!(key), &detail));
        }
        for detail in value.as_str().map(names::label_value).unwrap_or_default() {
            errors.push(FieldError::invalid("metadata.labels", value, &detail));
        }
    }
    let mut size = 0;
    for (key, value) in metadata["annotations"].as_object().into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        for detail in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid("metadata.annotations", &json!(key), &detail));
        }
    }
    if size > ANNOTATIONS_BYTES {
        errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_BYTES));
    }
    errors.extend(owner_errors(&metadata["ownerReferences"]));
    errors.extend(finalizer_errors(&meta::finalizers(object)));
    errors
}

/// What comes before a generated suffix as a name of its own: it may end in a dash.
fn as_prefix(base: &str) -> String {
    let mut letters = base.chars();
    match (letters.next_back(), letters.next_back()) {
        (Some('-'), Some(_)) => format!("{}a", letters.as_str()),
        _ => base.to_owned(),
    }
}

fn owner_errors(owners: &Value) -> Vec<FieldError> {
    const PATH: &str = "metadata.ownerReferences";
    let mut errors = Vec::new();
    let mut controller: Option<String> = None;
    for (i, owner) in owners.as_array().into_iter().flatten().enumerate() {
        let text = |field: &str| owner[field].as_str().unwrap_or_default();
        let parts: Vec<&str> = text("apiVersion").split('/').collect();
        if !text("apiVersion").is_empty() && (parts.len() > 2 || parts.last() == Some(&"")) {
            let why = "must be <group>/<version> or <version>";
            errors.push(FieldError::invalid(format!("{PATH}[{i}].apiVersion"), &owner["apiVersion"], why));
        }
        for field in ["apiVersion", "kind", "name", "uid"].into_iter().filter(|field| text(field).is_empty())
        {
            errors.push(FieldError::required(format!("{PATH}[{i}].{field}"), "must not be empty"));
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(format!("{PATH}[{i}]"), owner, why));
        }
        if owner["controller"] == true {
            let name = format!("{}/{}", text("kind"), text("name"));
            match &controller {
                None => controller = Some(name),
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} \
                         and {name}"
                    );
                    errors.push(FieldError::invalid(PATH, owners, &why));
                }
            }
        }
    }
    errors
}

/// Finalizers name whom they wait for by a qualified name; only Kubernetes' own have plain ones.
fn finalizer_errors(finalizers: &[&str]) -> Vec<FieldError> {
    const PATH: &str = "metadata.finalizers";
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let mut errors = Vec::new();
    for finalizer in finalizers {
        for detail in names::qualified_name(finalizer) {
            errors.push(FieldError::invalid(PATH, &json!(finalizer), &detail));
        }
    }
    if STANDARD[1..].iter().all(|f| finalizers.contains(f)) {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(PATH, &json!(finalizers), why));
    }
    for (i, finalizer) in finalizers.iter().enumerate() {
        if !finalizer.contains('/') && !STANDARD.contains(finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(format!("{PATH}[{i}]"), &json!(finalizer), why));
        }
    }
    errors
}

/// What is wrong with the change of metadata from `old` to `new`.
pub fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if meta::is_deleting(old) {
        let before = meta::finalizers(old);
        let added: Vec<&str> = meta::finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let list: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                list.join(", ")
            );
            errors.push(FieldError::forbidden("metadata.finalizers", &detail));
        }
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        let (now, before) = (&new["metadata"][field], &old["metadata"][field]);
        if now != before {
            errors.push(FieldError::invalid(format!("metadata.{field}"), now, "field is immutable"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    fn config_map() -> &'static Kind {
        kinds::by_resource("", "v1", "configmaps").unwrap()
    }

    #[test]
    fn an_owner_is_kept_once() {
        let owner =
            |uid: &str, controller: bool| json!({"kind": "Job", "uid": uid, "controller": controller});
        let owners = json!([owner("a", true), owner("b", false), owner("a", true), owner("a", false)]);
        let mut object = json!({"metadata": {"ownerReferences": owners}});
        let told = unite_owners(&mut object, Seen::Admitted).unwrap();
        assert!(
            told.starts_with(".metadata.ownerReferences contains duplicate entries after mutating"),
            "{told}"
        );
        assert!(told.ends_with("duplicate UID(s) observed: a"), "{told}");
        let left = json!([owner("a", true), owner("b", false), owner("a", false)]);
        assert_eq!(object["metadata"]["ownerReferences"], left);
        assert_eq!(unite_owners(&mut object, Seen::Sent), None);
        assert_eq!(unite_owners(&mut json!({}), Seen::Sent), None);
    }

    #[test]
    fn a_new_object_gets_what_the_server_sets() {
        let mut object = json!({"metadata": {"generateName": "www-", "labels": {},
            "deletionTimestamp": "2020-01-01T00:00:00Z", "generation": 9}, "spec": {}});
        prepare_create(&mut object, config_map(), Some("default"), Timestamp::UNIX_EPOCH).unwrap();
        let name = meta::name(&object);
        assert_eq!(name.len(), 9);
        assert!(name.strip_prefix("www-").unwrap().bytes().all(|b| SUFFIX_LETTERS.contains(&b)), "{name}");
        assert_eq!(meta::field(&object, "creationTimestamp"), "1970-01-01T00:00:00Z");
        assert_eq!(meta::namespace(&object), "default");
        let uid = meta::uid(&object);
        assert_eq!((uid.len(), uid.as_bytes()[14]), (36, b'4'));
        for gone in ["labels", "deletionTimestamp", "generation"] {
            assert!(object["metadata"].get(gone).is_none(), "{gone}");
        }
    }

    #[test]
    fn long_bases_of_generated_names_are_cut() {
        assert_eq!(generated_name(&"a".repeat(100)).unwrap().len(), 63);
        assert_eq!(generated_name(&"ä".repeat(40)).unwrap().len(), 63);
    }

    #[test]
    fn metadata_that_is_wrong_is_named() {
        for (metadata, field, message) in [
            (json!({}), "metadata.name", "Required value: name or generateName is required"),
            (json!({"name": "A"}), "metadata.name", "Invalid value: \"A\": a lowercase RFC 1123 subdomain"),
            (json!({"name": "a", "labels": {"a b": "c"}}), "metadata.labels", "Invalid value: \"a b\""),
            (json!({"name": "a", "labels": {"a": "c d"}}), "metadata.labels", "Invalid value: \"c d\""),
            (
                json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
                "metadata.ownerReferences[0].uid",
                "Required value: must not be empty",
            ),
            (
                json!({"name": "a", "finalizers": ["kubernetes", "mine"]}),
                "metadata.finalizers[1]",
                "Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified",
            ),
            (
                json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}),
                "metadata.finalizers",
                "Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion",
            ),
        ] {
            let errors = validate(&json!({"metadata": metadata}), config_map());
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert_eq!(errors[0].field, field);
            assert!(errors[0].message.starts_with(message), "{}", errors[0].message);
        }
    }

    #[test]
    fn identity_cannot_change() {
        let old =
            json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "t", "finalizers": ["x/y"]}});
        let mut same = json!({"metadata": {"name": "a"}});
        prepare_update(&mut same, &old);
        assert_eq!(validate_update(&same, &old), vec![]);
        assert_eq!(same["metadata"]["deletionTimestamp"], "t");
        let other =
            json!({"metadata": {"name": "a", "uid": "2", "deletionTimestamp": "t", "finalizers": ["n/w"]}});
        let errors: Vec<String> = validate_update(&other, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
                 found new finalizers []string{\"n/w\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
    }
}
