//! A sandbox's first process: makes its namespaces, then (where containers share processes) becomes the program that
//! reaps orphans as PID 1.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;

use super::child::{During, Failed, Step};
use super::rootfs::NO_SUID_DEVICES_EXEC;
use crate::runtime::cgroups::Group;
use crate::runtime::{NetworkMode, PidMode, SandboxConfig};
use crate::sys::mount::{self, Attributes, Spread};
use crate::sys::reaper::Reaper;
use crate::sys::{capability, namespace, process, socket};

/// The message that says that the namespaces stand, with the procfs of the one for processes, if there is one; every
/// other message is an error's text.
pub const READY: &[u8] = b"\0ready";

/// Namespaced sysctls that a pod may set: prefix, and which namespace must be its own.
const SYSCTLS: [(&str, Namespace); 6] = [
    ("kernel.shm", Namespace::Ipc),
    ("kernel.msg", Namespace::Ipc),
    ("kernel.sem", Namespace::Ipc),
    ("fs.mqueue.", Namespace::Ipc),
    ("net.", Namespace::Network),
    ("kernel.domainname", Namespace::Uts),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Network,
    Uts,
}

/// What the process needs.
#[derive(Debug)]
pub struct Init<'a> {
    /// The sandbox.
    pub config: &'a SandboxConfig,
    /// To join; `None` is the host's.
    pub net: Option<BorrowedFd<'a>>,
    /// Its leaf.
    pub group: &'a Group,
    /// An empty directory to attach its root at.
    pub root: &'a Path,
    /// `/dev/null`.
    pub null: &'a OwnedFd,
    /// What it becomes.
    pub reaper: &'a Reaper,
}

/// The namespaces to clone the process into.
pub fn clone_flags(config: &SandboxConfig) -> CloneFlags {
    let mut flags = CloneFlags::CLONE_NEWNS;
    flags.set(CloneFlags::CLONE_NEWPID, config.pid == PidMode::Shared);
    flags.set(CloneFlags::CLONE_NEWIPC, !config.host_ipc);
    flags.set(CloneFlags::CLONE_NEWUTS, config.hostname.is_some());
    flags
}

/// Runs the process; ends only when it is killed or something fails.
pub fn run(status: BorrowedFd<'_>, init: &Init<'_>) -> i32 {
    let proc = match set_up(init) {
        Ok(proc) => proc,
        Err(Failed(message)) => {
            // If the supervisor is gone there is nobody left to tell.
            let _ = socket::send(status, message.as_bytes(), &[]);
            return 1;
        }
    };
    let shown: Vec<BorrowedFd<'_>> = proc.iter().map(AsFd::as_fd).collect();
    if socket::send(status, READY, &shown).is_err() {
        return 1;
    }
    drop(proc);
    match init.config.pid {
        // What it has of the supervisor's goes, memory and descriptors.
        PidMode::Shared => drop(init.reaper.exec()),
        // Lives until its namespaces are opened.
        PidMode::PerContainer | PidMode::Host => {
            process::close_all_but(status);
            drop(socket::receive(status, &mut [0], &mut vec![]));
        }
    }
    1
}

/// Makes the namespaces; answers the procfs of the processes that containers are to share.
fn set_up(init: &Init<'_>) -> Step<Option<OwnedFd>> {
    init.group.enter_v1().during("join cgroup")?;
    process::reset_signals().during("reset signals")?;
    nix::unistd::setsid().during("make session")?;
    if let Some(net) = init.net {
        namespace::join(net, CloneFlags::CLONE_NEWNET).during("join network namespace")?;
    }
    if let Some(hostname) = &init.config.hostname {
        nix::unistd::sethostname(hostname).during(format_args!("set host name {hostname:?}"))?;
    }
    for (name, value) in &init.config.sysctls {
        let file = sysctl_file(init.config, name).map_err(Failed)?;
        fs::write(&file, value).during(format_args!("set sysctl {name:?} to {value:?}"))?;
    }
    let shares = init.config.pid == PidMode::Shared;
    let proc = shares.then(|| mount::filesystem("proc", &[], NO_SUID_DEVICES_EXEC)).transpose();
    let proc = proc.during("make proc")?;
    process::set_standard_streams([init.null.as_fd(); 3]).during("set standard streams")?;
    empty_root(init.root)?;
    nix::sys::prctl::set_no_new_privs().during("set no_new_privs")?;
    let none = Default::default();
    capability::limit_bounding(&none).during("limit capabilities")?;
    capability::limit(&none).during("drop capabilities")?;
    nix::sys::prctl::set_dumpable(false).during("become undumpable")?;
    Ok(proc)
}

fn empty_root(at: &Path) -> Step<()> {
    mount::set_spread_of_all(Spread::Private).during("cut off mount propagation")?;
    let attributes = Attributes { read_only: true, no_devices: true, no_suid: true, no_exec: true };
    let tree = mount::filesystem("tmpfs", &[("size", "0"), ("nr_inodes", "1")], attributes)
        .during("make empty root")?;
    let place = crate::sys::path::Root::open(at).during("open root")?;
    mount::attach(tree.as_fd(), place.as_fd()).during("mount empty root")?;
    mount::pivot(tree.as_fd()).during("pivot to empty root")
}

/// The file of a sysctl, when the sandbox may set it: namespaced, in a namespace of its own (CVE-2022-0811).
pub fn sysctl_file(config: &SandboxConfig, name: &str) -> Result<String, String> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'));
    let dotted = name.replace('/', ".");
    let known =
        SYSCTLS.iter().find(|(prefix, _)| dotted.starts_with(prefix)).map(|(_, namespace)| *namespace);
    let Some(namespace) = known.filter(|_| plain && !dotted.contains("..")) else {
        return Err(format!("sysctl {name:?} is not one that a pod may set"));
    };
    let own = match namespace {
        Namespace::Ipc => !config.host_ipc,
        Namespace::Network => config.network != NetworkMode::Host,
        Namespace::Uts => config.hostname.is_some(),
    };
    match own {
        // Names with a dot inside a part, such as VLAN links, are written with slashes.
        true if name.contains('/') => Ok(format!("/proc/sys/{name}")),
        true => Ok(format!("/proc/sys/{}", name.replace('.', "/"))),
        false => Err(format!("sysctl {name:?} would change the host's")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Resources;

    #[test]
    fn only_own_namespaced_sysctls() {
        let config = SandboxConfig {
            id: "s".into(),
            labels: Default::default(),
            hostname: Some("pod".into()),
            pid: PidMode::Shared,
            network: NetworkMode::Host,
            host_ipc: false,
            sysctls: Default::default(),
            resources: Resources::default(),
            users: None,
        };
        assert_eq!(sysctl_file(&config, "kernel.shmmax").unwrap(), "/proc/sys/kernel/shmmax");
        assert!(sysctl_file(&config, "net.core.somaxconn").unwrap_err().contains("host"));
        let own = SandboxConfig { network: NetworkMode::Namespace("/run/x".into()), ..config };
        assert_eq!(sysctl_file(&own, "net.core.somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        assert_eq!(
            sysctl_file(&own, "net/ipv4/conf/eth0.1/forwarding").unwrap(),
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding"
        );
        for bad in ["kernel.core_pattern", "vm.swappiness", "net/../kernel/core_pattern", "net.x y", ""] {
            assert!(sysctl_file(&own, bad).is_err(), "{bad}");
        }
    }
}
