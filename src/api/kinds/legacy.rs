//! Versions that Kubernetes has removed and that manifests in books and courses still use: they are accepted, turned
//! into the version of today by `apiserver/registry/versions`, and every answer warns about them.
//!
//! Rows here are made of the row of today; they have no short names and no categories, so that those mean it. Who walks
//! through everything that is served must meet each kind once: `apiserver/discovery` shows these rows as what can be
//! named, and to nobody as what can be listed.

use super::{Kind, Types};

/// A removed version of a kind.
struct Removed {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    /// The group whose version 1 took its place.
    by: &'static str,
    /// The minor versions of Kubernetes that deprecated and removed it.
    since: (u8, u8),
}

impl Removed {
    const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        by: &'static str,
    ) -> Removed {
        Removed { group, version, kind, by, since: (0, 0) }
    }

    const fn since(self, deprecated: u8, removed: u8) -> Removed {
        Removed { since: (deprecated, removed), ..self }
    }

    fn is(&self, kind: &Kind) -> bool {
        kind.version == self.version && kind.group == self.group && kind.kind == self.kind
    }

    /// The name of its type, which begins with the first word of its group.
    fn types(&self) -> String {
        let group = self.group.split('.').next().unwrap_or_default();
        format!("io.k8s.api.{group}.{}.{}", self.version, self.kind)
    }

    fn of(&self, today: &Kind) -> Kind {
        let (deprecated, removed) = self.since;
        let warning = format!(
            "{}/{} {} is deprecated in v1.{deprecated}+, unavailable in v1.{removed}+; use {} {}",
            self.group,
            self.version,
            self.kind,
            today.api_version(),
            today.kind
        );
        Kind {
            group: self.group.into(),
            version: self.version.into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            types: Types::Named(self.types().into()),
            deprecated: Some(warning.into()),
            ..today.clone()
        }
    }
}

/// In the order in which discovery lists them, newer versions of a group first.
const REMOVED: &[Removed] = &[
    Removed::new("apps", "v1beta2", "ControllerRevision", "apps").since(9, 16),
    Removed::new("apps", "v1beta2", "DaemonSet", "apps").since(9, 16),
    Removed::new("apps", "v1beta2", "Deployment", "apps").since(9, 16),
    Removed::new("apps", "v1beta2", "ReplicaSet", "apps").since(9, 16),
    Removed::new("apps", "v1beta2", "StatefulSet", "apps").since(9, 16),
    Removed::new("apps", "v1beta1", "ControllerRevision", "apps").since(8, 16),
    Removed::new("apps", "v1beta1", "Deployment", "apps").since(8, 16),
    Removed::new("apps", "v1beta1", "StatefulSet", "apps").since(8, 16),
    Removed::new("batch", "v1beta1", "CronJob", "batch").since(21, 25),
    Removed::new("policy", "v1beta1", "PodDisruptionBudget", "policy").since(21, 25),
    Removed::new("networking.k8s.io", "v1beta1", "Ingress", "networking.k8s.io").since(19, 22),
    Removed::new("extensions", "v1beta1", "DaemonSet", "apps").since(8, 16),
    Removed::new("extensions", "v1beta1", "Deployment", "apps").since(8, 16),
    Removed::new("extensions", "v1beta1", "Ingress", "networking.k8s.io").since(14, 22),
    Removed::new("extensions", "v1beta1", "NetworkPolicy", "networking.k8s.io").since(9, 16),
    Removed::new("extensions", "v1beta1", "ReplicaSet", "apps").since(8, 16),
];

/// Whether a kind's version is one that Kubernetes has removed.
pub(super) fn is_removed(kind: &Kind) -> bool {
    REMOVED.iter().any(|removed| removed.is(kind))
}

/// The removed versions of the kinds that are served today.
pub(super) fn kinds(today: &[Kind]) -> Vec<Kind> {
    let current = |removed: &Removed| {
        today.iter().find(|k| k.group == removed.by && k.version == "v1" && k.kind == removed.kind)
    };
    REMOVED.iter().filter_map(|removed| Some(removed.of(current(removed)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{by_kind, by_resource, stored};

    #[test]
    fn removed_versions_are_deprecated_and_share_the_store_of_todays() {
        let old = by_resource("extensions", "v1beta1", "deployments").unwrap();
        let new = by_kind("apps", "v1", "Deployment").unwrap();
        assert_eq!((&old.storage, old.short_names.len()), (&new.storage, 0));
        assert_eq!(
            old.deprecated.as_deref(),
            Some(
                "extensions/v1beta1 Deployment is deprecated in v1.8+, unavailable in v1.16+; use apps/v1 Deployment"
            )
        );
        assert!(old.is_removed() && !new.is_removed());
        assert!(!stored().any(|kind| kind.is_removed()));
        let cron_job = by_kind("batch", "v1beta1", "CronJob").unwrap();
        assert_eq!(cron_job.types.name(), "io.k8s.api.batch.v1beta1.CronJob");
    }
}
