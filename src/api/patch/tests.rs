//! Tables of patches: object, patch, result.

use serde_json::{Value, json};

use super::apply;
use crate::api::request::PatchKind;
use crate::api::schema::Schema;

const POD: &str = "io.k8s.api.core.v1.Pod";

fn strategic(object: Value, patch: Value) -> Value {
    apply(PatchKind::Strategic, Schema::of(POD), &object, &patch).unwrap()
}

fn containers(list: Value) -> Value {
    json!({"spec": {"containers": list}})
}

#[test]
fn maps_merge_and_nulls_delete() {
    for (object, patch, result) in [
        (
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        ),
        (
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "x": null}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            json!({}),
            json!({"metadata": {"labels": {"a": null, "b": "2"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            json!({"metadata": {"labels": {}}}),
        ),
        (
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "merge", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        ),
        // Unknown to the schema: lists are replaced, maps merged.
        (
            json!({"x": {"l": [1], "m": {"a": 1}}}),
            json!({"x": {"l": [2], "m": {"b": 2}}}),
            json!({"x": {"l": [2], "m": {"a": 1, "b": 2}}}),
        ),
    ] {
        assert_eq!(strategic(object, patch.clone()), result, "{patch}");
    }
}

#[test]
fn lists_of_maps_merge_by_their_key() {
    let a = json!({"name": "a", "image": "1"});
    let b = json!({"name": "b", "image": "1"});
    for (patch, result) in [
        (json!([{"name": "b", "image": "2"}]), json!([a, {"name": "b", "image": "2"}])),
        (json!([{"name": "c", "image": "1"}]), json!([{"name": "c", "image": "1"}, a, b])),
        (json!([{"name": "a", "$patch": "delete"}]), json!([b])),
        (json!([{"name": "x", "$patch": "delete"}]), json!([a, b])),
        (json!([{"$patch": "replace"}, {"name": "c"}]), json!([{"name": "c"}])),
        (json!([{"$patch": "replace"}]), json!([])),
        (json!([{"name": "b", "image": null}, {"name": "a"}]), json!([{"name": "b"}, a])),
        (
            json!([{"name": "a", "env": [{"name": "E", "value": "v"}]}]),
            json!([{"name": "a", "image": "1", "env": [{"name": "E", "value": "v"}]}, b]),
        ),
        // A list without the merge strategy is replaced.
        (json!([{"name": "a", "args": ["x"]}]), json!([{"name": "a", "image": "1", "args": ["x"]}, b])),
    ] {
        let result = containers(result);
        assert_eq!(strategic(containers(json!([a, b])), containers(patch.clone())), result, "{patch}");
    }
    let nested = containers(
        json!([{"name": "a", "ports": [{"containerPort": 80, "name": "x"}, {"containerPort": 81}]}]),
    );
    let patch = containers(json!([{"name": "a", "ports": [{"containerPort": 80, "name": "y"}]}]));
    let result = containers(
        json!([{"name": "a", "ports": [{"containerPort": 80, "name": "y"}, {"containerPort": 81}]}]),
    );
    assert_eq!(strategic(nested, patch), result);
}

#[test]
fn lists_of_scalars_merge_as_sets() {
    let of = |list: Value| json!({"metadata": {"finalizers": list}});
    assert_eq!(strategic(of(json!(["a", "b"])), of(json!(["b", "c"]))), of(json!(["a", "b", "c"])));
    let delete = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a", "x"]}});
    assert_eq!(strategic(of(json!(["a", "b"])), delete.clone()), of(json!(["b"])));
    assert_eq!(strategic(json!({"metadata": {}}), delete), json!({"metadata": {}}));
    let both = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"],
                                   "$setElementOrder/finalizers": ["c", "b"]}});
    assert_eq!(strategic(of(json!(["a", "b"])), both), of(json!(["c", "b"])));
}

#[test]
fn the_patch_sets_the_order() {
    let item = |name: &str| json!({"name": name});
    for (old, order, new, result) in [
        (vec!["a", "b"], vec!["b", "a"], vec![], vec!["b", "a"]),
        (vec!["a", "b"], vec!["a", "b", "c"], vec!["c"], vec!["a", "b", "c"]),
        (vec!["a", "s", "b"], vec!["b", "a"], vec![], vec!["s", "b", "a"]),
        (vec!["a", "b", "s"], vec!["a", "b", "c"], vec!["c"], vec!["a", "b", "c", "s"]),
        (vec![], vec!["b", "a"], vec!["a", "b"], vec!["b", "a"]),
    ] {
        let list = |names: &[&str]| Value::Array(names.iter().map(|n| item(n)).collect());
        let mut patch = json!({"spec": {"$setElementOrder/containers": list(&order)}});
        if !new.is_empty() {
            patch["spec"]["containers"] = list(&new);
        }
        assert_eq!(
            strategic(containers(list(&old)), patch.clone()),
            containers(list(&result)),
            "{old:?} {patch}"
        );
    }
}

#[test]
fn retained_keys_drop_the_others() {
    let volume = |v: Value| json!({"spec": {"volumes": [v]}});
    let old = volume(json!({"name": "v", "emptyDir": {}}));
    let patch = volume(
        json!({"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}, "emptyDir": null}),
    );
    assert_eq!(strategic(old.clone(), patch), volume(json!({"name": "v", "hostPath": {"path": "/"}})));
    let patch = volume(json!({"name": "v", "$retainKeys": ["name"], "hostPath": {"path": "/"}}));
    let error = apply(PatchKind::Strategic, Schema::of(POD), &old, &patch).unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (400, "invalid patch format of retainKeys"));
}

#[test]
fn bad_strategic_patches_are_refused() {
    let old = containers(json!([{"name": "a"}]));
    for (patch, error) in [
        (
            containers(json!([{"image": "x"}])),
            "map: {\"image\":\"x\"} does not contain declared merge key: name",
        ),
        (containers(json!([{"$patch": "delete"}])), "delete patch type with no merge key defined"),
        (
            containers(json!([{"name": "a", "$patch": "merge"}])),
            "merging lists cannot yet be specified in the patch",
        ),
        (json!({"spec": {"$patch": "x"}}), "unknown patch type: \"x\""),
        (json!({"spec": {"$setElementOrder/containers": 1}}), "invalid patch format of setElementOrder list"),
        (
            json!([]),
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
    ] {
        let refused = apply(PatchKind::Strategic, Schema::of(POD), &old, &patch).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (400, error));
    }
}

#[test]
fn json_and_merge_patches() {
    let object = json!({"a": {"b": [1, 2]}, "c": 1});
    let json = |body: Value| apply(PatchKind::Json, Schema::of(POD), &object, &body);
    let merge = |body: Value| apply(PatchKind::Merge, Schema::of(POD), &object, &body);
    assert_eq!(
        json(json!([{"op": "add", "path": "/a/b/-", "value": 3}])).unwrap()["a"]["b"],
        json!([1, 2, 3])
    );
    assert_eq!(json(json!([{"op": "test", "path": "/c", "value": 2}])).unwrap_err().code, 422);
    assert_eq!(json(json!([{"op": "remove", "path": "/x"}])).unwrap_err().reason, "Invalid");
    assert_eq!(json(json!([{"op": "jump"}])).unwrap_err().code, 400);
    assert_eq!(json(json!({})).unwrap_err().code, 400);
    assert_eq!(merge(json!({"a": {"b": [9]}, "c": null})).unwrap(), json!({"a": {"b": [9]}}));
    assert_eq!(merge(json!([])).unwrap_err().code, 400);
    assert_eq!(apply(PatchKind::Apply, Schema::of(POD), &object, &json!({})).unwrap_err().code, 400);
}

#[test]
fn copies_add_up_to_a_bound() {
    let object = json!({"data": {"a": "x".repeat(1000)}});
    let doubling = |times: usize| {
        let copy = |n: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/{n}")});
        Value::Array((0..times).map(copy).collect())
    };
    assert!(apply(PatchKind::Json, Schema::of(POD), &object, &doubling(10)).is_ok());
    // Thirty would make a terabyte.
    let refused = apply(PatchKind::Json, Schema::of(POD), &object, &doubling(30)).unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    assert!(refused.details.unwrap().causes.is_empty());
}
