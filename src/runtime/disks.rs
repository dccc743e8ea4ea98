//! What is read from and written to disks by the machine or by a group of processes, as the kernel counts it.

use std::fs;
use std::path::Path;

use super::cgroups::Layout;

/// One disk.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DiskUse {
    /// Its device: `/dev/vda`.
    pub device: String,
    /// What was read.
    pub read: Share,
    /// What was written.
    pub written: Share,
}

/// One direction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// All of it.
    pub bytes: u64,
    /// In so many operations.
    pub operations: u64,
}

/// That of a group, where version 2 counts it; version 1's counters are of a hierarchy that minik has no groups in.
pub fn of_group(layout: &Layout, group: &Path) -> Vec<DiskUse> {
    let Some(directory) = layout.unified(group).filter(|_| layout.is_unified()) else { return Vec::new() };
    let text = fs::read_to_string(directory.join("io.stat")).unwrap_or_default();
    parse(&text, |number| device_of(number).unwrap_or_else(|| number.to_owned()))
}

/// That of the machine: its whole disks, not their parts.
pub fn of_machine() -> Vec<DiskUse> {
    let text = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    parse_machine(&text, |name| Path::new("/sys/block").join(name).exists())
}

/// The device of a file system, by the number of what lies on it; nothing where it has none of its own.
pub fn device_of_path(path: &Path) -> Option<String> {
    let number = rustix::fs::stat(path).ok()?.st_dev;
    device_of(&format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}

/// The device of this number: `8:0`.
fn device_of(number: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/sys/dev/block").join(number).join("uevent")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(|name| format!("/dev/{name}"))
}

/// Reads `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn parse(text: &str, name: impl Fn(&str) -> String) -> Vec<DiskUse> {
    let disk = |line: &str| {
        let (number, counts) = line.split_once(' ')?;
        let of = |key: &str| {
            let count = counts.split(' ').find_map(|count| count.strip_prefix(key)?.strip_prefix('='));
            count.and_then(|count| count.parse().ok())
        };
        Some(DiskUse {
            read: Share { bytes: of("rbytes")?, operations: of("rios")? },
            written: Share { bytes: of("wbytes")?, operations: of("wios")? },
            device: name(number),
        })
    };
    text.lines().filter_map(disk).collect()
}

/// Reads `/proc/diskstats` (`iostats.rst` of the kernel), of disks that have been used.
fn parse_machine(text: &str, is_whole: impl Fn(&str) -> bool) -> Vec<DiskUse> {
    /// The kernel counts sectors of this size here, whatever the disk's are.
    const SECTOR: u64 = 512;
    let disk = |line: &str| {
        let mut fields = line.split_whitespace().skip(2);
        let name = fields.next().filter(|name| is_whole(name))?;
        let counts: Vec<u64> = fields.map_while(|count| count.parse().ok()).collect();
        let share = |at: usize| {
            Some(Share { operations: *counts.get(at)?, bytes: counts.get(at + 2)?.saturating_mul(SECTOR) })
        };
        let (read, written) = (share(0)?, share(4)?);
        let used = read.operations > 0 || written.operations > 0;
        used.then(|| DiskUse { device: format!("/dev/{name}"), read, written })
    };
    text.lines().filter_map(disk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counts_are_read() {
        let share = |bytes, operations| Share { bytes, operations };
        let text = "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n";
        let found = parse(text, |number| format!("disk {number}"));
        let expected = DiskUse { device: "disk 8:0".into(), read: share(4096, 1), written: share(8192, 2) };
        assert_eq!(found, [expected]);
        let text = "   8       0 sda 10 3 80 5 20 4 160 6 0 0 0 0 0 0 0\n   8       1 sda1 9 3 80 5 20 4 160 6 0 0 0\n   \
                    7       0 loop0 0 0 0 0 0 0 0 0 0 0 0\n";
        let found = parse_machine(text, |name| name != "sda1");
        let expected =
            DiskUse { device: "/dev/sda".into(), read: share(40_960, 10), written: share(81_920, 20) };
        assert_eq!(found, [expected]);
    }
}
