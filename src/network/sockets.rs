//! What waits in the sockets of a pod for its processes.

use std::fs;
use std::io;
use std::path::Path;

use crate::sys::namespace;

/// Whether in this network namespace a TCP connection waits to be accepted, or bytes of one wait to be read.
///
/// # Errors
/// When the namespace cannot be looked into.
pub fn is_waited_for(namespace: &Path) -> io::Result<bool> {
    let tables = || ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
    // A kernel without IPv6 has no table of it.
    let tables = namespace::run_in_path(namespace, tables)?.into_iter().filter_map(Result::ok);
    Ok(tables.into_iter().any(|table| waits(&table)))
}

/// Whether a table of sockets as the kernel writes it tells of something received: connections of those that listen, bytes
/// of those that are connected.
fn waits(table: &str) -> bool {
    let received = |line: &str| {
        // "sl local_address rem_address st tx_queue:rx_queue ...", numbers in hexadecimal.
        let queues = line.split_ascii_whitespace().nth(4)?;
        u32::from_str_radix(queues.split_once(':')?.1, 16).ok()
    };
    table.lines().skip(1).any(|line| received(line).is_some_and(|count| count > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_in_the_tables() {
        let head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
        let line = |state: &str, queues: &str| {
            format!(
                "   0: 00000000:0050 00000000:0000 {state} {queues} 00:00000000 00000000     0        0 1 1 0\n"
            )
        };
        for (lines, expected) in [
            (vec![], false),
            (vec![line("0A", "00000000:00000000")], false),
            (vec![line("0A", "00000000:00000002")], true),
            (vec![line("0A", "00000000:00000000"), line("01", "00000010:00000000")], false),
            (vec![line("0A", "00000000:00000000"), line("01", "00000000:0000004E")], true),
            (vec!["nonsense\n".to_owned()], false),
        ] {
            assert_eq!(waits(&format!("{head}{}", lines.concat())), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_connection_waits_until_it_is_accepted_and_its_bytes_until_they_are_read() {
        use std::io::{Read, Write};
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("MINIK_REQUIRE_ROOT").is_none(), "this test needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pod");
        crate::sys::netns::create(&path, || Ok(())).unwrap();
        let up = || crate::sys::program::run("ip", &["link", "set", "lo", "up"], &[]).map(drop);
        namespace::run_in_path(&path, up).unwrap().unwrap();
        let (listener, mut client) = namespace::run_in_path(&path, || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener, client)
        })
        .unwrap();
        assert!(is_waited_for(&path).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        assert!(!is_waited_for(&path).unwrap());
        client.write_all(b"x").unwrap();
        assert!(is_waited_for(&path).unwrap());
        server.read_exact(&mut [0]).unwrap();
        assert!(!is_waited_for(&path).unwrap());
        drop((listener, server, client));
        crate::sys::netns::release(&path).unwrap();
    }
}
