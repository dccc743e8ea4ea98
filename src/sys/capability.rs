//! Capability sets: names to sets, and giving up everything else.

use std::io;

use caps::{CapSet, Capability, CapsHashSet};

/// The capabilities that a container gets unless told otherwise (Docker's and containerd's default list).
pub const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
];

/// The set that names such as `CAP_CHOWN` (or `chown`) mean; an unknown name is returned as the error.
pub fn parse(names: &[String]) -> Result<CapsHashSet, String> {
    names
        .iter()
        .map(|name| {
            let upper = name.to_ascii_uppercase();
            let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
            full.parse::<Capability>().map_err(|_| name.clone())
        })
        .collect()
}

/// All that this process may have and hand on.
pub fn held() -> io::Result<CapsHashSet> {
    caps::read(None, CapSet::Bounding).map_err(io::Error::other)
}

/// Drops what is not in `keep` from the bounding set. Needs `CAP_SETPCAP`: before changing user.
pub fn limit_bounding(keep: &CapsHashSet) -> io::Result<()> {
    let held = held()?;
    for capability in held.difference(keep) {
        caps::drop(None, CapSet::Bounding, *capability).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Makes `keep`, as far as the process has it, the permitted and effective set; the inheritable and ambient sets
/// become empty (CVE-2022-29162).
pub fn limit(keep: &CapsHashSet) -> io::Result<()> {
    let permitted = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let keep: CapsHashSet = permitted.intersection(keep).copied().collect();
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)?;
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)?;
    caps::set(None, CapSet::Effective, &keep).map_err(io::Error::other)?;
    caps::set(None, CapSet::Permitted, &keep).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_prefix() {
        assert_eq!(
            parse(&["net_admin".into(), "CAP_NET_ADMIN".into()]).unwrap(),
            [Capability::CAP_NET_ADMIN].into()
        );
        assert_eq!(parse(&["CAP_MADE_UP".into()]).unwrap_err(), "CAP_MADE_UP");
        assert_eq!(parse(&DEFAULT.map(String::from)).unwrap().len(), 14);
    }
}
