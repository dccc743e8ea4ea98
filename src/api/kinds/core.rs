//! The core group.

use super::{GroupVersion, Kind, Subresource};

const V1: GroupVersion = GroupVersion { group: "", version: "v1", types: "io.k8s.api.core.v1" };

/// What goes on to the object's own HTTP server, whatever is asked there.
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

pub(super) fn kinds() -> Vec<Kind> {
    vec![
        // What gives a pod to a node is not kept.
        Kind { verbs: &["create"], storage: "".into(), ..V1.namespaced("Binding", "bindings") },
        Kind {
            verbs: &["get", "list"],
            deprecated: Some("v1 ComponentStatus is deprecated in v1.19+".into()),
            ..V1.cluster("ComponentStatus", "componentstatuses").short("cs")
        },
        V1.namespaced("ConfigMap", "configmaps").short("cm"),
        Kind {
            deprecated: Some(
                "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into(),
            ),
            ..V1.namespaced("Endpoints", "endpoints").short("ep")
        },
        V1.namespaced("Event", "events").short("ev"),
        V1.namespaced("LimitRange", "limitranges").short("limits"),
        Kind {
            verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
            ..V1.cluster("Namespace", "namespaces").short("ns")
        }
        .with_own("finalize", "Namespace", &["update"])
        .with_status(),
        V1.cluster("Node", "nodes")
            .short("no")
            .with_own("proxy", "NodeProxyOptions", PROXY_VERBS)
            .with_status(),
        V1.namespaced("PersistentVolumeClaim", "persistentvolumeclaims").short("pvc").with_status(),
        V1.cluster("PersistentVolume", "persistentvolumes").short("pv").with_status(),
        V1.namespaced("Pod", "pods")
            .short("po")
            .in_all()
            .with_own("attach", "PodAttachOptions", &["create", "get"])
            .with_own("binding", "Binding", &["create"])
            .with_own("ephemeralcontainers", "Pod", &["get", "patch", "update"])
            .with(Subresource {
                name: "eviction",
                kind: "Eviction".into(),
                group_version: Some(("policy", "v1")),
                verbs: &["create"],
            })
            .with_own("exec", "PodExecOptions", &["create", "get"])
            .with_own("log", "Pod", &["get"])
            .with_own("portforward", "PodPortForwardOptions", &["create", "get"])
            .with_own("proxy", "PodProxyOptions", PROXY_VERBS)
            .with_own("resize", "Pod", &["get", "patch", "update"])
            .with_status(),
        V1.namespaced("PodTemplate", "podtemplates"),
        V1.namespaced("ReplicationController", "replicationcontrollers")
            .short("rc")
            .in_all()
            .with_scale()
            .with_status(),
        V1.namespaced("ResourceQuota", "resourcequotas").short("quota").with_status(),
        V1.namespaced("Secret", "secrets"),
        V1.namespaced("ServiceAccount", "serviceaccounts").short("sa").with(Subresource {
            name: "token",
            kind: "TokenRequest".into(),
            group_version: Some(("authentication.k8s.io", "v1")),
            verbs: &["create"],
        }),
        V1.namespaced("Service", "services")
            .short("svc")
            .in_all()
            .with_own("proxy", "ServiceProxyOptions", PROXY_VERBS)
            .with_status(),
    ]
}
