//! What several kinds' authors should know: names of labels and kinds of volumes that went out of use, and addresses
//! that could be written better (`pkg/api/node`, `pkg/api/persistentvolume`, k8s.io/apimachinery
//! `pkg/util/validation/ip.go`).

use std::net::IpAddr;

use serde_json::Value;

use super::value::{entries, items, text};

/// Labels of nodes that have other names today.
const NODE_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];
/// Kinds of volumes that no kubelet mounts any more, each with the name by which it is told.
const VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

/// What is told of a label of nodes that has another name today.
pub(super) fn node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, told)| *told)
}

/// The labels of nodes that a term of a selector at `path` names; the values of one that only weighs are told, too, where
/// no node can have them.
pub(super) fn node_term(path: &str, term: &Value, values: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    for (i, expression) in items(term, "matchExpressions").iter().enumerate() {
        let key = text(expression, "key");
        warnings
            .extend(node_label(key).map(|told| format!("{path}.matchExpressions[{i}].key: {key} is {told}")));
        let given = items(expression, "values").iter().enumerate().filter(|_| values);
        for (j, value) in given.map(|(j, value)| (j, value.as_str().unwrap_or_default())) {
            for wrong in crate::api::names::label_value(value) {
                warnings
                    .push(format!("{path}.matchExpressions[{i}].values[{j}]: {value} is invalid, {wrong}"));
            }
        }
    }
    warnings
}

/// The labels of nodes that a label selector at `path` names.
pub(super) fn node_selector(path: &str, selector: &Value) -> Vec<String> {
    let mut warnings = node_term(path, selector, false);
    for (label, _) in entries(selector, "matchLabels") {
        warnings.extend(node_label(label).map(|told| format!("{path}.matchLabels.{label}: {told}")));
    }
    warnings
}

/// The sources at `path` that no kubelet mounts any more, of those kinds that are asked about.
pub(super) fn volumes(path: &str, holder: &Value, of: impl Fn(&str) -> bool) -> Vec<String> {
    let given = VOLUMES.iter().filter(|(kind, ..)| of(kind) && !holder[*kind].is_null());
    given.map(|(_, said, told)| format!("{path}.{said}: {told}")).collect()
}

/// An address of IPv6 that is not in the form which RFC 5952 recommends.
pub(super) fn address(path: &str, given: &Value) -> Option<String> {
    let text = given.as_str()?;
    let canonical = text.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?.to_string();
    (canonical != text).then(|| {
        format!("{path}: IPv6 address {text:?} should be in RFC 5952 canonical format ({canonical:?})")
    })
}

/// The same of a range of addresses.
pub(super) fn range(path: &str, given: &Value) -> Option<String> {
    let text = given.as_str()?;
    let (address, length) = text.split_once('/')?;
    let address = address.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6)?;
    let canonical = format!("{address}/{length}");
    (canonical != text).then(|| {
        format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({canonical:?})")
    })
}

/// The name of an object whose pods have names and hosts after it.
pub(super) fn pods_name(object: &Value) -> Option<String> {
    name(object, "Pod names and hostnames")
}

/// The name of an object that is used, beside what it names, where only a label can be.
pub(super) fn name(object: &Value, used: &str) -> Option<String> {
    let name = crate::api::meta::name(object);
    let wrong = crate::api::names::dns_label(name);
    (!wrong.is_empty() && !name.is_empty()).then(|| {
        format!(
            "metadata.name: this is used in {used}, which can result in surprising behavior; a DNS label is \
             recommended: [{}]",
            wrong.join(" ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_volumes_and_addresses_are_told_in_kubernetes_words() {
        let selector = json!({"matchExpressions": [{"key": "beta.kubernetes.io/os"}, {"key": "a"}],
            "matchLabels": {"node-role.kubernetes.io/master": ""}});
        assert_eq!(
            node_selector("s", &selector),
            [
                "s.matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "s.matchLabels.node-role.kubernetes.io/master: use \"node-role.kubernetes.io/control-plane\" instead",
            ]
        );
        assert_eq!(node_term("t", &json!({"matchExpressions": [{"values": ["a b"]}]}), true).len(), 1);
        assert_eq!(
            volumes("v", &json!({"storageos": {}, "nfs": {}}), |_| true),
            ["v.storageOS: deprecated in v1.22, non-functional in v1.25+"]
        );
        assert_eq!(
            address("a", &json!("2001:DB8::1")).unwrap(),
            "a: IPv6 address \"2001:DB8::1\" should be in RFC 5952 canonical format (\"2001:db8::1\")"
        );
        assert_eq!(
            range("r", &json!("2001:DB8::/32")).unwrap(),
            "r: IPv6 CIDR value \"2001:DB8::/32\" should be in RFC 5952 canonical format (\"2001:db8::/32\")"
        );
        assert!(address("a", &json!("10.0.0.1")).is_none() && range("r", &json!("10.0.0.0/8")).is_none());
        let named = |name: &str| json!({"metadata": {"name": name}});
        assert!(pods_name(&named("a")).is_none());
        assert!(
            pods_name(&named("a.b"))
                .unwrap()
                .ends_with("a DNS label is recommended: [must not contain dots]")
        );
    }
}
