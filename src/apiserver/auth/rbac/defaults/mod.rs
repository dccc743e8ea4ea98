//! The roles and bindings that every Kubernetes cluster has from the start.
//!
//! Source: Kubernetes `plugin/pkg/auth/authorizer/rbac/bootstrappolicy`. Some name controllers or resources that this
//! cluster has not: manifests and tools refer to the roles all the same.

use serde_json::{Value, json};

use super::policy::GROUP;

mod cluster;
mod controllers;
mod namespaces;

/// Whoever sets it to `false` on a role or binding keeps it as it is.
pub const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// A role or binding as it must be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// `clusterroles`.
    pub plural: &'static str,
    /// `None` for those of the cluster.
    pub namespace: Option<&'static str>,
    /// Its name.
    pub name: String,
    /// All of it.
    pub object: Value,
}

/// A rule of the tables: lists are texts with spaces between, and the core group is `core`.
struct Rights {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
    urls: &'static str,
}

/// Verbs on resources.
const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> Rights {
    Rights { verbs, groups, resources, names: "", urls: "" }
}

/// Verbs on some objects alone.
const fn named(
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
) -> Rights {
    Rights { verbs, groups, resources, names, urls: "" }
}

/// Verbs on paths.
const fn urls(verbs: &'static str, urls: &'static str) -> Rights {
    Rights { verbs, groups: "", resources: "", names: "", urls }
}

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const READ_WRITE: &str = "create delete deletecollection get list patch update watch";
const EVENTS: Rights = on("create patch update", "core events.k8s.io", "events");

impl Rights {
    fn rule(&self) -> Value {
        let mut rule = json!({});
        for (key, list) in [
            ("apiGroups", self.groups),
            ("nonResourceURLs", self.urls),
            ("resourceNames", self.names),
            ("resources", self.resources),
            ("verbs", self.verbs),
        ] {
            let mut items: Vec<&str> = list.split(' ').filter(|item| !item.is_empty()).collect();
            items.iter_mut().filter(|item| **item == "core").for_each(|item| *item = "");
            if key != "apiGroups" {
                items.sort_unstable();
            }
            if !items.is_empty() {
                rule[key] = json!(items);
            }
        }
        rule
    }
}

fn rules(rights: &[Rights]) -> Value {
    rights.iter().map(Rights::rule).collect()
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {AUTO_UPDATE: "true"},
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}})
}

/// Those to whom a table's binding gives its role: `User NAME`, `Group NAME`, `ServiceAccount NAME` of `kube-system`.
fn subjects(list: &[&str]) -> Value {
    let subject = |text: &&str| {
        let (kind, name) = text.split_once(' ').unwrap_or(("User", text));
        match kind {
            "ServiceAccount" => json!({"kind": kind, "name": name, "namespace": "kube-system"}),
            _ => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
        }
    };
    list.iter().map(subject).collect()
}

fn role(plural: &'static str, namespace: Option<&'static str>, name: &str, rights: &[Rights]) -> Preset {
    let object = json!({"metadata": metadata(name), "rules": rules(rights)});
    Preset { plural, namespace, name: name.to_owned(), object }
}

fn binding(
    plural: &'static str,
    namespace: Option<&'static str>,
    name: &str,
    role: (&str, &str),
    to: &[&str],
) -> Preset {
    let mut object = json!({"metadata": metadata(name),
        "roleRef": {"apiGroup": GROUP, "kind": role.0, "name": role.1}});
    if !to.is_empty() {
        object["subjects"] = subjects(to);
    }
    Preset { plural, namespace, name: name.to_owned(), object }
}

/// All of them; roles come before the bindings that name them.
pub fn all() -> Vec<Preset> {
    let mut all = cluster::roles();
    all.extend(controllers::roles());
    all.extend(namespaces::roles());
    all.extend(cluster::bindings());
    all.extend(controllers::bindings());
    all.extend(namespaces::bindings());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_binding_names_a_role_that_is_there() {
        let all = all();
        let mut known = HashSet::new();
        for preset in &all {
            if let Some(role) = preset.object.get("roleRef") {
                let namespace = if role["kind"] == "Role" { preset.namespace } else { None };
                let plural = if role["kind"] == "Role" { "roles" } else { "clusterroles" };
                let name = role["name"].as_str().unwrap().to_owned();
                assert!(known.contains(&(plural, namespace, name)), "{}", preset.name);
            }
            let key = (preset.plural, preset.namespace, preset.name.clone());
            assert!(known.insert(key), "{} stands twice", preset.name);
        }
    }

    #[test]
    fn rules_are_written_in_order() {
        let rights = on("list get", "core apps", "pods/log pods");
        assert_eq!(
            rights.rule(),
            json!({"apiGroups": ["", "apps"], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]})
        );
        assert_eq!(urls("get", "/livez").rule(), json!({"nonResourceURLs": ["/livez"], "verbs": ["get"]}));
        let all = all();
        let find = |name: &str| &all.iter().find(|p| p.name == name).unwrap().object;
        assert_eq!(
            find("cluster-admin")["rules"],
            json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]}])
        );
        let edit = find("edit");
        assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        assert_eq!(
            edit["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"],
            json!({"rbac.authorization.k8s.io/aggregate-to-edit": "true"})
        );
    }
}
