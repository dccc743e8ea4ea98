//! How lists and maps of the served types merge: what the structural schemas lack.
//!
//! Taken from the `x-kubernetes-*` keys of Kubernetes 1.37's published definitions (PyPI package
//! kubernetes-validate 1.37.0), which are made from the struct tags of its API types; the defaults, which those
//! lack, from the `+default` tags of k8s.io/api. Read by `build.rs`.

/// How a list merges in server-side apply.
pub enum List {
    /// As one value.
    Atomic,
    /// As a set of scalars.
    Set,
    /// By the keys of its items.
    Map(&'static [&'static str]),
}

/// One list of one type.
pub struct Field {
    /// `core.v1.Container`.
    pub of: &'static str,
    /// `ports`.
    pub field: &'static str,
    /// `+listType`.
    pub list: Option<List>,
    /// `patchMergeKey`, for strategic merge patches.
    pub merge_key: &'static str,
    /// `patchStrategy`, for strategic merge patches.
    pub strategy: &'static str,
}

const fn atomic(of: &'static str, field: &'static str) -> Field {
    Field { of, field, list: Some(List::Atomic), merge_key: "", strategy: "" }
}

const fn set(of: &'static str, field: &'static str, strategy: &'static str) -> Field {
    Field { of, field, list: Some(List::Set), merge_key: "", strategy }
}

/// Lists of maps, merged by the same one key in both kinds of patch.
macro_rules! merge {
    ($of:literal, $field:literal, $key:literal) => {
        Field { of: $of, field: $field, list: Some(List::Map(&[$key])), merge_key: $key, strategy: "merge" }
    };
}

/// Every list that has a rule.
pub const FIELDS: &[Field] = &[
    atomic("authentication.v1.TokenRequestSpec", "audiences"),
    atomic("core.v1.Capabilities", "add"),
    atomic("core.v1.Capabilities", "drop"),
    atomic("core.v1.CephFSVolumeSource", "monitors"),
    atomic("core.v1.ConfigMapProjection", "items"),
    atomic("core.v1.ConfigMapVolumeSource", "items"),
    atomic("core.v1.Container", "args"),
    atomic("core.v1.Container", "command"),
    merge!("core.v1.Container", "env", "name"),
    atomic("core.v1.Container", "envFrom"),
    Field {
        of: "core.v1.Container",
        field: "ports",
        list: Some(List::Map(&["containerPort", "protocol"])),
        merge_key: "containerPort",
        strategy: "merge",
    },
    atomic("core.v1.Container", "resizePolicy"),
    atomic("core.v1.Container", "restartPolicyRules"),
    merge!("core.v1.Container", "volumeDevices", "devicePath"),
    merge!("core.v1.Container", "volumeMounts", "mountPath"),
    atomic("core.v1.ContainerImage", "names"),
    set("core.v1.ContainerRestartRuleOnExitCodes", "values", ""),
    merge!("core.v1.ContainerStatus", "allocatedResourcesStatus", "name"),
    merge!("core.v1.ContainerStatus", "volumeMounts", "mountPath"),
    atomic("core.v1.DownwardAPIProjection", "items"),
    atomic("core.v1.DownwardAPIVolumeSource", "items"),
    atomic("core.v1.EndpointSubset", "addresses"),
    atomic("core.v1.EndpointSubset", "notReadyAddresses"),
    atomic("core.v1.EndpointSubset", "ports"),
    atomic("core.v1.Endpoints", "subsets"),
    atomic("core.v1.EphemeralContainer", "args"),
    atomic("core.v1.EphemeralContainer", "command"),
    merge!("core.v1.EphemeralContainer", "env", "name"),
    atomic("core.v1.EphemeralContainer", "envFrom"),
    Field {
        of: "core.v1.EphemeralContainer",
        field: "ports",
        list: Some(List::Map(&["containerPort", "protocol"])),
        merge_key: "containerPort",
        strategy: "merge",
    },
    atomic("core.v1.EphemeralContainer", "resizePolicy"),
    atomic("core.v1.EphemeralContainer", "restartPolicyRules"),
    merge!("core.v1.EphemeralContainer", "volumeDevices", "devicePath"),
    merge!("core.v1.EphemeralContainer", "volumeMounts", "mountPath"),
    atomic("core.v1.ExecAction", "command"),
    atomic("core.v1.FCVolumeSource", "targetWWNs"),
    atomic("core.v1.FCVolumeSource", "wwids"),
    atomic("core.v1.HTTPGetAction", "httpHeaders"),
    atomic("core.v1.HostAlias", "hostnames"),
    atomic("core.v1.ISCSIVolumeSource", "portals"),
    atomic("core.v1.LinuxContainerUser", "supplementalGroups"),
    atomic("core.v1.LoadBalancerIngress", "ports"),
    atomic("core.v1.LoadBalancerStatus", "ingress"),
    atomic("core.v1.NamespaceSpec", "finalizers"),
    merge!("core.v1.NamespaceStatus", "conditions", "type"),
    atomic("core.v1.NodeAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    set("core.v1.NodeAllocatableResourceClaimStatus", "containers", ""),
    merge!("core.v1.NodeAllocatableResourceClaimStatus", "mapping", "name"),
    merge!("core.v1.NodeAllocatableResourceClaimStatus", "overhead", "name"),
    set("core.v1.NodePodPreemptionPolicy", "disableResizePreemption", ""),
    atomic("core.v1.NodeSelector", "nodeSelectorTerms"),
    atomic("core.v1.NodeSelectorRequirement", "values"),
    atomic("core.v1.NodeSelectorTerm", "matchExpressions"),
    atomic("core.v1.NodeSelectorTerm", "matchFields"),
    set("core.v1.NodeSpec", "podCIDRs", "merge"),
    atomic("core.v1.NodeSpec", "taints"),
    merge!("core.v1.NodeStatus", "addresses", "type"),
    merge!("core.v1.NodeStatus", "conditions", "type"),
    atomic("core.v1.NodeStatus", "declaredFeatures"),
    atomic("core.v1.NodeStatus", "images"),
    atomic("core.v1.NodeStatus", "runtimeHandlers"),
    atomic("core.v1.NodeStatus", "volumesAttached"),
    atomic("core.v1.NodeStatus", "volumesInUse"),
    atomic("core.v1.PersistentVolumeClaimSpec", "accessModes"),
    atomic("core.v1.PodAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodAffinityTerm", "matchLabelKeys"),
    atomic("core.v1.PodAffinityTerm", "mismatchLabelKeys"),
    atomic("core.v1.PodAffinityTerm", "namespaces"),
    atomic("core.v1.PodAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    atomic("core.v1.PodDNSConfig", "nameservers"),
    atomic("core.v1.PodDNSConfig", "options"),
    atomic("core.v1.PodDNSConfig", "searches"),
    atomic("core.v1.PodExtendedResourceClaimStatus", "requestMappings"),
    atomic("core.v1.PodSecurityContext", "supplementalGroups"),
    atomic("core.v1.PodSecurityContext", "sysctls"),
    merge!("core.v1.PodSpec", "containers", "name"),
    merge!("core.v1.PodSpec", "ephemeralContainers", "name"),
    merge!("core.v1.PodSpec", "evictionResponders", "name"),
    merge!("core.v1.PodSpec", "hostAliases", "ip"),
    merge!("core.v1.PodSpec", "imagePullSecrets", "name"),
    merge!("core.v1.PodSpec", "initContainers", "name"),
    atomic("core.v1.PodSpec", "readinessGates"),
    Field {
        of: "core.v1.PodSpec",
        field: "resourceClaims",
        list: Some(List::Map(&["name"])),
        merge_key: "name",
        strategy: "merge,retainKeys",
    },
    merge!("core.v1.PodSpec", "schedulingGates", "name"),
    atomic("core.v1.PodSpec", "tolerations"),
    Field {
        of: "core.v1.PodSpec",
        field: "topologySpreadConstraints",
        list: Some(List::Map(&["topologyKey", "whenUnsatisfiable"])),
        merge_key: "topologyKey",
        strategy: "merge",
    },
    Field {
        of: "core.v1.PodSpec",
        field: "volumes",
        list: Some(List::Map(&["name"])),
        merge_key: "name",
        strategy: "merge,retainKeys",
    },
    merge!("core.v1.PodStatus", "conditions", "type"),
    atomic("core.v1.PodStatus", "containerStatuses"),
    atomic("core.v1.PodStatus", "ephemeralContainerStatuses"),
    Field {
        of: "core.v1.PodStatus",
        field: "hostIPs",
        list: Some(List::Atomic),
        merge_key: "ip",
        strategy: "merge",
    },
    atomic("core.v1.PodStatus", "initContainerStatuses"),
    merge!("core.v1.PodStatus", "nodeAllocatableResourceClaimStatuses", "resourceClaimName"),
    merge!("core.v1.PodStatus", "podIPs", "ip"),
    Field {
        of: "core.v1.PodStatus",
        field: "resourceClaimStatuses",
        list: Some(List::Map(&["name"])),
        merge_key: "name",
        strategy: "merge,retainKeys",
    },
    Field {
        of: "core.v1.PodStatus",
        field: "volumeHealth",
        list: Some(List::Map(&["name"])),
        merge_key: "",
        strategy: "",
    },
    Field {
        of: "core.v1.PodVolumeHealth",
        field: "healthConditions",
        list: Some(List::Map(&["status", "reason"])),
        merge_key: "status",
        strategy: "merge",
    },
    atomic("core.v1.ProjectedVolumeSource", "sources"),
    atomic("core.v1.RBDVolumeSource", "monitors"),
    Field {
        of: "core.v1.ResourceRequirements",
        field: "claims",
        list: Some(List::Map(&["name"])),
        merge_key: "",
        strategy: "",
    },
    Field {
        of: "core.v1.ResourceStatus",
        field: "resources",
        list: Some(List::Map(&["resourceID"])),
        merge_key: "",
        strategy: "",
    },
    atomic("core.v1.SecretProjection", "items"),
    atomic("core.v1.SecretVolumeSource", "items"),
    atomic("core.v1.ServiceAccount", "imagePullSecrets"),
    merge!("core.v1.ServiceAccount", "secrets", "name"),
    atomic("core.v1.ServiceSpec", "clusterIPs"),
    atomic("core.v1.ServiceSpec", "externalIPs"),
    atomic("core.v1.ServiceSpec", "ipFamilies"),
    atomic("core.v1.ServiceSpec", "loadBalancerSourceRanges"),
    Field {
        of: "core.v1.ServiceSpec",
        field: "ports",
        list: Some(List::Map(&["port", "protocol"])),
        merge_key: "port",
        strategy: "merge",
    },
    merge!("core.v1.ServiceStatus", "conditions", "type"),
    atomic("core.v1.TopologySpreadConstraint", "matchLabelKeys"),
    set("core.v1.VolumeMount", "bindMountOptions", ""),
    set("discovery.v1.Endpoint", "addresses", ""),
    atomic("discovery.v1.EndpointHints", "forNodes"),
    atomic("discovery.v1.EndpointHints", "forZones"),
    atomic("discovery.v1.EndpointSlice", "endpoints"),
    atomic("discovery.v1.EndpointSlice", "ports"),
    atomic("meta.v1.DeleteOptions", "dryRun"),
    atomic("meta.v1.LabelSelector", "matchExpressions"),
    atomic("meta.v1.LabelSelectorRequirement", "values"),
    set("meta.v1.ObjectMeta", "finalizers", "merge"),
    atomic("meta.v1.ObjectMeta", "managedFields"),
    merge!("meta.v1.ObjectMeta", "ownerReferences", "uid"),
    atomic("meta.v1.StatusDetails", "causes"),
];

/// Fields that are maps, replaced as one value in server-side apply.
pub const ATOMIC_MAPS: &[(&str, &str)] =
    &[("core.v1.PodSpec", "nodeSelector"), ("core.v1.ServiceSpec", "selector")];

/// Types whose values are replaced as one value in server-side apply.
pub const ATOMIC_TYPES: &[&str] = &[
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.EvictionResponder",
    "core.v1.FileKeySelector",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.SecretKeySelector",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "meta.v1.LabelSelector",
    "meta.v1.OwnerReference",
];

/// Defaults that take part in list keys.
pub const DEFAULTS: &[(&str, &str, &str)] =
    &[("core.v1.ContainerPort", "protocol", "TCP"), ("core.v1.ServicePort", "protocol", "TCP")];
