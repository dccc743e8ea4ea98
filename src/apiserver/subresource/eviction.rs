//! The subresource `eviction`: a pod goes as a drain asks for it, as far as disruption budgets allow (Kubernetes
//! `pkg/registry/core/pod/storage/eviction.go`).

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{EVICTION, created, read_about};
use crate::api::request::{DeleteOptions, ListOptions, Response, User, WriteOptions};
use crate::api::selector::LabelSelector;
use crate::api::status::{Cause, Status};
use crate::api::{kinds, meta};
use crate::apiserver::registry::{Part, Place};
use crate::apiserver::{ApiServer, admission, structure};
use crate::clock;

/// The most pods that a budget may count as going, before evictions wait for its controller.
const MOST_DISRUPTED: usize = 2000;
/// How often an eviction is tried again on what another writer made of the pod in between.
const ATTEMPTS: usize = 20;
const CONDITION: &str = "DisruptionAllowed";
/// After how many seconds a budget that is behind may be asked again.
const BEHIND_SECONDS: u32 = 10;

/// How a pod may go.
#[derive(Debug, PartialEq, Eq)]
enum Leave {
    /// Whatever becomes of it in the meantime.
    Freely,
    /// As long as it stays as it is: it is not counted among the healthy ones.
    Unchanged,
    /// When its budget allows one disruption more.
    Counted,
}

/// Deletes a pod unless that would disrupt more than a budget allows.
pub(super) async fn evict(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    mut body: Value,
    write: &WriteOptions,
) -> Result<Response, Status> {
    if meta::api_version(&body) == "policy/v1beta1" {
        body["apiVersion"] = json!("policy/v1");
    }
    let (mut eviction, mut warnings) = read_about(place, EVICTION, body, write)?;
    let told = admission::create_part(api.registry(), user, place, "eviction", &mut eviction, write);
    warnings.extend(told.await?);
    let mut options = structure::delete_options(eviction["deleteOptions"].clone())?;
    options.dry_run |= write.dry_run;
    let mut outcome = Err(place.modified());
    for _ in 0..ATTEMPTS {
        outcome = evict_once(api, user, place, options.clone()).await;
        match &outcome {
            // Without a word of the client's about it, the pod's newest state counts.
            Err(status) if status.is("Conflict") && options.precondition_resource_version.is_none() => {}
            _ => break,
        }
    }
    outcome.map(|()| created(warnings))
}

async fn evict_once(
    api: &ApiServer,
    user: &User,
    place: Place<'_>,
    mut options: DeleteOptions,
) -> Result<(), Status> {
    let entry = api.registry().get(place, "")?;
    let pod = entry.json();
    if options.precondition_uid.as_deref().is_some_and(|uid| uid != meta::uid(pod)) {
        // Another pod has its name by now: refused before that costs a budget anything.
        return api.registry().delete(user, place, &options).await.map(drop);
    }
    let budgets = if is_over(pod) { Vec::new() } else { budgets(api, pod)? };
    let leave = match budgets.as_slice() {
        [] => without_budget(pod),
        [budget] => with_budget(pod, budget),
        _ => {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::failure(500, "", why));
        }
    };
    let pinned = leave == Leave::Unchanged && options.precondition_resource_version.is_none();
    if pinned {
        options.precondition_resource_version = Some(meta::resource_version(pod).to_owned());
    }
    if let (Leave::Counted, Some(budget)) = (&leave, budgets.first()) {
        count(api, user, place, meta::name(budget), &options).await?;
    }
    match (api.registry().delete(user, place, &options).await, budgets.first()) {
        (Err(status), Some(budget)) if pinned && status.is("Conflict") => Err(behind(meta::name(budget))),
        (deleted, _) => deleted.map(drop),
    }
}

/// Whether a pod has stopped or not begun, or goes already: no budget counts it.
fn is_over(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || meta::is_deleting(pod)
}

/// A pod that has not begun must not begin in the meantime.
fn without_budget(pod: &Value) -> Leave {
    let pending = pod["status"]["phase"] == "Pending" && !meta::is_deleting(pod);
    if pending { Leave::Unchanged } else { Leave::Freely }
}

fn with_budget(pod: &Value, budget: &Value) -> Leave {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    if ready {
        return Leave::Counted;
    }
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let enough = current >= desired && desired > 0;
    let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
    if always || enough { Leave::Unchanged } else { Leave::Counted }
}

/// The budgets that speak of a pod.
fn budgets(api: &ApiServer, pod: &Value) -> Result<Vec<Value>, Status> {
    let Some(kind) = kinds::by_kind("policy", "v1", "PodDisruptionBudget") else { return Ok(Vec::new()) };
    let list = api.registry().list(kind, Some(meta::namespace(pod)), &ListOptions::default())?;
    let Response::List { snapshot, .. } = list else { return Ok(Vec::new()) };
    let chooses = |budget: &&Value| {
        let selector = LabelSelector::from_object(&budget["spec"]["selector"]);
        selector.is_ok_and(|selector| selector.matches(meta::labels(pod)))
    };
    Ok(snapshot.entries.iter().map(|entry| entry.json()).filter(chooses).cloned().collect())
}

/// Takes one disruption from a budget, for a pod.
async fn count(
    api: &ApiServer,
    user: &User,
    pod: Place<'_>,
    budget: &str,
    options: &DeleteOptions,
) -> Result<(), Status> {
    let Some(kind) = kinds::by_kind("policy", "v1", "PodDisruptionBudget") else { return Ok(()) };
    let place = Place { kind, namespace: pod.namespace, name: budget };
    let options = WriteOptions { dry_run: options.dry_run, ..WriteOptions::default() };
    let now = clock::now();
    let take = |budget: &Value| Ok((taken(budget, pod.name, now)?, Vec::new()));
    api.registry().change(user, place, Part::Status, &options, take).await.map(drop)
}

/// The budget after one disruption more, when it allows that.
fn taken(budget: &Value, pod: &str, now: Timestamp) -> Result<Value, Status> {
    let (name, status) = (meta::name(budget), &budget["status"]);
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    if number("observedGeneration") < meta::generation(budget) {
        return Err(behind(name));
    }
    let forbidden = |why: &str| Err(Status::forbidden("policy", "poddisruptionbudget", name, why));
    let allowed = number("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        return Err(refused(0, why_not(name, status)));
    }
    let mut budget = budget.clone();
    let status = meta::child_mut(&mut budget, "status");
    status.insert("disruptionsAllowed".into(), json!(allowed - 1));
    let pods = status.entry("disruptedPods").or_insert(Value::Null);
    meta::map_mut(pods).insert(pod.to_owned(), json!(meta::timestamp(now)));
    if allowed == 1 {
        used_up(&mut budget["status"], now);
    }
    Ok(budget)
}

/// Says in the conditions that nothing more is allowed.
fn used_up(status: &mut Value, now: Timestamp) {
    let generation = status["observedGeneration"].clone();
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let at = conditions.iter().position(|condition| condition["type"] == CONDITION);
    let old = at.map(|at| conditions.remove(at)).unwrap_or_default();
    let since = match &old["lastTransitionTime"] {
        time if old["status"] == "False" && !time.is_null() => time.clone(),
        _ => json!(meta::timestamp(now)),
    };
    let condition = json!({"type": CONDITION, "status": "False", "reason": "InsufficientPods", "message": "",
        "observedGeneration": generation, "lastTransitionTime": since});
    conditions.insert(at.unwrap_or(conditions.len()), condition);
}

/// Why a budget allows nothing.
fn why_not(name: &str, status: &Value) -> String {
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    let (current, desired) = (number("currentHealthy"), number("desiredHealthy"));
    let text = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    let conditions = status["conditions"].as_array().into_iter().flatten();
    let told =
        |c: &&Value| c["type"] == CONDITION && c["status"] == "False" && !text(c, "message").is_empty();
    let condition = conditions.into_iter().find(told);
    let reason = condition.map(|condition| text(condition, "reason"));
    let message = condition.map(|condition| text(condition, "message")).unwrap_or_default();
    match reason.as_deref() {
        // The numbers say nothing then.
        Some("SyncFailed") => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            )
        }
        _ if current <= desired => {
            format!("The disruption budget {name} needs {desired} healthy pods and has {current} currently")
        }
        Some(reason) => {
            format!(
                "The disruption budget {name} does not allow evicting pods currently ({reason}): {message}"
            )
        }
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// 429: the budget's controller has not yet seen what it is to watch over.
fn behind(budget: &str) -> Status {
    refused(BEHIND_SECONDS, format!("The disruption budget {budget} is still being processed by the server."))
}

fn refused(again_after: u32, message: String) -> Status {
    let why = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(why, again_after);
    let cause = Cause { reason: "DisruptionBudget".into(), message, field: String::new() };
    status.details.get_or_insert_default().causes.push(cause);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "spec": {}, "status": status})
    }

    #[test]
    fn a_budget_is_used_up() {
        let now = Timestamp::UNIX_EPOCH;
        let given = budget(json!({"observedGeneration": 2, "disruptionsAllowed": 2, "currentHealthy": 3}));
        let once = taken(&given, "p", now).unwrap();
        assert_eq!(once["status"]["disruptionsAllowed"], 1);
        assert_eq!(once["status"]["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z"}));
        assert!(once["status"].get("conditions").is_none());
        let twice = taken(&once, "q", now).unwrap();
        let condition = &twice["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("False"), &json!("InsufficientPods"))
        );
        assert!(taken(&twice, "r", now).is_err());
    }

    #[test]
    fn refusals_are_kubernetes() {
        let behind = "The disruption budget b is still being processed by the server.";
        let needs = "The disruption budget b needs 3 healthy pods and has 2 currently";
        let failed =
            "The disruption budget b does not allow evicting pods currently because it failed sync: odd";
        let conditions = json!([{"type": "DisruptionAllowed", "status": "False", "reason": "SyncFailed",
            "message": "odd"}]);
        for (status, code, cause) in [
            (json!({}), 429, behind),
            (json!({"observedGeneration": 2, "desiredHealthy": 3, "currentHealthy": 2}), 429, needs),
            (json!({"observedGeneration": 2, "conditions": conditions}), 429, failed),
            (json!({"observedGeneration": 2, "disruptionsAllowed": -1}), 403, ""),
        ] {
            let refused = taken(&budget(status), "p", Timestamp::UNIX_EPOCH).unwrap_err();
            let causes = refused.details.map(|details| details.causes).unwrap_or_default();
            assert_eq!((refused.code, causes.first().map_or("", |c| &c.message)), (code, cause));
        }
    }

    #[test]
    fn only_healthy_pods_count() {
        let pod = |phase: &str, ready: &str| json!({"status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        assert!(is_over(&pod("Succeeded", "False")) && !is_over(&pod("Running", "False")));
        assert_eq!(without_budget(&pod("Pending", "False")), Leave::Unchanged);
        assert_eq!(without_budget(&pod("Running", "False")), Leave::Freely);
        let counts =
            |current: i64, desired: i64| json!({"currentHealthy": current, "desiredHealthy": desired});
        assert_eq!(with_budget(&pod("Running", "True"), &budget(counts(1, 1))), Leave::Counted);
        assert_eq!(with_budget(&pod("Running", "False"), &budget(counts(1, 1))), Leave::Unchanged);
        assert_eq!(with_budget(&pod("Running", "False"), &budget(counts(0, 1))), Leave::Counted);
        let mut lenient = budget(counts(0, 1));
        lenient["spec"]["unhealthyPodEvictionPolicy"] = json!("AlwaysAllow");
        assert_eq!(with_budget(&pod("Running", "False"), &lenient), Leave::Unchanged);
    }
}
