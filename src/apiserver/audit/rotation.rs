//! A log file that is put aside when it is full; what was put aside goes when it is old or too much.
//!
//! Names and limits are those of kube-apiserver: `audit.log` becomes `audit-2026-01-31T12-00-00.000.log`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::clock;

/// When, in UTC, a file was put aside, as its name tells.
const MOMENT: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// A file is put aside before it would hold more megabytes; 0 is never.
    pub max_size: u32,
    /// So many files are kept beside the one that is written; 0 is all.
    pub max_backups: u32,
    /// A file is kept for so many days; 0 is for ever.
    pub max_age: u32,
}

impl Default for Limits {
    /// Those of kube-apiserver.
    fn default() -> Limits {
        Limits { max_size: 100, max_backups: 100, max_age: 366 }
    }
}

/// The file that is written.
#[derive(Debug)]
pub(super) struct Rotated {
    path: PathBuf,
    file: BufWriter<File>,
    size: u64,
    limits: Limits,
}

impl Rotated {
    pub(super) fn open(path: &Path, limits: Limits) -> io::Result<Rotated> {
        let file = File::options().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Rotated { path: path.to_owned(), file: BufWriter::new(file), size, limits })
    }

    /// Appends a line.
    pub(super) fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let most = u64::from(self.limits.max_size) * 1024 * 1024;
        if most > 0 && self.size > 0 && self.size + line.len() as u64 > most {
            self.rotate(clock::now())?;
        }
        self.size += line.len() as u64;
        self.file.write_all(line)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        self.file.flush()?;
        let mut moment = now;
        let aside = loop {
            let aside = self.path.with_file_name(aside(&self.path, moment));
            if !aside.exists() {
                break aside;
            }
            // Two files of one moment.
            moment += SignedDuration::from_millis(1);
        };
        fs::rename(&self.path, &aside)?;
        *self = Rotated::open(&self.path, self.limits)?;
        self.prune(now);
        Ok(())
    }

    /// Removes what is old or too much. What cannot be removed is tried again the next time.
    fn prune(&self, now: Timestamp) {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let Ok(entries) = fs::read_dir(directory.unwrap_or(Path::new("."))) else { return };
        let files = entries.flatten().filter_map(|entry| {
            let moment = moment(&self.path, &entry.file_name())?;
            Some((moment, entry.path()))
        });
        for path in superfluous(files.collect(), self.limits, now) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The parts of a file's name before and after the moment.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let extension = text(path.extension());
    let after = if extension.is_empty() { extension } else { format!(".{extension}") };
    (format!("{}-", text(path.file_stem())), after)
}

fn aside(path: &Path, moment: Timestamp) -> String {
    let (before, after) = parts(path);
    format!("{before}{}{after}", moment.strftime(MOMENT))
}

/// When a file was put aside, if it is one of this log.
fn moment(path: &Path, name: &OsStr) -> Option<Timestamp> {
    let (before, after) = parts(path);
    let moment = name.to_str()?.strip_prefix(&before)?.strip_suffix(&after)?;
    DateTime::strptime(MOMENT, moment).ok()?.to_zoned(TimeZone::UTC).ok().map(|at| at.timestamp())
}

/// Which of the files that were put aside go.
fn superfluous(mut files: Vec<(Timestamp, PathBuf)>, limits: Limits, now: Timestamp) -> Vec<PathBuf> {
    files.sort_by_key(|(moment, _)| std::cmp::Reverse(*moment));
    let age = SignedDuration::from_hours(24 * i64::from(limits.max_age));
    let goes = |(at, (moment, _)): &(usize, (Timestamp, PathBuf))| {
        (limits.max_backups > 0 && *at >= limits.max_backups as usize)
            || (limits.max_age > 0 && now.duration_since(*moment) > age)
    };
    files.into_iter().enumerate().filter(goes).map(|(_, (_, path))| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn names_tell_when() {
        let path = Path::new("/var/log/audit.log");
        let moment_of = |name: &str| moment(path, OsStr::new(name));
        let then = at("2026-01-31T12:00:00.25Z");
        assert_eq!(aside(path, then), "audit-2026-01-31T12-00-00.250.log");
        assert_eq!(moment_of("audit-2026-01-31T12-00-00.250.log"), Some(then));
        for other in
            ["audit.log", "audit-x.log", "other-2026-01-31T12-00-00.250.log", "audit-2026-01-31T12-00-00.250"]
        {
            assert_eq!(moment_of(other), None, "{other}");
        }
        assert_eq!(aside(Path::new("audit"), then), "audit-2026-01-31T12-00-00.250");
    }

    #[test]
    fn the_old_and_the_many_go() {
        let now = at("2026-01-10T00:00:00Z");
        let file = |day: u32| (at(&format!("2026-01-0{day}T00:00:00Z")), PathBuf::from(day.to_string()));
        let gone = |max_backups: u32, max_age: u32| -> Vec<String> {
            let limits = Limits { max_size: 1, max_backups, max_age };
            let files = superfluous([3, 1, 9, 5].map(file).to_vec(), limits, now);
            files.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(gone(0, 0), Vec::<String>::new());
        assert_eq!(gone(2, 0), ["3", "1"]);
        assert_eq!(gone(0, 6), ["3", "1"]);
        assert_eq!(gone(1, 8), ["5", "3", "1"]);
    }

    #[test]
    fn a_full_file_is_put_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.log");
        let limits = Limits { max_size: 1, max_backups: 2, max_age: 0 };
        let mut file = Rotated::open(&path, limits).unwrap();
        let line = [b'x'; 600 * 1024];
        for _ in 0..5 {
            file.line(&line).unwrap();
        }
        file.flush().unwrap();
        let mut sizes: Vec<(String, u64)> = fs::read_dir(directory.path())
            .unwrap()
            .flatten()
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect();
        sizes.sort();
        assert_eq!(sizes.len(), 3, "{sizes:?}");
        assert!(sizes.iter().all(|(_, size)| *size == line.len() as u64), "{sizes:?}");
        // What is there counts when the log is opened again.
        let mut file = Rotated::open(&path, limits).unwrap();
        file.line(&line).unwrap();
        file.flush().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), line.len() as u64);
    }
}
