//! Paths below an object that have a meaning of their own: `status`, `scale`, `approval`, `binding`,
//! `ephemeralcontainers`, `eviction`, `finalize`, `resize`, `token`.
//!
//! The streaming ones (`log`, `exec`, `attach`, `portforward`) are HTTP conversations and never come here.

mod eviction;
mod scale;
mod token;

use std::sync::Arc;

use serde_json::{Value, json};

use super::ApiServer;
use super::admission;
use super::registry::{Part, Place};
use super::structure::{self, Type};
use crate::api::kinds::{Kind, Text, Types};
use crate::api::request::{Action, Response, User, WriteOptions};
use crate::api::status::{Details, FieldError, Status};
use crate::api::{meta, names};
use crate::clock;

const BINDING: Type<'static> = Type {
    group: "",
    version: "v1",
    kind: "Binding",
    types: &Types::Named(Text::Borrowed("io.k8s.api.core.v1.Binding")),
};
const EVICTION: Type<'static> = Type {
    group: "policy",
    version: "v1",
    kind: "Eviction",
    types: &Types::Named(Text::Borrowed("io.k8s.api.policy.v1.Eviction")),
};

/// Carries out a request to a subresource of an object.
pub async fn answer(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    subresource: &str,
    action: Action,
) -> Result<Response, Status> {
    if place.kind.subresource(subresource).is_none() {
        return Err(Status::no_such_path());
    }
    match (subresource, action) {
        ("approval" | "status" | "ephemeralcontainers" | "resize", Action::Get { resource_version }) => {
            let entry = api.registry().get(place, &resource_version)?;
            Ok(Response::Object { entry, created: false, warnings: Vec::new() })
        }
        ("status", Action::Update(body, options)) => {
            api.registry().replace(user, place, Part::Status, body, &options).await
        }
        ("status", Action::Patch(how, patch, options)) => {
            api.registry().patch(user, place, Part::Status, how, &patch, &options).await
        }
        ("scale", action) => scale::answer(api, user, place, action).await,
        ("approval", Action::Update(body, options)) => {
            api.registry().replace(user, place, Part::Approval, body, &options).await
        }
        ("approval", Action::Patch(how, patch, options)) => {
            api.registry().patch(user, place, Part::Approval, how, &patch, &options).await
        }
        ("ephemeralcontainers", Action::Update(body, options)) => {
            api.registry().replace(user, place, Part::EphemeralContainers, body, &options).await
        }
        ("ephemeralcontainers", Action::Patch(how, patch, options)) => {
            api.registry().patch(user, place, Part::EphemeralContainers, how, &patch, &options).await
        }
        ("resize", Action::Update(body, options)) => {
            api.registry().replace(user, place, Part::Resize, body, &options).await
        }
        ("resize", Action::Patch(how, patch, options)) => {
            api.registry().patch(user, place, Part::Resize, how, &patch, &options).await
        }
        ("finalize", Action::Update(body, options)) => {
            api.registry().replace(user, place, Part::Finalize, body, &options).await
        }
        ("binding", Action::Create(body, options)) => bind(api, user, place, body, &options).await,
        ("eviction", Action::Create(body, options)) => {
            eviction::evict(api, user, place, body, &options).await
        }
        ("token", Action::Create(body, options)) => token::issue(api, user, place, body, &options).await,
        _ => Err(Status::no_such_method()),
    }
}

fn created(warnings: Vec<String>) -> Response {
    let mut status = Status::success(Details::default());
    status.details = None;
    status.code = 201;
    let value = serde_json::to_value(status).unwrap_or_default();
    Response::Transient { value, created: true, warnings }
}

/// A body about the object of the path, read as `of`; its name must be there.
fn read_about(
    place: Place<'_>,
    of: Type<'_>,
    body: Value,
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), Status> {
    let (body, warnings) = structure::read(of, body, options)?;
    structure::check_namespace(place.namespace, &body)?;
    if meta::name(&body) != place.name {
        let why = format!("name in URL does not match name in {} object", of.kind);
        return Err(Status::bad_request(why));
    }
    Ok((body, warnings))
}

/// Gives a pod to a node.
async fn bind(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    body: Value,
    options: &WriteOptions,
) -> Result<Response, Status> {
    let (mut binding, mut warnings) = read_about(place, BINDING, body, options)?;
    let told = admission::create_part(api.registry(), user, place, "binding", &mut binding, options);
    warnings.extend(told.await?);
    assign(api, user, place, &binding, (options, warnings)).await
}

/// Gives the pod to a node that has the name of the binding, which is of a kind of its own.
pub async fn bind_by_name(
    api: &ApiServer,
    user: &User,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    (body, options): (Value, &WriteOptions),
) -> Result<Response, Status> {
    let (mut binding, mut warnings) = structure::read(BINDING, body, options)?;
    structure::check_namespace(namespace, &binding)?;
    let name = meta::name(&binding).to_owned();
    let own = Place { kind, namespace, name: &name };
    warnings.extend(admission::create_part(api.registry(), user, own, "", &mut binding, options).await?);
    let Some(pods) = api.served().by_resource("", "v1", "pods").filter(|_| !name.is_empty()) else {
        return Err(Status::bad_request("Name parameter required."));
    };
    assign(api, user, Place { kind: &pods, ..own }, &binding, (options, warnings)).await
}

/// Writes what a binding says into its pod.
async fn assign(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    binding: &Value,
    (options, warnings): (&WriteOptions, Vec<String>),
) -> Result<Response, Status> {
    let errors = wrong_target(&binding["target"]);
    if !errors.is_empty() {
        return Err(Status::invalid("", "Binding", place.name, &errors));
    }
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    api.registry()
        .change(user, place, Part::Binding, options, |pod| {
            bound(place, pod, node, meta::uid(binding), meta::annotations(binding))
                .map(|pod| (pod, Vec::new()))
        })
        .await?;
    Ok(created(warnings))
}

/// What is wrong with the node that a binding names (`ValidatePodBinding`); its name must be one that a pod's spec
/// may hold.
fn wrong_target(target: &Value) -> Vec<FieldError> {
    let text = |key: &str| target[key].as_str().unwrap_or_default();
    let mut errors = Vec::new();
    if !["", "Node"].contains(&text("kind")) {
        errors.push(FieldError::not_supported("target.kind", &target["kind"], &["Node", "<empty>"]));
    }
    match text("name") {
        "" => errors.push(FieldError::required("target.name", "")),
        name => errors.extend(
            names::dns_subdomain(name).iter().map(|w| FieldError::invalid("target.name", &json!(name), w)),
        ),
    }
    errors
}

fn bound(place: Place<'_>, pod: &Value, node: &str, uid: &str, annotations: &Value) -> Result<Value, Status> {
    if !uid.is_empty() && uid != meta::uid(pod) {
        return Err(place.other_uid(uid, meta::uid(pod)));
    }
    let conflict = |why: &str| Err(Status::conflict("", "pods/binding", place.name, why));
    if meta::is_deleting(pod) {
        return conflict(&format!("pod {} is being deleted, cannot be assigned to a host", place.name));
    }
    let current = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !current.is_empty() {
        return conflict(&format!("pod {} is already assigned to node {current:?}", place.name));
    }
    if pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
        return conflict(&format!("pod {} has non-empty .spec.schedulingGates", place.name));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = json!(node);
    // What it hoped for has come.
    if let Some(status) = pod["status"].as_object_mut() {
        status.remove("nominatedNodeName");
    }
    for (key, value) in annotations.as_object().into_iter().flatten() {
        meta::set_annotation(&mut pod, key, value.as_str().unwrap_or_default());
    }
    let condition = json!({"type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": meta::timestamp(clock::now())});
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => pod["status"]["conditions"] = json!([condition]),
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn a_pod_is_bound_once() {
        let kind = kinds::by_resource("", "v1", "pods").unwrap();
        let place = Place { kind, namespace: Some("default"), name: "www" };
        let pod = json!({"metadata": {"name": "www", "uid": "u"}, "spec": {}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "False"}]}});
        let on_node = bound(place, &pod, "minik", "u", &Value::Null).unwrap();
        assert_eq!(on_node["spec"]["nodeName"], "minik");
        assert_eq!(on_node["status"]["conditions"][0]["status"], "True");
        assert_eq!(on_node["status"]["conditions"].as_array().unwrap().len(), 1);
        assert_eq!(
            bound(place, &on_node, "other", "", &Value::Null).unwrap_err().message,
            "Operation cannot be fulfilled on pods/binding \"www\": pod www is already assigned to node \"minik\""
        );
        assert_eq!(bound(place, &pod, "minik", "v", &Value::Null).unwrap_err().code, 409);
        let mut gated = pod.clone();
        gated["spec"]["schedulingGates"] = json!([{"name": "example.com/wait"}]);
        let refused = bound(place, &gated, "minik", "u", &Value::Null).unwrap_err().message;
        assert!(refused.ends_with("pod www has non-empty .spec.schedulingGates"), "{refused}");
        let mut hoped = pod;
        hoped["status"]["nominatedNodeName"] = json!("minik");
        let on_node = bound(place, &hoped, "minik", "u", &Value::Null).unwrap();
        assert_eq!(on_node["status"]["nominatedNodeName"], Value::Null);
    }

    #[test]
    fn a_binding_names_a_node() {
        for (target, error) in [
            (json!({"name": "minik"}), None),
            (json!({"kind": "Node", "name": "minik"}), None),
            (json!({}), Some("target.name: Required value")),
            (
                json!({"kind": "Pod", "name": "a"}),
                Some("target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\""),
            ),
            (json!({"name": "a b"}), Some("target.name: Invalid value: \"a b\": a lowercase RFC 1123")),
        ] {
            let wrong = wrong_target(&target).first().map(ToString::to_string);
            assert!(
                wrong.is_some() == error.is_some() && wrong.iter().all(|w| w.starts_with(error.unwrap())),
                "{target}: {wrong:?}"
            );
        }
    }
}
