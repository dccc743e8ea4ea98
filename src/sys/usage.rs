//! How much of a disk a tree uses, whatever those who may write to it do meanwhile.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};

use super::removal;

/// A directory on the way from the top to where the walk stands.
struct Level {
    id: (u64, u64),
    /// Names in it that are still to be counted.
    names: Vec<CString>,
}

/// The bytes on disk of all that is in a directory; what vanishes meanwhile does not count, none there is 0.
///
/// No step follows a symlink, enters a mount or names more than one component, and a single descriptor is open at a
/// time: neither depth nor links lead the walk astray. The way back is `..`, which must be where the walk came from:
/// where it is not, directories are being moved, and what was counted until then is the answer.
pub fn of_directory(directory: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = match rustix::fs::openat(CWD, directory, flags, Mode::empty()) {
        Ok(top) => top,
        Err(rustix::io::Errno::NOENT) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let (mut bytes, mut seen) = (0, HashSet::new());
    let mut way = vec![level(&here)?];
    while let Some(last) = way.last_mut() {
        let Some(name) = last.names.pop() else {
            way.pop();
            if let Some(parent) = way.last() {
                here = rustix::fs::openat(&here, c"..", flags, Mode::empty())?;
                if id(&rustix::fs::fstat(&here)?) != parent.id {
                    break;
                }
            }
            continue;
        };
        let Ok(stat) = rustix::fs::statat(&here, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink == 1 || is_directory || seen.insert(id(&stat)) {
            bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        if is_directory
            && let Ok(child) = removal::open(&here, &name)
            && let Ok(below) = level(&child)
        {
            way.push(below);
            here = child;
        }
    }
    Ok(bytes)
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn level(directory: &OwnedFd) -> io::Result<Level> {
    Ok(Level { id: id(&rustix::fs::fstat(directory)?), names: removal::names(directory, c".")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_count_once_at_any_depth_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, top) = (dir.path().join("outside"), dir.path().join("top"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("big"), vec![1; 1 << 20]).unwrap();
        assert_eq!(of_directory(&top).unwrap(), 0);
        fs::create_dir(&top).unwrap();
        symlink(&outside, top.join("link")).unwrap();
        assert!(of_directory(&top).unwrap() < 1 << 16);
        fs::write(top.join("file"), vec![1; 1 << 18]).unwrap();
        fs::hard_link(top.join("file"), top.join("again")).unwrap();
        let used = of_directory(&top).unwrap();
        assert!((1 << 18..1 << 19).contains(&used), "{used}");
        // Deeper than any path may be long.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = rustix::fs::openat(CWD, &top, flags, Mode::empty()).unwrap();
        let name = "d".repeat(250);
        for _ in 0..40 {
            rustix::fs::mkdirat(&here, name.as_str(), Mode::from_raw_mode(0o755)).unwrap();
            here = rustix::fs::openat(&here, name.as_str(), flags, Mode::empty()).unwrap();
        }
        let file = rustix::fs::openat(
            &here,
            "file",
            OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )
        .unwrap();
        rustix::io::write(&file, &vec![1; 1 << 20]).unwrap();
        let used = of_directory(&top).unwrap();
        assert!(used >= (1 << 20) + (1 << 18), "{used}");
        removal::tree(&top).unwrap();
    }
}
