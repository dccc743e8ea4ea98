//! What the host must have, and what to do where it has not.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::daemon::DNS_PORT;
use crate::daemon::places::Places;
use crate::network;
use crate::proxy;
use crate::runtime::cgroups::{Controller, Layout};
use crate::sys::mount::{self, Attributes};
use crate::sys::{program, removal, socket};

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

/// What the kernel must be able to do with system calls of containers.
const SECCOMP: [&str; 2] = ["errno", "allow"];

/// Everything that stands in the way of a cluster on this host. What has to be tried is tried once in the time between
/// two boots.
pub async fn check(places: &Places) -> Vec<Problem> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut problems = Vec::new();
    problems.extend(kernel(read("/proc/sys/kernel/osrelease").trim()));
    match overlay(&read("/proc/filesystems")) {
        Some(problem) => problems.push(problem),
        // A daemon has been here since the machine came up.
        None if places.record().exists() => {}
        None => problems.extend(attempts(places).await),
    }
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
    match Layout::detect() {
        Ok(layout) => problems.extend(cgroups(&layout)),
        Err(error) => problems.push(problem(
            format!("cgroups: {error}"),
            "mount a hierarchy: mount -t cgroup2 none /sys/fs/cgroup",
        )),
    }
    if let Err(error) = proxy::probe() {
        problems.push(problem(
            format!("nf_tables cannot be used: {error}"),
            "load it (modprobe nf_tables), or use a kernel with CONFIG_NF_TABLES",
        ));
    }
    problems.extend(seccomp(&read("/proc/sys/kernel/seccomp/actions_avail")));
    problems
}

/// Problems that show when what pods need is made, side by side.
async fn attempts(places: &Places) -> Vec<Problem> {
    let stacked = places.clone();
    let stacked = tokio::task::spawn_blocking(move || overlay_on(&stacked));
    let namespace = places.run().join("probe");
    let (links, stacked) = tokio::join!(network::probe(&namespace), stacked);
    let links = links.err().map(|error| {
        problem(
            format!("network links for pods cannot be made: {error}"),
            "load the drivers (modprobe bridge veth), or use a kernel with CONFIG_BRIDGE and CONFIG_VETH",
        )
    });
    stacked.ok().flatten().into_iter().chain(links).collect()
}

fn kernel(release: &str) -> Option<Problem> {
    // What distributions append to a number is not part of it.
    let number = |part: &str| {
        let end = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part[..end].parse::<u32>().unwrap_or(0)
    };
    let mut numbers = release.split(['.', '-']).map(number);
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (found < KERNEL).then(|| {
        problem(
            format!("the kernel is {release}"),
            format!("minik needs Linux {}.{} or later", KERNEL.0, KERNEL.1),
        )
    })
}

fn seccomp(actions: &str) -> Option<Problem> {
    let has = |action: &&str| actions.split_whitespace().any(|word| word == *action);
    (!SECCOMP.iter().all(has)).then(|| {
        problem("the kernel cannot filter system calls (seccomp)", "use a kernel with CONFIG_SECCOMP_FILTER")
    })
}

/// What pods' limits need of the cgroup hierarchies.
fn cgroups(layout: &Layout) -> Vec<Problem> {
    let root = Path::new("");
    let unified = layout.is_unified().then(|| layout.unified(root)).flatten();
    let listed = unified.map(|root| fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default());
    let has = |controller, name: &str| match &listed {
        Some(listed) => listed.split_whitespace().any(|word| word == name),
        None => layout.directory(controller, root).is_some(),
    };
    let needed = [(Controller::Memory, "memory"), (Controller::Pids, "pids"), (Controller::Cpu, "cpu")];
    let missing = needed.iter().filter(|(controller, name)| !has(*controller, name));
    let mut problems: Vec<Problem> = missing
        .map(|(_, name)| {
            problem(
                format!("there is no cgroup controller {name}"),
                format!(
                    "boot with cgroup_enable={name}, and mount its hierarchy where cgroup version 1 is used"
                ),
            )
        })
        .collect();
    let directories = layout.v1_directories(root).chain(layout.unified(root));
    for directory in directories.filter(|directory| access(directory, AccessFlags::W_OK).is_err()) {
        problems.push(problem(
            format!("{} cannot be written", directory.display()),
            format!("mount it for writing: mount -o remount,rw {}", directory.display()),
        ));
    }
    problems
}

/// Whether layers can be stacked in the data directory: on an overlay file system, for one, they cannot.
fn overlay_on(places: &Places) -> Option<Problem> {
    let (data_dir, data) = (&places.data_dir, places.data());
    let probe = data.join("probe");
    let [lower, upper, work, target] = ["lower", "upper", "work", "target"].map(|name| probe.join(name));
    let attempt = || -> io::Result<()> {
        // Of a start that was killed.
        removal::tree_with_mounts(&probe)?;
        for directory in [&lower, &upper, &work, &target] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let layers: [PathBuf; 1] = [lower.clone()];
        mount::overlay(&layers, &upper, &work, &target, Attributes::default())?;
        mount::detach(&target)
    };
    let (is_new, is_new_at_all) = (!data.exists(), !data_dir.exists());
    let result = attempt();
    let removed = removal::tree_with_mounts(&probe);
    // Whoever needs them makes them.
    for (_, directory) in [(is_new, &data), (is_new_at_all, data_dir)].into_iter().filter(|(new, _)| *new) {
        let _ = fs::remove_dir(directory);
    }
    result.and(removed).err().map(|error| {
        problem(
            format!("containers' files cannot be kept in {}: {error}", data_dir.display()),
            "keep them on a disk with ext4, xfs or btrfs: --data-dir DIRECTORY",
        )
    })
}

/// Whether the cluster's DNS server can have its port, on an address that the host gets later.
pub fn check_dns_port(gateway: Ipv4Addr) -> Option<Problem> {
    let address = SocketAddrV4::new(gateway, DNS_PORT);
    let udp = socket::udp_ahead(address).err().map(|error| ("udp", error));
    let (protocol, error) = udp.or_else(|| socket::tcp_ahead(address).err().map(|error| ("tcp", error)))?;
    Some(problem(
        format!("port {DNS_PORT}/{protocol} of {gateway} cannot be used for the cluster's DNS: {error}"),
        format!(
            "let the DNS server of this host listen on its own addresses instead of all (dnsmasq: bind-interfaces, \
             unbound: interface, BIND: listen-on), or stop it; ss -lpn 'sport = :{DNS_PORT}' shows which it is"
        ),
    ))
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
            ("5.15+", true),
            ("6.1rc2", true),
            ("5.9+deb", false),
            ("odd", false),
        ] {
            assert_eq!(kernel(release).is_none(), good, "{release}");
        }
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
    }

    #[test]
    fn missing_filters_and_controllers_are_named() {
        assert_eq!(seccomp("kill_process kill_thread trap errno user_notif trace log allow\n"), None);
        assert!(seccomp("").is_some() && seccomp("log allow").is_some());
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(dir.path().join("cgroup.controllers"), text).unwrap();
        let layout = Layout::Unified(dir.path().to_owned());
        write("cpuset cpu io memory pids\n");
        assert_eq!(cgroups(&layout), []);
        write("cpu io\n");
        let whats: Vec<String> = cgroups(&layout).into_iter().map(|problem| problem.what).collect();
        assert_eq!(whats.len(), 2);
        assert!(whats[0].contains("memory") && whats[1].contains("pids"), "{whats:?}");
    }

    #[test]
    fn a_data_directory_is_tried_by_mounting() {
        if !rustix::process::geteuid().is_root() {
            tracing::warn!("skipped: needs root");
            return;
        }
        // The build's directory is on the disk that clusters use too.
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let at = |directory: &Path| overlay_on(&Places::new("x", directory));
        assert_eq!(at(&dir.path().join("new")), None);
        assert!(!dir.path().join("new").exists());
        // Of a start that was killed.
        fs::create_dir_all(dir.path().join("x/probe/upper/file")).unwrap();
        assert_eq!(at(dir.path()), None);
        assert!(dir.path().join("x").exists() && !dir.path().join("x/probe").exists());
        let bad = at(Path::new("/proc/1/none")).unwrap();
        assert!(bad.what.contains("/proc/1/none") && bad.remedy.contains("--data-dir"), "{bad:?}");
    }
}
