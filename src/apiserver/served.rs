//! The kinds that the server serves at this moment: the built-in ones and those that clients defined.

use std::sync::{Arc, PoisonError, RwLock};

use crate::api::kinds::{self, KINDS, Kind};

/// The table of kinds, as requests, discovery and documents read it. Reading takes no lock for longer than a
/// reference count.
#[derive(Debug)]
pub struct Served {
    now: RwLock<Arc<Vec<Arc<Kind>>>>,
}

impl Default for Served {
    fn default() -> Served {
        Served { now: RwLock::new(Arc::new(KINDS.clone())) }
    }
}

impl Served {
    /// Every kind, grouped by API group; the built-in ones first.
    pub fn kinds(&self) -> Arc<Vec<Arc<Kind>>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The kind served at this group, version and plural.
    pub fn by_resource(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Kind>> {
        kinds::by_resource(group, version, plural).cloned().or_else(|| {
            let kinds = self.kinds();
            let custom = kinds.iter().skip(KINDS.len());
            custom.into_iter().find(|k| k.version == version && k.is(group, plural)).cloned()
        })
    }

    /// Serves these kinds beside the built-in ones, and no others.
    pub fn set_custom(&self, custom: impl IntoIterator<Item = Arc<Kind>>) {
        let all = KINDS.iter().cloned().chain(custom).collect();
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_kinds_come_and_go() {
        let served = Served::default();
        let pods = served.by_resource("", "v1", "pods").unwrap();
        let widget = Kind { group: "example.com".into(), plural: "widgets".into(), ..(*pods).clone() };
        served.set_custom([Arc::new(widget)]);
        assert!(served.by_resource("example.com", "v1", "widgets").is_some());
        assert_eq!(served.kinds().len(), KINDS.len() + 1);
        served.set_custom([]);
        assert!(served.by_resource("example.com", "v1", "widgets").is_none());
        assert!(served.by_resource("", "v1", "pods").is_some());
    }
}
