//! The routers that the host learns its way out from: who forwards listens to none, unless it is told to.
//!
//! So the host is told to wherever it would have listened otherwise, before it forwards and on links that come later.
//! What was changed is remembered beside the forwarding switches and put back with them.

use std::collections::HashSet;

use futures::StreamExt;
use futures::stream::BoxStream;
use rtnetlink::packet_route::AddressFamily;
use tokio_util::task::AbortOnDropHandle;

use super::forwarding::{self, Switches};
use super::links::Links;
use super::told::{Event, Link, MulticastGroup, Route, listen};
use super::{Config, Error};

/// What tells, by the numbers of links, where a router may be.
#[derive(Debug, Default)]
struct Ways {
    /// By these, everything else of IPv4 leaves.
    uplinks: HashSet<u32>,
    /// Over these, a router told of routes of IPv6.
    advertised: HashSet<u32>,
    /// These have an address of IPv6 that was given to them for a time.
    lent: HashSet<u32>,
}

impl Ways {
    async fn read(links: &Links) -> Result<Ways, Error> {
        let of = |route: Route| route.links;
        let v4 = links.routes(AddressFamily::Inet).await?.into_iter();
        let v6 = links.routes(AddressFamily::Inet6).await?.into_iter();
        let lent = links.held().await?.into_iter().filter(|held| held.lent && held.address.is_ipv6());
        Ok(Ways {
            uplinks: v4.filter(Route::is_default).flat_map(of).collect(),
            advertised: v6.filter(|route| route.advertised).flat_map(of).collect(),
            lent: lent.map(|held| held.link).collect(),
        })
    }

    /// Whether the host may have to hear of a router on a link. (pure)
    fn may_lead_to_a_router(&self, link: &Link) -> bool {
        let known = [&self.uplinks, &self.advertised, &self.lent];
        link.physical || known.iter().any(|links| links.contains(&link.index))
    }
}

/// The links on which the host listens to routers and would not any more when it forwards.
pub(super) async fn learning(links: &Links, present: &[Link]) -> Result<Vec<String>, Error> {
    let ways = Ways::read(links).await?;
    let candidates = present.iter().filter(|link| ways.may_lead_to_a_router(link));
    let names = candidates.map(|link| link.name.clone());
    Ok(names.filter(|name| forwarding::listens(name)).collect())
}

/// What [`keep`] looks at, from the moment of the call on. Must be called inside the async runtime.
pub(super) fn hear() -> Result<BoxStream<'static, Event>, Error> {
    listen(&[MulticastGroup::Link, MulticastGroup::Ipv4Route])
}

/// Has the host go on listening on links that come later, until the answer is dropped; and remembers what other clusters
/// changed, to put it back in case this one is the last.
pub(super) fn keep(
    config: &Config,
    links: &Links,
    mut events: BoxStream<'static, Event>,
) -> AbortOnDropHandle<()> {
    let (gateway, links) = (config.gateway_link(), links.clone());
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            while let Some(event) = events.next().await {
                if concerns(&event, &gateway)
                    && let Err(error) = learn(&gateway, &links).await
                {
                    tracing::warn!(%error, "the host may lose its way out by IPv6");
                }
            }
            // More happened than could be told.
            let again = match hear() {
                Ok(again) => learn(&gateway, &links).await.map(|()| again),
                Err(error) => Err(error),
            };
            match again {
                Ok(again) => events = again,
                Err(error) => {
                    tracing::warn!(%error, "links that come later are not looked at");
                    return;
                }
            }
        }
    }))
}

/// Whether what happened may be a new way to a router, or a change by another cluster.
fn concerns(event: &Event, gateway: &str) -> bool {
    match event {
        Event::Link(link) if link.name == gateway => false,
        Event::Link(link) => {
            link.physical && forwarding::listens(&link.name)
                || link.alias.as_deref().is_some_and(Switches::concerns_routers)
        }
        Event::Route(route) => route.is_default(),
        Event::Address => false,
    }
}

/// Looks at all links once more.
async fn learn(gateway: &str, links: &Links) -> Result<(), Error> {
    let present = links.list().await?;
    let own = present.iter().find(|link| link.name == gateway);
    let alias = own.and_then(|link| link.alias.as_deref());
    let (Some(own), Some(before)) = (own, alias.and_then(Switches::remembered)) else { return Ok(()) };
    let learning = if before.listened() { learning(links, &present).await? } else { Vec::new() };
    let mut switches = before.clone();
    let others = present.iter().filter(|link| link.name != gateway).filter_map(|link| link.alias.as_deref());
    // Without it the host forwards no IPv6 for this cluster.
    switches.remember6(others, "0".to_owned());
    switches.learn(&learning);
    if switches != before {
        links.set_up(own.index, Some(&switches.alias())).await?;
    }
    forwarding::listen(&learning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routers_are_behind_cards_and_where_something_came_from() {
        let link = |index: u32, physical: bool| Link {
            index,
            name: format!("x{index}"),
            alias: None,
            mtu: 1500,
            physical,
            carrier: true,
        };
        let ways = Ways { uplinks: [2].into(), advertised: [3].into(), lent: [4].into() };
        for (index, physical, may) in
            [(1, false, false), (1, true, true), (2, false, true), (3, false, true), (4, false, true)]
        {
            assert_eq!(ways.may_lead_to_a_router(&link(index, physical)), may, "{index} {physical}");
        }
    }

    #[test]
    fn only_what_may_change_something_is_looked_at() {
        let link = |name: &str, alias: Option<&str>| {
            let alias = alias.map(str::to_owned);
            Event::Link(Link {
                index: 7,
                name: name.into(),
                alias,
                mtu: 1500,
                physical: false,
                carrier: true,
            })
        };
        let dual = Some("minik gateway, ip_forward was 1 and ipv6 forwarding was 0");
        for (event, does) in [
            (link("mk0", dual), false),
            (link("other0", dual), true),
            (link("other0", Some("minik gateway, ip_forward was 1")), false),
            (link("veth7", None), false),
            (Event::Address, false),
        ] {
            assert_eq!(concerns(&event, "mk0"), does, "{event:?}");
        }
    }
}
