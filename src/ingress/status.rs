//! The ADDRESS column: where an ingress is reached is written into its status, and taken out when it is not ours any more.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::{Ingress, IngressClass, IngressLoadBalancerIngress};
use serde_json::json;
use tokio::sync::watch;

use super::listen::Opened;
use super::plan::is_ours;
use crate::api::request::{ListOptions, PatchKind};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::Reflector;

/// Before a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is to become of the addresses that an ingress shows.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// They are not ours to give, or nobody knows yet where clients come.
    Leave,
    /// It shows this one, and that is right.
    Keep(Ipv4Addr),
    /// It must show this one, or none.
    Write(Option<Ipv4Addr>),
}

/// The addresses that an ingress shows.
fn shown(ingress: &Ingress) -> &[IngressLoadBalancerIngress] {
    let balancer = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

fn entries(address: Option<Ipv4Addr>) -> Vec<IngressLoadBalancerIngress> {
    let entry = |address: Ipv4Addr| IngressLoadBalancerIngress {
        ip: Some(address.to_string()),
        ..IngressLoadBalancerIngress::default()
    };
    address.map(entry).into_iter().collect()
}

/// What is to be done about an ingress; `written` is what it was given before.
fn plan(
    ingress: &Ingress,
    classes: &[Arc<IngressClass>],
    opened: Option<&Opened>,
    written: Option<Ipv4Addr>,
) -> Step {
    if ingress.metadata.deletion_timestamp.is_some() {
        return Step::Leave;
    }
    if !is_ours(ingress, classes) {
        // Whoever has it may have given it another one already.
        let is_stale = written.is_some() && shown(ingress) == entries(written);
        return if is_stale { Step::Write(None) } else { Step::Leave };
    }
    let Some(opened) = opened else { return Step::Leave };
    match opened.address {
        wanted if shown(ingress) != entries(wanted) => Step::Write(wanted),
        Some(address) => Step::Keep(address),
        None => Step::Leave,
    }
}

/// Keeps all addresses as they must be until dropped. Until ports are opened or tried, what ingresses show stays.
pub async fn keep(
    client: &Client,
    ingresses: &Reflector<Ingress>,
    classes: &Reflector<IngressClass>,
    mut opened: watch::Receiver<Option<Opened>>,
) {
    // By uid.
    let mut written: HashMap<String, Ipv4Addr> = HashMap::new();
    let mut changes = (ingresses.subscribe(), classes.subscribe());
    loop {
        let opening = opened.borrow_and_update().clone();
        let known = classes.list();
        let (mut failed, mut before) = (false, std::mem::take(&mut written));
        for ingress in ingresses.list() {
            let uid = ingress.metadata.uid.clone().unwrap_or_default();
            let given = before.remove(&uid);
            let given = match plan(&ingress, &known, opening.as_ref(), given) {
                Step::Leave => given,
                Step::Keep(address) => Some(address),
                Step::Write(wanted) => match write(client, &ingress, wanted).await {
                    Ok(()) => wanted,
                    Err(status) => {
                        tracing::warn!(%status, "the address of an ingress is not written");
                        failed = true;
                        given
                    }
                },
            };
            written.extend(given.map(|given| (uid, given)));
        }
        tokio::select! {
            changed = opened.changed() => if changed.is_err() { return },
            key = changes.0.next() => if key.is_none() { return },
            key = changes.1.next() => if key.is_none() { return },
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

/// Takes these addresses out of the ingresses of our classes.
pub async fn clear(client: &Client, given: &[Ipv4Addr]) -> Result<(), Status> {
    let classes: Vec<_> = client.all::<IngressClass>().list(ListOptions::default()).await?;
    let classes: Vec<_> = classes.into_iter().map(Arc::new).collect();
    let is_given = |ingress: &Ingress| given.iter().any(|given| shown(ingress) == entries(Some(*given)));
    for ingress in client.all::<Ingress>().list(ListOptions::default()).await? {
        if is_ours(&ingress, &classes) && is_given(&ingress) {
            write(client, &ingress, None).await?;
        }
    }
    Ok(())
}

async fn write(client: &Client, ingress: &Ingress, wanted: Option<Ipv4Addr>) -> Result<(), Status> {
    let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
    let name = ingress.metadata.name.as_deref().unwrap_or_default();
    let patch = json!({
        "metadata": {"uid": ingress.metadata.uid},
        "status": {"loadBalancer": {"ingress": entries(wanted)}},
    });
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

    #[test]
    fn only_ours_have_the_address() {
        let class = json!({"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}});
        let classes = [Arc::new(serde_json::from_value(class).unwrap())];
        let node = Ipv4Addr::new(192, 168, 1, 7);
        let opened = |address| Some(Opened { address, problems: Vec::new() });
        let (open, taken) = (opened(Some(node)), opened(None));
        let (own, other) = (json!([{"ip": "192.168.1.7"}]), json!([{"ip": "10.0.0.1"}]));
        for (class, status, opened, written, step) in [
            ("nginx", &json!(null), &open, None, Step::Write(Some(node))),
            ("nginx", &own, &open, None, Step::Keep(node)),
            ("nginx", &other, &open, None, Step::Write(Some(node))),
            ("nginx", &own, &taken, Some(node), Step::Write(None)),
            ("nginx", &own, &None, None, Step::Leave),
            ("nginx", &json!(null), &None, None, Step::Leave),
            ("nginx", &json!(null), &taken, None, Step::Leave),
            ("other", &own, &open, Some(node), Step::Write(None)),
            ("other", &own, &None, Some(node), Step::Write(None)),
            ("other", &other, &open, Some(node), Step::Leave),
            ("other", &own, &open, None, Step::Leave),
        ] {
            let ingress =
                json!({"spec": {"ingressClassName": class}, "status": {"loadBalancer": {"ingress": status}}});
            let ingress: Ingress = serde_json::from_value(ingress).unwrap();
            let planned = plan(&ingress, &classes, opened.as_ref(), written);
            assert_eq!(planned, step, "{class} {status} {opened:?} {written:?}");
        }
    }
}
