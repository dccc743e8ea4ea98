//! Removing containers and sandboxes, in order, in a cloned process: killing, unmounting and deleting may take long.

use std::fs;
use std::io;
use std::path::PathBuf;

use nix::sched::CloneFlags;

use super::containers::{Container, Life};
use super::sandboxes::{INIT_GROUP, mounts_of, own_proc_directory};
use super::{Child, Supervisor, check_id};
use crate::runtime::ContainerConfig;
use crate::runtime::cgroups::{Group, Tree};
use crate::runtime::protocol::{Failure, Reply};
use crate::stdio::Exit;
use crate::sys::{mount, process, removal};

/// How long killed processes may take to end, in seconds.
const PATIENCE: u32 = 30;

/// A removal under way.
#[derive(Debug)]
pub struct Removal {
    what: Target,
    /// Who waits.
    clients: Vec<u64>,
    /// What they are told when it is done; success when there is none.
    answer: Option<Failure>,
}

/// What is removed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Container(String),
    Sandbox(String),
    /// Everything.
    All,
    /// Writable layers that nobody has a record of.
    Trash,
}

/// The work of the cloned process.
#[derive(Debug)]
struct Work {
    group: Option<Group>,
    mounts: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Work {
    fn run(&self) -> io::Result<()> {
        if let Some(group) = &self.group {
            group.kill_and_wait(PATIENCE)?;
        }
        self.mounts.iter().try_for_each(|path| mount::detach(path))?;
        self.directories.iter().try_for_each(|path| removal::tree(path))?;
        self.group.as_ref().map_or(Ok(()), Group::remove)
    }
}

impl Supervisor {
    pub(super) fn remove_container(&mut self, client: u64, id: &str) -> Result<(), Failure> {
        check_id(id)?;
        let target = Target::Container(id.into());
        if self.join_removal(&target, client) {
            return Ok(());
        }
        let Some(container) = self.containers.get(id) else {
            self.reply(client, &Reply::Done, vec![]);
            return Ok(());
        };
        let group = container.group.clone();
        self.begin(target, vec![client], None, group)
    }

    pub(super) fn remove_sandbox(&mut self, client: u64, id: &str) -> Result<(), Failure> {
        check_id(id)?;
        let target = Target::Sandbox(id.into());
        if self.join_removal(&target, client) {
            return Ok(());
        }
        if !self.sandboxes.contains_key(id) {
            self.reply(client, &Reply::Done, vec![]);
            return Ok(());
        }
        self.close_sandbox(id);
        let group = self.tree.sandbox(id);
        self.begin(target, vec![client], None, group)
    }

    /// Ends everything; whoever asks for it again waits for the same end.
    pub(super) fn shut_down(&mut self, client: u64) {
        if let Some(waiting) = &mut self.ending {
            return waiting.push(client);
        }
        let group = self.tree.root().child("pods");
        self.ending = Some(vec![client]);
        if let Err(failure) = self.begin(Target::All, vec![], None, group) {
            self.ending = None;
            self.fail(client, failure);
        }
    }

    /// Removes what a failed start has left, then tells why it failed.
    pub(super) fn discard(&mut self, config: ContainerConfig, group: Group, clients: Vec<u64>, why: Failure) {
        let id = config.id.clone();
        let remains = Container {
            config,
            group: group.clone(),
            filter: None,
            life: Life::Failed,
            io: Default::default(),
        };
        self.containers.insert(id.clone(), remains);
        self.begin_or_fail(Target::Container(id), clients, why, group);
    }

    /// Removes what a failed sandbox has left, then tells why it failed.
    pub(super) fn discard_sandbox(&mut self, id: &str, clients: Vec<u64>, why: Failure) {
        let group = self.tree.sandbox(id);
        self.begin_or_fail(Target::Sandbox(id.into()), clients, why, group);
    }

    fn begin_or_fail(&mut self, target: Target, clients: Vec<u64>, why: Failure, group: Group) {
        if let Err(failure) = self.begin(target, clients.clone(), Some(why), group) {
            clients.into_iter().for_each(|client| self.fail(client, failure.clone()));
        }
    }

    /// Adds a client to a removal that is under way.
    fn join_removal(&mut self, target: &Target, client: u64) -> bool {
        let running = self.children.values_mut().find_map(|child| match child {
            Child::Removal(removal) if removal.what == *target => Some(removal),
            _ => None,
        });
        let found = running.is_some();
        if let Some(removal) = running {
            removal.clients.push(client);
        }
        found
    }

    fn begin(
        &mut self,
        what: Target,
        clients: Vec<u64>,
        answer: Option<Failure>,
        group: Group,
    ) -> Result<(), Failure> {
        // At once, so that the clone finds the work half done.
        if let Err(error) = group.kill() {
            tracing::warn!(?what, %error, "cannot kill");
        }
        let (sandboxes, containers): (Vec<&String>, Vec<&String>) = match &what {
            Target::Container(id) => (vec![], vec![id]),
            Target::Sandbox(id) => {
                let of = self.containers.values().filter(|container| container.config.sandbox == *id);
                (vec![id], of.map(|container| &container.config.id).collect())
            }
            Target::All => (self.sandboxes.keys().collect(), self.containers.keys().collect()),
            Target::Trash => (vec![], vec![]),
        };
        let run_dir = &self.options.run_dir;
        let of_sandboxes = sandboxes.into_iter().flat_map(|id| mounts_of(run_dir, id));
        let of_containers = containers.iter().map(|id| own_proc_directory(run_dir, id));
        let mounts: Vec<PathBuf> = of_sandboxes.chain(of_containers).collect();
        let layers = containers.iter().map(|id| self.container_directory(id));
        let directories = layers.chain(mounts.iter().cloned()).collect();
        self.set_to_work(what, clients, answer, &Work { group: Some(group), mounts, directories })
    }

    /// Removes the groups and the shared memory of what no record tells of, whose processes have been killed: nobody
    /// would ask for their removal.
    pub(super) fn end_unrecorded(&self) -> io::Result<()> {
        let pods = self.tree.root().child("pods");
        for id in pods.children()? {
            let group = pods.child(&id);
            if !self.sandboxes.contains_key(&id) {
                tracing::error!(sandbox = id, "no record tells of it: removing it");
                let removed = mounts_of(&self.options.run_dir, &id)
                    .iter()
                    .try_for_each(|place| mount::detach(place).and_then(|()| removal::tree(place)))
                    .and(group.remove());
                warn_on_error(&id, removed);
                continue;
            }
            for name in group.children()? {
                if name != INIT_GROUP && !self.containers.contains_key(&name) {
                    tracing::error!(container = name, sandbox = id, "no record tells of it: removing it");
                    let place = own_proc_directory(&self.options.run_dir, &name);
                    let removed = mount::detach(&place).and_then(|()| removal::tree(&place));
                    warn_on_error(&name, removed.and(group.child(&name).remove()));
                }
            }
        }
        Ok(())
    }

    /// Throws away the writable layers that a crash of the machine has left: `volatile` ones must not be used again.
    /// They are moved out of the way at once, and deleted beside the work.
    pub(super) fn throw_stale_away(&mut self) -> io::Result<()> {
        let trash = self.options.state_dir.join("trash");
        fs::create_dir_all(&trash)?;
        for (number, entry) in (0..).zip(fs::read_dir(self.options.state_dir.join("containers"))?.flatten()) {
            let known = entry.file_name().to_str().is_some_and(|id| self.containers.contains_key(id));
            if !known {
                fs::rename(entry.path(), trash.join(format!("{}-{number}", std::process::id())))?;
            }
        }
        let work = Work { group: None, mounts: vec![], directories: vec![trash] };
        self.set_to_work(Target::Trash, vec![], None, &work)
            .map_err(|failure| io::Error::other(format!("{failure:?}")))
    }

    fn set_to_work(
        &mut self,
        what: Target,
        clients: Vec<u64>,
        answer: Option<Failure>,
        work: &Work,
    ) -> Result<(), Failure> {
        let child = process::clone(&self.proof, CloneFlags::empty(), None, || {
            // It may take long: no pipe, socket or lock of the supervisor's lives on in it meanwhile.
            process::close_inherited();
            match work.run() {
                Ok(()) => 0,
                Err(error) => {
                    tracing::error!(?work, %error, "removal failed");
                    1
                }
            }
        })
        .map_err(|error| Failure::host("cloning a process to remove with", &error))?;
        self.children.insert(child.pid, Child::Removal(Removal { what, clients, answer }));
        Ok(())
    }

    /// The cloned process has ended.
    pub(super) fn removed(&mut self, removal: Removal, exit: Exit) {
        let Removal { what, clients, answer } = removal;
        let answer = match (exit, answer) {
            (Exit::Code(0), answer) => {
                self.forget(&what);
                answer
            }
            (_, Some(answer)) => Some(answer),
            (exit, None) => Some(Failure::Host {
                what: format!("removing {what:?}"),
                reason: format!("{exit}; see the supervisor's log"),
            }),
        };
        for client in clients {
            match &answer {
                None => self.reply(client, &Reply::Done, vec![]),
                Some(failure) => self.fail(client, failure.clone()),
            }
        }
    }

    fn forget(&mut self, what: &Target) {
        match what {
            Target::Container(id) => {
                let sandbox = self.containers.get(id).map(|container| container.config.sandbox.clone());
                self.forget_container(id);
                if let Some(sandbox) = sandbox {
                    self.changed(&sandbox);
                }
            }
            Target::Sandbox(id) => self.forget_sandbox(id),
            Target::Trash => {}
            Target::All => {
                let ids: Vec<String> = self.sandboxes.keys().cloned().collect();
                ids.iter().for_each(|id| self.forget_sandbox(id));
                let ids: Vec<String> = self.containers.keys().cloned().collect();
                ids.iter().for_each(|id| self.forget_container(id));
            }
        }
    }

    fn forget_sandbox(&mut self, id: &str) {
        let inside: Vec<String> = self
            .containers
            .values()
            .filter(|container| container.config.sandbox == id)
            .map(|container| container.config.id.clone())
            .collect();
        inside.iter().for_each(|container| self.forget_container(container));
        self.sandboxes.remove(id);
        warn_on_error(id, self.sandbox_records.remove(id));
        self.changed(id);
    }

    fn forget_container(&mut self, id: &str) {
        if let Some(mut container) = self.containers.remove(id) {
            container.io.close(&mut self.poller);
        }
        self.end_attached(id, None);
        warn_on_error(id, self.container_records.remove(id));
    }
}

fn warn_on_error(id: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(id, %error, "cannot remove what is left of it");
    }
}

/// Removes what is left of a runtime that worked here, without a supervisor to ask: processes first, the
/// supervisor's own too, then mounts, groups and files. Nothing there is success.
pub fn remove_leftovers(options: &super::Options) -> io::Result<()> {
    let tree = Tree::detect(&options.cgroup_parent)?;
    for group in [tree.leaf("supervisor"), tree.root().child("pods")] {
        group.kill_and_wait(PATIENCE)?;
        group.remove()?;
    }
    // The daemon's own leaf may be in it: then it is not ours to remove yet.
    let root = tree.root();
    if root.children()?.is_empty() && root.processes()?.is_empty() {
        root.remove()?;
    }
    for path in mount::below(&options.run_dir)?.iter().rev().filter(|path| **path != options.run_dir) {
        mount::detach(path)?;
    }
    removal::tree(&options.state_dir.join("containers"))?;
    removal::tree(&options.state_dir.join("trash"))?;
    removal::tree(&options.run_dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    #[test]
    fn what_a_container_has_piled_up_is_removed_however_deep() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        fs::create_dir(&layer).unwrap();
        let open = OFlags::PATH | OFlags::DIRECTORY;
        let mut here = rustix::fs::open(&layer, open, Mode::empty()).unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&here, "d", Mode::RWXU).unwrap();
            here = rustix::fs::openat(&here, "d", open, Mode::empty()).unwrap();
        }
        let work = Work { group: None, mounts: vec![], directories: vec![layer.clone()] };
        // A stack that has some 130 bytes for each level.
        let little = std::thread::Builder::new().stack_size(256 << 10);
        little.spawn(move || work.run().unwrap()).unwrap().join().unwrap();
        assert!(!layer.exists());
    }
}
