//! Mounts, made detached, given their attributes, then attached at a descriptor: no path is looked up twice.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

/// What may not be done through a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Writing.
    pub read_only: bool,
    /// Device nodes.
    pub no_devices: bool,
    /// Set-user-id bits and file capabilities.
    pub no_suid: bool,
    /// Programs.
    pub no_exec: bool,
}

impl Attributes {
    fn bits(self) -> MountAttrFlags {
        let mut bits = MountAttrFlags::empty();
        bits.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        bits.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_devices);
        bits.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        bits.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        bits
    }
}

/// How later mounts below a mount spread (`mount_namespaces(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// Not at all.
    Private,
    /// From the peers to here.
    Slave,
    /// Both ways.
    Shared,
}

/// A new file system, not attached anywhere. An option without a value is a flag.
pub fn filesystem(kind: &str, options: &[(&str, &str)], attributes: Attributes) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    // What `mount` and `df` show in the first column.
    rustix::mount::fsconfig_set_string(&context, "source", kind)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&context, *key)?;
        } else {
            rustix::mount::fsconfig_set_string(&context, *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes.bits())?)
}

/// Stacks `layers` (lowest first) under `upper` and attaches the result at `target`.
///
/// `volatile`: nothing is synced, so the upper directory must not be used again after a crash of the machine.
/// Kernels before 6.5, which cannot take layers one by one, get them in the option string, as descriptors so that
/// many fit the page that `mount(2)` allows.
pub fn overlay(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    target: &Path,
    attributes: Attributes,
) -> io::Result<()> {
    match overlay_by_layer(layers, Some((upper, work)), attributes) {
        Ok(tree) => {
            let at = rustix::fs::openat(
                CWD,
                target,
                rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )?;
            attach(tree.as_fd(), at.as_fd())
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            overlay_by_option_string(layers, Some((upper, work)), target, attributes)
        }
        Err(error) => Err(error),
    }
}

/// As [`overlay`], not attached anywhere; only by kernels that take layers one by one.
pub fn stacked(layers: &[PathBuf], upper: &Path, work: &Path, attributes: Attributes) -> io::Result<OwnedFd> {
    overlay_by_layer(layers, Some((upper, work)), attributes)
}

/// Layers (lowest first) merged, to be read only, not attached anywhere. Kernels before 6.5 have it at the directory
/// `aside` for a moment.
pub fn merged(layers: &[PathBuf], attributes: Attributes, aside: &Path) -> io::Result<OwnedFd> {
    let attributes = Attributes { read_only: true, ..attributes };
    match layers {
        [] => filesystem("tmpfs", &[("mode", "755")], attributes),
        // Overlayfs takes no fewer than two when there is none above them.
        [layer] => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = rustix::mount::open_tree(CWD, layer, flags)?;
            restrict(tree.as_fd(), attributes, Some(Spread::Private), false)?;
            Ok(tree)
        }
        layers => match overlay_by_layer(layers, None, attributes) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                merged_by_option_string(layers, attributes, aside)
            }
            result => result,
        },
    }
}

fn merged_by_option_string(layers: &[PathBuf], attributes: Attributes, aside: &Path) -> io::Result<OwnedFd> {
    overlay_by_option_string(layers, None, aside, attributes)?;
    let tree = clone_path(aside);
    detach(aside)?;
    tree
}

fn overlay_by_layer(
    layers: &[PathBuf],
    above: Option<(&Path, &Path)>,
    attributes: Attributes,
) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers.iter().rev() {
        rustix::mount::fsconfig_set_string(&context, "lowerdir+", layer.as_path())?;
    }
    if let Some((upper, work)) = above {
        rustix::mount::fsconfig_set_string(&context, "upperdir", upper)?;
        rustix::mount::fsconfig_set_string(&context, "workdir", work)?;
        rustix::mount::fsconfig_set_flag(&context, "volatile")?;
    }
    rustix::mount::fsconfig_set_string(&context, "source", "overlay")?;
    rustix::mount::fsconfig_create(&context)?;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes.bits())?)
}

fn overlay_by_option_string(
    layers: &[PathBuf],
    above: Option<(&Path, &Path)>,
    target: &Path,
    attributes: Attributes,
) -> io::Result<()> {
    let open = |path: &Path| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, rustix::fs::Mode::empty())
    };
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lowers = layers.iter().rev().map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let above = above.map(|(upper, work)| Ok::<_, io::Error>((open(upper)?, open(work)?))).transpose()?;
    let mut options = format!("lowerdir={}", lowers.iter().map(name).collect::<Vec<_>>().join(":"));
    if let Some((upper, work)) = &above {
        options += &format!(",upperdir={},workdir={},volatile", name(upper), name(work));
    }
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, attributes.read_only);
    flags.set(MountFlags::NODEV, attributes.no_devices);
    flags.set(MountFlags::NOSUID, attributes.no_suid);
    let options = std::ffi::CString::new(options)?;
    Ok(rustix::mount::mount("overlay", target, "overlay", flags, options.as_c_str())?)
}

/// The mount that an open file or directory (`O_PATH` suffices) is on, by its mount point, and how later mounts below
/// it spread from and to its peers.
pub fn spread_of(place: BorrowedFd<'_>) -> io::Result<(PathBuf, Spread)> {
    use rustix::fs::{AtFlags, StatxFlags};
    let id = rustix::fs::statx(place, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?.stx_mnt_id;
    spread_in(&std::fs::read_to_string("/proc/self/mountinfo")?, id)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its mount is out of sight"))
}

/// In a mountinfo text: `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [shared:N] [master:N] ... - TYPE SOURCE OPTIONS`.
fn spread_in(mountinfo: &str, id: u64) -> Option<(PathBuf, Spread)> {
    let line = mountinfo.lines().find(|line| line.split(' ').next() == Some(id.to_string().as_str()))?;
    let optional = line.split(' ').skip(6).take_while(|field| *field != "-").collect::<Vec<_>>();
    let has = |kind: &str| optional.iter().any(|field| field.starts_with(kind));
    let spread = match (has("shared:"), has("master:")) {
        (true, _) => Spread::Shared,
        (false, true) => Spread::Slave,
        (false, false) => Spread::Private,
    };
    Some((unescape(line.split(' ').nth(4)?), spread))
}

/// A detached copy of the mount that `path` is on, from `path` down, with what is mounted below it.
pub fn clone_path(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(rustix::mount::open_tree(CWD, path, flags)?)
}

/// As [`clone_path`], for an open file or directory (`O_PATH` suffices).
pub fn clone_fd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(fd, "", flags)?)
}

/// A descriptor of one file on a read-only mount that is attached nowhere.
pub fn read_only_file(path: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    restrict(tree.as_fd(), Attributes { read_only: true, ..Attributes::default() }, None, false)?;
    Ok(tree)
}

/// Adds restrictions to a mount, and to all below it when `recursive`; sets how it spreads.
pub fn restrict(
    tree: BorrowedFd<'_>,
    attributes: Attributes,
    spread: Option<Spread>,
    recursive: bool,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.bits().bits().into(),
        attr_clr: 0,
        propagation: match spread {
            None => 0,
            Some(Spread::Private) => libc::MS_PRIVATE,
            Some(Spread::Slave) => libc::MS_SLAVE,
            Some(Spread::Shared) => libc::MS_SHARED,
        },
        userns_fd: 0,
    };
    set_attributes(tree, attr, recursive)
}

/// Has a detached mount, with all below it when `recursive`, show files as those of the ids that a user namespace
/// gives them. Not every file system can.
pub fn map_users(tree: BorrowedFd<'_>, users: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.as_raw_fd() as u64,
    };
    set_attributes(tree, attr, recursive)
}

fn set_attributes(tree: BorrowedFd<'_>, attr: libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` lives across the call and its size is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts a detached mount on an open file or directory.
pub fn attach(tree: BorrowedFd<'_>, at: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", at, "", flags)?)
}

/// Sets how every mount of the calling process's namespace spreads.
pub fn set_spread_of_all(spread: Spread) -> io::Result<()> {
    let spread = match spread {
        Spread::Private => MountPropagationFlags::PRIVATE,
        Spread::Slave => MountPropagationFlags::DOWNSTREAM,
        Spread::Shared => MountPropagationFlags::SHARED,
    };
    Ok(rustix::mount::mount_change("/", spread | MountPropagationFlags::REC)?)
}

/// Makes the mount whose root directory is `root` the calling process's `/`, and lets go of the old one.
pub fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    // Old and new in the same place (`pivot_root(2)`, "pivot_root(".", ".")"): no directory for the old is needed.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Takes the mount at `path` away, at once for new users, later for those inside; none there is success.
pub fn detach(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Where the mounts at and below `directory` are, deepest last (`proc_pid_mountinfo(5)`); none below a missing one.
pub fn below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    // The kernel lists real paths, so that a path through a symlink would find nothing.
    let directory = match std::fs::canonicalize(directory) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(mount_points(&std::fs::read_to_string("/proc/self/mountinfo")?, &directory))
}

/// The mount points at and below a directory in a mountinfo text, with its octal escapes undone.
fn mount_points(mountinfo: &str, directory: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    // A machine with many pods has thousands of mounts elsewhere: nothing is made of those.
    let is_below = |point: &&str| point.contains('\\') || Path::new(point).starts_with(directory);
    points.filter(is_below).map(unescape).filter(|point| point.starts_with(directory)).collect()
}

fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\')
            .then(|| text.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok()))
            .flatten();
        out.push(octal.unwrap_or(bytes[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    const OPEN: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

    #[test]
    fn spread_is_read_from_the_optional_fields() {
        let text = "22 27 0:21 / / rw shared:1 - ext4 /dev/vda rw\n23 22 0:22 / /a\\040b rw,nosuid master:1 - tmpfs x rw\n\
            24 22 0:23 / /c rw - tmpfs shared:3 rw\n25 22 0:24 / /d rw shared:4 master:1 - tmpfs x rw\n";
        for (id, expected) in [
            (22, Some(("/", Spread::Shared))),
            (23, Some(("/a b", Spread::Slave))),
            (24, Some(("/c", Spread::Private))),
            (25, Some(("/d", Spread::Shared))),
            (2, None),
        ] {
            assert_eq!(spread_in(text, id), expected.map(|(point, spread)| (point.into(), spread)), "{id}");
        }
    }

    #[test]
    fn older_kernels_merge_layers_too() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // A thread with mounts of its own; those of the others, and of the host, stay as they are.
        let merge = || {
            crate::sys::namespace::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            set_spread_of_all(Spread::Private).unwrap();
            let memory = filesystem("tmpfs", &[], Attributes::default()).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let at = |path: &str| dir.path().join(path);
            attach(memory.as_fd(), rustix::fs::open(dir.path(), OPEN, Mode::empty()).unwrap().as_fd())
                .unwrap();
            for path in ["lower/a", "upper/b", "aside/c"] {
                std::fs::create_dir_all(at(path)).unwrap();
            }
            let attributes = Attributes { read_only: true, ..Attributes::default() };
            let tree =
                merged_by_option_string(&[at("lower"), at("upper")], attributes, &at("aside")).unwrap();
            assert!(at("aside/c").is_dir());
            attach(tree.as_fd(), rustix::fs::open(at("aside"), OPEN, Mode::empty()).unwrap().as_fd())
                .unwrap();
            assert!(at("aside/a").is_dir() && at("aside/b").is_dir() && !at("aside/c").exists());
            assert!(std::fs::create_dir(at("aside/new")).is_err());
            detach(&at("aside")).unwrap();
            detach(dir.path()).unwrap();
        };
        std::thread::spawn(merge).join().unwrap();
    }

    #[test]
    fn mountinfo_escapes_are_undone() {
        let text = "22 27 0:21 / /proc rw - proc proc rw\n23 27 0:22 / /a\\040b\\134c rw - tmpfs x rw\n";
        let below = |directory: &str| mount_points(text, Path::new(directory));
        assert_eq!(below("/"), [PathBuf::from("/proc"), PathBuf::from("/a b\\c")]);
        assert_eq!(below("/a b\\c"), [PathBuf::from("/a b\\c")]);
        assert_eq!(below("/pro"), Vec::<PathBuf>::new());
    }
}
