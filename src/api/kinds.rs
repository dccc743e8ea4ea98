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
    /// Subresources with a kind of their own behaviour, beside the object: `status`, `binding`, ...
    pub subresources: &'static [Subresource],
    /// The name of its type in the schema document: `io.k8s.api.core.v1.Pod`.
    pub schema: &'static str,
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
    /// The verbs it knows, in discovery's order.
    pub verbs: &'static [&'static str],
}

/// Reading, replacing and patching the status apart from the spec.
const fn status(kind: &'static str) -> Subresource {
    Subresource { name: "status", kind, verbs: &["get", "patch", "update"] }
}

const POD: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    namespaced: true,
    subresources: &[
        Subresource { name: "attach", kind: "PodAttachOptions", verbs: &["create", "get"] },
        Subresource { name: "binding", kind: "Binding", verbs: &["create"] },
        Subresource { name: "exec", kind: "PodExecOptions", verbs: &["create", "get"] },
        Subresource { name: "log", kind: "Pod", verbs: &["get"] },
        Subresource { name: "portforward", kind: "PodPortForwardOptions", verbs: &["create", "get"] },
        status("Pod"),
    ],
    schema: "io.k8s.api.core.v1.Pod",
    storage: "pods",
};

/// Every kind, grouped by API group in discovery's order.
pub static KINDS: &[Kind] = &[POD];

/// The kind served at this group, version and plural.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind of this group, version and kind name.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
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
