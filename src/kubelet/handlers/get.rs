//! GET requests to containers.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use http::header::{HOST, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};
use k8s_openapi::api::core::v1::HTTPGetAction;
use reqwest::{Client, Response, Url, redirect};

use super::{Answer, Target, agent, authority, port_number};
use crate::api::go::dial_cause;

/// How much of an answer's body is read, in bytes (kubelet's limit).
const BODY: usize = 10 << 10;
/// How many redirects are followed (the limit of Go's client).
const REDIRECTS: usize = 10;

/// Makes the requests of a node's kubelet; the client is made with the first of them.
#[derive(Debug, Default)]
pub struct Getter(OnceLock<Result<Client, String>>);

impl Getter {
    fn client(&self) -> Result<&Client, String> {
        self.0.get_or_init(|| client().map_err(|error| error.to_string())).as_ref().map_err(Clone::clone)
    }
}

fn client() -> reqwest::Result<Client> {
    // Another part of the process may have installed the same provider before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        // A pod is asked as its clients would ask it: by no proxy, with a connection of its own.
        .no_proxy()
        .pool_max_idle_per_host(0)
        // Nobody has said whose certificate it must be.
        .tls_danger_accept_invalid_certs(true)
        .redirect(redirect::Policy::custom(follow))
        .referer(false)
        .build()
}

/// Redirects are followed on the host that was asked, and no further.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let asked = attempt.previous().first().and_then(|url| url.host_str().map(str::to_owned));
    if attempt.url().host_str() != asked.as_deref() {
        return attempt.stop();
    }
    match attempt.previous().len() > REDIRECTS {
        true => attempt.error("stopped after 10 redirects"),
        false => attempt.follow(),
    }
}

/// One request.
#[derive(Debug)]
pub struct Get {
    url: Url,
    headers: HeaderMap,
}

impl Get {
    /// What the action asks for, with `kube-PURPOSE` as the user agent.
    pub fn new(target: &Target<'_>, action: &HTTPGetAction, purpose: &str) -> Result<Get, String> {
        let host = action.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(target.address);
        let port = port_number(&action.port, target.container)?;
        let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let path = action.path.as_deref().unwrap_or("/");
        let slash = if path.starts_with('/') { "" } else { "/" };
        let text = format!("{scheme}://{}{slash}{path}", authority(host, port));
        let url = Url::parse(&text).map_err(|error| format!("parse {text:?}: {error}"))?;
        let mut headers = HeaderMap::new();
        for header in action.http_headers.iter().flatten() {
            let invalid = || format!("net/http: invalid header field {:?}", header.name);
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| invalid())?;
            headers.append(name, HeaderValue::from_str(&header.value).map_err(|_| invalid())?);
        }
        if !headers.contains_key(USER_AGENT) {
            let agent = HeaderValue::from_str(&agent(purpose)).map_err(|error| error.to_string())?;
            headers.insert(USER_AGENT, agent);
        }
        if headers.get(HOST).is_some_and(HeaderValue::is_empty) {
            headers.remove(HOST);
        }
        Ok(Get { url, headers })
    }

    /// Asks, and judges by the status.
    pub async fn probe(self, getter: &Getter, limit: Duration) -> Answer {
        let url = self.url.clone();
        let asked = async {
            let mut response = self.send(getter).await?;
            let body = body(&mut response).await;
            Ok::<_, String>((response.status().as_u16(), body))
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok((status, _))) if (200..300).contains(&status) => Answer::Success,
            Ok(Ok((status, body))) if (300..400).contains(&status) => {
                Answer::Warning(format!("Probe terminated redirects, Response body: {body}"))
            }
            Ok(Ok((status, _))) => Answer::Failure(format!("HTTP probe failed with statuscode: {status}")),
            Ok(Err(error)) => Answer::Failure(error),
            Err(_) => Answer::Failure(format!(
                "Get {:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                url.as_str()
            )),
        }
    }

    /// Asks, and takes any answer.
    pub async fn tell(self, getter: &Getter) -> Result<(), String> {
        let mut response = self.send(getter).await?;
        body(&mut response).await;
        Ok(())
    }

    async fn send(self, getter: &Getter) -> Result<Response, String> {
        let Get { url, headers } = self;
        let shown = url.clone();
        let sent = getter.client()?.get(url).headers(headers).send().await;
        sent.map_err(|error| format!("Get {:?}: {}", shown.as_str(), cause(&error, &shown)))
    }
}

/// The beginning of an answer's body; one that breaks off is what came of it.
async fn body(response: &mut Response) -> String {
    let mut kept = Vec::new();
    while kept.len() < BODY
        && let Ok(Some(piece)) = response.chunk().await
    {
        kept.extend(piece.iter().take(BODY - kept.len()));
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// The innermost cause, in the words of Go's client where it has some.
fn cause(error: &reqwest::Error, asked: &Url) -> String {
    let mut innermost: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if let Some(error) = innermost.downcast_ref::<io::Error>() {
        let address = authority(asked.host_str().unwrap_or(""), asked.port_or_known_default().unwrap_or(0));
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
            _ => format!("dial tcp {address}: {}", dial_cause(error)),
        };
    }
    match innermost.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_incomplete_message() => "EOF".to_owned(),
        Some(error) if error.is_parse() => "malformed HTTP response".to_owned(),
        _ => innermost.to_string(),
    }
}
