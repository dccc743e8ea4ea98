//! Calls of webhooks that run outside: for admission, and for conversions of custom resources.
//!
//! Source of the rules and words: k8s.io/apiserver `pkg/util/webhook`.

mod endpoint;
mod own_authority;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::StatusCode;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HOST};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use serde_json::Value;

use self::endpoint::Endpoint;
use self::own_authority::OwnAuthority;
use crate::store::Store;

/// How many clients are kept; beyond, all are made anew.
const MOST_CLIENTS: usize = 64;
/// How much of an answer's body is told when it is no answer.
const TOLD_BYTES: usize = 1024;

/// Makes the calls; clients with their connections are kept for the next call.
#[derive(Default)]
pub struct Webhooks {
    clients: Mutex<HashMap<Endpoint, reqwest::Client>>,
}

impl Webhooks {
    /// Posts a JSON document to the webhook that a `WebhookClientConfig` names (a URL, or a service of the cluster in
    /// `store`) and gives what it answers; or says in Kubernetes' words why there is no answer.
    pub async fn call(
        &self,
        store: &Store,
        config: &Value,
        body: &Value,
        timeout: Duration,
    ) -> Result<Value, String> {
        let endpoint = endpoint::of(store, config)?;
        let url = endpoint.shown(timeout);
        let failed = |why: String| format!("Post {url:?}: {why}");
        let client = self.client(&endpoint).map_err(failed)?;
        let mut request = client.post(endpoint.url(timeout));
        if let Some(host) = endpoint.host() {
            request = request.header(HOST, host);
        }
        let request = request.header(CONTENT_TYPE, "application/json").header(ACCEPT, "application/json");
        let request = request.body(body.to_string());
        let exchange = async {
            let response = request.send().await.map_err(|error| words(&error))?;
            let status = response.status();
            let bytes = response.bytes().await.map_err(|error| words(&error))?;
            Ok((status, bytes))
        };
        let answered = match tokio::time::timeout(timeout, exchange).await {
            Ok(answered) => answered,
            Err(_) => Err("context deadline exceeded".to_owned()),
        };
        let (status, bytes) = answered.map_err(failed)?;
        if !status.is_success() {
            return Err(refusal(status, &bytes));
        }
        serde_json::from_slice(&bytes)
            .map_err(|error| format!("couldn't get version/kind; json parse error: {error}"))
    }

    fn client(&self, endpoint: &Endpoint) -> Result<reqwest::Client, String> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(endpoint) {
            return Ok(client.clone());
        }
        let client = connector(endpoint)?;
        if clients.len() >= MOST_CLIENTS {
            clients.clear();
        }
        clients.insert(endpoint.clone(), client.clone());
        Ok(client)
    }
}

/// A client for one endpoint: its authority, its address, and the version of HTTP of which requests spread over
/// connections.
fn connector(endpoint: &Endpoint) -> Result<reqwest::Client, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier(&endpoint.ca)?)
        .with_no_client_auth();
    let mut builder = reqwest::Client::builder()
        .user_agent("kube-apiserver-admission")
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .http1_only();
    if endpoint.is_near() {
        builder = builder.no_proxy();
    }
    if let Some((name, address)) = endpoint.resolved() {
        builder = builder.resolve(name, address);
    }
    builder.build().map_err(|error| error.to_string())
}

fn verifier(ca_bundle: &str) -> Result<Arc<OwnAuthority>, String> {
    let trusted = roots(ca_bundle)?;
    let mut roots = RootCertStore::empty();
    // One that this library cannot read helps nobody: it is passed over.
    roots.add_parsable_certificates(trusted.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
    let strict = strict.map_err(|error| format!("unable to load root certificates: {error}"))?;
    Ok(Arc::new(OwnAuthority { strict, trusted }))
}

/// The authorities that a `caBundle` names; without one those that the host trusts.
fn roots(ca_bundle: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    if ca_bundle.is_empty() {
        return Ok(rustls_native_certs::load_native_certs().certs);
    }
    let unreadable = |why: String| format!("unable to load root certificates: {why}");
    let pem = BASE64.decode(ca_bundle).map_err(|error| unreadable(error.to_string()))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).flatten().collect();
    if certificates.is_empty() {
        return Err(unreadable("unable to parse bytes as PEM block".to_owned()));
    }
    Ok(certificates)
}

/// What Go's client says of the same failure.
fn words(error: &reqwest::Error) -> String {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(cause) = source {
        let io = cause.downcast_ref::<std::io::Error>();
        if let Some(rustls::Error::InvalidCertificate(why)) = of_tls(cause) {
            return format!("tls: failed to verify certificate: x509: {}", certificate_words(why));
        }
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return "connect: connection refused".to_owned();
        }
        last = cause.to_string();
        source = cause.source();
    }
    last
}

/// The failure of TLS within an error of a stream, which may be wrapped more than once and is nobody's source then.
fn of_tls<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    cause.downcast_ref().or_else(|| of_tls(cause.downcast_ref::<std::io::Error>()?.get_ref()?))
}

fn certificate_words(error: &CertificateError) -> String {
    match error {
        // Go calls an authority of the right name and another key no less unknown.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        other => other.to_string(),
    }
}

/// What client-go makes of an answer that is none (`NewGenericServerResponse`).
fn refusal(status: StatusCode, body: &[u8]) -> String {
    let told = serde_json::from_slice::<Value>(body).ok().filter(|answer| answer["kind"] == "Status");
    let told = told.and_then(|answer| answer["message"].as_str().map(str::to_owned));
    if let Some(message) = told.filter(|message| !message.is_empty()) {
        return message;
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(TOLD_BYTES)]).trim().to_owned();
    match status.as_u16() {
        400 => "the server rejected our request for an unknown reason".to_owned(),
        401 => "the server has asked for the client to provide credentials".to_owned(),
        403 => "the server does not allow access to the requested resource".to_owned(),
        404 => "the server could not find the requested resource".to_owned(),
        405 => "the server does not allow this method on the requested resource".to_owned(),
        429 => "the server has received too many requests and has asked us to try again later".to_owned(),
        503 => "the server is currently unable to handle the request".to_owned(),
        504 => "the server was unable to return a response in the time allotted, but may still be processing the \
                request"
            .to_owned(),
        code if code >= 500 => {
            format!("an error on the server ({text:?}) has prevented the request from succeeding")
        }
        code => format!("the server responded with the status code {code} but did not return more information"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_told() {
        for (code, body, expected) in [
            (404, "404 page not found", "the server could not find the requested resource"),
            (500, "boom\n", "an error on the server (\"boom\") has prevented the request from succeeding"),
            (500, r#"{"kind": "Status", "message": "no such thing"}"#, "no such thing"),
            (302, "", "the server responded with the status code 302 but did not return more information"),
        ] {
            assert_eq!(refusal(StatusCode::from_u16(code).unwrap(), body.as_bytes()), expected);
        }
    }

    #[test]
    fn bundles_of_authorities_are_read() {
        assert!(roots("").is_ok());
        assert!(roots("!").is_err());
        assert_eq!(
            roots(&BASE64.encode("no pem")).unwrap_err(),
            "unable to load root certificates: unable to parse bytes as PEM block"
        );
    }
}
