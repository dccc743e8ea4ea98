//! What is left of a namespace's content, and how the namespace tells it (pure).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::NamespaceCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

use super::contents::Collection;
use crate::api::meta;
use crate::api::status::Status;

/// What is still in a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// How many objects of each kind, as `PLURAL.GROUP`.
    pub objects: BTreeMap<String, usize>,
    /// How many objects each finalizer holds.
    finalizers: BTreeMap<String, usize>,
    /// Why it is not known what else may be there; empty when all is known.
    pub undiscovered: String,
    /// Why objects could not be deleted.
    failures: BTreeSet<String>,
}

impl Left {
    /// Nothing that is known, where all of it is known for sure.
    pub fn is_nothing(&self) -> bool {
        self.objects.is_empty() && self.undiscovered.is_empty() && self.failures.is_empty()
    }

    /// Notes objects of a collection.
    pub fn add<'o>(&mut self, collection: &Collection, objects: impl Iterator<Item = &'o Value>) {
        for object in objects {
            *self.objects.entry(format!("{}.{}", collection.plural, collection.group)).or_default() += 1;
            for finalizer in meta::finalizers(object) {
                *self.finalizers.entry(finalizer.to_owned()).or_default() += 1;
            }
        }
    }

    /// Notes a collection that could not be emptied.
    pub fn fail(&mut self, status: &Status) {
        self.failures.insert(status.message.clone());
    }

    /// Notes groups and versions of which it is not known what is served of them.
    pub fn unknown(&mut self, groups: &[String]) {
        if groups.is_empty() {
            return;
        }
        let each: Vec<String> =
            groups.iter().map(|group| format!("{group}: stale GroupVersion discovery: {group}")).collect();
        self.undiscovered = format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            groups.len(),
            each.join(", ")
        );
    }

    /// As a namespace tells it (`pkg/controller/namespace/deletion/status_condition_utils.go` of Kubernetes); what has
    /// not changed keeps its time.
    pub fn conditions(&self, before: &[NamespaceCondition], now: &Time) -> Vec<NamespaceCondition> {
        let listed = |counts: &BTreeMap<String, usize>, verb: &str| {
            let each = counts.iter().map(|(of, count)| format!("{of} {verb} {count} resource instances"));
            each.collect::<Vec<_>>().join(", ")
        };
        let remaining = format!("Some resources are remaining: {}", listed(&self.objects, "has"));
        let held = format!(
            "Some content in the namespace has finalizers remaining: {}",
            listed(&self.finalizers, "in")
        );
        let failures: Vec<&str> = self.failures.iter().map(String::as_str).collect();
        let failed = format!(
            "Failed to delete all resource types, {} remaining: {}",
            failures.len(),
            failures.join(", ")
        );
        let told = [
            match &*self.undiscovered {
                "" => (
                    "NamespaceDeletionDiscoveryFailure",
                    false,
                    "ResourcesDiscovered",
                    "All resources successfully discovered",
                ),
                why => ("NamespaceDeletionDiscoveryFailure", true, "DiscoveryFailed", why),
            },
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed",
            ),
            match self.failures.is_empty() {
                false => ("NamespaceDeletionContentFailure", true, "ContentDeletionFailed", &*failed),
                true => (
                    "NamespaceDeletionContentFailure",
                    false,
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization",
                ),
            },
            match self.objects.is_empty() {
                false => ("NamespaceContentRemaining", true, "SomeResourcesRemain", &*remaining),
                true => {
                    ("NamespaceContentRemaining", false, "ContentRemoved", "All content successfully removed")
                }
            },
            match self.finalizers.is_empty() {
                false => ("NamespaceFinalizersRemaining", true, "SomeFinalizersRemain", &*held),
                true => (
                    "NamespaceFinalizersRemaining",
                    false,
                    "ContentHasNoFinalizers",
                    "All content-preserving finalizers finished",
                ),
            },
        ];
        let condition = |(of, holds, reason, message): (&str, bool, &str, &str)| {
            let status = if holds { "True" } else { "False" };
            let known = before.iter().find(|condition| condition.type_ == of && condition.status == status);
            NamespaceCondition {
                type_: of.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_transition_time: known
                    .and_then(|condition| condition.last_transition_time.clone())
                    .or_else(|| Some(now.clone())),
            }
        };
        told.into_iter().map(condition).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::api::kinds;

    #[test]
    fn what_is_left_is_told() {
        let kind = Collection::from(&**kinds::by_kind("", "v1", "ConfigMap").unwrap());
        let object = |finalizers: Value| json!({"metadata": {"name": "a", "finalizers": finalizers}});
        let mut left = Left::default();
        left.add(&kind, [object(json!(["x.io/f"])), object(json!(null))].iter());
        let (early, late) = (Time(Timestamp::UNIX_EPOCH), Time(Timestamp::now()));
        let told = left.conditions(&[], &early);
        let of = |name: &str, told: &[NamespaceCondition]| {
            let found = told.iter().find(|condition| condition.type_ == name).unwrap();
            (
                found.status.clone(),
                found.message.clone().unwrap(),
                found.last_transition_time.clone().unwrap(),
            )
        };
        let remaining = "Some resources are remaining: configmaps. has 2 resource instances".to_owned();
        assert_eq!(of("NamespaceContentRemaining", &told), ("True".into(), remaining, early.clone()));
        let held = "Some content in the namespace has finalizers remaining: x.io/f in 1 resource instances";
        assert_eq!(of("NamespaceFinalizersRemaining", &told).1, held);
        assert_eq!(of("NamespaceDeletionContentFailure", &told).0, "False");
        // What holds goes on holding; what has changed has a new time.
        assert_eq!(left.conditions(&told, &late), told);
        assert_eq!(of("NamespaceContentRemaining", &Left::default().conditions(&told, &late)).2, late);
    }

    #[test]
    fn what_is_not_known_or_failed_keeps_the_namespace() {
        let mut left = Left::default();
        assert!(left.is_nothing());
        left.unknown(&[]);
        assert!(left.is_nothing());
        left.unknown(&["a.io/v1".to_owned(), "b.io/v1".to_owned()]);
        assert!(!left.is_nothing());
        let told = left.conditions(&[], &Time(Timestamp::UNIX_EPOCH));
        let expected = "Discovery failed for some groups, 2 failing: unable to retrieve the complete list of server APIs: \
                        a.io/v1: stale GroupVersion discovery: a.io/v1, b.io/v1: stale GroupVersion discovery: b.io/v1";
        let shown = |condition: &NamespaceCondition| {
            let text = |part: &Option<String>| part.clone().unwrap_or_default();
            (condition.status.clone(), text(&condition.reason), text(&condition.message))
        };
        assert_eq!(shown(&told[0]), ("True".into(), "DiscoveryFailed".into(), expected.into()));
        let mut left = Left::default();
        left.fail(&Status::unavailable("y"));
        left.fail(&Status::unavailable("x"));
        assert!(!left.is_nothing());
        let told = left.conditions(&[], &Time(Timestamp::UNIX_EPOCH));
        let expected = "Failed to delete all resource types, 2 remaining: x, y";
        assert_eq!(shown(&told[2]), ("True".into(), "ContentDeletionFailed".into(), expected.into()));
    }
}
