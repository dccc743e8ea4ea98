//! The manifest of a static pod, and the mirror that the API shows of it (pure).

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::meta::MIRROR;
use crate::api::pod::{defaults, qos, references};
use crate::api::{meta, yaml};
use crate::client::reflector::Key;

/// How many letters of a manifest's digest are its pod's uid.
const HASH: usize = 32;

/// A static pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Static {
    /// Names this pod as its manifest has it: its uid.
    pub hash: String,
    /// Namespace and name of the mirror.
    pub key: Key,
    /// The mirror, but for its owner, which is the node.
    pub mirror: Value,
}

impl Static {
    /// The pod as it is run where the API shows no mirror of it.
    pub fn unshown(&self) -> Result<Pod, serde_json::Error> {
        let mut pod = self.mirror.clone();
        defaults::pod(&mut pod);
        pod["metadata"]["uid"] = json!(self.hash);
        pod["status"] = json!({"phase": "Pending", "qosClass": qos::class(&pod)});
        serde_json::from_value(pod)
    }
}

/// Reads a manifest; a file that says nothing is none.
pub fn read(bytes: &[u8], node: &str) -> Result<Option<Static>, String> {
    let mut documents = yaml::documents(bytes)?.into_iter();
    let Some(mut pod) = documents.next() else { return Ok(None) };
    if documents.next().is_some() {
        return Err("a manifest must hold one pod, this one holds several objects".to_owned());
    }
    let text = |pod: &Value, field: &str| pod[field].as_str().unwrap_or("").to_owned();
    if (text(&pod, "apiVersion").as_str(), text(&pod, "kind").as_str()) != ("v1", "Pod") {
        return Err(format!(
            "a manifest must be of apiVersion \"v1\" and kind \"Pod\", not {:?} and {:?}",
            text(&pod, "apiVersion"),
            text(&pod, "kind")
        ));
    }
    if !pod["metadata"].is_object() || !pod["spec"].is_object() || meta::name(&pod).is_empty() {
        return Err("a manifest must have metadata.name and spec".to_owned());
    }
    if let Some(what) = references::first(&pod["spec"]) {
        return Err(format!("static pods may not reference {what}"));
    }
    let digest = Sha256::digest(format!("{node}\n{pod}"));
    let mut hash: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hash.truncate(HASH);
    let name = format!("{}-{}", meta::name(&pod), node.to_lowercase());
    let namespace = match text(&pod["metadata"], "namespace") {
        namespace if namespace.is_empty() => "default".to_owned(),
        namespace => namespace,
    };
    pod["metadata"] = json!({
        "name": name, "namespace": namespace,
        "labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"],
    });
    for (annotation, value) in [
        (MIRROR, hash.as_str()),
        ("kubernetes.io/config.hash", &hash),
        ("kubernetes.io/config.source", "file"),
    ] {
        meta::set_annotation(&mut pod, annotation, value);
    }
    let spec = &mut pod["spec"];
    spec["nodeName"] = json!(node);
    // Nothing that is on the node for its own sake is driven away from it.
    let stays = json!({"operator": "Exists", "effect": "NoExecute"});
    match spec["tolerations"].as_array_mut() {
        Some(tolerations) if !tolerations.contains(&stays) => tolerations.push(stays),
        Some(_) => {}
        None => spec["tolerations"] = json!([stays]),
    }
    if let Some(fields) = pod.as_object_mut() {
        fields.remove("status");
    }
    Ok(Some(Static { hash, key: format!("{namespace}/{name}"), mirror: pod }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: proxy\n  namespace: kube-system\n  uid: x\n  annotations: {a: b}\nspec:\n  containers: [{name: c, image: i}]\nstatus: {phase: Running}\n";

    fn one(text: &str) -> Static {
        read(text.as_bytes(), "Node1").unwrap().unwrap()
    }

    #[test]
    fn a_mirror_is_named_after_the_node_and_marked() {
        let Static { hash, key, mirror } = one(PROXY);
        assert_eq!((key.as_str(), hash.len()), ("kube-system/proxy-node1", 32));
        let expected = json!({"a": "b", "kubernetes.io/config.mirror": hash, "kubernetes.io/config.hash": hash,
            "kubernetes.io/config.source": "file"});
        assert_eq!(mirror["metadata"]["annotations"], expected);
        assert_eq!(mirror["spec"]["nodeName"], "Node1");
        assert_eq!(mirror["spec"]["tolerations"], json!([{"operator": "Exists", "effect": "NoExecute"}]));
        assert!(mirror.get("status").is_none() && mirror["metadata"]["uid"].is_null());
        assert_eq!(one(&PROXY.replace("  namespace: kube-system\n", "")).key, "default/proxy-node1");
    }

    #[test]
    fn a_pod_without_a_mirror_is_as_the_api_would_have_made_it() {
        let one = one(PROXY);
        let pod = one.unshown().unwrap();
        let spec = pod.spec.unwrap();
        assert_eq!(pod.metadata.uid, Some(one.hash));
        assert_eq!(
            (spec.restart_policy.as_deref(), spec.termination_grace_period_seconds),
            (Some("Always"), Some(30))
        );
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("Always"));
        assert_eq!(pod.status.unwrap().qos_class.as_deref(), Some("BestEffort"));
    }

    #[test]
    fn what_a_manifest_says_makes_its_hash_and_how_it_says_it_does_not() {
        let hash = one(PROXY).hash;
        assert_eq!(one(&PROXY.replace("[{name: c, image: i}]", "\n  - name: c\n    image: i")).hash, hash);
        assert_ne!(one(&PROXY.replace("image: i", "image: j")).hash, hash);
    }

    #[test]
    fn what_is_no_manifest_is_told() {
        for (text, error) in [
            ("kind: Pod", "must be of apiVersion \"v1\" and kind \"Pod\", not \"\" and \"Pod\""),
            ("apiVersion: v1\nkind: Pod\nmetadata: {}\nspec: {}", "must have metadata.name and spec"),
            ("apiVersion: v1\nkind: Pod\nmetadata: 3", "must have metadata.name and spec"),
            ("a: [", "yaml: line "),
            ("- 1\n- 2", "must be of apiVersion"),
            ("apiVersion: v1\n---\nkind: Pod", "this one holds several objects"),
            (
                "apiVersion: v1\nkind: Pod\nmetadata: {name: n}\nspec: {volumes: [{name: v, configMap: {name: m}}]}",
                "static pods may not reference configmaps",
            ),
        ] {
            let told = read(text.as_bytes(), "n").unwrap_err();
            assert!(told.contains(error), "{text}: {told}");
        }
        assert_eq!(read(b"", "n"), Ok(None));
        assert_eq!(read(b"# nothing\n", "n"), Ok(None));
    }
}
