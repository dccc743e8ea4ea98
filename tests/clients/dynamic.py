"""The official client's dynamic half: discovery, custom kinds, server-side apply."""
import json
import time
from kubernetes import client, config, dynamic
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError, UnprocessibleEntityError

config.load_kube_config()
api = dynamic.DynamicClient(client.ApiClient())
definitions = api.resources.get(api_version="apiextensions.k8s.io/v1", kind="CustomResourceDefinition")
gadget = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.dynamic.example.com"},
    "spec": {"group": "dynamic.example.com", "scope": "Namespaced",
             "names": {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"},
             "versions": [{"name": "v1", "served": True, "storage": True,
                           "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
                           "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                               "spec": {"type": "object",
                                        "x-kubernetes-validations": [{"rule": "self.size <= self.most", "message": "too big"}],
                                        "properties": {"size": {"type": "integer", "default": 1}, "most": {"type": "integer", "default": 5},
                                                       "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                                                                 "items": {"type": "object", "required": ["name"],
                                                                           "properties": {"name": {"type": "string"}, "weight": {"type": "integer"}}}}}},
                               "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}}]}}
definitions.create(body=gadget)
until = time.time() + 10
while True:
    conditions = definitions.get(name="gadgets.dynamic.example.com").to_dict().get("status", {}).get("conditions") or []
    if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
        break
    assert time.time() < until, conditions
api.resources.invalidate_cache()
gadgets = api.resources.get(api_version="dynamic.example.com/v1", kind="Gadget")

def told(error):
    return json.loads(error.body)["message"]

def body(name, spec):
    return {"apiVersion": "dynamic.example.com/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": spec}
made = gadgets.create(body=body("a", {"parts": [{"name": "x", "weight": 1}]}), namespace="default")
assert (made.spec.size, made.spec.most) == (1, 5), made
try:
    gadgets.create(body=body("b", {"size": 7}), namespace="default")
    raise SystemExit("a rule was not held")
except UnprocessibleEntityError as error:
    assert "too big" in told(error), told(error)
applied = gadgets.server_side_apply(body=body("a", {"parts": [{"name": "y", "weight": 2}]}), namespace="default", field_manager="one")
assert sorted(p.name for p in applied.spec.parts) == ["x", "y"], applied
try:
    gadgets.server_side_apply(body=body("a", {"parts": [{"name": "y", "weight": 3}]}), namespace="default", field_manager="two")
    raise SystemExit("a conflict was not told")
except ConflictError as error:
    assert 'conflict with "one"' in told(error), told(error)
gadgets.server_side_apply(body=body("a", {"parts": [{"name": "y", "weight": 3}]}), namespace="default", field_manager="two", force_conflicts=True)
left = gadgets.server_side_apply(body=body("a", {}), namespace="default", field_manager="two")
assert sorted(p.name for p in left.spec.parts) == ["x", "y"] or [p.name for p in left.spec.parts] == ["x"], left
gadgets.status.patch(body={"status": {"size": 4}}, name="a", namespace="default", content_type="application/merge-patch+json")
scale = gadgets.scale.get(name="a", namespace="default")
assert (scale.kind, scale.spec.replicas, scale.status.replicas) == ("Scale", 1, 4), scale
definitions.delete(name="gadgets.dynamic.example.com")
until = time.time() + 10
while True:
    try:
        gadgets.get(name="a", namespace="default")
    except NotFoundError:
        break
    assert time.time() < until
print("dynamic: good")
