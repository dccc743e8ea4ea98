//! A container of a pod, with its image and volumes, as the runtime's configuration (pure).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{
    Container, Pod, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, VolumeMount,
};
use sha2::{Digest, Sha256};

use super::env::{Environment, expand};
use super::observed::{fingerprint, label};
use super::pod::full_name;
use super::resources;
use super::volumes::files::Source;
use crate::image::{Image, User};
use crate::runtime::{
    ContainerConfig, Labels, LogConfig, Mount, MountSource, Process, Propagation, Seccomp, Security, Stdin,
};

/// Docker's and containerd's default capabilities.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The search path of images that set none (as Docker's).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// kubelet's `containerLogMaxSize`.
const LOG_MAX_BYTES: u64 = 10 << 20;
/// kubelet's `containerLogMaxFiles`.
pub(super) const LOG_MAX_FILES: u32 = 5;

/// What a container's configuration is made from, beside the pod and the container.
pub struct Parts<'a> {
    /// The sandbox it goes into.
    pub sandbox: &'a str,
    /// How many came before it.
    pub attempt: u32,
    /// Its image, unpacked.
    pub image: &'a Image,
    /// Complete but for `PATH`, `HOME` and `TERM`.
    pub env: Environment,
    /// Where each volume of the pod is on the host.
    pub volumes: &'a HashMap<String, PathBuf>,
    /// Files that the kubelet itself puts into each container (`/etc/hosts`, ...): source and target.
    pub files: &'a [(PathBuf, PathBuf)],
    /// The host file for its last words.
    pub message_file: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// Where `localhostProfile`s are looked up.
    pub seccomp_dir: &'a Path,
    /// The node's memory in bytes.
    pub machine_memory: u64,
}

/// The runtime's id of a container: stable, so that starting it twice is starting it once.
pub fn container_id(pod_uid: &str, container: &str, attempt: u32) -> String {
    let digest = Sha256::digest(format!("{pod_uid}/{container}/{attempt}"));
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The configuration, or why the container cannot be made (a `CreateContainerConfigError`).
pub fn config(pod: &Pod, container: &Container, parts: Parts<'_>) -> Result<ContainerConfig, String> {
    let default_spec = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default_spec);
    let default_pod_context = PodSecurityContext::default();
    let pod_context = spec.security_context.as_ref().unwrap_or(&default_pod_context);
    let default_context = SecurityContext::default();
    let context = container.security_context.as_ref().unwrap_or(&default_context);
    let uid = pod.metadata.uid.as_deref().unwrap_or("");
    let user = user(pod, container, parts.image, pod_context, context)?;
    let own = parts.env.own;
    let env = environment(parts.env.all, &user, container);
    let mut security = security(pod_context, context, parts.seccomp_dir)?;
    security.oom_score_adj = resources::oom_score_adj(pod, container, parts.machine_memory);
    let groups = groups(pod_context, &user);
    let message_path =
        PathBuf::from(container.termination_message_path.as_deref().unwrap_or("/dev/termination-log"));
    Ok(ContainerConfig {
        id: container_id(uid, &container.name, parts.attempt),
        sandbox: parts.sandbox.to_owned(),
        labels: labels(pod, container, parts.attempt, parts.image),
        layers: parts.image.layers.clone(),
        read_only_root: context.read_only_root_filesystem == Some(true),
        mounts: mounts(spec, container, parts.volumes, parts.files, &own)?,
        process: Process {
            args: arguments(container, parts.image, &own)?,
            cwd: PathBuf::from(
                container
                    .working_dir
                    .clone()
                    .filter(|d| !d.is_empty())
                    .unwrap_or_else(|| parts.image.config.working_dir.clone()),
            ),
            uid: user.uid,
            gid: user.gid,
            groups,
            tty: container.tty == Some(true),
            env,
        },
        security,
        resources: resources::of_container(container),
        stdin: match (container.stdin, container.stdin_once) {
            (Some(true), Some(true)) => Stdin::Once,
            (Some(true), _) => Stdin::Open,
            _ => Stdin::None,
        },
        log: LogConfig { path: parts.log, max_bytes: LOG_MAX_BYTES, max_files: LOG_MAX_FILES },
        termination_message: Some((parts.message_file, message_path)),
    })
}

/// The labels by which a restarted kubelet finds the container again.
fn labels(pod: &Pod, container: &Container, attempt: u32, image: &Image) -> Labels {
    let shown =
        image.references.first().cloned().unwrap_or_else(|| container.image.clone().unwrap_or_default());
    let image_id = image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone());
    let asked = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    let signal =
        asked.or(image.config.stop_signal.as_deref()).and_then(signal_number).unwrap_or(libc::SIGTERM);
    [
        (label::UID, pod.metadata.uid.clone().unwrap_or_default()),
        (label::CONTAINER, container.name.clone()),
        (label::ATTEMPT, attempt.to_string()),
        (label::HASH, fingerprint(container)),
        (label::IMAGE, shown),
        (label::IMAGE_ID, image_id),
        (label::STOP_SIGNAL, signal.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// The first and the last real-time signal, as images and pods count them.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// `SIGQUIT`, `QUIT`, `SIGRTMIN+3` or `3` as a number.
fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i32>().ok() };
    let real_time = match (full.strip_prefix("SIGRTMIN"), full.strip_prefix("SIGRTMAX")) {
        (Some(plus), _) => offset(plus).map(|n| RTMIN + n),
        (_, Some(minus)) => offset(minus).map(|n| RTMAX + n),
        _ => None,
    };
    if let Some(number) = real_time {
        return (RTMIN..=RTMAX).contains(&number).then_some(number);
    }
    full.parse::<nix::sys::signal::Signal>().ok().map(|s| s as i32)
}

/// Who the process runs as: the container's word, then the pod's, then the image's.
fn user(
    pod: &Pod,
    container: &Container,
    image: &Image,
    pod_context: &PodSecurityContext,
    context: &SecurityContext,
) -> Result<User, String> {
    let id = |number: i64, field: &str| -> Result<u32, String> {
        u32::try_from(number).map_err(|_| format!("{field} {number} is out of range 0 to {}", u32::MAX))
    };
    let asked_user = context.run_as_user.or(pod_context.run_as_user);
    let asked_group = context.run_as_group.or(pod_context.run_as_group);
    let text = match asked_user {
        Some(number) => id(number, "runAsUser")?.to_string(),
        None => image.config.user.clone(),
    };
    let mut user = image.user(&text).map_err(|e| e.to_string())?;
    if let Some(group) = asked_group {
        user.gid = id(group, "runAsGroup")?;
    }
    if context.run_as_non_root.or(pod_context.run_as_non_root) == Some(true) {
        let of = format!("(pod: {:?}, container: {})", full_name(pod), container.name);
        if user.uid == 0 && asked_user.is_some() {
            return Err(format!("container's runAsUser breaks non-root policy {of}"));
        }
        if user.uid == 0 {
            return Err(format!("container has runAsNonRoot and image will run as root {of}"));
        }
    }
    Ok(user)
}

/// The user's own groups by the image, those of the pod, and the owner of its volumes.
fn groups(pod_context: &PodSecurityContext, user: &User) -> Vec<u32> {
    let strict = pod_context.supplemental_groups_policy.as_deref() == Some("Strict");
    let mut groups = if strict { Vec::new() } else { user.groups.clone() };
    let asked = pod_context.supplemental_groups.iter().flatten().chain(pod_context.fs_group.iter());
    groups.extend(asked.filter_map(|g| u32::try_from(*g).ok()));
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn environment(mut env: Vec<String>, user: &User, container: &Container) -> Vec<String> {
    let has = |env: &[String], name: &str| env.iter().any(|e| e.split('=').next() == Some(name));
    if !has(&env, "PATH") {
        env.push(DEFAULT_PATH.to_owned());
    }
    if !has(&env, "HOME") {
        env.push(format!("HOME={}", user.home));
    }
    if container.tty == Some(true) && !has(&env, "TERM") {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// `command` replaces the image's entrypoint and drops its arguments; `args` replaces the arguments.
fn arguments(
    container: &Container,
    image: &Image,
    own: &BTreeMap<String, String>,
) -> Result<Vec<String>, String> {
    let value = |name: &str| own.get(name).cloned();
    let expanded = |words: &[String]| words.iter().map(|w| expand(w, value)).collect::<Vec<_>>();
    let command = container.command.as_deref().filter(|c| !c.is_empty());
    let args = container.args.as_deref().filter(|a| !a.is_empty());
    let all = match (command, args) {
        (Some(command), args) => [expanded(command), expanded(args.unwrap_or(&[]))].concat(),
        (None, Some(args)) => [image.config.entrypoint.clone(), expanded(args)].concat(),
        (None, None) => [image.config.entrypoint.clone(), image.config.cmd.clone()].concat(),
    };
    if all.is_empty() {
        return Err(format!(
            "no command specified for container {:?}, and its image has none",
            container.name
        ));
    }
    Ok(all)
}

fn mounts(
    spec: &PodSpec,
    container: &Container,
    volumes: &HashMap<String, PathBuf>,
    files: &[(PathBuf, PathBuf)],
    own: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, String> {
    let asked = container.volume_mounts.as_deref().unwrap_or(&[]);
    let mut mounts = Vec::new();
    for (source, target) in files {
        // The pod may bring its own /etc/hosts.
        if asked.iter().any(|m| Path::new(&m.mount_path) == target) {
            continue;
        }
        mounts.push(Mount {
            target: target.clone(),
            source: MountSource::Bind(source.clone()),
            read_only: false,
            propagation: Propagation::Private,
        });
    }
    for mount in asked {
        let mut made = volume_mount(mount, volumes, own)?;
        let volume = spec.volumes.iter().flatten().find(|v| v.name == mount.name);
        // What shows objects of the API is not the container's to change.
        made.read_only |= volume.is_some_and(|v| Source::of(v).is_ok());
        mounts.push(made);
    }
    // A mount hides what was mounted below its target before it: outer ones first.
    mounts.sort_by_key(|m| m.target.components().count());
    Ok(mounts)
}

fn volume_mount(
    mount: &VolumeMount,
    volumes: &HashMap<String, PathBuf>,
    own: &BTreeMap<String, String>,
) -> Result<Mount, String> {
    let base = volumes.get(&mount.name).ok_or_else(|| {
        format!("volume {:?} of mount {:?} is not part of the pod", mount.name, mount.mount_path)
    })?;
    let sub_path = match (mount.sub_path.as_deref(), mount.sub_path_expr.as_deref()) {
        (Some(path), _) if !path.is_empty() => Some(path.to_owned()),
        (_, Some(expr)) if !expr.is_empty() => Some(expand_path(expr, own)?),
        _ => None,
    };
    let source = match sub_path {
        Some(path) => MountSource::SubPath { base: base.clone(), path: PathBuf::from(path) },
        None => MountSource::Bind(base.clone()),
    };
    Ok(Mount {
        target: Path::new("/").join(&mount.mount_path),
        source,
        read_only: mount.read_only == Some(true),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    })
}

/// A `subPathExpr`; where a part of a path is missing, the rest would name something else.
fn expand_path(expression: &str, own: &BTreeMap<String, String>) -> Result<String, String> {
    let missing = RefCell::new(BTreeSet::new());
    let path = expand(expression, |name| {
        let value = own.get(name).filter(|value| !value.is_empty()).cloned();
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    match missing.into_inner() {
        missing if missing.is_empty() => Ok(path),
        missing => Err(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", "))),
    }
}

fn security(
    pod_context: &PodSecurityContext,
    context: &SecurityContext,
    seccomp_dir: &Path,
) -> Result<Security, String> {
    let armor = context.app_armor_profile.as_ref().or(pod_context.app_armor_profile.as_ref());
    if let Some(profile) = armor.filter(|p| p.type_ == "Localhost") {
        return Err(format!(
            "appArmorProfile {:?} cannot be applied: this node does not use AppArmor",
            profile.localhost_profile.as_deref().unwrap_or("")
        ));
    }
    let privileged = context.privileged == Some(true);
    let profile = context.seccomp_profile.as_ref().or(pod_context.seccomp_profile.as_ref());
    Ok(Security {
        privileged,
        capabilities: capabilities(context)?,
        seccomp: if privileged { Seccomp::Unconfined } else { seccomp(profile, seccomp_dir)? },
        no_new_privileges: context.allow_privilege_escalation == Some(false),
        unmasked_proc: context.proc_mount.as_deref() == Some("Unmasked"),
        oom_score_adj: 0,
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
    let mut set: Vec<String> = if drop.iter().any(|d| d == "ALL") {
        Vec::new()
    } else {
        DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect()
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn image() -> Image {
        let mut image = Image::default();
        image.config.entrypoint = vec!["/entry".into()];
        image.config.cmd = vec!["serve".into()];
        image.config.working_dir = "/srv".into();
        image.config.stop_signal = Some("SIGQUIT".into());
        image
    }

    fn made(pod_context: Value, container: Value) -> Result<ContainerConfig, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [container.clone()], "securityContext": pod_context,
                     "volumes": [{"name": "data", "emptyDir": {}}, {"name": "shown", "secret": {"secretName": "s"}}]},
        }))
        .unwrap();
        let container: Container = serde_json::from_value(container).unwrap();
        config(
            &pod,
            &container,
            Parts {
                sandbox: "s",
                attempt: 0,
                image: &image(),
                env: Environment {
                    all: vec!["A=1".into(), "IMAGE=2".into()],
                    own: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
                },
                volumes: &HashMap::from(
                    ["data", "shown"].map(|name| (name.to_owned(), Path::new("/vol").join(name))),
                ),
                files: &[("/pod/hosts".into(), "/etc/hosts".into())],
                message_file: "/pod/m".into(),
                log: "/log".into(),
                seccomp_dir: Path::new("/seccomp"),
                machine_memory: 1 << 30,
            },
        )
    }

    #[test]
    fn command_and_args_over_the_image() {
        for (command, args, expected) in [
            (json!(null), json!(null), vec!["/entry", "serve"]),
            (json!(["x"]), json!(null), vec!["x"]),
            (json!(["x"]), json!(["$(A)"]), vec!["x", "1"]),
            (json!(null), json!(["y", "$(B)"]), vec!["/entry", "y", "$(B)"]),
            (json!(["$(IMAGE)"]), json!(["$(PATH)"]), vec!["$(IMAGE)", "$(PATH)"]),
        ] {
            let c = made(json!({}), json!({"name": "c", "command": command, "args": args})).unwrap();
            assert_eq!(c.process.args, expected);
        }
    }

    #[test]
    fn stop_signals_by_name_and_number() {
        for (name, number) in [
            ("SIGQUIT", Some(3)),
            ("WINCH", Some(28)),
            ("9", Some(9)),
            ("0", None),
            ("SIGFOO", None),
            ("SIGRTMIN+3", Some(37)),
            ("RTMIN", Some(34)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMIN+31", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
        let signal = |own: Value| {
            let made = made(json!({}), json!({"name": "c", "lifecycle": own})).unwrap();
            made.labels[label::STOP_SIGNAL].clone()
        };
        assert_eq!(signal(json!(null)), "3");
        assert_eq!(signal(json!({"stopSignal": "SIGUSR1"})), "10");
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let set = |c: Value| {
            made(json!({}), json!({"name": "c", "securityContext": {"capabilities": c}}))
                .map(|c| c.security.capabilities)
        };
        assert_eq!(set(json!({})).unwrap().len(), 14);
        assert_eq!(set(json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})).unwrap(), ["CAP_NET_ADMIN"]);
        assert_eq!(set(json!({"add": ["ALL"], "drop": ["SYS_ADMIN"]})).unwrap().len(), caps::all().len() - 1);
        assert!(set(json!({"drop": ["KILL"]})).unwrap().iter().all(|c| c != "CAP_KILL"));
        assert!(set(json!({"add": ["NOPE"]})).unwrap_err().contains("CAP_NOPE"));
    }

    #[test]
    fn users_are_checked() {
        let c = |pod: Value, own: Value| made(pod, json!({"name": "c", "securityContext": own}));
        assert_eq!(c(json!({"runAsUser": 1000}), json!({})).unwrap().process.uid, 1000);
        assert_eq!(c(json!({"runAsUser": 1000}), json!({"runAsUser": 7})).unwrap().process.uid, 7);
        assert!(c(json!({"runAsNonRoot": true}), json!({})).unwrap_err().contains("will run as root"));
        assert!(c(json!({"runAsUser": 4294967296i64}), json!({})).is_err());
        let groups =
            c(json!({"supplementalGroups": [5, 4], "fsGroup": 4}), json!({})).unwrap().process.groups;
        assert_eq!(groups, [4, 5]);
    }

    #[test]
    fn mounts_outer_first_and_own_hosts_file_wins() {
        let c = made(
            json!({}),
            json!({"name": "c", "volumeMounts": [
                {"name": "data", "mountPath": "/a/b"},
                {"name": "data", "mountPath": "/a", "subPathExpr": "x-$(A)", "readOnly": true},
                {"name": "data", "mountPath": "/etc/hosts"},
                {"name": "shown", "mountPath": "/etc/very/secret"},
            ]}),
        )
        .unwrap();
        let writable: Vec<_> = c.mounts.iter().map(|m| !m.read_only).collect();
        assert_eq!(writable, [false, true, true, false], "objects of the API are only shown");
        let targets: Vec<_> = c.mounts.iter().map(|m| m.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/a", "/a/b", "/etc/hosts", "/etc/very/secret"]);
        assert_eq!(c.mounts[0].source, MountSource::SubPath { base: "/vol/data".into(), path: "x-1".into() });
        let missing = json!([{"name": "data", "mountPath": "/a", "subPathExpr": "$(IMAGE)/$(B)"}]);
        let err = made(json!({}), json!({"name": "c", "volumeMounts": missing}));
        assert_eq!(err.unwrap_err(), "missing value for B, IMAGE");
        let err = made(json!({}), json!({"name": "c", "volumeMounts": [{"name": "no", "mountPath": "/a"}]}));
        assert!(err.unwrap_err().contains("\"no\""));
    }

    #[test]
    fn what_cannot_be_applied_is_refused() {
        let profile = json!({"type": "Localhost", "localhostProfile": "mine"});
        let own = json!({"name": "c", "securityContext": {"appArmorProfile": profile}});
        assert!(made(json!({}), own).unwrap_err().contains("AppArmor"));
        assert!(made(json!({"appArmorProfile": {"type": "RuntimeDefault"}}), json!({"name": "c"})).is_ok());
    }

    #[test]
    fn seccomp_profiles_stay_in_their_directory() {
        let c =
            |p: Value| made(json!({"seccompProfile": p}), json!({"name": "c"})).map(|c| c.security.seccomp);
        assert_eq!(c(json!({"type": "RuntimeDefault"})).unwrap(), Seccomp::Default);
        assert_eq!(c(json!({"type": "Unconfined"})).unwrap(), Seccomp::Unconfined);
        assert_eq!(
            c(json!({"type": "Localhost", "localhostProfile": "p/x.json"})).unwrap(),
            Seccomp::Profile("/seccomp/p/x.json".into())
        );
        assert!(c(json!({"type": "Localhost", "localhostProfile": "../x"})).is_err());
    }
}
