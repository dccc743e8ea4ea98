//! Which backend a request goes to: a table of hosts and paths, and the choice in it (pure).
//!
//! The table is made whole by [`super::plan`] and swapped whole. Within a host an exact path comes before others, and a
//! longer one before a shorter one; of two that are the same, the older ingress has it. A `*` stands for one label of a
//! host, as Kubernetes has it. Once an ingress of a host uses `use-regex` or `rewrite-target`, all paths of that host are
//! compared without regard to case, and those of type ImplementationSpecific are expressions, as with ingress-nginx; but
//! Exact and Prefix keep their meaning for ingresses that use neither annotation.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, Method, header};
use regex::Regex;

use super::affinity::{self, Session};
use super::annotations::{Canary, Settings, Wanted};
use super::htpasswd::Users;

/// A request, as far as it decides where it goes.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The host in lower case, without a port.
    pub host: &'a str,
    /// The host as the client wrote it, with its port.
    pub authority: &'a str,
    /// The path as [`super::path::normalized`] has it.
    pub path: &'a str,
    /// Path and query as they came.
    pub uri: &'a str,
    /// The method.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Whether it came by TLS.
    pub tls: bool,
    /// From where.
    pub client: IpAddr,
    /// A random number.
    pub dice: u64,
}

/// Where requests are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By one of these.
    Endpoints(Vec<SocketAddr>),
    /// By whoever has this name (a service of type ExternalName).
    Name(String, u16),
}

/// What serves requests.
#[derive(Debug)]
pub struct Backend {
    /// `NAMESPACE/SERVICE:PORT`, for people.
    pub name: String,
    /// Where.
    pub target: Target,
    turn: AtomicUsize,
}

impl Backend {
    /// One at this place.
    pub fn new(name: String, target: Target) -> Backend {
        Backend { name, target, turn: AtomicUsize::new(0) }
    }

    /// Begins with this turn: many that are made anew must not all begin with the same endpoint.
    pub fn beginning_at(self, turn: u64) -> Backend {
        Backend { turn: AtomicUsize::new(turn as usize), ..self }
    }

    /// The endpoints in the order in which they are to be tried: whose turn it is comes first.
    pub fn in_turn(&self, endpoints: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut all = endpoints.to_vec();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if let Some(first) = turn.checked_rem(all.len()) {
            all.rotate_left(first);
        }
        all
    }
}

/// How a path is compared.
#[derive(Debug)]
pub enum Matcher {
    /// It is the path.
    Exact(String),
    /// It is the path, or one below it; without a slash at its end.
    Prefix(String),
    /// The path begins with it.
    Start(String),
    /// The path matches; `exact` ones come first.
    Pattern(Regex),
}

impl Matcher {
    fn matches(&self, path: &str) -> bool {
        match self {
            Matcher::Exact(own) => path == own,
            Matcher::Prefix(own) => {
                path.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Matcher::Start(own) => path.starts_with(own.as_str()),
            Matcher::Pattern(pattern) => pattern.is_match(path),
        }
    }
}

/// Who opens a location.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Who is let in.
    pub users: Arc<Users>,
    /// What they are told that it is about.
    pub realm: String,
}

/// A path of a host, and what is done with requests for it.
#[derive(Debug)]
pub struct Location {
    /// The ingress: `NAMESPACE/NAME`.
    pub ingress: String,
    /// The path as it was written.
    pub path: String,
    /// How it is compared.
    pub matcher: Matcher,
    /// Whether it is the whole path that is compared.
    pub exact: bool,
    /// What the ingress asks for beside.
    pub settings: Arc<Settings>,
    /// Who must say who they are.
    pub guard: Option<Guard>,
    /// Who serves.
    pub backend: Arc<Backend>,
    /// Who serves some of the requests.
    pub canary: Option<(Canary, Arc<Backend>)>,
    /// Who answers for a failure of theirs.
    pub errors: Option<Arc<Backend>>,
}

impl Location {
    /// Who serves this request, and whether that is the canary. A client with a session stays on its side.
    pub fn choose(&self, asked: &Asked<'_>, session: Option<&Session>) -> (&Arc<Backend>, bool) {
        let Some((canary, backend)) = &self.canary else { return (&self.backend, false) };
        let to_canary = match session.filter(|_| self.keeps_canary()) {
            Some(session) => session.canary,
            None => takes(canary, asked.headers, asked.dice),
        };
        // A canary without endpoints takes nothing.
        match to_canary && backend.target != Target::Endpoints(Vec::new()) {
            true => (backend, true),
            false => (&self.backend, false),
        }
    }

    /// Whether clients have sessions with the canary too.
    fn keeps_canary(&self) -> bool {
        let is_legacy = self.canary.as_ref().is_some_and(|(canary, _)| canary.legacy);
        !is_legacy && self.settings.affinity.as_ref().is_some_and(|affinity| affinity.keeps_canary)
    }
}

/// Whether a request is one for the canary: header, then cookie, then weight.
fn takes(canary: &Canary, headers: &HeaderMap, dice: u64) -> bool {
    if let Some((name, wanted)) = &canary.header
        && let Some(value) = headers.get(name).and_then(|value| value.to_str().ok())
    {
        match wanted {
            Wanted::Value(own) if own == value => return true,
            Wanted::Pattern(pattern) if pattern.is_match(value) => return true,
            Wanted::Switch if value == "always" => return true,
            Wanted::Switch if value == "never" => return false,
            _ => {}
        }
    }
    match canary.cookie.as_deref().and_then(|name| cookie(headers, name)) {
        Some("always") => true,
        Some("never") => false,
        _ => dice % canary.total.max(1) < canary.weight,
    }
}

/// A cookie's value.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let values = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
}

/// What is known of a host.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// In the order in which they are looked at.
    pub locations: Vec<Arc<Location>>,
    /// For requests that no path is for.
    pub default: Option<Arc<Location>>,
    /// Whether there is a certificate for it.
    pub tls: bool,
    /// Where clients are sent that ask for `/`.
    pub app_root: Option<String>,
    /// The host that all its clients are sent to.
    pub moved: Option<String>,
}

impl Host {
    /// Brings the locations into their order.
    pub fn sort(&mut self) {
        // Stable: what is older stays before.
        self.locations.sort_by_key(|location| (!location.exact, std::cmp::Reverse(location.path.len())));
    }

    /// The location for a path.
    pub fn find(&self, path: &str) -> Option<&Arc<Location>> {
        self.locations.iter().find(|location| location.matcher.matches(path)).or(self.default.as_ref())
    }
}

/// All hosts.
#[derive(Debug, Default)]
pub struct Table {
    /// By name.
    pub exact: HashMap<String, Host>,
    /// By what follows after `*.`.
    pub wildcard: HashMap<String, Host>,
    /// For all others.
    pub any: Host,
}

impl Table {
    /// The host of this name; unknown ones are all the same.
    pub fn host(&self, name: &str) -> &Host {
        let below = || {
            let (label, rest) = name.split_once('.')?;
            self.wildcard.get(rest).filter(|_| !label.is_empty())
        };
        self.exact.get(name).or_else(below).unwrap_or(&self.any)
    }

    /// The host of this very name, which may begin with `*.`.
    pub fn named(&self, name: &str) -> Option<&Host> {
        match name.strip_prefix("*.") {
            Some(rest) => self.wildcard.get(rest),
            None => self.exact.get(name),
        }
    }

    /// Where the host of this very name belongs.
    pub fn entry(&mut self, name: &str) -> Entry<'_, String, Host> {
        match name.strip_prefix("*.") {
            Some(rest) => self.wildcard.entry(rest.to_owned()),
            None => self.exact.entry(name.to_owned()),
        }
    }

    /// Every endpoint that a request may go to.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        let hosts = self.exact.values().chain(self.wildcard.values()).chain([&self.any]);
        let locations = hosts.flat_map(|host| host.locations.iter().chain(&host.default));
        let backends = locations.flat_map(|location| {
            let canary = location.canary.iter().map(|(_, backend)| backend);
            [&location.backend].into_iter().chain(canary).chain(&location.errors)
        });
        backends
            .flat_map(|backend| match &backend.target {
                Target::Endpoints(endpoints) => endpoints.as_slice(),
                Target::Name(..) => &[],
            })
            .copied()
    }
}

/// The host that a client named, as hosts are compared: in lower case, without port and final dot.
pub fn host_name(authority: &str) -> String {
    let host = match authority.strip_prefix('[') {
        Some(literal) => literal.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.trim_end_matches('.').to_lowercase()
}

/// The endpoints of a backend in the order in which they are to be tried, and the session that the client is to be given.
/// Without sessions, requests of the same `hash` have the same order.
pub fn candidates(
    (backend, canary): (&Backend, bool),
    endpoints: &[SocketAddr],
    location: &Location,
    session: Option<Session>,
    hash: Option<&str>,
    dice: u64,
) -> (Vec<SocketAddr>, Option<Session>) {
    let in_turn = backend.in_turn(endpoints);
    match (&location.settings.affinity, hash) {
        (Some(affinity), _) if !canary || location.keeps_canary() => {
            affinity::order(affinity, in_turn, canary, session, dice)
        }
        (_, Some(key)) if !key.is_empty() => (affinity::ranked(key, in_turn), None),
        _ => (in_turn, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::annotations::{Affinity, PREFIX, parse};

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn location(matcher: Matcher, path: &str) -> Arc<Location> {
        let exact = matches!(matcher, Matcher::Exact(_));
        Arc::new(Location {
            ingress: "default/web".into(),
            path: path.into(),
            matcher,
            exact,
            settings: Arc::default(),
            guard: None,
            backend: Arc::new(Backend::new(path.into(), Target::Endpoints(Vec::new()))),
            canary: None,
            errors: None,
        })
    }

    #[test]
    fn the_longest_path_wins_and_exact_ones_come_first() {
        let mut host = Host {
            locations: vec![
                location(Matcher::Prefix(String::new()), "/"),
                location(Matcher::Prefix("/app".into()), "/app"),
                location(Matcher::Start("/apple".into()), "/apple"),
                location(Matcher::Prefix("/app/deep".into()), "/app/deep"),
                location(Matcher::Exact("/app/deep/one".into()), "/app/deep/one"),
                location(Matcher::Exact("/app".into()), "=/app"),
            ],
            ..Host::default()
        };
        host.sort();
        for (path, found) in [
            ("/", "/"),
            ("/other", "/"),
            ("/app", "=/app"),
            ("/app/", "/app"),
            ("/app/x", "/app"),
            ("/applause", "/"),
            ("/apples", "/apple"),
            ("/app/deep/one", "/app/deep/one"),
            ("/app/deep/one/x", "/app/deep"),
            ("/APP/x", "/"),
        ] {
            assert_eq!(host.find(path).unwrap().path, found, "{path}");
        }
    }

    #[test]
    fn a_star_is_one_label() {
        let named = |path: &str| Host {
            locations: vec![location(Matcher::Start("/".into()), path)],
            ..Host::default()
        };
        let table = Table {
            exact: [("a.example".to_owned(), named("a"))].into(),
            wildcard: [("example".to_owned(), named("*"))].into(),
            any: named("any"),
        };
        for (host, found) in [
            ("a.example", "a"),
            ("A.Example.:8080", "a"),
            ("b.example:80", "*"),
            ("example", "any"),
            (".example", "any"),
            ("c.b.example", "any"),
            ("[::1]:80", "any"),
            ("", "any"),
        ] {
            let found_host = table.host(&host_name(host));
            assert_eq!(found_host.find("/").unwrap().path, found, "{host}");
        }
    }

    #[test]
    fn header_then_cookie_then_weight_lead_to_the_canary() {
        let by = |header: Option<Wanted>, cookie: bool, weight| Canary {
            header: header.map(|wanted| ("x-new".parse().unwrap(), wanted)),
            cookie: cookie.then(|| "new".to_owned()),
            weight,
            total: 100,
            legacy: false,
        };
        let (always, never) = (("x-new", "always"), ("x-new", "never"));
        let (cookie_always, cookie_never) = (("cookie", "a=b; new=always"), ("cookie", "new=never"));
        for (canary, sent, dice, taken) in [
            (by(None, false, 30), &[][..], 29, true),
            (by(None, false, 30), &[], 130, false),
            (by(None, false, 0), &[], 0, false),
            (by(None, false, 100), &[], 99, true),
            (by(Some(Wanted::Switch), true, 0), &[always, cookie_never], 0, true),
            (by(Some(Wanted::Switch), true, 100), &[never, cookie_always], 0, false),
            (by(Some(Wanted::Switch), true, 0), &[("x-new", "maybe"), cookie_always], 0, true),
            (by(None, true, 100), &[cookie_never], 0, false),
            (by(Some(Wanted::Value("v2".into())), false, 0), &[("x-new", "v2")], 0, true),
            (by(Some(Wanted::Value("v2".into())), false, 0), &[always], 0, false),
            (
                by(Some(Wanted::Pattern(Regex::new("^v[23]$").unwrap())), false, 0),
                &[("x-new", "v3")],
                0,
                true,
            ),
            (
                by(Some(Wanted::Pattern(Regex::new("^v[23]$").unwrap())), false, 0),
                &[("x-new", "v4")],
                0,
                false,
            ),
        ] {
            assert_eq!(takes(&canary, &headers(sent), dice), taken, "{canary:?} {sent:?} {dice}");
        }
    }

    #[test]
    fn a_canary_of_before_sessions_has_none() {
        let cookie = [(format!("{PREFIX}affinity"), "cookie".to_owned())].into();
        let affinity = parse(&cookie).settings.affinity.unwrap();
        for (keeps, legacy, goes_back) in [(true, false, true), (true, true, false), (false, false, false)] {
            let affinity = Some(Affinity { keeps_canary: keeps, ..affinity.clone() });
            let settings = Settings { affinity, ..Settings::default() };
            let endpoints: Vec<SocketAddr> = vec!["10.0.0.1:80".parse().unwrap()];
            let canary = Canary { weight: 0, total: 100, legacy, ..Canary::default() };
            let backend =
                |name: &str| Arc::new(Backend::new(name.into(), Target::Endpoints(endpoints.clone())));
            let location = Location {
                ingress: "default/web".into(),
                path: "/".into(),
                matcher: Matcher::Start("/".into()),
                exact: false,
                settings: Arc::new(settings),
                guard: None,
                backend: backend("main"),
                canary: Some((canary, backend("canary"))),
                errors: None,
            };
            let (headers, method) = (HeaderMap::new(), Method::GET);
            let asked = Asked {
                host: "a.example",
                authority: "a.example",
                path: "/",
                uri: "/",
                method: &method,
                headers: &headers,
                tls: false,
                client: "192.0.2.1".parse().unwrap(),
                dice: 50,
            };
            let session = Session { key: "00112233445566ff".into(), canary: true };
            let (chosen, is_canary) = location.choose(&asked, Some(&session));
            assert_eq!((chosen.name == "canary", is_canary), (goes_back, goes_back), "{keeps} {legacy}");
            let given = candidates((chosen, true), &endpoints, &location, None, None, 7).1;
            assert_eq!(given.is_some(), goes_back, "{keeps} {legacy}");
        }
    }

    #[test]
    fn the_same_text_has_the_same_endpoint() {
        let endpoints: Vec<SocketAddr> = (1..9).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect();
        let location = location(Matcher::Start("/".into()), "/");
        let first = |hash| {
            let order = candidates((&location.backend, false), &endpoints, &location, None, hash, 7);
            (order.0[0], order.1)
        };
        assert!((0..8).all(|_| first(Some("a")) == first(Some("a"))));
        let keys: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert!(keys.iter().any(|key| first(Some(key)) != first(Some("a"))));
        assert_ne!(first(Some("")), first(Some("")), "nothing is nobody's key");
    }

    #[test]
    fn endpoints_take_turns() {
        let endpoints: Vec<SocketAddr> = ["10.0.0.1:80", "10.0.0.2:80"].map(|a| a.parse().unwrap()).into();
        let backend = Backend::new("web".into(), Target::Endpoints(endpoints.clone()));
        let first: Vec<_> = (0..4).map(|_| backend.in_turn(&endpoints)[0]).collect();
        assert_eq!(first, [endpoints[0], endpoints[1], endpoints[0], endpoints[1]]);
        assert!(backend.in_turn(&[]).is_empty());
    }
}
