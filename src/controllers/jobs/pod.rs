//! The pods of a job. Pure.

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::plan::NewPod;
use super::{FAILURES, IGNORED, INDEX};
use crate::controllers::owned::Owner;
use crate::controllers::owned::pods::from_template;

/// By which the containers of a pod know its index.
const VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// The longest prefix of a name that the server makes.
const LONGEST_PREFIX: usize = 58;

/// The pod that is to be made; one with an index is known by it to everybody.
pub(super) fn pod(owner: &Owner, spec: &JobSpec, new: &NewPod) -> Pod {
    let mut pod = from_template(owner, &spec.template);
    let Some(index) = new.index else { return pod };
    let meta = &mut pod.metadata;
    meta.generate_name = Some(prefix(owner.name(), index));
    meta.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = new.failures {
        annotations.insert(FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED.to_owned(), ignored.to_string());
        }
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{}-{index}", owner.name()));
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        let variables = container.env.get_or_insert_default();
        if !variables.iter().any(|variable| variable.name == VARIABLE) {
            variables.push(variable());
        }
    }
    pod
}

fn prefix(job: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let room = LONGEST_PREFIX.saturating_sub(end.len());
    // Names are ASCII.
    format!("{}{end}", job.get(..room).unwrap_or(job))
}

fn variable() -> EnvVar {
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    EnvVar {
        name: VARIABLE.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::owned::selector;
    use k8s_openapi::api::batch::v1::Job;
    use serde_json::json;

    #[test]
    fn a_pod_knows_its_index() {
        let job: Job =
            serde_json::from_value(json!({"metadata": {"name": "pi", "namespace": "d", "uid": "u"},
            "spec": {"completionMode": "Indexed", "template": {"metadata": {"labels": {"a": "b"}}, "spec": {
                "initContainers": [{"name": "i", "env": [{"name": VARIABLE, "value": "own"}]}],
                "containers": [{"name": "c"}]}}}}))
            .unwrap();
        let owner = Owner::new(&job, selector(None).unwrap());
        let spec = job.spec.as_ref().unwrap();
        let plain = pod(&owner, spec, &NewPod { index: None, failures: None });
        assert_eq!(plain.metadata.generate_name.as_deref(), Some("pi-"));
        assert!(plain.spec.unwrap().hostname.is_none());
        let new = NewPod { index: Some(3), failures: Some((2, 1)) };
        let made = serde_json::to_value(pod(&owner, spec, &new)).unwrap();
        assert_eq!(made["metadata"]["generateName"], "pi-3-");
        assert_eq!(made["metadata"]["labels"], json!({"a": "b", INDEX: "3"}));
        assert_eq!(made["metadata"]["annotations"], json!({INDEX: "3", FAILURES: "2", IGNORED: "1"}));
        assert_eq!(made["spec"]["hostname"], "pi-3");
        assert_eq!(made["spec"]["initContainers"][0]["env"].as_array().unwrap().len(), 1);
        let path = format!("metadata.labels['{INDEX}']");
        assert_eq!(made["spec"]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"], path);
        assert_eq!(prefix(&"a".repeat(63), 12), format!("{}-12-", "a".repeat(54)));
    }
}
