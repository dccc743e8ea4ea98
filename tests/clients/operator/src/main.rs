//! An operator as they are written with kube-rs: it brings a kind of its own, keeps by server-side apply a ConfigMap for
//! each object of it, tells in the object's status what it did, and cleans up behind a finalizer.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Api, Client, CustomResource, CustomResourceExt, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const MANAGER: &str = "echo-operator";
const FINALIZER: &str = "example.com/echo";
/// After a failure the object is looked at again.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "example.com",
    version = "v1",
    kind = "Echo",
    plural = "echoes",
    namespaced,
    status = "EchoStatus"
)]
struct EchoSpec {
    text: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct EchoStatus {
    said: String,
}

#[derive(Debug, thiserror::Error)]
#[error("finalizer: {0}")]
struct Failure(#[from] kube::runtime::finalizer::Error<kube::Error>);

async fn keep(client: &Client, echo: &Echo) -> Result<(), kube::Error> {
    let (name, namespace) = (echo.name_any(), echo.namespace().unwrap_or_default());
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            owner_references: echo.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some([("text".to_owned(), echo.spec.text.clone())].into()),
        ..ConfigMap::default()
    };
    let apply = PatchParams::apply(MANAGER).force();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    maps.patch(&name, &apply, &Patch::Apply(&map)).await?;
    let status = json!({"apiVersion": Echo::api_version(&()), "kind": Echo::kind(&()),
        "status": {"said": echo.spec.text}});
    let echoes: Api<Echo> = Api::namespaced(client.clone(), &namespace);
    echoes.patch_status(&name, &apply, &Patch::Apply(&status)).await?;
    Ok(())
}

async fn reconcile(echo: Arc<Echo>, client: Arc<Client>) -> Result<Action, Failure> {
    let namespace = echo.namespace().unwrap_or_default();
    let echoes: Api<Echo> = Api::namespaced(Client::clone(&client), &namespace);
    let action = finalizer(&echoes, FINALIZER, echo, |event| async {
        match event {
            Event::Apply(echo) => keep(&client, &echo).await?,
            Event::Cleanup(echo) => println!("cleaned up {}", echo.name_any()),
        }
        Ok(Action::await_change())
    });
    Ok(action.await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let client = Client::try_default().await?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Echo::crd_name();
    definitions.patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(Echo::crd())).await?;
    await_condition(definitions, name, conditions::is_crd_established()).await?;
    println!("established {name}");
    Controller::new(Api::<Echo>::all(client.clone()), watcher::Config::default())
        .owns(Api::<ConfigMap>::all(client.clone()), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(AGAIN), Arc::new(client))
        .for_each(async |result| {
            if let Err(error) = result {
                println!("{error}");
            }
        })
        .await;
    Ok(())
}
