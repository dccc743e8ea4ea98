//! Further names of hosts, by `server-alias` and `from-to-www-redirect` (pure).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::ingress::annotations::PREFIX;
use crate::ingress::route::{Host, Table};
use crate::ingress::tls::{Certificates, for_host};

/// Another name for the hosts of an ingress.
pub(super) struct Alias {
    /// The ingress, by its place.
    pub of: usize,
    pub name: String,
    /// The hosts, the first of which that is known has the name.
    pub hosts: Vec<String>,
}

/// Leads the names where their hosts lead, with the hosts' certificates, and says which were taken, and from whom.
pub(super) fn add(
    aliases: Vec<Alias>,
    table: &mut Table,
    certificates: &mut Certificates,
) -> Vec<(usize, String)> {
    let mut given: HashMap<String, usize> = HashMap::new();
    let mut wrong = Vec::new();
    for Alias { of, name, hosts } in aliases {
        let found = hosts.iter().find_map(|host| Some((host, table.named(host)?.clone())));
        let Some((host, known)) = found else { continue };
        match table.entry(&name) {
            Entry::Vacant(free) => {
                free.insert(known);
            }
            // A host of a rule goes before, and an older ingress before a younger one.
            Entry::Occupied(_) => {
                if !hosts.contains(&name) && given.get(&name) != Some(&of) {
                    wrong.push((of, format!("{PREFIX}server-alias: {name:?} is a host of another ingress")));
                }
                continue;
            }
        }
        certify(certificates, &name, host);
        given.insert(name, of);
    }
    wrong
}

/// A name is shown its host's certificate unless it has one of its own.
fn certify(certificates: &mut Certificates, name: &str, host: &str) {
    if for_host(certificates, name).is_none()
        && let Some(certificate) = for_host(certificates, host).cloned()
    {
        certificates.insert(name.to_owned(), certificate);
    }
}

/// Sends clients of each host with `www.` before it, or without, to the host; says of which there is an ingress. The hosts
/// are those of ingresses, by their places.
pub(super) fn add_www(
    hosts: Vec<(usize, String)>,
    table: &mut Table,
    certificates: &mut Certificates,
) -> Vec<(usize, String)> {
    let mut wrong = Vec::new();
    for (of, host) in hosts.into_iter().filter(|(_, host)| !host.is_empty() && !host.starts_with('*')) {
        let other = host.strip_prefix("www.").map_or_else(|| format!("www.{host}"), str::to_owned);
        match table.entry(&other) {
            Entry::Vacant(free) => {
                free.insert(Host { moved: Some(host.clone()), ..Host::default() });
                certify(certificates, &other, &host);
            }
            // Another path of the same host has said it already.
            Entry::Occupied(known) if known.get().moved.as_ref() == Some(&host) => {}
            Entry::Occupied(_) => {
                let why = format!("{PREFIX}from-to-www-redirect: {other:?} is a host of its own");
                wrong.push((of, why));
            }
        }
    }
    wrong
}
