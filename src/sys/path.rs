//! Paths below a directory that must not be left: every step is taken on a file descriptor by the kernel.
//!
//! A [`Root`] treats its directory as `/`: `..` stops there and absolute symlinks start there
//! (`openat2(2)`, `RESOLVE_IN_ROOT`). A [`Root::strict`] refuses instead of bending (`RESOLVE_BENEATH`).

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};

/// As many symlinks as the kernel follows in one path (`path_resolution(7)`).
const MOST_LINKS: u32 = 40;

/// A directory in which paths are resolved.
#[derive(Debug)]
pub struct Root {
    directory: OwnedFd,
    resolve: ResolveFlags,
}

impl Root {
    /// Opens a directory of the host. Symlinks in `path` itself are followed: it is trusted.
    pub fn open(path: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Root::from_fd(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// Takes an open directory (`O_PATH` suffices).
    pub fn from_fd(directory: OwnedFd) -> Root {
        Root { directory, resolve: ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS }
    }

    /// The same directory, but a path that would leave it (`..`, absolute symlinks) is an error (`EXDEV`).
    pub fn strict(self) -> Root {
        Root { resolve: ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS, ..self }
    }

    /// A path to the directory, wherever it has gone, for calls that take no descriptor; good while this is kept.
    pub fn descriptor_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()))
    }

    /// Opens what `relative` names, following symlinks inside the root (unless `O_NOFOLLOW` is given, for the
    /// last one). `O_CLOEXEC` is added. Must not create: see [`Root::create_file`].
    pub fn open_at(&self, relative: impl AsRef<Path>, flags: OFlags) -> io::Result<OwnedFd> {
        self.openat2(relative.as_ref(), flags, Mode::empty())
    }

    /// A directory below, as a root of its own.
    pub fn open_dir(&self, relative: impl AsRef<Path>) -> io::Result<Root> {
        let directory = self.open_at(relative, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Root { directory, resolve: self.resolve })
    }

    /// Makes a directory and its missing parents, step by step, and opens it as a root of its own.
    ///
    /// What exists is resolved like any path; what is missing is made one name at a time on the descriptor of
    /// its parent, so that a symlink put there meanwhile is an error and not a way out. `mode` is exact: the
    /// umask does not apply.
    pub fn mkdir_all(&self, relative: impl AsRef<Path>, mode: u32) -> io::Result<Root> {
        let (mut here, missing) = self.deepest_existing(relative.as_ref())?;
        for name in missing {
            match rustix::fs::mkdirat(&here.directory, name.as_path(), Mode::from_raw_mode(mode)) {
                Ok(()) => {
                    // By descriptor, not by name: the name may have become a symlink meanwhile.
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made = rustix::fs::openat(&here.directory, name.as_path(), flags, Mode::empty())?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
                    here = Root { directory: made, resolve: here.resolve };
                }
                Err(rustix::io::Errno::EXIST) => here = here.child(&name)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(here)
    }

    /// Where `relative` leads when every symlink on the way is followed inside the root, also the last one and those
    /// that dangle: a path without symlinks or dots, whose missing part can be made. For a root that bends paths;
    /// what changes meanwhile is for the making to refuse, which follows no symlink.
    pub fn resolve(&self, relative: impl AsRef<Path>) -> io::Result<PathBuf> {
        let (mut resolved, mut links, mut missing) = (PathBuf::new(), 0, false);
        let mut rest = relative.as_ref().to_owned();
        loop {
            let mut components = rest.components();
            let Some(component) = components.next() else { return Ok(resolved) };
            let after = components.as_path().to_owned();
            match component {
                Component::Prefix(_) | Component::CurDir => {}
                Component::RootDir => resolved = PathBuf::new(),
                // Above what does not exist there is nothing to go back to.
                Component::ParentDir if missing => return Err(io::ErrorKind::NotFound.into()),
                Component::ParentDir => drop(resolved.pop()),
                Component::Normal(name) if missing => resolved.push(name),
                Component::Normal(name) => {
                    let path = resolved.join(name);
                    match self.read_link(&path) {
                        Ok(Some(_)) if links == MOST_LINKS => {
                            return Err(rustix::io::Errno::LOOP.into());
                        }
                        Ok(Some(target)) => {
                            links += 1;
                            rest = target.join(after);
                            continue;
                        }
                        Ok(None) => resolved = path,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {
                            missing = true;
                            resolved = path;
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            rest = after;
        }
    }

    /// What the symlink `relative` says; `None` for anything that is not one.
    fn read_link(&self, relative: &Path) -> io::Result<Option<PathBuf>> {
        let fd = self.open_at(relative, OFlags::PATH | OFlags::NOFOLLOW)?;
        if FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        // What such a link of procfs as `fd/3` says is not where it leads: the kernel refuses to follow it here.
        match self.open_at(relative, OFlags::PATH) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(error),
            _ => {}
        }
        let target = rustix::fs::readlinkat(&fd, "", vec![])?;
        Ok(Some(OsStr::from_bytes(target.as_bytes()).into()))
    }

    /// Makes a new file for writing (`O_EXCL`); its parent must exist. `mode` is subject to the umask.
    pub fn create_file(&self, relative: impl AsRef<Path>, mode: u32) -> io::Result<File> {
        let (parent, name) = self.parent(relative.as_ref())?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(parent.as_fd(), name, flags, Mode::from_raw_mode(mode))?.into())
    }

    /// Opens the directory that holds the last name of `relative` and returns both: the way to act on the name
    /// itself (`unlinkat`, `linkat`, `symlinkat`). A last `..` is refused.
    pub fn parent<'a>(&self, relative: &'a Path) -> io::Result<(Root, &'a OsStr)> {
        let Some(Component::Normal(name)) = relative.components().next_back() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "path does not end in a name"));
        };
        let parent = relative.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok((self.open_dir(parent)?, name))
    }

    /// What `relative` is, a last symlink not followed.
    pub fn stat(&self, relative: impl AsRef<Path>) -> io::Result<Stat> {
        let fd = self.open_at(relative, OFlags::PATH | OFlags::NOFOLLOW)?;
        Ok(rustix::fs::fstat(&fd)?)
    }

    /// Whether `relative` itself is a symlink (a missing name is not).
    pub fn is_symlink(&self, relative: impl AsRef<Path>) -> io::Result<bool> {
        match self.stat(relative) {
            Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Symlink),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One more descriptor of the same directory.
    pub fn try_clone(&self) -> io::Result<Root> {
        Ok(Root { directory: self.directory.try_clone()?, resolve: self.resolve })
    }

    /// A plain child directory; a symlink is refused.
    fn child(&self, name: &Path) -> io::Result<Root> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.directory, name, flags, Mode::empty())?;
        Ok(Root { directory, resolve: self.resolve })
    }

    /// The longest part of `relative` that exists, and the names that are missing below it.
    fn deepest_existing(&self, relative: &Path) -> io::Result<(Root, Vec<PathBuf>)> {
        let mut missing = Vec::new();
        let mut existing = relative;
        loop {
            let path = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
            match self.open_dir(path) {
                Ok(root) => {
                    missing.reverse();
                    return Ok((root, missing));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match (existing.components().next_back(), existing.parent()) {
                        (Some(Component::Normal(name)), Some(parent)) => {
                            missing.push(PathBuf::from(name));
                            existing = parent;
                        }
                        _ => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn openat2(&self, relative: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        if relative.as_os_str().as_bytes().contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "path contains a NUL byte"));
        }
        loop {
            match rustix::fs::openat2(&self.directory, relative, flags | OFlags::CLOEXEC, mode, self.resolve)
            {
                // The kernel could not rule out a rename race: it asks to be asked again.
                Err(rustix::io::Errno::AGAIN) => continue,
                result => return Ok(result?),
            }
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn symlinks_and_dots_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), "inside").unwrap();
        symlink("/etc", dir.path().join("abs")).unwrap();
        symlink("../../../etc", dir.path().join("up")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for path in ["/etc/passwd", "abs/passwd", "up/passwd", "../../etc/passwd"] {
            let file = File::from(root.open_at(path, OFlags::RDONLY).unwrap());
            assert_eq!(io::read_to_string(file).unwrap(), "inside", "{path}");
        }
        let strict = root.strict();
        for path in ["abs/passwd", "up/passwd", "../etc/passwd", "/etc/passwd"] {
            assert!(strict.open_at(path, OFlags::RDONLY).is_err(), "{path}");
        }
    }

    #[test]
    fn mkdir_all_makes_what_is_missing_and_refuses_dangling_links() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        symlink(outside.path().join("new"), dir.path().join("out")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.mkdir_all("/a/b/c", 0o751).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("a/b/c")).unwrap().permissions().mode() & 0o7777, 0o751);
        root.mkdir_all("a/b/c", 0o700).unwrap();
        root.mkdir_all("", 0o700).unwrap();
        assert!(root.mkdir_all("out/x", 0o755).is_err());
        assert!(root.mkdir_all("missing/../x", 0o755).is_err());
        assert!(!outside.path().join("new").exists());
    }

    #[test]
    fn dangling_links_lead_to_a_place_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/deep")).unwrap();
        std::fs::write(dir.path().join("etc/file"), "").unwrap();
        for (link, target) in [
            ("run", "/made/run"),
            ("etc/resolv.conf", "../run/systemd/stub.conf"),
            ("etc/deep/up", "../../../../../outside/x"),
            ("etc/deep/absolute", "/outside"),
            ("chain", "etc/resolv.conf"),
            ("loop", "loop"),
            ("ping", "pong"),
            ("pong", "/ping"),
            ("magic", "/proc/self/root"),
        ] {
            symlink(target, dir.path().join(link)).unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        for (path, expected) in [
            ("/etc/resolv.conf", Ok("made/run/systemd/stub.conf")),
            ("chain", Ok("made/run/systemd/stub.conf")),
            ("etc/deep/up", Ok("outside/x")),
            ("etc/deep/absolute/more", Ok("outside/more")),
            ("/etc/./deep/../file", Ok("etc/file")),
            ("../../etc/new/er", Ok("etc/new/er")),
            ("", Ok("")),
            ("/", Ok("")),
            ("magic/x", Ok("proc/self/root/x")),
            ("missing/../etc", Err(libc::ENOENT)),
            ("loop", Err(libc::ELOOP)),
            ("ping/x", Err(libc::ELOOP)),
            ("etc/file/x", Err(libc::ENOTDIR)),
        ] {
            let code = |error: io::Error| match error.kind() {
                io::ErrorKind::NotFound => libc::ENOENT,
                _ => error.raw_os_error().unwrap(),
            };
            assert_eq!(root.resolve(path).map_err(code), expected.map(PathBuf::from), "{path}");
        }
        root.mkdir_all(root.resolve("etc/deep/up").unwrap(), 0o755).unwrap();
        assert!(dir.path().join("outside/x").is_dir());
    }

    #[test]
    fn create_file_does_not_follow() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/tmp/never", dir.path().join("link")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(root.create_file("link", 0o644).is_err());
        assert!(root.create_file("..", 0o644).is_err());
        root.create_file("file", 0o644).unwrap();
        assert!(root.is_symlink("link").unwrap() && !root.is_symlink("file").unwrap());
        assert!(!root.is_symlink("nothing").unwrap());
    }
}
