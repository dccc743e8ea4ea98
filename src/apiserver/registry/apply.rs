//! Server-side apply: configurations that are merged into an object, or make it.

use serde_json::{Value, json};

use super::managed_fields::{self, Ownership};
use super::turning::Turning;
use super::update::Made;
use super::{Part, Place, Registry};
use crate::api::meta;
use crate::api::request::{Response, User, WriteOptions};
use crate::api::status::Status;
use crate::apiserver::{patching, structure};

/// How often an apply is tried again on an object that comes or goes at the same time.
const ATTEMPTS: usize = 4;

impl Registry {
    /// Applies a configuration to an object, or to a part of it; makes an object that is not there.
    pub async fn apply(
        &self,
        user: &User,
        place: Place<'_>,
        part: Part,
        config: &Value,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        patching::check_configuration(place.kind, config)?;
        let is_there = || self.store().get(&place.key()).is_some();
        for _ in 0..ATTEMPTS {
            let done = if part == Part::Object && !is_there() {
                self.make_applied(user, place, config, options).await
            } else {
                let make = |current: &Value, turning: &Turning| {
                    applied(place, part, (current, config), user, options, turning)
                };
                self.change_to(user, place, part, options, make).await
            };
            match done {
                Err(status) if part == Part::Object && status.is("AlreadyExists") && is_there() => {}
                Err(status) if part == Part::Object && status.is("NotFound") && !is_there() => {
                    // Its namespace may be what is not found.
                    if status.message != place.not_found().message {
                        return Err(status);
                    }
                }
                done => return done,
            }
        }
        Err(place.modified())
    }

    async fn make_applied(
        &self,
        user: &User,
        place: Place<'_>,
        config: &Value,
        options: &WriteOptions,
    ) -> Result<Response, Status> {
        let turning = Turning::of(self, place.kind);
        let made = applied(place, Part::Object, (&json!({}), config), user, options, &turning)?;
        let uid = meta::uid(&made.object);
        if !uid.is_empty() {
            return Err(place.conflict(&format!(
                "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
            )));
        }
        self.may_create(user, place)?;
        self.create_made(user, place.kind, place.namespace, made, options).await
    }
}

/// What a configuration makes of the current state of an object.
fn applied(
    place: Place<'_>,
    part: Part,
    (current, config): (&Value, &Value),
    user: &User,
    options: &WriteOptions,
    turning: &Turning,
) -> Result<Made, Status> {
    let manager = (managed_fields::manager(user, options), options.force);
    let (object, managers) =
        managed_fields::after_apply(place.kind, part, current, config, manager, turning)?;
    let warnings = patching::complaints(options)?;
    structure::check_namespace(place.namespace, &object)?;
    structure::check_name(place.name, &object)?;
    Ok(Made { object, warnings, ownership: Ownership::Applied(managers) })
}
