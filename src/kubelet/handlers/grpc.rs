//! The health check of gRPC services (`grpc.health.v1.Health/Check`), without TLS.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::encoding;
use tokio::net::TcpStream;

use super::{Answer, agent, authority};
use crate::api::go::{dial_cause, duration};

/// The longest answer, in bytes (the default of gRPC libraries).
const LONGEST: usize = 4 << 20;

/// The bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// The states of a service, by number.
const STATES: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
/// `UNIMPLEMENTED` of gRPC's status codes.
const UNIMPLEMENTED: usize = 12;
/// gRPC's status codes as its Go library names them.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// What the server said: status code, message of that, body.
struct Reply {
    code: usize,
    message: String,
    body: Bytes,
}

/// Asks for the health of a service.
pub async fn check(host: &str, port: u16, service: &str, limit: Duration) -> Answer {
    let address = authority(host, port);
    let deadline = tokio::time::Instant::now() + limit;
    let stream = match tokio::time::timeout_at(deadline, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return Answer::Failure(format!(
                "error: failed to connect service at {address:?}: connection error: desc = \"transport: Error while dialing: dial tcp {address}: {}\"",
                dial_cause(&error)
            ));
        }
        Err(_) => {
            return Answer::Failure(format!(
                "timeout: failed to connect service {address:?} within {}: context deadline exceeded",
                duration(limit)
            ));
        }
    };
    match tokio::time::timeout_at(deadline, call(stream, &address, service)).await {
        Ok(Ok(reply)) => judge(&reply),
        Ok(Err(error)) => Answer::Failure(format!(
            "error: health rpc probe failed: rpc error: code = Unavailable desc = {error}"
        )),
        Err(_) => Answer::Failure(format!("timeout: health rpc did not complete within {}", duration(limit))),
    }
}

async fn call(
    stream: TcpStream,
    address: &str,
    service: &str,
) -> Result<Reply, Box<dyn std::error::Error + Send + Sync>> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let request = http::Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", agent("probe"))
        .body(Full::new(message(service)))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let mut ends = response.headers().clone();
        let status = response.status();
        let collected = Limited::new(response.into_body(), LONGEST).collect().await?;
        ends.extend(collected.trailers().cloned().unwrap_or_default());
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((status, ends, collected.to_bytes()))
    };
    tokio::pin!(exchange);
    let (status, ends, body) = tokio::select! {
        done = &mut exchange => done?,
        // The connection does nothing more: what has come is all that comes.
        ended = connection => {
            ended?;
            exchange.await?
        }
    };
    let Some(code) = header(&ends, "grpc-status").and_then(|code| code.parse().ok()) else {
        return Err(format!("unexpected HTTP status code received from server: {status}").into());
    };
    Ok(Reply { code, message: header(&ends, "grpc-message").unwrap_or_default(), body })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// A `HealthCheckRequest` as it goes over the wire.
fn message(service: &str) -> Bytes {
    let mut content = Vec::new();
    if !service.is_empty() {
        encoding::string::encode(1, &service.to_owned(), &mut content);
    }
    let mut framed = vec![0];
    framed.extend((content.len() as u32).to_be_bytes());
    framed.extend(content);
    framed.into()
}

/// What a reply says of the service (pure).
fn judge(reply: &Reply) -> Answer {
    let Reply { code, message, body } = reply;
    match *code {
        0 => match state(body) {
            Some("SERVING") => Answer::Success,
            other => Answer::Failure(format!(
                "service unhealthy (responded with {:?})",
                other.unwrap_or("UNKNOWN")
            )),
        },
        UNIMPLEMENTED => Answer::Failure(format!(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {message}"
        )),
        code => Answer::Failure(format!(
            "error: health rpc probe failed: rpc error: code = {} desc = {message}",
            CODES.get(code).unwrap_or(&"Unknown")
        )),
    }
}

/// The state in a `HealthCheckResponse`, whose only field is that.
fn state(body: &Bytes) -> Option<&'static str> {
    let mut content = body.get(PREFIX..)?;
    if content.is_empty() {
        return Some(STATES[0]);
    }
    let (field, _) = encoding::decode_key(&mut content).ok()?;
    let number = encoding::decode_varint(&mut content).ok()?;
    (field == 1).then(|| STATES.get(usize::try_from(number).ok()?).copied())?
}
