//! EndpointSlices and Endpoints of Services, from their selectors and the pods' readiness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort as AddressPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
    ServicePort,
};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{Next, enqueue, queue, work};
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};

/// The label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says whose slice it is.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// This controller's name, as Kubernetes' own has it.
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The label of headless services' slices.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// kube-controller-manager's `--max-endpoints-per-slice`.
const PER_SLICE: usize = 100;
/// The most addresses in an Endpoints object (Kubernetes truncates there).
const PER_ENDPOINTS: usize = 1000;

/// Runs until dropped.
pub async fn run(
    client: Client,
    services: Reflector<Service>,
    pods: Reflector<Pod>,
    slices: Reflector<EndpointSlice>,
    endpoints: Reflector<Endpoints>,
) {
    services.synced().await;
    pods.synced().await;
    slices.synced().await;
    endpoints.synced().await;
    let queue = queue();
    let by_service = enqueue(services.subscribe(), queue.clone());
    let by_pod = async {
        let mut changes = pods.subscribe();
        let mut selected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        while let Some(key) = changes.next().await {
            let namespace = split_key(&key).0;
            let pod = pods.get(&key);
            let now: BTreeSet<String> = services
                .list()
                .iter()
                .filter(|s| s.metadata.namespace.as_deref() == Some(namespace))
                .filter(|s| pod.as_ref().is_some_and(|pod| selects(s, pod)))
                .filter_map(|s| Some(format!("{namespace}/{}", s.metadata.name.as_ref()?)))
                .collect();
            // A pod that went, or changed its labels, leaves services that had it.
            let before = match pod {
                Some(_) => selected.insert(key, now.clone()),
                None => selected.remove(&key),
            };
            for service in now.iter().chain(before.iter().flatten()) {
                queue.add(service);
            }
        }
    };
    // What somebody else changes or deletes comes back.
    let by_slice = async {
        let mut changes = slices.subscribe();
        let mut owners: BTreeMap<String, String> = BTreeMap::new();
        while let Some(key) = changes.next().await {
            let now = slices.get(&key).and_then(|slice| {
                let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
                Some(format!("{}/{service}", split_key(&key).0))
            });
            let before = match &now {
                Some(service) => owners.insert(key, service.clone()),
                None => owners.remove(&key),
            };
            for service in now.iter().chain(&before) {
                queue.add(service);
            }
        }
    };
    let by_endpoints = enqueue(endpoints.subscribe(), queue.clone());
    let reconcile = |key: String| {
        let (services, pods, slices, endpoints) = (&services, &pods, &slices, &endpoints);
        let written = Written { client: &client, slices, endpoints };
        async move {
            let (namespace, name) = split_key(&key);
            let service = services.get(&key);
            let mine: Vec<Arc<EndpointSlice>> =
                slices.list().into_iter().filter(|s| is_mine(s, namespace, name)).collect();
            let all = pods.list();
            let actions = plan(service.as_deref(), &all, &mine, endpoints.get(&key).as_deref());
            for action in actions {
                written.act(namespace, action).await?;
            }
            Ok(Next::Await)
        }
    };
    tokio::join!(by_service, by_pod, by_slice, by_endpoints, work("endpointslice", &queue, reconcile));
}

fn is_mine(slice: &EndpointSlice, namespace: &str, service: &str) -> bool {
    let label = |key: &str| slice.metadata.labels.as_ref().and_then(|l| l.get(key)).map(String::as_str);
    slice.metadata.namespace.as_deref() == Some(namespace)
        && label(SERVICE_NAME) == Some(service)
        && label(MANAGED_BY) == Some(MANAGER)
}

/// What must change.
#[derive(Debug, Clone, PartialEq)]
enum Action {
    CreateSlice(Box<EndpointSlice>),
    UpdateSlice(Box<EndpointSlice>),
    DeleteSlice(String),
    CreateEndpoints(Box<Endpoints>),
    UpdateEndpoints(Box<Endpoints>),
    DeleteEndpoints(String),
}

/// What this controller writes: the way to the server, and the copies that later plans start from.
struct Written<'a> {
    client: &'a Client,
    slices: &'a Reflector<EndpointSlice>,
    endpoints: &'a Reflector<Endpoints>,
}

impl Written<'_> {
    /// Carries an action out; the next plan sees what it wrote.
    async fn act(&self, namespace: &str, action: Action) -> Result<(), Status> {
        let slices = self.client.namespaced::<EndpointSlice>(namespace);
        let endpoints = self.client.namespaced::<Endpoints>(namespace);
        let done = async {
            match action {
                Action::CreateSlice(slice) => self.slices.reached(&slices.create(&slice).await?).await,
                Action::UpdateSlice(slice) => self.slices.reached(&slices.update(&slice).await?).await,
                Action::DeleteSlice(name) => slices.delete(&name, DeleteOptions::default()).await?,
                Action::CreateEndpoints(object) => {
                    self.endpoints.reached(&endpoints.create(&object).await?).await;
                }
                Action::UpdateEndpoints(object) => {
                    self.endpoints.reached(&endpoints.update(&object).await?).await;
                }
                Action::DeleteEndpoints(name) => endpoints.delete(&name, DeleteOptions::default()).await?,
            }
            Ok::<(), Status>(())
        };
        match done.await {
            // Gone already, or its namespace is on its way out.
            Err(status) if status.is("NotFound") || status.is("Forbidden") => Ok(()),
            other => other,
        }
    }
}

/// Whether a service's selector matches a pod; without a selector none does.
fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty())
    else {
        return false;
    };
    let labels = pod.metadata.labels.as_ref();
    selector.iter().all(|(key, value)| labels.and_then(|l| l.get(key)) == Some(value))
}

/// What to do so that slices and Endpoints say what services and pods say.
fn plan(
    service: Option<&Service>,
    pods: &[Arc<Pod>],
    slices: &[Arc<EndpointSlice>],
    endpoints: Option<&Endpoints>,
) -> Vec<Action> {
    let delete_slices =
        || slices.iter().filter_map(|s| s.metadata.name.clone()).map(Action::DeleteSlice).collect::<Vec<_>>();
    let selector = service.and_then(|s| s.spec.as_ref()?.selector.as_ref()).filter(|s| !s.is_empty());
    let (Some(service), Some(_)) = (service, selector) else {
        let mut actions = delete_slices();
        // Endpoints of a service without a selector are the user's; those of no service go with it.
        if let (None, Some(name)) =
            (service, endpoints.filter(|e| made_here(e)).and_then(|e| e.metadata.name.clone()))
        {
            actions.push(Action::DeleteEndpoints(name));
        }
        return actions;
    };
    if service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName") {
        return delete_slices();
    }
    let namespace = service.metadata.namespace.as_deref();
    let mut members: Vec<&Arc<Pod>> = pods
        .iter()
        .filter(|pod| {
            pod.metadata.namespace.as_deref() == namespace && selects(service, pod) && has_place(pod)
        })
        .collect();
    members.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut actions = plan_slices(service, &members, slices);
    let wanted = wanted_endpoints(service, &members);
    match endpoints {
        None => actions.push(Action::CreateEndpoints(Box::new(wanted))),
        Some(present) if listed(&present.subsets) != listed(&wanted.subsets) => {
            let mut changed = present.clone();
            changed.subsets = wanted.subsets;
            actions.push(Action::UpdateEndpoints(Box::new(changed)));
        }
        Some(_) => {}
    }
    actions
}

/// No list and an empty one say the same.
fn listed<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
}

fn made_here(endpoints: &Endpoints) -> bool {
    endpoints.metadata.labels.as_ref().is_some_and(|l| l.contains_key("endpoints.kubernetes.io/managed-by"))
}

/// Whether a pod can be an endpoint: it has an address and has not come to its end.
fn has_place(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref());
    status.and_then(|s| s.pod_ip.as_deref()).is_some_and(|ip| !ip.is_empty())
        && phase != Some("Succeeded")
        && phase != Some("Failed")
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

fn publishes_all(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

/// The port of a pod that a service's port leads to; `None` when the pod has no port of that name.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) if *number > 0 => Some(*number),
        Some(IntOrString::String(name)) => pod
            .spec
            .iter()
            .flat_map(|s| &s.containers)
            .flat_map(|c| c.ports.iter().flatten())
            .find(|p| {
                p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol(port)
            })
            .map(|p| p.container_port),
        _ => Some(port.port),
    }
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The ports of a service as one pod has them.
fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(EndpointPort {
                app_protocol: port.app_protocol.clone(),
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(target_port(port, pod)?),
                protocol: Some(protocol(port).to_owned()),
            })
        })
        .collect()
}

fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: pod.metadata.namespace.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

fn endpoint(service: &Service, pod: &Pod) -> Endpoint {
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = is_ready(pod);
    let spec = pod.spec.as_ref();
    let subdomain = spec.and_then(|s| s.subdomain.as_deref());
    let hostname =
        spec.and_then(|s| s.hostname.clone()).filter(|_| subdomain == service.metadata.name.as_deref());
    Endpoint {
        addresses: pod.status.as_ref().and_then(|s| s.pod_ip.clone()).into_iter().collect(),
        conditions: Some(EndpointConditions {
            ready: Some(publishes_all(service) || serving && !terminating),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname,
        node_name: spec.and_then(|s| s.node_name.clone()),
        target_ref: Some(reference(pod)),
        ..Endpoint::default()
    }
}

/// Endpoints in groups of equal ports, each in slices of at most [`PER_SLICE`].
fn plan_slices(service: &Service, members: &[&Arc<Pod>], present: &[Arc<EndpointSlice>]) -> Vec<Action> {
    let mut groups: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
    for pod in members {
        let ports = ports_of(service, pod);
        match groups.iter_mut().find(|(p, _)| *p == ports) {
            Some((_, endpoints)) => endpoints.push(endpoint(service, pod)),
            None => groups.push((ports, vec![endpoint(service, pod)])),
        }
    }
    let mut wanted: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = groups
        .into_iter()
        .flat_map(|(ports, endpoints)| {
            endpoints.chunks(PER_SLICE).map(|chunk| (ports.clone(), chunk.to_vec())).collect::<Vec<_>>()
        })
        .collect();
    if wanted.is_empty() {
        // A service without endpoints has one empty slice, so that watchers see it.
        wanted.push((Vec::new(), Vec::new()));
    }
    let mut left: Vec<&Arc<EndpointSlice>> = present.iter().collect();
    let mut actions = Vec::new();
    for (ports, endpoints) in wanted {
        // The slice with these very endpoints, or with these ports, or any.
        let best = left
            .iter()
            .position(|s| listed(&s.endpoints) == endpoints && listed(&s.ports) == ports)
            .or_else(|| left.iter().position(|s| listed(&s.ports) == ports))
            .or_else(|| (!left.is_empty()).then_some(0));
        let labels = labels(service);
        match best.map(|index| left.remove(index)) {
            Some(slice) => {
                let same = listed(&slice.endpoints) == endpoints
                    && listed(&slice.ports) == ports
                    && slice.metadata.labels.as_ref() == Some(&labels);
                if !same {
                    let mut changed = EndpointSlice::clone(slice);
                    changed.metadata.labels = Some(labels);
                    changed.endpoints = Some(endpoints);
                    changed.ports = Some(ports);
                    actions.push(Action::UpdateSlice(Box::new(changed)));
                }
            }
            None => actions.push(Action::CreateSlice(Box::new(EndpointSlice {
                address_type: "IPv4".to_owned(),
                endpoints: Some(endpoints),
                metadata: ObjectMeta {
                    generate_name: service.metadata.name.as_ref().map(|name| format!("{name}-")),
                    namespace: service.metadata.namespace.clone(),
                    labels: Some(labels),
                    owner_references: Some(vec![owner(service)]),
                    ..ObjectMeta::default()
                },
                ports: Some(ports),
            }))),
        }
    }
    actions.extend(left.iter().filter_map(|s| s.metadata.name.clone()).map(Action::DeleteSlice));
    actions
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}

fn owner(service: &Service) -> OwnerReference {
    OwnerReference {
        api_version: "v1".into(),
        kind: "Service".into(),
        name: service.metadata.name.clone().unwrap_or_default(),
        uid: service.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn wanted_endpoints(service: &Service, members: &[&Arc<Pod>]) -> Endpoints {
    let mut subsets: Vec<EndpointSubset> = Vec::new();
    for pod in members.iter().take(PER_ENDPOINTS) {
        if pod.metadata.deletion_timestamp.is_some() && !publishes_all(service) {
            continue;
        }
        let ports: Vec<AddressPort> = ports_of(service, pod)
            .into_iter()
            .map(|p| AddressPort {
                app_protocol: p.app_protocol,
                name: p.name.filter(|n| !n.is_empty()),
                port: p.port.unwrap_or(0),
                protocol: p.protocol,
            })
            .collect();
        let address = EndpointAddress {
            ip: pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default(),
            node_name: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            target_ref: Some(reference(pod)),
            ..EndpointAddress::default()
        };
        let index = match subsets.iter().position(|s| s.ports.as_deref().unwrap_or(&[]) == ports) {
            Some(index) => index,
            None => {
                subsets.push(EndpointSubset {
                    ports: (!ports.is_empty()).then_some(ports),
                    ..EndpointSubset::default()
                });
                subsets.len() - 1
            }
        };
        let subset = &mut subsets[index];
        let list = if is_ready(pod) || publishes_all(service) {
            &mut subset.addresses
        } else {
            &mut subset.not_ready_addresses
        };
        list.get_or_insert_default().push(address);
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert("endpoints.kubernetes.io/managed-by".into(), "endpoint-controller".into());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;
    use crate::controllers::reflect;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Service {
        serde_json::from_value(
            json!({"metadata": {"name": "web", "namespace": "d", "uid": "s"}, "spec": spec}),
        )
        .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
                "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
                "status": {"phase": "Running", "podIP": ip,
                           "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
            }))
            .unwrap(),
        )
    }

    fn web() -> Service {
        service(json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.9",
                       "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}))
    }

    /// The slice that the first plan makes, as the server would return it.
    fn made(actions: &[Action]) -> Arc<EndpointSlice> {
        let mut slice = actions
            .iter()
            .find_map(|a| match a {
                Action::CreateSlice(slice) => Some(EndpointSlice::clone(slice)),
                _ => None,
            })
            .unwrap();
        slice.metadata.name = Some("web-abcde".into());
        Arc::new(slice)
    }

    #[test]
    fn ready_and_unready_pods_by_named_port() {
        let pods = [pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)];
        let actions = plan(Some(&web()), &pods, &[], None);
        let slice = made(&actions);
        let shown: Vec<_> = slice
            .endpoints
            .iter()
            .flatten()
            .map(|e| (e.addresses[0].as_str(), e.conditions.as_ref().unwrap().ready.unwrap()))
            .collect();
        assert_eq!(shown, [("10.0.0.1", true), ("10.0.0.2", false)]);
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(slice.metadata.generate_name.as_deref(), Some("web-"));
        let Some(Action::CreateEndpoints(endpoints)) = actions.last() else { panic!("{actions:?}") };
        let subset = &endpoints.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap().len(), 1);
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap().len(), 1);
        assert!(plan(Some(&web()), &pods, &[slice], Some(endpoints)).is_empty());
    }

    #[test]
    fn changes_touch_one_slice_and_ends_remove_it() {
        let pods = [pod("a", "10.0.0.1", true)];
        let slice = made(&plan(Some(&web()), &pods, &[], None));
        let more = [pods[0].clone(), pod("b", "10.0.0.2", true)];
        let actions = plan(Some(&web()), &more, std::slice::from_ref(&slice), None);
        assert!(
            matches!(&actions[0], Action::UpdateSlice(s) if s.endpoints.as_ref().is_some_and(|e| e.len() == 2)),
            "{actions:?}"
        );
        let actions = plan(None, &pods, &[slice], None);
        assert_eq!(actions, [Action::DeleteSlice("web-abcde".into())]);
        let without = service(json!({"ports": [{"port": 80}]}));
        assert!(plan(Some(&without), &pods, &[], None).is_empty());
    }

    #[test]
    fn finished_addressless_and_terminating_pods() {
        let mut finished = Pod::clone(&pod("f", "10.0.0.3", true));
        finished.status.as_mut().unwrap().phase = Some("Succeeded".into());
        let mut leaving = Pod::clone(&pod("l", "10.0.0.4", true));
        leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let pods = [Arc::new(finished), Arc::new(leaving), pod("n", "", true)];
        let slice = made(&plan(Some(&web()), &pods, &[], None));
        let endpoints = slice.endpoints.as_ref().unwrap();
        assert_eq!(endpoints.len(), 1);
        let conditions = endpoints[0].conditions.as_ref().unwrap();
        assert_eq!(
            (conditions.ready, conditions.serving, conditions.terminating),
            (Some(false), Some(true), Some(true))
        );
    }

    #[tokio::test]
    async fn a_busy_service_has_one_slice_that_comes_back() {
        let api = FakeApi::default();
        let client = api.client();
        let mut tasks = tokio::task::JoinSet::new();
        let (services, pods) = (reflect(&mut tasks, &client), reflect(&mut tasks, &client));
        let (slices, addresses) = (reflect(&mut tasks, &client), reflect(&mut tasks, &client));
        let seen: Reflector<EndpointSlice> = slices.clone();
        tasks.spawn(run(client, services, pods, slices, addresses));
        api.put("services", serde_json::to_value(web()).unwrap());
        for n in 0..40 {
            let name = format!("p{n}");
            api.put("pods", serde_json::to_value(&*pod(&name, &format!("10.0.0.{n}"), true)).unwrap());
        }
        let endpoints = |count: usize| {
            move |slices: &Reflector<EndpointSlice>| {
                slices.list().first().is_some_and(|s| listed(&s.endpoints).len() == count)
            }
        };
        seen.until(endpoints(40)).await;
        let slice = seen.list()[0].metadata.name.clone().unwrap();
        assert_eq!(seen.list().len(), 1);
        api.remove("endpointslices", "d", &slice);
        seen.until(|slices| slices.get(&format!("d/{slice}")).is_none()).await;
        seen.until(endpoints(40)).await;
        assert_eq!((seen.list().len(), api.all("endpoints").len()), (1, 1));
    }

    #[test]
    fn many_endpoints_are_spread_over_slices() {
        let pods: Vec<_> = (0..250).map(|n| pod(&format!("p{n:03}"), &format!("10.0.1.{n}"), true)).collect();
        let sizes: Vec<usize> = plan(Some(&web()), &pods, &[], None)
            .iter()
            .filter_map(|a| match a {
                Action::CreateSlice(s) => s.endpoints.as_ref().map(Vec::len),
                _ => None,
            })
            .collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn headless_services_are_marked() {
        let headless = service(json!({"selector": {"app": "web"}, "clusterIP": "None"}));
        let slice = made(&plan(Some(&headless), &[], &[], None));
        assert!(slice.metadata.labels.as_ref().unwrap().contains_key(HEADLESS));
    }
}
