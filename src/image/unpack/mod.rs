//! One layer's tar stream into a directory: ownership, modes, times, links, xattrs, whiteouts; and no trust.
//!
//! Every path is resolved inside the directory by the kernel. What the archive could use to reach out of it, or
//! to say one thing in a header and another in an extension, ends the unpacking with an error.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use tar::{Archive, Entry, EntryType};

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
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// PAX records that carry extended attributes.
const XATTR: &str = "SCHILY.xattr.";
/// Sizes that a header's octal field cannot hold, so that only an extension can tell them.
const HEADER_SIZE_MAX: u64 = 8 << 30;
/// How many parent directories are kept open.
const OPEN_PARENTS: usize = 64;

/// Unpacks an uncompressed layer into `directory`, which must be empty; answers the bytes of its files.
pub fn unpack(stream: impl Read, directory: &Path, limits: Limits) -> Result<u64, Error> {
    let root = Root::open(directory).map_err(|source| Error::Write {
        path: directory.display().to_string(),
        what: "open the target directory",
        source,
    })?;
    let mut unpacker =
        Unpacker { root, limits, entries: 0, bytes: 0, parents: HashMap::new(), times: Vec::new() };
    let mut archive = Archive::new(stream);
    archive.set_ignore_zeros(false);
    for entry in archive.entries().map_err(Error::Read)? {
        unpacker.entry(entry.map_err(Error::Read)?)?;
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
    times: Vec<(PathBuf, i64)>,
}

/// What an entry says, checked.
struct Item {
    path: PathBuf,
    shown: String,
    kind: EntryType,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    size: u64,
    link: Option<PathBuf>,
    xattrs: Vec<(String, Vec<u8>)>,
    device: (u32, u32),
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
    fn read(entry: &mut Entry<'_, impl Read>, limits: Limits) -> Result<Item, Error> {
        let raw = entry.path_bytes().into_owned();
        let shown = String::from_utf8_lossy(&raw).into_owned();
        let fail = |reason: String| refused(&shown, reason);
        let header = entry.header().clone();
        let number = |result: io::Result<u64>, what: &str| -> Result<u32, Error> {
            let value = result.map_err(|error| fail(format!("{what}: {error}")))?;
            u32::try_from(value).map_err(|_| fail(format!("{what} {value} is out of range")))
        };
        let mut xattrs = Vec::new();
        let (mut pax_uid, mut pax_gid, mut pax_size, mut pax_mtime) = (None, None, None, None);
        if let Some(records) = entry.pax_extensions().map_err(Error::Read)? {
            for record in records {
                let record = record.map_err(Error::Read)?;
                let key =
                    record.key().map_err(|_| fail("an extension has a name that is not UTF-8".into()))?;
                let value = record.value_bytes();
                let parsed = || std::str::from_utf8(value).ok().and_then(|t| t.parse::<u64>().ok());
                match key {
                    "uid" => pax_uid = parsed(),
                    "gid" => pax_gid = parsed(),
                    "size" => {
                        pax_size = Some(parsed().ok_or_else(|| fail("extension size is no number".into()))?)
                    }
                    "mtime" => {
                        pax_mtime = std::str::from_utf8(value)
                            .ok()
                            .and_then(|t| t.split('.').next()?.parse::<i64>().ok());
                    }
                    _ => {
                        if let Some(name) = key.strip_prefix(XATTR) {
                            xattrs.push((name.to_owned(), value.to_vec()));
                        }
                    }
                }
            }
        }
        let in_header = header.entry_size().map_err(|error| fail(format!("size: {error}")))?;
        if let Some(size) = pax_size
            && size != in_header
            && (size < HEADER_SIZE_MAX || size != entry.size())
        {
            return Err(fail(format!("its header says {in_header} bytes, its extension {size}")));
        }
        let kind = header.entry_type();
        let link = match entry.link_name_bytes() {
            Some(bytes) if kind == EntryType::Link => Some(relative(&bytes, limits).map_err(|reason| {
                fail(format!("hard link to {:?}: {reason}", String::from_utf8_lossy(&bytes)))
            })?),
            Some(bytes) => Some(PathBuf::from(OsStr::from_bytes(&bytes))),
            None => None,
        };
        let from_header = |pax: Option<u64>, header: io::Result<u64>| pax.map_or(header, Ok);
        let device = |result: io::Result<Option<u32>>| result.ok().flatten().unwrap_or(0);
        Ok(Item {
            path: relative(&raw, limits).map_err(fail)?,
            kind,
            mode: header.mode().map_err(|error| fail(format!("mode: {error}")))? & 0o7777,
            uid: number(from_header(pax_uid, header.uid()), "uid")?,
            gid: number(from_header(pax_gid, header.gid()), "gid")?,
            mtime: pax_mtime.unwrap_or_else(|| header.mtime().map_or(0, |t| t.min(i64::MAX as u64) as i64)),
            size: entry.size(),
            link,
            xattrs,
            device: (device(header.device_major()), device(header.device_minor())),
            shown,
        })
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> Error + '_ {
        move |source| Error::Write { path: self.shown.clone(), what, source }
    }
}

fn kernel<T>(result: rustix::io::Result<T>) -> io::Result<T> {
    result.map_err(Into::into)
}

impl Unpacker {
    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), Error> {
        if entry.header().entry_type() == EntryType::XGlobalHeader {
            return Ok(());
        }
        let item = Item::read(&mut entry, self.limits)?;
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
            let flags = XattrFlags::empty();
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&parent.as_fd()));
            return kernel(rustix::fs::setxattr(path, OPAQUE_XATTR, b"y", flags))
                .map_err(item.failed("mark opaque"));
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            return self.whiteout(&item, &parent, hidden);
        }
        self.make(&item, &parent, &name, &mut entry)
    }

    /// A directory below the root, made when missing (as layers may leave parents out).
    fn parent(&mut self, path: &Path) -> io::Result<Root> {
        if let Some(known) = self.parents.get(path) {
            return known.try_clone();
        }
        let made =
            self.root.mkdir_all(if path.as_os_str().is_empty() { Path::new(".") } else { path }, 0o755)?;
        if self.parents.len() >= OPEN_PARENTS {
            self.parents.clear();
        }
        self.parents.insert(path.to_owned(), made.try_clone()?);
        Ok(made)
    }

    fn whiteout(&mut self, item: &Item, parent: &Root, hidden: &[u8]) -> Result<(), Error> {
        // Names that begin with a second prefix are the bookkeeping of an old file system.
        if hidden.starts_with(WHITEOUT) {
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(refused(&item.shown, "it hides no name"));
        }
        let name = OsStr::from_bytes(hidden);
        self.clear(item, parent, name, false)?;
        let mode = Mode::from_raw_mode(0);
        kernel(rustix::fs::mknodat(parent.as_fd(), name, FileType::CharacterDevice, mode, 0))
            .map_err(item.failed("make a whiteout"))
    }

    fn make(
        &mut self,
        item: &Item,
        parent: &Root,
        name: &OsStr,
        content: &mut Entry<'_, impl Read>,
    ) -> Result<(), Error> {
        match item.kind {
            EntryType::Directory => {
                self.clear(item, parent, name, true)?;
                match rustix::fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(error) => return Err(item.failed("make the directory")(error.into())),
                }
                let here = parent.open_dir(name).map_err(item.failed("open the directory"))?;
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
                let kind = match item.kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                if item.kind == EntryType::Char && item.device == (0, 0) {
                    return Err(refused(
                        &item.shown,
                        "a character device 0,0 would hide a file of a lower layer",
                    ));
                }
                self.clear(item, parent, name, false)?;
                // Roots of containers are mounted without devices: the node stands there and opens nothing.
                let device = rustix::fs::makedev(item.device.0, item.device.1);
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

    /// Makes room for a name: a later entry replaces an earlier one, but a directory stays for a directory.
    fn clear(&mut self, item: &Item, parent: &Root, name: &OsStr, keep_directory: bool) -> Result<(), Error> {
        let found = match rustix::fs::statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => FileType::from_raw_mode(found.st_mode),
            Err(rustix::io::Errno::NOENT) => return Ok(()),
            Err(error) => return Err(item.failed("look at what is there")(error.into())),
        };
        if found == FileType::Directory {
            if keep_directory {
                return Ok(());
            }
            self.parents.clear();
            let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&parent.as_fd()));
            return std::fs::remove_dir_all(Path::new(&path).join(name))
                .map_err(item.failed("replace the directory"));
        }
        kernel(rustix::fs::unlinkat(parent.as_fd(), name, AtFlags::empty()))
            .map_err(item.failed("replace what is there"))
    }

    fn file(
        &mut self,
        item: &Item,
        parent: &Root,
        name: &OsStr,
        content: &mut Entry<'_, impl Read>,
    ) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(item.size);
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
        kernel(rustix::fs::fchown(fd, Some(Uid::from_raw(item.uid)), Some(Gid::from_raw(item.gid))))
            .map_err(item.failed("set the owner"))?;
        // After the owner: changing that drops the set-user-id bits.
        kernel(rustix::fs::fchmod(fd, Mode::from_raw_mode(item.mode)))
            .map_err(item.failed("set the mode"))?;
        for (key, value) in wanted(&item.xattrs) {
            kernel(rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()))
                .map_err(item.failed("set an extended attribute"))?;
        }
        kernel(rustix::fs::futimens(fd, &times(item.mtime))).map_err(item.failed("set the time"))
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
        let owner = (Some(Uid::from_raw(item.uid)), Some(Gid::from_raw(item.gid)));
        kernel(rustix::fs::chownat(parent.as_fd(), name, owner.0, owner.1, at))
            .map_err(item.failed("set the owner"))?;
        if !symlink {
            kernel(rustix::fs::chmodat(
                parent.as_fd(),
                name,
                Mode::from_raw_mode(item.mode),
                AtFlags::empty(),
            ))
            .map_err(item.failed("set the mode"))?;
        }
        kernel(rustix::fs::utimensat(parent.as_fd(), name, &times(item.mtime), at))
            .map_err(item.failed("set the time"))
    }

    fn directory_metadata(&mut self, item: &Item, here: &Root) -> Result<(), Error> {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&here.as_fd()));
        let owner = (Some(Uid::from_raw(item.uid)), Some(Gid::from_raw(item.gid)));
        kernel(rustix::fs::chownat(CWD, &path, owner.0, owner.1, AtFlags::empty()))
            .map_err(item.failed("set the owner"))?;
        kernel(rustix::fs::chmodat(CWD, &path, Mode::from_raw_mode(item.mode), AtFlags::empty()))
            .map_err(item.failed("set the mode"))?;
        for (key, value) in wanted(&item.xattrs) {
            kernel(rustix::fs::setxattr(&path, key, value, XattrFlags::empty()))
                .map_err(item.failed("set an extended attribute"))?;
        }
        self.times.push((item.path.clone(), item.mtime));
        Ok(())
    }

    fn finish(self) -> Result<u64, Error> {
        for (path, mtime) in self.times.iter().rev() {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            // A directory that a later entry replaced has no time of its own any more.
            let Ok(here) = self.root.open_dir(path) else { continue };
            let fd = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&here.as_fd()));
            let set = rustix::fs::utimensat(CWD, fd, &times(*mtime), AtFlags::empty());
            kernel(set).map_err(|source| Error::Write {
                path: path.display().to_string(),
                what: "set the time",
                source,
            })?;
        }
        Ok(self.bytes)
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

fn times(mtime: i64) -> Timestamps {
    let at = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Timestamps { last_access: at, last_modification: at }
}

/// Copies exactly the entry's bytes.
fn copy(content: &mut impl Read, file: &mut std::fs::File, item: &Item) -> Result<(), Error> {
    let mut buffer = [0u8; 64 << 10];
    let mut left = item.size;
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
