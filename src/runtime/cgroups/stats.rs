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
    /// Processes and threads.
    pub pids: u64,
}

/// Reads the figures of a group.
pub fn read(layout: &Layout, group: &Path) -> io::Result<Stats> {
    let file = |controller, name: &str| match layout.directory(controller, group) {
        Some(directory) => fs::read_to_string(directory.join(name)),
        None => Ok(String::new()),
    };
    let unified = layout.is_unified();
    let cpu_nanos = if unified {
        keyed(&file(Controller::Cpu, "cpu.stat")?, "usage_usec").unwrap_or(0).saturating_mul(1000)
    } else {
        number(&file(Controller::CpuAccount, "cpuacct.usage")?)
    };
    let (usage, inactive) = if unified {
        ("memory.current", "inactive_file")
    } else {
        ("memory.usage_in_bytes", "total_inactive_file")
    };
    let memory_usage = number(&file(Controller::Memory, usage)?);
    let inactive = keyed(&file(Controller::Memory, "memory.stat")?, inactive).unwrap_or(0);
    let pids = number(&file(Controller::Pids, "pids.current")?);
    Ok(Stats { cpu_nanos, memory_usage, memory_working_set: memory_usage.saturating_sub(inactive), pids })
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
        fs::write(group.join("cpu.stat"), "usage_usec 1500\nuser_usec 1000\n").unwrap();
        fs::write(group.join("memory.current"), "4096000\n").unwrap();
        fs::write(group.join("memory.stat"), "anon 100\ninactive_file 96000\nactive_file 5\n").unwrap();
        fs::write(group.join("pids.current"), "3\n").unwrap();
        let stats = read(&Layout::Unified(dir.path().into()), Path::new("g")).unwrap();
        let expected =
            Stats { cpu_nanos: 1_500_000, memory_usage: 4_096_000, memory_working_set: 4_000_000, pids: 3 };
        assert_eq!(stats, expected);
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
