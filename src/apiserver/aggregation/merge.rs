//! Discovery of what is served here and of what aggregated servers serve, in one document (pure).

use std::cmp::Reverse;

use serde_json::{Value, json};

use crate::api::meta;

/// An APIService with what its server said of itself.
pub struct Remote<'a> {
    /// The APIService.
    pub service: &'a Value,
    /// The `APIResourceList` of its group and version, once it was asked.
    pub resources: Option<&'a Value>,
    /// Whether it can be asked now.
    pub available: bool,
}

impl Remote<'_> {
    fn text(&self, field: &str) -> &str {
        self.service["spec"][field].as_str().unwrap_or_default()
    }
}

/// How the groups of all APIServices are ordered: by priority, then by name.
pub struct Order<'a>(Vec<&'a Value>);

impl<'a> Order<'a> {
    /// The order that these APIServices ask for.
    pub fn of(services: impl Iterator<Item = &'a Value>) -> Order<'a> {
        Order(services.collect())
    }

    fn of_group(&self, group: &str) -> (Reverse<i64>, String) {
        let of = self.0.iter().filter(|service| service["spec"]["group"] == group);
        let priority = |service: &&&Value| service["spec"]["groupPriorityMinimum"].as_i64().unwrap_or(0);
        let highest = of.max_by_key(|service| (priority(service), Reverse(meta::name(service).to_owned())));
        let Some(highest) = highest else { return (Reverse(0), group.to_owned()) };
        (Reverse(priority(&highest)), meta::name(highest).to_owned())
    }

    fn of_version(&self, group: &str, version: &str) -> (Reverse<i64>, Reverse<Age>) {
        let of = self.0.iter().find(|s| s["spec"]["group"] == group && s["spec"]["version"] == version);
        let priority = of.and_then(|service| service["spec"]["versionPriority"].as_i64()).unwrap_or(0);
        (Reverse(priority), Reverse(age(version)))
    }
}

/// How ripe a version is: `v2` before `v1` before `v1beta2` before `v1alpha1`, and other names last.
type Age = (u8, u32, u32, Reverse<String>);

fn age(version: &str) -> Age {
    let parsed = || {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..end].parse().ok()?;
        match &rest[end..] {
            "" => Some((3, major, 0)),
            beta if beta.starts_with("beta") => Some((2, major, beta[4..].parse().ok()?)),
            alpha if alpha.starts_with("alpha") => Some((1, major, alpha[5..].parse().ok()?)),
            _ => None,
        }
    };
    match parsed() {
        Some((stage, major, minor)) => (stage, major, minor, Reverse(String::new())),
        None => (0, 0, 0, Reverse(version.to_owned())),
    }
}

/// The groups of `/apis`, each an `APIGroup` without kind, with those of aggregated servers among them.
pub fn groups(mut groups: Vec<Value>, remotes: &[Remote<'_>], order: &Order<'_>) -> Vec<Value> {
    for remote in remotes {
        let (group, version) = (remote.text("group"), remote.text("version"));
        let entry = json!({"groupVersion": format!("{group}/{version}"), "version": version});
        match groups.iter_mut().find(|known| known["name"] == group) {
            Some(known) => push_once(&mut known["versions"], entry),
            None => groups.push(json!({"name": group, "versions": [entry]})),
        }
    }
    groups.sort_by_key(|group| order.of_group(group["name"].as_str().unwrap_or_default()));
    for group in &mut groups {
        let name = group["name"].as_str().unwrap_or_default().to_owned();
        sort_versions(&mut group["versions"], &name, order);
        group["preferredVersion"] = group["versions"][0].clone();
    }
    groups
}

fn push_once(list: &mut Value, entry: Value) {
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|known| known["version"] == entry["version"])
    {
        list.push(entry);
    }
}

fn sort_versions(list: &mut Value, group: &str, order: &Order<'_>) {
    if let Some(list) = list.as_array_mut() {
        list.sort_by_key(|entry| order.of_version(group, entry["version"].as_str().unwrap_or_default()));
    }
}

/// The items of an `APIGroupDiscoveryList`, with those of aggregated servers among them.
pub fn items(mut items: Vec<Value>, remotes: &[Remote<'_>], order: &Order<'_>) -> Vec<Value> {
    for remote in remotes {
        let (group, version) = (remote.text("group"), remote.text("version"));
        let freshness = if remote.available && remote.resources.is_some() { "Current" } else { "Stale" };
        let resources = remote.resources.map(|list| rows(list, group, version)).unwrap_or_default();
        let entry = json!({"version": version, "freshness": freshness, "resources": resources});
        match items.iter_mut().find(|known| known["metadata"]["name"] == group) {
            Some(known) => {
                // Who serves a version serves all of it.
                if let Some(versions) = known["versions"].as_array_mut() {
                    versions.retain(|known| known["version"] != version);
                }
                push_once(&mut known["versions"], entry);
            }
            None => items
                .push(json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": [entry]})),
        }
    }
    items.sort_by_key(|item| order.of_group(meta::name(item)));
    for item in &mut items {
        let name = meta::name(item).to_owned();
        sort_versions(&mut item["versions"], &name, order);
    }
    items
}

/// The rows of an `APIResourceList` in the aggregated form.
fn rows(list: &Value, group: &str, version: &str) -> Vec<Value> {
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let response = |row: &Value| {
        let or = |field: &str, other: &str| match text(row, field).as_str() {
            "" => other.to_owned(),
            own => own.to_owned(),
        };
        json!({"group": or("group", group), "version": or("version", version), "kind": row["kind"]})
    };
    let all = || list["resources"].as_array().into_iter().flatten();
    all()
        .filter(|row| !text(row, "name").contains('/'))
        .map(|row| {
            let name = text(row, "name");
            let scope = if row["namespaced"] == true { "Namespaced" } else { "Cluster" };
            let mut shown = json!({"resource": name, "scope": scope, "verbs": row["verbs"],
                "singularResource": row["singularName"], "responseKind": response(row)});
            for field in ["shortNames", "categories"] {
                if row[field].is_array() {
                    shown[field] = row[field].clone();
                }
            }
            let below: Vec<Value> = all()
                .filter_map(|sub| {
                    let sub_name = text(sub, "name");
                    let (parent, sub_name) = sub_name.split_once('/')?;
                    (parent == name).then(|| {
                        json!({"subresource": sub_name, "verbs": sub["verbs"], "responseKind": response(sub)})
                    })
                })
                .collect();
            if !below.is_empty() {
                shown["subresources"] = below.into();
            }
            shown
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(group: &str, version: &str, priorities: (i64, i64)) -> Value {
        json!({"metadata": {"name": format!("{version}.{group}")}, "spec": {"group": group, "version": version,
            "groupPriorityMinimum": priorities.0, "versionPriority": priorities.1}})
    }

    #[test]
    fn versions_ripen() {
        let mut versions = ["foo1", "v1alpha1", "v1beta2", "v1", "v10", "v2", "v1beta1", "foo10"];
        versions.sort_by_key(|version| Reverse(age(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo1", "foo10"]);
    }

    #[test]
    fn aggregated_groups_stand_among_the_others() {
        let services = [
            service("apps", "v1", (17800, 15)),
            service("wardle.io", "v1", (2000, 10)),
            service("wardle.io", "v1alpha1", (2000, 20)),
            service("example.com", "v1", (1000, 100)),
        ];
        let order = Order::of(services.iter());
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]}]});
        let remotes = [
            Remote { service: &services[1], resources: Some(&list), available: true },
            Remote { service: &services[2], resources: None, available: false },
        ];
        let local = |group: &str| json!({"name": group, "versions": [{"groupVersion": format!("{group}/v1"), "version": "v1"}]});
        let merged = groups(vec![local("example.com"), local("apps")], &remotes, &order);
        let names: Vec<&str> = merged.iter().map(|g| g["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["apps", "wardle.io", "example.com"]);
        assert_eq!(merged[1]["preferredVersion"]["groupVersion"], "wardle.io/v1alpha1");
        let local = |group: &str| json!({"metadata": {"name": group}, "versions": [{"version": "v1"}]});
        let merged = items(vec![local("example.com"), local("apps")], &remotes, &order);
        let wardle = &merged[1];
        assert_eq!((meta::name(wardle), &wardle["versions"][0]["freshness"]), ("wardle.io", &json!("Stale")));
        let row = &wardle["versions"][1]["resources"][0];
        assert_eq!((&row["resource"], &row["scope"]), (&json!("flunders"), &json!("Namespaced")));
        assert_eq!(row["subresources"][0]["subresource"], "status");
        assert_eq!(row["responseKind"], json!({"group": "wardle.io", "version": "v1", "kind": "Flunder"}));
    }
}
