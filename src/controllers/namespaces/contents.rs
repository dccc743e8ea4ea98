//! The collections that a namespace may hold, of this server and of those beside it (pure).

use serde_json::Value;

use crate::api::kinds::Kind;
use crate::api::request::Target;
use crate::controllers::elsewhere::{Elsewhere, Served};
use crate::controllers::kinds::{self, Kinds};

/// The objects of one kind, whoever serves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collection {
    pub group: String,
    pub version: String,
    pub plural: String,
    /// Whether its objects can be listed.
    pub lists: bool,
    /// Whether they can be deleted all at once.
    pub deletes_all: bool,
}

impl Collection {
    /// What of it is in a namespace.
    pub fn within(&self, namespace: &str) -> Target {
        Target {
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.plural.clone(),
            namespace: Some(namespace.to_owned()),
            ..Target::default()
        }
    }

    /// Whether it is pods: programs end before what they live on is taken from them.
    pub fn is_pods(&self) -> bool {
        self.group.is_empty() && self.plural == "pods"
    }
}

impl From<&Kind> for Collection {
    fn from(kind: &Kind) -> Collection {
        Collection {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            plural: kind.plural.to_string(),
            lists: kind.verbs.contains(&"list"),
            deletes_all: kind.verbs.contains(&"deletecollection"),
        }
    }
}

impl From<&Served<'_>> for Collection {
    fn from(kind: &Served<'_>) -> Collection {
        Collection {
            group: kind.group.to_owned(),
            version: kind.version.to_owned(),
            plural: kind.plural().to_owned(),
            lists: kind.can("list"),
            deletes_all: kind.can("deletecollection"),
        }
    }
}

/// All that a namespace may hold, and why that may not be all.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub collections: Vec<Collection>,
    /// The groups and versions of which nobody knows at the moment what is served of them.
    pub unknown: Vec<String>,
}

impl Contents {
    /// The kinds that are stored here, each once, and those that other servers serve according to discovery (an
    /// `APIGroupDiscoveryList`), in their preferred versions.
    pub fn of(kinds: &Kinds, discovery: &Value) -> Contents {
        let own = kinds.stored();
        let is_own = |group: &str, plural: &str| kinds::is_of(&own, group, plural);
        let namespaced = own.iter().filter(|kind| kind.namespaced);
        let mut contents =
            Contents { collections: namespaced.map(|kind| (&**kind).into()).collect(), unknown: Vec::new() };
        let others = Elsewhere::of(discovery, is_own);
        let namespaced = others.served.iter().filter(|kind| kind.is_namespaced() && kind.can("delete"));
        namespaced.for_each(|kind| contents.add(kind.into()));
        contents.unknown = others.stale;
        contents.unknown.sort();
        contents
    }

    /// Adds what is not there in another version already.
    fn add(&mut self, found: Collection) {
        let same = |known: &Collection| known.group == found.group && known.plural == found.plural;
        if !self.collections.iter().any(same) {
            self.collections.push(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shared_storage_is_emptied_once_and_cluster_kinds_stay() {
        let contents = Contents::of(&Kinds::built_in(), &Value::Null).collections;
        assert_eq!(contents.iter().filter(|found| found.plural == "events").count(), 1);
        assert!(contents.iter().any(Collection::is_pods) && contents.iter().all(|c| c.plural != "nodes"));
        assert!(contents.iter().all(|found| found.lists && found.deletes_all));
    }

    #[test]
    fn what_other_servers_serve_is_emptied_in_the_preferred_version() {
        let row = |resource: &str, scope: &str, verbs: &[&str]| json!({"resource": resource, "scope": scope, "verbs": verbs});
        let all = ["delete", "deletecollection", "list"];
        let discovery = json!({"items": [
            {"metadata": {"name": "events.k8s.io"}, "versions": [{"version": "v1", "freshness": "Current",
                "resources": [row("events", "Namespaced", &all)]}]},
            {"metadata": {"name": "wardle.io"}, "versions": [
                {"version": "v2", "freshness": "Current", "resources": [
                    row("flunders", "Namespaced", &all), row("fischers", "Cluster", &all),
                    row("looks", "Namespaced", &["get", "list"]), row("slow", "Namespaced", &["delete", "list"])]},
                {"version": "v1", "freshness": "Current", "resources": [row("flunders", "Namespaced", &all)]}]},
            {"metadata": {"name": "other.io"}, "versions": [
                {"version": "v1", "freshness": "Stale", "resources": [row("others", "Namespaced", &all)]}]},
        ]});
        let own = Contents::of(&Kinds::built_in(), &Value::Null).collections.len();
        let contents = Contents::of(&Kinds::built_in(), &discovery);
        let others: Vec<String> = contents.collections[own..]
            .iter()
            .map(|c| format!("{}.{}.{} {}", c.plural, c.version, c.group, c.deletes_all))
            .collect();
        assert_eq!(others, ["flunders.v2.wardle.io true", "slow.v2.wardle.io false"]);
        assert_eq!(contents.unknown, ["other.io/v1"]);
    }
}
