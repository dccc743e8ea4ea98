//! The collections that a namespace may hold, of this server and of those beside it (pure).

use serde_json::Value;

use crate::api::kinds::{KINDS, Kind};
use crate::api::request::Target;
use crate::controllers::kinds::Kinds;

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
        let is_own = |group: &str, plural: &str| {
            KINDS.iter().chain(&own).any(|kind| kind.group == group && kind.plural == plural)
        };
        let namespaced = own.iter().filter(|kind| kind.namespaced);
        let mut contents =
            Contents { collections: namespaced.map(|kind| (&**kind).into()).collect(), unknown: Vec::new() };
        for item in list(&discovery["items"]) {
            let group = text(&item["metadata"]["name"]);
            for served in list(&item["versions"]) {
                let version = text(&served["version"]);
                if served["freshness"] == "Stale" {
                    contents.unknown.push(format!("{group}/{version}"));
                    continue;
                }
                let others = list(&served["resources"]).filter(|row| !is_own(group, text(&row["resource"])));
                others
                    .filter_map(|row| collection(group, version, row))
                    .for_each(|found| contents.add(found));
            }
        }
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

/// A row of discovery whose objects are in namespaces and can be deleted.
fn collection(group: &str, version: &str, row: &Value) -> Option<Collection> {
    let can = |verb: &str| list(&row["verbs"]).any(|known| known == verb);
    (row["scope"] == "Namespaced" && can("delete")).then(|| Collection {
        group: group.to_owned(),
        version: version.to_owned(),
        plural: text(&row["resource"]).to_owned(),
        lists: can("list"),
        deletes_all: can("deletecollection"),
    })
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
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
