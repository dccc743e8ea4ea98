//! DefaultIngressClass: an ingress that names no class gets the default one.
//!
//! Source: Kubernetes `plugin/pkg/admission/network/defaultingressclass`.

use serde_json::{Value, json};

use super::storage::newest_default;
use crate::api::meta;
use crate::apiserver::registry::Registry;

const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// Completes an ingress that is to be made.
pub fn set_default(registry: &Registry, ingress: &mut Value) {
    let named =
        meta::annotation(ingress, OLD_CLASS).is_some() || !ingress["spec"]["ingressClassName"].is_null();
    if named {
        return;
    }
    if let Some(class) = newest_default(&registry.all("ingressclasses/"), &[IS_DEFAULT]) {
        meta::child_mut(ingress, "spec").insert("ingressClassName".to_owned(), json!(class));
    }
}
