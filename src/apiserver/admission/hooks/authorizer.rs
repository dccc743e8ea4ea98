//! `authorizer` in expressions: who may do what, asked of the one function that decides about requests.
//!
//! Source: k8s.io/apiserver `pkg/cel/library/authz.go`.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::api::cel::admission::{AUTHORIZER, DECISION, GROUP, PATH, RESOURCE};
use crate::api::cel::{Fault, Foreign, Outcome, Val};
use crate::api::request::{Target, User};
use crate::apiserver::admission::{Attributes, rights};
use crate::apiserver::registry::Registry;

/// Who is asked about.
#[derive(Clone)]
pub struct Authorizer {
    registry: Registry,
    user: User,
    /// What the request itself is about.
    target: Target,
}

impl Authorizer {
    /// The rights of the user of a request.
    pub fn of(registry: &Registry, attributes: &Attributes<'_>, object: &Value) -> Authorizer {
        let kind = attributes.kind;
        let known = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let target = Target {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            resource: kind.plural.to_string(),
            namespace: known(attributes.namespace_seen(object)),
            name: known(attributes.name),
            subresource: known(attributes.subresource),
        };
        Authorizer { registry: registry.clone(), user: attributes.user.clone(), target }
    }

    fn check(&self, what: What) -> Val {
        Val::Foreign(Arc::new(Check { authorizer: self.clone(), what }))
    }
}

impl fmt::Debug for Authorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rights of {}", self.user.name)
    }
}

fn text(arguments: &[Val], at: usize) -> Result<String, Fault> {
    arguments.get(at).and_then(Val::as_str).map(str::to_owned).ok_or_else(Fault::no_overload)
}

impl Foreign for Authorizer {
    fn type_name(&self) -> &str {
        AUTHORIZER
    }

    fn select(&self, field: &str) -> Option<Outcome> {
        (field == "requestResource").then(|| Ok(self.check(What::Resource(self.target.clone()))))
    }

    fn call(&self, function: &str, arguments: &[Val]) -> Outcome {
        match function {
            "path" => Ok(self.check(What::Path(text(arguments, 0)?))),
            "group" => {
                let target =
                    Target { group: text(arguments, 0)?, version: "*".to_owned(), ..Target::default() };
                Ok(self.check(What::Group(target)))
            }
            "serviceAccount" => {
                let (namespace, name) = (text(arguments, 0)?, text(arguments, 1)?);
                let user = rights::service_account(&namespace, &name);
                Ok(Val::Foreign(Arc::new(Authorizer { user, ..self.clone() })))
            }
            _ => Err(Fault::no_overload()),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
enum What {
    Path(String),
    Group(Target),
    Resource(Target),
}

/// A question that still lacks its verb.
#[derive(Debug, Clone)]
struct Check {
    authorizer: Authorizer,
    what: What,
}

impl Foreign for Check {
    fn type_name(&self) -> &str {
        match self.what {
            What::Path(_) => PATH,
            What::Group(_) => GROUP,
            What::Resource(_) => RESOURCE,
        }
    }

    fn select(&self, _: &str) -> Option<Outcome> {
        None
    }

    fn call(&self, function: &str, arguments: &[Val]) -> Outcome {
        let given = text(arguments, 0)?;
        let target = match (&self.what, function) {
            (What::Group(target), "resource") => Target { resource: given, ..target.clone() },
            (What::Resource(target), "subresource") => Target { subresource: Some(given), ..target.clone() },
            (What::Resource(target), "namespace") => Target { namespace: Some(given), ..target.clone() },
            (What::Resource(target), "name") => Target { name: Some(given), ..target.clone() },
            // Who may do something to all objects may do it to those that a selector selects; who may not, may not.
            (What::Resource(target), "fieldSelector" | "labelSelector") => target.clone(),
            (What::Path(_) | What::Resource(_), "check") => return Ok(self.decide(&given)),
            _ => return Err(Fault::no_overload()),
        };
        Ok(self.authorizer.check(What::Resource(target)))
    }
}

impl Check {
    fn decide(&self, verb: &str) -> Val {
        let Authorizer { registry, user, .. } = &self.authorizer;
        let decided = match &self.what {
            What::Path(path) => rights::may_use_path(registry, user, verb, path),
            What::Group(target) | What::Resource(target) => rights::may(registry, user, verb, target),
        };
        Val::Foreign(Arc::new(Decision { refused: decided.err().map(|status| status.message) }))
    }
}

/// What was decided.
#[derive(Debug)]
struct Decision {
    /// Why not; `None` when it is allowed.
    refused: Option<String>,
}

impl Foreign for Decision {
    fn type_name(&self) -> &str {
        DECISION
    }

    fn select(&self, _: &str) -> Option<Outcome> {
        None
    }

    fn call(&self, function: &str, _: &[Val]) -> Outcome {
        match function {
            "allowed" => Ok(Val::Bool(self.refused.is_none())),
            "reason" => Ok(Val::text(self.refused.as_deref().unwrap_or_default())),
            "errored" => Ok(Val::Bool(false)),
            "error" => Ok(Val::text("")),
            _ => Err(Fault::no_overload()),
        }
    }
}
