//! The daemon's log: its standard error, which is a file. What grows too long is put aside and begun anew.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest that a log gets, in bytes; one older one is kept.
const MAX: u64 = 10 << 20;

/// Writes to standard error, and keeps the file behind it short.
pub struct Log {
    path: PathBuf,
    length: u64,
    max: u64,
}

impl Log {
    /// For a process whose standard error goes to this file; another's is written to all the same and left alone.
    pub fn new(path: PathBuf) -> Log {
        let length = fs::metadata(&path).map_or(0, |file| file.len());
        Log { path, length, max: MAX }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = io::stderr().write(bytes)?;
        self.length += written as u64;
        if self.length > self.max {
            if is_standard_error(&self.path) {
                shorten(&self.path, self.max)?;
            }
            self.length = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn is_standard_error(path: &Path) -> bool {
    match (rustix::fs::fstat(io::stderr()), fs::metadata(path)) {
        (Ok(own), Ok(file)) => (own.st_dev, own.st_ino) == (file.dev(), file.ino()),
        _ => false,
    }
}

/// Puts the content of a log that is longer than `max` aside, into `NAME.1`. Whoever appends to it goes on in the same file.
fn shorten(path: &Path, max: u64) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() > max) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        fs::copy(path, PathBuf::from(aside))?;
        File::options().write(true).open(path)?.set_len(0)?;
    }
    Ok(())
}

/// Shortens the log of a process that does not do so itself.
pub fn shorten_others(path: &Path) -> io::Result<()> {
    shorten(path, MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_begins_anew_for_who_appends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.log");
        let mut writer = File::options().append(true).create(true).open(&path).unwrap();
        writer.write_all(b"12345").unwrap();
        shorten(&path, 5).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "12345");
        shorten(&path, 4).unwrap();
        writer.write_all(b"6").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "6");
        assert_eq!(fs::read_to_string(dir.path().join("daemon.log.1")).unwrap(), "12345");
        shorten(&dir.path().join("none"), 0).unwrap();
    }
}
