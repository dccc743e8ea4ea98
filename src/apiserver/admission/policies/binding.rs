//! Where a policy holds, and with which parameters.

use std::sync::Arc;

use serde_json::Value;

use crate::api::kinds::Kind;
use crate::api::meta;
use crate::api::selector::LabelSelector;
use crate::api::status::Status;
use crate::apiserver::admission::Attributes;
use crate::apiserver::admission::hooks::matching::Constraints;
use crate::apiserver::registry::{Registry, as_served};

/// The objects of parameters; a null for a policy that is to be asked without any.
pub type Params = Vec<Value>;

/// A binding of either sort of policies.
pub struct Binding {
    /// What it is called.
    pub name: String,
    /// The policy that it binds.
    pub policy: String,
    /// What is done about violations: `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
    constraints: Option<Constraints>,
    reference: Value,
}

impl Binding {
    /// Reads a binding.
    pub fn read(binding: &Value) -> Binding {
        let spec = &binding["spec"];
        let actions = spec["validationActions"].as_array().into_iter().flatten();
        let resources = Some(&spec["matchResources"]).filter(|resources| resources.is_object());
        Binding {
            name: meta::name(binding).to_owned(),
            policy: spec["policyName"].as_str().unwrap_or_default().to_owned(),
            actions: actions.filter_map(Value::as_str).map(str::to_owned).collect(),
            constraints: resources.map(Constraints::of_policy),
            reference: spec["paramRef"].clone(),
        }
    }

    /// Whether it is about a request.
    pub fn is_meant(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        object: &Value,
    ) -> Result<bool, Status> {
        match &self.constraints {
            None => Ok(true),
            Some(constraints) => Ok(constraints.matches(registry, attributes, object)?.is_some()),
        }
    }

    /// The objects that it names as parameters of a kind; or why it cannot be told which they are.
    pub fn params(
        &self,
        registry: &Registry,
        attributes: &Attributes<'_>,
        kind: Option<&(String, String)>,
    ) -> Result<Params, String> {
        let text = |key: &str| self.reference[key].as_str().filter(|text| !text.is_empty());
        let Some((version, kind)) = kind.filter(|_| self.reference.is_object()) else {
            return Ok(vec![Value::Null]);
        };
        let (group, number) = meta::group_version(version);
        let served = registry.served().kinds();
        let named = |row: &&Arc<Kind>| row.group == group && row.version == number && row.kind == *kind;
        let Some(row) = served.iter().find(named) else {
            return Err(format!(
                "paramKind kind `&ParamKind{{APIVersion:{version},Kind:{kind},}}` not known"
            ));
        };
        let namespace = match (row.namespaced, text("namespace").or(attributes.namespace)) {
            (false, _) if text("namespace").is_some() => {
                return Err(
                    "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned()
                );
            }
            (false, _) => None,
            (true, Some(namespace)) => Some(namespace),
            (true, None) => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                        .to_owned(),
                );
            }
        };
        let found: Vec<Value> = match text("name") {
            Some(name) => {
                let entry = registry.store().get(&row.key(namespace, name));
                entry.map(|entry| as_served(row, entry).json().clone()).into_iter().collect()
            }
            None => {
                let selector = LabelSelector::from_object(&self.reference["selector"])?;
                let all = registry.all(&row.prefix(namespace));
                let all = all.into_iter().filter(|entry| selector.matches(meta::labels(entry.json())));
                all.map(|entry| as_served(row, entry).json().clone()).collect()
            }
        };
        if found.is_empty() && self.reference["parameterNotFoundAction"] == "Deny" {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
        }
        Ok(found)
    }
}
