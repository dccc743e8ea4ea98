//! One layer's tar stream into a directory: ownership, modes, times, links, xattrs, whiteouts; and no trust.
//!
//! Every path is resolved inside the directory by the kernel. What the archive could use to reach out of it, or
//! to say one thing in a header and another in an extension, ends the unpacking with an error.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use tar::EntryType;

use super::tarball::{self, Entry, Reader};
use crate::sys::path::Root;

/// What a layer may not exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries.
    pub entries: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes of one path.
    pub path: usize,
    /// Names in one path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 4_000_000, bytes: 256 << 30, path: 4096, depth: 256 }
    }
}

/// Why a layer was refused or could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is not acceptable.
    #[error("entry {path:?}: {reason}")]
    Refused {
        /// The entry's path as the archive has it.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The archive cannot be read.
    #[error("cannot read the archive: {0}")]
    Read(io::Error),
    /// The directory cannot be written.
    #[error("entry {path:?}: cannot {what}: {source}")]
    Write {
        /// The entry's path.
        path: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The prefix of names that hide what lower layers have (OCI image specification, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// The name that hides all that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How overlayfs marks such a directory.
pub(super) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// How many parent directories are kept open.
const OPEN_PARENTS: usize = 64;

impl From<tarball::Error> for Error {
    fn from(error: tarball::Error) -> Error {
        match error {
            tarball::Error::Refused { path, reason } => Error::Refused { path, reason },
            tarball::Error::Read(source) => Error::Read(source),
        }
    }
}

/// What a layer turned out to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Bytes of its files.
    pub bytes: u64,
    /// Directories that it has no entry for, only things in them: they have no attributes of their own.
    pub implied: BTreeSet<PathBuf>,
}

/// Unpacks an uncompressed layer into `directory`, which must be empty.
pub fn unpack(stream: impl Read, directory: &Path, limits: Limits) -> Result<Contents, Error> {
    let root = Root::open(directory).map_err(|source| Error::Write {
        path: directory.display().to_string(),
        what: "open the target directory",
        source,
    })?;
    let mut unpacker = Unpacker {
        root,
        limits,
        entries: 0,
        bytes: 0,
        parents: HashMap::new(),
        times: Vec::new(),
        implied: BTreeSet::new(),
    };
    let mut reader = Reader::new(stream);
    while let Some(entry) = reader.entry()? {
        unpacker.entry(entry, &mut reader)?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: Root,
    limits: Limits,
    entries: u64,
    bytes: u64,
    parents: HashMap<PathBuf, Root>,
    /// Directories' times, set last as filling a directory changes them.
    times: Vec<(PathBuf, Timestamps)>,
    implied: BTreeSet<PathBuf>,
}

/// An entry, its names checked.
struct Item {
    entry: Entry,
    path: PathBuf,
    shown: String,
    link: Option<PathBuf>,
}

fn refused(path: &str, reason: impl Into<String>) -> Error {
    Error::Refused { path: path.to_owned(), reason: reason.into() }
}

/// A path of the archive as a path below the root; `.` and `./` are the root itself.
fn relative(bytes: &[u8], limits: Limits) -> Result<PathBuf, String> {
    if bytes.len() > limits.path {
        return Err(format!("path is longer than {} bytes", limits.path));
    }
    if bytes.contains(&0) {
        return Err("path holds a zero byte".to_owned());
    }
    let mut clean = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(bytes)).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("path holds \"..\"".to_owned()),
            Component::RootDir | Component::Prefix(_) => return Err("path is absolute".to_owned()),
        }
    }
    if clean.components().count() > limits.depth {
        return Err(format!("path has more than {} names", limits.depth));
    }
    Ok(clean)
}

impl Item {
    fn check(entry: Entry, limits: Limits) -> Result<Item, Error> {
        let shown = String::from_utf8_lossy(&entry.path).into_owned();
        let fail = |reason: String| refused(&shown, reason);
        let link = match &entry.link {
            Some(bytes) if entry.kind == EntryType::Link => {
                Some(relative(bytes, limits).map_err(|reason| {
                    fail(format!("hard link to {:?}: {reason}", String::from_utf8_lossy(bytes)))
                })?)
            }
            Some(bytes) => Some(PathBuf::from(OsStr::from_bytes(bytes))),
            None => None,
        };
        let path = relative(&entry.path, limits).map_err(fail)?;
        if path.as_os_str().is_empty() && entry.kind != EntryType::Directory {
            return Err(refused(&shown, "it names the root, which must be a directory"));
        }
        Ok(Item { entry, path, shown, link })
    }

    fn times(&self) -> Timestamps {
        let (seconds, nanos) = self.entry.mtime;
        let at = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
        Timestamps { last_access: at, last_modification: at }
    }

    fn owner(&self) -> (Option<Uid>, Option<Gid>) {
        (Some(Uid::from_raw(self.entry.uid)), Some(Gid::from_raw(self.entry.gid)))
    }

    fn mode(&self) -> Mode {
        Mode::from_raw_mode(self.entry.mode)
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Error + '_ {
        move |source| Error::Write { path: self.shown.clone(), what, source }
    }
}

fn kernel<T>(result: rustix::io::Result<T>) -> io::Result<T> {
    result.map_err(Into::into)
}

impl Unpacker {
    fn entry(&mut self, entry: Entry, content: &mut impl Read) -> Result<(), Error> {
        let item = Item::check(entry, self.limits)?;
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(refused(
                &item.shown,
                format!("the layer has more than {} entries", self.limits.entries),
            ));
        }
        let Some(name) = item.path.file_name().map(OsStr::to_owned) else {
            // The root directory itself.
            let here = self.root.try_clone().map_err(item.failed("open the root"))?;
            return self.directory_metadata(&item, &here);
        };
        let parent_path = item.path.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.parent(&parent_path).map_err(item.failed("make its parent directory"))?;
        if name.as_bytes() == OPAQUE {
            return mark_opaque(&parent).map_err(item.failed("mark opaque"));
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return whiteout(&item, &parent, hidden);
        }
        self.make(&item, &parent, &name, content)
    }

    /// A directory below the root, made when missing (as layers may leave parents out).
    fn parent(&mut self, path: &Path) -> io::Result<Root> {
        if let Some(known) = self.parents.get(path) {
            return known.try_clone();
        }
        let open = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let made = match self.root.open_dir(open) {
            Ok(there) => there,
            Err(_) => self.make_parents(path)?,
        };
        if self.parents.len() >= OPEN_PARENTS {
            self.parents.clear();
        }
        self.parents.insert(path.to_owned(), made.try_clone()?);
        Ok(made)
    }

    fn make_parents(&mut self, path: &Path) -> io::Result<Root> {
        let mut prefixes: Vec<&Path> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        prefixes.reverse();
        for prefix in prefixes {
            match self.root.stat(prefix) {
                Ok(stat) if is_whiteout(stat.st_mode, stat.st_rdev) => {
                    // The layer hides what was below this name and puts a directory of its own there.
                    let (parent, name) = self.root.parent(prefix)?;
                    rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::empty())?;
                    mark_opaque(&self.root.mkdir_all(prefix, 0o755)?)?;
                    self.implied.insert(prefix.to_owned());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.implied.insert(prefix.to_owned());
                }
                _ => {}
            }
        }
        self.root.mkdir_all(path, 0o755)
    }

    fn make(
        &mut self,
        item: &Item,
        parent: &Root,
        name: &OsStr,
        content: &mut impl Read,
    ) -> Result<(), Error> {
        match item.entry.kind {
            EntryType::Directory => {
                let hidden = self.clear(item, parent, name, true)?;
                match rustix::fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(item.failed("make the directory")(error.into())),
                }
                let here = parent.open_dir(name).map_err(item.failed("open the directory"))?;
                if hidden {
                    // A whiteout or a file hid what lower layers have here; a directory must go on doing so.
                    mark_opaque(&here).map_err(item.failed("mark opaque"))?;
                }
                self.directory_metadata(item, &here)
            }
            EntryType::Regular | EntryType::Continuous => self.file(item, parent, name, content),
            EntryType::Symlink => {
                let target =
                    item.link.as_ref().ok_or_else(|| refused(&item.shown, "a symlink to nothing"))?;
                self.clear(item, parent, name, false)?;
                kernel(rustix::fs::symlinkat(target.as_path(), parent.as_fd(), name))
                    .map_err(item.failed("make the symlink"))?;
                self.metadata(item, parent, name, true)
            }
            EntryType::Link => {
                let target =
                    item.link.as_ref().ok_or_else(|| refused(&item.shown, "a hard link to nothing"))?;
                self.hard_link(item, parent, name, target)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let kind = match item.entry.kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                if item.entry.kind == EntryType::Char && item.entry.device == (0, 0) {
                    return Err(refused(
                        &item.shown,
                        "a character device 0,0 would hide a file of a lower layer",
                    ));
                }
                self.clear(item, parent, name, false)?;
                // Roots of containers are mounted without devices: the node stands there and opens nothing.
                let device = rustix::fs::makedev(item.entry.device.0, item.entry.device.1);
                kernel(rustix::fs::mknodat(parent.as_fd(), name, kind, Mode::from_raw_mode(0o600), device))
                    .map_err(item.failed("make the node"))?;
                self.metadata(item, parent, name, false)
            }
            EntryType::GNUSparse => Err(refused(&item.shown, "sparse files are not supported in layers")),
            other => Err(refused(
                &item.shown,
                format!("entry type {:?} is not supported in layers", other.as_byte() as char),
            )),
        }
    }

    /// Makes room for a name: a later entry replaces an earlier one, but a directory stays for a directory. Answers
    /// whether anything was removed.
    fn clear(
        &mut self,
        item: &Item,
        parent: &Root,
        name: &OsStr,
        keep_directory: bool,
    ) -> Result<bool, Error> {
        let found = match rustix::fs::statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(rustix::io::Errno::NOENT) => return Ok(false),
            Err(error) => return Err(item.failed("look at what is there")(error.into())),
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind == FileType::Directory && keep_directory {
            return Ok(false);
        }
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            // Paths through this name lead somewhere else from here on.
            self.parents.clear();
        }
        if kind == FileType::Directory {
            std::fs::remove_dir_all(parent.descriptor_path().join(name))
                .map_err(item.failed("replace the directory"))?;
        } else {
            kernel(rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::empty()))
                .map_err(item.failed("replace what is there"))?;
        }
        Ok(true)
    }

    fn file(
        &mut self,
        item: &Item,
        parent: &Root,
        name: &OsStr,
        content: &mut impl Read,
    ) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(item.entry.size);
        if self.bytes > self.limits.bytes {
            return Err(refused(
                &item.shown,
                format!("the layer unpacks to more than {} bytes", self.limits.bytes),
            ));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let create = || rustix::fs::openat(parent.as_fd(), name, flags, Mode::from_raw_mode(0o600));
        let opened = match create() {
            Err(rustix::io::Errno::EXIST) => {
                self.clear(item, parent, name, false)?;
                create()
            }
            other => other,
        };
        let mut file = std::fs::File::from(opened.map_err(|e| item.failed("make the file")(e.into()))?);
        copy(content, &mut file, item)?;
        let fd = file.as_fd();
        let (user, group) = item.owner();
        kernel(rustix::fs::fchown(fd, user, group)).map_err(item.failed("set the owner"))?;
        // After the owner: changing that drops the set-user-id bits.
        kernel(rustix::fs::fchmod(fd, item.mode())).map_err(item.failed("set the mode"))?;
        for (key, value) in wanted(&item.entry.xattrs) {
            kernel(rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()))
                .map_err(item.failed("set an extended attribute"))?;
        }
        kernel(rustix::fs::futimens(fd, &item.times())).map_err(item.failed("set the time"))
    }

    fn hard_link(&mut self, item: &Item, parent: &Root, name: &OsStr, target: &Path) -> Result<(), Error> {
        let fail = item.failed("make the hard link");
        if target == item.path {
            return Ok(());
        }
        // `parent` follows no symlink out of the root, and the last name is linked itself, never what it points to.
        let (from, last) = self.root.parent(target).map_err(&fail)?;
        let stat =
            rustix::fs::statat(from.as_fd(), last, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| fail(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(refused(&item.shown, "a hard link to a directory"));
        }
        self.clear(item, parent, name, false)?;
        kernel(rustix::fs::linkat(from.as_fd(), last, parent.as_fd(), name, AtFlags::empty())).map_err(fail)
    }

    fn metadata(&self, item: &Item, parent: &Root, name: &OsStr, symlink: bool) -> Result<(), Error> {
        let at = AtFlags::SYMLINK_NOFOLLOW;
        let owner = item.owner();
        kernel(rustix::fs::chownat(parent.as_fd(), name, owner.0, owner.1, at))
            .map_err(item.failed("set the owner"))?;
        if !symlink {
            kernel(rustix::fs::chmodat(parent.as_fd(), name, item.mode(), AtFlags::empty()))
                .map_err(item.failed("set the mode"))?;
        }
        kernel(rustix::fs::utimensat(parent.as_fd(), name, &item.times(), at))
            .map_err(item.failed("set the time"))
    }

    fn directory_metadata(&mut self, item: &Item, here: &Root) -> Result<(), Error> {
        let path = here.descriptor_path();
        let owner = item.owner();
        kernel(rustix::fs::chownat(CWD, &path, owner.0, owner.1, AtFlags::empty()))
            .map_err(item.failed("set the owner"))?;
        kernel(rustix::fs::chmodat(CWD, &path, item.mode(), AtFlags::empty()))
            .map_err(item.failed("set the mode"))?;
        for (key, value) in wanted(&item.entry.xattrs) {
            kernel(rustix::fs::setxattr(&path, key, value, XattrFlags::empty()))
                .map_err(item.failed("set an extended attribute"))?;
        }
        self.times.push((item.path.clone(), item.times()));
        self.implied.remove(&item.path);
        Ok(())
    }

    fn finish(self) -> Result<Contents, Error> {
        for (path, times) in self.times.iter().rev() {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            // A directory that a later entry replaced has no time of its own any more.
            let Ok(here) = self.root.open_dir(path) else { continue };
            let set = rustix::fs::utimensat(CWD, here.descriptor_path(), times, AtFlags::empty());
            kernel(set).map_err(|source| Error::Write {
                path: path.display().to_string(),
                what: "set the time",
                source,
            })?;
        }
        Ok(Contents { bytes: self.bytes, implied: self.implied })
    }
}

/// Whether overlayfs takes a node for a whiteout. Layers cannot bring such a device themselves.
pub(super) fn is_whiteout(mode: u32, device: u64) -> bool {
    FileType::from_raw_mode(mode) == FileType::CharacterDevice && device == 0
}

fn mark_opaque(directory: &Root) -> io::Result<()> {
    let path = directory.descriptor_path();
    kernel(rustix::fs::setxattr(path, OPAQUE_XATTR, b"y", XattrFlags::empty()))
}

/// Hides what lower layers have under a name. What this layer has there itself stays, in whichever order the two come:
/// a file hides those below anyway, a directory is closed to them.
fn whiteout(item: &Item, parent: &Root, hidden: &[u8]) -> Result<(), Error> {
    // Names that begin with a second prefix are the bookkeeping of an old file system.
    if hidden.starts_with(WHITEOUT) {
        return Ok(());
    }
    if hidden.is_empty() || hidden == b"." || hidden == b".." {
        return Err(refused(&item.shown, "it hides no name"));
    }
    let name = OsStr::from_bytes(hidden);
    match rustix::fs::statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(own) if FileType::from_raw_mode(own.st_mode) == FileType::Directory => {
            parent.open_dir(name).and_then(|here| mark_opaque(&here)).map_err(item.failed("mark opaque"))
        }
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::NOENT) => {
            let mode = Mode::from_raw_mode(0);
            kernel(rustix::fs::mknodat(parent.as_fd(), name, FileType::CharacterDevice, mode, 0))
                .map_err(item.failed("make a whiteout"))
        }
        Err(error) => Err(item.failed("look at what is there")(error.into())),
    }
}

/// Extended attributes that a layer may bring; those of the overlay file system itself are not its to set.
fn wanted(xattrs: &[(String, Vec<u8>)]) -> impl Iterator<Item = (&str, &[u8])> {
    xattrs
        .iter()
        .filter(|(key, _)| key == "security.capability" || key.starts_with("user."))
        .filter(|(key, _)| !key.starts_with("user.overlay."))
        .map(|(key, value)| (key.as_str(), value.as_slice()))
}

/// Copies exactly the entry's bytes.
fn copy(content: &mut impl Read, file: &mut std::fs::File, item: &Item) -> Result<(), Error> {
    let mut buffer = [0u8; 64 << 10];
    let mut left = item.entry.size;
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let got = content.read(&mut buffer[..want]).map_err(Error::Read)?;
        if got == 0 {
            return Err(Error::Read(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive ends inside a file",
            )));
        }
        file.write_all(&buffer[..got]).map_err(item.failed("write the file"))?;
        left -= got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
