//! What admission sees of a request, as one value.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::request::{DeleteOptions, FieldValidation, User, WriteOptions};
use crate::api::status::Status;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Make an object, or something below one.
    Create,
    /// Change it.
    Update,
    /// Remove it.
    Delete,
    /// Talk to what stands behind it.
    Connect,
}

impl Operation {
    /// `CREATE`, as reviews and rules name it.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// The options that the client sent with the request.
#[derive(Debug, Clone, Copy)]
pub enum Options<'a> {
    /// Those of a create.
    Create(&'a WriteOptions),
    /// Those of a replace or a patch.
    Update(&'a WriteOptions),
    /// Those of a delete.
    Delete(&'a DeleteOptions),
    /// A conversation has none.
    None,
}

impl Options<'_> {
    /// Whether nothing is to be written.
    pub fn dry_run(&self) -> bool {
        match self {
            Options::Create(options) | Options::Update(options) => options.dry_run,
            Options::Delete(options) => options.dry_run,
            Options::None => false,
        }
    }

    /// As reviews show them.
    pub fn object(&self) -> Value {
        let mut object = match self {
            Options::Create(options) => written("CreateOptions", options),
            Options::Update(options) => written("UpdateOptions", options),
            Options::Delete(options) => deleted(options),
            Options::None => return Value::Null,
        };
        object["apiVersion"] = json!("meta.k8s.io/v1");
        if self.dry_run() {
            object["dryRun"] = json!(["All"]);
        }
        object
    }
}

fn written(kind: &str, options: &WriteOptions) -> Value {
    let mut object = json!({"kind": kind});
    if let Some(manager) = &options.field_manager {
        object["fieldManager"] = json!(manager);
    }
    object["fieldValidation"] = json!(match options.field_validation {
        FieldValidation::Ignore => "Ignore",
        FieldValidation::Warn => "Warn",
        FieldValidation::Strict => "Strict",
    });
    object
}

fn deleted(options: &DeleteOptions) -> Value {
    let mut object = json!({"kind": "DeleteOptions"});
    if let Some(seconds) = options.grace_period_seconds {
        object["gracePeriodSeconds"] = json!(seconds);
    }
    if let Some(policy) = &options.propagation_policy {
        object["propagationPolicy"] = json!(policy);
    }
    let (uid, version) = (&options.precondition_uid, &options.precondition_resource_version);
    for (field, value) in [("uid", uid), ("resourceVersion", version)] {
        if let Some(value) = value {
            object["preconditions"][field] = json!(value);
        }
    }
    object
}

/// A request as admission sees it, beside the object that it brings.
pub struct Attributes<'a> {
    /// What is to be done.
    pub operation: Operation,
    /// To an object of which kind, in the version that the request named.
    pub kind: &'a Arc<Kind>,
    /// To which part of it; empty for the object itself.
    pub subresource: &'a str,
    /// Where; `None` for cluster-scoped kinds.
    pub namespace: Option<&'a str>,
    /// To which object; empty when its name is not yet known.
    pub name: &'a str,
    /// The object as it is stored, when there is one.
    pub old: Option<&'a Value>,
    /// Who asks.
    pub user: &'a User,
    /// The options that came with it.
    pub options: Options<'a>,
    /// What the user is to be told though the request is let through.
    pub warnings: Vec<String>,
}

impl Attributes<'_> {
    /// Whether it is about objects of this kind themselves, and not about a part of one.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.kind.is(group, plural)
    }

    /// Whether nothing is to be written.
    pub fn dry_run(&self) -> bool {
        self.options.dry_run()
    }

    /// The group, version and kind of what the request brings: the object's own, or those of a part of it.
    pub fn body(&self) -> (&str, &str, &str) {
        let kind = self.kind;
        let own = (&*kind.group, &*kind.version);
        match kind.subresource(self.subresource) {
            Some(row) => {
                let (group, version) = row.group_version.unwrap_or(own);
                (group, version, &row.kind)
            }
            None => (own.0, own.1, &kind.kind),
        }
    }

    /// The name of the object as refusals give it: a name that is still to be made up is shown by its beginning.
    pub fn name_of<'o>(&'o self, object: &'o Value) -> &'o str {
        let names = [self.name, meta::name(object), meta::generate_name(object)];
        names.into_iter().find(|name| !name.is_empty()).unwrap_or("Unknown")
    }

    /// The namespace as rules and reviews see it: that of a namespace is the namespace itself.
    pub fn namespace_seen<'o>(&'o self, object: &'o Value) -> &'o str {
        if self.kind.is("", "namespaces") {
            return if self.name.is_empty() { meta::name(object) } else { self.name };
        }
        self.namespace.unwrap_or_default()
    }

    /// 403 for this object.
    pub fn forbidden(&self, object: &Value, why: &str) -> Status {
        Status::forbidden(&self.kind.group, &self.kind.plural, self.name_of(object), why)
    }
}
