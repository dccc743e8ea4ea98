//! The kernel's word on processes that wait for memory: pressure stall information.

use std::fs::File;
use std::io::{self, Write};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Where it is asked for.
const FILE: &str = "/proc/pressure/memory";
/// Stalls of this length within that time, in microseconds, are told of. Who is not privileged may ask for whole
/// multiples of two seconds alone.
const TRIGGER: &str = "some 150000 2000000";

/// Tells when processes wait for memory.
#[derive(Debug)]
pub struct Stalls(AsyncFd<File>);

impl Stalls {
    /// Begins to listen; an error where the kernel does not tell.
    pub fn listen() -> io::Result<Stalls> {
        let file = File::options().read(true).write(true).open(FILE)?;
        (&file).write_all(TRIGGER.as_bytes())?;
        // SAFETY: a File is one and the same open descriptor until it is dropped, which the AsyncFd does.
        Ok(Stalls(unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) }?))
    }

    /// Waits for the next stall.
    pub async fn next(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_told_without_a_stall() {
        // A kernel may not know of stalls, and a machine under load may have some.
        let Ok(stalls) = Stalls::listen() else { return };
        tokio::select! {
            told = stalls.next() => told.unwrap(),
            () = tokio::task::yield_now() => {}
        }
    }
}
