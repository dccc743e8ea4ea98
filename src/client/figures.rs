//! What clients and work queues count of themselves, for `/metrics`.
//!
//! Names and labels are those of k8s.io/component-base `metrics/prometheus/{restclient,workqueue}`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::queue::Queue;
use crate::api::exposition::{Exposition, Source, Type};
use crate::api::histogram::{Bounds, Histogram, MICROS};
use crate::api::request::{Action, Response};
use crate::api::status::Status;

/// The API server is in the same process: there is no host to name.
const HOST: &str = "in-process";
/// The HTTP methods that stand for what is asked.
const METHODS: [&str; 5] = ["DELETE", "GET", "PATCH", "POST", "PUT"];

static DURATIONS: Bounds = Bounds {
    upper: &[
        5_000, 25_000, 100_000, 250_000, 500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 15_000_000,
        30_000_000, 60_000_000,
    ],
    unit: MICROS,
};

/// The figures of some clients and of the queues of who uses them.
#[derive(Debug)]
pub struct Figures {
    /// Answers by method, as a place in [`METHODS`], and code.
    answers: Mutex<BTreeMap<(usize, u16), u64>>,
    /// How long they took, by method.
    durations: [Histogram; METHODS.len()],
    queues: Mutex<BTreeMap<&'static str, Queue>>,
}

impl Default for Figures {
    fn default() -> Figures {
        let durations = METHODS.map(|_| Histogram::new(&DURATIONS));
        Figures { answers: Mutex::default(), durations, queues: Mutex::default() }
    }
}

/// The place of the method that an action is asked by.
pub(super) fn method_of(action: &Action) -> usize {
    match action {
        Action::Delete(_) | Action::DeleteCollection(..) => 0,
        Action::Get { .. } | Action::List(_) | Action::Watch(_) => 1,
        Action::Patch(..) => 2,
        Action::Create(..) => 3,
        Action::Update(..) => 4,
    }
}

/// The HTTP code of an answer.
fn code_of(answer: &Result<Response, Status>) -> u16 {
    match answer {
        Ok(Response::Object { created: true, .. } | Response::Transient { created: true, .. }) => 201,
        Ok(Response::Status(status)) | Err(status) => status.code,
        Ok(_) => 200,
    }
}

impl Figures {
    fn queues(&self) -> MutexGuard<'_, BTreeMap<&'static str, Queue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of a method has its answer.
    pub(super) fn answered(&self, method: usize, answer: &Result<Response, Status>, took: Duration) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        *answers.entry((method, code_of(answer))).or_default() += 1;
        drop(answers);
        self.durations[method].took(took);
    }

    /// A queue is to be shown under this name.
    pub(super) fn show(&self, name: &'static str, queue: Queue) {
        self.queues().insert(name, queue);
    }

    fn requests(&self, page: &mut Exposition) {
        let name = "rest_client_requests_total";
        let help = "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host.";
        page.family(name, Type::Counter, help);
        for ((method, code), count) in &*self.answers.lock().unwrap_or_else(PoisonError::into_inner) {
            let labels = [("code", &*code.to_string()), ("host", HOST), ("method", METHODS[*method])];
            page.sample(name, &labels, count);
        }
        let name = "rest_client_request_duration_seconds";
        page.family(
            name,
            Type::Histogram,
            "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
        );
        for (verb, durations) in METHODS.iter().zip(&self.durations).filter(|(_, all)| all.count() > 0) {
            page.histogram(name, &[("host", HOST), ("verb", verb)], durations);
        }
    }

    fn of_queues(&self, page: &mut Exposition) {
        let queues = self.queues().clone();
        let standing: Vec<_> = queues.iter().map(|(name, queue)| (*name, queue, queue.standing())).collect();
        let name = "workqueue_depth";
        page.family(name, Type::Gauge, "[ALPHA] Current depth of workqueue");
        for (queue, _, now) in &standing {
            page.sample(name, &[("name", queue)], now.depth);
        }
        for (name, help, adds) in [
            ("workqueue_adds_total", "[ALPHA] Total number of adds handled by workqueue", true),
            ("workqueue_retries_total", "[ALPHA] Total number of retries handled by workqueue", false),
        ] {
            page.family(name, Type::Counter, help);
            for (queue, _, now) in &standing {
                page.sample(name, &[("name", queue)], if adds { now.adds } else { now.retries });
            }
        }
        for (name, help, longest) in [
            (
                "workqueue_unfinished_work_seconds",
                "[ALPHA] How many seconds of work has done that is in progress and hasn't been observed by \
                 work_duration. Large values indicate stuck threads. One can deduce the number of stuck threads by \
                 observing the rate at which this increases.",
                false,
            ),
            (
                "workqueue_longest_running_processor_seconds",
                "[ALPHA] How many seconds has the longest running processor for workqueue been running.",
                true,
            ),
        ] {
            page.family(name, Type::Gauge, help);
            for (queue, _, now) in &standing {
                let shown = if longest { now.longest } else { now.unfinished };
                page.sample(name, &[("name", queue)], shown.as_secs_f64());
            }
        }
        for (name, help, waited) in [
            (
                "workqueue_queue_duration_seconds",
                "[ALPHA] How long in seconds an item stays in workqueue before being requested.",
                true,
            ),
            (
                "workqueue_work_duration_seconds",
                "[ALPHA] How long in seconds processing an item from workqueue takes.",
                false,
            ),
        ] {
            page.family(name, Type::Histogram, help);
            for (shown, queue, _) in &standing {
                let (waits, works) = queue.durations();
                page.histogram(name, &[("name", shown)], if waited { waits } else { works });
            }
        }
    }
}

impl Source for Figures {
    fn write(&self, page: &mut Exposition) {
        self.requests(page);
        self.of_queues(page);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;
    use crate::client::testing::FakeApi;

    #[tokio::test(start_paused = true)]
    async fn requests_and_queues_are_counted() {
        let (api, figures) = (FakeApi::default(), Arc::new(Figures::default()));
        let client = api.client().recorded_in(figures.clone());
        api.put("configmaps", json!({"metadata": {"name": "a", "namespace": "d"}}));
        let maps = client.namespaced::<ConfigMap>("d");
        maps.get("a").await.unwrap();
        maps.get("b").await.unwrap_err();
        let queue = client.queue("deployment", Duration::from_secs(1), Duration::from_secs(9));
        queue.add("x");
        queue.add("x");
        tokio::time::advance(Duration::from_secs(3)).await;
        let key = queue.next().await;
        queue.add("y");
        tokio::time::advance(Duration::from_secs(2)).await;
        let page = |figures: &Figures| {
            let mut page = Exposition::default();
            figures.write(&mut page);
            page.into_text()
        };
        let text = page(&figures);
        let labelled = |name: &str, value: &str| format!("workqueue_{name}{{name=\"deployment\"}} {value}");
        for line in [
            "rest_client_requests_total{code=\"200\",host=\"in-process\",method=\"GET\"} 1",
            "rest_client_requests_total{code=\"404\",host=\"in-process\",method=\"GET\"} 1",
            "rest_client_request_duration_seconds_count{host=\"in-process\",verb=\"GET\"} 2",
            &labelled("depth", "1"),
            &labelled("adds_total", "2"),
            &labelled("retries_total", "0"),
            &labelled("unfinished_work_seconds", "2"),
            &labelled("longest_running_processor_seconds", "2"),
            &labelled("queue_duration_seconds_sum", "3"),
            &labelled("work_duration_seconds_count", "0"),
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
        queue.retry(&key);
        let text = page(&figures);
        for line in [labelled("retries_total", "1"), labelled("work_duration_seconds_sum", "2")] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
    }
}
