//! Priority and fairness: no client takes the server from the others.
//!
//! Flow schemas sort requests into priority levels; each level carries out so many at a time, and flows of a level that
//! wait take turns. Source: k8s.io/apiserver `pkg/util/flowcontrol` and `pkg/apis/flowcontrol/bootstrap`; shuffle
//! sharding and borrowing between levels are not followed: one node has few users, so each flow has a queue of its own, as
//! long as all the queues together in which its requests would wait.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use super::auth::attributes::Attributes;
use crate::api::meta;
use crate::api::request::User;
use crate::api::status::Status;

pub mod defaults;
mod keeper;
mod level;
mod schema;

pub use self::level::Permit;
use self::level::{Level, Limits};
use self::schema::Schema;

/// How many requests the server carries out at a time beside those of its administrators
/// (`--max-requests-inflight` and `--max-mutating-requests-inflight`).
const SERVER_LIMIT: f64 = 600.0;
/// After how many seconds a refused client may come again.
const RETRY_AFTER: u32 = 1;
/// The schemas and levels that are there even when nobody has written them.
const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

/// Where a request belongs.
#[derive(Debug, Clone)]
pub struct Class {
    schema: Arc<Schema>,
    level: Arc<Priority>,
    /// With what it shares its turns.
    flow: String,
}

/// A priority level.
#[derive(Debug)]
struct Priority {
    uid: String,
    /// Without one, nothing waits.
    level: Option<Arc<Level>>,
}

/// All schemas and levels.
#[derive(Debug)]
struct Table {
    /// In the order in which they are asked.
    schemas: Vec<Arc<Schema>>,
    levels: HashMap<String, Arc<Priority>>,
    /// Where requests belong that no schema wants.
    last: (Arc<Schema>, Arc<Priority>),
}

impl Table {
    /// The table of these objects. Levels that were there `before` keep their requests.
    fn new(schemas: &[&Value], levels: &[&Value], before: Option<&Table>) -> Table {
        let mandatory = |all: &[&Value], given: Vec<Value>| -> Vec<Value> {
            let is_missing = |name: &str| !all.iter().any(|object| meta::name(object) == name);
            given
                .into_iter()
                .filter(|g| MANDATORY.contains(&meta::name(g)) && is_missing(meta::name(g)))
                .collect()
        };
        let own = mandatory(levels, defaults::LEVELS.iter().map(defaults::LevelPreset::object).collect());
        let levels: Vec<&Value> = levels.iter().copied().chain(&own).collect();
        let all: f64 = levels.iter().map(|level| shares(level)).sum();
        let levels: HashMap<String, Arc<Priority>> = levels
            .iter()
            .map(|object| {
                let name = meta::name(object).to_owned();
                let known = before.and_then(|before| before.levels.get(&name)?.level.clone());
                let level = limits(object, all).map(|limits| match known {
                    Some(level) => {
                        level.set(limits);
                        level
                    }
                    None => Level::new(limits),
                });
                (name, Arc::new(Priority { uid: meta::uid(object).to_owned(), level }))
            })
            .collect();
        let own = defaults::schemas().into_iter().map(|schema| schema.object).collect();
        let own = mandatory(schemas, own);
        let read = schemas.iter().copied().chain(&own).map(|object| Arc::new(Schema::read(object)));
        // Who leads nowhere is not asked.
        let mut schemas: Vec<Arc<Schema>> =
            read.filter(|schema| levels.contains_key(&schema.level)).collect();
        schemas.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let nowhere = || Arc::new(Priority { uid: String::new(), level: None });
        let last = schemas.iter().rfind(|schema| schema.name == "catch-all").cloned();
        let last = last.unwrap_or_else(|| Arc::new(Schema::read(&Value::Null)));
        let level = levels.get(&last.level).cloned().unwrap_or_else(nowhere);
        Table { schemas, levels, last: (last, level) }
    }

    fn classify(&self, user: &User, attributes: &Attributes<'_>) -> Class {
        let found = self.schemas.iter().find(|schema| schema.matches(user, attributes));
        let found = found.and_then(|schema| Some((schema, self.levels.get(&schema.level)?)));
        let (schema, level) = found.unwrap_or((&self.last.0, &self.last.1));
        Class { schema: schema.clone(), level: level.clone(), flow: schema.flow(user, attributes) }
    }
}

/// What a level wants of the server, in shares.
fn shares(level: &Value) -> f64 {
    let spec = &level["spec"];
    let of = if spec["type"] == "Exempt" { &spec["exempt"] } else { &spec["limited"] };
    of["nominalConcurrencyShares"].as_f64().unwrap_or_default()
}

/// The limits of a level that has its share of `all`; `None` for one that has none.
fn limits(level: &Value, all: f64) -> Option<Limits> {
    let spec = &level["spec"];
    if spec["type"] == "Exempt" {
        return None;
    }
    let running = if all > 0.0 { (SERVER_LIMIT * shares(level) / all).ceil() as usize } else { 0 };
    let response = &spec["limited"]["limitResponse"];
    let count = |key: &str| {
        let count = response["queuing"][key].as_u64().unwrap_or_default();
        usize::try_from(count).unwrap_or(usize::MAX)
    };
    let (queues, hand, length) = match response["type"].as_str() {
        Some("Queue") => (count("queues"), count("handSize"), count("queueLengthLimit")),
        _ => (0, 0, 0),
    };
    Some(Limits {
        running,
        flow: hand.min(queues).saturating_mul(length),
        waiting: queues.saturating_mul(length),
    })
}

/// The levels, with what they carry out at this moment.
#[derive(Debug)]
pub struct Fairness {
    now: RwLock<Arc<Table>>,
}

impl Default for Fairness {
    /// Before anything is written, there is what must be there.
    fn default() -> Fairness {
        Fairness { now: RwLock::new(Arc::new(Table::new(&[], &[], None))) }
    }
}

impl Fairness {
    fn table(&self) -> Arc<Table> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sorts by these objects from now on.
    fn set(&self, schemas: &[&Value], levels: &[&Value]) {
        let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
        *now = Arc::new(Table::new(schemas, levels, Some(&now)));
    }

    /// Where a request of this user belongs.
    pub fn classify(&self, user: &User, attributes: &Attributes<'_>) -> Class {
        self.table().classify(user, attributes)
    }
}

impl Class {
    /// The uids of its flow schema and its priority level; empty before these are written.
    pub fn uids(&self) -> (&str, &str) {
        (&self.schema.uid, &self.level.uid)
    }

    /// Waits until a request may be carried out, which lasts as long as the permit; nothing is needed on a level without
    /// a limit. 429 when too many wait already, or it waits too long.
    pub async fn enter(&self) -> Result<Option<Permit>, Status> {
        let Some(level) = &self.level.level else { return Ok(None) };
        let message = "Too many requests, please try again later.";
        let permit = level.enter(&self.flow).await;
        permit.map(Some).ok_or_else(|| Status::too_many_requests(message, RETRY_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::auth::attributes::Asked;
    use crate::apiserver::auth::rbac::MASTERS;

    /// The table of every cluster.
    fn presets() -> (Vec<Value>, Vec<Value>) {
        let schemas = defaults::schemas().into_iter().map(|schema| schema.object).collect();
        (schemas, defaults::LEVELS.iter().map(defaults::LevelPreset::object).collect())
    }

    fn table(schemas: &[Value], levels: &[Value]) -> Table {
        let (schemas, levels): (Vec<&Value>, Vec<&Value>) =
            (schemas.iter().collect(), levels.iter().collect());
        Table::new(&schemas, &levels, None)
    }

    fn user(name: &str, groups: &[&str]) -> User {
        let everybody = ["system:authenticated"].iter().chain(groups);
        let groups = everybody.map(|g| (*g).to_owned()).collect();
        User { name: name.to_owned(), groups, ..User::default() }
    }

    fn asked<'a>(verb: &'a str, group: &'a str, resource: &'a str) -> Attributes<'a> {
        Attributes {
            verb,
            asked: Asked::Resource { group, resource, subresource: "", namespace: "blue", name: "" },
        }
    }

    #[test]
    fn requests_belong_to_the_levels_of_kubernetes() {
        let (schemas, levels) = presets();
        let table = table(&schemas, &levels);
        let pods = || asked("list", "", "pods");
        let lease = || asked("update", "coordination.k8s.io", "leases");
        let account = |name: &str| user(name, &["system:serviceaccounts"]);
        for (user, attributes, schema, level, flow) in [
            (user("admin", &[MASTERS]), pods(), "exempt", "exempt", ""),
            (user("jane", &[]), Attributes::path("/readyz", "get"), "probes", "exempt", ""),
            (user("jane", &[]), pods(), "global-default", "global-default", "jane"),
            (
                account("system:serviceaccount:blue:robot"),
                pods(),
                "service-accounts",
                "workload-low",
                "system:serviceaccount:blue:robot",
            ),
            (
                account("system:serviceaccount:kube-system:dns"),
                pods(),
                "kube-system-service-accounts",
                "workload-high",
                "blue",
            ),
            (
                account("system:serviceaccount:kube-system:dns"),
                lease(),
                "system-leader-election",
                "leader-election",
                "system:serviceaccount:kube-system:dns",
            ),
            (user("system:kube-scheduler", &[]), pods(), "kube-scheduler", "workload-high", "blue"),
            (
                user("system:node:a", &["system:nodes"]),
                lease(),
                "system-node-high",
                "node-high",
                "system:node:a",
            ),
            (user("system:node:a", &["system:nodes"]), pods(), "system-nodes", "system", "system:node:a"),
            (User::default(), pods(), "catch-all", "catch-all", ""),
        ] {
            let class = table.classify(&user, &attributes);
            let found = (&*class.schema.name, &*class.schema.level, &*class.flow);
            assert_eq!(found, (schema, level, &*format!("{schema}/{flow}")));
        }
    }

    #[test]
    fn schemas_of_others_come_in_their_turn() {
        let (mut schemas, mut levels) = presets();
        let of = |name: &str, precedence: i64, level: &str| {
            json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {"matchingPrecedence": precedence,
                "priorityLevelConfiguration": {"name": level}, "rules": [{
                    "subjects": [{"kind": "User", "user": {"name": "jane"}}],
                    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]}]}})
        };
        schemas.push(of("second", 50, "own"));
        schemas.push(of("first", 50, "own"));
        schemas.push(of("nowhere", 10, "gone"));
        levels.push(
            json!({"metadata": {"name": "own", "uid": "uid-own"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 55, "limitResponse": {"type": "Queue",
                "queuing": {"queues": 4, "handSize": 8, "queueLengthLimit": 3}}}}}),
        );
        let table = table(&schemas, &levels);
        let class = table.classify(&user("jane", &[]), &asked("list", "", "pods"));
        assert_eq!(class.uids(), ("uid-first", "uid-own"));
        let other = table.classify(&user("joe", &[]), &asked("list", "", "pods"));
        assert_eq!(other.schema.name, "global-default");
        // Of 300 shares of 600 requests; a flow may use all of the queues.
        let own = limits(levels.last().unwrap(), 300.0).unwrap();
        assert_eq!(own, Limits { running: 110, flow: 12, waiting: 12 });
    }

    #[tokio::test]
    async fn a_level_that_does_not_queue_refuses() {
        let (schemas, levels) = presets();
        let class = table(&schemas, &levels).classify(&User::default(), &asked("list", "", "pods"));
        let mut permits = Vec::new();
        let refused = loop {
            match class.enter().await {
                Ok(permit) => permits.push(permit),
                Err(refused) => break refused,
            }
        };
        // Of 245 shares of 600 this level has 5.
        assert_eq!((permits.len(), refused.code), (13, 429));
        assert_eq!(refused.details.unwrap().retry_after_seconds, 1);
        // Before anything is written it has them all, and administrators need none.
        let fairness = Fairness::default();
        let alone = fairness.classify(&User::default(), &asked("list", "", "pods"));
        assert!(alone.enter().await.unwrap().is_some());
        let exempt = fairness.classify(&user("admin", &[MASTERS]), &asked("list", "", "pods"));
        assert!(exempt.enter().await.unwrap().is_none());
        // A level that changes keeps its requests.
        let (schemas, levels): (Vec<&Value>, Vec<&Value>) =
            (schemas.iter().collect(), levels.iter().collect());
        fairness.set(&schemas, &levels);
        let before = fairness.classify(&User::default(), &asked("list", "", "pods"));
        fairness.set(&schemas, &levels);
        let after = fairness.classify(&User::default(), &asked("list", "", "pods"));
        assert!(Arc::ptr_eq(before.level.level.as_ref().unwrap(), after.level.level.as_ref().unwrap()));
    }
}
