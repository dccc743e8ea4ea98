//! Conversions of custom objects by webhooks.
//!
//! Source of the rules and words: k8s.io/apiextensions-apiserver `pkg/apiserver/conversion/webhook_converter.go`.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::{shown, stored_version};
use crate::api::custom::{Conversion, Version};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::{Change, Changes, Response};
use crate::api::status::Status;
use crate::apiserver::registry::{Registry, encode, metadata};
use crate::store::Entry;

/// The time that a webhook has for a conversion.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The versions of reviews that are known.
const REVIEWS: &[&str] = &["v1", "v1beta1"];
const GROUP: &str = "apiextensions.k8s.io";

/// The webhook that converts the objects of a kind, where one does.
fn webhook(kind: &Kind) -> Option<(&Version, &Value)> {
    let version = &**kind.types.custom()?;
    match &version.definition.conversion {
        Conversion::Webhook(webhook) if !version.definition.single_version => Some((version, webhook)),
        _ => None,
    }
}

/// Whether a webhook converts the objects of a kind.
pub fn is_asked(kind: &Kind) -> bool {
    webhook(kind).is_some()
}

/// Entries in the version that `kind` serves, by whoever converts them.
pub async fn served(
    registry: &Registry,
    kind: &Kind,
    entries: Vec<Arc<Entry>>,
) -> Result<Vec<Arc<Entry>>, Status> {
    let Some((version, webhook)) = webhook(kind) else { return Ok(entries) };
    let wanted = kind.api_version();
    let other = |entry: &Arc<Entry>| meta::api_version(entry.json()) != wanted;
    let objects: Vec<Value> =
        entries.iter().filter(|entry| other(entry)).map(|entry| entry.json().clone()).collect();
    if objects.is_empty() {
        return Ok(entries);
    }
    let mut converted = convert(registry, webhook, &wanted, objects).await?.into_iter();
    let entries = entries.into_iter().map(|entry| match other(&entry) {
        false => entry,
        true => match converted.next() {
            Some(object) => entry.in_form(encode(&shown(kind, version, object))),
            None => entry,
        },
    });
    Ok(entries.collect())
}

/// One entry in the version that `kind` serves.
pub async fn served_one(registry: &Registry, kind: &Kind, entry: Arc<Entry>) -> Result<Arc<Entry>, Status> {
    let mut entries = served(registry, kind, vec![entry]).await?;
    entries.pop().ok_or_else(|| Status::internal("a conversion gave no object"))
}

/// A value of the version that `kind` serves in the version that is stored.
pub async fn stored(registry: &Registry, kind: &Kind, value: Value) -> Result<Value, Status> {
    let Some((version, webhook)) = webhook(kind) else { return Ok(super::as_stored(kind, value)) };
    let wanted = stored_version(kind, version);
    if meta::api_version(&value) == wanted {
        return Ok(value);
    }
    let mut converted = convert(registry, webhook, &wanted, vec![value]).await?;
    converted.pop().ok_or_else(|| Status::internal("a conversion gave no object"))
}

/// An object of a custom kind in the version that `kind` serves, with nothing filled in.
pub async fn in_version(registry: &Registry, kind: &Kind, mut value: Value) -> Result<Value, Status> {
    let wanted = kind.api_version();
    if meta::api_version(&value) == wanted {
        return Ok(value);
    }
    if let Some((_, webhook)) = webhook(kind) {
        let mut converted = convert(registry, webhook, &wanted, vec![value]).await?;
        return converted.pop().ok_or_else(|| Status::internal("a conversion gave no object"));
    }
    meta::map_mut(&mut value).insert("apiVersion".to_owned(), wanted.into());
    Ok(value)
}

/// An answer with its objects in the version that `kind` serves.
pub async fn finish(registry: &Registry, kind: &Arc<Kind>, response: Response) -> Result<Response, Status> {
    if webhook(kind).is_none() {
        return Ok(response);
    }
    Ok(match response {
        Response::Object { entry, created, warnings } => {
            let entry = served_one(registry, kind, entry).await?;
            Response::Object { entry, created, warnings }
        }
        Response::List { mut snapshot, continue_token } => {
            snapshot.entries = served(registry, kind, snapshot.entries).await?;
            Response::List { snapshot, continue_token }
        }
        Response::Watch(changes) => {
            let (registry, kind) = (registry.clone(), kind.clone());
            Response::Watch(Box::new(Converted { changes, registry, kind }))
        }
        other => other,
    })
}

/// A watch whose objects are converted on their way.
struct Converted {
    changes: Box<dyn Changes>,
    registry: Registry,
    kind: Arc<Kind>,
}

/// A change of a watch, in the version that is watched.
async fn changed(registry: &Registry, kind: &Arc<Kind>, change: Change) -> Result<Change, Status> {
    Ok(match change {
        Change::Added(entry) => Change::Added(served_one(registry, kind, entry).await?),
        Change::Modified(entry) => Change::Modified(served_one(registry, kind, entry).await?),
        Change::Deleted(entry) => Change::Deleted(served_one(registry, kind, entry).await?),
        bookmark @ Change::Bookmark { .. } => bookmark,
    })
}

impl Changes for Converted {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Change, Status>>> {
        async move {
            match self.changes.next().await? {
                Ok(change) => Some(changed(&self.registry, &self.kind, change).await),
                Err(status) => Some(Err(status)),
            }
        }
        .boxed()
    }
}

/// Asks the webhook for objects in another version.
async fn convert(
    registry: &Registry,
    webhook: &Value,
    wanted: &str,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let first = objects.first().unwrap_or(&Value::Null);
    let (group, version) = meta::group_version(meta::api_version(first));
    let from = format!("{group}/{version}, Kind={}", meta::kind(first));
    let failed =
        |why: String| Status::failure(500, "", format!("conversion webhook for {from} failed: {why}"));
    let known =
        webhook["conversionReviewVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let Some(review) = known.into_iter().find(|version| REVIEWS.contains(version)) else {
        return Err(failed("no supported conversion review versions".to_owned()));
    };
    let uid = metadata::new_uid();
    let body = json!({"apiVersion": format!("{GROUP}/{review}"), "kind": "ConversionReview",
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
    let store = registry.store();
    let answer = registry.webhooks().call(store, &webhook["clientConfig"], &body, TIMEOUT).await;
    let converted = read_answer(answer.map_err(failed)?, review, &uid).map_err(failed)?;
    let told = |why: String| Status::failure(500, "", format!("conversion webhook for {from} {why}"));
    if converted.len() != objects.len() {
        return Err(told(format!("returned {} objects, expected {}", converted.len(), objects.len())));
    }
    let checked = objects.iter().zip(converted).enumerate().map(|(index, (original, converted))| {
        checked(original, converted, wanted)
            .map_err(|why| told(format!("returned invalid converted object at index {index}: {why}")))
    });
    checked.collect()
}

/// The objects of a review's answer.
fn read_answer(mut answer: Value, review: &str, uid: &str) -> Result<Vec<Value>, String> {
    let (group, version) = meta::group_version(meta::api_version(&answer));
    if (group, version, meta::kind(&answer)) != (GROUP, review, "ConversionReview") {
        let got = format!("{group}/{version}, Kind={}", meta::kind(&answer));
        return Err(format!(
            "expected webhook response of {GROUP}/{review}, Kind=ConversionReview, got {got}"
        ));
    }
    let response = &mut answer["response"];
    if response.is_null() {
        return Err("no response provided".to_owned());
    }
    let given = response["uid"].as_str().unwrap_or_default();
    if review == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let result = &response["result"];
    match result["status"].as_str().unwrap_or_default() {
        "Success" => {}
        other => {
            return Err(match result["message"].as_str().unwrap_or_default() {
                "" => format!("response.result.status was '{other}', not 'Success'"),
                message => message.to_owned(),
            });
        }
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// A converted object that is still the same one; of its metadata only labels and annotations may have changed.
fn checked(original: &Value, mut converted: Value, wanted: &str) -> Result<Value, String> {
    let given = meta::api_version(&converted);
    if given != wanted {
        return Err(format!("invalid groupVersion (expected {wanted}, received {given})"));
    }
    if meta::kind(&converted) != meta::kind(original) {
        let (expected, given) = (meta::kind(original), meta::kind(&converted));
        return Err(format!("invalid kind (expected {expected}, received {given})"));
    }
    for (field, shown) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, given) = (meta::field(original, field), meta::field(&converted, field));
        if expected != given {
            return Err(format!("must have the same {shown}: {expected} != {given}"));
        }
    }
    if !converted["metadata"].is_object() {
        return Err("missing metadata in converted object".to_owned());
    }
    let (labels, annotations) = (meta::labels(&converted).clone(), meta::annotations(&converted).clone());
    converted["metadata"] = original["metadata"].clone();
    meta::set(&mut converted, "labels", labels);
    meta::set(&mut converted, "annotations", annotations);
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_converted_object_is_the_same_one() {
        let original = json!({"apiVersion": "e.c/v1", "kind": "W", "metadata": {"name": "a", "uid": "u", "labels": {"x": "y"}}});
        let with = |change: &dyn Fn(&mut Value)| {
            let mut converted = original.clone();
            converted["apiVersion"] = json!("e.c/v2");
            change(&mut converted);
            checked(&original, converted, "e.c/v2")
        };
        let changed = with(&|c| {
            c["metadata"]["labels"] = json!({"x": "z"});
            c["metadata"]["finalizers"] = json!(["f"]);
        });
        assert_eq!(changed.unwrap()["metadata"], json!({"name": "a", "uid": "u", "labels": {"x": "z"}}));
        for (change, why) in [
            (
                &(|c: &mut Value| c["metadata"]["name"] = json!("b")) as &dyn Fn(&mut Value),
                "must have the same name: a != b",
            ),
            (&|c: &mut Value| c["kind"] = json!("V"), "invalid kind (expected W, received V)"),
            (
                &|c: &mut Value| c["apiVersion"] = json!("e.c/v3"),
                "invalid groupVersion (expected e.c/v2, received e.c/v3)",
            ),
        ] {
            assert_eq!(with(change).unwrap_err(), why);
        }
    }

    #[test]
    fn answers_are_told_from_refusals() {
        let answer = |response: Value| {
            let answer = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response});
            read_answer(answer, "v1", "u")
        };
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]});
        assert_eq!(answer(good).unwrap().len(), 1);
        for (response, why) in [
            (Value::Null, "no response provided"),
            (json!({"uid": "v"}), "expected response.uid=\"u\", got \"v\""),
            (json!({"uid": "u", "result": {"status": "Failed", "message": "no"}}), "no"),
            (json!({"uid": "u"}), "response.result.status was '', not 'Success'"),
        ] {
            assert_eq!(answer(response).unwrap_err(), why);
        }
    }
}
