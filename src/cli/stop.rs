//! `minik stop`: every pod and the daemon end, everything is kept.

use std::time::Duration;

use super::failure::Failure;
use super::{Global, output, target};
use crate::daemon::cleanup;
use crate::daemon::cluster::Cluster;
use crate::daemon::control::{self, Stopped};
use crate::daemon::places::Places;

/// How long containers get to end when their cluster stops (a pod's usual grace).
const GRACE: Duration = Duration::from_secs(30);
/// How long another command at the same cluster is waited for.
pub const LOCK_LIMIT: Duration = Duration::from_secs(90);

/// Runs the verb.
pub async fn run(global: &Global) -> Result<(), Failure> {
    super::require_root("stop a cluster")?;
    let places = global.places()?;
    target::check_data_dir(&places)?;
    // One whose data is gone or cannot be read may run all the same.
    let exists = !matches!(Cluster::read(&places), Ok(None));
    if !exists && !cleanup::something_runs(&places) && cleanup::daemons(&places).is_empty() {
        return Err(target::none(&places));
    }
    let _lock = target::lock(&places, "stop", LOCK_LIMIT).await?;
    let failures = halt(&places, GRACE).await;
    if !failures.is_empty() {
        return Err(Failure::general(format!(
            "not everything of {:?} ended:\n- {}",
            places.profile,
            failures.join("\n- ")
        )));
    }
    output::note(format!("minik: cluster {:?} is stopped; its objects and volumes are kept", places.profile));
    Ok(())
}

/// Ends the daemon and all that runs, whether the daemon answers, is wedged, or is dead; answers what did not end.
pub async fn halt(places: &Places, grace: Duration) -> Vec<String> {
    let mut failures = match control::stop(&places.control(), grace).await {
        Ok(Stopped::Done { pid, end }) => {
            // It has nothing left to do: what is waited for is the end of its process.
            let gone = tokio::task::spawn_blocking(move || cleanup::wait_or_kill(pid)).await;
            let gone = gone.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            end.failures.into_iter().chain(gone.err().map(|error| error.to_string())).collect()
        }
        Ok(Stopped::NoDaemon) => Vec::new(),
        Ok(Stopped::Lost { pid }) => {
            output::note(format!(
                "minik: the daemon (pid {pid}) did not stop when it was asked to; it is killed"
            ));
            let killed = tokio::task::spawn_blocking(move || cleanup::kill(pid)).await;
            let killed = killed.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            killed.err().map(|error| error.to_string()).into_iter().collect()
        }
        Err(error) => vec![format!("cannot ask the daemon to stop: {error}")],
    };
    // Also after a stop in good order: what a crash before it may have left goes too.
    failures.extend(cleanup::end_without_daemon(places, grace).await);
    failures
}
