//! The Endpoints object of a service with a selector. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::members::{
    addresses, families, hostname, inherited_labels, is_headless, is_ready, ports_of, publishes_all,
    reference,
};
use super::{Action, listed};

/// The label that says who wrote the object.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// The writer's name, as Kubernetes' own has it.
const MANAGER: &str = "endpoint-controller";
/// The most addresses in an Endpoints object (Kubernetes truncates there).
const MOST: usize = 1000;

/// Whether the object is one of this controller's.
pub(super) fn made_here(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(MANAGED_BY))
}

/// What to do so that the object says what the service and its pods say.
pub(super) fn plan(service: &Service, members: &[&Arc<Pod>], present: Option<&Endpoints>) -> Option<Action> {
    let wanted = wanted(service, members);
    let Some(present) = present else { return Some(Action::CreateEndpoints(Box::new(wanted))) };
    let same = listed(&present.subsets) == listed(&wanted.subsets)
        && present.metadata.labels == wanted.metadata.labels;
    (!same).then(|| {
        let mut changed = present.clone();
        changed.metadata.labels = wanted.metadata.labels;
        changed.subsets = wanted.subsets;
        Action::UpdateEndpoints(Box::new(changed))
    })
}

fn wanted(service: &Service, members: &[&Arc<Pod>]) -> Endpoints {
    let mut labels = inherited_labels(service);
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let subsets = subsets(service, members);
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

/// Addresses in groups of equal ports.
fn subsets(service: &Service, members: &[&Arc<Pod>]) -> Vec<EndpointSubset> {
    let has_ports = service.spec.as_ref().is_some_and(|spec| !listed(&spec.ports).is_empty());
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    // The object is of the service's first family alone.
    let family = families(service)[0];
    let members = members.iter().filter_map(|pod| Some((pod, addresses(pod, family).into_iter().next()?)));
    for (pod, ip) in members.take(MOST) {
        let leaves = pod.metadata.deletion_timestamp.is_some() && !publishes_all(service);
        let ports = ports(service, pod);
        // Only a headless service without ports leads to addresses alone; a pod that has none of the named ports
        // is no address of the service.
        if leaves || ports.is_empty() && (has_ports || !is_headless(service)) {
            continue;
        }
        let ports = (!ports.is_empty()).then_some(ports);
        let index = match subsets.iter().position(|subset| subset.ports == ports) {
            Some(index) => index,
            None => {
                subsets.push(EndpointSubset { ports, ..EndpointSubset::default() });
                subsets.len() - 1
            }
        };
        let subset = &mut subsets[index];
        let list = match is_ready(pod) || publishes_all(service) {
            true => &mut subset.addresses,
            false => &mut subset.not_ready_addresses,
        };
        list.get_or_insert_default().push(address(service, pod, ip));
    }
    subsets
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = ports_of(service, pod).into_iter();
    ports
        .map(|port| EndpointPort {
            app_protocol: port.app_protocol,
            name: port.name.filter(|name| !name.is_empty()),
            port: port.port.unwrap_or(0),
            protocol: port.protocol,
        })
        .collect()
}

fn address(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    EndpointAddress {
        hostname: hostname(service, pod),
        ip,
        node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        target_ref: Some(reference(pod)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, spec: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec,
            "status": {"podIP": format!("10.0.0.{}", name.len()), "conditions": [{"type": "Ready", "status": "True"}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn service(spec: Value) -> Service {
        let meta = json!({"name": "web", "namespace": "d", "labels": {"tier": "front"}});
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
    }

    /// Subsets as text: `ADDRESS/HOSTNAME … : PORT …`.
    fn shown(service: &Service, pods: &[Arc<Pod>]) -> Vec<String> {
        let members: Vec<&Arc<Pod>> = pods.iter().collect();
        let text = |subset: &EndpointSubset| {
            let addresses: Vec<String> = listed(&subset.addresses)
                .iter()
                .map(|a| format!("{}/{}", a.ip, a.hostname.as_deref().unwrap_or("")))
                .collect();
            let ports: Vec<String> = listed(&subset.ports).iter().map(|p| p.port.to_string()).collect();
            format!("{} : {}", addresses.join(" "), ports.join(" "))
        };
        listed(&wanted(service, &members).subsets).iter().map(text).collect()
    }

    #[test]
    fn addresses_by_ports_and_names() {
        let named = |name: &str, number: u16| json!({"name": name, "containerPort": number});
        let containers = |ports: Value| json!([{"name": "c", "ports": ports}]);
        let both =
            pod("a", json!({"containers": containers(json!([named("http", 80), named("admin", 81)]))}));
        let one = pod("bb", json!({"containers": containers(json!([named("http", 80)]))}));
        let none = pod("ccc", json!({"containers": [{"name": "c"}]}));
        let beside = pod(
            "dddd",
            json!({"containers": [{"name": "c"}], "hostname": "d", "subdomain": "web",
            "initContainers": [{"name": "once", "ports": [named("http", 70)]},
                {"name": "stays", "restartPolicy": "Always", "ports": [named("http", 80)]}]}),
        );
        let pods = [both, one, none, beside];
        let port = |name: &str, number: u16| json!({"name": name, "port": number, "targetPort": name});
        for (spec, expected) in [
            (
                json!({"clusterIP": "10.96.0.7", "ports": [port("http", 1), port("admin", 2)]}),
                vec!["10.0.0.1/ : 80 81", "10.0.0.2/ 10.0.0.4/d : 80"],
            ),
            (json!({"clusterIP": "None", "ports": [port("admin", 2)]}), vec!["10.0.0.1/ : 81"]),
            (json!({"clusterIP": "None"}), vec!["10.0.0.1/ 10.0.0.2/ 10.0.0.3/ 10.0.0.4/d : "]),
            (json!({"clusterIP": "10.96.0.7"}), vec![]),
        ] {
            assert_eq!(shown(&service(spec.clone()), &pods), expected, "{spec}");
        }
    }

    #[test]
    fn labels_follow_the_service() {
        let before = wanted(&service(json!({"clusterIP": "None"})), &[]);
        let labels = before.metadata.labels.as_ref().unwrap();
        assert!(labels.contains_key(super::super::HEADLESS) && labels["tier"] == "front");
        assert_eq!(plan(&service(json!({"clusterIP": "None"})), &[], Some(&before)), None);
        let mut relabelled = service(json!({"clusterIP": "None"}));
        relabelled.metadata.labels = Some([("tier".to_owned(), "back".to_owned())].into());
        let Some(Action::UpdateEndpoints(after)) = plan(&relabelled, &[], Some(&before)) else {
            panic!("nothing to do");
        };
        assert_eq!(after.metadata.labels.unwrap()["tier"], "back");
    }
}
