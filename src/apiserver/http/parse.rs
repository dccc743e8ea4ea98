//! From method, path and query to what is asked: one pure function.
//!
//! The grammar is that of k8s.io/apiserver `pkg/endpoints/request/requestinfo.go`.

use hyper::Method;

use super::query::Query;
use crate::api::names;
use crate::api::request::Target;
use crate::api::selector::FieldSelector;

/// What is to be done, before the body is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read a collection.
    List,
    /// Follow a collection or one object.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// Change an object.
    Patch,
    /// Remove an object.
    Delete,
    /// Remove a collection.
    DeleteCollection,
    /// Any other method, such as `OPTIONS`, which only backends of proxies understand.
    Options,
}

impl Verb {
    /// The name in metrics and authorisation.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Watch => "watch",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Patch => "patch",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            // Kubernetes has no name for it: who may do everything may do this.
            Verb::Options => "",
        }
    }
}

/// What a path is.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// About objects.
    Resource(Target, Verb),
    /// One of the server's own documents: discovery, health, version, ...
    Document(String),
}

impl Route {
    /// The name of the one object that a list or watch selects; empty when it selects otherwise.
    pub fn selected_name(&self, query: &Query) -> String {
        if !matches!(self, Route::Resource(_, Verb::List | Verb::Watch)) {
            return String::new();
        }
        let selector = FieldSelector::parse(query.text("fieldSelector")).ok();
        let name = selector.as_ref().and_then(|selector| selector.required("metadata.name"));
        name.filter(|name| names::path_segment(name).is_empty()).unwrap_or_default().to_owned()
    }

    /// Whether answering lasts as long as the client wants.
    pub fn is_long(&self) -> bool {
        let Route::Resource(target, verb) = self else { return false };
        let long = ["attach", "exec", "log", "portforward", "proxy"];
        *verb == Verb::Watch || target.subresource.as_deref().is_some_and(|name| long.contains(&name))
    }
}

/// Subresources of namespaces, which are no kinds within the namespace.
const OF_NAMESPACES: &[&str] = &["status", "finalize"];

/// The subresource whose requests go on to a backend, whatever their method.
pub const PROXY: &str = "proxy";

/// Reads a request's head.
pub fn parse(method: &Method, path: &str, query: &Query) -> Route {
    let parts: Vec<String> =
        path.split('/').filter(|p| !p.is_empty()).map(super::query::decode_path).collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => return Route::Document(path.to_owned()),
    };
    let (legacy_watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        ["namespaces", _] => (None, rest),
        ["namespaces", _, sub] if OF_NAMESPACES.contains(sub) => (None, rest),
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some(*namespace), rest),
        rest => (None, rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, None, None),
        [resource, name] => (*resource, Some(*name), None),
        // What follows a subresource (`services/x/proxy/a/b`) is part of it.
        [resource, name, subresource, ..] => (*resource, Some(*name), Some(*subresource)),
        [] => return Route::Document(path.to_owned()),
    };
    // A slash in a name would name another object in the store; no name has one.
    if [namespace, Some(resource), name].into_iter().flatten().any(|part| part.contains('/')) {
        return Route::Document(path.to_owned());
    }
    let target = Target {
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        subresource: subresource.map(str::to_owned),
    };
    let watch = legacy_watch || (query.flag("watch") && subresource.is_none());
    Route::Resource(target, verb(method, name.is_some(), watch))
}

fn verb(method: &Method, named: bool, watch: bool) -> Verb {
    match (method.as_str(), named) {
        ("GET" | "HEAD", _) if watch => Verb::Watch,
        ("GET" | "HEAD", true) => Verb::Get,
        ("GET" | "HEAD", false) => Verb::List,
        ("POST", _) => Verb::Create,
        ("PUT", _) => Verb::Update,
        ("PATCH", _) => Verb::Patch,
        ("DELETE", true) => Verb::Delete,
        ("DELETE", false) => Verb::DeleteCollection,
        _ => Verb::Options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_kubernetes_reads_them() {
        let cases = [
            // method, path and query, expected "group/version/namespace/resource/name/subresource verb"
            ("GET", "/api/v1/pods", "/v1/-/pods/-/- list"),
            ("GET", "/api/v1/pods?watch=1", "/v1/-/pods/-/- watch"),
            ("GET", "/api/v1/pods?watch=true&labelSelector=a%3Db", "/v1/-/pods/-/- watch"),
            ("GET", "/api/v1/pods?watch=false", "/v1/-/pods/-/- list"),
            ("GET", "/api/v1/namespaces/a/pods", "/v1/a/pods/-/- list"),
            ("GET", "/api/v1/namespaces/a/pods/b", "/v1/a/pods/b/- get"),
            ("HEAD", "/api/v1/namespaces/a/pods/b", "/v1/a/pods/b/- get"),
            ("PUT", "/api/v1/namespaces/a/pods/b/status", "/v1/a/pods/b/status update"),
            ("POST", "/api/v1/namespaces/a/pods/b/binding", "/v1/a/pods/b/binding create"),
            ("GET", "/api/v1/namespaces", "/v1/-/namespaces/-/- list"),
            ("GET", "/api/v1/namespaces/a", "/v1/-/namespaces/a/- get"),
            ("PUT", "/api/v1/namespaces/a/finalize", "/v1/-/namespaces/a/finalize update"),
            ("DELETE", "/api/v1/namespaces/a/pods", "/v1/a/pods/-/- deletecollection"),
            ("DELETE", "/api/v1/namespaces/a/pods/b", "/v1/a/pods/b/- delete"),
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/b", "apps/v1/a/deployments/b/- patch"),
            ("GET", "/api/v1/watch/pods", "/v1/-/pods/-/- watch"),
            ("GET", "/api/v1/watch/namespaces/a/pods/b", "/v1/a/pods/b/- watch"),
            ("GET", "/apis/events.k8s.io/v1/events", "events.k8s.io/v1/-/events/-/- list"),
            ("GET", "/api/v1/nodes/a%3Ab", "/v1/-/nodes/a:b/- get"),
            ("GET", "/api/v1/nodes/n/proxy/stats/summary?watch=1", "/v1/-/nodes/n/proxy get"),
            (
                "PUT",
                "/api/v1/namespaces/a/services/http:b:80/proxy/x",
                "/v1/a/services/http:b:80/proxy update",
            ),
            ("OPTIONS", "/api/v1/namespaces/a/pods/b/proxy/", "/v1/a/pods/b/proxy "),
            ("PUT", "/api/v1/pods", "/v1/-/pods/-/- update"),
            ("OPTIONS", "/api/v1/pods", "/v1/-/pods/-/- "),
        ];
        for (method, uri, expected) in cases {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let Route::Resource(t, verb) = parse(&method, path, &Query::parse(query)) else {
                panic!("{uri} is about objects");
            };
            let show = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".into());
            let seen = format!(
                "{}/{}/{}/{}/{}/{} {}",
                t.group,
                t.version,
                show(&t.namespace),
                t.resource,
                show(&t.name),
                show(&t.subresource),
                verb.name()
            );
            assert_eq!(seen, expected, "{method} {uri}");
        }
    }

    #[test]
    fn other_paths_are_documents() {
        for path in
            ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/openapi/v3/api/v1"]
        {
            let route = parse(&Method::GET, path, &Query::parse(""));
            assert_eq!(route, Route::Document(path.to_owned()));
        }
    }
}
