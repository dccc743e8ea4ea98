//! `TokenRequest`: a token for a service account, perhaps bound to a pod, a secret or a node.
//!
//! Source of checks and messages: Kubernetes `pkg/registry/core/serviceaccount/storage/token.go`. A token is stored
//! nowhere, so that a dry run has nothing to leave out.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::ApiServer;
use crate::api::kinds::{Text, Types};
use crate::api::meta;
use crate::api::request::{Response, User, WriteOptions};
use crate::api::status::{FieldError, Status};
use crate::apiserver::admission;
use crate::apiserver::auth::tokens::{Binding, Bound, Claims, ISSUER};
use crate::apiserver::registry::{Place, metadata};
use crate::apiserver::structure::{self, Type};
use crate::clock;

const GROUP: &str = "authentication.k8s.io";
const TOKEN_REQUEST: Type<'static> = Type {
    group: GROUP,
    version: "v1",
    kind: "TokenRequest",
    types: &Types::Named(Text::Borrowed("io.k8s.api.authentication.v1.TokenRequest")),
};
/// Kubernetes' bounds for the life of a requested token, in seconds.
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=(1 << 32);
const TOKEN_DEFAULT_SECONDS: i64 = 3600;
/// Mounted tokens ask for this and get a year, so that programs that never read the file again go on working
/// (`--service-account-extend-token-expiration`).
const MOUNTED_TOKEN_SECONDS: i64 = 3607;
const EXTENDED_TOKEN_SECONDS: i64 = 365 * 24 * 3600;

/// Answers a request for a token of the account at `place`.
pub(super) async fn issue(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    body: Value,
    options: &WriteOptions,
) -> Result<Response, Status> {
    let (mut request, mut warnings) = structure::read(TOKEN_REQUEST, body, options)?;
    structure::check_namespace(place.namespace, &request)?;
    let told = admission::create_part(api.registry(), user, place, "token", &mut request, options);
    warnings.extend(told.await?);
    let namespace = place.namespace.unwrap_or_default();
    let invalid = |name: &str, error| Status::invalid(GROUP, TOKEN_REQUEST.kind, name, &[error]);
    let name = meta::name(&request);
    if !name.is_empty() && name != place.name {
        let why = "must match the service account name if specified";
        return Err(invalid(place.name, FieldError::invalid("metadata.name", &json!(name), why)));
    }
    let account = api.registry().find(place)?;
    let uid = meta::uid(account.json()).to_owned();
    let given = meta::uid(&request);
    if !given.is_empty() && given != uid {
        let why = format!(
            "the UID in the token request ({given}) does not match the UID of the service account ({uid})"
        );
        return Err(Status::conflict(GROUP, TOKEN_REQUEST.kind, place.name, &why));
    }
    let asked = request["spec"]["expirationSeconds"].as_i64().unwrap_or(TOKEN_DEFAULT_SECONDS);
    if let Some(error) = wrong_life(asked) {
        return Err(invalid("", error));
    }
    let mut audiences: Vec<String> = request["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let now = clock::now();
    let mut binding = Binding {
        namespace: namespace.to_owned(),
        node: None,
        pod: None,
        secret: None,
        serviceaccount: Bound { name: place.name.to_owned(), uid },
    };
    bind(api, &mut binding, &request["spec"]["boundObjectRef"])?;
    // Others would trust it for as long.
    let for_server = audiences.iter().all(|a| a == ISSUER);
    let extended = asked == MOUNTED_TOKEN_SECONDS && binding.pod.is_some() && for_server;
    let life = if extended { EXTENDED_TOKEN_SECONDS } else { asked };
    meta::set(&mut request, "uid", json!(binding.serviceaccount.uid));
    let claims = Claims {
        aud: audiences.clone(),
        exp: now.as_second() + life,
        iat: now.as_second(),
        iss: ISSUER.to_owned(),
        jti: metadata::new_uid(),
        nbf: now.as_second(),
        sub: format!("system:serviceaccount:{namespace}:{}", place.name),
        binding,
    };
    let token = api.tokens().sign(&claims).ok_or_else(|| Status::internal("a token could not be signed"))?;
    let ends = Timestamp::from_second(now.as_second() + asked).map(meta::timestamp).unwrap_or_default();
    meta::set(&mut request, "name", json!(place.name));
    meta::set(&mut request, "namespace", json!(namespace));
    meta::set(&mut request, "creationTimestamp", json!(meta::timestamp(now)));
    let spec = meta::child_mut(&mut request, "spec");
    spec.insert("audiences".into(), json!(audiences));
    spec.insert("expirationSeconds".into(), json!(asked));
    request["status"] = json!({"token": token, "expirationTimestamp": ends});
    Ok(Response::Transient { value: request, created: true, warnings })
}

fn wrong_life(seconds: i64) -> Option<FieldError> {
    let why = match seconds {
        seconds if TOKEN_SECONDS.contains(&seconds) => return None,
        seconds if seconds < *TOKEN_SECONDS.start() => "may not specify a duration less than 10 minutes",
        _ => "may not specify a duration larger than 2^32 seconds",
    };
    Some(FieldError::invalid("spec.expirationSeconds", &json!(seconds), why))
}

/// Binds a token to the object that its request names.
fn bind(api: &ApiServer, binding: &mut Binding, reference: &Value) -> Result<(), Status> {
    if reference.is_null() {
        return Ok(());
    }
    let text = |key: &str| reference[key].as_str().unwrap_or_default();
    let (version, kind, name) = (text("apiVersion"), text("kind"), text("name"));
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let namespace = &binding.namespace;
    let (key, plural) = match (group, kind) {
        ("", "Pod") => (format!("pods/{namespace}/{name}"), "pods"),
        ("", "Secret") => (format!("secrets/{namespace}/{name}"), "secrets"),
        ("", "Node") => (format!("nodes/{name}"), "nodes"),
        _ => {
            let why = format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(why));
        }
    };
    let store = api.registry().store();
    let object = store.get(&key).ok_or_else(|| Status::not_found("", plural, name))?;
    let bound = Bound { name: name.to_owned(), uid: meta::uid(object.json()).to_owned() };
    let uid = bound.uid.clone();
    match kind {
        "Pod" => {
            let spec = &object.json()["spec"];
            let account = &binding.serviceaccount.name;
            if spec["serviceAccountName"].as_str().unwrap_or("default") != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount \
                     name."
                )));
            }
            // A node that is not there is named all the same.
            binding.node = spec["nodeName"].as_str().filter(|n| !n.is_empty()).map(|node| {
                let entry = store.get(&format!("nodes/{node}"));
                let uid = entry.map(|e| meta::uid(e.json()).to_owned()).unwrap_or_default();
                Bound { name: node.to_owned(), uid }
            });
            binding.pod = Some(bound);
        }
        "Secret" => binding.secret = Some(bound),
        _ => binding.node = Some(bound),
    }
    let asked = text("uid");
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(group, kind, name, &why));
    }
    Ok(())
}
