//! What checks have in common: the pod that they look at, the versions that they hold for, and the words of a violation.

use serde_json::Value;

use super::policy::{Level, Rule, Version};
use super::{baseline, restricted};

/// What a pod must not be.
#[derive(Debug, PartialEq)]
pub struct Violation {
    /// In short: `privileged`.
    pub reason: String,
    /// Who does what; empty when the reason says it all.
    pub detail: String,
}

impl Violation {
    /// A violation, if there is anything to tell.
    pub fn new(reason: &str, detail: String) -> Option<Violation> {
        Some(Violation { reason: reason.to_owned(), detail })
    }
}

/// One thing that is looked at, from some version on.
pub struct Check {
    /// Checks are made and told in the order of these names, the baseline's first.
    pub name: &'static str,
    /// The minor version that began to look at it.
    pub since: u32,
    /// Checks of the baseline that this one makes needless.
    pub replaces: &'static [&'static str],
    /// Looks at a pod as a minor version would.
    pub look: fn(&Pod<'_>, u32) -> Option<Violation>,
}

/// The newest version whose rules differ from those before it.
const NEWEST: u32 = 37;

/// A pod, or what pods are made from.
pub struct Pod<'a> {
    /// Its metadata, for annotations.
    pub metadata: &'a Value,
    /// Its spec.
    pub spec: &'a Value,
}

impl<'a> Pod<'a> {
    /// Everything that a rule does not allow.
    pub fn violations(&self, rule: Rule) -> Vec<Violation> {
        let minor = match rule.version {
            Version::Latest => NEWEST,
            Version::Minor(minor) => minor.min(NEWEST),
        };
        let holds = |check: &&Check| check.since <= minor;
        let strict: Vec<&Check> = match rule.level {
            Level::Privileged => return Vec::new(),
            Level::Baseline => Vec::new(),
            Level::Restricted => restricted::CHECKS.iter().filter(holds).collect(),
        };
        let replaced = |name: &str| strict.iter().any(|check| check.replaces.contains(&name));
        let base = baseline::CHECKS.iter().filter(holds).filter(|check| !replaced(check.name));
        base.chain(strict.iter().copied()).filter_map(|check| (check.look)(self, minor)).collect()
    }

    /// Its containers of all sorts, in the order in which they are told.
    pub fn containers(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        let spec = self.spec;
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        lists.into_iter().flat_map(move |list| spec[list].as_array().into_iter().flatten())
    }

    /// The names of the containers that are as asked.
    pub fn named(&self, is: impl FnMut(&&Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(is).map(|c| c["name"].as_str().unwrap_or_default()).collect()
    }

    /// Whether it runs as a user of the host's, and not in a namespace of its own.
    pub fn has_own_users(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// Whether it is for Windows, which knows nothing of some rules.
    pub fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }

    /// Its volumes.
    pub fn volumes(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.spec["volumes"].as_array().into_iter().flatten()
    }
}

/// `"a", "b"`.
pub fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// The word for one, or for several.
pub fn counted<'a>(one: &'a str, several: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { several }
}

/// `container "a"` or `containers "a", "b"`.
pub fn containers(names: &[&str]) -> String {
    format!("{} {}", counted("container", "containers", names.len()), quoted(names))
}

/// `pod and container "a"`: who of the pod itself and its containers sets something; `None` when nobody does.
pub fn setters(pod: bool, names: &[&str]) -> Option<String> {
    let pod = pod.then(|| "pod".to_owned());
    let names = (!names.is_empty()).then(|| containers(names));
    let all: Vec<String> = pod.into_iter().chain(names).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

/// The texts of a list field.
pub fn texts<'a>(value: &'a Value) -> impl Iterator<Item = &'a str> + use<'a> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}
