//! Which requests a webhook or a policy is about: rules, and selectors of namespaces and objects.
//!
//! Source: k8s.io/apiserver `pkg/admission/plugin/webhook/predicates` and `generic/webhook.go`.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::selector::LabelSelector;
use crate::api::status::Status;
use crate::apiserver::admission::{Attributes, Operation};
use crate::apiserver::custom::conversion;
use crate::apiserver::registry::{Registry, as_stored, value_as_served};
use crate::apiserver::strategy;

/// As what a request is put to somebody.
#[derive(Debug, Clone)]
pub struct Match {
    /// The kind of the objects: group, version and kind.
    pub kind: Value,
    /// Where they are served: group, version and plural.
    pub resource: Value,
    served: Arc<Kind>,
    /// As what it came.
    asked: Arc<Kind>,
    /// Whether the body is of the kind itself.
    whole: bool,
}

impl Match {
    /// The request as it came.
    pub fn exact(attributes: &Attributes<'_>) -> Match {
        Match::of(attributes, attributes.kind)
    }

    fn of(attributes: &Attributes<'_>, served: &Arc<Kind>) -> Match {
        let (group, version, kind) = attributes.body();
        let whole = kind == served.kind;
        let version = if whole { &*served.version } else { version };
        let group = if whole { &*served.group } else { group };
        Match {
            kind: json!({"group": group, "version": version, "kind": kind}),
            resource: json!({"group": served.group, "version": served.version, "resource": served.plural}),
            served: served.clone(),
            asked: attributes.kind.clone(),
            whole,
        }
    }

    /// The kind in whose version the objects are shown.
    pub fn kind(&self) -> &Kind {
        &self.served
    }

    /// The request with its objects as they are shown.
    pub async fn see(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Seen, Status> {
        Ok(Seen {
            found: self.clone(),
            object: self.shown(registry, object).await?,
            old: match attributes.old {
                Some(old) => self.shown(registry, old).await?,
                None => Value::Null,
            },
        })
    }

    /// An object in the version that it is shown in.
    async fn shown(&self, registry: &Registry, object: &Value) -> Result<Value, Status> {
        if object.is_null() || !self.whole {
            return Ok(object.clone());
        }
        if self.served.types.custom().is_none() {
            return Ok(value_as_served(&self.served, object.clone()));
        }
        conversion::in_version(registry, &self.served, object.clone()).await.map_err(unconverted)
    }

    /// An object that was changed as it was shown, in the form in which admission has it, with the defaults of its kind.
    /// A part of an object is what it is.
    pub async fn taken(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        mut object: Value,
    ) -> Result<Value, Status> {
        let is_object = attributes.subresource.is_empty();
        if self.whole && self.served.types.custom().is_some() {
            if is_object {
                strategy::of(&self.served).default(&mut object);
            }
            object = conversion::in_version(registry, &self.asked, object).await.map_err(unconverted)?;
        } else if self.whole {
            object = as_stored(&self.served, object);
        }
        if is_object {
            strategy::of(&self.asked).default(&mut object);
        }
        Ok(object)
    }
}

fn unconverted(status: Status) -> Status {
    Status::internal(status.message)
}

/// A request as somebody sees it, who may know its objects in another version than it came in.
pub struct Seen {
    /// As what it is put.
    pub found: Match,
    /// The object that it brings.
    pub object: Value,
    /// The object that there is.
    pub old: Value,
}

/// One rule: operations on resources.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
    /// The objects; empty for all.
    names: Vec<String>,
}

impl Rule {
    fn all(rules: &Value) -> Vec<Rule> {
        let texts = |rule: &Value, key: &str| {
            let texts = rule[key].as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        let read = |rule: &Value| Rule {
            operations: texts(rule, "operations"),
            groups: texts(rule, "apiGroups"),
            versions: texts(rule, "apiVersions"),
            resources: texts(rule, "resources"),
            scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
            names: texts(rule, "resourceNames"),
        };
        rules.as_array().into_iter().flatten().map(read).collect()
    }

    fn matches(&self, attributes: &Attributes<'_>, name: &str, served: &Kind) -> bool {
        let listed = |list: &[String], item: &str| list.iter().any(|one| one == "*" || one == item);
        let in_scope = match self.scope.as_str() {
            "Namespaced" => attributes.namespace.is_some(),
            "Cluster" => attributes.namespace.is_none(),
            _ => true,
        };
        let resource = |rule: &String| {
            let (resource, subresource) = rule.split_once('/').unwrap_or((rule, ""));
            (resource == "*" || resource == served.plural)
                && (subresource == "*" || subresource == attributes.subresource)
        };
        in_scope
            && listed(&self.operations, attributes.operation.name())
            && listed(&self.groups, &served.group)
            && listed(&self.versions, &served.version)
            && self.resources.iter().any(resource)
            && (self.names.is_empty() || self.names.iter().any(|one| one == name))
    }
}

/// What a webhook or a policy says of the requests that it is about.
pub struct Constraints {
    rules: Vec<Rule>,
    /// Requests that it is not about after all.
    excluded: Vec<Rule>,
    /// Whether no rules are no limits: so for policies, not for webhooks.
    open: bool,
    /// Whether other versions of the same objects are meant, too.
    equivalent: bool,
    namespaces: Result<LabelSelector, String>,
    objects: Result<LabelSelector, String>,
}

impl Constraints {
    /// Those of a webhook.
    pub fn of_webhook(webhook: &Value) -> Constraints {
        Constraints { rules: Rule::all(&webhook["rules"]), ..Constraints::read(webhook) }
    }

    /// The `matchConstraints` of a policy, or the `matchResources` of a binding.
    pub fn of_policy(constraints: &Value) -> Constraints {
        Constraints {
            rules: Rule::all(&constraints["resourceRules"]),
            excluded: Rule::all(&constraints["excludeResourceRules"]),
            open: true,
            ..Constraints::read(constraints)
        }
    }

    fn read(value: &Value) -> Constraints {
        let selector = |key: &str| match &value[key] {
            // Left out is everything, too.
            Value::Null => LabelSelector::parse(""),
            selector => LabelSelector::from_object(selector),
        };
        Constraints {
            rules: Vec::new(),
            excluded: Vec::new(),
            open: false,
            equivalent: value["matchPolicy"] != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// As what they are about a request; `None` when they are not.
    pub fn matches(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<Option<Match>, Status> {
        let Some(found) = self.by_rules(&registry.served().kinds(), attributes, object) else {
            return Ok(None);
        };
        Ok(self.selected(registry, attributes, object)?.then_some(found))
    }

    /// Whether the selectors select the request.
    fn selected(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<bool, Status> {
        let objects = self.objects.as_ref().map_err(Status::internal)?;
        let selects = |object: &Value| !object.is_null() && objects.matches(meta::labels(object));
        let old = attributes.old.unwrap_or(&Value::Null);
        if !objects.is_everything() && !selects(object) && !selects(old) {
            return Ok(false);
        }
        let namespaces = self.namespaces.as_ref().map_err(Status::internal)?;
        let name = attributes.namespace_seen(object);
        if namespaces.is_everything() || name.is_empty() {
            return Ok(true);
        }
        let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
        if attributes.is("", "namespaces") && writes {
            return Ok(namespaces.matches(meta::labels(object)));
        }
        match registry.store().get(&format!("namespaces/{name}")) {
            Some(entry) => Ok(namespaces.matches(meta::labels(entry.json()))),
            None => Err(Status::not_found("", "namespaces", name)),
        }
    }

    /// As what the rules are about a request: as it came, or as another version of the same objects.
    /// `kinds` are all that are served.
    pub fn by_rules(
        &self,
        kinds: &[Arc<Kind>],
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Option<Match> {
        let name = attributes.name_of(object);
        let hit = |rules: &[Rule], served: &Kind| rules.iter().any(|r| r.matches(attributes, name, served));
        if hit(&self.excluded, attributes.kind) {
            return None;
        }
        if hit(&self.rules, attributes.kind) || (self.open && self.rules.is_empty()) {
            return Some(Match::exact(attributes));
        }
        let others = equivalents(kinds, attributes.kind).filter(|_| self.equivalent);
        let mut others = others.filter(|other| !hit(&self.excluded, other));
        others.find(|other| hit(&self.rules, other)).map(|other| Match::of(attributes, other))
    }
}

/// The other groups and versions that serve the objects of a kind.
fn equivalents<'k>(kinds: &'k [Arc<Kind>], kind: &'k Kind) -> impl Iterator<Item = &'k Arc<Kind>> {
    kinds.iter().filter(move |other| {
        other.storage == kind.storage
            && other.plural == kind.plural
            && (other.group != kind.group || other.version != kind.version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::KINDS;
    use crate::apiserver::admission::testing::attributes;

    fn rule(change: Value) -> Constraints {
        let mut rule = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
        json_patch::merge(&mut rule, &change);
        Constraints::of_webhook(&json!({ "rules": [rule] }))
    }

    #[test]
    fn rules_choose_requests() {
        for (change, subresource, expected) in [
            (json!({}), "", true),
            (json!({}), "status", false),
            (json!({"resources": ["pods/*"]}), "status", true),
            (json!({"resources": ["pods/*"]}), "", true),
            (json!({"resources": ["*"]}), "", true),
            (json!({"resources": ["*"]}), "binding", false),
            (json!({"resources": ["*/*"]}), "binding", true),
            (json!({"resources": ["*/binding"]}), "binding", true),
            (json!({"operations": ["UPDATE", "DELETE"]}), "", false),
            (json!({"operations": ["*"]}), "", true),
            (json!({"apiGroups": ["apps"]}), "", false),
            (json!({"apiGroups": ["*"], "apiVersions": ["*"]}), "", true),
            (json!({"scope": "Cluster"}), "", false),
            (json!({"scope": "Namespaced"}), "", true),
        ] {
            let mut asked = attributes("", "pods", Operation::Create);
            asked.subresource = subresource;
            let found = rule(change.clone()).by_rules(&KINDS, &asked, &json!({"metadata": {"name": "p"}}));
            assert_eq!(found.is_some(), expected, "{change} {subresource}");
        }
    }

    #[test]
    fn other_versions_of_the_same_objects_are_meant_unless_said_otherwise() {
        let events = json!({"apiGroups": ["events.k8s.io"], "resources": ["events"]});
        let asked = attributes("", "events", Operation::Create);
        let found = rule(events.clone()).by_rules(&KINDS, &asked, &json!({})).unwrap();
        assert_eq!(found.kind, json!({"group": "events.k8s.io", "version": "v1", "kind": "Event"}));
        let mut exact = rule(events);
        exact.equivalent = false;
        assert!(exact.by_rules(&KINDS, &asked, &json!({})).is_none());
    }

    #[test]
    fn policies_can_leave_out_what_they_are_not_about() {
        let rule = |names: Value| json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "resourceNames": names});
        let constraints = Constraints::of_policy(
            &json!({"resourceRules": [rule(json!([]))], "excludeResourceRules": [rule(json!(["free"]))]}),
        );
        let asked = attributes("", "pods", Operation::Create);
        let named = |name: &str| constraints.by_rules(&KINDS, &asked, &json!({"metadata": {"name": name}}));
        assert!(named("other").is_some() && named("free").is_none());
    }
}
