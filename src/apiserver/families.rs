//! The address families of services, of those that the cluster has (`initIPFamilyFields` of Kubernetes'
//! `pkg/registry/core/service/storage/alloc.go`).

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::api::status::FieldError;

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// As services name it.
    pub fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    fn other(self) -> Family {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

/// The families that a service names; validation has seen that there are no others.
pub fn of(service: &Value) -> Vec<Family> {
    let names = service["spec"]["ipFamilies"].as_array().into_iter().flatten();
    names
        .filter_map(|name| [Family::V4, Family::V6].into_iter().find(|family| name == family.name()))
        .collect()
}

/// The families of a service that is stored: an older minik took any that were named, and gave addresses of its own.
fn stored(service: &Value) -> Vec<Family> {
    let mut families = of(service);
    let given = addresses(service);
    for (family, address) in families.iter_mut().zip(given) {
        *family = address.parse().map_or(*family, Family::of);
    }
    families.dedup();
    families
}

/// The addresses that a service asks for or has, in either of the two fields for them.
pub fn addresses(service: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let listed: Vec<String> =
        service["spec"]["clusterIPs"].as_array().into_iter().flatten().filter_map(text).collect();
    if listed.is_empty() { text(&service["spec"]["clusterIP"]).into_iter().collect() } else { listed }
}

/// The error of a family that the cluster has not.
fn not_configured(index: usize, family: Family) -> FieldError {
    let path = format!("spec.ipFamilies[{index}]");
    FieldError::invalid(path, &json!(family.name()), "not configured on this cluster")
}

const POLICY: &str = "spec.ipFamilyPolicy";

/// What becomes of a service's addresses once its families are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// They stay as they are stored: nothing that they depend on changes.
    Kept,
    /// There may be more or fewer than before.
    Settled,
}

/// Fills in the families that a service does not name, and refuses those that the cluster has not. What is stored and
/// does not change stays, whoever took it.
pub fn set(
    service: &mut Value,
    old: Option<&Value>,
    cluster: &[Family],
) -> Result<Addresses, Vec<FieldError>> {
    let (mut given, mut families) = (addresses(service), of(service));
    let headless = given.first().is_some_and(|address| address == "None");
    let Some(spec) = service["spec"].as_object_mut() else { return Ok(Addresses::Settled) };
    if spec.get("type").is_some_and(|kind| kind == "ExternalName") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return Ok(Addresses::Settled);
    }
    let is_empty = |value: Option<&Value>| match value {
        Some(Value::Object(map)) => map.is_empty(),
        other => other.is_none_or(Value::is_null),
    };
    // Nothing is allocated for these and nothing picks their endpoints: they may be of any families.
    let anything = headless && is_empty(spec.get("selector"));
    if is_empty(spec.get("ipFamilyPolicy")) {
        let before = old.map(|old| &old["spec"]["ipFamilyPolicy"]).filter(|policy| policy.is_string());
        let default = || json!(if anything { "RequireDualStack" } else { "SingleStack" });
        spec.insert("ipFamilyPolicy".into(), before.cloned().unwrap_or_else(default));
    }
    let policy = spec["ipFamilyPolicy"].clone();
    if let Some(old) = old {
        let is_same = |field: &str| spec.get(field) == old["spec"].get(field);
        let (same_addresses, same_families) = (given == addresses(old), families == of(old));
        if is_same("ipFamilyPolicy")
            && is_same("type")
            && same_addresses
            && same_families
            && !families.is_empty()
        {
            return Ok(Addresses::Kept);
        }
        if same_addresses && same_families {
            families = stored(old);
        }
        if policy == "SingleStack" {
            // Who left them as they were means to give up the second.
            if same_addresses {
                given.truncate(1);
            }
            if same_families {
                families.truncate(1);
            }
        } else {
            check_released(
                &policy,
                [given.len(), families.len()],
                [addresses(old).len(), stored(old).len()],
            )?;
        }
    }
    let errors = infer(&policy, &given, &mut families, cluster);
    if !errors.is_empty() {
        return Err(errors);
    }
    if !anything {
        check_configured(&policy, &families, cluster)?;
    }
    if families.is_empty() {
        families.extend(cluster.first());
    }
    if policy != "SingleStack"
        && (anything || cluster.len() == 2)
        && let [family] = families[..]
    {
        families.push(family.other());
    }
    let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
    spec.insert("ipFamilies".into(), json!(names));
    if spec.get("clusterIPs").is_some_and(Value::is_array) {
        spec.insert("clusterIPs".into(), json!(given));
    }
    Ok(Addresses::Settled)
}

/// A second address or family can only be given up by saying so. Both are counted: addresses, families.
fn check_released(policy: &Value, now: [usize; 2], before: [usize; 2]) -> Result<(), Vec<FieldError>> {
    let what = ["secondary cluster IP", "secondary IP family"];
    let released = (0..2).filter(|i| now[*i] > 0 && now[*i] < before[*i]);
    let errors: Vec<FieldError> = released
        .map(|i| {
            FieldError::invalid(POLICY, policy, &format!("must be 'SingleStack' to release the {}", what[i]))
        })
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Adds the families of addresses that are given without; what is wrong with both.
fn infer(
    policy: &Value,
    given: &[String],
    families: &mut Vec<Family>,
    cluster: &[Family],
) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (count, what) in [(given.len(), "cluster IPs"), (families.len(), "IP families")] {
        if policy == "SingleStack" && count == 2 {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.push(FieldError::invalid(POLICY, policy, &why));
        }
    }
    let parsed = given.iter().enumerate().filter_map(|(i, text)| Some((i, Family::of(text.parse().ok()?))));
    for (i, family) in parsed {
        if i < families.len() {
            continue;
        }
        if cluster.contains(&family) {
            families.push(family);
        } else {
            let why = format!("{} is not configured on this cluster", family.name());
            errors.push(FieldError::invalid(format!("spec.clusterIPs[{i}]"), &json!(given), &why));
        }
    }
    errors
}

/// Refuses families that the cluster has not.
fn check_configured(policy: &Value, families: &[Family], cluster: &[Family]) -> Result<(), Vec<FieldError>> {
    let mut errors = Vec::new();
    if policy == "RequireDualStack" && cluster.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(POLICY, policy, why));
    }
    let others = families.iter().enumerate().filter(|(_, family)| !cluster.contains(family));
    errors.extend(others.map(|(i, family)| not_configured(i, *family)));
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Value {
        json!({ "spec": spec })
    }

    #[test]
    fn families_are_those_of_the_cluster() {
        let single = || json!(["SingleStack", ["IPv4"]]);
        let both = || json!(["RequireDualStack", ["IPv4", "IPv6"]]);
        let refused = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for \
                       dual-stack services";
        for (spec, expected) in [
            (json!({}), Ok(single())),
            (json!({"ipFamilies": [], "ipFamilyPolicy": null}), Ok(single())),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), Ok(json!(["PreferDualStack", ["IPv4"]]))),
            (json!({"ipFamilyPolicy": "RequireDualStack"}), Err(refused)),
            (
                json!({"ipFamilies": ["IPv6"]}),
                Err("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"),
            ),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                Err("spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or \
                     'PreferDualStack' when multiple IP families are specified"),
            ),
            (json!({"clusterIP": "None"}), Ok(both())),
            (json!({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"}), Ok(single())),
            (json!({"clusterIP": "None", "selector": {"a": "b"}}), Ok(single())),
            (json!({"type": "ExternalName", "ipFamilies": ["IPv6"]}), Ok(json!([null, null]))),
        ] {
            let mut new = service(spec.clone());
            let set = set(&mut new, None, &[Family::V4]).map_err(|errors| errors[0].to_string());
            let got = set.map(|_| json!([new["spec"]["ipFamilyPolicy"], new["spec"]["ipFamilies"]]));
            assert_eq!(got, expected.map_err(str::to_owned), "{spec}");
        }
        let old = service(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"]}));
        let mut new = service(json!({}));
        set(&mut new, Some(&old), &[Family::V4]).unwrap();
        assert_eq!(new["spec"]["ipFamilyPolicy"], "PreferDualStack");
        let old = service(json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}));
        let mut same = old.clone();
        assert_eq!(set(&mut same, Some(&old), &[Family::V4]), Ok(Addresses::Kept));
        assert_eq!(same, old);
        let mut new = service(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}));
        assert!(set(&mut new, Some(&old), &[Family::V4]).is_err());
    }

    /// What a cluster of both families makes of a service: policy, families and addresses, or the errors.
    fn dual(new: Value, old: Option<Value>) -> Result<Value, Vec<String>> {
        let (mut new, old) = (service(new), old.map(service));
        let set = set(&mut new, old.as_ref(), &[Family::V4, Family::V6]);
        set.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let spec = &new["spec"];
        Ok(json!([spec["ipFamilyPolicy"], spec["ipFamilies"], spec["clusterIPs"]]))
    }

    #[test]
    fn a_cluster_of_both_families_gives_what_is_asked_for() {
        let both = || json!(["IPv4", "IPv6"]);
        const TWO: &str = "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or \
                           'PreferDualStack' when multiple";
        for (spec, expected) in [
            (json!({}), Ok(json!(["SingleStack", ["IPv4"], null]))),
            (json!({"ipFamilies": ["IPv6"]}), Ok(json!(["SingleStack", ["IPv6"], null]))),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), Ok(json!(["PreferDualStack", both(), null]))),
            (
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
                Ok(json!(["RequireDualStack", ["IPv6", "IPv4"], null])),
            ),
            (
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
                Ok(json!(["SingleStack", ["IPv6"], ["fd00::1"]])),
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"]}),
                Ok(json!(["PreferDualStack", ["IPv6", "IPv4"], ["fd00::1", "10.0.0.1"]])),
            ),
            (json!({"ipFamilies": both()}), Err(vec![format!("{TWO} IP families are specified")])),
            (
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"]}),
                Err(vec![format!("{TWO} cluster IPs are specified")]),
            ),
            (
                json!({"clusterIP": "None", "selector": {"a": "b"}}),
                Ok(json!(["SingleStack", ["IPv4"], null])),
            ),
            (json!({"clusterIP": "None"}), Ok(json!(["RequireDualStack", both(), null]))),
            (
                json!({"clusterIP": "None", "selector": {"a": "b"}, "ipFamilyPolicy": "PreferDualStack"}),
                Ok(json!(["PreferDualStack", both(), null])),
            ),
        ] {
            assert_eq!(dual(spec.clone(), None), expected, "{spec}");
        }
    }

    #[test]
    fn services_gain_and_lose_a_family() {
        let of = |policy: &str, families: &[&str], addresses: &[&str]| {
            json!({"type": "ClusterIP", "ipFamilyPolicy": policy, "ipFamilies": families,
                   "clusterIP": addresses.first(), "clusterIPs": addresses})
        };
        let one = || of("SingleStack", &["IPv4"], &["10.0.0.1"]);
        let two = || of("RequireDualStack", &["IPv4", "IPv6"], &["10.0.0.1", "fd00::1"]);
        const RELEASE: &str = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release \
                               the secondary";
        for (new, old, expected) in [
            (
                of("PreferDualStack", &["IPv4"], &["10.0.0.1"]),
                one(),
                Ok(json!(["PreferDualStack", ["IPv4", "IPv6"], ["10.0.0.1"]])),
            ),
            (
                of("RequireDualStack", &["IPv4"], &["10.0.0.1", "fd00::7"]),
                one(),
                Ok(json!(["RequireDualStack", ["IPv4", "IPv6"], ["10.0.0.1", "fd00::7"]])),
            ),
            (
                of("SingleStack", &["IPv4", "IPv6"], &["10.0.0.1", "fd00::1"]),
                two(),
                Ok(json!(["SingleStack", ["IPv4"], ["10.0.0.1"]])),
            ),
            (
                of("RequireDualStack", &["IPv4"], &["10.0.0.1"]),
                two(),
                Err(vec![format!("{RELEASE} cluster IP"), format!("{RELEASE} IP family")]),
            ),
            // What prefers both and has one keeps it until its families are spoken of.
            (
                of("PreferDualStack", &["IPv4"], &["10.0.0.1"]),
                of("PreferDualStack", &["IPv4"], &["10.0.0.1"]),
                Ok(json!(["PreferDualStack", ["IPv4"], ["10.0.0.1"]])),
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}),
                two(),
                Ok(json!(["RequireDualStack", ["IPv4", "IPv6"], ["10.0.0.1", "fd00::1"]])),
            ),
            // Whatever an older minik stored beside it, an address is of its own family.
            (
                of("PreferDualStack", &["IPv6"], &["10.0.0.1"]),
                of("SingleStack", &["IPv6"], &["10.0.0.1"]),
                Ok(json!(["PreferDualStack", ["IPv4", "IPv6"], ["10.0.0.1"]])),
            ),
            (
                of("RequireDualStack", &["IPv6", "IPv4"], &["10.0.0.1"]),
                of("SingleStack", &["IPv6", "IPv4"], &["10.0.0.1"]),
                Ok(json!(["RequireDualStack", ["IPv4", "IPv6"], ["10.0.0.1"]])),
            ),
            (
                json!({"type": "ClusterIP"}),
                json!({"type": "ExternalName"}),
                Ok(json!(["SingleStack", ["IPv4"], null])),
            ),
        ] {
            assert_eq!(dual(new.clone(), Some(old)), expected, "{new}");
        }
        assert_eq!(
            dual(json!({"type": "ExternalName", "clusterIP": "10.0.0.1"}), Some(two())),
            Ok(json!([null, null, null]))
        );
    }
}
