//! Where a webhook listens: at a URL, or behind a service of the cluster.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use crate::api::meta;
use crate::store::Store;

/// The port of a service when the configuration names none.
const HTTPS: u64 = 443;

/// Where to connect to, whom to expect there, and who must have signed for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    place: Place,
    /// The `caBundle` as configured; empty for what the host trusts.
    pub ca: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    /// A URL of its own.
    Url(String),
    /// A service, known by its name and reached at an address.
    Service { name: String, port: u64, path: String, address: SocketAddr },
}

impl Endpoint {
    /// Where the request goes.
    pub fn url(&self, timeout: Duration) -> String {
        match &self.place {
            Place::Url(_) => self.shown(timeout),
            Place::Service { name, path, address, .. } => {
                format!("https://{name}:{}{path}?{}", address.port(), timeout_query(timeout))
            }
        }
    }

    /// The URL as messages give it.
    pub fn shown(&self, timeout: Duration) -> String {
        match &self.place {
            Place::Url(url) => {
                let query = if url.contains('?') { '&' } else { '?' };
                format!("{url}{query}{}", timeout_query(timeout))
            }
            Place::Service { name, port, path, .. } => {
                format!("https://{name}:{port}{path}?{}", timeout_query(timeout))
            }
        }
    }

    /// What the service is called, whichever port its pod listens on.
    pub fn host(&self) -> Option<String> {
        match &self.place {
            Place::Url(_) => None,
            Place::Service { name, port, .. } => Some(format!("{name}:{port}")),
        }
    }

    /// The address of a name that only the cluster knows.
    pub fn resolved(&self) -> Option<(&str, SocketAddr)> {
        match &self.place {
            Place::Url(_) => None,
            Place::Service { name, address, .. } => Some((name, *address)),
        }
    }

    /// Whether no proxy stands between.
    pub fn is_near(&self) -> bool {
        let Place::Url(url) = &self.place else { return true };
        let url = Url::parse(url).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

fn timeout_query(timeout: Duration) -> String {
    format!("timeout={}s", timeout.as_secs_f64().ceil() as u64)
}

/// The endpoint that a `WebhookClientConfig` names, as the cluster's objects stand now.
pub fn of(store: &Store, config: &Value) -> Result<Endpoint, String> {
    let ca = config["caBundle"].as_str().unwrap_or_default().to_owned();
    if let Some(url) = config["url"].as_str() {
        if Url::parse(url).is_err() {
            return Err(format!("Unparsable URL: {url:?}"));
        }
        return Ok(Endpoint { place: Place::Url(url.to_owned()), ca });
    }
    let service = &config["service"];
    let text = |key: &str| service[key].as_str().unwrap_or_default();
    let (namespace, name) = (text("namespace"), text("name"));
    if name.is_empty() {
        return Err("webhook configuration must have either service or URL".to_owned());
    }
    let port = service["port"].as_u64().unwrap_or(HTTPS);
    let path = match text("path") {
        "" => "/".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    let found = store.get(&format!("services/{namespace}/{name}"));
    let slices = store.list(&format!("endpointslices/{namespace}/"), None, 0, None);
    let slices: Vec<&Value> =
        slices.iter().flat_map(|listed| &listed.entries).map(|entry| entry.json()).collect();
    let address = address(name, port, found.as_ref().map(|entry| entry.json()), &slices);
    let host = format!("{name}.{namespace}.svc");
    let address = address.map_err(|why| format!("Post \"https://{host}:{port}{path}\": {why}"))?;
    Ok(Endpoint { place: Place::Service { name: host, port, path, address }, ca })
}

/// Where a ready pod of the service listens for what comes to its port.
fn address(name: &str, port: u64, service: Option<&Value>, slices: &[&Value]) -> Result<SocketAddr, String> {
    let Some(service) = service else { return Err(format!("service {name:?} not found")) };
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let Some(port) = ports.find(|row| row["port"].as_u64() == Some(port)) else {
        return Err(format!("no service port {port} found for service {name:?}"));
    };
    let wanted = port["name"].as_str().unwrap_or_default();
    let own = slices.iter().filter(|slice| meta::label(slice, "kubernetes.io/service-name") == Some(name));
    let mut ready = own.filter_map(|slice| {
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let port = ports.find(|row| row["name"].as_str().unwrap_or_default() == wanted)?["port"].as_u64()?;
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let address = endpoints
            .filter(|endpoint| endpoint["conditions"]["ready"] != false)
            .find_map(|endpoint| endpoint["addresses"][0].as_str()?.parse::<IpAddr>().ok())?;
        Some(SocketAddr::new(address, u16::try_from(port).ok()?))
    });
    ready.next().ok_or_else(|| format!("no endpoints available for service {name:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_are_reached_at_a_ready_pod() {
        let service =
            json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "hook", "port": 443}]}});
        let slice = |ready: bool| {
            json!({"metadata": {"labels": {"kubernetes.io/service-name": "hook"}},
                "ports": [{"name": "web", "port": 8080}, {"name": "hook", "port": 9443}],
                "endpoints": [{"addresses": ["10.1.0.7"], "conditions": {"ready": ready}}]})
        };
        let (ready, waiting) = (slice(true), slice(false));
        let at = |port, service: Option<&Value>, slice: &Value| address("hook", port, service, &[slice]);
        assert_eq!(at(443, Some(&service), &ready), Ok("10.1.0.7:9443".parse().unwrap()));
        assert_eq!(at(443, None, &ready).unwrap_err(), "service \"hook\" not found");
        assert_eq!(
            at(443, Some(&service), &waiting).unwrap_err(),
            "no endpoints available for service \"hook\""
        );
        assert_eq!(
            at(8443, Some(&service), &ready).unwrap_err(),
            "no service port 8443 found for service \"hook\""
        );
    }

    #[test]
    fn urls_carry_the_time_that_there_is() {
        let of = |place| Endpoint { place, ca: String::new() };
        let url = of(Place::Url("https://127.0.0.1:1/a?b=c".to_owned()));
        assert_eq!(url.url(Duration::from_secs(10)), "https://127.0.0.1:1/a?b=c&timeout=10s");
        assert!(url.is_near() && !of(Place::Url("https://example.com".to_owned())).is_near());
        let address = "10.1.0.7:9443".parse().unwrap();
        let name = "hook.shop.svc".to_owned();
        let service = of(Place::Service { name, port: 443, path: "/check".to_owned(), address });
        assert_eq!(service.url(Duration::from_secs(5)), "https://hook.shop.svc:9443/check?timeout=5s");
        assert_eq!(service.shown(Duration::from_secs(5)), "https://hook.shop.svc:443/check?timeout=5s");
        assert_eq!(service.host().as_deref(), Some("hook.shop.svc:443"));
    }
}
