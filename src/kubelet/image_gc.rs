//! Images that nobody uses go when the disk that they are on fills up (kubelet's image garbage collection).

use std::time::Duration;

use tokio::time::Instant;

use super::context::Context;
use super::eviction::thresholds::Level;
use crate::client::events::EventType;

/// Between two attempts after one that freed too little (kubelet's `ImageGCPeriod`).
const PERIOD: Duration = Duration::from_secs(300);
/// What is enough on a large disk, whatever part of it that is.
const ENOUGH: u64 = 3 << 30;

/// When images go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// From so much of the disk on, in percent (kubelet's `imageGCHighThresholdPercent`); 100 is never.
    pub high: u8,
    /// Until so much of it is used (kubelet's `imageGCLowThresholdPercent`).
    pub low: u8,
    /// How long nobody must have used an image (kubelet's `imageMinimumGCAge`).
    pub age: Duration,
    /// Nothing goes while so many bytes are free.
    pub enough: Option<u64>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { high: 85, low: 80, age: Duration::from_secs(120), enough: Some(ENOUGH) }
    }
}

/// How many bytes are to be freed (pure).
fn excess(policy: &Policy, disk: Level) -> Option<u64> {
    let Level { available, capacity } = disk;
    if policy.high >= 100 || capacity == 0 {
        return None;
    }
    let part = |percent: u8| (u128::from(capacity) * u128::from(100 - percent.min(100)) / 100) as u64;
    let used = 100 - u128::from(available.min(capacity)) * 100 / u128::from(capacity);
    if used < u128::from(policy.high) || policy.enough.is_some_and(|enough| available >= enough) {
        return None;
    }
    // A third more than what is enough, so that the next pull does not ask for more at once.
    let wanted = policy.enough.map_or(u64::MAX, |enough| enough / 3 * 4);
    Some(part(policy.low).min(wanted).saturating_sub(available)).filter(|bytes| *bytes > 0)
}

/// What has come of a look at a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collected {
    /// There was nothing to do, or nothing could be done.
    Nothing,
    /// Images have gone.
    Some,
    /// Images are being fetched or taken: some may go a little later.
    Later,
}

/// Removes images, and remembers how that went.
#[derive(Debug, Default)]
pub struct Collector {
    /// When it last freed too little.
    failed: Option<Instant>,
}

impl Collector {
    /// Removes images as far as their disk is too full.
    pub async fn collect<R>(&mut self, context: &Context<R>, disk: Option<&Level>) -> Collected {
        let policy = &context.config.eviction.images;
        let Some(wanted) = disk.and_then(|disk| excess(policy, *disk)) else {
            self.failed = None;
            return Collected::Nothing;
        };
        let now = Instant::now();
        if self.failed.is_some_and(|failed| now.duration_since(failed) < PERIOD) {
            return Collected::Nothing;
        }
        let freed = context.images.free(wanted, policy.age).await;
        let (freed, why) = match freed {
            Ok(None) => return Collected::Later,
            Ok(Some(freed)) if freed >= wanted => (freed, None),
            Ok(Some(freed)) => {
                let message = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only \
                     found {freed} bytes eligible to free."
                );
                context.node_event(EventType::Warning, "FreeDiskSpaceFailed", &message);
                (freed, Some(message))
            }
            Err(message) => (0, Some(message)),
        };
        tracing::info!(wanted, freed, "removed unused images, as their disk is full");
        if let Some(message) = why {
            // Once may be for want of time, as images just pulled do not count.
            if self.failed.is_some() {
                context.node_event(EventType::Warning, "ImageGCFailed", &message);
            }
            self.failed = Some(now);
        } else {
            self.failed = None;
        }
        if freed > 0 { Collected::Some } else { Collected::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_disk_asks_for_room() {
        let exact = Policy { enough: None, ..Policy::default() };
        let disabled = Policy { high: 100, ..exact.clone() };
        let gib = 1 << 30;
        for (case, policy, available, capacity, expected) in [
            ("below the high mark", &exact, 16, 100, None),
            ("at it", &exact, 15, 100, Some(5)),
            ("beyond it", &exact, 3, 100, Some(17)),
            ("never", &disabled, 0, 100, None),
            ("no disk", &exact, 0, 0, None),
            ("enough is left of a large disk", &Policy::default(), 20 * gib, 1000 * gib, None),
            ("too little is left of it", &Policy::default(), 2 * gib, 1000 * gib, Some(2 * gib)),
            ("a small disk", &Policy::default(), 10, 100, Some(10)),
        ] {
            assert_eq!(excess(policy, Level { available, capacity }), expected, "{case}");
        }
    }
}
