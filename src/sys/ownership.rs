//! Giving a tree to a group, whatever those who may write to it do meanwhile.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat};

/// What the group may do with files: read and write.
const FILES: u32 = 0o660;
/// With directories, whose new files are the group's too: enter them besides.
const DIRECTORIES: u32 = 0o2770;

/// Whether a directory itself is a group's already, with all that the group may do (pure).
fn is_given(stat: &Stat, group: u32) -> bool {
    stat.st_gid == group && stat.st_mode & DIRECTORIES == DIRECTORIES
}

/// Whether the top of a tree is a group's already: then all below it may be taken for it, too.
pub fn is_of_group(directory: &Path, group: u32) -> io::Result<bool> {
    Ok(is_given(&rustix::fs::stat(directory)?, group))
}

/// A directory on the way from the top to where the walk stands.
struct Level {
    id: (u64, u64),
    /// Names in it that are still to be given.
    names: Vec<CString>,
}

/// Gives all that is in a directory, and itself, to a group, which may read and write it. No step follows a symlink or
/// enters another file system; what vanishes meanwhile is done.
///
/// However deep it is, a single directory is open at a time. The way back is `..`, which must be where the walk came
/// from: where it is not, directories are being moved, which is an error.
pub fn give_to_group(directory: &Path, group: u32) -> io::Result<()> {
    let top = rustix::fs::openat(CWD, directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let device = rustix::fs::fstat(&top)?.st_dev;
    let Some((mut here, level)) = give(&top, device, group)? else { return Ok(()) };
    let mut way = vec![level];
    while let Some(last) = way.last_mut() {
        let Some(name) = last.names.pop() else {
            way.pop();
            if let Some(parent) = way.last() {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                here = rustix::fs::openat(&here, c"..", flags, Mode::empty())?;
                if id(&rustix::fs::fstat(&here)?) != parent.id {
                    return Err(io::Error::other("directories in it are being moved"));
                }
            }
            continue;
        };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&here, &name, flags, Mode::empty()) {
            Ok(found) => {
                if let Some((inside, level)) = give(&found, device, group)? {
                    here = inside;
                    way.push(level);
                }
            }
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Gives one file; answers what is in it when it is a directory.
fn give(file: &OwnedFd, device: u64, group: u32) -> io::Result<Option<(OwnedFd, Level)>> {
    let stat = rustix::fs::fstat(file)?;
    if stat.st_dev != device {
        return Ok(None);
    }
    let kind = FileType::from_raw_mode(stat.st_mode);
    rustix::fs::chownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    if kind == FileType::Symlink {
        return Ok(None);
    }
    let more = if kind == FileType::Directory { DIRECTORIES } else { FILES };
    // The change of the group may have taken bits away; those of the file before count.
    let mode = Mode::from_raw_mode((stat.st_mode & 0o7777) | more);
    // A descriptor that only names a file cannot be changed itself, but leads to it.
    rustix::fs::chmod(format!("/proc/self/fd/{}", file.as_raw_fd()), mode)?;
    if kind != FileType::Directory {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::openat(file.as_fd(), c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&open)? {
        let name = entry?.file_name().to_owned();
        if ![c".", c".."].contains(&name.as_c_str()) {
            names.push(name);
        }
    }
    Ok(Some((open, Level { id: id(&stat), names })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn all_of_a_tree_is_given_and_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("volume/deep/deeper")).unwrap();
        fs::create_dir_all(at("volume/beside/it")).unwrap();
        for file in ["outside", "volume/deep/deeper/file", "volume/deep/file", "volume/beside/file"] {
            fs::write(at(file), "").unwrap();
            fs::set_permissions(at(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(at("outside"), at("volume/link")).unwrap();
        // Anybody may give a file to a group that is theirs.
        let group = fs::metadata(at("outside")).unwrap().gid();
        assert!(!is_of_group(&at("volume"), group).unwrap());
        give_to_group(&at("volume"), group).unwrap();
        let mode = |path: &str| fs::metadata(at(path)).unwrap().mode() & 0o7777;
        for file in ["volume/deep/deeper/file", "volume/deep/file", "volume/beside/file"] {
            assert_eq!(mode(file), 0o660, "{file}");
        }
        for directory in ["volume", "volume/deep", "volume/deep/deeper", "volume/beside/it"] {
            assert_eq!(mode(directory) & 0o2770, 0o2770, "{directory}");
        }
        assert_eq!(mode("outside"), 0o600);
        assert!(
            is_of_group(&at("volume"), group).unwrap() && !is_of_group(&at("volume"), group + 1).unwrap()
        );
        assert!(give_to_group(&at("absent"), group).is_err());
    }
}
