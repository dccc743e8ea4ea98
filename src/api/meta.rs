//! Reading and writing an object's metadata as a JSON value.

use serde_json::{Map, Value};

/// Marks a pod of the API as the mirror of a static one; the value is that one's uid.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// `apiVersion`, or nothing.
pub fn api_version(object: &Value) -> &str {
    text(object, "apiVersion")
}

/// `kind`, or nothing.
pub fn kind(object: &Value) -> &str {
    text(object, "kind")
}

/// The group and version of an `apiVersion`: `("", "v1")`, `("apps", "v1")`.
pub fn group_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// A text of the metadata, or nothing.
pub fn field<'a>(object: &'a Value, key: &str) -> &'a str {
    text(&object["metadata"], key)
}

/// `metadata.name`, or nothing.
pub fn name(object: &Value) -> &str {
    field(object, "name")
}

/// `metadata.generateName`, or nothing.
pub fn generate_name(object: &Value) -> &str {
    field(object, "generateName")
}

/// `metadata.namespace`, or nothing.
pub fn namespace(object: &Value) -> &str {
    field(object, "namespace")
}

/// `metadata.uid`, or nothing.
pub fn uid(object: &Value) -> &str {
    field(object, "uid")
}

/// `metadata.resourceVersion`, or nothing.
pub fn resource_version(object: &Value) -> &str {
    field(object, "resourceVersion")
}

/// `metadata.generation`, 0 when absent.
pub fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap_or(0)
}

/// `metadata.labels`, null when absent.
pub fn labels(object: &Value) -> &Value {
    &object["metadata"]["labels"]
}

/// One label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["labels"].get(key).and_then(Value::as_str)
}

/// `metadata.annotations`, null when absent.
pub fn annotations(object: &Value) -> &Value {
    &object["metadata"]["annotations"]
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"].get(key).and_then(Value::as_str)
}

/// `metadata.ownerReferences`.
pub fn owner_references(object: &Value) -> &[Value] {
    list(object, "ownerReferences")
}

/// The owner that controls the object.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|owner| owner["controller"] == true)
}

/// The entries of `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    list(object, "finalizers").iter().filter_map(Value::as_str).collect()
}

/// `metadata.creationTimestamp`.
pub fn created(object: &Value) -> Option<jiff::Timestamp> {
    time(&object["metadata"]["creationTimestamp"])
}

/// `metadata.deletionTimestamp`; an object that has one is on its way out.
pub fn deleted(object: &Value) -> Option<jiff::Timestamp> {
    time(&object["metadata"]["deletionTimestamp"])
}

/// Whether the object is on its way out.
pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// A time in RFC 3339.
pub fn time(value: &Value) -> Option<jiff::Timestamp> {
    value.as_str()?.parse().ok()
}

/// The moment as a `metav1.Time`: RFC 3339 in UTC, whole seconds.
pub fn timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The moment as a `metav1.MicroTime`: RFC 3339 in UTC with microseconds.
pub fn micro_timestamp(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// The object's metadata for writing; made when the object has none (or is no object).
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    child_mut(object, "metadata")
}

/// A field of an object that is itself an object, for writing; whatever else stood there is replaced.
pub fn child_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    map_mut(map_mut(object).entry(key).or_insert(Value::Null))
}

/// The value as an object, for writing; whatever else it was is replaced.
pub fn map_mut(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object above"),
    }
}

/// Writes a field of the metadata; null removes it.
pub fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    let value = value.into();
    let metadata = metadata_mut(object);
    if value.is_null() {
        metadata.remove(key);
    } else {
        metadata.insert(key.to_owned(), value);
    }
}

/// Removes a field of the metadata; an object without metadata stays without.
pub fn remove(object: &mut Value, key: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove(key);
    }
}

/// Copies a field of the metadata, or its absence, from another object.
pub fn carry(new: &mut Value, old: &Value, key: &str) {
    set(new, key, old["metadata"][key].clone());
}

/// Writes `metadata.name`.
pub fn set_name(object: &mut Value, name: &str) {
    set(object, "name", name);
}

/// Writes `metadata.namespace`.
pub fn set_namespace(object: &mut Value, namespace: &str) {
    set(object, "namespace", namespace);
}

/// Writes `metadata.resourceVersion`.
pub fn set_resource_version(object: &mut Value, revision: u64) {
    set(object, "resourceVersion", revision.to_string());
}

/// Writes one label.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    let labels = metadata_mut(object).entry("labels").or_insert(Value::Null);
    map_mut(labels).insert(key.to_owned(), value.into());
}

/// Writes one annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    let annotations = metadata_mut(object).entry("annotations").or_insert(Value::Null);
    map_mut(annotations).insert(key.to_owned(), value.into());
}

/// Removes one annotation, and the map with the last.
pub fn remove_annotation(object: &mut Value, key: &str) {
    let annotations = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
    if let Some(annotations) = annotations
        && annotations.remove(key).is_some()
        && annotations.is_empty()
    {
        remove(object, "annotations");
    }
}

fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_default()
}

fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object["metadata"][key].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reading_tolerates_anything() {
        for odd in
            [json!(null), json!([]), json!({"metadata": 5}), json!({"metadata": {"name": 7, "labels": []}})]
        {
            assert_eq!((name(&odd), uid(&odd), label(&odd, "a")), ("", "", None));
            assert!(owner_references(&odd).is_empty() && created(&odd).is_none() && !is_deleting(&odd));
        }
    }

    #[test]
    fn writing_makes_what_is_missing() {
        let mut object = json!({});
        set_name(&mut object, "www");
        set_label(&mut object, "app", "vote");
        set_resource_version(&mut object, 7);
        set(&mut object, "uid", "u");
        set(&mut object, "uid", Value::Null);
        assert_eq!(
            object,
            json!({"metadata": {"name": "www", "labels": {"app": "vote"}, "resourceVersion": "7"}})
        );
    }

    #[test]
    fn times_are_in_kubernetes_forms() {
        let at: jiff::Timestamp = "2024-01-02T03:04:05.123456789Z".parse().unwrap();
        assert_eq!(timestamp(at), "2024-01-02T03:04:05Z");
        assert_eq!(micro_timestamp(at), "2024-01-02T03:04:05.123456Z");
        assert_eq!(
            time(&json!("2024-01-02T03:04:05.5+01:00")).unwrap().to_string(),
            "2024-01-02T02:04:05.5Z"
        );
    }
}
