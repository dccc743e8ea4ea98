//! Ranges of the host's ids for sandboxes with users of their own: on the whole machine no two have the same.
//!
//! A range is taken by a symlink of its number in a directory that all clusters share: to make one is to be the only
//! one who does. What it leads to names its owner. The directory goes with the machine, as sandboxes do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Users;

/// The first of the host's ids that are given away; no user of the host and no other manager of containers has such.
const FIRST: u32 = 0x7000_0000;
/// How many ids a sandbox gets.
const COUNT: u32 = 1 << 16;
/// How many sandboxes can have users of their own; the ids beyond are for those of no machine.
const RANGES: u32 = 0xff0;

/// The ranges as one cluster sees them; clones are the same.
#[derive(Debug, Clone)]
pub struct UserRanges {
    directory: PathBuf,
    cluster: String,
}

impl UserRanges {
    /// Those that are told of in this directory, for the cluster of this name.
    pub fn new(directory: PathBuf, cluster: String) -> UserRanges {
        UserRanges { directory, cluster }
    }

    /// The range of a pod: the one that it has, or one that nobody has.
    pub fn take(&self, pod: &str) -> io::Result<Users> {
        let taken = self.taken()?;
        let owner = self.owner(pod);
        if let Some((number, _)) = taken.iter().find(|(_, of)| **of == owner) {
            return Ok(range(*number));
        }
        for number in (0..RANGES).filter(|number| !taken.contains_key(number)) {
            let made = symlink(&owner, self.place(number)).or_else(|error| match error.kind() {
                // The last one to give something back has taken the directory along.
                io::ErrorKind::NotFound => {
                    fs::create_dir_all(&self.directory)?;
                    symlink(&owner, self.place(number))
                }
                _ => Err(error),
            });
            match made {
                Ok(()) => return Ok(range(number)),
                // Somebody else was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("all {RANGES} ranges of user ids are taken")))
    }

    /// Gives the range of a pod back; none is success.
    pub fn give_back(&self, pod: &str) -> io::Result<()> {
        let owner = self.owner(pod);
        self.remove(|of| of == owner)
    }

    /// Gives back all that the cluster's pods have.
    pub fn give_all_back(&self) -> io::Result<()> {
        let own = self.owner("");
        self.remove(|of| of.starts_with(&own))
    }

    /// The cluster's pods that have ranges.
    pub fn pods(&self) -> io::Result<BTreeSet<String>> {
        let own = self.owner("");
        let taken = self.taken()?.into_values();
        Ok(taken.filter_map(|owner| owner.strip_prefix(&own).map(str::to_owned)).collect())
    }

    fn remove(&self, which: impl Fn(&str) -> bool) -> io::Result<()> {
        for (number, _) in self.taken()?.iter().filter(|(_, owner)| which(owner)) {
            match fs::remove_file(self.place(*number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // Only when nobody has anything any more.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }

    /// The owners of ranges, by number.
    fn taken(&self) -> io::Result<BTreeMap<u32, String>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries?,
        };
        let mut taken = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
            // One that has gone meanwhile is nobody's, and what is no link is told of by whoever made it.
            let owner = fs::read_link(entry.path()).unwrap_or_default();
            if let Some(number) = number {
                taken.insert(number, owner.to_string_lossy().into_owned());
            }
        }
        Ok(taken)
    }

    fn owner(&self, pod: &str) -> String {
        Path::new(&self.cluster).join(pod).to_string_lossy().into_owned()
    }

    fn place(&self, number: u32) -> PathBuf {
        self.directory.join(number.to_string())
    }
}

fn range(number: u32) -> Users {
    Users { base: FIRST + number * COUNT, count: COUNT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_of_the_machine_have_the_same_ids() {
        let directory = tempfile::tempdir().unwrap();
        let of = |cluster: &str| UserRanges::new(directory.path().join("users"), cluster.to_owned());
        let (one, other) = (of("one"), of("one-more"));
        let a = one.take("a").unwrap();
        let b = other.take("a").unwrap();
        assert_ne!(a, b, "clusters share the host's ids");
        assert_eq!(of("one").take("a").unwrap(), a, "whoever asks again, also after a restart, has the same");
        let c = one.take("c").unwrap();
        assert!(c != a && c != b);
        let pods = |ranges: &UserRanges| ranges.pods().unwrap().into_iter().collect::<Vec<_>>();
        assert_eq!((pods(&one), pods(&other)), (vec!["a".into(), "c".into()], vec!["a".into()]));
        one.give_back("a").unwrap();
        one.give_back("a").unwrap();
        assert_eq!(other.take("d").unwrap(), a, "what is given back is there for others");
        one.give_all_back().unwrap();
        assert_eq!(one.take("e").unwrap(), c);
        assert_eq!(other.take("a").unwrap(), b, "another cluster keeps its own");
        one.give_all_back().unwrap();
        other.give_all_back().unwrap();
        assert!(!directory.path().join("users").exists(), "nothing is left when nobody has anything");
    }

    #[test]
    fn ranges_do_not_overlap_and_end() {
        let directory = tempfile::tempdir().unwrap();
        let ranges = UserRanges::new(directory.path().to_owned(), "c".to_owned());
        for number in 1..RANGES {
            symlink(format!("other/{number}"), directory.path().join(number.to_string())).unwrap();
        }
        assert_eq!(ranges.take("a").unwrap().base, FIRST);
        assert!(ranges.take("b").unwrap_err().to_string().contains("all 4080 ranges"));
        fs::remove_file(directory.path().join((RANGES - 1).to_string())).unwrap();
        let last = ranges.take("b").unwrap();
        assert!(last.base.is_multiple_of(COUNT) && last.base + last.count <= 0x7ff0_0000, "{last:?}");
        assert_eq!(range(1).base, range(0).base + range(0).count);
    }
}
