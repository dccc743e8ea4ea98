//! What is noted of a request while it is carried out: the annotations of its events.
//!
//! Whoever has something to note calls [`annotate`], wherever in the server that is; it is noted of the request that the
//! present task carries out, and nowhere when that one is not recorded.

use super::Record;
use super::policy::Level;
use crate::api::names;

tokio::task_local! {
    /// The request that the task carries out.
    static PRESENT: Record;
}

/// Carries out a request of which notes are taken.
pub async fn noting<F: Future>(record: Record, work: F) -> F::Output {
    PRESENT.scope(record, work).await
}

/// Notes something of the present request. What was noted first under a key stays.
pub fn annotate(key: &str, value: impl Into<String>) {
    annotate_at(Level::Metadata, key, || value.into());
}

/// Notes what says so much of the objects of the present request that only this level of recording shows it.
pub fn annotate_at(level: Level, key: &str, value: impl FnOnce() -> String) {
    let _ = PRESENT.try_with(|record| {
        if record.shows(level) && is_key(key) {
            record.note(key, value());
        }
    });
}

/// Whether this is a name with a domain before it.
fn is_key(key: &str) -> bool {
    key.split('/').count() == 2 && names::qualified_name(key).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_domain() {
        for (key, is) in [("example.com/a", true), ("a", false), ("example.com/a/b", false), ("x y/a", false)]
        {
            assert_eq!(is_key(key), is, "{key}");
        }
    }

    #[test]
    fn without_a_request_nothing_is_noted() {
        annotate("example.com/a", "b");
    }
}
