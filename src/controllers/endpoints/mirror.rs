//! Slices that say what the Endpoints of a service without a selector say: users write those, everybody reads slices.
//! Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::members::has_selector;
use super::slices::{self, Content, MANAGED_BY};
use super::{Action, SERVICE_NAME, delete_all, listed};

/// The name of the controller that mirrors, as Kubernetes' own has it.
pub(super) const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
/// The label by which the writer of Endpoints says that he writes slices too.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// The annotation of objects that are only a lock.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that mean the Endpoints alone.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// kube-controller-manager's `--mirroring-max-endpoints-per-subset`.
const PER_SUBSET: usize = 1000;
/// Slices hold addresses of one family.
const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// What to do so that the mirrored slices of a service say what its Endpoints say.
pub(super) fn plan(
    service: Option<&Service>,
    endpoints: Option<&Endpoints>,
    present: &[Arc<EndpointSlice>],
) -> Vec<Action> {
    let by_hand = service.is_some_and(|service| !has_selector(service));
    let Some(endpoints) = endpoints.filter(|endpoints| by_hand && is_to_be_mirrored(endpoints)) else {
        return delete_all(present);
    };
    let mut actions = Vec::new();
    for family in FAMILIES {
        let of_family: Vec<Arc<EndpointSlice>> =
            present.iter().filter(|slice| slice.address_type == family).cloned().collect();
        actions.extend(slices::fit(&template(endpoints, family), wanted(endpoints, family), &of_family));
    }
    actions
}

fn is_to_be_mirrored(endpoints: &Endpoints) -> bool {
    let meta = &endpoints.metadata;
    let skips = meta.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|value| value == "true");
    let locks = meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    !skips && !locks
}

fn template(endpoints: &Endpoints, family: &str) -> EndpointSlice {
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.insert(SERVICE_NAME.into(), name.clone());
    let annotations: BTreeMap<String, String> = meta
        .annotations
        .iter()
        .flatten()
        .filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    EndpointSlice {
        address_type: family.to_owned(),
        endpoints: None,
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            owner_references: Some(vec![slices::owner("Endpoints", meta)]),
            ..ObjectMeta::default()
        },
        ports: None,
    }
}

/// The contents for one family: one slice for all subsets with the same ports.
fn wanted(endpoints: &Endpoints, family: &str) -> Vec<Content> {
    let mut groups: Vec<Content> = Vec::new();
    for subset in listed(&endpoints.subsets) {
        let ready = listed(&subset.addresses).iter().map(|address| (address, true));
        let not = listed(&subset.not_ready_addresses).iter().map(|address| (address, false));
        for (address, ready) in ready.chain(not).take(PER_SUBSET) {
            // What is no address is not mirrored.
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            if ip.is_ipv4() == (family == FAMILIES[0]) {
                slices::add(&mut groups, ports(subset), endpoint(address, ip, ready));
            }
        }
    }
    // No slice may hold more, whatever the number of subsets with these ports.
    groups.iter_mut().for_each(|(_, endpoints)| endpoints.truncate(PER_SUBSET));
    groups
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let ports = listed(&subset.ports).iter();
    ports
        .map(|port| EndpointPort {
            app_protocol: port.app_protocol.clone(),
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
        })
        .collect()
}

fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "d"}, "spec": spec})).unwrap()
    }

    fn endpoints(meta: Value) -> Endpoints {
        let mut object = json!({"metadata": {"name": "db", "namespace": "d", "uid": "e"}, "subsets": [
            {"addresses": [{"ip": "192.0.2.1", "hostname": "one"}, {"ip": "2001:db8::1"}, {"ip": "nonsense"}],
             "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"name": "sql", "port": 3306}]}]});
        object["metadata"].as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        serde_json::from_value(object).unwrap()
    }

    fn created(actions: &[Action]) -> Vec<Arc<EndpointSlice>> {
        let made = actions.iter().enumerate().map(|(number, action)| match action {
            Action::CreateSlice(slice) => {
                let mut slice = EndpointSlice::clone(slice);
                slice.metadata.name = Some(format!("db-{number}"));
                Arc::new(slice)
            }
            other => panic!("{other:?}"),
        });
        made.collect()
    }

    #[test]
    fn slices_say_what_endpoints_say() {
        let by_hand = service(json!({"ports": [{"name": "sql", "port": 3306}]}));
        let object =
            endpoints(json!({"labels": {"a": "b"}, "annotations": {"c": "d", OWN_ANNOTATIONS[1]: "{}"}}));
        let slices = created(&plan(Some(&by_hand), Some(&object), &[]));
        let shown: Vec<Value> = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten().map(|e| (slice.address_type.clone(), e)))
            .map(|(family, e)| json!([family, e.addresses, e.conditions.as_ref().unwrap().ready, e.hostname]))
            .collect();
        assert_eq!(
            shown,
            [
                json!(["IPv4", ["192.0.2.1"], true, "one"]),
                json!(["IPv4", ["192.0.2.2"], false, null]),
                json!(["IPv6", ["2001:db8::1"], true, null]),
            ]
        );
        let meta = serde_json::to_value(&slices[0].metadata).unwrap();
        assert_eq!(
            (&meta["labels"], &meta["annotations"], &meta["ownerReferences"][0]["kind"]),
            (
                &json!({"a": "b", MANAGED_BY: MANAGER, SERVICE_NAME: "db"}),
                &json!({"c": "d"}),
                &json!("Endpoints")
            )
        );
        assert_eq!(serde_json::to_value(&slices[0].ports).unwrap()[0]["protocol"], "TCP");
        // As it is, nothing is left to do; without the Endpoints nothing may be left.
        assert!(plan(Some(&by_hand), Some(&object), &slices).is_empty());
        assert_eq!(plan(Some(&by_hand), None, &slices).len(), 2);
    }

    #[test]
    fn only_what_users_write_for_services_is_mirrored() {
        let by_hand = service(json!({}));
        let selecting = service(json!({"selector": {"app": "db"}}));
        for (service, meta, mirrored) in [
            (Some(&by_hand), json!({}), true),
            (None, json!({}), false),
            (Some(&selecting), json!({}), false),
            (Some(&by_hand), json!({"labels": {SKIP: "true"}}), false),
            (Some(&by_hand), json!({"labels": {SKIP: "false"}}), true),
            (Some(&by_hand), json!({"annotations": {LEADER: "{}"}}), false),
        ] {
            assert_eq!(!plan(service, Some(&endpoints(meta.clone())), &[]).is_empty(), mirrored, "{meta}");
        }
    }
}
