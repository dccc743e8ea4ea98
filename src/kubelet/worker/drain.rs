//! Connections to a pod that is deleted: its processes are asked to end when services lead no new ones there.
//!
//! Many servers close their sockets at the first word. Whoever is led to them after that is refused.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::kubelet::context::Addresses;

/// The longest that a pod waits until no new connections are led to it: some milliseconds are enough for a proxy that has the
/// processors, and one that is stuck must not keep pods.
const LEAVING: Duration = Duration::from_secs(3);
/// The longest that it waits then for its processes, which may not look at what waits for them at all.
const PATIENCE: Duration = Duration::from_secs(1);
/// What was led to a pod last waits in its sockets' queues, and is then worked on: how long that may take its processes
/// after nothing waits any more, and how often that is looked at.
const ACCEPT: Duration = Duration::from_millis(20);

/// How far a pod's connections have drained.
#[derive(Default)]
pub enum Drain {
    /// Nobody has asked yet.
    #[default]
    Open,
    /// New connections are still led to it.
    Closing {
        /// Told, or dropped, when that is over.
        over: oneshot::Receiver<()>,
        /// Who waits for that.
        _task: AbortOnDropHandle<()>,
    },
    /// None comes any more.
    Closed,
}

impl Drain {
    /// Whether new connections are led to this pod with these addresses, which ends. It lasts for some seconds at most,
    /// and when it is over `wake` is told.
    pub fn lasts(
        &mut self,
        network: &Arc<dyn Addresses>,
        uid: &str,
        addresses: Vec<IpAddr>,
        wake: &Arc<Notify>,
    ) -> bool {
        match self {
            Drain::Open if network.left(addresses.clone()).now_or_never().is_some() => *self = Drain::Closed,
            Drain::Open => *self = Drain::begin(network, uid, addresses, wake),
            Drain::Closing { over, .. } => {
                if !matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                    *self = Drain::Closed;
                }
            }
            Drain::Closed => {}
        }
        !matches!(self, Drain::Closed)
    }

    fn begin(network: &Arc<dyn Addresses>, uid: &str, addresses: Vec<IpAddr>, wake: &Arc<Notify>) -> Drain {
        let (tell, over) = oneshot::channel();
        let (network, uid, wake) = (network.clone(), uid.to_owned(), wake.clone());
        let task = tokio::spawn(async move {
            let worked_off = async {
                loop {
                    tokio::time::sleep(ACCEPT).await;
                    if !network.is_waited_for(&uid).await {
                        return;
                    }
                }
            };
            let left = timeout(LEAVING, network.left(addresses.clone())).await.is_ok();
            if !(left && timeout(PATIENCE, worked_off).await.is_ok()) {
                tracing::debug!(?addresses, "a pod ends that somebody still connects to");
            }
            // A worker that is gone does not want to know.
            if tell.send(()).is_ok() {
                wake.notify_one();
            }
        });
        Drain::Closing { over, _task: AbortOnDropHandle::new(task) }
    }
}
