//! What a body must be before its kind's rules are asked: an object of the right kind in the right place.

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::api::complaints::MOST;
use crate::api::custom::Version;
use crate::api::go::Plain;
use crate::api::kinds::{Kind, Types};
use crate::api::meta;
use crate::api::request::{DeleteOptions, FieldValidation, PatchKind, WriteOptions};
use crate::api::schema::{self, Checked, Schema};
use crate::api::status::{FieldError, Status};
use crate::api::structural;

/// The schema of the options that a delete may bring in its body.
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";

/// Where Kubernetes' types are registered, as its messages say.
const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";

/// What a body is read as.
#[derive(Debug, Clone, Copy)]
pub struct Type<'a> {
    /// Empty for the core group.
    pub group: &'a str,
    /// `v1`.
    pub version: &'a str,
    /// `Binding`.
    pub kind: &'a str,
    /// Its structure.
    pub types: &'a Types,
}

impl<'a> From<&'a Kind> for Type<'a> {
    fn from(kind: &'a Kind) -> Type<'a> {
        Type { group: &kind.group, version: &kind.version, kind: &kind.kind, types: &kind.types }
    }
}

impl Type<'_> {
    /// Checks an object against the structure; one whose structure nobody states may be anything.
    fn check(&self, object: &mut Value) -> Checked {
        match self.types {
            Types::Own(version) => check_custom(version, object),
            types => types.schema().map(|schema| schema::check(schema, object)).unwrap_or_default(),
        }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// Drops what a custom kind does not know; of its own types only the metadata has a fixed one, the rest is validated.
fn check_custom(version: &Version, object: &mut Value) -> Checked {
    static METADATA: LazyLock<Value> = LazyLock::new(|| {
        let metadata = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
        json!({"type": "object", "properties": {"metadata": {"$ref": metadata}}})
    });
    let mut checked = Checked::default();
    if let Some(metadata) = object.get_mut("metadata") {
        let mut part = json!({ "metadata": metadata.take() });
        checked = schema::check(Schema::own(&METADATA), &mut part);
        *metadata = part["metadata"].take();
    }
    let unknown = structural::prune(&version.node, object, true);
    checked.unknown.extend(unknown.into_iter().map(|path| format!("unknown field {path:?}")));
    let within = structural::embedded::coerce(&version.node, object);
    checked.unknown.extend(within.unknown);
    checked.errors.extend(within.errors);
    checked
}

/// A client's object with its kind set and its fields checked against the schema, and what to warn about.
pub fn read<'a>(
    of: impl Into<Type<'a>>,
    mut body: Value,
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), Status> {
    let of = of.into();
    check_kind(&of, &mut body)?;
    let checked = of.check(&mut body);
    if let Some(refusal) = checked.refusal(of.version, of.kind) {
        return Err(Status::bad_request(refusal));
    }
    let complaints = complaints(checked.unknown, options);
    match options.field_validation {
        FieldValidation::Strict if !complaints.is_empty() => Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {}",
            of.kind,
            of.version,
            of.kind,
            strict(&complaints)
        ))),
        FieldValidation::Warn => Ok((body, complaints)),
        FieldValidation::Strict | FieldValidation::Ignore => Ok((body, Vec::new())),
    }
}

/// The same for what a patch makes of an object: what is wrong with it is wrong with the patch, and told so.
pub fn read_patched(
    kind: &Kind,
    make: impl Fn() -> Result<Value, Status>,
    (how, patch): (PatchKind, &Value),
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), Status> {
    let mut patched = make()?;
    let refused = |why: &str| {
        let shown = match how {
            PatchKind::Strategic => Plain(patch).to_string(),
            // Made once more: the reading changes it, and a copy of each for a message that is rarely told costs more.
            _ => make()?.to_string(),
        };
        let error = FieldError::invalid("patch", &json!(shown), why);
        Err(Status::invalid("", "", "", &[error]))
    };
    let of = Type::from(kind);
    check_kind(&of, &mut patched)?;
    let checked = match (how, of.types.schema()) {
        (PatchKind::Strategic, Some(schema)) => schema::check_converted(schema, &mut patched),
        _ => of.check(&mut patched),
    };
    if let Some(why) = checked.errors.first() {
        return refused(why);
    }
    let complaints = complaints(checked.unknown, options);
    match options.field_validation {
        FieldValidation::Strict if !complaints.is_empty() => refused(&strict(&complaints)),
        FieldValidation::Warn => Ok((patched, complaints)),
        FieldValidation::Strict | FieldValidation::Ignore => Ok((patched, Vec::new())),
    }
}

/// The same for an object with a configuration in it, whose fields were checked before they were merged.
pub fn read_merged(kind: &Kind, mut merged: Value) -> Result<Value, String> {
    let checked = Type::from(kind).check(&mut merged);
    checked.errors.into_iter().next().map_or(Ok(merged), Err)
}

fn complaints(mut unknown: Vec<String>, options: &WriteOptions) -> Vec<String> {
    unknown.extend(options.duplicates.iter().cloned());
    unknown.truncate(MOST);
    unknown
}

fn strict(complaints: &[String]) -> String {
    format!("strict decoding error: {}", complaints.join(", "))
}

/// Fills in a missing kind, as Kubernetes' decoder does, and refuses another one.
fn check_kind(of: &Type<'_>, body: &mut Value) -> Result<(), Status> {
    let (version, given) = (of.api_version(), (meta::api_version(body), meta::kind(body)));
    let given_version = if given.0.is_empty() { version.as_str() } else { given.0 };
    let given_kind = if given.1.is_empty() { of.kind } else { given.1 };
    if (given_version, given_kind) != (&*version, of.kind) {
        return Err(other_kind(of, given_version, given_kind, meta::name(body)));
    }
    let Some(fields) = body.as_object_mut() else {
        return Err(Status::bad_request("the body of the request must be a JSON object"));
    };
    fields.insert("kind".into(), json!(of.kind));
    fields.insert("apiVersion".into(), json!(version));
    Ok(())
}

/// What is said of an object of another kind or version than the path's.
fn other_kind(of: &Type<'_>, given_version: &str, given_kind: &str, name: &str) -> Status {
    let (group, version) = meta::group_version(given_version);
    let expected = of.api_version();
    let other_version = || {
        Status::bad_request(format!(
            "the API version in the data ({given_version}) does not match the expected API version ({expected})"
        ))
    };
    let unfit = |why: String| {
        let of = of.kind;
        Status::bad_request(format!("{given_kind} in version {version:?} cannot be handled as a {of}: {why}"))
    };
    if matches!(of.types, Types::Own(_)) {
        // Objects of custom kinds are read whatever they say they are.
        if given_version != expected {
            return other_version();
        }
        let error = FieldError::invalid("kind", &json!(given_kind), &format!("must be {}", of.kind));
        return Status::invalid(group, given_kind, name, &[error]);
    }
    if schema::of_kind(group, version, given_kind).is_none() {
        return unfit(format!(
            "no kind {given_kind:?} is registered for version {given_version:?} in scheme {SCHEME:?}"
        ));
    }
    if given_kind == of.kind && package(group) == package(of.group) {
        return other_version();
    }
    unfit(format!(
        "converting ({version}.{given_kind}) to ({}.{}): unknown conversion",
        package(of.group),
        of.kind
    ))
}

/// Where Kubernetes keeps the types of a group that it works with: events of both groups are the same.
fn package(group: &str) -> &str {
    match group.split('.').next().unwrap_or_default() {
        "" | "events" => "core",
        first => first,
    }
}

/// The namespace in the body, when there is one, is that of the path.
pub fn check_namespace(namespace: Option<&str>, body: &Value) -> Result<(), Status> {
    let given = meta::namespace(body);
    if given.is_empty() || namespace.is_none() || namespace == Some(given) {
        return Ok(());
    }
    Err(Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

/// The name in the body is that of the path.
pub fn check_name(name: &str, body: &Value) -> Result<(), Status> {
    match meta::name(body) {
        given if given == name => Ok(()),
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
    }
}

/// The options that a delete or an eviction brings in a body; none are the defaults.
pub fn delete_options(mut body: Value) -> Result<DeleteOptions, Status> {
    if body.is_null() {
        return Ok(DeleteOptions::default());
    }
    let checked = Schema::of(DELETE_OPTIONS).map(|of| schema::check(of, &mut body)).unwrap_or_default();
    if let Some(misfit) = checked.errors.into_iter().next() {
        return Err(Status::bad_request(misfit));
    }
    let text = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let (policy, orphan) = (&body["propagationPolicy"], body["orphanDependents"].as_bool());
    let mut errors = Vec::new();
    if orphan.is_some() && !policy.is_null() {
        let why = "orphanDependents and deletionPropagation cannot be both set";
        errors.push(FieldError::invalid("propagationPolicy", policy, why));
    }
    if !policy.is_null() && !["Foreground", "Background", "Orphan"].iter().any(|known| policy == known) {
        let known = ["Foreground", "Background", "Orphan", "nil"];
        errors.push(FieldError::not_supported("propagationPolicy", policy, &known));
    }
    errors.extend(wrong_dry_run(&body["dryRun"]));
    if !errors.is_empty() {
        return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
    }
    Ok(DeleteOptions {
        grace_period_seconds: body["gracePeriodSeconds"].as_i64(),
        precondition_uid: text(&body["preconditions"]["uid"]),
        precondition_resource_version: text(&body["preconditions"]["resourceVersion"]),
        propagation_policy: text(policy)
            .or_else(|| orphan.map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned())),
        dry_run: is_dry_run(&body["dryRun"]),
    })
}

/// Whether a list of stages that are only tried names any.
pub fn is_dry_run(stages: &Value) -> bool {
    stages.as_array().is_some_and(|stages| !stages.is_empty())
}

/// `All` is the only stage that can be tried.
pub fn wrong_dry_run(stages: &Value) -> Option<FieldError> {
    let known = stages.as_array().into_iter().flatten().all(|stage| stage == "All");
    (!known).then(|| FieldError::not_supported("dryRun", stages, &["All"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    fn options(field_validation: FieldValidation) -> WriteOptions {
        let duplicates = vec!["duplicate field \"data\"".to_owned()];
        WriteOptions { field_validation, duplicates, ..WriteOptions::default() }
    }

    #[test]
    fn unknown_and_repeated_fields_are_told_together() {
        let kind: &Kind = kinds::by_resource("", "v1", "configmaps").unwrap();
        let body = json!({"metadata": {"name": "a"}, "foo": 1});
        let complaints = ["unknown field \"foo\"", "duplicate field \"data\""];
        let strict = options(FieldValidation::Strict);
        let refused = read(kind, body.clone(), &strict).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                400,
                "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
                 unknown field \"foo\", duplicate field \"data\""
            )
        );
        assert_eq!(read(kind, body.clone(), &options(FieldValidation::Warn)).unwrap().1, complaints);
        let (object, silent) = read(kind, body.clone(), &options(FieldValidation::Ignore)).unwrap();
        assert!(silent.is_empty() && object.get("foo").is_none());
        let merged = (PatchKind::Merge, &body);
        let refused = read_patched(kind, || Ok(body.clone()), merged, &strict).unwrap_err();
        assert_eq!(refused.code, 422);
        assert!(
            refused.message.starts_with(" \"\" is invalid: patch: Invalid value: \"{"),
            "{}",
            refused.message
        );
        assert!(refused.message.ends_with(&format!(": strict decoding error: {}", complaints.join(", "))));
        assert_eq!(
            read_patched(kind, || Ok(body.clone()), merged, &options(FieldValidation::Warn)).unwrap().1,
            complaints
        );
        for (how, told) in [
            (
                PatchKind::Merge,
                " \"\" is invalid: patch: Invalid value: \"{\\\"data\\\":\\\"x\\\"}\": json: cannot unmarshal string \
                 into Go struct field ConfigMap.data of type map[string]string",
            ),
            (
                PatchKind::Strategic,
                " \"\" is invalid: patch: Invalid value: \"map[data:x]\": cannot restore map from string",
            ),
        ] {
            let patch = json!({"data": "x"});
            let make = || Ok(patch.clone());
            let wrong = read_patched(kind, make, (how, &patch), &WriteOptions::default()).unwrap_err();
            assert_eq!((wrong.code, wrong.message.as_str()), (422, told));
        }
        // What is refused is shown as the patch made it.
        assert!(refused.message.contains("\\\"foo\\\":1"), "{}", refused.message);
    }

    #[test]
    fn other_kinds_are_refused() {
        let kind = kinds::by_resource("", "v1", "pods").unwrap();
        let of = Type::from(&**kind);
        for (given, told) in [
            (
                ("v1", "Service"),
                "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown \
                 conversion",
            ),
            (
                ("v2", "Pod"),
                "Pod in version \"v2\" cannot be handled as a Pod: no kind \"Pod\" is registered for version \"v2\" in \
                 scheme \"pkg/api/legacyscheme/scheme.go:30\"",
            ),
        ] {
            assert_eq!(other_kind(&of, given.0, given.1, "").message, told);
        }
        let scaler = kinds::by_resource("autoscaling", "v2", "horizontalpodautoscalers").unwrap();
        assert_eq!(
            other_kind(&Type::from(&**scaler), "autoscaling/v1", "HorizontalPodAutoscaler", "").message,
            "the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)"
        );
    }

    #[test]
    fn names_and_namespaces_are_those_of_the_path() {
        let at = |name: &str, namespace: &str| json!({"metadata": {"name": name, "namespace": namespace}});
        for (body, error) in [
            (at("a", "n"), None),
            (at("a", ""), None),
            (
                at("", "n"),
                Some("the name of the object (a based on URL) was undeterminable: name must be provided"),
            ),
            (at("b", "n"), Some("the name of the object (b) does not match the name on the URL (a)")),
            (
                at("a", "m"),
                Some("the namespace of the provided object does not match the namespace sent on the request"),
            ),
        ] {
            let checked = check_namespace(Some("n"), &body).and_then(|()| check_name("a", &body));
            assert_eq!(checked.err().map(|s| s.message).as_deref(), error, "{body}");
        }
        assert!(check_namespace(None, &at("a", "n")).is_ok());
    }

    #[test]
    fn delete_options_are_checked() {
        for (body, code) in [
            (json!([]), 400),
            (json!("x"), 400),
            (json!({"gracePeriodSeconds": "5"}), 400),
            (json!({"preconditions": []}), 400),
            (json!({"dryRun": ["x"]}), 422),
            (json!({"propagationPolicy": "x"}), 422),
            (json!({"dryRun": ["All", "x"]}), 422),
            (json!({"orphanDependents": true, "propagationPolicy": "Orphan"}), 422),
        ] {
            assert_eq!(delete_options(body.clone()).unwrap_err().code, code, "{body}");
        }
        let given = json!({"kind": "DeleteOptions", "apiVersion": "policy/v1", "gracePeriodSeconds": 0,
            "preconditions": {"uid": "u"}, "orphanDependents": false, "dryRun": ["All"]});
        let options = delete_options(given).unwrap();
        assert_eq!((options.grace_period_seconds, options.dry_run), (Some(0), true));
        assert_eq!(options.propagation_policy.as_deref(), Some("Background"));
        assert_eq!(options.precondition_uid.as_deref(), Some("u"));
        assert_eq!(
            delete_options(json!({"dryRun": ["x"]})).unwrap_err().message,
            "DeleteOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"x\"]: supported values: \"All\""
        );
    }
}
