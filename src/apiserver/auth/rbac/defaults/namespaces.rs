//! The roles and bindings of the namespaces `kube-system` and `kube-public`.

use super::{EVENTS, Preset, READ, Rights, binding, named, on, role};

const SYSTEM: &str = "kube-system";
const PUBLIC: &str = "kube-public";
const AUTHENTICATION: &str = "extension-apiserver-authentication";

const ROLES: &[(&str, &str, &[Rights])] = &[
    (
        SYSTEM,
        "extension-apiserver-authentication-reader",
        &[named(READ, "core", "configmaps", AUTHENTICATION)],
    ),
    (SYSTEM, "system:controller:bootstrap-signer", &[on(READ, "core", "secrets")]),
    (SYSTEM, "system:controller:cloud-provider", &[on("create get list watch", "core", "configmaps")]),
    (SYSTEM, "system:controller:token-cleaner", &[on("get list watch delete", "core", "secrets"), EVENTS]),
    (
        SYSTEM,
        "system::leader-locking-kube-controller-manager",
        &[
            on("watch", "core", "configmaps"),
            named("get update", "core", "configmaps", "kube-controller-manager"),
        ],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-scheduler",
        &[on("watch", "core", "configmaps"), named("get update", "core", "configmaps", "kube-scheduler")],
    ),
    (
        PUBLIC,
        "system:controller:bootstrap-signer",
        &[on(READ, "core", "configmaps"), named("update", "core", "configmaps", "cluster-info"), EVENTS],
    ),
];

/// Namespace, binding, role, subjects.
const BINDINGS: &[(&str, &str, &str, &[&str])] = &[
    (
        SYSTEM,
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        &["User system:kube-controller-manager", "User system:kube-scheduler"],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        &["User system:kube-controller-manager", "ServiceAccount kube-controller-manager"],
    ),
    (
        SYSTEM,
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        &["User system:kube-scheduler", "ServiceAccount kube-scheduler"],
    ),
    (
        SYSTEM,
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["ServiceAccount bootstrap-signer"],
    ),
    (
        SYSTEM,
        "system:controller:cloud-provider",
        "system:controller:cloud-provider",
        &["ServiceAccount cloud-provider"],
    ),
    (
        SYSTEM,
        "system:controller:token-cleaner",
        "system:controller:token-cleaner",
        &["ServiceAccount token-cleaner"],
    ),
    (
        PUBLIC,
        "system:controller:bootstrap-signer",
        "system:controller:bootstrap-signer",
        &["ServiceAccount bootstrap-signer"],
    ),
];

pub(super) fn roles() -> Vec<Preset> {
    ROLES.iter().map(|(namespace, name, rights)| role("roles", Some(namespace), name, rights)).collect()
}

pub(super) fn bindings() -> Vec<Preset> {
    let one = |(namespace, name, role, to): &(&'static str, &'static str, &'static str, &[&str])| {
        binding("rolebindings", Some(namespace), name, ("Role", role), to)
    };
    BINDINGS.iter().map(one).collect()
}
