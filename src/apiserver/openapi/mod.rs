//! OpenAPI documents, made from the kinds that are served and the embedded types.
//!
//! kubectl reads them before it writes and for `explain`; client generators and dynamic clients read all of them.
//! Names and forms are those of k8s.io/apiserver `pkg/endpoints/installer.go` and k8s.io/kube-openapi.

mod custom;
mod form;
mod operation;
pub mod others;
mod parameter;
mod paths;
pub mod protobuf;
mod types;

use std::sync::Arc;

use serde_json::{Map, Value, json};

use self::form::Form;
use self::operation::Operation;
use self::types::Types;
use super::discovery;
use crate::api::kinds::Kind;
use crate::api::version;

/// The documents of version 3, as `/openapi/v3` lists them: `api`, `api/v1`, `apis/apps`, `apis/apps/v1`.
pub fn names(kinds: &[Arc<Kind>]) -> Vec<String> {
    let fixed = [".well-known/openid-configuration", "api", "apis", "openid/v1/jwks", "version"];
    let mut names = fixed.map(str::to_owned).to_vec();
    for (group, version) in discovery::group_versions(kinds) {
        if group.is_empty() {
            names.push(format!("api/{version}"));
        } else {
            names.push(format!("apis/{group}"));
            names.push(format!("apis/{group}/{version}"));
        }
    }
    names.sort();
    names.dedup();
    names
}

/// What documents are made of. It is large: made for some documents, and dropped after them.
pub struct Source<'a> {
    kinds: &'a [Arc<Kind>],
    types: Types<'a>,
}

impl<'a> Source<'a> {
    /// Reads the types for documents about these kinds.
    pub fn new(kinds: &'a [Arc<Kind>]) -> Source<'a> {
        Source { kinds, types: Types::new(kinds) }
    }

    /// A document of version 3; `name` is one of [`names`].
    pub fn v3(&self, name: &str) -> Value {
        let operations = paths::of_document(self.kinds, name);
        let own = |kind: &&Arc<Kind>| name == paths::root(kind).trim_start_matches('/');
        let kinds = self.kinds.iter().filter(own).map(|kind| types::name(kind));
        let schemas = self.types.closure(kinds.chain(named(&operations)), Form::V3);
        json!({
            "openapi": "3.0.0",
            "info": info(),
            "paths": Form::V3.paths(&operations),
            "components": {
                "schemas": Form::V3.schemas(schemas),
                "securitySchemes": {"BearerToken": bearer_token()},
            },
        })
    }

    /// `/openapi/v2`: everything in one document, in the older form.
    pub fn v2(&self) -> Value {
        let names = names(self.kinds).into_iter();
        let operations: Vec<Operation> =
            names.flat_map(|name| paths::of_document(self.kinds, &name)).collect();
        let kinds = self.kinds.iter().map(|kind| types::name(kind));
        let definitions = self.types.closure(kinds.chain(named(&operations)), Form::V2);
        json!({
            "swagger": "2.0",
            "info": info(),
            "paths": Form::V2.paths(&operations),
            "definitions": Form::V2.schemas(definitions),
            "securityDefinitions": {"BearerToken": bearer_token()},
            "security": [{"BearerToken": []}],
        })
    }
}

/// The types that operations name.
fn named(operations: &[Operation]) -> impl Iterator<Item = String> {
    operations.iter().flat_map(Operation::types)
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": version::KUBERNETES})
}

fn bearer_token() -> Map<String, Value> {
    let fields = [
        ("type", "apiKey"),
        ("description", "The token of a user or service account, after the word Bearer."),
        ("name", "authorization"),
        ("in", "header"),
    ];
    fields.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

#[cfg(test)]
mod tests;
