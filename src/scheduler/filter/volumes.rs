//! Claims of a pod: those that must be bound already, what a node reaches, and what is to be bound once the pod has a
//! node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{Plugin, Refusal, never, refuse};
use crate::api::volumes::{self, NO_PROVISIONER, SELECTED_NODE, Seeker};
use crate::scheduler::cluster::{Cluster, NodeInfo, namespace, spec};

/// The claims of a pod.
#[derive(Debug, Default)]
pub struct Needs {
    /// Those that have their volume.
    bound: Vec<Arc<PersistentVolumeClaim>>,
    /// Those that get one when the pod has a node.
    waiting: Vec<Arc<PersistentVolumeClaim>>,
    /// Whether another pod uses a claim that allows one pod alone.
    alone: bool,
}

/// What is to be done about a pod's claims before it is bound to a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bindings {
    /// Volumes that are there, and their claims.
    pub tied: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims whose volumes are to be made.
    pub made: Vec<Arc<PersistentVolumeClaim>>,
}

impl Bindings {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tied.is_empty() && self.made.is_empty()
    }
}

fn class<'a>(claim: &PersistentVolumeClaim, cluster: &'a Cluster) -> Option<&'a Arc<StorageClass>> {
    cluster.classes.get(volumes::claim_class(claim).unwrap_or_default())
}

impl Needs {
    /// Reads a pod's claims; an error says why no node can take it yet.
    pub fn of(pod: &Pod, cluster: &Cluster) -> Result<Needs, String> {
        let mut needs = Needs::default();
        for volume in spec(pod).volumes.iter().flatten() {
            let Some(name) = volumes::claim_name(pod, volume) else { continue };
            let key = format!("{}/{name}", namespace(pod));
            let Some(claim) = cluster.claims.get(&key) else {
                return Err(match volume.ephemeral.is_some() {
                    true => format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    ),
                    false => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            if volumes::claim_phase(claim) == "Lost" {
                let lost = volumes::volume_of(claim);
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {lost:?}"
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if volume.ephemeral.is_some() && !volumes::is_made_for(claim, pod) {
                let of = pod.metadata.name.as_deref().unwrap_or_default();
                let namespace = namespace(pod);
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{of} (pod is not owner)"
                ));
            }
            let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default();
            let exclusive = modes.iter().any(|mode| mode == "ReadWriteOncePod");
            needs.alone |= exclusive && is_used(pod, &name, cluster);
            if volumes::is_bound(claim) {
                needs.bound.push(claim.clone());
            } else if volumes::volume_of(claim).is_empty()
                && class(claim, cluster)
                    .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
            {
                needs.waiting.push(claim.clone());
            } else {
                return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
            }
        }
        Ok(needs)
    }

    /// What is to be bound when the pod goes to a node that the filter let pass.
    pub fn bindings(&self, cluster: &Cluster, at: &NodeInfo) -> Bindings {
        find(self, cluster, at).unwrap_or_default()
    }
}

/// Whether another pod uses a claim.
fn is_used(pod: &Pod, claim: &str, cluster: &Cluster) -> bool {
    cluster.nodes.iter().flat_map(|node| &node.pods).any(|other| {
        other.pod.metadata.uid != pod.metadata.uid
            && namespace(&other.pod) == namespace(pod)
            && volumes::claims_of(&other.pod).any(|used| used == claim)
    })
}

/// Whether a node reaches the volumes of a pod, and can have those that it lacks.
pub fn check(needs: &Needs, cluster: &Cluster, at: &NodeInfo) -> Result<(), Refusal> {
    if needs.alone {
        return refuse(
            Plugin::Restrictions,
            "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",
        );
    }
    for claim in &needs.bound {
        let name = volumes::volume_of(claim);
        let volume = cluster.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name));
        let Some(volume) = volume else {
            let why = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
            return never(Plugin::Volumes, why);
        };
        if !volumes::is_reachable(volume, at.name(), at.labels()) {
            return never(Plugin::Volumes, "node(s) didn't match PersistentVolume's node affinity");
        }
    }
    match find(needs, cluster, at) {
        Some(_) => Ok(()),
        None => never(Plugin::Volumes, "node(s) didn't find available persistent volumes to bind"),
    }
}

/// A volume for each claim that waits, or the word that it is to be made; `None` when one can have neither.
fn find(needs: &Needs, cluster: &Cluster, at: &NodeInfo) -> Option<Bindings> {
    let mut bindings = Bindings::default();
    for claim in &needs.waiting {
        let selected = volumes::of_claim(claim, SELECTED_NODE);
        if selected.is_some_and(|node| node != at.name()) {
            return None;
        }
        let free = |volume: &&Arc<PersistentVolume>| {
            !bindings.tied.iter().any(|(taken, _)| taken.metadata.name == volume.metadata.name)
        };
        let seeker = Seeker::Node(at.name(), at.labels());
        let found = match selected {
            Some(_) => None,
            None => volumes::find(claim, cluster.volumes.iter().filter(free).map(|volume| &**volume), seeker),
        };
        let found = found.and_then(|found| {
            cluster.volumes.iter().find(|volume| volume.metadata.name == found.metadata.name)
        });
        if let Some(volume) = found {
            bindings.tied.push((volume.clone(), claim.clone()));
            continue;
        }
        let class = class(claim, cluster)?;
        if class.provisioner == NO_PROVISIONER || !is_allowed(class, at) {
            return None;
        }
        bindings.made.push(claim.clone());
    }
    Some(bindings)
}

/// Whether a class makes volumes for a node.
fn is_allowed(class: &StorageClass, at: &NodeInfo) -> bool {
    let Some(topologies) = class.allowed_topologies.as_deref().filter(|all| !all.is_empty()) else {
        return true;
    };
    topologies.iter().any(|term| {
        term.match_label_expressions.iter().flatten().all(|expression| {
            at.labels().get(&expression.key).is_some_and(|value| expression.values.contains(value))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::cluster::testing::{cluster, node, pod};
    use serde_json::{Value, json};

    fn with_claim() -> Value {
        json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]})
    }

    fn claim(change: impl FnOnce(&mut Value)) -> Arc<PersistentVolumeClaim> {
        let mut claim = json!({"metadata": {"name": "data", "namespace": "d", "uid": "c"},
            "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}});
        change(&mut claim);
        Arc::new(serde_json::from_value(claim).unwrap())
    }

    fn bound(c: &mut Value) {
        c["spec"]["volumeName"] = json!("v");
        c["metadata"]["annotations"] = json!({"pv.kubernetes.io/bind-completed": "yes"});
    }

    fn volume(name: &str, node: &str) -> Arc<PersistentVolume> {
        let volume = json!({"metadata": {"name": name}, "status": {"phase": "Available"}, "spec": {
            "storageClassName": "late", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}});
        Arc::new(serde_json::from_value(volume).unwrap())
    }

    fn class(provisioner: &str) -> Arc<StorageClass> {
        let class = json!({"metadata": {"name": "late"}, "provisioner": provisioner,
            "volumeBindingMode": "WaitForFirstConsumer"});
        Arc::new(serde_json::from_value(class).unwrap())
    }

    #[test]
    fn claims_that_keep_a_pod_from_every_node() {
        let of = |name: &str| json!({"volumes": [{"name": name, "ephemeral": {}}]});
        for (spec, claim, expected) in [
            (with_claim(), None, "persistentvolumeclaim \"data\" not found"),
            (
                of("v"),
                None,
                "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"",
            ),
            (
                with_claim(),
                Some(claim(|c| c["spec"]["storageClassName"] = json!("now"))),
                "pod has unbound immediate PersistentVolumeClaims",
            ),
            (
                with_claim(),
                Some(claim(|c| c["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"))),
                "persistentvolumeclaim \"data\" is being deleted",
            ),
            (
                with_claim(),
                Some(claim(|c| {
                    bound(c);
                    c["status"] = json!({"phase": "Lost"});
                })),
                "persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"v\"",
            ),
        ] {
            let mut cluster = cluster(&[node("n", |_| {})], &[]);
            cluster.classes.insert("late".to_owned(), class("x"));
            cluster.claims.extend(claim.map(|claim| ("d/data".to_owned(), claim)));
            assert_eq!(Needs::of(&pod("p", spec), &cluster).unwrap_err(), expected);
        }
    }

    #[test]
    fn nodes_are_judged_by_the_volumes_that_they_reach() {
        let selected = |node: &'static str| {
            move |c: &mut Value| {
                c["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": node});
            }
        };
        let none = "node(s) didn't find available persistent volumes to bind";
        let elsewhere = "node(s) didn't match PersistentVolume's node affinity";
        let missing = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        for (claim, volumes, provisioner, expected) in [
            (claim(bound), vec![volume("v", "n")], "x", Ok((0, 0))),
            (claim(bound), vec![volume("v", "m")], "x", Err(elsewhere)),
            (claim(bound), vec![], "x", Err(missing)),
            (claim(|_| {}), vec![volume("v", "n")], NO_PROVISIONER, Ok((1, 0))),
            (claim(|_| {}), vec![volume("v", "m")], NO_PROVISIONER, Err(none)),
            (claim(|_| {}), vec![], "x", Ok((0, 1))),
            (claim(selected("n")), vec![volume("v", "n")], "x", Ok((0, 1))),
            (claim(selected("m")), vec![], "x", Err(none)),
        ] {
            let mut cluster = cluster(&[node("n", |_| {})], &[]);
            cluster.classes.insert("late".to_owned(), class(provisioner));
            cluster.claims.insert("d/data".to_owned(), claim.clone());
            cluster.volumes = volumes;
            let needs = Needs::of(&pod("p", with_claim()), &cluster).unwrap();
            let result = check(&needs, &cluster, &cluster.nodes[0]).map(|()| {
                let bindings = needs.bindings(&cluster, &cluster.nodes[0]);
                (bindings.tied.len(), bindings.made.len())
            });
            assert_eq!(result.map_err(|r| r.reasons.concat()), expected.map_err(str::to_owned), "{claim:?}");
        }
    }

    #[test]
    fn a_claim_for_one_pod_alone_is_that_pods() {
        let exclusive = claim(|c| {
            bound(c);
            c["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
        });
        let mut spec = with_claim();
        spec["nodeName"] = json!("n");
        let mut cluster = cluster(&[node("n", |_| {})], &[pod("first", spec)]);
        cluster.claims.insert("d/data".to_owned(), exclusive);
        cluster.volumes = vec![volume("v", "n")];
        let needs = Needs::of(&pod("p", with_claim()), &cluster).unwrap();
        let refusal = check(&needs, &cluster, &cluster.nodes[0]).unwrap_err();
        assert!(refusal.resolvable && refusal.reasons[0].contains("ReadWriteOncePod"), "{refusal:?}");
    }
}
