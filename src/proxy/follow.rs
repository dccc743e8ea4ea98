//! The kernel follows the newest state, whatever else happens to its rules.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::node::Node;
use super::state::States;
use super::{Configs, Error, Led, blocking, firewall, sleep_until};
use crate::sys::netlink::Events;

/// How long to wait after a failure before the next attempt; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Other programs change rules in bursts; so long after the first change their firewalls are looked at again.
const SETTLE: Duration = Duration::from_millis(500);

/// Does what the newest state says, nothing while there is none, until `shutdown`; tells `led` what is done.
///
/// # Errors
/// When it cannot begin; later failures are logged and tried again.
pub async fn follow(
    config: impl Into<Configs>,
    mut states: watch::Receiver<Option<States>>,
    led: watch::Sender<Led>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let events = Events::open().map_err(Error::io("listening to rule changes"))?;
    let config = config.into();
    let mut node = Node::open(config.clone(), led)?;
    tokio::pin!(shutdown);
    let (mut retry, mut delay) = (None, RETRY);
    let mut firewalls = Some(Instant::now());
    // Beside everything else: their programs take their time.
    let mut opening = Opening(None);
    let mut foreign = false;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            changed = states.changed() => if changed.is_err() {
                // Whoever makes the states ended; what is installed is the best that is known.
                shutdown.await;
                break;
            },
            heard = events.next(|event| {
                foreign |= node.is_foreign(event);
                node.is_damage(event)
            }) => match heard {
                Ok(heard) => {
                    if std::mem::take(&mut foreign) {
                        firewalls.get_or_insert_with(|| Instant::now() + SETTLE);
                    }
                    if !node.is_damaged(heard) {
                        continue;
                    }
                    tracing::warn!("the service table was changed by another program; installing it anew");
                    node.invalidate();
                }
                Err(source) => return Err(Error::Io { tried: "listening to rule changes", source }),
            },
            () = sleep_until(retry) => {}
            () = sleep_until(node.due()) => node.look_again(),
            () = sleep_until(firewalls), if opening.0.is_none() => {
                firewalls = None;
                let Configs { v4, v6 } = config.clone();
                let work = move || firewall::open(&v4).and(v6.as_ref().map_or(Ok(()), firewall::open));
                opening = Opening(Some(tokio::spawn(blocking(work))));
                continue;
            }
            () = opening.done() => continue,
        }
        let Some(wanted) = states.borrow_and_update().clone() else { continue };
        let complete = node.apply(wanted).await.unwrap_or_else(|error| {
            tracing::error!(%error, "programming services; trying again in {delay:?}");
            false
        });
        (retry, delay) = match complete {
            true => (None, RETRY),
            false => (Some(Instant::now() + delay), (delay * 2).min(RETRY_MAX)),
        };
    }
    // Who takes the rules away next must find them all.
    if opening.0.is_some() {
        opening.done().await;
    }
    Ok(())
}

/// Letting pods through other firewalls, while that is under way.
struct Opening(Option<JoinHandle<Result<Result<(), Error>, Error>>>);

impl Opening {
    /// Waits for its end, for ever when none is under way.
    async fn done(&mut self) {
        let Some(task) = &mut self.0 else { return std::future::pending().await };
        let done = task.await;
        self.0 = None;
        if let Ok(Err(error)) = done.map(Result::flatten) {
            tracing::warn!(%error, "letting pods through other firewalls");
        }
    }
}
