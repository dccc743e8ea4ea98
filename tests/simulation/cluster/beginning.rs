//! What simulated clusters begin with: the first objects and the key of tokens, which are the same for all that begin at
//! one time, and made once for them.
//!
//! Those that begin later find what a cluster has whose API server and controllers have been started before.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use minik::api::node::NoNode;
use minik::apiserver::allocate::ServiceRanges;
use minik::apiserver::pki::Pki;
use minik::apiserver::{ApiServer, Config};
use minik::store::Store;

use super::{controllers, directory};

/// What is there before any node.
pub struct Beginning {
    pub store: Store,
    token_key: Vec<u8>,
}

/// By the times at which clusters begin.
static MADE: Mutex<BTreeMap<String, Arc<Beginning>>> = Mutex::new(BTreeMap::new());

impl Beginning {
    /// The one of clusters that begin at a time, which is the present; some time goes by when it is made.
    pub async fn at(time: &str) -> Arc<Beginning> {
        let known = || MADE.lock().unwrap().get(time).cloned();
        if let Some(known) = known() {
            return known;
        }
        let made = Arc::new(Beginning::make().await);
        made.settle().await;
        MADE.lock().unwrap().insert(time.to_owned(), made.clone());
        made
    }

    /// The first objects of a cluster that begins at present.
    pub async fn make() -> Beginning {
        let keys = Pki::open(&directory().path().join("pki")).unwrap();
        let beginning = Beginning { store: Store::simulated(), token_key: keys.token_key().to_vec() };
        let api = beginning.server(beginning.store.clone());
        api.bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
        beginning
    }

    /// Has the controllers make what every cluster has.
    async fn settle(&self) {
        let api = self.server(self.store.clone());
        let run = controllers(&api, "/nowhere".into(), Arc::new(NoNode)).run(std::future::pending());
        // Simulated time goes by only when they have nothing left to do.
        let settled = tokio::time::timeout(Duration::from_secs(1), run).await;
        assert!(settled.is_err(), "controllers end");
    }

    /// An API server with these keys, on a store that began so.
    pub fn server(&self, store: Store) -> Arc<ApiServer> {
        let service_ranges = ServiceRanges::parse("10.96.0.0/16").unwrap();
        ApiServer::new(Config { store, service_ranges, token_key: self.token_key.clone() }).unwrap()
    }
}
