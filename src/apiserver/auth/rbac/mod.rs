//! Role-based access control: who may do what, by the roles and bindings in the store.
//!
//! The roles and bindings are kept in memory and follow the store: each question first takes in what was written since
//! the last one, so that a binding counts as soon as its creation was answered.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use futures::FutureExt;

use self::policy::Policy;
use super::attributes::{Asked, Attributes};
use crate::api::request::User;
use crate::api::status::{Status, together};
use crate::store::{self, Event, Store, Watch};

pub mod defaults;
pub mod escalation;
pub mod policy;
pub mod reconcile;
pub mod rules;

/// The group whose members may do everything, whatever roles say.
pub const MASTERS: &str = "system:masters";
/// What anybody may ask on every cluster (`--authorization-always-allow-paths`).
const ALWAYS: &[&str] = &["/healthz", "/livez", "/readyz"];
/// The collections that the policy is made of.
const PREFIXES: &[&str] = &["roles/", "clusterroles/", "rolebindings/", "clusterrolebindings/"];

/// Decides about requests.
pub struct Authorizer {
    store: Store,
    policy: RwLock<Policy>,
    changes: Mutex<Watch>,
    /// The revision of the store that the policy shows.
    shown: AtomicU64,
}

/// What was decided, and by what.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Which binding allows it, or what could not be looked up.
    pub reason: String,
}

impl Authorizer {
    /// Reads the roles and bindings that there are.
    pub fn new(store: Store) -> Result<Authorizer, store::Error> {
        let revision = store.revision();
        let changes = store.watch("", revision);
        let policy = read(&store)?;
        Ok(Authorizer {
            policy: RwLock::new(policy),
            changes: Mutex::new(changes),
            shown: AtomicU64::new(revision),
            store,
        })
    }

    /// Refuses what this user may not do.
    pub fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Result<(), Status> {
        if is_always_allowed(user, attributes) {
            return Ok(());
        }
        let decided = self.policy().allowed(user, attributes).map(drop).map_err(|missing| unknown(&missing));
        decided.map_err(|reason| attributes.forbidden(user, &reason))
    }

    /// The same as an answer to somebody who wants to know.
    pub fn decide(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if is_always_allowed(user, attributes) {
            return Decision { allowed: true, reason: String::new() };
        }
        match self.policy().allowed(user, attributes) {
            Ok(by) => Decision { allowed: true, reason: format!("RBAC: allowed by {by}") },
            Err(missing) => Decision { allowed: false, reason: unknown(&missing) },
        }
    }

    /// The roles and bindings as they are now.
    pub fn policy(&self) -> RwLockReadGuard<'_, Policy> {
        if self.store.revision() != self.shown.load(Ordering::Acquire) {
            self.follow();
        }
        self.policy.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was written since the last look.
    fn follow(&self) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.store.revision();
        let mut news: Vec<Event> = Vec::new();
        // What is there comes at once; to wait for more is for others.
        while let Some(next) = changes.next().now_or_never() {
            match next {
                Ok(event) => {
                    if PREFIXES.iter().any(|prefix| event.entry.key.starts_with(prefix)) {
                        news.push(event);
                    }
                }
                Err(store::Error::Closed) => break,
                // The log no longer reaches back to the last look.
                Err(_) => {
                    let again = self.store.watch("", newest);
                    let Ok(all) = read(&self.store) else { return };
                    *changes = again;
                    news.clear();
                    *self.policy.write().unwrap_or_else(PoisonError::into_inner) = all;
                }
            }
        }
        if !news.is_empty() {
            let mut policy = self.policy.write().unwrap_or_else(PoisonError::into_inner);
            for event in &news {
                let object = (!event.deleted).then(|| event.entry.parse());
                policy::take(&mut policy, &event.entry.key, object.as_ref());
            }
        }
        self.shown.store(newest, Ordering::Release);
    }
}

fn unknown(missing: &[policy::Missing]) -> String {
    if missing.is_empty() { String::new() } else { format!("RBAC: {}", together(missing)) }
}

/// Whether this asks one of the three questions about the server's health.
pub fn is_health_check(attributes: &Attributes<'_>) -> bool {
    matches!(attributes.asked, Asked::Path(path) if ALWAYS.contains(&path))
}

fn is_always_allowed(user: &User, attributes: &Attributes<'_>) -> bool {
    is_health_check(attributes) || user.groups.iter().any(|group| group == MASTERS)
}

/// Everything that the store holds of roles and bindings.
fn read(store: &Store) -> Result<Policy, store::Error> {
    let mut policy = Policy::default();
    for prefix in PREFIXES {
        for entry in store.list(prefix, None, 0, None)?.entries {
            policy::take(&mut policy, &entry.key, Some(&entry.parse()));
        }
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::{Value, json};

    async fn write(store: &Store, key: &str, object: Value) {
        let bytes = Bytes::from(serde_json::to_vec(&object).unwrap());
        store.create(key, move |_| bytes).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_written_counts_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let role = json!({"metadata": {"name": "reader"},
            "rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]});
        write(&store, "clusterroles/reader", role).await;
        let authorizer = Authorizer::new(store.clone()).unwrap();
        let jane = User { name: "jane".into(), ..User::default() };
        let metrics = Attributes::path("/metrics", "get");
        let refused = authorizer.authorize(&jane, &metrics).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (403, "forbidden: User \"jane\" cannot get path \"/metrics\"")
        );
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "User", "name": "jane"}]});
        write(&store, "clusterrolebindings/b", binding).await;
        authorizer.authorize(&jane, &metrics).unwrap();
        let by = "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"reader\" to User \"jane\"";
        assert_eq!(authorizer.decide(&jane, &metrics), Decision { allowed: true, reason: by.into() });
        let expected = store.get("clusterrolebindings/b").unwrap().revision;
        store.delete("clusterrolebindings/b", expected, |_| Bytes::from_static(b"{}")).await.unwrap();
        assert!(authorizer.authorize(&jane, &metrics).is_err());
        // What the log has forgotten is read again.
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "Group", "name": "devs"}]});
        write(&store, "clusterrolebindings/b", binding).await;
        write(&store, "pods/default/a", json!({})).await;
        store.compact(store.revision()).await.unwrap();
        let dev = User { name: "x".into(), groups: vec!["devs".into()], ..User::default() };
        authorizer.authorize(&dev, &metrics).unwrap();
    }

    #[tokio::test]
    async fn masters_and_health_checks_pass() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let authorizer = Authorizer::new(store).unwrap();
        let nobody = User::default();
        for (user, path, allowed) in [
            (&User::component("system:kube-scheduler"), "/metrics", true),
            (&nobody, "/metrics", false),
            (&nobody, "/healthz", true),
            (&nobody, "/readyz", true),
            (&nobody, "/livez/ping", false),
        ] {
            assert_eq!(authorizer.authorize(user, &Attributes::path(path, "get")).is_ok(), allowed, "{path}");
        }
    }
}
