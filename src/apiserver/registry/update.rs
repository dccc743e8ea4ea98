//! Changing objects: replace and patch, of the object itself or of its status.

use std::sync::Arc;

use serde_json::{Value, json};

use super::managed_fields::{self, Ownership};
use super::turning::Turning;
use super::{Place, Registry, as_served, as_stored, encode_at, internal, metadata, value_as_served};
use crate::api::meta;
use crate::api::patch;
use crate::api::request::{PatchKind, Response, User, WriteOptions};
use crate::api::status::{FieldError, Status};
use crate::apiserver::admission::{self, Admitted, Attributes, Operation, Options};
use crate::apiserver::allocate::{self, Reservation};
use crate::apiserver::custom::conversion;
use crate::apiserver::{definitions, structure};
use crate::store::{self, Entry};

/// How often a change is tried again on what another writer made of the object in between.
const ATTEMPTS: usize = 16;

/// Which part of an object a write is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but the status, where the kind keeps the two apart.
    Object,
    /// The status alone.
    Status,
    /// The number of replicas alone, by way of the object's scale.
    Scale,
    /// A namespace's `spec.finalizers` alone.
    Finalize,
    /// A pod's node, set once by a binding.
    Binding,
    /// The conditions by which a certificate request is decided.
    Approval,
    /// A pod's `spec.ephemeralContainers` alone.
    EphemeralContainers,
    /// The resources of a pod's containers alone.
    Resize,
}

impl Part {
    /// The path below the object that writes it; empty for the object itself.
    pub fn subresource(self) -> &'static str {
        match self {
            Part::Object => "",
            Part::Status => "status",
            Part::Scale => "scale",
            Part::Finalize => "finalize",
            Part::Binding => "binding",
            Part::Approval => "approval",
            Part::EphemeralContainers => "ephemeralcontainers",
            Part::Resize => "resize",
        }
    }

    /// Whether the rules for the object without its status are those of the write.
    fn is_object(self) -> bool {
        matches!(self, Part::Object | Part::Scale)
    }

    /// Whether the write is about the desired state.
    fn is_desired(self) -> bool {
        self.is_object() || matches!(self, Part::EphemeralContainers | Part::Resize)
    }
}

/// What a write makes of an object, before the rules of its kind.
pub(super) struct Made {
    /// The object.
    pub(super) object: Value,
    /// What to warn about.
    pub(super) warnings: Vec<String>,
    /// Who manages its fields.
    pub(super) ownership: Ownership,
}

impl Registry {
    /// Replaces an object, or a part of it, by what a client sent.
    pub async fn replace(
        &self,
        user: &User,
        place: Place<'_>,
        part: Part,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        let (mut body, mut warnings) = structure::read(&**place.kind, body, options)?;
        structure::check_namespace(place.namespace, &body)?;
        structure::check_name(place.name, &body)?;
        let stored = self.store.get(&place.key()).is_some();
        // Zero is any version, which is none.
        let versioned = !matches!(meta::resource_version(&body), "" | "0");
        if !stored && !versioned && part == Part::Object && place.strategy().created_on_update() {
            self.may_create(user, place)?;
            return self.create(user, place.kind, place.namespace, body, options).await;
        }
        if !versioned && !place.strategy().unconditional_update() {
            let error =
                FieldError::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
            // Kubernetes has only the resource at hand where it finds this.
            return Err(Status::invalid(&place.kind.group, &place.kind.plural, place.name, &[error]));
        }
        warnings.extend(metadata::unite_owners(&mut body, metadata::Seen::Sent));
        let uid = meta::uid(&body);
        let make = |current: &Value| match meta::uid(current) {
            actual if uid.is_empty() || uid == actual => Ok((body.clone(), warnings.clone())),
            actual => Err(place.other_uid(uid, actual)),
        };
        self.change(user, place, part, options, make).await
    }

    /// Applies a client's patch to an object, or to a part of it.
    pub async fn patch(
        &self,
        user: &User,
        place: Place<'_>,
        part: Part,
        kind: PatchKind,
        patch: &Value,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        if kind == PatchKind::Apply {
            return self.apply(user, place, part, patch, options).await;
        }
        if kind == PatchKind::Strategic && place.kind.types.custom().is_some() {
            return Err(not_strategic());
        }
        self.change(user, place, part, options, |current| {
            let apply = || patch::apply(kind, place.kind.types.schema(), current, patch);
            let (body, warnings) = structure::read_patched(place.kind, apply, (kind, patch), options)?;
            structure::check_namespace(place.namespace, &body)?;
            structure::check_name(place.name, &body)?;
            Ok((body, warnings))
        })
        .await
    }

    /// Changes an object to what `make` makes of its current state (as served); made again when another
    /// writer was faster, unless the result insists on a resourceVersion.
    pub async fn change(
        &self,
        user: &User,
        place: Place<'_>,
        part: Part,
        options: &WriteOptions,
        make: impl Fn(&Value) -> Result<(Value, Vec<String>), Status> + Send + Sync,
    ) -> Result<Response, Status> {
        let make = |current: &Value, _: &Turning| {
            let (object, warnings) = make(current)?;
            let ownership = if part == Part::Binding { Ownership::Stays } else { Ownership::Moves };
            Ok(Made { object, warnings, ownership })
        };
        self.change_to(user, place, part, options, make).await
    }

    /// The same, where `make` says too who manages the result; it is asked again when that took a conversion.
    pub(super) async fn change_to(
        &self,
        user: &User,
        place: Place<'_>,
        part: Part,
        options: &WriteOptions,
        make: impl Fn(&Value, &Turning) -> Result<Made, Status> + Send + Sync,
    ) -> Result<Response, Status> {
        let manager = managed_fields::manager(user, options);
        for _ in 0..ATTEMPTS {
            let current = self.find(place)?;
            let shown = as_served(place.kind, current.clone());
            let shown = conversion::served_one(self, place.kind, shown).await?;
            // The rules of custom kinds are those of the version that the request names.
            let before = if place.kind.types.custom().is_some() { shown.clone() } else { current.clone() };
            let mut turning = Turning::of(self, place.kind);
            let (mut new, mut warnings) = loop {
                let begun = make(shown.json(), &turning).and_then(|mut made| {
                    made.object = as_stored(place.kind, made.object);
                    check_version(place, &made.object, &current)?;
                    Ok(begin(place, part, made, before.json(), (manager, &turning)))
                });
                if turning.complete(self).await {
                    break begun?;
                }
            };
            let mut asked = attributes(user, place, part, options, before.json());
            // A binding was decided about as what the client sent, which is no pod.
            let asks = part != Part::Binding;
            if asks && admission::mutate(self, &mut asked, &mut new).await? {
                // Whoever changed it may not touch more than who asked.
                carry_over(place, part, &mut new, before.json());
            }
            warnings.extend(metadata::unite_owners(&mut new, metadata::Seen::Admitted));
            let mut new = finish(place, part, new, before.json())?;
            definitions::settle(self, place.kind, &mut new);
            if part.is_object() {
                warnings.extend(place.strategy().update_warnings(&new, before.json()));
            }
            let admitted = match asks {
                true => admission::validate(self, &mut asked, &new).await?,
                false => Admitted::default(),
            };
            warnings.append(&mut asked.warnings);
            let reservation = self.reserve(place, &mut new, Some(current.json())).await?;
            if options.dry_run {
                let value = value_as_served(place.kind, new);
                return Ok(Response::Transient { value, created: false, warnings });
            }
            let new = conversion::stored(self, place.kind, new).await?;
            match self.write(place, current, new, (admitted, reservation)).await? {
                Ok(entry) => {
                    self.written(place.kind)?;
                    let entry = as_served(place.kind, entry);
                    return Ok(Response::Object { entry, created: false, warnings });
                }
                Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(internal(error)),
            }
        }
        Err(place.modified())
    }

    /// Writes a change; one that takes the last finalizer off a deleted object removes it.
    async fn write(
        &self,
        place: Place<'_>,
        current: Arc<Entry>,
        new: Value,
        (admitted, reservation): (Admitted, Option<Reservation>),
    ) -> Result<Result<Arc<Entry>, store::Error>, Status> {
        let old = current.json();
        let ends = meta::is_deleting(&new)
            && old["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
            && super::delete::nothing_pending(&new);
        if !ends && new == *old {
            return Ok(Ok(current));
        }
        if ends {
            return self.remove(place, current, new).await;
        }
        let (store, key) = (self.store.clone(), place.key());
        let write = async move { store.update(&key, current.revision, encode_at(new)).await };
        self.carry_out(place, admitted.carry_out(write), reservation).await
    }
}

/// The new object as the client wants it, with everything carried over that this write may not touch, and what to warn
/// about.
fn begin(
    place: Place<'_>,
    part: Part,
    made: Made,
    old: &Value,
    manager: (&str, &Turning),
) -> (Value, Vec<String>) {
    let Made { object: mut new, warnings, ownership } = made;
    let given = new.pointer_mut("/metadata/managedFields").map(Value::take);
    metadata::prepare_update(&mut new, old);
    carry_over(place, part, &mut new, old);
    // A custom kind's status has its defaults too.
    if part.is_desired() || (part == Part::Status && place.kind.types.custom().is_some()) {
        place.strategy().default(&mut new);
    }
    // What admission and the kind's own rules add is nobody's.
    let fields = match ownership {
        Ownership::Moves => {
            managed_fields::after_update(place.kind, part, (Some(old), &new), given.as_ref(), manager)
        }
        Ownership::Stays => old["metadata"]["managedFields"].clone(),
        Ownership::Applied(managers) => managers.to_wire(),
    };
    meta::set(&mut new, "managedFields", fields);
    (new, warnings)
}

/// Puts back what a write of this part may not touch.
fn carry_over(place: Place<'_>, part: Part, new: &mut Value, old: &Value) {
    match part {
        Part::Object | Part::Scale => {
            if place.kind.subresource("status").is_some() {
                carry_field(new, old, "status");
            }
        }
        Part::Status => {
            keep_only(new, old, &["metadata", "status"]);
            meta::carry(new, old, "ownerReferences");
            if place.kind.types.custom().is_some() {
                // Who may write the status of a custom object may write that alone.
                let managers = new.pointer_mut("/metadata/managedFields").map(Value::take);
                new["metadata"] = old["metadata"].clone();
                meta::set(new, "managedFields", managers.unwrap_or_default());
            }
        }
        Part::Approval => keep_only(new, old, &["metadata", "status"]),
        // Only the server itself makes these.
        Part::Binding => {}
        Part::Resize => {
            let mut asked = std::mem::replace(new, old.clone());
            carry_field(&mut new["spec"], &asked["spec"], "resources");
            for list in ["containers", "initContainers"] {
                let names = |of: &Value| -> Vec<Value> {
                    of["spec"][list].as_array().into_iter().flatten().map(|one| one["name"].clone()).collect()
                };
                if names(&asked) != names(old) {
                    // The rules of a resize say what is wrong with that.
                    new["spec"][list] = asked["spec"][list].take();
                    continue;
                }
                let others = asked["spec"][list].as_array().into_iter().flatten();
                let containers = new["spec"][list].as_array_mut().into_iter().flatten();
                for (container, other) in containers.zip(others) {
                    carry_field(container, other, "resources");
                    carry_field(container, other, "resizePolicy");
                }
            }
        }
        Part::EphemeralContainers => {
            let containers = new["spec"]["ephemeralContainers"].take();
            *new = old.clone();
            if !containers.is_null() {
                new["spec"]["ephemeralContainers"] = containers;
            } else if let Some(spec) = new["spec"].as_object_mut() {
                spec.remove("ephemeralContainers");
            }
        }
        Part::Finalize => {
            let finalizers = new["spec"]["finalizers"].clone();
            *new = old.clone();
            new["spec"]["finalizers"] = if finalizers.is_null() { json!([]) } else { finalizers };
        }
    }
}

/// The new object as it is to be stored, by the rules of its kind.
fn finish(place: Place<'_>, part: Part, mut new: Value, old: &Value) -> Result<Value, Status> {
    let strategy = place.strategy();
    match part {
        Part::Object | Part::Scale => {
            strategy.prepare_update(&mut new, old);
            if place.kind.plural == "services" {
                allocate::carry(&mut new, old);
            }
        }
        Part::Status => strategy.prepare_status_update(&mut new, old),
        Part::Approval => strategy.prepare_approval_update(&mut new, old),
        Part::Binding | Part::Finalize | Part::EphemeralContainers | Part::Resize => {}
    }
    if part.is_desired() && strategy.has_generation() && strategy.generation_changes(&new, old) {
        meta::set(&mut new, "generation", meta::generation(old) + 1);
    }
    meta::carry(&mut new, old, "resourceVersion");
    managed_fields::keep_times(&mut new, old);
    let mut errors = metadata::validate(&new, place.kind);
    errors.extend(metadata::validate_update(&new, old));
    if part.is_object() {
        errors.extend(strategy.validate(&new));
        errors.extend(strategy.validate_update(&new, old));
    }
    if part == Part::EphemeralContainers {
        errors.extend(strategy.validate(&new));
        errors.extend(strategy.validate_ephemeral_containers_update(&new, old));
    }
    if part == Part::Resize {
        errors.extend(strategy.validate(&new));
        errors.extend(strategy.validate_resize(&new, old));
    }
    if part == Part::Status {
        errors.extend(strategy.validate_status_update(&new, old));
    }
    if part == Part::Approval {
        errors.extend(strategy.validate_approval_update(&new, old));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&place.kind.group, &place.kind.kind, place.name, &errors));
    }
    Ok(new)
}

/// What admission sees of a change.
fn attributes<'a>(
    user: &'a User,
    place: Place<'a>,
    part: Part,
    options: &'a WriteOptions,
    old: &'a Value,
) -> Attributes<'a> {
    Attributes {
        operation: Operation::Update,
        kind: place.kind,
        subresource: part.subresource(),
        namespace: place.namespace.filter(|_| place.kind.namespaced),
        name: place.name,
        old: Some(old),
        user,
        options: Options::Update(options),
        warnings: Vec::new(),
    }
}

/// Custom kinds say nothing of how strategic merge patches would merge their lists.
fn not_strategic() -> Status {
    Status::unsupported_media_type(
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
    )
}

/// A resourceVersion that the client names must be the current one.
fn check_version(place: Place<'_>, new: &Value, current: &Entry) -> Result<(), Status> {
    let version = meta::resource_version(new);
    if !version.is_empty() && version != "0" && version != current.revision.to_string() {
        return Err(place.modified());
    }
    Ok(())
}

fn carry_field(new: &mut Value, old: &Value, field: &str) {
    let Some(fields) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

/// Takes every top-level field but these from the old object.
fn keep_only(new: &mut Value, old: &Value, kept: &[&str]) {
    let Some(fields) = new.as_object_mut() else { return };
    fields.retain(|name, _| kept.contains(&name.as_str()));
    for (name, value) in old.as_object().into_iter().flatten() {
        if !kept.contains(&name.as_str()) {
            fields.insert(name.clone(), value.clone());
        }
    }
}
