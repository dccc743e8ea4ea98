//! A container's environment: image, service links, references, `$(VAR)` expansion (pure).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use super::downward;
use super::resources::NodeCapacity;

/// What a container's environment is made from.
pub struct Sources<'a> {
    /// The pod; its status carries the addresses that `fieldRef` may name.
    pub pod: &'a Pod,
    /// `NAME=VALUE` of the image.
    pub image: &'a [String],
    /// Services of the pod's namespace, and `kubernetes` of `default`.
    pub services: &'a [Arc<Service>],
    /// The config maps that the container names, where they exist.
    pub config_maps: &'a HashMap<String, ConfigMap>,
    /// The secrets that the container names, where they exist.
    pub secrets: &'a HashMap<String, Secret>,
    /// For `resourceFieldRef`.
    pub node: &'a NodeCapacity,
}

/// Names of the config maps and secrets that a container's environment reads.
pub fn references(container: &Container) -> (Vec<String>, Vec<String>) {
    let mut maps = Vec::new();
    let mut secrets = Vec::new();
    for from in container.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
    }
    for source in container.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
        secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// A container's environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// What the process gets, as `NAME=VALUE`.
    pub all: Vec<String>,
    /// What `$(NAME)` may name elsewhere in the spec: services and the container's own, but not the image's.
    pub own: BTreeMap<String, String>,
}

/// The environment, or why it cannot be made (a `CreateContainerConfigError`).
pub fn build(container: &Container, sources: &Sources<'_>) -> Result<Environment, String> {
    let spec = sources.pod.spec.as_ref();
    let links = spec.and_then(|s| s.enable_service_links).unwrap_or(true);
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or("default");
    let services = service_variables(namespace, sources.services, links);
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or("");
        if let Some(reference) = &from.config_map_ref {
            match sources.config_maps.get(&reference.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        given.insert(format!("{prefix}{key}"), value.clone());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", reference.name)),
            }
        }
        if let Some(reference) = &from.secret_ref {
            match sources.secrets.get(&reference.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        given
                            .insert(format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                None if reference.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", reference.name)),
            }
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(from) => resolve(&variable.name, from, container, sources)?,
            None => Some(expand(variable.value.as_deref().unwrap_or(""), |name| {
                given.get(name).or_else(|| services.get(name)).cloned()
            })),
        };
        // An optional source that is not there leaves the name to envFrom and the image.
        given.extend(value.map(|value| (variable.name.clone(), value)));
    }
    // Later sources win: image, then services, then what the pod says.
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for pair in sources.image {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.insert(name.to_owned(), value.to_owned());
    }
    let own: BTreeMap<String, String> = services.into_iter().chain(given).collect();
    all.extend(own.clone());
    let all = all.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(Environment { all, own })
}

/// The value that a variable refers to; `None` for an absent optional one.
fn resolve(
    variable: &str,
    from: &EnvVarSource,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<Option<String>, String> {
    let namespace = sources.pod.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(reference) = &from.config_map_key_ref {
        let optional = reference.optional == Some(true);
        return match sources.config_maps.get(&reference.name) {
            Some(map) => match map.data.as_ref().and_then(|d| d.get(&reference.key)) {
                Some(value) => Ok(Some(value.clone())),
                None if optional => Ok(None),
                None => Err(format!(
                    "couldn't find key {} in ConfigMap {namespace}/{}",
                    reference.key, reference.name
                )),
            },
            None if optional => Ok(None),
            None => Err(format!("configmap {:?} not found", reference.name)),
        };
    }
    if let Some(reference) = &from.secret_key_ref {
        let optional = reference.optional == Some(true);
        return match sources.secrets.get(&reference.name) {
            Some(secret) => match secret.data.as_ref().and_then(|d| d.get(&reference.key)) {
                Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
                None if optional => Ok(None),
                None => Err(format!(
                    "couldn't find key {} in Secret {namespace}/{}",
                    reference.key, reference.name
                )),
            },
            None if optional => Ok(None),
            None => Err(format!("secret {:?} not found", reference.name)),
        };
    }
    if let Some(reference) = &from.field_ref {
        return downward::field(sources.pod, &reference.field_path).map(Some);
    }
    if let Some(reference) = &from.resource_field_ref {
        return downward::resource(sources.pod, reference, Some(container), sources.node).map(Some);
    }
    Err(format!("variable {variable:?}: valueFrom names no source that this node knows"))
}

/// Replaces `$(NAME)` by its value; an unknown name stays as it is, `$$` is a dollar sign.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// `VOTE_SERVICE_HOST`, `VOTE_PORT_80_TCP_ADDR`, ...: the variables that name services. Without links only
/// those of the API server itself.
fn service_variables(namespace: &str, services: &[Arc<Service>], links: bool) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let name = service.metadata.name.as_deref().unwrap_or("");
        let in_namespace = service.metadata.namespace.as_deref().unwrap_or("");
        let master = in_namespace == "default" && name == "kubernetes";
        if !(master || links && in_namespace == namespace) {
            continue;
        }
        let Some(spec) = &service.spec else { continue };
        let address = spec.cluster_ip.as_deref().unwrap_or("");
        let ports = spec.ports.as_deref().unwrap_or(&[]);
        let Some(first) = ports.first() else { continue };
        if address.is_empty() || address == "None" {
            continue;
        }
        let upper = name.to_uppercase().replace(['-', '.'], "_");
        out.insert(format!("{upper}_SERVICE_HOST"), address.to_owned());
        out.insert(format!("{upper}_SERVICE_PORT"), first.port.to_string());
        for (index, port) in ports.iter().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
                let port_name = port_name.to_uppercase().replace('-', "_");
                out.insert(format!("{upper}_SERVICE_PORT_{port_name}"), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            let prefix = format!("{upper}_PORT_{}_{protocol}", port.port);
            if index == 0 {
                out.insert(format!("{upper}_PORT"), url.clone());
            }
            out.insert(prefix.clone(), url);
            out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{prefix}_PORT"), port.port.to_string());
            out.insert(format!("{prefix}_ADDR"), address.to_owned());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion_follows_kubernetes() {
        let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("100$", "100$"),
            ("$$", "$"),
        ] {
            assert_eq!(expand(text, lookup), expected, "{text}");
        }
    }

    fn environment(container: serde_json::Value) -> Result<Environment, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "www", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
            "spec": {"containers": [], "nodeName": "node"},
            "status": {"podIP": "10.244.0.5"},
        }))
        .unwrap();
        let services = [
            json!({"metadata": {"name": "kubernetes", "namespace": "default"},
                   "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}),
            json!({"metadata": {"name": "vote-service", "namespace": "shop"},
                   "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80, "protocol": "TCP"}]}}),
            json!({"metadata": {"name": "other", "namespace": "elsewhere"},
                   "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}}),
            json!({"metadata": {"name": "headless", "namespace": "shop"},
                   "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}),
        ]
        .map(|s| Arc::new(serde_json::from_value::<Service>(s).unwrap()));
        let map: ConfigMap = serde_json::from_value(json!({"data": {"k": "v", "K2": "v2"}})).unwrap();
        let secret: Secret = serde_json::from_value(json!({"data": {"p": "czNjcmV0"}})).unwrap();
        build(
            &serde_json::from_value(container).unwrap(),
            &Sources {
                pod: &pod,
                image: &["PATH=/bin".to_owned(), "A=image".to_owned()],
                services: &services,
                config_maps: &HashMap::from([("m".to_owned(), map)]),
                secrets: &HashMap::from([("s".to_owned(), secret)]),
                node: &NodeCapacity { milli_cpu: 1000, memory: 1, disk: 1 },
            },
        )
    }

    #[test]
    fn later_sources_win_and_may_name_earlier_ones() {
        let env = environment(json!({"name": "c",
        "envFrom": [{"prefix": "M_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s"}}],
        "env": [
            {"name": "A", "value": "pod"},
            {"name": "B", "value": "$(A)-$(VOTE_SERVICE_SERVICE_HOST)-$(M_k)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "p"}}},
            {"name": "GONE", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y", "optional": true}}},
            {"name": "M_k", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "y", "optional": true}}},
            {"name": "PATH", "valueFrom": {"secretKeyRef": {"name": "s", "key": "y", "optional": true}}},
        ]}))
        .unwrap();
        assert_eq!(env.own.get("B").map(String::as_str), Some("pod-10.96.0.9-v"));
        assert_eq!(env.own.get("PATH"), None, "what only the image sets cannot be referred to");
        let env = env.all;
        assert!(!env.iter().any(|e| e.starts_with("GONE=")), "{env:?}");
        for line in [
            "A=pod",
            "B=pod-10.96.0.9-v",
            "IP=10.244.0.5",
            "APP=web",
            "P=s3cret",
            "p=s3cret",
            "M_k=v",
            "M_K2=v2",
            "PATH=/bin",
            "KUBERNETES_SERVICE_PORT_HTTPS=443",
            "VOTE_SERVICE_PORT_80_TCP=tcp://10.96.0.9:80",
        ] {
            assert!(env.iter().any(|e| e == line), "{line} in {env:?}");
        }
        assert!(!env.iter().any(|e| e.starts_with("OTHER_") || e.starts_with("HEADLESS_")));
    }

    #[test]
    fn missing_references_are_named() {
        let missing = |source: serde_json::Value| {
            environment(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]})).unwrap_err()
        };
        assert_eq!(
            missing(json!({"configMapKeyRef": {"name": "none", "key": "k"}})),
            "configmap \"none\" not found"
        );
        assert_eq!(
            missing(json!({"secretKeyRef": {"name": "s", "key": "nokey"}})),
            "couldn't find key nokey in Secret shop/s"
        );
    }
}
