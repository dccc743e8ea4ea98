//! hostPath volumes: what must be there, and what is made when it is not.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Checks a path of the host against its declared type, making what the type lets be made.
pub fn check(path: &Path, kind: &str) -> Result<(), String> {
    let shown = path.display();
    let fail = |what: &str| Err(format!("hostPath type check failed: {shown} is not {what}"));
    let found = fs::metadata(path);
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if found.is_err() => fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(|error| format!("cannot make directory {shown}: {error}")),
        "FileOrCreate" if found.is_err() => File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map(drop)
            .map_err(|error| format!("cannot make file {shown}: {error}")),
        _ => {
            let file_type =
                found.map_err(|error| format!("hostPath type check failed: {shown}: {error}"))?.file_type();
            match kind {
                "Directory" | "DirectoryOrCreate" if file_type.is_dir() => Ok(()),
                "Directory" | "DirectoryOrCreate" => fail("a directory"),
                "File" | "FileOrCreate" if file_type.is_file() => Ok(()),
                "File" | "FileOrCreate" => fail("a file"),
                "Socket" if file_type.is_socket() => Ok(()),
                "Socket" => fail("a socket file"),
                "CharDevice" if file_type.is_char_device() => Ok(()),
                "CharDevice" => fail("a character device"),
                "BlockDevice" if file_type.is_block_device() => Ok(()),
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
            (missing.as_path(), "", true),
            (missing.as_path(), "File", false),
            (missing.as_path(), "Nonsense", false),
        ] {
            assert_eq!(check(path, kind).is_ok(), good, "{} as {kind}", path.display());
        }
        check(&dir.path().join("a/b"), "DirectoryOrCreate").unwrap();
        assert!(dir.path().join("a/b").is_dir());
        check(&dir.path().join("made"), "FileOrCreate").unwrap();
        assert!(dir.path().join("made").is_file());
    }
}
