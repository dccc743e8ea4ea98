//! The figures of this process, by the names that every Prometheus client uses.

use std::fs;

use crate::api::exposition::{Exposition, Type};

/// The kernel counts processor time for programs in hundredths of a second.
const TICKS_A_SECOND: f64 = 100.0;
const PAGE_BYTES: f64 = 4096.0;

/// What `/proc` says of the process.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Figures {
    cpu_seconds: f64,
    started: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

/// From the texts of `/proc/self/stat` and `/proc/stat` (pure).
fn read(own: &str, machine: &str) -> Option<Figures> {
    // The second field is the program's name in parentheses, whatever that holds.
    let fields: Vec<f64> =
        own.rsplit_once(") ")?.1.split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0.0)).collect();
    let booted = machine.lines().find_map(|line| line.strip_prefix("btime ")?.parse::<f64>().ok())?;
    // Counted from the fourth field, by proc(5): 14 utime, 15 stime, 22 starttime, 23 vsize, 24 rss.
    Some(Figures {
        cpu_seconds: (fields.get(10)? + fields.get(11)?) / TICKS_A_SECOND,
        started: booted + fields.get(18)? / TICKS_A_SECOND,
        virtual_bytes: *fields.get(19)?,
        resident_bytes: fields.get(20)? * PAGE_BYTES,
    })
}

/// The limit of open files.
fn most_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Writes the figures; what cannot be read is left out.
pub fn figures(page: &mut Exposition) {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    if let Some(figures) = read(&text("/proc/self/stat"), &text("/proc/stat")) {
        let help = "Total user and system CPU time spent in seconds.";
        page.single("process_cpu_seconds_total", Type::Counter, help, figures.cpu_seconds);
        let help = "Start time of the process since unix epoch in seconds.";
        page.single("process_start_time_seconds", Type::Gauge, help, figures.started);
        let help = "Virtual memory size in bytes.";
        page.single("process_virtual_memory_bytes", Type::Gauge, help, figures.virtual_bytes);
        let help = "Resident memory size in bytes.";
        page.single("process_resident_memory_bytes", Type::Gauge, help, figures.resident_bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        let help = "Number of open file descriptors.";
        page.single("process_open_fds", Type::Gauge, help, open.count());
    }
    if let Some(most) = most_files(&text("/proc/self/limits")) {
        page.single("process_max_fds", Type::Gauge, "Maximum number of open file descriptors.", most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let own = "42 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 13 14 20 0 7 0 500 8192 3 18446744073709551615";
        let figures = read(own, "cpu 1\nbtime 1700000000\n").unwrap();
        assert_eq!((figures.cpu_seconds, figures.started), (2.0, 1_700_000_005.0));
        assert_eq!((figures.virtual_bytes, figures.resident_bytes), (8192.0, 12_288.0));
        assert_eq!(read("", ""), None);
        assert_eq!(
            most_files("Max open files            1024                 4096                 files\n"),
            Some(1024.0)
        );
    }
}
