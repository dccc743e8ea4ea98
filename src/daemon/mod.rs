//! The daemon: the only place that knows every component. Settings -> build -> run -> drain.

pub mod cluster;
pub mod configs;
pub mod places;
pub mod settings;

pub mod node_settings;

mod adapters;
mod build;
mod ready;
mod running;

pub mod cleanup;
pub mod control;
pub mod host_names;
pub mod ipv6;
pub mod lock;
pub mod log;
pub mod unit;

use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use self::cluster::Cluster;
use self::places::Places;
use self::ready::Notice;

pub use self::build::DNS_PORT;

/// Why the daemon could not start, or had to end, in one sentence for the user.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct Error {
    what: String,
    cause: String,
}

/// Says what was tried when something fails.
trait Tried<T> {
    fn tried(self, what: impl Into<String>) -> Result<T, Error>;
}

impl<T, E: std::fmt::Display> Tried<T> for Result<T, E> {
    fn tried(self, what: impl Into<String>) -> Result<T, Error> {
        self.map_err(|cause| Error { what: what.into(), cause: cause.to_string() })
    }
}

/// Runs a cluster until it is told to stop; with `notify`, connects there and says how the start goes.
pub async fn run(places: Places, cluster: Cluster, notify: Option<PathBuf>) -> Result<(), Error> {
    let mut notice = Notice::to(notify.as_deref()).await;
    be_independent();
    let adopts = cleanup::something_runs(&places);
    let prepared = match build::prepare(&places, &cluster, &mut notice).await {
        Ok(prepared) => prepared,
        Err(error) => {
            notice.failed(&error).await;
            return Err(error);
        }
    };
    match build::start(&places, &cluster, prepared).await {
        Ok(running) => {
            let ready = running.ready();
            let announce = async {
                ready.await;
                tracing::info!(cluster = places.profile, node = cluster.node_name, "ready");
                notice.ready().await;
                // Who started the daemon may go on.
                drop(notice);
                std::future::pending().await
            };
            tokio::select! {
                result = running.until_stopped() => result,
                () = announce => Ok(()),
            }
        }
        Err(error) => {
            // Pods of an earlier daemon wait for the next one; of a start that found none, nothing is to be left.
            if !adopts {
                for failure in cleanup::undo_start(&places).await {
                    tracing::error!(failure, "the failed start was not undone");
                }
            }
            notice.failed(&error).await;
            Err(error)
        }
    }
}

/// Makes the daemon the same whoever starts it.
fn be_independent() {
    // Files for containers must be readable to their users; what is private says so itself.
    umask(Mode::from_bits_truncate(0o022));
    // Connections and log files are many; the soft limit is for programs that use select(2).
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "the limit of open files stays at {soft}");
    }
}
