//! Back-off of restarts and image pulls, with Kubernetes' numbers.

use std::time::{Duration, SystemTime};

/// The first wait: kubelet's `backOffPeriod` and image back-off base.
const BASE: Duration = Duration::from_secs(10);
/// The longest wait: kubelet's `MaxCrashLoopBackOff`.
const MAX: Duration = Duration::from_secs(300);

/// How long one thing that keeps failing waits before it is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backoff {
    /// Zero when the next try is free.
    delay: Duration,
    /// When the delay last grew.
    grown: Option<SystemTime>,
}

impl Backoff {
    /// What remains to be waited at `now` for a failure at `failed`; `None` when it may be tried.
    pub fn remaining(&self, failed: SystemTime, now: SystemTime) -> Option<Duration> {
        if self.expired(failed) {
            return None;
        }
        // A clock set back must not lengthen the wait beyond the delay itself.
        let waited = now.duration_since(failed).unwrap_or_default();
        self.delay.checked_sub(waited).filter(|left| !left.is_zero())
    }

    /// The present wait in full, as messages name it.
    pub fn delay(&self) -> Duration {
        self.delay
    }

    /// Counts a try after a failure at `failed`: the next one waits longer.
    pub fn grow(&mut self, failed: SystemTime, now: SystemTime) {
        self.delay =
            if self.delay.is_zero() || self.expired(failed) { BASE } else { (self.delay * 2).min(MAX) };
        self.grown = Some(now);
    }

    /// Something that went well for twice the longest wait starts afresh.
    fn expired(&self, failed: SystemTime) -> bool {
        self.grown.is_some_and(|grown| failed.duration_since(grown).is_ok_and(|well| well > MAX * 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_retry_is_free_then_waits_double_up_to_five_minutes() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut backoff = Backoff::default();
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
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut backoff = Backoff::default();
        backoff.grow(start, start);
        backoff.grow(start, start);
        let later = start + Duration::from_secs(601);
        assert_eq!(backoff.remaining(later, later), None);
        backoff.grow(later, later);
        assert_eq!(backoff.delay(), Duration::from_secs(10));
    }
}
