//! Field sets and what they make of writes, by examples.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{
    Applied, Context, Converted, Failure, Managers, Set, Step, Versions, apply, changes, check, compare,
    update,
};
use crate::api::schema::Schema;

const POD: &str = "io.k8s.api.core.v1.Pod";
const SERVICE: &str = "io.k8s.api.core.v1.Service";
const CONFIG_MAP: &str = "io.k8s.api.core.v1.ConfigMap";

/// One version, of this type.
struct Only(Option<Schema<'static>>);

impl Versions for Only {
    fn convert<'o>(&'o self, object: &'o Value, version: &str) -> Option<Converted<'o>> {
        (version == "v1").then_some((Cow::Borrowed(object), self.0))
    }
}

fn context<'a>(only: &'a Only, reset: &'a Set) -> Context<'a> {
    let now = "2024-01-02T03:04:05Z";
    Context { version: "v1", place: only.0, subresource: "", reset, versions: only, now }
}

/// An object and its managers, written to by one after the other.
struct Story {
    only: Only,
    object: Value,
    managers: Managers,
}

impl Story {
    fn of(schema: &str) -> Story {
        Story { only: Only(Schema::of(schema)), object: json!({}), managers: Managers::default() }
    }

    fn apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), Failure> {
        let reset = Set::default();
        let context = context(&self.only, &reset);
        let Applied { object, managers } =
            apply(self.managers.clone(), &self.object, &config, manager, force, &context)?;
        (self.object, self.managers) = (object, managers);
        Ok(())
    }

    fn update(&mut self, manager: &str, object: Value) {
        let reset = Set::default();
        let context = context(&self.only, &reset);
        let found = changes(&self.object, &object, &context);
        self.managers = update(self.managers.clone(), found, (&self.object, &object), manager, &context);
        self.object = object;
    }

    fn owned(&self, manager: &str) -> Vec<String> {
        let of = |(identity, owned): (&super::Identity, &super::Owned)| {
            (identity.manager == manager).then(|| owned.set.paths())
        };
        self.managers.iter().find_map(of).unwrap_or_default()
    }
}

#[test]
fn sets_are_read_and_written() {
    for wire in [
        json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}}),
        json!({"f:spec": {"f:containers": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}}}}}),
        json!({"f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {}}}}),
        json!({"f:spec": {"f:finalizers": {"v:\"a\"": {}, "v:1": {}, "v:true": {}}, "f:list": {"i:3": {}}}}),
        json!({}),
    ] {
        assert_eq!(Set::parse(&wire).unwrap().to_wire(), wire);
    }
    let loose = json!({"f:a": null, "x:unknown": {}, "k:{\"b\":1,\"a\":2}": {"f:c": {}}});
    assert_eq!(Set::parse(&loose).unwrap().paths(), [".a", "[a=2,b=1].c"]);
    for wrong in
        [json!({"a": {}}), json!({"k:x": {}}), json!({"v:": {}}), json!({"i:x": {}}), json!({"f:a": 3})]
    {
        assert!(Set::parse(&wrong).is_err(), "{wrong}");
    }
}

fn set(paths: &[&[&str]]) -> Set {
    let mut set = Set::default();
    for path in paths {
        set.insert(&path.iter().map(|name| Step::field(name)).collect::<Vec<_>>());
    }
    set
}

#[test]
fn sets_are_reckoned_with() {
    let a = set(&[&["a"], &["a", "b"], &["a", "c", "d"], &["e"]]);
    let b = set(&[&["a"], &["a", "c", "d"], &["f"]]);
    assert_eq!(a.clone().union(&b).paths(), [".a", ".e", ".f", ".a.b", ".a.c.d"]);
    assert_eq!(a.intersection(&b).paths(), [".a", ".a.c.d"]);
    assert_eq!(a.clone().difference(&b).paths(), [".e", ".a.b"]);
    assert_eq!(a.clone().recursive_difference(&b).paths(), [".e"]);
    assert_eq!(a.leaves().paths(), [".e", ".a.b", ".a.c.d"]);
    assert_eq!(a.clone().difference(&a), Set::default());
    assert!(a.has(&[Step::field("a"), Step::field("b")]) && !a.has(&[Step::field("a"), Step::field("c")]));
}

#[test]
fn differences_are_found_by_type() {
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    let containers = |list: Value| json!({"spec": {"containers": list}});
    for (schema, old, new, added, modified, removed) in [
        (POD, labels(json!({"a": "1"})), labels(json!({"a": "1"})), vec![], vec![], vec![]),
        (
            POD,
            json!({}),
            labels(json!({"a": "1"})),
            vec![".metadata.labels", ".metadata.labels.a"],
            vec![],
            vec![],
        ),
        (
            POD,
            labels(json!({"a": "1", "b": "1"})),
            labels(json!({"a": "2", "c": "1"})),
            vec![".metadata.labels.c"],
            vec![".metadata.labels.a"],
            vec![".metadata.labels.b"],
        ),
        (
            POD,
            containers(json!([{"name": "a", "image": "x", "args": ["1"]}])),
            containers(json!([{"name": "b"}, {"name": "a", "image": "y", "args": ["2"], "resources": {}}])),
            vec![
                ".spec.containers[name=\"b\"]",
                ".spec.containers[name=\"a\"].resources",
                ".spec.containers[name=\"b\"].name",
            ],
            vec![".spec.containers[name=\"a\"].args", ".spec.containers[name=\"a\"].image"],
            vec![],
        ),
        (
            SERVICE,
            json!({"spec": {"selector": {"a": "1"}, "ports": [{"port": 80}]}}),
            json!({"spec": {"selector": {"a": "1", "b": "2"}, "ports": [{"port": 80, "protocol": "TCP"}]}}),
            vec![".spec.ports[port=80,protocol=\"TCP\"].protocol"],
            vec![".spec.selector"],
            vec![],
        ),
        // Items that nothing tells apart are one value.
        (
            SERVICE,
            json!({"spec": {"ports": [{"port": 80, "name": "a"}]}}),
            json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]}}),
            vec![".spec.ports[port=80,protocol=\"TCP\"]"],
            vec![],
            vec![".spec.ports[port=80,protocol=\"TCP\"].name", ".spec.ports[port=80,protocol=\"TCP\"].port"],
        ),
        (
            POD,
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
            vec![".metadata.finalizers[=\"c\"]"],
            vec![],
            vec![".metadata.finalizers[=\"a\"]"],
        ),
    ] {
        let found = compare(Schema::of(schema), &old, &new);
        assert_eq!(found.added.paths(), added, "{new}");
        assert_eq!(found.modified.paths(), modified, "{new}");
        assert_eq!(found.removed.paths(), removed, "{new}");
    }
}

#[test]
fn objects_of_unknown_structure_merge_by_key_and_their_lists_whole() {
    let old = json!({"spec": {"a": {"b": 1}, "list": [{"name": "x"}]}});
    let new = json!({"spec": {"a": {"b": 1, "c": 2}, "list": [{"name": "x"}, {"name": "y"}]}});
    let found = compare(None, &old, &new);
    assert_eq!(found.added.paths(), [".spec.a.c"]);
    assert_eq!(found.modified.paths(), [".spec.list"]);
    // Nothing is there always: the object around is added too.
    let found = compare(None, &json!({}), &json!({"spec": {"a": 1}}));
    assert_eq!(found.added.paths(), [".spec", ".spec.a"]);
}

#[test]
fn what_one_applies_is_merged_and_what_it_drops_goes() {
    let mut story = Story::of(POD);
    let pod =
        |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": containers}});
    story
        .apply("a", pod(json!([{"name": "one", "image": "x"}, {"name": "two", "image": "x"}])), false)
        .unwrap();
    assert_eq!(
        story.owned("a"),
        [
            ".spec.containers[name=\"one\"]",
            ".spec.containers[name=\"two\"]",
            ".spec.containers[name=\"one\"].image",
            ".spec.containers[name=\"one\"].name",
            ".spec.containers[name=\"two\"].image",
            ".spec.containers[name=\"two\"].name",
        ]
    );
    story.apply("b", pod(json!([{"name": "one", "command": ["c"]}])), false).unwrap();
    story.apply("a", pod(json!([{"name": "two", "image": "y"}])), false).unwrap();
    // The other manager still owns the first container, and nobody its image.
    assert_eq!(
        story.object["spec"]["containers"],
        json!([{"name": "one", "command": ["c"]}, {"name": "two", "image": "y"}])
    );
    story.apply("b", pod(json!([])), false).unwrap();
    assert_eq!(story.object["spec"]["containers"], json!([{"name": "two", "image": "y"}]));
    assert_eq!(story.owned("b"), [] as [String; 0]);
}

#[test]
fn conflicts_are_told_and_forced() {
    let mut story = Story::of(CONFIG_MAP);
    let data = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "data": data});
    story.update("kubectl-create", data(json!({"a": "1", "b": "1"})));
    story.apply("m", data(json!({"a": "1"})), false).unwrap();
    let Failure::Conflicts(conflicts) = story.apply("n", data(json!({"a": "2"})), false).unwrap_err() else {
        panic!("a conflict");
    };
    let status = super::conflict_status(&conflicts);
    assert_eq!(
        status.message,
        "Apply failed with 2 conflicts: conflicts with \"kubectl-create\" using v1:\n- .data.a\n\
         conflicts with \"m\":\n- .data.a"
    );
    let causes = &status.details.as_ref().unwrap().causes;
    assert_eq!((causes[1].reason.as_str(), causes[1].field.as_str()), ("FieldManagerConflict", ".data.a"));
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    story.apply("n", data(json!({"a": "2"})), true).unwrap();
    assert_eq!(story.owned("kubectl-create"), [".data", ".data.b"]);
    assert_eq!(story.owned("m"), [] as [String; 0]);
    assert_eq!(story.object["data"], json!({"a": "2", "b": "1"}));
    let Failure::Conflicts(conflicts) = story.apply("o", data(json!({"b": "2"})), false).unwrap_err() else {
        panic!("a conflict");
    };
    assert_eq!(
        super::conflict_status(&conflicts).message,
        "Apply failed with 1 conflict: conflict with \"kubectl-create\" using v1: .data.b"
    );
}

#[test]
fn kubectl_takes_over_what_it_applied_on_the_client() {
    let mut story = Story::of(CONFIG_MAP);
    let config = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": value}});
    let mut live = config("1");
    let key = "kubectl.kubernetes.io/last-applied-configuration";
    live["metadata"] = json!({"annotations": {key: config("1").to_string()}});
    story.update("kubectl-client-side-apply", live.clone());
    assert!(matches!(story.apply("other", config("2"), false), Err(Failure::Conflicts(_))));
    story.apply("kubectl", config("2"), false).unwrap();
    assert_eq!(story.object["data"]["a"], "2");
    let kept = story.object["metadata"]["annotations"][key].as_str().unwrap();
    assert_eq!(kept, format!("{}\n", config("2")));
    // What somebody else changed since is a conflict all the same.
    let mut changed = story.object.clone();
    changed["data"]["a"] = json!("3");
    story.update("vi", changed);
    assert!(matches!(story.apply("kubectl", config("4"), false), Err(Failure::Conflicts(_))));
}

#[test]
fn fields_change_hands_with_updates() {
    let mut story = Story::of(CONFIG_MAP);
    let object =
        |data: Value| json!({"apiVersion": "v1", "metadata": {"name": "x", "uid": "u"}, "data": data});
    story.update("a", object(json!({"x": "1", "y": "1"})));
    story.update("b", object(json!({"x": "2", "y": "1"})));
    assert_eq!(story.owned("a"), [".data", ".data.y"]);
    assert_eq!(story.owned("b"), [".data.x"]);
    story.update("a", object(json!({"y": "1"})));
    assert_eq!(story.owned("b"), [] as [String; 0]);
    let wire = story.managers.to_wire();
    assert_eq!(
        wire,
        json!([{"manager": "a", "operation": "Update", "apiVersion": "v1", "time": "2024-01-02T03:04:05Z",
            "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {".": {}, "f:y": {}}}}])
    );
    assert_eq!(Managers::parse(&wire).unwrap(), story.managers);
}

#[test]
fn the_first_to_apply_finds_what_was_there_owned() {
    let mut story = Story::of(CONFIG_MAP);
    story.object = json!({"apiVersion": "v1", "data": {"a": "1"}});
    story.apply("m", json!({"apiVersion": "v1", "data": {"b": "1"}}), false).unwrap();
    assert_eq!(story.owned("before-first-apply"), [".data", ".data.a"]);
    assert_eq!(story.owned("m"), [".data.b"]);
}

#[test]
fn old_updaters_are_put_together() {
    let mut story = Story::of(CONFIG_MAP);
    for i in 0..13 {
        let mut object = story.object.clone();
        object["data"][format!("k{i:02}")] = json!("1");
        story.update(&format!("m{i:02}"), object);
    }
    let names: Vec<&str> = story.managers.iter().map(|(identity, _)| identity.manager.as_str()).collect();
    assert_eq!(names.len(), 10, "{names:?}");
    assert_eq!(names[0], "ancient-changes");
    assert_eq!(story.owned("ancient-changes"), [".data", ".data.k00", ".data.k01", ".data.k02", ".data.k03"]);
}

#[test]
fn wrong_managed_fields_are_refused() {
    let entry = |key: &str, value: Value| {
        let mut entry = json!({"manager": "m", "operation": "Update", "apiVersion": "v1",
            "fieldsType": "FieldsV1", "fieldsV1": {}});
        entry[key] = value;
        json!([entry])
    };
    for (wrong, error) in [
        (entry("operation", json!("Delete")), "operation must be `Apply` or `Update`"),
        (entry("apiVersion", json!("")), "apiVersion must not be empty"),
        (entry("fieldsType", json!(null)), "missing fieldsType in managed fields entry 0"),
        (entry("fieldsType", json!("X")), "invalid fieldsType \"X\" in managed fields entry 0"),
        (json!({}), "managed fields must be a list of objects"),
    ] {
        assert_eq!(Managers::parse(&wrong).unwrap_err().to_string(), error);
    }
    assert!(Managers::parse(&entry("fieldsV1", json!({"x": {}}))).is_err());
}

#[test]
fn what_does_not_fit_the_type_is_named() {
    let spec = |spec: Value| json!({"spec": spec});
    for (schema, config, errors) in [
        (POD, spec(json!({"foo": 1})), vec![".spec.foo: field not declared in schema"]),
        (
            POD,
            spec(json!({"priority": "1"})),
            vec![".spec.priority: expected numeric (int or float), got string"],
        ),
        (
            POD,
            spec(json!({"containers": [{"name": "a", "image": 1}, {"name": "a"}]})),
            vec![
                ".spec.containers[name=\"a\"].image: expected string, got &value.valueUnstructured{Value:1}",
                ".spec.containers: duplicate entries for key [name=\"a\"]",
            ],
        ),
        (
            POD,
            spec(json!({"containers": [{"image": "x"}]})),
            vec![
                ".spec.containers: element 0: associative list with keys has an element that omits all key fields \
                 [\"name\"] (and doesn't have default values for any key fields)",
            ],
        ),
        (
            POD,
            spec(json!({"containers": {"a": 1}})),
            vec![".spec.containers: expected list, got &{map[a:1]}"],
        ),
        (POD, spec(json!({"hostNetwork": "yes"})), vec![".spec.hostNetwork: expected boolean, got &{yes}"]),
        (
            POD,
            json!({"metadata": {"labels": {"a": true}}}),
            vec![".metadata.labels.a: expected string, got &value.valueUnstructured{Value:true}"],
        ),
        (SERVICE, spec(json!({"ports": [{"port": 80, "targetPort": "http"}]})), vec![]),
        (
            SERVICE,
            spec(json!({"ports": [{"port": 80}, {"port": 80, "protocol": "TCP"}]})),
            vec![".spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]"],
        ),
    ] {
        assert_eq!(check(Schema::of(schema), &config), errors, "{config}");
    }
}

#[test]
fn structural_schemas_merge_by_their_own_rules() {
    let schema = json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"},
        "spec": {"type": "object", "properties": {
            "rules": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["host", "path"],
                "items": {"type": "object", "properties": {
                    "host": {"type": "string"}, "path": {"type": "string", "default": "/"}, "to": {"type": "string"}}}},
            "hosts": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "plain": {"type": "array", "items": {"type": "string"}},
            "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
                "a": {"type": "string"}, "b": {"type": "string"}}},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}});
    let place = Some(Schema::own(&schema));
    let old = json!({"spec": {"rules": [{"host": "a", "to": "x"}], "hosts": ["a"], "plain": ["a"],
        "whole": {"a": "1"}, "open": {"x": {"y": [1]}}}});
    let new = json!({"spec": {"rules": [{"host": "a", "path": "/", "to": "y"}, {"host": "a", "path": "/b"}],
        "hosts": ["a", "b"], "plain": ["a", "b"], "whole": {"a": "1", "b": "2"}, "open": {"x": {"y": [2], "z": 1}}}});
    let found = compare(place, &old, &new);
    assert_eq!(
        found.added.paths(),
        [
            ".spec.hosts[=\"b\"]",
            ".spec.open.x.z",
            ".spec.rules[host=\"a\",path=\"/b\"]",
            ".spec.rules[host=\"a\",path=\"/\"].path",
            ".spec.rules[host=\"a\",path=\"/b\"].host",
            ".spec.rules[host=\"a\",path=\"/b\"].path",
        ]
    );
    assert_eq!(
        found.modified.paths(),
        [".spec.plain", ".spec.whole", ".spec.open.x.y", ".spec.rules[host=\"a\",path=\"/\"].to"]
    );
    let config = json!({"spec": {"open": {"anything": {"goes": 1}}, "whole": {"c": "x"}}});
    assert_eq!(check(place, &config), [".spec.whole.c: field not declared in schema"]);
}

#[test]
fn fields_of_a_value_that_became_atomic_are_owned_whole() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "m": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}}}}}});
    struct Own<'a>(&'a Value);
    impl Versions for Own<'_> {
        fn convert<'o>(&'o self, object: &'o Value, _: &str) -> Option<Converted<'o>> {
            Some((Cow::Borrowed(object), Some(Schema::own(self.0))))
        }
    }
    let (own, reset) = (Own(&schema), Set::default());
    let place = Some(Schema::own(&schema));
    let context = Context { version: "v1", place, subresource: "", reset: &reset, versions: &own, now: "t" };
    let before = json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:m": {"f:a": {}}}}}]);
    let live = json!({"spec": {"m": {"a": "1"}}});
    let new = json!({"spec": {"m": {"a": "1"}, "n": 1}});
    let found = changes(&live, &new, &context);
    let after = update(Managers::parse(&before).unwrap(), found, (&live, &new), "other", &context);
    let owned: Vec<Vec<String>> = after.iter().map(|(_, owned)| owned.set.paths()).collect();
    assert_eq!(owned, [vec![".spec.m"], vec![".spec.n"]]);
}
