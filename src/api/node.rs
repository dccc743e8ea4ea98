//! What the API server asks of the node: logs, exec, attach and port-forward of a pod, what pods use, and the pages of
//! the node's own server.
//!
//! The kubelet implements [`Node`], the API server calls it in process; the daemon brings the two together.

use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::Timestamp;

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

/// What something uses of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU: the mean over the window, in thousand-millionths of one.
    pub nano_cpus: u64,
    /// Memory that cannot be taken back easily, in bytes.
    pub working_set: u64,
}

/// When figures were read, and over which time rates are means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// The end of the window.
    pub at: Timestamp,
    /// Its length.
    pub window: Duration,
}

/// What the running containers of a pod use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsage {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// When.
    pub taken: Taken,
    /// By the containers' names.
    pub containers: Vec<(String, Usage)>,
}

/// What a node and its pods use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUsage {
    /// The node's name.
    pub node: String,
    /// When.
    pub taken: Taken,
    /// The whole machine.
    pub machine: Usage,
    /// Each pod that has running containers.
    pub pods: Vec<PodUsage>,
}

/// A page of the node's own server (`/stats/summary`, `/metrics`, `/pods`, ...).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Its media type.
    pub content_type: &'static str,
    /// What stands on it.
    pub content: Bytes,
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

    /// What the node and its pods use.
    fn usage(&self) -> BoxFuture<'_, Result<NodeUsage, Status>>;

    /// A page of the node's own server: `path` begins with `/`, `query` is what followed `?`.
    fn page(&self, path: String, query: String) -> BoxFuture<'_, Result<Page, Status>>;
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
    fn usage(&self) -> BoxFuture<'_, Result<NodeUsage, Status>> {
        none()
    }
    fn page(&self, _: String, _: String) -> BoxFuture<'_, Result<Page, Status>> {
        none()
    }
}
