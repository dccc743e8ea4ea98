//! Address reservations: which pod has which address.
//!
//! A reservation is a symbolic link named by the address that "points" at the pod. Making and removing one is a
//! single atomic step without any data to write, whatever the pod is called; replacing a file of all of them
//! costs ten times as much, on the path of every pod.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Cidr, Error};

/// The link that keeps the place in the round when the newest reservations are gone.
const LAST: &str = "last";
/// Its successor, for a moment.
const NEXT: &str = "last.new";

/// The reservations of one range; what is in memory is always what is in the directory.
#[derive(Debug)]
pub(super) struct Addresses {
    directory: PathBuf,
    range: Cidr,
    /// The address given out last: the search for a free one goes on behind it, so that an address rests as
    /// long as possible before somebody else gets it.
    last: Option<Ipv4Addr>,
    reserved: BTreeMap<String, Ipv4Addr>,
    /// Handed out to namespaces that are being prepared and belong to no pod yet.
    prepared: Vec<Ipv4Addr>,
}

impl Addresses {
    /// Reads the reservations in `directory`, which must exist. What is named otherwise is left alone.
    pub(super) fn open(directory: &Path, range: Cidr) -> Result<Addresses, Error> {
        let tried = || format!("reading the reservations in {}", directory.display());
        let mut reserved = BTreeMap::new();
        for entry in std::fs::read_dir(directory).map_err(Error::io(tried()))? {
            let name = entry.map_err(Error::io(tried()))?.file_name();
            let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let id = std::fs::read_link(directory.join(&name)).map_err(Error::io(tried()))?;
            reserved.insert(id.to_string_lossy().into_owned(), address);
        }
        let kept = std::fs::read_link(directory.join(LAST)).ok();
        let kept = kept.and_then(|last| last.to_str()?.parse().ok());
        let last = kept.into_iter().chain(reserved.values().copied()).max();
        Ok(Addresses { directory: directory.to_owned(), range, last, reserved, prepared: Vec::new() })
    }

    /// The pods and their addresses.
    pub(super) fn reserved(&self) -> &BTreeMap<String, Ipv4Addr> {
        &self.reserved
    }

    /// Takes a free address for a namespace that is about to be prepared.
    pub(super) fn take(&mut self) -> Result<Ipv4Addr, Error> {
        let address = self.free().ok_or(Error::Exhausted(self.range))?;
        self.last = Some(address);
        self.prepared.push(address);
        Ok(address)
    }

    /// Gives back an address that was taken and never assigned.
    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        self.prepared.retain(|other| *other != address);
    }

    /// Writes down that a taken address belongs to `id`.
    pub(super) fn assign(&mut self, id: &str, address: Ipv4Addr) -> Result<(), Error> {
        // No fsync: what must survive is the death of this process. With the machine the namespaces die too.
        symlink(id, self.path(address)).map_err(Error::io(format!("reserving {address} for {id}")))?;
        self.reserved.insert(id.to_owned(), address);
        self.give_back(address);
        Ok(())
    }

    /// Forgets the address of `id`. Unknown is fine.
    pub(super) fn release(&mut self, id: &str) -> Result<(), Error> {
        let Some(address) = self.reserved.get(id).copied() else { return Ok(()) };
        self.keep_place()?;
        match std::fs::remove_file(self.path(address)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("releasing {address} of {id}"))(error));
            }
            _ => {}
        }
        self.reserved.remove(id);
        Ok(())
    }

    /// Keeps only the reservations that `keep` approves of.
    pub(super) fn retain(&mut self, keep: impl Fn(Ipv4Addr) -> bool) -> Result<(), Error> {
        let doomed: Vec<String> =
            self.reserved.iter().filter(|(_, address)| !keep(**address)).map(|(id, _)| id.clone()).collect();
        doomed.iter().try_for_each(|id| self.release(id))
    }

    /// Writes the place in the round down, before the reservation that shows it goes.
    fn keep_place(&self) -> Result<(), Error> {
        let Some(last) = self.last else { return Ok(()) };
        let (next, path) = (self.directory.join(NEXT), self.directory.join(LAST));
        let made = match symlink(last.to_string(), &next) {
            // Left by a process that died between the two steps.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&next).and_then(|()| symlink(last.to_string(), &next))
            }
            other => other,
        };
        made.and_then(|()| std::fs::rename(&next, &path))
            .map_err(Error::io(format!("writing {}", path.display())))
    }

    fn path(&self, address: Ipv4Addr) -> PathBuf {
        self.directory.join(address.to_string())
    }

    /// The next free address behind the last one; never the base, the gateway or the broadcast address.
    fn free(&self) -> Option<Ipv4Addr> {
        let hosts = self.range.last().saturating_sub(2);
        let taken = |address: &Ipv4Addr| {
            self.prepared.contains(address) || self.reserved.values().any(|other| other == address)
        };
        let start = self
            .last
            .filter(|last| self.range.contains(*last))
            .map_or(0, |last| (last.to_bits() & !self.range.mask()).saturating_sub(1));
        (0..hosts).map(|step| self.range.nth(2 + (start + step) % hosts)).find(|address| !taken(address))
    }
}

/// Removes the reservations in `directory`; already gone is fine.
pub(super) fn remove(directory: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let own = |name: &str| name == LAST || name == NEXT || name.parse::<Ipv4Addr>().is_ok();
        if name.to_str().is_some_and(own) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(directory: &Path, range: &str) -> Addresses {
        Addresses::open(directory, range.parse().unwrap()).unwrap()
    }

    #[test]
    fn addresses_rest_before_they_are_reused() {
        let directory = tempfile::tempdir().unwrap();
        let mut addresses = open(directory.path(), "10.0.0.0/29");
        let mut given = Vec::new();
        for _ in 0..10 {
            let address = addresses.take().unwrap();
            addresses.assign("a", address).unwrap();
            given.push(address.octets()[3]);
            addresses.release("a").unwrap();
        }
        assert_eq!(given, [2, 3, 4, 5, 6, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_full_range_is_an_error_and_a_release_ends_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut addresses = open(directory.path(), "10.0.0.0/29");
        for id in ["a", "b", "c", "d", "e"] {
            let address = addresses.take().unwrap();
            addresses.assign(id, address).unwrap();
        }
        assert!(matches!(addresses.take(), Err(Error::Exhausted(_))));
        let freed = addresses.reserved()["c"];
        addresses.release("c").unwrap();
        assert_eq!(addresses.take().unwrap(), freed);
        assert!(matches!(addresses.take(), Err(Error::Exhausted(_))), "a taken address is not free");
        addresses.give_back(freed);
        assert_eq!(addresses.take().unwrap(), freed);
    }

    #[test]
    fn reservations_and_the_place_in_the_round_survive_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let mut addresses = open(directory.path(), "10.0.0.0/24");
        let first = addresses.take().unwrap();
        addresses.assign("a", first).unwrap();
        let second = addresses.take().unwrap();
        addresses.assign("b", second).unwrap();
        addresses.release("b").unwrap();
        let mut reopened = open(directory.path(), "10.0.0.0/24");
        assert_eq!(reopened.reserved().get("a"), Some(&first));
        assert!(reopened.take().unwrap() > second);
    }

    #[test]
    fn pods_may_be_called_anything_and_other_files_stay() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("notes"), "").unwrap();
        let mut addresses = open(directory.path(), "10.0.0.0/24");
        for id in ["../../etc/passwd", "a b/c", "é"] {
            let address = addresses.take().unwrap();
            addresses.assign(id, address).unwrap();
            assert_eq!(open(directory.path(), "10.0.0.0/24").reserved().get(id), Some(&address));
        }
        // Left by a crash in the middle of a release.
        symlink("10.0.0.9", directory.path().join(NEXT)).unwrap();
        addresses.release("é").unwrap();
        remove(directory.path()).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes"]);
        remove(&directory.path().join("missing")).unwrap();
    }
}
