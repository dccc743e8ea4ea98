//! What is served, as clients discover it: the legacy documents and the aggregated one.
//!
//! Everything here is made from the table of kinds. Versions that Kubernetes has removed are in the aggregated document, and in
//! the legacy ones for kubectl alone, without verbs: kubectl finds the paths of such manifests by them, and whoever walks
//! through all kinds (`kubectl api-resources`, collectors, backups) passes over what knows no verb. Other clients of the legacy
//! documents would take a kind of two groups for ambiguous.

use std::sync::Arc;

use serde_json::{Value, json};

use super::reviews::{REVIEWS, Review};
use crate::api::kinds::{Kind, Subresource, Text};

/// A group and version that is served.
type GroupVersion = (Text, Text);

/// Who is told of the versions that Kubernetes has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Told, by whatever document it asks for.
    Kubectl,
    /// Not told by the legacy ones.
    Other,
}

impl Asker {
    /// Who has this `User-Agent`, which begins with the name of the program's file: `kubectl`, or `kubectl-1.30`. (pure)
    pub fn of(agent: &str) -> Asker {
        if agent.starts_with("kubectl/") || agent.starts_with("kubectl-") {
            Asker::Kubectl
        } else {
            Asker::Other
        }
    }

    fn group_versions(self, kinds: &[Arc<Kind>]) -> Vec<GroupVersion> {
        match self {
            Asker::Kubectl => group_versions(kinds),
            Asker::Other => current_group_versions(kinds),
        }
    }
}

/// Groups with the versions that Kubernetes serves today, in the order of the table, the core group first.
pub fn current_group_versions(kinds: &[Arc<Kind>]) -> Vec<GroupVersion> {
    group_versions(&current(kinds))
}

/// The verbs that are told of a kind: of a removed version none.
fn verbs(kind: &Kind) -> &'static [&'static str] {
    if kind.is_removed() { &[] } else { kind.verbs }
}

fn current(kinds: &[Arc<Kind>]) -> Vec<Arc<Kind>> {
    kinds.iter().filter(|kind| !kind.is_removed()).cloned().collect()
}

/// All groups with their versions in the order of the table, the core group first.
pub fn group_versions(kinds: &[Arc<Kind>]) -> Vec<GroupVersion> {
    let reviews = REVIEWS.iter().map(|review| (Text::from(review.group), Text::from("v1")));
    let served = kinds.iter().map(|k| (k.group.clone(), k.version.clone()));
    let mut all: Vec<GroupVersion> = Vec::new();
    for group_version in served.chain(reviews) {
        if !all.contains(&group_version) {
            all.push(group_version);
        }
    }
    all.sort_by_key(|(group, _)| !group.is_empty());
    all
}

fn named((group, version): &GroupVersion) -> String {
    if group.is_empty() { version.to_string() } else { format!("{group}/{version}") }
}

/// `/api`.
pub fn core_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `/apis`.
pub fn group_list(kinds: &[Arc<Kind>], asker: Asker) -> Value {
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups(kinds, asker)})
}

fn groups(kinds: &[Arc<Kind>], asker: Asker) -> Vec<Value> {
    let mut groups: Vec<Value> = Vec::new();
    for group_version in &asker.group_versions(kinds) {
        let (group, version) = group_version;
        if group.is_empty() {
            continue;
        }
        let entry = json!({"groupVersion": named(group_version), "version": version});
        match groups.iter_mut().find(|g| g["name"] == **group) {
            Some(known) => {
                if let Some(versions) = known["versions"].as_array_mut() {
                    versions.push(entry);
                }
            }
            None => {
                groups.push(json!({"name": group, "versions": [entry], "preferredVersion": entry}));
            }
        }
    }
    groups
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub fn resources(kinds: &[Arc<Kind>], group: &str, version: &str, asker: Asker) -> Option<Value> {
    let mut known = asker.group_versions(kinds).into_iter();
    let group_version = known.find(|known| known.0 == group && known.1 == version)?;
    let mut list = Vec::new();
    for kind in of(kinds, group, version) {
        let mut row = json!({"name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced,
            "kind": kind.kind, "verbs": verbs(kind)});
        // What is never stored has no stored version.
        if !kind.storage.is_empty() {
            row["storageVersionHash"] = json!(storage_hash(kind));
        }
        if !kind.short_names.is_empty() {
            row["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            row["categories"] = json!(kind.categories);
        }
        list.push(row);
        for sub in &kind.subresources {
            let mut row = json!({"name": format!("{}/{}", kind.plural, sub.name), "singularName": "",
                "namespaced": kind.namespaced, "kind": sub.kind, "verbs": sub.verbs});
            if let Some((group, version)) = sub.group_version {
                row["group"] = json!(group);
                row["version"] = json!(version);
            }
            list.push(row);
        }
    }
    for Review { plural, kind, namespaced, .. } in reviews(group, version) {
        list.push(
            json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind,
            "verbs": ["create"]}),
        );
    }
    Some(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": named(&group_version), "resources": list}),
    )
}

/// A short fingerprint of what a kind is stored as, in the form that clients expect.
fn storage_hash(kind: &Kind) -> String {
    use base64::Engine;
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(format!("{}/{}/{}", kind.group, kind.version, kind.kind));
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// `apidiscovery.k8s.io/v2` of the core group (`/api`) or of all others (`/apis`).
pub fn aggregated(kinds: &[Arc<Kind>], core: bool) -> Value {
    let mut items: Vec<Value> = Vec::new();
    for (group, version) in group_versions(kinds).iter().filter(|(group, _)| group.is_empty() == core) {
        let resources = aggregated_rows(kinds, group, version);
        let served = json!({"version": version, "freshness": "Current", "resources": resources});
        match items.iter_mut().find(|i| i["metadata"]["name"] == **group || (core && group.is_empty())) {
            Some(item) => {
                if let Some(versions) = item["versions"].as_array_mut() {
                    versions.push(served);
                }
            }
            None if core => {
                items.push(json!({"metadata": {"creationTimestamp": null}, "versions": [served]}))
            }
            None => items
                .push(json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": [served]})),
        }
    }
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

/// The kinds of one group and version.
fn of<'a>(kinds: &'a [Arc<Kind>], group: &str, version: &str) -> impl Iterator<Item = &'a Arc<Kind>> {
    kinds.iter().filter(move |kind| kind.group == group && kind.version == version)
}

/// The virtual resources of one group and version.
fn reviews(group: &str, version: &str) -> impl Iterator<Item = &'static Review> {
    REVIEWS.iter().filter(move |review| review.group == group && version == "v1")
}

fn aggregated_rows(kinds: &[Arc<Kind>], group: &str, version: &str) -> Vec<Value> {
    let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
    let sub_row = |sub: &Subresource| {
        let (group, version) = sub.group_version.unwrap_or((group, version));
        json!({"subresource": sub.name, "verbs": sub.verbs,
            "responseKind": {"group": group, "version": version, "kind": sub.kind}})
    };
    let mut rows = Vec::new();
    for kind in of(kinds, group, version) {
        let mut row = json!({"resource": kind.plural, "scope": scope(kind.namespaced), "verbs": verbs(kind),
            "singularResource": kind.singular,
            "responseKind": {"group": group, "version": version, "kind": kind.kind}});
        if !kind.short_names.is_empty() {
            row["shortNames"] = json!(kind.short_names);
        }
        if !kind.categories.is_empty() {
            row["categories"] = json!(kind.categories);
        }
        if !kind.subresources.is_empty() {
            row["subresources"] = kind.subresources.iter().map(sub_row).collect();
        }
        rows.push(row);
    }
    for Review { plural, kind, namespaced, .. } in reviews(group, version) {
        rows.push(json!({"resource": plural, "scope": scope(*namespaced), "verbs": ["create"],
            "singularResource": kind.to_lowercase(),
            "responseKind": {"group": group, "version": version, "kind": kind}}));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::KINDS;

    #[test]
    fn every_kind_is_found_in_both_forms() {
        let aggregated: Vec<Value> = [true, false].map(|core| aggregated(&KINDS, core)).to_vec();
        for kind in KINDS.iter() {
            let other = resources(&KINDS, &kind.group, &kind.version, Asker::Other);
            assert_eq!(other.is_none(), kind.is_removed(), "{kind:?}");
            let list = resources(&KINDS, &kind.group, &kind.version, Asker::Kubectl).unwrap();
            let rows = list["resources"].as_array().unwrap();
            let row = rows.iter().find(|r| r["name"] == *kind.plural).unwrap();
            assert_eq!(row["kind"], *kind.kind);
            assert_eq!(row["verbs"].as_array().unwrap().is_empty(), kind.is_removed(), "{kind:?}");
            let items = aggregated[usize::from(!kind.group.is_empty())]["items"].as_array().unwrap();
            let rows = items.iter().filter(|i| i["metadata"]["name"].as_str().unwrap_or("") == &*kind.group);
            let versions = rows.flat_map(|i| i["versions"].as_array().unwrap());
            let version = versions.filter(|version| version["version"] == *kind.version);
            let mut rows = version.flat_map(|version| version["resources"].as_array().unwrap());
            let row = rows.find(|r| r["resource"] == *kind.plural).unwrap();
            assert_eq!(row["verbs"].as_array().unwrap().is_empty(), kind.is_removed(), "{kind:?}");
        }
        assert!(resources(&KINDS, "nonsense", "v1", Asker::Kubectl).is_none());
        let groups = group_list(&KINDS, Asker::Other);
        assert!(groups["groups"].as_array().unwrap().iter().any(|group| group["name"] == "discovery.k8s.io"));
    }

    #[test]
    fn removed_versions_come_last_and_only_where_kubectl_looks() {
        for (agent, batch, is_told) in
            [("kubectl/v1.20.5 (linux/amd64)", 2, true), ("kr8s/0.20", 1, false), ("", 1, false)]
        {
            let all = group_list(&KINDS, Asker::of(agent));
            let groups = all["groups"].as_array().unwrap();
            let of = |name: &str| groups.iter().find(|group| group["name"] == name);
            assert_eq!(of("autoscaling").unwrap()["preferredVersion"]["version"], "v2");
            assert_eq!(of("batch").unwrap()["preferredVersion"]["version"], "v1");
            assert_eq!(of("batch").unwrap()["versions"].as_array().unwrap().len(), batch, "{agent}");
            assert_eq!(of("extensions").is_some(), is_told, "{agent}");
        }
        let all = aggregated(&KINDS, false);
        let groups = all["items"].as_array().unwrap();
        let at = |name: &str| groups.iter().position(|group| group["metadata"]["name"] == name).unwrap();
        assert!(at("extensions") > at("apps") && at("extensions") > at("networking.k8s.io"));
        let versions: Vec<&Value> =
            groups[at("apps")]["versions"].as_array().unwrap().iter().map(|v| &v["version"]).collect();
        assert_eq!(versions, ["v1", "v1beta2", "v1beta1"]);
    }
}
