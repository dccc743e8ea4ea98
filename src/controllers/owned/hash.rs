//! Hashes that go into names and labels: FNV, written without vowels so that no words come of them. Pure.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;

const OFFSET: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// FNV-1 of 32 bits.
pub fn fnv1(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    bytes.fold(OFFSET, |hash, byte| hash.wrapping_mul(PRIME) ^ u32::from(*byte))
}

/// FNV-1a of 32 bits.
pub fn fnv1a(parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    bytes.fold(OFFSET, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME))
}

/// A number in letters and digits of which no words can be made.
pub fn safe(number: u32) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    number.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()])).collect()
}

/// The hash of a template; each collision of names makes it another one.
pub fn of_template(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let template = canonical(&serde_json::to_value(template).unwrap_or_default()).to_string();
    let collisions = collisions.map(|count| u64::from(count.unsigned_abs()).to_le_bytes());
    safe(fnv1a(&[template.as_bytes(), collisions.as_ref().map_or(&[], |bytes| bytes.as_slice())]))
}

/// Fields that say something when they are there, even if nothing is in them.
const TELLING: &[&str] = &["emptyDir", "labelSelector", "namespaceSelector"];

/// The one form of values that mean the same: clients differ in whether they write what is empty.
pub fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().map(|(key, value)| (key, canonical(value)));
            let kept = kept.filter(|(key, value)| {
                !value.is_null() && (!is_empty(value) || TELLING.contains(&key.as_str()))
            });
            kept.map(|(key, value)| (key.clone(), value)).collect()
        }
        Value::Array(items) => items.iter().map(canonical).collect(),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_values() {
        // The test vectors of the algorithm's authors.
        assert_eq!((fnv1(&[b""]), fnv1(&[b"foobar"])), (0x811c_9dc5, 0x31f0_b262));
        assert_eq!((fnv1a(&[b"a"]), fnv1a(&[b"foo", b"bar"])), (0xe40c_292c, 0xbf9c_f968));
        assert_eq!((safe(0).as_str(), safe(1_234_567_890).as_str()), ("4", "56789bcdf4"));
    }

    #[test]
    fn templates_differ_by_content_and_collisions() {
        let template = |image: &str| -> PodTemplateSpec {
            serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}})).unwrap()
        };
        let hashes = [
            of_template(&template("a"), None),
            of_template(&template("b"), None),
            of_template(&template("a"), Some(0)),
            of_template(&template("a"), Some(1)),
        ];
        let distinct: std::collections::BTreeSet<_> = hashes.iter().collect();
        assert_eq!(distinct.len(), hashes.len(), "{hashes:?}");
        assert_eq!(hashes[0], of_template(&template("a"), None));
    }

    #[test]
    fn what_is_empty_makes_no_difference() {
        let short =
            json!({"spec": {"containers": [{"name": "c"}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        let long = json!({"metadata": {"creationTimestamp": null, "labels": {}}, "spec": {"tolerations": [],
            "containers": [{"name": "c", "resources": {}}], "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert_eq!(canonical(&long), short);
        assert_eq!(canonical(&short), short);
    }
}
