//! The store on a machine that loses its processes and its power, again and again: what the disk has not been made to keep
//! is kept by chance, sector by sector.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::super::medium::{Directory, Medium};
use super::super::writer::Limits;
use super::super::{Revision, Store};
use super::encode;

const SECTOR: usize = 512;
const LIMITS: Limits = Limits { events: 20, bytes: usize::MAX, file: 1 << 20 };

/// Numbers without a pattern (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

/// A file as processes see it, and as it lies on the disk.
#[derive(Clone, Default)]
struct Cached {
    seen: Vec<u8>,
    kept: Vec<u8>,
    /// The sectors that may be on the disk as they are seen.
    dirty: BTreeSet<usize>,
}

impl Cached {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        self.seen[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..(offset + bytes.len()).div_ceil(SECTOR));
    }

    /// What is left of it without power.
    fn lose(&mut self, chance: &mut Chance) {
        let mut left = self.kept.clone();
        left.resize(left.len().max(self.seen.len()), 0);
        for sector in self.dirty.iter().filter(|_| chance.coin()) {
            let from = sector * SECTOR;
            let to = self.seen.len().min(from + SECTOR);
            if from < to {
                left[from..to].copy_from_slice(&self.seen[from..to]);
            }
        }
        left.truncate(if chance.coin() { self.kept.len() } else { self.seen.len() });
        *self = Cached { kept: left.clone(), seen: left, dirty: BTreeSet::new() };
    }
}

#[derive(Clone, Default)]
struct Machine {
    files: Vec<Cached>,
    names: BTreeMap<OsString, usize>,
    kept_names: BTreeMap<OsString, usize>,
    /// So many operations are done before its process ends.
    left: usize,
    /// As its process left it, with what was acknowledged by then.
    end: Option<(Box<Machine>, Revision)>,
}

impl Machine {
    fn lose(&mut self, chance: &mut Chance) {
        self.files.iter_mut().for_each(|file| file.lose(chance));
        let names = if chance.coin() { self.names.clone() } else { self.kept_names.clone() };
        (self.names, self.kept_names) = (names.clone(), names);
    }
}

#[derive(Clone)]
struct Running {
    machine: Arc<Mutex<Machine>>,
    acknowledged: Arc<AtomicU64>,
}

impl Running {
    /// Before each operation the process may end.
    fn operate<T>(&self, operation: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.machine.lock().unwrap();
        match machine.left.checked_sub(1) {
            Some(left) => machine.left = left,
            None if machine.end.is_none() => {
                let end = Box::new(machine.clone());
                machine.end = Some((end, self.acknowledged.load(Ordering::SeqCst)));
            }
            None => {}
        }
        operation(&mut machine)
    }
}

struct OneFile(Running, usize);

fn name(path: &Path) -> OsString {
    path.file_name().unwrap().to_owned()
}

impl Directory for Running {
    fn open(&self, path: &Path) -> io::Result<Box<dyn Medium>> {
        let file = self.operate(|machine| {
            let next = machine.files.len();
            let file = *machine.names.entry(name(path)).or_insert(next);
            if file == next {
                machine.files.push(Cached::default());
            }
            file
        });
        Ok(Box::new(OneFile(self.clone(), file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.operate(|machine| {
            let file = machine.names.remove(&name(from)).unwrap();
            machine.names.insert(name(to), file);
        });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.operate(|machine| _ = machine.names.remove(&name(path)));
        Ok(())
    }

    fn sync_names(&self, _: &Path) -> io::Result<()> {
        self.operate(|machine| machine.kept_names = machine.names.clone());
        Ok(())
    }
}

impl Medium for OneFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.operate(|machine| machine.files[self.1].seen.len() as u64))
    }

    fn read_at(&self, out: &mut [u8], offset: u64) -> io::Result<()> {
        let from = offset as usize;
        self.0.operate(|machine| out.copy_from_slice(&machine.files[self.1].seen[from..from + out.len()]));
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.operate(|machine| machine.files[self.1].write(bytes, offset as usize));
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.operate(|machine| machine.files[self.1].seen.resize(length as usize, 0));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.operate(|machine| {
            let file = &mut machine.files[self.1];
            // As with fdatasync: what was not written is not looked at.
            file.kept.resize(file.seen.len(), 0);
            for sector in std::mem::take(&mut file.dirty) {
                let from = sector * SECTOR;
                let to = file.seen.len().min(from + SECTOR);
                if from < to {
                    file.kept[from..to].copy_from_slice(&file.seen[from..to]);
                }
            }
        });
        Ok(())
    }

    fn is_named(&self, path: &Path) -> io::Result<bool> {
        Ok(self.0.operate(|machine| machine.names.get(&name(path)) == Some(&self.1)))
    }
}

/// A process on the machine that writes until it ends; how it leaves the machine, and what it has acknowledged.
async fn life(mut machine: Machine, acknowledged: Revision, chance: &mut Chance) -> (Machine, Revision) {
    machine.left = chance.below(60);
    machine.end = None;
    let machine = Arc::new(Mutex::new(machine));
    let running = Running { machine: machine.clone(), acknowledged: Arc::new(acknowledged.into()) };
    // The mark that a store is there lies on the real disk, new at each start.
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open_with(&directory.path().join("store"), Arc::new(running.clone()), LIMITS).unwrap();
    assert!(store.revision() >= acknowledged, "{} {acknowledged}", store.revision());
    while machine.lock().unwrap().end.is_none() {
        let text = "x".repeat([10, 600, 5_000, 300_000][chance.below(4)]);
        let written = match store.get("a") {
            None => store.create("a", encode(&text)).await,
            Some(known) => {
                assert_eq!(known.json()["revision"].as_u64(), Some(known.revision));
                store.update("a", known.revision, encode(&text)).await
            }
        };
        running.acknowledged.store(written.unwrap().revision, Ordering::SeqCst);
    }
    store.close().await;
    let (end, acknowledged) = machine.lock().unwrap().end.take().unwrap();
    (*end, acknowledged)
}

#[tokio::test]
async fn acknowledged_writes_survive_every_loss_of_power() {
    for seed in 1..=60 {
        let mut chance = Chance(seed * 0x9e37_79b9);
        let (mut machine, mut acknowledged) = (Machine::default(), 0);
        for _ in 0..8 {
            (machine, acknowledged) = life(machine, acknowledged, &mut chance).await;
            if chance.coin() {
                machine.lose(&mut chance);
            }
        }
        assert!(acknowledged > 8, "{acknowledged}");
    }
}
