//! What a pod has that its author did not write (`SetDefaults_Pod*` of Kubernetes' core defaults).

use serde_json::{Value, json};

use crate::api::resources;
use crate::api::value::{fill, fill_zero, is_set, items_mut, object, text};

/// 0644, the mode of files in volumes.
const MODE: i64 = 0o644;

/// Fills in a pod.
pub fn pod(pod: &mut Value) {
    object(pod, "spec");
    object(pod, "status");
    fill_zero(&mut pod["status"], "phase", "Pending");
    let spec = &mut pod["spec"];
    self::spec(spec);
    fill(spec, "enableServiceLinks", true);
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list).filter(|c| c.is_object()) {
            requests(container);
            if host_network {
                items_mut(container, "ports").for_each(host_port);
            }
        }
    }
    requests_of_whole(spec);
}

/// A pod that states limits for itself asks for what its containers ask for, and for its limits where they ask for
/// nothing.
fn requests_of_whole(spec: &mut Value) {
    let limits = resources::of_whole_pod(spec, "limits");
    if limits.is_empty() {
        return;
    }
    let mut asked = resources::of_pod_containers(spec, "requests");
    asked.retain(|name, _| matches!(name.as_str(), "cpu" | "memory"));
    for (name, limit) in limits {
        asked.entry(name).or_insert(limit);
    }
    let requests = object(&mut spec["resources"], "requests");
    if let Value::Object(asked) = resources::write(&asked) {
        for (name, amount) in asked {
            requests.entry(name).or_insert(amount);
        }
    }
}

/// What pods and the templates of pods have in common; the rest is filled in where a template becomes a pod.
pub fn spec(spec: &mut Value) {
    fill_zero(spec, "restartPolicy", "Always");
    fill_zero(spec, "dnsPolicy", "ClusterFirst");
    fill_zero(spec, "schedulerName", "default-scheduler");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "securityContext", json!({}));
    // The deprecated name of the field is kept in step with the new one.
    if !is_set(spec, "serviceAccountName") && is_set(spec, "serviceAccount") {
        spec["serviceAccountName"] = spec["serviceAccount"].clone();
    } else if is_set(spec, "serviceAccountName") {
        spec["serviceAccount"] = spec["serviceAccountName"].clone();
    }
    items_mut(spec, "volumes").for_each(volume);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items_mut(spec, list).filter(|c| c.is_object()).for_each(container);
    }
}

fn host_port(port: &mut Value) {
    let number = port["containerPort"].clone();
    fill_zero(port, "hostPort", number);
}

fn container(container: &mut Value) {
    fill_zero(container, "terminationMessagePath", "/dev/termination-log");
    fill_zero(container, "terminationMessagePolicy", "File");
    fill(container, "resources", json!({}));
    let policy = pull_policy(text(container, "image"));
    fill_zero(container, "imagePullPolicy", policy);
    for port in items_mut(container, "ports") {
        fill_zero(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
            fill_zero(reference, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name).filter(|p| p.is_object()) {
            self::probe(probe);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(get) = container.pointer_mut(hook) {
            http_get(get);
        }
    }
}

/// `Always` for images whose tag is `latest` or absent.
fn pull_policy(image: &str) -> &'static str {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains('@') {
        return "IfNotPresent";
    }
    match name.split_once(':') {
        None | Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
    }
}

/// A limit without a request is also the request.
fn requests(container: &mut Value) {
    let limits = container["resources"]["limits"].clone();
    if let Value::Object(limits) = limits
        && !limits.is_empty()
    {
        let requests = object(&mut container["resources"], "requests");
        for (resource, amount) in limits {
            requests.entry(resource).or_insert(amount);
        }
    }
}

fn probe(probe: &mut Value) {
    fill_zero(probe, "timeoutSeconds", 1);
    fill_zero(probe, "periodSeconds", 10);
    fill_zero(probe, "successThreshold", 1);
    fill_zero(probe, "failureThreshold", 3);
    if let Some(get) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        fill(grpc, "service", "");
    }
}

fn http_get(get: &mut Value) {
    fill_zero(get, "path", "/");
    fill_zero(get, "scheme", "HTTP");
}

fn volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |map| map.keys().filter(|key| *key != "name").count());
    if sources == 0 {
        fill(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            fill(source, "defaultMode", MODE);
        }
    }
    if let Some(image) = volume.get_mut("image").filter(|image| image.is_object()) {
        let policy = match text(image, "reference") {
            "" => "IfNotPresent",
            reference => pull_policy(reference),
        };
        fill_zero(image, "pullPolicy", policy);
    }
    if let Some(path) = volume.get_mut("hostPath") {
        fill(path, "type", "");
    }
    if let Some(downward) = volume.get_mut("downwardAPI") {
        items_mut(downward, "items").for_each(downward_item);
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in items_mut(projected, "sources") {
            if let Some(downward) = source.get_mut("downwardAPI") {
                items_mut(downward, "items").for_each(downward_item);
            }
            if let Some(token) = source.get_mut("serviceAccountToken") {
                fill(token, "expirationSeconds", 3600);
            }
        }
    }
}

fn downward_item(item: &mut Value) {
    if let Some(reference) = item.get_mut("fieldRef") {
        fill_zero(reference, "apiVersion", "v1");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minimal_pod_becomes_what_kubectl_shows() {
        let mut given = json!({
            "spec": {
                "containers": [{
                    "name": "www", "image": "nginx", "ports": [{"containerPort": 80}],
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
                    "livenessProbe": {"httpGet": {"port": 80}},
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
                }],
                "volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/b"}}, {"name": "c", "configMap": {"name": "c"}}]
            }
        });
        pod(&mut given);
        let again = given.clone();
        pod(&mut given);
        assert_eq!(given, again);
        assert_eq!(
            given,
            json!({
                "spec": {
                    "containers": [{
                        "name": "www", "image": "nginx", "imagePullPolicy": "Always",
                        "ports": [{"containerPort": 80, "protocol": "TCP"}],
                        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                        "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                                          "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                        "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"
                    }],
                    "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/b", "type": ""}},
                                {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}],
                    "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                    "terminationGracePeriodSeconds": 30, "enableServiceLinks": true, "securityContext": {}
                },
                "status": {"phase": "Pending"}
            })
        );
    }

    #[test]
    fn host_network_takes_the_ports_of_the_host() {
        let mut given =
            json!({"spec": {"hostNetwork": true, "containers": [{"ports": [{"containerPort": 80}]}]}});
        pod(&mut given);
        assert_eq!(given["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.12.2", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
    #[test]
    fn a_pod_that_limits_itself_asks_for_something() {
        let asks = |cpu: &str| json!([{"name": "a", "resources": {"requests": {"cpu": cpu}}}]);
        for (containers, whole, expected) in [
            (
                asks("100m"),
                json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
                json!({"cpu": "100m", "memory": "1Gi"}),
            ),
            (
                asks("100m"),
                json!({"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}),
                json!({"cpu": "500m"}),
            ),
            (asks("100m"), json!({"requests": {"memory": "1Gi"}}), json!({"memory": "1Gi"})),
        ] {
            let mut made = json!({"spec": {"containers": containers, "resources": whole}});
            pod(&mut made);
            assert_eq!(made["spec"]["resources"]["requests"], expected, "{whole}");
        }
    }
}
