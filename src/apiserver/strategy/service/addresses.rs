//! The addresses of services and their families: what is wrong with them by themselves, and how they may change. Which
//! families this cluster has is the allocator's to know.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::super::address;
use super::super::value::{carry_over, is_set, items, text};
use crate::api::status::FieldError;
use crate::apiserver::families::{self, Family};

const FIELDS: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
const IPS: &str = "spec.clusterIPs";

fn has_address(service: &Value) -> bool {
    text(&service["spec"], "type") != "ExternalName"
}

fn is_headless(service: &Value) -> bool {
    text(&service["spec"], "clusterIP") == "None"
}

/// Puts the one address of older clients into the list, too.
pub(super) fn prepare_create(service: &mut Value) {
    let spec = &mut service["spec"];
    if is_set(spec, "clusterIP") && !is_set(spec, "clusterIPs") {
        spec["clusterIPs"] = json!([spec["clusterIP"]]);
    }
}

/// Keeps what was allocated in an update that leaves it out, and the one address and the list of them the same where only
/// one of them changes (`patchAllocatedValues` and `normalizeClusterIPs`); a change to ExternalName gives all back.
pub(super) fn prepare_update(new: &mut Value, old: &Value) {
    if has_address(new) && has_address(old) {
        let (spec, before) = (&mut new["spec"], &old["spec"]);
        let list_is_same = spec["clusterIPs"] == before["clusterIPs"];
        if !is_set(spec, "clusterIP") {
            carry_over(spec, before, "clusterIP");
        }
        if spec["clusterIP"] == before["clusterIP"] {
            if !is_set(spec, "clusterIPs") {
                carry_over(spec, before, "clusterIPs");
            }
        } else if list_is_same || !is_set(spec, "clusterIPs") {
            spec["clusterIPs"] = json!([spec["clusterIP"]]);
        }
        for field in ["ipFamilyPolicy", "ipFamilies"] {
            if !is_set(spec, field) {
                carry_over(spec, before, field);
            }
        }
    } else if has_address(old) && gives_up(&new["spec"], &old["spec"]) {
        for field in FIELDS {
            carry_over(&mut new["spec"], &Value::Null, field);
        }
        carry_over(&mut new["spec"], &Value::Null, "internalTrafficPolicy");
    } else {
        prepare_create(new);
    }
}

/// Whether the addresses are left as they were, or the one of older clients is taken away and the list with it.
fn gives_up(spec: &Value, before: &Value) -> bool {
    let same = |field: &str| spec[field] == before[field];
    same("clusterIP") || !is_set(spec, "clusterIP") && (same("clusterIPs") || !is_set(spec, "clusterIPs"))
}

/// What is wrong with the families by themselves.
pub(super) fn families(spec: &Value) -> Vec<FieldError> {
    const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
    const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    let mut errors = Vec::new();
    let all = items(spec, "ipFamilies");
    for (i, family) in all.iter().enumerate() {
        let path = format!("spec.ipFamilies[{i}]");
        if !FAMILIES.iter().any(|known| family == known) {
            errors.push(FieldError::not_supported(&path, family, &FAMILIES));
        }
        if all[..i].contains(family) {
            errors.push(FieldError::duplicate(&path, family));
        }
    }
    let policy = &spec["ipFamilyPolicy"];
    if !policy.is_null() && !POLICIES.iter().any(|known| policy == known) {
        errors.push(FieldError::not_supported("spec.ipFamilyPolicy", policy, &POLICIES));
    }
    errors
}

/// What is wrong with the addresses (`ValidateServiceClusterIPsRelatedFields`).
pub(super) fn related(service: &Value) -> Vec<FieldError> {
    let spec = &service["spec"];
    let mut errors = Vec::new();
    let (listed, own) = (items(spec, "clusterIPs"), &spec["clusterIP"]);
    let why = match listed.first() {
        Some(_) if !is_set(spec, "clusterIP") => Some("must be empty when `clusterIP` is not specified"),
        Some(first) if first != own => Some("first value must match `clusterIP`"),
        _ => None,
    };
    let whole = |why: &str| FieldError::invalid(IPS, &spec["clusterIPs"], why);
    errors.extend(why.map(whole));
    let given = families::addresses(service);
    let mut parsed = Vec::new();
    let mut broken = false;
    for (i, given_address) in given.iter().enumerate() {
        match given_address.parse::<IpAddr>() {
            Ok(address) => parsed.push(Family::of(address)),
            Err(_) if i == 0 && given_address == "None" => {
                if given.len() > 1 {
                    broken = true;
                    errors.push(whole("'None' must be the first and only value"));
                }
            }
            Err(_) => {
                broken = true;
                errors.push(FieldError::invalid(
                    format!("{IPS}[{i}]"),
                    &json!(given_address),
                    address::BAD_IP,
                ));
            }
        }
    }
    if given.len() > 2 {
        errors.push(whole("may only hold up to 2 values"));
    }
    if broken {
        return errors;
    }
    if given.len() > 1 && !(parsed.contains(&Family::V4) && parsed.contains(&Family::V6)) {
        errors.push(whole("may specify no more than one IP for each IP family"));
    }
    errors
}

/// What is wrong with addresses that are of other families than those named beside them (of the same function).
pub(super) fn disagreements(service: &Value) -> Vec<FieldError> {
    let given = families::addresses(service);
    let pairs = given.iter().zip(families::of(service)).enumerate();
    let of = |(i, (address, said)): (usize, (&String, Family))| {
        let family = Family::of(address.parse().ok()?);
        let why = format!("expected an {} value as indicated by `ipFamilies[{i}]`", said.name());
        (family != said).then(|| FieldError::invalid(format!("{IPS}[{i}]"), &json!(address), &why))
    };
    pairs.filter_map(of).collect()
}

/// What a service has of addresses and families stays; a second one may come and go. What is wrong with the policy for
/// that, the allocator says.
pub(super) fn update(new: &Value, old: &Value) -> Vec<FieldError> {
    const FIXED: &str = "may not change once set";
    if !has_address(new) || !has_address(old) {
        return Vec::new();
    }
    let mut errors = Vec::new();
    let (is, was) = (is_headless(new), is_headless(old));
    if !(is && was) {
        let (now, before) = (families::addresses(new), families::addresses(old));
        // Of lists of different lengths, the first addresses count.
        let counted = if now.len() == before.len() { now.len() } else { now.len().min(before.len()).min(1) };
        let changed = (0..counted).filter(|i| now[*i] != before[*i]);
        errors.extend(changed.map(|i| FieldError::invalid(format!("{IPS}[{i}]"), &json!(now), FIXED)));
    }
    let (now, before) = (items(&new["spec"], "ipFamilies"), items(&old["spec"], "ipFamilies"));
    // Families that contradicted the addresses may be put right.
    let mends = !disagreements(old).is_empty() && disagreements(new).is_empty();
    if !is && !was && !mends && !now.is_empty() && !before.is_empty() {
        let path = "spec.ipFamilies[0]";
        if now.len() == before.len() {
            let changed = (0..now.len()).filter(|i| now[*i] != before[*i]);
            errors.extend(changed.map(|_| FieldError::invalid(path, &json!(now), FIXED)));
        } else if now[0] != before[0] {
            errors.push(FieldError::invalid(path, &json!(families::addresses(new)), FIXED));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_and_families_belong_together() {
        const DUAL: &str = "may specify no more than one IP for each IP family";
        for (spec, errors) in [
            (json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"]}), vec![]),
            (
                json!({"clusterIPs": ["10.0.0.1"]}),
                vec!["spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified".to_owned()],
            ),
            (
                json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1"]}),
                vec!["spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: first value must match `clusterIP`".to_owned()],
            ),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None", "10.0.0.1"]}),
                vec!["spec.clusterIPs: Invalid value: [\"None\",\"10.0.0.1\"]: 'None' must be the first and only value".to_owned()],
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
                vec![format!("spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: {DUAL}")],
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1", "fd00::2"]}),
                vec!["spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"fd00::1\",\"fd00::2\"]: may only hold up to 2 values".to_owned()],
            ),
            (
                json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv6", "IPv4"]}),
                vec![
                    "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`".to_owned(),
                    "spec.clusterIPs[1]: Invalid value: \"fd00::1\": expected an IPv4 value as indicated by `ipFamilies[1]`".to_owned(),
                ],
            ),
        ] {
            let service = json!({"spec": spec});
            let all = related(&service).into_iter().chain(disagreements(&service));
            assert_eq!(shown(all.collect()), errors, "{spec}");
        }
    }

    #[test]
    fn the_first_address_and_family_stay() {
        let of = |ips: &[&str], families: &[&str]| json!({"spec": {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": families}});
        let one = of(&["10.0.0.1"], &["IPv4"]);
        let two = of(&["10.0.0.1", "fd00::1"], &["IPv4", "IPv6"]);
        const FIXED: &str = "may not change once set";
        for (new, old, errors) in [
            (two.clone(), &one, vec![]),
            (one.clone(), &two, vec![]),
            (
                of(&["10.0.0.1", "fd00::2"], &["IPv4", "IPv6"]),
                &two,
                vec![format!("spec.clusterIPs[1]: Invalid value: [\"10.0.0.1\",\"fd00::2\"]: {FIXED}")],
            ),
            (
                of(&["fd00::1"], &["IPv6"]),
                &two,
                vec![
                    format!("spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: {FIXED}"),
                    format!("spec.ipFamilies[0]: Invalid value: [\"fd00::1\"]: {FIXED}"),
                ],
            ),
            (
                of(&["10.0.0.1"], &["IPv6"]),
                &one,
                vec![format!("spec.ipFamilies[0]: Invalid value: [\"IPv6\"]: {FIXED}")],
            ),
            (of(&["None"], &["IPv6", "IPv4"]), &of(&["None"], &["IPv4"]), vec![]),
            // An older minik stored whatever it was told.
            (one.clone(), &of(&["10.0.0.1"], &["IPv6"]), vec![]),
        ] {
            assert_eq!(shown(update(&new, old)), errors, "{new}");
        }
    }

    #[test]
    fn one_address_and_the_list_follow_each_other() {
        let two = json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
                         "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"});
        for (spec, addresses) in [
            (json!({}), json!(["10.0.0.1", "fd00::1"])),
            (json!({"clusterIP": "10.0.0.1"}), json!(["10.0.0.1", "fd00::1"])),
            (json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}), json!(["10.0.0.1"])),
            (json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1", "fd00::1"]}), json!(["10.0.0.2"])),
            (json!({"clusterIP": "10.0.0.2"}), json!(["10.0.0.2"])),
        ] {
            let mut new = json!({"spec": spec});
            prepare_update(&mut new, &json!({"spec": two}));
            assert_eq!(new["spec"]["clusterIPs"], addresses, "{spec}");
        }
        // A name in place of addresses: they are given up unless they are asked for.
        for (changes, addresses) in [
            (json!({}), Value::Null),
            (json!({"clusterIP": null}), Value::Null),
            (json!({"clusterIP": null, "clusterIPs": null}), Value::Null),
            (json!({"clusterIP": "10.0.0.2"}), json!(["10.0.0.1", "fd00::1"])),
            (json!({"clusterIP": null, "clusterIPs": ["10.0.0.2"]}), json!(["10.0.0.2"])),
        ] {
            let mut new = json!({"spec": two});
            new["spec"]["type"] = json!("ExternalName");
            for (field, value) in changes.as_object().unwrap() {
                new["spec"][field] = value.clone();
            }
            prepare_update(&mut new, &json!({"spec": two}));
            assert_eq!(new["spec"]["clusterIPs"], addresses, "{changes}");
        }
    }
}
