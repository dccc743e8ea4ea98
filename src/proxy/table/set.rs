//! The sets and maps of the table: their types, the elements for a state, and the messages that change them.

use std::collections::BTreeMap;
use std::io;

use super::chain::Chain;
use super::message::{GET_ELEMENTS, In, NEW_ELEMENTS, NEW_SET};
use crate::proxy::Config;
use crate::proxy::expression::{Verdict, write_verdict};
use crate::proxy::family::{Address, Family, Range};
use crate::proxy::state::{Endpoint, Frontend, Protocol, State};
use crate::sys::netlink::{Attributes, Messages, NFTABLES, Socket, attribute, attributes, flag};

/// So many elements go into one message; their list may have 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;
/// Clients remembered for session affinity, at most.
const CLIENTS: u32 = 65_536;

/// The sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Set {
    Endpoints,
    Choices,
    Services,
    Hairpin,
    Outside,
    Refused,
    Clients,
}

/// The types of set keys and data, numbered as the `nft` program does so that it can print them.
/// An address of the table's family, which says its number.
pub(super) const ADDRESS: u32 = 0;
pub(super) const PROTOCOL: u32 = 12;
pub(super) const PORT: u32 = 13;
const MARK: u32 = 19;
pub(super) const LINK: u32 = 41;

/// How a set is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) key: &'static [u32],
    pub(super) data: Data,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    None,
    Verdict,
    Values(&'static [u32]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// Filled by rules, with elements that go by themselves.
    Dynamic,
    /// Of ranges, each from an element to the next [`Content::End`].
    Ranges,
}

impl Set {
    pub(super) const ALL: [Set; 7] =
        [Set::Endpoints, Set::Choices, Set::Services, Set::Hairpin, Set::Outside, Set::Refused, Set::Clients];

    pub(super) fn layout(self) -> Layout {
        let (key, data): (&[u32], _) = match self {
            Set::Endpoints => (&[ADDRESS, PROTOCOL, PORT, MARK], Data::Values(&[ADDRESS, PORT])),
            Set::Choices => (&[ADDRESS, PROTOCOL, PORT, MARK], Data::Verdict),
            Set::Services => (&[ADDRESS, PROTOCOL, PORT], Data::Verdict),
            Set::Hairpin => (&[ADDRESS, ADDRESS], Data::None),
            Set::Outside => (&[ADDRESS, PROTOCOL, PORT], Data::None),
            Set::Refused => (&[PROTOCOL, PORT], Data::None),
            Set::Clients => (&[ADDRESS, ADDRESS, PROTOCOL, PORT, ADDRESS], Data::None),
        };
        let kind = if self == Set::Clients { Kind::Dynamic } else { Kind::Plain };
        Layout { key, data, kind }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Set::Endpoints => "endpoints",
            Set::Choices => "choices",
            Set::Services => "services",
            Set::Hairpin => "hairpin",
            Set::Outside => "outside",
            Set::Refused => "refused",
            Set::Clients => "clients",
        }
    }
}

/// An element: the bytes of its key and of its data.
pub(super) type Element = (Vec<u8>, Content);

/// What an element is mapped to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    None,
    Bytes(Vec<u8>),
    Chain(String),
    /// The end of the chain that looked it up.
    Return,
    /// Nothing: what comes after the last address of a range.
    End,
    /// Nothing, and it goes by itself: how long such elements stay, and how much is left of that, in milliseconds.
    Expiring {
        stay: u64,
        left: u64,
    },
}

/// The elements of some sets.
pub(super) type Elements = BTreeMap<Set, BTreeMap<Vec<u8>, Content>>;

/// The elements that belong to single frontends.
pub(super) fn elements<A: Address>(state: &State<A>) -> Elements {
    let mut elements = Elements::new();
    let mut put = |set: Set, key: Vec<u8>, content: Content| {
        elements.entry(set).or_default().insert(key, content);
    };
    for (frontend, backends) in &state.frontends {
        let Some(chain) = Chain::of(frontend, backends) else { continue };
        let key = frontend_key(frontend);
        for (number, endpoint) in (0u32..).zip(&backends.endpoints) {
            let numbered = [&key[..], &number.to_ne_bytes()].concat();
            match backends.sticky {
                None => put(Set::Endpoints, numbered, Content::Bytes(endpoint_key(endpoint))),
                Some(seconds) => {
                    let chain = Chain::StickyEndpoint(*frontend, *endpoint, seconds);
                    put(Set::Choices, numbered, Content::Chain(chain.name()));
                }
            }
        }
        put(Set::Services, key, Content::Chain(chain.name()));
    }
    for (protocol, port) in state.refused() {
        put(Set::Refused, key(&[&[protocol as u8], &port.to_be_bytes()]), Content::None);
    }
    elements
}

/// The elements that several frontends may need for the same reason.
pub(super) fn shared_elements<A: Address>(config: &Config<A>, state: &State<A>) -> Elements {
    let addresses = state.endpoint_addresses().into_iter().filter(|address| config.pods.has(*address));
    let hairpin =
        addresses.map(|a| (key(&[a.bytes().as_ref(), a.bytes().as_ref()]), Content::None)).collect();
    let outside = state.outside(config.pods).into_iter();
    let outside = outside.map(|(address, protocol, port)| (port_key(address, protocol, port), Content::None));
    [(Set::Hairpin, hairpin), (Set::Outside, outside.collect())].into()
}

/// The clients that a table in the kernel remembers; none when there is no such table.
pub(super) fn clients(socket: &Socket, at: In<'_>) -> io::Result<Vec<Element>> {
    let mut get = Messages::default();
    get.push(NFTABLES, GET_ELEMENTS, flag::DUMP, at.family.number, |attributes| {
        attributes.text(1, at.table).text(2, Set::Clients.name());
    });
    let mut found = Vec::new();
    let asked = socket.request(&get, |message| {
        let lists = message.attributes().filter(|(kind, _)| *kind == 3);
        found.extend(
            lists.flat_map(|(_, list)| attributes(list)).filter_map(|(_, bytes)| client(at.family, bytes)),
        );
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        other => other.map(|()| found),
    }
}

/// A client as the kernel shows it; `None` when it is not one that could be written as it is.
fn client(family: &Family, element: &[u8]) -> Option<Element> {
    let number = |kind| Some(u64::from_be_bytes(attribute(element, kind)?.try_into().ok()?));
    let key = attribute(attribute(element, 1)?, 1)?;
    let (stay, left) = (number(4)?, number(5)?);
    let fits = key.len() as u32 == length(family, Set::Clients.layout().key) && (1..=stay).contains(&left);
    fits.then(|| (key.to_vec(), Content::Expiring { stay, left }))
}

fn frontend_key<A: Address>(frontend: &Frontend<A>) -> Vec<u8> {
    port_key(frontend.address.unwrap_or(A::ANY), frontend.protocol, frontend.port)
}

/// A port of an address.
pub(super) fn port_key<A: Address>(address: A, protocol: Protocol, port: u16) -> Vec<u8> {
    key(&[address.bytes().as_ref(), &[protocol as u8], &port.to_be_bytes()])
}

fn endpoint_key<A: Address>(endpoint: &Endpoint<A>) -> Vec<u8> {
    key(&[endpoint.address.bytes().as_ref(), &endpoint.port.to_be_bytes()])
}

/// Values one behind the other, each filled up to whole registers.
pub(super) fn key(values: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    for value in values {
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// How many bytes a key or data of these types has.
fn length(family: &Family, types: &[u32]) -> u32 {
    let length = |kind: &u32| match *kind {
        ADDRESS => family.length,
        LINK => libc::IFNAMSIZ as u32,
        _ => 4,
    };
    types.iter().map(length).sum()
}

/// Makes a set. The kernel names it by the number until the transaction is done.
pub(super) fn new_set(changes: &mut Messages, at: In<'_>, name: &str, layout: Layout, number: u32) {
    /// `NFT_SET_INTERVAL`, `NFT_SET_MAP`, `NFT_SET_TIMEOUT`, `NFT_SET_EVAL`.
    const INTERVAL: u32 = 4;
    const MAP: u32 = 8;
    const TIMEOUT: u32 = 0x10;
    const EVAL: u32 = 0x20;
    /// `NFT_DATA_VERDICT`.
    const VERDICT: u32 = 0xffff_ff00;
    // Six bits for each type of a concatenation.
    let number_in = |one: u32| if one == ADDRESS { at.family.address_type } else { one };
    let number_of = |types: &[u32]| types.iter().fold(0, |all, one| all << 6 | number_in(*one));
    let length = |types: &[u32]| length(at.family, types);
    let Layout { key, data, kind } = layout;
    changes.push(NFTABLES, NEW_SET, flag::CREATE, at.family.number, |attributes| {
        let map = if data == Data::None { 0 } else { MAP };
        let flags = match kind {
            Kind::Plain => map,
            Kind::Dynamic => map | TIMEOUT | EVAL,
            Kind::Ranges => map | INTERVAL,
        };
        attributes.text(1, at.table).text(2, name).u32(3, flags).u32(4, number_of(key)).u32(5, length(key));
        match data {
            Data::None => {}
            Data::Verdict => _ = attributes.u32(6, VERDICT),
            Data::Values(types) => _ = attributes.u32(6, number_of(types)).u32(7, length(types)),
        }
        if kind == Kind::Dynamic {
            attributes.nest(9, |description| {
                description.u32(1, CLIENTS);
            });
        }
        attributes.u32(10, number);
    });
}

/// Adds or removes elements, by the kind of message.
pub(super) fn change_elements(
    changes: &mut Messages,
    at: In<'_>,
    kind: u8,
    set: &str,
    elements: Vec<Element>,
) {
    let flags = if kind == NEW_ELEMENTS { flag::CREATE } else { 0 };
    for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
        changes.push(NFTABLES, kind, flags, at.family.number, |attributes| {
            attributes.text(1, at.table).text(2, set).nest(3, |list| {
                for (key, content) in chunk {
                    list.nest(1, |element| write_element(element, key, content));
                }
            });
        });
    }
}

fn write_element(element: &mut Attributes<'_>, key: &[u8], content: &Content) {
    element.nest(1, |data| {
        data.bytes(1, key);
    });
    match content {
        Content::None => {}
        // `NFT_SET_ELEM_INTERVAL_END`.
        Content::End => _ = element.u32(3, 1),
        Content::Expiring { stay, left } => _ = element.u64(4, *stay).u64(5, *left),
        Content::Bytes(bytes) => {
            element.nest(2, |data| {
                data.bytes(1, bytes);
            });
        }
        Content::Chain(chain) => {
            element.nest(2, |data| write_verdict(data, Verdict::Goto(chain)));
        }
        Content::Return => {
            element.nest(2, |data| write_verdict(data, Verdict::Return));
        }
    }
}
