//! The cluster that a command is about: whether it is the one that is meant, and whether another command is at it.

use std::time::Duration;

use super::failure::{Failure, Kind};
use super::{output, stop};
use crate::daemon::cluster::Record;
use crate::daemon::lock::{self, Attempt, Lock};
use crate::daemon::places::Places;

/// There is no such cluster.
pub fn none(places: &Places) -> Failure {
    Failure::new(Kind::NoCluster, format!("there is no cluster {:?}", places.profile))
        .hint(format!("make it: minik start -p {}", places.profile))
}

/// Takes the lock of everything that concerns all clusters of the machine.
pub async fn lock_machine() -> Result<Lock, Failure> {
    let lock = tokio::time::timeout(stop::LOCK_LIMIT, lock::of_machine()).await;
    lock.map_err(|_| {
        Failure::new(Kind::Timeout, "another minik command is at the clusters of this machine for too long")
    })?
    .map_err(Failure::general)
}

/// Refuses when a cluster of this name has its data elsewhere: names are the machine's, whatever the directory.
pub fn check_data_dir(places: &Places) -> Result<(), Failure> {
    // What cannot be read says nothing: then the directory that was named is the only one known.
    let noted = Record::read(places).ok().flatten().map(|record| record.data_dir);
    match noted {
        Some(noted) if noted != places.data_dir => Err(Failure::new(
            Kind::Usage,
            format!(
                "the data of cluster {:?} is in {}, not in {}",
                places.profile,
                noted.display(),
                places.data_dir.display()
            ),
        )
        .hint(format!("say so (--data-dir {}), or name another cluster (-p NAME)", noted.display()))),
        _ => Ok(()),
    }
}

/// Waits until no other command starts, stops or deletes the cluster, and keeps others from it. Refuses as
/// [`check_data_dir`] does: what was waited for may have made a cluster of this name elsewhere.
pub async fn lock(places: &Places, verb: &str, limit: Duration) -> Result<Lock, Failure> {
    let waiting = |holder: &lock::Holder| {
        output::note(format!("minik: waiting for {holder}, which is at cluster {:?}", places.profile));
    };
    let name = format!("minik {verb}");
    match lock::wait(places.command_lock(), &name, limit, waiting).await.map_err(Failure::general)? {
        Attempt::Taken(lock) => {
            check_data_dir(places)?;
            Ok(lock)
        }
        Attempt::Held(holder) => Err(Failure::new(
            Kind::Timeout,
            format!("{holder} is still at cluster {:?} after {} s", places.profile, limit.as_secs()),
        )
        .hint("wait for it, or end it")),
    }
}
