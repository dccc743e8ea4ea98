//! What the kernel tells of links, addresses and routes, asked and unasked.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::StreamExt;
use futures::stream::BoxStream;
pub(super) use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Cidr, Cidr6, Error};

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: Option<String>,
    pub(super) mtu: u32,
    /// Whether it is a network card, and not one of the kinds that the kernel makes up.
    pub(super) physical: bool,
    /// Whether anything can be sent on it.
    pub(super) carrier: bool,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Link {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            alias: None,
            mtu: 0,
            physical: message.header.link_layer_type == LinkLayerType::Ether,
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::LinkInfo(info) => {
                    link.physical &= !info.iter().any(|part| matches!(part, LinkInfo::Kind(_)));
                }
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        link
    }
}

/// What is known of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) to: Destination,
    /// The links that it leaves by.
    pub(super) links: Vec<u32>,
    /// Whether a router told of it.
    pub(super) advertised: bool,
    /// The source address of this host's own packets that go there, when it says one.
    pub(super) source: Option<IpAddr>,
    /// Whether it leads somewhere: not to this host itself.
    pub(super) onward: bool,
}

impl Route {
    pub(super) fn of(message: RouteMessage) -> Route {
        let header = message.header;
        let nowhere = match header.address_family {
            AddressFamily::Inet6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            _ => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        };
        let mut route = Route {
            to: Destination { base: nowhere, bits: header.destination_prefix_length },
            links: Vec::new(),
            advertised: header.protocol == RouteProtocol::Ra,
            source: None,
            onward: header.kind == RouteType::Unicast,
        };
        for attribute in message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => route.to.base = address.into(),
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => route.to.base = address.into(),
                RouteAttribute::PrefSource(RouteAddress::Inet(source)) => route.source = Some(source.into()),
                RouteAttribute::PrefSource(RouteAddress::Inet6(source)) => route.source = Some(source.into()),
                RouteAttribute::Oif(index) => route.links.push(index),
                RouteAttribute::MultiPath(hops) => {
                    route.links.extend(hops.iter().map(|hop| hop.interface_index));
                }
                _ => {}
            }
        }
        route
    }

    pub(super) fn is_default(&self) -> bool {
        self.to.bits == 0
    }
}

/// What the kernel told unasked.
#[derive(Debug)]
pub(super) enum Event {
    /// A link came or changed.
    Link(Link),
    /// A route came.
    Route(Route),
    /// An address came, went or changed.
    Address,
}

impl Event {
    fn of(message: RouteNetlinkMessage) -> Option<Event> {
        match message {
            RouteNetlinkMessage::NewLink(link) => Some(Event::Link(Link::from(link))),
            RouteNetlinkMessage::NewRoute(route) => Some(Event::Route(Route::of(route))),
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Event::Address),
            _ => None,
        }
    }
}

/// Hears of what happens in these groups to the namespace of the calling thread, from now on. Must be called inside the
/// async runtime. The stream ends when more happened at once than the kernel could tell.
pub(super) fn listen(groups: &[MulticastGroup]) -> Result<BoxStream<'static, Event>, Error> {
    let listening = rtnetlink::new_multicast_connection(groups);
    let (connection, _, messages) = listening.map_err(Error::io("listening to rtnetlink"))?;
    // Ends by itself with the stream.
    tokio::spawn(connection);
    let events = messages.filter_map(|(message, _)| {
        std::future::ready(match message.payload {
            NetlinkPayload::InnerMessage(message) => Event::of(message),
            _ => None,
        })
    });
    Ok(events.boxed())
}

/// An address that a link holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) link: u32,
    /// The host's own.
    pub(super) address: IpAddr,
    /// That of the other end where the link has two ends, else the same.
    pub(super) peer: IpAddr,
    pub(super) prefix: u8,
    /// Whether others can reach the host by it for a while: it is good beyond the link, and not on its way in or out.
    pub(super) global: bool,
    /// Whether it is one of those that hosts change for privacy (RFC 8981).
    pub(super) temporary: bool,
    /// Whether the host has it for a time only: a router or a DHCP server told of it.
    pub(super) lent: bool,
    /// Whether it may be good beyond the link once nobody has been found who has it too.
    pub(super) tentative: bool,
}

impl Held {
    pub(super) fn of(message: AddressMessage) -> Option<Held> {
        const PASSING: AddressHeaderFlags = AddressHeaderFlags::Tentative
            .union(AddressHeaderFlags::Dadfailed)
            .union(AddressHeaderFlags::Deprecated);
        let header = message.header;
        let (mut local, mut peer) = (None, None);
        for attribute in message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(address),
                AddressAttribute::Address(address) => peer = Some(address),
                _ => {}
            }
        }
        let universal = header.scope == AddressScope::Universe;
        Some(Held {
            link: header.index,
            address: local.or(peer)?,
            peer: peer.or(local)?,
            prefix: header.prefix_len,
            global: universal && !header.flags.intersects(PASSING),
            // The kernel's flag for temporary addresses of IPv6 is that for secondary ones of IPv4.
            temporary: header.flags.contains(AddressHeaderFlags::Secondary),
            lent: !header.flags.contains(AddressHeaderFlags::Permanent),
            tentative: universal
                && header.flags.contains(AddressHeaderFlags::Tentative)
                && !header.flags.contains(AddressHeaderFlags::Dadfailed),
        })
    }
}

/// Where a route leads, of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    pub(super) base: IpAddr,
    pub(super) bits: u8,
}

impl Destination {
    /// As a range of IPv4, if it is one.
    pub(super) fn v4(self) -> Option<Cidr> {
        let IpAddr::V4(base) = self.base else { return None };
        let range = Cidr { base, prefix: self.bits };
        Some(Cidr { base: range.nth(0), ..range })
    }

    /// As a range of IPv6, if it is one.
    pub(super) fn v6(self) -> Option<Cidr6> {
        let IpAddr::V6(base) = self.base else { return None };
        let range = Cidr6 { base, prefix: self.bits };
        Some(Cidr6 { base: range.nth(0), ..range })
    }

    pub(super) fn refused(&self, error: impl fmt::Display) -> Error {
        let refused = io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
        Error::io(format!("adding route to {self}"))(refused)
    }
}

impl From<Cidr> for Destination {
    fn from(range: Cidr) -> Destination {
        Destination { base: range.base.into(), bits: range.prefix }
    }
}

impl From<Cidr6> for Destination {
    fn from(range: Cidr6) -> Destination {
        Destination { base: range.base.into(), bits: range.prefix }
    }
}

impl From<IpAddr> for Destination {
    fn from(base: IpAddr) -> Destination {
        Destination { base, bits: if base.is_ipv4() { 32 } else { 128 } }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::RouteMessageBuilder;
    use rtnetlink::packet_route::link::InfoKind;
    use rtnetlink::packet_route::route::RouteNextHop;

    use super::*;

    #[test]
    fn default_routes_have_all_their_links() {
        let mut message = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(3).build();
        message.header.protocol = RouteProtocol::Ra;
        let route = Route::of(message);
        assert!(route.is_default() && route.advertised && route.to.base.is_ipv6());
        assert_eq!(route.links, [3]);
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let hop = |index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop
        };
        message.attributes.push(RouteAttribute::MultiPath(vec![hop(4), hop(5)]));
        let route = Route::of(message);
        assert!(route.is_default() && !route.advertised && route.to.base.is_ipv4());
        assert_eq!(route.links, [4, 5]);
    }

    #[test]
    fn cards_are_told_from_what_the_kernel_makes_up() {
        let of = |layer: LinkLayerType, kind: Option<InfoKind>| {
            let mut message = LinkMessage::default();
            message.header.link_layer_type = layer;
            message.attributes.extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
            Link::from(message).physical
        };
        assert!(of(LinkLayerType::Ether, None));
        assert!(!of(LinkLayerType::Ether, Some(InfoKind::Veth)) && !of(LinkLayerType::Loopback, None));
    }
}
