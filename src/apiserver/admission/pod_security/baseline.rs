//! The checks of the baseline, by the names and in the order of Kubernetes' own.

use std::collections::BTreeSet;

use serde_json::Value;

use super::check::{Check, Pod, Violation, containers, counted, quoted, setters, texts};

/// All of them.
pub const CHECKS: &[Check] = &[
    Check { name: "appArmorProfile", since: 0, replaces: &[], look: app_armor },
    Check { name: "capabilities_baseline", since: 0, replaces: &[], look: capabilities },
    Check { name: "hostNamespaces", since: 0, replaces: &[], look: host_namespaces },
    Check { name: "hostPathVolumes", since: 0, replaces: &[], look: host_paths },
    Check { name: "hostPorts", since: 0, replaces: &[], look: host_ports },
    Check { name: "hostProbesAndHostLifecycle", since: 34, replaces: &[], look: probed_hosts },
    Check { name: "privileged", since: 0, replaces: &[], look: privileged },
    Check { name: "procMount", since: 0, replaces: &[], look: proc_mount },
    Check { name: "seLinuxOptions", since: 0, replaces: &[], look: se_linux },
    Check { name: "seccompProfile_baseline", since: 0, replaces: &[], look: seccomp },
    Check { name: "sysctls", since: 0, replaces: &[], look: sysctls },
    Check { name: "windowsHostProcess", since: 0, replaces: &[], look: host_process },
];

const CAPABILITIES: &[&str] = &[
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The sysctls that pods may set, and the version from which on.
const SYSCTLS: &[(&str, u32)] = &[
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
    ("net.ipv4.tcp_slow_start_after_idle", 37),
    ("net.ipv4.tcp_notsent_lowat", 37),
];

/// Puts a profile of AppArmor or seccomp that takes protection away among the others; whether it is one.
pub fn collect(bad: &mut BTreeSet<String>, profile: &Value) -> bool {
    let profile = profile.as_str().filter(|profile| !["RuntimeDefault", "Localhost"].contains(profile));
    bad.extend(profile.map(str::to_owned));
    profile.is_some()
}

fn annotations<'a>(pod: &Pod<'a>) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
    let all = pod.metadata["annotations"].as_object().into_iter().flatten();
    all.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()))
}

fn app_armor(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut bad = BTreeSet::new();
    let mut is_bad = |of: &Value| collect(&mut bad, &of["securityContext"]["appArmorProfile"]["type"]);
    let by_pod = is_bad(pod.spec);
    let names = pod.named(|container| is_bad(container));
    let allowed =
        |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let forbidden: BTreeSet<String> = annotations(pod)
        .filter(|(key, value)| key.starts_with(ANNOTATION) && !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    let by_annotations =
        (!forbidden.is_empty()).then(|| counted("annotation", "annotations", forbidden.len()).to_owned());
    let who: Vec<String> = setters(by_pod, &names).into_iter().chain(by_annotations).collect();
    if who.is_empty() {
        return None;
    }
    let values: Vec<&String> = bad.iter().chain(&forbidden).collect();
    Violation::new(
        counted("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len()),
        format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(values)),
    )
}

fn capabilities(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    let mut bad = BTreeSet::new();
    let names = pod.named(|container| {
        let added = texts(&container["securityContext"]["capabilities"]["add"]);
        let forbidden: Vec<&str> = added.filter(|name| !CAPABILITIES.contains(name)).collect();
        bad.extend(forbidden.iter().map(|name| (*name).to_owned()));
        !forbidden.is_empty()
    });
    let added = || {
        let who = containers(&names);
        format!("{who} must not include {} in securityContext.capabilities.add", quoted(&bad))
    };
    if names.is_empty() { None } else { Violation::new("non-default capabilities", added()) }
}

fn host_namespaces(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    let shared = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.spec[*field] == true);
    let shared: Vec<String> = shared.map(|field| format!("{field}=true")).collect();
    if shared.is_empty() { None } else { Violation::new("host namespaces", shared.join(", ")) }
}

fn host_paths(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    let names: Vec<&str> = pod
        .volumes()
        .filter(|volume| !volume["hostPath"].is_null())
        .map(|volume| volume["name"].as_str().unwrap_or_default())
        .collect();
    let who = || format!("{} {}", counted("volume", "volumes", names.len()), quoted(&names));
    if names.is_empty() { None } else { Violation::new("hostPath volumes", who()) }
}

fn host_ports(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    // Told in the order of their texts.
    let mut ports = BTreeSet::new();
    let names = pod.named(|container| {
        let all = container["ports"].as_array().into_iter().flatten();
        let bound: Vec<i64> =
            all.filter_map(|port| port["hostPort"].as_i64()).filter(|port| *port != 0).collect();
        ports.extend(bound.iter().map(i64::to_string));
        !bound.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let list: Vec<&str> = ports.iter().map(String::as_str).collect();
    Violation::new(
        "hostPort",
        format!(
            "{} {} {} {}",
            containers(&names),
            counted("uses", "use", names.len()),
            counted("hostPort", "hostPorts", list.len()),
            list.join(", ")
        ),
    )
}

fn probed_hosts(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let mut names = pod.named(|container| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
        let handlers = ["postStart", "preStop"].map(|when| &container["lifecycle"][when]);
        let actions = probes.into_iter().chain(handlers);
        let named = actions.flat_map(|of| ["httpGet", "tcpSocket"].map(|action| &of[action]["host"]));
        let named: Vec<&str> = named.filter_map(Value::as_str).filter(|host| !host.is_empty()).collect();
        hosts.extend(named.iter().map(|host| (*host).to_owned()));
        !named.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    names.sort_unstable();
    names.dedup();
    Violation::new(
        "probe or lifecycle host",
        format!(
            "{} {} {} {}",
            containers(&names),
            counted("uses", "use", names.len()),
            counted("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()),
            quoted(&hosts)
        ),
    )
}

fn privileged(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    let names = pod.named(|container| container["securityContext"]["privileged"] == true);
    let who = || format!("{} must not set securityContext.privileged=true", containers(&names));
    if names.is_empty() { None } else { Violation::new("privileged", who()) }
}

fn proc_mount(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor >= 35 && pod.has_own_users() { None } else { unmasked_proc(pod, minor) }
}

/// Containers that see more of `/proc` than others.
pub fn unmasked_proc(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    let mut bad = BTreeSet::new();
    let names = pod.named(|container| {
        let mount = container["securityContext"]["procMount"].as_str().filter(|mount| *mount != "Default");
        bad.extend(mount.map(str::to_owned));
        mount.is_some()
    });
    let who = || format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(&bad));
    if names.is_empty() { None } else { Violation::new("procMount", who()) }
}

fn se_linux(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    let mut types = BTreeSet::new();
    let (mut user, mut role) = (false, false);
    let mut is_bad = |options: &Value| {
        let text = |key: &str| options[key].as_str().unwrap_or_default();
        let allowed = ["", "container_t", "container_init_t", "container_kvm_t"].contains(&text("type"))
            || minor >= 31 && text("type") == "container_engine_t";
        if !allowed {
            types.insert(text("type").to_owned());
        }
        user |= !text("user").is_empty();
        role |= !text("role").is_empty();
        !allowed || !text("user").is_empty() || !text("role").is_empty()
    };
    let by_pod = is_bad(&pod.spec["securityContext"]["seLinuxOptions"]);
    let names = pod.named(|container| is_bad(&container["securityContext"]["seLinuxOptions"]));
    let who = setters(by_pod, &names)?;
    let types =
        (!types.is_empty()).then(|| format!("{} {}", counted("type", "types", types.len()), quoted(&types)));
    let user = user.then(|| "user may not be set".to_owned());
    let role = role.then(|| "role may not be set".to_owned());
    let what: Vec<String> = [types, user, role].into_iter().flatten().collect();
    Violation::new(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; ")),
    )
}

fn seccomp(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    if minor < 19 {
        return seccomp_annotations(pod);
    }
    let mut bad = BTreeSet::new();
    let mut is_bad = |of: &Value| collect(&mut bad, &of["securityContext"]["seccompProfile"]["type"]);
    let by_pod = is_bad(pod.spec);
    let names = pod.named(|container| is_bad(container));
    let who = setters(by_pod, &names)?;
    Violation::new(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&bad)),
    )
}

fn seccomp_annotations(pod: &Pod<'_>) -> Option<Violation> {
    const OF_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const OF_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let names: Vec<&str> = pod.named(|_| true);
    let concerns =
        |key: &str| key == OF_POD || key.strip_prefix(OF_CONTAINER).is_some_and(|name| names.contains(&name));
    let allowed = |value: &str| {
        ["runtime/default", "docker/default"].contains(&value) || value.starts_with("localhost/")
    };
    let forbidden: BTreeSet<String> = annotations(pod)
        .filter(|(key, value)| concerns(key) && !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let word = counted("annotation", "annotations", forbidden.len());
    let list: Vec<String> = forbidden.into_iter().collect();
    Violation::new("seccompProfile", format!("forbidden {word} {}", list.join(", ")))
}

fn sysctls(pod: &Pod<'_>, minor: u32) -> Option<Violation> {
    let allowed = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && *since <= minor);
    let all = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let names = all.filter_map(|sysctl| sysctl["name"].as_str());
    let forbidden: Vec<&str> = names.filter(|name| !allowed(name)).collect();
    if forbidden.is_empty() { None } else { Violation::new("forbidden sysctls", forbidden.join(", ")) }
}

fn host_process(pod: &Pod<'_>, _: u32) -> Option<Violation> {
    let is = |of: &Value| of["securityContext"]["windowsOptions"]["hostProcess"] == true;
    let who = setters(is(pod.spec), &pod.named(|container| is(container)))?;
    Violation::new(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}
