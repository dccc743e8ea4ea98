//! Configurations that clients apply: what they must be, and what they make of an object.

use serde_json::Value;

use super::structure;
use crate::api::fields::{self, Applied, Context, Failure, Managers};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::{FieldValidation, WriteOptions};
use crate::api::status::Status;

/// Refuses a configuration that cannot be applied to any object of the kind.
pub fn check_configuration(kind: &Kind, config: &Value) -> Result<(), Status> {
    if !config.is_object() {
        return Err(Status::bad_request("error decoding patch: an applied configuration must be an object"));
    }
    let (group, version) = meta::group_version(meta::api_version(config));
    if (group, version, meta::kind(config)) != (&*kind.group, &*kind.version, &*kind.kind) {
        return Err(Status::bad_request(format!("invalid object type: {}", type_of(config))));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let errors = fields::check(kind.types.schema(), config);
    let told = match errors.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    Err(plain_failure(format!("failed to create typed patch object ({}): {told}", shown(config))))
}

/// What the reader of a configuration complained of, as a refusal or as what to warn about.
pub fn complaints(options: &WriteOptions) -> Result<Vec<String>, Status> {
    match options.field_validation {
        FieldValidation::Strict if !options.duplicates.is_empty() => {
            let told = options.duplicates.join(", ");
            Err(Status::bad_request(format!("error strict decoding patch: {told}")))
        }
        FieldValidation::Warn => Ok(options.duplicates.clone()),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}

/// The object with a configuration applied, read as its type reads it, and who manages it from then on.
pub fn apply(
    kind: &Kind,
    live: &Value,
    config: &Value,
    manager: &str,
    force: bool,
    context: &Context,
) -> Result<Applied, Status> {
    let managers = Managers::parse(&live["metadata"]["managedFields"])
        .map_err(|e| plain_failure(format!("failed to decode managed fields: {e}")))?;
    let applied = fields::apply(managers, live, config, manager, force, context);
    let Applied { object, managers } = applied.map_err(|failure| match failure {
        Failure::Conflicts(conflicts) => fields::conflict_status(&conflicts),
        Failure::Merge(_) => plain_failure(failure.to_string()),
    })?;
    let object = structure::read_merged(kind, object).map_err(|why| {
        plain_failure(format!("failed to convert new object ({}) to proper version: {why}", shown(config)))
    })?;
    Ok(Applied { object, managers })
}

/// 500 without a reason: how Kubernetes tells what goes wrong inside of an apply.
fn plain_failure(message: String) -> Status {
    Status::failure(500, "", message)
}

/// `default/www; apps/v1, Kind=Deployment`: a configuration as these messages name it.
fn shown(config: &Value) -> String {
    format!("{}/{}; {}", meta::namespace(config), meta::name(config), type_of(config))
}

fn type_of(config: &Value) -> String {
    let (group, version) = meta::group_version(meta::api_version(config));
    format!("{group}/{version}, Kind={}", meta::kind(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;
    use serde_json::json;

    #[test]
    fn configurations_that_are_wrong_are_named() {
        let kind = kinds::by_resource("", "v1", "configmaps").unwrap();
        let with = |key: &str, value: Value| {
            let mut config = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "a", "namespace": "n"}, "data": {}});
            config[key] = value;
            config
        };
        for (config, code, message) in [
            (json!([]), 400, "error decoding patch: an applied configuration must be an object"),
            (json!({}), 400, "invalid object type: /, Kind="),
            (with("kind", json!("Pod")), 400, "invalid object type: /v1, Kind=Pod"),
            (with("metadata", json!({"managedFields": []})), 400, "metadata.managedFields must be nil"),
            (
                with("dota", json!({})),
                500,
                "failed to create typed patch object (n/a; /v1, Kind=ConfigMap): .dota: field not declared in schema",
            ),
            (
                with("data", json!({"a": 1, "b": true})),
                500,
                "failed to create typed patch object (n/a; /v1, Kind=ConfigMap): errors:\n  .data.a: expected string, \
                 got &value.valueUnstructured{Value:1}\n  .data.b: expected string, got \
                 &value.valueUnstructured{Value:true}",
            ),
        ] {
            let refused = check_configuration(kind, &config).unwrap_err();
            assert_eq!((refused.code, refused.message.as_str()), (code, message));
        }
        check_configuration(kind, &with("data", json!({"a": "1"}))).unwrap();
    }
}
