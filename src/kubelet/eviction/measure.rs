//! What is left of a node's resources at this moment.

use std::fs;
use std::path::Path;

use super::thresholds::{Level, Levels, Signal};
use crate::kubelet::context::Config;
use crate::runtime::{Consumer, Runtime, Stats};

/// Reads the kernel's figures; what cannot be read is left out.
pub fn measure<R: Runtime>(config: &Config, runtime: &R) -> Levels {
    let mut levels = Levels::new();
    if let Ok(machine) = runtime.stats(&Consumer::Machine) {
        levels.insert(Signal::Memory, memory(config.capacity.memory, &machine));
    }
    for (directory, bytes, inodes) in [
        (&config.pods, Signal::NodeFs, Signal::NodeFsInodes),
        (&config.images, Signal::ImageFs, Signal::ImageFsInodes),
    ] {
        let Some(disk) = disk(directory) else { continue };
        levels.insert(bytes, disk.bytes);
        // File systems that make inodes as they need them tell of none.
        if disk.inodes.capacity > 0 {
            levels.insert(inodes, disk.inodes);
        }
    }
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if let Some(level) = pids(&read("/proc/sys/kernel/pid_max"), &read("/proc/loadavg")) {
        levels.insert(Signal::Pid, level);
    }
    levels
}

/// Kubelet takes pages of files that were read more than once for used, most of which the kernel gives back when asked:
/// where that expects to have more, its word counts.
fn memory(capacity: u64, machine: &Stats) -> Level {
    let unused = capacity.saturating_sub(machine.memory_working_set);
    Level { available: unused.max(machine.memory_available).min(capacity), capacity }
}

struct Disk {
    bytes: Level,
    inodes: Level,
}

/// The file system that a directory is on or will be on.
fn disk(directory: &Path) -> Option<Disk> {
    let stat = directory.ancestors().find_map(|directory| rustix::fs::statvfs(directory).ok())?;
    Some(Disk {
        bytes: Level { available: stat.f_bavail * stat.f_frsize, capacity: stat.f_blocks * stat.f_frsize },
        inodes: Level { available: stat.f_ffree, capacity: stat.f_files },
    })
}

/// How many processes may yet be, from the kernel's limit and the fourth field of its load (`RUNNING/ALL`).
fn pids(limit: &str, load: &str) -> Option<Level> {
    let capacity = limit.trim().parse().ok()?;
    let (_, all) = load.split_whitespace().nth(3)?.split_once('/')?;
    Some(Level { available: u64::saturating_sub(capacity, all.parse().ok()?), capacity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_the_kernel_would_give_back_is_left() {
        for (working_set, given_back, expected) in
            [(900, 0, 100), (900, 50, 100), (900, 700, 700), (2000, 0, 0), (0, 2000, 1000)]
        {
            let machine =
                Stats { memory_working_set: working_set, memory_available: given_back, ..Stats::default() };
            assert_eq!(memory(1000, &machine).available, expected, "{working_set} {given_back}");
        }
    }

    #[test]
    fn proc_and_disks_are_read() {
        let level = pids("32768\n", "0.1 0.2 0.3 3/768 4242\n").unwrap();
        assert_eq!((level.available, level.capacity), (32_000, 32_768));
        assert_eq!(pids("", "0 0 0 1/2 3"), None);
        let dir = tempfile::tempdir().unwrap();
        let here = disk(dir.path()).unwrap();
        assert!(here.bytes.capacity >= here.bytes.available && here.bytes.capacity > 0);
        assert_eq!(disk(&dir.path().join("not/yet")).unwrap().bytes.capacity, here.bytes.capacity);
    }
}
