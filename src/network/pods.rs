//! The pod network of one cluster: namespaces prepared ahead, handed to pods, let go, and swept after a crash.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use rtnetlink::packet_route::AddressFamily;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use super::addresses::{self, Addresses};
use super::forwarding::{self, Switches};
use super::links::{Links, Mac, VethPair};
use super::told::{Destination, Link};
use super::{Attachment, Config, Error, routers, settings6};
use crate::sys::namespace::run_in;
use crate::sys::netns;

/// How many namespaces wait, complete, for the next pods.
const POOL: usize = 4;

/// How many addresses in a row may turn out to be still in use by a namespace that is ending.
const ATTEMPTS: usize = 16;

/// The MTU where the host has no default route to take it from.
const DEFAULT_MTU: u32 = 1500;

/// What a pod calls its link.
const POD_LINK: &str = "eth0";

/// The Ethernet address of every host end: each pair is its own little network, so that one address does for all.
const HOST_MAC: Mac = [0xee; 6];

/// The pod network of one cluster; cheap to clone. Dropping the last one leaves all attachments as they are.
#[derive(Clone)]
pub struct PodNetwork {
    shared: Arc<Shared>,
    filler: Arc<Mutex<Option<JoinHandle<()>>>>,
    /// Keeps the host listening to its routers, in a network with IPv6.
    listener: Arc<Mutex<Option<AbortOnDropHandle<()>>>>,
}

struct Shared {
    config: Config,
    links: Links,
    mtu: u32,
    state: Mutex<State>,
    /// Told when the pool has a place to fill, and when this value goes.
    refill: Arc<Notify>,
    closing: AtomicBool,
}

struct State {
    addresses: Addresses,
    /// Addresses of namespaces that are complete and belong to no pod yet.
    pool: VecDeque<Ipv4Addr>,
    /// Addresses of pods that have no second one: they are of a time when the host had no IPv6.
    single: HashSet<Ipv4Addr>,
}

impl PodNetwork {
    /// Brings the network up, in the network namespace of the calling thread, or takes it over from a process
    /// that died: attachments whose namespace and link are still there go on; everything else of this
    /// network's is swept.
    ///
    /// # Errors
    /// When the configuration cannot work or the kernel refuses a change.
    pub async fn open(config: Config) -> Result<PodNetwork, Error> {
        check(&config)?;
        for directory in [&config.namespaces, &config.state] {
            let tried = format!("making directory {}", directory.display());
            std::fs::create_dir_all(directory).map_err(Error::io(tried))?;
        }
        let links = Links::connect()?;
        // Before the links are looked at: none may come unseen.
        let heard = config.pods6.map(|_| routers::hear()).transpose()?;
        // Whoever turns it on has left a note before: who reads that it is on finds the note among the links.
        let forwards6 = config.pods6.map(|_| forwarding::read6()).transpose()?;
        let forwards = (forwarding::read()?, forwards6);
        let mut present = links.list().await?;
        ensure_gateway(&config, &links, &present, forwards).await?;
        let listener = heard.map(|events| routers::keep(&config, &links, events));
        let mtu = links.uplink_mtu().await?.unwrap_or(DEFAULT_MTU);

        let mut addresses = Addresses::open(&config.state, config.pods)?;
        let names: HashSet<&str> = present.iter().map(|link| link.name.as_str()).collect();
        addresses.retain(|address| {
            names.contains(link_name(&config.prefix, address).as_str())
                && netns::is_bound(&namespace_path(&config, address))
        })?;
        let kept: HashSet<Ipv4Addr> = addresses.reserved().values().copied().collect();
        present.retain(|link| pod_link_address(&config, &link.name).is_some_and(|a| !kept.contains(&a)));
        finish(sweep(&config, &links, &present, |address| kept.contains(&address)).await)?;

        // Those of an earlier minik may have more than they should.
        for address in kept.iter().filter(|_| config.pods6.is_none()) {
            if let Err(error) = settings6::forbid_ipv6(&link_name(&config.prefix, *address)) {
                tracing::warn!(%address, %error, "a pod of before may speak IPv6 to the host");
            }
        }
        let single = without_ipv6(&config, &links, &kept).await?;
        let state = Mutex::new(State { addresses, pool: VecDeque::new(), single });
        let refill = Arc::new(Notify::new());
        let closing = AtomicBool::new(false);
        let shared = Arc::new(Shared { config, links, mtu, state, refill: refill.clone(), closing });
        let filler = tokio::spawn(keep_filled(Arc::downgrade(&shared), refill));
        let (filler, listener) = (Arc::new(Mutex::new(Some(filler))), Arc::new(Mutex::new(listener)));
        Ok(PodNetwork { shared, filler, listener })
    }

    /// Gives `id` a namespace with an address; the same one as before when it has one already.
    ///
    /// # Errors
    /// When no address is free or the kernel refuses a change.
    pub async fn attach(&self, id: &str) -> Result<Attachment, Error> {
        loop {
            if let Some(attachment) = self.shared.attached_or_pooled(id)? {
                return Ok(attachment);
            }
            // A task of its own: when the caller gives up, what was begun ends in the pool and not nowhere.
            let prepared = tokio::spawn(add_to_pool(self.shared.clone())).await;
            prepared
                .map_err(|failed| Error::io(format!("preparing a namespace for {id}"))(failed.into()))??;
        }
    }

    /// Lets the namespace of `id` go and says what it was; it ends, with its links, once no process is in it. Not attached is
    /// fine.
    ///
    /// # Errors
    /// When the namespace cannot be let go or the reservation not be removed; then both are still there.
    pub async fn detach(&self, id: &str) -> Result<Option<Attachment>, Error> {
        let mut state = self.shared.lock();
        let Some(address) = state.addresses.reserved().get(id).copied() else { return Ok(None) };
        let gone = self.shared.attachment(&state, address);
        let path = &gone.namespace;
        netns::release(path).map_err(Error::io(format!("releasing namespace {}", path.display())))?;
        state.addresses.release(id)?;
        Ok(Some(gone))
    }

    /// Who is attached, and where.
    pub fn attachments(&self) -> BTreeMap<String, Attachment> {
        let state = self.shared.lock();
        let reserved = state.addresses.reserved().iter();
        reserved.map(|(id, address)| (id.clone(), self.shared.attachment(&state, *address))).collect()
    }

    /// Stops preparing namespaces and looking at links, and waits until what is under way is done. All attachments stay.
    pub async fn close(&self) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listener) = listener {
            listener.abort();
            // That it was ended is what was wanted.
            let _ = listener.await;
        }
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.refill.notify_one();
        let filler = self.filler.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(filler) = filler
            && let Err(failed) = filler.await
        {
            tracing::error!(%failed, "preparing pod namespaces");
        }
    }

    /// Removes every link, namespace and file of this network, running or left by a crash, and puts the host's
    /// forwarding switch back when no other cluster needs it. Goes on after errors and returns them all.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn destroy(config: &Config) -> Result<(), Error> {
        check(config)?;
        let links = Links::connect()?;
        let present = links.list().await?;
        let (gateway, others): (Vec<&Link>, Vec<&Link>) =
            present.iter().partition(|link| link.name == config.gateway_link());
        let own: Vec<Link> = others
            .iter()
            // The other end of the gateway's cable goes with this one.
            .filter(|link| pod_link_address(config, &link.name).is_some() || link.name == config.cable()[0])
            .map(|link| (*link).clone())
            .collect();
        let mut errors = sweep(config, &links, &own, |_| false).await;

        let remembered =
            gateway.iter().filter_map(|link| link.alias.as_deref()).find_map(Switches::remembered);
        let other_aliases = others.iter().filter_map(|link| link.alias.as_deref());
        if let Some(remembered) = remembered.clone() {
            errors.extend(forwarding::restore(&remembered.put_back(other_aliases)));
        }
        for link in gateway {
            errors.extend(links.delete(link).await.err());
        }
        if let Some(before) = remembered {
            errors.extend(put_back_at_last(config, &links, before).await);
        }
        let files = addresses::remove(&config.state);
        errors.extend(files.map_err(Error::io(format!("removing {}", config.state.display()))).err());
        for directory in [&config.namespaces, &config.state] {
            remove_empty(directory, &mut errors);
        }
        finish(errors)
    }
}

impl Shared {
    /// The attachment of `id`, from a reservation or out of the pool; `None` when the pool is empty.
    fn attached_or_pooled(&self, id: &str) -> Result<Option<Attachment>, Error> {
        let mut state = self.lock();
        if let Some(address) = state.addresses.reserved().get(id).copied() {
            return Ok(Some(self.attachment(&state, address)));
        }
        let Some(address) = state.pool.pop_front() else { return Ok(None) };
        if let Err(error) = state.addresses.assign(id, address) {
            state.pool.push_front(address);
            return Err(error);
        }
        // Whoever had it before is gone.
        state.single.remove(&address);
        let attachment = self.attachment(&state, address);
        drop(state);
        self.refill.notify_one();
        Ok(Some(attachment))
    }

    /// Makes a namespace complete with link, address and routes, for nobody yet.
    async fn prepare(&self) -> Result<Ipv4Addr, Error> {
        let mut attempts = 0;
        loop {
            let address = self.lock().addresses.take()?;
            let made = self.build(address).await;
            let Err(error) = made else { return Ok(address) };
            attempts += 1;
            // Whatever was built ends with its namespace; the error that matters is the one returned.
            let _ = netns::release(&namespace_path(&self.config, address));
            self.lock().addresses.give_back(address);
            // The link of an earlier pod may outlive its reservation while a process is still in its namespace.
            if !error.already_exists() || attempts == ATTEMPTS {
                return Err(error);
            }
        }
    }

    async fn build(&self, address: Ipv4Addr) -> Result<(), Error> {
        let gateway = self.config.gateway();
        let (address6, gateway6) = (self.config.address6(address), self.config.gateway6());
        let path = namespace_path(&self.config, address);
        let (namespace, inside) = create_namespace(path, address6.is_some()).await?;
        let namespace = Arc::new(namespace);
        let (name, mac) = (link_name(&self.config.prefix, address), pod_mac(address));
        let pair = VethPair {
            name: &name,
            mac: HOST_MAC,
            peer: POD_LINK,
            peer_mac: mac,
            peer_namespace: namespace.as_fd(),
            mtu: self.mtu,
        };
        self.links.add_veth(pair).await?;
        match address6 {
            // Before the other end is up: the kernel does nothing until there is a carrier.
            Some(_) => {
                settings6::quiet_ipv6(&name).map_err(Error::io(format!("quieting IPv6 on link {name}")))?;
                quiet_inside(namespace.clone(), address).await?;
            }
            None => settings6::forbid_ipv6(&name)?,
        }

        let loopback = inside.index("lo").await?;
        inside.set_up(loopback, None).await?;
        let eth0 = inside.index(POD_LINK).await?;
        inside.add_address(eth0, address).await?;
        inside.set_up(eth0, None).await?;
        let outside = self.links.index(&name).await?;
        let pairs = [Some((IpAddr::V4(address), IpAddr::V4(gateway))), both(address6, gateway6)];
        for (address, gateway) in pairs.into_iter().flatten() {
            if address.is_ipv6() {
                inside.add_address(eth0, address).await?;
            }
            inside.add_link_route(eth0, gateway, None).await?;
            inside.add_default_route(eth0, gateway).await?;
            inside.add_neighbour(eth0, gateway, HOST_MAC).await?;
            self.links.add_link_route(outside, address, Some(gateway)).await?;
            self.links.add_neighbour(outside, address, mac).await?;
        }
        Ok(())
    }

    fn attachment(&self, state: &State, address: Ipv4Addr) -> Attachment {
        let namespace = namespace_path(&self.config, address);
        let address6 = self.config.address6(address).filter(|_| !state.single.contains(&address));
        Attachment { namespace, address, address6 }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change of the state is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.refill.notify_one();
    }
}

/// Keeps the pool full until the network is dropped. A failure waits for the next attachment: an attachment
/// with an empty pool prepares its own namespace and reports what is wrong.
async fn keep_filled(shared: Weak<Shared>, refill: Arc<Notify>) {
    loop {
        while let Some(shared) = shared.upgrade().filter(|shared| !shared.closing.load(Ordering::Relaxed)) {
            if shared.lock().pool.len() >= POOL {
                break;
            }
            if let Err(error) = add_to_pool(shared).await {
                tracing::warn!(%error, "preparing a pod namespace");
                break;
            }
        }
        match shared.upgrade() {
            Some(shared) if !shared.closing.load(Ordering::Relaxed) => {}
            _ => return,
        }
        refill.notified().await;
    }
}

async fn add_to_pool(shared: Arc<Shared>) -> Result<(), Error> {
    let address = shared.prepare().await?;
    shared.lock().pool.push_back(address);
    Ok(())
}

/// Which of these pods the host has no way to by IPv6, in a network that has it.
async fn without_ipv6(
    config: &Config,
    links: &Links,
    pods: &HashSet<Ipv4Addr>,
) -> Result<HashSet<Ipv4Addr>, Error> {
    if config.pods6.is_none() || pods.is_empty() {
        return Ok(HashSet::new());
    }
    let routes = links.routes(AddressFamily::Inet6).await?;
    let led: HashSet<Destination> = routes.into_iter().map(|route| route.to).collect();
    let has = |pod: &Ipv4Addr| {
        config.address6(*pod).is_some_and(|address| led.contains(&Destination::from(IpAddr::V6(address))))
    };
    Ok(pods.iter().copied().filter(|pod| !has(pod)).collect())
}

/// A namespace bound at `path` and a connection to its links, which speak IPv6 if `ipv6`, whatever those of the host do.
pub(super) async fn create_namespace(path: PathBuf, ipv6: bool) -> Result<(OwnedFd, Links), Error> {
    let runtime = tokio::runtime::Handle::current();
    let tried = format!("making namespace {}", path.display());
    let work = move || {
        netns::create(&path, || {
            if ipv6 {
                settings6::enable_ipv6()?;
            }
            let _runtime = runtime.enter();
            Links::try_connect()
        })
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(made) => made.map_err(Error::io(tried)),
        Err(failed) => Err(Error::io(tried)(failed.into())),
    }
}

/// Quiets IPv6 on the link of the pod in its namespace, and on none that its containers may make.
async fn quiet_inside(namespace: Arc<OwnedFd>, address: Ipv4Addr) -> Result<(), Error> {
    let tried = || format!("quieting IPv6 on link {POD_LINK} of {address}");
    let work = move || run_in(&namespace, || settings6::quiet_ipv6(POD_LINK)).flatten();
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Error::io(tried())),
        Err(failed) => Err(Error::io(tried())(failed.into())),
    }
}

/// `forwards` is what the host's forwarding switches were before `present` was looked at; that of IPv6 where it is needed.
async fn ensure_gateway(
    config: &Config,
    links: &Links,
    present: &[Link],
    forwards: (String, Option<String>),
) -> Result<(), Error> {
    let name = config.gateway_link();
    let own = present.iter().find(|link| link.name == name);
    let aliases = || present.iter().filter_map(|link| link.alias.as_deref());
    let remembered = own.and_then(|link| link.alias.as_deref()).and_then(Switches::remembered);
    let mut switches = match remembered {
        Some(remembered) => remembered,
        None => Switches::before(aliases(), forwards.0),
    };
    let mut learning = Vec::new();
    if let Some(forwards6) = forwards.1 {
        switches.remember6(aliases(), forwards6);
        // A host that was a router before does not listen to any.
        if switches.listened() {
            learning = routers::learning(links, present).await?;
        }
        switches.learn(&learning);
    }
    if own.is_none() {
        links.add_portless_bridge(&name, pod_mac(config.gateway())).await?;
    }
    if config.pods6.is_some() {
        settings6::quiet_ipv6(&name).map_err(Error::io(format!("quieting IPv6 on link {name}")))?;
    }
    let index = links.index(&name).await?;
    // The alias first: whoever dies after it has left a note of what to put back.
    links.set_up(index, Some(&switches.alias())).await?;
    links.add_address(index, config.gateway()).await?;
    forwarding::set("1")?;
    if let (Some(range), Some(gateway)) = (config.pods6, config.gateway6()) {
        links.add_address(index, gateway).await?;
        // Packets to no pod go no further than here; the routes to pods are more special.
        links.add_link_route(index, range, Some(gateway.into())).await?;
        forwarding::set6(&learning)?;
    }
    Ok(())
}

fn both(address: Option<Ipv6Addr>, gateway: Option<Ipv6Addr>) -> Option<(IpAddr, IpAddr)> {
    address.zip(gateway).map(|(address, gateway)| (address.into(), gateway.into()))
}

/// Puts the forwarding switches to what they are to be once this cluster's gateway is gone: others may have come or gone at the
/// same time, and each have seen the other.
async fn put_back_at_last(config: &Config, links: &Links, before: Switches) -> Vec<Error> {
    let present = match links.list().await {
        Ok(present) => present,
        Err(error) => return vec![error],
    };
    let others = present.iter().filter(|link| link.name != config.gateway_link());
    let aliases = others.filter_map(|link| link.alias.as_deref());
    let restored = before.clone().put_back(aliases);
    let mut errors = forwarding::restore(&restored);
    errors.extend(forwarding::keep(&before, &restored).err());
    errors
}

/// Lets go of all bound namespaces but those to keep, and removes the given links.
async fn sweep(
    config: &Config,
    links: &Links,
    doomed: &[Link],
    keep: impl Fn(Ipv4Addr) -> bool,
) -> Vec<Error> {
    let mut errors = Vec::new();
    for (path, address) in bound(config, &mut errors) {
        if !keep(address) {
            let tried = format!("releasing namespace {}", path.display());
            errors.extend(netns::release(&path).map_err(Error::io(tried)).err());
        }
    }
    for link in doomed {
        errors.extend(links.delete(link).await.err());
    }
    errors
}

/// The files in the namespace directory that are named by an address.
fn bound(config: &Config, errors: &mut Vec<Error>) -> Vec<(PathBuf, Ipv4Addr)> {
    let entries = match std::fs::read_dir(&config.namespaces) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            errors.push(Error::io(format!("reading {}", config.namespaces.display()))(error));
            return Vec::new();
        }
    };
    let named = |path: PathBuf| {
        let address = path.file_name()?.to_str()?.parse().ok()?;
        Some((path, address))
    };
    entries.flatten().filter_map(|entry| named(entry.path())).collect()
}

fn remove_empty(directory: &Path, errors: &mut Vec<Error>) {
    use std::io::ErrorKind;
    match std::fs::remove_dir(directory) {
        // Others may keep files beside; those are theirs to remove.
        Err(error) if ![ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty].contains(&error.kind()) => {
            errors.push(Error::io(format!("removing {}", directory.display()))(error));
        }
        _ => {}
    }
}

fn check(config: &Config) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if config.prefix.is_empty() || config.prefix.len() > 7 || !config.prefix.chars().all(plain) {
        return Err(Error::Config("the link prefix must be 1 to 7 letters, digits, '-' or '_'"));
    }
    if !(8..=29).contains(&config.pods.prefix) {
        return Err(Error::Config("the pod range must have 8 to 29 fixed bits"));
    }
    // As many bits that are not fixed as the other has.
    if config.pods6.is_some_and(|range| range.prefix > 96 + config.pods.prefix) {
        return Err(Error::Config("the IPv6 pod range must have as many addresses as the IPv4 one"));
    }
    Ok(())
}

fn finish(errors: Vec<Error>) -> Result<(), Error> {
    if errors.is_empty() { Ok(()) } else { Err(Error::Cleanup(errors)) }
}

/// Addresses name everything: the namespace file, the link and the Ethernet address.
fn namespace_path(config: &Config, address: Ipv4Addr) -> PathBuf {
    config.namespaces.join(address.to_string())
}

/// The host's end of the link of the pod with this address, in a network whose links begin with this prefix.
pub fn link_name(prefix: &str, address: Ipv4Addr) -> String {
    format!("{prefix}{:08x}", address.to_bits())
}

/// The address that a link of this network is named by; `None` for other links.
fn pod_link_address(config: &Config, name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix(&config.prefix)?;
    let hex = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if hex { u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from_bits) } else { None }
}

/// A locally administered Ethernet address that holds the IP address.
fn pod_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(prefix: &str) -> Config {
        Config {
            prefix: prefix.into(),
            pods: "10.244.0.0/16".parse().unwrap(),
            pods6: None,
            namespaces: "/run/x".into(),
            state: "/var/x".into(),
        }
    }

    #[test]
    fn links_are_named_by_their_address_and_fit_the_kernels_limit() {
        let config = config("mk-abcd");
        let name = link_name(&config.prefix, Ipv4Addr::new(10, 244, 1, 2));
        assert_eq!(name, "mk-abcd0af40102");
        assert!(name.len() <= 15);
        assert_eq!(pod_link_address(&config, &name), Some(Ipv4Addr::new(10, 244, 1, 2)));
    }

    #[test]
    fn links_of_others_are_not_taken_for_ours() {
        for name in ["mk0", "mk", "eth0", "mk10af40102", "mk0af4010", "mk0AF40102", "mk+af40102"] {
            assert_eq!(pod_link_address(&config("mk"), name), None, "{name}");
        }
    }

    #[test]
    fn configurations_that_cannot_work_are_refused() {
        assert!(check(&config("mk")).is_ok());
        for prefix in ["", "toolong8", "a b", "a/b"] {
            assert!(check(&config(prefix)).is_err(), "{prefix:?}");
        }
        let tiny = Config { pods: "10.0.0.0/30".parse().unwrap(), ..config("mk") };
        assert!(check(&tiny).is_err());
        for (range, fits) in [("fd00::/64", true), ("fd00::/112", true), ("fd00::/113", false)] {
            let config = Config { pods6: Some(range.parse().unwrap()), ..config("mk") };
            assert_eq!(check(&config).is_ok(), fits, "{range}");
        }
    }

    #[test]
    fn both_addresses_of_a_pod_have_the_same_number() {
        let address = Ipv4Addr::new(10, 244, 1, 2);
        assert_eq!(config("mk").address6(address), None);
        let config = Config { pods6: Some("fd00:10:244::/64".parse().unwrap()), ..config("mk") };
        assert_eq!(config.address6(address), Some("fd00:10:244::102".parse().unwrap()));
        assert_eq!(config.gateway6(), Some("fd00:10:244::1".parse().unwrap()));
    }
}
