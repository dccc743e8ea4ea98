//! The table of kinds: adding a kind is a row here and a strategy file in `apiserver/strategy`.

/// What the API serves under one plural in one group and version.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: &'static str,
    /// `v1`.
    pub version: &'static str,
    /// `Pod`.
    pub kind: &'static str,
    /// `pods`.
    pub plural: &'static str,
    /// `pod`.
    pub singular: &'static str,
    /// `po`.
    pub short_names: &'static [&'static str],
    /// `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The verbs of the objects themselves, in discovery's order.
    pub verbs: &'static [&'static str],
    /// Subresources with a kind of their own behaviour, beside the object: `status`, `binding`, ...
    pub subresources: &'static [Subresource],
    /// The name of its type in the schema document: `io.k8s.api.core.v1.Pod`.
    pub schema: &'static str,
    /// What every request for it is warned about: when it was deprecated and what to use instead.
    pub deprecated: Option<&'static str>,
    /// The first part of its keys in the store; two groups that serve the same objects share it
    /// (`events` and `events.k8s.io/events`).
    pub storage: &'static str,
}

/// A path below an object, as discovery lists it.
#[derive(Debug, PartialEq, Eq)]
pub struct Subresource {
    /// `status`.
    pub name: &'static str,
    /// The kind of its bodies: `Pod`, `Binding`, `PodExecOptions`.
    pub kind: &'static str,
    /// The group and version of that kind where they are not those of the object: `("policy", "v1")`.
    pub group_version: Option<(&'static str, &'static str)>,
    /// The verbs it knows, in discovery's order.
    pub verbs: &'static [&'static str],
}

/// What discovery lists for an ordinary kind.
const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A subresource whose bodies are of a kind of the object's own group and version.
const fn sub(name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Subresource {
    Subresource { name, kind, group_version: None, verbs }
}

/// Reading, replacing and patching the status apart from the spec.
const fn status(kind: &'static str) -> Subresource {
    sub("status", kind, &["get", "patch", "update"])
}

/// A namespaced kind of the core group without anything special; rows say what differs.
const CORE: Kind = Kind {
    group: "",
    version: "v1",
    kind: "",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    schema: "",
    deprecated: None,
    storage: "",
};

/// Every kind, grouped by API group in discovery's order.
pub static KINDS: &[Kind] = &[
    Kind {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        schema: "io.k8s.api.core.v1.ConfigMap",
        storage: "configmaps",
        ..CORE
    },
    Kind {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        schema: "io.k8s.api.core.v1.Endpoints",
        deprecated: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        storage: "endpoints",
        ..CORE
    },
    Kind {
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        schema: "io.k8s.api.core.v1.Event",
        storage: "events",
        ..CORE
    },
    Kind {
        kind: "Namespace",
        plural: "namespaces",
        singular: "namespace",
        short_names: &["ns"],
        namespaced: false,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: &[sub("finalize", "Namespace", &["update"]), status("Namespace")],
        schema: "io.k8s.api.core.v1.Namespace",
        storage: "namespaces",
        ..CORE
    },
    Kind {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        subresources: &[status("Node")],
        schema: "io.k8s.api.core.v1.Node",
        storage: "nodes",
        ..CORE
    },
    Kind {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        // `ephemeralcontainers` and `resize` are not served, and no other path changes what they would.
        subresources: &[
            sub("attach", "PodAttachOptions", &["create", "get"]),
            sub("binding", "Binding", &["create"]),
            Subresource {
                name: "eviction",
                kind: "Eviction",
                group_version: Some(("policy", "v1")),
                verbs: &["create"],
            },
            sub("exec", "PodExecOptions", &["create", "get"]),
            sub("log", "Pod", &["get"]),
            sub("portforward", "PodPortForwardOptions", &["create", "get"]),
            status("Pod"),
        ],
        schema: "io.k8s.api.core.v1.Pod",
        storage: "pods",
        ..CORE
    },
    Kind {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        schema: "io.k8s.api.core.v1.Secret",
        storage: "secrets",
        ..CORE
    },
    Kind {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        subresources: &[Subresource {
            name: "token",
            kind: "TokenRequest",
            group_version: Some(("authentication.k8s.io", "v1")),
            verbs: &["create"],
        }],
        schema: "io.k8s.api.core.v1.ServiceAccount",
        storage: "serviceaccounts",
        ..CORE
    },
    Kind {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        subresources: &[status("Service")],
        schema: "io.k8s.api.core.v1.Service",
        storage: "services",
        ..CORE
    },
    Kind {
        group: "events.k8s.io",
        kind: "Event",
        plural: "events",
        singular: "event",
        short_names: &["ev"],
        schema: "io.k8s.api.events.v1.Event",
        storage: "events",
        ..CORE
    },
    Kind {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        schema: "io.k8s.api.coordination.v1.Lease",
        storage: "leases",
        ..CORE
    },
    Kind {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        schema: "io.k8s.api.discovery.v1.EndpointSlice",
        storage: "endpointslices",
        ..CORE
    },
];

/// The kind served at this group, version and plural.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind of this group, version and kind name.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// The kinds that are stored, each once, however many groups serve its objects.
pub fn stored() -> impl Iterator<Item = &'static Kind> {
    let first = |kind: &Kind| KINDS.iter().find(|other| other.storage == kind.storage);
    KINDS.iter().filter(move |kind| first(kind).is_some_and(|first| std::ptr::eq(first, *kind)))
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The key of an object in the store: `STORAGE/NAMESPACE/NAME` or `STORAGE/NAME`.
    pub fn key(&self, namespace: Option<&str>, name: &str) -> String {
        format!("{}{name}", self.prefix(namespace))
    }

    /// The prefix of a collection's keys, ending in `/`.
    pub fn prefix(&self, namespace: Option<&str>) -> String {
        match namespace {
            Some(namespace) if self.namespaced => format!("{}/{namespace}/", self.storage),
            _ => format!("{}/", self.storage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_complete_and_unique() {
        for (i, kind) in KINDS.iter().enumerate() {
            for field in [kind.kind, kind.plural, kind.singular, kind.schema, kind.storage] {
                assert!(!field.is_empty(), "{kind:?}");
            }
            assert_eq!(kind.kind.to_lowercase(), kind.singular);
            assert!(kind.schema.ends_with(&format!(".{}.{}", kind.version, kind.kind)));
            assert!(kind.verbs.is_sorted(), "{}", kind.kind);
            assert!(kind.subresources.iter().map(|s| s.name).is_sorted(), "{}", kind.kind);
            assert!(KINDS[i + 1..].iter().all(|k| (k.group, k.plural) != (kind.group, kind.plural)));
        }
    }

    #[test]
    fn what_two_groups_serve_is_stored_once() {
        let events: Vec<&Kind> = stored().filter(|kind| kind.storage == "events").collect();
        assert_eq!((events.len(), events[0].group), (1, ""));
        assert_eq!(stored().count(), KINDS.len() - 1);
    }

    #[test]
    fn found_by_resource_and_by_kind() {
        let slices = by_resource("discovery.k8s.io", "v1", "endpointslices").unwrap();
        assert_eq!(by_kind("discovery.k8s.io", "v1", "EndpointSlice"), Some(slices));
        assert_eq!(slices.api_version(), "discovery.k8s.io/v1");
        assert_eq!(slices.key(Some("default"), "a"), "endpointslices/default/a");
        assert_eq!(slices.prefix(None), "endpointslices/");
        let nodes = by_resource("", "v1", "nodes").unwrap();
        assert_eq!((nodes.api_version().as_str(), nodes.key(None, "n").as_str()), ("v1", "nodes/n"));
        assert_eq!(by_resource("", "v2", "nodes"), None);
    }
}
