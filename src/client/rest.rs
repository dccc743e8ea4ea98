//! Rests between plans that are made of all that there is: what changes meanwhile goes into the next one.

use std::time::Duration;

use tokio::time::Instant;

/// So many times as long as a plan took is rested before the next: a burst of changes takes a quarter of a processor, however
/// much there is to be planned.
const SHARE: u32 = 3;
/// A plan that took no longer than this needs no rest: timers are coarser.
const SHORT: Duration = Duration::from_millis(1);
/// The longest rest, for as long as kube-proxy puts changes off (`minSyncPeriod`).
const LONGEST: Duration = Duration::from_secs(1);

/// How long to rest after a plan that took this long. (pure)
fn rest(took: Duration) -> Duration {
    if took <= SHORT { Duration::ZERO } else { (took * SHARE).min(LONGEST) }
}

/// Rests after a plan that began then.
pub async fn after(began: Instant) {
    let rest = rest(began.elapsed());
    if !rest.is_zero() {
        tokio::time::sleep(rest).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_a_plan_the_longer_the_rest() {
        for (took, rested) in [(0, 0), (900, 0), (1_000, 0), (2_000, 6_000), (900_000, 1_000_000)] {
            assert_eq!(rest(Duration::from_micros(took)), Duration::from_micros(rested), "{took}");
        }
    }
}
