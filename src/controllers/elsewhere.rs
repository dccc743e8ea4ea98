//! What other servers serve, as discovery tells of it (pure).

use serde_json::Value;

use crate::api::kinds::{Kind, Types};

/// What is looked at of a kind whose objects can be found, followed and removed.
const FOLLOWED: &[&str] = &["delete", "get", "list", "watch"];
/// The same of any other.
const READ: &[&str] = &["get"];
/// What the keys of others' objects begin with: they must not be taken for those of a kind of this server's.
const MARK: char = '+';

/// A kind in one version.
#[derive(Debug)]
pub struct Served<'d> {
    /// Its group.
    pub group: &'d str,
    /// Its version.
    pub version: &'d str,
    row: &'d Value,
}

impl Served<'_> {
    /// Its name in paths.
    pub fn plural(&self) -> &str {
        text(&self.row["resource"])
    }

    /// Whether its objects are in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.row["scope"] == "Namespaced"
    }

    /// Whether its server knows a verb for it.
    pub fn can(&self, verb: &str) -> bool {
        list(&self.row["verbs"]).any(|known| known == verb)
    }

    /// The row of this kind among those of this server's own.
    pub fn kind(&self) -> Kind {
        let owned = |value: &Value| text(value).to_owned();
        let kind = owned(&self.row["responseKind"]["kind"]);
        Kind {
            group: self.group.to_owned().into(),
            version: self.version.to_owned().into(),
            list: format!("{kind}List").into(),
            kind: kind.into(),
            plural: self.plural().to_owned().into(),
            singular: owned(&self.row["singularResource"]).into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: self.is_namespaced(),
            verbs: if FOLLOWED.iter().all(|verb| self.can(verb)) { FOLLOWED } else { READ },
            subresources: Vec::new(),
            types: Types::Named("".into()),
            deprecated: None,
            storage: format!("{MARK}{}.{}", self.plural(), self.group).into(),
        }
    }
}

/// Whether another server has the objects of a kind.
pub fn has(kind: &Kind) -> bool {
    kind.storage.starts_with(MARK)
}

/// What discovery (an `APIGroupDiscoveryList`) tells of, beside kinds of this server's own.
#[derive(Debug, Default)]
pub struct Elsewhere<'d> {
    /// The kinds, in their preferred versions first.
    pub served: Vec<Served<'d>>,
    /// The same of groups and versions whose servers do not answer: what they served before.
    pub before: Vec<Served<'d>>,
    /// These groups and versions.
    pub stale: Vec<String>,
}

impl<'d> Elsewhere<'d> {
    /// Reads it; `is_own` knows the kinds of this server by group and plural.
    pub fn of(discovery: &'d Value, is_own: impl Fn(&str, &str) -> bool) -> Elsewhere<'d> {
        let mut all = Elsewhere::default();
        for item in list(&discovery["items"]) {
            let group = text(&item["metadata"]["name"]);
            for of_version in list(&item["versions"]) {
                let version = text(&of_version["version"]);
                let rows =
                    list(&of_version["resources"]).filter(|row| !is_own(group, text(&row["resource"])));
                let kinds = rows.map(|row| Served { group, version, row });
                match of_version["freshness"] == "Stale" {
                    true => {
                        all.stale.push(format!("{group}/{version}"));
                        all.before.extend(kinds);
                    }
                    false => all.served.extend(kinds),
                }
            }
        }
        all
    }
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
    fn kinds_of_others_are_told_apart() {
        let row = |resource: &str, verbs: &[&str]| {
            json!({"resource": resource, "scope": "Namespaced", "verbs": verbs,
            "singularResource": "x", "responseKind": {"kind": "X"}})
        };
        let all = ["create", "delete", "get", "list", "watch"];
        let discovery = json!({"items": [
            {"metadata": {"name": "own.io"}, "versions": [{"version": "v1", "resources": [row("things", &all)]}]},
            {"metadata": {"name": "wardle.io"}, "versions": [
                {"version": "v2", "freshness": "Current", "resources": [row("flunders", &all), row("looks", &["get"])]},
                {"version": "v1", "freshness": "Stale", "resources": [row("flunders", &all)]}]},
        ]});
        let all = Elsewhere::of(&discovery, |group, plural| (group, plural) == ("own.io", "things"));
        let named = |served: &[Served<'_>]| {
            let name =
                |one: &Served<'_>| format!("{} {:?}", one.kind().key(Some("n"), "a"), one.kind().verbs);
            served.iter().map(name).collect::<Vec<_>>()
        };
        let flunders = r#"+flunders.wardle.io/n/a ["delete", "get", "list", "watch"]"#;
        assert_eq!(named(&all.served), [flunders, r#"+looks.wardle.io/n/a ["get"]"#]);
        assert_eq!(
            (named(&all.before), all.stale),
            (vec![flunders.to_owned()], vec!["wardle.io/v1".to_owned()])
        );
        assert!(has(&all.served[0].kind()));
    }
}
