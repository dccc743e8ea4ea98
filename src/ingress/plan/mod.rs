//! Ingresses, and the objects that they name, become one routing table with its certificates (pure).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass, IngressRule, IngressTLS};

use super::annotations::{self, Canary, PREFIX, Settings, path_pattern};
use super::endpoints::{Missing, Services};
use super::route::{Backend, Guard, Host, Location, Matcher, Table, Target};
use super::secrets::{Memory, Secrets};
use super::tls::Certificates;

#[cfg(test)]
mod tests;

/// The controller by which classes mean this one.
pub const CONTROLLER: &str = "k8s.io/ingress-nginx";
/// The class that every cluster has.
pub const CLASS: &str = "nginx";
/// How the class was said before it had a field.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What is known of a cluster.
pub struct Observed<'a> {
    /// All ingresses.
    pub ingresses: &'a [Arc<Ingress>],
    /// All classes of ingresses.
    pub classes: &'a [Arc<IngressClass>],
    /// All services.
    pub services: &'a [Arc<Service>],
    /// All slices of endpoints.
    pub slices: &'a [Arc<EndpointSlice>],
    /// All secrets.
    pub secrets: &'a [Arc<Secret>],
}

/// What is to be done.
#[derive(Default)]
pub struct Plan {
    /// Where requests go.
    pub table: Table,
    /// What clients of TLS are shown.
    pub certificates: Certificates,
    /// The ingresses that are carried out, oldest first, each with what is wrong with it.
    pub ours: Vec<(Arc<Ingress>, Vec<String>)>,
}

/// Whether an ingress is to be carried out here, by its class.
pub fn is_ours(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    let annotations = ingress.metadata.annotations.as_ref();
    let annotated = annotations.and_then(|all| all.get(CLASS_ANNOTATION)).map(String::as_str);
    let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
    let Some(name) = named.or(annotated) else { return false };
    let class = classes.iter().find(|class| class.metadata.name.as_deref() == Some(name));
    match class {
        Some(class) => class.spec.as_ref().and_then(|spec| spec.controller.as_deref()) == Some(CONTROLLER),
        // The annotation is older than the objects.
        None => named.is_none() && name == CLASS,
    }
}

/// One path before its host is complete.
struct Draft {
    ingress: String,
    path: String,
    kind: String,
    settings: Arc<Settings>,
    guard: Option<Guard>,
    backend: Arc<Backend>,
    canary: Option<(Canary, Arc<Backend>)>,
}

/// A host before it is complete.
#[derive(Default)]
struct HostDraft {
    paths: Vec<Draft>,
    default: Option<Arc<Location>>,
    tls: bool,
    app_root: Option<String>,
    /// Paths are compared as expressions.
    by_pattern: bool,
}

/// Everything while the plan is made.
struct Work<'a> {
    services: Services<'a>,
    secrets: Secrets<'a>,
    backends: HashMap<(String, String), Arc<Backend>>,
    /// By name; `*.example.com` among them, an empty one for all others.
    hosts: BTreeMap<String, HostDraft>,
    certificates: Certificates,
}

/// Makes the plan.
pub fn plan(observed: &Observed<'_>, memory: &mut Memory) -> Plan {
    let mut ours: Vec<&Arc<Ingress>> = observed
        .ingresses
        .iter()
        .filter(|ingress| is_ours(ingress, observed.classes) && ingress.metadata.deletion_timestamp.is_none())
        .collect();
    ours.sort_by_key(|ingress| {
        let meta = &ingress.metadata;
        (meta.creation_timestamp.as_ref().map(|time| time.0), meta.namespace.clone(), meta.name.clone())
    });
    let mut work = Work {
        services: Services::new(observed.services, observed.slices),
        secrets: Secrets::new(observed.secrets, memory),
        backends: HashMap::new(),
        hosts: BTreeMap::new(),
        certificates: Certificates::new(),
    };
    let mut parsed: Vec<_> = ours
        .iter()
        .map(|ingress| annotations::parse(ingress.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new())))
        .collect();
    let mut aliases = Vec::new();
    for (ingress, parsed) in ours.iter().zip(&mut parsed).filter(|(_, parsed)| parsed.canary.is_none()) {
        let of = Of::new(ingress);
        let settings = std::mem::take(&mut parsed.settings);
        aliases.extend(
            settings.aliases.iter().flat_map(|alias| of.hosts().map(move |host| (alias.clone(), host))),
        );
        work.add(&of, settings, &mut parsed.complaints);
    }
    for (ingress, parsed) in ours.iter().zip(&mut parsed) {
        if let Some(canary) = &parsed.canary {
            work.add_canary(&Of::new(ingress), canary, &mut parsed.complaints);
        }
    }
    let Work { secrets, hosts, certificates, .. } = work;
    secrets.finish();
    let mut table = Table::default();
    for (name, host) in hosts {
        let host = host.finish();
        match name.strip_prefix("*.") {
            _ if name.is_empty() => table.any = host,
            Some(rest) => drop(table.wildcard.insert(rest.to_owned(), host)),
            None => drop(table.exact.insert(name, host)),
        }
    }
    for (alias, host) in aliases {
        // A host of its own goes before.
        if let Some(host) = table.exact.get(&host).cloned() {
            table.exact.entry(alias).or_insert(host);
        }
    }
    let ours = ours.into_iter().cloned().zip(parsed.into_iter().map(|parsed| parsed.complaints)).collect();
    Plan { table, certificates, ours }
}

/// An ingress' own words.
struct Of<'a> {
    name: String,
    namespace: &'a str,
    rules: &'a [IngressRule],
    default: Option<&'a IngressBackend>,
    tls: &'a [IngressTLS],
}

impl<'a> Of<'a> {
    fn new(ingress: &'a Ingress) -> Of<'a> {
        let namespace = ingress.metadata.namespace.as_deref().unwrap_or_default();
        let spec = ingress.spec.as_ref();
        Of {
            name: format!("{namespace}/{}", ingress.metadata.name.as_deref().unwrap_or_default()),
            namespace,
            rules: spec.and_then(|spec| spec.rules.as_deref()).unwrap_or_default(),
            default: spec.and_then(|spec| spec.default_backend.as_ref()),
            tls: spec.and_then(|spec| spec.tls.as_deref()).unwrap_or_default(),
        }
    }

    /// The hosts of its rules; a default backend without rules is for all.
    fn hosts(&self) -> impl Iterator<Item = String> + use<'a> {
        let own = self.rules.iter().map(|rule| rule.host.as_deref().unwrap_or_default().to_lowercase());
        let all = (self.rules.is_empty() && self.default.is_some()).then(String::new);
        own.chain(all)
    }

    /// Its paths with their hosts.
    fn paths(&self) -> impl Iterator<Item = (String, String, &'a str, &'a IngressBackend)> {
        self.rules.iter().flat_map(|rule| {
            let host = rule.host.as_deref().unwrap_or_default().to_lowercase();
            rule.http.iter().flat_map(|http| &http.paths).map(move |path| {
                let text = path.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
                (host.clone(), text.to_owned(), path.path_type.as_str(), &path.backend)
            })
        })
    }
}

impl Work<'_> {
    fn add(&mut self, of: &Of<'_>, mut settings: Settings, complaints: &mut Vec<String>) {
        let guard = self.guard(of, &mut settings, complaints);
        let settings = Arc::new(settings);
        let by_pattern = settings.use_regex || settings.rewrite_target.is_some();
        for host in of.hosts() {
            let draft = self.hosts.entry(host).or_default();
            draft.by_pattern |= by_pattern;
            if draft.app_root.is_none() {
                draft.app_root = settings.app_root.clone();
            }
        }
        for (host, path, kind, backend) in of.paths() {
            let backend = self.backend(of, backend, &settings, complaints);
            let draft = Draft {
                ingress: of.name.clone(),
                path,
                kind: kind.to_owned(),
                settings: settings.clone(),
                guard: guard.clone(),
                backend,
                canary: None,
            };
            self.hosts.entry(host).or_default().paths.push(draft);
        }
        if let Some(backend) = of.default {
            let backend = self.backend(of, backend, &settings, complaints);
            let location = Arc::new(Location {
                ingress: of.name.clone(),
                path: "/".to_owned(),
                matcher: Matcher::Start("/".to_owned()),
                exact: false,
                settings: settings.clone(),
                guard: guard.clone(),
                backend,
                canary: None,
            });
            for host in of.hosts() {
                self.hosts.entry(host).or_default().default.get_or_insert_with(|| location.clone());
            }
        }
        for tls in of.tls {
            self.add_certificate(of, tls, complaints);
        }
    }

    fn add_certificate(&mut self, of: &Of<'_>, tls: &IngressTLS, complaints: &mut Vec<String>) {
        let named: BTreeSet<String> = tls.hosts.iter().flatten().map(|host| host.to_lowercase()).collect();
        let hosts: BTreeSet<String> = if named.is_empty() { of.hosts().collect() } else { named };
        let secret = tls.secret_name.as_deref().filter(|name| !name.is_empty());
        let certificate = secret.and_then(|secret| match self.secrets.certificate(of.namespace, secret) {
            Ok(certificate) => Some(certificate),
            Err(why) => {
                complaints.push(format!("{why}; clients are shown a generated certificate"));
                None
            }
        });
        // A certificate for `*.example.com` is one for the hosts below that the ingress names.
        let covers = |host: &String| {
            hosts.contains(host)
                || host.split_once('.').is_some_and(|(_, rest)| hosts.contains(&format!("*.{rest}")))
        };
        for host in of.hosts().filter(covers) {
            self.hosts.entry(host).or_default().tls = true;
        }
        for host in hosts {
            if let Some(certificate) = &certificate {
                self.certificates.entry(host).or_insert_with(|| certificate.clone());
            }
        }
    }

    fn add_canary(&mut self, of: &Of<'_>, canary: &Canary, complaints: &mut Vec<String>) {
        for (host, path, kind, backend) in of.paths() {
            let is_same = |own: &Draft| own.path == path && own.kind == kind;
            let drafts = self.hosts.get(&host).map(|draft| draft.paths.as_slice()).unwrap_or_default();
            // Nobody takes requests away from the ingress of another namespace.
            let main = drafts.iter().position(is_same).filter(|at| drafts[*at].is_in(of.namespace));
            let Some(main) = main else {
                complaints.push(format!(
                    "{PREFIX}canary: there is no other ingress in namespace {} for host {host:?} and path {path:?} of \
                     type {kind} to be the canary of",
                    of.namespace
                ));
                continue;
            };
            let settings = self.hosts[&host].paths[main].settings.clone();
            let backend = self.backend(of, backend, &settings, complaints);
            if let Some(draft) = self.hosts.get_mut(&host).and_then(|draft| draft.paths.get_mut(main)) {
                // One canary a path; the oldest has it.
                draft.canary.get_or_insert_with(|| (canary.clone(), backend));
            }
        }
    }

    fn backend(
        &mut self,
        of: &Of<'_>,
        backend: &IngressBackend,
        settings: &Settings,
        complaints: &mut Vec<String>,
    ) -> Arc<Backend> {
        let none = || Target::Endpoints(Vec::new());
        let Some(service) = &backend.service else {
            complaints
                .push("minik has no backends other than services; requests are answered by 503".to_owned());
            return Arc::new(Backend::new(format!("{}:resource", of.namespace), none()));
        };
        let port = service.port.as_ref();
        let shown = port.and_then(|port| port.name.clone().or_else(|| port.number.map(|n| n.to_string())));
        let name = format!("{}/{}:{}", of.namespace, service.name, shown.unwrap_or_default());
        let variant = format!("{}{:?}", settings.service_upstream, settings.default_backend);
        let key = (name.clone(), variant);
        if let Some(known) = self.backends.get(&key) {
            return known.clone();
        }
        let found = self.services.target(of.namespace, &service.name, port, settings.service_upstream);
        if found == Err(Missing::Port) {
            complaints.push(format!("the service of {name} has no such port; requests are answered by 503"));
        }
        let target = found.unwrap_or_else(|_| none());
        let instead = settings.default_backend.as_deref().filter(|_| target == none());
        let instead = instead.and_then(|other| self.services.target(of.namespace, other, None, false).ok());
        let made = Arc::new(Backend::new(name, instead.unwrap_or(target)));
        self.backends.insert(key, made.clone());
        made
    }

    /// Who is let in. Whoever cannot be asked for a password is not.
    fn guard(&mut self, of: &Of<'_>, settings: &mut Settings, complaints: &mut Vec<String>) -> Option<Guard> {
        let auth = settings.auth.clone()?;
        let name = match auth.secret.split_once('/') {
            None => Ok(auth.secret.as_str()),
            Some((namespace, name)) if namespace == of.namespace => Ok(name),
            // Who may write an ingress here need not know the passwords from there.
            Some(_) => Err(format!("the secret {} is in another namespace", auth.secret)),
        };
        match name.and_then(|name| self.secrets.users(of.namespace, name, auth.by_key)) {
            Ok((users, wrong)) => {
                complaints.extend(wrong);
                Some(Guard { users, realm: auth.realm })
            }
            Err(why) => {
                complaints.push(format!("{PREFIX}auth-secret: {why}; requests are answered by 503"));
                settings.denied = Some(why);
                None
            }
        }
    }
}

impl HostDraft {
    fn finish(self) -> Host {
        let by_pattern = self.by_pattern;
        let mut seen = BTreeSet::new();
        // Of two that are the same, the older one has the path.
        let kept =
            self.paths.into_iter().filter(|draft| seen.insert((draft.path.clone(), draft.kind.clone())));
        let locations = kept.map(|draft| Arc::new(draft.finish(by_pattern))).collect();
        let mut host = Host { locations, default: self.default, tls: self.tls, app_root: self.app_root };
        host.sort();
        host
    }
}

impl Draft {
    fn is_in(&self, namespace: &str) -> bool {
        self.ingress.split_once('/').is_some_and(|(own, _)| own == namespace)
    }

    fn finish(self, by_pattern: bool) -> Location {
        let exact = self.kind == "Exact";
        Location {
            ingress: self.ingress,
            matcher: matcher(&self.path, &self.kind, by_pattern, &self.settings),
            path: self.path,
            exact,
            settings: self.settings,
            guard: self.guard,
            backend: self.backend,
            canary: self.canary,
        }
    }
}

/// How a path is compared. `by_pattern` is whether any ingress of the host wants expressions.
fn matcher(path: &str, kind: &str, by_pattern: bool, settings: &Settings) -> Matcher {
    let prefix = path.trim_end_matches('/');
    let plain = || match kind {
        "Exact" => Matcher::Exact(path.to_owned()),
        "Prefix" => Matcher::Prefix(prefix.to_owned()),
        _ => Matcher::Start(path.to_owned()),
    };
    if !by_pattern {
        return plain();
    }
    let wants = settings.use_regex || settings.rewrite_target.is_some();
    let pattern = match kind {
        "Exact" => path_pattern(&format!("{}$", regex::escape(path))),
        "Prefix" if !wants => path_pattern(&format!("{}(/|$)", regex::escape(prefix))),
        // What is no expression is meant as it stands.
        _ => path_pattern(path).or_else(|_| path_pattern(&regex::escape(path))),
    };
    pattern.map_or_else(|_| plain(), Matcher::Pattern)
}
