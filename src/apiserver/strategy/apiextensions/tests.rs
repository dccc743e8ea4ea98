//! Definitions of custom kinds that are taken, and what is said of others.

use serde_json::{Value, json};

use super::CustomResourceDefinition;
use crate::apiserver::strategy::Strategy;

fn definition() -> Value {
    let mut definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com",
        "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"}, "versions": [
        {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]}});
    CustomResourceDefinition.default(&mut definition);
    CustomResourceDefinition.prepare_create(&mut definition);
    definition
}

fn errors_with(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut definition = definition();
    change(&mut definition);
    CustomResourceDefinition.validate(&definition).iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_complete_a_definition() {
    let definition = definition();
    assert_eq!(
        definition["spec"]["names"],
        json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"})
    );
    assert_eq!(definition["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(definition["status"], json!({"storedVersions": ["v1"]}));
    assert_eq!(errors_with(|_| ()), [""; 0]);
}

#[test]
fn definitions_are_refused_in_kubernetes_words() {
    type Change = fn(&mut Value);
    let rows: &[(Change, &str)] = &[
        (
            |d| d["metadata"]["name"] = json!("x"),
            "metadata.name: Invalid value: \"x\": must be spec.names.plural+\".\"+spec.group",
        ),
        (
            |d| d["spec"]["scope"] = json!("X"),
            "spec.scope: Unsupported value: \"X\": supported values: \"Cluster\", \"Namespaced\"",
        ),
        (
            |d| d["spec"]["versions"][0]["schema"] = Value::Null,
            "spec.versions[0].schema.openAPIV3Schema: Required value",
        ),
        (
            |d| d["spec"]["names"]["listKind"] = json!("Widget"),
            "spec.names.listKind: Invalid value: \"Widget\": kind and listKind may not be the same",
        ),
        (
            |d| {
                d["spec"]["versions"][0]["additionalPrinterColumns"] =
                    json!([{"name": "A", "type": "text", "jsonPath": ".a"}])
            },
            "spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string",
        ),
        (
            |d| d["spec"]["versions"][0]["deprecationWarning"] = json!("old"),
            "spec.versions[0].deprecationWarning: Invalid value: \"old\": can only be set for deprecated versions",
        ),
        (
            |d| d["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.nope"}]),
            "spec.versions[0].selectableFields[0].jsonPath: Invalid value: \".spec.nope\": is an invalid path: does not refer to a valid field",
        ),
        (
            |d| d["status"]["storedVersions"] = json!(["v0", "v1"]),
            "status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions; v0 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v0 and removes v0 from status.storedVersions",
        ),
        (
            |d| d["spec"]["conversion"] = json!({"strategy": "Webhook"}),
            "[spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook, spec.conversion.conversionReviewVersions: Required value]",
        ),
        (
            |d| {
                d["spec"]["group"] = json!("x.k8s.io");
                d["metadata"]["name"] = json!("widgets.x.k8s.io");
            },
            "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ),
    ];
    for (change, expected) in rows {
        let told = errors_with(change);
        let told = if told.len() == 1 { told[0].clone() } else { format!("[{}]", told.join(", ")) };
        assert_eq!(told, *expected);
    }
    let none = errors_with(|d| d["spec"]["versions"][0]["storage"] = json!(false));
    assert!(none[0].ends_with("must have exactly one version marked as storage version"), "{none:?}");
}

#[test]
fn schemas_are_refused_in_kubernetes_words() {
    let path = "spec.versions[0].schema.openAPIV3Schema";
    for (spec, expected) in [
        (json!({"type": "object"}), ""),
        (
            json!({"properties": {}}),
            ".properties[spec].type: Required value: must not be empty for specified object fields",
        ),
        (json!({"type": "array"}), ".properties[spec].items: Required value: must be specified"),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}, "properties": {"a": {"type": "string"}}}),
            ".properties[spec].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            json!({"type": "string", "default": 1}),
            ".properties[spec].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
        ),
        (
            json!({"type": "object", "anyOf": [{"type": "object"}]}),
            ".properties[spec].anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "object", "oneOf": [{"required": ["a"], "properties": {"a": {"minimum": 1}}}]}),
            ".properties[spec].properties[a]: Required value: because it is defined in spec.versions[0].schema.openAPIV3Schema.properties[spec].oneOf[0].properties[a]",
        ),
        (
            json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
            ".properties[spec].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
            ".properties[spec].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"], "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
            ".properties[spec].items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": " "}]}),
            ".properties[spec].x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self + 1"}]}),
            ".properties[spec].x-kubernetes-validations[0].rule: Invalid value: {\"rule\":\"self + 1\"}: cel expression must evaluate to a bool",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [{"rule": "self.b == ''"}]}),
            ".properties[spec].x-kubernetes-validations[0].rule: Invalid value: {\"rule\":\"self.b == ''\"}: compilation failed: ERROR: <input>:1:5: undefined field 'b'\n | self.b == ''\n | ....^",
        ),
        (
            json!({"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}),
            ".properties[spec].items.x-kubernetes-validations[0].rule: Invalid value: \"self >= oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.versions[0].schema.openAPIV3Schema.properties[spec]",
        ),
        (json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}), ""),
    ] {
        let told = errors_with(|d| {
            d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = spec.clone()
        });
        let expected: Vec<String> =
            if expected.is_empty() { vec![] } else { vec![format!("{path}{expected}")] };
        // The default's place is told without a name of its own.
        assert_eq!(told, expected, "{spec}");
    }
}

#[test]
fn what_is_established_stays() {
    let mut old = definition();
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    let mut new = old.clone();
    new["spec"]["scope"] = json!("Cluster");
    new["spec"]["names"]["kind"] = json!("Other");
    let told: Vec<String> =
        CustomResourceDefinition.validate_update(&new, &old).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "spec.scope: Invalid value: \"Cluster\": field is immutable",
            "spec.names.kind: Invalid value: \"Other\": field is immutable"
        ]
    );
    new = old.clone();
    new["spec"]["versions"][0]["storage"] = json!(false);
    new["spec"]["versions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "v2", "served": true, "storage": true}));
    CustomResourceDefinition.prepare_update(&mut new, &old);
    assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
}
