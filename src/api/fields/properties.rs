//! What holds for whatever is written, tried with made-up objects.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::collect::collect;
use super::merge::merge;
use super::{Applied, Context, Converted, Failure, Managers, Set, Versions, apply, changes, compare, update};
use crate::api::schema::Schema;

const POD: &str = "io.k8s.api.core.v1.Pod";
const CASES: u64 = 100;

/// A small generator of numbers (splitmix64): the same seed makes the same objects.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }

    fn word(&mut self) -> String {
        format!("w{}", self.below(4))
    }
}

struct Only(Option<Schema<'static>>);

impl Versions for Only {
    fn convert<'o>(&'o self, object: &'o Value, version: &str) -> Option<Converted<'o>> {
        (version == "v1").then_some((Cow::Borrowed(object), self.0))
    }
}

/// A pod's fields of all forms: granular and atomic maps, lists by keys with and without defaults, sets, atomic lists,
/// scalars. `names` are the labels, containers and finalizers it may have.
fn pod(random: &mut Random, names: &[&str]) -> Value {
    let mut some = |of: &[&str]| -> Vec<String> {
        of.iter().filter(|_| random.chance()).map(|name| (*name).to_owned()).collect()
    };
    let (labels, finalizers, containers) = (some(names), some(names), some(names));
    let mut labels_map = Map::new();
    for name in labels {
        labels_map.insert(name, json!(random.word()));
    }
    let mut list = Vec::new();
    for name in containers {
        let mut container = json!({"name": name});
        if random.chance() {
            container["image"] = json!(random.word());
        }
        if random.chance() {
            container["args"] = json!([random.word()]);
        }
        if random.chance() {
            container["ports"] = json!([{"containerPort": random.below(3)}]);
        }
        if random.chance() {
            container["resources"] = json!({"limits": {"cpu": random.word()}});
        }
        list.push(container);
    }
    if random.chance() {
        list.reverse();
    }
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod"});
    if !labels_map.is_empty() {
        pod["metadata"]["labels"] = Value::Object(labels_map);
    }
    if !finalizers.is_empty() {
        pod["metadata"]["finalizers"] = json!(finalizers);
    }
    if !list.is_empty() {
        pod["spec"]["containers"] = json!(list);
    }
    pod
}

/// A pod that also sets what only one manager may: a node selector is one value.
fn pod_with_selector(random: &mut Random, names: &[&str]) -> Value {
    let mut pod = pod(random, names);
    if random.chance() {
        pod["spec"]["nodeSelector"] = json!({"a": random.word()});
    }
    pod
}

struct World {
    only: Only,
    object: Value,
    managers: Managers,
}

impl World {
    fn new() -> World {
        World { only: Only(Schema::of(POD)), object: json!({}), managers: Managers::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&Context) -> T) -> T {
        let reset = Set::default();
        let now = "2024-01-02T03:04:05Z";
        act(&Context {
            version: "v1",
            place: self.only.0,
            subresource: "",
            reset: &reset,
            versions: &self.only,
            now,
        })
    }

    fn apply(&mut self, manager: &str, config: &Value, force: bool) -> Result<(), Failure> {
        let applied =
            self.with(|context| apply(self.managers.clone(), &self.object, config, manager, force, context));
        let Applied { object, managers } = applied?;
        (self.object, self.managers) = (object, managers);
        Ok(())
    }

    fn update(&mut self, manager: &str, object: Value) {
        self.managers = self.with(|context| {
            let found = changes(&self.object, &object, context);
            update(self.managers.clone(), found, (&self.object, &object), manager, context)
        });
        self.object = object;
    }

    fn owned(&self) -> Set {
        self.managers.iter().fold(Set::default(), |all, (_, owned)| all.union(&owned.set))
    }

    /// What of a configuration the object does not show.
    fn missing(&self, config: &Value) -> Vec<String> {
        let merged = merge(self.only.0, &self.object, config).unwrap();
        let found = compare(self.only.0, &self.object, &merged);
        [found.added.paths(), found.modified.paths(), found.removed.paths()].concat()
    }
}

const NAMES: &[&str] = &["a", "b", "c", "d"];

#[test]
fn what_is_applied_is_there_and_applying_it_again_changes_nothing() {
    for seed in 0..CASES {
        let random = &mut Random(seed);
        let mut world = World::new();
        for _ in 0..4 {
            if random.chance() {
                world.update("editor", pod_with_selector(random, NAMES));
            }
            let manager = if random.chance() { "a" } else { "b" };
            let config = pod_with_selector(random, NAMES);
            world.apply(manager, &config, true).unwrap();
            assert_eq!(
                world.missing(&config),
                [] as [String; 0],
                "seed {seed}: {config} in {}",
                world.object
            );
            let before = (world.object.clone(), world.managers.clone());
            world.apply(manager, &config, false).unwrap();
            assert_eq!((&world.object, &world.managers), (&before.0, &before.1), "seed {seed}: {config}");
        }
    }
}

#[test]
fn what_is_owned_is_there() {
    for seed in 0..CASES {
        let random = &mut Random(seed);
        let mut world = World::new();
        for _ in 0..5 {
            match random.below(3) {
                0 => world.update("editor", pod_with_selector(random, NAMES)),
                1 => {
                    // A conflict leaves everything as it is.
                    let _ = world.apply("a", &pod_with_selector(random, NAMES), false);
                }
                _ => world.apply("b", &pod_with_selector(random, NAMES), true).unwrap(),
            }
            let place = world.only.0;
            let there = collect(place, &world.object).with_named_fields(place);
            let lost = world.owned().difference(&there).paths();
            // A struct or list that is there, and empty but for what others own, may be owned itself.
            let odd: Vec<&String> = lost.iter().filter(|path| !has(&world.object, path)).collect();
            assert!(odd.is_empty(), "seed {seed}: {odd:?} in {}", world.object);
        }
    }
}

/// Whether the field of a path without lists is there.
fn has(object: &Value, path: &str) -> bool {
    let place = if path.contains('[') { path.split('[').next().unwrap_or_default() } else { path };
    object.pointer(&place.replace('.', "/")).is_some()
}

#[test]
fn every_written_field_has_an_owner() {
    for seed in 0..CASES {
        let random = &mut Random(seed);
        let mut world = World::new();
        world.update("creator", pod_with_selector(random, NAMES));
        for _ in 0..4 {
            if random.chance() {
                world.update("editor", pod_with_selector(random, NAMES));
            } else {
                world.apply("a", &pod_with_selector(random, NAMES), true).unwrap();
            }
            let nobodys = collect(world.only.0, &world.object).leaves().difference(&world.owned());
            let identity = |path: &String| path == ".apiVersion" || path == ".kind";
            let paths: Vec<String> = nobodys
                .paths()
                .into_iter()
                .filter(|path| !identity(path) && !is_emptied(&world.object, path))
                .collect();
            assert_eq!(paths, [] as [String; 0], "seed {seed}: {}", world.object);
        }
    }
}

#[test]
fn managers_of_different_fields_never_conflict() {
    for seed in 0..CASES {
        let random = &mut Random(seed);
        let mut world = World::new();
        for _ in 0..6 {
            let (manager, names) = if random.chance() { ("a", &NAMES[..2]) } else { ("b", &NAMES[2..]) };
            let config = pod(random, names);
            world.apply(manager, &config, false).unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
            assert_eq!(world.missing(&config), [] as [String; 0], "seed {seed}");
        }
    }
}

#[test]
fn what_one_drops_goes_unless_another_owns_it() {
    for seed in 0..CASES {
        let random = &mut Random(seed);
        let mut world = World::new();
        let (mine, theirs) = (pod(random, NAMES), pod(random, NAMES));
        world.apply("a", &mine, false).unwrap();
        world.apply("b", &theirs, true).unwrap();
        world.apply("a", &json!({"apiVersion": "v1", "kind": "Pod"}), true).unwrap();
        let left = collect(world.only.0, &world.object).leaves();
        let expected = collect(world.only.0, &theirs).leaves();
        let (extra, lost) = (left.clone().difference(&expected).paths(), expected.difference(&left).paths());
        let extra: Vec<&String> = extra.iter().filter(|path| !is_emptied(&world.object, path)).collect();
        assert!(extra.is_empty() && lost.is_empty(), "seed {seed}: {extra:?} {lost:?}\n{mine}\n{theirs}");
    }
}

/// Whether what is left at the path is nothing but an emptied struct or list.
fn is_emptied(object: &Value, path: &str) -> bool {
    let value = object.pointer(&path.replace('.', "/"));
    value.is_none_or(|value| value.is_null() || *value == json!({}) || *value == json!([]))
}
