//! NamespaceLifecycle: nothing is made in a namespace that is not there or on its way out, and some stay for ever.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/namespace/lifecycle`.

use serde_json::Value;

use super::{Attributes, Operation};
use crate::api::status::{Cause, Status};
use crate::apiserver::registry::Registry;

/// Namespaces that a cluster cannot be without.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];
/// Questions about rights in a namespace; whether it is there would be too much of an answer.
const REVIEWS: &[&str] = &["localsubjectaccessreviews"];

/// Decides about a request by the namespace that it is about.
pub fn admit(registry: &Registry, attributes: &Attributes<'_>, object: &Value) -> Result<(), Status> {
    if attributes.kind.is("", "namespaces") {
        return may_go(attributes);
    }
    let Some(namespace) = attributes.namespace else { return Ok(()) };
    let refuses = matches!(attributes.operation, Operation::Create);
    if !refuses || REVIEWS.contains(&&*attributes.kind.plural) {
        return Ok(());
    }
    let Some(entry) = registry.store().get(&format!("namespaces/{namespace}")) else {
        return Err(Status::not_found("", "namespaces", namespace));
    };
    if entry.json()["status"]["phase"] != "Terminating" {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut status = attributes.forbidden(object, &why);
    status.details.get_or_insert_default().causes.push(Cause {
        reason: "NamespaceTerminating".into(),
        message: format!("namespace {namespace} is being terminated"),
        field: "metadata.namespace".into(),
    });
    Err(status)
}

fn may_go(attributes: &Attributes<'_>) -> Result<(), Status> {
    if attributes.operation == Operation::Delete && IMMORTAL.contains(&attributes.name) {
        return Err(attributes.forbidden(&Value::Null, "this namespace may not be deleted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::attributes;
    use super::*;

    #[test]
    fn some_namespaces_stay() {
        for (name, operation, allowed) in [
            ("default", Operation::Delete, false),
            ("kube-system", Operation::Delete, false),
            ("default", Operation::Update, true),
            ("mine", Operation::Delete, true),
        ] {
            let mut asked = attributes("", "namespaces", operation);
            (asked.namespace, asked.name) = (None, name);
            assert_eq!(may_go(&asked).is_ok(), allowed, "{name}");
        }
        let mut asked = attributes("", "namespaces", Operation::Delete);
        (asked.namespace, asked.name) = (None, "default");
        let error = may_go(&asked).unwrap_err();
        assert_eq!(error.message, "namespaces \"default\" is forbidden: this namespace may not be deleted");
    }
}
