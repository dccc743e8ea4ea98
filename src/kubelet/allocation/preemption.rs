//! Which pods must go so that the node has room for one that it needs to work (kubelet's `preemption`; pure).

use crate::api::quantity::Quantity;
use crate::api::resources::Resources;
use crate::api::room::{Short, amount_of};

/// How gladly pods are let go: those that were promised nothing first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing was promised to it.
    BestEffort,
    /// Something was.
    Burstable,
    /// All that it may use was.
    Guaranteed,
}

impl Class {
    /// As a pod's status names it.
    pub fn of(name: Option<&str>) -> Class {
        match name {
            Some("Guaranteed") => Class::Guaranteed,
            Some("Burstable") => Class::Burstable,
            _ => Class::BestEffort,
        }
    }
}

/// A pod that may be let go.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its uid.
    pub uid: String,
    /// How gladly it is let go.
    pub class: Class,
    /// What it has.
    pub held: Resources,
}

/// What is missing of a resource, in the kubelet's units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    name: String,
    amount: i64,
}

impl Need {
    /// What a pod is short of.
    pub fn of(short: &Short) -> Need {
        let amount = |amount: &Quantity| amount_of(&short.name, amount);
        let free = amount(&short.capacity) - amount(&short.used);
        Need { name: short.name.clone(), amount: amount(&short.requested) - free }
    }
}

/// What a pod gives up of a resource.
fn gives(pod: &Candidate, name: &str) -> i64 {
    if name == "pods" { 1 } else { pod.held.get(name).map_or(0, |held| amount_of(name, held)) }
}

/// What is still missing when these have gone.
fn left<'c>(needs: &[Need], gone: impl Iterator<Item = &'c Candidate> + Clone) -> Vec<Need> {
    let after = |need: &Need| {
        let given: i64 = gone.clone().map(|pod| gives(pod, &need.name)).fold(0, i64::saturating_add);
        Need { amount: need.amount.saturating_sub(given), ..need.clone() }
    };
    needs.iter().map(after).filter(|need| need.amount > 0).collect()
}

/// The uids of those that go: as few as possible, and of those to whom the least was promised; or what would be missing
/// even without all of them.
pub fn choose(needs: &[Need], candidates: &[Candidate]) -> Result<Vec<String>, String> {
    let missing = left(needs, candidates.iter());
    if !missing.is_empty() {
        let told: String =
            missing.iter().map(|need| format!("(res: {}, q: {}), ", need.name, need.amount)).collect();
        return Err(format!("no set of running pods found to reclaim resources: [{told}]"));
    }
    let of = |class: Class| candidates.iter().filter(move |pod| pod.class == class);
    let (lowest, middle) = (of(Class::BestEffort), of(Class::Burstable));
    // Of the dearest, those without whom all of the cheaper ones would not do; and so on down.
    let guaranteed =
        nearest(left(needs, lowest.clone().chain(middle.clone())), of(Class::Guaranteed).collect());
    let chosen = guaranteed.iter().copied();
    let burstable = nearest(left(needs, lowest.clone().chain(chosen.clone())), middle.collect());
    let best_effort = nearest(left(needs, burstable.iter().copied().chain(chosen)), lowest.collect());
    let all = best_effort.into_iter().chain(burstable).chain(guaranteed);
    Ok(all.map(|pod| pod.uid.clone()).collect())
}

/// Takes again and again the pod that covers most of what is needed, of equals the smallest, until nothing is.
fn nearest(mut needs: Vec<Need>, mut pods: Vec<&Candidate>) -> Vec<&Candidate> {
    let mut chosen = Vec::new();
    while !needs.is_empty() {
        let size = |pod: &Candidate| (gives(pod, "memory"), gives(pod, "cpu"));
        let best = (0..pods.len()).min_by(|a, b| {
            let (a, b) = (pods[*a], pods[*b]);
            distance(&needs, a).total_cmp(&distance(&needs, b)).then_with(|| size(a).cmp(&size(b)))
        });
        let Some(best) = best else { break };
        let pod = pods.swap_remove(best);
        needs = left(&needs, std::iter::once(pod));
        chosen.push(pod);
    }
    chosen
}

/// How much of what is needed a pod leaves open: each resource counts the same, however large its numbers.
fn distance(needs: &[Need], pod: &Candidate) -> f64 {
    let open = |need: &Need| {
        let open = need.amount.saturating_sub(gives(pod, &need.name)).max(0);
        (open as f64 / need.amount as f64).powi(2)
    };
    needs.iter().map(open).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::resources;
    use serde_json::json;

    fn pod(uid: &str, class: Class, cpu: &str, memory: &str) -> Candidate {
        Candidate { uid: uid.into(), class, held: resources::read(&json!({"cpu": cpu, "memory": memory})) }
    }

    #[test]
    fn who_goes() {
        use Class::{BestEffort, Burstable, Guaranteed};
        let pods = [
            pod("best", BestEffort, "0", "0"),
            pod("small", Burstable, "500m", "100"),
            pod("large", Burstable, "2", "400"),
            pod("wide", Burstable, "2", "900"),
            pod("sure", Guaranteed, "1", "500"),
        ];
        for (cpu, memory, number, expected) in [
            (400, 0, 0, Ok(vec!["small"])),
            // Both cover it: the smaller one is enough.
            (1500, 0, 0, Ok(vec!["large"])),
            (2000, 800, 0, Ok(vec!["wide"])),
            (3000, 0, 0, Ok(vec!["large", "wide"])),
            (0, 0, 1, Ok(vec!["best"])),
            (4800, 0, 0, Ok(vec!["large", "wide", "sure"])),
            (9000, 0, 0, Err("no set of running pods found to reclaim resources: [(res: cpu, q: 3500), ]")),
        ] {
            let needs: Vec<Need> = [("cpu", cpu), ("memory", memory), ("pods", number)]
                .into_iter()
                .filter(|(_, amount)| *amount > 0)
                .map(|(name, amount)| Need { name: name.into(), amount })
                .collect();
            let chosen = choose(&needs, &pods);
            let chosen =
                chosen.as_ref().map(|all| all.iter().map(String::as_str).collect()).map_err(String::as_str);
            assert_eq!(chosen, expected, "{cpu} {memory} {number}");
        }
    }

    #[test]
    fn what_is_short_is_what_is_asked_for_beyond_what_is_free() {
        let quantity = |text: &str| resources::read(&json!({"cpu": text}))["cpu"];
        let short = Short {
            name: "cpu".into(),
            requested: quantity("3"),
            used: quantity("6"),
            capacity: quantity("8"),
        };
        assert_eq!(Need::of(&short), Need { name: "cpu".into(), amount: 1000 });
    }
}
