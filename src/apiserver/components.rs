//! `componentstatuses`: made up at each request, for the control plane runs in one process with what answers it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::registry::encode;
use super::registry::selection::Selection;
use crate::api::kinds::Kind;
use crate::api::request::{Action, Response};
use crate::api::status::Status;
use crate::store::{Entry, Revision, Snapshot};

/// The components of a control plane, as Kubernetes names them here.
const COMPONENTS: &[&str] = &["controller-manager", "etcd-0", "scheduler"];

/// Whether a kind's objects are made up here.
pub fn concerns(kind: &Kind) -> bool {
    kind.is("", "componentstatuses")
}

/// Answers a request about all components, or about one; `revision` is that of the store.
pub fn answer(
    kind: &Arc<Kind>,
    name: Option<&str>,
    action: Action,
    revision: Revision,
) -> Result<Response, Status> {
    match (action, name) {
        (Action::Get { .. }, Some(name)) if COMPONENTS.contains(&name) => {
            Ok(Response::Transient { value: healthy(name), created: false, warnings: Vec::new() })
        }
        (Action::Get { .. }, Some(name)) => Err(Status::not_found("", &kind.plural, name)),
        (Action::List(options), None) => {
            let selection = Selection::new(kind, None, None, &options)?;
            let entry = |name: &&str| Entry::new(kind.key(None, name), encode(&healthy(name)), 0, revision);
            let entries = COMPONENTS.iter().map(entry).filter(|entry| selection.matches(entry)).collect();
            let snapshot = Snapshot { revision, entries, remaining: 0 };
            Ok(Response::List { snapshot, continue_token: String::new() })
        }
        _ => Err(Status::method_not_allowed(&kind.group, &kind.plural, "get")),
    }
}

/// Whoever is answered has them all: they live and end with the server.
fn healthy(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ComponentStatus", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
}
