//! Admission policies over the API.

use serde_json::{Value, json};

use super::server::{Fixture, MAPS};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";

fn about_maps() -> Value {
    json!({"resourceRules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}]})
}

async fn make(f: &Fixture, plural: &str, name: &str, spec: Value) {
    f.post(&format!("{GROUP}/{plural}"), json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
}

#[tokio::test]
async fn what_a_policy_does_not_allow_is_refused_or_told() {
    let f = Fixture::start().await;
    f.post(MAPS, json!({"metadata": {"name": "limits"}, "data": {"most": "1"}})).await.expect(201);
    let policy = json!({
        "matchConstraints": about_maps(),
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "size", "expression": "has(object.data) ? size(object.data) : 0"}],
        "validations": [{"expression": "variables.size <= int(params.data.most)",
            "messageExpression": "'at most ' + params.data.most + ' keys, not ' + string(variables.size)"}],
    });
    make(&f, "validatingadmissionpolicies", "few-keys", policy).await;
    let many = json!({"metadata": {"name": "many"}, "data": {"a": "1", "b": "2"}});
    // A policy without a binding does nothing.
    f.post(MAPS, many.clone()).await.expect(201);
    let binding = |actions: Value| {
        json!({"policyName": "few-keys", "validationActions": actions,
            "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"}})
    };
    make(&f, "validatingadmissionpolicybindings", "everywhere", binding(json!(["Deny"]))).await;
    let mut other = many.clone();
    other["metadata"]["name"] = json!("other");
    let refused = f.post(MAPS, other.clone()).await.expect(422);
    assert_eq!(
        refused["message"],
        "configmaps \"other\" is forbidden: ValidatingAdmissionPolicy 'few-keys' with binding 'everywhere' denied \
         request: at most 1 keys, not 2"
    );
    assert_eq!(refused["reason"], "Invalid");
    let path = format!("{GROUP}/validatingadmissionpolicybindings/everywhere");
    f.patch(&path, json!({"spec": {"validationActions": ["Warn"]}})).await.expect(200);
    let made = f.post(MAPS, other).await;
    assert_eq!(
        made.warnings(),
        [
            "Validation failed for ValidatingAdmissionPolicy 'few-keys' with binding 'everywhere': at most 1 keys, not 2"
        ]
    );
    made.expect(201);
    f.delete(&format!("{MAPS}/limits")).await.expect(200);
    f.patch(&path, json!({"spec": {"validationActions": ["Deny"]}})).await.expect(200);
    let refused = f.post(MAPS, json!({"metadata": {"name": "third"}})).await.expect(422);
    assert_eq!(
        refused["message"],
        "configmaps \"third\" is forbidden: ValidatingAdmissionPolicy 'few-keys' with binding 'everywhere' denied \
         request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
}

#[tokio::test]
async fn policies_change_objects() {
    let f = Fixture::start().await;
    let policy = json!({
        "matchConstraints": about_maps(), "reinvocationPolicy": "Never", "failurePolicy": "Fail",
        "mutations": [
            {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{metadata: Object.metadata{labels: Object.metadata.labels{owner: request.userInfo.username}}}"}},
            {"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/data', value: {'a': 'b'}}]"}},
        ],
    });
    make(&f, "mutatingadmissionpolicies", "label", policy).await;
    make(&f, "mutatingadmissionpolicybindings", "label", json!({"policyName": "label"})).await;
    let made = f.config("a").await;
    assert_eq!(made["metadata"]["labels"], json!({"owner": "admin"}));
    assert_eq!(made["data"], json!({"a": "b"}));
}
