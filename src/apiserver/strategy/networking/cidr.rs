//! ServiceCIDRs, the ranges of services' addresses, and IPAddresses, the addresses that are taken.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::address::{self, Range};
use super::super::column::{self, AGE, NAME, NONE};
use super::super::error::{immutable, invalid, named};
use super::super::value::{is_set, items, text};
use super::super::{Column, Strategy};
use crate::api::names;
use crate::api::status::FieldError;

/// The strategy of the ranges of services' addresses.
pub(super) struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        ranges(&object["spec"])
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        const WHY: &str = "field is immutable";
        let (now, before) = (items(&new["spec"], "cidrs"), items(&old["spec"], "cidrs"));
        let changed = now.iter().zip(before).enumerate().filter(|(_, (now, before))| now != before);
        let mut errors: Vec<FieldError> =
            changed.map(|(i, (now, _))| FieldError::invalid(format!("spec.cidrs[{i}]"), now, WHY)).collect();
        match (before.len(), now.len()) {
            (one, other) if one == other => {}
            // A second family may be added.
            (1, 2) => errors.extend(ranges(&new["spec"])),
            _ => return vec![FieldError::invalid("spec.cidrs", &new["spec"]["cidrs"], WHY)],
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[NAME, column::text("CIDRs", "The ranges of addresses."), AGE];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ranges: Vec<&str> = items(&object["spec"], "cidrs").iter().filter_map(Value::as_str).collect();
        vec![column::name(object), ranges.join(",").into(), column::age(object, now)]
    }
}

fn ranges(spec: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.cidrs";
    let given = items(spec, "cidrs");
    match given.len() {
        0 => return vec![FieldError::required(PATH, "at least one CIDR required")],
        1 | 2 => {}
        _ => return vec![FieldError::invalid(PATH, spec, "may only hold up to 2 values")],
    }
    let told = given.iter().enumerate();
    let mut errors: Vec<FieldError> =
        told.filter_map(|(i, range)| address::canonical_cidr(&format!("{PATH}[{i}]"), range)).collect();
    let families: Vec<bool> =
        given.iter().filter_map(|r| Range::parse(r.as_str()?)).map(|r| r.is_ipv4()).collect();
    if let [one, other] = families.as_slice()
        && one == other
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(PATH, &spec["cidrs"], why));
    }
    errors
}

/// The strategy of addresses that are taken.
pub(super) struct IpAddress;

impl Strategy for IpAddress {
    fn name_errors(&self, _object: &Value, name: &str) -> Vec<String> {
        let wrong = address::canonical_ip("", &name.into());
        let prefix = format!("Invalid value: {}: ", json!(name));
        wrong.map(|e| e.message.trim_start_matches(&prefix).to_owned()).into_iter().collect()
    }

    fn validate_create(&self, object: &Value) -> Vec<FieldError> {
        let parent = &object["spec"]["parentRef"];
        if parent.is_null() {
            return vec![FieldError::required("spec.parentRef", "")];
        }
        let path = |field: &str| format!("spec.parentRef.{field}");
        let mut errors = Vec::new();
        if is_set(parent, "group") {
            errors.extend(invalid(
                &path("group"),
                &parent["group"],
                names::dns_subdomain(text(parent, "group")),
            ));
        }
        errors.extend(named(&path("resource"), &parent["resource"], names::path_segment));
        errors.extend(named(&path("name"), &parent["name"], names::path_segment));
        let namespace = text(parent, "namespace");
        errors.extend(invalid(&path("namespace"), &parent["namespace"], names::path_segment(namespace)));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let of = |object: &Value| object["spec"]["parentRef"].clone();
        immutable("spec.parentRef", &of(new), &of(old)).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column::text("ParentRef", "The object whose address this is."), AGE];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let parent = &object["spec"]["parentRef"];
        let shown = if parent.is_null() {
            NONE.to_owned()
        } else {
            let of = [text(parent, "resource"), text(parent, "group")];
            let of = of.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
            let parts = [of.to_lowercase().as_str(), text(parent, "namespace"), text(parent, "name")]
                .map(str::to_owned);
            parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
        };
        vec![column::name(object), shown.into(), column::age(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(errors: Vec<FieldError>) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ranges_are_one_of_each_family() {
        let spec = |ranges: &[&str]| json!({"spec": {"cidrs": ranges}});
        for (ranges, error) in [
            (&["10.0.0.0/16"][..], None),
            (&["10.0.0.0/16", "fd00::/112"], None),
            (&[], Some("spec.cidrs: Required value: at least one CIDR required")),
            (
                &["10.0.0.0/16", "10.1.0.0/16"],
                Some(
                    "spec.cidrs: Invalid value: [\"10.0.0.0/16\",\"10.1.0.0/16\"]: may specify no more than one IP for \
                      each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                ),
            ),
            (
                &["10.0.0.1/16"],
                Some(
                    "spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must not have bits set beyond the prefix length",
                ),
            ),
        ] {
            let errors = told(ServiceCidr.validate_create(&spec(ranges)));
            assert_eq!(errors, error.into_iter().collect::<Vec<_>>());
        }
        let update = |new: &[&str], old: &[&str]| told(ServiceCidr.validate_update(&spec(new), &spec(old)));
        assert!(update(&["10.0.0.0/16", "fd00::/112"], &["10.0.0.0/16"]).is_empty());
        assert_eq!(
            update(&["10.1.0.0/16"], &["10.0.0.0/16"]),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"]
        );
        assert_eq!(update(&["10.0.0.0/16"], &["10.0.0.0/16", "fd00::/112"]).len(), 1);
    }

    #[test]
    fn addresses_name_their_owner() {
        assert!(IpAddress.name_errors(&Value::Null, "10.0.0.1").is_empty());
        assert_eq!(IpAddress.name_errors(&Value::Null, "10.0.0.01"), ["must not have leading 0s"]);
        let address = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef":
            {"resource": "services", "namespace": "default", "name": "kubernetes"}}});
        assert!(IpAddress.validate_create(&address).is_empty());
        let cells = IpAddress.cells(&address, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1], "services/default/kubernetes");
        assert_eq!(
            told(IpAddress.validate_create(&json!({"spec": {"parentRef": {"group": "A", "name": "a/b"}}})))
                .len(),
            3
        );
        assert_eq!(told(IpAddress.validate_create(&json!({}))), ["spec.parentRef: Required value"]);
    }
}
