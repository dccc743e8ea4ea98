//! A flow schema, ready to be asked whether a request is its own.
//!
//! Source: k8s.io/apiserver `pkg/util/flowcontrol/rule.go`.

use std::borrow::Cow;

use serde_json::Value;

use crate::api::meta;
use crate::api::request::User;
use crate::apiserver::auth::account_of;
use crate::apiserver::auth::attributes::{Asked, Attributes};
use crate::apiserver::strategy::value::items;

/// The precedence of a schema that names none.
const PRECEDENCE: i64 = 1000;

/// A flow schema.
#[derive(Debug)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its uid; empty as long as it is nowhere but here.
    pub uid: String,
    /// The priority level that it sorts into.
    pub level: String,
    precedence: i64,
    by: By,
    rules: Vec<Rule>,
}

/// What tells the flows of a schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Nothing,
    User,
    Namespace,
}

/// Subjects, and what they ask for.
#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<Paths>,
}

/// Who asks; `*` is everybody.
#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

#[derive(Debug)]
struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

#[derive(Debug)]
struct Paths {
    verbs: Vec<String>,
    urls: Vec<String>,
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    items(value, key).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether a list names this, or is `*` alone.
fn names(list: &[String], seek: &str) -> bool {
    matches!(list, [one] if one == "*") || list.iter().any(|one| one == seek)
}

impl Schema {
    /// Reads a `FlowSchema`.
    pub fn read(object: &Value) -> Schema {
        let spec = &object["spec"];
        Schema {
            name: meta::name(object).to_owned(),
            uid: meta::uid(object).to_owned(),
            level: spec["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default().to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(PRECEDENCE),
            by: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => By::User,
                Some("ByNamespace") => By::Namespace,
                _ => By::Nothing,
            },
            rules: items(spec, "rules").iter().map(Rule::read).collect(),
        }
    }

    /// By what schemas are ordered: the first one whose own a request is has it.
    pub fn rank(&self) -> (i64, &str) {
        (self.precedence, &self.name)
    }

    /// Whether a request is its own.
    pub fn matches(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, attributes))
    }

    /// With what a request shares its turns.
    pub fn flow(&self, user: &User, attributes: &Attributes<'_>) -> String {
        let of = match self.by {
            By::Nothing => "",
            By::User => &user.name,
            By::Namespace => attributes.namespace(),
        };
        format!("{}/{of}", self.name)
    }
}

impl Rule {
    fn read(rule: &Value) -> Rule {
        Rule {
            subjects: items(rule, "subjects").iter().filter_map(Subject::read).collect(),
            resources: items(rule, "resourceRules")
                .iter()
                .map(|rule| Resources {
                    verbs: texts(rule, "verbs"),
                    groups: texts(rule, "apiGroups"),
                    resources: texts(rule, "resources"),
                    namespaces: texts(rule, "namespaces"),
                    cluster: rule["clusterScope"] == true,
                })
                .collect(),
            paths: items(rule, "nonResourceRules")
                .iter()
                .map(|rule| Paths { verbs: texts(rule, "verbs"), urls: texts(rule, "nonResourceURLs") })
                .collect(),
        }
    }

    fn matches(&self, user: &User, attributes: &Attributes<'_>) -> bool {
        let verb = attributes.verb;
        self.subjects.iter().any(|subject| subject.is(user))
            && match attributes.asked {
                Asked::Path(path) => {
                    self.paths.iter().any(|rule| names(&rule.verbs, verb) && leads(&rule.urls, path))
                }
                Asked::Resource { group, resource, subresource, namespace, .. } => {
                    let part = match subresource {
                        "" => Cow::Borrowed(resource),
                        subresource => Cow::Owned(format!("{resource}/{subresource}")),
                    };
                    self.resources.iter().any(|rule| {
                        names(&rule.verbs, verb)
                            && names(&rule.groups, group)
                            && names(&rule.resources, &part)
                            && match namespace {
                                "" => rule.cluster,
                                namespace => names(&rule.namespaces, namespace),
                            }
                    })
                }
            }
    }
}

/// Whether URLs of a rule name a path: themselves, or what it lies below.
fn leads(urls: &[String], path: &str) -> bool {
    urls.iter().any(|url| {
        let above = url.trim_end_matches('*').trim_end_matches('/');
        url == "*" || url == path || path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'))
    })
}

impl Subject {
    fn read(subject: &Value) -> Option<Subject> {
        let text = |of: &Value, key: &str| of[key].as_str().map(str::to_owned);
        Some(match subject["kind"].as_str()? {
            "User" => Subject::User(text(&subject["user"], "name")?),
            "Group" => Subject::Group(text(&subject["group"], "name")?),
            "ServiceAccount" => {
                let account = &subject["serviceAccount"];
                Subject::Account { namespace: text(account, "namespace")?, name: text(account, "name")? }
            }
            _ => return None,
        })
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.groups.contains(name),
            Subject::Account { namespace, name } => account_of(&user.name)
                .is_some_and(|account| account.0 == namespace && (name == "*" || account.1 == name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_choose_requests() {
        let asked = |verb, group, resource, subresource, namespace| Attributes {
            verb,
            asked: Asked::Resource { group, resource, subresource, namespace, name: "" },
        };
        let pods = asked("list", "", "pods", "", "blue");
        let log = asked("get", "", "pods", "log", "blue");
        let nodes = asked("list", "", "nodes", "", "");
        let subject = json!({"kind": "User", "user": {"name": "jane"}});
        let resources = |change: Value| {
            let mut rule =
                json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]});
            json_patch::merge(&mut rule, &change);
            json!({"subjects": [subject], "resourceRules": [rule]})
        };
        let paths = |url: &str| json!({"subjects": [subject], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": [url]}]});
        let user = User { name: "jane".into(), groups: vec!["dev".into()], ..User::default() };
        let account = User { name: "system:serviceaccount:blue:robot".into(), ..User::default() };
        let by = |subject: Value| {
            let mut rule = resources(json!({}));
            rule["subjects"] = json!([subject]);
            rule
        };
        let of = |namespace: &str, name: &str| {
            by(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}}))
        };
        for (rule, user, attributes, expected) in [
            (resources(json!({})), &user, pods, true),
            (resources(json!({})), &account, pods, false),
            (resources(json!({})), &user, nodes, false),
            (resources(json!({"clusterScope": true})), &user, nodes, true),
            (resources(json!({"verbs": ["get", "list"]})), &user, pods, true),
            (resources(json!({"verbs": ["get"]})), &user, pods, false),
            (resources(json!({"apiGroups": ["apps"]})), &user, pods, false),
            (resources(json!({"resources": ["pods"]})), &user, pods, true),
            (resources(json!({"resources": ["pods"]})), &user, log, false),
            (resources(json!({"resources": ["pods/log"]})), &user, log, true),
            (resources(json!({"resources": ["pods/log"]})), &user, pods, false),
            (resources(json!({})), &user, log, true),
            (resources(json!({"namespaces": ["red"]})), &user, pods, false),
            (resources(json!({"namespaces": ["red", "blue"]})), &user, pods, true),
            (resources(json!({})), &user, Attributes::path("/version", "get"), false),
            (paths("*"), &user, Attributes::path("/version", "get"), true),
            (paths("/healthz"), &user, Attributes::path("/healthz", "get"), true),
            (paths("/healthz"), &user, Attributes::path("/healthz/ping", "get"), true),
            (paths("/healthz/*"), &user, Attributes::path("/healthz/ping", "get"), true),
            (paths("/healthz"), &user, Attributes::path("/healthzz", "get"), false),
            (paths("/healthz"), &user, Attributes::path("/healthz", "post"), false),
            (by(json!({"kind": "Group", "group": {"name": "dev"}})), &user, pods, true),
            (by(json!({"kind": "Group", "group": {"name": "ops"}})), &user, pods, false),
            (by(json!({"kind": "User", "user": {"name": "*"}})), &account, pods, true),
            (of("blue", "robot"), &account, pods, true),
            (of("blue", "*"), &account, pods, true),
            (of("red", "*"), &account, pods, false),
            (of("blue", "*"), &user, pods, false),
        ] {
            let schema = Schema::read(&json!({"metadata": {"name": "s"}, "spec": {"rules": [rule]}}));
            assert_eq!(schema.matches(user, &attributes), expected, "{rule} {} {attributes:?}", user.name);
        }
    }
}
