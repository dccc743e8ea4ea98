//! Endpoints and EndpointSlices: the addresses behind services.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::address;
use super::column::{self, AGE, NAME, NONE};
use super::deprecated;
use super::value::{fill, fill_zero, is_set, items, items_mut, text};
use super::{Column, Strategy};
use crate::api::meta;
use crate::api::names;
use crate::api::status::FieldError;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// The most endpoints of a slice, addresses of an endpoint, and ports of a slice (`pkg/apis/discovery/validation`).
const ENDPOINTS: usize = 1000;
const ADDRESSES: usize = 100;
const PORTS: usize = 20_000;

/// The strategy of Endpoints.
pub(super) struct Endpoints;

impl Strategy for Endpoints {
    fn created_on_update(&self) -> bool {
        true
    }

    fn default(&self, endpoints: &mut Value) {
        for subset in items_mut(endpoints, "subsets") {
            items_mut(subset, "ports").for_each(|port| fill_zero(port, "protocol", "TCP"));
        }
    }

    fn validate(&self, endpoints: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (i, subset) in items(endpoints, "subsets").iter().enumerate() {
            let path = format!("subsets[{i}]");
            if !is_set(subset, "addresses") && !is_set(subset, "notReadyAddresses") {
                errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
            }
            for list in ["addresses", "notReadyAddresses"] {
                for (j, address) in items(subset, list).iter().enumerate() {
                    errors.extend(address::endpoint(&format!("{path}.{list}[{j}].ip"), &address["ip"]));
                }
            }
            let ports = items(subset, "ports");
            for (j, port) in ports.iter().enumerate() {
                errors.extend(bad_port(&format!("{path}.ports[{j}]"), port, ports.len() > 1));
            }
        }
        errors
    }

    /// What the control plane wrote is not told of to who changes it.
    fn warnings(&self, endpoints: &Value) -> Vec<String> {
        if endpoints["metadata"]["labels"]["endpoints.kubernetes.io/managed-by"] == "endpoint-controller" {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for (i, subset) in items(endpoints, "subsets").iter().enumerate() {
            for field in ["addresses", "notReadyAddresses"] {
                for (j, given) in items(subset, field).iter().enumerate() {
                    let path = format!("subsets[{i}].{field}[{j}].ip");
                    warnings.extend(deprecated::address(&path, &given["ip"]));
                }
            }
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column::text("Endpoints", "The set of all endpoints is the union of all subsets."), AGE];
        COLUMNS
    }

    fn cells(&self, endpoints: &Value, now: Timestamp) -> Vec<Value> {
        let mut pairs = Vec::new();
        for subset in items(endpoints, "subsets") {
            let ports = items(subset, "ports");
            let addresses = items(subset, "addresses").iter().map(|a| text(a, "ip"));
            if ports.is_empty() {
                pairs.extend(addresses.map(str::to_owned));
                continue;
            }
            for ip in addresses {
                let ip = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
                pairs.extend(ports.iter().map(|p| format!("{ip}:{}", p["port"])));
            }
        }
        vec![column::name(endpoints), first_three(&pairs).into(), column::age(endpoints, now)]
    }
}

/// The strategy of EndpointSlices.
pub(super) struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, slice: &mut Value) {
        for port in items_mut(slice, "ports") {
            fill(port, "name", "");
            fill(port, "protocol", "TCP");
        }
    }

    fn validate(&self, slice: &Value) -> Vec<FieldError> {
        const KINDS: [&str; 3] = ["FQDN", "IPv4", "IPv6"];
        let mut errors = Vec::new();
        match text(slice, "addressType") {
            "" => errors.push(FieldError::required("addressType", "")),
            kind if KINDS.contains(&kind) => {}
            _ => errors.push(FieldError::not_supported("addressType", &slice["addressType"], &KINDS)),
        }
        errors.extend(too_many("endpoints", slice, "endpoints", ENDPOINTS));
        for (i, endpoint) in items(slice, "endpoints").iter().take(ENDPOINTS).enumerate() {
            let path = format!("endpoints[{i}].addresses");
            if items(endpoint, "addresses").is_empty() {
                errors.push(FieldError::required(path, "must contain at least 1 address"));
                continue;
            }
            if let Some(error) = too_many(&path, endpoint, "addresses", ADDRESSES) {
                errors.push(error);
                continue;
            }
            for (j, address) in items(endpoint, "addresses").iter().enumerate() {
                errors.extend(wrong_family(text(slice, "addressType"), &format!("{path}[{j}]"), address));
            }
        }
        let mut seen = Vec::new();
        errors.extend(too_many("ports", slice, "ports", PORTS));
        for (i, port) in items(slice, "ports").iter().take(PORTS).enumerate() {
            let name = text(port, "name");
            let path = format!("ports[{i}].name");
            if !name.is_empty() {
                errors.extend(
                    names::dns_label(name).iter().map(|w| FieldError::invalid(&path, &port["name"], w)),
                );
            }
            if seen.contains(&name) {
                errors.push(FieldError::duplicate(&path, &port["name"]));
            }
            seen.push(name);
            if !PROTOCOLS.contains(&text(port, "protocol")) {
                errors.push(FieldError::not_supported(
                    format!("ports[{i}].protocol"),
                    &port["protocol"],
                    &PROTOCOLS,
                ));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        if new["addressType"] == old["addressType"] {
            return Vec::new();
        }
        vec![FieldError::invalid("addressType", &new["addressType"], "field is immutable")]
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// Labels say which service a slice belongs to, so they count too.
    fn generation_changes(&self, new: &Value, old: &Value) -> bool {
        let changed = |field: &str| new[field] != old[field];
        ["endpoints", "ports", "addressType"].into_iter().any(changed)
            || meta::labels(new) != meta::labels(old)
    }

    fn warnings(&self, slice: &Value) -> Vec<String> {
        let mut warnings = Vec::new();
        if text(slice, "addressType") == "FQDN" {
            warnings.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        for (i, endpoint) in items(slice, "endpoints").iter().enumerate() {
            for (j, given) in items(endpoint, "addresses").iter().enumerate() {
                warnings.extend(deprecated::address(&format!("endpoints[{i}].addresses[{j}]"), given));
            }
        }
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text(
                "AddressType",
                "addressType specifies the type of address carried by this EndpointSlice.",
            ),
            column::text(
                "Ports",
                "ports specifies the list of network ports exposed by each endpoint in this slice.",
            ),
            column::text("Endpoints", "endpoints is a list of unique endpoints in this slice."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, slice: &Value, now: Timestamp) -> Vec<Value> {
        let ports: Vec<String> = items(slice, "ports")
            .iter()
            .map(|p| if is_set(p, "port") { p["port"].to_string() } else { "*".to_owned() })
            .collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { first_three(&ports) };
        let addresses = items(slice, "endpoints").iter().flat_map(|e| items(e, "addresses"));
        let addresses: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { first_three(&addresses) };
        vec![
            column::name(slice),
            text(slice, "addressType").into(),
            ports.into(),
            addresses.into(),
            column::age(slice, now),
        ]
    }
}

/// `a,b,c + 2 more...`
fn first_three(all: &[String]) -> String {
    match all.len() {
        0 => NONE.to_owned(),
        n if n > 3 => format!("{} + {} more...", all[..3].join(","), n - 3),
        _ => all.join(","),
    }
}

fn too_many(path: &str, of: &Value, key: &str, most: usize) -> Option<FieldError> {
    let count = items(of, key).len();
    (count > most).then(|| FieldError::too_many(path, count, most))
}

fn wrong_family(kind: &str, path: &str, given: &Value) -> Option<FieldError> {
    let text = given.as_str().unwrap_or_default();
    match kind {
        "IPv4" if text.parse::<std::net::Ipv4Addr>().is_err() => {
            Some(FieldError::invalid(path, given, "must be an IPv4 address"))
        }
        "IPv6" if text.parse::<std::net::Ipv6Addr>().is_err() => {
            Some(FieldError::invalid(path, given, "must be an IPv6 address"))
        }
        "IPv4" | "IPv6" => address::endpoint(path, given),
        "FQDN" => {
            let wrong = names::dns_subdomain(text.trim_end_matches('.'));
            wrong.first().map(|w| FieldError::invalid(path, given, w))
        }
        _ => None,
    }
}

fn bad_port(path: &str, port: &Value, name_required: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let name = text(port, "name");
    if name.is_empty() {
        if name_required {
            errors.push(FieldError::required(format!("{path}.name"), ""));
        }
    } else {
        let wrong = names::dns_label(name);
        errors.extend(wrong.iter().map(|w| FieldError::invalid(format!("{path}.name"), &json!(name), w)));
    }
    for wrong in names::port_number(port["port"].as_i64().unwrap_or(0)) {
        errors.push(FieldError::invalid(format!("{path}.port"), &port["port"], &wrong));
    }
    if !PROTOCOLS.contains(&text(port, "protocol")) {
        errors.push(FieldError::not_supported(format!("{path}.protocol"), &port["protocol"], &PROTOCOLS));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_shown_and_checked() {
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        let mut endpoints = json!({"metadata": {"name": "a"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}
        ]});
        Endpoints.default(&mut endpoints);
        assert!(Endpoints.validate(&endpoints).is_empty());
        assert_eq!(Endpoints.cells(&endpoints, now)[1], "10.0.0.1:80,10.0.0.1:81,10.0.0.2:80 + 1 more...");
        assert_eq!(Endpoints.cells(&json!({}), now)[1], "<none>");
        let wrong = json!({"subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"port": 0}]}, {}]});
        assert_eq!(Endpoints.validate(&wrong).len(), 4);
    }

    #[test]
    fn slices_are_shown_and_checked() {
        let now = "2024-01-01T00:00:00Z".parse().unwrap();
        let mut slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]});
        EndpointSlice.default(&mut slice);
        assert!(EndpointSlice.validate(&slice).is_empty());
        assert_eq!(EndpointSlice.cells(&slice, now)[1..4], [json!("IPv4"), json!("80"), json!("10.0.0.1")]);
        let wrong = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::2"]}, {}],
                           "ports": [{"name": "a", "protocol": "TCP"}, {"name": "a", "protocol": "X"}]});
        assert_eq!(EndpointSlice.validate(&wrong).len(), 4);
        assert_eq!(EndpointSlice.validate_update(&json!({"addressType": "IPv6"}), &slice).len(), 1);
        let many = |n: usize| json!({"addresses": vec!["10.0.0.1"; n]});
        for (endpoints, error) in [
            (vec![many(100); 1000], None),
            (vec![many(101)], Some("endpoints[0].addresses: Too many: 101: must have at most 100 items")),
            (vec![many(1); 1001], Some("endpoints: Too many: 1001: must have at most 1000 items")),
        ] {
            let slice = json!({"addressType": "IPv4", "endpoints": endpoints});
            assert_eq!(EndpointSlice.validate(&slice).first().map(ToString::to_string).as_deref(), error);
        }
    }
}
