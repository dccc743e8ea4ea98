//! hostPath volumes: what must be there, and what is made when it is not.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

/// Checks a path of the host against its declared type, making what the type lets be made.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let fail = |what: &str| Err(format!("hostPath type check failed: {shown} is not {what}"));
    let found = fs::metadata(path);
    match kind {
        // What is missing becomes a directory whatever the type leaves open (containerd makes it so).
        "" if found.is_ok() => Ok(()),
        "" | "DirectoryOrCreate" if found.is_err() => fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
            .map_err(|error| format!("cannot make directory {shown}: {error}")),
        "FileOrCreate" if found.is_err() => File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o644)))
            .map_err(|error| format!("cannot make file {shown}: {error}")),
        _ => {
            let is = |test: fn(&fs::FileType) -> bool| found.as_ref().is_ok_and(|m| test(&m.file_type()));
            match kind {
                "Directory" | "DirectoryOrCreate" if is(fs::FileType::is_dir) => Ok(()),
                "Directory" | "DirectoryOrCreate" => fail("a directory"),
                "File" | "FileOrCreate" if is(fs::FileType::is_file) => Ok(()),
                "File" | "FileOrCreate" => fail("a file"),
                "Socket" if is(FileTypeExt::is_socket) => Ok(()),
                "Socket" => fail("a socket file"),
                "CharDevice" if is(FileTypeExt::is_char_device) => Ok(()),
                "CharDevice" => fail("a character device"),
                "BlockDevice" if is(FileTypeExt::is_block_device) => Ok(()),
                "BlockDevice" => fail("a block device"),
                other => Err(format!("hostPath type {other:?} is unknown")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let null = Path::new("/dev/null");
        let missing = dir.path().join("missing");
        for (path, kind, good) in [
            (dir.path(), "Directory", true),
            (file.as_path(), "Directory", false),
            (file.as_path(), "File", true),
            (file.as_path(), "DirectoryOrCreate", false),
            (socket.as_path(), "Socket", true),
            (null, "CharDevice", true),
            (null, "BlockDevice", false),
            (missing.as_path(), "File", false),
            (missing.as_path(), "Nonsense", false),
        ] {
            assert_eq!(check(path, kind).is_ok(), good, "{} as {kind}", path.display());
        }
        assert_eq!(
            check(&missing, "File").unwrap_err(),
            format!("hostPath type check failed: {} is not a file", missing.display())
        );
        for (path, kind) in [("a/b", "DirectoryOrCreate"), ("c/d", "")] {
            check(&dir.path().join(path), kind).unwrap();
            assert!(dir.path().join(path).is_dir());
        }
        check(&dir.path().join("made"), "FileOrCreate").unwrap();
        assert!(dir.path().join("made").is_file());
    }
}
