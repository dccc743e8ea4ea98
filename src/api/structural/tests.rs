//! Schemas of custom kinds: what they prune, default and refuse, in whose words.

use serde_json::{Value, json};

use super::rules::{self, field_path};
use super::{Node, fill, prune, validate};

fn schema() -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "mode": {"type": "string", "enum": ["fast", "slow"], "default": "fast"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 5},
        "at": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": true},
        "ratio": {"type": "number", "multipleOf": 0.5, "exclusiveMinimum": true, "minimum": 0},
        "maybe": {"type": "string", "nullable": true, "default": "x"},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 3, "items": {"type": "string"}},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {
                "name": {"type": "string"}, "port": {"type": "integer", "default": 80}}}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"known": {"type": "object", "properties": {}}}},
        "template": {"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": false, "properties": {"spec": {"type": "object"}}},
        "either": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
        "some": {"type": "string", "anyOf": [{"minLength": 3}, {"pattern": "^x"}]},
        "all": {"type": "string", "allOf": [{"minLength": 3}, {"pattern": "^x"}]},
        "never": {"type": "string", "not": {"enum": ["no"]}}
    }}}})
}

fn complaints(spec: Value, old: Option<Value>) -> Vec<String> {
    let node = Node::read(&schema());
    let whole = |spec: Value| json!({ "spec": spec });
    let errors = validate(&node, &whole(spec), old.map(whole).as_ref());
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn values_are_refused_in_kubernetes_words() {
    for (spec, expected) in [
        (json!({"size": 1}), vec![]),
        (json!({}), vec!["spec.size: Required value"]),
        (
            json!({"size": "x"}),
            vec![
                "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
            ],
        ),
        (json!({"size": 1.0}), vec![]),
        (
            json!({"size": 0}),
            vec!["spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"],
        ),
        (
            json!({"size": 11}),
            vec!["spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"],
        ),
        (
            json!({"size": null}),
            vec!["spec.size: Invalid value: \"null\": spec.size in body must be of type integer: \"null\""],
        ),
        (
            json!({"size": 1, "mode": "x"}),
            vec!["spec.mode: Unsupported value: \"x\": supported values: \"fast\", \"slow\""],
        ),
        (
            json!({"size": 1, "name": "A"}),
            vec![
                "spec.name: Invalid value: \"A\": spec.name in body should be at least 2 chars long",
                "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
            ],
        ),
        (json!({"size": 1, "name": "abcdef"}), vec!["spec.name: Too long: may not be more than 5 bytes"]),
        (
            json!({"size": 1, "at": "noon"}),
            vec!["spec.at: Invalid value: \"noon\": spec.at in body must be of type date-time: \"noon\""],
        ),
        (
            json!({"size": 1, "port": true}),
            vec![
                "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
            ],
        ),
        (json!({"size": 1, "port": "http"}), vec![]),
        (
            json!({"size": 1, "ratio": 0.75}),
            vec!["spec.ratio: Invalid value: 0.75: spec.ratio in body should be a multiple of 0.5"],
        ),
        (
            json!({"size": 1, "ratio": 0}),
            vec!["spec.ratio: Invalid value: 0: spec.ratio in body should be greater than 0"],
        ),
        (json!({"size": 1, "maybe": null}), vec![]),
        (json!({"size": 1, "tags": ["a", "b", "a"]}), vec!["spec.tags[2]: Duplicate value: \"a\""]),
        (
            json!({"size": 1, "tags": ["a", "b", "c", "d"]}),
            vec!["spec.tags: Too many: 4: must have at most 3 items"],
        ),
        (
            json!({"size": 1, "ports": [{"name": "a"}, {"name": "a"}]}),
            vec!["spec.ports[1]: Duplicate value: {\"name\":\"a\"}"],
        ),
        (json!({"size": 1, "ports": [{"port": 1}]}), vec!["spec.ports[0].name: Required value"]),
        (
            json!({"size": 1, "labels": {"a": 1}}),
            vec![
                "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
            ],
        ),
        (
            json!({"size": 1, "either": {}}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.either\" must validate one and only one schema (oneOf). Found none valid",
                "spec.either.a: Required value",
            ],
        ),
        (
            json!({"size": 1, "either": {"a": 1, "b": 2}}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.either\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        ),
        (
            json!({"size": 1, "some": "a"}),
            vec![
                "<nil>: Invalid value: \"\": \"spec.some\" must validate at least one schema (anyOf)",
                "spec.some: Invalid value: \"a\": spec.some in body should be at least 3 chars long",
            ],
        ),
        (
            json!({"size": 1, "all": "xa"}),
            vec![
                "spec.all: Invalid value: \"xa\": spec.all in body should be at least 3 chars long",
                "<nil>: Invalid value: \"\": \"spec.all\" must validate all the schemas (allOf)",
            ],
        ),
        (
            json!({"size": 1, "never": "no"}),
            vec!["<nil>: Invalid value: \"\": \"spec.never\" must not validate the schema (not)"],
        ),
    ] {
        assert_eq!(complaints(spec.clone(), None), expected, "{spec}");
    }
}

#[test]
fn what_was_wrong_before_may_stay() {
    let old = json!({"size": 99, "name": "A", "tags": ["a", "a"]});
    assert!(complaints(json!({"size": 99, "name": "ab", "tags": ["a", "a"]}), Some(old.clone())).is_empty());
    assert_eq!(complaints(json!({"size": 98, "name": "A"}), Some(old)).len(), 1);
}

#[test]
fn unknown_fields_are_dropped_and_told() {
    let node = Node::read(&schema());
    let mut object = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}, "extra": 1, "spec": {
        "sise": 1, "ports": [{"name": "a", "x": 1}], "labels": {"a": "b"},
        "free": {"any": {"thing": 1}, "known": {"gone": 1}},
        "template": {"kind": "Pod", "metadata": {"name": "x"}, "spec": {}, "gone": 1}}});
    let mut unknown = prune(&node, &mut object, true);
    unknown.sort();
    assert_eq!(
        unknown,
        ["extra", "spec.free.known.gone", "spec.ports[0].x", "spec.sise", "spec.template.gone"]
    );
    assert_eq!(
        object,
        json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "a"}, "spec": {"ports": [{"name": "a"}],
            "labels": {"a": "b"}, "free": {"any": {"thing": 1}, "known": {}},
            "template": {"kind": "Pod", "metadata": {"name": "x"}, "spec": {}}}})
    );
}

#[test]
fn defaults_are_filled_in_where_something_is_missing() {
    let node = Node::read(&schema());
    let mut object = json!({"spec": {"size": null, "mode": null, "maybe": null, "ports": [{"name": "a"}, {"name": "b", "port": 1}]}});
    fill(&node, &mut object);
    assert_eq!(
        object,
        json!({"spec": {"mode": "fast", "maybe": null, "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 1}]}})
    );
    let again = object.clone();
    fill(&node, &mut object);
    assert_eq!(object, again);
    let mut empty = json!({});
    fill(&node, &mut empty);
    assert_eq!(empty, json!({}));
}

fn ruled() -> Node {
    let mut node = Node::read(&json!({"type": "object", "x-kubernetes-validations": [
            {"rule": "self.metadata.name.size() < 5", "message": "name too long"}],
        "properties": {"spec": {"type": "object",
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min %d exceeds max %d'.format([self.min, self.max])", "fieldPath": ".min"},
            {"rule": "self.max >= oldSelf.max", "message": "max never shrinks", "reason": "FieldValueForbidden"},
            {"rule": "!oldSelf.hasValue() || self.max < 100", "optionalOldSelf": true}],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
                "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v"}, {"rule": "self.v != 13"}]}},
            "any": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [{"rule": "self + 1 > 0"}]}}}}}));
    rules::compile(&mut node, true, "", &mut |path, index, _, faults| {
        assert!(faults.rule.is_none() && faults.message.is_none(), "{path} {index} {faults:?}");
    });
    node
}

#[test]
fn rules_speak_for_themselves() {
    let node = ruled();
    let object = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let told = |new: Value, old: Option<Value>| -> Vec<String> {
        rules::check(&node, &new, old.as_ref()).iter().map(ToString::to_string).collect()
    };
    assert_eq!(told(object("a", json!({"min": 1, "max": 2})), None), [""; 0]);
    assert_eq!(
        told(object("much-too-long", json!({"min": 3, "max": 0})), None),
        [
            "<nil>: Invalid value: name too long",
            "spec.min: Invalid value: min 3 exceeds max 0",
            "spec.max: Invalid value: 0: failed rule: self > 0",
        ]
    );
    assert_eq!(
        told(object("a", json!({"max": 2})), None),
        ["spec: Invalid value: \"object\": no such key: min evaluating rule: self.min <= self.max"]
    );
    let old = object("a", json!({"min": 1, "max": 5, "items": [{"k": "a", "v": 3}, {"k": "b", "v": 13}]}));
    assert_eq!(
        told(
            object("a", json!({"min": 1, "max": 4, "items": [{"k": "b", "v": 13}, {"k": "a", "v": 2}]})),
            Some(old.clone())
        ),
        [
            "spec: Forbidden: max never shrinks",
            "spec.items[1]: Invalid value: failed rule: self.v >= oldSelf.v"
        ]
    );
    assert_eq!(
        told(object("a", json!({"min": 1, "max": 100})), Some(old)),
        ["spec: Invalid value: failed rule: !oldSelf.hasValue() || self.max < 100"]
    );
    assert_eq!(
        told(object("a", json!({"min": 1, "max": 2, "any": "x"})), None),
        [
            "spec.any: Invalid value: \"\": 'no such overload': call arguments did not match a supported operator, function or macro signature for rule: self + 1 > 0"
        ]
    );
}

#[test]
fn paths_lead_to_fields() {
    let node = Node::read(&schema());
    let path = |text: &str| field_path(text, &node, true).map(|(path, node)| (path, node.of.clone()));
    assert_eq!(path(".spec.size"), Ok((".spec.size".into(), "integer".into())));
    assert_eq!(path(".spec.labels['a.b']"), Ok((".spec.labels[a.b]".into(), "string".into())));
    for (wrong, why) in [
        ("spec", "expected [ or . but got: spec"),
        (".nope", "does not refer to a valid field"),
        (".spec[0]", "expected single quoted string but got 0"),
        (".spec.", "unexpected end of JSON path"),
    ] {
        assert_eq!(path(wrong), Err(why.to_owned()), "{wrong}");
    }
    assert_eq!(
        field_path(".spec['size']", &node, false).err().as_deref(),
        Some("array notation is not allowed")
    );
}
