//! The addresses of names (services of type ExternalName): asked for seldom, and few at a time.
//!
//! The cluster is asked first for its own names, which the host need not know, and then the host's resolver.
//! The system's resolver blocks a thread for as long as it likes, from a pool that the whole daemon shares. So one
//! question about a name serves all requests that come meanwhile and shortly after.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Names;
use super::endpoints::may_be_asked;

/// How many names are asked for at a time.
const LOOKUPS: usize = 8;
/// How long an answer holds, from its question on.
const FRESH: Duration = Duration::from_secs(5);

/// A name and a port.
type Key = (String, u16);

/// A question and its answer.
struct Lookup {
    since: Instant,
    task: AbortHandle,
    found: Shared<BoxFuture<'static, Arc<[SocketAddr]>>>,
}

impl Lookup {
    /// Whether another question would be one too many.
    fn holds(&self) -> bool {
        !self.task.is_finished() || self.since.elapsed() < FRESH
    }
}

/// The names that were asked for.
pub struct Known {
    own: Arc<dyn Names>,
    turns: Arc<Semaphore>,
    known: Mutex<HashMap<Key, Lookup>>,
}

impl Known {
    /// None yet; `own` knows those of the cluster.
    pub fn new(own: Arc<dyn Names>) -> Known {
        Known { own, turns: Arc::new(Semaphore::new(LOOKUPS)), known: Mutex::default() }
    }

    /// The addresses of a name that requests may be led to; none when there is no answer for as long as `patience`.
    pub async fn addresses(&self, host: &str, port: u16, patience: Duration) -> Vec<SocketAddr> {
        let own = self.own.clone();
        self.ask((host.to_owned(), port), patience, |key| look_up(own, key)).await
    }

    async fn ask<F>(&self, key: Key, patience: Duration, look_up: impl FnOnce(Key) -> F) -> Vec<SocketAddr>
    where
        F: Future<Output = Vec<SocketAddr>> + Send + 'static,
    {
        let found = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, lookup| lookup.holds());
            known.entry(key.clone()).or_insert_with(|| self.begin(look_up(key.clone()))).found.clone()
        };
        match tokio::time::timeout(patience, found).await {
            Ok(found) => found.to_vec(),
            Err(_) => {
                tracing::debug!(host = key.0, "a name is not looked up in time");
                Vec::new()
            }
        }
    }

    /// Asks in a task of its own: the thread is taken until there is an answer, whoever waits for it.
    fn begin(&self, look_up: impl Future<Output = Vec<SocketAddr>> + Send + 'static) -> Lookup {
        let turns = self.turns.clone();
        let found = tokio::spawn(async move {
            let _turn = turns.acquire_owned().await.ok();
            look_up.await
        });
        let task = found.abort_handle();
        let found = async move { found.await.unwrap_or_default().into() }.boxed().shared();
        Lookup { since: Instant::now(), task, found }
    }
}

async fn look_up(own: Arc<dyn Names>, (host, port): Key) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> =
        own.addresses(&host).await.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
    if found.is_empty() {
        match tokio::net::lookup_host((host.as_str(), port)).await {
            Ok(all) => found.extend(all),
            Err(error) => tracing::debug!(host, %error, "a name is not known"),
        }
    }
    found.retain(|address| may_be_asked(address.ip()));
    found
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::ingress::tests::Cluster;

    #[tokio::test]
    async fn the_cluster_is_asked_before_the_host() {
        let own = ["10.96.0.9", "127.0.0.1"].map(|address| address.parse().unwrap());
        let names = Known::new(Arc::new(Cluster(own.into())));
        // The host would say that this is loopback, where nobody may be led.
        let found = names.addresses("localhost", 80, Duration::from_secs(5)).await;
        assert_eq!(found, [SocketAddr::from(([10, 96, 0, 9], 80))]);
        let names = Known::new(Arc::new(Cluster(Vec::new())));
        assert_eq!(
            names.addresses("192.0.2.7", 80, Duration::from_secs(5)).await,
            [SocketAddr::from(([192, 0, 2, 7], 80))]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_question_serves_all_who_ask_and_few_are_under_way() {
        let names = Known::new(Arc::new(Cluster(Vec::new())));
        let (asked, address) = (Arc::new(AtomicUsize::new(0)), SocketAddr::from(([192, 0, 2, 1], 80)));
        let ask = |host: &str, takes: u64, patience: u64| {
            let asked = asked.clone();
            let look_up = move |_| async move {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_secs(takes)).await;
                vec![address]
            };
            names.ask((host.to_owned(), 80), Duration::from_secs(patience), look_up)
        };
        let both = tokio::join!(ask("a", 1, 5), ask("a", 1, 5));
        assert_eq!(both, (vec![address], vec![address]));
        assert_eq!(ask("a", 1, 5).await, [address]);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        tokio::time::sleep(FRESH).await;
        assert_eq!(ask("a", 1, 5).await, [address]);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        // Nobody waits any more, but the threads are taken: one more name is not asked for.
        let slow: Vec<String> = (0..LOOKUPS).map(|n| format!("slow{n}")).collect();
        let all = futures::future::join_all(slow.iter().map(|host| ask(host, 100, 1))).await;
        assert!(all.iter().all(Vec::is_empty));
        assert_eq!(ask("b", 0, 50).await, []);
        assert_eq!(asked.load(Ordering::Relaxed), 2 + LOOKUPS);
        assert_eq!(ask("b", 0, 50).await, [address]);
    }
}
