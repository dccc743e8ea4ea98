//! Challenges and credentials: what a registry asks for, and what is known for it (pure but for one file).

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::image::Credential;
use crate::image::reference::Reference;

/// What a `WWW-Authenticate` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// Name and password with each request.
    Basic,
    /// A token from a service.
    Bearer {
        /// The service's address.
        realm: String,
        /// For whom the token is.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads one header; `None` for schemes that nobody uses here.
    pub fn parse(header: &str) -> Option<Challenge> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (key, value) in parameters(rest) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        Some(Challenge::Bearer { realm: realm?, service, scope })
    }
}

/// `key="value", key=value`: a comma inside quotes belongs to the value.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_owned();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => match quoted.split_once('"') {
                Some((value, tail)) => (value, tail),
                None => (quoted, ""),
            },
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((key, value.trim().to_owned()));
        rest = tail.trim_start_matches([' ', ',']);
    }
    found
}

/// The `Authorization` header of a name and password.
pub fn basic(credential: &Credential) -> String {
    format!("Basic {}", STANDARD.encode(format!("{}:{}", credential.username, credential.password)))
}

/// The credential for a registry: the one whose path fits the repository most closely, earlier ones first.
pub fn choose<'a>(
    registry: &str,
    reference: &Reference,
    credentials: impl Iterator<Item = &'a Credential>,
) -> Option<Credential> {
    let mut best: Option<(usize, &Credential)> = None;
    for credential in credentials {
        let bare =
            credential.registry.split_once("://").map_or(credential.registry.as_str(), |(_, rest)| rest);
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let host = match host {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            host => host,
        };
        // Docker's own key carries an API version, not a repository.
        let path = path.trim_matches('/');
        let path = if path == "v1" || path == "v2" { "" } else { path };
        let below = path.is_empty()
            || reference.repository == path
            || reference.repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        if host == registry && below && best.is_none_or(|(length, _)| path.len() > length) {
            best = Some((path.len(), credential));
        }
    }
    best.map(|(_, credential)| credential.clone())
}

/// What a `config.json` of Docker holds; a missing or unreadable one holds nothing.
pub fn from_docker_config(path: Option<&Path>) -> Vec<Credential> {
    let Some(bytes) = path.and_then(|p| std::fs::read(p).ok()) else { return Vec::new() };
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let auths = value["auths"].as_object().into_iter().flatten();
    auths
        .filter_map(|(registry, auth)| {
            let decoded = STANDARD.decode(auth["auth"].as_str()?).ok()?;
            let pair = String::from_utf8(decoded).ok()?;
            let (username, password) = pair.split_once(':')?;
            Some(Credential {
                registry: registry.clone(),
                username: username.to_owned(),
                password: password.trim_end_matches('\0').to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_in_quotes() {
        let header = r#"Bearer realm="https://auth.example/token",service="registry", scope="repository:a/b:pull,push""#;
        assert_eq!(
            Challenge::parse(header),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: Some("registry".into()),
                scope: Some("repository:a/b:pull,push".into()),
            })
        );
        assert_eq!(Challenge::parse("basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer service=x"), None);
    }

    #[test]
    fn the_closest_credential_is_chosen() {
        let credential = |registry: &str, username: &str| Credential {
            registry: registry.into(),
            username: username.into(),
            password: "p".into(),
        };
        let all = [
            credential("https://index.docker.io/v1/", "hub"),
            credential("quay.io", "all"),
            credential("quay.io/team", "team"),
            credential("10.0.0.1:5000", "mirror"),
        ];
        let chosen = |registry: &str, name: &str| {
            choose(registry, &Reference::parse(name).unwrap(), all.iter()).map(|c| c.username)
        };
        assert_eq!(chosen("docker.io", "nginx").as_deref(), Some("hub"));
        assert_eq!(chosen("quay.io", "quay.io/team/app").as_deref(), Some("team"));
        assert_eq!(chosen("quay.io", "quay.io/teammate/app").as_deref(), Some("all"));
        assert_eq!(chosen("10.0.0.1:5000", "nginx").as_deref(), Some("mirror"));
        assert_eq!(chosen("ghcr.io", "ghcr.io/a"), None);
    }
}
