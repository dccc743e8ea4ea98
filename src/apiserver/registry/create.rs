//! Making objects.

use jiff::Timestamp;
use serde_json::Value;

use super::{Place, Registry, as_served, as_stored, encode_at, internal, metadata, value_as_served};
use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::{Response, WriteOptions};
use crate::api::status::Status;
use crate::apiserver::{admission, strategy, structure};
use crate::store;

/// How often a clashing generated name is replaced by another.
const NAME_ATTEMPTS: usize = 8;

impl Registry {
    /// Makes an object in `namespace` from what a client sent.
    pub async fn create(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        body: Value,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        let (body, mut warnings) = structure::read(kind, body, options)?;
        structure::check_namespace(namespace, &body)?;
        let generated = meta::name(&body).is_empty();
        for attempt in 1.. {
            match self.create_once(kind, namespace, body.clone(), options, &mut warnings).await {
                Err(status) if generated && status.is("AlreadyExists") && attempt < NAME_ATTEMPTS => {}
                other => return other,
            }
        }
        Err(Status::internal("no free name was found"))
    }

    async fn create_once(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        body: Value,
        options: &WriteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Response, Status> {
        let strategy = strategy::of(kind);
        let mut object = as_stored(kind, body);
        strategy.default(&mut object);
        metadata::prepare_create(&mut object, kind, namespace, Timestamp::now())?;
        if strategy.has_generation() {
            meta::set(&mut object, "generation", 1);
        }
        admission::create(self, kind, namespace, &mut object).await?;
        strategy.prepare_create(&mut object);

        let name = meta::name(&object).to_owned();
        let mut errors = metadata::validate(&object, kind);
        errors.extend(strategy.validate(&object));
        errors.extend(strategy.validate_create(&object));
        if !errors.is_empty() {
            return Err(Status::invalid(kind.group, kind.kind, &name, &errors));
        }
        warnings.extend(strategy.warnings(&object));
        let place = Place { kind, namespace, name: &name };
        let key = place.key();
        let exists = || Status::already_exists(kind.group, kind.plural, &name);
        if self.store.get(&key).is_some() {
            return Err(exists());
        }
        let reservation = self.reserve(place, &mut object, None)?;
        let warnings = std::mem::take(warnings);
        if options.dry_run {
            return Ok(Response::Transient { value: value_as_served(kind, object), created: true, warnings });
        }
        let entry = self.store.create(&key, encode_at(object)).await.map_err(|e| match e {
            store::Error::Exists { .. } => exists(),
            other => internal(other),
        })?;
        reservation.commit();
        Ok(Response::Object { entry: as_served(kind, entry), created: true, warnings })
    }
}
