//! Wakes readers when something in a directory changes: one inotify descriptor for the whole process,
//! because the kernel allows a user only 128 of them.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::Notify;

static WATCHER: OnceLock<Watcher> = OnceLock::new();
/// Room for a batch of events with names.
const BUFFER: usize = 16 << 10;

struct Watcher {
    descriptor: Arc<OwnedFd>,
    /// By watch descriptor: a directory has one, however many readers it has.
    readers: Arc<Mutex<HashMap<i32, Vec<Arc<Notify>>>>>,
}

/// A directory that is watched until this is dropped.
pub struct Watch {
    number: i32,
    notify: Arc<Notify>,
}

impl Watch {
    /// Begins to watch a directory.
    pub fn new(directory: &Path) -> io::Result<Watch> {
        let watcher = watcher()?;
        let coming = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        let events = coming | WatchFlags::MOVED_FROM | WatchFlags::DELETE | WatchFlags::ONLYDIR;
        let notify = Arc::new(Notify::new());
        // Under the lock, so that a reader who leaves does not take the new one's watch with it.
        let mut readers = watcher.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let number = inotify::add_watch(&watcher.descriptor, directory, events)?;
        readers.entry(number).or_default().push(notify.clone());
        Ok(Watch { number, notify })
    }

    /// Waits until something has changed since the last call.
    pub async fn changed(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(watcher) = WATCHER.get() else { return };
        let mut readers = watcher.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_directory) = readers.get_mut(&self.number) else { return };
        of_directory.retain(|notify| !Arc::ptr_eq(notify, &self.notify));
        if of_directory.is_empty() {
            readers.remove(&self.number);
            // It fails only when the directory is gone, and the watch with it.
            let _ = inotify::remove_watch(&watcher.descriptor, self.number);
        }
    }
}

fn watcher() -> io::Result<&'static Watcher> {
    if let Some(watcher) = WATCHER.get() {
        return Ok(watcher);
    }
    let descriptor = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
    let mut fresh = false;
    let watcher = WATCHER.get_or_init(|| {
        fresh = true;
        Watcher { descriptor, readers: Arc::default() }
    });
    if fresh {
        let (descriptor, readers) = (watcher.descriptor.clone(), watcher.readers.clone());
        std::thread::Builder::new().name("watch".into()).spawn(move || deliver(&descriptor, &readers))?;
    }
    Ok(watcher)
}

/// Hands events to readers for as long as the process lives.
fn deliver(descriptor: &OwnedFd, readers: &Mutex<HashMap<i32, Vec<Arc<Notify>>>>) {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut events = inotify::Reader::new(descriptor, &mut buffer);
    loop {
        let (number, flags) = match events.next() {
            Ok(event) => (event.wd(), event.events()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => {
                tracing::error!(%error, "cannot read inotify events; logs and manifests are no longer followed");
                return;
            }
        };
        let mut readers = readers.lock().unwrap_or_else(PoisonError::into_inner);
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            readers.values().flatten().for_each(|notify| notify.notify_one());
        }
        readers.get(&number).into_iter().flatten().for_each(|notify| notify.notify_one());
        if flags.contains(ReadFlags::IGNORED) {
            readers.remove(&number);
        }
    }
}
