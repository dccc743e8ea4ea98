"""The official client's generated classes: what programs written with it do all day."""
import threading, time
from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
core, apps, rbac = client.CoreV1Api(), client.AppsV1Api(), client.RbacAuthorizationV1Api()
version = client.VersionApi().get_code()
assert (version.major, version.minor) == ("1", "37"), version

namespace = core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name="typed"))).metadata.name
seen = []
def follow():
    for event in watch.Watch().stream(core.list_namespaced_config_map, namespace, label_selector="app=t", timeout_seconds=30):
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            return
follower = threading.Thread(target=follow)
follower.start()
meta = client.V1ObjectMeta(name="one", labels={"app": "t"})
made = core.create_namespaced_config_map(namespace, client.V1ConfigMap(metadata=meta, data={"a": "1"}))
assert made.metadata.uid and made.metadata.managed_fields[0].operation == "Update"
core.patch_namespaced_config_map("one", namespace, {"data": {"b": "2"}})
read = core.read_namespaced_config_map("one", namespace)
assert read.data == {"a": "1", "b": "2"}, read.data
read.metadata.resource_version = made.metadata.resource_version
try:
    core.replace_namespaced_config_map("one", namespace, read)
    raise SystemExit("a stale replace went through")
except ApiException as error:
    assert error.status == 409 and "the object has been modified" in error.body, error
core.delete_namespaced_config_map("one", namespace)
follower.join(20)
assert seen[0] == ("ADDED", "one") and seen[-1] == ("DELETED", "one"), seen

labels = {"app": "web"}
template = client.V1PodTemplateSpec(
    metadata=client.V1ObjectMeta(labels=labels),
    spec=client.V1PodSpec(containers=[client.V1Container(
        name="web", image="nginx", resources=client.V1ResourceRequirements(requests={"cpu": "100m", "memory": "0.5Gi"}))]))
deployment = client.V1Deployment(
    metadata=client.V1ObjectMeta(name="web"),
    spec=client.V1DeploymentSpec(replicas=0, selector=client.V1LabelSelector(match_labels=labels), template=template))
made = apps.create_namespaced_deployment(namespace, deployment)
assert made.spec.strategy.rolling_update.max_surge == "25%" and made.spec.progress_deadline_seconds == 600
scale = apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 0}})
assert not scale.spec.replicas and scale.status.selector == "app=web", scale
assert [d.metadata.name for d in apps.list_deployment_for_all_namespaces(label_selector="").items if d.metadata.namespace == namespace] == ["web"]

page = core.list_namespaced_secret("kube-system", limit=1)
assert len(page.items) <= 1
dry = core.create_namespaced_config_map(namespace, client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="x-")), dry_run="All")
assert dry.metadata.name.startswith("x-") and not core.list_namespaced_config_map(namespace, field_selector=f"metadata.name={dry.metadata.name}").items

rules = [client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["list"])]
rbac.create_namespaced_role(namespace, client.V1Role(metadata=client.V1ObjectMeta(name="reader"), rules=rules))
review = client.AuthorizationV1Api().create_self_subject_access_review(client.V1SelfSubjectAccessReview(
    spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=client.V1ResourceAttributes(namespace=namespace, verb="list", resource="pods"))))
assert review.status.allowed
core.create_namespaced_service_account(namespace, client.V1ServiceAccount(metadata=client.V1ObjectMeta(name="robot")))
token = core.create_namespaced_service_account_token("robot", namespace, client.AuthenticationV1TokenRequest(
    spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600)))
robot = client.Configuration.get_default_copy()
robot.cert_file = robot.key_file = None
robot.api_key = {"authorization": "Bearer " + token.status.token}
as_robot = client.CoreV1Api(client.ApiClient(robot))
try:
    as_robot.list_namespaced_pod(namespace)
    raise SystemExit("a service account without a role may list pods")
except ApiException as error:
    assert error.status == 403 and "system:serviceaccount:typed:robot" in error.body, error
rbac.create_namespaced_role_binding(namespace, client.V1RoleBinding(
    metadata=client.V1ObjectMeta(name="reader"),
    role_ref=client.V1RoleRef(api_group="rbac.authorization.k8s.io", kind="Role", name="reader"),
    subjects=[client.RbacV1Subject(kind="ServiceAccount", name="robot", namespace=namespace)]))
assert as_robot.list_namespaced_pod(namespace).items == []
core.delete_namespace(namespace)
print("typed: good")
