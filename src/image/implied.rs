//! Directories that a layer holds things in without having an entry for them.
//!
//! A layer that brings only `tmp/x` says nothing of `/tmp`, which keeps the mode and owner that lower layers gave it. As
//! layers are unpacked apart and shared, its directory there is a plain one, and as the upper one it would win. So an
//! image gets one more layer on top, of nothing but such directories with the attributes that they ought to have.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use serde::Serialize;

use super::unpack::OPAQUE_XATTR;
use crate::sys::path::Root;

/// One directory as it ought to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Directory {
    path: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    xattrs: BTreeMap<String, Vec<u8>>,
}

impl Directory {
    fn read(root: &Root, path: &Path, stat: &Stat) -> io::Result<Directory> {
        Ok(Directory {
            path: path.as_os_str().as_bytes().to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            #[allow(clippy::useless_conversion)] // The fields' widths differ between machines.
            mtime: (stat.st_mtime.into(), i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            xattrs: xattrs(&root.open_dir(path)?)?,
        })
    }

    fn looks_like(&self, other: &Directory) -> bool {
        (self.mode, self.uid, self.gid, &self.xattrs) == (other.mode, other.uid, other.gid, &other.xattrs)
    }
}

/// The attributes that users of the image see: `user.*`, but for overlayfs's own.
fn xattrs(directory: &Root) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let path = directory.descriptor_path();
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::listxattr(&path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
        if name.starts_with("user.") && !name.starts_with("user.overlay.") {
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::getxattr(&path, name, &mut value)?;
            found.insert(name.to_owned(), value[..length].to_vec());
        }
    }
    Ok(found)
}

/// Paths as bytes, zero bytes between them.
pub fn encode(paths: &BTreeSet<PathBuf>) -> Vec<u8> {
    let parts: Vec<&[u8]> = paths.iter().map(|path| path.as_os_str().as_bytes()).collect();
    parts.join(&0)
}

/// The other way round.
pub fn decode(bytes: &[u8]) -> BTreeSet<PathBuf> {
    let parts = bytes.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| PathBuf::from(std::ffi::OsString::from_vec(part.to_vec()))).collect()
}

/// A layer's directory and what it implies in it.
type Tree = (PathBuf, BTreeSet<PathBuf>);

/// What a layer on top of these (lowest first) must have; empty when all directories are as they ought to be.
pub fn missing(layers: &[Tree]) -> io::Result<Vec<Directory>> {
    let candidates: BTreeSet<&PathBuf> = layers.iter().flat_map(|(_, implied)| implied).collect();
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let roots = layers
        .iter()
        .map(|(path, implied)| Ok((Root::open(path)?, implied)))
        .collect::<io::Result<Vec<(Root, &BTreeSet<PathBuf>)>>>()?;
    let mut wanted: BTreeMap<&Path, Directory> = BTreeMap::new();
    for path in candidates {
        let Some((shown, ought)) = look(&roots, path)? else { continue };
        if shown.looks_like(&ought) {
            continue;
        }
        wanted.insert(path, ought);
        for ancestor in path.ancestors().skip(1).filter(|a| !a.as_os_str().is_empty()) {
            if let Some((_, ought)) = look(&roots, ancestor)? {
                wanted.insert(ancestor, ought);
            }
        }
    }
    Ok(wanted.into_values().collect())
}

/// A directory as these layers show it, and as the topmost entry for it has it.
fn look(layers: &[(Root, &BTreeSet<PathBuf>)], path: &Path) -> io::Result<Option<(Directory, Directory)>> {
    let mut shown: Option<Directory> = None;
    for (root, implied) in layers.iter().rev() {
        let (found, last) = look_in(root, path)?;
        match found {
            Found::Nothing => {}
            Found::Other => break,
            Found::Directory(stat) => {
                let here = Directory::read(root, path, &stat)?;
                let shown = shown.get_or_insert_with(|| here.clone());
                if !implied.contains(path) {
                    return Ok(Some((shown.clone(), here)));
                }
            }
        }
        if last {
            break;
        }
    }
    Ok(shown.map(|directory| (directory.clone(), directory)))
}

enum Found {
    Nothing,
    Directory(Box<Stat>),
    /// A file, link or whiteout at the path or on the way: lower layers do not count.
    Other,
}

/// What one layer has at a path, no link followed; and whether an opaque directory above it ends the search.
fn look_in(root: &Root, path: &Path) -> io::Result<(Found, bool)> {
    let mut prefixes: Vec<&Path> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
    prefixes.reverse();
    let mut opaque = false;
    for prefix in prefixes {
        match root.stat(prefix) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) != FileType::Directory => {
                return Ok((Found::Other, true));
            }
            Ok(stat) if prefix == path => return Ok((Found::Directory(Box::new(stat)), opaque)),
            Ok(_) => opaque |= is_opaque(&root.open_dir(prefix)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
    }
    Ok((Found::Nothing, opaque))
}

fn is_opaque(directory: &Root) -> bool {
    let mut value = [0; 8];
    let read = rustix::fs::getxattr(directory.descriptor_path(), OPAQUE_XATTR, &mut value);
    read.is_ok_and(|length| &value[..length] == b"y")
}

/// Makes a layer of these directories, parents before what is in them.
pub fn make(layer: &Path, directories: &[Directory]) -> io::Result<()> {
    fs::create_dir(layer)?;
    fs::set_permissions(layer, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let root = Root::open(layer)?;
    let path = |directory: &Directory| PathBuf::from(OsStr::from_bytes(&directory.path).to_owned());
    for directory in directories {
        let here = root.mkdir_all(path(directory), 0o755)?;
        let at = here.descriptor_path();
        let (user, group) = (Uid::from_raw(directory.uid), Gid::from_raw(directory.gid));
        rustix::fs::chownat(CWD, &at, Some(user), Some(group), AtFlags::empty())?;
        rustix::fs::chmodat(CWD, &at, Mode::from_raw_mode(directory.mode), AtFlags::empty())?;
        for (name, value) in &directory.xattrs {
            rustix::fs::setxattr(&at, name.as_str(), value, XattrFlags::empty())?;
        }
    }
    // Last, as filling a directory changes its time.
    for directory in directories {
        let fd = root.open_at(path(directory), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let (seconds, nanos) = directory.mtime;
        let at = Timespec { tv_sec: seconds, tv_nsec: nanos };
        rustix::fs::futimens(&fd, &Timestamps { last_access: at, last_modification: at })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    /// A layer: directories with a mode of their own, files with parents made, and what of it is implied.
    fn tree(base: &Path, name: &str, explicit: &[(&str, u32)], files: &[&str], implied: &[&str]) -> Tree {
        let layer = base.join(name);
        fs::create_dir(&layer).unwrap();
        for file in files {
            fs::create_dir_all(layer.join(file).parent().unwrap()).unwrap();
            fs::write(layer.join(file), "").unwrap();
        }
        for (path, mode) in explicit {
            fs::create_dir_all(layer.join(path)).unwrap();
            fs::set_permissions(layer.join(path), fs::Permissions::from_mode(*mode)).unwrap();
        }
        for path in implied {
            fs::set_permissions(layer.join(path), fs::Permissions::from_mode(0o755)).unwrap();
        }
        (layer, implied.iter().map(PathBuf::from).collect())
    }

    fn modes(found: &[Directory]) -> Vec<(String, u32)> {
        found.iter().map(|d| (String::from_utf8_lossy(&d.path).into_owned(), d.mode)).collect()
    }

    #[test]
    fn the_topmost_entry_for_a_directory_decides() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        let bottom =
            tree(base, "0", &[("tmp", 0o1777), ("a", 0o700), ("a/b", 0o711), ("etc", 0o755)], &[], &[]);
        let middle = tree(base, "1", &[("tmp", 0o1770)], &["a/b/x", "etc/y"], &["a", "a/b", "etc"]);
        let top = tree(base, "2", &[], &["tmp/z", "new/w"], &["tmp", "new"]);
        let found = missing(&[bottom.clone(), middle.clone(), top]).unwrap();
        let expected = [("a", 0o700), ("a/b", 0o711), ("tmp", 0o1770)];
        assert_eq!(modes(&found), expected.map(|(path, mode)| (path.to_owned(), mode)));
        assert!(missing(&[bottom.clone(), tree(base, "3", &[("tmp", 0o700)], &[], &[])]).unwrap().is_empty());
        // A file in between ends what was below.
        let file = tree(base, "4", &[], &["tmp"], &[]);
        let again = tree(base, "5", &[], &["tmp/z"], &["tmp"]);
        assert!(missing(&[bottom, file, again]).unwrap().is_empty());
    }

    #[test]
    fn the_layer_has_the_directories_as_they_ought_to_be() {
        let base = tempfile::tempdir().unwrap();
        let bottom = tree(base.path(), "0", &[("a", 0o700), ("a/b", 0o1777)], &[], &[]);
        let top = tree(base.path(), "1", &[], &["a/b/x"], &["a", "a/b"]);
        let found = missing(&[bottom.clone(), top]).unwrap();
        let made = base.path().join("made");
        make(&made, &found).unwrap();
        for path in ["a", "a/b"] {
            let (is, ought) =
                (fs::metadata(made.join(path)).unwrap(), fs::metadata(bottom.0.join(path)).unwrap());
            assert_eq!(
                (is.mode(), is.uid(), is.mtime()),
                (ought.mode(), ought.uid(), ought.mtime()),
                "{path}"
            );
        }
    }

    #[test]
    fn lists_of_paths_are_kept_whole() {
        let paths: BTreeSet<PathBuf> = ["a", "a/b\nc"].into_iter().map(PathBuf::from).collect();
        assert_eq!(decode(&encode(&paths)), paths);
        assert!(decode(b"").is_empty());
    }
}
