//! Making objects.

use std::sync::Arc;

use serde_json::Value;

use super::managed_fields::{self, Ownership};
use super::turning::Turning;
use super::update::Made;
use super::{Part, Place, Registry, as_served, as_stored, encode_at, internal, metadata, value_as_served};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::{Response, User, WriteOptions};
use crate::api::status::Status;
use crate::apiserver::admission::{self, Attributes, Operation, Options};
use crate::apiserver::custom::conversion;
use crate::apiserver::{definitions, strategy, structure};
use crate::clock;
use crate::store;

/// How often a clashing generated name is replaced by another.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Makes an object in `namespace` from what a client sent.
    pub async fn create(
        &self,
        user: &User,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        let (mut body, mut warnings) = structure::read(&**kind, body, options)?;
        structure::check_namespace(namespace, &body)?;
        warnings.extend(metadata::unite_owners(&mut body, metadata::Seen::Sent));
        let made = Made { object: body, warnings, ownership: Ownership::Moves };
        self.create_made(user, kind, namespace, made, options).await
    }

    /// Makes an object of what a write brings.
    pub(super) async fn create_made(
        &self,
        user: &User,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        made: Made,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        let Made { object, mut warnings, ownership } = made;
        let mut object = as_stored(kind, object);
        if matches!(ownership, Ownership::Applied(_)) {
            // What is applied may name the version that its maker last saw.
            meta::remove(&mut object, "resourceVersion");
        }
        let given = object.pointer_mut("/metadata/managedFields").map(Value::take);
        strategy::of(kind).default(&mut object);
        metadata::begin_create(&mut object, kind, namespace);
        // What admission and the kind's own rules add is nobody's.
        let fields = match ownership {
            Ownership::Moves => {
                let manager = managed_fields::manager(user, options);
                let mut turning = Turning::of(self, kind);
                loop {
                    let (new, manager) = ((None, &object), (manager, &turning));
                    let fields =
                        managed_fields::after_update(kind, Part::Object, new, given.as_ref(), manager);
                    if turning.complete(self).await {
                        break fields;
                    }
                }
            }
            Ownership::Applied(managers) => managers.to_wire(),
            Ownership::Stays => Value::Null,
        };
        meta::set(&mut object, "managedFields", fields);
        let mut asked = attributes(user, kind, namespace, options);
        admission::mutate(self, &mut asked, &mut object).await?;
        warnings.append(&mut asked.warnings);
        warnings.extend(metadata::unite_owners(&mut object, metadata::Seen::Admitted));
        let once = |object, warnings| self.create_once(user, kind, namespace, object, warnings, options);
        let base = meta::generate_name(&object);
        if base.is_empty() {
            return once(object, warnings).await;
        }
        let made = if meta::name(&object).is_empty() {
            with_free_name(|| once(object.clone(), warnings.clone())).await
        } else {
            once(object, warnings).await
        };
        made.map_err(no_free_name)
    }

    async fn create_once(
        &self,
        user: &User,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        mut object: Value,
        mut warnings: Vec<String>,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        let strategy = strategy::of(kind);
        metadata::prepare_create(&mut object, kind, namespace, clock::now())?;
        if strategy.has_generation() {
            meta::set(&mut object, "generation", 1);
        }
        strategy.prepare_create(&mut object);

        let name = meta::name(&object).to_owned();
        let mut errors = metadata::validate(&object, kind);
        errors.extend(strategy.validate(&object));
        errors.extend(strategy.validate_create(&object));
        if !errors.is_empty() {
            return Err(Status::invalid(&kind.group, &kind.kind, &name, &errors));
        }
        warnings.extend(strategy.create_warnings(&object));
        let place = Place { kind, namespace, name: &name };
        let key = place.key();
        let mut asked = attributes(user, kind, namespace, options);
        let admitted = admission::validate(self, &mut asked, &object).await?;
        warnings.append(&mut asked.warnings);
        let version = meta::resource_version(&object).parse();
        if !options.dry_run && version.is_ok_and(|version: store::Revision| version != 0) {
            // Where it would be written, as in Kubernetes, and without a reason.
            return Err(Status::failure(
                500,
                "",
                "resourceVersion should not be set on objects to be created",
            ));
        }
        meta::remove(&mut object, "resourceVersion");
        let exists = || Status::already_exists(&kind.group, &kind.plural, &name);
        if self.store.get(&key).is_some() {
            return Err(exists());
        }
        definitions::settle(self, kind, &mut object);
        let reservation = self.reserve(place, &mut object, None).await?;
        if options.dry_run {
            return Ok(Response::Transient { value: value_as_served(kind, object), created: true, warnings });
        }
        let (store, object) = (self.store.clone(), conversion::stored(self, kind, object).await?);
        let write = async move { store.create(&key, encode_at(object)).await };
        let entry =
            self.carry_out(place, admitted.carry_out(write), reservation).await?.map_err(|e| match e {
                store::Error::Exists { .. } => exists(),
                other => internal(other),
            })?;
        self.written(kind)?;
        Ok(Response::Object { entry: as_served(kind, entry), created: true, warnings })
    }
}

/// What admission sees of a create.
fn attributes<'a>(
    user: &'a User,
    kind: &'a Arc<Kind>,
    namespace: Option<&'a str>,
    options: &'a WriteOptions,
) -> Attributes<'a> {
    Attributes {
        operation: Operation::Create,
        kind,
        subresource: "",
        namespace: namespace.filter(|_| kind.namespaced),
        name: "",
        old: None,
        user,
        options: Options::Create(options),
        warnings: Vec::new(),
    }
}

/// Makes the attempt again, under another name, when the name that was generated for it is taken.
async fn with_free_name<T, F>(attempt: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>>,
{
    let mut tries = 1;
    loop {
        match attempt().await {
            Err(status) if status.is("AlreadyExists") && tries < NAME_ATTEMPTS => tries += 1,
            other => return other,
        }
    }
}

/// What is said of a taken name to a client that left its choice to the server (`NewGenerateNameConflict`).
fn no_free_name(mut status: Status) -> Status {
    if status.is("AlreadyExists") {
        status.message.push_str(", the server was not able to generate a unique name for the object");
        status.details.get_or_insert_default().retry_after_seconds = 1;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn a_generated_name_is_chosen_again_some_times() {
        let tries = Cell::new(0);
        let attempt = |free_at: usize| {
            tries.set(tries.get() + 1);
            let free = tries.get() >= free_at;
            async move { if free { Ok(()) } else { Err(Status::already_exists("", "configmaps", "x-b")) } }
        };
        with_free_name(|| attempt(3)).await.unwrap();
        assert_eq!(tries.take(), 3);
        let status = with_free_name(|| attempt(99)).await.unwrap_err();
        assert_eq!(tries.take(), NAME_ATTEMPTS);
        let told = no_free_name(status);
        assert_eq!(
            (told.code, told.reason.as_str(), told.message.as_str()),
            (
                409,
                "AlreadyExists",
                "configmaps \"x-b\" already exists, the server was not able to generate a unique name for the \
                 object"
            )
        );
        assert_eq!(told.details.unwrap().retry_after_seconds, 1);
    }
}
