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
        // What is not there cannot be replaced.
        (
            json!({"metadata": {}}),
            json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
            json!({"metadata": {}}),
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
        (vec![], vec!["b", "a"], vec!["b", "a"], vec!["b", "a"]),
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
    let order = |list: Value, names: Value| json!({"spec": {"$setElementOrder/containers": names, "containers": list}});
    for (patch, code, error) in [
        (
            containers(json!([{"image": "x", "args": ["a", "b"]}])),
            500,
            "map: map[args:[a b] image:x] does not contain declared merge key: name",
        ),
        (
            containers(json!([{"$patch": "delete"}])),
            500,
            "map: map[$patch:delete] does not contain declared merge key: name",
        ),
        (
            containers(json!([{"name": "a", "$patch": "merge"}])),
            500,
            "merging lists cannot yet be specified in the patch",
        ),
        (
            containers(json!([{"name": "a", "$patch": "x"}])),
            500,
            "unknown patch type: x in map: map[$patch:x name:a]",
        ),
        (json!({"spec": {"$patch": "x"}}), 500, "unknown patch type: x in map: map[$patch:x]"),
        (
            json!({"spec": {"$patch": "merge", "a": 1}}),
            500,
            "unknown patch type: merge in map: map[$patch:merge a:1]",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": 1}}),
            400,
            "invalid patch format of setElementOrder list",
        ),
        (
            order(json!([{"name": "a"}, {"name": "b"}]), json!([{"name": "b"}, {"name": "a"}])),
            500,
            "The order in patch list:\n[map[name:a] map[name:b]]\n doesn't match $setElementOrder list:\n\
             [map[name:b] map[name:a]]\n",
        ),
        (json!([]), 400, "json: cannot unmarshal array into Go value of type map[string]interface {}"),
    ] {
        let refused = apply(PatchKind::Strategic, Schema::of(POD), &old, &patch).unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (code, error));
    }
}

/// The examples of Kubernetes' documents on strategic merge patches: object, patch, result.
#[test]
fn documented_examples() {
    let container = |name: &str, image: &str| json!({"name": name, "image": image});
    for (schema, object, patch, result) in [
        // The task "Update API Objects in Place Using kubectl patch": a list with a merge key, one without, retained keys.
        (
            "io.k8s.api.apps.v1.Deployment",
            json!({"spec": {"template": {"spec": {"containers": [container("patch-demo-ctr", "nginx")],
                "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}]}}}}),
            json!({"spec": {"template": {"spec": {"containers": [container("patch-demo-ctr-2", "redis")]}}}}),
            json!({"spec": {"template": {"spec": {
                "containers": [container("patch-demo-ctr-2", "redis"), container("patch-demo-ctr", "nginx")],
                "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}]}}}}),
        ),
        (
            "io.k8s.api.apps.v1.Deployment",
            json!({"spec": {"template": {"spec": {
                "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}]}}}}),
            json!({"spec": {"template": {"spec": {
                "tolerations": [{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]}}}}),
            json!({"spec": {"template": {"spec": {
                "tolerations": [{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]}}}}),
        ),
        (
            "io.k8s.api.apps.v1.Deployment",
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "30%"}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        ),
        // "Strategic Merge Patch" of the API conventions: replace a list, delete an item, replace a map.
        (
            POD,
            containers(json!([container("nginx", "nginx-1.0")])),
            containers(json!([container("log-tailer", "log-tailer-1.0")])),
            containers(json!([container("log-tailer", "log-tailer-1.0"), container("nginx", "nginx-1.0")])),
        ),
        (
            POD,
            containers(json!([container("nginx", "nginx-1.0")])),
            containers(json!([container("log-tailer", "log-tailer-1.0"), {"$patch": "replace"}])),
            containers(json!([container("log-tailer", "log-tailer-1.0")])),
        ),
        (
            POD,
            containers(json!([container("nginx", "nginx-1.0"), container("log-tailer", "log-tailer-1.0")])),
            containers(json!([{"$patch": "delete", "name": "log-tailer"}])),
            containers(json!([container("nginx", "nginx-1.0")])),
        ),
        (
            POD,
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {"$patch": "replace", "medium": ""}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {"medium": ""}}]}}),
        ),
        // "Preserve Order": a new item in the middle, and one deleted, with the order of all that the user knows.
        (
            POD,
            containers(json!([container("a", "1"), container("b", "1"), container("c", "1")])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "d"}, {"name": "c"}],
                "containers": [container("d", "1"), {"$patch": "delete", "name": "b"}]}}),
            containers(json!([container("a", "1"), container("d", "1"), container("c", "1")])),
        ),
        // Lists of scalars: deleted, added and ordered at once.
        (
            POD,
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"],
                "$setElementOrder/finalizers": ["a", "c", "d"], "finalizers": ["d"]}}),
            json!({"metadata": {"finalizers": ["a", "c", "d"]}}),
        ),
    ] {
        let Some(schema) = Schema::of(schema) else { panic!("{schema} is in the document") };
        let patched = apply(PatchKind::Strategic, Some(schema), &object, &patch).unwrap();
        assert_eq!(patched, result, "{patch}");
    }
}

/// What holds for whatever is patched, tried with made-up containers.
#[test]
fn made_up_patches_keep_what_they_do_not_name() {
    let mut state: u64 = 7;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for case in 0..500 {
        let mut list = || -> Vec<Value> {
            let mut names: Vec<u64> = (0..5).filter(|_| random(2) == 0).collect();
            if random(2) == 0 {
                names.reverse();
            }
            names
                .iter()
                .map(|name| json!({"name": format!("c{name}"), "image": format!("i{}", random(3))}))
                .collect()
        };
        let (old, new) = (list(), list());
        let object = containers(json!(old));
        let patch = containers(json!(new));
        let patched = strategic(object.clone(), patch.clone());
        let got = patched["spec"]["containers"].as_array().unwrap();
        for item in &new {
            assert!(got.contains(item), "case {case}: {item} in {patched}");
        }
        let named = |item: &Value| new.iter().any(|other| other["name"] == item["name"]);
        for item in old.iter().filter(|item| !named(item)) {
            assert!(got.contains(item), "case {case}: {item} in {patched}");
        }
        let order: Vec<&Value> = got.iter().filter(|item| named(item)).map(|item| &item["name"]).collect();
        assert_eq!(order, new.iter().map(|item| &item["name"]).collect::<Vec<_>>(), "case {case}");
        assert_eq!(strategic(patched.clone(), patch), patched, "case {case}: twice is once");
        assert_eq!(strategic(object.clone(), object.clone()), object, "case {case}: itself changes nothing");
        let delete: Vec<Value> =
            old.iter().map(|item| json!({"name": item["name"], "$patch": "delete"})).collect();
        let emptied = strategic(object, containers(json!(delete)));
        assert_eq!(emptied["spec"]["containers"], json!([]), "case {case}");
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
    assert!(json(json!([{"op": "test", "path": "/none", "value": null}])).is_ok());
    for path in ["/none/deeper", "/c/deeper"] {
        assert_eq!(
            json(json!([{"op": "test", "path": path, "value": null}])).unwrap_err().code,
            422,
            "{path}"
        );
    }
    assert_eq!(json(json!([{"op": "test", "path": "/c", "value": 2}])).unwrap_err().code, 422);
    assert_eq!(json(json!([{"op": "remove", "path": "/x"}])).unwrap_err().reason, "Invalid");
    assert_eq!(json(json!([{"op": "jump"}])).unwrap_err().code, 422);
    for (patch, told) in [
        (json!({}), "json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"),
        (json!([1]), "json: cannot unmarshal number into Go value of type handlers.jsonPatchOp"),
        (
            json!([{"op": 1}]),
            "json: cannot unmarshal number into Go struct field jsonPatchOp.op of type string",
        ),
    ] {
        let refused = json(patch).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (400, format!("error decoding patch: {told}").as_str())
        );
    }
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
