//! Every namespace has a service account named `default`.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::task::JoinSet;

use super::{Next, enqueue, queue, reflect, work};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};

const NAME: &str = "default";

/// Runs until dropped.
pub async fn run(client: Client, namespaces: Reflector<Namespace>) {
    let mut tasks = JoinSet::new();
    let accounts: Reflector<ServiceAccount> = reflect(&mut tasks, &client);
    accounts.synced().await;
    let queue = queue(&client, "serviceaccount");
    let by_namespace = enqueue(namespaces.subscribe(), queue.clone());
    // A deleted account comes back.
    let by_account = async {
        let mut changes = accounts.subscribe();
        while let Some(key) = changes.next().await {
            let (namespace, name) = split_key(&key);
            if name == NAME {
                queue.add(namespace);
            }
        }
    };
    let reconcile = |key: String| {
        let there = accounts.get(&format!("{key}/{NAME}")).is_some();
        let wanted = namespaces.get(&key).is_some_and(|n| n.metadata.deletion_timestamp.is_none());
        let client = &client;
        async move { if wanted && !there { create(client, &key).await } else { Ok(Next::Await) } }
    };
    tokio::join!(by_namespace, by_account, work("serviceaccount", &queue, reconcile));
}

async fn create(client: &Client, namespace: &str) -> Result<Next, Status> {
    let account = ServiceAccount {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        ..ServiceAccount::default()
    };
    match client.namespaced::<ServiceAccount>(namespace).create(&account).await {
        Err(status) if !status.is("AlreadyExists") && !status.is("NotFound") => Err(status),
        _ => Ok(Next::Await),
    }
}
