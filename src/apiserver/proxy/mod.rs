//! Requests that go on to a pod, a service or a node: `pods/NAME/proxy/...` and its like.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;

use self::body::Rewritten;
use self::exchange::{Backend, Dial, Secure};
use self::location::{Named, OfNode};
use self::rewrite::Rewriter;
use super::answer::{self, Body};
use super::registry::Registry;
use crate::api::hops;
use crate::api::node::Node;
use crate::api::request::Target;
use crate::api::status::Status;
use crate::store::Entry;

mod body;
pub mod exchange;
mod headers;
mod html;
pub mod location;
mod page;
mod rewrite;
pub mod tls;

pub use self::location::port_of_service;

/// The address from which a request came, as an extension of the request.
#[derive(Debug, Clone, Copy)]
pub struct Origin(pub SocketAddr);

/// Carries requests to backends.
pub struct Proxy {
    dial: Arc<dyn Dial>,
    unverified: Result<Arc<ClientConfig>, String>,
    /// Whose turn it is among the endpoints of a service.
    turn: AtomicUsize,
}

/// How a request is shown to its backend, and the answer to the client.
pub struct Passage {
    /// Path and query for the backend.
    pub uri: String,
    /// The path that the client used, for `X-Forwarded-Uri`.
    pub asked: String,
    /// What stands before the backend's own paths, when links in its answers are to be changed.
    pub prefix: Option<String>,
    /// Headers beside those of the request; they replace what the client sent.
    pub headers: HeaderMap,
    /// The host that the backend is asked for; by default the one that the client named.
    pub host: Option<HeaderValue>,
}

impl Proxy {
    /// A proxy that reaches its backends so.
    pub fn new(dial: Arc<dyn Dial>) -> Proxy {
        Proxy { dial, unverified: tls::unverified(None), turn: AtomicUsize::new(0) }
    }

    /// Carries on a request to a `proxy` subresource; the user may make it.
    pub async fn serve(
        &self,
        registry: &Registry,
        node: &dyn Node,
        target: &Target,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Status> {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        let rest = location::rest(&path, target.namespace.is_some());
        let name = target.name.as_deref().unwrap_or_default();
        let objects = Objects { registry, target };
        let (named, address) = match target.resource.as_str() {
            "pods" => {
                let named = Named::parse("pod", name)?;
                let pod = objects.find(named.name)?;
                (named, location::of_pod(&named, pod.json())?)
            }
            "services" => {
                let named = Named::parse("service", name)?;
                let service = objects.find(named.name)?;
                let port = location::service_port(&named, service.json())?;
                (named, self.endpoint(registry, objects.namespace(), named.name, port)?)
            }
            "nodes" => {
                let named = Named::parse("node", name)?;
                let found = objects.find(named.name)?;
                match location::of_node(&named, found.json())? {
                    OfNode::Other(address) => (named, address),
                    OfNode::Kubelet => return page::of_node(node, request.method(), &rest, &query).await,
                }
            }
            _ => return Err(Status::no_such_path()),
        };
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        if rest.is_empty() && read && hops::upgrade(request.headers()).is_none() {
            // Links relative to the page would lose the last part of the path.
            return Ok(moved(&format!("{path}/{query}")));
        }
        let tls = match named.tls {
            true => Some(Secure {
                config: self.unverified.clone().map_err(Status::internal)?,
                name: ServerName::from(address.ip()),
            }),
            false => None,
        };
        let prefix = location::prefix(&path, target.namespace.is_some());
        let passage = Passage {
            uri: format!("{}{query}", if rest.is_empty() { "/" } else { &rest }),
            asked: format!("{prefix}{rest}"),
            prefix: Some(prefix),
            headers: HeaderMap::new(),
            host: None,
        };
        self.pass(&Backend { address, tls }, passage, request).await
    }

    /// One of the ready endpoints of a service's port.
    pub fn endpoint(
        &self,
        registry: &Registry,
        namespace: &str,
        service: &str,
        port: &str,
    ) -> Result<SocketAddr, Status> {
        let slices = registry.store().list(&format!("endpointslices/{namespace}/"), None, 0, None);
        let slices = slices.map_err(Status::internal)?.entries;
        let of_service =
            |slice: &&Value| slice["metadata"]["labels"]["kubernetes.io/service-name"] == service;
        let slices = slices.iter().map(|entry| entry.json()).filter(of_service);
        let endpoints: Vec<SocketAddr> = location::ready_endpoints(slices, port).collect();
        location::of_service(service, &endpoints, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// Who makes connections.
    pub fn dial(&self) -> &dyn Dial {
        &*self.dial
    }

    /// Carries the request to the backend and its answer back.
    pub async fn pass(
        &self,
        backend: &Backend,
        passage: Passage,
        mut request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Status> {
        let client: Option<IpAddr> = request.extensions().get::<Origin>().map(|origin| origin.0.ip());
        let upgrading = hops::upgrade(request.headers()).is_some();
        let upgrade = upgrading.then(|| hyper::upgrade::on(&mut request));
        let asked_host = host_of(&request);
        let host = passage.host.clone().or_else(|| asked_host.clone());
        let (parts, body) = request.into_parts();
        let mut sent = http::Request::new(body);
        *sent.method_mut() = parts.method.clone();
        *sent.uri_mut() = passage
            .uri
            .parse()
            .map_err(|_| Status::bad_request(format!("the path {:?} cannot be passed on", passage.uri)))?;
        *sent.headers_mut() = headers::to_backend(&parts.headers, host, &passage.asked, client);
        sent.headers_mut().extend(passage.headers);
        let answered = exchange::exchange(&*self.dial, backend, sent).await;
        let mut response = answered.map_err(|error| match upgrading {
            true => Status::failure(500, "", format!("error dialing backend: {error}")),
            false => Status::unavailable(format!("error trying to reach service: {error}")),
        })?;
        let code = response.status();
        let switches = code == http::StatusCode::SWITCHING_PROTOCOLS;
        match upgrade {
            Some(client) if switches => {
                let backend = hyper::upgrade::on(&mut response);
                tokio::spawn(exchange::tunnel(client, backend));
            }
            Some(_) if code.as_u16() < 400 => {
                let why = format!("invalid upgrade response: status code {}", code.as_u16());
                return Err(Status::failure(500, "", why));
            }
            _ => {}
        }
        headers::to_client(response.headers_mut(), switches);
        let rewriter = passage.prefix.map(|prefix| Rewriter {
            prefix,
            backend: backend.address.to_string(),
            asked: asked_host.and_then(|host| host.to_str().ok().map(str::to_owned)).unwrap_or_default(),
        });
        Ok(shown(response, rewriter, parts.method == Method::HEAD || switches))
    }
}

/// The objects that a request may be about.
struct Objects<'a> {
    registry: &'a Registry,
    target: &'a Target,
}

impl Objects<'_> {
    fn namespace(&self) -> &str {
        self.target.namespace.as_deref().unwrap_or_default()
    }

    fn find(&self, name: &str) -> Result<Arc<Entry>, Status> {
        let resource = &self.target.resource;
        let key = match &self.target.namespace {
            Some(namespace) => format!("{resource}/{namespace}/{name}"),
            None => format!("{resource}/{name}"),
        };
        self.registry.store().get(&key).ok_or_else(|| Status::not_found("", resource, name))
    }
}

/// The host that the client named.
fn host_of(request: &http::Request<Incoming>) -> Option<HeaderValue> {
    let authority = request.uri().authority().and_then(|a| HeaderValue::from_str(a.as_str()).ok());
    request.headers().get(header::HOST).cloned().or(authority)
}

fn moved(location: &str) -> http::Response<Body> {
    let mut response = http::Response::new(answer::full(Bytes::new()));
    *response.status_mut() = http::StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The backend's answer with its links led through the proxy.
fn shown(
    response: http::Response<Incoming>,
    rewriter: Option<Rewriter>,
    bodiless: bool,
) -> http::Response<Body> {
    let (mut head, body) = response.into_parts();
    let plain = |body: Incoming| body.map_err(std::io::Error::other).boxed();
    let Some(rewriter) = rewriter else { return http::Response::from_parts(head, plain(body)) };
    let text = |headers: &HeaderMap, name| {
        headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let location = text(&head.headers, header::LOCATION);
    if !location.is_empty() {
        if let Some(led) = rewriter.link(&location).and_then(|led| HeaderValue::from_str(&led).ok()) {
            head.headers.insert(header::LOCATION, led);
        }
        return http::Response::from_parts(head, plain(body));
    }
    let media = text(&head.headers, header::CONTENT_TYPE);
    if bodiless || media.split(';').next().unwrap_or_default().trim() != "text/html" {
        return http::Response::from_parts(head, plain(body));
    }
    let body = match Rewritten::new(body, &text(&head.headers, header::CONTENT_ENCODING), rewriter) {
        Ok(rewritten) => {
            head.headers.remove(header::CONTENT_LENGTH);
            rewritten.boxed()
        }
        Err(unknown) => plain(unknown),
    };
    http::Response::from_parts(head, body)
}
