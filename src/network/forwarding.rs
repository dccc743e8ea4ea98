//! The host's forwarding switches: on while any cluster's network is up, and put back by the last to leave.
//!
//! What a switch was before is written in the alias of the gateway link. So the memory lives exactly as long
//! as the kernel state that it describes, and every cluster of the host can read it.

use std::path::Path;

use super::Error;

const SWITCH: &str = "/proc/sys/net/ipv4/ip_forward";
/// That of IPv6, for all links: there is one of each link too, but the kernel forwards nothing without this one.
const SWITCH6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

/// How the alias of a gateway link begins.
const MARK: &str = "minik gateway, ip_forward was ";
/// How it goes on where IPv6 is forwarded too. It begins with a blank: whoever knows IPv4 alone writes all of it to the
/// switch of that, and the kernel reads a number up to a blank.
const MARK6: &str = " and ipv6 forwarding was ";
/// How it ends where routers are listened to nevertheless, on which links.
const LEARNING: &str = " and learning on ";
/// So many names of links fit an alias.
const LINKS: usize = 10;

/// How the host's switches were before there was any cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Switches {
    v4: String,
    v6: Option<Switches6>,
}

/// Those of IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Switches6 {
    forwarding: String,
    /// The links on which the host learns of its router. Who forwards does not, unless it is told to.
    learning: Vec<String>,
}

/// What is to be put back; `None` for what another cluster needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Restored {
    v4: Option<String>,
    v6: Option<Switches6>,
}

impl Switches {
    /// What to remember on a new gateway link: what another cluster remembers, else what is now.
    pub(super) fn before<'a>(other_aliases: impl IntoIterator<Item = &'a str>, now: String) -> Switches {
        let remembered = other_aliases.into_iter().find_map(Switches::remembered);
        Switches { v4: remembered.map_or(now, |other| other.v4), v6: None }
    }

    /// Remembers those of IPv6 as well: what is remembered already, here or by others, else what is now.
    pub(super) fn remember6<'a>(&mut self, aliases: impl IntoIterator<Item = &'a str>, now: String) {
        let others: Vec<Switches6> =
            aliases.into_iter().filter_map(Switches::remembered).filter_map(|other| other.v6).collect();
        let first = self.v6.take().or_else(|| others.first().cloned());
        self.v6 = Some(first.unwrap_or(Switches6 { forwarding: now, learning: Vec::new() }));
        others.iter().for_each(|other| self.learn(&other.learning));
    }

    /// Remembers that the host is made to learn of its router on these links.
    pub(super) fn learn(&mut self, links: &[String]) {
        let Some(before) = &mut self.v6 else { return };
        before.learning.extend_from_slice(links);
        before.learning.sort();
        before.learning.dedup();
        // What does not fit needs not be put back: it makes a difference to who forwards alone.
        before.learning.truncate(LINKS);
    }

    /// Whether the host listened to routers before: who forwards does not.
    pub(super) fn listened(&self) -> bool {
        self.v6.as_ref().is_some_and(|before| before.forwarding == "0")
    }

    /// Whether it is remembered that the host is made to learn of its router somewhere.
    pub(super) fn concerns_routers(alias: &str) -> bool {
        Switches::remembered(alias).is_some_and(|other| other.v6.is_some())
    }

    /// What the alias of a gateway link remembers.
    pub(super) fn remembered(alias: &str) -> Option<Switches> {
        let rest = alias.strip_prefix(MARK)?;
        let Some((v4, v6)) = rest.split_once(MARK6) else {
            return Some(Switches { v4: rest.to_owned(), v6: None });
        };
        let (forwarding, learning) = v6.split_once(LEARNING).unwrap_or((v6, ""));
        let learning = learning.split_whitespace().map(str::to_owned).collect();
        let v6 = Switches6 { forwarding: forwarding.to_owned(), learning };
        Some(Switches { v4: v4.to_owned(), v6: Some(v6) })
    }

    /// The alias that remembers them.
    pub(super) fn alias(&self) -> String {
        let mut alias = format!("{MARK}{}", self.v4);
        if let Some(Switches6 { forwarding, learning }) = &self.v6 {
            alias += &format!("{MARK6}{forwarding}");
            if !learning.is_empty() {
                alias += &format!("{LEARNING}{}", learning.join(" "));
            }
        }
        alias
    }

    /// What to put back when the gateway link that remembers these goes: nothing while another cluster needs the switch.
    pub(super) fn put_back<'a>(self, other_aliases: impl IntoIterator<Item = &'a str>) -> Restored {
        let others: Vec<Switches> = other_aliases.into_iter().filter_map(Switches::remembered).collect();
        let needed6 = others.iter().any(|other| other.v6.is_some());
        Restored { v4: Some(self.v4).filter(|_| others.is_empty()), v6: self.v6.filter(|_| !needed6) }
    }
}

/// The switch now.
pub(super) fn read() -> Result<String, Error> {
    read_from(SWITCH)
}

/// That of IPv6 now.
pub(super) fn read6() -> Result<String, Error> {
    read_from(SWITCH6)
}

/// Whether the kernel learns of routers on a link for as long as it does not forward.
pub(super) fn listens(link: &str) -> bool {
    read_from(&accept_ra(link)).is_ok_and(|accepts| accepts == "1")
}

/// Sets the switch unless it already is so.
pub(super) fn set(value: &str) -> Result<(), Error> {
    write_to(SWITCH, value)
}

/// Sets that of IPv6, and has the host learn of its router on these links as before: first, as the kernel forgets it
/// otherwise.
pub(super) fn set6(learning: &[String]) -> Result<(), Error> {
    listen(learning)?;
    write_to(SWITCH6, "1")
}

/// Has the host learn of its router on these links although it forwards.
pub(super) fn listen(links: &[String]) -> Result<(), Error> {
    // A link may be gone by now.
    present(links).try_for_each(|path| write_to(&path, "2"))
}

/// Where the kernel is told of routers, for those of the links that are there.
fn present(links: &[String]) -> impl Iterator<Item = String> {
    links.iter().map(|link| accept_ra(link)).filter(|path| Path::new(path).exists())
}

/// Puts back what is to be, and says what of it could not.
pub(super) fn restore(before: &Restored) -> Vec<Error> {
    let mut errors: Vec<Error> = before.v4.iter().filter_map(|value| set(value).err()).collect();
    if let Some(Switches6 { forwarding, learning }) = &before.v6 {
        errors.extend(write_to(SWITCH6, forwarding).err());
        errors.extend(present(learning).filter_map(|path| write_to(&path, "1").err()));
    }
    errors
}

/// Has what is not put back be on: others need it.
pub(super) fn keep(before: &Switches, restored: &Restored) -> Result<(), Error> {
    if restored.v4.is_none() {
        set("1")?;
    }
    match &before.v6 {
        Some(Switches6 { learning, .. }) if restored.v6.is_none() => set6(learning),
        _ => Ok(()),
    }
}

fn accept_ra(link: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{link}/accept_ra")
}

fn read_from(path: &str) -> Result<String, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io(format!("reading {path}")))?;
    Ok(text.trim().to_owned())
}

fn write_to(path: &str, value: &str) -> Result<(), Error> {
    if read_from(path)? == value {
        return Ok(());
    }
    std::fs::write(path, value).map_err(Error::io(format!("writing {value:?} to {path}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(aliases: &[&str], now: &str) -> Switches {
        Switches::before(aliases.iter().copied(), now.to_owned())
    }

    #[test]
    fn the_first_cluster_remembers_and_the_last_puts_back() {
        let first = before(&[], "0");
        assert_eq!(first.alias(), "minik gateway, ip_forward was 0");
        let second = before(&["eth uplink", &first.alias()], "1");
        assert_eq!(second, first);
        assert_eq!(Switches::remembered(&second.alias()), Some(first.clone()));
        assert_eq!(first.clone().put_back([second.alias().as_str()]), Restored { v4: None, v6: None });
        assert_eq!(first.put_back(["eth uplink"]), Restored { v4: Some("0".into()), v6: None });
        assert_eq!(Switches::remembered("eth uplink"), None);
    }

    #[test]
    fn clusters_with_and_without_ipv6_share_the_host() {
        let plain = before(&[], "1");
        let mut dual = before(&[&plain.alias()], "1");
        dual.remember6([plain.alias().as_str()], "0".into());
        assert!(dual.listened());
        dual.learn(&["wlan0".into(), "eth0".into()]);
        let alias = "minik gateway, ip_forward was 1 and ipv6 forwarding was 0 and learning on eth0 wlan0";
        assert_eq!(dual.alias(), alias);
        assert_eq!(Switches::remembered(alias).as_ref(), Some(&dual));
        assert!(Switches::concerns_routers(alias) && !Switches::concerns_routers(&plain.alias()));
        // Another one finds the switch on, and no link that would forget its router.
        let mut other = before(&[alias], "1");
        other.remember6([alias], "1".into());
        assert_eq!(other, dual);
        // What one has learned on, the other puts back when it is the last.
        let mut late = other.clone();
        late.learn(&["usb0".into()]);
        other.remember6([alias, late.alias().as_str()], "1".into());
        assert_eq!(other, late);
        let mut again = dual.clone();
        again.remember6([], "1".into());
        assert_eq!(again, dual);
        let mut router = before(&[], "1");
        router.remember6([], "1".into());
        assert!(!router.listened());
        let v6 = dual.v6.clone();
        assert_eq!(dual.clone().put_back([alias]), Restored { v4: None, v6: None });
        assert_eq!(dual.put_back([plain.alias().as_str()]), Restored { v4: None, v6 });
    }
}
