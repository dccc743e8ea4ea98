//! The ADDRESS column: where an ingress is reached is written into its status, and taken out when it is not ours any more.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass, IngressLoadBalancerIngress};
use serde_json::json;
use tokio::sync::watch;

use super::listen::Opened;
use super::plan::is_ours;
use crate::api::request::PatchKind;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::Reflector;

/// Before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The addresses that an ingress must be told to have; `None` when it has them, or they are not ours to give. `written`
/// is whether those that it has are ours.
fn plan(
    ingress: &Ingress,
    classes: &[Arc<IngressClass>],
    address: Option<Ipv4Addr>,
    written: bool,
) -> Option<Vec<IngressLoadBalancerIngress>> {
    let is_ours = is_ours(ingress, classes);
    if ingress.metadata.deletion_timestamp.is_some() || (!is_ours && !written) {
        return None;
    }
    let shown = address.filter(|_| is_ours).map(|address| IngressLoadBalancerIngress {
        ip: Some(address.to_string()),
        ..IngressLoadBalancerIngress::default()
    });
    let wanted: Vec<_> = shown.into_iter().collect();
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let present = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    (present != wanted).then_some(wanted)
}

/// Keeps all addresses as they must be until dropped.
pub async fn keep(
    client: &Client,
    ingresses: &Reflector<Ingress>,
    classes: &Reflector<IngressClass>,
    mut opened: watch::Receiver<Opened>,
) {
    let mut written = HashSet::new();
    let mut changes = (ingresses.subscribe(), classes.subscribe());
    loop {
        let address = opened.borrow_and_update().address;
        let known = classes.list();
        let mut failed = false;
        for ingress in ingresses.list() {
            let uid = ingress.metadata.uid.clone().unwrap_or_default();
            let Some(wanted) = plan(&ingress, &known, address, written.contains(&uid)) else { continue };
            match write(client, &ingress, &wanted).await {
                Ok(()) if wanted.is_empty() => {
                    written.remove(&uid);
                }
                Ok(()) => {
                    written.insert(uid);
                }
                Err(status) => {
                    tracing::warn!(%status, "the address of an ingress is not written");
                    failed = true;
                }
            }
        }
        tokio::select! {
            changed = opened.changed() => if changed.is_err() { return },
            key = changes.0.next() => if key.is_none() { return },
            key = changes.1.next() => if key.is_none() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

async fn write(
    client: &Client,
    ingress: &Ingress,
    wanted: &[IngressLoadBalancerIngress],
) -> Result<(), Status> {
    let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
    let name = ingress.metadata.name.as_deref().unwrap_or_default();
    let patch =
        json!({"metadata": {"uid": ingress.metadata.uid}, "status": {"loadBalancer": {"ingress": wanted}}});
    let api = client.namespaced::<Ingress>(namespace);
    match api.patch(name, Some("status"), PatchKind::Merge, patch).await {
        Ok(_) => Ok(()),
        // It is gone, or another has its name: that one is looked at on its own.
        Err(status) if status.is("NotFound") || status.is("Conflict") => Ok(()),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn only_ours_have_the_address() {
        let class = json!({"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}});
        let classes = [Arc::new(serde_json::from_value(class).unwrap())];
        let node = Some(Ipv4Addr::new(192, 168, 1, 7));
        let shown = json!([{"ip": "192.168.1.7"}]);
        for (class, status, address, written, wanted) in [
            ("nginx", json!(null), node, false, Some(shown.clone())),
            ("nginx", shown.clone(), node, true, None),
            ("nginx", json!([{"ip": "10.0.0.1"}]), node, false, Some(shown.clone())),
            ("nginx", shown.clone(), None, true, Some(json!([]))),
            ("nginx", json!(null), None, false, None),
            ("other", shown.clone(), node, true, Some(json!([]))),
            ("other", shown.clone(), node, false, None),
        ] {
            let ingress =
                json!({"spec": {"ingressClassName": class}, "status": {"loadBalancer": {"ingress": status}}});
            let ingress: Ingress = serde_json::from_value(ingress).unwrap();
            let planned: Option<Value> =
                plan(&ingress, &classes, address, written).map(|wanted| json!(wanted));
            assert_eq!(planned, wanted, "{class} {status} {written}");
        }
    }
}
