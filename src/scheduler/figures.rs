//! What the scheduler counts of its attempts, for `/metrics`.
//!
//! Names and labels are those of kubernetes `pkg/scheduler/metrics`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::NAME;
use super::queue::{Queue, Tries};
use crate::api::exposition::{Exposition, Source, Type};
use crate::api::histogram::{Bounds, Histogram, MICROS};

/// Doubled from a thousandth of a second, up to a quarter of a minute.
static ATTEMPTS: Bounds = Bounds {
    upper: &[
        1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, 2_048_000,
        4_096_000, 8_192_000, 16_384_000,
    ],
    unit: MICROS,
};
/// Doubled from a hundredth of a second, up to an hour and a half.
static SCHEDULINGS: Bounds = Bounds {
    upper: &[
        10_000,
        20_000,
        40_000,
        80_000,
        160_000,
        320_000,
        640_000,
        1_280_000,
        2_560_000,
        5_120_000,
        10_240_000,
        20_480_000,
        40_960_000,
        81_920_000,
        163_840_000,
        327_680_000,
        655_360_000,
        1_310_720_000,
        2_621_440_000,
        5_242_880_000,
    ],
    unit: MICROS,
};
static TRIES: Bounds = Bounds { upper: &[1, 2, 4, 8, 16], unit: 1 };
static VICTIMS: Bounds = Bounds { upper: &[1, 2, 4, 8, 16, 32, 64], unit: 1 };
/// From so many attempts on pods share a line.
const MANY: u32 = 15;

/// How an attempt to schedule a pod came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is bound.
    Scheduled,
    /// No node can have it.
    Unschedulable,
    /// Something went wrong.
    Error,
}

const OUTCOMES: [(Outcome, &str); 3] =
    [(Outcome::Error, "error"), (Outcome::Scheduled, "scheduled"), (Outcome::Unschedulable, "unschedulable")];

/// Everything that is counted.
#[derive(Debug)]
pub struct Figures {
    queue: Queue,
    /// How long attempts took, in the order of [`OUTCOMES`].
    attempts: [Histogram; OUTCOMES.len()],
    algorithm: Histogram,
    /// How long pods took until they were bound, by how many attempts that were.
    schedulings: Mutex<BTreeMap<u32, Histogram>>,
    tries: Histogram,
    preemptions: AtomicU64,
    victims: Histogram,
}

impl Figures {
    /// Those of who works on this queue.
    pub fn of(queue: Queue) -> Figures {
        Figures {
            queue,
            attempts: OUTCOMES.map(|_| Histogram::new(&ATTEMPTS)),
            algorithm: Histogram::new(&ATTEMPTS),
            schedulings: Mutex::default(),
            tries: Histogram::new(&TRIES),
            preemptions: AtomicU64::default(),
            victims: Histogram::new(&VICTIMS),
        }
    }

    /// It was decided about a pod.
    pub fn decided(&self, took: Duration) {
        self.algorithm.took(took);
    }

    /// An attempt came to its end.
    pub fn tried(&self, outcome: Outcome, took: Duration) {
        for ((known, _), attempts) in OUTCOMES.iter().zip(&self.attempts) {
            if *known == outcome {
                attempts.took(took);
            }
        }
    }

    /// A pod was bound after these attempts.
    pub fn bound(&self, tries: Tries) {
        self.tries.add(tries.count.into());
        let mut all = self.schedulings.lock().unwrap_or_else(PoisonError::into_inner);
        let line = all.entry(tries.count.min(MANY)).or_insert_with(|| Histogram::new(&SCHEDULINGS));
        line.took(tries.first.elapsed());
    }

    /// It was looked whom to send away for a pod; so many, if that helps.
    pub fn preempted(&self, victims: Option<usize>) {
        self.preemptions.fetch_add(1, Ordering::Relaxed);
        if let Some(victims) = victims {
            self.victims.add(u64::try_from(victims).unwrap_or(u64::MAX));
        }
    }
}

impl Source for Figures {
    fn write(&self, page: &mut Exposition) {
        let name = "scheduler_schedule_attempts_total";
        let help = "[STABLE] Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could \
                    not be scheduled, while 'error' means an internal scheduler problem.";
        page.family(name, Type::Counter, help);
        let attempts = || OUTCOMES.iter().map(|(_, result)| *result).zip(&self.attempts);
        for (result, attempts) in attempts().filter(|(_, attempts)| attempts.count() > 0) {
            page.sample(name, &[("profile", NAME), ("result", result)], attempts.count());
        }
        let name = "scheduler_scheduling_attempt_duration_seconds";
        let help = "[STABLE] Scheduling attempt latency in seconds (scheduling algorithm + binding)";
        page.family(name, Type::Histogram, help);
        for (result, attempts) in attempts().filter(|(_, attempts)| attempts.count() > 0) {
            page.histogram(name, &[("profile", NAME), ("result", result)], attempts);
        }
        let name = "scheduler_pod_scheduling_sli_duration_seconds";
        let help = "[BETA] E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue \
                    and might involve multiple scheduling attempts.";
        page.family(name, Type::Histogram, help);
        for (count, line) in &*self.schedulings.lock().unwrap_or_else(PoisonError::into_inner) {
            let attempts = if *count >= MANY { format!("{MANY}+") } else { count.to_string() };
            page.histogram(name, &[("attempts", &attempts)], line);
        }
        for (name, help, histogram) in [
            (
                "scheduler_scheduling_algorithm_duration_seconds",
                "[ALPHA] Scheduling algorithm latency in seconds",
                &self.algorithm,
            ),
            (
                "scheduler_pod_scheduling_attempts",
                "[STABLE] Number of attempts to successfully schedule a pod.",
                &self.tries,
            ),
            ("scheduler_preemption_victims", "[STABLE] Number of selected preemption victims", &self.victims),
        ] {
            page.family(name, Type::Histogram, help).histogram(name, &[], histogram);
        }
        let help = "[STABLE] Total preemption attempts in the cluster till now";
        let preemptions = self.preemptions.load(Ordering::Relaxed);
        page.single("scheduler_preemption_attempts_total", Type::Counter, help, preemptions);
        let name = "scheduler_pending_pods";
        let help = "[STABLE] Number of pending pods, by the queue type. 'active' means number of pods in activeQ; \
                    'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in \
                    unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of \
                    unschedulable pods that the scheduler never attempted to schedule because they are gated.";
        page.family(name, Type::Gauge, help);
        let pending = self.queue.pending();
        for (queue, count) in [
            ("active", pending.active),
            ("backoff", pending.backing_off),
            ("gated", pending.gated),
            ("unschedulable", pending.refused),
        ] {
            page.sample(name, &[("queue", queue)], count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_are_counted_by_what_came_of_them() {
        let queue = Queue::default();
        let figures = Figures::of(queue.clone());
        for (key, gated) in [("a", false), ("b", false), ("c", true)] {
            queue.gate(key, gated);
            if !gated {
                queue.put(key, key, 0, false);
            }
        }
        let key = queue.next().await;
        figures.decided(Duration::from_millis(2));
        figures.tried(Outcome::Scheduled, Duration::from_millis(3));
        tokio::time::advance(Duration::from_secs(1)).await;
        figures.bound(queue.tries(&key).unwrap());
        figures.tried(Outcome::Unschedulable, Duration::from_millis(1));
        figures.preempted(None);
        figures.preempted(Some(2));
        let mut page = Exposition::default();
        figures.write(&mut page);
        let text = page.into_text();
        for line in [
            "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 1",
            "scheduler_scheduling_attempt_duration_seconds_sum{profile=\"default-scheduler\",result=\"scheduled\"} 0.003",
            "scheduler_scheduling_algorithm_duration_seconds_sum 0.002",
            "scheduler_pod_scheduling_sli_duration_seconds_sum{attempts=\"1\"} 1",
            "scheduler_pod_scheduling_attempts_bucket{le=\"1\"} 1",
            "scheduler_preemption_attempts_total 2",
            "scheduler_preemption_victims_sum 2",
            "scheduler_pending_pods{queue=\"active\"} 1",
            "scheduler_pending_pods{queue=\"gated\"} 1",
            "scheduler_pending_pods{queue=\"unschedulable\"} 0",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
        assert!(!text.contains("result=\"error\""));
    }
}
