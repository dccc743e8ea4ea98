//! One operation, before it takes the form of a version of OpenAPI.

use serde_json::{Value, json};

use super::parameter::{PRETTY, Parameter};
use crate::api::kinds::Kind;

/// The media types of objects.
pub(super) const OBJECTS: &[&str] = &["application/json", "application/yaml"];
/// Those of lists, which may also be watched.
pub(super) const LISTS: &[&str] = &["application/json", "application/json;stream=watch", "application/yaml"];
/// Those of patches.
pub(super) const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];
/// Those of patches of kinds that clients defined.
pub(super) const CUSTOM_PATCHES: &[&str] =
    &["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
pub(super) const ANYTHING: &[&str] = &["*/*"];
pub(super) const TEXT: &[&str] = &["text/plain", "application/json", "application/yaml"];

/// What is sent or answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// A value of a type of the document.
    Type(String),
    /// Text or a stream.
    Text,
}

/// A method on a path.
#[derive(Debug, Clone)]
pub(super) struct Operation {
    pub(super) path: String,
    pub(super) method: &'static str,
    pub(super) id: String,
    pub(super) tag: String,
    pub(super) description: String,
    /// `list`, `connect`, ...; empty for what is about no resource.
    pub(super) action: &'static str,
    /// The group, version and kind that it is about.
    pub(super) of: Option<Value>,
    pub(super) consumes: &'static [&'static str],
    pub(super) produces: &'static [&'static str],
    /// The body, and whether there must be one.
    pub(super) body: Option<(Content, bool)>,
    /// Status codes with what they answer.
    pub(super) answers: Vec<(u16, Content)>,
    pub(super) parameters: Vec<Parameter>,
}

impl Operation {
    /// The types that it names.
    pub(super) fn types(&self) -> impl Iterator<Item = String> {
        let contents =
            self.answers.iter().map(|(_, content)| content).chain(self.body.iter().map(|(c, _)| c));
        let names = contents.filter_map(|content| match content {
            Content::Type(name) => Some(name.clone()),
            Content::Text => None,
        });
        names.collect::<Vec<_>>().into_iter()
    }
}

/// A place in the API, about which operations are made.
pub(super) struct Place<'a> {
    pub(super) kind: &'a Kind,
    pub(super) path: String,
    /// What the path's own parameters are.
    pub(super) path_parameters: Vec<Parameter>,
    /// `Namespaced` or nothing, for names of operations.
    pub(super) scope: &'static str,
    /// The subresource, or nothing.
    pub(super) part: &'a str,
    /// What ends the names of operations: `ForAllNamespaces`.
    pub(super) suffix: &'static str,
    /// The group, version and kind that clients send and get here.
    pub(super) of: (&'a str, &'a str, &'a str),
}

impl Place<'_> {
    /// An operation here: `verb` begins its name, `what` comes before the kind in it, `plural` after it.
    pub(super) fn operation(
        &self,
        method: &'static str,
        action: &'static str,
        verb: &str,
        (what, plural): (&str, &str),
        description: String,
    ) -> Operation {
        let kind = &self.kind.kind;
        let rest = format!("{what}{}{kind}{}{plural}{}", self.scope, capitalized(self.part), self.suffix);
        let group = if self.kind.group.is_empty() { "core" } else { &self.kind.group };
        let (group, version, kind) = (group, &*self.kind.version, self.of);
        let (of_group, of_version, of_kind) = kind;
        Operation {
            path: self.path.clone(),
            method,
            id: operation_id(verb, group, version, &rest),
            tag: format!("{}_{}", identifier(trimmed(group), false), identifier(version, false)),
            description,
            action,
            of: Some(json!({"group": of_group, "version": of_version, "kind": of_kind})),
            consumes: ANYTHING,
            produces: OBJECTS,
            body: None,
            answers: Vec::new(),
            parameters: self.path_parameters.iter().copied().chain([PRETTY]).collect(),
        }
    }
}

/// `rbac.authorization` of `rbac.authorization.k8s.io`.
pub(super) fn trimmed(group: &str) -> &str {
    group.strip_suffix(".k8s.io").unwrap_or(group)
}

/// `readCoreV1NamespacedPod`: what clients that are generated call the operation.
pub(super) fn operation_id(verb: &str, group: &str, version: &str, rest: &str) -> String {
    let group = identifier(trimmed(group), true);
    format!("{verb}{group}{}{}", identifier(version, true), identifier(rest, true))
}

/// A text without what names cannot hold; the letter after such a thing is a capital.
pub(super) fn identifier(text: &str, capital: bool) -> String {
    let mut capital = capital;
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        let fits = c.is_alphabetic() || c == '_' || (i > 0 && c.is_numeric());
        if !fits {
            capital = true;
        } else if std::mem::take(&mut capital) {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// The same with its first letter as a capital.
pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// `a Pod`, `an Event`, and `Endpoints`, which are many.
pub(super) fn with_article(kind: &str) -> String {
    match kind.chars().next() {
        _ if kind.ends_with('s') && !kind.ends_with("ss") => kind.to_owned(),
        Some('A' | 'E' | 'I' | 'O' | 'U' | 'a' | 'e' | 'i' | 'o' | 'u') => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_clients_know() {
        for (verb, group, version, rest, id) in [
            ("read", "core", "v1", "NamespacedPod", "readCoreV1NamespacedPod"),
            (
                "delete",
                "apps",
                "v1",
                "CollectionNamespacedDeployment",
                "deleteAppsV1CollectionNamespacedDeployment",
            ),
            (
                "create",
                "rbac.authorization.k8s.io",
                "v1",
                "ClusterRole",
                "createRbacAuthorizationV1ClusterRole",
            ),
            ("list", "stable.example.com", "v1beta1", "CronTab", "listStableExampleComV1beta1CronTab"),
        ] {
            assert_eq!(operation_id(verb, group, version, rest), id);
        }
        assert_eq!(identifier("rbac.authorization", false), "rbacAuthorization");
        assert_eq!(
            ["Pod", "Event", "Endpoints", "IngressClass"].map(with_article).join(", "),
            "a Pod, an Event, Endpoints, an IngressClass"
        );
    }
}
