//! Where a reference can be fetched: mirrors, then the registry itself; with TLS, and without where that is allowed (pure).

use crate::image::Settings;
use crate::image::reference::Reference;

/// The host behind the name `docker.io`.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// Where a reference can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://registry-1.docker.io`.
    pub(super) base: String,
    /// The registry whose credentials it takes.
    pub(super) registry: String,
    /// Whether its certificate must be good.
    pub(super) verify: bool,
    /// Whether it is the one before without TLS.
    fallback: bool,
}

impl Endpoint {
    /// Whether it is to be asked only when the one before cannot be reached: so that what was sent protected is not
    /// sent again in the clear.
    pub fn is_fallback(&self) -> bool {
        self.fallback
    }
}

/// Where to ask for a reference, in order.
pub fn of(settings: &Settings, reference: &Reference) -> Vec<Endpoint> {
    let registry = &reference.registry;
    let mut all = Vec::new();
    for mirror in settings.mirrors.get(registry).into_iter().flatten() {
        let mirror = mirror.trim_end_matches('/');
        match mirror.split_once("://") {
            Some((_, rest)) => all.push(Endpoint {
                base: mirror.to_owned(),
                registry: rest.to_owned(),
                verify: !is_insecure(settings, rest),
                fallback: false,
            }),
            None => all.extend(by_host(settings, mirror, mirror)),
        }
    }
    all.extend(by_host(settings, registry, if registry == "docker.io" { DOCKER_HUB } else { registry }));
    all
}

/// With TLS; for an insecure registry whatever its certificate, and then without.
fn by_host(settings: &Settings, registry: &str, host: &str) -> Vec<Endpoint> {
    let insecure = is_insecure(settings, registry);
    let endpoint = |scheme: &str, fallback| Endpoint {
        base: format!("{scheme}://{host}"),
        registry: registry.to_owned(),
        verify: !insecure,
        fallback,
    };
    let mut all = vec![endpoint("https", false)];
    all.extend(insecure.then(|| endpoint("http", true)));
    all
}

/// Whether a registry may do without good TLS: by configuration, or on loopback as Docker has it.
fn is_insecure(settings: &Settings, registry: &str) -> bool {
    let authority = registry.split('/').next().unwrap_or(registry);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    super::http::is_loopback(host) || settings.insecure.iter().any(|one| one == authority || one == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_doing_without_tls_is_the_exception() {
        let mirrors =
            ["http://10.9.9.9:5000/", "bare.example", "plain.example:5000", "https://plain.example:5000"];
        let settings = Settings {
            mirrors: [("docker.io".to_owned(), mirrors.map(str::to_owned).to_vec())].into(),
            insecure: vec!["plain.example:5000".to_owned()],
            ..Settings::default()
        };
        let shown = |text: &str| -> Vec<String> {
            let all = of(&settings, &Reference::parse(text).unwrap()).into_iter();
            let lax = |e: &Endpoint| if e.verify { "" } else { " lax" };
            let fallback = |e: &Endpoint| if e.fallback { " fallback" } else { "" };
            all.map(|e| format!("{}{}{}", e.base, lax(&e), fallback(&e))).collect()
        };
        assert_eq!(
            shown("nginx"),
            [
                "http://10.9.9.9:5000",
                "https://bare.example",
                "https://plain.example:5000 lax",
                "http://plain.example:5000 lax fallback",
                "https://plain.example:5000 lax",
                "https://registry-1.docker.io",
            ]
        );
        let both = |host: &str| [format!("https://{host} lax"), format!("http://{host} lax fallback")];
        assert_eq!(shown("plain.example:5000/a"), both("plain.example:5000"));
        assert_eq!(shown("quay.io/a/b"), ["https://quay.io"]);
        assert_eq!(shown("localhost:5000/a"), both("localhost:5000"));
        assert_eq!(shown("127.0.0.1:5000/a"), both("127.0.0.1:5000"));
    }
}
