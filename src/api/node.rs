//! What the API server asks of the node: logs, exec, attach and port-forward of a pod.
//!
//! The kubelet implements [`Node`], the API server calls it in process; the daemon brings the two together.

use futures::future::BoxFuture;

use super::status::Status;
use crate::stdio::{Duplex, Reader, Session};

/// A container of a pod; an empty name is the pod's only (or default) container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name within the pod.
    pub container: String,
}

/// `PodLogOptions`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogOptions {
    /// Stay and send what comes.
    pub follow: bool,
    /// The container's last terminated instance instead of the present one.
    pub previous: bool,
    /// Only what was written in the last so many seconds.
    pub since_seconds: Option<i64>,
    /// Only what was written since this moment.
    pub since_time: Option<jiff::Timestamp>,
    /// Begin each line with its RFC 3339 time.
    pub timestamps: bool,
    /// Only the last so many lines.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
    /// `All`, `Stdout` or `Stderr`.
    pub stream: Option<String>,
}

/// Which streams of a process are wanted, and what to run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The program and its arguments; empty for attach.
    pub command: Vec<String>,
    /// Connect standard input.
    pub stdin: bool,
    /// Connect standard output.
    pub stdout: bool,
    /// Connect standard error.
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
}

/// What a node does for the API server.
pub trait Node: Send + Sync + 'static {
    /// The log of a container, ready to be copied to the client.
    fn logs(&self, of: ContainerRef, options: LogOptions) -> BoxFuture<'_, Result<Reader, Status>>;

    /// Starts a process in a running container.
    fn exec(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>>;

    /// Joins the streams of a container's own process.
    fn attach(&self, of: ContainerRef, options: ExecOptions) -> BoxFuture<'_, Result<Session, Status>>;

    /// Connects to a TCP port on the pod's own loopback.
    fn port_forward(
        &self,
        namespace: String,
        pod: String,
        port: u16,
    ) -> BoxFuture<'_, Result<Box<dyn Duplex>, Status>>;
}

/// Of a cluster without a node: nothing runs that could be asked.
pub struct NoNode;

fn none<T: Send + 'static>() -> BoxFuture<'static, Result<T, Status>> {
    Box::pin(async { Err(Status::unavailable("this server has no node")) })
}

impl Node for NoNode {
    fn logs(&self, _: ContainerRef, _: LogOptions) -> BoxFuture<'_, Result<Reader, Status>> {
        none()
    }
    fn exec(&self, _: ContainerRef, _: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        none()
    }
    fn attach(&self, _: ContainerRef, _: ExecOptions) -> BoxFuture<'_, Result<Session, Status>> {
        none()
    }
    fn port_forward(&self, _: String, _: String, _: u16) -> BoxFuture<'_, Result<Box<dyn Duplex>, Status>> {
        none()
    }
}
