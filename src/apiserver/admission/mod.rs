//! What a cluster demands of a request beyond the rules of the kind.
//!
//! One file a plugin, called in Kubernetes' order (`pkg/kubeapiserver/options/plugins.go`; those that are on
//! by default there and have something to do on one node): [`mutate`] completes an object before its kind
//! validates it, [`validate`] decides about what is to be written, and [`Admitted`] charges quotas once it is.
//! Who may do what at all is [`auth`](super::auth)'s.
//!
//! TaintNodesByCondition is left out: the kubelet of the only node says itself when it is ready, and no
//! controller would take such a taint away.

mod attributes;
pub mod certificates;
mod connect;
pub mod figures;
pub mod hooks;
pub mod ingress_class;
pub mod limit_ranger;
pub mod namespace_lifecycle;
pub mod pod_security;
pub mod policies;
pub mod priority;
pub mod quota;
mod rights;
pub mod runtime_class;
pub mod service_account;
pub mod storage;
pub mod tolerations;

#[cfg(test)]
mod testing;

use std::sync::Arc;

use serde_json::Value;
use tokio::time::Instant;

pub use self::attributes::{Attributes, Operation, Options};
pub use self::connect::{connect, create_part};
use self::figures::{Figures, Step};
use self::hooks::Hooks;
use self::policies::Policies;
use self::quota::{Charge, Locks};
use super::auth::rbac::{self, escalation};
use super::registry::Registry;
use super::strategy;
use crate::api::status::Status;
use crate::store::{self, Entry};

/// What admission keeps between requests.
#[derive(Default)]
pub struct Admission {
    quotas: Locks,
    hooks: Hooks,
    policies: Policies,
    /// How long it takes.
    pub figures: Figures,
}

/// Completes an object that is to be written, or decides already that it will not be; whether somebody else than this
/// server changed it. `object` is null for what brings none, such as a delete.
pub async fn mutate(
    registry: &Registry,
    attributes: &mut Attributes<'_>,
    object: &mut Value,
) -> Result<bool, Status> {
    let (began, operation) = (Instant::now(), attributes.operation);
    let changed = change(registry, attributes, object).await;
    registry.admission().figures.step(Step::Admit, operation, began, changed.is_err());
    changed
}

async fn change(
    registry: &Registry,
    attributes: &mut Attributes<'_>,
    object: &mut Value,
) -> Result<bool, Status> {
    complete(registry, attributes, object).await?;
    let mut policies = policies::mutating::Round::begin(registry, attributes);
    let mut hooks = hooks::mutating::Round::begin(registry, attributes);
    let mut changed = false;
    if let Some(policies) = &mut policies {
        changed |= policies.call(registry, attributes, object).await?;
    }
    if let Some(hooks) = &mut hooks {
        changed |= hooks.call(registry, attributes, object).await?;
    }
    if changed {
        // What was added may be something that the plugins before complete or refuse.
        complete(registry, attributes, object).await?;
        if let Some(policies) = &mut policies {
            policies.again(registry, attributes, object).await?;
        }
        if let Some(hooks) = &mut hooks {
            hooks.again(registry, attributes, object).await?;
        }
    }
    Ok(changed)
}

/// The mutating plugins that are part of the server.
async fn complete(
    registry: &Registry,
    attributes: &Attributes<'_>,
    object: &mut Value,
) -> Result<(), Status> {
    namespace_lifecycle::admit(registry, attributes, object)?;
    if attributes.operation != Operation::Create || !attributes.subresource.is_empty() {
        return Ok(());
    }
    match (&*attributes.kind.group, &*attributes.kind.plural) {
        ("", "pods") => {
            limit_ranger::mutate(registry, attributes, object);
            service_account::mutate(registry, attributes, object).await?;
            priority::mutate(registry, attributes, object)?;
            tolerations::mutate(object);
            runtime_class::mutate(registry, attributes, object)?;
        }
        ("", "persistentvolumeclaims") => {
            storage::set_default_class(registry, object);
            storage::protect_claim(object);
        }
        ("", "persistentvolumes") => storage::protect_volume(object),
        ("networking.k8s.io" | "extensions", "ingresses") => ingress_class::set_default(registry, object),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            strategy::certificates::set_requester(object, attributes.user);
        }
        _ => {}
    }
    Ok(())
}

/// Decides about what is to be written, as its kind left it. The last word is the quotas': whoever got this answer
/// must write by it.
pub async fn validate(
    registry: &Registry,
    attributes: &mut Attributes<'_>,
    object: &Value,
) -> Result<Admitted, Status> {
    let (began, operation) = (Instant::now(), attributes.operation);
    let admitted = decide(registry, attributes, object).await;
    registry.admission().figures.step(Step::Validate, operation, began, admitted.is_err());
    admitted
}

async fn decide(
    registry: &Registry,
    attributes: &mut Attributes<'_>,
    object: &Value,
) -> Result<Admitted, Status> {
    match (&*attributes.kind.group, &*attributes.kind.plural) {
        ("", "pods") => {
            limit_ranger::validate(registry, attributes, object)?;
            service_account::validate(registry, attributes, object)?;
            pod_security::validate(registry, attributes, object)?;
            runtime_class::validate(registry, attributes, object)?;
        }
        ("", "persistentvolumeclaims") => {
            limit_ranger::validate(registry, attributes, object)?;
            storage::validate_resize(registry, attributes, object)?;
        }
        // Who takes rights away gives none.
        (rbac::policy::GROUP, plural) if attributes.operation != Operation::Delete => {
            let (user, old) = (attributes.user, attributes.old);
            escalation::check(registry.authorizer(), user, plural, attributes.namespace, object, old)?;
        }
        ("scheduling.k8s.io", "priorityclasses") => priority::validate(registry, attributes, object)?,
        ("certificates.k8s.io", "certificatesigningrequests") => {
            certificates::validate(registry, attributes, object)?;
        }
        ("certificates.k8s.io", "podcertificaterequests") => {
            certificates::validate_pods(registry, attributes, object)?;
        }
        ("certificates.k8s.io", "clustertrustbundles") if attributes.operation != Operation::Delete => {
            certificates::validate_bundle(registry, attributes, object)?;
        }
        _ => pod_security::validate(registry, attributes, object)?,
    }
    policies::validating::validate(registry, attributes, object).await?;
    hooks::validating::call(registry, attributes, object).await?;
    let charge = quota::check(registry, attributes, object).await?;
    Ok(Admitted { charge })
}

/// A write that was let through.
#[must_use]
#[derive(Default)]
pub struct Admitted {
    /// What it uses up of the namespace's quotas; nobody else is let through there until it is charged.
    charge: Option<Charge>,
}

impl Admitted {
    /// Carries out the write and charges for it, whether or not anybody waits for it any more.
    pub async fn carry_out<W>(self, write: W) -> Result<Arc<Entry>, store::Error>
    where
        W: Future<Output = Result<Arc<Entry>, store::Error>> + Send + 'static,
    {
        let Some(charge) = self.charge else { return write.await };
        let charged = tokio::spawn(async move {
            let written = write.await;
            if written.is_ok() {
                charge.settle().await;
            }
            written
        });
        charged.await.unwrap_or(Err(store::Error::Closed))
    }
}
