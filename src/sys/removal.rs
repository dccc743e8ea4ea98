//! Removing trees without ever going through a mount: what is mounted in a tree is not the tree's.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use super::mount;

/// Directories below each other that are held open at once; what lies deeper is moved up first.
const DEPTH: usize = 64;

/// Removes a directory after taking away what is mounted at and below it; none there is success.
///
/// A mount that comes back meanwhile is an error, and what is behind it stays as it is.
pub fn tree_with_mounts(directory: &Path) -> io::Result<()> {
    for point in mount::below(directory)?.iter().rev() {
        mount::detach(point)?;
    }
    tree(directory)
}

/// Removes a directory and all in it; none there is success, a mount point at or in it an error.
pub fn tree(directory: &Path) -> io::Result<()> {
    let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", directory.display()));
    let Some(name) = directory.file_name() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let name = CString::new(name.as_bytes())?;
    let parent = directory.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(about(error.into())),
    };
    remove(parent.as_fd(), &name, None, 0, &mut 0).map_err(about)
}

/// Removes all that is in a directory, which stays; one that a link leads to is that directory. A mount point in it is an
/// error.
pub fn contents(directory: &Path) -> io::Result<()> {
    let name = CString::new(directory.as_os_str().as_bytes())?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top =
        rustix::fs::openat(CWD, directory, flags, Mode::empty()).map_err(|error| about(error, &name))?;
    let mut moved = 0;
    loop {
        let names = names(&top, &name)?;
        if names.is_empty() {
            return Ok(());
        }
        for child in &names {
            remove(top.as_fd(), child, Some(top.as_fd()), 1, &mut moved)?;
        }
    }
}

/// Removes one name. `top` is the directory that everything is in; `None` for that directory itself. `moved` counts what
/// was moved up into it, so that no name is tried twice.
fn remove(
    parent: BorrowedFd<'_>,
    name: &CStr,
    top: Option<BorrowedFd<'_>>,
    depth: usize,
    moved: &mut u64,
) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // A directory, whatever POSIX and Linux call it.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(about(error, name)),
    }
    if depth == DEPTH
        && let Some(top) = top
    {
        return move_up(parent, name, top, moved);
    }
    let directory = open(parent, name)?;
    let inner = top.unwrap_or(directory.as_fd());
    loop {
        let names = names(&directory, name)?;
        if names.is_empty() {
            break;
        }
        for child in &names {
            remove(directory.as_fd(), child, Some(inner), depth + 1, moved)?;
        }
        // Only the top gets new names meanwhile: those that were moved up into it.
        if top.is_some() {
            break;
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(about(error, name)),
    }
}

/// Opens a plain directory on the same mount as its parent.
pub(super) fn open(parent: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        return match rustix::fs::openat2(&parent, name, flags, Mode::empty(), resolve) {
            Ok(directory) => Ok(directory),
            // The kernel could not rule out a rename race: it asks to be asked again.
            Err(Errno::AGAIN) => continue,
            Err(Errno::XDEV) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!("{} is a mount point; what is behind it was left alone", name.to_string_lossy()),
            )),
            Err(error) => Err(about(error, name)),
        };
    }
}

/// The names in a directory, which errors call `name`.
pub(super) fn names(directory: &OwnedFd, name: &CStr) -> io::Result<Vec<CString>> {
    let entries = Dir::read_from(directory).map_err(|error| about(error, name))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| about(error, name))?;
        if ![c".", c".."].contains(&entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Gives a directory a new name in the topmost one, whose names are read again.
fn move_up(parent: BorrowedFd<'_>, name: &CStr, top: BorrowedFd<'_>, moved: &mut u64) -> io::Result<()> {
    loop {
        let new = format!(".deep-{moved}");
        *moved += 1;
        match rustix::fs::renameat_with(parent, name, top, new.as_str(), RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => continue,
            Err(error) => return Err(about(error, name)),
        }
    }
}

fn about(error: Errno, name: &CStr) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{}: {error}", name.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn trees_go_whole_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (kept, tree_path) = (dir.path().join("kept"), dir.path().join("tree"));
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        fs::create_dir_all(tree_path.join("a/b")).unwrap();
        fs::write(tree_path.join("a/file"), "x").unwrap();
        symlink(&kept, tree_path.join("a/b/link")).unwrap();
        tree(&tree_path).unwrap();
        tree(&tree_path).unwrap();
        tree(&dir.path().join("none/none")).unwrap();
        assert!(!tree_path.exists() && kept.join("file").exists());
        symlink(&kept, &tree_path).unwrap();
        tree(&tree_path).unwrap();
        assert!(!tree_path.is_symlink() && kept.join("file").exists());
    }

    #[test]
    fn contents_go_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("volume/a/b")).unwrap();
        fs::create_dir(at("kept")).unwrap();
        for file in ["kept/file", "volume/.hidden", "volume/..odd", "volume/a/b/file", "plain"] {
            fs::write(at(file), "x").unwrap();
        }
        symlink(at("kept"), at("volume/out")).unwrap();
        symlink(at("kept"), at("volume/a/out")).unwrap();
        symlink(at("volume"), at("link")).unwrap();
        contents(&at("link")).unwrap();
        contents(&at("volume")).unwrap();
        assert_eq!(fs::read_dir(at("volume")).unwrap().count(), 0);
        assert!(at("kept/file").exists());
        assert!(contents(&at("none")).is_err() && contents(&at("plain")).is_err());
    }

    #[test]
    fn trees_may_be_deeper_than_descriptors_last() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        let mut deep = top.join(".deep-0");
        fs::create_dir_all(&deep).unwrap();
        for _ in 0..3 * DEPTH {
            deep.push("d");
            fs::create_dir(&deep).unwrap();
            fs::write(deep.join("f"), "").unwrap();
        }
        let mut other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::rename(&top, other.join("top")).unwrap();
        contents(&other).unwrap();
        assert_eq!(fs::read_dir(&other).unwrap().count(), 0);
        for _ in 0..3 * DEPTH {
            other.push("d");
            fs::create_dir(&other).unwrap();
        }
        tree(&dir.path().join("other")).unwrap();
        assert!(!dir.path().join("other").exists());
    }

    #[test]
    fn what_is_behind_a_mount_stays() {
        if !rustix::process::geteuid().is_root() {
            tracing::warn!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (kept, top) = (dir.path().join("kept"), dir.path().join("top"));
        let point = top.join("volume/mounted");
        fs::create_dir_all(&point).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let mounted = mount::clone_path(&kept).unwrap();
        let at = fs::File::open(&point).unwrap();
        mount::attach(mounted.as_fd(), at.as_fd()).unwrap();
        assert!(point.join("file").exists());
        for refused in [tree(&top), contents(&top)] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("mount point") && kept.join("file").exists(), "{refused}");
        }
        // Through a link to the directory above, too.
        let other = dir.path().join("link");
        symlink(dir.path(), &other).unwrap();
        tree_with_mounts(&other.join("top")).unwrap();
        assert!(!top.exists() && kept.join("file").exists());
    }
}
