//! Image pulls of one pod that are under way beside its worker, however long they take.

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::kubelet::pod::image_of;
use crate::kubelet::pull::{Failure, Images};

/// How the pull of a container's images ends.
pub type Pulled = Result<Images, Failure>;

/// The pulls by container; one that is dropped goes no further.
#[derive(Default)]
pub struct Pulls(HashMap<String, Pull>);

struct Pull {
    image: String,
    state: State,
}

enum State {
    UnderWay { end: oneshot::Receiver<Pulled>, _task: AbortOnDropHandle<()> },
    Ended(Box<Pulled>),
}

impl Pulls {
    /// Begins the pull of a container's image, whose end wakes the worker.
    pub fn begin<F>(&mut self, pod: &Pod, container: &str, wake: &Arc<Notify>, fetch: F)
    where
        F: Future<Output = Pulled> + Send + 'static,
    {
        let (tell, end) = oneshot::channel();
        let wake = wake.clone();
        let image = image_of(pod, container).to_owned();
        let of = image.clone();
        let task = tokio::spawn(async move {
            let pulled = AssertUnwindSafe(fetch).catch_unwind().await;
            let unexpected = |_| Err(Failure { image: of, message: "the pull ended unexpectedly".into() });
            let pulled = pulled.unwrap_or_else(unexpected);
            // A worker that is gone does not want to know.
            if tell.send(pulled).is_ok() {
                wake.notify_one();
            }
        });
        let state = State::UnderWay { end, _task: AbortOnDropHandle::new(task) };
        self.0.insert(container.to_owned(), Pull { image, state });
    }

    /// The containers whose image is not here yet; pulls of images that they no longer want are given up.
    pub fn under_way(&mut self, pod: &Pod) -> BTreeSet<String> {
        self.0.retain(|container, pull| pull.image == image_of(pod, container));
        for pull in self.0.values_mut() {
            if let State::UnderWay { end, .. } = &mut pull.state
                && let Ok(pulled) = end.try_recv()
            {
                pull.state = State::Ended(Box::new(pulled));
            }
        }
        let goes_on = |pull: &Pull| matches!(pull.state, State::UnderWay { .. });
        self.0.iter().filter(|(_, pull)| goes_on(pull)).map(|(container, _)| container.clone()).collect()
    }

    /// What has come of the pull for a container, when there was one and it has ended.
    pub fn take(&mut self, container: &str) -> Option<Pulled> {
        match self.0.remove(container)? {
            Pull { state: State::Ended(pulled), .. } => Some(*pulled),
            under_way => {
                self.0.insert(container.to_owned(), under_way);
                None
            }
        }
    }

    /// Gives all of them up.
    pub fn cancel(&mut self) {
        self.0.clear();
    }
}
