//! Counts of measured values by upper bounds, which many may add to at the same time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds, as whole numbers of some small unit.
#[derive(Debug)]
pub struct Bounds {
    /// In growing order.
    pub upper: &'static [u64],
    /// How many of that unit are one of the unit that is shown.
    pub unit: u64,
}

/// Millionths of a second, in which durations are measured.
pub const MICROS: u64 = 1_000_000;
/// Thousand-millionths of a second, for durations that may be short.
pub const NANOS: u64 = 1_000_000_000;

/// The counts.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// How many there are up to each bound, and beyond.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// Nothing is counted yet.
    pub fn new(bounds: &'static Bounds) -> Histogram {
        let counts = (0..=bounds.upper.len()).map(|_| AtomicU64::default()).collect();
        Histogram { bounds, counts, sum: AtomicU64::default() }
    }

    /// Adds a value in the unit of the bounds.
    pub fn add(&self, value: u64) {
        let at = self.bounds.upper.partition_point(|upper| *upper < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Adds a duration, where bounds are in [`MICROS`] or [`NANOS`]; what is begun counts.
    pub fn took(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.add(nanos.div_ceil(NANOS / self.bounds.unit));
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The bounds as they are shown, each with how many values are not beyond it.
    pub fn buckets(&self) -> Vec<(String, u64)> {
        let bounds = self.bounds.upper.iter().map(|upper| self.shown(*upper).to_string());
        let mut total = 0;
        let counts = self.counts.iter().map(|count| {
            total += count.load(Ordering::Relaxed);
            total
        });
        bounds.chain(["+Inf".to_owned()]).zip(counts).collect()
    }

    /// The sum of the values as it is shown.
    pub fn sum(&self) -> f64 {
        self.shown(self.sum.load(Ordering::Relaxed))
    }

    fn shown(&self, value: u64) -> f64 {
        // What is lost beyond 2^53 is less than anybody reads.
        #[allow(clippy::cast_precision_loss)]
        let (value, unit) = (value as f64, self.bounds.unit as f64);
        value / unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_their_bounds() {
        static BOUNDS: Bounds = Bounds { upper: &[25_000, MICROS], unit: MICROS };
        let histogram = Histogram::new(&BOUNDS);
        for millis in [25, 26, 2000] {
            histogram.took(Duration::from_millis(millis));
        }
        let buckets = histogram.buckets();
        let buckets: Vec<(&str, u64)> = buckets.iter().map(|(bound, count)| (&**bound, *count)).collect();
        assert_eq!(buckets, [("0.025", 1), ("1", 2), ("+Inf", 3)]);
        assert_eq!((histogram.count(), histogram.sum()), (3, 2.051));
        static SHORT: Bounds = Bounds { upper: &[10, NANOS], unit: NANOS };
        let histogram = Histogram::new(&SHORT);
        histogram.took(Duration::from_nanos(10));
        histogram.took(Duration::from_millis(1500));
        assert_eq!(histogram.buckets()[0], ("0.00000001".to_owned(), 1));
        assert_eq!(histogram.sum(), 1.50000001);
    }
}
