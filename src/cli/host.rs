//! What the host must have, and what to do where it has not.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use crate::proxy;
use crate::runtime::cgroups;
use crate::sys::program;

/// Something missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What.
    pub what: String,
    /// How to get it.
    pub remedy: String,
}

fn problem(what: impl Into<String>, remedy: impl Into<String>) -> Problem {
    Problem { what: what.into(), remedy: remedy.into() }
}

/// The oldest kernel with the mount calls and cgroup features that pods need.
const KERNEL: (u32, u32) = (5, 15);

/// Everything that stands in the way of a cluster on this host.
pub fn check() -> Vec<Problem> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut problems = Vec::new();
    problems.extend(kernel(read("/proc/sys/kernel/osrelease").trim()));
    problems.extend(overlay(&read("/proc/filesystems")));
    for (namespace, option) in [
        ("net", "CONFIG_NET_NS"),
        ("pid", "CONFIG_PID_NS"),
        ("uts", "CONFIG_UTS_NS"),
        ("ipc", "CONFIG_IPC_NS"),
    ] {
        if fs::symlink_metadata(format!("/proc/self/ns/{namespace}")).is_err() {
            problems.push(problem(
                format!("the kernel has no {namespace} namespaces"),
                format!("use a kernel with {option}"),
            ));
        }
    }
    if let Err(error) = cgroups::Layout::detect() {
        problems.push(problem(
            format!("cgroups: {error}"),
            "mount a hierarchy: mount -t cgroup2 none /sys/fs/cgroup",
        ));
    }
    if let Err(error) = proxy::probe() {
        problems.push(problem(
            format!("nf_tables cannot be used: {error}"),
            "load it (modprobe nf_tables), or use a kernel with CONFIG_NF_TABLES",
        ));
    }
    problems
}

fn kernel(release: &str) -> Option<Problem> {
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < KERNEL).then(|| {
        problem(
            format!("the kernel is {release}"),
            format!("minik needs Linux {}.{} or later", KERNEL.0, KERNEL.1),
        )
    })
}

fn overlay(filesystems: &str) -> Option<Problem> {
    let has = |text: &str| text.split_whitespace().any(|word| word == "overlay");
    if has(filesystems) {
        return None;
    }
    // A module that is not loaded yet does not show; asking for it is what a mount would do too.
    let _ = program::run("modprobe", &["overlay"], &[]);
    let now = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!has(&now)).then(|| {
        problem(
            "the kernel has no overlay file system",
            "load it (modprobe overlay), or use a kernel with CONFIG_OVERLAY_FS",
        )
    })
}

/// Whether a port can be listened on.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_named() {
        for (release, good) in [
            ("6.18.44-x", true),
            ("5.15.0", true),
            ("5.10.0-20-amd64", false),
            ("6.1", true),
            ("4.19", false),
        ] {
            assert_eq!(kernel(release).is_none(), good, "{release}");
        }
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
    }
}
