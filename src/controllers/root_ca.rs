//! Every namespace has a ConfigMap with the certificate by which pods know the API server.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::task::JoinSet;

use super::{Next, enqueue, queue, work};
use crate::api::request::ListOptions;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, split_key};

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";

/// Runs until dropped.
pub async fn run(client: Client, namespaces: Reflector<Namespace>, ca_pem: String) {
    let mut tasks = JoinSet::new();
    let named = ListOptions { field_selector: format!("metadata.name={NAME}"), ..ListOptions::default() };
    let (maps, feed) = Reflector::<ConfigMap>::new(client.all::<ConfigMap>(), named);
    tasks.spawn(feed);
    maps.synced().await;
    let queue = queue(&client, "root_ca_cert_publisher");
    let by_namespace = enqueue(namespaces.subscribe(), queue.clone());
    let by_map = async {
        let mut changes = maps.subscribe();
        while let Some(key) = changes.next().await {
            queue.add(split_key(&key).0);
        }
    };
    let reconcile = |key: String| {
        let present = maps.get(&format!("{key}/{NAME}"));
        let wanted = namespaces.get(&key).is_some_and(|n| n.metadata.deletion_timestamp.is_none());
        let (client, ca_pem) = (&client, &ca_pem);
        async move {
            let right =
                present.as_ref().is_some_and(|m| m.data.as_ref().and_then(|d| d.get(KEY)) == Some(ca_pem));
            if !wanted || right {
                return Ok(Next::Await);
            }
            write(client, &key, ca_pem, present.is_some()).await
        }
    };
    tokio::join!(by_namespace, by_map, work("root-ca", &queue, reconcile));
}

async fn write(client: &Client, namespace: &str, ca_pem: &str, exists: bool) -> Result<Next, Status> {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            annotations: Some(
                [(
                    "kubernetes.io/description".to_owned(),
                    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc.".to_owned(),
                )]
                .into(),
            ),
            ..ObjectMeta::default()
        },
        data: Some([(KEY.to_owned(), ca_pem.to_owned())].into()),
        ..ConfigMap::default()
    };
    let maps = client.namespaced::<ConfigMap>(namespace);
    let written = if exists { maps.update(&map).await } else { maps.create(&map).await };
    match written {
        Err(status) if !status.is("AlreadyExists") && !status.is("NotFound") => Err(status),
        _ => Ok(Next::Await),
    }
}
