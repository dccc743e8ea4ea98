//! The typed kinds that components act on, with their plurals.

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, ClusterTrustBundle, PodCertificateRequest,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
    ReplicationController, ResourceQuota, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, NetworkPolicy, ServiceCIDR};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::api::storage::v1::StorageClass;

use super::Resource;

macro_rules! resources {
    ($($kind:ty => $plural:literal),* $(,)?) => {
        $(impl Resource for $kind {
            const PLURAL: &'static str = $plural;
        })*
    };
}

resources! {
    CertificateSigningRequest => "certificatesigningrequests",
    ClusterRole => "clusterroles",
    ClusterTrustBundle => "clustertrustbundles",
    ConfigMap => "configmaps",
    ControllerRevision => "controllerrevisions",
    CronJob => "cronjobs",
    DaemonSet => "daemonsets",
    Deployment => "deployments",
    EndpointSlice => "endpointslices",
    Endpoints => "endpoints",
    Event => "events",
    HorizontalPodAutoscaler => "horizontalpodautoscalers",
    Ingress => "ingresses",
    IngressClass => "ingressclasses",
    Job => "jobs",
    Lease => "leases",
    Namespace => "namespaces",
    NetworkPolicy => "networkpolicies",
    Node => "nodes",
    PersistentVolume => "persistentvolumes",
    PersistentVolumeClaim => "persistentvolumeclaims",
    Pod => "pods",
    PodCertificateRequest => "podcertificaterequests",
    PodDisruptionBudget => "poddisruptionbudgets",
    ReplicaSet => "replicasets",
    ReplicationController => "replicationcontrollers",
    ResourceQuota => "resourcequotas",
    RuntimeClass => "runtimeclasses",
    Secret => "secrets",
    Service => "services",
    ServiceAccount => "serviceaccounts",
    ServiceCIDR => "servicecidrs",
    StatefulSet => "statefulsets",
    StorageClass => "storageclasses",
}
