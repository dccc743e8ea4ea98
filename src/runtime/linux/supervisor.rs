//! Reaching the supervisor: one connection for each call, a new supervisor when there is none.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::broadcast;

use super::Config;
use crate::runtime::protocol::{self, Call, Event, NEWEST, OLDEST, Reply, Request, SOCKET};
use crate::runtime::supervisor::READY_LINE;
use crate::runtime::{Changed, Error};
use crate::sys::{process, socket};

/// Between attempts to start a supervisor that does not come up.
const RETRY: Duration = Duration::from_secs(1);

/// How long a supervisor may take for what it does at once; and to take a connection.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a supervisor that has closed its connections may take to end, in milliseconds.
const ENDING_MS: u16 = 5000;

/// How often a call is made in all, when supervisors die under it.
const ATTEMPTS: u32 = 3;

/// The way to the supervisor.
#[derive(Debug)]
pub struct Supervisor {
    config: Config,
    /// The supervisor that this process has started, to be reaped; the lock also keeps two from being started.
    child: Mutex<Option<Child>>,
    /// Set by a shutdown: from then on none is started.
    closed: AtomicBool,
    /// The protocol's version that both sides speak.
    version: AtomicU32,
}

/// What came back, and the connection for what follows.
#[derive(Debug)]
pub struct Answer {
    /// The answer; never a failure, which is an error already.
    pub reply: Reply,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
    /// Still open.
    pub connection: UnixStream,
    /// Bytes that came after the answer.
    pub rest: Vec<u8>,
}

impl Supervisor {
    /// Does nothing yet.
    pub fn new(config: Config) -> Supervisor {
        Supervisor {
            config,
            child: Mutex::new(None),
            closed: AtomicBool::new(false),
            version: AtomicU32::new(NEWEST),
        }
    }

    /// Whether it and this program speak this version of the protocol.
    pub fn speaks(&self, version: u32) -> bool {
        self.version.load(Ordering::SeqCst) >= version
    }

    /// As it was given.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Makes sure that there is one, and agrees with it on a version. One that is started later is this program's.
    pub async fn hello(self: &Arc<Self>) -> Result<(), Error> {
        let (oldest, newest) = match self.call(Call::Hello, vec![]).await?.reply {
            Reply::Hello { version, oldest, .. } => (oldest, version),
            other => return Err(super::unexpected(&other)),
        };
        let version = protocol::agree(oldest, newest).ok_or_else(|| {
            let oldest = oldest.unwrap_or(newest);
            Error::Supervisor(format!(
                "the running supervisor speaks protocol {oldest} to {newest}, this minik {OLDEST} to {NEWEST}: \
                 stop the cluster first"
            ))
        })?;
        self.version.store(version, Ordering::SeqCst);
        Ok(())
    }

    /// Asks, starting a supervisor first when there is none.
    pub async fn call(self: &Arc<Self>, call: Call, descriptors: Vec<OwnedFd>) -> Result<Answer, Error> {
        let this = Arc::clone(self);
        blocking(move || {
            // Every call but this is idempotent: it is asked again when the supervisor dies under it.
            let attempts = if matches!(call, Call::Exec(_)) { 1 } else { ATTEMPTS };
            let patience = patience(&call);
            let version = this.version.load(Ordering::SeqCst);
            let bytes = protocol::encode(&Request { version, call }).map_err(lost)?;
            let mut attempt = 1;
            loop {
                match ask(this.connect_or_start()?, &bytes, &descriptors, patience) {
                    Ok(answer) => return answer,
                    Err(error) if attempt == attempts => return Err(lost(error)),
                    Err(error) => tracing::debug!(%error, "lost the supervisor during a call"),
                }
                attempt += 1;
            }
        })
        .await
    }

    /// Ends everything, and waits for the supervisor's own end.
    pub async fn shutdown(self: &Arc<Self>) -> Result<(), Error> {
        let this = Arc::clone(self);
        blocking(move || this.shutdown_blocking()).await
    }

    /// As [`Supervisor::shutdown`], when one runs.
    pub async fn shutdown_running(self) -> Result<(), Error> {
        blocking(move || self.shutdown_blocking()).await
    }

    fn shutdown_blocking(&self) -> Result<(), Error> {
        // The lock waits for one that is just being started.
        let guard = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(true, Ordering::SeqCst);
        drop(guard);
        let Ok(connection) = self.connect() else { return Ok(()) };
        let pid = socket::peer_pid(&connection).map_err(lost)?;
        let pidfd = match process::pidfd_open(pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                self.reap();
                return Ok(());
            }
            pidfd => pidfd.map_err(lost)?,
        };
        let request = Request { version: self.version.load(Ordering::SeqCst), call: Call::Shutdown };
        let bytes = protocol::encode(&request).map_err(lost)?;
        match ask(connection, &bytes, &[], None) {
            Ok(answer) => drop(answer?),
            // It was about to end already, at the wish of another.
            Err(_) if process::wait_ended(pidfd.as_fd(), ENDING_MS).map_err(lost)? => {}
            Err(error) => return Err(lost(error)),
        }
        while !process::wait_ended(pidfd.as_fd(), u16::MAX).map_err(lost)? {}
        self.reap();
        Ok(())
    }

    /// Tells of changes for ever, and starts another supervisor when this one dies. Whenever it begins to hear of
    /// changes, it says that everything has changed: somebody may have looked before.
    pub async fn watch(self: Arc<Self>, changes: broadcast::Sender<Changed>) {
        loop {
            match self.call(Call::Events, vec![]).await {
                Ok(answer) => {
                    if let Reply::Observed(observed) = &answer.reply {
                        let sandboxes = observed.sandboxes.iter().map(|sandbox| &sandbox.id);
                        // Nobody listening is fine.
                        sandboxes.for_each(|id| drop(changes.send(Changed { sandbox: id.clone() })));
                    }
                    if let Err(error) = forward(answer, &changes).await
                        && !self.closed.load(Ordering::SeqCst)
                    {
                        tracing::warn!(%error, "lost the supervisor");
                    }
                }
                Err(_) if self.closed.load(Ordering::SeqCst) => return,
                Err(error) => {
                    tracing::error!(%error, "cannot reach or start the supervisor");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        socket::connect(&self.config.run_dir.join(SOCKET), PATIENCE)
    }

    /// A connection to the supervisor that there is; `None` when there is none. One that takes no connections is an
    /// error: a second one beside it would only wait for its lock.
    fn reach(&self) -> Result<Option<UnixStream>, Error> {
        match self.connect() {
            Ok(connection) => Ok(Some(connection)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                io::ErrorKind::WouldBlock => Err(Error::Supervisor("it takes no connections".into())),
                _ => Err(lost(error)),
            },
        }
    }

    fn connect_or_start(&self) -> Result<UnixStream, Error> {
        if let Some(connection) = self.reach()? {
            return Ok(connection);
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have started one meanwhile.
        if let Some(connection) = self.reach()? {
            return Ok(connection);
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::Supervisor("it was shut down".into()));
        }
        if let Some(mut dead) = child.take() {
            let _ = dead.kill();
            let _ = dead.wait();
        }
        *child = Some(self.start()?);
        self.connect().map_err(lost)
    }

    fn start(&self) -> Result<Child, Error> {
        let log_path = self.config.run_dir.join("supervisor.log");
        let host = |what: &str, source| Error::Host {
            what: format!("{what} {}", self.config.executable.display()),
            source,
        };
        let log = fs::OpenOptions::new().append(true).create(true).open(&log_path);
        let log = log.map_err(|error| host("opening the log of", error))?;
        let args = self.config.options().to_args();
        let mut child = process::spawn_read_only(&self.config.executable, &args, log)
            .map_err(|error| host("starting", error))?;
        let mut line = String::new();
        let read = child.stdout.take().map(|stdout| BufReader::new(stdout).read_line(&mut line));
        match read {
            Some(Ok(_)) if line == READY_LINE => Ok(child),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                Err(Error::Supervisor(format!("did not come up: {}", last_line(&log_path))))
            }
        }
    }

    fn reap(&self) {
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.wait();
        }
    }
}

/// How long to wait for the answer to what the supervisor does at once; the rest takes as long as it takes.
fn patience(call: &Call) -> Option<Duration> {
    match call {
        Call::Hello
        | Call::Signal { .. }
        | Call::Observe
        | Call::ObserveLabelled { .. }
        | Call::Events
        | Call::Attach { .. }
        | Call::Network(_) => Some(PATIENCE),
        Call::EnsureSandbox(_)
        | Call::Start(_)
        | Call::Remove(_)
        | Call::RemoveSandbox(_)
        | Call::Exec(_)
        | Call::Shutdown => None,
    }
}

/// One request and its answer; the outer error is a lost connection, or a silent one.
fn ask(
    mut connection: UnixStream,
    request: &[u8],
    descriptors: &[OwnedFd],
    patience: Option<Duration>,
) -> io::Result<Result<Answer, Error>> {
    connection.set_read_timeout(patience)?;
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let sent = socket::send(connection.as_fd(), request, &borrowed)?;
    io::Write::write_all(&mut connection, &request[sent..])?;
    let (mut rest, mut descriptors) = (Vec::new(), Vec::new());
    let mut buffer = [0; 16 << 10];
    loop {
        if let Some(reply) = protocol::decode::<Reply>(&mut rest)? {
            return Ok(match reply {
                Reply::Failed(failure) => Err(failure.into()),
                reply => Ok(Answer { reply, descriptors, connection, rest }),
            });
        }
        let received = socket::receive(connection.as_fd(), &mut buffer, &mut descriptors);
        let silent = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it does not answer"),
            _ => error,
        };
        match received.map_err(silent)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it answered")),
            count => rest.extend_from_slice(&buffer[..count]),
        }
    }
}

async fn forward(answer: Answer, changes: &broadcast::Sender<Changed>) -> io::Result<()> {
    let Answer { connection, mut rest, .. } = answer;
    connection.set_nonblocking(true)?;
    let mut connection = tokio::net::UnixStream::from_std(connection)?;
    loop {
        while let Some(event) = protocol::decode::<Event>(&mut rest)? {
            // Nobody listening is fine.
            let _ = changes.send(event);
        }
        if connection.read_buf(&mut rest).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Error::Supervisor(error.to_string())))
}

fn lost(error: io::Error) -> Error {
    Error::Supervisor(error.to_string())
}

/// What a supervisor that did not come up has said.
fn last_line(log: &std::path::Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().next_back().unwrap_or("it said nothing").to_owned()
}
