//! What is done with a container to see how it is, or to tell it something: commands, requests, connections.
//!
//! Probes judge by the [`Answer`]; lifecycle hooks only fail or do not. Connections are made from the host's network,
//! which reaches every pod of the node.

mod exec;
pub mod get;
mod grpc;

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, ExecAction, LifecycleHandler, Pod, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::context::Context;
use super::env::expand;
use super::pod::full_name;
use crate::api::go::{dial_cause, duration};
use crate::api::version;
use crate::runtime::{Error, Runtime};

/// Whom it concerns.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its pod.
    pub pod: &'a Pod,
    /// Its part of the spec.
    pub container: &'a Container,
    /// The runtime's id.
    pub id: &'a str,
    /// The pod's address.
    pub address: &'a str,
}

/// What a probe has learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is well.
    Success,
    /// It is well enough, but somebody should look at this.
    Warning(String),
    /// It is not well.
    Failure(String),
    /// The probe itself could not be made.
    Unknown(String),
    /// There is nobody to ask any more.
    Gone,
}

/// Asks a container once; an answer that does not come in time is a failure.
pub async fn probe<R: Runtime>(context: &Context<R>, target: &Target<'_>, probe: &Probe) -> Answer {
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(action) = &probe.exec {
        return by_command(context, target, action, limit).await;
    }
    if let Some(action) = &probe.http_get {
        return match get::Get::new(target, action, "probe") {
            Ok(get) => get.probe(&context.http, limit).await,
            Err(error) => Answer::Unknown(error),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        return match port_number(&action.port, target.container) {
            Ok(port) => by_connection(target, action, port, limit).await,
            Err(error) => Answer::Unknown(error),
        };
    }
    if let Some(action) = &probe.grpc {
        let service = action.service.as_deref().unwrap_or("");
        return match in_range(i64::from(action.port)) {
            Ok(port) => grpc::check(target.address, port, service, limit).await,
            Err(error) => Answer::Unknown(error),
        };
    }
    Answer::Unknown(format!("missing probe handler for {}:{}", full_name(target.pod), target.container.name))
}

async fn by_command<R: Runtime>(
    context: &Context<R>,
    target: &Target<'_>,
    action: &ExecAction,
    limit: Duration,
) -> Answer {
    let env = target.container.env.as_deref().unwrap_or(&[]);
    let command: Vec<String> =
        action.command.iter().flatten().map(|word| expand(word, |name| fixed_value(env, name))).collect();
    match tokio::time::timeout(limit, exec::run(&context.runtime, target.id, &command)).await {
        Ok(Ok(ran)) if ran.succeeded() => Answer::Success,
        Ok(Ok(ran)) => Answer::Failure(ran.output),
        Ok(Err(Error::NoContainer(_) | Error::NotRunning(_))) => Answer::Gone,
        Ok(Err(error)) => Answer::Unknown(error.to_string()),
        Err(_) => Answer::Failure(format!(
            "command timed out: {:?} timed out after {}",
            command.join(" "),
            duration(limit)
        )),
    }
}

/// The value of a variable that the manifest itself gives; a probe knows no other.
fn fixed_value(env: &[EnvVar], name: &str) -> Option<String> {
    env.iter()
        .rfind(|variable| variable.name == name)
        .map(|variable| variable.value.clone().unwrap_or_default())
}

async fn by_connection(target: &Target<'_>, action: &TCPSocketAction, port: u16, limit: Duration) -> Answer {
    let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.address);
    let failed = |cause: String| Answer::Failure(format!("dial tcp {}: {cause}", authority(host, port)));
    match tokio::time::timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Answer::Success,
        Ok(Err(error)) => failed(dial_cause(&error)),
        Err(_) => failed("i/o timeout".to_owned()),
    }
}

/// Runs a lifecycle hook to its end, however long that takes; an error says what went wrong.
pub async fn hook<R: Runtime>(
    context: &Context<R>,
    target: &Target<'_>,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    let Target { pod, container, .. } = target;
    let of = format!("for Container {:?} in Pod {:?} failed", container.name, full_name(pod));
    if let Some(action) = &handler.exec {
        let command = action.command.as_deref().unwrap_or(&[]);
        let shown = command.join(" ");
        let failed = |error: String, output: &str| {
            Err(format!("Exec lifecycle hook ([{shown}]) {of} - error: {error}, message: {output:?}"))
        };
        return match exec::run(&context.runtime, target.id, command).await {
            Ok(ran) if ran.succeeded() => Ok(()),
            Ok(ran) => failed(format!("command '{shown}' exited with {}", ran.code()), &ran.output),
            Err(error) => failed(error.to_string(), ""),
        };
    }
    if let Some(action) = &handler.http_get {
        let path = action.path.as_deref().unwrap_or("");
        // Any answer will do: the container was told.
        let told = match get::Get::new(target, action, "lifecycle") {
            Ok(get) => get.tell(&context.http).await,
            Err(error) => Err(error),
        };
        return told
            .map_err(|error| format!("HTTP lifecycle hook ({path}) {of} - error: {error}, message: \"\""));
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(format!(
        "Cannot run handler: invalid handler of container {:?}: tcpSocket is no hook",
        container.name
    ))
}

/// A port by its number or by the name that the container gives it.
fn port_number(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let ports = container.ports.as_deref().unwrap_or(&[]);
            match ports.iter().find(|port| port.name.as_deref() == Some(name)) {
                Some(port) => i64::from(port.container_port),
                None => {
                    name.parse().map_err(|_| format!("strconv.Atoi: parsing {name:?}: invalid syntax"))?
                }
            }
        }
    };
    in_range(number)
}

fn in_range(number: i64) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

/// `HOST:PORT`, with brackets around an IPv6 address.
fn authority(host: &str, port: u16) -> String {
    match host.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{port}"),
        _ => format!("{host}:{port}"),
    }
}

/// How the kubelet names itself: `kube-probe/1.37`.
fn agent(purpose: &str) -> String {
    format!("kube-{purpose}/{}.{}", version::MAJOR, version::MINOR)
}

#[cfg(test)]
mod tests;
