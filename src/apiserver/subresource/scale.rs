//! The subresource `scale`: the number of replicas of an object, the same for every kind that has one (Kubernetes
//! `pkg/registry/apps/deployment/storage/storage.go` and its like).

use serde_json::{Value, json};

use crate::api::kinds::{Kind, SCALE};
use crate::api::request::{Action, PatchKind, Response, User, WriteOptions};
use crate::api::status::{FieldError, Status};
use crate::api::{custom, meta, patch, selector};
use crate::apiserver::ApiServer;
use crate::apiserver::registry::{Part, Place};
use crate::apiserver::{patching, structure};

/// Carries out a request to the scale of an object.
pub(super) async fn answer(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    action: Action,
) -> Result<Response, Status> {
    match action {
        Action::Get { resource_version } => {
            let entry = api.registry().get(place, &resource_version)?;
            let value = of(place.kind, entry.json())?;
            Ok(Response::Transient { value, created: false, warnings: Vec::new() })
        }
        Action::Update(body, options) => {
            let (body, warnings) = structure::read(&**SCALE, body, &options)?;
            structure::check_namespace(place.namespace, &body)?;
            structure::check_name(place.name, &body)?;
            change(api, user, place, &options, |_| Ok((body.clone(), warnings.clone()))).await
        }
        Action::Patch(PatchKind::Apply, config, options) => {
            patching::check_configuration(&SCALE, &config)?;
            let config = configuration(place.kind, &config);
            let changed = api.registry().apply(user, place, Part::Scale, &config, &options).await?;
            shown(place.kind, changed)
        }
        Action::Patch(how, body, options) => {
            change(api, user, place, &options, |current| {
                let apply = || patch::apply(how, SCALE.types.schema(), current, &body);
                let (scale, warnings) = structure::read_patched(&SCALE, apply, (how, &body), &options)?;
                structure::check_namespace(place.namespace, &scale)?;
                structure::check_name(place.name, &scale)?;
                Ok((scale, warnings))
            })
            .await
        }
        _ => Err(Status::no_such_method()),
    }
}

/// Changes an object as `make` changes its scale.
async fn change(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    options: &WriteOptions,
    make: impl Fn(&Value) -> Result<(Value, Vec<String>), Status> + Send + Sync,
) -> Result<Response, Status> {
    let make = |object: &Value| {
        let (scale, warnings) = make(&of(place.kind, object)?)?;
        Ok((scaled(place, object, &scale)?, warnings))
    };
    let changed = api.registry().change(user, place, Part::Scale, options, make).await?;
    shown(place.kind, changed)
}

/// The scale of an object that was changed.
fn shown(kind: &Kind, changed: Response) -> Result<Response, Status> {
    Ok(match changed {
        Response::Object { entry, created, warnings } => {
            Response::Transient { value: of(kind, entry.json())?, created, warnings }
        }
        Response::Transient { value, created, warnings } => {
            Response::Transient { value: of(kind, &value)?, created, warnings }
        }
        other => other,
    })
}

/// An applied scale as a configuration of its object: whoever applies it manages the replicas there.
fn configuration(kind: &Kind, scale: &Value) -> Value {
    let mut config = json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": {}});
    for field in ["name", "namespace", "uid", "resourceVersion"] {
        meta::carry(&mut config, scale, field);
    }
    if let Some(replicas) = scale["spec"].get("replicas") {
        set_replicas(kind, &mut config, replicas.clone());
    }
    config
}

/// Where a custom kind keeps the parts of its scale.
fn paths_of(kind: &Kind) -> Option<&custom::Scale> {
    kind.types.custom()?.scale.as_ref()
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

fn set_replicas(kind: &Kind, object: &mut Value, replicas: Value) {
    match paths_of(kind) {
        Some(paths) => set(object, &paths.spec, replicas),
        None => object["spec"]["replicas"] = replicas,
    }
}

/// The scale of an object.
fn of(kind: &Kind, object: &Value) -> Result<Value, Status> {
    let paths = paths_of(kind);
    let selector = &object["spec"]["selector"];
    let selector = match (paths, meta::kind(object)) {
        (Some(paths), _) => {
            let path = paths.selector.as_deref().unwrap_or_default();
            at(object, path).as_str().unwrap_or_default().to_owned()
        }
        (None, "ReplicationController") => selector::text_of_map(selector),
        (None, _) => selector::text(selector).map_err(Status::internal)?,
    };
    let (wanted, present) = match paths {
        Some(paths) => (at(object, &paths.spec), at(object, &paths.status)),
        None => (&object["spec"]["replicas"], &object["status"]["replicas"]),
    };
    let mut scale = json!({
        "kind": SCALE.kind,
        "apiVersion": SCALE.api_version(),
        "metadata": {},
        "spec": {},
        "status": {"replicas": present.as_i64().unwrap_or(0)},
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        meta::carry(&mut scale, object, field);
    }
    if let Some(replicas) = wanted.as_i64().filter(|replicas| *replicas != 0) {
        scale["spec"]["replicas"] = json!(replicas);
    }
    if !selector.is_empty() {
        scale["status"]["selector"] = json!(selector);
    }
    Ok(scale)
}

/// The object with the number of replicas that its new scale says.
fn scaled(place: Place<'_>, object: &Value, scale: &Value) -> Result<Value, Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let why = "must be greater than or equal to 0";
        let error = FieldError::invalid("spec.replicas", &json!(replicas), why);
        return Err(Status::invalid(&SCALE.group, &SCALE.kind, place.name, &[error]));
    }
    let (given, actual) = (meta::uid(scale), meta::uid(object));
    if !given.is_empty() && given != actual {
        let (group, plural) = (&place.kind.group, format!("{}/scale", place.kind.plural));
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {actual}");
        return Err(Status::conflict(group, &plural, place.name, &why));
    }
    let mut object = object.clone();
    set_replicas(place.kind, &mut object, json!(replicas));
    meta::carry(&mut object, scale, "resourceVersion");
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn a_scale_shows_and_sets_replicas() {
        let deployment = json!({"kind": "Deployment", "metadata": {"name": "www", "namespace": "n", "uid": "u",
            "resourceVersion": "7", "labels": {"a": "b"}}, "spec": {"replicas": 2, "selector": {"matchLabels":
            {"app": "www"}}}, "status": {"replicas": 1}});
        let kind = kinds::by_kind("apps", "v1", "Deployment").unwrap();
        let scale = of(kind, &deployment).unwrap();
        assert_eq!(
            scale,
            json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": "www", "namespace": "n", "uid": "u", "resourceVersion": "7"},
                "spec": {"replicas": 2}, "status": {"replicas": 1, "selector": "app=www"}})
        );
        let kind = kinds::by_kind("apps", "v1", "Deployment").unwrap();
        let place = Place { kind, namespace: Some("n"), name: "www" };
        let with = |replicas: i64, uid: &str| {
            let scale = json!({"metadata": {"uid": uid}, "spec": {"replicas": replicas}});
            scaled(place, &deployment, &scale)
        };
        let changed = with(5, "u").unwrap();
        assert_eq!((&changed["spec"]["replicas"], meta::resource_version(&changed)), (&json!(5), ""));
        assert_eq!(
            with(-1, "").unwrap_err().message,
            "Scale.autoscaling \"www\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(with(1, "v").unwrap_err().code, 409);
        let controller = json!({"kind": "ReplicationController", "spec": {"selector": {"a": "b", "c": "d"}}});
        assert_eq!(of(kind, &controller).unwrap()["status"]["selector"], "a=b,c=d");
    }
}
