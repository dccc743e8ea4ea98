//! The ClusterRoles for people and components, and their bindings.

use serde_json::json;

use super::{EVENTS, Preset, READ, READ_WRITE, Rights, WRITE, binding, named, on, role, urls};
use crate::api::meta;

const ROLES: &str = "clusterroles";

const PLAIN: &[(&str, &[Rights])] = &[
    ("cluster-admin", &[on("*", "*", "*"), urls("*", "*")]),
    (
        "system:discovery",
        &[urls(
            "get",
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
        )],
    ),
    (
        "system:monitoring",
        &[urls("get", "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*")],
    ),
    (
        "system:basic-user",
        &[
            on("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
            on("create", "authentication.k8s.io", "selfsubjectreviews"),
        ],
    ),
    ("system:public-info-viewer", &[urls("get", "/healthz /livez /readyz /version /version/")]),
    (
        "system:heapster",
        &[on(READ, "core", "events pods nodes namespaces"), on(READ, "extensions", "deployments")],
    ),
    ("system:node", NODE),
    (
        "system:node-problem-detector",
        &[on("get", "core", "nodes"), on("patch", "core", "nodes/status"), EVENTS],
    ),
    (
        "system:kubelet-api-admin",
        &[
            on(READ, "core", "nodes"),
            on("proxy", "core", "nodes"),
            on("*", "core", "nodes/proxy nodes/metrics nodes/stats nodes/log"),
            on("*", "core", "nodes/configz nodes/healthz nodes/pods"),
        ],
    ),
    (
        "system:node-bootstrapper",
        &[on("create get list watch", "certificates.k8s.io", "certificatesigningrequests")],
    ),
    (
        "system:auth-delegator",
        &[
            on("create", "authentication.k8s.io", "tokenreviews"),
            on("create", "authorization.k8s.io", "subjectaccessreviews"),
        ],
    ),
    ("system:kube-aggregator", &[on(READ, "core", "services endpoints")]),
    ("system:kube-controller-manager", CONTROLLER_MANAGER),
    ("system:kube-dns", &[on("list watch", "core", "endpoints services")]),
    ("system:kube-scheduler", SCHEDULER),
    (
        "system:persistent-volume-provisioner",
        &[
            on("get list watch create delete", "core", "persistentvolumes"),
            on("get list watch update", "core", "persistentvolumeclaims"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("watch", "core", "events"),
            EVENTS,
        ],
    ),
    (
        "system:volume-scheduler",
        &[
            on("get list watch update patch", "core", "persistentvolumes"),
            on(READ, "storage.k8s.io", "storageclasses"),
            on("get list watch update patch", "core", "persistentvolumeclaims"),
        ],
    ),
    (
        "system:node-proxier",
        &[
            on("list watch", "core", "services endpoints"),
            on(READ, "core", "nodes"),
            EVENTS,
            on("list watch", "networking.k8s.io", "servicecidrs"),
            on("list watch", "discovery.k8s.io", "endpointslices"),
        ],
    ),
    (
        "system:service-account-issuer-discovery",
        &[urls(
            "get",
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
        )],
    ),
    ("system:cluster-trust-bundle-discovery", &[on(READ, "certificates.k8s.io", "clustertrustbundles")]),
    (
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &[on("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
    ),
    (
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &[on("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")],
    ),
    ("system:certificates.k8s.io:legacy-unknown-approver", &[approve("kubernetes.io/legacy-unknown")]),
    ("system:certificates.k8s.io:kubelet-serving-approver", &[approve("kubernetes.io/kubelet-serving")]),
    (
        "system:certificates.k8s.io:kube-apiserver-client-approver",
        &[approve("kubernetes.io/kube-apiserver-client")],
    ),
    (
        "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        &[approve("kubernetes.io/kube-apiserver-client-kubelet")],
    ),
];

const fn approve(signer: &'static str) -> Rights {
    named("approve", "certificates.k8s.io", "signers", signer)
}

const NODE: &[Rights] = &[
    on("create", "authentication.k8s.io", "tokenreviews"),
    on("create", "authorization.k8s.io", "subjectaccessreviews localsubjectaccessreviews"),
    on(READ, "core", "services"),
    on("create get list watch", "core", "nodes"),
    on("update patch", "core", "nodes/status"),
    on("update patch", "core", "nodes"),
    on("create update patch", "core", "events"),
    on(READ, "core", "pods"),
    on("create delete", "core", "pods"),
    on("update patch", "core", "pods/status"),
    on("create", "core", "pods/eviction"),
    on(READ, "core", "secrets configmaps"),
    on("get", "core", "persistentvolumeclaims persistentvolumes"),
    on("get", "core", "endpoints"),
    on("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
    on(READ, "certificates.k8s.io", "clustertrustbundles"),
    on("create get list watch", "certificates.k8s.io", "podcertificaterequests"),
    on("get create update patch delete", "coordination.k8s.io", "leases"),
    on("get", "storage.k8s.io", "volumeattachments"),
    on("create", "core", "serviceaccounts/token"),
    on("get update patch", "core", "persistentvolumeclaims/status"),
    on(READ, "storage.k8s.io", "csidrivers"),
    on("get create update patch delete", "storage.k8s.io", "csinodes"),
    on(READ, "node.k8s.io", "runtimeclasses"),
    on("get", "resource.k8s.io", "resourceclaims"),
    on("deletecollection", "resource.k8s.io", "resourceslices"),
    on("get", "core", "serviceaccounts"),
];

const CONTROLLER_MANAGER: &[Rights] = &[
    EVENTS,
    on("create", "coordination.k8s.io", "leases"),
    named("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
    on("create", "core", "secrets serviceaccounts"),
    on("delete", "core", "secrets"),
    on("get", "core", "namespaces secrets serviceaccounts configmaps"),
    on("update", "core", "secrets serviceaccounts"),
    on("create", "authentication.k8s.io", "tokenreviews"),
    on("create", "authorization.k8s.io", "subjectaccessreviews"),
    on("list watch", "*", "*"),
    on("create", "core", "serviceaccounts/token"),
];

const SCHEDULER: &[Rights] = &[
    EVENTS,
    on("create", "coordination.k8s.io", "leases"),
    named("get update", "coordination.k8s.io", "leases", "kube-scheduler"),
    on(READ, "core", "nodes"),
    on("get list watch delete", "core", "pods"),
    on("create", "core", "pods/binding bindings"),
    on("patch update", "core", "pods/status"),
    on(READ, "core", "replicationcontrollers services"),
    on(READ, "apps extensions", "replicasets"),
    on(READ, "apps", "statefulsets"),
    on(READ, "policy", "poddisruptionbudgets"),
    on(READ, "core", "persistentvolumeclaims persistentvolumes"),
    on("create", "authentication.k8s.io", "tokenreviews"),
    on("create", "authorization.k8s.io", "subjectaccessreviews"),
    on(READ, "storage.k8s.io", "csinodes"),
    on(READ, "storage.k8s.io", "volumeattachments"),
    on(READ, "core", "namespaces"),
    on(READ, "storage.k8s.io", "csidrivers"),
    on(READ, "storage.k8s.io", "csistoragecapacities"),
    on(READ, "resource.k8s.io", "deviceclasses"),
    on("get list patch update watch", "resource.k8s.io", "resourceclaims"),
    on("get list patch update watch", "resource.k8s.io", "resourceclaims/status"),
    on("get list patch update watch", "core", "pods/finalizers"),
    on(READ, "resource.k8s.io", "resourceslices"),
];

const ADMIN: &[Rights] = &[
    on("create", "authorization.k8s.io", "localsubjectaccessreviews"),
    on(READ_WRITE, "rbac.authorization.k8s.io", "roles rolebindings"),
];

const EDIT: &[Rights] = &[
    on(READ, "core", "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy"),
    on("impersonate", "core", "serviceaccounts"),
    on(WRITE, "core", "pods pods/attach pods/proxy pods/exec pods/portforward"),
    on("create", "core", "pods/eviction"),
    on(
        WRITE,
        "core",
        "replicationcontrollers replicationcontrollers/scale serviceaccounts services services/proxy \
         persistentvolumeclaims configmaps secrets events",
    ),
    on("create", "core", "serviceaccounts/token"),
    on(
        WRITE,
        "apps",
        "statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback replicasets \
         replicasets/scale",
    ),
    on(WRITE, "autoscaling", "horizontalpodautoscalers"),
    on(WRITE, "batch", "jobs cronjobs"),
    on(
        WRITE,
        "extensions",
        "daemonsets deployments deployments/scale deployments/rollback ingresses replicasets replicasets/scale \
         replicationcontrollers/scale networkpolicies",
    ),
    on(WRITE, "policy", "poddisruptionbudgets"),
    on(WRITE, "networking.k8s.io", "networkpolicies ingresses"),
    on(READ_WRITE, "coordination.k8s.io", "leases"),
    on(WRITE, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
];

const VIEW: &[Rights] = &[
    on(
        READ,
        "core",
        "pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status endpoints \
         persistentvolumeclaims persistentvolumeclaims/status configmaps",
    ),
    on(
        READ,
        "core",
        "limitranges resourcequotas bindings events pods/status resourcequotas/status namespaces/status \
         replicationcontrollers/status pods/log",
    ),
    on(READ, "core", "namespaces"),
    on(READ, "discovery.k8s.io", "endpointslices"),
    on(
        READ,
        "apps",
        "controllerrevisions statefulsets statefulsets/status statefulsets/scale daemonsets daemonsets/status \
         deployments deployments/status deployments/scale replicasets replicasets/status replicasets/scale",
    ),
    on(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
    on(READ, "batch", "jobs cronjobs cronjobs/status jobs/status"),
    on(
        READ,
        "extensions",
        "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status \
         replicasets replicasets/scale replicasets/status replicationcontrollers/scale networkpolicies",
    ),
    on(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    on(READ, "networking.k8s.io", "networkpolicies ingresses ingresses/status"),
    on(READ, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
];

/// The label by which a role becomes part of `admin`, `edit` or `view`.
fn part_of(role: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{role}")
}

/// A role that is put together of others, and what it is part of itself.
fn aggregated(name: &str, part: Option<&str>) -> Preset {
    let mut whole = role(ROLES, None, name, &[]);
    if let Some(fields) = whole.object.as_object_mut() {
        fields.remove("rules");
    }
    whole.object["aggregationRule"] =
        json!({"clusterRoleSelectors": [{"matchLabels": {part_of(name): "true"}}]});
    if let Some(of) = part {
        meta::set_label(&mut whole.object, &part_of(of), "true");
    }
    whole
}

/// The part of an aggregated role that Kubernetes brings.
fn part(of: &str, rights: &[Rights]) -> Preset {
    let mut part = role(ROLES, None, &format!("system:aggregate-to-{of}"), rights);
    meta::set_label(&mut part.object, &part_of(of), "true");
    part
}

pub(super) fn roles() -> Vec<Preset> {
    let mut all: Vec<Preset> = PLAIN.iter().map(|(name, rights)| role(ROLES, None, name, rights)).collect();
    all.extend([
        aggregated("admin", None),
        aggregated("edit", Some("admin")),
        aggregated("view", Some("edit")),
    ]);
    all.extend([part("admin", ADMIN), part("edit", EDIT), part("view", VIEW)]);
    all
}

pub(super) fn bindings() -> Vec<Preset> {
    let named_like =
        |name: &str, to: &[&str]| binding("clusterrolebindings", None, name, ("ClusterRole", name), to);
    vec![
        named_like("cluster-admin", &["Group system:masters"]),
        named_like("system:monitoring", &["Group system:monitoring"]),
        named_like("system:discovery", &["Group system:authenticated"]),
        named_like("system:basic-user", &["Group system:authenticated"]),
        named_like(
            "system:public-info-viewer",
            &["Group system:authenticated", "Group system:unauthenticated"],
        ),
        named_like("system:node-proxier", &["User system:kube-proxy"]),
        named_like("system:kube-controller-manager", &["User system:kube-controller-manager"]),
        named_like("system:kube-dns", &["ServiceAccount kube-dns"]),
        named_like("system:kube-scheduler", &["User system:kube-scheduler"]),
        named_like("system:volume-scheduler", &["User system:kube-scheduler"]),
        named_like("system:node", &[]),
        named_like("system:service-account-issuer-discovery", &["Group system:serviceaccounts"]),
        named_like("system:cluster-trust-bundle-discovery", &["Group system:serviceaccounts"]),
    ]
}
