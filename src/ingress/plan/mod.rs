//! Ingresses, and the objects that they name, become one routing table with its certificates (pure, but for the turn with
//! which backends begin).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressBackend, IngressClass, IngressRule, IngressTLS};

use super::annotations::{self, Canary, PREFIX, Settings};
use super::endpoints::{Missing, Services};
use super::patterns::{self, Patterns};
use super::route::{Backend, Guard, Location, Matcher, Table, Target};
use super::secrets::{self, Secrets};
use super::tls::Certificates;
use crate::client::random_u64;

mod aliases;
mod hosts;

#[cfg(test)]
mod tests;

use aliases::Alias;
use hosts::{Draft, HostDraft, Wrong};

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

/// What was worked out for plans before.
#[derive(Default)]
pub struct Memory {
    secrets: secrets::Memory,
    patterns: patterns::Memory,
}

/// What is to be done.
#[derive(Default)]
pub struct Plan {
    /// Where requests go.
    pub table: Table,
    /// What clients of TLS are shown.
    pub certificates: Certificates,
    /// See [`super::Asked`].
    pub asked: BTreeSet<IpAddr>,
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
        secrets: Secrets::new(observed.secrets, &mut memory.secrets),
        backends: HashMap::new(),
        hosts: BTreeMap::new(),
        certificates: Certificates::new(),
    };
    let mut parsed: Vec<_> = ours
        .iter()
        .map(|ingress| annotations::parse(ingress.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new())))
        .collect();
    let (mut aliases, mut www) = (Vec::new(), Vec::new());
    for (at, (ingress, parsed)) in ours.iter().zip(&mut parsed).enumerate() {
        if parsed.canary.is_some() {
            continue;
        }
        let of = Of::new(ingress);
        let settings = std::mem::take(&mut parsed.settings);
        let alias = |name: &String| Alias { of: at, name: name.clone(), hosts: of.hosts().collect() };
        aliases.extend(settings.aliases.iter().map(alias));
        if settings.www {
            www.extend(of.hosts().map(|host| (at, host)));
        }
        work.add(&of, settings, &mut parsed.complaints);
    }
    for (ingress, parsed) in ours.iter().zip(&mut parsed) {
        if let Some(canary) = &parsed.canary {
            work.add_canary(&Of::new(ingress), canary, &mut parsed.complaints);
        }
    }
    let Work { secrets, hosts, mut certificates, services, .. } = work;
    secrets.finish();
    let (mut table, mut wrong) = (Table::default(), Wrong::new());
    let mut patterns = Patterns::new(&mut memory.patterns);
    for (name, host) in hosts {
        let host = host.finish(&name, &mut patterns, &mut wrong);
        if name.is_empty() {
            table.any = host;
        } else {
            table.entry(&name).insert_entry(host);
        }
    }
    patterns.finish();
    let taken = aliases::add(aliases, &mut table, &mut certificates);
    let taken = taken.into_iter().chain(aliases::add_www(www, &mut table, &mut certificates));
    for (at, why) in taken {
        parsed[at].complaints.push(why);
    }
    let names: HashMap<String, usize> =
        ours.iter().enumerate().map(|(at, ingress)| (Of::new(ingress).name, at)).collect();
    for (name, why) in wrong {
        if let Some(at) = names.get(&name) {
            parsed[*at].complaints.push(why);
        }
    }
    let ours = ours.into_iter().cloned().zip(parsed.into_iter().map(|parsed| parsed.complaints)).collect();
    let lasting = services.lasting();
    let asked = table.endpoints().map(|endpoint| endpoint.ip()).filter(|ip| lasting.contains(ip)).collect();
    Plan { table, certificates, asked, ours }
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
        let errors = self.errors(of, &settings, complaints);
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
            let errors = errors.clone();
            let draft = Draft {
                ingress: of.name.clone(),
                path,
                kind: kind.to_owned(),
                settings: settings.clone(),
                guard: guard.clone(),
                backend,
                canary: None,
                errors,
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
                errors,
            });
            for host in of.hosts() {
                let shown = format!("{host:?}");
                let default =
                    self.hosts.entry(host).or_default().default.get_or_insert_with(|| location.clone());
                if default.ingress != of.name {
                    let other = &default.ingress;
                    complaints
                        .push(format!("host {shown} already has the default backend of ingress {other}"));
                }
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
                match &draft.canary {
                    None => draft.canary = Some((of.name.clone(), canary.clone(), backend)),
                    Some((other, ..)) => complaints.push(format!(
                        "{PREFIX}canary: host {host:?} and path {path:?} of type {kind} already have the canary {other}, and \
                         one is all that they can have"
                    )),
                }
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
        let made = Backend::new(name, instead.unwrap_or(target)).beginning_at(random_u64());
        let made = Arc::new(made);
        self.backends.insert(key, made.clone());
        made
    }

    /// Who answers for failures.
    fn errors(
        &mut self,
        of: &Of<'_>,
        settings: &Settings,
        complaints: &mut Vec<String>,
    ) -> Option<Arc<Backend>> {
        let service = settings.default_backend.as_deref().filter(|_| !settings.custom_errors.is_empty())?;
        match self.services.target(of.namespace, service, None, false) {
            Ok(target) => {
                let name = format!("{}/{service}:", of.namespace);
                Some(Arc::new(Backend::new(name, target).beginning_at(random_u64())))
            }
            Err(_) => {
                let what = format!("{PREFIX}default-backend: there is no service {service:?} with a port");
                complaints.push(format!("{what} in namespace {}", of.namespace));
                None
            }
        }
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
