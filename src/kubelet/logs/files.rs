//! The files of one log: rotated ones by name, then the current one; read at positions, found again by inode.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

/// What tells a file from all others as long as it is open or linked.
type Id = (u64, u64);

fn id(metadata: &fs::Metadata) -> Id {
    (metadata.dev(), metadata.ino())
}

/// An open file of the log and where to read on.
#[derive(Debug, Clone)]
pub struct Position {
    file: Arc<File>,
    id: Id,
    /// In bytes from the file's beginning.
    pub offset: u64,
}

impl Position {
    fn start(file: File) -> io::Result<Position> {
        let id = id(&file.metadata()?);
        Ok(Position { file: Arc::new(file), id, offset: 0 })
    }

    /// The size of the file now.
    pub fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether both stand in the same file.
    pub fn same_file(&self, other: &Position) -> bool {
        self.id == other.id
    }

    /// Up to so many bytes from here; fewer at the end of the file.
    pub fn read(&self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let mut filled = 0;
        while filled < most {
            match self.file.read_at(&mut bytes[filled..], self.offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

/// The files of a log at one moment, oldest first.
#[derive(Debug)]
pub struct Files(Vec<Position>);

impl Files {
    /// Opens them all; none is `NotFound`.
    pub fn open(path: &Path) -> io::Result<Files> {
        loop {
            let current = current(path)?;
            let rotated = rotated(path)?;
            // A rotation in between could have hidden a file; rotations are rare.
            if identity(path)? != current.as_ref().map(|position| position.id) {
                continue;
            }
            let mut files = Vec::with_capacity(rotated.len() + 1);
            for path in rotated {
                match File::open(path) {
                    Ok(file) => files.push(Position::start(file)?),
                    // Removed by retention since it was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            files.extend(current);
            return match files.is_empty() {
                true => Err(io::Error::new(io::ErrorKind::NotFound, format!("no log at {}", path.display()))),
                false => Ok(Files(files)),
            };
        }
    }

    /// The beginning of the oldest file that was written to since that moment (or of the newest).
    pub fn first(mut self, since: Option<Timestamp>) -> Option<Position> {
        let late = |position: &Position| {
            let written = position.file.metadata().map_or(i64::MAX, |metadata| metadata.mtime());
            since.is_none_or(|since| written >= since.as_second())
        };
        let index = self.0.iter().position(late).unwrap_or(self.0.len().checked_sub(1)?);
        Some(self.0.swap_remove(index))
    }

    /// The end of the newest file.
    pub fn end(&self) -> io::Result<Option<Position>> {
        let Some(last) = self.0.last() else { return Ok(None) };
        Ok(Some(Position { offset: last.length()?, ..last.clone() }))
    }

    /// Where the last so many lines before `end` begin; reads backwards and no more than needed.
    pub fn tail(&self, end: &Position, lines: u64) -> io::Result<Position> {
        let mut left = lines;
        for file in self.0.iter().rev() {
            let to = if file.same_file(end) { end.offset } else { file.length()? };
            if let Some(offset) = tail_of(file, to, &mut left)? {
                return Ok(Position { offset, ..file.clone() });
            }
        }
        Ok(self.0.first().unwrap_or(end).clone())
    }

    /// The file after this one, if there is one by now.
    pub fn after(path: &Path, position: &Position) -> io::Result<Option<Position>> {
        if identity(path)? == Some(position.id) {
            return Ok(None);
        }
        let files = match Files::open(path) {
            Ok(files) => files.0,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A file that retention has removed lies before all that are left.
        let next = files.iter().position(|file| file.same_file(position)).map_or(0, |index| index + 1);
        Ok(files.into_iter().nth(next))
    }
}

/// How much is read at once on the way back.
const BLOCK: u64 = 64 << 10;

/// The offset of the last `left` lines of the file's first `to` bytes, or `None` and what is then left to find.
fn tail_of(file: &Position, to: u64, left: &mut u64) -> io::Result<Option<u64>> {
    let mut end = to;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let block = Position { offset: start, ..file.clone() }.read((end - start) as usize)?;
        for (index, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // Each newline ends a line; the one after the wanted lines ends the line before them.
            if *left == 0 {
                return Ok(Some(start + index as u64 + 1));
            }
            *left -= 1;
        }
        end = start;
    }
    Ok(None)
}

fn current(path: &Path) -> io::Result<Option<Position>> {
    match File::open(path) {
        Ok(file) => Position::start(file).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn identity(path: &Path) -> io::Result<Option<Id>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(id(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The paths of the rotated files, oldest first.
fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            paths.push(entry.path());
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_found_across_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(dir.path().join("0.log.1"), "a\nb\n").unwrap();
        fs::write(dir.path().join("0.log.2"), "c\n").unwrap();
        fs::write(&path, format!("d\n{}\n", "e".repeat(3 * BLOCK as usize))).unwrap();
        let files = Files::open(&path).unwrap();
        let end = files.end().unwrap().unwrap();
        let cases = [(0, 2, end.offset), (1, 2, 2), (2, 2, 0), (3, 1, 0), (4, 0, 2), (5, 0, 0), (99, 0, 0)];
        for (lines, file, offset) in cases {
            let found = files.tail(&end, lines).unwrap();
            let same = found.same_file(&files.0[file]) && found.offset == offset;
            // The end of one file is the beginning of the next.
            let boundary = file > 0
                && found.same_file(&files.0[file - 1])
                && offset == 0
                && found.offset == files.0[file - 1].length().unwrap();
            assert!(same || boundary, "{lines}: {found:?}");
        }
    }

    #[test]
    fn a_file_is_followed_by_the_next_one_even_when_it_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        fs::write(&path, "a\n").unwrap();
        let first = Files::open(&path).unwrap().first(None).unwrap();
        assert!(Files::after(&path, &first).unwrap().is_none());
        fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        assert!(Files::after(&path, &first).unwrap().is_none());
        fs::write(&path, "b\n").unwrap();
        let second = Files::after(&path, &first).unwrap().unwrap();
        assert_eq!(second.read(9).unwrap(), b"b\n");
        fs::remove_file(dir.path().join("0.log.1")).unwrap();
        assert!(Files::after(&path, &first).unwrap().unwrap().same_file(&second));
    }
}
