//! What a group uses, read from either version's files.

use std::fs;
use std::io;
use std::path::Path;

use super::{Controller, Layout};

/// A group's use of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time since the group was made, in nanoseconds.
    pub cpu_nanos: u64,
    /// All memory, page cache included, in bytes.
    pub memory_usage: u64,
    /// Memory that cannot be taken back easily: usage without inactive file pages, in bytes.
    pub memory_working_set: u64,
    /// Memory that the kernel expects to have for more programs, in bytes; told of the whole machine alone.
    pub memory_available: u64,
    /// Anonymous memory, in bytes.
    pub memory_rss: u64,
    /// Pages of files, in bytes.
    pub memory_cache: u64,
    /// Page faults since the group was made, and those of them for which the disk was read.
    pub page_faults: (u64, u64),
    /// Periods of a CPU limit since the group was made, and those of them in which it was reached.
    pub periods: (u64, u64),
    /// Processes and threads; not counted for the whole machine.
    pub pids: u64,
}

/// Reads the figures of a group.
pub fn read(layout: &Layout, group: &Path) -> io::Result<Stats> {
    let file = |controller, name: &str| match layout.directory(controller, group) {
        Some(directory) => fs::read_to_string(directory.join(name)),
        None => Ok(String::new()),
    };
    let unified = layout.is_unified();
    let cpu = file(Controller::Cpu, "cpu.stat")?;
    let cpu_nanos = if unified {
        keyed(&cpu, "usage_usec").unwrap_or(0).saturating_mul(1000)
    } else {
        number(&file(Controller::CpuAccount, "cpuacct.usage")?)
    };
    // Version 1 tells of the group alone unless the key says so.
    let (usage, [inactive, rss, cache, faults, major]) = if unified {
        ("memory.current", ["inactive_file", "anon", "file", "pgfault", "pgmajfault"])
    } else {
        let keys = ["total_inactive_file", "total_rss", "total_cache", "total_pgfault", "total_pgmajfault"];
        ("memory.usage_in_bytes", keys)
    };
    let memory_usage = number(&file(Controller::Memory, usage)?);
    let memory = file(Controller::Memory, "memory.stat")?;
    let of = |key| keyed(&memory, key).unwrap_or(0);
    Ok(Stats {
        cpu_nanos,
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(of(inactive)),
        memory_available: 0,
        memory_rss: of(rss),
        memory_cache: of(cache),
        page_faults: (of(faults), of(major)),
        periods: (keyed(&cpu, "nr_periods").unwrap_or(0), keyed(&cpu, "nr_throttled").unwrap_or(0)),
        pids: number(&file(Controller::Pids, "pids.current")?),
    })
}

/// The figures of the whole machine; a hierarchy's root has no files of its own for most of them.
pub fn of_machine() -> io::Result<Stats> {
    Ok(machine(&fs::read_to_string("/proc/stat")?, &fs::read_to_string("/proc/meminfo")?))
}

/// From the texts of `/proc/stat` and `/proc/meminfo`.
fn machine(stat: &str, meminfo: &str) -> Stats {
    /// The kernel counts processor time for programs in hundredths of a second, whatever it does inside.
    const TICK_NANOS: u64 = 10_000_000;
    let ticks: Vec<u64> = stat
        .lines()
        .find_map(|line| line.strip_prefix("cpu "))
        .map(|line| line.split_whitespace().filter_map(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in the first two.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum::<u64>();
    let kib = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0) * 1024
    };
    let memory_usage = kib("MemTotal").saturating_sub(kib("MemFree"));
    Stats {
        cpu_nanos: busy * TICK_NANOS,
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(kib("Inactive(file)")),
        memory_available: kib("MemAvailable"),
        memory_rss: kib("AnonPages"),
        memory_cache: kib("Cached"),
        ..Stats::default()
    }
}

/// The number after `key` in a file of `key value` lines.
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_files() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("g");
        fs::create_dir(&group).unwrap();
        fs::write(group.join("cpu.stat"), "usage_usec 1500\nuser_usec 1000\nnr_periods 7\nnr_throttled 2\n")
            .unwrap();
        fs::write(group.join("memory.current"), "4096000\n").unwrap();
        fs::write(
            group.join("memory.stat"),
            "anon 100\nfile 97000\ninactive_file 96000\npgfault 9\npgmajfault 1\n",
        )
        .unwrap();
        fs::write(group.join("pids.current"), "3\n").unwrap();
        let stats = read(&Layout::Unified(dir.path().into()), Path::new("g")).unwrap();
        let expected = Stats {
            cpu_nanos: 1_500_000,
            memory_usage: 4_096_000,
            memory_working_set: 4_000_000,
            memory_available: 0,
            memory_rss: 100,
            memory_cache: 97_000,
            page_faults: (9, 1),
            periods: (7, 2),
            pids: 3,
        };
        assert_eq!(stats, expected);
    }

    #[test]
    fn the_machine_as_a_whole() {
        let stat = "cpu  10 1 5 1000 7 2 3 4 0 0\ncpu0 1 1 1 1\n";
        let meminfo = "MemTotal: 1000 kB\nMemFree: 400 kB\nMemAvailable: 650 kB\nCached: 300 kB\n\
            Inactive(file): 200 kB\nAnonPages: 50 kB\n";
        let stats = machine(stat, meminfo);
        assert_eq!(stats.cpu_nanos, 210_000_000);
        assert_eq!((stats.memory_usage, stats.memory_working_set), (600 << 10, 400 << 10));
        assert_eq!(stats.memory_available, 650 << 10);
        assert_eq!((stats.memory_rss, stats.memory_cache), (50 << 10, 300 << 10));
    }

    #[test]
    fn oom_counters_of_both_versions() {
        let v2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n";
        assert_eq!(keyed(v2, "oom_kill"), Some(2));
        assert_eq!(keyed(v1, "oom_kill"), Some(1));
        assert_eq!(keyed("oom 3\n", "oom_kill"), None);
    }
}
