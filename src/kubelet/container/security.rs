//! What a container's process may do: capabilities, system-call filter, privilege (pure).

use std::path::Path;

use k8s_openapi::api::core::v1::{PodSecurityContext, SeccompProfile, SecurityContext};

use crate::kubelet::app_armor;
use crate::runtime::{Seccomp, Security};
use crate::sys::capability::DEFAULT;

/// As the container and its pod ask for, the score for the out-of-memory killer aside.
pub fn security(
    pod_context: &PodSecurityContext,
    context: &SecurityContext,
    seccomp_dir: &Path,
) -> Result<Security, String> {
    // There is no profile of minik's own that would be the default.
    let armor = app_armor::profile(pod_context, context).filter(|profile| profile.type_ == "Localhost");
    let privileged = context.privileged == Some(true);
    let profile = context.seccomp_profile.as_ref().or(pod_context.seccomp_profile.as_ref());
    Ok(Security {
        privileged,
        capabilities: capabilities(context)?,
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile, seccomp_dir)? },
        no_new_privileges: context.allow_privilege_escalation == Some(false),
        unmasked_proc: context.proc_mount.as_deref() == Some("Unmasked"),
        oom_score_adj: 0,
        app_armor: armor.and_then(|profile| profile.localhost_profile.clone()),
    })
}

/// Docker's default set, less `drop`, plus `add`; `ALL` is every capability that the runtime knows.
fn capabilities(context: &SecurityContext) -> Result<Vec<String>, String> {
    let named = |name: &String| {
        let upper = name.to_uppercase();
        if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
    };
    let list = |names: Option<&Vec<String>>| names.into_iter().flatten().map(named).collect::<Vec<_>>();
    let asked = context.capabilities.as_ref();
    let add = list(asked.and_then(|c| c.add.as_ref()));
    let drop = list(asked.and_then(|c| c.drop.as_ref()));
    let known = caps::all();
    for name in add.iter().chain(&drop).filter(|n| *n != "ALL") {
        if !known.iter().any(|k| k.to_string() == *name) {
            return Err(format!("unknown capability {name:?}"));
        }
    }
    let every = || known.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut set: Vec<String> =
        if drop.iter().any(|d| d == "ALL") { Vec::new() } else { DEFAULT.map(str::to_owned).to_vec() };
    if add.iter().any(|a| a == "ALL") {
        set = every();
    }
    set.retain(|c| !drop.contains(c));
    set.extend(add.into_iter().filter(|a| a != "ALL"));
    set.sort();
    set.dedup();
    Ok(set)
}

fn seccomp(profile: Option<&SeccompProfile>, dir: &Path) -> Result<Seccomp, String> {
    let Some(profile) = profile else { return Ok(Seccomp::Default) };
    match profile.type_.as_str() {
        "Unconfined" => Ok(Seccomp::Unconfined),
        "Localhost" => {
            let name = profile.localhost_profile.as_deref().unwrap_or("");
            let relative = Path::new(name);
            let inside = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if name.is_empty() || !inside {
                return Err(format!("localhostProfile {name:?} must be a path below {}", dir.display()));
            }
            Ok(Seccomp::Profile(dir.join(relative)))
        }
        _ => Ok(Seccomp::Default),
    }
}
