//! Whether containers come back after they have ended (pure).

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

/// Whether an init container is a sidecar: it starts in its turn, then runs on beside the others.
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// The restart policy of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// After every end.
    Always,
    /// After a failure.
    OnFailure,
    /// Not at all.
    Never,
}

impl RestartPolicy {
    /// That of a container: its own, or its pod's.
    pub fn of(spec: &PodSpec, container: &Container) -> RestartPolicy {
        match container.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
            Some("OnFailure") => RestartPolicy::OnFailure,
            Some("Never") => RestartPolicy::Never,
            _ => RestartPolicy::Always,
        }
    }
}

/// Whether a container comes back after it has ended with this code.
pub fn comes_back(spec: &PodSpec, container: &Container, code: i32) -> bool {
    let fits = |rule: &ContainerRestartRule| {
        let codes = rule.exit_codes.as_ref();
        let listed = codes.is_some_and(|codes| codes.values.iter().flatten().any(|value| *value == code));
        rule.action == "Restart"
            && codes.is_some_and(|codes| if codes.operator == "NotIn" { !listed } else { listed })
    };
    if container.restart_policy_rules.iter().flatten().any(fits) {
        return true;
    }
    match RestartPolicy::of(spec, container) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}
