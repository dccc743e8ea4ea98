//! An operator as they are written with kube-rs: a kind of its own, server-side apply, owned objects, a finalizer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Api, Client, CustomResource, CustomResourceExt, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::server::Fixture;
use minik::apiserver::pki::LEAF_LIFETIME;

const MANAGER: &str = "echo-operator";
const FINALIZER: &str = "example.com/echo";
const LONG: Duration = Duration::from_secs(30);

#[derive(CustomResource, Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[kube(group = "example.com", version = "v1", kind = "Echo", namespaced, status = "EchoStatus")]
struct EchoSpec {
    text: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct EchoStatus {
    said: String,
}

struct Context {
    client: Client,
    /// What was cleaned up.
    ended: Mutex<Vec<String>>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Kube(#[from] kube::Error),
    #[error("finalizer: {0}")]
    Finalizer(String),
}

async fn reconcile(echo: Arc<Echo>, context: Arc<Context>) -> Result<Action, Failure> {
    let echoes: Api<Echo> = Api::default_namespaced(context.client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(context.client.clone());
    let ended = finalizer(&echoes, FINALIZER, echo, |event| async {
        match event {
            Event::Apply(echo) => {
                let name = echo.name_any();
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
                maps.patch(&name, &apply, &Patch::Apply(&map)).await?;
                let status = json!({"apiVersion": Echo::api_version(&()), "kind": Echo::kind(&()),
                    "status": {"said": echo.spec.text}});
                echoes.patch_status(&name, &apply, &Patch::Apply(&status)).await?;
            }
            Event::Cleanup(echo) => context.ended.lock().unwrap().push(echo.name_any()),
        }
        Ok::<_, kube::Error>(Action::await_change())
    });
    ended.await.map_err(|error| Failure::Finalizer(error.to_string()))
}

/// The administrator, as kube-rs reads one from a kubeconfig.
fn client(f: &Fixture) -> Client {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text).into();
    let leaf = f.pki.client("admin", &["system:masters"], LEAF_LIFETIME).unwrap();
    let mut config = kube::Config::new(f.base.parse().unwrap());
    let ca = pem_to_der(f.pki.ca_pem());
    config.root_cert = Some(vec![ca]);
    config.auth_info.client_certificate_data = Some(encode(&leaf.certificate));
    let key: String = encode(&leaf.key);
    config.auth_info.client_key_data = Some(key.into());
    Client::try_from(config).unwrap()
}

fn pem_to_der(pem: &str) -> Vec<u8> {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    base64::engine::general_purpose::STANDARD.decode(lines.collect::<String>()).unwrap()
}

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.unwrap_or_else(|_| panic!("no {what} within {LONG:?}"))
}

#[tokio::test]
async fn an_operator_keeps_what_it_owns() {
    let f = Fixture::start().await;
    let client = client(&f);
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Echo::crd_name();
    definitions.patch(name, &PatchParams::apply(MANAGER), &Patch::Apply(Echo::crd())).await.unwrap();
    let established = await_condition(definitions, name, conditions::is_crd_established());
    soon("established kind", established).await.unwrap();

    let echoes: Api<Echo> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let context = Arc::new(Context { client, ended: Mutex::default() });
    let controller = Controller::new(echoes.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), context.clone())
        .for_each(|_| futures::future::ready(()));
    let controller = tokio::spawn(controller);

    let echo = Echo::new("one", EchoSpec { text: "hello".into() });
    echoes.create(&PostParams::default(), &echo).await.unwrap();
    let says = |text: &'static str| {
        move |map: Option<&ConfigMap>| {
            map.and_then(|map| map.data.as_ref()?.get("text")).is_some_and(|said| said == text)
        }
    };
    soon("first text", await_condition(maps.clone(), "one", says("hello"))).await.unwrap();
    let said = |text: &'static str| {
        move |echo: Option<&Echo>| echo.and_then(|e| e.status.as_ref()).is_some_and(|s| s.said == text)
    };
    soon("first status", await_condition(echoes.clone(), "one", said("hello"))).await.unwrap();

    // Another manager's field stays when the operator applies again.
    let extra = json!({"data": {"other": "kept"}});
    maps.patch("one", &PatchParams::default(), &Patch::Merge(&extra)).await.unwrap();
    let patch = json!({"spec": {"text": "again"}});
    echoes.patch("one", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let map =
        soon("second text", await_condition(maps.clone(), "one", says("again"))).await.unwrap().unwrap();
    assert_eq!(map.data.unwrap()["other"], "kept");
    let managers: Vec<String> =
        map.metadata.managed_fields.unwrap().into_iter().filter_map(|entry| entry.manager).collect();
    assert!(managers.iter().any(|manager| manager == MANAGER), "{managers:?}");

    // What is owned comes back; what is deleted is cleaned up first.
    let uid = maps.get("one").await.unwrap().uid().unwrap();
    maps.delete("one", &DeleteParams::default()).await.unwrap();
    let new = move |map: Option<&ConfigMap>| map.and_then(ResourceExt::uid).is_some_and(|now| now != uid);
    soon("another map", await_condition(maps.clone(), "one", new)).await.unwrap();
    let uid = echoes.get("one").await.unwrap().uid().unwrap();
    echoes.delete("one", &DeleteParams::default()).await.unwrap();
    soon("end", await_condition(echoes.clone(), "one", conditions::is_deleted(&uid))).await.unwrap();
    assert_eq!(*context.ended.lock().unwrap(), ["one"]);
    controller.abort();
}
