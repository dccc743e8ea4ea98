//! The host's forwarding switch: on while any cluster's network is up, and put back by the last to leave.
//!
//! What the switch was before is written in the alias of the gateway link. So the memory lives exactly as long
//! as the kernel state that it describes, and every cluster of the host can read it.

use super::Error;

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";

/// How the alias of a gateway link begins.
const MARK: &str = "minik gateway, ip_forward was ";

/// The alias of a gateway link on a host where the switch was `before`.
pub(super) fn alias(before: &str) -> String {
    format!("{MARK}{before}")
}

/// What the alias of a gateway link remembers.
pub(super) fn remembered(alias: &str) -> Option<&str> {
    alias.strip_prefix(MARK)
}

/// What to remember on a new gateway link: what another cluster remembers, else what is now.
pub(super) fn before<'a>(other_aliases: impl IntoIterator<Item = &'a str>, now: &'a str) -> &'a str {
    other_aliases.into_iter().find_map(remembered).unwrap_or(now)
}

/// What to put back when a gateway link that remembers `own` goes: nothing while another cluster needs the switch.
pub(super) fn put_back<'a>(
    own: Option<&'a str>,
    other_aliases: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if other_aliases.into_iter().any(|alias| remembered(alias).is_some()) { None } else { own }
}

/// The switch now.
pub(super) fn read() -> Result<String, Error> {
    let text = std::fs::read_to_string(SWITCH).map_err(Error::io(format!("reading {SWITCH}")))?;
    Ok(text.trim().to_owned())
}

/// Sets the switch unless it already is so.
pub(super) fn set(value: &str) -> Result<(), Error> {
    if read()? == value {
        return Ok(());
    }
    std::fs::write(SWITCH, value).map_err(Error::io(format!("writing {value:?} to {SWITCH}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cluster_remembers_and_the_last_puts_back() {
        let first = alias(before([], "0"));
        let second = alias(before(["eth uplink", first.as_str()], "1"));
        assert_eq!(remembered(&second), Some("0"));
        assert_eq!(put_back(remembered(&first), [second.as_str()]), None);
        assert_eq!(put_back(remembered(&second), ["eth uplink"]), Some("0"));
        assert_eq!(put_back(None, []), None);
    }
}
