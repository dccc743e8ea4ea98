//! Further names of hosts, by `server-alias` (pure).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::ingress::annotations::PREFIX;
use crate::ingress::route::Table;
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
        if for_host(certificates, &name).is_none()
            && let Some(certificate) = for_host(certificates, host).cloned()
        {
            certificates.insert(name.clone(), certificate);
        }
        given.insert(name, of);
    }
    wrong
}
