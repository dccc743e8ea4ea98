//! A cluster that runs, until it is told to stop or one of its parts fails; then its drain.

use std::fs;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::build::Components;
use super::control::{End, State, Stop};
use super::lock::Lock;
use super::places::Places;
use super::{Error, Tried, cleanup, unit};
use crate::network::PodNetwork;
use crate::runtime::linux::LinuxRuntime;
use crate::store::Store;

/// How long containers get to end when the machine goes down (a pod's usual grace).
const SHUTDOWN_GRACE: Duration = Duration::from_secs(30);
/// How long each step of the drain may take beside the containers' grace.
const STEP: Duration = Duration::from_secs(STEP_SECONDS);
const STEP_SECONDS: u64 = 4;
/// How long that of the network may take: the programs of other firewalls need seconds on a slow machine.
const NETWORK_STEP: Duration = Duration::from_secs(NETWORK_SECONDS);
const NETWORK_SECONDS: u64 = 12;
/// How long the whole drain may take beside that grace: four steps, that of the network, and the process's own end.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(4 * STEP_SECONDS + NETWORK_SECONDS + 5);

/// A cluster that runs.
pub struct Running {
    /// What makes this process the cluster's daemon.
    pub(super) _lock: Lock,
    pub(super) places: Places,
    pub(super) state: watch::Receiver<State>,
    pub(super) runtime: LinuxRuntime,
    pub(super) network: PodNetwork,
    pub(super) store: Store,
    /// Asks for the end of the cluster.
    pub(super) stops: mpsc::Receiver<Stop>,
    /// Tells the components to end.
    pub(super) shutdown: watch::Sender<bool>,
    /// Tells the kubelet to end, and in what time its pods are to.
    pub(super) end_pods: watch::Sender<Option<Option<Duration>>>,
    pub(super) kubelet: JoinHandle<Result<(), String>>,
    pub(super) components: Components,
}

/// Why a cluster ends.
enum Reason {
    /// Somebody asked for it: pods end.
    Asked(Stop),
    /// The machine goes down: pods end.
    Machine,
    /// By a signal: pods go on.
    Signal,
    /// A part failed: pods go on, and the daemon is to be started again.
    Failure(Error),
}

impl Running {
    /// Resolves when the cluster is ready.
    pub fn ready(&self) -> impl Future<Output = ()> + use<> {
        let mut state = self.state.clone();
        async move {
            // A dropped sender is the daemon's own end.
            if state.wait_for(|state| state.ready).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Runs until it must end, then drains.
    pub async fn until_stopped(mut self) -> Result<(), Error> {
        let reason = self.reason().await?;
        let grace = match &reason {
            Reason::Asked(stop) => Some(stop.grace),
            Reason::Machine => Some(SHUTDOWN_GRACE),
            Reason::Signal | Reason::Failure(_) => None,
        };
        // Pods end while all that serves them is still there.
        self.end_pods.send_replace(Some(grace));
        let patience = grace.unwrap_or_default() + STEP;
        if !self.kubelet.is_finished() && tokio::time::timeout(patience, &mut self.kubelet).await.is_err() {
            tracing::error!("the kubelet did not end in time");
            self.kubelet.abort();
        }
        self.shutdown.send_replace(true);
        let failures = match grace {
            Some(_) => self.end_all().await,
            None => Vec::new(),
        };
        if tokio::time::timeout(STEP, self.store.close()).await.is_err() {
            tracing::error!("the store did not close in time");
        }
        for failure in &failures {
            tracing::error!(failure, "not everything ended");
        }
        let _ = fs::remove_file(self.places.control());
        match reason {
            Reason::Asked(stop) => {
                let end = End { failures };
                stop.done(&end).await;
                while let Ok(other) = self.stops.try_recv() {
                    other.done(&end).await;
                }
                self.components.abort();
                Ok(())
            }
            Reason::Machine | Reason::Signal => Ok(()),
            Reason::Failure(error) => {
                tracing::error!(%error, "the daemon ends");
                Err(error)
            }
        }
    }

    async fn reason(&mut self) -> Result<Reason, Error> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).tried("cannot wait for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).tried("cannot wait for signals")?;
        Ok(tokio::select! {
            Some(stop) = self.stops.recv() => Reason::Asked(stop),
            _ = terminate.recv() => {
                let stopping = tokio::task::spawn_blocking(unit::machine_is_stopping);
                // A service manager that does not answer is busy with something large: pods get their grace.
                match tokio::time::timeout(STEP, stopping).await {
                    Ok(Ok(false)) => Reason::Signal,
                    _ => Reason::Machine,
                }
            }
            _ = interrupt.recv() => Reason::Signal,
            error = self.components.ended() => Reason::Failure(error),
            ended = &mut self.kubelet => Reason::Failure(Error {
                what: "the kubelet failed".to_owned(),
                cause: match ended {
                    Ok(Ok(())) => "it ended by itself".to_owned(),
                    Ok(Err(cause)) => cause,
                    Err(error) => error.to_string(),
                },
            }),
        })
    }

    /// Ends what is left of pods, then what they stood on; objects and volumes stay. Answers what failed.
    async fn end_all(&mut self) -> Vec<String> {
        let ending = cleanup::end_containers(&self.runtime, Duration::ZERO);
        let mut failures = in_time("the containers", STEP, ending).await.unwrap_or_else(|late| vec![late]);
        match in_time("the container runtime", STEP, self.runtime.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failures.push(format!("the container runtime: {error}")),
            Err(late) => failures.push(late),
        }
        let network = async {
            self.network.close().await;
            cleanup::remove_network(&self.places).await
        };
        failures
            .extend(in_time("the network", NETWORK_STEP, network).await.unwrap_or_else(|late| vec![late]));
        failures
    }
}

async fn in_time<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    let done = tokio::time::timeout(limit, work).await;
    done.map_err(|_| format!("{what} did not end in {} s", limit.as_secs()))
}
