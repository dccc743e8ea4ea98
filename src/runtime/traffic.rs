//! What goes through the network interfaces of a pod or of the machine, as the kernel counts it.

use std::fs;
use std::path::Path;

/// Interfaces that carry what stays on this machine: nobody asks for them (as in cAdvisor).
const IGNORED: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// One direction.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// All of them.
    pub bytes: u64,
    /// In so many pieces.
    pub packets: u64,
    /// Pieces that were spoilt.
    pub errors: u64,
    /// Pieces for which there was no place.
    pub dropped: u64,
}

/// One interface.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Its name.
    pub interface: String,
    /// What came in.
    pub received: Way,
    /// What went out.
    pub sent: Way,
}

/// That of the network which a process is in; nothing for a process that is in this one's network, or has ended.
pub fn of_process(pid: i32) -> Vec<Traffic> {
    let process = Path::new("/proc").join(pid.to_string());
    let network = |process: &Path| fs::read_link(process.join("ns/net")).ok();
    let own = network(Path::new("/proc/self"));
    match network(&process) {
        theirs @ Some(_) if theirs != own => read(&process.join("net/dev")),
        _ => Vec::new(),
    }
}

/// That of the machine.
pub fn of_machine() -> Vec<Traffic> {
    read(Path::new("/proc/self/net/dev"))
}

fn read(file: &Path) -> Vec<Traffic> {
    fs::read_to_string(file).map_or_else(|_| Vec::new(), |text| parse(&text))
}

/// Reads `/proc/net/dev`.
fn parse(text: &str) -> Vec<Traffic> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let lines = lines.map(|(name, counts)| (name.trim(), counts));
    let asked = lines.filter(|(name, _)| !IGNORED.iter().any(|ignored| name.starts_with(ignored)));
    asked
        .filter_map(|(name, counts)| {
            let counts: Vec<u64> = counts.split_whitespace().map_while(|count| count.parse().ok()).collect();
            let way = |at: usize| {
                let [bytes, packets, errors, dropped] = *counts.get(at..at + 4)? else { return None };
                Some(Way { bytes, packets, errors, dropped })
            };
            Some(Traffic { interface: name.to_owned(), received: way(0)?, sent: way(8)? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_read_as_the_kernel_writes_them() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
                    lo:  100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0\n  \
                    eth0: 2000      20    3    4    0     0          0         0     5000      50    6    7    0     0       0          0\n";
        let eth0 = Traffic {
            interface: "eth0".into(),
            received: Way { bytes: 2000, packets: 20, errors: 3, dropped: 4 },
            sent: Way { bytes: 5000, packets: 50, errors: 6, dropped: 7 },
        };
        assert_eq!(parse(text), [eth0]);
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(of_process(own).is_empty());
    }
}
