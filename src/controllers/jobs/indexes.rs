//! Sets of completion indexes, as the status of an indexed job writes them: `1,3-5,7`.

use std::fmt;

/// Indexes, kept as ranges in their order that do not touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes {
    ranges: Vec<(i32, i32)>,
}

impl Indexes {
    /// The indexes below `completions` that a text names; what cannot be read is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Indexes {
        let mut indexes = Indexes::default();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) else { continue };
            if first < completions {
                indexes.add_range(first, last.min(completions - 1));
            }
        }
        indexes
    }

    /// Adds one index.
    pub(super) fn add(&mut self, index: i32) {
        self.add_range(index, index);
    }

    /// Adds the indexes of another set.
    pub(super) fn merge(&mut self, other: &Indexes) {
        for (first, last) in &other.ranges {
            self.add_range(*first, *last);
        }
    }

    fn add_range(&mut self, first: i32, last: i32) {
        let from = self.ranges.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = self.ranges.partition_point(|(start, _)| *start <= last.saturating_add(1));
        let touched = self.ranges[from..to].iter();
        let merged = touched.fold((first, last), |(a, b), (c, d)| (a.min(*c), b.max(*d)));
        self.ranges.splice(from..to, [merged]);
    }

    /// How many indexes there are.
    pub(super) fn total(&self) -> i32 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether an index is one of them.
    pub(super) fn has(&self, index: i32) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < index);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many indexes are in both sets.
    pub(super) fn common(&self, other: &Indexes) -> i32 {
        let overlap = |a: &(i32, i32), b: &(i32, i32)| (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
        self.ranges.iter().flat_map(|a| other.ranges.iter().map(move |b| overlap(a, b))).sum()
    }

    /// The first so many indexes below `completions` that are not among them.
    pub(super) fn first_missing(&self, completions: i32, count: usize) -> Vec<i32> {
        let mut missing = Vec::new();
        let mut candidate = 0;
        for (first, last) in self.ranges.iter().copied().chain([(completions, completions)]) {
            missing.extend((candidate..first.min(completions)).take(count - missing.len()));
            candidate = last.saturating_add(1);
        }
        missing
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        for (text, completions, shown, total) in [
            ("", 5, "", 0),
            ("1,3-5,7", 9, "1,3-5,7", 5),
            ("0,1,2", 9, "0-2", 3),
            ("0-1", 9, "0,1", 2),
            ("0-9,12", 5, "0-4", 5),
            ("x,2,y-3", 5, "2", 1),
        ] {
            let read = Indexes::parse(text, completions);
            assert_eq!((read.to_string().as_str(), read.total()), (shown, total), "{text}");
        }
    }

    #[test]
    fn sets_of_indexes() {
        let mut set = Indexes::parse("1,3-5", 10);
        assert!(set.has(4) && !set.has(2) && !set.has(6));
        assert_eq!(set.first_missing(8, 3), [0, 2, 6]);
        assert_eq!(set.first_missing(6, 9), [0, 2]);
        set.add(2);
        set.merge(&Indexes::parse("0,8-9", 10));
        assert_eq!(set.to_string(), "0-5,8,9");
        assert_eq!(set.common(&Indexes::parse("4-8", 10)), 3);
        assert!(set.first_missing(6, 9).is_empty());
    }
}
