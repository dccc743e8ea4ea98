//! Hosts while their ingresses are read, and how their paths are compared in the end (pure).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::ingress::annotations::{Canary, Settings};
use crate::ingress::patterns::Patterns;
use crate::ingress::route::{Backend, Guard, Host, Location, Matcher};

/// What is wrong with an ingress, by its name.
pub(super) type Wrong = Vec<(String, String)>;

/// One path before its host is complete.
pub(super) struct Draft {
    pub ingress: String,
    pub path: String,
    pub kind: String,
    pub settings: Arc<Settings>,
    pub guard: Option<Guard>,
    pub backend: Arc<Backend>,
    /// The canary, with the ingress that it is of.
    pub canary: Option<(String, Canary, Arc<Backend>)>,
    pub errors: Option<Arc<Backend>>,
}

/// A host before it is complete.
#[derive(Default)]
pub(super) struct HostDraft {
    pub paths: Vec<Draft>,
    pub default: Option<Arc<Location>>,
    pub tls: bool,
    pub app_root: Option<String>,
    /// Paths are compared as expressions.
    pub by_pattern: bool,
}

impl HostDraft {
    /// The host of this name.
    pub(super) fn finish(self, name: &str, patterns: &mut Patterns<'_>, wrong: &mut Wrong) -> Host {
        let by_pattern = self.by_pattern;
        let (mut kept, mut owners) = (Vec::new(), BTreeMap::new());
        for draft in self.paths {
            match owners.entry((draft.path.clone(), draft.kind.clone())) {
                Entry::Vacant(free) => {
                    free.insert(draft.ingress.clone());
                    kept.push(draft);
                }
                // Of two that are the same, the older one has the path.
                Entry::Occupied(owner) => {
                    let (path, kind, owner) = (&draft.path, &draft.kind, owner.get());
                    let taken = format!("host {name:?} and path {path:?} of type {kind} are already defined");
                    wrong
                        .push((draft.ingress, format!("{taken} in ingress {owner}, which has the requests")));
                }
            }
        }
        let finish = |draft: Draft| {
            let pattern = by_pattern.then(|| draft.pattern(patterns, wrong)).flatten();
            Arc::new(draft.finish(pattern.map(Matcher::Pattern)))
        };
        let locations = kept.into_iter().map(finish).collect();
        let HostDraft { default, tls, app_root, .. } = self;
        let mut host = Host { locations, default, tls, app_root, moved: None };
        host.sort();
        host
    }
}

impl Draft {
    pub(super) fn is_in(&self, namespace: &str) -> bool {
        self.ingress.split_once('/').is_some_and(|(own, _)| own == namespace)
    }

    /// The path without a slash at its end.
    fn prefix(&self) -> &str {
        self.path.trim_end_matches('/')
    }

    /// The path as an expression, on a host of which an ingress wants expressions.
    fn pattern(&self, patterns: &mut Patterns<'_>, wrong: &mut Wrong) -> Option<regex::Regex> {
        let wants = self.settings.use_regex || self.settings.rewrite_target.is_some();
        let pattern = match self.kind.as_str() {
            "Exact" => patterns.literal(&self.path, "$"),
            "Prefix" if !wants => patterns.literal(self.prefix(), "(/|$)"),
            _ => patterns.expression(&self.ingress, &self.path).or_else(|why| {
                let is = "is compared as it stands and not as a regular expression";
                wrong.push((self.ingress.clone(), format!("the path {:?} {is}: {why}", self.path)));
                patterns.literal(&self.path, "")
            }),
        };
        pattern.ok()
    }

    fn plain(&self) -> Matcher {
        match self.kind.as_str() {
            "Exact" => Matcher::Exact(self.path.clone()),
            "Prefix" => Matcher::Prefix(self.prefix().to_owned()),
            _ => Matcher::Start(self.path.clone()),
        }
    }

    fn finish(self, pattern: Option<Matcher>) -> Location {
        Location {
            matcher: pattern.unwrap_or_else(|| self.plain()),
            exact: self.kind == "Exact",
            ingress: self.ingress,
            path: self.path,
            settings: self.settings,
            guard: self.guard,
            backend: self.backend,
            canary: self.canary.map(|(_, canary, backend)| (canary, backend)),
            errors: self.errors,
        }
    }
}
