//! Other firewalls of the host: the least that lets pods through, marked as minik's and removed with it.
//!
//! A packet must be accepted by every table that looks at it, so minik's own table cannot overrule a `drop` of
//! Docker's, ufw's or firewalld's. Where one of them would drop, it gets rules of its own kind.

use super::family::Address;
use super::{Config, Error, table};
use crate::sys::program;

/// `NFPROTO_INET`.
const INET: u8 = 1;

/// What to put in front of `iptables` commands: wait for others who use it.
const WAIT: &str = "-w";

/// What speaks to firewalld: systemd's own program, which is there in milliseconds. firewalld's is a Python program that
/// takes the better part of a second.
const BUS_CLIENT: &str = "busctl";

/// Adds what is missing. Blocks: wrap it in `spawn_blocking` inside async code.
pub(super) fn open<A: Address>(config: &Config<A>) -> Result<(), Error> {
    if let Some(listing) = listing::<A>()? {
        for rule in missing(config, &listing) {
            iptables::<A>(&rule)?;
        }
    }
    if uses_firewalld()? && !trusts(config)? {
        firewalld("addSource", config)?;
    }
    Ok(())
}

/// Removes what [`open`] added; nothing there is fine. Blocks.
pub(super) fn close<A: Address>(config: &Config<A>) -> Result<(), Error> {
    if let Some(listing) = listing::<A>()? {
        for rule in present(config, &listing) {
            iptables::<A>(&rule)?;
        }
    }
    if uses_firewalld()? && trusts(config)? {
        firewalld("removeSource", config)?;
    }
    Ok(())
}

/// The commands that let this cluster's links through the chains of a listing (`iptables -S`) that would drop
/// some of their packets. None for chains that drop nothing, or that have the rule already.
fn missing<A: Address>(config: &Config<A>, listing: &str) -> Vec<Vec<String>> {
    let drops = |chain: &str| {
        let policy = format!("-P {chain} DROP");
        let rule = format!("-A {chain} ");
        let refusing = |line: &str| line.ends_with("-j DROP") || line.contains("-j REJECT");
        listing.lines().any(|line| line == policy || line.starts_with(&rule) && refusing(line))
    };
    // Docker gives users a chain that it asks first and never changes.
    let docker = listing.lines().any(|line| line == "-N DOCKER-USER");
    let mut wanted = Vec::new();
    if docker || drops("FORWARD") {
        let chain = if docker { "DOCKER-USER" } else { "FORWARD" };
        wanted.extend([(chain, "-i"), (chain, "-o")]);
    }
    if drops("INPUT") {
        wanted.push(("INPUT", "-i"));
    }
    let link = format!("{}+", config.link_prefix);
    let has = |chain: &str, direction: &str| {
        let (begin, link) = (format!("-A {chain} "), format!(" {direction} {link} "));
        let mut lines = listing.lines();
        lines.any(|line| line.starts_with(&begin) && line.contains(&link) && is_own(config, line))
    };
    wanted.retain(|(chain, direction)| !has(chain, direction));
    let command = |(chain, direction): (&str, &str)| {
        let comment = comment(config);
        let words = ["-I", chain, direction, &link, "-m", "comment", "--comment", &comment, "-j", "ACCEPT"];
        words.map(str::to_owned).to_vec()
    };
    wanted.into_iter().map(command).collect()
}

/// The commands that remove this cluster's rules from a listing.
fn present<A: Address>(config: &Config<A>, listing: &str) -> Vec<Vec<String>> {
    let own = listing.lines().filter(|line| line.starts_with("-A ") && is_own(config, line));
    let delete = |line: &str| {
        // Only the comment may be quoted; minik's has no space.
        let words = line.split_whitespace().map(|word| word.trim_matches('"'));
        words.map(|word| if word == "-A" { "-D" } else { word }.to_owned()).collect()
    };
    own.map(delete).collect()
}

fn comment<A: Address>(config: &Config<A>) -> String {
    format!("minik:{}", config.table)
}

fn is_own<A: Address>(config: &Config<A>, line: &str) -> bool {
    let comment = comment(config);
    let mut words = line.split_whitespace().map(|word| word.trim_matches('"'));
    words.any(|word| word == "--comment") && words.next() == Some(comment.as_str())
}

/// The filter rules of iptables; `None` where nobody uses it. (Asking would otherwise load it.)
fn listing<A: Address>() -> Result<Option<String>, Error> {
    let (program, tables) = A::family().iptables;
    let legacy = std::fs::read_to_string(tables).unwrap_or_default();
    let used = legacy.lines().any(|table| table == "filter")
        || table::exists(A::family().number, "filter").map_err(Error::io("looking for the filter table"))?;
    if !used || program::find(program).is_none() {
        return Ok(None);
    }
    let listing = program::run(program, &[WAIT, "-S"], &[])?;
    Ok(Some(String::from_utf8_lossy(&listing).into_owned()))
}

fn iptables<A: Address>(rule: &[String]) -> Result<(), Error> {
    let args: Vec<&str> = [WAIT].into_iter().chain(rule.iter().map(String::as_str)).collect();
    program::run(A::family().iptables.0, &args, &[])?;
    Ok(())
}

fn uses_firewalld() -> Result<bool, Error> {
    let table = table::exists(INET, "firewalld").map_err(Error::io("looking for firewalld's table"))?;
    Ok(table && program::find(BUS_CLIENT).is_some())
}

fn trusts<A: Address>(config: &Config<A>) -> Result<bool, Error> {
    Ok(firewalld("querySource", config)?.trim_ascii() == b"b true")
}

/// Calls a method of firewalld's zones (firewalld.dbus(5)) about the source of pods in the zone that lets all through.
fn firewalld<A: Address>(method: &str, config: &Config<A>) -> Result<Vec<u8>, Error> {
    const SERVICE: [&str; 2] = ["org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"];
    let zones = "org.fedoraproject.FirewallD1.zone";
    let call = ["call", SERVICE[0], SERVICE[1], zones, method, "ss", "trusted", &config.pods.to_string()];
    Ok(program::run(BUS_CLIENT, &call, &[])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::tests::config;

    #[test]
    fn only_chains_that_drop_get_rules() {
        let open = "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-P OUTPUT ACCEPT\n";
        let docker = "-P INPUT ACCEPT\n-P FORWARD DROP\n-N DOCKER-USER\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN\n";
        let ufw = "-P INPUT DROP\n-P FORWARD DROP\n";
        let redhat =
            "-P INPUT ACCEPT\n-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n";
        for (listing, expected) in [
            (open, vec![]),
            (docker, vec!["-I DOCKER-USER -i", "-I DOCKER-USER -o"]),
            (ufw, vec!["-I FORWARD -i", "-I FORWARD -o", "-I INPUT -i"]),
            (redhat, vec!["-I FORWARD -i", "-I FORWARD -o"]),
            ("", vec![]),
        ] {
            let commands = missing(&config(), listing);
            let begins: Vec<String> = commands.iter().map(|words| words[..3].join(" ")).collect();
            assert_eq!(begins, expected, "{listing}");
            // What iptables would list afterwards needs nothing more, and can be taken back.
            let listed = |words: &Vec<String>| {
                words.join(" ").replace("-I ", "-A ").replace("minik:minik", "\"minik:minik\"")
            };
            let added: Vec<String> = commands.iter().map(listed).collect();
            let after = format!("{listing}{}\n", added.join("\n"));
            assert!(missing(&config(), &after).is_empty(), "{after}");
            let removed: Vec<String> =
                present(&config(), &after).iter().map(|words| words.join(" ")).collect();
            assert_eq!(
                removed,
                added.iter().map(|line| line.replace("-A ", "-D ").replace('"', "")).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn rules_of_others_are_left_alone() {
        let others = "-A FORWARD -i mk+ -j ACCEPT\n\
            -A FORWARD -i mk+ -m comment --comment minik:minik-other -j ACCEPT\n\
            -A FORWARD -i mk+ -m comment --comment \"not minik:minik\" -j ACCEPT\n";
        assert!(present(&config(), others).is_empty());
    }
}
