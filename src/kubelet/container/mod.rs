//! A container of a pod, with its image and volumes, as the runtime's configuration (pure).

mod devices;
mod mounts;
mod security;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, PodSpec, SecurityContext};
use serde_json::json;
use sha2::{Digest, Sha256};

use self::devices::devices;
use self::mounts::mounts;
use self::security::security;
use super::env::{Environment, expand};
use super::observed::{StartedAs, fingerprint, label};
use super::pod::full_name;
use super::resources;
use crate::image::{Image, User};
use crate::runtime::{ContainerConfig, Labels, LogConfig, Process, Stdin};

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
    /// The images of image volumes, unpacked, by volume.
    pub image_volumes: &'a BTreeMap<String, Image>,
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
    /// The runtime's id of the container whose processes it is to be among.
    pub target: Option<String>,
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
    let started_as = StartedAs { uid: user.uid, gid: user.gid, groups: groups.clone() };
    let message_path =
        PathBuf::from(container.termination_message_path.as_deref().unwrap_or("/dev/termination-log"));
    Ok(ContainerConfig {
        id: container_id(uid, &container.name, parts.attempt),
        sandbox: parts.sandbox.to_owned(),
        labels: labels(pod, container, parts.attempt, parts.image, &started_as),
        layers: parts.image.layers.clone(),
        read_only_root: context.read_only_root_filesystem == Some(true),
        mounts: mounts(spec, container, parts.volumes, parts.image_volumes, parts.files, &own)?,
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
        resources: resources::of_container(spec, container),
        stdin: match (container.stdin, container.stdin_once) {
            (Some(true), Some(true)) => Stdin::Once,
            (Some(true), _) => Stdin::Open,
            _ => Stdin::None,
        },
        log: LogConfig { path: parts.log, max_bytes: LOG_MAX_BYTES, max_files: LOG_MAX_FILES },
        termination_message: Some((parts.message_file, message_path)),
        target: parts.target,
        devices: devices(spec, container, parts.volumes)?,
    })
}

/// The labels by which a restarted kubelet finds the container again.
fn labels(pod: &Pod, container: &Container, attempt: u32, image: &Image, started_as: &StartedAs) -> Labels {
    let shown =
        image.references.first().cloned().unwrap_or_else(|| container.image.clone().unwrap_or_default());
    let image_id = image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone());
    let asked = container.lifecycle.as_ref().and_then(|l| l.stop_signal.as_deref());
    let signal =
        asked.or(image.config.stop_signal.as_deref()).and_then(signal_number).unwrap_or(libc::SIGTERM);
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let whole = whole.map(|whole| (label::WHOLE, json!(whole).to_string()));
    [
        (label::UID, pod.metadata.uid.clone().unwrap_or_default()),
        (label::CONTAINER, container.name.clone()),
        (label::ATTEMPT, attempt.to_string()),
        (label::HASH, fingerprint(container)),
        (label::IMAGE, shown),
        (label::IMAGE_ID, image_id),
        (label::STOP_SIGNAL, signal.to_string()),
        (label::USER, started_as.text()),
        (label::RESOURCES, json!(container.resources.clone().unwrap_or_default()).to_string()),
    ]
    .into_iter()
    .chain(whole)
    .map(|(key, value)| (key.to_owned(), value))
    .collect()
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
