//! Layers made by hand: what must come out of good ones, and that hostile ones are refused.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{Builder, Header};
use tempfile::TempDir;

use super::*;

fn header(path: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    // Written raw, as `set_path` itself refuses hostile names.
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000);
    header.set_cksum();
    header
}

struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Layer {
        Layer(Builder::new(Vec::new()))
    }

    fn raw(mut self, header: &Header, content: &[u8]) -> Layer {
        self.0.append(header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Layer {
        self.raw(&header(path, EntryType::Regular, content.len() as u64), content.as_bytes())
    }

    fn dir(self, path: &str) -> Layer {
        let mut header = header(path, EntryType::Directory, 0);
        header.set_mode(0o755);
        header.set_cksum();
        self.raw(&header, &[])
    }

    fn link(self, path: &str, kind: EntryType, target: &str) -> Layer {
        let mut header = header(path, kind, 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        self.raw(&header, &[])
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Layer {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn unpack_with(self, limits: Limits) -> (TempDir, Result<Contents, Error>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        let result = unpack(self.0.into_inner().unwrap().as_slice(), &dir.path().join("root"), limits);
        (dir, result)
    }

    fn good(self) -> TempDir {
        let (dir, result) = self.unpack_with(Limits::default());
        result.unwrap();
        dir
    }

    fn bad(self, reason: &str) {
        let (dir, result) = self.unpack_with(Limits::default());
        let error = result.expect_err(reason).to_string();
        assert!(error.contains(reason), "{error:?} lacks {reason:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was left outside");
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn files_links_modes_and_times_are_kept() {
    let mut suid = header("bin/su", EntryType::Regular, 1);
    suid.set_mode(0o4755);
    suid.set_cksum();
    let dir = Layer::new()
        .dir("bin/")
        .raw(&suid, b"x")
        .link("bin/hard", EntryType::Link, "bin/su")
        .link("bin/abs", EntryType::Symlink, "/bin/su")
        .file("deep/without/parents", "y")
        .file("./dotted", "z")
        .good();
    let root = dir.path().join("root");
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.permissions().mode() & 0o7777, su.mtime(), su.nlink()), (0o4755, 1_000_000, 2));
    assert_eq!(fs::read_link(root.join("bin/abs")).unwrap(), Path::new("/bin/su"));
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mtime(), 1_000_000);
    let dir = Layer::new().pax(&[("mtime", b"7.123456789")]).file("a", "1").good();
    let fine = fs::metadata(dir.path().join("root/a")).unwrap();
    assert_eq!((fine.mtime(), fine.mtime_nsec()), (7, 123_456_789));
    assert_eq!(fs::read_to_string(root.join("deep/without/parents")).unwrap(), "y");
    assert!(root.join("dotted").is_file());
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let dir = Layer::new()
        .dir("a")
        .file("a/b", "1")
        .file("a/b", "22")
        .file("c", "x")
        .dir("c")
        .file("c/d", "3")
        .good();
    let root = dir.path().join("root");
    assert_eq!(fs::read_to_string(root.join("a/b")).unwrap(), "22");
    assert_eq!(fs::read_to_string(root.join("c/d")).unwrap(), "3");
}

#[test]
fn whiteouts_and_opaque_directories_become_overlayfs_marks() {
    if !is_root() {
        assert!(std::env::var("MINIK_REQUIRE_ROOT").is_err(), "needs root");
        eprintln!("skipped: needs root");
        return;
    }
    let dir = Layer::new().file("d/.wh.gone", "").file("e/.wh..wh..opq", "").file("e/kept", "x").good();
    let root = dir.path().join("root");
    let gone = fs::symlink_metadata(root.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert!(is_opaque(&root.join("e")));
    assert!(!root.join("e/.wh..wh..opq").exists());
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0u8; 8];
    rustix::fs::getxattr(directory, OPAQUE_XATTR, &mut value).is_ok_and(|length| &value[..length] == b"y")
}

#[test]
fn a_layers_whiteouts_hide_nothing_of_its_own() {
    if !is_root() {
        assert!(std::env::var("MINIK_REQUIRE_ROOT").is_err(), "needs root");
        eprintln!("skipped: needs root");
        return;
    }
    let dir = Layer::new()
        .file("before", "1")
        .file(".wh.before", "")
        .file(".wh.after", "")
        .file("after", "2")
        .dir("dir-before")
        .file("dir-before/x", "3")
        .file(".wh.dir-before", "")
        .file(".wh.dir-after", "")
        .dir("dir-after")
        .file("dir-after/x", "4")
        .file(".wh.implied", "")
        .file("implied/deep/x", "5")
        .good();
    let root = dir.path().join("root");
    let paths = ["before", "after", "dir-before/x", "dir-after/x", "implied/deep/x"];
    for (number, path) in paths.iter().enumerate() {
        assert_eq!(fs::read_to_string(root.join(path)).unwrap(), (number + 1).to_string(), "{path}");
    }
    for opaque in ["dir-before", "dir-after", "implied"] {
        assert!(is_opaque(&root.join(opaque)), "{opaque}");
    }
    assert!(!is_opaque(&root.join("implied/deep")));
}

#[test]
fn directories_without_an_entry_are_told() {
    let (_dir, contents) = Layer::new()
        .file("a/b/x", "1")
        .dir("a")
        .file("c/x", "2")
        .dir("d")
        .file("d/x", "3")
        .unpack_with(Limits::default());
    let implied: Vec<_> = contents.unwrap().implied.into_iter().collect();
    assert_eq!(implied, [Path::new("a/b"), Path::new("c")]);
}

#[test]
fn paths_through_a_replaced_symlink_go_where_its_successor_is() {
    let dir = Layer::new()
        .dir("target")
        .link("name", EntryType::Symlink, "target")
        .file("name/through", "1")
        .dir("name")
        .file("name/own", "2")
        .good();
    let root = dir.path().join("root");
    assert!(root.join("target/through").is_file() && root.join("name/own").is_file());
    assert!(!root.join("target/own").exists());
}

#[test]
fn capabilities_of_files_are_kept_and_overlay_marks_are_not_taken() {
    if !is_root() {
        assert!(std::env::var("MINIK_REQUIRE_ROOT").is_err(), "needs root");
        eprintln!("skipped: needs root");
        return;
    }
    // cap_net_raw+ep, revision 2.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let dir = Layer::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("ping", "x")
        .good();
    let path = dir.path().join("root/ping");
    let mut value = [0u8; 64];
    let length = rustix::fs::getxattr(&path, "security.capability", &mut value).unwrap();
    assert_eq!(value[..length], capability);
    assert!(rustix::fs::getxattr(&path, "trusted.overlay.redirect", &mut value).is_err());
}

#[test]
fn names_that_leave_the_root_are_refused() {
    Layer::new().file("../x", "1").bad("\"..\"");
    Layer::new().file("a/../../x", "1").bad("\"..\"");
    Layer::new().file("/etc/x", "1").bad("absolute");
    Layer::new().link("x", EntryType::Link, "../../etc/passwd").bad("\"..\"");
    Layer::new().link("x", EntryType::Link, "/etc/passwd").bad("absolute");
    Layer::new().file(".wh..", "").bad("hides no name");
}

#[test]
fn symlinks_do_not_lead_out_of_the_root() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let (dir, result) = Layer::new()
        .link("out", EntryType::Symlink, target)
        .file("out/x", "1")
        .unpack_with(Limits::default());
    // Resolved inside the root the link points to nothing, or to a directory of the same name in there.
    let _ = result;
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    drop(dir);
    let (_dir, result) = Layer::new()
        .link("up", EntryType::Symlink, "../../..")
        .link("x", EntryType::Link, "up/etc/passwd")
        .unpack_with(Limits::default());
    assert!(result.is_err());
    let (dir, result) = Layer::new()
        .link("f", EntryType::Symlink, "/etc/passwd")
        .file("f", "own")
        .unpack_with(Limits::default());
    result.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("root/f")).unwrap(), "own");
}

#[test]
fn disagreeing_sizes_and_bombs_are_refused() {
    Layer::new().pax(&[("size", b"1")]).file("a", "12").bad("its header says");
    Layer::new().pax(&[("size", b"-5")]).file("a", "12").bad("is no number");
    let small = Limits { entries: 2, bytes: 10, path: 20, depth: 3 };
    for (layer, reason) in [
        (Layer::new().file("a", "").file("b", "").file("c", ""), "more than 2 entries"),
        (Layer::new().file("a", "12345678901"), "more than 10 bytes"),
        (Layer::new().file("aaaaaaaaaaaaaaaaaaaaaaaaaaaa", ""), "longer than 20"),
        (Layer::new().file("a/b/c/d", ""), "more than 3 names"),
    ] {
        assert!(layer.unpack_with(small).1.unwrap_err().to_string().contains(reason), "{reason}");
    }
    let mut truncated = Layer::new().file("a", &"x".repeat(5000)).0.into_inner().unwrap();
    truncated.truncate(2000);
    let dir = tempfile::tempdir().unwrap();
    assert!(unpack(truncated.as_slice(), dir.path(), Limits::default()).is_err());
}

#[test]
fn devices_grant_nothing_and_odd_kinds_are_refused() {
    let mut null = header("dev/null", EntryType::Char, 0);
    null.set_device_major(0).unwrap();
    null.set_device_minor(0).unwrap();
    null.set_cksum();
    Layer::new().raw(&null, &[]).bad("would hide");
    let mut sparse = header("s", EntryType::GNUSparse, 0);
    sparse.as_gnu_mut().unwrap().set_real_size(0);
    sparse.set_cksum();
    Layer::new().raw(&sparse, &[]).bad("sparse");
    let mut odd = header("o", EntryType::Regular, 0);
    odd.set_entry_type(EntryType::new(b'V'));
    odd.set_cksum();
    Layer::new().raw(&odd, &[]).bad("entry type");
}
