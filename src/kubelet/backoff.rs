//! Back-off of what keeps failing, with Kubernetes' numbers.

use std::time::Duration;

use tokio::time::Instant;

/// How long one thing that keeps failing waits before it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    /// Zero when the next try is free.
    delay: Duration,
    /// When the delay last grew.
    grown: Option<Instant>,
}

impl Backoff {
    fn new(base: u64, max: u64) -> Backoff {
        let (base, max) = (Duration::from_secs(base), Duration::from_secs(max));
        Backoff { base, max, delay: Duration::ZERO, grown: None }
    }

    /// Of restarts and image pulls: 10 s (kubelet's `backOffPeriod`) to 5 min (its `MaxCrashLoopBackOff`).
    pub fn slow() -> Backoff {
        Backoff::new(10, 300)
    }

    /// Of the steps before a process exists: 1 s to 2 min.
    pub fn quick() -> Backoff {
        Backoff::new(1, 120)
    }

    /// What remains to be waited at `now` for a failure at `failed`; `None` when it may be tried.
    pub fn remaining(&self, failed: Instant, now: Instant) -> Option<Duration> {
        if self.expired(failed) {
            return None;
        }
        self.delay.checked_sub(now.duration_since(failed)).filter(|left| !left.is_zero())
    }

    /// The present wait in full, as messages name it.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Counts a try after a failure at `failed`: the next one waits longer.
    pub fn grow(&mut self, failed: Instant, now: Instant) {
        let fresh = self.delay.is_zero() || self.expired(failed);
        self.delay = if fresh { self.base } else { (self.delay * 2).min(self.max) };
        self.grown = Some(now);
    }

    /// Something that went well for twice the longest wait starts afresh.
    fn expired(&self, failed: Instant) -> bool {
        self.grown.is_some_and(|grown| failed.duration_since(grown) > self.max * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_retry_is_free_then_waits_double_up_to_five_minutes() {
        let start = Instant::now();
        let mut backoff = Backoff::slow();
        assert_eq!(backoff.remaining(start, start), None);
        let mut now = start;
        for expected in [10, 20, 40, 80, 160, 300, 300] {
            backoff.grow(now, now);
            assert_eq!(backoff.remaining(now, now), Some(Duration::from_secs(expected)));
            now += Duration::from_secs(expected);
            assert_eq!(backoff.remaining(now - Duration::from_secs(expected), now), None);
        }
    }

    #[test]
    fn a_long_good_run_starts_afresh() {
        let start = Instant::now();
        let mut backoff = Backoff::slow();
        backoff.grow(start, start);
        backoff.grow(start, start);
        let later = start + Duration::from_secs(601);
        assert_eq!(backoff.remaining(later, later), None);
        backoff.grow(later, later);
        assert_eq!(backoff.delay(), Duration::from_secs(10));
    }
}
