//! Tokens in secrets: a secret of type `kubernetes.io/service-account-token` is filled with a token of the account that
//! it names, and goes with the account.
//!
//! Source: Kubernetes `pkg/controller/serviceaccount/tokens_controller.go`.

use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use tokio::task::JoinSet;

use super::{Authority, Next, enqueue, queue, reflect, work};
use crate::api::request::{DeleteOptions, ListOptions};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::{Reflector, key_of, split_key};

const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// The annotations by which a secret names its account.
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";
const TOKEN: &str = "token";

/// Runs until dropped; `ca_pem` is what the secrets tell to trust.
pub async fn run(client: Client, authority: Arc<dyn Authority>, ca_pem: String) {
    let mut tasks = JoinSet::new();
    let accounts: Reflector<ServiceAccount> = reflect(&mut tasks, &client);
    let chosen = ListOptions { field_selector: format!("type={SECRET_TYPE}"), ..ListOptions::default() };
    let (secrets, feed) = Reflector::<Secret>::new(client.all::<Secret>(), chosen);
    tasks.spawn(feed);
    tokio::join!(accounts.synced(), secrets.synced());
    let queue = queue(&client, "serviceaccount_tokens_secret");
    let by_account = async {
        let mut changes = accounts.subscribe();
        while let Some(account) = changes.next().await {
            let of_it = |secret: &&Arc<Secret>| {
                let (namespace, name) = split_key(&account);
                secret.metadata.namespace.as_deref() == Some(namespace) && annotation(secret, NAME) == name
            };
            for secret in secrets.list().iter().filter(of_it) {
                queue.add(&key_of(secret.as_ref()));
            }
        }
    };
    let reconcile = |key: String| {
        let secret = secrets.get(&key);
        let (client, authority, ca_pem) = (&client, authority.as_ref(), &ca_pem);
        async move {
            match secret {
                Some(secret) => act(client, authority, &secret, ca_pem).await,
                None => Ok(Next::Await),
            }
        }
    };
    tokio::join!(
        by_account,
        enqueue(secrets.subscribe(), queue.clone()),
        work("serviceaccount-token", &queue, reconcile)
    );
}

async fn act(
    client: &Client,
    authority: &dyn Authority,
    secret: &Secret,
    ca_pem: &str,
) -> Result<Next, Status> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let api = client.namespaced::<Secret>(namespace);
    // Asked of the server: the account may have been made just before the secret.
    let account = match client.namespaced::<ServiceAccount>(namespace).get(annotation(secret, NAME)).await {
        Ok(account) => Some(account),
        Err(status) if status.is("NotFound") => None,
        Err(status) => return Err(status),
    };
    let uid = account.as_ref().and_then(|account| account.metadata.uid.as_deref()).unwrap_or_default();
    let meant = ["", uid].contains(&annotation(secret, UID));
    if account.is_none() || !meant {
        let options =
            DeleteOptions { precondition_uid: secret.metadata.uid.clone(), ..DeleteOptions::default() };
        return match api.delete(name, options).await {
            Err(status) if !status.is("NotFound") && !status.is("Conflict") => Err(status),
            _ => Ok(Next::Await),
        };
    }
    let Some(mut filled) = plan(secret, uid, ca_pem) else { return Ok(Next::Await) };
    let data = filled.data.get_or_insert_default();
    if data.get(TOKEN).is_none_or(|token| token.0.is_empty()) {
        let token = authority
            .token(namespace, name, annotation(secret, NAME), uid)
            .ok_or_else(|| Status::internal("a token could not be signed"))?;
        data.insert(TOKEN.to_owned(), ByteString(token.into_bytes()));
    }
    match api.update(&filled).await {
        Err(status) if !status.is("NotFound") => Err(status),
        _ => Ok(Next::Await),
    }
}

/// The secret with all that it must hold but the token, which is signed when it has none; `None` when it is whole.
fn plan(secret: &Secret, uid: &str, ca_pem: &str) -> Option<Secret> {
    let mut filled = secret.clone();
    let data = filled.data.get_or_insert_default();
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    data.insert("ca.crt".to_owned(), ByteString(ca_pem.as_bytes().to_vec()));
    data.insert("namespace".to_owned(), ByteString(namespace.into_bytes()));
    let whole = data.get(TOKEN).is_some_and(|token| !token.0.is_empty());
    filled.metadata.annotations.get_or_insert_default().insert(UID.to_owned(), uid.to_owned());
    (!whole || filled != *secret).then_some(filled)
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let annotations = secret.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(key)).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_filled_once() {
        let secret = |uid: &str, data: serde_json::Value| -> Secret {
            serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "blue",
                "annotations": {NAME: "robot", UID: uid}}, "type": SECRET_TYPE, "data": data}))
            .unwrap()
        };
        let whole = json!({"ca.crt": "Y2E=", "namespace": "Ymx1ZQ==", "token": "dA=="});
        assert_eq!(plan(&secret("u", whole.clone()), "u", "ca"), None);
        for (present, ca) in [
            (secret("u", json!({})), "ca"),
            (secret("u", json!({"ca.crt": "Y2E=", "namespace": "Ymx1ZQ=="})), "ca"),
            (secret("u", whole.clone()), "other"),
            (secret("", whole), "ca"),
        ] {
            let filled = plan(&present, "u", ca).unwrap();
            assert_eq!(annotation(&filled, UID), "u");
            let data = filled.data.unwrap();
            assert_eq!(
                (data["ca.crt"].0.as_slice(), data["namespace"].0.as_slice()),
                (ca.as_bytes(), &b"blue"[..])
            );
        }
    }
}
