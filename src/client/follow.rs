//! Following a collection for ever: list, then watch from the list's revision; 410 or a broken watch lists again.

use std::sync::Arc;
use std::time::Duration;

use super::Client;
use crate::api::request::{Change, Changes, ListOptions, Target, WatchOptions};
use crate::api::status::Status;
// What is told is what the API's answers carry.
pub use crate::store::{Entry, Revision};

/// Who is told what a collection holds.
pub trait Follower: Send + 'static {
    /// Everything there is, at this revision; what was known beside is gone.
    fn listed(&mut self, entries: &[Arc<Entry>], revision: Revision);

    /// One change, and the revision that it leads to.
    fn changed(&mut self, change: &Change, revision: Revision);
}

/// Where the conversation with the API server stands.
enum State {
    /// Nothing is known.
    Empty,
    /// Everything up to a revision is known.
    Listed { resource_version: String },
    /// Changes come in.
    Watching {
        resource_version: String,
        changes: Box<dyn Changes>,
        /// Whether any has come.
        told: bool,
    },
    /// The last step failed; try again from the start after a while.
    Failed,
}

/// The first wait after a failure.
const BACKOFF: Duration = Duration::from_millis(100);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

struct Conversation<F> {
    client: Client,
    target: Target,
    options: ListOptions,
    follower: F,
    /// How many steps have failed since a change last came in.
    tries: u32,
}

/// Tells `follower` of the selected objects of a collection until dropped.
pub async fn follow(client: Client, target: Target, options: ListOptions, follower: impl Follower) {
    let mut conversation = Conversation { client, target, options, follower, tries: 0 };
    let mut state = State::Empty;
    loop {
        state = match conversation.step(state).await {
            Ok(next) => next,
            // A watch that fell behind lists again at once; anything else waits a little.
            Err(status) if status.is("Expired") => State::Empty,
            Err(status) => {
                tracing::warn!(resource = %conversation.target, %status, "list or watch failed");
                conversation.tries += 1;
                State::Failed
            }
        };
    }
}

impl<F: Follower> Conversation<F> {
    async fn step(&mut self, state: State) -> Result<State, Status> {
        match state {
            State::Failed => {
                let wait = BACKOFF.saturating_mul(1 << self.tries.min(7)).min(BACKOFF_MAX);
                tokio::time::sleep(wait.mul_f64(0.8 + 0.4 * super::random_fraction())).await;
                Ok(State::Empty)
            }
            State::Empty => {
                let listed = self.client.snapshot(self.target.clone(), self.options.clone()).await?;
                self.follower.listed(&listed.entries, listed.revision);
                Ok(State::Listed { resource_version: listed.revision.to_string() })
            }
            State::Listed { resource_version } => {
                let list = ListOptions { resource_version: resource_version.clone(), ..self.options.clone() };
                let options = WatchOptions { list, bookmarks: true, ..WatchOptions::default() };
                let changes = self.client.watch(self.target.clone(), options).await?;
                Ok(State::Watching { resource_version, changes, told: false })
            }
            State::Watching { mut resource_version, mut changes, told } => match changes.next().await {
                Some(Ok(change)) => {
                    let revision = match &change {
                        Change::Added(entry) | Change::Modified(entry) | Change::Deleted(entry) => {
                            entry.revision
                        }
                        Change::Bookmark { revision, .. } => *revision,
                    };
                    self.follower.changed(&change, revision);
                    self.tries = 0;
                    resource_version = revision.to_string();
                    Ok(State::Watching { resource_version, changes, told: true })
                }
                Some(Err(status)) => Err(status),
                None if told => Ok(State::Listed { resource_version }),
                // A server whose watches tell nothing would be asked without pause.
                None => Err(Status::unavailable("the watch ended before it told anything")),
            },
        }
    }
}
