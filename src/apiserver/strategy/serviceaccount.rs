//! ServiceAccounts: names that pods act under.

use jiff::Timestamp;
use serde_json::Value;

use super::column::{self, AGE, NAME};
use super::value::items;
use super::{Column, Strategy};
use crate::api::meta;

/// The strategy of service accounts.
pub(super) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn warnings(&self, account: &Value) -> Vec<String> {
        const CHOSEN: &str = "kubernetes.io/enforce-mountable-secrets";
        meta::annotation(account, CHOSEN).map_or_else(Vec::new, |_| {
            vec![format!(
                "metadata.annotations[{CHOSEN}]: deprecated in v1.32+; prefer separate namespaces to isolate access to \
                 mounted secrets"
            )]
        })
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column::text(
                "Secrets",
                "Secrets is a list of the secrets in the same namespace that pods may use.",
            ),
            AGE,
        ];
        COLUMNS
    }

    fn cells(&self, account: &Value, now: Timestamp) -> Vec<Value> {
        vec![column::name(account), items(account, "secrets").len().into(), column::age(account, now)]
    }
}
