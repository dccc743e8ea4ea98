//! What benches of the network share: namespaces of their own, and services to make rules for.

// Each bench uses a part of it.
#![allow(dead_code)]

use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use minik::proxy::Config;
use minik::proxy::state::{Backends, Endpoint, Frontend, Protocol};
use minik::sys::namespace::unshare;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;

pub mod others;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Puts this process into network and mount namespaces of its own; false where it may not, which it says.
pub fn alone(out: &mut impl Write) -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        writeln!(out, "SKIPPED: needs root")?;
        return Ok(false);
    }
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
    Ok(true)
}

/// A cluster's proxy as it is made by default.
pub fn config() -> Result<Config> {
    Ok(Config {
        table: "minik-bench".into(),
        pods: "10.244.0.0/16".parse()?,
        services: "10.96.0.0/12".parse()?,
        gateway: "10.244.0.1".parse()?,
        link_prefix: "mkb".into(),
        links: "10.244.0.0/16".parse()?,
    })
}

/// A service by its number, with so many endpoints.
pub fn service(number: u32, endpoints: u32) -> (Frontend, Backends) {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + number);
    let first = Ipv4Addr::new(10, 244, 0, 2).to_bits();
    let endpoint =
        |n| Endpoint { address: Ipv4Addr::from_bits(first + (number * endpoints + n) % 60_000), port: 8080 };
    let mut endpoints: Vec<_> = (0..endpoints).map(endpoint).collect();
    endpoints.sort();
    let frontend = Frontend { address: Some(address), protocol: Protocol::Tcp, port: 80 };
    (frontend, Backends { endpoints, ..Backends::default() })
}

/// The one in the middle.
pub fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// How long something took, and what came of it.
pub fn time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}
