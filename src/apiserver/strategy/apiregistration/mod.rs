//! `apiregistration.k8s.io`: APIServices, who serves a group and version.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::column::{self, AGE, NAME};
use super::error::{invalid, one_of};
use super::value::{fill, is_set, items, text};
use super::{Column, Strategy};
use crate::api::status::FieldError;
use crate::api::{meta, names};
use crate::clock;

/// The highest priorities of groups and of versions within a group.
const GROUP_PRIORITY: i64 = 20000;
const VERSION_PRIORITY: i64 = 1000;

/// The strategy of a kind of this group.
pub(super) fn of(kind: &str) -> Option<&'static dyn Strategy> {
    match kind {
        "APIService" => Some(&ApiService),
        _ => None,
    }
}

/// The strategy of API services.
struct ApiService;

impl Strategy for ApiService {
    fn default(&self, object: &mut Value) {
        if let Some(service) = object.pointer_mut("/spec/service").filter(|service| service.is_object()) {
            fill(service, "port", 443);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        let mut status = json!({});
        if object["spec"]["service"].is_null() {
            status = json!({"conditions": [{"type": "Available", "status": "True", "reason": "Local",
                "message": "Local APIServices are always available",
                "lastTransitionTime": meta::timestamp(clock::now())}]});
        }
        if let Some(fields) = object.as_object_mut() {
            fields.insert("status".to_owned(), status);
        }
    }

    fn prepare_status_update(&self, new: &mut Value, old: &Value) {
        for field in ["labels", "annotations", "finalizers"] {
            meta::carry(new, old, field);
        }
    }

    fn name_errors(&self, object: &Value, name: &str) -> Vec<String> {
        let wrong = names::path_segment(name);
        if !wrong.is_empty() {
            return wrong;
        }
        let right = format!("{}.{}", text(&object["spec"], "version"), text(&object["spec"], "group"));
        match name == right {
            true => Vec::new(),
            false => vec![format!("must be `spec.version+\".\"+spec.group`: {right:?}")],
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let spec = &object["spec"];
        let (group, version) = (text(spec, "group"), text(spec, "version"));
        let mut errors = Vec::new();
        if group.is_empty() && version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.push(FieldError::required("spec.group", why));
        }
        if !group.is_empty() {
            errors.extend(invalid("spec.group", &group.into(), names::dns_subdomain(group)));
        }
        errors.extend(invalid("spec.version", &version.into(), names::dns1035_label(version)));
        for (field, most) in [("groupPriorityMinimum", GROUP_PRIORITY), ("versionPriority", VERSION_PRIORITY)]
        {
            let given = spec[field].as_i64().unwrap_or(0);
            if given <= 0 || given > most {
                let why = format!("must be positive and less than {most}");
                errors.push(FieldError::invalid(format!("spec.{field}"), &given.into(), &why));
            }
        }
        errors.extend(if spec["service"].is_null() { local(spec) } else { remote(spec) });
        errors
    }

    fn validate_status_update(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        const STATUSES: [&str; 3] = ["True", "False", "Unknown"];
        let conditions = items(&new["status"], "conditions").iter().enumerate();
        conditions
            .filter_map(|(i, condition)| {
                one_of(&format!("status.conditions[{i}].status"), &condition["status"], &STATUSES)
            })
            .collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text("Service", "The service that answers."),
            column::text("Available", "Whether it answers."),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let service = &object["spec"]["service"];
        let shown = match service.is_null() {
            true => "Local".to_owned(),
            false => format!("{}/{}", text(service, "namespace"), text(service, "name")),
        };
        let condition = items(&object["status"], "conditions").iter().find(|c| c["type"] == "Available");
        let available = match condition.map(|c| (text(c, "status"), text(c, "reason"))) {
            None => "Unknown".to_owned(),
            Some((status, reason)) if status == "True" || reason.is_empty() => status.to_owned(),
            Some((status, reason)) => format!("{status} ({reason})"),
        };
        vec![column::name(object), shown.into(), available.into(), column::age(object, now)]
    }
}

/// What makes no sense for what this server answers itself.
fn local(spec: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if is_set(spec, "caBundle") {
        let bytes = text(spec, "caBundle").trim_end_matches('=').len() * 3 / 4;
        let why = "local APIServices may not have a caBundle";
        errors.push(FieldError::invalid("spec.caBundle", &format!("{bytes} bytes").into(), why));
    }
    if is_set(spec, "insecureSkipTLSVerify") {
        let why = "local APIServices may not have insecureSkipTLSVerify";
        errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", &true.into(), why));
    }
    errors
}

fn remote(spec: &Value) -> Vec<FieldError> {
    let service = &spec["service"];
    let mut errors = Vec::new();
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            errors.push(FieldError::required(format!("spec.service.{field}"), ""));
        }
    }
    let port = service["port"].as_i64().unwrap_or(0);
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let why = format!("port is not valid: {}", wrong.join(", "));
        errors.push(FieldError::invalid("spec.service.port", &port.into(), &why));
    }
    if is_set(spec, "insecureSkipTLSVerify") && is_set(spec, "caBundle") {
        let why = "may not be true if caBundle is present";
        errors.push(FieldError::invalid("spec.insecureSkipTLSVerify", &true.into(), why));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_by_what_they_serve() {
        let object = json!({"spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
            "versionPriority": 100, "service": {"namespace": "kube-system", "name": "metrics-server"}}});
        let mut object = object;
        ApiService.default(&mut object);
        assert_eq!(object["spec"]["service"]["port"], 443);
        assert!(ApiService.validate(&object).is_empty());
        assert!(ApiService.name_errors(&object, "v1beta1.metrics.k8s.io").is_empty());
        assert_eq!(
            ApiService.name_errors(&object, "x"),
            ["must be `spec.version+\".\"+spec.group`: \"v1beta1.metrics.k8s.io\""]
        );
    }

    #[test]
    fn wrong_services_are_told() {
        let wrong = json!({"spec": {"version": "v2", "caBundle": "YWJj", "versionPriority": 1}});
        let errors: Vec<String> = ApiService.validate(&wrong).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "spec.group: Required value: only v1 may have an empty group and it better be legacy kube",
                "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
            ]
        );
    }

    #[test]
    fn local_services_are_available() {
        let mut object = json!({"spec": {"version": "v1"}});
        ApiService.prepare_create(&mut object);
        let cells = ApiService.cells(&object, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1..3], [json!("Local"), json!("True")]);
        object["status"]["conditions"][0]["status"] = "False".into();
        assert_eq!(ApiService.cells(&object, Timestamp::UNIX_EPOCH)[2], "False (Local)");
    }
}
