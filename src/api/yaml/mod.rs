//! Manifests in YAML, read as kubectl reads them, and objects written so that every YAML reader agrees.
//!
//! kubectl reads YAML 1.1: `yes` is a boolean and `0644` is 420. The parser beneath reads YAML 1.2 and does not
//! tell quoted scalars from plain ones, so the two are made good where the schema of a known kind asks for a
//! boolean or an integer.

mod emit;

use serde::Deserialize;
use serde_json::{Map, Number, Value};
use serde_yaml::Value as Yaml;

pub use self::emit::to_yaml;
use super::{duplicates, kinds, schema};

/// Reads one document; the error is in kubectl's words and names the line.
pub fn to_json(bytes: &[u8]) -> Result<Value, String> {
    let document = Yaml::deserialize(serde_yaml::Deserializer::from_slice(bytes)).map_err(|e| problem(&e));
    document.and_then(converted).map_err(|e| in_kubectl(&e))
}

/// A complaint as kubectl tells it.
fn in_kubectl(complaint: &str) -> String {
    format!("error converting YAML to JSON: {complaint}")
}

/// Reads one document as [`to_json`] does, but for fields given twice: the last value counts, and each further one makes
/// a message (`duplicate field "spec.x"`). Complaints are the server's: without the head that kubectl adds.
pub fn strict_yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    let (document, repeated) =
        duplicates::read(serde_yaml::Deserializer::from_slice(bytes)).map_err(|e| problem(&e))?;
    Ok((converted(document)?, repeated))
}

/// Reads a file of several documents, in YAML or JSON; empty ones are skipped.
pub fn documents(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let start = bytes.trim_ascii_start();
    if start.starts_with(b"{") {
        let all: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(start).into_iter().collect();
        // A flow mapping of YAML begins like JSON; then the YAML reader has the say.
        if let Ok(all) = all {
            return Ok(all);
        }
    }
    let mut all = Vec::new();
    for document in serde_yaml::Deserializer::from_slice(bytes) {
        // After an error the parser would go on for ever.
        let document = Yaml::deserialize(document).map_err(|e| problem(&e)).and_then(converted);
        match document.map_err(|e| in_kubectl(&e))? {
            Value::Null => {}
            value => all.push(value),
        }
    }
    Ok(all)
}

fn problem(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    match error.location() {
        Some(at) => {
            let text = text.split(" at line ").next().unwrap_or(&text);
            format!("yaml: line {}: {text}", at.line())
        }
        None => format!("yaml: {text}"),
    }
}

/// The JSON of a document, with merge keys applied and the scalars of YAML 1.1 put right.
fn converted(mut document: Yaml) -> Result<Value, String> {
    document.apply_merge().map_err(|e| problem(&e))?;
    let mut value = json(document)?;
    coerce_known(&mut value);
    Ok(value)
}

/// Puts the scalars of an object of a known kind right, and those of the items of a `List`.
fn coerce_known(value: &mut Value) {
    if value["kind"] == "List" {
        value["items"].as_array_mut().into_iter().flatten().for_each(coerce_known);
        return;
    }
    let api_version = value["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = value["kind"].as_str().unwrap_or_default();
    if let Some(schema) = kinds::by_kind(group, version, kind).and_then(|kind| kind.types.schema()) {
        schema::walk_scalars(schema, value, &mut yaml_1_1);
    }
}

/// A string where the schema wants another type, read as YAML 1.1 reads a plain scalar.
fn yaml_1_1(wanted: schema::Scalar, value: &mut Value) {
    let Some(text) = value.as_str() else { return };
    let read = match wanted {
        schema::Scalar::Boolean => boolean(text).map(Value::Bool),
        schema::Scalar::Integer => integer(text).map(Value::from),
        _ => None,
    };
    if let Some(read) = read {
        *value = read;
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// `0644` (octal) and `1_000`.
fn integer(text: &str) -> Option<i64> {
    let digits = text.replace('_', "");
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match digits.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => i64::from_str_radix(octal, 8).ok(),
        _ if text.contains('_') => digits.parse().ok(),
        _ => None,
    }
}

fn json(value: Yaml) -> Result<Value, String> {
    Ok(match value {
        Yaml::Null => Value::Null,
        Yaml::Bool(b) => Value::Bool(b),
        Yaml::Number(n) => Value::Number(number(&n)?),
        Yaml::String(s) => Value::String(s),
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(json).collect::<Result<_, _>>()?),
        Yaml::Mapping(entries) => {
            let mut map = Map::new();
            for (key, value) in entries {
                map.insert(key_text(key)?, json(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => {
            return Err(format!("yaml: unknown tag {}", tagged.tag));
        }
    })
}

/// Whole floats are written as integers, as Go's JSON does.
fn number(n: &serde_yaml::Number) -> Result<Number, String> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    if let Some(i) = n.as_i64() {
        return Ok(i.into());
    }
    if let Some(u) = n.as_u64() {
        return Ok(u.into());
    }
    match n.as_f64() {
        Some(f) if f.fract() == 0.0 && f.abs() < EXACT => Ok((f as i64).into()),
        other => other.and_then(Number::from_f64).ok_or_else(|| format!("json: unsupported value: {n}")),
    }
}

/// Keys are strings in JSON; numbers and booleans are written out.
fn key_text(key: Yaml) -> Result<String, String> {
    match key {
        Yaml::String(s) => Ok(s),
        Yaml::Number(n) => Ok(number(&n)?.to_string()),
        Yaml::Bool(b) => Ok(b.to_string()),
        other => Err(format!("yaml: unsupported map key: {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn documents_are_read_as_kubectl_reads_them() {
        for (text, value) in [
            ("a: 1\nb: [x, 'y']\n", json!({"a": 1, "b": ["x", "y"]})),
            ("a: 1.0\nb: 1.5\nc: 1e3\n", json!({"a": 1, "b": 1.5, "c": 1000})),
            ("1: a\ntrue: b\n", json!({"1": "a", "true": "b"})),
            (
                "base: &b {x: 1, y: 2}\nc:\n  <<: *b\n  y: 3\n",
                json!({"base": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}),
            ),
            ("{\"a\":\t\"b\"}", json!({"a": "b"})),
            ("a: |\n  x\n  y\nb: >-\n  x\n  y\n", json!({"a": "x\ny\n", "b": "x y"})),
        ] {
            assert_eq!(to_json(text.as_bytes()).unwrap(), value, "{text}");
        }
    }

    #[test]
    fn yaml_1_1_scalars_follow_the_schema() {
        let pod = "apiVersion: v1\nkind: Pod\nspec:\n  hostNetwork: yes\n  containers:\n  - name: \"on\"\n    \
                   tty: off\n    image: '0644'\n  volumes:\n  - name: v\n    secret: {defaultMode: 0644, optional: \"no\"}\n";
        let read = to_json(pod.as_bytes()).unwrap();
        assert_eq!(read["spec"]["hostNetwork"], json!(true));
        assert_eq!(read["spec"]["containers"][0], json!({"name": "on", "tty": false, "image": "0644"}));
        assert_eq!(read["spec"]["volumes"][0]["secret"], json!({"defaultMode": 420, "optional": false}));
        let list =
            to_json(format!("kind: List\nitems:\n- {}", pod.replace('\n', "\n  ")).as_bytes()).unwrap();
        assert_eq!(list["items"][0]["spec"]["hostNetwork"], json!(true));
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            to_json(b"a: b: c\n").unwrap_err(),
            "error converting YAML to JSON: yaml: line 1: mapping values are not allowed in this context"
        );
        assert!(to_json(b"a: 1\na: 2\n").unwrap_err().contains("duplicate entry with key \"a\""));
        assert!(to_json(b"a: !foo b\n").unwrap_err().contains("unknown tag"));
        assert!(to_json(b"a: .nan\n").is_err());
    }

    #[test]
    fn fields_given_twice_are_told() {
        let text = "kind: X\nspec:\n  a: 1\n  l:\n  - {b: 1, b: 2}\n  a: {c: !!str 3}\n1: x\n1: y\n";
        let (value, duplicates) = strict_yaml(text.as_bytes()).unwrap();
        assert_eq!(value, json!({"kind": "X", "spec": {"a": {"c": "3"}, "l": [{"b": 2}]}, "1": "y"}));
        assert_eq!(
            duplicates,
            ["duplicate field \"spec.l[0].b\"", "duplicate field \"spec.a\"", "duplicate field \"1\""]
        );
        for text in
            ["a: 1\nb: [x, 1.5, -1, true, ~]\n", "base: &b {x: 1}\nc:\n  <<: *b\n  y: 3\n", "", "a: .inf\n"]
        {
            assert_eq!(
                strict_yaml(text.as_bytes()).map(|(value, _)| value).map_err(|e| in_kubectl(&e)),
                to_json(text.as_bytes()),
                "{text}"
            );
        }
        assert!(strict_yaml(b"a: !foo b\n").unwrap_err().contains("unknown tag"));
        assert!(strict_yaml(b"a: b: c\n").unwrap_err().contains("yaml: line 1"));
    }

    #[test]
    fn several_documents() {
        assert_eq!(
            documents(b"---\n# nothing\n---\na: 1\n---\nb: 2\n...\n").unwrap(),
            [json!({"a": 1}), json!({"b": 2})]
        );
        assert_eq!(documents(b" {\"a\":1}\n{\"b\":2}").unwrap(), [json!({"a": 1}), json!({"b": 2})]);
        assert_eq!(documents(b"{a: 1}").unwrap(), [json!({"a": 1})]);
        assert!(documents(b"a: 1\n---\n: : :\n").is_err());
        assert!(documents(b"").unwrap().is_empty());
    }
}
