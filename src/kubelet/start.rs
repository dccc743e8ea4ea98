//! Starting one container: volumes, image, environment, files, then the runtime.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{ConfigMap, Container, HostIP, Pod, PodIP, Secret};
use tokio::sync::Mutex;

use super::context::Context;
use super::observed::{ObservedContainer, ObservedPod};
use super::pod::ephemeral;
use super::pull::Images;
use super::sandbox::processes;
use super::status::Waiting;
use super::volumes::Volumes;
use super::{container, env, hosts, messages, pull};
use crate::client::events::EventType;
use crate::clock;
use crate::runtime::{Error, PidMode, Runtime};

/// Why a container does not run after its start.
#[derive(Debug)]
pub enum NotStarted {
    /// Something is missing that may come: the same attempt is made again.
    Waits(Waiting),
    /// An image of it is to be fetched first.
    NoImage,
    /// An image of it could not be fetched: the same attempt is made again.
    NotPulled(pull::Failure),
    /// Its process could not be started: the attempt has ended.
    Ended(Box<ObservedContainer>),
}

impl From<Waiting> for NotStarted {
    fn from(waiting: Waiting) -> NotStarted {
        NotStarted::Waits(waiting)
    }
}

impl From<pull::Failure> for NotStarted {
    fn from(failure: pull::Failure) -> NotStarted {
        NotStarted::NotPulled(failure)
    }
}

fn waiting(reason: &str, message: impl Into<String>) -> Waiting {
    Waiting { reason: reason.to_owned(), message: message.into() }
}

/// A container to be started.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its name within the pod.
    pub name: &'a str,
    /// How many came before.
    pub attempt: u32,
    /// What came of the pull of its images, if there was one.
    pub pulled: Option<Result<Images, pull::Failure>>,
    /// The runtime's id of the pod's sandbox.
    pub sandbox: &'a str,
    /// What there is of the pod.
    pub observed: &'a ObservedPod,
    /// The pod's addresses; none on the host's network.
    pub addresses: &'a [String],
}

/// Starts a container; the containers of a pod wait for one and the same making of its volumes.
pub async fn container<R: Runtime>(
    context: &Context<R>,
    pod: &Pod,
    start: Start<'_>,
    volumes: &Mutex<Volumes>,
) -> Result<(), NotStarted> {
    let Start { name, attempt, pulled, sandbox, observed, addresses } = start;
    let Some(container) = super::pod::container(pod, name) else { return Ok(()) };
    let container = &*container;
    let images = match pulled {
        Some(pulled) => pulled?,
        None => pull::find(context, pod, container).await?.ok_or(NotStarted::NoImage)?,
    };
    let places = places(context, pod, volumes).await?;
    let failed = |reason: &str, message: String| {
        context.event(pod, Some(name), EventType::Warning, "Failed", &format!("Error: {message}"));
        waiting(reason, message)
    };
    let env = environment(context, pod, container, addresses, &images.own.config.env)
        .await
        .map_err(|message| failed("CreateContainerConfigError", message))?;
    let files = files(context, pod, container, attempt, addresses)
        .await
        .map_err(|message| failed("CreateContainerError", message))?;
    let target = target(pod, name, observed, context.config.share_processes)
        .map_err(|message| failed("CreateContainerConfigError", message))?;
    let parts = container::Parts {
        sandbox,
        attempt,
        image: &images.own,
        env,
        volumes: &places,
        image_volumes: &images.volumes,
        files: &files.mounts,
        message_file: files.message,
        log: context.log_file(pod, name, attempt),
        seccomp_dir: &context.config.seccomp,
        machine_memory: context.config.capacity.memory,
        target,
    };
    let config = container::config(pod, container, parts)
        .map_err(|message| failed("CreateContainerConfigError", message))?;
    let started = context.runtime.start(&config).await;
    match started {
        Ok(()) => {
            context.event(
                pod,
                Some(name),
                EventType::Normal,
                "Created",
                &format!("Created container: {name}"),
            );
            context.event(
                pod,
                Some(name),
                EventType::Normal,
                "Started",
                &format!("Started container {name}"),
            );
            Ok(())
        }
        Err(Error::Start(message)) => {
            let Waiting { message, .. } = failed("StartError", message);
            let ended = ObservedContainer::unstarted(
                &config.id,
                &config.labels,
                message,
                SystemTime::from(clock::now()),
            );
            Err(NotStarted::Ended(Box::new(ended)))
        }
        Err(error) => Err(failed("RunContainerError", error.to_string()).into()),
    }
}

/// The runtime's id of the container whose processes an ephemeral one is to see, where it does not see them anyway (pure).
fn target(
    pod: &Pod,
    name: &str,
    observed: &ObservedPod,
    share_processes: bool,
) -> Result<Option<String>, String> {
    let asked = ephemeral(pod).find(|container| container.name == name);
    let asked = asked.and_then(|container| container.target_container_name.as_deref());
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(None) };
    let found = observed.newest(asked);
    let found = found.ok_or_else(|| format!("unable to find target container {asked}"))?;
    let apart = pod.spec.as_ref().map(|spec| processes(spec, share_processes)) == Some(PidMode::PerContainer);
    Ok(apart.then(|| found.id.clone()))
}

async fn places<R>(
    context: &Context<R>,
    pod: &Pod,
    volumes: &Mutex<Volumes>,
) -> Result<HashMap<String, PathBuf>, Waiting> {
    let mut volumes = volumes.lock().await;
    let dirs = context.dirs(pod.metadata.uid.as_deref().unwrap_or(""));
    dirs.create()
        .map_err(|error| waiting("ContainerCreating", format!("{}: {error}", dirs.disk.display())))?;
    let maker = context.maker(pod, &dirs);
    volumes.make(&maker).await.map_err(|error| {
        context.event(pod, None, EventType::Warning, "FailedMount", &error.to_string());
        waiting("ContainerCreating", "")
    })
}

async fn environment<R>(
    context: &Context<R>,
    pod: &Pod,
    container: &Container,
    addresses: &[String],
    image: &[String],
) -> Result<env::Environment, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let (maps, secrets) = env::references(container);
    let mut config_maps = HashMap::new();
    for name in maps {
        match context.client.namespaced::<ConfigMap>(namespace).get(&name).await {
            Ok(map) => {
                config_maps.insert(name, map);
            }
            Err(status) if status.is("NotFound") => {}
            Err(status) => return Err(status.to_string()),
        }
    }
    let mut found_secrets = HashMap::new();
    for name in secrets {
        match context.client.namespaced::<Secret>(namespace).get(&name).await {
            Ok(secret) => {
                found_secrets.insert(name, secret);
            }
            Err(status) if status.is("NotFound") => {}
            Err(status) => return Err(status.to_string()),
        }
    }
    // fieldRef may name addresses that the stored status does not show yet.
    let mut pod = pod.clone();
    let host = context.config.addresses();
    let own = if addresses.is_empty() { &host } else { addresses };
    let status = pod.status.get_or_insert_default();
    status.pod_ip = own.first().cloned();
    status.pod_ips = Some(own.iter().cloned().map(|ip| PodIP { ip }).collect());
    status.host_ip = host.first().cloned();
    status.host_ips = Some(host.into_iter().map(|ip| HostIP { ip }).collect());
    env::build(
        container,
        &env::Sources {
            pod: &pod,
            image,
            services: &context.services.list(),
            config_maps: &config_maps,
            secrets: &found_secrets,
            node: &context.config.capacity,
        },
    )
}

/// Files of the host that go into a container.
struct Files {
    mounts: Vec<(PathBuf, PathBuf)>,
    message: PathBuf,
}

async fn files<R>(
    context: &Context<R>,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    addresses: &[String],
) -> Result<Files, String> {
    let config = &context.config;
    let dirs = context.dirs(pod.metadata.uid.as_deref().unwrap_or(""));
    let resolver = hosts::resolver(pod, &config.dns.to_string(), &config.domain, &host_resolver()).text();
    let hosts_file = match addresses {
        [_, ..] => hosts::etc_hosts(pod, addresses, &config.domain),
        [] => hosts::host_etc_hosts(pod, &fs::read_to_string("/etc/hosts").unwrap_or_default()),
    };
    let mut contents =
        vec![("hosts", "/etc/hosts", hosts_file), ("resolv.conf", "/etc/resolv.conf", resolver)];
    if !addresses.is_empty() {
        let name = hosts::kernel_name(pod, &config.domain)?;
        contents.push(("hostname", "/etc/hostname", format!("{name}\n")));
    }
    let name = container.name.clone();
    let log = context.log_file(pod, &name, attempt);
    let link = messages::link_log(&config.container_logs, &log, pod, &name, attempt);
    let work = move || -> std::io::Result<Files> {
        dirs.create()?;
        let mut mounts = Vec::new();
        for (file, target, text) in contents {
            let path = dirs.disk.join(file);
            // Another container of the pod may have it mounted and changed: what is there stays.
            if !path.exists() {
                write(&path, &text, 0o644)?;
            }
            mounts.push((path, PathBuf::from(target)));
        }
        let message = dirs.disk.join("containers").join(&name).join(attempt.to_string());
        fs::create_dir_all(message.parent().unwrap_or(Path::new("/")))?;
        // A process of any user may leave its last words.
        write(&message, "", 0o666)?;
        fs::create_dir_all(log.parent().unwrap_or(Path::new("/")))?;
        link();
        Ok(Files { mounts, message })
    };
    let made = tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?;
    made.map_err(|error| format!("cannot prepare the files of container {:?}: {error}", container.name))
}

/// Writes a file whose mode is this whatever the umask.
fn write(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The host's own resolver configuration; a file that is not there says nothing.
fn host_resolver() -> hosts::HostResolver {
    let read = |file| hosts::Resolver::parse(&fs::read_to_string(file).unwrap_or_default());
    hosts::HostResolver { own: read("/etc/resolv.conf"), resolved: read("/run/systemd/resolve/resolv.conf") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::observed::Health;
    use crate::runtime::ContainerState;
    use serde_json::json;

    #[test]
    fn an_ephemeral_container_joins_its_target_where_processes_are_apart() {
        let started = SystemTime::UNIX_EPOCH;
        let container = ObservedContainer {
            id: "id-of-web".into(),
            name: "web".into(),
            attempt: 0,
            hash: String::new(),
            image: String::new(),
            image_id: String::new(),
            stop_signal: 15,
            user: None,
            resources: None,
            whole: None,
            start_error: None,
            health: Health::default(),
            state: ContainerState::Running { started, pid: 1 },
        };
        let observed = ObservedPod { containers: vec![container], ..ObservedPod::default() };
        for (shares, asked, expected) in [
            (json!(false), json!("web"), Ok(Some("id-of-web"))),
            (json!(true), json!("web"), Ok(None)),
            (json!(null), json!("web"), Ok(Some("id-of-web"))),
            (json!(false), json!(null), Ok(None)),
            (json!(false), json!(""), Ok(None)),
            (json!(false), json!("db"), Err("unable to find target container db".to_owned())),
        ] {
            let debugger = json!({"name": "debugger", "targetContainerName": asked});
            let spec = json!({"containers": [{"name": "web"}], "shareProcessNamespace": shares,
                "ephemeralContainers": [debugger]});
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let expected = expected.map(|id| id.map(str::to_owned));
            assert_eq!(target(&pod, "debugger", &observed, false), expected, "{shares} {asked}");
            assert_eq!(
                target(&pod, "web", &observed, false),
                Ok(None),
                "it is none of those that look into a pod"
            );
        }
    }
}
