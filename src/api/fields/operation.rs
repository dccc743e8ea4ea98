//! What a write makes of an object's managers, and what an applied configuration makes of an object.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::collect::collect;
use super::compare::{Comparison, compare};
use super::conflict::{self, Conflict};
use super::last_applied;
use super::managers::{Change, Identity, Managers, Owned};
use super::merge::{self, merge};
use super::remove::remove;
use super::set::{Node, Set};
use super::step::Step;
use super::types;
use crate::api::schema::Schema;

/// Whose fields are those of an object that nobody managed until somebody applied to it.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// What nobody owns: the server sets it, or it is the object's identity.
pub(super) static NEVER_OWNED: LazyLock<Set> = LazyLock::new(|| {
    let mut set = Set::default();
    for name in ["apiVersion", "kind", "metadata"] {
        set.insert(&[Step::field(name)]);
    }
    for name in [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "clusterName",
        "generation",
        "managedFields",
        "resourceVersion",
    ] {
        set.insert(&[Step::field("metadata"), Step::field(name)]);
    }
    set
});

/// An object in one of its versions, and its type there.
pub type Converted<'o> = (Cow<'o, Value>, Option<Schema<'o>>);

/// The versions of a kind.
pub trait Versions {
    /// The object as this version (`apps/v1`) has it, and its type there; `None` when the version is not known.
    fn convert<'o>(&'o self, object: &'o Value, version: &str) -> Option<Converted<'o>>;
}

/// How a write reaches an object.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The version in which the object is written: `apps/v1`.
    pub version: &'a str,
    /// Its type; `None` for objects of unknown structure.
    pub place: Option<Schema<'a>>,
    /// `status`, or nothing for the object itself.
    pub subresource: &'a str,
    /// The fields that this kind of write cannot change, with what is below them.
    pub reset: &'a Set,
    /// The other versions.
    pub versions: &'a dyn Versions,
    /// The time, in RFC 3339.
    pub now: &'a str,
}

/// What became of an applied configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The object with the configuration in it.
    pub object: Value,
    /// Who manages it from then on.
    pub managers: Managers,
}

/// Why a configuration cannot be applied.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// The configuration or the live object are such that they cannot be merged.
    #[error("failed to merge config: {0}")]
    Merge(#[from] merge::Error),
    /// Others own what it would change.
    #[error("the configuration would change fields of other managers")]
    Conflicts(Vec<Conflict>),
}

/// What a write that brings an object from `live` to `new` changes of what it can change.
pub fn changes(live: &Value, new: &Value, context: &Context) -> Comparison {
    compare(context.place, live, new).without(context.reset)
}

/// The managers of an object after these changes, by which `manager` brought it from `live` to `new`.
pub fn update(
    managers: Managers,
    changes: Comparison,
    (live, new): (&Value, &Value),
    manager: &str,
    context: &Context,
) -> Managers {
    let mut managers = reconciled(managers, live, context);
    let changes = Changes::new(changes, live, new, context);
    managers.change(|_, owned| changes.left(owned));
    let set = changes.here.written().difference(&NEVER_OWNED);
    if !set.is_empty() {
        let identity = Identity::updater(manager, context.version, context.subresource);
        let before = managers.get(&identity).map(|owned| owned.set.clone()).unwrap_or_default();
        managers.set(identity, owned(set.union(&before), context, Some(context.now.to_owned())));
    }
    managers.cap();
    managers
}

fn owned(set: Set, context: &Context, time: Option<String>) -> Owned {
    Owned { set, version: context.version.to_owned(), time }
}

/// The live object with a configuration that `manager` applies, which loses what the manager does not apply any more.
pub fn apply(
    mut managers: Managers,
    live: &Value,
    config: &Value,
    manager: &str,
    force: bool,
    context: &Context,
) -> Result<Applied, Failure> {
    if managers.is_empty() {
        let nothing = Value::Object(Default::default());
        let found = changes(&nothing, live, context);
        managers = update(managers, found, (&nothing, live), BEFORE_FIRST_APPLY, context);
    }
    let managers = reconciled(managers, live, context);
    let merged = merge(context.place, live, config)?;
    let once = |force| apply_merged(managers.clone(), live, &merged, config, manager, force, context);
    let mut applied = match once(force) {
        Err(conflicts) if manager == last_applied::MANAGER => {
            let left = last_applied::without_own(conflicts, live, context);
            if !left.is_empty() {
                return Err(Failure::Conflicts(left));
            }
            once(true).map_err(Failure::Conflicts)?
        }
        other => other.map_err(Failure::Conflicts)?,
    };
    if manager == last_applied::MANAGER {
        last_applied::renew(&mut applied.object, config);
    }
    Ok(applied)
}

fn apply_merged(
    mut managers: Managers,
    live: &Value,
    merged: &Value,
    config: &Value,
    manager: &str,
    force: bool,
    context: &Context,
) -> Result<Applied, Vec<Conflict>> {
    let identity = Identity::applier(manager, context.subresource);
    let last = managers.get(&identity).cloned();
    let set = collect(context.place, config).recursive_difference(context.reset);
    managers.set(identity.clone(), owned(set.clone(), context, None));
    let object = match &last {
        Some(last) => prune(merged, &managers, last, context),
        None => merged.clone(),
    };
    let changes = Changes::new(changes(live, &object, context), live, &object, context);
    if !force {
        let others = conflict::touched(&managers, |other| match *other == identity {
            true => Set::default(),
            false => changes.of(managers.get(other)).map(Comparison::written).unwrap_or_default(),
        });
        if !others.is_empty() {
            return Err(conflict::conflicts(&others));
        }
    }
    managers.change(|other, owned| match *other == identity {
        true => Change::None,
        false => changes.left(owned),
    });
    let time = match object == *live {
        true => last.and_then(|last| last.time),
        false => Some(context.now.to_owned()),
    };
    managers.set(identity, owned(set.difference(&NEVER_OWNED), context, time));
    Ok(Applied { object, managers })
}

/// The merged object without what the manager applied last time and does not apply now, as far as nobody owns it.
fn prune(merged: &Value, managers: &Managers, last: &Owned, context: &Context) -> Value {
    let Some((merged_then, place)) = context.versions.convert(merged, &last.version) else {
        return merged.clone();
    };
    let fields = |place, object: &Value| collect(place, object).with_named_fields(place);
    let last_set = last.set.with_named_fields(place);
    let mut pruned = remove(place, &merged_then, &last_set);
    let mut version = last.version.as_str();
    // What anybody owns comes back, first in the version in which it was taken out.
    let mut owned: BTreeMap<&str, Set> = BTreeMap::new();
    for (_, other) in managers.iter() {
        owned.entry(&other.version).or_default().add(other.set.clone());
    }
    let here = owned.remove_entry(version);
    for (other, set) in here.into_iter().chain(owned) {
        let merged = context.versions.convert(merged, other);
        let converted = context.versions.convert(&pruned, other).map(|(pruned, _)| pruned.into_owned());
        let (Some((merged, place)), Some(converted)) = (merged, converted) else { continue };
        let kept = fields(place, &converted).union(&set.with_named_fields(place));
        pruned = remove(place, &merged, &fields(place, &merged).difference(&kept));
        version = other;
    }
    // What the manager never applied stays too, even if nobody owns it.
    let back = match version == last.version {
        true => Some(Cow::Borrowed(&pruned)),
        false => context.versions.convert(&pruned, &last.version).map(|(pruned, _)| pruned),
    };
    let Some(pruned) = back else { return merged.clone() };
    let gone = fields(place, &merged_then).difference(&fields(place, &pruned)).intersection(&last_set);
    let left = remove(place, &merged_then, &gone);
    let result = context.versions.convert(&left, context.version).map(|(object, _)| object.into_owned());
    result.unwrap_or_else(|| merged.clone())
}

/// What differs between two states of an object, in each version in which somebody owns fields.
struct Changes<'a> {
    live: &'a Value,
    new: &'a Value,
    context: &'a Context<'a>,
    here: Comparison,
    /// Those of other versions, compared when they are asked for.
    elsewhere: std::cell::RefCell<BTreeMap<String, Option<Comparison>>>,
}

impl Comparison {
    /// What was added or modified.
    fn written(mut self) -> Set {
        self.modified.add(self.added);
        self.modified
    }
}

impl<'a> Changes<'a> {
    fn new(here: Comparison, live: &'a Value, new: &'a Value, context: &'a Context<'a>) -> Changes<'a> {
        Changes { live, new, context, here, elsewhere: Default::default() }
    }

    /// The changes in the version of what a manager owns; `None` when that version is not known.
    fn of(&self, owned: Option<&Owned>) -> Option<Comparison> {
        let version = &owned?.version;
        if version == self.context.version {
            return Some(self.here.clone());
        }
        let compared = || {
            let (live, place) = self.context.versions.convert(self.live, version)?;
            let (new, _) = self.context.versions.convert(self.new, version)?;
            Some(changes(&live, &new, &Context { place, ..*self.context }))
        };
        self.elsewhere.borrow_mut().entry(version.clone()).or_insert_with(compared).clone()
    }

    /// What becomes of what a manager owns; one of an unknown version is forgotten.
    fn left(&self, owned: &Owned) -> Change {
        if owned.version == self.context.version {
            return Changes::without(owned, &self.here);
        }
        self.of(Some(owned)).map_or(Change::Forget, |changes| Changes::without(owned, &changes))
    }

    fn without(owned: &Owned, changes: &Comparison) -> Change {
        let Comparison { added, modified, removed } = changes;
        let gone: Vec<&Set> =
            [added, modified, removed].into_iter().filter(|set| owned.set.meets(set)).collect();
        match gone.is_empty() {
            true => Change::None,
            false => Change::To(gone.into_iter().fold(owned.set.clone(), Set::difference)),
        }
    }
}

/// The managers with their sets as the types are: whoever owned what lies within a value that is one value owns it whole.
fn reconciled(mut managers: Managers, live: &Value, context: &Context) -> Managers {
    managers.change(|_, owned| {
        let place = match owned.version == context.version {
            true => context.place,
            // Those of unknown versions are forgotten when they are compared.
            false => context.versions.convert(live, &owned.version).and_then(|(_, place)| place),
        };
        match fits(&owned.set, place) {
            true => Change::None,
            false => Change::To(fitting(&owned.set, place)),
        }
    });
    managers
}

fn splits(node: &Node, place: Option<Schema>) -> bool {
    !node.below.is_empty() && place.is_some_and(types::is_atomic)
}

fn fits(set: &Set, place: Option<Schema>) -> bool {
    set.nodes().all(|(step, node)| {
        let place = types::at_step(place, step);
        !splits(node, place) && (place.is_none() || fits(&node.below, place))
    })
}

fn fitting(set: &Set, place: Option<Schema>) -> Set {
    let mut fitting_set = Set::default();
    for (step, node) in set.nodes() {
        let place = types::at_step(place, step);
        let node = match splits(node, place) {
            true => Node { member: true, below: Set::default() },
            false => Node { member: node.member, below: fitting(&node.below, place) },
        };
        fitting_set.put(step.clone(), node);
    }
    fitting_set
}
