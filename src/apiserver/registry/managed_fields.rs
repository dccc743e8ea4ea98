//! `metadata.managedFields`: what a write makes of them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::turning::Turning;
use super::{Part, as_stored, stored_kind, value_as_served};
use crate::api::fields::{self, Context, Converted, Managers, Set, Step, Versions};
use crate::api::kinds::{KINDS, Kind, Types};
use crate::api::meta;
use crate::api::request::{User, WriteOptions};
use crate::api::status::Status;
use crate::apiserver::patching;
use crate::clock;

/// The manager of what the server does itself.
const SERVER: &str = "kube-apiserver";

/// What a write makes of who manages which fields.
#[derive(Debug, Clone)]
pub(super) enum Ownership {
    /// Whoever writes manages what has changed.
    Moves,
    /// Nothing: nobody manages what a binding sets.
    Stays,
    /// What an applied configuration made of it.
    Applied(Managers),
}

/// Who manages what a request writes: the name that it gives, or that of the component that asks.
pub(super) fn manager<'a>(user: &'a User, options: &'a WriteOptions) -> &'a str {
    if let Some(manager) = &options.field_manager {
        return manager;
    }
    match user.name.strip_prefix("system:") {
        None => &user.name,
        Some("apiserver") => SERVER,
        Some(node) if node.starts_with("node:") => "kubelet",
        Some(component) => component,
    }
}

/// The managed fields of an object that `manager` brought from `live` to `new`, both as they are stored; `given` are
/// those that the request itself says. An object that is made has no `live`.
pub(super) fn after_update(
    kind: &Kind,
    part: Part,
    (live, new): (Option<&Value>, &Value),
    given: Option<&Value>,
    (manager, turning): (&str, &Turning),
) -> Value {
    // What cannot be compared is managed by nobody, as in Kubernetes.
    if turning.failure().is_some() {
        return Value::Null;
    }
    let nothing = Value::Object(Default::default());
    let had = live.map_or(&Value::Null, |live| &live["metadata"]["managedFields"]);
    let live = live.map(|live| served(kind, live));
    let (before, new) = (live.as_deref().unwrap_or(&nothing), served(kind, new));
    with_context(kind, part, turning, |context| {
        let changes = fields::changes(before, &new, context);
        let given = given.filter(|given| part == Part::Object && !given.is_null() && *given != had);
        if given.is_none() && changes.is_same() {
            return had.clone();
        }
        // The types of custom kinds change, and their sets with them.
        if given.is_none()
            && kind.types.custom().is_none()
            && let Some(renewed) = fields::renewed(had, &changes, manager, context)
        {
            return renewed;
        }
        // What a client says that cannot be read counts for nothing, and what is stored that cannot be read is dropped.
        let stored = || Managers::parse(had).unwrap_or_default();
        let managers = match given {
            Some(given) if is_reset(given) => Managers::default(),
            Some(given) => {
                let read = Managers::parse(given).ok().filter(|managers| !managers.is_empty());
                read.unwrap_or_else(stored)
            }
            None => stored(),
        };
        // Of an object whose fields nobody manages only an apply makes one whose fields somebody does.
        if managers.is_empty() && live.is_some() {
            return Value::Null;
        }
        fields::update(managers, changes, (before, &new), manager, context).to_wire()
    })
}

/// The object, as served, with a configuration applied to it, and who manages it from then on.
pub(super) fn after_apply(
    kind: &Kind,
    part: Part,
    live: &Value,
    config: &Value,
    (manager, force): (&str, bool),
    turning: &Turning,
) -> Result<(Value, Managers), Status> {
    if let Some(failure) = turning.failure() {
        return Err(failure.clone());
    }
    let applied = with_context(kind, part, turning, |context| {
        patching::apply(kind, live, config, manager, force, context)
    })?;
    Ok((applied.object, applied.managers))
}

/// Whether a client asks to forget all managers: by a list of none, or of one empty entry.
fn is_reset(given: &Value) -> bool {
    match given.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => *one == json!({}),
        _ => false,
    }
}

/// Takes times back that are the only thing that a write would change.
pub(super) fn keep_times(new: &mut Value, old: &Value) {
    let entries = |object: &Value| object["metadata"]["managedFields"].as_array().map_or(0, Vec::len);
    if entries(new) == 0 || entries(new) != entries(old) {
        return;
    }
    let (now, before) = (&new["metadata"]["managedFields"], &old["metadata"]["managedFields"]);
    let without_time = |entry: &Value| {
        let mut entry = entry.clone();
        entry["time"] = Value::Null;
        entry
    };
    let pairs = now.as_array().into_iter().flatten().zip(before.as_array().into_iter().flatten());
    let mut differ = false;
    for (now, before) in pairs {
        if now != before {
            differ = true;
            if without_time(now) != without_time(before) {
                return;
            }
        }
    }
    if !differ {
        return;
    }
    let now = now.clone();
    meta::carry(new, old, "managedFields");
    if new != old {
        meta::set(new, "managedFields", now);
    }
}

/// A stored object as the kind serves it.
fn served<'v>(kind: &Kind, value: &'v Value) -> Cow<'v, Value> {
    match std::ptr::eq(stored_kind(kind), kind) {
        true => Cow::Borrowed(value),
        false => Cow::Owned(value_as_served(kind, value.clone())),
    }
}

fn with_context<T>(kind: &Kind, part: Part, turning: &Turning, act: impl FnOnce(&Context) -> T) -> T {
    let version = kind.api_version();
    let (reset, now) = (reset(kind, part), meta::timestamp(clock::now()));
    act(&Context {
        version: &version,
        place: kind.types.schema(),
        subresource: if part == Part::Binding { "" } else { part.subresource() },
        reset,
        versions: &KindVersions { kind, turning },
        now: &now,
    })
}

/// What this kind of write cannot change: it is as before whatever the request says.
fn reset(kind: &Kind, part: Part) -> &'static Set {
    type Known = HashMap<(Part, bool, bool), Set>;
    static KNOWN: LazyLock<Known> = LazyLock::new(|| {
        let kinds = [(false, false), (false, true), (true, false), (true, true)];
        let each =
            |part: Part| kinds.map(|(status, custom)| ((part, status, custom), fixed(part, status, custom)));
        Part::ALL.into_iter().flat_map(each).collect()
    });
    static NOTHING: Set = Set::NONE;
    let custom = matches!(kind.types, Types::Own(_));
    KNOWN.get(&(part, kind.subresource("status").is_some(), custom)).unwrap_or(&NOTHING)
}

/// The same for objects with or without a status of its own, of a custom kind or not.
fn fixed(part: Part, has_status: bool, custom: bool) -> Set {
    let mut reset = Set::default();
    let mut add =
        |path: &[&str]| reset.insert(&path.iter().map(|name| Step::field(name)).collect::<Vec<_>>());
    add(&["metadata", "managedFields"]);
    add(&["metadata", "resourceVersion"]);
    match part {
        Part::Object | Part::Scale | Part::Binding | Part::EphemeralContainers | Part::Resize
            if !has_status => {}
        Part::Object
        | Part::Scale
        | Part::Binding
        | Part::Finalize
        | Part::EphemeralContainers
        | Part::Resize => add(&["status"]),
        Part::Approval => {
            add(&["spec"]);
            add(&["status", "certificate"]);
        }
        Part::Status => {
            add(&["spec"]);
            add(&["metadata", "deletionTimestamp"]);
            add(&["metadata", "ownerReferences"]);
            if custom {
                add(&["metadata"]);
            }
        }
    }
    reset
}

/// The versions in which the objects of a kind are served.
struct KindVersions<'a> {
    kind: &'a Kind,
    turning: &'a Turning,
}

impl KindVersions<'_> {
    fn of(&self, version: &str) -> Option<&Kind> {
        if self.kind.api_version() == version {
            return Some(self.kind);
        }
        let same =
            |kind: &&std::sync::Arc<Kind>| kind.storage == self.kind.storage && kind.api_version() == version;
        KINDS.iter().find(same).map(|kind| &**kind)
    }
}

impl Versions for KindVersions<'_> {
    fn convert<'o>(&'o self, object: &'o Value, version: &str) -> Option<Converted<'o>> {
        let given = meta::api_version(object);
        let same = given == version || (given.is_empty() && self.kind.api_version() == version);
        if matches!(self.kind.types, Types::Own(_)) {
            if self.kind.api_version() == version && same {
                return Some((Cow::Borrowed(object), self.kind.types.schema()));
            }
            let kind = self.turning.kind(version)?;
            let object = if same { Cow::Borrowed(object) } else { self.turning.turned(object, kind) };
            return Some((object, kind.types.schema()));
        }
        if same {
            return Some((Cow::Borrowed(object), self.of(version)?.types.schema()));
        }
        let (from, to) = (self.of(given)?, self.of(version)?);
        let converted = value_as_served(to, as_stored(from, object.clone()));
        Some((Cow::Owned(converted), to.types.schema()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;

    #[test]
    fn managers_are_named_by_who_asks() {
        let options = |manager: Option<&str>| WriteOptions {
            field_manager: manager.map(str::to_owned),
            ..WriteOptions::default()
        };
        for (user, given, manager_is) in [
            ("system:kube-scheduler", None, "kube-scheduler"),
            ("system:node:minik", None, "kubelet"),
            ("system:apiserver", None, "kube-apiserver"),
            ("jane", None, "jane"),
            ("jane", Some("kubectl-create"), "kubectl-create"),
        ] {
            assert_eq!(manager(&User::component(user), &options(given)), manager_is);
        }
    }

    #[test]
    fn times_alone_are_no_change() {
        let object = |time: &str, fields: Value, data: &str| {
            json!({"metadata": {"managedFields": [{"manager": "m", "time": time, "fieldsV1": fields}]},
                "data": {"a": data}})
        };
        let old = object("1", json!({"f:a": {}}), "x");
        for (new, kept) in [
            (object("2", json!({"f:a": {}}), "x"), true),
            (object("2", json!({"f:b": {}}), "x"), false),
            (object("2", json!({"f:a": {}}), "y"), false),
        ] {
            let mut now = new.clone();
            keep_times(&mut now, &old);
            assert_eq!(now, if kept { old.clone() } else { new });
        }
    }

    #[test]
    fn fields_of_another_version_stay_owned() {
        let newer = kinds::by_resource("events.k8s.io", "v1", "events").unwrap();
        let older = kinds::by_resource("", "v1", "events").unwrap();
        let event = |message: &str, count: i64| {
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "uid": "u"}, "message": message,
                "count": count, "involvedObject": {}})
        };
        let mut made = event("a", 1);
        let fields = after_update(newer, Part::Object, (None, &made), None, ("one", &Turning::default()));
        let owned = &fields[0]["fieldsV1"];
        assert_eq!(
            (fields[0]["apiVersion"].as_str(), owned.get("f:note")),
            (Some("events.k8s.io/v1"), Some(&json!({})))
        );
        meta::set(&mut made, "managedFields", fields);
        let fields = after_update(
            older,
            Part::Object,
            (Some(&made), &event("b", 1)),
            None,
            ("two", &Turning::default()),
        );
        assert_eq!(fields[0]["fieldsV1"], json!({"f:deprecatedCount": {}}));
        assert_eq!(fields[1]["apiVersion"], "v1");
        assert_eq!(fields[1]["fieldsV1"], json!({"f:message": {}}));
    }
}
