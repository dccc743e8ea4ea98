//! One forwarded connection: dialled in the pod, copied both ways, each direction ending on its own.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::options;
use super::pipe::{self, Inlet, Outlet};
use super::spdy::{self, Stalled, Stream};
use crate::api::node::Node;

/// The pod whose ports are forwarded.
#[derive(Clone)]
pub struct Pod {
    /// Who dials.
    pub node: Arc<dyn Node>,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
}

/// Half-open connections that wait for their other stream.
const PENDING: usize = 256;

impl Pod {
    /// Forwards connections of a SPDY session: each is a data and an error stream of one request id.
    pub async fn forward_streams(&self, bytes: impl AsyncRead + AsyncWrite) {
        let (opened, mut streams) = mpsc::channel(1);
        let accept = async {
            let mut pending: HashMap<String, Stream> = HashMap::new();
            let mut connections = JoinSet::new();
            loop {
                let stream = tokio::select! {
                    Some(stream) = streams.recv() => stream,
                    Some(_) = connections.join_next() => continue,
                    else => return,
                };
                let Some((error, data)) = matched(&mut pending, stream).await else { continue };
                let pod = self.clone();
                connections.spawn(async move {
                    match options::port(data.header("port")) {
                        Ok(port) => pod.forward(port, data.inlet, data.outlet, error.outlet).await,
                        Err(status) => drop(error.outlet.send(status.message.into()).await),
                    }
                });
            }
        };
        tokio::select! {
            ended = spdy::run(bytes, opened, Stalled::BreakOff) => if let Err(error) = ended {
                tracing::debug!(%error, pod = self.name, "a port-forward session ended");
            },
            () = accept => {}
        }
    }

    /// Forwards one connection; what went wrong is told on `error`.
    pub async fn forward(&self, port: u16, mut inlet: Inlet, outlet: Outlet, error: Outlet) {
        let dialed = self.node.port_forward(self.namespace.clone(), self.name.clone(), port).await;
        let failed = match dialed {
            Ok(connection) => {
                let (reader, writer) = tokio::io::split(connection);
                let upload = pipe::write_all(&mut inlet, writer);
                let download = outlet.copy(reader);
                let ended = tokio::select! {
                    ended = both(upload, download) => ended,
                    // Broken off: whatever the application does not read, its connection ends.
                    () = outlet.closed() => Ok(()),
                };
                drop(outlet);
                ended.err().map(|error| error.to_string())
            }
            Err(status) => Some(status.message),
        };
        if let Some(failed) = failed {
            let message = format!("error forwarding port {port} to pod {}: {failed}", self.name);
            // A client that is gone does not want to know.
            let _ = error.send(message.into()).await;
        }
    }
}

/// The error and the data stream of a connection, once both are there.
async fn matched(pending: &mut HashMap<String, Stream>, stream: Stream) -> Option<(Stream, Stream)> {
    let kind = stream.header("streamtype").to_owned();
    if kind != "error" && kind != "data" {
        return None;
    }
    // Old clients send no request id; their data stream is the one after the error stream.
    let request = match stream.header("requestid") {
        "" if kind == "data" => format!("stream {}", stream.id.saturating_sub(2)),
        "" => format!("stream {}", stream.id),
        id => id.to_owned(),
    };
    match pending.remove(&request) {
        Some(first) if first.header("streamtype") == kind => {
            let message =
                format!("error processing stream for request {request}: {kind} stream already assigned");
            // A client that is gone does not want to know.
            let _ = stream.outlet.send(message.into()).await;
            pending.insert(request, first);
            None
        }
        Some(first) if kind == "data" => Some((first, stream)),
        Some(first) => Some((stream, first)),
        None => {
            if pending.len() < PENDING {
                pending.insert(request, stream);
            }
            None
        }
    }
}

/// Until the pod has said everything: what the client still sends then has no reader.
async fn both(
    upload: impl Future<Output = std::io::Result<()>>,
    download: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    tokio::pin!(upload);
    tokio::pin!(download);
    tokio::select! {
        done = &mut download => return ignore_hangup(done),
        sent = &mut upload => ignore_hangup(sent)?,
    }
    ignore_hangup(download.await)
}

/// A connection that either side broke off is an ordinary end of it.
fn ignore_hangup(result: std::io::Result<()>) -> std::io::Result<()> {
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, NotConnected};
    match result {
        Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset | NotConnected) => Ok(()),
        other => other,
    }
}
