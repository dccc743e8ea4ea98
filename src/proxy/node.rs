//! Everything on this node that makes services work, for each family of addresses.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::conntrack::{self, Search, SecondLook, Suspects};
use super::family::Address;
use super::state::{State, States};
use super::table::Table;
use super::{Config, Configs, Error, Led, blocking, health, localhost};
use crate::network::{self, Destination};
use crate::sys::netlink::{Heard, Message};

/// Both families, as far as the node has them.
pub(super) struct Node {
    v4: Side<Ipv4Addr>,
    v6: Option<Side<Ipv6Addr>>,
    led: watch::Sender<Led>,
}

/// What makes services of one family work.
struct Side<A: Address> {
    config: Config<A>,
    /// Away only while a blocking call uses it.
    table: Option<Table<A>>,
    listeners: localhost::Listeners<A>,
    balancers: health::Listeners<A>,
    /// Tracked connections that could not be looked at yet.
    search: Search<A>,
    /// Those to be looked for once more.
    second: SecondLook<A>,
    /// The ranges of services' addresses that have a way out of the host's own programs, beside the cluster's own; `None`
    /// when that is not known.
    routed: Option<Vec<A::Range>>,
    /// The addresses of [`State::led`] in the rules that are installed; `None` before there are any.
    led: Option<Arc<BTreeSet<A>>>,
}

impl Node {
    /// A node whose pods are closed for as long as nothing is known of them.
    pub(super) fn open(config: Configs, led: watch::Sender<Led>) -> Result<Node, Error> {
        let Configs { v4, v6 } = config;
        Ok(Node { v4: Side::open(v4)?, v6: v6.map(Side::open).transpose()?, led })
    }

    /// Whether an event is not of this proxy's own making.
    pub(super) fn is_foreign(&self, event: &Message<'_>) -> bool {
        self.v4.is_foreign(event) && self.v6.as_ref().is_none_or(|side| side.is_foreign(event))
    }

    /// Whether an event takes something away from the tables.
    pub(super) fn is_damage(&self, event: &Message<'_>) -> bool {
        self.v4.is_damage(event) || self.v6.as_ref().is_some_and(|side| side.is_damage(event))
    }

    /// Whether the tables must be made anew.
    pub(super) fn is_damaged(&self, heard: Heard) -> bool {
        match heard {
            Heard::Nothing => false,
            Heard::Match => true,
            // What was lost is not known: look whether the tables are still there. When in doubt, they are not.
            Heard::Overflow => !(self.v4.is_present() && self.v6.as_ref().is_none_or(Side::is_present)),
        }
    }

    /// Forgets what is installed.
    pub(super) fn invalidate(&mut self) {
        self.v4.invalidate();
        if let Some(side) = &mut self.v6 {
            side.invalidate();
        }
    }

    /// When to look for suspects of a while ago.
    pub(super) fn due(&self) -> Option<Instant> {
        let other = self.v6.as_ref().and_then(|side| side.second.due());
        self.v4.second.due().into_iter().chain(other).min()
    }

    /// Has the next [`Node::apply`] look for them.
    pub(super) fn look_again(&mut self) {
        self.v4.look_again();
        if let Some(side) = &mut self.v6 {
            side.look_again();
        }
    }

    /// Makes it so, as far as it goes. False when a port is taken by somebody else.
    pub(super) async fn apply(&mut self, wanted: States) -> Result<bool, Error> {
        let done = self.v4.apply(wanted.v4).await;
        // A failure of one family is none of the other's.
        let other = match &mut self.v6 {
            Some(side) => side.apply(wanted.v6).await,
            None => Ok(Applied { routed: Ok(()), complete: true }),
        };
        let led4 = self.v4.led.iter().flat_map(|led| led.iter()).copied().map(IpAddr::V4);
        let led6 = self.v6.iter().flat_map(|side| &side.led).flat_map(|led| led.iter());
        let is_known = self.v4.led.is_some() || self.v6.as_ref().is_some_and(|side| side.led.is_some());
        let led = is_known.then(|| Arc::new(led4.chain(led6.copied().map(IpAddr::V6)).collect()));
        self.led.send_replace(led);
        let (done, other) = (done?, other?);
        done.routed.and(other.routed).map(|()| done.complete && other.complete)
    }
}

/// What came of a change.
struct Applied {
    /// Whether services can be reached from the host's own programs.
    routed: Result<(), Error>,
    /// False when a port is taken by somebody else.
    complete: bool,
}

impl<A: Address> Side<A> {
    fn open(config: Config<A>) -> Result<Side<A>, Error> {
        let mut table = Table::new(config.clone()).map_err(Error::io("opening netfilter's netlink"))?;
        if let Err(error) = close(&mut table) {
            tracing::error!(%error, "closing the way of pods whose policies are not known yet");
        }
        Ok(Side {
            config,
            table: Some(table),
            listeners: localhost::Listeners::default(),
            balancers: health::Listeners::default(),
            search: Search::default(),
            second: SecondLook::default(),
            routed: None,
            led: None,
        })
    }

    fn is_foreign(&self, event: &Message<'_>) -> bool {
        self.table.as_ref().is_some_and(|table| event.port != table.port())
    }

    fn is_damage(&self, event: &Message<'_>) -> bool {
        self.table.as_ref().is_some_and(|table| table.is_damage(event))
    }

    fn is_present(&self) -> bool {
        self.table.as_ref().is_some_and(|table| table.is_present().unwrap_or(false))
    }

    fn invalidate(&mut self) {
        if let Some(table) = &mut self.table {
            table.invalidate();
        }
    }

    fn look_again(&mut self) {
        let suspects = self.second.take(Instant::now());
        self.search = std::mem::take(&mut self.search).and(Search { suspects, denied: false });
    }

    async fn apply(&mut self, wanted: State<A>) -> Result<Applied, Error> {
        let (local, balancers, led) = (wanted.local.clone(), wanted.health.clone(), wanted.led.clone());
        // Without it the rest is of use too: pods are cut off until their rules are there.
        let ranges = wanted.ranges.clone();
        let routed = if self.routed.as_ref() == Some(&ranges) { Ok(()) } else { self.route(&ranges).await };
        self.routed = routed.is_ok().then_some(ranges);
        let table = match self.table.take() {
            Some(table) => table,
            None => Table::new(self.config.clone()).map_err(Error::io("opening netfilter's netlink"))?,
        };
        let changed = stale_after(table.installed(), &wanted);
        let suspects = changed.suspects.clone();
        let (config, search) = (self.config.clone(), std::mem::take(&mut self.search).and(changed));
        let (table, search, done) = blocking(move || apply_table(&config, table, search, wanted)).await?;
        (self.table, self.search) = (Some(table), search);
        self.second.add(suspects, Instant::now());
        let failed = self.listeners.set(&local).await;
        for (protocol, port, error) in &failed {
            tracing::warn!(?protocol, port, %error, "opening a node port on loopback");
        }
        let unasked = self.balancers.set(&balancers).await;
        for (port, error) in &unasked {
            tracing::warn!(port, %error, "opening the health port of a service");
        }
        done?;
        self.led = Some(led);
        Ok(Applied { routed, complete: failed.is_empty() && unasked.is_empty() })
    }

    async fn route(&self, ranges: &[A::Range]) -> Result<(), Error> {
        let Config { services, gateway, link_prefix, pods, .. } = &self.config;
        let ranges: Vec<Destination> = [services].into_iter().chain(ranges).map(|r| (*r).into()).collect();
        let link = format!("{link_prefix}0");
        Ok(network::route_through(&link, &ranges, (*gateway).into(), (*pods).into()).await?)
    }
}

/// Lets no pod speak until it is known who may. A table that is there already knows it from before.
fn close<A: Address>(table: &mut Table<A>) -> io::Result<()> {
    if !table.is_present()? {
        table.apply(State::closed())?;
        // Connections of before, if there are any, are looked at when everything is known.
        table.invalidate();
    }
    Ok(())
}

/// Changes the table and then deletes tracked connections; gives back which are still to be looked for.
fn apply_table<A: Address>(
    config: &Config<A>,
    mut table: Table<A>,
    search: Search<A>,
    wanted: State<A>,
) -> (Table<A>, Search<A>, Result<(), Error>) {
    if let Err(error) = table.apply(wanted) {
        return (table, search, Err(Error::io("changing the service table")(error)));
    }
    let nothing = State::default();
    match conntrack::delete_stale(&search, config, table.installed().unwrap_or(&nothing)) {
        Ok(_) => (table, Search::default(), Ok(())),
        Err(error) => (table, search, Err(Error::io("deleting stale tracked connections")(error))),
    }
}

/// What to look for after a change; `None` is when it is not known what was there.
fn stale_after<A: Address>(installed: Option<&State<A>>, wanted: &State<A>) -> Search<A> {
    let before = installed.and_then(|installed| installed.policies.as_ref());
    Search {
        suspects: match installed {
            Some(installed) => Suspects::To(wanted.misled(installed)),
            None => Suspects::All,
        },
        denied: wanted.policies.as_ref().is_some_and(|policies| policies.may_deny_more_than(before)),
    }
}
