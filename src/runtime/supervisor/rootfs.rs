//! A container's root: layers, standard mounts, the mounts it asked for, what it must not see; then pivot.
//!
//! Runs in the container's own mount namespace: the host never sees these mounts, and they end with the last
//! process. Every place inside the root is found by descriptor, resolved in that root; an image that ships `/dev` or
//! `/proc` as a symlink is refused.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use super::child::{During, Failed, Step};
use super::devices;
use crate::runtime::cgroups::Layout;
use crate::runtime::{ContainerConfig, Mount, MountSource, Propagation, Users};
use crate::sys::mount::{self, Attributes, Spread};
use crate::sys::path::Root;
use crate::sys::users::Maker;

/// Host information in `/proc` and `/sys` that is hidden (as by Docker and containerd).
const MASKED: [&str; 13] = [
    "proc/asound",
    "proc/acpi",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/timer_list",
    "proc/timer_stats",
    "proc/sched_debug",
    "proc/scsi",
    "sys/firmware",
    "sys/devices/virtual/powercap",
    "sys/kernel/security",
];
/// Places in `/proc` that must not be written.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Files of `/proc` that a mount may cover.
const MAY_BE_COVERED: [&str; 11] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "net/dev",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

const NO_SUID_DEVICES: Attributes =
    Attributes { read_only: false, no_devices: true, no_suid: true, no_exec: false };
/// Of file systems that hold no programs, `/proc` among them.
pub const NO_SUID_DEVICES_EXEC: Attributes = Attributes { no_exec: true, ..NO_SUID_DEVICES };

/// Where on the host a root is put together.
#[derive(Debug, Clone, Copy)]
pub struct Places<'a> {
    /// The writable layer.
    pub upper: &'a Path,
    /// Overlayfs's working directory, beside it.
    pub work: &'a Path,
    /// An empty directory to attach the root at.
    pub root: &'a Path,
    /// The sandbox's shared memory.
    pub shm: &'a Path,
    /// The procfs of the processes that the sandbox's containers share; `None` when this process is to make one.
    pub proc: Option<&'a Path>,
    /// The host's cgroups.
    pub layout: &'a Layout,
}

/// Something to be attached inside the root.
#[derive(Debug)]
pub struct Source {
    target: PathBuf,
    tree: OwnedFd,
    directory: bool,
}

/// The group of terminals, in every distribution.
const TERMINALS: u32 = 5;

/// The users of a sandbox that has its own, and a namespace of them.
pub type Mapped<'a> = (Users, BorrowedFd<'a>);

/// The host's id of the container's root, as a file system's option.
fn owner(users: Option<Mapped<'_>>) -> String {
    users.map_or(0, |(users, _)| users.outside(0)).to_string()
}

/// Opens what the container mounts, while the host's tree is in sight and its propagation is not yet cut off.
pub fn open_sources(config: &ContainerConfig, users: Option<Mapped<'_>>) -> Step<Vec<Source>> {
    let images = |mount: &&Mount| matches!(mount.source, MountSource::Layers { .. });
    let mut sources = config
        .mounts
        .iter()
        .filter(|mount| !images(mount))
        .map(|mount| open_source(mount, config.security.privileged, users))
        .collect::<Step<Vec<_>>>()?;
    if let Some((host, target)) = &config.termination_message {
        let mount = Mount {
            target: target.clone(),
            source: MountSource::Bind(host.clone()),
            read_only: false,
            propagation: Propagation::Private,
        };
        sources.push(open_source(&mount, false, users)?);
    }
    Ok(sources)
}

fn open_source(mount: &Mount, privileged: bool, users: Option<Mapped<'_>>) -> Step<Source> {
    let target = mount.target.clone();
    let at = target.display().to_string();
    let attributes =
        Attributes { read_only: mount.read_only, no_devices: !privileged, ..Attributes::default() };
    let tree = match &mount.source {
        MountSource::Tmpfs { size, mode } => {
            let (size, mode) = (size.map(|size| size.to_string()), format!("{mode:o}"));
            let owner = owner(users);
            let mut options = vec![("mode", mode.as_str()), ("uid", &owner), ("gid", &owner)];
            options.extend(size.as_deref().map(|size| ("size", size)));
            let attributes = Attributes { no_suid: true, no_devices: true, ..attributes };
            let tree = mount::filesystem("tmpfs", &options, attributes)
                .during(format_args!("mount tmpfs on {at:?}"))?;
            return Ok(Source { target, tree, directory: true });
        }
        MountSource::Layers { .. } => {
            return Err(Failed(format!("mount image on {at:?}: it is opened with the container's own")));
        }
        MountSource::Bind(path) => {
            let shown = path.display().to_string();
            // Before it is opened, as this mounts what is to be mounted there on demand.
            let tree = mount::clone_path(path).during(format_args!("mount {shown:?} on {at:?}"))?;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let opened =
                rustix::fs::open(path, flags, Mode::empty()).during(format_args!("open {shown:?}"))?;
            require_spread(mount.propagation, opened.as_fd(), &shown)?;
            tree
        }
        MountSource::SubPath { base, path } => {
            let shown = base.join(path).display().to_string();
            let opened = open_or_make_inside(base, path).during(format_args!("mount {shown:?} on {at:?}"))?;
            require_spread(mount.propagation, opened.as_fd(), &shown)?;
            mount::clone_fd(opened.as_fd()).during(format_args!("mount {shown:?} on {at:?}"))?
        }
    };
    let spread = match mount.propagation {
        Propagation::Private => Spread::Private,
        Propagation::HostToContainer => Spread::Slave,
        Propagation::Bidirectional => Spread::Shared,
    };
    mount::restrict(tree.as_fd(), attributes, Some(spread), true)
        .during(format_args!("restrict mount {at:?}"))?;
    if let Some((_, namespace)) = users {
        mount::map_users(tree.as_fd(), namespace, true)
            .during(format_args!("show the users of the pod in mount {at:?}"))?;
    }
    let kind =
        FileType::from_raw_mode(rustix::fs::fstat(&tree).during(format_args!("inspect {at:?}"))?.st_mode);
    Ok(Source { target, tree, directory: kind == FileType::Directory })
}

/// Opens the images that the container mounts, when propagation is cut off: their parts are attached for a moment, in an
/// empty directory.
fn open_images(config: &ContainerConfig, aside: &Path, users: Option<Mapped<'_>>) -> Step<Vec<Source>> {
    let no_devices = !config.security.privileged;
    let attributes = Attributes { read_only: true, no_devices, ..Attributes::default() };
    let mut sources = Vec::new();
    for mount in &config.mounts {
        let MountSource::Layers { layers, path } = &mount.source else { continue };
        let target = mount.target.clone();
        let at = target.display().to_string();
        let tree = on_layers(layers, users, aside, |layers| mount::merged(layers, attributes, aside))
            .during(format_args!("mount image on {at:?}"))?;
        sources.push(match path.as_os_str().is_empty() {
            true => Source { target, tree, directory: true },
            false => part(tree, path, target, aside)?,
        });
    }
    Ok(sources)
}

/// A part of an image. Older kernels take parts of attached trees alone.
fn part(whole: OwnedFd, path: &Path, target: PathBuf, aside: &Path) -> Step<Source> {
    let shown = path.display().to_string();
    let at = target.display().to_string();
    let open = || Root::open(aside).during("open root");
    mount::attach(whole.as_fd(), open()?.as_fd()).during(format_args!("mount image on {at:?}"))?;
    let taken = open().and_then(|tree| {
        let opened = tree.open_at(path, OFlags::PATH).during(format_args!("open {shown:?} of image"))?;
        let kind = rustix::fs::fstat(&opened).during(format_args!("inspect {at:?}"))?.st_mode;
        let tree = mount::clone_fd(opened.as_fd()).during(format_args!("mount {shown:?} on {at:?}"))?;
        Ok((tree, FileType::from_raw_mode(kind) == FileType::Directory))
    });
    mount::detach(aside).during("let go of an image")?;
    let (tree, directory) = taken?;
    Ok(Source { target, tree, directory })
}

/// Does something with layers as a sandbox's users see them: overlayfs takes such from where they are attached.
fn on_layers<T>(
    layers: &[PathBuf],
    users: Option<Mapped<'_>>,
    aside: &Path,
    work: impl FnOnce(&[PathBuf]) -> io::Result<T>,
) -> io::Result<T> {
    let Some((_, namespace)) = users else { return work(layers) };
    let places = mount::filesystem("tmpfs", &[("mode", "700")], NO_SUID_DEVICES_EXEC)?;
    mount::attach(places.as_fd(), Root::open(aside)?.as_fd())?;
    let shown = || {
        let inside = Root::open(aside)?;
        let mut mapped = Vec::new();
        for (number, layer) in layers.iter().enumerate() {
            let tree = mount::clone_path(layer)?;
            mount::map_users(tree.as_fd(), namespace, true)?;
            let name = number.to_string();
            mount::attach(tree.as_fd(), inside.mkdir_all(&name, 0o700)?.as_fd())?;
            mapped.push(aside.join(name));
        }
        work(&mapped)
    };
    let done = shown();
    mount::detach(aside)?;
    done
}

/// Opens a path below a directory that must not be left. A missing one becomes a directory with the mode of `base`,
/// as the kubelet makes it, so that whoever may use a volume may use the new part of it.
fn open_or_make_inside(base: &Path, path: &Path) -> io::Result<OwnedFd> {
    let inside = Root::open(base)?.strict();
    match inside.open_at(path, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mode = rustix::fs::fstat(&inside)?.st_mode & 0o7777;
            inside.mkdir_all(path, mode)?.as_fd().try_clone_to_owned()
        }
        result => result,
    }
}

/// A mount from which later mounts cannot spread as asked for is an error (as in containerd): silently, a container
/// would wait for them in vain.
fn require_spread(propagation: Propagation, source: BorrowedFd<'_>, shown: &str) -> Step<()> {
    let (enough, wanted): (&[Spread], _) = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => (&[Spread::Shared, Spread::Slave], "shared or slave"),
        Propagation::Bidirectional => (&[Spread::Shared], "shared"),
    };
    let (point, spread) =
        mount::spread_of(source).during(format_args!("find the mount that {shown:?} is on"))?;
    if enough.contains(&spread) {
        return Ok(());
    }
    let point = point.display().to_string();
    Err(Failed(format!("path {shown:?} is mounted on {point:?} but it is not a {wanted} mount")))
}

/// Builds the root and makes it `/`.
pub fn assemble(
    config: &ContainerConfig,
    places: &Places<'_>,
    mut sources: Vec<Source>,
    users: Option<Mapped<'_>>,
) -> Step<()> {
    mount::set_spread_of_all(Spread::Private).during("cut off mount propagation")?;
    sources.extend(open_images(config, places.root, users)?);
    let found = devices::find(&config.devices)?;
    mount_root(config, places, users)?;
    let root = Root::open(places.root).during("open root")?;
    for directory in ["proc", "sys", "dev"] {
        if root.is_symlink(directory).during(format_args!("inspect /{directory}"))? {
            return Err(Failed(format!("refusing image: /{directory} is a symbolic link")));
        }
    }
    standard_mounts(config, places, &root, users)?;
    // Before a mount of the container's can cover it: what hides a file must be the real null (CVE-2025-31133).
    let null = root.open_at("dev/null", OFlags::PATH | OFlags::NOFOLLOW).during("open /dev/null")?;
    let dev = root.open_dir("dev").during("open /dev")?;
    for (number, (device, like)) in found.iter().enumerate() {
        let tree = devices::node(&dev, number, device, like)?;
        sources.push(Source { target: device.target.clone(), tree, directory: false });
    }
    // A mount inside another one's place comes after it.
    sources.sort_by_key(|source| source.target.components().count());
    make_places(config, &root, &sources, users)?;
    (0..found.len()).try_for_each(|number| devices::forget(&dev, number))?;
    if !config.security.privileged && !config.security.unmasked_proc {
        hide(&root, null.as_fd())?;
    }
    if config.read_only_root {
        let read_only = Attributes { read_only: true, ..Attributes::default() };
        mount::restrict(root.as_fd(), read_only, None, false).during("make root read-only")?;
    }
    mount::pivot(root.as_fd()).during("pivot to root")
}

/// Attaches what the container mounts and makes its working directory. What is made for that belongs to the pod's own
/// root: volumes take nothing from anybody who is not among its users.
fn make_places(
    config: &ContainerConfig,
    root: &Root,
    sources: &[Source],
    users: Option<Mapped<'_>>,
) -> Step<()> {
    let owner = users.map(|(users, _)| users.outside(0));
    let _maker = owner.map(|id| Maker::of(id, id)).transpose().during("become the pod's root")?;
    for source in sources {
        attach(root, source)?;
    }
    let cwd = &config.process.cwd;
    if !cwd.as_os_str().is_empty() {
        // What cannot be made (a file is there, a read-only volume) is told better by chdir.
        let _ = root.resolve(cwd).and_then(|path| root.mkdir_all(path, 0o755));
    }
    Ok(())
}

/// Stacks the container's layers under what it writes.
fn mount_root(config: &ContainerConfig, places: &Places<'_>, users: Option<Mapped<'_>>) -> Step<()> {
    let attributes = Attributes { no_devices: !config.security.privileged, ..Attributes::default() };
    let (upper, work) = (places.upper, places.work);
    let Some((own, _)) = users else {
        return mount::overlay(&config.layers, upper, work, places.root, attributes)
            .during("mount root overlay");
    };
    let root = Some(own.outside(0));
    std::os::unix::fs::chown(upper, root, root).during("give the root to its users")?;
    let tree = on_layers(&config.layers, users, places.root, |layers| {
        mount::stacked(layers, upper, work, attributes)
    });
    let tree = tree.during("mount root overlay for users of its own")?;
    let at = Root::open(places.root).during("open root")?;
    mount::attach(tree.as_fd(), at.as_fd()).during("mount root overlay")
}

fn standard_mounts(
    config: &ContainerConfig,
    places: &Places<'_>,
    root: &Root,
    users: Option<Mapped<'_>>,
) -> Step<()> {
    let privileged = config.security.privileged;
    let place = |path: &str, kind: &str, options: &[(&str, &str)], attributes: Attributes| -> Step<()> {
        let tree = mount::filesystem(kind, options, attributes).during(format_args!("make {kind}"))?;
        let at = root.mkdir_all(path, 0o755).during(format_args!("make /{path}"))?;
        mount::attach(tree.as_fd(), at.as_fd()).during(format_args!("mount {kind} on /{path}"))
    };
    match places.proc {
        None => place("proc", "proc", &[], NO_SUID_DEVICES_EXEC)?,
        Some(shared) => mount_from(shared, "proc", 0o755, root)?,
    }
    place("sys", "sysfs", &[], Attributes { read_only: !privileged, ..NO_SUID_DEVICES_EXEC })?;
    cgroup_mounts(places.layout, root, privileged)?;
    // Writable memory with the device nodes: the only mount of an unprivileged container that may hold any.
    let dev = Attributes { no_suid: true, no_exec: true, ..Attributes::default() };
    let owner = owner(users);
    let options = [("mode", "755"), ("size", "65536k"), ("uid", owner.as_str()), ("gid", owner.as_str())];
    place("dev", "tmpfs", &options, dev)?;
    devices::populate(&root.open_dir("dev").during("open /dev")?, privileged)?;
    let terminals = users.map_or(TERMINALS, |(users, _)| users.outside(TERMINALS)).to_string();
    let pts = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", terminals.as_str())];
    place("dev/pts", "devpts", &pts, Attributes { no_suid: true, no_exec: true, ..Attributes::default() })?;
    place("dev/mqueue", "mqueue", &[], NO_SUID_DEVICES_EXEC)?;
    mount_from(places.shm, "dev/shm", 0o1777, root)
}

/// Mounts what the sandbox has on the host.
fn mount_from(host: &Path, path: &str, mode: u32, root: &Root) -> Step<()> {
    let tree = mount::clone_path(host).during(format_args!("open the sandbox's /{path}"))?;
    let at = root.mkdir_all(path, mode).during(format_args!("make /{path}"))?;
    mount::attach(tree.as_fd(), at.as_fd()).during(format_args!("mount the sandbox's /{path}"))
}

/// The container's own cgroup as it sees it: never writable, unless it is privileged.
fn cgroup_mounts(layout: &Layout, root: &Root, privileged: bool) -> Step<()> {
    let attributes = Attributes { read_only: !privileged, ..NO_SUID_DEVICES_EXEC };
    // A host without this directory in its sysfs has no cgroups to show.
    let Ok(at) = root.open_dir("sys/fs/cgroup") else { return Ok(()) };
    if layout.is_unified() {
        let tree = mount::filesystem("cgroup2", &[], attributes).during("make cgroup2")?;
        return mount::attach(tree.as_fd(), at.as_fd()).during("mount cgroup2 on /sys/fs/cgroup");
    }
    let tmpfs = mount::filesystem("tmpfs", &[("mode", "755")], NO_SUID_DEVICES_EXEC).during("make tmpfs")?;
    mount::attach(tmpfs.as_fd(), at.as_fd()).during("mount tmpfs on /sys/fs/cgroup")?;
    let at = root.open_dir("sys/fs/cgroup").during("open /sys/fs/cgroup")?;
    for (directory, controllers) in layout.v1_mounts() {
        let options: Vec<(&str, &str)> = controllers.split(',').map(|name| (name, "")).collect();
        let tree = mount::filesystem("cgroup", &options, attributes)
            .during(format_args!("make cgroup {controllers}"))?;
        let inside =
            at.mkdir_all(&directory, 0o755).during(format_args!("make /sys/fs/cgroup/{directory}"))?;
        mount::attach(tree.as_fd(), inside.as_fd()).during(format_args!("mount cgroup {controllers}"))?;
    }
    let read_only = Attributes { read_only: true, ..Attributes::default() };
    mount::restrict(at.as_fd(), read_only, None, false).during("make /sys/fs/cgroup read-only")
}

fn attach(root: &Root, source: &Source) -> Step<()> {
    let shown = source.target.display().to_string();
    let making = format!("make mount point {shown:?}");
    // Through symlinks that dangle too: images have /var/run lead to a /run that is not there.
    let target = root.resolve(&source.target).during(&making)?;
    if target.as_os_str().is_empty() {
        return Err(Failed(format!("{making}: it is the container's root")));
    }
    let proc = is_proc(source.tree.as_fd()).during(&making)?;
    let inside_proc =
        || Failed(format!("{making}: it is inside /proc, which must show the container's processes"));
    // Before anything is made there; `/proc/self` is nobody for a process that is not in sight of this procfs.
    if target.starts_with("proc") && !may_cover(&target, proc) {
        return Err(inside_proc());
    }
    let at: OwnedFd = if source.directory {
        let directory = root.mkdir_all(&target, 0o755).during(&making)?;
        directory.as_fd().try_clone_to_owned().during("copy descriptor")?
    } else {
        open_or_make_file(root, &target).during(&making)?
    };
    if is_proc(at.as_fd()).during(&making)? && !may_cover(&target, proc) {
        return Err(inside_proc());
    }
    mount::attach(source.tree.as_fd(), at.as_fd()).during(format_args!("mount on {shown:?}"))
}

fn is_proc(place: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(place)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// What of `/proc` a mount may cover: all of it by another procfs, else only files that tell of the machine (runc's
/// list, made for lxcfs). Anything else could fake what is read or written there on the way to the program.
fn may_cover(target: &Path, by_proc: bool) -> bool {
    match target.strip_prefix("proc").ok().and_then(Path::to_str) {
        Some("") => by_proc,
        Some(inside) => MAY_BE_COVERED.contains(&inside),
        None => false,
    }
}

fn open_or_make_file(root: &Root, target: &Path) -> io::Result<OwnedFd> {
    match root.open_at(target, OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            root.mkdir_all(target.parent().unwrap_or(Path::new("/")), 0o755)?;
            root.create_file(target, 0o644)?;
            root.open_at(target, OFlags::PATH | OFlags::NOFOLLOW)
        }
        result => result,
    }
}

/// Covers what must not be seen and write-protects what must not be written; what a host does not have is fine.
fn hide(root: &Root, null: BorrowedFd<'_>) -> Step<()> {
    let read_only = Attributes { read_only: true, ..NO_SUID_DEVICES_EXEC };
    let empty = mount::filesystem("tmpfs", &[("size", "0"), ("nr_inodes", "1")], read_only)
        .during("make empty tmpfs")?;
    let mut empty_at: Option<OwnedFd> = None;
    for path in MASKED {
        let Ok(at) = root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW) else { continue };
        let stat = rustix::fs::fstat(&at).during(format_args!("inspect /{path}"))?;
        let cover =
            |tree: BorrowedFd<'_>| mount::attach(tree, at.as_fd()).during(format_args!("mask /{path}"));
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            cover(mount::clone_fd(null).during("clone /dev/null")?.as_fd())?;
        } else if let Some(first) = &empty_at {
            // One file system for all: making and ending each costs more than a further mount of it.
            cover(mount::clone_fd(first.as_fd()).during("clone empty tmpfs")?.as_fd())?;
        } else {
            cover(empty.as_fd())?;
            empty_at = Some(root.open_at(path, OFlags::PATH).during(format_args!("open /{path}"))?);
        }
    }
    for path in READ_ONLY {
        let Ok(at) = root.open_at(path, OFlags::PATH | OFlags::NOFOLLOW) else { continue };
        let tree = mount::clone_fd(at.as_fd()).during(format_args!("clone /{path}"))?;
        mount::restrict(tree.as_fd(), read_only, None, true).during(format_args!("restrict /{path}"))?;
        mount::attach(tree.as_fd(), at.as_fd()).during(format_args!("mount /{path} read-only"))?;
    }
    Ok(())
}

/// Shows a terminal as `/dev/console`, where there is none yet; a program that wants none is not kept from running.
pub fn show_console(root: &Root, terminal: BorrowedFd<'_>) {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    let Ok(dev) = root.open_dir("dev") else { return };
    let Ok(at) = rustix::fs::openat(dev.as_fd(), "console", flags, Mode::from_raw_mode(0o600)) else {
        return;
    };
    let shown = mount::clone_fd(terminal).and_then(|tree| mount::attach(tree.as_fd(), at.as_fd()));
    if shown.is_err() {
        let _ = rustix::fs::unlinkat(dev.as_fd(), "console", rustix::fs::AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_of_proc_may_be_covered() {
        for (target, by_proc, expected) in [
            ("proc", true, true),
            ("proc", false, false),
            ("proc/meminfo", false, true),
            ("proc/sys/crypto/fips_enabled", false, true),
            ("proc/self", false, false),
            ("proc/self/attr/exec", false, false),
            ("proc/sys", true, false),
            ("elsewhere", true, false),
        ] {
            assert_eq!(may_cover(Path::new(target), by_proc), expected, "{target}");
        }
    }
}
