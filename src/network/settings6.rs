//! What the kernel is told of IPv6 on links. All of it is for the network namespace of the calling thread.

use std::io;

use super::Error;

/// Leaves IPv6 on a link to this program alone: it is on, and the kernel neither makes addresses of its own nor learns
/// any from who is at the other end.
pub(super) fn quiet_ipv6(link: &str) -> io::Result<()> {
    // `IN6_ADDR_GEN_MODE_NONE`.
    for (setting, value) in [("addr_gen_mode", "1"), ("accept_ra", "0"), ("disable_ipv6", "0")] {
        set_ipv6(link, setting, value)?;
    }
    Ok(())
}

/// Has all links of a namespace speak IPv6, those too that are still to come, whatever the host's are told to.
pub(super) fn enable_ipv6() -> io::Result<()> {
    ["all", "default"].into_iter().try_for_each(|links| set_ipv6(links, "disable_ipv6", "0"))
}

fn set_ipv6(link: &str, setting: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/{setting}");
    if std::fs::read_to_string(&path)?.trim() == value {
        return Ok(());
    }
    std::fs::write(path, value)
}

/// Whether IPv6 is on where the kernel keeps a link's settings; not on a link that is not there.
pub(super) fn speaks_ipv6(link: &str) -> bool {
    let switch = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    std::fs::read_to_string(switch).is_ok_and(|off| off.trim() == "0")
}

/// Takes no packet of IPv6 from a link: the kernel would give both its ends addresses, and let a pod speak to the
/// host past every rule. Fine where there is no IPv6 at all.
pub(super) fn forbid_ipv6(link: &str) -> Result<(), Error> {
    let switch = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    // Where it is off already it may be out of reach.
    if std::fs::read_to_string(&switch).is_ok_and(|off| off.trim() == "1") {
        return Ok(());
    }
    match std::fs::write(&switch, "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("writing 1 to {switch}"))(error))
        }
        _ => Ok(()),
    }
}
