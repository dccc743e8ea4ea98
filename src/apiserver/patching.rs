//! Patches of clients, applied to the current state of an object.

use serde_json::Value;

use crate::api::kinds::Kind;
use crate::api::patch;
use crate::api::request::PatchKind;
use crate::api::status::Status;

/// What a patch makes of an object. Server-side apply has its place here and is not served yet.
pub fn apply(kind: &Kind, how: PatchKind, current: &Value, body: &Value) -> Result<Value, Status> {
    match how {
        PatchKind::Apply => Err(Status::unsupported_media_type("server-side apply is not served yet")),
        how => patch::apply(how, kind.types.schema(), current, body),
    }
}
