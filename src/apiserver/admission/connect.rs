//! Requests that write no object of their own: what is posted below one, and conversations with what stands behind it.

use serde_json::{Value, json};

use super::{Attributes, Operation, Options, mutate, validate};
use crate::api::kinds;
use crate::api::request::{Target, User, WriteOptions};
use crate::api::status::Status;
use crate::apiserver::http::query::Query;
use crate::apiserver::proxy::location;
use crate::apiserver::registry::{Place, Registry};

/// Decides about what is posted below an object, such as a binding; what the user is to be told.
pub async fn create_part(
    registry: &Registry,
    user: &User,
    place: Place<'_>,
    subresource: &str,
    body: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, Status> {
    let mut attributes = Attributes {
        operation: Operation::Create,
        kind: place.kind,
        subresource,
        namespace: place.namespace.filter(|_| place.kind.namespaced),
        name: place.name,
        old: None,
        user,
        options: Options::Create(options),
        warnings: Vec::new(),
    };
    mutate(registry, &mut attributes, body).await?;
    // Parts of objects use nothing up.
    drop(validate(registry, &mut attributes, body).await?);
    Ok(attributes.warnings)
}

/// Decides about a conversation, whose wishes are its query, and the rest of its path (`path` is all of it).
pub async fn connect(
    registry: &Registry,
    user: &User,
    target: &Target,
    path: &str,
    query: &Query,
) -> Result<(), Status> {
    let subresource = target.subresource.as_deref().unwrap_or_default();
    let Some(kind) = kinds::by_resource(&target.group, &target.version, &target.resource) else {
        return Ok(());
    };
    let rest = location::rest(path, target.namespace.is_some());
    let Some(mut wishes) = wishes(&target.resource, subresource, &rest, query) else { return Ok(()) };
    let mut attributes = Attributes {
        operation: Operation::Connect,
        kind,
        subresource,
        namespace: target.namespace.as_deref().filter(|_| kind.namespaced),
        name: target.name.as_deref().unwrap_or_default(),
        old: None,
        user,
        options: Options::None,
        warnings: Vec::new(),
    };
    mutate(registry, &mut attributes, &mut wishes).await?;
    drop(validate(registry, &mut attributes, &wishes).await?);
    Ok(())
}

/// The options that a conversation's query stands for; `None` for what is only read, such as a log.
fn wishes(resource: &str, subresource: &str, rest: &str, query: &Query) -> Option<Value> {
    let mut wishes = json!({"apiVersion": "v1"});
    match subresource {
        "exec" | "attach" => {
            wishes["kind"] = json!(if subresource == "exec" { "PodExecOptions" } else { "PodAttachOptions" });
            for flag in ["stdin", "stdout", "stderr", "tty"] {
                if query.flag(flag) {
                    wishes[flag] = json!(true);
                }
            }
            if !query.text("container").is_empty() {
                wishes["container"] = json!(query.text("container"));
            }
            if subresource == "exec" {
                wishes["command"] = query.all("command").collect();
            }
        }
        "portforward" => {
            wishes["kind"] = json!("PodPortForwardOptions");
            let ports = query.all("ports").flat_map(|ports| ports.split(','));
            let ports: Vec<u16> = ports.filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                wishes["ports"] = json!(ports);
            }
        }
        "proxy" => {
            wishes["kind"] = json!(match resource {
                "services" => "ServiceProxyOptions",
                "nodes" => "NodeProxyOptions",
                _ => "PodProxyOptions",
            });
            if !rest.is_empty() {
                wishes["path"] = json!(rest);
            }
        }
        _ => return None,
    }
    Some(wishes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_become_objects() {
        for (subresource, query, expected) in [
            (
                "exec",
                "command=ls&command=-l&stdout=true&tty=false&container=c",
                json!({"apiVersion": "v1", "kind": "PodExecOptions", "command": ["ls", "-l"], "stdout": true, "container": "c"}),
            ),
            (
                "portforward",
                "ports=80,443",
                json!({"apiVersion": "v1", "kind": "PodPortForwardOptions", "ports": [80, 443]}),
            ),
        ] {
            assert_eq!(wishes("pods", subresource, "", &Query::parse(query)), Some(expected));
        }
        let proxied = json!({"apiVersion": "v1", "kind": "ServiceProxyOptions", "path": "/metrics"});
        assert_eq!(wishes("services", "proxy", "/metrics", &Query::parse("a=b")), Some(proxied));
        assert_eq!(wishes("pods", "log", "", &Query::parse("follow=true")), None);
    }
}
