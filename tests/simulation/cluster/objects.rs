//! Writing and reading the objects of a simulated cluster.

use std::sync::Arc;

use minik::api::kinds::{self, Kind};
use minik::api::request::{Action, DeleteOptions, PatchKind, Response, Target, WriteOptions};
use minik::api::status::Status;
use minik::api::{meta, yaml};
use serde_json::{Value, json};

use super::views::key;
use super::{Cluster, NAMESPACE};
use crate::shows::shows;

/// `deployments/web`, or `NAMESPACE:deployments/web`, taken apart.
pub struct Name<'a> {
    pub namespace: &'a str,
    pub plural: &'a str,
    pub name: &'a str,
}

pub fn parse(path: &str) -> Name<'_> {
    let (namespace, rest) = path.split_once(':').unwrap_or((NAMESPACE, path));
    let (plural, name) = rest.split_once('/').unwrap_or((rest, ""));
    Name { namespace, plural, name }
}

impl Cluster {
    /// Makes the objects of a manifest (YAML, one or several documents), or changes what exists to what it says.
    pub async fn apply(&self, manifest: &str) {
        for object in yaml::documents(manifest.as_bytes()).unwrap() {
            self.apply_object(object).await;
        }
    }

    async fn apply_object(&self, object: Value) {
        let (group, version) = meta::group_version(meta::api_version(&object));
        let kind = kinds::by_kind(group, version, meta::kind(&object));
        let kind = kind.unwrap_or_else(|| panic!("no kind is that of {object}"));
        let namespace = Some(meta::namespace(&object)).filter(|n| !n.is_empty()).unwrap_or(NAMESPACE);
        let options = WriteOptions {
            field_manager: Some("kubectl-client-side-apply".into()),
            ..WriteOptions::default()
        };
        let made = Action::Create(object.clone(), options.clone());
        let written = match self.write(target(kind, namespace, None), made).await {
            Err(status) if status.is("AlreadyExists") => {
                let patch = Action::Patch(PatchKind::Strategic, object.clone(), options);
                self.write(target(kind, namespace, Some(meta::name(&object))), patch).await
            }
            other => other,
        };
        written.unwrap_or_else(|status| panic!("{status}: {object}"));
    }

    /// Makes a change, which whatever is awaited afterwards has seen; answers the object.
    ///
    /// Everybody has seen what was written before, as when a person writes: who follows two kinds may hear of the later
    /// change of one before the earlier change of the other.
    async fn write(&self, target: Target, action: Action) -> Result<Value, Status> {
        self.settle().await;
        let plural = target.resource.clone();
        let Response::Object { entry, .. } = self.client.call(target, action).await? else {
            return Ok(Value::Null);
        };
        let mut written = self.written.lock().unwrap();
        let last = written.entry(plural).or_default();
        *last = entry.revision.max(*last);
        Ok(entry.json().clone())
    }

    /// Changes an object by a merge patch.
    pub async fn patch(&self, path: &str, patch: Value) -> Value {
        self.try_patch(path, patch).await.unwrap()
    }

    /// The same, when it may be refused.
    pub async fn try_patch(&self, path: &str, patch: Value) -> Result<Value, Status> {
        let Name { namespace, plural, name } = parse(path);
        let action = Action::Patch(PatchKind::Merge, patch, WriteOptions::default());
        self.write(target(&kind(plural), namespace, Some(name)), action).await
    }

    /// Changes an object's status.
    pub async fn patch_status(&self, path: &str, status: Value) {
        let Name { namespace, plural, name } = parse(path);
        let action = Action::Patch(PatchKind::Merge, json!({"status": status}), WriteOptions::default());
        let mut target = target(&kind(plural), namespace, Some(name));
        target.subresource = Some("status".into());
        self.write(target, action).await.unwrap();
    }

    /// Changes what the container `c` of a pod may use.
    pub async fn resize(&self, name: &str, resources: Value) {
        self.resize_spec(name, json!({"containers": [{"name": "c", "resources": resources}]})).await;
    }

    /// Changes what of a pod's spec can be resized.
    pub async fn resize_spec(&self, name: &str, spec: Value) {
        let patch = json!({"spec": spec});
        let action = Action::Patch(PatchKind::Strategic, patch, WriteOptions::default());
        let mut target = target(&kind("pods"), NAMESPACE, Some(name));
        target.subresource = Some("resize".into());
        self.write(target, action).await.unwrap();
    }

    /// Changes the number of pods that an object wants.
    pub async fn scale(&self, path: &str, replicas: i32) {
        self.patch(path, json!({"spec": {"replicas": replicas}})).await;
    }

    /// Deletes an object as kubectl does.
    pub async fn delete(&self, path: &str) {
        self.delete_with(path, "Background").await;
    }

    /// Deletes an object with this propagation policy.
    pub async fn delete_with(&self, path: &str, policy: &str) {
        let options =
            DeleteOptions { propagation_policy: Some(policy.to_owned()), ..DeleteOptions::default() };
        self.try_delete(path, options).await.unwrap();
    }

    /// The same, when it may be refused.
    pub async fn try_delete(&self, path: &str, options: DeleteOptions) -> Result<Value, Status> {
        let Name { namespace, plural, name } = parse(path);
        let target = target(&kind(plural), namespace, Some(name));
        self.write(target, Action::Delete(options)).await
    }

    /// An object as it is now.
    pub async fn get(&self, path: &str) -> Option<Value> {
        let Name { namespace, plural, name } = parse(path);
        let action = Action::Get { resource_version: String::new() };
        match self.client.call(target(&kind(plural), namespace, Some(name)), action).await {
            Ok(Response::Object { entry, .. }) => Some(entry.json().clone()),
            Err(status) if status.is("NotFound") => None,
            other => panic!("{path}: {}", other.err().unwrap()),
        }
    }

    /// The objects of `pods`, or `NAMESPACE:pods`, as they are now, by name.
    pub async fn list(&self, path: &str) -> Vec<Value> {
        let Name { namespace, plural, .. } = parse(path);
        let kind = kind(plural);
        let entries = self.client.objects(&kind, kind.namespaced.then_some(namespace)).await.unwrap();
        let mut objects: Vec<Value> = entries.iter().map(|entry| entry.json().clone()).collect();
        objects.sort_by_key(key);
        objects
    }

    /// Sees to it that an object shows this at present; answers it.
    pub async fn is(&self, path: &str, expected: Value) -> Value {
        let object = self.get(path).await.unwrap_or_default();
        assert!(shows(&object, &expected), "{path} is to show {expected}, but is {object:#}");
        object
    }
}

/// The kind of this plural that is stored.
pub fn kind(plural: &str) -> Arc<Kind> {
    // Events have two groups; the older one is what controllers write.
    let found = kinds::by_resource("", "v1", plural).or_else(|| kinds::stored().find(|k| k.plural == plural));
    found.unwrap_or_else(|| panic!("no kind has the plural {plural}")).clone()
}

fn target(kind: &Kind, namespace: &str, name: Option<&str>) -> Target {
    Target {
        group: kind.group.to_string(),
        version: kind.version.to_string(),
        resource: kind.plural.to_string(),
        namespace: kind.namespaced.then(|| namespace.to_owned()),
        name: name.map(str::to_owned),
        subresource: None,
    }
}
