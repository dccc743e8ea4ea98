//! Ports of the node on which load balancers ask how many endpoints of a service are here.
//!
//! The answers are those of kube-proxy: 200 where there are some and 503 where there are none.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::family::Address;
use super::state::Health;
use crate::sys::socket;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How many connections one port serves at a time.
const CONNECTIONS: usize = 64;

/// The listeners that are open, with what each of them answers.
#[derive(Debug)]
pub(super) struct Listeners<A> {
    family: PhantomData<A>,
    open: BTreeMap<u16, (watch::Sender<Health>, JoinSet<()>)>,
}

impl<A> Default for Listeners<A> {
    fn default() -> Self {
        Listeners { family: PhantomData, open: BTreeMap::new() }
    }
}

impl<A: Address> Listeners<A> {
    /// Opens, changes and closes listeners until there is one for each wanted port. Ports that cannot be had, with the
    /// reasons, are tried again on the next call.
    pub(super) async fn set(&mut self, wanted: &BTreeMap<u16, Health>) -> Vec<(u16, io::Error)> {
        self.open.retain(|port, _| wanted.contains_key(port));
        let mut failed = Vec::new();
        for (port, health) in wanted {
            if let Some((current, _)) = self.open.get(port) {
                current.send_replace(health.clone());
                continue;
            }
            match socket::tcp_of(A::ANY.into(), *port).and_then(TcpListener::from_std) {
                Ok(listener) => {
                    let (sender, current) = watch::channel(health.clone());
                    let mut tasks = JoinSet::new();
                    tasks.spawn(serve(listener, current));
                    self.open.insert(*port, (sender, tasks));
                }
                Err(error) => failed.push((*port, error)),
            }
        }
        failed
    }
}

async fn serve(listener: TcpListener, health: watch::Receiver<Health>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let health = health.clone();
                    let answering = service_fn(move |_| {
                        let response = response(&health.borrow());
                        async move { Ok::<_, Infallible>(response) }
                    });
                    let mut http = http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
                    connections.spawn(async move {
                        // A client that goes away has heard enough.
                        let _ = http.serve_connection(TokioIo::new(stream), answering).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting on the health port of a service");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn response(health: &Health) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body(health)));
    if health.endpoints == 0 {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(health.endpoints));
    response
}

/// The form, blanks and all, in which kube-proxy answers.
fn body(Health { namespace, name, endpoints }: &Health) -> String {
    let text = |text: &str| Value::from(text).to_string();
    format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {},\n\t\t\"name\": {}\n\t}},\n\t\"localEndpoints\": {endpoints},\n\t\"serviceProxyHealthy\": true\n}}",
        text(namespace),
        text(name),
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(port: u16) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn balancers_hear_how_many_endpoints_are_here() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        let health = |endpoints: usize| {
            BTreeMap::from([(port, Health { namespace: "d".into(), name: "web".into(), endpoints })])
        };
        let mut listeners = Listeners::<Ipv4Addr>::default();
        assert_eq!(listeners.set(&health(2)).await.len(), 1, "somebody has the port");
        drop(free);
        assert!(listeners.set(&health(2)).await.is_empty());
        let answer = ask(port).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        assert!(answer.contains("x-load-balancing-endpoint-weight: 2\r\n"), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let value: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            value,
            serde_json::json!({"service": {"namespace": "d", "name": "web"}, "localEndpoints": 2, "serviceProxyHealthy": true})
        );
        listeners.set(&health(0)).await;
        assert!(ask(port).await.unwrap().starts_with("HTTP/1.1 503 "));
        listeners.set(&BTreeMap::new()).await;
        let closed = async {
            while ask(port).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), closed).await.unwrap();
    }
}
