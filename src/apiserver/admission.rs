//! What a cluster demands of a request beyond the rules of the kind.
//!
//! Built in here, in Kubernetes' order: NamespaceLifecycle, ServiceAccount, Priority, DefaultTolerationSeconds.
//! Places for more are the ends of [`create`] (mutating webhooks, then validating ones, then quota) and
//! [`delete`]; who may do what at all is [`authorization`](super::auth::rbac::Authorizer).

use serde_json::{Value, json};

use super::auth::certificates;
use super::auth::rbac::{self, escalation};
use super::registry::{Part, Place, Registry};
use super::{service_account, strategy};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::User;
use crate::api::status::{Cause, Status};

/// Namespaces that a cluster cannot be without.
const IMMORTAL_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public"];
/// How long a pod stays on a node that is not ready or not reachable, in seconds.
const NODE_TROUBLE_SECONDS: i64 = 300;
/// The built-in priority classes and their values (`pkg/apis/scheduling`).
const PRIORITY_CLASSES: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// Decides about, and completes, an object that is to be made.
pub async fn create(
    registry: &Registry,
    user: &User,
    kind: &Kind,
    namespace: Option<&str>,
    object: &mut Value,
) -> Result<(), Status> {
    if kind.group == rbac::policy::GROUP {
        escalation::check(registry.authorizer(), user, &kind.plural, namespace, object, None)?;
    }
    if kind.is(certificates::GROUP, certificates::REQUESTS) {
        strategy::certificates::set_requester(object, user);
        certificates::create(object)?;
    }
    let Some(namespace) = namespace.filter(|_| kind.namespaced) else { return Ok(()) };
    check_namespace(registry, kind, namespace, meta::name(object))?;
    if kind.is("", "pods") {
        service_account::admit(registry, namespace, object).await?;
        set_priority(object)?;
        add_tolerations(object);
    }
    Ok(())
}

/// Decides about a change of an object, or of a part of it, from `old` to `new`.
pub fn update(
    registry: &Registry,
    user: &User,
    place: Place<'_>,
    part: Part,
    new: &Value,
    old: &Value,
) -> Result<(), Status> {
    if place.kind.group == rbac::policy::GROUP {
        escalation::check(registry.authorizer(), user, &place.kind.plural, place.namespace, new, Some(old))?;
    }
    if place.kind.is(certificates::GROUP, certificates::REQUESTS) {
        match part {
            Part::Approval => certificates::approve(registry.authorizer(), user, old)?,
            Part::Status => certificates::sign(registry.authorizer(), user, new, old)?,
            _ => {}
        }
    }
    Ok(())
}

/// Decides about a delete.
pub async fn delete(_registry: &Registry, _user: &User, place: Place<'_>) -> Result<(), Status> {
    may_be_deleted(place)
}

fn may_be_deleted(place: Place<'_>) -> Result<(), Status> {
    if place.kind.is("", "namespaces") && IMMORTAL_NAMESPACES.contains(&place.name) {
        return Err(Status::forbidden("", "namespaces", place.name, "this namespace may not be deleted"));
    }
    Ok(())
}

fn check_namespace(registry: &Registry, kind: &Kind, namespace: &str, name: &str) -> Result<(), Status> {
    let key = format!("namespaces/{namespace}");
    let Some(entry) = registry.store().get(&key) else {
        return Err(Status::not_found("", "namespaces", namespace));
    };
    let object = entry.json();
    if object["status"]["phase"] != "Terminating" && !meta::is_deleting(object) {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = Status::forbidden(&kind.group, &kind.plural, name, &why);
    status.details.get_or_insert_default().causes.push(Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    });
    Err(status)
}

fn set_priority(pod: &mut Value) -> Result<(), Status> {
    let name = meta::name(pod).to_owned();
    let class = pod["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let priority = match PRIORITY_CLASSES.iter().find(|(known, _)| *known == class) {
        Some((_, value)) => *value,
        None if class.is_empty() => 0,
        None => {
            let why = format!("no PriorityClass with name {class} was found");
            return Err(Status::forbidden("", "pods", &name, &why));
        }
    };
    if let Some(given) = pod["spec"]["priority"].as_i64().filter(|given| *given != priority) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
             controller computed {priority} from the given PriorityClass name"
        );
        return Err(Status::forbidden("", "pods", &name, &why));
    }
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.insert("priority".into(), json!(priority));
        spec.entry("preemptionPolicy").or_insert_with(|| json!("PreemptLowerPriority"));
    }
    Ok(())
}

fn add_tolerations(pod: &mut Value) {
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if tolerations.is_null() {
        *tolerations = json!([]);
    }
    let Some(tolerations) = tolerations.as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let is = |value: &Value, wanted: &str| value.as_str().is_none_or(|v| v.is_empty() || v == wanted);
        if !tolerations.iter().any(|t| is(&t["key"], key) && is(&t["effect"], "NoExecute")) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": NODE_TROUBLE_SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_tolerate_node_trouble_unless_they_say_how_long() {
        let mut pod = json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "tolerationSeconds": 5}]}});
        add_tolerations(&mut pod);
        add_tolerations(&mut pod);
        let list = pod["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!(list[0]["tolerationSeconds"], 5);
        assert_eq!(list[1]["key"], "node.kubernetes.io/unreachable");
    }

    #[test]
    fn priorities_come_from_classes() {
        for (spec, expected) in [
            (json!({}), Ok(0)),
            (json!({"priorityClassName": "system-node-critical"}), Ok(2_000_001_000)),
            (json!({"priority": 7}), Err(403)),
            (json!({"priorityClassName": "high"}), Err(403)),
        ] {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
            let priority = set_priority(&mut pod).map(|()| pod["spec"]["priority"].as_i64().unwrap());
            assert_eq!(priority.map_err(|s| s.code), expected, "{spec}");
        }
    }

    #[test]
    fn some_namespaces_stay() {
        let kind = crate::api::kinds::by_resource("", "v1", "namespaces").unwrap();
        let error = may_be_deleted(Place { kind, namespace: None, name: "default" }).unwrap_err();
        assert_eq!(error.message, "namespaces \"default\" is forbidden: this namespace may not be deleted");
        assert!(may_be_deleted(Place { kind, namespace: None, name: "mine" }).is_ok());
    }
}
