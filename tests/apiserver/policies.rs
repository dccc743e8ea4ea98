//! Admission policies over the API.

use serde_json::{Value, json};

use minik::api::request::User;
use minik::client::Client;
use minik::controllers::kinds::Kinds;
use minik::controllers::policy_status;
use tokio_util::task::AbortOnDropHandle;

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

#[tokio::test]
async fn policies_that_want_to_know_of_later_changes_are_asked_again() {
    for (reinvocation, keys) in [("Never", "1"), ("IfNeeded", "2")] {
        let f = Fixture::start().await;
        let counting = json!({
            "matchConstraints": about_maps(), "reinvocationPolicy": reinvocation,
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
                "[JSONPatch{op: 'add', path: '/metadata/annotations', value: {'keys': string(size(object.data))}}]"}}],
        });
        // Policies are asked in the order of their names.
        make(&f, "mutatingadmissionpolicies", "a-count", counting).await;
        let adding = json!({
            "matchConstraints": about_maps(), "reinvocationPolicy": "Never",
            "matchConditions": [{"name": "missing", "expression": "!('more' in object.data)"}],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression":
                "Object{data: Object.data{more: 'x'}}"}}],
        });
        make(&f, "mutatingadmissionpolicies", "b-add", adding).await;
        for name in ["a-count", "b-add"] {
            make(&f, "mutatingadmissionpolicybindings", name, json!({"policyName": name})).await;
        }
        let made = f.post(MAPS, json!({"metadata": {"name": "one"}, "data": {"a": "1"}})).await.expect(201);
        assert_eq!(made["data"], json!({"a": "1", "more": "x"}));
        assert_eq!(made["metadata"]["annotations"]["keys"], keys, "{reinvocation}");
    }
}

#[tokio::test]
async fn a_binding_selects_its_parameters() {
    let f = Fixture::start().await;
    let banned = |name: &str, word: &str| json!({"metadata": {"name": name, "labels": {"role": "ban"}}, "data": {"word": word}});
    let policy = json!({
        "matchConstraints": about_maps(),
        "matchConditions": [{"name": "no-ban", "expression": "!has(object.metadata.labels)"}],
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.metadata.name != params.data.word",
            "messageExpression": "'no ' + string(params.data.word)"}],
    });
    make(&f, "validatingadmissionpolicies", "banned", policy).await;
    let binding = json!({"policyName": "banned", "validationActions": ["Deny"],
        "paramRef": {"selector": {"matchLabels": {"role": "ban"}}, "parameterNotFoundAction": "Allow"}});
    make(&f, "validatingadmissionpolicybindings", "banned", binding).await;
    let map = |name: &str| json!({"metadata": {"name": name}});
    // As long as nothing is selected, the action for that counts.
    f.post(MAPS, map("red")).await.expect(201);
    let path = format!("{GROUP}/validatingadmissionpolicybindings/banned");
    let otherwise = async |action: &str| {
        f.patch(&path, json!({"spec": {"paramRef": {"parameterNotFoundAction": action}}})).await.expect(200);
    };
    otherwise("Deny").await;
    let refused = f.post(MAPS, map("green")).await.expect(422);
    assert_eq!(
        refused["message"],
        "configmaps \"green\" is forbidden: ValidatingAdmissionPolicy 'banned' with binding 'banned' denied request: \
         failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
    );
    otherwise("Allow").await;
    for (name, word) in [("one", "green"), ("two", "blue")] {
        f.post(MAPS, banned(name, word)).await.expect(201);
    }
    otherwise("Deny").await;
    for name in ["green", "blue"] {
        let refused = f.post(MAPS, map(name)).await.expect(422);
        let end = format!("denied request: no {name}");
        assert!(refused["message"].as_str().unwrap().ends_with(&end), "{refused}");
    }
    f.post(MAPS, map("yellow")).await.expect(201);
}

#[tokio::test]
async fn policies_say_what_their_expressions_get_wrong() {
    let f = Fixture::start().await;
    let client = Client::new(f.api.clone(), User::component("system:kube-controller-manager"));
    let (kinds, feed) = Kinds::new(&client);
    let _feed = AbortOnDropHandle::new(tokio::spawn(feed));
    let _checker = AbortOnDropHandle::new(tokio::spawn(policy_status::run(client, kinds)));
    let spec = json!({
        "matchConstraints": about_maps(),
        "validations": [{"expression": "object.data.size() < 5"}, {"expression": "object.spec.replicas < 5"}],
    });
    make(&f, "validatingadmissionpolicies", "sizes", spec).await;
    let named = "?watch=1&fieldSelector=metadata.name%3Dsizes";
    let mut watch = f.watch(&format!("{GROUP}/validatingadmissionpolicies{named}")).await;
    let mut seen = watch.next().await;
    while seen["object"]["status"]["observedGeneration"] != 1 {
        seen = watch.next().await;
    }
    let warning = "/v1, Kind=ConfigMap: ERROR: <input>:1:7: undefined field 'spec'\n | object.spec.replicas < 5\n \
                   | ......^\n";
    assert_eq!(
        seen["object"]["status"]["typeChecking"],
        json!({"expressionWarnings": [{"fieldRef": "spec.validations[1].expression", "warning": warning}]})
    );
}
