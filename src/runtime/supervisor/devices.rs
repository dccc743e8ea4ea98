//! The contents of a container's `/dev`, and what else of the host's devices it has.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};

use super::child::{During, Step};
use crate::runtime::Device;
use crate::sys::device::{Access, Rule};
use crate::sys::mount;
use crate::sys::path::Root;

/// Devices that every container has: name, major, minor (numbers from the kernel's devices.txt).
const STANDARD: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Directories of the host's `/dev` that a container has of its own.
const OWN: [&str; 3] = ["pts", "shm", "mqueue"];
/// How deep the host's `/dev` is copied for privileged containers.
const DEPTH: u32 = 4;

/// Fills a fresh `/dev`; a privileged container gets all nodes of the host besides.
pub fn populate(dev: &Root, privileged: bool) -> Step<()> {
    let umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let result = populate_unmasked(dev, privileged);
    nix::sys::stat::umask(umask);
    result
}

fn populate_unmasked(dev: &Root, privileged: bool) -> Step<()> {
    for (name, major, minor) in STANDARD {
        let number = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(dev.as_fd(), name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), number)
            .during(format_args!("make /dev/{name}"))?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, dev.as_fd(), name).during(format_args!("link /dev/{name}"))?;
    }
    if privileged {
        copy_nodes(Path::new("/dev"), dev, DEPTH);
    }
    Ok(())
}

/// Which device of the host this is, and what may be done with it.
pub fn rule(device: &Device) -> io::Result<Rule> {
    let stat = stat(device)?;
    let access = if device.read_only { Access::Read } else { Access::ReadWrite };
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let block = FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice;
    Ok(Rule { block, major: Some(major), minor: Some(minor), access })
}

/// The host's node of a device.
fn stat(device: &Device) -> io::Result<Stat> {
    let stat = rustix::fs::stat(&device.source)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice | FileType::CharacterDevice => Ok(stat),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a device")),
    }
}

/// Looks at the host's nodes, while they are in sight.
pub fn find<'a>(devices: &'a [Device]) -> Step<Vec<(&'a Device, Stat)>> {
    let look = |device: &'a Device| {
        let Device { source, target, .. } = device;
        let (source, target) = (source.display().to_string(), target.display().to_string());
        stat(device).during(format_args!("find device {source:?} for {target:?}")).map(|stat| (device, stat))
    };
    devices.iter().map(look).collect()
}

/// A node like the host's, as a mount of its own: wherever it is attached, it is in a file system that may hold devices.
/// `dev` is the container's, where it has a name until [`forget`].
pub fn node(dev: &Root, number: usize, device: &Device, like: &Stat) -> Step<OwnedFd> {
    let making = format!("make device {:?}", device.target.display().to_string());
    let name = name(number);
    let writable = if device.read_only { 0o222 } else { 0 };
    let mode = Mode::from_raw_mode(like.st_mode & 0o777 & !writable);
    let kind = FileType::from_raw_mode(like.st_mode);
    rustix::fs::mknodat(dev.as_fd(), &name, kind, Mode::empty(), like.st_rdev).during(&making)?;
    let (owner, group) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::chownat(dev.as_fd(), &name, Some(owner), Some(group), nofollow).during(&making)?;
    rustix::fs::chmodat(dev.as_fd(), &name, mode, AtFlags::empty()).during(&making)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(dev.as_fd(), &name, flags, Mode::empty()).during(&making)?;
    mount::clone_fd(made.as_fd()).during(&making)
}

/// Takes away the name of a node that is attached elsewhere: before that, it could not be.
pub fn forget(dev: &Root, number: usize) -> Step<()> {
    rustix::fs::unlinkat(dev.as_fd(), name(number), AtFlags::empty()).during("tidy up /dev")
}

fn name(number: usize) -> String {
    format!(".new-device-{number}")
}

/// Copies device nodes and directories. A node that vanishes or exists already is passed over.
fn copy_nodes(from: &Path, to: &Root, depth: u32) {
    let Ok(entries) = fs::read_dir(from) else { return };
    for entry in entries.flatten() {
        let (Ok(metadata), name) = (entry.metadata(), entry.file_name()) else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() && depth > 0 && !OWN.iter().any(|own| name == *own) {
            if let Ok(directory) = to.mkdir_all(&name, 0o755) {
                copy_nodes(&entry.path(), &directory, depth - 1);
            }
        } else if kind.is_char_device() || kind.is_block_device() {
            let kind = if kind.is_char_device() { FileType::CharacterDevice } else { FileType::BlockDevice };
            let mode = Mode::from_raw_mode(metadata.mode() & 0o7777);
            let _ = rustix::fs::mknodat(to.as_fd(), &name, kind, mode, metadata.rdev());
        }
    }
}
