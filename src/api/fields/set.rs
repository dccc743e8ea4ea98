//! Sets of fields, as trees.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::step::Step;
use super::types;
use crate::api::schema::Schema;

/// A set of fields of one object. A field may be in the set without those below it, and the other way round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    /// Every node is a member or has members below it.
    nodes: BTreeMap<Step, Node>,
}

/// A field and what lies below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// Whether the field itself is in the set.
    pub(super) member: bool,
    /// The fields below it.
    pub(super) below: Set,
}

impl Node {
    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl Set {
    /// The set of no fields.
    pub const NONE: Set = Set { nodes: BTreeMap::new() };

    /// The set of one field.
    pub fn of(path: &[Step]) -> Set {
        let mut set = Set::default();
        set.insert(path);
        set
    }

    /// Adds a field; those above it are not added.
    pub fn insert(&mut self, path: &[Step]) {
        let Some((first, rest)) = path.split_first() else { return };
        let node = self.nodes.entry(first.clone()).or_default();
        match rest {
            [] => node.member = true,
            rest => node.below.insert(rest),
        }
    }

    /// Adds a field and what is below it.
    pub(super) fn put(&mut self, step: Step, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.nodes.entry(step) {
            Entry::Vacant(vacant) => {
                vacant.insert(node);
            }
            Entry::Occupied(mut there) => {
                let there = there.get_mut();
                there.member |= node.member;
                there.below.add(node.below);
            }
        }
    }

    /// The fields at the top.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&Step, &Node)> {
        self.nodes.iter()
    }

    /// Whether there is no field in the set.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Whether a field is in the set.
    pub fn has(&self, path: &[Step]) -> bool {
        match path.split_first() {
            None => false,
            Some((last, [])) => self.nodes.get(last).is_some_and(|node| node.member),
            Some((first, rest)) => self.nodes.get(first).is_some_and(|node| node.below.has(rest)),
        }
    }

    /// The node of a field at the top.
    pub(super) fn node(&self, step: &Step) -> Option<&Node> {
        self.nodes.get(step)
    }

    /// Adds the fields of another set.
    pub fn add(&mut self, other: Set) {
        if self.nodes.is_empty() {
            *self = other;
            return;
        }
        for (step, node) in other.nodes {
            self.put(step, node);
        }
    }

    /// The fields of either set.
    pub fn union(mut self, other: &Set) -> Set {
        self.add(other.clone());
        self
    }

    /// The fields of both sets.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut both = Set::default();
        for (step, node) in &self.nodes {
            let Some(others) = other.nodes.get(step) else { continue };
            let below = node.below.intersection(&others.below);
            both.put(step.clone(), Node { member: node.member && others.member, below });
        }
        both
    }

    /// Whether any field is in both sets.
    pub(super) fn meets(&self, other: &Set) -> bool {
        let (few, many) = if self.nodes.len() <= other.nodes.len() { (self, other) } else { (other, self) };
        few.nodes.iter().any(|(step, node)| {
            many.nodes
                .get(step)
                .is_some_and(|others| (node.member && others.member) || node.below.meets(&others.below))
        })
    }

    /// The fields that the other set has not. Its fields do not stand for those below them.
    pub fn difference(self, other: &Set) -> Set {
        self.without(other, false)
    }

    /// The fields that the other set has not, and that are not below one that it has.
    pub fn recursive_difference(self, other: &Set) -> Set {
        self.without(other, true)
    }

    fn without(mut self, other: &Set, whole: bool) -> Set {
        for (step, others) in &other.nodes {
            let Some(node) = self.nodes.get_mut(step) else { continue };
            if others.member && whole {
                self.nodes.remove(step);
                continue;
            }
            node.member &= !others.member;
            node.below = std::mem::take(&mut node.below).without(&others.below, whole);
            if node.is_empty() {
                self.nodes.remove(step);
            }
        }
        self
    }

    /// The fields below which the set has no others.
    pub fn leaves(&self) -> Set {
        let mut leaves = Set::default();
        for (step, node) in &self.nodes {
            let member = node.member && node.below.is_empty();
            leaves.put(step.clone(), Node { member, below: node.below.leaves() });
        }
        leaves
    }

    /// The set with the fields of structs above its own: with `spec.containers` comes `spec`, but with a label
    /// no `metadata.labels[…]` that is not there.
    pub(super) fn with_named_fields(&self, place: Option<Schema>) -> Set {
        let mut named = Set::default();
        for (step, node) in &self.nodes {
            let declared = matches!(step, Step::Field(name) if types::declared(place, name).is_some());
            let member = node.member || (declared && !node.below.is_empty());
            let below = node.below.with_named_fields(types::at_step(place, step));
            named.put(step.clone(), Node { member, below });
        }
        named
    }

    /// Calls `visit` with the path of every field: those of a level before those further down.
    pub fn each(&self, visit: &mut dyn FnMut(&[Step])) {
        self.each_below(&mut Vec::new(), visit);
    }

    fn each_below(&self, path: &mut Vec<Step>, visit: &mut dyn FnMut(&[Step])) {
        for (step, _) in self.nodes.iter().filter(|(_, node)| node.member) {
            path.push(step.clone());
            visit(path);
            path.pop();
        }
        for (step, node) in self.nodes.iter().filter(|(_, node)| !node.below.is_empty()) {
            path.push(step.clone());
            node.below.each_below(path, visit);
            path.pop();
        }
    }

    /// The paths of all fields, as messages show them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.each(&mut |path| paths.push(super::step::shown(path)));
        paths
    }
}
