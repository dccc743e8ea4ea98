//! One rule of a role: what it allows, and whether rules hold all that others do.
//!
//! Sources: Kubernetes `pkg/apis/rbac/v1/evaluation_helpers.go`, `component-helpers/auth/rbac/validation` and
//! `pkg/registry/rbac/validation/policy_compact.go`.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::apiserver::auth::attributes::{Asked, Attributes};

/// Every verb, group, resource or path.
const ALL: &str = "*";

/// A `PolicyRule`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `get`, `*`.
    pub verbs: Vec<String>,
    /// Empty text is the core group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// None means every name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// `/healthz`, `/apis/*`.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// A rule as it stands in a role.
    pub fn read(rule: &Value) -> Rule {
        let list = |key: &str| {
            let items = rule[key].as_array().into_iter().flatten();
            items.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Rule {
            verbs: list("verbs"),
            api_groups: list("apiGroups"),
            resources: list("resources"),
            resource_names: list("resourceNames"),
            non_resource_urls: list("nonResourceURLs"),
        }
    }

    /// The rules of a role.
    pub fn read_all(role: &Value) -> Vec<Rule> {
        role["rules"].as_array().into_iter().flatten().map(Rule::read).collect()
    }

    /// The two rules that allow everything.
    pub fn everything() -> [Rule; 2] {
        let all = || vec![ALL.to_owned()];
        [
            Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
            Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
        ]
    }

    /// Whether this rule allows what is asked.
    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has(&self.verbs, attributes.verb) {
            return false;
        }
        match &attributes.asked {
            Asked::Resource { group, resource, subresource, name, .. } => {
                has(&self.api_groups, group)
                    && self.resources.iter().any(|rule| resource_matches(rule, resource, subresource))
                    && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == name))
            }
            Asked::Path(path) => self.non_resource_urls.iter().any(|url| path_matches(url, path)),
        }
    }

    /// The same as rules of one verb and one resource (and one name) or one path each.
    fn parts(&self) -> Vec<Rule> {
        let mut parts = Vec::new();
        let one = |text: &String| vec![text.clone()];
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let (api_groups, resources, verbs) = (one(group), one(resource), one(verb));
                    let part = Rule { verbs, api_groups, resources, ..Rule::default() };
                    if self.resource_names.is_empty() {
                        parts.push(part);
                        continue;
                    }
                    let named = |name| Rule { resource_names: one(name), ..part.clone() };
                    parts.extend(self.resource_names.iter().map(named));
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                parts.push(Rule { verbs: one(verb), non_resource_urls: one(url), ..Rule::default() });
            }
        }
        parts
    }

    /// How many [`parts`](Self::parts) there are.
    fn number_of_parts(&self) -> usize {
        let of = |lists: &[&[String]]| {
            lists.iter().fold(1_usize, |product, list| product.saturating_mul(list.len()))
        };
        let names = if self.resource_names.is_empty() {
            &self.verbs[..self.verbs.len().min(1)]
        } else {
            &self.resource_names
        };
        let named = of(&[&self.api_groups, &self.resources, &self.verbs, names]);
        named.saturating_add(of(&[&self.non_resource_urls, &self.verbs]))
    }

    /// Whether all that `part` allows, this rule allows.
    fn covers(&self, part: &Rule) -> bool {
        let all = |set: &[String], wanted: &[String]| {
            set.iter().any(|s| s == ALL) || wanted.iter().all(|w| set.contains(w))
        };
        let resource = |wanted: &String| {
            let any = |form: &str| self.resources.iter().any(|r| r == form);
            any(ALL) || any(wanted) || wanted.split_once('/').is_some_and(|(_, sub)| any(&format!("*/{sub}")))
        };
        let path = |wanted: &String| self.non_resource_urls.iter().any(|url| path_matches(url, wanted));
        let names = self.resource_names.is_empty()
            || !part.resource_names.is_empty()
                && part.resource_names.iter().all(|name| self.resource_names.contains(name));
        all(&self.verbs, &part.verbs)
            && all(&self.api_groups, &part.api_groups)
            && part.resources.iter().all(resource)
            && part.non_resource_urls.iter().all(path)
            && names
    }
}

impl fmt::Display for Rule {
    /// As messages about missing permissions name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let shown = parts.iter().filter(|(_, list)| !list.is_empty());
        let shown: Vec<String> = shown.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        write!(f, "{{{}}}", shown.join(", "))
    }
}

/// A list of texts as Go's `%q` shows it: `["a" "b"]`.
pub fn quoted(list: &[String]) -> String {
    let items: Vec<String> = list.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", items.join(" "))
}

/// Into how many parts the rules of one object are taken: a few lists of a thousand words each make a thousand million.
const MOST_PARTS: usize = 10_000;

/// What of `wanted` is in none of `held`, each for itself. A rule of too many parts is missing as a whole unless one
/// that is held covers it.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let covered = |part: &Rule| held.iter().any(|rule| rule.covers(part));
    let mut left = MOST_PARTS;
    let mut missing = Vec::new();
    for rule in wanted.iter().filter(|rule| !covered(rule)) {
        match left.checked_sub(rule.number_of_parts()) {
            Some(rest) => {
                left = rest;
                missing.extend(rule.parts().into_iter().filter(|part| !covered(part)));
            }
            None => missing.push(rule.clone()),
        }
    }
    missing
}

/// Single rules with those of the same resource put together, as lines that tell them.
pub fn told(rules: &[Rule]) -> Vec<String> {
    let mut together: Vec<Rule> = Vec::new();
    for rule in rules {
        let simple = |r: &Rule| r.resource_names.is_empty() && r.non_resource_urls.is_empty();
        let same = |r: &&mut Rule| {
            simple(r) && simple(rule) && (&r.api_groups, &r.resources) == (&rule.api_groups, &rule.resources)
        };
        match together.iter_mut().find(same) {
            Some(known) => known.verbs.extend(rule.verbs.iter().cloned()),
            None => together.push(rule.clone()),
        }
    }
    let lines: BTreeSet<String> = together.iter().map(Rule::to_string).collect();
    lines.into_iter().collect()
}

fn has(set: &[String], wanted: &str) -> bool {
    set.iter().any(|item| item == ALL || item == wanted)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == ALL {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    rule.split_once('/').is_some_and(|(of, sub)| sub == subresource && (of == ALL || of == resource))
}

fn path_matches(rule: &str, path: &str) -> bool {
    rule == path || rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> Rule {
        Rule::read(
            &json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names}),
        )
    }

    fn urls(verbs: &[&str], urls: &[&str]) -> Rule {
        Rule::read(&json!({"verbs": verbs, "nonResourceURLs": urls}))
    }

    #[test]
    fn a_rule_of_very_many_parts_is_told_whole() {
        let words: Vec<String> = (0..1000).map(|n| format!("w{n}")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let vast = || rule(&words, &words, &words, &words);
        let some = rule(&["w1"], &["w1"], &["w1"], &[]);
        assert_eq!(missing(std::slice::from_ref(&some), &[vast()]), [vast()]);
        assert_eq!(missing(&Rule::everything(), &[vast()]), []);
        // Many small ones together are no better.
        let small = || rule(&words, &[""], &["a", "b", "c", "d", "e", "f"], &[]);
        assert_eq!(missing(&[], &[small(), small(), some.clone()]).len(), 6000 + 1 + 1);
    }

    #[test]
    fn a_rule_allows_what_it_names() {
        let asked = |verb, group, resource, subresource, name| Attributes {
            verb,
            asked: Asked::Resource { group, resource, subresource, namespace: "default", name },
        };
        let read = || rule(&["get", "list"], &[""], &["pods", "pods/log"], &[]);
        for (rule, attributes, allowed) in [
            (read(), asked("get", "", "pods", "", "a"), true),
            (read(), asked("get", "", "pods", "log", "a"), true),
            (read(), asked("get", "", "pods", "exec", "a"), false),
            (read(), asked("watch", "", "pods", "", ""), false),
            (read(), asked("get", "apps", "pods", "", "a"), false),
            (rule(&["*"], &["*"], &["*"], &[]), asked("use", "apps", "x", "y", "z"), true),
            (
                rule(&["get"], &["*"], &["*/scale"], &[]),
                asked("get", "apps", "deployments", "scale", "a"),
                true,
            ),
            (rule(&["get"], &["*"], &["*/scale"], &[]), asked("get", "apps", "deployments", "", "a"), false),
            (rule(&["get"], &[""], &["pods/*"], &[]), asked("get", "", "pods", "log", "a"), false),
            (rule(&["get"], &[""], &["secrets"], &["a"]), asked("get", "", "secrets", "", "a"), true),
            (rule(&["get"], &[""], &["secrets"], &["a"]), asked("get", "", "secrets", "", "b"), false),
            (rule(&["list"], &[""], &["secrets"], &["a"]), asked("list", "", "secrets", "", ""), false),
            (urls(&["*"], &["*"]), asked("get", "", "pods", "", "a"), false),
        ] {
            assert_eq!(rule.allows(&attributes), allowed, "{rule} {attributes:?}");
        }
        for (url, path, allowed) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/", false),
            ("/apis/*", "/apis/apps/v1", true),
            ("/apis/*", "/apis", false),
            ("*", "/metrics", true),
        ] {
            let attributes = Attributes { verb: "get", asked: Asked::Path(path) };
            assert_eq!(urls(&["get"], &[url]).allows(&attributes), allowed, "{url} {path}");
            assert!(!rule(&["*"], &["*"], &["*"], &[]).allows(&attributes));
        }
    }

    #[test]
    fn what_is_not_held_is_told() {
        let all = Rule::everything();
        let wanted =
            [rule(&["get", "list"], &[""], &["pods", "secrets"], &[]), urls(&["get"], &["/metrics"])];
        assert_eq!(missing(&all, &wanted), []);
        let pods = [rule(&["get", "list"], &[""], &["pods"], &[])];
        assert_eq!(
            told(&missing(&pods, &wanted)),
            [
                "{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}",
                "{NonResourceURLs:[\"/metrics\"], Verbs:[\"get\"]}",
            ]
        );
        for (held, wanted, covered) in [
            (rule(&["get"], &[""], &["*/scale"], &[]), rule(&["get"], &[""], &["a/scale"], &[]), true),
            (rule(&["get"], &[""], &["pods"], &["a"]), rule(&["get"], &[""], &["pods"], &[]), false),
            (rule(&["get"], &[""], &["pods"], &["a"]), rule(&["get"], &[""], &["pods"], &["a"]), true),
            (rule(&["get"], &[""], &["pods"], &[]), rule(&["get"], &[""], &["pods"], &["a"]), true),
            (rule(&["*"], &[""], &["pods"], &[]), rule(&["get"], &["*"], &["pods"], &[]), false),
            (urls(&["get"], &["/apis/*"]), urls(&["get"], &["/apis/x/*"]), true),
        ] {
            assert_eq!(
                missing(std::slice::from_ref(&held), std::slice::from_ref(&wanted)).is_empty(),
                covered,
                "{wanted}"
            );
        }
    }
}
