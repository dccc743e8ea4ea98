//! Streams of pods: log, exec, attach and port-forward.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::pipe::Outlet;
use self::ports::Pod;
use self::process::{ErrorForm, Purpose, Streams};
use self::spdy::{Stalled, Stream};
use self::websocket::{Channels, Coding};
use super::answer::{self, Body};
use crate::api::node::{ContainerRef, ExecOptions, Node};
use crate::api::request::Target;
use crate::api::status::Status;
use crate::stdio::Session;

mod options;
mod pipe;
mod ports;
mod process;
mod spdy;
#[cfg(test)]
mod tests;
mod tunnel;
mod upgrade;
mod websocket;

/// WebSocket protocols of exec and attach, the best first (apimachinery `pkg/util/remotecommand`).
const PROCESS_PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
/// Those within a SPDY session.
const SPDY_PROCESS_PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// Those of port-forward with its ports in the query.
const PORT_PROTOCOLS: &[&str] =
    &["v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];
/// That of port-forward within a SPDY session.
const SPDY_PORT_PROTOCOLS: &[&str] = &["portforward.k8s.io"];
/// SPDY frames in WebSocket messages, and the protocol in the SPDY session (client-go `tools/portforward`).
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// How long a client may take to open the streams of its SPDY session (kubelet `pkg/cri/streaming`).
const STREAMS_WITHIN: Duration = Duration::from_secs(30);

/// Channel numbers of exec and attach (apimachinery `pkg/util/remotecommand`).
mod channel {
    pub const STDIN: u8 = 0;
    pub const STDOUT: u8 = 1;
    pub const STDERR: u8 = 2;
    pub const ERROR: u8 = 3;
    pub const RESIZE: u8 = 4;
}

/// Answers a request to a streaming subresource; the user may make it.
pub async fn serve(
    node: Arc<dyn Node>,
    target: &Target,
    query: &str,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let answer = match target.subresource.as_deref() {
        Some("log") => log(&*node, target, query).await,
        Some("exec") => process(node, target, query, request, true),
        Some("attach") => process(node, target, query, request, false),
        Some("portforward") => forward(node, target, query, request),
        _ => Err(Status::no_such_path()),
    };
    answer.unwrap_or_else(|status| answer::status(&status))
}

fn pod_of(target: &Target) -> (String, String) {
    (target.namespace.clone().unwrap_or_default(), target.name.clone().unwrap_or_default())
}

fn container_of(target: &Target, container: String) -> ContainerRef {
    let (namespace, pod) = pod_of(target);
    ContainerRef { namespace, pod, container }
}

async fn log(node: &dyn Node, target: &Target, query: &str) -> Result<http::Response<Body>, Status> {
    let pod = target.name.as_deref().unwrap_or_default();
    let (container, options) = options::log(pod, query)?;
    let reader = node.logs(container_of(target, container), options).await?;
    let mut response = http::Response::new(answer::streamed(reader));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn process(
    node: Arc<dyn Node>,
    target: &Target,
    query: &str,
    mut request: http::Request<Incoming>,
    exec: bool,
) -> Result<http::Response<Body>, Status> {
    let (container, options) = options::process(query, exec)?;
    let start = Start { node, of: container_of(target, container), options, exec };
    if upgrade::is_spdy(request.headers()) {
        return Ok(match upgrade::accept(request.headers(), SPDY_PROCESS_PROTOCOLS) {
            Ok((response, protocol)) => {
                tokio::spawn(start.over_spdy(hyper::upgrade::on(&mut request), protocol));
                response
            }
            Err(refusal) => *refusal,
        });
    }
    if !websocket::is_asked(request.headers()) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    let protocol = websocket::choose(request.headers(), PROCESS_PROTOCOLS)?;
    let response = websocket::accept(request.headers(), protocol)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(start.over_websocket(upgrade, protocol));
    Ok(response)
}

/// A process to be started or joined once the client's streams are there.
struct Start {
    node: Arc<dyn Node>,
    of: ContainerRef,
    options: ExecOptions,
    exec: bool,
}

impl Start {
    async fn session(&self) -> Result<Session, Status> {
        match self.exec {
            true => self.node.exec(self.of.clone(), self.options.clone()).await,
            false => self.node.attach(self.of.clone(), self.options.clone()).await,
        }
    }

    fn purpose(&self) -> Purpose {
        if self.exec { Purpose::Exec(self.options.command.clone()) } else { Purpose::Attach }
    }

    async fn over_websocket(self, upgrade: OnUpgrade, protocol: &str) {
        let Some(upgraded) = upgraded(upgrade).await else { return };
        let socket = websocket::open(upgraded).await;
        let mut channels = Channels::new(Coding::of(protocol));
        let error = channels.outlet(channel::ERROR);
        let streams = Streams {
            stdin: self.options.stdin.then(|| channels.inlet(channel::STDIN)),
            stdout: self.options.stdout.then(|| channels.outlet(channel::STDOUT)),
            stderr: self.options.stderr.then(|| channels.outlet(channel::STDERR)),
            resize: self.options.tty.then(|| channels.inlet(channel::RESIZE)),
            error: Some(error),
            form: if protocol.starts_with('v') { ErrorForm::Status } else { ErrorForm::Text },
        };
        let gone = CancellationToken::new();
        let conversation = async {
            // Clients of the older protocols wait for a first message on the lowest channel that they read.
            let first = streams.stdout.as_ref().or(streams.stderr.as_ref()).or(streams.error.as_ref());
            if let Some(first) = first
                && first.send(Bytes::new()).await.is_err()
            {
                return;
            }
            process::converse(self.session().await, &self.purpose(), streams, &gone).await;
        };
        tokio::join!(channels.run(socket, gone.clone()), conversation);
    }

    async fn over_spdy(self, upgrade: OnUpgrade, protocol: &str) {
        let Some(upgraded) = upgraded(upgrade).await else { return };
        let (opened, mut streams) = mpsc::channel(1);
        let gone = CancellationToken::new();
        let session = async {
            if let Err(error) = spdy::run(TokioIo::new(upgraded), opened, Stalled::Wait).await {
                tracing::debug!(%error, pod = self.of.pod, "a session with a process broke off");
            }
            gone.cancel();
        };
        let conversation = async {
            let opening = self.opened(protocol, &mut streams);
            let Ok(Some((opened, held))) = tokio::time::timeout(STREAMS_WITHIN, opening).await else {
                // Dropping the receiver ends the session.
                tracing::debug!(pod = self.of.pod, "a client did not open its streams in time");
                return drop(streams);
            };
            drop(streams);
            process::converse(self.session().await, &self.purpose(), opened, &gone).await;
            drop(held);
        };
        tokio::join!(session, conversation);
    }

    /// The streams of a SPDY session, once all that the request spoke of are there; `None` when the client left.
    ///
    /// The outlets beside them are of streams that only the client writes to. It stops doing so when such a stream ends
    /// in the other direction, so they are held until the conversation is over.
    async fn opened(
        &self,
        protocol: &str,
        opened: &mut mpsc::Receiver<Stream>,
    ) -> Option<(Streams, Vec<Outlet>)> {
        let mut held = Vec::new();
        let options = &self.options;
        // Windows came with v3, the status of the end with v4.
        let resizable = options.tty && ["v4.channel.k8s.io", "v3.channel.k8s.io"].contains(&protocol);
        let form = if protocol.starts_with("v4.") { ErrorForm::Status } else { ErrorForm::Text };
        let mut streams =
            Streams { stdin: None, stdout: None, stderr: None, error: None, resize: None, form };
        while streams.error.is_none()
            || options.stdin != streams.stdin.is_some()
            || options.stdout != streams.stdout.is_some()
            || options.stderr != streams.stderr.is_some()
            || resizable != streams.resize.is_some()
        {
            let stream = opened.recv().await?;
            match stream.header("streamtype") {
                "error" => streams.error = Some(stream.outlet),
                "stdin" if options.stdin => {
                    streams.stdin = Some(stream.inlet);
                    held.push(stream.outlet);
                }
                "stdout" if options.stdout => streams.stdout = Some(stream.outlet),
                "stderr" if options.stderr => streams.stderr = Some(stream.outlet),
                "resize" if resizable => {
                    streams.resize = Some(stream.inlet);
                    held.push(stream.outlet);
                }
                other => tracing::debug!(stream = other, pod = self.of.pod, "a stream nobody asked for"),
            }
        }
        Some((streams, held))
    }
}

fn forward(
    node: Arc<dyn Node>,
    target: &Target,
    query: &str,
    mut request: http::Request<Incoming>,
) -> Result<http::Response<Body>, Status> {
    let (namespace, name) = pod_of(target);
    let pod = Pod { node, namespace, name };
    if upgrade::is_spdy(request.headers()) {
        return Ok(match upgrade::accept(request.headers(), SPDY_PORT_PROTOCOLS) {
            Ok((response, _)) => {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let Some(upgraded) = upgraded(upgrade).await else { return };
                    pod.forward_streams(TokioIo::new(upgraded)).await;
                });
                response
            }
            Err(refusal) => *refusal,
        });
    }
    if !websocket::is_asked(request.headers()) {
        return Err(Status::bad_request("Upgrade request required"));
    }
    if let Ok(protocol @ TUNNEL_PROTOCOL) = websocket::choose(request.headers(), &[TUNNEL_PROTOCOL]) {
        let response = websocket::accept(request.headers(), protocol)?;
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let Some(upgraded) = upgraded(upgrade).await else { return };
            pod.forward_streams(tunnel::bytes(websocket::open(upgraded).await)).await;
        });
        return Ok(response);
    }
    let protocol = websocket::choose(request.headers(), PORT_PROTOCOLS)?;
    let ports = options::ports(query)?;
    if ports.is_empty() || ports.len() > 100 {
        return Err(Status::bad_request("query parameter \"ports\" is required, at most 100 of them"));
    }
    let response = websocket::accept(request.headers(), protocol)?;
    tokio::spawn(over_channels(pod, ports, hyper::upgrade::on(&mut request), Coding::of(protocol)));
    Ok(response)
}

/// Port-forward with two channels for each port; both begin with the port's number, little-endian.
async fn over_channels(pod: Pod, ports: Vec<u16>, upgrade: OnUpgrade, coding: Coding) {
    let Some(upgraded) = upgraded(upgrade).await else { return };
    let socket = websocket::open(upgraded).await;
    let mut channels = Channels::new(coding);
    let mut pairs = Vec::with_capacity(ports.len());
    for (number, port) in (0u8..).step_by(2).zip(ports) {
        pairs.push((port, channels.inlet(number), channels.outlet(number), channels.outlet(number + 1)));
    }
    let gone = CancellationToken::new();
    let connections = async {
        let each = pairs.into_iter().map(|(port, inlet, data, error)| {
            let pod = pod.clone();
            async move {
                let number = Bytes::copy_from_slice(&port.to_le_bytes());
                if data.send(number.clone()).await.is_ok() && error.send(number).await.is_ok() {
                    pod.forward(port, inlet, data, error).await;
                }
            }
        });
        tokio::select! {
            _ = futures::future::join_all(each) => {}
            () = gone.cancelled() => {}
        }
    };
    tokio::join!(channels.run(socket, gone.clone()), connections);
}

async fn upgraded(upgrade: OnUpgrade) -> Option<hyper::upgrade::Upgraded> {
    match upgrade.await {
        Ok(upgraded) => Some(upgraded),
        Err(error) => {
            tracing::debug!(%error, "a client did not go through with an upgrade");
            None
        }
    }
}

/// The end of a WebSocket conversation that went well (RFC 6455, 7.4.1: 1000).
fn normal_close() -> tokio_tungstenite::tungstenite::Message {
    use tokio_tungstenite::tungstenite::protocol::CloseFrame;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
    tokio_tungstenite::tungstenite::Message::Close(Some(CloseFrame {
        code: CloseCode::Normal,
        reason: "".into(),
    }))
}
