//! What a request asks for, as authorization sees it, and the words of a refusal.
//!
//! Sources: k8s.io/apiserver `pkg/endpoints/request/requestinfo.go` and
//! `pkg/endpoints/handlers/responsewriters/errors.go`.

use crate::api::request::{Action, Request, Target, User};
use crate::api::status::Status;

/// A verb and what it is to be done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `deletecollection`, `impersonate`, `use`, ...
    pub verb: &'a str,
    /// To what.
    pub asked: Asked<'a>,
}

/// What is asked for; whatever does not apply is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Objects.
    Resource {
        /// Empty for the core group.
        group: &'a str,
        /// The plural.
        resource: &'a str,
        /// `log`.
        subresource: &'a str,
        /// Where.
        namespace: &'a str,
        /// Which one.
        name: &'a str,
    },
    /// A path of the server that is about no objects.
    Path(&'a str),
}

impl<'a> Attributes<'a> {
    /// A verb on the objects that a request is about.
    pub fn of(target: &'a Target, verb: &'a str) -> Attributes<'a> {
        let text = |part: &'a Option<String>| part.as_deref().unwrap_or_default();
        let name = text(&target.name);
        // A namespace is an object in itself: who may read it there may ask for it.
        let namespace = if target.resource == "namespaces" && target.namespace.is_none() {
            name
        } else {
            text(&target.namespace)
        };
        let asked = Asked::Resource {
            group: &target.group,
            resource: &target.resource,
            subresource: text(&target.subresource),
            namespace,
            name,
        };
        Attributes { verb, asked }
    }

    /// A verb on a path.
    pub fn path(path: &'a str, verb: &'a str) -> Attributes<'a> {
        Attributes { verb, asked: Asked::Path(path) }
    }

    /// What a request that is already a value asks for.
    pub fn of_request(request: &'a Request) -> Attributes<'a> {
        Attributes::of(&request.target, verb_of(&request.action))
    }

    /// Another verb on the same.
    pub fn with_verb<'b>(&self, verb: &'b str) -> Attributes<'b>
    where
        'a: 'b,
    {
        Attributes { verb, asked: self.asked }
    }

    /// The same for the object of this name: a selection of one name asks for that object.
    pub fn named(self, selected: &'a str) -> Attributes<'a> {
        match self.asked {
            Asked::Resource { group, resource, subresource, namespace, name: "" } if !selected.is_empty() => {
                let asked = Asked::Resource { group, resource, subresource, namespace, name: selected };
                Attributes { asked, ..self }
            }
            _ => self,
        }
    }

    /// Where it is asked for; empty for the whole cluster.
    pub fn namespace(&self) -> &'a str {
        match self.asked {
            Asked::Resource { namespace, .. } => namespace,
            Asked::Path(_) => "",
        }
    }

    /// 403: this user may not do this, and perhaps why that could not be found out.
    pub fn forbidden(&self, user: &User, reason: &str) -> Status {
        let Attributes { verb, asked } = self;
        let who = &user.name;
        let (group, resource, name, why) = match asked {
            Asked::Path(path) => ("", "", "", format!("User {who:?} cannot {verb} path {path:?}")),
            Asked::Resource { group, resource, subresource, namespace, name } => {
                let within = if subresource.is_empty() { "" } else { "/" };
                let place = match *namespace {
                    "" => "at the cluster scope".to_owned(),
                    namespace => format!("in the namespace {namespace:?}"),
                };
                let why = format!(
                    "User {who:?} cannot {verb} resource \"{resource}{within}{subresource}\" in API group {group:?} \
                     {place}"
                );
                (*group, *resource, *name, why)
            }
        };
        let mut why = why.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        if !reason.is_empty() {
            why = format!("{why}: {reason}");
        }
        Status::forbidden(group, resource, name, &why)
    }
}

/// The verb of an action on objects.
fn verb_of(action: &Action) -> &'static str {
    match action {
        Action::Get { .. } => "get",
        Action::List(_) => "list",
        Action::Watch(_) => "watch",
        Action::Create(..) => "create",
        Action::Update(..) => "update",
        Action::Patch(..) => "patch",
        Action::Delete(_) => "delete",
        Action::DeleteCollection(..) => "deletecollection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_kubernetes() {
        let user = User { name: "system:serviceaccount:default:default".into(), ..User::default() };
        let target = |group: &str, resource: &str, namespace: &str, name: &str, subresource: &str| {
            let part = |text: &str| Some(text.to_owned()).filter(|t| !t.is_empty());
            Target {
                group: group.into(),
                version: "v1".into(),
                resource: resource.into(),
                namespace: part(namespace),
                name: part(name),
                subresource: part(subresource),
            }
        };
        let who = "User \"system:serviceaccount:default:default\" cannot";
        for (target, verb, expected) in [
            (
                target("", "pods", "default", "", ""),
                "list",
                format!(
                    "pods is forbidden: {who} list resource \"pods\" in API group \"\" in the namespace \"default\""
                ),
            ),
            (
                target("", "pods", "default", "www", "log"),
                "get",
                format!(
                    "pods \"www\" is forbidden: {who} get resource \"pods/log\" in API group \"\" in the namespace \
                     \"default\""
                ),
            ),
            (
                target("apps", "deployments", "", "", ""),
                "watch",
                format!(
                    "deployments.apps is forbidden: {who} watch resource \"deployments\" in API group \"apps\" at the \
                     cluster scope"
                ),
            ),
            (
                target("", "namespaces", "", "blue", ""),
                "get",
                format!(
                    "namespaces \"blue\" is forbidden: {who} get resource \"namespaces\" in API group \"\" in the \
                     namespace \"blue\""
                ),
            ),
        ] {
            assert_eq!(Attributes::of(&target, verb).forbidden(&user, "").message, expected);
        }
        let refused = Attributes::path("/metrics", "get").forbidden(&user, "RBAC: x");
        assert_eq!(refused.message, format!("forbidden: {who} get path \"/metrics\": RBAC: x"));
        let list = target("", "pods", "default", "", "");
        assert_eq!(Attributes::of(&list, "list").named("a").forbidden(&user, "").details.unwrap().name, "a");
    }
}
