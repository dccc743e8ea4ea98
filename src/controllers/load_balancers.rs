//! A service of type `LoadBalancer` gets an address at once: its cluster address, which the host leads to its pods as it
//! leads those of every service.
//!
//! No other address would do without taking a port of the host's own programs away from them.

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use serde_json::json;

use super::{Next, enqueue, queue, work};
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::{Reflector, split_key};

/// Who says what was done, in events.
const NAME: &str = "service-controller";

/// Runs until dropped.
pub async fn run(client: Client, services: Reflector<Service>) {
    let (recorder, record) = Recorder::new(client.clone(), NAME, "");
    services.synced().await;
    let queue = queue(&client, "service");
    let by_service = enqueue(services.subscribe(), queue.clone());
    let reconcile = |key: String| {
        let service = services.get(&key);
        let (client, recorder) = (&client, &recorder);
        async move {
            let Some(service) = service else { return Ok(Next::Await) };
            match plan(&service) {
                Some(ingress) => write(client, recorder, &key, &service, &ingress).await,
                None => Ok(Next::Await),
            }
        }
    };
    tokio::join!(record, by_service, work("load-balancer", &queue, reconcile));
}

/// The addresses that a service must be told to have; `None` when it has them, or they are not minik's to give.
fn plan(service: &Service) -> Option<Vec<LoadBalancerIngress>> {
    let spec = service.spec.as_ref()?;
    if service.metadata.deletion_timestamp.is_some() || spec.load_balancer_class.is_some() {
        return None;
    }
    let wanted: Vec<LoadBalancerIngress> = match spec.type_.as_deref() {
        Some("LoadBalancer") => spec.cluster_ips.iter().flatten().map(|ip| ingress(ip)).collect(),
        _ => Vec::new(),
    };
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let present = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    (present != wanted).then_some(wanted)
}

/// An address on which packets arrive as they were sent.
fn ingress(ip: &str) -> LoadBalancerIngress {
    LoadBalancerIngress {
        ip: Some(ip.to_owned()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    }
}

async fn write(
    client: &Client,
    recorder: &Recorder,
    key: &str,
    service: &Service,
    ingress: &[LoadBalancerIngress],
) -> Result<Next, Status> {
    let (namespace, name) = split_key(key);
    let patch =
        json!({"metadata": {"uid": service.metadata.uid}, "status": {"loadBalancer": {"ingress": ingress}}});
    let written =
        client.namespaced::<Service>(namespace).patch(name, Some("status"), PatchKind::Merge, patch).await;
    match written {
        Ok(_) => {
            let (reason, message) = match ingress {
                [] => ("DeletedLoadBalancer", "Deleted load balancer"),
                _ => ("EnsuredLoadBalancer", "Ensured load balancer"),
            };
            recorder.record(&reference(service), EventType::Normal, reason, message);
            Ok(Next::Await)
        }
        // It is gone, or another has its name: whoever comes next is looked at on its own.
        Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(Next::Await),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn balanced_services_have_their_cluster_addresses() {
        let given = json!([{"ip": "10.96.0.7", "ipMode": "VIP"}]);
        let balanced = json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.7"]});
        for (spec, status, wanted) in [
            (balanced.clone(), json!(null), Some(given.clone())),
            (balanced.clone(), given.clone(), None),
            (balanced.clone(), json!([{"ip": "10.96.0.9", "ipMode": "VIP"}]), Some(given.clone())),
            (
                json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.7"], "loadBalancerClass": "a/b"}),
                json!(null),
                None,
            ),
            // Its type has changed.
            (json!({"type": "NodePort", "clusterIPs": ["10.96.0.7"]}), given, Some(json!([]))),
            (json!({"type": "ClusterIP", "clusterIPs": ["10.96.0.7"]}), json!(null), None),
        ] {
            let object = json!({"spec": spec, "status": {"loadBalancer": {"ingress": status}}});
            let service: Service = serde_json::from_value(object).unwrap();
            let planned: Option<Value> = plan(&service).map(|ingress| json!(ingress));
            assert_eq!(planned, wanted, "{spec} {status}");
        }
    }
}
