//! The checks that the restricted level adds to the baseline, by the names and in the order of Kubernetes' own.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{collect, unmasked_proc};
use super::check::{Check, Pod, Violation, containers, counted, quoted, setters, texts};

/// All of them.
pub const CHECKS: &[Check] = &[
    Check { name: "allowPrivilegeEscalation", since: 8, replaces: &[], look: escalation },
    Check {
        name: "capabilities_restricted",
        since: 22,
        replaces: &["capabilities_baseline"],
        look: capabilities,
    },
    Check { name: "procMount_restricted", since: 35, replaces: &["procMount"], look: unmasked_proc },
    Check { name: "restrictedVolumes", since: 0, replaces: &["hostPathVolumes"], look: volumes },
    Check { name: "runAsNonRoot", since: 0, replaces: &[], look: run_as_non_root },
    Check { name: "runAsUser", since: 23, replaces: &[], look: run_as_user },
    Check {
        name: "seccompProfile_restricted",
        since: 19,
        replaces: &["seccompProfile_baseline"],
        look: seccomp,
    },
];

/// Sources of volumes that bring in nothing of the host's and speak no protocol of their own.
const VOLUMES: &[&str] = &[
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// Whether a check is not for this pod: from this version on Windows is left alone.
fn spares_windows(pod: &Pod<'_>, minor: u32) -> bool {
    minor >= 25 && pod.is_windows()
}

/// Whether root in the pod is nobody outside, which from this version on is enough.
fn spares_own_users(pod: &Pod<'_>, minor: u32) -> bool {
    minor >= 35 && pod.has_own_users()
}

fn escalation(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    let names = pod.named(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    if names.is_empty() || spares_windows(pod, minor) {
        return None;
    }
    Violation::new(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names)),
    )
}

fn capabilities(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if spares_windows(pod, minor) {
        return None;
    }
    let of = |container: &'_ Value, list: &str| container["securityContext"]["capabilities"][list].clone();
    let keeping = pod.named(|container| !texts(&of(container, "drop")).any(|name| name == "ALL"));
    let mut bad = BTreeSet::new();
    let adding = pod.named(|container| {
        let added = of(container, "add");
        let forbidden: Vec<&str> = texts(&added).filter(|name| *name != "NET_BIND_SERVICE").collect();
        bad.extend(forbidden.iter().map(|name| (*name).to_owned()));
        !forbidden.is_empty()
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        let who = containers(&keeping);
        details.push(format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    }
    if !adding.is_empty() {
        let who = containers(&adding);
        details.push(format!("{who} must not include {} in securityContext.capabilities.add", quoted(&bad)));
    }
    if details.is_empty() { None } else { Violation::new("unrestricted capabilities", details.join("; ")) }
}

fn volumes(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    let (mut names, mut sources) = (Vec::new(), BTreeSet::new());
    for volume in pod.volumes() {
        let fields = volume.as_object().into_iter().flatten();
        let set: Vec<&str> = fields
            .filter(|(key, value)| *key != "name" && !value.is_null())
            .map(|(key, _)| key.as_str())
            .collect();
        if set.iter().any(|source| VOLUMES.contains(source)) {
            continue;
        }
        names.push(volume["name"].as_str().unwrap_or_default());
        sources.insert(set.first().copied().unwrap_or("unknown"));
    }
    if names.is_empty() {
        return None;
    }
    Violation::new(
        "restricted volume types",
        format!(
            "{} {} {} {} {}",
            counted("volume", "volumes", names.len()),
            quoted(&names),
            counted("uses", "use", names.len()),
            counted("restricted volume type", "restricted volume types", sources.len()),
            quoted(&sources)
        ),
    )
}

fn run_as_non_root(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if spares_own_users(pod, minor) {
        return None;
    }
    let of = |of: &Value| of["securityContext"]["runAsNonRoot"].as_bool();
    let refusing = pod.named(|container| of(container) == Some(false));
    if let Some(who) = setters(of(pod.spec) == Some(false), &refusing) {
        return Violation::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.named(|container| of(container).is_none());
    if silent.is_empty() || of(pod.spec) == Some(true) {
        return None;
    }
    let who = containers(&silent);
    Violation::new(REASON, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

fn run_as_user(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if spares_own_users(pod, minor) {
        return None;
    }
    let is_root = |of: &Value| of["securityContext"]["runAsUser"] == 0;
    let who = setters(is_root(pod.spec), &pod.named(|container| is_root(container)))?;
    Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0"))
}

fn seccomp(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    const REASON: &str = "seccompProfile";
    if spares_windows(pod, minor) {
        return None;
    }
    fn of(of: &Value) -> &Value {
        &of["securityContext"]["seccompProfile"]["type"]
    }
    let mut bad = BTreeSet::new();
    let by_pod = collect(&mut bad, of(pod.spec));
    let names = pod.named(|container| collect(&mut bad, of(container)));
    if let Some(who) = setters(by_pod, &names) {
        return Violation::new(
            REASON,
            format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&bad)),
        );
    }
    let silent = pod.named(|container| of(container).is_null());
    if silent.is_empty() || !of(pod.spec).is_null() {
        return None;
    }
    let who = containers(&silent);
    Violation::new(
        REASON,
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ),
    )
}
