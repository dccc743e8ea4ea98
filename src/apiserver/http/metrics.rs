//! A few counters in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// Requests answered, by verb and code.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Metrics {
    /// One more answer.
    pub fn count(&self, verb: &'static str, code: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((verb, code)).or_default() += 1;
    }

    /// The page; `revision` is the store's.
    pub fn text(&self, revision: u64) -> String {
        let mut text = String::from(
            "# HELP apiserver_request_total Counter of apiserver requests broken out for each verb and HTTP \
             response code.\n# TYPE apiserver_request_total counter\n",
        );
        for ((verb, code), count) in self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // Writing to a string does not fail.
            let _ = writeln!(
                text,
                "apiserver_request_total{{code=\"{code}\",verb=\"{}\"}} {count}",
                verb.to_uppercase()
            );
        }
        let _ = writeln!(
            text,
            "# HELP minik_store_revision Revision of the newest change.\n# TYPE minik_store_revision gauge\n\
             minik_store_revision {revision}"
        );
        text
    }
}
