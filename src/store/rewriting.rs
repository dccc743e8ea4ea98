//! A store file that is being written anew, on a thread of its own.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::file::Contents;
use super::image::Image;
use super::medium::Directory;

/// Ends when it is dropped, and leaves nothing behind.
pub struct Rewriting {
    directory: Arc<dyn Directory>,
    path: PathBuf,
    /// Where the present file ended when it began.
    from: u64,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Contents>>>,
}

impl Rewriting {
    /// Writes all of this into a file of that name; what the present file has from `from` on is not in it.
    pub fn begin(
        directory: &Arc<dyn Directory>,
        path: PathBuf,
        image: Image,
        from: u64,
    ) -> io::Result<Rewriting> {
        let ended = Arc::new(AtomicBool::new(false));
        let work = {
            let (directory, path, ended) = (directory.clone(), path.clone(), ended.clone());
            let go_on = move || match ended.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::Interrupted.into()),
                false => Ok(()),
            };
            move || Contents::written(directory.open(&path)?, &image, go_on)
        };
        let thread = thread::Builder::new().name("store-rewrite".into()).spawn(work)?;
        Ok(Rewriting { directory: directory.clone(), path, from, ended, thread: Some(thread) })
    }

    /// What has become of it, with where it began; itself while it is under way.
    pub fn result(mut self) -> Result<io::Result<(Contents, u64)>, Rewriting> {
        match self.thread.take_if(|thread| thread.is_finished()) {
            None => Err(self),
            Some(thread) => {
                let written = thread.join().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")));
                Ok(written.map(|contents| (contents, self.from)))
            }
        }
    }
}

impl Drop for Rewriting {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it wrote is nobody's, however it ended; what cannot be removed now is when the store is opened.
            let _ = thread.join();
            let _ = self.directory.remove(&self.path);
        }
    }
}
