//! Links, addresses, routes and neighbours of one network namespace, over rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourState;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::{Cidr, Config, Error};

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// A connection to the kernel; it stays in the namespace in which it was made.
#[derive(Clone)]
pub(super) struct Links {
    handle: Handle,
}

/// What is known of a link.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) alias: Option<String>,
    pub(super) mtu: u32,
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

    /// Gives a link a host address. Already there is fine.
    pub(super) async fn add_address(&self, index: u32, address: Ipv4Addr) -> Result<(), Error> {
        match self.handle.address().add(index, IpAddr::V4(address), 32).execute().await {
            Err(error) if !is(&error, libc::EEXIST) => {
                Err(Error::netlink(format!("adding address {address} to link {index}"))(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes down the Ethernet address of a neighbour for good.
    pub(super) async fn add_neighbour(&self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<(), Error> {
        let request = self
            .handle
            .neighbours()
            .add(index, IpAddr::V4(address))
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
        to: Cidr,
        source: Option<Ipv4Addr>,
    ) -> Result<(), Error> {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to.base, to.prefix)
            .output_interface(index)
            .scope(RouteScope::Link);
        if let Some(source) = source {
            route = route.pref_source(source);
        }
        self.replace_route(route.build(), to).await
    }

    /// Routes everything else to a gateway.
    pub(super) async fn add_default_route(&self, index: u32, gateway: Ipv4Addr) -> Result<(), Error> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
        self.replace_route(route, Cidr { base: Ipv4Addr::UNSPECIFIED, prefix: 0 }).await
    }

    async fn replace_route(&self, route: RouteMessage, to: Cidr) -> Result<(), Error> {
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(Error::netlink(format!("adding route to {to}")))
    }

    /// Destinations of all IPv4 routes, of all tables.
    pub(super) async fn routes(&self) -> Result<Vec<Cidr>, Error> {
        Ok(self.route_messages().await?.iter().map(destination).collect())
    }

    /// Ranges of all IPv4 addresses.
    pub(super) async fn addresses(&self) -> Result<Vec<Cidr>, Error> {
        let tried = "listing addresses";
        let addresses: Vec<_> =
            self.handle.address().get().execute().try_collect().await.map_err(Error::netlink(tried))?;
        let range = |message: rtnetlink::packet_route::address::AddressMessage| {
            let prefix = message.header.prefix_len;
            message.attributes.into_iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V4(address)) => {
                    Some(Cidr { base: Cidr { base: address, prefix }.nth(0), prefix })
                }
                _ => None,
            })
        };
        Ok(addresses.into_iter().filter_map(range).collect())
    }

    /// The MTU of the link that the default route leaves by.
    pub(super) async fn uplink_mtu(&self) -> Result<Option<u32>, Error> {
        let routes = self.route_messages().await?;
        let uplink =
            routes.iter().filter(|route| route.header.destination_prefix_length == 0).find_map(|route| {
                route.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                })
            });
        let links = self.list().await?;
        Ok(links.into_iter().find(|link| Some(link.index) == uplink).map(|link| link.mtu))
    }

    async fn route_messages(&self) -> Result<Vec<RouteMessage>, Error> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let routes = self.handle.route().get(all).execute().try_collect().await;
        routes.map_err(Error::netlink("listing routes"))
    }
}

/// Routes a range out of a link of this name, so that this host's own packets to it have somewhere to go before
/// they are translated; they get `source` as their source address. The route goes with the link.
///
/// # Errors
/// When there is no such link or the kernel refuses.
pub async fn route_through(link: &str, to: Cidr, source: Ipv4Addr) -> Result<(), Error> {
    let links = Links::connect()?;
    let index = links.index(link).await?;
    links.add_link_route(index, to, Some(source)).await
}

/// Gives the link of the gateway a carrier, without which other programs take it for one that leads nowhere.
///
/// # Errors
/// When there is no such link, or the kernel refuses.
pub async fn connect_gateway(config: &Config) -> Result<(), Error> {
    let [plug, end] = config.cable();
    Links::connect()?.plug(&config.gateway_link(), [&plug, &end]).await
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Link {
        let mut link = Link { index: message.header.index, name: String::new(), alias: None, mtu: 0 };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                _ => {}
            }
        }
        link
    }
}

fn destination(route: &RouteMessage) -> Cidr {
    let base = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    Cidr { base: base.unwrap_or(Ipv4Addr::UNSPECIFIED), prefix: route.header.destination_prefix_length }
}

/// Whether the kernel answered with this error number.
fn is(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if message.raw_code() == -errno)
}

/// Takes no packet of IPv6 from a link: the kernel would give both its ends addresses, and let a pod speak to the
/// host past every rule. Fine where there is no IPv6 at all.
pub(super) fn forbid_ipv6(link: &str) -> Result<(), Error> {
    let switch = format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6");
    // Where it is off already it may be out of reach.
    if std::fs::read_to_string(&switch).is_ok_and(|off| off.trim() == "1") {
        return Ok(());
    }
    match std::fs::write(&switch, "1") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("writing 1 to {switch}"))(error))
        }
        _ => Ok(()),
    }
}
