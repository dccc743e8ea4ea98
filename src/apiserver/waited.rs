//! How long a request has waited for others than this server: for its turn, and for webhooks.

use std::cell::Cell;
use std::time::Duration;

tokio::task_local! {
    static WAITED: Cell<Duration>;
}

/// Carries out a request; with its answer goes how long it has waited.
pub async fn measured<F: Future>(request: F) -> (F::Output, Duration) {
    let carried_out = async { (request.await, WAITED.with(Cell::get)) };
    WAITED.scope(Cell::new(Duration::ZERO), carried_out).await
}

/// The request that is carried out here has waited so long; what nobody asked for waits for its own sake.
pub fn add(waited: Duration) {
    let _ = WAITED.try_with(|sum| sum.set(sum.get() + waited));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_are_added_up_by_request() {
        add(Duration::from_secs(9));
        let request = async {
            add(Duration::from_secs(1));
            tokio::task::yield_now().await;
            add(Duration::from_secs(2));
        };
        let ((), waited) = measured(request).await;
        assert_eq!(waited, Duration::from_secs(3));
    }
}
