//! What the API server asks of this node: logs, exec, attach, port-forward, figures and pages.

use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::context::Context;
use super::logs;
use super::observed::{label, written_status};
use super::pod::ephemeral;
use super::statistics::Sampler;
use super::statistics::disks::Sizes;
use crate::api::node::{ContainerRef, ExecOptions, LogOptions, Node, NodeUsage, Page};
use crate::api::status::Status;
use crate::client::reflector::Reflector;
use crate::runtime::{ContainerState, Error, ExecConfig, ExecProcess, NetworkMode, Runtime};
use crate::stdio::{Duplex, Reader, Session};

/// The node's side of streaming requests.
pub struct Server<R> {
    pub(super) context: Arc<Context<R>>,
    pub(super) pods: Reflector<Pod>,
    pub(super) sampler: Sampler,
    pub(super) sizes: Arc<Sizes>,
}

impl<R: Runtime> Server<R> {
    /// A server for the pods of this node.
    pub fn new(context: Arc<Context<R>>, pods: Reflector<Pod>) -> Server<R> {
        Server { context, pods, sampler: Sampler::default(), sizes: Arc::default() }
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Status> {
        let pod = self.pods.get(&format!("{namespace}/{name}"));
        pod.and_then(|pod| self.context.statics.as_run(pod))
            .ok_or_else(|| Status::not_found("", "pods", name))
    }

    /// The pod and the name of the container that is meant.
    fn container(&self, of: &ContainerRef) -> Result<(Arc<Pod>, String), Status> {
        let pod = self.pod(&of.namespace, &of.pod)?;
        let name = choose(&pod, &of.container)?;
        Ok((pod, name))
    }

    /// The runtime's id of a container that runs.
    async fn running(&self, pod: &Pod, name: &str) -> Result<String, Status> {
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        let observed = self.context.observe(uid).await.map_err(Status::internal)?;
        match observed.newest(name) {
            Some(c) if matches!(c.state, ContainerState::Running { .. }) => Ok(c.id.clone()),
            Some(_) => Err(Status::internal(format!("cannot use container {name:?}: it has ended"))),
            None => Err(Status::bad_request(format!("container not found ({name:?})"))),
        }
    }

    async fn open_logs(&self, of: ContainerRef, options: LogOptions) -> Result<Reader, Status> {
        let (pod, name) = self.container(&of)?;
        let attempt = log_attempt(&pod, &name, options.previous)?;
        let path = self.context.log_file(&pod, &name, attempt);
        let ended = self.ended(&pod, &name, attempt);
        logs::open(path, &options, ended).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Status::bad_request(format!(
                "the log of container {name:?} in pod {:?} is no longer there",
                of.pod
            )),
            _ => Status::internal(error),
        })
    }

    /// Resolves when this attempt of the container has ended and its last line is in the log.
    fn ended(
        &self,
        pod: &Pod,
        name: &str,
        attempt: u32,
    ) -> impl Future<Output = ()> + Send + 'static + use<R> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let (name, context) = (name.to_owned(), self.context.clone());
        async move {
            let mut changes = context.runtime.changes();
            loop {
                if let Ok(observed) = context.observe(&uid).await {
                    let runs = observed.containers.iter().any(|c| {
                        c.name == name
                            && c.attempt == attempt
                            && matches!(c.state, ContainerState::Running { .. })
                    });
                    if !runs {
                        return;
                    }
                }
                use tokio::sync::broadcast::error::RecvError;
                if let Err(RecvError::Closed) = changes.recv().await {
                    return;
                }
            }
        }
    }

    async fn start_exec(&self, of: ContainerRef, options: ExecOptions) -> Result<Session, Status> {
        let (pod, name) = self.container(&of)?;
        let container = self.running(&pod, &name).await?;
        let config = ExecConfig {
            bound: false,
            container,
            process: ExecProcess { args: options.command, tty: options.tty },
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        self.context.runtime.exec(&config).await.map_err(|error| refused(&error))
    }

    async fn join(&self, of: ContainerRef, options: ExecOptions) -> Result<Session, Status> {
        let (pod, name) = self.container(&of)?;
        let id = self.running(&pod, &name).await?;
        let runtime = &self.context.runtime;
        runtime
            .attach(&id, options.stdin, options.stdout, options.stderr)
            .await
            .map_err(|error| refused(&error))
    }

    async fn connect(&self, namespace: String, name: String, port: u16) -> Result<Box<dyn Duplex>, Status> {
        let pod = self.pod(&namespace, &name)?;
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        let observed =
            self.context.runtime.observe_labelled(label::UID, uid).await.map_err(Status::internal)?;
        let sandbox = observed.sandboxes.iter().rfind(|sandbox| sandbox.alive).ok_or_else(|| {
            Status::bad_request(format!("unable to forward port because pod {name:?} is not running"))
        })?;
        let dialed = match sandbox.network {
            NetworkMode::Host => tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .map(|stream| Box::new(stream) as Box<dyn Duplex>)
                .map_err(|source| Error::Host { what: format!("connect to 127.0.0.1:{port}"), source }),
            NetworkMode::Namespace(_) => {
                self.context.runtime.dial(&sandbox.id, Ipv4Addr::LOCALHOST, port).await
            }
        };
        dialed.map_err(|error| {
            Status::internal(format!("failed to connect to port {port} of pod {name:?}: {error}"))
        })
    }
}

fn refused(error: &Error) -> Status {
    match error {
        Error::NoContainer(_) | Error::NotRunning(_) => Status::bad_request(error.to_string()),
        _ => Status::internal(error),
    }
}

/// The container that a request means: the named one, the annotated default, or the only one (pure).
fn choose(pod: &Pod, asked: &str) -> Result<String, Status> {
    let name = pod.metadata.name.as_deref().unwrap_or("");
    let spec = pod.spec.as_ref();
    let names: Vec<&str> = spec.iter().flat_map(|s| &s.containers).map(|c| c.name.as_str()).collect();
    let init: Vec<&str> =
        spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(|c| c.name.as_str()).collect();
    if !asked.is_empty() {
        let is_ephemeral = || ephemeral(pod).any(|c| c.name == asked);
        if names.contains(&asked) || init.contains(&asked) || is_ephemeral() {
            return Ok(asked.to_owned());
        }
        return Err(Status::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    let annotations = pod.metadata.annotations.as_ref();
    let default = annotations.and_then(|a| a.get("kubectl.kubernetes.io/default-container"));
    match (default, names.as_slice()) {
        (Some(default), _) if names.contains(&default.as_str()) => Ok(default.clone()),
        (_, [only]) => Ok((*only).to_owned()),
        _ => Err(Status::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]{}",
            names.join(" "),
            if init.is_empty() {
                String::new()
            } else {
                format!(" or one of the init containers: [{}]", init.join(" "))
            }
        ))),
    }
}

/// Which attempt's log is meant; a container that never ran has none (pure).
fn log_attempt(pod: &Pod, name: &str, previous: bool) -> Result<u32, Status> {
    let pod_name = pod.metadata.name.as_deref().unwrap_or("");
    let status = written_status(pod, name);
    let attempt = |s: &ContainerStatus| u32::try_from(s.restart_count).unwrap_or(0);
    let terminated_before =
        |s: &&ContainerStatus| s.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
    if previous {
        let Some(status) = status.filter(terminated_before) else {
            return Err(Status::bad_request(format!(
                "previous terminated container {name:?} in pod {pod_name:?} not found"
            )));
        };
        // While it waits to be started again, its newest attempt is the previous one.
        let waits = status.state.as_ref().is_some_and(|s| s.waiting.is_some());
        return Ok(if waits { attempt(status) } else { attempt(status).saturating_sub(1) });
    }
    match status {
        Some(s) if s.container_id.is_some() => Ok(attempt(s)),
        other => {
            let waiting = other.and_then(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone());
            let reason = waiting.unwrap_or_else(|| "ContainerCreating".to_owned());
            let why = match reason.as_str() {
                "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
                    "trying and failing to pull image".to_owned()
                }
                other => other.to_owned(),
            };
            Err(Status::bad_request(format!(
                "container {name:?} in pod {pod_name:?} is waiting to start: {why}"
            )))
        }
    }
}

impl<R: Runtime> Node for Server<R> {
    fn logs(&self, of: ContainerRef, options: LogOptions) -> BoxFuture<'_, Result<Reader, Status>> {
        self.open_logs(of, options).boxed()
    }

    fn exec(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        self.start_exec(of, options).boxed()
    }

    fn attach(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        self.join(of, options).boxed()
    }

    fn port_forward(
        &self,
        namespace: String,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Duplex>, Status>> {
        self.connect(namespace, pod, port).boxed()
    }

    fn usage(&self) -> BoxFuture<'_, Result<NodeUsage, Status>> {
        let measured = self.sampler.measure(&self.context);
        async move { Ok(measured.await?.usage(&self.context.config.node)) }.boxed()
    }

    fn page(&self, path: String, _query: String) -> BoxFuture<'_, Result<Page, Status>> {
        async move { self.read_page(&path).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]},
            "status": {"containerStatuses": [status]},
        }))
        .unwrap()
    }

    #[test]
    fn containers_are_chosen_by_name() {
        let pod = pod(json!({"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0}));
        assert_eq!(choose(&pod, "b").unwrap(), "b");
        assert_eq!(choose(&pod, "i").unwrap(), "i");
        assert!(choose(&pod, "").unwrap_err().message.contains("choose one of: [a b] or one of the init"));
        assert_eq!(choose(&pod, "x").unwrap_err().message, "container x is not valid for pod p");
    }

    #[test]
    fn logs_of_the_right_attempt() {
        let with = |state: Value, last: Value, id: Value| {
            pod(json!({"name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 3,
                       "state": state, "lastState": last, "containerID": id}))
        };
        let ended = json!({"terminated": {"exitCode": 1}});
        let running = with(json!({"running": {}}), ended.clone(), json!("x"));
        assert_eq!(log_attempt(&running, "a", false).unwrap(), 3);
        assert_eq!(log_attempt(&running, "a", true).unwrap(), 2);
        let looping = with(json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended, json!("x"));
        assert_eq!(log_attempt(&looping, "a", true).unwrap(), 3);
        let pulling = with(json!({"waiting": {"reason": "ErrImagePull"}}), json!({}), json!(null));
        assert_eq!(
            log_attempt(&pulling, "a", false).unwrap_err().message,
            "container \"a\" in pod \"p\" is waiting to start: trying and failing to pull image"
        );
        assert!(log_attempt(&pulling, "a", true).is_err());
    }
}
