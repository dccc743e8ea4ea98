//! The one writer: takes what has queued up, decides, makes it durable as one record, then shows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::announce::Announcer;
use super::file::StoreFile;
use super::memory::{Memory, State};
use super::{Entry, Error, Event, Revision};

/// Makes a document's bytes once its revision is known.
pub type Encode = Box<dyn FnOnce(Revision) -> Bytes + Send>;

/// What a write does, and what it expects to find.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    /// Nothing is there.
    Create,
    /// The document is at this revision.
    Update {
        /// As the caller saw it.
        expected: Revision,
    },
    /// The document is at this revision.
    Delete {
        /// As the caller saw it.
        expected: Revision,
    },
}

/// One write on its way.
pub struct Write {
    /// Where.
    pub key: String,
    /// What.
    pub operation: Operation,
    /// Its bytes.
    pub encode: Encode,
    /// Who waits.
    pub done: oneshot::Sender<Result<Arc<Entry>, Error>>,
}

/// What the writer is asked to do.
pub enum Message {
    /// Write.
    Write(Write),
    /// Forget the log up to and including a revision.
    Compact {
        /// The revision.
        revision: Revision,
        /// Who waits.
        done: oneshot::Sender<Result<(), Error>>,
    },
    /// Say whether what is accepted still reaches the disk.
    Check {
        /// Who waits.
        done: oneshot::Sender<Result<(), Error>>,
    },
    /// End.
    Close {
        /// Who waits.
        done: oneshot::Sender<()>,
    },
}

/// How large the log may grow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Changes in memory.
    pub events: usize,
    /// Bytes in memory.
    pub bytes: usize,
    /// Bytes of the file up to which it is never written anew.
    pub file: u64,
}

/// The most writes in one record: bounds the wait of the first of them.
const GROUP: usize = 512;

/// The handle to the one writer.
pub enum Writer {
    /// It has a thread of its own, so that nobody who asks is held up by the disk.
    Thread(mpsc::Sender<Message>),
    /// It works on the thread of whoever asks, until it is closed.
    AtOnce(Box<Mutex<Option<Work>>>),
}

impl Writer {
    /// Starts a thread; it ends when the handle is dropped or it is told to.
    pub fn start(
        file: StoreFile,
        memory: Arc<Memory>,
        announcer: Arc<Announcer>,
        limits: Limits,
    ) -> Result<Writer, Error> {
        let (queue, messages) = mpsc::channel();
        let work = Work::new(Some(file), memory, announcer, limits);
        thread::Builder::new().name("store".into()).spawn(move || work.run(&messages)).map_err(|error| {
            Error::Disk { path: String::new(), message: format!("cannot start the writer's thread: {error}") }
        })?;
        Ok(Writer::Thread(queue))
    }

    /// Without a thread and without a disk: a message has been carried out when it has been sent.
    pub fn at_once(memory: Arc<Memory>, announcer: Arc<Announcer>, limits: Limits) -> Writer {
        Writer::AtOnce(Box::new(Mutex::new(Some(Work::new(None, memory, announcer, limits)))))
    }

    /// Hands over a message.
    pub fn send(&self, message: Message) -> Result<(), Error> {
        match self {
            Writer::Thread(queue) => queue.send(message).map_err(|_| Error::Closed),
            Writer::AtOnce(work) => {
                let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                let closing = work.as_mut().ok_or(Error::Closed)?.take(message, || None);
                if let Some(done) = closing {
                    drop(work.take());
                    let _ = done.send(());
                }
                Ok(())
            }
        }
    }
}

/// The writer's work, wherever it is done.
pub struct Work {
    /// They hear of the end of this work.
    followers: Followers,
    /// Not in a simulation, where a write is as good as durable when it is in memory.
    file: Option<StoreFile>,
    memory: Arc<Memory>,
    limits: Limits,
    /// How the newest record ended.
    last: Result<(), Error>,
}

/// Tells followers of the store's end, however it ends.
struct Followers(Arc<Announcer>);

impl Drop for Followers {
    fn drop(&mut self) {
        self.0.close();
    }
}

type Done = oneshot::Sender<Result<Arc<Entry>, Error>>;

/// A group of writes, decided: what becomes of each once their record is written.
#[derive(Default)]
struct Group {
    events: Vec<Event>,
    /// Acknowledged once their record is durable.
    accepted: Vec<(Done, Arc<Entry>)>,
    /// Refused because of a write of the same group, which must be visible before they hear of it.
    beaten: Vec<(Done, Error)>,
}

impl Work {
    fn new(file: Option<StoreFile>, memory: Arc<Memory>, announcer: Arc<Announcer>, limits: Limits) -> Work {
        Work { followers: Followers(announcer), file, memory, limits, last: Ok(()) }
    }

    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut closing = None;
        while closing.is_none() {
            let Ok(first) = messages.recv() else { break };
            closing = self.take(first, || messages.try_recv().ok());
        }
        // The file is closed before the closer hears of it.
        if let Some(file) = self.file.take() {
            file.close();
        }
        drop(self);
        if let Some(done) = closing {
            let _ = done.send(());
        }
    }

    /// Carries out a message with those that have queued up behind it; who waits for the end, when that is asked for.
    fn take(
        &mut self,
        first: Message,
        mut queued: impl FnMut() -> Option<Message>,
    ) -> Option<oneshot::Sender<()>> {
        let mut writes = Vec::new();
        let mut compactions = Vec::new();
        let mut checks = Vec::new();
        let mut closing = None;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Write(write) => writes.push(write),
                Message::Compact { revision, done } => compactions.push((revision, done)),
                Message::Check { done } => checks.push(done),
                Message::Close { done } => {
                    closing = Some(done);
                    break;
                }
            }
            next = if writes.len() < GROUP { queued() } else { None };
        }
        if let Some(result) = self.commit(writes, compactions) {
            self.last = result;
        }
        for done in checks {
            let _ = done.send(self.last.as_ref().map_err(again).copied());
        }
        closing
    }

    /// How the record ended; `None` when there was nothing to make durable.
    fn commit(
        &mut self,
        writes: Vec<Write>,
        compactions: Vec<(Revision, oneshot::Sender<Result<(), Error>>)>,
    ) -> Option<Result<(), Error>> {
        if writes.is_empty() && compactions.is_empty() {
            return None;
        }
        let Group { events, accepted, beaten } = self.decide(writes);
        let idle = events.is_empty();
        let result = match &mut self.file {
            Some(file) if !idle => file.commit(&events),
            _ => Ok(()),
        };
        match &result {
            Ok(()) => {
                let asked = compactions.iter().map(|(revision, _)| *revision).max();
                self.show(&events, asked);
                for (done, entry) in accepted {
                    let _ = done.send(Ok(entry));
                }
                for (done, error) in beaten {
                    let _ = done.send(Err(error));
                }
                for (_, done) in compactions {
                    let _ = done.send(Ok(()));
                }
                // Who waits for a write hears of it before those who follow.
                self.followers.0.announce(&events);
                if let Some(file) = &mut self.file {
                    file.tend(|| self.memory.read(State::image));
                }
            }
            Err(error) => {
                let beaten = beaten.into_iter().map(|(done, _)| done);
                for done in accepted.into_iter().map(|(done, _)| done).chain(beaten) {
                    let _ = done.send(Err(again(error)));
                }
                for (_, done) in compactions {
                    let _ = done.send(Err(again(error)));
                }
            }
        }
        (!idle).then_some(result)
    }

    /// Makes durable changes visible, and forgets what the log need not hold.
    fn show(&self, events: &[Event], asked: Option<Revision>) {
        let forgotten = self.memory.write(|state| {
            state.apply(events.iter().cloned());
            let until = state.beyond(self.limits).max(asked);
            until.map(|until| state.compact(until))
        });
        drop(forgotten);
    }

    /// Checks each write against what is there and what this group wrote before it. Only a refusal by what is
    /// there is said at once.
    fn decide(&self, writes: Vec<Write>) -> Group {
        let mut group = Group::default();
        let mut overlay: HashMap<String, Option<Arc<Entry>>> = HashMap::new();
        let mut revision = self.memory.read(State::newest);
        for write in writes {
            let written = overlay.get(&write.key);
            let present = match written {
                Some(present) => present.clone(),
                None => self.memory.read(|state| state.get(&write.key)),
            };
            if let Err(error) = check(&write, present.as_deref()) {
                if written.is_some() {
                    group.beaten.push((write.done, error));
                } else {
                    let _ = write.done.send(Err(error));
                }
                continue;
            }
            revision += 1;
            let created = present.as_ref().map_or(revision, |entry| entry.created);
            let deleted = matches!(write.operation, Operation::Delete { .. });
            let entry = Entry::new(write.key.clone(), (write.encode)(revision), created, revision);
            overlay.insert(write.key, (!deleted).then(|| entry.clone()));
            group.events.push(Event { revision, entry: entry.clone(), previous: present, deleted });
            group.accepted.push((write.done, entry));
        }
        group
    }
}

/// The same failure once more, for everybody who waited for the record.
fn again(error: &Error) -> Error {
    match error {
        Error::Disk { path, message } => Error::Disk { path: path.clone(), message: message.clone() },
        _ => Error::Closed,
    }
}

fn check(write: &Write, present: Option<&Entry>) -> Result<(), Error> {
    let actual = present.map(|entry| entry.revision);
    match (write.operation, actual) {
        (Operation::Create, None) => Ok(()),
        (Operation::Create, Some(revision)) => Err(Error::Exists { key: write.key.clone(), revision }),
        (Operation::Update { expected } | Operation::Delete { expected }, Some(at)) if at == expected => {
            Ok(())
        }
        (Operation::Update { expected } | Operation::Delete { expected }, actual) => {
            Err(Error::Conflict { key: write.key.clone(), expected, actual })
        }
    }
}
