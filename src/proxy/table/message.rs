//! Messages that make and remove tables, chains and rules.

use crate::proxy::expression::Rule;
use crate::proxy::family::Family;
use crate::sys::netlink::{Messages, NFTABLES, flag};

/// Which table: its family and name.
#[derive(Debug, Clone, Copy)]
pub(super) struct In<'a> {
    pub(super) family: &'static Family,
    pub(super) table: &'a str,
}

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
pub(super) fn table(changes: &mut Messages, kind: u8, flags: u16, at: In<'_>) {
    changes.push(NFTABLES, kind, flags, at.family.number, |table| {
        table.text(1, at.table);
        if kind == NEW_TABLE {
            table.u32(2, 0);
        }
    });
}

/// A chain; with a type, a hook and a priority one that packets enter by themselves.
pub(super) fn new_chain(changes: &mut Messages, at: In<'_>, name: &str, base: Option<(&str, u32, i32)>) {
    changes.push(NFTABLES, NEW_CHAIN, flag::CREATE, at.family.number, |chain| {
        chain.text(1, at.table).text(3, name);
        if let Some((kind, hook, priority)) = base {
            chain.nest(4, |attributes| {
                attributes.u32(1, hook).u32(2, priority as u32);
            });
            chain.text(7, kind);
        }
    });
}

/// A rule at the end of a chain.
pub(super) fn new_rule(changes: &mut Messages, at: In<'_>, chain: &str, build: &dyn Fn(Rule<'_, '_>)) {
    changes.push(NFTABLES, NEW_RULE, flag::CREATE | flag::APPEND, at.family.number, |rule| {
        rule.text(1, at.table).text(2, chain).nest(4, |list| build(Rule::new(at.family, list)));
    });
}

/// Removes a chain that is empty and that nothing points at.
pub(super) fn delete_chain(changes: &mut Messages, at: In<'_>, name: &str) {
    changes.push(NFTABLES, DELETE_CHAIN, 0, at.family.number, |chain| {
        chain.text(1, at.table).text(3, name);
    });
}

/// Empties a chain.
pub(super) fn delete_rules(changes: &mut Messages, at: In<'_>, chain: &str) {
    changes.push(NFTABLES, DELETE_RULE, 0, at.family.number, |rule| {
        rule.text(1, at.table).text(2, chain);
    });
}
