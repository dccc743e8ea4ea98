//! Probes of a pod's containers: one task with one timer for each, whose verdicts the pod's worker reads.
//!
//! A task belongs to one run of a container. A startup probe holds the others back until it has succeeded; a verdict
//! that ends the container ends its task too.

mod tally;
mod task;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use self::tally::Tally;
use super::context::Context;
use super::observed::{Ailment, ObservedContainer, ObservedPod, written_status};
use super::pod::{all_containers, container};
use crate::runtime::{ContainerState, Runtime};

/// What a probe is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Whether the container has come up.
    Startup,
    /// Whether it can take requests.
    Readiness,
    /// Whether it is to go on.
    Liveness,
}

impl Kind {
    /// The kind's name as messages begin with it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }

    /// The probe of this kind that a container asks for.
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
        }
    }
}

/// What a probe has found so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that counts.
    Open,
    /// Well.
    Good,
    /// Not well.
    Bad,
}

/// The probes of a pod.
#[derive(Default)]
pub struct Probes(HashMap<(String, Kind), Probing>);

/// A probe of one run of a container.
struct Probing {
    verdict: watch::Receiver<Verdict>,
    /// `None` when there is nothing more to find out.
    _task: Option<AbortOnDropHandle<()>>,
}

/// What a probe's task needs.
struct Run {
    pod: Arc<Pod>,
    container: Container,
    /// The runtime's id of the container.
    id: String,
    address: String,
    kind: Kind,
    probe: Probe,
    tally: Tally,
}

/// Whether any container of the pod is probed at all.
fn probed(pod: &Pod) -> bool {
    let kinds = [Kind::Startup, Kind::Readiness, Kind::Liveness];
    pod.spec.iter().flat_map(all_containers).any(|c| kinds.iter().any(|kind| kind.of(c).is_some()))
}

impl Probes {
    fn verdict(&self, id: &str, kind: Kind) -> Option<Verdict> {
        self.0.get(&(id.to_owned(), kind)).map(|probing| *probing.verdict.borrow())
    }

    /// Writes on running containers how they are. What an earlier daemon has found out of the same run holds until
    /// there is something newer.
    pub fn judge(&self, pod: &Pod, observed: &mut ObservedPod) {
        for found in
            observed.containers.iter_mut().filter(|c| matches!(c.state, ContainerState::Running { .. }))
        {
            let Some(spec) = container(pod, &found.name) else { continue };
            let good = |kind: Kind, before: bool| match kind.of(&spec) {
                None => true,
                Some(_) => self.verdict(&found.id, kind).map_or(before, |verdict| verdict == Verdict::Good),
            };
            let (started, ready) = found_before(pod, found);
            found.health.started = good(Kind::Startup, started);
            found.health.ready = good(Kind::Readiness, ready);
            let bad = [Kind::Startup, Kind::Liveness]
                .into_iter()
                .find(|kind| self.verdict(&found.id, *kind) == Some(Verdict::Bad));
            found.health.ailment = found.health.ailment.or(bad.map(Ailment::Probe));
        }
    }

    /// Begins the probes that are due, and ends those that are not; a pod that stops is only asked whether it is
    /// ready. Changes wake the worker.
    pub fn tend<R: Runtime>(
        &mut self,
        context: &Arc<Context<R>>,
        pod: &Pod,
        observed: &ObservedPod,
        stops: bool,
        wake: &Arc<Notify>,
    ) {
        if !probed(pod) {
            return;
        }
        let running = |id: &str| {
            observed
                .containers
                .iter()
                .find(|c| c.id == id && matches!(c.state, ContainerState::Running { .. }))
        };
        self.0.retain(|(id, _), _| running(id).is_some());
        if stops {
            for ((_, kind), probing) in &mut self.0 {
                if *kind != Kind::Readiness {
                    probing._task = None;
                }
            }
        }
        let mut shared = None;
        for found in &observed.containers {
            let ContainerState::Running { started, .. } = found.state else { continue };
            let Some(spec) = container(pod, &found.name).filter(|_| found.health.hooked) else { continue };
            for kind in due(&spec, found, stops) {
                let key = (found.id.clone(), kind);
                let Some(probe) = kind.of(&spec).filter(|_| !self.0.contains_key(&key)) else { continue };
                let (_, ready) = found_before(pod, found);
                let verdict = match kind {
                    Kind::Startup if found.health.started => Verdict::Good,
                    Kind::Readiness if ready => Verdict::Good,
                    _ => Verdict::Open,
                };
                let (tell, heard) = watch::channel(verdict);
                let task = (kind != Kind::Startup || verdict == Verdict::Open).then(|| {
                    let pod = shared.get_or_insert_with(|| Arc::new(pod.clone()));
                    let host = context.config.address.to_string();
                    let address = observed.sandbox.as_ref().and_then(|s| s.address.clone()).unwrap_or(host);
                    let run = Run {
                        pod: pod.clone(),
                        container: Container::clone(&spec),
                        id: found.id.clone(),
                        address,
                        kind,
                        probe: probe.clone(),
                        tally: Tally::new(kind, probe, verdict),
                    };
                    let age = started.elapsed().unwrap_or_default();
                    AbortOnDropHandle::new(tokio::spawn(run.on(context.clone(), age, tell, wake.clone())))
                });
                self.0.insert(key, Probing { verdict: heard, _task: task });
            }
        }
    }
}

/// The kinds of probes that a running container is due.
fn due(spec: &Container, found: &ObservedContainer, stops: bool) -> Vec<Kind> {
    match (stops, found.health.started) {
        (true, true) => vec![Kind::Readiness],
        (true, false) => vec![],
        (false, true) if spec.startup_probe.is_some() => vec![Kind::Startup, Kind::Readiness, Kind::Liveness],
        (false, true) => vec![Kind::Readiness, Kind::Liveness],
        (false, false) => vec![Kind::Startup],
    }
}

/// Whether the status last written says of this run of a container that it has started, and that it is ready.
fn found_before(pod: &Pod, found: &ObservedContainer) -> (bool, bool) {
    let status =
        written_status(pod, &found.name).filter(|s| s.container_id.as_deref() == Some(&*found.full_id()));
    status.map_or((false, false), |s| (s.started == Some(true), s.ready))
}
