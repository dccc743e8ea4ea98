//! Validating admission policies say which generation of them was looked at, and what their expressions get wrong about
//! the objects that they are meant for.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/policy/validating/typechecking.go`. Nothing of it changes what a policy
//! does.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::definitions;
use super::{Kinds, Next, queue, work};
use crate::api::cel::admission::{typed_environment, variables};
use crate::api::cel::kinds::type_of;
use crate::api::cel::{Env, Type};
use crate::api::kinds::{self, Kind};
use crate::api::request::Change;
use crate::api::status::Status;
use crate::api::{custom, meta};
use crate::client::Client;
use crate::client::follow::{Entry, Follower, Revision};
use crate::client::queue::Queue;

/// How many kinds are looked at for one policy.
const MOST_KINDS: usize = 10;

/// Runs until dropped.
pub async fn run(client: Client, all: Kinds) {
    let group = "admissionregistration.k8s.io";
    let Some(kind) = kinds::by_resource(group, "v1", "validatingadmissionpolicies") else { return };
    let queue = queue(&client, "validatingadmissionpolicy-status");
    let follow = client.follow(kind, Feed { queue: queue.clone() });
    let reconcile = |name: String| {
        let (client, all) = (&client, &all);
        async move { observe(client, all, kind, &name).await }
    };
    tokio::join!(follow, work("policy-status", &queue, reconcile));
}

struct Feed {
    queue: Queue,
}

impl Follower for Feed {
    fn listed(&mut self, entries: &[Arc<Entry>], _: Revision) {
        entries.iter().for_each(|entry| self.queue.add(meta::name(entry.json())));
    }

    fn changed(&mut self, change: &Change, _: Revision) {
        if let Change::Added(entry) | Change::Modified(entry) = change {
            self.queue.add(meta::name(entry.json()));
        }
    }
}

async fn observe(client: &Client, all: &Kinds, kind: &Kind, name: &str) -> Result<Next, Status> {
    let policy = match client.object(kind, None, name).await {
        Ok(entry) => entry.json().clone(),
        Err(status) if status.is("NotFound") => return Ok(Next::Await),
        Err(status) => return Err(status),
    };
    if is_seen(&policy) {
        return Ok(Next::Await);
    }
    let subjects = Subjects::of(client, all, &policy).await?;
    let mut body = policy;
    body["status"] = status(&body, &warnings(&body, &subjects));
    match client.put_subresource(kind, None, name, "status", body).await {
        Err(status) if status.is("NotFound") => Ok(Next::Await),
        other => other.map(|()| Next::Await),
    }
}

/// What is known of the objects that a policy is about.
#[derive(Debug, Default)]
struct Subjects {
    /// `apps/v1, Kind=Deployment` with the type of such objects, in the order of groups, versions and kinds.
    objects: Vec<(String, Type)>,
    /// Of its parameters, when it has any.
    params: Option<Type>,
}

impl Subjects {
    async fn of(client: &Client, all: &Kinds, policy: &Value) -> Result<Subjects, Status> {
        let mut found = BTreeMap::new();
        for (group, version, resource) in resources(policy) {
            let Some(kind) = by_resource(client, &group, &version, &resource).await? else { continue };
            let of = kind.kind.to_string();
            found.insert((group, version, of), kind);
            if found.len() == MOST_KINDS {
                break;
            }
        }
        let typed = found.into_iter().filter_map(|((group, version, kind), row)| {
            Some((format!("{group}/{version}, Kind={kind}"), type_of(&row)?))
        });
        let (objects, of) = (typed.collect(), &policy["spec"]["paramKind"]);
        if of.is_null() {
            return Ok(Subjects { objects, params: None });
        }
        let text = |key: &str| of[key].as_str().unwrap_or_default();
        let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
        let params = match all.by_kind(group, version, text("kind")) {
            Some(kind) => by_resource(client, group, version, &kind.plural).await?,
            None => None,
        };
        Ok(Subjects { objects, params: Some(params.and_then(|kind| type_of(&kind)).unwrap_or(Type::Dyn)) })
    }
}

/// The kind of a resource with the structure of its objects.
async fn by_resource(
    client: &Client,
    group: &str,
    version: &str,
    resource: &str,
) -> Result<Option<Arc<Kind>>, Status> {
    if let Some(kind) = kinds::by_resource(group, version, resource) {
        return Ok(Some(kind.clone()));
    }
    let Some(definitions) = definitions() else { return Ok(None) };
    match client.object(definitions, None, &format!("{resource}.{group}")).await {
        Ok(entry) => {
            let kinds = custom::kinds(entry.json(), &entry.bytes, entry.revision);
            Ok(kinds.into_iter().find(|kind| kind.version == version))
        }
        Err(status) if status.is("NotFound") => Ok(None),
        Err(status) => Err(status),
    }
}

/// The groups, versions and resources that the rules of a policy name; a rule with a wildcard names none (pure).
fn resources(policy: &Value) -> Vec<(String, String, String)> {
    let mut named = Vec::new();
    for rule in policy["spec"]["matchConstraints"]["resourceRules"].as_array().into_iter().flatten() {
        let texts = |key: &str| {
            let list = rule[key].as_array().into_iter().flatten();
            let mut texts: Vec<&str> = list.filter_map(Value::as_str).collect();
            texts.sort_unstable();
            texts
        };
        let (groups, versions, mut resources) =
            (texts("apiGroups"), texts("apiVersions"), texts("resources"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        resources.retain(|resource| !resource.contains(['*', '/']));
        for group in &groups {
            for version in &versions {
                let of =
                    |resource: &&str| ((*group).to_owned(), (*version).to_owned(), (*resource).to_owned());
                named.extend(resources.iter().map(of));
            }
        }
    }
    named
}

/// What the validations of a policy get wrong about each of its subjects (pure).
fn warnings(policy: &Value, subjects: &Subjects) -> Vec<Value> {
    let spec = &policy["spec"];
    let environment = |(kind, of): &(String, Type)| {
        let env = typed_environment(of, subjects.params.as_ref(), true);
        let (_, declared) = variables(&spec["variables"], &env);
        (kind.clone(), env.variable("variables", declared))
    };
    let environments: Vec<(String, Env)> = subjects.objects.iter().map(environment).collect();
    let mut warnings = Vec::new();
    for (index, validation) in spec["validations"].as_array().into_iter().flatten().enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = validation[field].as_str().unwrap_or_default();
            if expression.is_empty() && field == "messageExpression" {
                continue;
            }
            let wrong = environments
                .iter()
                .filter_map(|(kind, env)| Some(format!("{kind}: {}\n", env.compile(expression).err()?)));
            let wrong: Vec<String> = wrong.collect();
            if !wrong.is_empty() {
                let of = format!("spec.validations[{index}].{field}");
                warnings.push(json!({"fieldRef": of, "warning": wrong.join("\n")}));
            }
        }
    }
    warnings
}

/// Whether the status tells of the present generation (pure).
fn is_seen(policy: &Value) -> bool {
    let status = &policy["status"];
    status["observedGeneration"].as_i64() == Some(meta::generation(policy))
        && status["typeChecking"].is_object()
}

/// The status that a policy must have (pure).
fn status(policy: &Value, warnings: &[Value]) -> Value {
    let mut status = policy["status"].clone();
    let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    meta::map_mut(&mut status).insert("observedGeneration".to_owned(), json!(meta::generation(policy)));
    meta::map_mut(&mut status).insert("typeChecking".to_owned(), checked);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_is_looked_at_once() {
        let mut policy = json!({"metadata": {"generation": 2}, "status": {"conditions": []}});
        assert!(!is_seen(&policy));
        let seen = status(&policy, &[]);
        assert_eq!(seen, json!({"observedGeneration": 2, "typeChecking": {}, "conditions": []}));
        policy["status"] = seen;
        assert!(is_seen(&policy));
        policy["metadata"]["generation"] = json!(3);
        assert!(!is_seen(&policy));
        let told = status(&policy, &[json!({"fieldRef": "a", "warning": "b"})]);
        assert_eq!(told["typeChecking"]["expressionWarnings"][0]["fieldRef"], "a");
    }

    #[test]
    fn rules_without_wildcards_name_resources() {
        let rule = |groups: &[&str], versions: &[&str], resources: &[&str]| json!({"apiGroups": groups, "apiVersions": versions, "resources": resources});
        let named = |rules: Value| -> Vec<String> {
            let policy = json!({"spec": {"matchConstraints": {"resourceRules": rules}}});
            resources(&policy).into_iter().map(|(g, v, r)| format!("{g}/{v}/{r}")).collect()
        };
        assert_eq!(
            named(json!([
                rule(&["apps"], &["v1"], &["statefulsets", "deployments", "deployments/scale", "*"]),
                rule(&[""], &["v1"], &["pods"]),
                rule(&["*"], &["v1"], &["pods"]),
                rule(&[""], &["*"], &["pods"])
            ])),
            ["apps/v1/deployments", "apps/v1/statefulsets", "/v1/pods"]
        );
        assert!(named(Value::Null).is_empty());
    }

    #[tokio::test]
    async fn what_expressions_get_wrong_is_told_of_each_kind() {
        let api = crate::client::testing::FakeApi::default();
        let rules = json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["statefulsets", "deployments", "made-up"]}]);
        let policy = json!({"spec": {"matchConstraints": {"resourceRules": rules},
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [{"name": "count", "expression": "object.spec.replicas"}],
        "validations": [
            {"expression": "variables.count <= int(params.data['most'])"},
            {"expression": "object.spec.strategy.type == 'Recreate'", "messageExpression": "object.spec.colour"},
            {"expression": "authorizer.group('').resource('pods').check('get').allowed() && variables.count == 'a'"},
        ]}});
        let subjects = Subjects::of(&api.client(), &Kinds::built_in(), &policy).await.unwrap();
        let kinds: Vec<&str> = subjects.objects.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["apps/v1, Kind=Deployment", "apps/v1, Kind=StatefulSet"]);
        let told = warnings(&policy, &subjects);
        let fields: Vec<&str> = told.iter().map(|warning| warning["fieldRef"].as_str().unwrap()).collect();
        assert_eq!(
            fields,
            [
                "spec.validations[1].expression",
                "spec.validations[1].messageExpression",
                "spec.validations[2].expression"
            ]
        );
        assert_eq!(
            told[0]["warning"],
            "apps/v1, Kind=StatefulSet: ERROR: <input>:1:12: undefined field 'strategy'\n | \
             object.spec.strategy.type == 'Recreate'\n | ...........^\n"
        );
        let both = told[1]["warning"].as_str().unwrap();
        assert!(
            both.starts_with("apps/v1, Kind=Deployment: ERROR")
                && both.contains("^\n\napps/v1, Kind=StatefulSet: ")
        );
    }
}
