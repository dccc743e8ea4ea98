//! Messages that make and remove tables, chains and rules.

use crate::proxy::expression::Rule;
use crate::sys::netlink::{Messages, NFTABLES, flag};

/// `NFPROTO_IPV4`: the family of the table.
pub(super) const IP: u8 = 2;
/// Message kinds of linux/netfilter/nf_tables.h.
pub(super) const NEW_TABLE: u8 = 0;
pub(super) const GET_TABLE: u8 = 1;
pub(super) const DELETE_TABLE: u8 = 2;
pub(super) const NEW_CHAIN: u8 = 3;
pub(super) const DELETE_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
pub(super) const DELETE_RULE: u8 = 8;
pub(super) const NEW_SET: u8 = 9;
pub(super) const DELETE_SET: u8 = 11;
pub(super) const NEW_ELEMENTS: u8 = 12;
pub(super) const GET_ELEMENTS: u8 = 13;
pub(super) const DELETE_ELEMENTS: u8 = 14;

/// The table itself, to be made or removed.
pub(super) fn table(changes: &mut Messages, kind: u8, flags: u16, name: &str) {
    changes.push(NFTABLES, kind, flags, IP, |table| {
        table.text(1, name);
        if kind == NEW_TABLE {
            table.u32(2, 0);
        }
    });
}

/// A chain; with a type, a hook and a priority one that packets enter by themselves.
pub(super) fn new_chain(changes: &mut Messages, table: &str, name: &str, base: Option<(&str, u32, i32)>) {
    changes.push(NFTABLES, NEW_CHAIN, flag::CREATE, IP, |chain| {
        chain.text(1, table).text(3, name);
        if let Some((kind, hook, priority)) = base {
            chain.nest(4, |attributes| {
                attributes.u32(1, hook).u32(2, priority as u32);
            });
            chain.text(7, kind);
        }
    });
}

/// A rule at the end of a chain.
pub(super) fn new_rule(changes: &mut Messages, table: &str, chain: &str, build: &dyn Fn(Rule<'_, '_>)) {
    changes.push(NFTABLES, NEW_RULE, flag::CREATE | flag::APPEND, IP, |rule| {
        rule.text(1, table).text(2, chain).nest(4, |list| build(Rule::new(list)));
    });
}

/// Removes a chain that is empty and that nothing points at.
pub(super) fn delete_chain(changes: &mut Messages, table: &str, name: &str) {
    changes.push(NFTABLES, DELETE_CHAIN, 0, IP, |chain| {
        chain.text(1, table).text(3, name);
    });
}

/// Empties a chain.
pub(super) fn delete_rules(changes: &mut Messages, table: &str, chain: &str) {
    changes.push(NFTABLES, DELETE_RULE, 0, IP, |rule| {
        rule.text(1, table).text(2, chain);
    });
}
