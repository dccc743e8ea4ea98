//! JSON patch, merge patch and strategic merge patch.

mod order;
mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use super::request::PatchKind;
use super::schema::Schema;
use super::status::Status;

/// The most operations that a JSON patch may have (as in k8s.io/apiserver's patch handler).
const MAX_OPERATIONS: usize = 10_000;
/// The most bytes that the `copy` operations of a JSON patch may add up to (`JSONPatchMaxCopyBytes`): each may double
/// the object, so that their number alone is no bound.
const MAX_COPIED_BYTES: usize = 3 << 20;

/// The object as the patch leaves it. `schema` is its type, by which a strategic merge patch merges lists.
///
/// An applied configuration is no patch in this sense: what becomes of it depends on who manages which fields and who
/// asks. [`fields`](super::fields) merges it.
pub fn apply(
    kind: PatchKind,
    schema: Option<Schema<'_>>,
    object: &Value,
    body: &Value,
) -> Result<Value, Status> {
    match kind {
        PatchKind::Json => json(object, body),
        PatchKind::Merge => {
            must_be_object(body)?;
            let mut patched = object.clone();
            json_patch::merge(&mut patched, body);
            Ok(patched)
        }
        PatchKind::Strategic => {
            must_be_object(body)?;
            strategic::merge(schema, object, body).map_err(|e| e.status())
        }
        PatchKind::Apply => {
            Err(Status::bad_request("an applied configuration is no patch of a single object"))
        }
    }
}

fn must_be_object(body: &Value) -> Result<(), Status> {
    let given = match body {
        Value::Object(_) => return Ok(()),
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
        Value::Null => "null",
    };
    Err(Status::bad_request(format!(
        "error decoding patch: json: cannot unmarshal {given} into Go value of type map[string]interface {{}}"
    )))
}

fn json(object: &Value, body: &Value) -> Result<Value, Status> {
    let operations: json_patch::Patch = serde_json::from_value(body.clone())
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    if operations.0.len() > MAX_OPERATIONS {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.0.len()
        )));
    }
    let mut patched = object.clone();
    let mut copied = 0;
    for operation in &operations.0 {
        if let PatchOperation::Copy(copy) = operation {
            copied += patched.pointer(copy.from.as_str()).map_or(0, length);
            if copied > MAX_COPIED_BYTES {
                return Err(unprocessable());
            }
        }
        let one = std::slice::from_ref(operation);
        json_patch::patch(&mut patched, one).map_err(|_| unprocessable())?;
    }
    Ok(patched)
}

/// How long a value is as JSON.
fn length(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Counting does not fail.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

/// A JSON patch that cannot be applied. Kubernetes tells no cause.
fn unprocessable() -> Status {
    let message = "the server rejected our request due to an error in our request";
    let mut status = Status::failure(422, "Invalid", message);
    status.details.get_or_insert_default();
    status
}

#[cfg(test)]
mod tests;
