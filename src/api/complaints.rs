//! Bounds of what is told of a body's faults: it is the client that chooses how many they are and how long their paths.

use std::fmt::{self, Write};

/// The most complaints that are told of one body (as Kubernetes' decoder does of unknown and repeated fields).
pub const MOST: usize = 100;
/// The most bytes of a field's path that are told.
const LONGEST_PATH: usize = 1024;

/// The path of a field as text, cut where it is longer than anybody reads.
pub fn path(write: impl FnOnce(&mut Path) -> fmt::Result) -> String {
    let mut path = Path(String::new());
    if write(&mut path).is_err() {
        path.0.push_str("...");
    }
    path.0
}

/// A path that is being written; an error means that it takes no more.
pub struct Path(String);

impl Path {
    /// Adds a field's name.
    pub fn field(&mut self, name: &str) -> fmt::Result {
        if !self.0.is_empty() {
            self.write_char('.')?;
        }
        self.write_str(name)
    }

    /// Adds a list item's index.
    pub fn item(&mut self, index: usize) -> fmt::Result {
        write!(self, "[{index}]")
    }
}

impl Write for Path {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        let left = LONGEST_PATH.saturating_sub(self.0.len());
        let taken = piece.floor_char_boundary(left);
        self.0.push_str(&piece[..taken]);
        if taken == piece.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut() {
        let short =
            |path: &mut Path| path.field("spec").and_then(|()| path.field("l")).and_then(|()| path.item(3));
        assert_eq!(path(short), "spec.l[3]");
        let long = |path: &mut Path| path.field("a").and_then(|()| path.field(&"é".repeat(2000)));
        assert_eq!(path(long), format!("a.{}...", "é".repeat(511)));
    }
}
