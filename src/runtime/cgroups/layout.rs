//! Where the host's cgroup hierarchies are mounted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What minik asks of cgroups, by version 1's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Weight and quota.
    Cpu,
    /// Time used.
    CpuAccount,
    /// Memory.
    Memory,
    /// Number of processes.
    Pids,
    /// Access to device nodes (version 1 only).
    Devices,
}

/// The controllers of version 1 whose hierarchies minik uses. Not cpuset: its new groups hold no processes until
/// CPUs are given to them, and minik gives none.
const V1: [(Controller, &str); 5] = [
    (Controller::Cpu, "cpu"),
    (Controller::CpuAccount, "cpuacct"),
    (Controller::Memory, "memory"),
    (Controller::Pids, "pids"),
    (Controller::Devices, "devices"),
];

/// Handed down to groups below on version 2.
const DELEGATED: [&str; 5] = ["+cpu", "+memory", "+pids", "+cpuset", "+io"];

/// The hierarchies of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Version 2 alone, mounted here.
    Unified(PathBuf),
    /// Version 1 hierarchies, and version 2 without controllers beside them where there is one.
    Legacy {
        /// Controllers and their mount points; several may share one.
        controllers: Vec<(Controller, PathBuf)>,
        /// Version 2's.
        unified: Option<PathBuf>,
    },
}

impl Layout {
    /// Reads the mount table.
    pub fn detect() -> io::Result<Layout> {
        Layout::parse(&fs::read_to_string("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted"))
    }

    /// From the text of `/proc/PID/mountinfo`.
    pub fn parse(mountinfo: &str) -> Option<Layout> {
        let (mut controllers, mut unified) = (Vec::new(), None);
        for line in mountinfo.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut filesystem = filesystem.split(' ');
            match (filesystem.next(), filesystem.nth(1)) {
                (Some("cgroup2"), _) if unified.is_none() => unified = Some(point),
                (Some("cgroup"), Some(options)) => {
                    for (controller, name) in V1 {
                        let known = controllers.iter().any(|(known, _)| *known == controller);
                        if !known && options.split(',').any(|option| option == name) {
                            controllers.push((controller, point.clone()));
                        }
                    }
                }
                _ => {}
            }
        }
        match (controllers.is_empty(), unified) {
            (true, None) => None,
            (true, Some(root)) => Some(Layout::Unified(root)),
            (false, unified) => Some(Layout::Legacy { controllers, unified }),
        }
    }

    /// Whether version 2 controls everything.
    pub fn is_unified(&self) -> bool {
        matches!(self, Layout::Unified(_))
    }

    /// The directory of a group where a controller is.
    pub fn directory(&self, controller: Controller, group: &Path) -> Option<PathBuf> {
        match self {
            Layout::Unified(root) => Some(root.join(group)),
            Layout::Legacy { controllers, .. } => {
                controllers.iter().find(|(known, _)| *known == controller).map(|(_, root)| root.join(group))
            }
        }
    }

    /// The version 2 directory of a group.
    pub fn unified(&self, group: &Path) -> Option<PathBuf> {
        match self {
            Layout::Unified(root) => Some(root.join(group)),
            Layout::Legacy { unified, .. } => unified.as_ref().map(|root| root.join(group)),
        }
    }

    /// The version 1 directories of a group, each once.
    pub fn v1_directories(&self, group: &Path) -> impl Iterator<Item = PathBuf> + use<> {
        let mut roots: Vec<PathBuf> = match self {
            Layout::Unified(_) => vec![],
            Layout::Legacy { controllers, .. } => controllers.iter().map(|(_, root)| root.clone()).collect(),
        };
        roots.sort_unstable();
        roots.dedup();
        let group = group.to_owned();
        roots.into_iter().map(move |root| root.join(&group))
    }

    /// Version 1's mount points with the options that name their controllers, for showing them in a container.
    pub fn v1_mounts(&self) -> Vec<(String, String)> {
        let Layout::Legacy { controllers, .. } = self else { return vec![] };
        let mut mounts: Vec<(String, String)> = Vec::new();
        for (controller, point) in controllers {
            let directory = point.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let name = V1.iter().find(|(known, _)| known == controller).map_or("", |(_, name)| name);
            match mounts.iter_mut().find(|(known, _)| *known == directory) {
                Some((_, options)) => *options = format!("{options},{name}"),
                None => mounts.push((directory, name.to_owned())),
            }
        }
        mounts
    }

    /// Hands controllers to the groups below `group` (version 2), as many as there are.
    pub fn delegate(&self, group: &Path) -> io::Result<()> {
        let Layout::Unified(root) = self else { return Ok(()) };
        let directory = root.join(group);
        let available = fs::read_to_string(directory.join("cgroup.controllers"))?;
        for controller in DELEGATED {
            if available.split_whitespace().any(|name| name == &controller[1..]) {
                fs::write(directory.join("cgroup.subtree_control"), controller)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn hybrid() {
        let layout = Layout::parse(HYBRID).unwrap();
        let group = Path::new("minik/pods/x");
        assert!(!layout.is_unified());
        assert_eq!(layout.v1_directories(group).count(), 2);
        assert_eq!(layout.directory(Controller::Pids, group), None);
        assert_eq!(
            layout.directory(Controller::CpuAccount, group).unwrap(),
            Path::new("/sys/fs/cgroup/cpu,cpuacct/minik/pods/x")
        );
        assert_eq!(layout.unified(group).unwrap(), Path::new("/sys/fs/cgroup/unified/minik/pods/x"));
        assert_eq!(layout.v1_mounts()[0], ("cpu,cpuacct".into(), "cpu,cpuacct".into()));
    }

    #[test]
    fn unified_and_none() {
        let text = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(Layout::parse(text), Some(Layout::Unified("/sys/fs/cgroup".into())));
        assert_eq!(Layout::parse("22 27 0:21 / /proc rw - proc proc rw\n"), None);
    }
}
