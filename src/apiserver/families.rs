//! The address families of services in a cluster that has one, IPv4 (`initIPFamilyFields` of Kubernetes'
//! `pkg/registry/core/service/storage/alloc.go`).

use serde_json::{Value, json};

use crate::api::status::FieldError;

/// Fills in the families that a service does not name, and refuses those that the cluster has not. What is stored and
/// does not change stays, whoever took it.
pub fn set(service: &mut Value, old: Option<&Value>) -> Result<(), Vec<FieldError>> {
    const FAMILY: &str = "IPv4";
    let addresses = [&service["spec"]["clusterIP"], &service["spec"]["clusterIPs"][0]];
    let headless = addresses.into_iter().any(|address| address == "None");
    let Some(spec) = service["spec"].as_object_mut() else { return Ok(()) };
    if spec.get("type").is_some_and(|t| t == "ExternalName") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return Ok(());
    }
    let empty = |value: Option<&Value>| match value {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        other => other.is_none_or(Value::is_null),
    };
    // Nothing is allocated for these and nothing picks their endpoints: they may be of any families.
    let anything = headless && empty(spec.get("selector"));
    if empty(spec.get("ipFamilyPolicy")) {
        let before = old.map(|old| &old["spec"]["ipFamilyPolicy"]).filter(|policy| policy.is_string());
        let default = || json!(if anything { "RequireDualStack" } else { "SingleStack" });
        spec.insert("ipFamilyPolicy".into(), before.cloned().unwrap_or_else(default));
    }
    let kept =
        |field: &str| old.is_some_and(|old| spec.get(field).is_some_and(|new| *new == old["spec"][field]));
    if kept("ipFamilyPolicy") && kept("ipFamilies") && !empty(spec.get("ipFamilies")) {
        return Ok(());
    }
    let policy = spec["ipFamilyPolicy"].clone();
    let families = spec.entry("ipFamilies").or_insert(Value::Null);
    let given = families.as_array().cloned().unwrap_or_default();
    if policy == "SingleStack" && given.len() > 1 {
        let why = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
        return Err(vec![FieldError::invalid("spec.ipFamilyPolicy", &policy, why)]);
    }
    if given.is_empty() {
        *families = json!([FAMILY]);
    }
    if anything {
        if policy != "SingleStack" && given.len() < 2 {
            let other = if families[0] == FAMILY { "IPv6" } else { FAMILY };
            *families = json!([families[0], other]);
        }
        return Ok(());
    }
    let mut errors = Vec::new();
    if policy == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", &policy, why));
    }
    for (i, family) in given.iter().enumerate().filter(|(_, family)| *family != FAMILY) {
        let why = "not configured on this cluster";
        errors.push(FieldError::invalid(format!("spec.ipFamilies[{i}]"), family, why));
    }
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
            let set = set(&mut new, None).map_err(|errors| errors[0].to_string());
            let got = set.map(|()| json!([new["spec"]["ipFamilyPolicy"], new["spec"]["ipFamilies"]]));
            assert_eq!(got, expected.map_err(str::to_owned), "{spec}");
        }
        let old = service(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"]}));
        let mut new = service(json!({}));
        set(&mut new, Some(&old)).unwrap();
        assert_eq!(new["spec"]["ipFamilyPolicy"], "PreferDualStack");
        let old = service(json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]}));
        let mut same = old.clone();
        assert_eq!(set(&mut same, Some(&old)), Ok(()));
        assert_eq!(same, old);
        let mut new = service(json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}));
        assert!(set(&mut new, Some(&old)).is_err());
    }
}
