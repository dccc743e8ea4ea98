//! How long admission takes, for `/metrics`.
//!
//! Names and labels are those of k8s.io/apiserver `pkg/admission/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::time::Instant;

use super::Operation;
use crate::api::exposition::{Exposition, Type};
use crate::api::histogram::{Bounds, Histogram, MICROS};
use crate::apiserver::waited;

static STEPS: Bounds =
    Bounds { upper: &[5_000, 25_000, 100_000, 500_000, 1_000_000, 2_500_000], unit: MICROS };
static WEBHOOKS: Bounds = Bounds {
    upper: &[5_000, 25_000, 100_000, 500_000, 1_000_000, 2_500_000, 10_000_000, 25_000_000],
    unit: MICROS,
};

/// Which of the two rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// It may change the object.
    Admit,
    /// It has the last word.
    Validate,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Admit => "admit",
            Step::Validate => "validate",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    /// Of a webhook; empty for a whole step.
    name: String,
    operation: &'static str,
    rejected: bool,
    step: Step,
}

/// The durations by what they are of.
#[derive(Debug, Default)]
pub struct Figures(RwLock<BTreeMap<Labels, Arc<Histogram>>>);

impl Figures {
    /// A round of admission ends that began at `began`.
    pub fn step(&self, step: Step, operation: Operation, began: Instant, rejected: bool) {
        let labels = Labels { name: String::new(), operation: operation.name(), rejected, step };
        self.of(labels, &STEPS).took(began.elapsed());
    }

    /// A webhook has answered that was asked at `began`.
    pub fn webhook(&self, name: &str, step: Step, operation: Operation, began: Instant, rejected: bool) {
        let labels = Labels { name: name.to_owned(), operation: operation.name(), rejected, step };
        self.of(labels, &WEBHOOKS).took(began.elapsed());
    }

    fn of(&self, labels: Labels, bounds: &'static Bounds) -> Arc<Histogram> {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&labels) {
            return known.clone();
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(labels).or_insert_with(|| Arc::new(Histogram::new(bounds))).clone()
    }

    /// Writes them.
    pub fn write(&self, page: &mut Exposition) {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        for (name, help, webhooks) in [
            (
                "apiserver_admission_step_admission_duration_seconds",
                "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
                false,
            ),
            (
                "apiserver_admission_webhook_admission_duration_seconds",
                "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                true,
            ),
        ] {
            page.family(name, Type::Histogram, help);
            for (labels, histogram) in all.iter().filter(|(labels, _)| labels.name.is_empty() != webhooks) {
                let mut shown = vec![
                    ("operation", labels.operation),
                    ("rejected", if labels.rejected { "true" } else { "false" }),
                    ("type", labels.step.name()),
                ];
                if webhooks {
                    shown.insert(0, ("name", &labels.name));
                }
                page.histogram(name, &shown, histogram);
            }
        }
    }
}

/// The request has waited for webhooks since `began`.
pub fn waited_since(began: Instant) {
    waited::add(began.elapsed());
}
