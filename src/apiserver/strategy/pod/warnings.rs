//! What the author of a pod should know though it is accepted (`pkg/api/pod/warnings.go` of Kubernetes).

use serde_json::Value;

use super::super::deprecated::{node_label, node_term, volumes};
use super::super::persistentvolumeclaim;
use super::super::value::{entries, items, text};
use super::overlaps::overlaps;
use super::references::containers;
use crate::api::meta;
use crate::api::quantity;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
/// Annotations that did what fields do today.
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APPARMOR_OF: &str = "container.apparmor.security.beta.kubernetes.io/";

/// What is to be told of a pod, or of a template of pods as a pod.
pub(super) fn pod(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    let mut warnings = nodes(spec);
    for (key, told) in ANNOTATIONS.iter().filter(|(key, _)| meta::annotation(pod, key).is_some()) {
        warnings.push(format!("metadata.annotations[{key}]: {told}"));
    }
    for (i, volume) in items(spec, "volumes").iter().enumerate() {
        let path = format!("spec.volumes[{i}]");
        warnings.extend(volumes(&path, volume, |_| true));
        let template = &volume["ephemeral"]["volumeClaimTemplate"];
        let path = format!("{path}.ephemeral.volumeClaimTemplate");
        warnings.extend(persistentvolumeclaim::warnings(&path, template));
    }
    warnings.extend(overlaps(items(spec, "volumes")));
    warnings.extend(twice("hostAliases", "ip", spec));
    warnings.extend(twice("imagePullSecrets", "name", spec));
    for (i, _) in
        items(spec, "imagePullSecrets").iter().enumerate().filter(|(_, of)| text(of, "name").is_empty())
    {
        warnings.push(format!("spec.imagePullSecrets[{i}].name: invalid empty name \"\""));
    }
    warnings.extend(fractions("spec.overhead", &spec["overhead"]));
    warnings.extend(profile(pod, SECCOMP, &[&spec["securityContext"]["seccompProfile"]], "seccompProfile"));
    for (path, container) in containers(spec) {
        warnings.extend(of_container(&path, container, pod));
    }
    warnings.extend(ports(spec));
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        warnings.push(
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
                .to_owned(),
        );
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let affinity = &spec["affinity"][kind];
        let selects_none = |term: &Value| term["labelSelector"].is_null();
        for (i, _) in items(affinity, REQUIRED).iter().enumerate().filter(|(_, term)| selects_none(term)) {
            warnings.push(format!("spec.affinity.{kind}.{REQUIRED}[{i}].labelSelector: {NO_SELECTOR}"));
        }
        let preferred = items(affinity, PREFERRED).iter().enumerate();
        for (i, _) in preferred.filter(|(_, term)| selects_none(&term["podAffinityTerm"])) {
            let path = format!("spec.affinity.{kind}.{PREFERRED}[{i}].podAffinityTerm.labelSelector");
            warnings.push(format!("{path}: {NO_SELECTOR}"));
        }
    }
    warnings
}

/// Old names of labels by which nodes are chosen, and spreads of no pods.
fn nodes(spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    for (key, _) in entries(spec, "nodeSelector") {
        warnings.extend(node_label(key).map(|told| format!("spec.nodeSelector[{key}]: {told}")));
    }
    let affinity = &spec["affinity"]["nodeAffinity"];
    for (i, term) in items(&affinity[REQUIRED], "nodeSelectorTerms").iter().enumerate() {
        let path = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms[{i}]");
        warnings.extend(node_term(&path, term, false));
    }
    for (i, term) in items(affinity, PREFERRED).iter().enumerate() {
        let path = format!("spec.affinity.nodeAffinity.{PREFERRED}[{i}].preference");
        warnings.extend(node_term(&path, &term["preference"], true));
    }
    for (i, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = format!("spec.topologySpreadConstraints[{i}]");
        let key = text(constraint, "topologyKey");
        warnings.extend(node_label(key).map(|told| format!("{path}.topologyKey: {key} is {told}")));
        if constraint["labelSelector"].is_null() {
            warnings.push(format!("{path}.labelSelector: {NO_SELECTOR}"));
        }
    }
    warnings
}

/// An annotation without the field that took its place; `fields` are where that may be.
fn profile(pod: &Value, key: &str, fields: &[&Value], field: &str) -> Option<String> {
    let since = if field == "seccompProfile" { "non-functional in v1.27+" } else { "deprecated since v1.30" };
    let alone = meta::annotation(pod, key).is_some() && fields.iter().all(|field| field.is_null());
    alone.then(|| format!("metadata.annotations[{key}]: {since}; use the {field:?} field instead"))
}

/// The items of a list that have the same as one before.
fn twice(list: &str, field: &str, spec: &Value) -> Vec<String> {
    let all = items(spec, list);
    let again = |i: &usize| all[..*i].iter().any(|before| text(before, field) == text(&all[*i], field));
    (0..all.len())
        .filter(again)
        .map(|i| format!("spec.{list}[{i}].{field}: duplicate {field} {:?}", text(&all[i], field)))
        .collect()
}

/// Parts of bytes.
fn fractions(path: &str, amounts: &Value) -> Vec<String> {
    let amount = |name: &str| amounts[name].as_str().and_then(|text| quantity::parse(text).ok());
    let mut warnings = Vec::new();
    for name in ["memory", "ephemeral-storage"] {
        if let Some(amount) = amount(name).filter(|amount| amount.milli_value() % 1000 != 0) {
            let shown = amount.to_string();
            warnings.push(format!(
                "{path}[{name}]: fractional byte value {shown:?} is invalid, must be an integer"
            ));
        }
    }
    warnings
}

fn of_container(path: &str, container: &Value, pod: &Value) -> Vec<String> {
    let (own, whole) = (&container["securityContext"], &pod["spec"]["securityContext"]);
    let name = text(container, "name");
    let mut warnings = Vec::new();
    let field = "seccompProfile";
    warnings.extend(profile(pod, &format!("{SECCOMP_OF}{name}"), &[&own[field]], field));
    let field = "appArmorProfile";
    warnings.extend(profile(pod, &format!("{APPARMOR_OF}{name}"), &[&own[field], &whole[field]], field));
    for list in ["limits", "requests"] {
        warnings.extend(fractions(&format!("{path}.resources.{list}"), &container["resources"][list]));
    }
    warnings.extend(hidden_variables(path, container));
    warnings
}

/// Variables that are given again without what they were: merging lists by names keeps one of them alone.
fn hidden_variables(path: &str, container: &Value) -> Vec<String> {
    let all = items(container, "env");
    let hides = |i: &usize| {
        let name = text(&all[*i], "name");
        let (value, reference) = (text(&all[*i], "value"), format!("$({name})"));
        let extends = value.contains(&reference) && value != reference && all[*i]["valueFrom"].is_null();
        all[..*i].iter().any(|before| text(before, "name") == name) && !extends
    };
    (0..all.len())
        .filter(hides)
        .map(|i| {
            let name = text(&all[i], "name");
            format!("{path}.env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply")
        })
        .collect()
}

/// Ports of all containers that are at odds with each other, or with themselves.
fn ports(spec: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen: Vec<(String, &Value)> = Vec::new();
    let number = |port: &Value, field: &str| port[field].as_i64().unwrap_or(0);
    for (path, container) in containers(spec) {
        for (i, port) in items(container, "ports").iter().enumerate() {
            let path = format!("{path}.ports[{i}]");
            let (host, address) = (number(port, "hostPort"), text(port, "hostIP"));
            if !address.is_empty() && host == 0 {
                warnings.push(format!(
                    "{path}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{address}}}",
                    text(port, "name"),
                    number(port, "containerPort"),
                    text(port, "protocol"),
                ));
            }
            let same = |other: &Value| {
                number(other, "containerPort") == number(port, "containerPort")
                    && text(other, "protocol") == text(port, "protocol")
            };
            for (at, other) in seen.iter().filter(|(_, other)| same(other)) {
                let (others_host, others_address) = (number(other, "hostPort"), text(other, "hostIP"));
                let how = if others_address == address && others_host == host {
                    "duplicate"
                } else if host == 0 || others_host == 0 {
                    "overlapping"
                } else if host == others_host && address.is_empty() != others_address.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                warnings.push(format!("{path}: {how} port definition with {at}"));
            }
            seen.push((path, port));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::pod;
    use serde_json::{Value, json};

    fn told(spec: Value) -> Vec<String> {
        pod(&json!({ "spec": spec }))
    }

    #[test]
    fn what_apply_would_drop_is_told() {
        let hidden = "which may be dropped when using apply";
        let spec = json!({"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "B"}, {"name": "A", "value": "$(A)2"},
            {"name": "A", "value": "$(A)"}, {"name": "B", "value": "x"}, {"name": "B", "valueFrom": {}}]}]});
        assert_eq!(
            told(spec),
            [
                format!("spec.containers[0].env[3]: hides previous definition of \"A\", {hidden}"),
                format!("spec.containers[0].env[4]: hides previous definition of \"B\", {hidden}"),
                format!("spec.containers[0].env[5]: hides previous definition of \"B\", {hidden}"),
            ]
        );
        assert!(pod(&json!({})).is_empty());
    }

    #[test]
    fn ports_at_odds_are_told() {
        let port = |host: i64, address: &str| json!({"containerPort": 80, "protocol": "TCP", "hostPort": host, "hostIP": address});
        let with = |first: Value, second: Value| {
            told(json!({"initContainers": [{"ports": [first]}], "containers": [{"ports": [second]}]}))
        };
        for (first, second, how) in [
            (port(0, ""), port(0, ""), "duplicate"),
            (port(0, ""), port(80, ""), "overlapping"),
            (port(80, ""), port(80, "10.0.0.1"), "dangerously ambiguous"),
        ] {
            let expected = format!(
                "spec.containers[0].ports[0]: {how} port definition with spec.initContainers[0].ports[0]"
            );
            assert_eq!(with(first, second), [expected]);
        }
        assert!(with(port(80, ""), port(81, "")).is_empty());
        assert_eq!(
            told(json!({"containers": [{"ports": [port(0, "10.0.0.1")]}]})),
            [
                "spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP HostIP:10.0.0.1}"
            ]
        );
    }

    #[test]
    fn what_has_no_effect_is_told() {
        for (spec, expected) in [
            (
                json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ),
            (
                json!({"topologySpreadConstraints": [{"topologyKey": "a"}]}),
                "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod",
            ),
            (
                json!({"affinity": {"podAffinity": {super::PREFERRED: [{"podAffinityTerm": {}}]}}}),
                "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.labelSelector: a null labelSelector results in matching no pod",
            ),
            (json!({"volumes": [{"gitRepo": {}}]}), "spec.volumes[0].gitRepo: deprecated in v1.11"),
            (
                json!({"hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}),
                "spec.hostAliases[1].ip: duplicate ip \"10.0.0.1\"",
            ),
            (
                json!({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}),
                "spec.imagePullSecrets[1].name: duplicate name \"a\"",
            ),
            (json!({"imagePullSecrets": [{}]}), "spec.imagePullSecrets[0].name: invalid empty name \"\""),
            (
                json!({"containers": [{"resources": {"limits": {"memory": "1500m"}}}]}),
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
            ),
            (
                json!({"volumes": [{"ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {"requests": {"storage": "1500m"}}}}}}]}),
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer",
            ),
        ] {
            assert_eq!(told(spec.clone()), [expected], "{spec}");
        }
        let annotated = json!({"metadata": {"annotations": {"scheduler.alpha.kubernetes.io/critical-pod": "",
            "container.apparmor.security.beta.kubernetes.io/c": "unconfined", super::SECCOMP: "unconfined"}},
            "spec": {"containers": [{"name": "c"}]}});
        assert_eq!(
            pod(&annotated),
            [
                "metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the \"priorityClassName\" field instead",
                "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \"seccompProfile\" field instead",
                "metadata.annotations[container.apparmor.security.beta.kubernetes.io/c]: deprecated since v1.30; use the \"appArmorProfile\" field instead",
            ]
        );
    }
}
