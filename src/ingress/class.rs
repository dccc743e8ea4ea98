//! The class that ingresses have by default: made where there is none of its name, and taken away, with the addresses that
//! its ingresses were given, when somebody else is to carry ingresses out.
//!
//! Both are tried until they are done, and nobody waits for them: a webhook that is asked about classes may be a pod of
//! this very cluster, which does not run yet.

use std::net::Ipv4Addr;
use std::time::Duration;

use k8s_openapi::api::networking::v1::IngressClass;
use serde_json::json;

use super::plan::{CLASS, CONTROLLER};
use super::status;
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::Client;

/// The label by which a class that was made here is known.
const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "minik");
/// Before what failed is tried again; twice as long after each time.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Makes the class, unless there is one of its name.
pub async fn announce(client: &Client) {
    insist("the class of ingresses is not made", || make(client)).await;
}

/// Takes the class away that [`announce`] made, and these addresses out of its ingresses. A class of others stays.
pub async fn withdraw(client: &Client, given: &[Ipv4Addr]) {
    insist("the class of ingresses is not taken away", || remove(client, given)).await;
}

async fn insist<F: Future<Output = Result<(), Status>>>(undone: &str, attempt: impl Fn() -> F) {
    let mut delay = RETRY;
    while let Err(status) = attempt().await {
        tracing::warn!(%status, "{undone}; it is tried again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_MAX);
    }
}

async fn make(client: &Client) -> Result<(), Status> {
    let classes = client.all::<IngressClass>();
    // Looked for first: to be asked to make what is there, too, is something that a webhook may refuse.
    match classes.get(CLASS).await {
        Err(status) if status.is("NotFound") => {}
        found => return found.map(drop),
    }
    let class = json!({
        "metadata": {
            "name": CLASS,
            "labels": {MADE_BY.0: MADE_BY.1},
            "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"},
        },
        "spec": {"controller": CONTROLLER},
    });
    let class: IngressClass = serde_json::from_value(class).map_err(Status::internal)?;
    match classes.create(&class).await {
        Err(status) if !status.is("AlreadyExists") => Err(status),
        _ => Ok(()),
    }
}

async fn remove(client: &Client, given: &[Ipv4Addr]) -> Result<(), Status> {
    let classes = client.all::<IngressClass>();
    let class = match classes.get(CLASS).await {
        Err(status) if status.is("NotFound") => return Ok(()),
        found => found?,
    };
    let label = class.metadata.labels.as_ref().and_then(|labels| labels.get(MADE_BY.0));
    if label.map(String::as_str) != Some(MADE_BY.1) {
        return Ok(());
    }
    // Once the class is gone, nobody knows any more whose the addresses are.
    status::clear(client, given).await?;
    match classes.delete(CLASS, DeleteOptions::default()).await {
        Err(status) if !status.is("NotFound") => Err(status),
        _ => Ok(()),
    }
}
