//! Other servers that are asked about a request: whether it may pass (`auth-url`), and what is said of a failure
//! (`custom-http-errors`).

use std::net::{Ipv4Addr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;

use super::annotations::{External, Protocol, Settings};
use super::body::{Body, Download, Held, empty, linger};
use super::exchange::{client_of, with_body};
use super::gate::{self, Answer};
use super::gateway::{Gateway, answer, page};
use super::headers;
use super::path;
use super::route::{self, Asked, Backend, Location, Table, Target};
use super::upstream::{Key, Reply};

/// What a server that was asked gives to a request that may pass.
#[derive(Default)]
pub(super) struct Granted {
    /// For the backend.
    pub headers: HeaderMap,
    /// For the client.
    pub cookies: Vec<HeaderValue>,
}

/// Whether the client gets the cookies of the server that was asked along with an answer of this status (pure).
pub(super) fn gives_cookies(external: &External, status: StatusCode) -> bool {
    external.always_set_cookie
        || matches!(status.as_u16(), 200 | 201 | 204 | 206 | 301 | 302 | 303 | 304 | 307 | 308)
}

/// Where a client is sent that the server does not know (pure).
fn signin(external: &External, asked: &Asked<'_>) -> Option<String> {
    let to = gate::filled(asked, external.signin.as_deref()?);
    let query = to.split_once('?').map(|(_, query)| query);
    let param = &external.redirect_param;
    let is_told = |query: &str| {
        query.split('&').any(|pair| pair.split_once('=').is_some_and(|(name, _)| name == param))
    };
    if query.is_some_and(is_told) {
        return Some(to);
    }
    let joint = if query.is_some() { '&' } else { '?' };
    let place = format!("{}://{}{}", gate::scheme(asked), asked.authority, path::escaped(asked.uri));
    Some(format!("{to}{joint}{param}={place}"))
}

/// The head of the question about a request (pure).
fn question(
    external: &External,
    asked: &Asked<'_>,
    location: &Location,
    parts: &Parts,
    (uri, port): (&Uri, u16),
) -> Option<Request<()>> {
    let authority = uri.authority()?.as_str();
    let mut all = headers::to_backend(&parts.headers, authority, &client_of(asked, location, port));
    // It is asked about the request, and gets none of it.
    for name in
        [header::CONNECTION, header::UPGRADE, header::TE, HeaderName::from_static("x-forwarded-proto")]
    {
        all.remove(name);
    }
    let url = format!("{}://{}{}", gate::scheme(asked), asked.authority, asked.uri);
    let redirect = external.redirect.as_deref().map(|text| gate::filled(asked, text));
    for (name, value) in [
        ("x-original-url", url.as_str()),
        ("x-original-method", asked.method.as_str()),
        ("x-sent-from", "nginx-ingress-controller"),
        ("x-auth-request-redirect", redirect.as_deref().unwrap_or(asked.uri)),
    ] {
        all.insert(HeaderName::from_static(name), HeaderValue::from_str(value).ok()?);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut head = Request::builder().method(external.method.clone()).uri(path).body(()).ok()?;
    *head.headers_mut() = all;
    Some(head)
}

impl Gateway {
    /// Asks whether a request may pass; the error is the answer to it if not.
    pub(super) async fn granted(
        &self,
        external: &External,
        asked: &Asked<'_>,
        location: &Location,
        parts: &Parts,
        table: &Table,
    ) -> Result<Granted, Response<Body>> {
        let failed = || page(StatusCode::INTERNAL_SERVER_ERROR);
        let response = self.asked_about(external, asked, location, parts, table).await.ok_or_else(failed)?;
        let (status, said) = (response.status(), response.headers().clone());
        linger(response.into_body());
        let cookies: Vec<_> = said.get_all(header::SET_COOKIE).iter().cloned().collect();
        if status.is_success() {
            let pick = |name: &HeaderName| said.get(name).map(|value| (name.clone(), value.clone()));
            return Ok(Granted { headers: external.headers.iter().filter_map(pick).collect(), cookies });
        }
        let mut refused = match (status, signin(external, asked)) {
            (StatusCode::UNAUTHORIZED, Some(to)) => answer(Answer::Redirect(StatusCode::FOUND, to)),
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => page(status),
            _ => {
                tracing::debug!(ingress = location.ingress, %status, "whoever was asked about a request failed");
                return Err(failed());
            }
        };
        if let Some(how) = said.get(header::WWW_AUTHENTICATE).filter(|_| status == refused.status()) {
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, how.clone());
        }
        if gives_cookies(external, refused.status()) {
            for cookie in cookies {
                refused.headers_mut().append(header::SET_COOKIE, cookie);
            }
        }
        Err(refused)
    }

    /// What the server says; `None` when it says nothing.
    async fn asked_about(
        &self,
        external: &External,
        asked: &Asked<'_>,
        location: &Location,
        parts: &Parts,
        table: &Table,
    ) -> Option<Response<Reply>> {
        let uri: Uri = gate::filled(asked, &external.url).parse().ok()?;
        let secure = uri.scheme_str() == Some("https");
        let own_port = if secure { self.ports.https } else { self.ports.http };
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = route::host_name(uri.authority()?.as_str());
        let settings = &location.settings;
        // A host of our own is here, whatever its name means elsewhere.
        let addresses = match table.named(&host).is_some() && (port == own_port || uri.port().is_none()) {
            true => vec![SocketAddr::from((Ipv4Addr::LOCALHOST, own_port))],
            false => self.names.addresses(&host, port, settings.connect_timeout).await,
        };
        let came = if asked.tls { self.ports.https } else { self.ports.http };
        let head = question(external, asked, location, parts, (&uri, came))?;
        let protocol = if secure { Protocol::Https } else { Protocol::Http };
        let keys = addresses.into_iter().map(|address| Key { address, protocol, name: Some(host.clone()) });
        self.ask(keys, &head, settings).await
    }

    /// What a default backend says about an answer of this status; `None` when it says nothing.
    pub(super) async fn explained(
        &self,
        status: StatusCode,
        backend: &Backend,
        location: &Location,
        parts: &Parts,
    ) -> Option<Response<Body>> {
        let Target::Endpoints(endpoints) = &backend.target else { return None };
        let turn = self.requests.clone().try_acquire_owned().ok()?;
        let head = complaint(status, location, parts)?;
        let order = backend.in_turn(endpoints).into_iter().take(location.settings.tries);
        let keys = order.map(|address| Key { address, protocol: Protocol::Http, name: None });
        let response = self.ask(keys, &head, &location.settings).await?;
        let held = Held::new(turn, None);
        let mut response =
            response.map(|body| Download::new(body, location.settings.read_timeout, held).boxed());
        headers::to_client(response.headers_mut(), false);
        Some(response)
    }

    /// The first answer to a request without a body that may be repeated.
    async fn ask(
        &self,
        keys: impl Iterator<Item = Key>,
        head: &Request<()>,
        settings: &Settings,
    ) -> Option<Response<Reply>> {
        for key in keys {
            // A connection that was kept may be closed just then.
            for fresh in [false, true] {
                let Ok(connection) = self.pool.connect(&key, fresh, settings.connect_timeout).await else {
                    break;
                };
                let sent = connection.send(with_body(head, empty()));
                if let Ok(Ok(response)) = tokio::time::timeout(settings.read_timeout, sent).await {
                    return Some(response);
                }
            }
        }
        None
    }
}

/// The head of the request for what to say about a failure (pure).
fn complaint(status: StatusCode, location: &Location, parts: &Parts) -> Option<Request<()>> {
    let (namespace, ingress) = location.ingress.split_once('/')?;
    let (_, service) = location.backend.name.split_once('/')?;
    let (service, port) = service.split_once(':')?;
    let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let method = if parts.method == Method::HEAD { Method::HEAD } else { Method::GET };
    let head = Request::builder().method(method).uri("/");
    let host = parts.headers.get(header::HOST).cloned();
    let host = host.or_else(|| HeaderValue::from_str(parts.uri.authority()?.as_str()).ok());
    let head = head
        .header(header::HOST, host.unwrap_or(HeaderValue::from_static("localhost")))
        .header("x-code", status.as_u16())
        .header("x-format", text(header::ACCEPT))
        .header("x-original-uri", parts.uri.path_and_query().map_or("/", |uri| uri.as_str()))
        .header("x-namespace", namespace)
        .header("x-ingress-name", ingress)
        .header("x-service-name", service)
        .header("x-service-port", port)
        .header("x-request-id", text(HeaderName::from_static("x-request-id")));
    head.body(()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::annotations::{PREFIX, parse};

    #[test]
    fn who_is_not_known_is_sent_to_sign_in_and_back() {
        let (headers, method) =
            ([(header::COOKIE, "of=me".parse().unwrap())].into_iter().collect(), Method::GET);
        let asked = Asked {
            host: "a.example",
            authority: "a.example:81",
            path: "/x",
            uri: "/x?q=1&r=2",
            method: &method,
            headers: &headers,
            tls: true,
            client: "192.0.2.1".parse().unwrap(),
            dice: 0,
        };
        let back = "https://a.example:81%2Fx%3Fq%3D1%26r%3D2";
        for (place, param, to) in [
            ("https://login.example/", None, format!("https://login.example/?rd={back}")),
            ("https://login.example/?a=b", Some("next"), format!("https://login.example/?a=b&next={back}")),
            (
                "https://$host/start?rd=$escaped_request_uri",
                None,
                "https://a.example/start?rd=%2Fx%3Fq%3D1%26r%3D2".to_owned(),
            ),
            ("https://$arg_q.$cookie_of.$http_none.x/?rd=1", None, "https://1.me..x/?rd=1".to_owned()),
        ] {
            let mut all = vec![("auth-url", "http://auth/"), ("auth-signin", place)];
            all.extend(param.map(|param| ("auth-signin-redirect-param", param)));
            let all = all.into_iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.to_owned()));
            let external = parse(&all.collect()).settings.external.unwrap();
            assert_eq!(signin(&external, &asked), Some(to), "{place}");
        }
    }
}
