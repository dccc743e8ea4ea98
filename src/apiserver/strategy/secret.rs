//! Secrets: data in base64 under keys, of a type that never changes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::certificates::wrong_pair;
use super::column::{self, AGE, NAME};
use super::configmap::{MAX_SIZE, bad_key, decoded_length, frozen};
use super::value::{self, entries, text};
use super::{Column, Strategy};
use crate::api::status::FieldError;
use crate::api::{go, meta, syntax};

/// The strategy of secrets.
pub(super) struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        value::fill_zero(object, "type", "Opaque");
        let plain = object.as_object_mut().and_then(|map| map.remove("stringData"));
        if let Some(Value::Object(plain)) = plain {
            let data = value::object(object, "data");
            for (key, value) in plain {
                data.insert(key, encoded(value.as_str().unwrap_or_default()).into());
            }
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in entries(object, "data") {
            errors.extend(bad_key(&format!("data[{key}]"), key));
            size += decoded_length(value);
        }
        if size > MAX_SIZE {
            errors.push(FieldError::too_long("data", MAX_SIZE));
        }
        errors.extend(of_type(object));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new["type"] != old["type"] {
            errors.push(FieldError::invalid("type", &new["type"], "field is immutable"));
        }
        errors.extend(frozen(new, old, &["data"]));
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        if text(object, "type") != "kubernetes.io/tls" {
            return Vec::new();
        }
        let [certificate, key] = ["tls.crt", "tls.key"].map(|key| decoded(&object["data"][key]));
        wrong_pair(&certificate, &key).into_iter().collect()
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(object, "type").to_owned())]
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Type", "Used to facilitate programmatic handling of secret data."),
            column::text("Data", "Data contains the secret data."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = entries(object, "data").count();
        vec![column::name(object), text(object, "type").into(), count.into(), column::age(object, now)]
    }
}

fn encoded(plain: &str) -> String {
    STANDARD.encode(plain)
}

fn decoded(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default()
}

/// What secrets of the well-known types must hold.
fn of_type(object: &Value) -> Vec<FieldError> {
    let data = &object["data"];
    let missing = |key: &str| data.get(key).is_none();
    let required = |key: &str| FieldError::required(format!("data[{key}]"), "");
    let docker = |key: &str| {
        let Some(config) = data.get(key) else { return vec![required(key)] };
        let bytes = decoded(config);
        let why = match serde_json::from_slice::<Value>(&bytes) {
            Ok(Value::Object(_) | Value::Null) => return Vec::new(),
            Ok(other) => {
                let given = go::given(&other);
                format!("json: cannot unmarshal {given} into Go value of type map[string]interface {{}}")
            }
            Err(error) => syntax::complaint(&bytes).unwrap_or_else(|| error.to_string()),
        };
        // The value is a secret and stays out of the message.
        vec![FieldError::invalid(format!("data[{key}]"), &"<secret contents redacted>".into(), &why)]
    };
    match text(object, "type") {
        "kubernetes.io/service-account-token" => {
            let name = meta::annotation(object, "kubernetes.io/service-account.name");
            match name {
                None | Some("") => {
                    vec![FieldError::required("metadata.annotations[kubernetes.io/service-account.name]", "")]
                }
                Some(_) => Vec::new(),
            }
        }
        "kubernetes.io/dockercfg" => docker(".dockercfg"),
        "kubernetes.io/dockerconfigjson" => docker(".dockerconfigjson"),
        "kubernetes.io/basic-auth" if missing("username") && missing("password") => {
            vec![required("username"), required("password")]
        }
        "kubernetes.io/ssh-auth" if data["ssh-privatekey"].as_str().unwrap_or_default().is_empty() => {
            vec![required("ssh-privatekey")]
        }
        "kubernetes.io/tls" => {
            ["tls.crt", "tls.key"].into_iter().filter(|key| missing(key)).map(required).collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_type_stays() {
        let errors = Secret.validate_update(&json!({"type": "a"}), &json!({"type": "b"}));
        assert_eq!(shown(errors), ["type: Invalid value: \"a\": field is immutable"]);
    }

    #[test]
    fn who_makes_a_pair_that_is_none_is_warned() {
        let secret = |of: &str| json!({"type": of, "data": {"tls.crt": "eA==", "tls.key": "eA=="}});
        assert_eq!(
            Secret.warnings(&secret("kubernetes.io/tls")),
            ["tls: failed to find any PEM data in certificate input"]
        );
        assert!(Secret.warnings(&secret("Opaque")).is_empty());
    }

    #[test]
    fn secrets_fold_plain_text_and_know_types() {
        let mut secret = json!({"stringData": {"a": "x", "b": "y"}, "data": {"a": "eg=="}});
        Secret.default(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
        for (secret, errors) in [
            (
                json!({"type": "kubernetes.io/tls"}),
                vec!["data[tls.crt]: Required value", "data[tls.key]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson"}),
                vec!["data[.dockerconfigjson]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e30="}}),
                vec![],
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}}),
                vec![
                    "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": invalid character 'x' looking for beginning of value",
                ],
            ),
        ] {
            assert_eq!(shown(Secret.validate(&secret)), errors);
        }
    }
}
