//! From objects as people write them to where a request goes.

use http::{HeaderMap, Method};
use serde_json::{Value, json};

use super::*;
use crate::ingress::route::Asked;
use crate::ingress::tls;

/// A cluster of these objects.
#[derive(Default)]
struct Cluster {
    ingresses: Vec<Arc<Ingress>>,
    secrets: Vec<Arc<Secret>>,
}

fn read<T: serde::de::DeserializeOwned>(object: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(object).unwrap())
}

impl Cluster {
    /// One more ingress, younger than those before.
    fn with(self, name: &str, annotations: Value, spec: Value) -> Cluster {
        self.with_in("d", name, annotations, spec)
    }

    /// The same in any namespace.
    fn with_in(mut self, namespace: &str, name: &str, annotations: Value, spec: Value) -> Cluster {
        let mut spec = spec;
        if spec["ingressClassName"].is_null() {
            spec["ingressClassName"] = json!("nginx");
        }
        let at = format!("2026-01-01T00:00:{:02}Z", self.ingresses.len());
        let mut prefixed = serde_json::Map::new();
        for (name, value) in annotations.as_object().into_iter().flatten() {
            prefixed.insert(format!("{PREFIX}{name}"), value.clone());
        }
        self.ingresses.push(read(json!({
            "metadata": {"namespace": namespace, "name": name, "annotations": prefixed, "creationTimestamp": at},
            "spec": spec,
        })));
        self
    }

    fn secret(mut self, name: &str, data: &[(&str, &str)]) -> Cluster {
        let data: BTreeMap<String, k8s_openapi::ByteString> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), k8s_openapi::ByteString(value.as_bytes().to_vec())))
            .collect();
        let secret = json!({"metadata": {"namespace": "d", "name": name, "uid": name}, "data": data});
        self.secrets.push(read(secret));
        self
    }

    fn plan(&self) -> Plan {
        let class = json!({"metadata": {"name": "nginx"}, "spec": {"controller": CONTROLLER}});
        let other = json!({"metadata": {"name": "other"}, "spec": {"controller": "example.com/other"}});
        let (mut services, mut slices) = (Vec::new(), Vec::new());
        for (n, name) in ["a", "b", "c"].into_iter().enumerate() {
            services.push(read(json!({"metadata": {"namespace": "d", "name": name},
                "spec": {"ports": [{"port": 80}]}})));
            slices.push(read(json!({"metadata": {"namespace": "d", "name": name,
                "labels": {"kubernetes.io/service-name": name}}, "addressType": "IPv4",
                "ports": [{"port": 8080}], "endpoints": [{"addresses": [format!("10.244.0.{n}")]}]})));
        }
        let observed = Observed {
            ingresses: &self.ingresses,
            classes: &[read(class), read(other)],
            services: &services,
            slices: &slices,
            secrets: &self.secrets,
        };
        plan(&observed, &mut Memory::default())
    }
}

fn backend(service: &str) -> Value {
    json!({"service": {"name": service, "port": {"number": 80}}})
}

/// Paths, each as path, type and service, for a host.
fn rule(host: &str, paths: &[(&str, &str, &str)]) -> Value {
    let paths: Vec<Value> = paths
        .iter()
        .map(|(path, kind, service)| json!({"path": path, "pathType": kind, "backend": backend(service)}))
        .collect();
    json!({"rules": [{"host": host, "http": {"paths": paths}}]})
}

/// The service that answers, and whether it is the canary.
fn served(plan: &Plan, host: &str, path: &str, headers: &[(&'static str, &'static str)]) -> String {
    let headers: HeaderMap =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let asked = Asked {
        host,
        authority: host,
        path,
        uri: path,
        method: &Method::GET,
        headers: &headers,
        tls: false,
        client: "10.0.0.1".parse().unwrap(),
        dice: 0,
    };
    match plan.table.host(host).find(path) {
        Some(location) => location.choose(&asked, None).0.name.clone(),
        None => String::new(),
    }
}

#[test]
fn hosts_and_paths_lead_to_services() {
    let cluster = Cluster::default()
        .with("one", json!({}), rule("x.example", &[("/", "Prefix", "a"), ("/b", "Prefix", "b")]))
        // The older ingress has the path already.
        .with("two", json!({}), rule("x.example", &[("/b", "Prefix", "c"), ("/c", "Exact", "c")]))
        .with("star", json!({}), rule("*.y.example", &[("/", "ImplementationSpecific", "b")]))
        .with("all", json!({}), json!({"defaultBackend": backend("c")}))
        .with("mixed", json!({}), {
            let mut spec = rule("z.example", &[("/only", "Prefix", "a")]);
            spec["defaultBackend"] = backend("b");
            spec
        })
        .with("foreign", json!({}), {
            let mut spec = rule("w.example", &[("/", "Prefix", "a")]);
            spec["ingressClassName"] = json!("other");
            spec
        });
    let plan = cluster.plan();
    assert_eq!(plan.ours.len(), 5);
    for (host, path, service) in [
        ("x.example", "/", "d/a:80"),
        ("x.example", "/b/x", "d/b:80"),
        ("x.example", "/c", "d/c:80"),
        ("x.example", "/c/x", "d/a:80"),
        ("v.y.example", "/any", "d/b:80"),
        ("u.v.y.example", "/any", "d/c:80"),
        ("unknown", "/", "d/c:80"),
        ("w.example", "/", "d/c:80"),
        ("z.example", "/only", "d/a:80"),
        ("z.example", "/other", "d/b:80"),
    ] {
        assert_eq!(served(&plan, host, path, &[]), service, "{host}{path}");
    }
    assert_eq!(plan.table.endpoints().count(), 7);
}

#[test]
fn one_ingress_with_patterns_makes_its_host_blind_to_case() {
    let cluster = Cluster::default()
        .with(
            "patterns",
            json!({"use-regex": "true"}),
            rule("x.example", &[("/n/[0-9]+", "ImplementationSpecific", "a")]),
        )
        .with(
            "plain",
            json!({}),
            rule(
                "x.example",
                &[("/app", "Prefix", "b"), ("/one", "Exact", "c"), ("/(", "ImplementationSpecific", "c")],
            ),
        )
        .with("other", json!({}), rule("y.example", &[("/n/[0-9]+", "ImplementationSpecific", "a")]));
    let plan = cluster.plan();
    for (host, path, service) in [
        ("x.example", "/n/42", "d/a:80"),
        ("x.example", "/N/42x", "d/a:80"),
        ("x.example", "/n/x", ""),
        ("x.example", "/APP/x", "d/b:80"),
        ("x.example", "/apple", ""),
        ("x.example", "/One", "d/c:80"),
        ("x.example", "/one/x", ""),
        ("x.example", "/(", "d/c:80"),
        ("y.example", "/n/42", ""),
    ] {
        assert_eq!(served(&plan, host, path, &[]), service, "{host}{path}");
    }
    assert_eq!(
        plan.ours[1].1,
        ["the path \"/(\" is compared as it stands and not as a regular expression: unclosed group"]
    );
    assert!(plan.ours[0].1.is_empty() && plan.ours[2].1.is_empty());
}

#[test]
fn a_canary_belongs_to_the_ingress_of_its_path() {
    let canary = json!({"canary": "true", "canary-by-header": "x-new"});
    let plan = Cluster::default()
        // It may be older than what it is the canary of.
        .with("canary", canary.clone(), rule("x.example", &[("/", "Prefix", "b")]))
        .with("main", json!({}), rule("x.example", &[("/", "Prefix", "a")]))
        .with("lost", canary.clone(), rule("y.example", &[("/", "Prefix", "b")]))
        .with("exact", canary.clone(), rule("x.example", &[("/", "Exact", "c")]))
        .with_in("e", "foreign", canary.clone(), rule("x.example", &[("/", "Prefix", "c")]))
        .plan();
    assert_eq!(served(&plan, "x.example", "/", &[]), "d/a:80");
    assert_eq!(served(&plan, "x.example", "/", &[("x-new", "always")]), "d/b:80");
    assert_eq!(served(&plan, "y.example", "/", &[("x-new", "always")]), "");
    let complaints: Vec<&String> = plan.ours.iter().flat_map(|(_, complaints)| complaints).collect();
    let told = [("d", "y", "Prefix"), ("d", "x", "Exact"), ("e", "x", "Prefix")].map(|(namespace, host, kind)| {
        format!(
            "{PREFIX}canary: there is no other ingress in namespace {namespace} for host \"{host}.example\" and path \
             \"/\" of type {kind} to be the canary of"
        )
    });
    assert_eq!(complaints, told.iter().collect::<Vec<_>>());
    let foreign = Cluster::default()
        .with("main", json!({}), rule("x.example", &[("/", "Prefix", "a")]))
        .with_in("e", "foreign", canary, rule("x.example", &[("/", "Prefix", "c")]))
        .plan();
    assert_eq!(served(&foreign, "x.example", "/", &[("x-new", "always")]), "d/a:80");
}

#[test]
fn what_an_older_ingress_has_is_told() {
    let canary = json!({"canary": "true", "canary-weight": "10"});
    let twice = |host: &str| {
        let mut spec = rule(host, &[("/", "Prefix", "b"), ("/", "Exact", "b")]);
        spec["defaultBackend"] = backend("b");
        spec
    };
    let plan = Cluster::default()
        .with("older", json!({}), twice("x.example"))
        .with("younger", json!({}), twice("x.example"))
        .with("canary", canary.clone(), rule("x.example", &[("/", "Prefix", "c")]))
        .with("second", canary, rule("x.example", &[("/", "Prefix", "c")]))
        .plan();
    let complaints: Vec<_> = plan.ours.into_iter().map(|(_, complaints)| complaints).collect();
    let taken = |kind: &str| {
        format!(
            "host \"x.example\" and path \"/\" of type {kind} are already defined in ingress d/older, which has the requests"
        )
    };
    let default = "host \"x.example\" already has the default backend of ingress d/older".to_owned();
    let second = format!(
        "{PREFIX}canary: host \"x.example\" and path \"/\" of type Prefix already have the canary d/canary, and one is all \
         that they can have"
    );
    assert_eq!(complaints, [vec![], vec![default, taken("Prefix"), taken("Exact")], vec![], vec![second]]);
}

#[test]
fn certificates_come_from_secrets() {
    let (certificate, key) = tls::tests::pair(&["x.example"]);
    let with = |tls: Value| {
        let mut spec = rule("x.example", &[("/", "Prefix", "a")]);
        spec["tls"] = tls;
        Cluster::default()
            .with("web", json!({}), spec)
            .secret("good", &[("tls.crt", &certificate), ("tls.key", &key)])
            .secret("half", &[("tls.crt", &certificate)])
            .plan()
    };
    for (tls, certified, secured, complaint) in [
        (json!([]), vec![], false, None),
        (
            json!([{"hosts": ["x.example", "*.y"], "secretName": "good"}]),
            vec!["*.y", "x.example"],
            true,
            None,
        ),
        (json!([{"secretName": "good"}]), vec!["x.example"], true, None),
        (json!([{"hosts": ["*.example"], "secretName": "good"}]), vec!["*.example"], true, None),
        (json!([{"hosts": ["*.other"], "secretName": "good"}]), vec!["*.other"], false, None),
        (json!([{"hosts": ["x.example"]}]), vec![], true, None),
        (json!([{"secretName": "half"}]), vec![], true, Some("the secret d/half has no tls.key")),
        (json!([{"secretName": "none"}]), vec![], true, Some("the secret d/none does not exist")),
    ] {
        let plan = with(tls);
        let mut hosts: Vec<&str> = plan.certificates.keys().map(String::as_str).collect();
        hosts.sort_unstable();
        assert_eq!((hosts, plan.table.host("x.example").tls), (certified, secured));
        let told = complaint.map(|why| format!("{why}; clients are shown a generated certificate"));
        assert_eq!(plan.ours[0].1, told.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_password_that_cannot_be_asked_for_closes() {
    for (secret, open) in
        [("users", true), ("d/users", true), ("e/users", false), ("none", false), ("empty", false)]
    {
        let annotations = json!({"auth-type": "basic", "auth-secret": secret});
        let plan = Cluster::default()
            .with("web", annotations, rule("x.example", &[("/", "Prefix", "a")]))
            .secret("users", &[("auth", "me:{PLAIN}x")])
            .secret("empty", &[])
            .plan();
        let location = plan.table.host("x.example").find("/").unwrap();
        assert_eq!((location.guard.is_some(), location.settings.denied.is_none()), (open, open), "{secret}");
        assert_eq!(plan.ours[0].1.is_empty(), open);
    }
}

#[test]
fn further_names_lead_to_the_same_place() {
    let (certificate, key) = tls::tests::pair(&["x.example"]);
    let mut secured = rule("x.example", &[("/", "Prefix", "a")]);
    secured["tls"] = json!([{"hosts": ["x.example"], "secretName": "good"}]);
    let plan = Cluster::default()
        .with("one", json!({"server-alias": "www.x.example, y.example, *.z.example, x.example"}), secured)
        .with("two", json!({"server-alias": "w.example"}), rule("y.example", &[("/", "Prefix", "b")]))
        .with("star", json!({"server-alias": "w.example"}), rule("*.s.example", &[("/", "Prefix", "c")]))
        .with("sky", json!({"server-alias": "v.example"}), rule("*.t.example", &[("/", "Prefix", "c")]))
        .secret("good", &[("tls.crt", &certificate), ("tls.key", &key)])
        .plan();
    for (host, service) in [
        ("www.x.example", "d/a:80"),
        ("any.z.example", "d/a:80"),
        ("y.example", "d/b:80"),
        ("w.example", "d/b:80"),
        ("v.example", "d/c:80"),
    ] {
        assert_eq!(served(&plan, host, "/", &[]), service, "{host}");
    }
    let mut certified: Vec<&str> = plan.certificates.keys().map(String::as_str).collect();
    certified.sort_unstable();
    assert_eq!(certified, ["*.z.example", "www.x.example", "x.example"]);
    let told = |host: &str| vec![format!("{PREFIX}server-alias: {host:?} is a host of another ingress")];
    let complaints: Vec<_> = plan.ours.into_iter().map(|(_, complaints)| complaints).collect();
    assert_eq!(complaints, [told("y.example"), vec![], told("w.example"), vec![]]);
}

#[test]
fn a_host_has_its_name_with_and_without_www() {
    let (certificate, key) = tls::tests::pair(&["x.example"]);
    let mut secured = rule("x.example", &[("/", "Prefix", "a"), ("/b", "Prefix", "b")]);
    secured["tls"] = json!([{"hosts": ["x.example"], "secretName": "good"}]);
    let www = json!({"from-to-www-redirect": "true"});
    let plan = Cluster::default()
        .with("one", www.clone(), secured)
        .with("two", www.clone(), rule("www.y.example", &[("/", "Prefix", "b")]))
        .with("three", www, rule("z.example", &[("/", "Prefix", "b")]))
        .with("other", json!({}), rule("www.z.example", &[("/", "Prefix", "c")]))
        .secret("good", &[("tls.crt", &certificate), ("tls.key", &key)])
        .plan();
    let moved = |host: &str| plan.table.host(host).moved.clone();
    assert_eq!(moved("www.x.example").as_deref(), Some("x.example"));
    assert_eq!(moved("y.example").as_deref(), Some("www.y.example"));
    assert_eq!((moved("x.example"), moved("www.z.example"), moved("w.example")), (None, None, None));
    assert!(plan.certificates.contains_key("www.x.example"));
    let complaints: Vec<_> = plan.ours.iter().map(|(_, complaints)| complaints.len()).collect();
    assert_eq!(complaints, [0, 0, 1, 0]);
}

#[test]
fn failures_have_a_backend_of_their_own() {
    let errors = |service: &str| {
        let annotations = json!({"custom-http-errors": "404", "default-backend": service});
        Cluster::default().with("web", annotations, rule("x.example", &[("/", "Prefix", "a")])).plan()
    };
    let plan = errors("b");
    let location = plan.table.host("x.example").find("/").unwrap();
    assert_eq!(
        location.errors.as_ref().unwrap().target,
        Target::Endpoints(vec!["10.244.0.1:8080".parse().unwrap()])
    );
    assert!(plan.asked.contains(&"10.244.0.1".parse().unwrap()), "it is asked too");
    let plan = errors("none");
    assert!(plan.table.host("x.example").find("/").unwrap().errors.is_none());
    assert_eq!(plan.ours[0].1.len(), 1);
}

#[test]
fn the_class_decides_who_carries_it_out() {
    let classes = [("nginx", CONTROLLER), ("mine", CONTROLLER), ("other", "example.com/other")].map(
        |(name, controller)| read(json!({"metadata": {"name": name}, "spec": {"controller": controller}})),
    );
    for (annotation, class, ours) in [
        (None, None, false),
        (None, Some("nginx"), true),
        (None, Some("mine"), true),
        (None, Some("other"), false),
        (None, Some("unknown"), false),
        (Some("nginx"), None, true),
        (Some("traefik"), None, false),
    ] {
        let mut ingress = json!({"metadata": {"name": "i"}, "spec": {"ingressClassName": class}});
        if let Some(annotation) = annotation {
            ingress["metadata"]["annotations"] = json!({ CLASS_ANNOTATION: annotation });
        }
        assert_eq!(is_ours(&read(ingress), &classes), ours, "{annotation:?} {class:?}");
    }
    let annotated = read(json!({"metadata": {"name": "i", "annotations": {CLASS_ANNOTATION: "nginx"}}}));
    assert!(is_ours(&annotated, &[]));
}
