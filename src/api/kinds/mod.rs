//! The table of kinds: adding a kind is a row in the file of its group and a strategy file in
//! `apiserver/strategy`. Kinds that clients define are rows of the same type, made while the server runs.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use super::custom::Version;
use super::schema::Schema;

mod admissionregistration;
mod apiextensions;
mod apiregistration;
mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod coordination;
mod core;
mod discovery;
mod events;
mod flowcontrol;
mod legacy;
mod networking;
mod node;
mod policy;
mod rbac;
mod scheduling;
mod storage;

/// Text of a row: part of the program for built-in kinds, owned for others.
pub type Text = Cow<'static, str>;

/// What the API serves under one plural in one group and version.
#[derive(Debug, Clone, PartialEq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: Text,
    /// `v1`.
    pub version: Text,
    /// `Pod`.
    pub kind: Text,
    /// `PodList`.
    pub list: Text,
    /// `pods`.
    pub plural: Text,
    /// `pod`.
    pub singular: Text,
    /// `po`.
    pub short_names: Vec<Text>,
    /// `all`.
    pub categories: Vec<Text>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The verbs of the objects themselves, in discovery's order.
    pub verbs: &'static [&'static str],
    /// Subresources with a kind of their own behaviour, beside the object (`status`, `binding`, ...), by name.
    pub subresources: Vec<Subresource>,
    /// The structure of its objects.
    pub types: Types,
    /// What every request for it is warned about: when it was deprecated and what to use instead.
    pub deprecated: Option<Text>,
    /// The first part of its keys in the store; two groups or versions that serve the same objects share it
    /// (`events` and `events.k8s.io/events`).
    pub storage: Text,
}

/// A path below an object, as discovery lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// `status`.
    pub name: &'static str,
    /// The kind of its bodies: `Pod`, `Binding`, `PodExecOptions`.
    pub kind: Text,
    /// The group and version of that kind where they are not those of the object: `("policy", "v1")`.
    pub group_version: Option<(&'static str, &'static str)>,
    /// The verbs it knows, in discovery's order.
    pub verbs: &'static [&'static str],
}

/// Where the structure of a kind's objects is stated.
#[derive(Debug, Clone, PartialEq)]
pub enum Types {
    /// In the schema document, under this name: `io.k8s.api.core.v1.Pod`.
    Named(Text),
    /// With the kind itself, which a client defined.
    Own(Arc<Version>),
}

impl Types {
    /// The schema; `None` when the document does not know the name.
    pub fn schema(&self) -> Option<Schema<'_>> {
        match self {
            Types::Named(name) => Schema::of(name),
            Types::Own(version) => Some(Schema::own(&version.document)),
        }
    }

    /// The name in the schema document; empty for kinds that bring their own.
    pub fn name(&self) -> &str {
        match self {
            Types::Named(name) => name,
            Types::Own(_) => "",
        }
    }

    /// The version of a kind that a client defined.
    pub fn custom(&self) -> Option<&Arc<Version>> {
        match self {
            Types::Named(_) => None,
            Types::Own(version) => Some(version),
        }
    }
}

/// What discovery lists for an ordinary kind.
pub const ALL_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// What the status and other parts with a body of the object's own know.
const PART_VERBS: &[&str] = &["get", "patch", "update"];

/// The kinds of one group and version are made from here; rows say what differs from an ordinary kind.
struct GroupVersion {
    group: &'static str,
    version: &'static str,
    /// What the names of its types begin with in the schema document: `io.k8s.api.core.v1`.
    types: &'static str,
}

impl GroupVersion {
    /// A kind whose objects live in namespaces.
    fn namespaced(&self, kind: &'static str, plural: &'static str) -> Kind {
        Kind {
            group: self.group.into(),
            version: self.version.into(),
            kind: kind.into(),
            list: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            verbs: ALL_VERBS,
            subresources: Vec::new(),
            types: Types::Named(format!("{}.{kind}", self.types).into()),
            deprecated: None,
            storage: plural.into(),
        }
    }

    /// A kind whose objects belong to the whole cluster.
    fn cluster(&self, kind: &'static str, plural: &'static str) -> Kind {
        Kind { namespaced: false, ..self.namespaced(kind, plural) }
    }
}

impl Kind {
    fn short(mut self, name: &'static str) -> Kind {
        self.short_names.push(name.into());
        self
    }

    /// Lists the kind among `kubectl get all`.
    fn in_all(self) -> Kind {
        self.among("all")
    }

    /// Lists the kind under a category's name.
    fn among(mut self, category: &'static str) -> Kind {
        self.categories.push(category.into());
        self
    }

    /// Reading, replacing and patching the status apart from the spec.
    fn with_status(self) -> Kind {
        let kind = self.kind.clone();
        self.with(Subresource { name: "status", kind, group_version: None, verbs: PART_VERBS })
    }

    /// Reading and changing the number of replicas, whatever else the object holds.
    fn with_scale(self) -> Kind {
        let group_version = Some(("autoscaling", "v1"));
        self.with(Subresource { name: "scale", kind: "Scale".into(), group_version, verbs: PART_VERBS })
    }

    /// A subresource whose bodies are of a kind of the object's own group and version.
    fn with_own(self, name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Kind {
        self.with(Subresource { name, kind: kind.into(), group_version: None, verbs })
    }

    fn with(mut self, subresource: Subresource) -> Kind {
        self.subresources.push(subresource);
        self
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> Text {
        match (&*self.group, &self.version) {
            ("", version) => version.clone(),
            (group, version) => format!("{group}/{version}").into(),
        }
    }

    /// Whether Kubernetes has removed this version of the kind.
    pub fn is_removed(&self) -> bool {
        legacy::is_removed(self)
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|row| row.name == name)
    }

    /// Whether this is the kind of this group and plural, in any version.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
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

/// Every built-in kind, grouped by API group in discovery's order. Where several rows share a storage, the first is
/// what is stored.
pub static KINDS: LazyLock<Vec<Arc<Kind>>> = LazyLock::new(|| {
    let groups = [
        core::kinds(),
        apiregistration::kinds(),
        apps::kinds(),
        events::kinds(),
        autoscaling::kinds(),
        batch::kinds(),
        certificates::kinds(),
        networking::kinds(),
        policy::kinds(),
        rbac::kinds(),
        storage::kinds(),
        admissionregistration::kinds(),
        apiextensions::kinds(),
        scheduling::kinds(),
        coordination::kinds(),
        node::kinds(),
        discovery::kinds(),
        flowcontrol::kinds(),
    ];
    let today = groups.concat();
    let legacy = legacy::kinds(&today);
    today.into_iter().chain(legacy).map(Arc::new).collect()
});

/// What the subresource `scale` shows of objects of other kinds; no collection serves it.
pub static SCALE: LazyLock<Arc<Kind>> = LazyLock::new(|| Arc::new(autoscaling::scale()));

/// The built-in kind served at this group, version and plural.
pub fn by_resource(group: &str, version: &str, plural: &str) -> Option<&'static Arc<Kind>> {
    KINDS.iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The built-in kind of this group, version and kind name.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static Arc<Kind>> {
    KINDS.iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// The built-in kinds that are stored, each once, however many groups and versions serve its objects. What is made up
/// for each request cannot be watched.
pub fn stored() -> impl Iterator<Item = &'static Arc<Kind>> {
    let first = |kind: &Kind| KINDS.iter().find(|other| other.storage == kind.storage);
    let once = move |kind: &&'static Arc<Kind>| first(kind).is_some_and(|first| Arc::ptr_eq(first, kind));
    KINDS.iter().filter(|kind| kind.verbs.contains(&"watch")).filter(once)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_complete_and_unique() {
        for (i, kind) in KINDS.iter().enumerate() {
            assert!(kind.types.schema().is_some(), "{kind:?}");
            assert_eq!(kind.kind.to_lowercase(), kind.singular);
            assert!(kind.verbs.is_sorted(), "{}", kind.kind);
            assert!(kind.subresources.iter().map(|s| s.name).is_sorted(), "{}", kind.kind);
            let place = |k: &Kind| (k.group.clone(), k.version.clone(), k.plural.clone());
            assert!(KINDS[i + 1..].iter().all(|k| place(k) != place(kind)));
        }
    }

    #[test]
    fn what_two_groups_serve_is_stored_once() {
        let events: Vec<&Arc<Kind>> = stored().filter(|kind| kind.storage == "events").collect();
        assert_eq!((events.len(), &*events[0].group), (1, ""));
    }

    #[test]
    fn found_by_resource_and_by_kind() {
        let slices = by_resource("discovery.k8s.io", "v1", "endpointslices").unwrap();
        assert_eq!(by_kind("discovery.k8s.io", "v1", "EndpointSlice"), Some(slices));
        assert_eq!(slices.api_version(), "discovery.k8s.io/v1");
        assert_eq!(slices.key(Some("default"), "a"), "endpointslices/default/a");
        assert_eq!(slices.prefix(None), "endpointslices/");
        let nodes = by_resource("", "v1", "nodes").unwrap();
        assert_eq!((&*nodes.api_version(), nodes.key(None, "n").as_str()), ("v1", "nodes/n"));
        assert_eq!(by_resource("", "v2", "nodes"), None);
    }
}
