//! Connections to a pod that is deleted: its processes are asked to end when services lead no new ones there.
//!
//! Many servers close their sockets at the first word. Whoever is led to them after that is refused.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::kubelet::context::Addresses;

/// The longest that a pod waits: services are a courtesy to it, its end is not.
const PATIENCE: Duration = Duration::from_secs(1);
/// What was led to a pod last waits in its sockets' queues: how long a busy process gets to accept it.
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
    /// Whether new connections are led to the pod with this address, which ends. It lasts for a second at most, and when
    /// it is over `wake` is told.
    pub fn lasts(&mut self, network: &Arc<dyn Addresses>, address: Ipv4Addr, wake: &Arc<Notify>) -> bool {
        match self {
            Drain::Open if network.left(address).now_or_never().is_some() => *self = Drain::Closed,
            Drain::Open => *self = Drain::begin(network, address, wake),
            Drain::Closing { over, .. } => {
                if !matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
                    *self = Drain::Closed;
                }
            }
            Drain::Closed => {}
        }
        !matches!(self, Drain::Closed)
    }

    fn begin(network: &Arc<dyn Addresses>, address: Ipv4Addr, wake: &Arc<Notify>) -> Drain {
        let (tell, over) = oneshot::channel();
        let (left, wake) = (network.left(address), wake.clone());
        let task = tokio::spawn(async move {
            if timeout(PATIENCE, left).await.is_ok() {
                tokio::time::sleep(ACCEPT).await;
            } else {
                tracing::debug!(%address, "services still lead to a pod that ends");
            }
            // A worker that is gone does not want to know.
            if tell.send(()).is_ok() {
                wake.notify_one();
            }
        });
        Drain::Closing { over, _task: AbortOnDropHandle::new(task) }
    }
}
