//! Whether the server behind an APIService can be asked (pure, but for the question itself, which is asked elsewhere).
//!
//! Reasons and words are those of kube-aggregator `pkg/controllers/status/remote`.

use serde_json::{Value, json};

use crate::api::meta;

/// What is known of an APIService.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `True` or `False`.
    pub available: bool,
    /// `Passed`, `ServiceNotFound`, ...
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What the objects say: `Err` is the end of it, `Ok` the name of the port at which the server must be asked.
pub fn look<'a>(
    service: &Value,
    backend: Option<&'a Value>,
    slices: &[&Value],
) -> Result<&'a str, Condition> {
    let text = |field: &str| service["spec"]["service"][field].as_str().unwrap_or_default();
    let (name, namespace) = (text("name"), text("namespace"));
    let no = |reason, message| Err(Condition { available: false, reason, message });
    let Some(backend) = backend else {
        return no("ServiceNotFound", format!("service/{name} in {namespace:?} is not present"));
    };
    let number = port(service);
    let mut ports = backend["spec"]["ports"].as_array().into_iter().flatten();
    let Some(port) = ports.find(|port| port["port"] == number) else {
        return no(
            "ServicePortError",
            format!("service/{name} in {namespace:?} is not listening on port {number}"),
        );
    };
    let port = port["name"].as_str().unwrap_or_default();
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return no("EndpointsNotFound", message);
    }
    let list = |slice: &'_ Value, field: &str| slice[field].as_array().cloned().unwrap_or_default();
    let answers = |slice: &&Value| {
        list(slice, "endpoints").iter().any(|endpoint| endpoint["conditions"]["ready"] != false)
            && list(slice, "ports")
                .iter()
                .any(|p| p["name"].as_str().unwrap_or_default() == port && p["port"].is_u64())
    };
    if !slices.iter().any(answers) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port:?}"
        );
        return no("MissingEndpoints", message);
    }
    Ok(port)
}

/// The port of its service at which an APIService's server is asked.
pub fn port(service: &Value) -> u16 {
    service["spec"]["service"]["port"].as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(443)
}

/// The path that every such server must serve.
pub fn path(service: &Value) -> String {
    let text = |field: &str| service["spec"][field].as_str().unwrap_or_default();
    match text("group") {
        "" => format!("/api/{}", text("version")),
        group => format!("/apis/{group}/{}", text("version")),
    }
}

impl Condition {
    /// Everything is well.
    pub fn passed() -> Condition {
        Condition { available: true, reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// It was asked, and this went wrong.
    pub fn failed(message: String) -> Condition {
        Condition { available: false, reason: "FailedDiscoveryCheck", message }
    }

    /// The conditions as the status must have them; `None` when they say so already.
    pub fn into_conditions(self, old: &Value, now: jiff::Timestamp) -> Option<Value> {
        let status = if self.available { "True" } else { "False" };
        let mut all = old["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let before = all.iter().position(|condition| condition["type"] == "Available");
        let since = match before.map(|at| &all[at]) {
            Some(known) if known["status"] == status => known["lastTransitionTime"].clone(),
            _ => json!(meta::timestamp(now)),
        };
        let condition = json!({"type": "Available", "status": status, "reason": self.reason,
            "message": self.message, "lastTransitionTime": since});
        match before {
            Some(at) if all[at] == condition => return None,
            Some(at) => all[at] = condition,
            None => all.push(condition),
        }
        Some(all.into())
    }
}

/// Whether an APIService says that its server can be asked.
pub fn is_available(service: &Value) -> bool {
    let conditions = service["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Available" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_in_kubernetes_words() {
        let service = json!({"spec": {"group": "g.io", "version": "v1", "service": {"name": "s", "namespace": "n", "port": 8443}}});
        let backend = json!({"spec": {"ports": [{"name": "https", "port": 8443}]}});
        let other = json!({"spec": {"ports": [{"name": "https", "port": 443}]}});
        let slice = |ready: bool, name: &str| {
            json!({"ports": [{"name": name, "port": 8443}],
                "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]})
        };
        let (good, unready, misnamed) = (slice(true, "https"), slice(false, "https"), slice(true, "web"));
        let why = |backend: Option<&Value>, slices: &[&Value]| match look(&service, backend, slices) {
            Ok(port) => format!("asked at {port}"),
            Err(condition) => format!("{}: {}", condition.reason, condition.message),
        };
        let missing = "MissingEndpoints: endpointslices for service/s in \"n\" have no addresses with port name \"https\"";
        assert_eq!(why(None, &[]), "ServiceNotFound: service/s in \"n\" is not present");
        assert_eq!(
            why(Some(&other), &[&good]),
            "ServicePortError: service/s in \"n\" is not listening on port 8443"
        );
        assert_eq!(
            why(Some(&backend), &[]),
            "EndpointsNotFound: cannot find endpointslices for service/s in \"n\""
        );
        assert_eq!(why(Some(&backend), &[&unready]), missing);
        assert_eq!(why(Some(&backend), &[&misnamed]), missing);
        assert_eq!(why(Some(&backend), &[&unready, &good]), "asked at https");
        assert_eq!((port(&service), path(&service).as_str()), (8443, "/apis/g.io/v1"));
        assert_eq!((port(&json!({})), path(&json!({"spec": {"version": "v1"}})).as_str()), (443, "/api/v1"));
    }

    #[test]
    fn a_condition_changes_its_time_only_with_its_status() {
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        let mut service = json!({"status": {}});
        let first = Condition::passed().into_conditions(&service, at("2024-01-01T00:00:00Z")).unwrap();
        service["status"]["conditions"] = first;
        assert!(is_available(&service));
        assert_eq!(Condition::passed().into_conditions(&service, at("2024-01-02T00:00:00Z")), None);
        let failed =
            Condition::failed("x".into()).into_conditions(&service, at("2024-01-03T00:00:00Z")).unwrap();
        assert_eq!(failed[0]["lastTransitionTime"], "2024-01-03T00:00:00Z");
        service["status"]["conditions"] = failed;
        let again =
            Condition::failed("y".into()).into_conditions(&service, at("2024-01-04T00:00:00Z")).unwrap();
        assert_eq!(
            (&again[0]["lastTransitionTime"], &again[0]["message"]),
            (&json!("2024-01-03T00:00:00Z"), &json!("y"))
        );
        assert!(!is_available(&service));
    }
}
