//! The registry protocol (OCI distribution specification): manifests, blobs, resuming, and whom to ask.

mod auth;
mod endpoint;
mod http;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde_json::Value;

use self::auth::Challenge;
pub use self::endpoint::Endpoint;
use self::http::Clients;
use super::layer::sha256;
use super::manifest;
use super::reference::Reference;
use super::{Credential, Error, Settings, credentials};

/// The longest manifest, in bytes (the specification asks for at least 4 MiB).
const MANIFEST_MAX: usize = 4 << 20;
/// The longest configuration, in bytes.
const CONFIG_MAX: usize = 16 << 20;
/// The longest error message in plain text that is shown, in bytes.
const PLAIN_MAX: usize = 300;
/// The longest error body that is read for its message, in bytes.
const MESSAGE_MAX: usize = 16 << 10;
/// How often a request that failed for a passing reason is tried again.
const RETRIES: u32 = 4;
/// The first wait before that; it doubles.
const RETRY_WAIT: Duration = Duration::from_millis(300);
/// The longest `Retry-After` that a pull waits for by itself.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(20);

/// Talks to registries for all pulls; remembers tokens.
pub struct RegistryClient {
    clients: Clients,
    settings: Settings,
    /// `Authorization` header values.
    tokens: Mutex<HashMap<TokenKey, String>>,
}

/// For what and whom a token was given: repository's address, and a digest of the credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TokenKey {
    url: String,
    credential: String,
}

/// One pull's view: what is asked for, where, and as whom.
pub struct Session<'a> {
    client: &'a RegistryClient,
    reference: &'a Reference,
    endpoint: Endpoint,
    credential: Option<Credential>,
    /// Whether the registry has answered: it is there, so that a failing connection is worth another try.
    reached: AtomicBool,
}

impl RegistryClient {
    /// Reads the host's certificates; proxies come from the environment.
    pub fn new(settings: Settings) -> Result<RegistryClient, Error> {
        let clients = Clients::new().map_err(|error| Error::Store {
            what: "cannot set up the registry client".to_owned(),
            source: std::io::Error::other(error),
        })?;
        Ok(RegistryClient { clients, settings, tokens: Mutex::default() })
    }

    /// Where to ask, in order: mirrors, then the registry itself.
    pub fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        endpoint::of(&self.settings, reference)
    }

    /// Views of one endpoint, to be tried in order: as each credential that fits it, or as nobody when none does. There is
    /// a first one always.
    pub async fn sessions<'a>(
        &'a self,
        reference: &'a Reference,
        endpoint: &Endpoint,
        credentials: &[Credential],
    ) -> (Session<'a>, Vec<Session<'a>>) {
        let (path, registry) = (self.settings.docker_config.clone(), endpoint.registry.clone());
        let configured =
            tokio::task::spawn_blocking(move || credentials::configured(path.as_deref(), &registry)).await;
        let configured = configured.unwrap_or_default();
        let all = credentials.iter().chain(&configured);
        let mut fitting = credentials::matching(&endpoint.registry, reference, all).into_iter();
        let session = |credential| Session {
            client: self,
            reference,
            endpoint: endpoint.clone(),
            credential,
            reached: AtomicBool::new(false),
        };
        (session(fitting.next()), fitting.map(|credential| session(Some(credential))).collect())
    }
}

impl Session<'_> {
    /// As whom the registry is asked.
    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

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

    /// A manifest or index by tag or digest.
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
        let mut challenged = false;
        let key = self.token_key();
        loop {
            let token = self.tokens().get(&key).cloned();
            let request = || {
                let mut request = self.http(url).get(url);
                if let Some(accept) = accept {
                    request = request.header(ACCEPT, accept);
                }
                if from > 0 {
                    request = request.header(RANGE, format!("bytes={from}-"));
                }
                if let Some(token) = &token {
                    request = request.header(AUTHORIZATION, token);
                }
                request
            };
            let response = self.send(request).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::UNAUTHORIZED && !challenged {
                challenged = true;
                self.tokens().remove(&key);
                if let Some(header) = self.authorize(&response).await? {
                    self.tokens().insert(key.clone(), header);
                    continue;
                }
            }
            return Err(self.refused(response).await);
        }
    }

    fn http(&self, url: &str) -> &Client {
        self.client.clients.of(self.endpoint.verify, url)
    }

    /// Sends a request until the answer is more than a passing failure, or too many tries have failed.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, Error> {
        let mut tries = 0;
        loop {
            let answer = request().send().await;
            let wait = match &answer {
                Ok(response) => {
                    self.reached.store(true, Ordering::Relaxed);
                    passing(response)
                }
                // An address where nobody has answered yet is given up at once: there may be another to ask.
                Err(error) if error.is_builder() => None,
                Err(error) if error.is_connect() && !self.reached.load(Ordering::Relaxed) => None,
                Err(_) => Some(None),
            };
            match (wait, answer) {
                (Some(told), _) if tries < RETRIES => {
                    tries += 1;
                    tokio::time::sleep(told.unwrap_or(RETRY_WAIT * (1 << tries))).await;
                }
                (_, answer) => return answer.map_err(|error| self.unreachable(&error)),
            }
        }
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashMap<TokenKey, String>> {
        self.client.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn token_key(&self) -> TokenKey {
        let secret = self.credential.as_ref().map(|c| (&c.username, &c.password, &c.identity_token));
        TokenKey { url: self.url(""), credential: sha256(format!("{secret:?}").as_bytes()) }
    }

    /// The `Authorization` header that answers a challenge; `None` when there is nothing to answer with.
    async fn authorize(&self, response: &Response) -> Result<Option<String>, Error> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE);
        let challenges = headers.iter().filter_map(|h| h.to_str().ok()).filter_map(Challenge::parse);
        for challenge in challenges {
            match challenge {
                Challenge::Basic => {
                    if let Some(credential) = self.credential.as_ref().filter(|c| !c.username.is_empty()) {
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
        let usual = format!("repository:{}:pull", self.reference.repository);
        let mut fields = vec![("scope", scope.unwrap_or(&usual))];
        fields.extend(service.map(|service| ("service", service)));
        let identity = self.credential.as_ref().and_then(|c| c.identity_token.as_deref());
        let response = if let Some(token) = identity {
            // OAuth2: the token goes into the body, which no log shows.
            fields.extend([
                ("grant_type", "refresh_token"),
                ("refresh_token", token),
                ("client_id", "minik"),
            ]);
            let mut form = url.clone();
            form.query_pairs_mut().clear().extend_pairs(fields);
            let body = form.query().unwrap_or("").to_owned();
            let post = || {
                let request = self.http(url.as_str()).post(url.clone());
                request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(body.clone())
            };
            self.send(post).await?
        } else {
            url.query_pairs_mut().extend_pairs(fields);
            let get = || {
                let request = self.http(url.as_str()).get(url.clone());
                match &self.credential {
                    Some(credential) => request.header(AUTHORIZATION, auth::basic(credential)),
                    None => request,
                }
            };
            self.send(get).await?
        };
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
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|t| t.to_str().ok());
        let content_type = content_type.unwrap_or("").to_owned();
        let wait = retry_after(&response);
        let body = self.read(response, MESSAGE_MAX, "answer").await.unwrap_or_default();
        let mut message = message(&body, &content_type)
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

/// The registry's own words in an error body (pure): the specification's form, those of token services, of proxies and
/// of Docker Hub, or a line of plain text.
fn message(body: &[u8], content_type: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?.trim();
    if text.starts_with('{') {
        let value: Value = serde_json::from_slice(body).ok()?;
        let words = |value: &Value| {
            let fields = ["message", "details", "detail", "error_description", "error", "code"];
            let mut words = fields.iter().filter_map(|field| value[*field].as_str());
            words.find(|text| !text.is_empty()).map(str::to_owned)
        };
        let errors: Vec<String> =
            value["errors"].as_array().into_iter().flatten().filter_map(words).collect();
        return if errors.is_empty() { words(&value) } else { Some(errors.join("; ")) };
    }
    let short = !text.is_empty() && text.len() <= PLAIN_MAX && text.lines().count() == 1;
    (short && content_type.starts_with("text/plain")).then(|| text.to_owned())
}

/// Whether an answer is a failure that may pass, and how long the registry asks to wait.
fn passing(response: &Response) -> Option<Option<Duration>> {
    let wait = retry_after(response);
    match response.status() {
        StatusCode::TOO_MANY_REQUESTS => wait.filter(|wait| *wait <= RETRY_AFTER_MAX).map(Some),
        status if status.is_server_error() => Some(wait.map(|wait| wait.min(RETRY_AFTER_MAX))),
        _ => None,
    }
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
    fn error_bodies_give_their_words() {
        let (json, plain) = ("application/json", "text/plain; charset=utf-8");
        let cases: [(&str, &str, Option<&str>); 10] = [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"},{"code":"DENIED"}]}"#,
                json,
                Some("manifest unknown; DENIED"),
            ),
            (r#"{"errors":[{"code":"DENIED","message":""}]}"#, plain, Some("DENIED")),
            (r#"{"details":"incorrect username or password"}"#, json, Some("incorrect username or password")),
            (r#"{"message":"limit reached"}"#, "", Some("limit reached")),
            (r#"{"error":"invalid_grant","error_description":"expired"}"#, json, Some("expired")),
            ("access forbidden\n", plain, Some("access forbidden")),
            ("<html>", "text/html", None),
            ("two\nlines", plain, None),
            ("{}", json, None),
            ("", plain, None),
        ];
        for (body, content_type, expected) in cases {
            assert_eq!(message(body.as_bytes(), content_type).as_deref(), expected, "{body}");
        }
    }
}
