//! The contents of a container's `/dev`.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FileType, Mode};

use super::child::{During, Step};
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
