//! Control groups of either version behind one face: a tree of minik's own, groups in it, limits, ends, figures.
//!
//! Version 2 is the normal case. On version 1 each controller has a hierarchy of its own; where a version 2
//! hierarchy is mounted beside them (hybrid), it is used for what it does better: killing and device filters.

mod layout;
pub mod limits;
pub mod stats;

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::runtime::Resources;
use crate::sys::{device, process};

pub use layout::{Controller, Layout};
use limits::Setting;
pub use stats::Stats;

/// Where minik's groups live: below one directory of every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    layout: Layout,
    parent: PathBuf,
}

/// One group: a directory in each hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    layout: Layout,
    path: PathBuf,
}

impl Tree {
    /// Finds the host's hierarchies. `parent` is relative to their roots, such as `minik-NAME` or
    /// `system.slice/minik.service`.
    pub fn detect(parent: &Path) -> io::Result<Tree> {
        Ok(Tree { layout: Layout::detect()?, parent: parent.strip_prefix("/").unwrap_or(parent).to_owned() })
    }

    /// The same over directories given by the caller.
    pub fn with_layout(layout: Layout, parent: &Path) -> Tree {
        Tree { layout, parent: parent.to_owned() }
    }

    /// The host's hierarchies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The group that holds everything.
    pub fn root(&self) -> Group {
        Group { layout: self.layout.clone(), path: self.parent.clone() }
    }

    /// A leaf beside the pods, such as the supervisor's own.
    pub fn leaf(&self, name: &str) -> Group {
        self.root().child(name)
    }

    /// The group of all sandboxes.
    pub fn sandboxes(&self) -> Group {
        self.root().child("pods")
    }

    /// The group of all containers of a sandbox.
    pub fn sandbox(&self, id: &str) -> Group {
        self.sandboxes().child(id)
    }

    /// Makes the groups above the sandboxes and hands controllers down to them (version 2).
    pub fn prepare(&self) -> io::Result<()> {
        let (root, pods) = (self.root(), self.sandboxes());
        root.make()?;
        pods.make()?;
        if self.parent.components().count() == 1 {
            // A group of minik's own making gets controllers from the hierarchy's root; a delegated unit has them from
            // systemd, and the groups above it are not minik's to change.
            self.layout.delegate(Path::new(""))?;
        }
        root.delegate()?;
        pods.delegate()
    }
}

impl Group {
    /// A group below.
    pub fn child(&self, name: &str) -> Group {
        Group { layout: self.layout.clone(), path: self.path.join(name) }
    }

    /// Makes the group's directories; existing ones are fine.
    pub fn make(&self) -> io::Result<()> {
        self.directories().try_for_each(|directory| {
            fs::create_dir_all(&directory).map_err(|error| about(error, &directory))
        })
    }

    /// Lets groups below have limits (version 2; after this the group can hold no processes itself).
    pub fn delegate(&self) -> io::Result<()> {
        self.layout.delegate(&self.path)
    }

    /// Sets limits; what the host's kernel has no controller for is returned by name, not an error.
    pub fn limit(&self, resources: &Resources) -> io::Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        for Setting { controller, file, value, optional } in limits::plan(resources, self.layout.is_unified())
        {
            let Some(directory) = self.layout.directory(controller, &self.path) else {
                missing.push(file);
                continue;
            };
            match put(&directory.join(file), &value) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(file),
                Err(_) if optional => {}
                Err(error) => return Err(about(error, &directory.join(file))),
            }
        }
        Ok(missing)
    }

    /// Has the out-of-memory killer end the group as a whole, not some process of it (version 2, kernels since 4.19).
    pub fn die_together(&self) -> io::Result<()> {
        let Some(directory) =
            self.layout.directory(Controller::Memory, &self.path).filter(|_| self.layout.is_unified())
        else {
            return Ok(());
        };
        match put(&directory.join("memory.oom.group"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(about(error, &directory)),
            _ => Ok(()),
        }
    }

    /// Allows nothing but the devices of these rules: by the program made of them where there is a version 2 hierarchy
    /// and the kernel has taken the program, else by the devices controller.
    pub fn restrict_devices(
        &self,
        program: Option<&device::Program>,
        rules: &[device::Rule],
    ) -> io::Result<()> {
        if let (Some(directory), Some(program)) = (self.layout.unified(&self.path), program) {
            return device::restrict(fs::File::open(directory)?.as_fd(), program);
        }
        let Some(directory) =
            self.layout.directory(Controller::Devices, &self.path).filter(|_| !self.layout.is_unified())
        else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        fs::write(directory.join("devices.deny"), "a")?;
        rules.iter().try_for_each(|rule| fs::write(directory.join("devices.allow"), rule.v1_line()))
    }

    /// The version 2 directory, for cloning a process straight into it.
    pub fn unified(&self) -> io::Result<Option<OwnedFd>> {
        self.layout
            .unified(&self.path)
            .map(|directory| fs::File::open(directory).map(OwnedFd::from))
            .transpose()
    }

    /// Moves the calling single-threaded process into the version 1 groups. It does so itself: another process
    /// writing its id to `cgroup.procs` would wait for an RCU grace period, about 10 ms for each hierarchy.
    pub fn enter_v1(&self) -> io::Result<()> {
        self.layout.v1_directories(&self.path).try_for_each(|directory| {
            fs::write(directory.join("tasks"), "0").map_err(|error| about(error, &directory))
        })
    }

    /// As [`Group::enter_v1`], and into the version 2 group.
    pub fn enter_single(&self) -> io::Result<()> {
        self.enter_v1()?;
        match self.layout.unified(&self.path) {
            Some(directory) => {
                fs::write(directory.join("cgroup.procs"), "0").map_err(|error| about(error, &directory))
            }
            None => Ok(()),
        }
    }

    /// Moves the calling process, whatever its threads, into the group.
    pub fn enter(&self) -> io::Result<()> {
        self.admit(0)
    }

    /// Moves a process into the group; 0 is the calling one.
    pub fn admit(&self, pid: u32) -> io::Result<()> {
        self.directories().try_for_each(|directory| {
            let file = directory.join("cgroup.procs");
            fs::write(file, pid.to_string()).map_err(|error| about(error, &directory))
        })
    }

    /// Whether a process is inside, at any depth (version 2).
    pub fn is_populated(&self) -> bool {
        let events = self.layout.unified(&self.path).map(|directory| directory.join("cgroup.events"));
        let text = events.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        stats::keyed(&text, "populated") == Some(1)
    }

    /// Sends `SIGKILL` to everything inside, at any depth; an absent group is success.
    pub fn kill(&self) -> io::Result<()> {
        if let Some(directory) = self.layout.unified(&self.path) {
            match put(&directory.join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                // Without the group there is nothing to kill; kernels before 5.14 have no such file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        for pid in self.processes()? {
            match process::kill(pid, libc::SIGKILL) {
                Err(error) if error.raw_os_error() != Some(libc::ESRCH) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Kills everything inside and waits until it has ended; an error when something survives `rounds` seconds.
    pub fn kill_and_wait(&self, rounds: u32) -> io::Result<()> {
        for _ in 0..rounds.saturating_mul(4).max(1) {
            self.kill()?;
            let processes = self.processes()?;
            if processes.is_empty() {
                return Ok(());
            }
            for pid in processes {
                if let Ok(pidfd) = process::pidfd_open(pid) {
                    process::wait_ended(pidfd.as_fd(), 250)?;
                }
            }
        }
        Err(io::Error::other(format!("processes in cgroup {} do not end", self.path.display())))
    }

    /// The ids of the processes inside, at any depth.
    pub fn processes(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for directory in self.directories() {
            collect_processes(&directory, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Removes the empty group and those below; absent ones are fine.
    pub fn remove(&self) -> io::Result<()> {
        self.directories().try_for_each(|directory| remove_tree(&directory))
    }

    /// How many processes the out-of-memory killer has taken here (or below, on version 2).
    pub fn oom_kills(&self) -> u64 {
        let read = |file| {
            let directory = self.layout.directory(Controller::Memory, &self.path)?;
            fs::read_to_string(directory.join(file)).ok()
        };
        let text = if self.layout.is_unified() { read("memory.events") } else { read("memory.oom_control") };
        text.map_or(0, |text| stats::keyed(&text, "oom_kill").unwrap_or(0))
    }

    /// What the group uses now.
    pub fn stats(&self) -> io::Result<Stats> {
        stats::read(&self.layout, &self.path)
    }

    /// The ids of the groups directly below.
    pub fn children(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for directory in self.directories() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            names.extend(
                entries.flatten().filter(is_group).filter_map(|entry| entry.file_name().into_string().ok()),
            );
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// The directories of all hierarchies in use.
    fn directories(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.layout.v1_directories(&self.path).chain(self.layout.unified(&self.path))
    }
}

/// Writes a file of the kernel's. Asked to make one that it does not have, it would say "permission denied".
fn put(file: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

fn about(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn collect_processes(directory: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    for entry in fs::read_dir(directory)?.flatten().filter(is_group) {
        collect_processes(&entry.path(), pids)?;
    }
    Ok(())
}

/// Most of what a group's directory holds are files, about which the kernel need not be asked one by one.
fn is_group(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

fn remove_tree(directory: &Path) -> io::Result<()> {
    let remove = || match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(about(error, directory)),
        _ => Ok(()),
    };
    // Most have none below.
    if remove().is_ok() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)?.flatten().filter(is_group) {
        remove_tree(&entry.path())?;
    }
    remove()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_containers_die_together() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::with_layout(Layout::Unified(dir.path().into()), Path::new("m"));
        let (pod, container) = (tree.sandbox("s"), tree.sandbox("s").child("c"));
        container.make().unwrap();
        let file = |group: &Group, name| dir.path().join(&group.path).join(name);
        for group in [&pod, &container] {
            for name in ["memory.max", "memory.oom.group"] {
                fs::write(file(group, name), "").unwrap();
            }
        }
        let limits = Resources { memory_limit: Some(5), pids_limit: Some(7), ..Resources::default() };
        assert_eq!(pod.limit(&limits).unwrap(), ["memory.swap.max", "pids.max"], "files that are not there");
        container.die_together().unwrap();
        assert_eq!(fs::read_to_string(file(&pod, "memory.max")).unwrap(), "5");
        assert_eq!(fs::read_to_string(file(&pod, "memory.oom.group")).unwrap(), "");
        assert_eq!(fs::read_to_string(file(&container, "memory.oom.group")).unwrap(), "1");
        assert!(!file(&pod, "pids.max").exists());
    }
}
