//! Credentials: what Docker's configuration, its helpers and pull secrets say, and which of it is for a registry.

use std::path::Path;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::reference::Reference;
use crate::sys::program;

/// Decodes what people's tools have made of a name and password: padded or not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);
/// What Docker calls its own registry where it keeps credentials.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// The name by which a helper says that its secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// What lets somebody into a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// `https://index.docker.io/v1/`, `registry.example:5000`, `*.example/team`: as Docker's configuration has it.
    pub registry: String,
    /// Who.
    pub username: String,
    /// The secret.
    pub password: String,
    /// What a token service takes instead of the two (OAuth2's refresh token).
    pub identity_token: Option<String>,
    /// Who gave it, by any name that is nobody else's; nobody in particular gave those of the machine.
    pub holder: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({} at {})", self.username, self.registry)
    }
}

/// The credentials of an `auths` object, as in Docker's `config.json` and in pull secrets (pure). `auth` wins over
/// `username` and `password`; entries that let nobody in are left out.
pub fn parse(auths: &Value) -> Vec<Credential> {
    let entries = auths.as_object().into_iter().flatten();
    entries
        .filter_map(|(registry, entry)| {
            let text = |field: &str| entry[field].as_str().unwrap_or("").to_owned();
            let (username, password) =
                decode(&text("auth")).unwrap_or_else(|| (text("username"), text("password")));
            let identity_token = Some(text("identitytoken")).filter(|token| !token.is_empty());
            let registry = registry.clone();
            let useful = !username.is_empty() || identity_token.is_some();
            useful.then_some(Credential {
                registry,
                username,
                password,
                identity_token,
                holder: String::new(),
            })
        })
        .collect()
}

/// `NAME:PASSWORD` out of its base64 form.
fn decode(auth: &str) -> Option<(String, String)> {
    let dense: String = auth.split_ascii_whitespace().collect();
    let pair = String::from_utf8(LENIENT.decode(dense).ok()?).ok()?;
    let (username, password) = pair.split_once(':')?;
    Some((username.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// The credentials that are for a registry and repository, in the order in which to try them: the longest path first,
/// exact names before patterns, earlier ones first.
pub fn matching<'a>(
    registry: &str,
    reference: &Reference,
    credentials: impl Iterator<Item = &'a Credential>,
) -> Vec<Credential> {
    let mut found: Vec<(usize, bool, &Credential)> = Vec::new();
    for credential in credentials {
        let (host, path) = split(&credential.registry);
        let below = path.is_empty()
            || reference.repository == path
            || reference.repository.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        if below && host_matches(host, registry) && !found.iter().any(|(_, _, known)| *known == credential) {
            found.push((path.len(), host.contains(['*', '?']), credential));
        }
    }
    found.sort_by_key(|(length, pattern, _)| (std::cmp::Reverse(*length), *pattern));
    found.into_iter().map(|(_, _, credential)| credential.clone()).collect()
}

/// Host and path of a key, by the names that are used here.
fn split(key: &str) -> (&str, &str) {
    let bare = key.split_once("://").map_or(key, |(_, rest)| rest);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    // Docker's own key carries an API version, not a repository.
    let path = path.trim_matches('/');
    (host, if path == "v1" || path == "v2" { "" } else { path })
}

/// Whether a host is the key's, whose labels may hold `*` and `?` (as the kubelet has it: never across a dot).
fn host_matches(pattern: &str, host: &str) -> bool {
    let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
    let labels = |text: &str| {
        let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
        name.split('.').map(str::to_owned).collect::<Vec<_>>()
    };
    let (ours, theirs) = (labels(pattern), labels(host));
    port(pattern) == port(host)
        && ours.len() == theirs.len()
        && ours.iter().zip(&theirs).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        (Some((b'?', rest)), Some((_, text))) => glob(rest, text),
        (Some((wanted, rest)), Some((byte, text))) => wanted == byte && glob(rest, text),
        _ => false,
    }
}

/// What a `config.json` of Docker knows for a registry, itself or through a helper; a missing or unreadable one knows
/// nothing. Blocks while a helper runs.
pub fn configured(path: Option<&Path>, registry: &str) -> Vec<Credential> {
    let Some(bytes) = path.and_then(|p| std::fs::read(p).ok()) else { return Vec::new() };
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut found: Vec<Credential> = helper(&config, registry)
        .and_then(|(helper, server)| ask(&helper, &server))
        .map(|credential| Credential { registry: registry.to_owned(), ..credential })
        .into_iter()
        .collect();
    found.extend(parse(&config["auths"]));
    found
}

/// The helper that keeps a registry's credentials, and what it calls the registry (pure).
fn helper(config: &Value, registry: &str) -> Option<(String, String)> {
    let names = if registry == "docker.io" { vec![DOCKER_HUB_KEY, registry] } else { vec![registry] };
    let own = names.iter().find_map(|name| Some((config["credHelpers"][*name].as_str()?, *name)));
    let common = || config["credsStore"].as_str().map(|helper| (helper, names[0]));
    let (helper, server) = own.or_else(common)?;
    let plain = !helper.is_empty()
        && helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    plain.then(|| (format!("docker-credential-{helper}"), server.to_owned()))
}

fn ask(helper: &str, server: &str) -> Option<Credential> {
    match program::output(helper, &["get"], server.as_bytes()) {
        Ok(output) if output.status.success() => {
            let answer = from_helper(&output.stdout);
            if answer.is_none() {
                tracing::warn!(helper, server, "a credential helper gave an answer that cannot be read");
            }
            answer
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            // Not a failure: it has none for this registry.
            if !said.contains("credentials not found") {
                tracing::warn!(
                    helper,
                    server,
                    said,
                    "a credential helper failed: its credentials are not used"
                );
            }
            None
        }
        Err(error) => {
            tracing::warn!(%error, server, "a credential helper cannot be run: its credentials are not used");
            None
        }
    }
}

/// A helper's answer (pure).
fn from_helper(answer: &[u8]) -> Option<Credential> {
    let value: Value = serde_json::from_slice(answer).ok()?;
    let (username, secret) = (value["Username"].as_str()?.to_owned(), value["Secret"].as_str()?.to_owned());
    let registry = String::new();
    Some(if username == TOKEN_USER {
        Credential {
            registry,
            username: String::new(),
            password: String::new(),
            identity_token: Some(secret),
            holder: String::new(),
        }
    } else {
        Credential { registry, username, password: secret, identity_token: None, holder: String::new() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_are_read_in_all_their_forms() {
        let auths = json!({
            "auth": {"auth": "Ym9iOnBhOnNz"},
            "both": {"auth": "Ym9iOnBhOnNz", "username": "x", "password": "y"},
            "broken": {"auth": "%%%"},
            "empty": {},
            "plain": {"username": "u", "password": "p"},
            "token": {"auth": "PHRva2VuPjo=", "identitytoken": "t"},
            "unpadded": {"auth": "ZGV2\nOnNl\nY3JldA"},
        });
        let shown: Vec<String> = parse(&auths)
            .into_iter()
            .map(|c| {
                format!(
                    "{} {} {} {}",
                    c.registry,
                    c.username,
                    c.password,
                    c.identity_token.unwrap_or_default()
                )
            })
            .collect();
        let expected =
            ["auth bob pa:ss ", "both bob pa:ss ", "plain u p ", "token <token>  t", "unpadded dev secret "];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_closest_credentials_come_first() {
        let credential = |registry: &str, username: &str| Credential {
            registry: registry.into(),
            username: username.into(),
            password: "p".into(),
            identity_token: None,
            holder: String::new(),
        };
        let all = [
            credential("https://index.docker.io/v1/", "hub"),
            credential("*.io", "pattern"),
            credential("quay.io", "all"),
            credential("quay.io/team", "team"),
            credential("quay.io", "second"),
            credential("10.0.0.1:5000", "mirror"),
            credential("*.example:5000", "any"),
        ];
        let chosen = |registry: &str, name: &str| -> Vec<String> {
            let reference = Reference::parse(name).unwrap();
            matching(registry, &reference, all.iter()).into_iter().map(|c| c.username).collect()
        };
        assert_eq!(chosen("docker.io", "nginx"), ["hub", "pattern"]);
        assert_eq!(chosen("quay.io", "quay.io/team/app"), ["team", "all", "second", "pattern"]);
        assert_eq!(chosen("quay.io", "quay.io/teammate/app"), ["all", "second", "pattern"]);
        assert_eq!(chosen("10.0.0.1:5000", "nginx"), ["mirror"]);
        assert_eq!(chosen("a.example:5000", "nginx"), ["any"]);
        for other in ["ghcr.example", "a.example:5001", "a.b.example:5000", "example:5000"] {
            assert!(chosen(other, "nginx").is_empty(), "{other}");
        }
    }

    #[test]
    fn helpers_are_found_and_their_answers_read() {
        let config = json!({"credsStore": "pass", "credHelpers": {"gcr.io": "gcloud", "bad.io": "../x"}});
        let named = |registry: &str| helper(&config, registry);
        let pair = |helper: &str, server: &str| Some((helper.to_owned(), server.to_owned()));
        assert_eq!(named("gcr.io"), pair("docker-credential-gcloud", "gcr.io"));
        assert_eq!(named("quay.io"), pair("docker-credential-pass", "quay.io"));
        assert_eq!(named("docker.io"), pair("docker-credential-pass", DOCKER_HUB_KEY));
        assert_eq!(named("bad.io"), None);
        assert_eq!(helper(&json!({}), "quay.io"), None);
        let found = from_helper(br#"{"ServerURL":"x","Username":"u","Secret":"s"}"#).unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("u", "s"));
        let token = from_helper(br#"{"Username":"<token>","Secret":"s"}"#).unwrap();
        assert_eq!((token.username.as_str(), token.identity_token.as_deref()), ("", Some("s")));
        assert_eq!(from_helper(b"nonsense"), None);
    }
}
