//! PodSecurity: namespaces say by labels what their pods must not be able to do.
//!
//! Source: k8s.io/pod-security-admission.

mod baseline;
mod check;
mod policy;
mod restricted;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use self::check::{Pod, Violation};
use self::policy::{Level, Policy, Rule};
use super::{Attributes, Operation};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::status::{Status, together};
use crate::apiserver::audit::annotations::annotate;
use crate::apiserver::registry::Registry;
use crate::store::Entry;

/// Parts of a pod whose change gives it no new rights.
const HARMLESS: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
/// How many pods of a namespace are looked at when its policy changes.
const MOST_PODS: usize = 3000;

/// Decides about a pod, warns about what pods would be made from, and about what is there when a namespace's policy
/// becomes stricter.
pub fn validate(registry: &Registry, attributes: &mut Attributes<'_>, object: &Value) -> Result<(), Status> {
    if !matches!(attributes.operation, Operation::Create | Operation::Update) {
        return Ok(());
    }
    if attributes.is("", "namespaces") {
        return namespace(registry, attributes, object);
    }
    let is_pod = attributes.kind.is("", "pods");
    let ignored =
        if is_pod { HARMLESS.contains(&attributes.subresource) } else { !attributes.subresource.is_empty() };
    let Some((metadata, spec)) = template(attributes.kind, object).filter(|_| !ignored) else {
        return Ok(());
    };
    let Some(namespace) = attributes.namespace else { return Ok(()) };
    let Some(entry) = registry.store().get(&format!("namespaces/{namespace}")) else { return Ok(()) };
    let (policy, errors) = Policy::of(meta::labels(entry.json()));
    let unchanged = || attributes.old.is_some_and(|old| !is_significant(&object["spec"], &old["spec"]));
    let open = errors.is_empty() && policy.is_open(is_pod);
    if !open && is_pod && attributes.operation == Operation::Update && unchanged() {
        return Ok(());
    }
    if is_pod {
        note("enforce-policy", policy.enforce.to_string());
    }
    if open {
        return Ok(());
    }
    let pod = Pod { metadata, spec };
    if !errors.is_empty() {
        note("error", format!("Failed to parse policy: {}", together(&errors)));
    }
    if let Some(why) = told(&pod.violations(policy.audit)) {
        note("audit-violations", format!("would violate PodSecurity {:?}: {why}", policy.audit.to_string()));
    }
    if is_pod && let Some(why) = told(&pod.violations(policy.enforce)) {
        let why = format!("violates PodSecurity {:?}: {why}", policy.enforce.to_string());
        return Err(attributes.forbidden(object, &why));
    }
    if let Some(why) = told(&pod.violations(policy.warn)) {
        attributes.warnings.push(format!("would violate PodSecurity {:?}: {why}", policy.warn.to_string()));
    }
    Ok(())
}

/// Notes something in the audit log.
fn note(key: &str, value: String) {
    annotate(&format!("pod-security.kubernetes.io/{key}"), value);
}

/// Where the kinds that are or make pods have the pod's metadata and spec.
fn template<'a>(kind: &Kind, object: &'a Value) -> Option<(&'a Value, &'a Value)> {
    let template = match (&*kind.group, &*kind.plural) {
        ("", "pods") => object,
        ("", "podtemplates") => &object["template"],
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &object["spec"]["template"],
        ("batch", "cronjobs") => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => return None,
    };
    template["spec"].is_object().then(|| (&template["metadata"], &template["spec"]))
}

/// Whether a change of a pod brings an image that was not there.
fn is_significant(new: &Value, old: &Value) -> bool {
    let list = |spec: &Value, list: &str| spec[list].as_array().cloned().unwrap_or_default();
    let by_place = ["containers", "initContainers"].iter().any(|name| {
        let (new, old) = (list(new, name), list(old, name));
        new.len() != old.len() || new.iter().zip(&old).any(|(new, old)| new["image"] != old["image"])
    });
    let before = list(old, "ephemeralContainers");
    by_place
        || list(new, "ephemeralContainers").iter().any(|new| {
            let old = before.iter().find(|old| old["name"] == new["name"]);
            old.is_none_or(|old| old["image"] != new["image"])
        })
}

/// All violations in one sentence; `None` when there are none.
fn told(violations: &[Violation]) -> Option<String> {
    let told = violations.iter().map(|violation| match violation.detail.as_str() {
        "" => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join(", "))
}

fn namespace(registry: &Registry, attributes: &mut Attributes<'_>, namespace: &Value) -> Result<(), Status> {
    let (new, errors) = Policy::of(meta::labels(namespace));
    let invalid = |attributes: &Attributes<'_>| {
        Status::invalid("", "Namespace", attributes.name_of(namespace), &errors)
    };
    let Some(old) = attributes.old else {
        return if errors.is_empty() { Ok(()) } else { Err(invalid(attributes)) };
    };
    let (old, old_errors) = Policy::of(meta::labels(old));
    if !errors.is_empty() && errors != old_errors {
        return Err(invalid(attributes));
    }
    let (new, old) = (new.enforce, old.enforce);
    let relaxed = new.version == old.version && new.level <= old.level;
    if new == old || new.level == Level::Privileged || relaxed {
        return Ok(());
    }
    let name = attributes.name_of(namespace).to_owned();
    let pods = registry.all(&format!("pods/{name}/"));
    attributes.warnings.extend(warnings_of(&name, new, &pods));
    Ok(())
}

/// What is told of the pods that are there when a namespace's policy becomes stricter.
fn warnings_of(namespace: &str, rule: Rule, pods: &[Arc<Entry>]) -> Vec<String> {
    let mut seen = HashSet::new();
    // One pod of each controller first: those say the most.
    let (first, others): (Vec<&Value>, Vec<&Value>) =
        pods.iter().map(|entry| entry.json()).partition(|pod| {
            meta::controller(pod).is_none_or(|owner| seen.insert(owner["uid"].as_str().unwrap_or_default()))
        });
    let mut found: BTreeMap<String, (&str, usize)> = BTreeMap::new();
    for pod in first.into_iter().chain(others).take(MOST_PODS) {
        let violations = Pod { metadata: &pod["metadata"], spec: &pod["spec"] }.violations(rule);
        if violations.is_empty() {
            continue;
        }
        let reasons: Vec<&str> = violations.iter().map(|violation| violation.reason.as_str()).collect();
        let (name, count) = found.entry(reasons.join(", ")).or_insert((meta::name(pod), 0));
        *name = (*name).min(meta::name(pod));
        *count += 1;
    }
    let mut warnings = Vec::new();
    if pods.len() > MOST_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MOST_PODS} of {} existing pods",
            pods.len()
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level {:?}",
            rule.to_string()
        ));
    }
    let mut told: Vec<String> = found
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            _ => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    told.sort();
    warnings.extend(told);
    warnings
}

#[cfg(test)]
mod tests;
