//! A pod's sandbox: whether the node takes the pod, and what the sandbox is made from.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::json;

use super::context::Context;
use super::hosts;
use super::observed::label;
use super::status::Waiting;
use crate::runtime::supervisor::sysctl_file;
use crate::runtime::{Labels, NetworkMode, PidMode, Runtime, SandboxConfig};

/// From which port on nobody needs a privilege to listen.
const LOW_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";
/// The handlers of runtime classes that mean the one runtime that there is.
pub const HANDLERS: [&str; 2] = ["minik", "runc"];

/// Makes the sandbox with the pod's network.
pub async fn create<R: Runtime>(context: &Context<R>, pod: &Pod, attempt: u32) -> Result<(), Waiting> {
    let fail = |message: String| Waiting { reason: "CreatePodSandboxError".into(), message };
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some(name) = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) {
        let class = context.client.all::<RuntimeClass>().get(name).await;
        let class = class.map_err(|status| fail(format!("failed to get sandbox runtime: {status}")))?;
        if !HANDLERS.contains(&class.handler.as_str()) {
            let handler = class.handler;
            let why = format!("failed to get sandbox runtime: no runtime for {handler:?} is configured");
            return Err(fail(why));
        }
    }
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut config = config(pod, &spec, attempt, context.config.share_processes);
    if spec.host_network != Some(true) {
        config.hostname = Some(hosts::kernel_name(pod, &context.config.domain).map_err(fail)?);
        let attachment = context.network.attach(&uid).await.map_err(fail)?;
        config.labels.insert(label::ADDRESS.to_owned(), attachment.address.to_string());
        if let Some(address) = attachment.address6 {
            config.labels.insert(label::ADDRESS6.to_owned(), address.to_string());
        }
        if spec.host_users == Some(false) {
            config.users = Some(context.network.users(&uid).await.map_err(fail)?);
        }
        config.network = NetworkMode::Namespace(attachment.namespace);
    }
    context.runtime.ensure_sandbox(&config).await.map_err(|error| fail(error.to_string()))
}

/// The sandbox's configuration, but for the namespace of a network of its own (pure).
fn config(pod: &Pod, spec: &PodSpec, attempt: u32, share_processes: bool) -> SandboxConfig {
    let meta = &pod.metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    let mut labels: Labels = [
        (label::UID, uid.clone()),
        (label::NAMESPACE, meta.namespace.clone().unwrap_or_default()),
        (label::POD, meta.name.clone().unwrap_or_default()),
        (label::ATTEMPT, attempt.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if let Some(whole) = &spec.resources {
        labels.insert(label::WHOLE.to_owned(), json!(whole).to_string());
    }
    let on_host = spec.host_network == Some(true);
    let sysctls = spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten());
    let mut sysctls: BTreeMap<String, String> =
        sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect();
    if spec.host_users == Some(false) && !on_host {
        // The network is the host's, so that no capability of the pod's users counts there.
        sysctls.entry(LOW_PORTS.to_owned()).or_insert_with(|| "0".to_owned());
    }
    SandboxConfig {
        id: format!("{uid}-{attempt}"),
        labels,
        hostname: (!on_host).then(|| hosts::hostname(pod)),
        pid: processes(spec, share_processes),
        network: if on_host { NetworkMode::Host } else { NetworkMode::Namespace("".into()) },
        host_ipc: spec.host_ipc == Some(true),
        sysctls,
        resources: super::resources::of_pod(spec),
        users: None,
    }
}

/// Which processes a pod's containers see, when those that say nothing of it share them or not (pure).
pub fn processes(spec: &PodSpec, share_processes: bool) -> PidMode {
    match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => PidMode::Host,
        (_, Some(true)) => PidMode::Shared,
        (_, Some(false)) => PidMode::PerContainer,
        (_, None) if share_processes => PidMode::Shared,
        (_, None) => PidMode::PerContainer,
    }
}

/// Why the node does not take a pod at all; such a pod has failed before it began (pure).
pub fn rejection(pod: &Pod) -> Option<Waiting> {
    let spec = pod.spec.as_ref()?;
    let config = config(pod, spec, 0, false);
    let error = config.sysctls.keys().find_map(|name| sysctl_file(&config, name).err())?;
    Some(Waiting { reason: "SysctlForbidden".into(), message: format!("forbidden sysctl: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
    }

    #[test]
    fn sysctls_of_the_host_are_rejected() {
        let with = |name: &str, on_host: bool| {
            let sysctls = json!([{"name": name, "value": "1"}]);
            pod(json!({"containers": [], "hostNetwork": on_host, "securityContext": {"sysctls": sysctls}}))
        };
        assert_eq!(rejection(&with("net.core.somaxconn", false)), None);
        for (name, on_host) in [("net.core.somaxconn", true), ("vm.overcommit_memory", false)] {
            let rejected = rejection(&with(name, on_host)).unwrap();
            assert_eq!(rejected.reason, "SysctlForbidden");
            assert!(rejected.message.contains(name), "{rejected:?}");
        }
        assert_eq!(rejection(&pod(json!({"containers": []}))), None);
    }

    #[test]
    fn pods_with_users_of_their_own_may_listen_on_low_ports() {
        let made = |spec: Value| {
            let pod = pod(spec);
            config(&pod, pod.spec.as_ref().unwrap(), 0, true)
        };
        let own = made(json!({"containers": [], "hostUsers": false}));
        assert_eq!(own.sysctls[LOW_PORTS], "0");
        assert!(made(json!({"containers": []})).sysctls.is_empty());
    }
}
