//! Paths below an object that have a meaning of their own: `status`, `binding`, `eviction`, `finalize`, `token`.
//!
//! The streaming ones (`log`, `exec`, `attach`, `portforward`) are HTTP conversations and never come here.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::ApiServer;
use super::auth::tokens::{Binding, Bound, Claims, ISSUER};
use super::registry::{Part, Place, metadata};
use crate::api::meta;
use crate::api::request::{Action, DeleteOptions, Response, WriteOptions};
use crate::api::status::{Details, FieldError, Status};

/// Kubernetes' bounds for the life of a requested token, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=(1 << 32);
const TOKEN_DEFAULT_SECONDS: i64 = 3600;
/// Mounted tokens ask for this and get a year, so that programs that never read the file again go on working
/// (`--service-account-extend-token-expiration`).
const MOUNTED_TOKEN_SECONDS: i64 = 3607;
const EXTENDED_TOKEN_SECONDS: i64 = 365 * 24 * 3600;

/// Carries out a request to a subresource of an object.
pub async fn answer(
    api: &ApiServer,
    place: Place<'_>,
    subresource: &str,
    action: Action,
) -> Result<Response, Status> {
    let Some(row) = place.kind.subresources.iter().find(|s| s.name == subresource) else {
        return Err(Status::no_such_path());
    };
    match (subresource, action) {
        ("status", Action::Get { resource_version }) => {
            let entry = api.registry().get(place, &resource_version)?;
            Ok(Response::Object { entry, created: false, warnings: Vec::new() })
        }
        ("status", Action::Update(body, options)) => {
            api.registry().replace(place, Part::Status, body, &options).await
        }
        ("status", Action::Patch(how, patch, options)) => {
            api.registry().patch(place, Part::Status, how, &patch, &options).await
        }
        ("finalize", Action::Update(body, options)) => {
            api.registry().replace(place, Part::Finalize, body, &options).await
        }
        ("binding", Action::Create(body, options)) => bind(api, place, &body, &options).await,
        ("eviction", Action::Create(body, options)) => evict(api, place, &body, &options).await,
        ("token", Action::Create(body, _)) => issue_token(api, place, body),
        _ => Err(Status::method_not_allowed(place.kind.plural, row.verbs.first().copied().unwrap_or("get"))),
    }
}

fn created(details: Details) -> Response {
    let mut status = Status::success(details);
    status.details = None;
    status.code = 201;
    Response::Status(status)
}

/// Gives a pod to a node.
async fn bind(
    api: &ApiServer,
    place: Place<'_>,
    binding: &Value,
    options: &WriteOptions,
) -> Result<Response, Status> {
    let target = binding["target"]["name"].as_str().unwrap_or_default();
    if target.is_empty() {
        let error = FieldError::required("target.name", "");
        return Err(Status::invalid("", "Binding", place.name, &[error]));
    }
    let uid = meta::uid(binding);
    api.registry()
        .change(place, Part::Binding, options, |pod| {
            bound(place, pod, target, uid, &binding["metadata"]["annotations"]).map(|pod| (pod, Vec::new()))
        })
        .await?;
    Ok(created(Details::default()))
}

fn bound(place: Place<'_>, pod: &Value, node: &str, uid: &str, annotations: &Value) -> Result<Value, Status> {
    if !uid.is_empty() && uid != meta::uid(pod) {
        let actual = meta::uid(pod);
        return Err(place.conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {actual}"
        )));
    }
    if meta::is_deleting(pod) {
        let why = format!("pod {} is being deleted, cannot be assigned to a host", place.name);
        return Err(place.conflict(&why));
    }
    let current = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if !current.is_empty() {
        let why = format!("pod {} is already assigned to node {current:?}", place.name);
        return Err(place.conflict(&why));
    }
    let mut pod = pod.clone();
    pod["spec"]["nodeName"] = json!(node);
    for (key, value) in annotations.as_object().into_iter().flatten() {
        pod["metadata"]["annotations"][key] = value.clone();
    }
    let condition = json!({"type": "PodScheduled", "status": "True",
        "lastProbeTime": null, "lastTransitionTime": meta::timestamp(Timestamp::now())});
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => pod["status"]["conditions"] = json!([condition]),
    }
    Ok(pod)
}

/// Deletes a pod as a drain asks for it. Disruption budgets, once served, are consulted here.
async fn evict(
    api: &ApiServer,
    place: Place<'_>,
    eviction: &Value,
    write: &WriteOptions,
) -> Result<Response, Status> {
    let asked = &eviction["deleteOptions"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let options = DeleteOptions {
        grace_period_seconds: asked["gracePeriodSeconds"].as_i64(),
        precondition_uid: text(&asked["preconditions"]["uid"]),
        precondition_resource_version: text(&asked["preconditions"]["resourceVersion"]),
        propagation_policy: text(&asked["propagationPolicy"]),
        dry_run: write.dry_run || asked["dryRun"].as_array().is_some_and(|d| !d.is_empty()),
    };
    api.registry().delete(place, &options).await?;
    Ok(created(Details::default()))
}

/// `TokenRequest`: a token for a service account, perhaps bound to a pod.
fn issue_token(api: &ApiServer, place: Place<'_>, mut request: Value) -> Result<Response, Status> {
    let account = api.registry().find(place)?;
    let namespace = place.namespace.unwrap_or_default();
    let spec = &request["spec"];
    let asked = spec["expirationSeconds"].as_i64().unwrap_or(TOKEN_DEFAULT_SECONDS);
    if !TOKEN_SECONDS.contains(&asked) {
        let detail = if asked < *TOKEN_SECONDS.start() {
            "may not specify a duration less than 10 minutes"
        } else {
            "may not specify a duration larger than 2^32 seconds"
        };
        let error = FieldError::invalid("spec.expirationSeconds", &json!(asked), detail);
        return Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &[error]));
    }
    let mut audiences: Vec<String> = spec["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let pod = bound_pod(api, namespace, place.name, &spec["boundObjectRef"])?;
    let now = Timestamp::now().as_second();
    let for_server = audiences.iter().any(|a| a == ISSUER);
    let extended = asked == MOUNTED_TOKEN_SECONDS && pod.is_some() && for_server;
    let life = if extended { EXTENDED_TOKEN_SECONDS } else { asked };
    let uid = meta::uid(account.json()).to_owned();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + life,
        iat: now,
        iss: ISSUER.to_owned(),
        jti: metadata::new_uid()?,
        nbf: now,
        sub: format!("system:serviceaccount:{namespace}:{}", place.name),
        binding: Binding {
            namespace: namespace.to_owned(),
            node: pod.as_ref().and_then(|(_, node)| node.clone()),
            pod: pod.map(|(pod, _)| pod),
            secret: None,
            serviceaccount: Bound { name: place.name.to_owned(), uid },
        },
    };
    let token = api.tokens().sign(&claims).ok_or_else(|| Status::internal("a token could not be signed"))?;
    let ends = Timestamp::from_second(now + asked).map(meta::timestamp).unwrap_or_default();
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["kind"] = json!("TokenRequest");
    meta::set(&mut request, "name", json!(place.name));
    meta::set(&mut request, "namespace", json!(namespace));
    meta::set(&mut request, "creationTimestamp", json!(meta::timestamp(Timestamp::now())));
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = json!(asked);
    request["status"] = json!({"token": token, "expirationTimestamp": ends});
    Ok(Response::Transient { value: request, created: true, warnings: Vec::new() })
}

/// The pod that a token is to be bound to, and its node.
fn bound_pod(
    api: &ApiServer,
    namespace: &str,
    account: &str,
    reference: &Value,
) -> Result<Option<(Bound, Option<Bound>)>, Status> {
    if reference.is_null() {
        return Ok(None);
    }
    let (kind, name) = (reference["kind"].as_str(), reference["name"].as_str().unwrap_or_default());
    if kind != Some("Pod") {
        let detail =
            format!("cannot bind token for serviceaccount {account:?} to type {}", kind.unwrap_or("\"\""));
        return Err(Status::bad_request(detail));
    }
    let Some(pod) = api.registry().store().get(&format!("pods/{namespace}/{name}")) else {
        return Err(Status::not_found("", "pods", name));
    };
    let pod = pod.json();
    let uid = meta::uid(pod);
    let asked = reference["uid"].as_str().unwrap_or_default();
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", "Pod", name, &why));
    }
    let runs_as = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
    if runs_as != account {
        let detail = format!(
            "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
        );
        return Err(Status::bad_request(detail));
    }
    let node = pod["spec"]["nodeName"].as_str().map(|name| {
        let entry = api.registry().store().get(&format!("nodes/{name}"));
        let uid = entry.map(|e| meta::uid(e.json()).to_owned()).unwrap_or_default();
        Bound { name: name.to_owned(), uid }
    });
    Ok(Some((Bound { name: name.to_owned(), uid: uid.to_owned() }, node)))
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
            "Operation cannot be fulfilled on pods \"www\": pod www is already assigned to node \"minik\""
        );
        assert_eq!(bound(place, &pod, "minik", "v", &Value::Null).unwrap_err().code, 409);
    }
}
