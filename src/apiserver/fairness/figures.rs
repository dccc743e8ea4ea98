//! What is counted of the requests of a flow schema, for `/metrics`.
//!
//! Names and labels are those of k8s.io/apiserver `pkg/util/flowcontrol/metrics`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Fairness;
use crate::api::exposition::{Exposition, Type};
use crate::api::histogram::{Bounds, Histogram, MICROS};

static WAITS: Bounds = Bounds {
    upper: &[
        0, 5_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
        15_000_000, 30_000_000,
    ],
    unit: MICROS,
};
/// Why a request was not carried out.
const REASONS: [&str; 3] = ["concurrency-limit", "queue-full", "time-out"];

/// Why a request is refused.
#[derive(Debug, Clone, Copy)]
pub enum Refused {
    /// Nobody waits on this level.
    NoWaiting,
    /// Too many wait.
    Full,
    /// It waited too long.
    Late,
}

/// The figures of one schema on one level.
#[derive(Debug)]
pub struct Figures {
    waiting: AtomicU64,
    running: AtomicU64,
    dispatched: AtomicU64,
    refused: [AtomicU64; 3],
    /// How long those waited that were carried out, and the others.
    waits: [Histogram; 2],
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            waiting: AtomicU64::default(),
            running: AtomicU64::default(),
            dispatched: AtomicU64::default(),
            refused: Default::default(),
            waits: [Histogram::new(&WAITS), Histogram::new(&WAITS)],
        }
    }
}

/// A request that waits, or is carried out, until this is dropped.
#[derive(Debug)]
pub struct Counted {
    figures: Arc<Figures>,
    of: fn(&Figures) -> &AtomicU64,
}

impl Counted {
    fn new(figures: &Arc<Figures>, of: fn(&Figures) -> &AtomicU64) -> Counted {
        of(figures).fetch_add(1, Ordering::Relaxed);
        Counted { figures: figures.clone(), of }
    }

    /// A request begins to wait for its turn.
    pub fn waiting(figures: &Arc<Figures>) -> Counted {
        Counted::new(figures, |figures| &figures.waiting)
    }

    /// A request begins to be carried out.
    pub fn running(figures: &Arc<Figures>) -> Counted {
        figures.dispatched.fetch_add(1, Ordering::Relaxed);
        Counted::new(figures, |figures| &figures.running)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.of)(&self.figures).fetch_sub(1, Ordering::Relaxed);
    }
}

impl Figures {
    /// A request has waited so long, and then was carried out or not.
    pub fn waited(&self, waited: std::time::Duration, refused: Option<Refused>) {
        self.waits[usize::from(refused.is_some())].took(waited);
        if let Some(why) = refused {
            self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Fairness {
    /// Writes the figures of all schemas and levels.
    pub fn figures(&self, page: &mut Exposition) {
        let table = self.table();
        let mut limits: Vec<_> = table
            .levels
            .iter()
            .filter_map(|(name, level)| Some((name, level.level.as_ref()?.limits().running)))
            .collect();
        limits.sort();
        let name = "apiserver_flowcontrol_nominal_limit_seats";
        let help = "[BETA] Nominal number of execution seats configured for each priority level";
        page.family(name, Type::Gauge, help);
        for (level, seats) in limits {
            page.sample(name, &[("priority_level", level)], seats);
        }
        for (name, kind, help, of) in [
            (
                "apiserver_flowcontrol_current_inqueue_requests",
                Type::Gauge,
                "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
                (|figures| &figures.waiting) as fn(&Figures) -> &AtomicU64,
            ),
            (
                "apiserver_flowcontrol_current_executing_requests",
                Type::Gauge,
                "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
                |figures| &figures.running,
            ),
            // Every request takes one seat.
            (
                "apiserver_flowcontrol_current_executing_seats",
                Type::Gauge,
                "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
                |figures| &figures.running,
            ),
            (
                "apiserver_flowcontrol_dispatched_requests_total",
                Type::Counter,
                "[BETA] Number of requests executed by API Priority and Fairness subsystem",
                |figures| &figures.dispatched,
            ),
        ] {
            page.family(name, kind, help);
            for schema in &table.schemas {
                let labels = [("flow_schema", &*schema.name), ("priority_level", &*schema.level)];
                page.sample(name, &labels, of(&schema.figures).load(Ordering::Relaxed));
            }
        }
        let name = "apiserver_flowcontrol_rejected_requests_total";
        let help = "[BETA] Number of requests rejected by API Priority and Fairness subsystem";
        page.family(name, Type::Counter, help);
        for schema in &table.schemas {
            let counts = schema.figures.refused.iter().map(|count| count.load(Ordering::Relaxed));
            for (reason, count) in REASONS.iter().zip(counts).filter(|(_, count)| *count > 0) {
                let labels =
                    [("flow_schema", &*schema.name), ("priority_level", &*schema.level), ("reason", reason)];
                page.sample(name, &labels, count);
            }
        }
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        let help = "[BETA] Length of time a request spent waiting in its queue";
        page.family(name, Type::Histogram, help);
        for schema in &table.schemas {
            for (execute, waits) in ["true", "false"].iter().zip(&schema.figures.waits) {
                if waits.count() > 0 {
                    let labels = [
                        ("execute", *execute),
                        ("flow_schema", &schema.name),
                        ("priority_level", &schema.level),
                    ];
                    page.histogram(name, &labels, waits);
                }
            }
        }
    }
}
