//! EndpointSlices and Endpoints of Services: from their selectors and the pods' readiness, or mirrored from the
//! Endpoints that users write.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Next, enqueue, enqueue_selecting, queue, work};
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};

mod addresses;
mod members;
mod mirror;
mod slices;

use members::{has_place, has_selector, selects};

/// The label that ties a slice to its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label of what belongs to headless services.
const HEADLESS: &str = "service.kubernetes.io/headless";

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
    let queue = queue(&client, "endpoint_slice");
    let by_service = enqueue(services.subscribe(), queue.clone());
    let by_pod = enqueue_selecting(&pods, &services, selects, &queue);
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
            let present = slices.list();
            let managed = |manager: &str| -> Vec<Arc<EndpointSlice>> {
                let managed = present.iter().filter(|s| slices::is_managed(s, namespace, name, manager));
                managed.cloned().collect()
            };
            let addresses = endpoints.get(&key);
            let mut actions =
                plan(service.as_deref(), &pods.list(), &managed(slices::MANAGER), addresses.as_deref());
            let mirrored = managed(mirror::MANAGER);
            actions.extend(mirror::plan(service.as_deref(), addresses.as_deref(), &mirrored));
            for action in actions {
                written.act(namespace, action).await?;
            }
            Ok(Next::Await)
        }
    };
    tokio::join!(by_service, by_pod, by_slice, by_endpoints, work("endpointslice", &queue, reconcile));
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

/// What to do so that slices and Endpoints say what a service with a selector and its pods say.
fn plan(
    service: Option<&Service>,
    pods: &[Arc<Pod>],
    present: &[Arc<EndpointSlice>],
    endpoints: Option<&Endpoints>,
) -> Vec<Action> {
    let Some(service) = service else {
        let mut actions = delete_all(present);
        // What users have written does not go with the service.
        let own = endpoints.filter(|endpoints| addresses::made_here(endpoints));
        actions.extend(own.and_then(|e| e.metadata.name.clone()).map(Action::DeleteEndpoints));
        return actions;
    };
    let external = service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName");
    if external || !has_selector(service) {
        return delete_all(present);
    }
    let namespace = service.metadata.namespace.as_deref();
    let mut members: Vec<&Arc<Pod>> = pods
        .iter()
        .filter(|pod| {
            pod.metadata.namespace.as_deref() == namespace && selects(service, pod) && has_place(pod)
        })
        .collect();
    members.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let mut actions = slices::plan(service, &members, present);
    actions.extend(addresses::plan(service, &members, endpoints));
    actions
}

fn delete_all<'a>(slices: impl IntoIterator<Item = &'a Arc<EndpointSlice>>) -> Vec<Action> {
    slices.into_iter().filter_map(|slice| slice.metadata.name.clone()).map(Action::DeleteSlice).collect()
}

/// No list and an empty one say the same.
fn listed<T>(list: &Option<Vec<T>>) -> &[T] {
    list.as_deref().unwrap_or_default()
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
    fn each_family_has_slices_of_its_own() {
        let both = |name: &str, ips: &[&str]| {
            let mut pod = Pod::clone(&pod(name, ips[0], true));
            let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            pod.status.as_mut().unwrap().pod_ips = serde_json::from_value(json!(ips)).unwrap();
            Arc::new(pod)
        };
        let pods = [both("a", &["10.0.0.1", "fd00::1"]), both("b", &["10.0.0.2"])];
        let of = |families: &[&str]| {
            let mut service = web();
            let spec = service.spec.as_mut().unwrap();
            let address = |family: &&str| if *family == "IPv4" { "10.96.0.9" } else { "fd00:10:96::9" };
            let addresses: Vec<String> = families.iter().map(|family| address(family).to_owned()).collect();
            spec.cluster_ip = addresses.first().cloned();
            spec.cluster_ips = Some(addresses);
            service
        };
        let shown = |actions: &[Action]| {
            let mut shown: Vec<String> = Vec::new();
            for action in actions {
                let (what, address_type, addresses) = match action {
                    Action::CreateSlice(slice) | Action::UpdateSlice(slice) => {
                        let addresses =
                            listed(&slice.endpoints).iter().flat_map(|e| e.addresses.clone()).collect();
                        ("slice", slice.address_type.clone(), addresses)
                    }
                    Action::CreateEndpoints(endpoints) => {
                        let subsets = listed(&endpoints.subsets).iter();
                        let addresses: Vec<String> =
                            subsets.flat_map(|s| listed(&s.addresses).iter().map(|a| a.ip.clone())).collect();
                        ("endpoints", String::new(), addresses)
                    }
                    Action::DeleteSlice(name) => ("delete", name.clone(), Vec::new()),
                    other => panic!("{other:?}"),
                };
                shown.push(format!("{what} {address_type} {}", addresses.join(" ")));
            }
            shown
        };
        for (families, expected) in [
            (&["IPv4"][..], vec!["slice IPv4 10.0.0.1 10.0.0.2", "endpoints  10.0.0.1 10.0.0.2"]),
            (
                &["IPv4", "IPv6"],
                vec!["slice IPv4 10.0.0.1 10.0.0.2", "slice IPv6 fd00::1", "endpoints  10.0.0.1 10.0.0.2"],
            ),
            (&["IPv6"], vec!["slice IPv6 fd00::1", "endpoints  fd00::1"]),
        ] {
            assert_eq!(shown(&plan(Some(&of(families)), &pods, &[], None)), expected, "{families:?}");
        }
        // A family that the service gives up takes its slices with it; one without endpoints has an empty slice.
        let first = plan(Some(&of(&["IPv4", "IPv6"])), &pods, &[], None);
        let slices: Vec<Arc<EndpointSlice>> = first
            .iter()
            .filter_map(|action| match action {
                Action::CreateSlice(slice) => {
                    let mut slice = EndpointSlice::clone(slice);
                    slice.metadata.name = Some(format!("web-{}", slice.address_type));
                    Some(Arc::new(slice))
                }
                _ => None,
            })
            .collect();
        let after = plan(Some(&of(&["IPv4"])), &pods, &slices, None);
        assert_eq!(after[0], Action::DeleteSlice("web-IPv6".into()));
        assert_eq!(
            shown(&plan(Some(&of(&["IPv4", "IPv6"])), &pods[1..], &slices[..1], None))[1..],
            ["slice IPv6 ", "endpoints  10.0.0.2"].map(String::from)
        );
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

    #[tokio::test]
    async fn a_pod_leaves_a_service_that_came_after_it() {
        let api = FakeApi::default();
        let client = api.client();
        let mut tasks = tokio::task::JoinSet::new();
        let (services, pods) = (reflect(&mut tasks, &client), reflect(&mut tasks, &client));
        let (slices, addresses) = (reflect(&mut tasks, &client), reflect(&mut tasks, &client));
        let (seen, known): (Reflector<EndpointSlice>, Reflector<Pod>) = (slices.clone(), pods.clone());
        tasks.spawn(run(client, services, pods, slices, addresses));
        let mut object = serde_json::to_value(&*pod("a", "10.0.0.1", true)).unwrap();
        api.put("pods", object.clone());
        known.until(|pods| pods.get("d/a").is_some()).await;
        let has = |count: usize| {
            move |slices: &Reflector<EndpointSlice>| {
                slices.list().first().is_some_and(|s| listed(&s.endpoints).len() == count)
            }
        };
        api.put("services", serde_json::to_value(web()).unwrap());
        seen.until(has(1)).await;
        object["metadata"]["labels"]["app"] = "other".into();
        api.put("pods", object);
        tokio::time::timeout(std::time::Duration::from_secs(5), seen.until(has(0))).await.unwrap();
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

    #[test]
    fn who_prefers_its_own_node_is_told_which_that_is() {
        let pods = [pod("a", "10.0.0.1", true), pod("b", "10.0.0.2", false)];
        for (distribution, hints) in [
            (json!(null), json!(null)),
            (json!("PreferClose"), json!(null)),
            (json!("PreferSameNode"), json!({"forNodes": [{"name": "n"}]})),
        ] {
            let mut service = web();
            service.spec.as_mut().unwrap().traffic_distribution =
                serde_json::from_value(distribution.clone()).unwrap();
            let slice = made(&plan(Some(&service), &pods, &[], None));
            let found: Vec<Value> = listed(&slice.endpoints).iter().map(|e| json!(e.hints)).collect();
            assert_eq!(found, [hints, json!(null)], "{distribution}");
        }
    }

    #[tokio::test]
    async fn endpoints_that_users_write_become_slices() {
        let api = FakeApi::default();
        let client = api.client();
        let mut tasks = tokio::task::JoinSet::new();
        let (services, pods) = (reflect(&mut tasks, &client), reflect(&mut tasks, &client));
        let (slices, addresses) = (reflect(&mut tasks, &client), reflect(&mut tasks, &client));
        let seen: Reflector<EndpointSlice> = slices.clone();
        tasks.spawn(run(client, services, pods, slices, addresses));
        api.put("services", serde_json::to_value(service(json!({"ports": [{"port": 80}]}))).unwrap());
        let endpoints = |ip: &str| {
            json!({"metadata": {"name": "web", "namespace": "d", "uid": "e"},
                   "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 8080}]}]})
        };
        let shows = |ip: &'static str| {
            move |slices: &Reflector<EndpointSlice>| {
                slices.list().iter().any(|s| listed(&s.endpoints).iter().any(|e| e.addresses == [ip]))
            }
        };
        for ip in ["192.0.2.1", "192.0.2.2"] {
            api.put("endpoints", endpoints(ip));
            seen.until(shows(ip)).await;
        }
        assert_eq!(seen.list().len(), 1);
        api.remove("endpoints", "d", "web");
        seen.until(|slices| slices.list().is_empty()).await;
    }
}
