//! The `scale` of a custom object: its numbers and its selector as an autoscaling/v1 `Scale`.

use serde_json::{Value, json};

use super::super::registry::{Part, Place};
use super::super::{ApiServer, structure};
use crate::api::custom::Scale;
use crate::api::kinds::Types;
use crate::api::meta;
use crate::api::patch;
use crate::api::request::{Action, PatchKind, Response, User, WriteOptions};
use crate::api::status::{FieldError, Status};

const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";

/// Carries out a request to the scale of a custom object.
pub(super) async fn answer(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    paths: &Scale,
    action: Action,
) -> Result<Response, Status> {
    let transient = |value: Value| Response::Transient { value, created: false, warnings: Vec::new() };
    match action {
        Action::Get { resource_version } => {
            let entry = api.registry().get(place, &resource_version)?;
            Ok(transient(view(entry.json(), paths)))
        }
        Action::Update(body, options) => {
            let make = |_: &Value| Ok(body.clone());
            write(api, user, place, paths, &options, make).await.map(transient)
        }
        Action::Patch(PatchKind::Apply, ..) => {
            Err(Status::unsupported_media_type("a scale is replaced or patched, and not applied"))
        }
        Action::Patch(how, body, options) => {
            let make = |current: &Value| patch::apply(how, None, current, &body);
            write(api, user, place, paths, &options, make).await.map(transient)
        }
        _ => Err(Status::method_not_allowed(&place.kind.plural, "get")),
    }
}

async fn write(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    paths: &Scale,
    options: &WriteOptions,
    make: impl Fn(&Value) -> Result<Value, Status> + Send + Sync,
) -> Result<Value, Status> {
    let change = |current: &Value| {
        let types = Types::Named(SCHEMA.into());
        let of = structure::Type { group: "autoscaling", version: "v1", kind: "Scale", types: &types };
        let (scale, warnings) = structure::read(of, make(&view(current, paths))?, options)?;
        let wanted = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        if wanted < 0 {
            let error =
                FieldError::invalid("spec.replicas", &json!(wanted), "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", place.name, &[error]));
        }
        let version = meta::resource_version(&scale);
        if !version.is_empty() && version != meta::resource_version(current) {
            return Err(place.modified());
        }
        let mut new = current.clone();
        set(&mut new, &paths.spec, json!(wanted));
        Ok((new, warnings))
    };
    match api.registry().change(user, place, Part::Object, options, change).await? {
        Response::Object { entry, .. } => Ok(view(entry.json(), paths)),
        Response::Transient { value, .. } => Ok(view(&value, paths)),
        _ => Err(Status::internal("a change gave no object")),
    }
}

fn at<'v>(object: &'v Value, path: &[String]) -> &'v Value {
    path.iter().fold(object, |value, name| value.get(name).unwrap_or(&Value::Null))
}

fn set(object: &mut Value, path: &[String], value: Value) {
    match path {
        [] => {}
        [last] => {
            meta::map_mut(object).insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            set(meta::map_mut(object).entry(first.clone()).or_insert(Value::Null), rest, value);
        }
    }
}

/// The scale that an object shows.
fn view(object: &Value, paths: &Scale) -> Value {
    let metadata = &object["metadata"];
    let mut shown = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !metadata[key].is_null() {
            shown[key] = metadata[key].clone();
        }
    }
    let mut status = json!({"replicas": at(object, &paths.status).as_i64().unwrap_or(0)});
    if let Some(selector) = paths.selector.as_ref().and_then(|path| at(object, path).as_str()) {
        status["selector"] = json!(selector);
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": shown,
        "spec": {"replicas": at(object, &paths.spec).as_i64().unwrap_or(0)}, "status": status})
}
