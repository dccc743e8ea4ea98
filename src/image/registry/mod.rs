//! The registry protocol (OCI distribution specification): manifests, blobs, resuming, and whom to ask.

mod auth;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, Response, StatusCode, Url};
use serde_json::Value;

use self::auth::Challenge;
use super::manifest;
use super::reference::Reference;
use super::{Credential, Error, Settings};

/// The host behind the name `docker.io`.
const DOCKER_HUB: &str = "https://registry-1.docker.io";
/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// How long a registry may be silent in the middle of an answer.
const STALL: Duration = Duration::from_secs(30);
/// The longest manifest, in bytes (the specification asks for at least 4 MiB).
const MANIFEST_MAX: usize = 4 << 20;
/// The longest configuration, in bytes.
const CONFIG_MAX: usize = 16 << 20;
/// The longest error body that is read for its message, in bytes.
const MESSAGE_MAX: usize = 16 << 10;
/// How often a request that failed for a passing reason is tried again.
const RETRIES: u32 = 4;
/// The first wait before that; it doubles.
const RETRY_WAIT: Duration = Duration::from_millis(300);
/// The longest `Retry-After` that a pull waits for by itself.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);

/// Where a reference can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https://registry-1.docker.io`.
    base: String,
    /// The registry whose credentials it takes.
    registry: String,
}

/// Talks to registries for all pulls; remembers tokens.
pub struct RegistryClient {
    http: Client,
    settings: Settings,
    /// By endpoint and repository (and user): `Authorization` header values.
    tokens: Mutex<HashMap<String, String>>,
}

/// One pull's view: what is asked for, where, and as whom.
pub struct Session<'a> {
    client: &'a RegistryClient,
    reference: &'a Reference,
    endpoint: Endpoint,
    credential: Option<Credential>,
}

impl RegistryClient {
    /// Reads the host's certificates; proxies come from the environment.
    pub fn new(settings: Settings) -> Result<RegistryClient, Error> {
        let store = |what: &str, message: String| Error::Store {
            what: what.to_owned(),
            source: std::io::Error::other(message),
        };
        // Another part of the process may have installed the same provider before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls_native_certs::load_native_certs().certs {
            // A certificate that the host trusts and this library cannot read helps nobody: pass over it.
            let _ = roots.add(certificate);
        }
        let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let http = Client::builder()
            .user_agent(concat!("minik/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(tls)
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
            .build()
            .map_err(|error| store("cannot set up the registry client", error.to_string()))?;
        Ok(RegistryClient { http, settings, tokens: Mutex::default() })
    }

    /// Where to ask, in order: mirrors, then the registry itself.
    pub fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        endpoints(&self.settings, reference)
    }

    /// A view of one endpoint, with the credential that fits it.
    pub fn session<'a>(
        &'a self,
        reference: &'a Reference,
        endpoint: Endpoint,
        credentials: &[Credential],
    ) -> Session<'a> {
        let configured = auth::from_docker_config(self.settings.docker_config.as_deref());
        let credential = auth::choose(&endpoint.registry, reference, credentials.iter().chain(&configured));
        Session { client: self, reference, endpoint, credential }
    }
}

fn endpoints(settings: &Settings, reference: &Reference) -> Vec<Endpoint> {
    let registry = reference.registry.clone();
    let mirrors = settings.mirrors.get(&registry).into_iter().flatten();
    let mut all: Vec<Endpoint> = mirrors
        .map(|url| {
            let base = url.trim_end_matches('/').to_owned();
            let host = base.split_once("://").map_or(base.as_str(), |(_, host)| host).to_owned();
            let base = if base.contains("://") { base } else { format!("https://{base}") };
            Endpoint { base, registry: host }
        })
        .collect();
    let base = if registry == "docker.io" {
        DOCKER_HUB.to_owned()
    } else if is_insecure(settings, &registry) {
        format!("http://{registry}")
    } else {
        format!("https://{registry}")
    };
    all.push(Endpoint { base, registry });
    all
}

/// Whether a registry is spoken to without TLS: by configuration, or on loopback as Docker does.
fn is_insecure(settings: &Settings, registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let loopback = host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|a| a.is_loopback());
    loopback || settings.insecure.iter().any(|one| one == registry || one == host)
}

impl Session<'_> {
    fn host(&self) -> String {
        self.endpoint.base.clone()
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/v2/{}/{rest}", self.endpoint.base, self.reference.repository)
    }

    fn content(&self, what: impl Into<String>) -> Error {
        Error::Content { reference: self.reference.to_string(), what: what.into() }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            message = cause.to_string();
            source = cause.source();
        }
        Error::Unreachable { reference: self.reference.to_string(), host: self.host(), message }
    }

    /// A manifest or index by tag or digest: its bytes and the digest that the registry claims.
    pub async fn manifest(&self, target: &str) -> Result<Vec<u8>, Error> {
        let response = self.get(&self.url(&format!("manifests/{target}")), Some(manifest::ACCEPT), 0).await?;
        self.read(response, MANIFEST_MAX, "manifest").await
    }

    /// A small blob.
    pub async fn config(&self, digest: &str) -> Result<Vec<u8>, Error> {
        let response = self.get(&self.url(&format!("blobs/{digest}")), None, 0).await?;
        self.read(response, CONFIG_MAX, "configuration").await
    }

    async fn read(&self, mut response: Response, max: usize, what: &str) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.unreachable(&e))? {
            if bytes.len() + chunk.len() > max {
                return Err(self.content(format!("its {what} has more than {max} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// A blob from byte `from` on; the answer may begin earlier, as its status says.
    pub async fn blob(&self, digest: &str, from: u64) -> Result<BlobStream, Error> {
        let response = self.get(&self.url(&format!("blobs/{digest}")), None, from).await?;
        let skip = if from > 0 && response.status() != StatusCode::PARTIAL_CONTENT { from } else { 0 };
        Ok(BlobStream { response, skip })
    }

    /// What went wrong in the middle of a blob.
    pub fn broken(&self, error: &reqwest::Error) -> Error {
        self.unreachable(error)
    }

    /// GET with authentication and retries.
    async fn get(&self, url: &str, accept: Option<&str>, from: u64) -> Result<Response, Error> {
        let mut tries = 0;
        let mut challenged = false;
        loop {
            let key = format!("{url_key} {user}", url_key = self.url(""), user = self.user());
            let token = self.tokens().get(&key).cloned();
            let mut request = self.client.http.get(url);
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = &token {
                request = request.header(AUTHORIZATION, token);
            }
            let answer = request.send().await;
            let response = match answer {
                Ok(response) => response,
                Err(error) if tries < RETRIES && !error.is_builder() && !error.is_connect() => {
                    tries += 1;
                    tokio::time::sleep(RETRY_WAIT * (1 << tries)).await;
                    continue;
                }
                Err(error) => return Err(self.unreachable(&error)),
            };
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && !challenged {
                challenged = true;
                self.tokens().remove(&key);
                if let Some(header) = self.authorize(&response).await? {
                    self.tokens().insert(key, header);
                    continue;
                }
            }
            let wait = retry_after(&response);
            let passing = status.is_server_error()
                || status == StatusCode::TOO_MANY_REQUESTS && wait.is_some_and(|w| w <= RETRY_AFTER_MAX);
            if passing && tries < RETRIES {
                tries += 1;
                tokio::time::sleep(wait.unwrap_or(RETRY_WAIT * (1 << tries)).min(RETRY_AFTER_MAX)).await;
                continue;
            }
            return Err(self.refused(response).await);
        }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.client.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn user(&self) -> &str {
        self.credential.as_ref().map_or("", |c| c.username.as_str())
    }

    /// The `Authorization` header that answers a challenge; `None` when there is nothing to answer with.
    async fn authorize(&self, response: &Response) -> Result<Option<String>, Error> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges = headers.iter().filter_map(|h| h.to_str().ok()).filter_map(Challenge::parse);
        for challenge in challenges {
            match challenge {
                Challenge::Basic => {
                    if let Some(credential) = &self.credential {
                        return Ok(Some(auth::basic(credential)));
                    }
                }
                Challenge::Bearer { realm, service, scope } => {
                    return self.token(&realm, service.as_deref(), scope.as_deref()).await.map(Some);
                }
            }
        }
        Ok(None)
    }

    /// A token from the registry's token service, as the user or anonymously.
    async fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<String, Error> {
        let mut url = Url::parse(realm).map_err(|error| {
            self.content(format!("its registry names the token service {realm:?}: {error}"))
        })?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            let usual = format!("repository:{}:pull", self.reference.repository);
            query.append_pair("scope", scope.unwrap_or(&usual));
        }
        let mut request = self.client.http.get(url);
        if let Some(credential) = &self.credential {
            request = request.header(AUTHORIZATION, auth::basic(credential));
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let body = self.read(response, MESSAGE_MAX * 4, "token").await?;
        let value: Value = serde_json::from_slice(&body)
            .map_err(|error| self.content(format!("its token service's answer is not JSON: {error}")))?;
        let token = value["token"].as_str().or(value["access_token"].as_str());
        token.map(|t| format!("Bearer {t}")).ok_or_else(|| self.content("its token service gave no token"))
    }

    async fn refused(&self, response: Response) -> Error {
        let status = response.status();
        let json = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|t| t.to_str().ok())
            .is_some_and(|t| t.contains("json"));
        let wait = retry_after(&response);
        let body = self.read(response, MESSAGE_MAX, "answer").await.unwrap_or_default();
        let mut message = message(&body, json)
            .unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned());
        if let (StatusCode::TOO_MANY_REQUESTS, Some(wait)) = (status, wait) {
            message += &format!(" (try again in {} s)", wait.as_secs());
        }
        Error::Registry {
            reference: self.reference.to_string(),
            host: self.host(),
            status: status.as_u16(),
            message,
        }
    }
}

/// The registry's own words in an error body (pure).
fn message(body: &[u8], json: bool) -> Option<String> {
    if !json {
        return None;
    }
    let value: Value = serde_json::from_slice(body).ok()?;
    let words: Vec<String> = value["errors"]
        .as_array()?
        .iter()
        .filter_map(|e| {
            let message = e["message"].as_str().filter(|m| !m.is_empty()).or(e["code"].as_str())?;
            Some(message.to_owned())
        })
        .collect();
    (!words.is_empty()).then(|| words.join("; "))
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A blob on its way.
pub struct BlobStream {
    response: Response,
    /// Bytes to pass over, when the registry began at the start again.
    skip: u64,
}

impl BlobStream {
    /// The next bytes; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<bytes::Bytes>, reqwest::Error> {
        while let Some(mut chunk) = self.response.chunk().await? {
            let skip = usize::try_from(self.skip).unwrap_or(usize::MAX).min(chunk.len());
            self.skip -= skip as u64;
            let rest = chunk.split_off(skip);
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_plain_http_only_where_allowed() {
        let settings = Settings {
            mirrors: [("docker.io".to_owned(), vec!["http://10.9.9.9:5000/".to_owned()])].into(),
            insecure: vec!["plain.example:5000".to_owned()],
            ..Settings::default()
        };
        let bases = |text: &str| -> Vec<String> {
            let all = endpoints(&settings, &Reference::parse(text).unwrap());
            all.into_iter().map(|e| e.base).collect()
        };
        assert_eq!(bases("nginx"), ["http://10.9.9.9:5000", "https://registry-1.docker.io"]);
        assert_eq!(bases("plain.example:5000/a"), ["http://plain.example:5000"]);
        assert_eq!(bases("quay.io/a/b"), ["https://quay.io"]);
        assert_eq!(bases("localhost:5000/a"), ["http://localhost:5000"]);
        assert_eq!(bases("127.0.0.1:5000/a"), ["http://127.0.0.1:5000"]);
    }

    #[test]
    fn error_bodies_give_their_words() {
        let body =
            br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"},{"code":"DENIED"}]}"#;
        assert_eq!(message(body, true).unwrap(), "manifest unknown; DENIED");
        assert_eq!(message(b"<html>", false), None);
        assert_eq!(message(b"{}", true), None);
    }
}
