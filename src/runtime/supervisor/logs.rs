//! A container's output as CRI log lines (`TIME STREAM F|P CONTENT`), in a file that is rotated by size.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::runtime::LogConfig;

/// A longer line is written in parts (the limit of containerd and CRI-O).
const LONGEST: usize = 16 << 10;

/// One of a container's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// The open log of a container.
#[derive(Debug)]
pub struct Log {
    config: LogConfig,
    file: File,
    size: u64,
    unfinished: [Vec<u8>; 2],
}

impl Log {
    /// Opens the file for appending; its directory is made when missing.
    pub fn open(config: &LogConfig) -> io::Result<Log> {
        let file = append(&config.path)?;
        let size = file.metadata()?.len();
        Ok(Log { config: config.clone(), file, size, unfinished: Default::default() })
    }

    /// Writes what a stream has brought: whole lines now, the rest when it is complete or too long.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let mut unfinished = std::mem::take(&mut self.unfinished[stream as usize]);
        unfinished.extend_from_slice(bytes);
        let (text, used) = lines(stream, &unfinished, now);
        unfinished.drain(..used);
        self.unfinished[stream as usize] = unfinished;
        self.append(&text)
    }

    /// Writes what is left of a line that no newline ended.
    pub fn finish(&mut self, stream: Stream, now: Timestamp) -> io::Result<()> {
        let rest = std::mem::take(&mut self.unfinished[stream as usize]);
        if rest.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        line(&mut text, stream, 'P', &rest, now);
        self.append(&text)
    }

    /// Adds whole log lines, a new file whenever the next line would not fit.
    fn append(&mut self, mut text: &[u8]) -> io::Result<()> {
        while !text.is_empty() {
            let room = usize::try_from(self.config.max_bytes.saturating_sub(self.size)).unwrap_or(usize::MAX);
            let fitting = fitting(text, room);
            if fitting == 0 && self.size > 0 {
                self.rotate(Timestamp::now())?;
                continue;
            }
            // A line longer than a whole file still has to go somewhere.
            let (now, later) = text.split_at(if fitting == 0 { line_length(text) } else { fitting });
            write_whole(&mut self.file, now)?;
            self.size += now.len() as u64;
            text = later;
        }
        Ok(())
    }

    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        let path = &self.config.path;
        // Down to nanoseconds, so that the order of names is the order of time and no name comes twice.
        let target = PathBuf::from(format!("{}.{}", path.display(), now.strftime("%Y%m%d-%H%M%S.%9f")));
        match fs::rename(path, target) {
            // Somebody has removed the file, perhaps with its directory: a new one takes its place.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.file = append(path)?;
        self.size = 0;
        let rotated = rotated(path)?;
        let keep = self.config.max_files.saturating_sub(1) as usize;
        rotated.iter().take(rotated.len().saturating_sub(keep)).try_for_each(fs::remove_file)
    }
}

/// How many bytes of whole lines fit into `room`.
fn fitting(text: &[u8], room: usize) -> usize {
    if text.len() <= room {
        return text.len();
    }
    text[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

fn line_length(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').map_or(text.len(), |end| end + 1)
}

/// Appends all of `bytes` or nothing: when the disk is full, no half of a line stays for the next to be glued to.
fn write_whole(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let length = file.metadata()?.len();
                file.set_len(length.saturating_sub(written as u64))?;
                return Err(error);
            }
        }
    }
    Ok(())
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    // Whatever the umask: log shippers run as a group of their own.
    file.set_permissions(fs::Permissions::from_mode(0o640))?;
    Ok(file)
}

/// The rotated files of a log, oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(vec![]) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut files: Vec<PathBuf> = fs::read_dir(directory)?
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect();
    files.sort_unstable();
    Ok(files)
}

/// The log text of all complete or too long lines in `bytes`, and how many bytes they were.
fn lines(stream: Stream, bytes: &[u8], now: Timestamp) -> (Vec<u8>, usize) {
    let (mut text, mut used) = (Vec::with_capacity(bytes.len() + 128), 0);
    loop {
        let rest = &bytes[used..];
        let window = &rest[..rest.len().min(LONGEST + 1)];
        match window.iter().position(|byte| *byte == b'\n') {
            Some(end) => {
                line(&mut text, stream, 'F', &rest[..end], now);
                used += end + 1;
            }
            None if rest.len() > LONGEST => {
                line(&mut text, stream, 'P', &rest[..LONGEST], now);
                used += LONGEST;
            }
            None => return (text, used),
        }
    }
}

fn line(text: &mut Vec<u8>, stream: Stream, tag: char, content: &[u8], now: Timestamp) {
    // Writing to memory cannot fail.
    let _ = write!(text, "{now:.9} {} {tag} ", stream.name());
    text.extend_from_slice(content);
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05.000000006Z".parse().unwrap()
    }

    fn log(directory: &Path, max_bytes: u64, max_files: u32) -> Log {
        Log::open(&LogConfig { path: directory.join("pod/0.log"), max_bytes, max_files }).unwrap()
    }

    #[test]
    fn lines_are_tagged_and_streams_kept_apart() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 1 << 20, 3);
        log.write(Stream::Stdout, b"one\ntw", now()).unwrap();
        log.write(Stream::Stderr, b"err\n", now()).unwrap();
        log.write(Stream::Stdout, b"o\nrest", now()).unwrap();
        log.finish(Stream::Stdout, now()).unwrap();
        let t = "2026-01-02T03:04:05.000000006Z";
        let expected = format!("{t} stdout F one\n{t} stderr F err\n{t} stdout F two\n{t} stdout P rest\n");
        assert_eq!(fs::read_to_string(dir.path().join("pod/0.log")).unwrap(), expected);
    }

    #[test]
    fn long_lines_are_split_without_loss() {
        let bytes =
            [vec![b'a'; 2 * LONGEST + 5], b"\n".to_vec(), vec![b'b'; LONGEST], b"\n".to_vec()].concat();
        let (text, used) = lines(Stream::Stdout, &bytes, now());
        assert_eq!(used, bytes.len());
        let text = String::from_utf8(text).unwrap();
        let shape: Vec<(&str, usize)> = text
            .lines()
            .map(|line| line.splitn(4, ' ').skip(2).collect::<Vec<_>>())
            .map(|parts| (parts[0], parts[1].len()))
            .collect();
        assert_eq!(shape, [("P", LONGEST), ("P", LONGEST), ("F", 5), ("F", LONGEST)]);
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_every_line_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 200, 3);
        for number in 0..40 {
            log.write(Stream::Stdout, format!("line {number}\n").as_bytes(), now()).unwrap();
        }
        let path = dir.path().join("pod/0.log");
        let mut files = rotated(&path).unwrap();
        assert_eq!(files.len(), 2);
        files.push(path);
        let all: Vec<u32> = files
            .iter()
            .flat_map(|file| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
            .map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(all, (all[0]..40).collect::<Vec<_>>());
        assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= 200));
    }
    #[test]
    fn a_removed_file_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 200, 3);
        let mut write = |count| {
            (0..count).for_each(|_| log.write(Stream::Stdout, b"some text\n", now()).unwrap());
        };
        write(2);
        fs::remove_dir_all(dir.path().join("pod")).unwrap();
        write(20);
        assert!(fs::metadata(dir.path().join("pod/0.log")).unwrap().len() > 0);
        assert_eq!(rotated(&dir.path().join("pod/0.log")).unwrap().len(), 2);
    }

    #[test]
    fn a_full_disk_leaves_no_half_lines() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return;
        }
        // Attached nowhere, so that it ends with the test.
        let disk = crate::sys::mount::filesystem("tmpfs", &[("size", "16k")], Default::default()).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&disk)));
        let mut log = log(&path, 1 << 20, 3);
        let long = [vec![b'x'; 5000], b"\n".to_vec()].concat();
        while log.write(Stream::Stdout, &long, now()).is_ok() {}
        let text = fs::read_to_string(path.join("pod/0.log")).unwrap();
        assert!(text.ends_with("x\n") && text.lines().all(|line| line.len() > 5000), "{}", text.len());
        log.write(Stream::Stdout, b"short\n", now()).unwrap();
        assert!(fs::read_to_string(path.join("pod/0.log")).unwrap().ends_with(" stdout F short\n"));
    }
}
