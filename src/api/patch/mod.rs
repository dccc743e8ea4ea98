//! JSON patch, merge patch and strategic merge patch.

mod order;
mod strategic;

use json_patch::PatchOperation;
use serde_json::Value;

use super::go;
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
            must_be_object(body).map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
            let mut patched = object.clone();
            json_patch::merge(&mut patched, body);
            Ok(patched)
        }
        PatchKind::Strategic => {
            must_be_object(body).map_err(Status::bad_request)?;
            strategic::merge(schema, object, body).map_err(|e| e.status())
        }
        PatchKind::Apply => {
            Err(Status::bad_request("an applied configuration is no patch of a single object"))
        }
    }
}

fn must_be_object(body: &Value) -> Result<(), String> {
    match body {
        Value::Object(_) => Ok(()),
        other => Err(no_fit(other, "Go value of type map[string]interface {}")),
    }
}

/// What Go's decoder says of a value of another type than it wants.
fn no_fit(value: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into {wanted}", go::given(value))
}

/// What is wrong with the types of a JSON patch, before anybody asks what its operations mean.
fn misfit(body: &Value) -> Option<String> {
    let Some(operations) = body.as_array() else {
        return Some(no_fit(body, "Go value of type []handlers.jsonPatchOp"));
    };
    operations.iter().find_map(|operation| {
        let Some(fields) = operation.as_object() else {
            return Some(no_fit(operation, "Go value of type handlers.jsonPatchOp"));
        };
        let wrong = ["op", "path", "from"]
            .into_iter()
            .find(|name| fields.get(*name).is_some_and(|value| !value.is_string() && !value.is_null()))?;
        Some(no_fit(&fields[wrong], &format!("Go struct field jsonPatchOp.{wrong} of type string")))
    })
}

/// Whether a path names a member that an object has not.
fn is_absent(document: &Value, path: &str) -> bool {
    let Some((parent, member)) = path.rsplit_once('/') else { return false };
    let member = member.replace("~1", "/").replace("~0", "~");
    document.pointer(parent).and_then(Value::as_object).is_some_and(|fields| !fields.contains_key(&member))
}

fn json(object: &Value, body: &Value) -> Result<Value, Status> {
    if let Some(misfit) = misfit(body) {
        return Err(Status::bad_request(format!("error decoding patch: {misfit}")));
    }
    // An operation that is none is found when it is to be carried out.
    let operations: json_patch::Patch =
        serde_json::from_value(body.clone()).map_err(|_| Status::unprocessable())?;
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
                return Err(Status::unprocessable());
            }
        }
        // What is not there is null where it is asked for, as long as it could be there.
        if let PatchOperation::Test(test) = operation
            && test.value.is_null()
            && is_absent(&patched, test.path.as_str())
        {
            continue;
        }
        let one = std::slice::from_ref(operation);
        json_patch::patch(&mut patched, one).map_err(|_| Status::unprocessable())?;
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

#[cfg(test)]
mod tests;
