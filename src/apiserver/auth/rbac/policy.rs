//! All roles and bindings of a cluster, arranged so that a request looks only at those of its user.
//!
//! Source of the rules: Kubernetes `pkg/registry/rbac/validation/rule.go`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::rules::{self, Rule};
use crate::api::request::User;
use crate::api::{meta, status};
use crate::apiserver::auth::account_user;
use crate::apiserver::auth::attributes::Attributes;

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Which of the four kinds an object is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    /// `Role` and `ClusterRole`.
    Role,
    /// `RoleBinding` and `ClusterRoleBinding`.
    Binding,
}

/// The role that a binding gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRef {
    /// `Role` or `ClusterRole`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl RoleRef {
    /// The `roleRef` of a binding.
    pub fn of(binding: &Value) -> RoleRef {
        let text = |key: &str| binding["roleRef"][key].as_str().unwrap_or_default().to_owned();
        RoleRef { kind: text("kind"), name: text("name") }
    }
}

/// One to whom a binding gives its role.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// The name and namespace as they stand there, and the user name of the account.
    Account {
        name: String,
        namespace: String,
        user: String,
    },
}

impl Subject {
    fn read(subject: &Value, binding_namespace: &str) -> Option<Subject> {
        let text = |key: &str| subject[key].as_str().unwrap_or_default().to_owned();
        let name = text("name");
        match subject["kind"].as_str()? {
            "User" => Some(Subject::User(name)),
            "Group" => Some(Subject::Group(name)),
            "ServiceAccount" => {
                let given = text("namespace");
                let namespace = if given.is_empty() { binding_namespace.to_owned() } else { given };
                let user = account_user(&namespace, &name);
                (!namespace.is_empty()).then_some(Subject::Account { name, namespace, user })
            }
            _ => None,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Subject::User(name) | Subject::Account { user: name, .. } => *name == user.name,
            Subject::Group(name) => user.groups.contains(name),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::User(name) => write!(f, "User {name:?}"),
            Subject::Group(name) => write!(f, "Group {name:?}"),
            Subject::Account { name, namespace, .. } => {
                write!(f, "ServiceAccount {:?}", format!("{name}/{namespace}"))
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Binding {
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// Bindings by their names.
type Bindings = BTreeMap<String, Arc<Binding>>;

/// The roles and bindings of one namespace, or those of the whole cluster.
#[derive(Debug, Default)]
struct Scope {
    roles: HashMap<String, Vec<Rule>>,
    bindings: Bindings,
    /// The same bindings by the users that they name, accounts among them.
    of_users: HashMap<String, Bindings>,
    of_groups: HashMap<String, Bindings>,
}

impl Scope {
    fn set_binding(&mut self, name: &str, binding: Option<Binding>) {
        if let Some(old) = self.bindings.remove(name) {
            for subject in &old.subjects {
                let (index, key) = self.index_of(subject);
                if let Some(bindings) = index.get_mut(key) {
                    bindings.remove(name);
                    if bindings.is_empty() {
                        index.remove(key);
                    }
                }
            }
        }
        let Some(new) = binding.map(Arc::new) else { return };
        for subject in &new.subjects {
            let (index, key) = self.index_of(subject);
            index.entry(key.to_owned()).or_default().insert(name.to_owned(), new.clone());
        }
        self.bindings.insert(name.to_owned(), new);
    }

    fn index_of<'a>(&mut self, subject: &'a Subject) -> (&mut HashMap<String, Bindings>, &'a str) {
        match subject {
            Subject::User(name) | Subject::Account { user: name, .. } => (&mut self.of_users, name),
            Subject::Group(name) => (&mut self.of_groups, name),
        }
    }

    /// The bindings that name this user or a group of theirs; one that names both comes twice.
    fn bindings_of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = (&'a str, &'a Arc<Binding>)> {
        let groups = user.groups.iter().filter_map(|group| self.of_groups.get(group));
        let all = self.of_users.get(&user.name).into_iter().chain(groups);
        all.flatten().map(|(name, binding)| (name.as_str(), binding))
    }

    fn is_empty(&self) -> bool {
        self.roles.is_empty() && self.bindings.is_empty()
    }
}

/// A binding that applies to a user, as reasons tell it.
pub struct Applied<'a> {
    namespace: &'a str,
    name: &'a str,
    binding: &'a Binding,
    user: &'a User,
}

impl fmt::Display for Applied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RoleRef { kind, name } = &self.binding.role;
        match self.namespace {
            "" => write!(f, "ClusterRoleBinding {:?} of {kind} {name:?}", self.name)?,
            namespace => {
                let binding = format!("{}/{namespace}", self.name);
                write!(f, "RoleBinding {binding:?} of {kind} {name:?}")?;
            }
        }
        match self.binding.subjects.iter().find(|subject| subject.is(self.user)) {
            Some(subject) => write!(f, " to {subject}"),
            None => Ok(()),
        }
    }
}

/// Everything that is known of who may do what. Namespaces without roles and bindings are not in it; the name of the
/// whole cluster is empty.
#[derive(Debug, Default)]
pub struct Policy(HashMap<String, Scope>);

impl Policy {
    /// Takes in an object that was made or changed, or its absence (`None`).
    pub fn set(&mut self, sort: Sort, namespace: &str, name: &str, object: Option<&Value>) {
        let scope = self.0.entry(namespace.to_owned()).or_default();
        match (sort, object) {
            (Sort::Role, Some(role)) => {
                scope.roles.insert(name.to_owned(), Rule::read_all(role));
            }
            (Sort::Role, None) => {
                scope.roles.remove(name);
            }
            (Sort::Binding, object) => {
                let read = |binding: &Value| {
                    let subjects = binding["subjects"].as_array().into_iter().flatten();
                    let subjects = subjects.filter_map(|subject| Subject::read(subject, namespace)).collect();
                    Binding { role: RoleRef::of(binding), subjects }
                };
                scope.set_binding(name, object.map(read));
            }
        }
        if scope.is_empty() {
            self.0.remove(namespace);
        }
    }

    /// The rules of the role that a binding in this namespace (empty: of the cluster) gives; or that it is not there, in
    /// the words of whoever looks it up.
    pub fn rules_of(&self, role: &RoleRef, namespace: &str) -> Result<&[Rule], Missing> {
        let scope = match role.kind.as_str() {
            "Role" => namespace,
            "ClusterRole" => "",
            _ => return Err(Missing(role.clone())),
        };
        let found = self.0.get(scope).and_then(|scope| scope.roles.get(&role.name));
        found.map(Vec::as_slice).ok_or_else(|| Missing(role.clone()))
    }

    fn applied<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = Applied<'a>> {
        let scopes = [Some(""), Some(namespace).filter(|n| !n.is_empty())].into_iter().flatten();
        let scopes = scopes.filter_map(|namespace| Some((namespace, self.0.get(namespace)?)));
        scopes.flat_map(move |(namespace, scope)| {
            let of = move |(name, binding): (&'a str, &'a Arc<Binding>)| Applied {
                namespace,
                name,
                binding: binding.as_ref(),
                user,
            };
            scope.bindings_of(user).map(of)
        })
    }

    /// Which binding lets this user do this; or what could not be looked up on the way to finding none.
    pub fn allowed<'a>(
        &'a self,
        user: &'a User,
        attributes: &Attributes<'a>,
    ) -> Result<Applied<'a>, Vec<Missing>> {
        let mut missing = Vec::new();
        for applied in self.applied(user, attributes.namespace()) {
            match self.rules_of(&applied.binding.role, applied.namespace) {
                Ok(rules) if rules.iter().any(|rule| rule.allows(attributes)) => return Ok(applied),
                Ok(_) => {}
                Err(unknown) if missing.contains(&unknown) => {}
                Err(unknown) => missing.push(unknown),
            }
        }
        Err(missing)
    }

    /// All rules that apply to a user in a namespace (empty: in the cluster), and what could not be looked up.
    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<Missing>) {
        let applied: BTreeMap<(&str, &str), Applied<'_>> =
            self.applied(user, namespace).map(|a| ((a.namespace, a.name), a)).collect();
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        for applied in applied.values() {
            match self.rules_of(&applied.binding.role, applied.namespace) {
                Ok(more) => rules.extend(more.iter().cloned()),
                Err(unknown) => missing.push(unknown),
            }
        }
        (rules, missing)
    }

    /// Refuses to let a user give away rules that they have not themselves; says what is missing.
    pub fn holds(&self, user: &User, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
        let (held, unknown) = self.rules_for(user, namespace);
        let missing = rules::missing(&held, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let mut why = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            rules::quoted(&user.groups),
            rules::told(&missing).join("\n")
        );
        if !unknown.is_empty() {
            why.push_str(&format!("; resolution errors: [{}]", status::together(&unknown)));
        }
        Err(why)
    }
}

/// A role that a binding names and that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(RoleRef);

impl Missing {
    /// 404 for a request that needs it.
    pub fn not_found(&self) -> status::Status {
        let plural = if self.0.kind == "ClusterRole" { "clusterroles" } else { "roles" };
        status::Status::not_found(GROUP, plural, &self.0.name)
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RoleRef { kind, name } = &self.0;
        match kind.as_str() {
            "Role" | "ClusterRole" => write!(f, "{}.{GROUP} {name:?} not found", kind.to_lowercase()),
            _ => write!(f, "unsupported role reference kind: {kind:?}"),
        }
    }
}

/// Which of the four kinds is meant by a plural, and whether its objects are in namespaces.
pub fn sort_of(plural: &str) -> Option<(Sort, bool)> {
    Some(match plural {
        "roles" => (Sort::Role, true),
        "clusterroles" => (Sort::Role, false),
        "rolebindings" => (Sort::Binding, true),
        "clusterrolebindings" => (Sort::Binding, false),
        _ => return None,
    })
}

/// Takes in the object at a key of the store; keys of other kinds change nothing.
pub fn take(policy: &mut Policy, key: &str, object: Option<&Value>) {
    let Some((plural, rest)) = key.split_once('/') else { return };
    let Some((sort, namespaced)) = sort_of(plural) else { return };
    let (namespace, name) = if namespaced { rest.split_once('/').unwrap_or(("", rest)) } else { ("", rest) };
    debug_assert!(object.is_none_or(|object| meta::name(object) == name));
    policy.set(sort, namespace, name, object);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::auth::attributes::Asked;
    use serde_json::json;

    fn role(verbs: &[&str], resources: &[&str]) -> Value {
        json!({"rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources}]})
    }

    fn binding(kind: &str, role: &str, subjects: Value) -> Value {
        json!({"roleRef": {"kind": kind, "name": role}, "subjects": subjects})
    }

    fn user(name: &str, groups: &[&str]) -> User {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        User { name: name.to_owned(), groups, ..User::default() }
    }

    fn may(
        policy: &Policy,
        user: &User,
        verb: &str,
        namespace: &str,
        resource: &str,
    ) -> Result<String, String> {
        let asked = Asked::Resource { group: "", resource, subresource: "", namespace, name: "" };
        let allowed = policy.allowed(user, &Attributes { verb, asked });
        allowed.map(|by| by.to_string()).map_err(|missing| status::together(&missing))
    }

    #[test]
    fn bindings_reach_their_subjects_in_their_scope() {
        let mut policy = Policy::default();
        policy.set(Sort::Role, "", "reader", Some(&role(&["get", "list"], &["pods"])));
        policy.set(Sort::Role, "blue", "writer", Some(&role(&["create"], &["pods"])));
        let group = json!([{"kind": "Group", "name": "devs"}]);
        policy.set(Sort::Binding, "", "all", Some(&binding("ClusterRole", "reader", group)));
        let accounts = json!([{"kind": "ServiceAccount", "name": "robot"},
            {"kind": "ServiceAccount", "name": "robot", "namespace": "red"}, {"kind": "User", "name": "jane"}]);
        policy.set(Sort::Binding, "blue", "some", Some(&binding("Role", "writer", accounts)));
        let (jane, dev) = (user("jane", &["devs"]), user("x", &["devs"]));
        let (blue, red) =
            (user("system:serviceaccount:blue:robot", &[]), user("system:serviceaccount:red:robot", &[]));
        for (user, verb, namespace, allowed) in [
            (
                &dev,
                "list",
                "",
                Some("ClusterRoleBinding \"all\" of ClusterRole \"reader\" to Group \"devs\""),
            ),
            (
                &dev,
                "list",
                "blue",
                Some("ClusterRoleBinding \"all\" of ClusterRole \"reader\" to Group \"devs\""),
            ),
            (&dev, "create", "blue", None),
            (&jane, "create", "blue", Some("RoleBinding \"some/blue\" of Role \"writer\" to User \"jane\"")),
            (&jane, "create", "red", None),
            (&jane, "create", "", None),
            (
                &blue,
                "create",
                "blue",
                Some("RoleBinding \"some/blue\" of Role \"writer\" to ServiceAccount \"robot/blue\""),
            ),
            (
                &red,
                "create",
                "blue",
                Some("RoleBinding \"some/blue\" of Role \"writer\" to ServiceAccount \"robot/red\""),
            ),
            (&red, "list", "blue", None),
        ] {
            let by = may(&policy, user, verb, namespace, "pods");
            assert_eq!(by.ok().as_deref(), allowed, "{} {verb} {namespace}", user.name);
        }
        assert_eq!(policy.rules_for(&jane, "blue").0.len(), 2);
        // A role in a binding of a namespace is that of the namespace.
        policy.set(Sort::Role, "blue", "writer", None);
        let refused = may(&policy, &blue, "create", "blue", "pods").unwrap_err();
        assert_eq!(refused, "role.rbac.authorization.k8s.io \"writer\" not found");
        policy.set(Sort::Binding, "blue", "some", None);
        assert_eq!(may(&policy, &blue, "create", "blue", "pods").unwrap_err(), "[]");
        assert_eq!(policy.0.len(), 1, "a namespace without roles and bindings is forgotten");
        policy.set(Sort::Binding, "", "all", Some(&binding("ClusterRole", "reader", json!([]))));
        assert!(may(&policy, &dev, "list", "", "pods").is_err());
    }

    #[test]
    fn nobody_gives_away_more_than_they_have() {
        let mut policy = Policy::default();
        policy.set(Sort::Role, "", "reader", Some(&role(&["get"], &["pods"])));
        let jane = json!([{"kind": "User", "name": "jane"}]);
        policy.set(Sort::Binding, "blue", "b", Some(&binding("ClusterRole", "reader", jane)));
        let jane = user("jane", &["system:authenticated"]);
        let rules = |verbs: &[&str]| Rule::read_all(&role(verbs, &["pods"]));
        assert_eq!(policy.holds(&jane, "blue", &rules(&["get"])), Ok(()));
        assert_eq!(
            policy.holds(&jane, "red", &rules(&["get", "list"])).unwrap_err(),
            "user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
             held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"get\" \"list\"]}"
        );
    }

    #[test]
    fn keys_of_the_store_tell_what_changed() {
        let mut policy = Policy::default();
        let named = |name: &str| json!({"metadata": {"name": name}, "rules": []});
        take(&mut policy, "clusterroles/system:node", Some(&named("system:node")));
        take(&mut policy, "roles/kube-system/a", Some(&named("a")));
        take(&mut policy, "pods/default/www", Some(&named("www")));
        assert!(
            policy.0[""].roles.contains_key("system:node") && policy.0["kube-system"].roles.contains_key("a")
        );
        assert_eq!(policy.0.len(), 2);
    }
}
