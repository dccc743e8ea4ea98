//! Links, addresses, routes and neighbours of one network namespace, over rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::told::{Destination, Held, Link, Route};
use super::{Config, Error};

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// A connection to the kernel; it stays in the namespace in which it was made.
#[derive(Clone)]
pub(super) struct Links {
    handle: Handle,
}

/// A veth pair to be made: one end here, the other directly inside another namespace.
pub(super) struct VethPair<'a> {
    pub(super) name: &'a str,
    pub(super) mac: Mac,
    pub(super) peer: &'a str,
    pub(super) peer_mac: Mac,
    pub(super) peer_namespace: BorrowedFd<'a>,
    pub(super) mtu: u32,
}

impl Links {
    /// Connects to the namespace of the calling thread. Must be called inside the async runtime.
    pub(super) fn connect() -> Result<Links, Error> {
        Self::try_connect().map_err(Error::io("connecting to rtnetlink"))
    }

    /// As [`Links::connect`], with the bare error.
    pub(super) fn try_connect() -> io::Result<Links> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        // Ends by itself when the last handle is dropped.
        tokio::spawn(connection);
        Ok(Links { handle })
    }

    /// Every link.
    pub(super) async fn list(&self) -> Result<Vec<Link>, Error> {
        let links = self.handle.link().get().execute().map_ok(Link::from).try_collect().await;
        links.map_err(Error::netlink("listing links"))
    }

    /// The link of this name.
    pub(super) async fn find(&self, name: &str) -> Result<Option<Link>, Error> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(link) => Ok(link.map(Link::from)),
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(Error::netlink(format!("looking for link {name}"))(error)),
        }
    }

    /// The index of a link that must be there.
    pub(super) async fn index(&self, name: &str) -> Result<u32, Error> {
        let missing = || Error::io(format!("looking for link {name}"))(io::ErrorKind::NotFound.into());
        Ok(self.find(name).await?.ok_or_else(missing)?.index)
    }

    /// Makes a bridge without ports: an interface that is always there and carries nothing. (A dummy device
    /// would do, but some kernels have none.)
    pub(super) async fn add_portless_bridge(&self, name: &str, mac: Mac) -> Result<(), Error> {
        let bridge = LinkBridge::new(name).address(mac.to_vec()).build();
        self.handle
            .link()
            .add(bridge)
            .execute()
            .await
            .map_err(Error::netlink(format!("making bridge {name}")))
    }

    /// Makes a veth pair of which both ends are here, and plugs one of them into a bridge, which has a carrier then.
    /// Already there is fine.
    pub(super) async fn plug(&self, bridge: &str, [plug, end]: [&str; 2]) -> Result<(), Error> {
        let bridge = self.index(bridge).await?;
        let veth = LinkMessageBuilder::<LinkVeth>::new(plug, end).build();
        match self.handle.link().add(veth).execute().await {
            Err(error) if !is(&error, libc::EEXIST) => {
                return Err(Error::netlink(format!("making veth pair {plug}"))(error));
            }
            _ => {}
        }
        for (name, controller) in [(end, None), (plug, Some(bridge))] {
            let mut link = LinkUnspec::new_with_index(self.index(name).await?).up();
            if let Some(controller) = controller {
                link = link.controller(controller);
            }
            let set = self.handle.link().set(link.build()).execute().await;
            set.map_err(Error::netlink(format!("setting link {name} up")))?;
        }
        Ok(())
    }

    /// Makes a veth pair. The Ethernet addresses are given so that no other program assigns its own.
    pub(super) async fn add_veth(&self, pair: VethPair<'_>) -> Result<(), Error> {
        let peer = LinkUnspec::new_with_name(pair.peer)
            .address(pair.peer_mac.to_vec())
            .mtu(pair.mtu)
            .setns_by_fd(pair.peer_namespace.as_raw_fd())
            .build();
        let veth = LinkMessageBuilder::<LinkVeth>::new(pair.name, pair.peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .address(pair.mac.to_vec())
            .mtu(pair.mtu)
            .up()
            .build();
        let made = self.handle.link().add(veth).execute().await;
        made.map_err(Error::netlink(format!("making veth pair {}", pair.name)))
    }

    /// Sets a link up, and its alias when one is given.
    pub(super) async fn set_up(&self, index: u32, alias: Option<&str>) -> Result<(), Error> {
        let mut link = LinkUnspec::new_with_index(index).up();
        if let Some(alias) = alias {
            link = link.append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()));
        }
        let set = self.handle.link().set(link.build()).execute().await;
        set.map_err(Error::netlink(format!("setting link {index} up")))
    }

    /// Removes a link and waits for it: some 15 ms, so never on the path of a pod. Already gone is fine.
    pub(super) async fn delete(&self, link: &Link) -> Result<(), Error> {
        match self.handle.link().del(link.index).execute().await {
            Err(error) if !is(&error, libc::ENODEV) => {
                Err(Error::netlink(format!("removing link {}", link.name))(error))
            }
            _ => Ok(()),
        }
    }

    /// Gives a link a host address. Already there is fine. One of IPv6 is good at once: nobody is there who could have
    /// it too, so that the kernel needs not ask.
    pub(super) async fn add_address(&self, index: u32, address: impl Into<IpAddr>) -> Result<(), Error> {
        let Destination { base: address, bits } = Destination::from(address.into());
        let mut request = self.handle.address().add(index, address, bits);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match request.execute().await {
            Err(error) if !is(&error, libc::EEXIST) => {
                Err(Error::netlink(format!("adding address {address} to link {index}"))(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes down the Ethernet address of a neighbour for good.
    pub(super) async fn add_neighbour(
        &self,
        index: u32,
        address: impl Into<IpAddr>,
        mac: Mac,
    ) -> Result<(), Error> {
        let address = address.into();
        let request = self
            .handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .replace();
        let added = request.execute().await;
        added.map_err(Error::netlink(format!("adding neighbour {address} on link {index}")))
    }

    /// Routes a range directly out of a link; packets of this host's own leave with `source`.
    pub(super) async fn add_link_route(
        &self,
        index: u32,
        to: impl Into<Destination>,
        source: Option<IpAddr>,
    ) -> Result<(), Error> {
        let to = to.into();
        self.replace_route(link_route(index, to, source)?, to).await
    }

    /// Routes everything else of its family to a gateway.
    pub(super) async fn add_default_route(
        &self,
        index: u32,
        gateway: impl Into<IpAddr>,
    ) -> Result<(), Error> {
        let gateway = gateway.into();
        let (route, base) = match gateway {
            IpAddr::V4(gateway) => {
                let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway);
                (route.output_interface(index).build(), IpAddr::from(Ipv4Addr::UNSPECIFIED))
            }
            IpAddr::V6(gateway) => {
                let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway);
                (route.output_interface(index).build(), IpAddr::from(Ipv6Addr::UNSPECIFIED))
            }
        };
        self.replace_route(route, Destination { base, bits: 0 }).await
    }

    async fn replace_route(&self, route: RouteMessage, to: Destination) -> Result<(), Error> {
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(Error::netlink(format!("adding route to {to}")))
    }

    /// Every range that is reached by a route of any table or in which the host holds an address, of one family; default
    /// routes excepted.
    pub(super) async fn reached(&self, family: AddressFamily) -> Result<Vec<Destination>, Error> {
        let routes = self.routes(family).await?.into_iter().map(|route| route.to);
        let held = self.held().await?.into_iter();
        let held = held.map(|held| Destination { base: held.peer, bits: held.prefix });
        Ok(routes.chain(held).filter(|to| to.bits > 0).collect())
    }

    /// All addresses of all links.
    pub(super) async fn held(&self) -> Result<Vec<Held>, Error> {
        let addresses: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(Error::netlink("listing addresses"))?;
        Ok(addresses.into_iter().filter_map(Held::of).collect())
    }

    /// The MTU of the link that the default route leaves by.
    pub(super) async fn uplink_mtu(&self) -> Result<Option<u32>, Error> {
        let routes = self.routes(AddressFamily::Inet).await?;
        let uplink = routes.iter().filter(|route| route.is_default()).find_map(|route| route.links.first());
        let links = self.list().await?;
        Ok(links.into_iter().find(|link| Some(&link.index) == uplink).map(|link| link.mtu))
    }

    /// All routes of a family, of all tables. A kernel without IPv6 tells those of IPv4 instead.
    pub(super) async fn routes(&self, family: AddressFamily) -> Result<Vec<Route>, Error> {
        let mut all = RouteMessage::default();
        all.header.address_family = family;
        let routes = self.handle.route().get(all).execute().map_ok(Route::of).try_collect().await;
        routes.map_err(Error::netlink("listing routes"))
    }
}

/// Routes these ranges out of a link of this name, so that this host's own packets to them have somewhere to go before they
/// are translated; they get `source` as their source address. What was routed so before and is not of them any more is
/// taken back, but for the range that is `kept`. The routes go with the link.
///
/// # Errors
/// When there is no such link or the kernel refuses.
pub async fn route_through(
    link: &str,
    ranges: &[Destination],
    source: IpAddr,
    kept: Destination,
) -> Result<(), Error> {
    let links = Links::connect()?;
    let index = links.index(link).await?;
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let routes = links.routes(family).await?.into_iter();
    let own = routes.filter(|route| route.onward && route.links == [index] && route.source == Some(source));
    let own: Vec<Destination> = own.map(|route| route.to).collect();
    for to in ranges.iter().filter(|to| !own.contains(to)) {
        let route = link_route(index, *to, Some(source))?;
        match links.handle.route().add(route).execute().await {
            Err(error) if is(&error, libc::EEXIST) => {
                tracing::warn!("{to} is for services, but the host has another route to it, which stays");
            }
            added => added.map_err(Error::netlink(format!("adding route to {to}")))?,
        }
    }
    for to in own.iter().filter(|to| **to != kept && !ranges.contains(to)) {
        let route = link_route(index, *to, Some(source))?;
        let removed = links.handle.route().del(route).execute().await;
        removed.map_err(Error::netlink(format!("removing route to {to}")))?;
    }
    Ok(())
}

/// A route directly out of a link; packets of this host's own leave with `source`.
fn link_route(index: u32, to: Destination, source: Option<IpAddr>) -> Result<RouteMessage, Error> {
    let mut route = RouteMessageBuilder::<IpAddr>::new().output_interface(index).scope(RouteScope::Link);
    route = route.destination_prefix(to.base, to.bits).map_err(|error| to.refused(error))?;
    if let Some(source) = source {
        route = route.pref_source(source).map_err(|error| to.refused(error))?;
    }
    Ok(route.build())
}

/// Gives the link of the gateway a carrier, without which other programs take it for one that leads nowhere.
///
/// # Errors
/// When there is no such link, or the kernel refuses.
pub async fn connect_gateway(config: &Config) -> Result<(), Error> {
    let [plug, end] = config.cable();
    Links::connect()?.plug(&config.gateway_link(), [&plug, &end]).await
}

/// Whether the kernel answered with this error number.
fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}
