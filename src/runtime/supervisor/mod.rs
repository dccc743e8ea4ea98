//! The process that owns the containers: their streams, logs and exit codes outlive the daemon here.
//!
//! One for each cluster, single-threaded, an event loop without an async runtime: small enough to clone containers
//! from, and nothing in it waits for more than a few system calls. It knows containers, not pods.
//!
//! ```text
//! daemon ──socket──► operations ──clone──► child ──exec──► program
//!                        │                                    │ pipes, terminal
//!                    containers ◄──────── streams ◄───────────┘──► log file, attached clients
//! ```

mod child;
mod connection;
mod containers;
mod devices;
mod exec;
mod identity;
mod init;
mod logs;
mod poller;
mod records;
mod removal;
mod rootfs;
mod sandboxes;
mod starting;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use nix::sys::epoll::EpollFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use self::connection::{Connection, MOST_UNSENT, Role};
use self::containers::Container;
use self::exec::Exec;
use self::poller::{Poller, Source};
use self::records::Records;
use self::removal::Removal;
use self::sandboxes::Sandbox;
use super::cgroups::Tree;
use super::protocol::{self, Call, Failure, Reply, Request};
use super::{Changed, Labels, Observed};
use crate::stdio::Exit;
use crate::sys::process::{self, SingleThreaded};
use crate::sys::reaper::Reaper;
use crate::sys::{device, seccomp, socket};

pub use self::init::sysctl_file;
pub use self::records::layers_in_use;
pub use self::removal::remove_leftovers;

/// The hidden subcommand that runs the supervisor.
pub const SUBCOMMAND: &str = "supervise";
/// What the supervisor writes to its standard output when it can be connected to.
pub const READY_LINE: &str = "ready\n";

/// Where a supervisor works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Its socket, records and mount points; on a tmpfs.
    pub run_dir: PathBuf,
    /// The containers' writable layers; on a real disk.
    pub state_dir: PathBuf,
    /// Below the roots of the cgroup hierarchies.
    pub cgroup_parent: PathBuf,
}

impl Options {
    /// As arguments of the subcommand.
    pub fn to_args(&self) -> Vec<String> {
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        vec![SUBCOMMAND.into(), text(&self.run_dir), text(&self.state_dir), text(&self.cgroup_parent)]
    }

    fn from_args(args: &[String]) -> Option<Options> {
        let [run_dir, state_dir, cgroup_parent] = args else { return None };
        Some(Options {
            run_dir: run_dir.into(),
            state_dir: state_dir.into(),
            cgroup_parent: cgroup_parent.into(),
        })
    }
}

/// Runs a supervisor with the arguments that follow [`SUBCOMMAND`].
pub fn main(args: &[String]) -> ExitCode {
    // The log is a file that the daemon has opened as standard error.
    let _ = tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).try_init();
    let Some(options) = Options::from_args(args) else {
        tracing::error!("usage: {SUBCOMMAND} RUN_DIR STATE_DIR CGROUP_PARENT (started by the daemon)");
        return ExitCode::from(2);
    };
    match Supervisor::new(options).and_then(Supervisor::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "supervisor failed");
            ExitCode::FAILURE
        }
    }
}

/// What a cloned process is to the supervisor.
#[derive(Debug)]
enum Child {
    Init(String),
    Container(String),
    Exec(u64),
    Removal(Removal),
}

/// Everything the supervisor holds.
struct Supervisor {
    options: Options,
    proof: SingleThreaded,
    tree: Tree,
    poller: Poller,
    listener: UnixListener,
    signals: SignalFd,
    null: OwnedFd,
    reaper: Reaper,
    sandbox_records: Records,
    container_records: Records,
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    execs: HashMap<u64, Exec>,
    next_exec: u64,
    children: HashMap<i32, Child>,
    clients: HashMap<u64, Connection>,
    filters: HashMap<Vec<String>, Rc<seccomp::Filter>>,
    /// What containers may use, where the kernel takes such programs.
    devices: Option<device::Program>,
    /// The clients that asked for the end, once one has.
    ending: Option<Vec<u64>>,
    /// Held as long as the supervisor lives.
    _lock: nix::fcntl::Flock<File>,
}

impl Supervisor {
    fn new(options: Options) -> io::Result<Supervisor> {
        let proof = SingleThreaded::prove()?;
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        // Else it is named after the descriptor it was executed through.
        nix::sys::prctl::set_name(c"minik-supervise")?;
        nix::sys::prctl::set_dumpable(false)?;
        nix::sys::prctl::set_child_subreaper(true)?;
        process::close_on_exec_from(3)?;
        // As far as the host allows: everything it watches ends with it.
        let _ = fs::write("/proc/self/oom_score_adj", "-999");
        raise_open_files();
        fs::create_dir_all(options.run_dir.join("root"))?;
        fs::create_dir_all(options.state_dir.join("containers"))?;
        let lock = File::create(options.run_dir.join("supervisor.lock"))?;
        // Waits for one that is dying: its socket refuses connections before its lock is free.
        let lock =
            nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusive).map_err(|(_, error)| error)?;

        let tree = Tree::detect(&options.cgroup_parent)?;
        tree.prepare()?;
        let leaf = tree.leaf("supervisor");
        leaf.make()?;
        leaf.enter_single()?;

        let mut mask = SigSet::empty();
        // SIGTERM and the like are for the containers' owner to send as a request, not for a stray kill to decide.
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let path = options.run_dir.join(protocol::SOCKET);
        remove_stale(&path)?;
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let mut poller = Poller::new()?;
        poller.add(&listener, EpollFlags::EPOLLIN, Source::Listener)?;
        poller.add(&signals, EpollFlags::EPOLLIN, Source::Signals)?;
        let mut supervisor = Supervisor {
            sandbox_records: Records::open(options.run_dir.join("sandboxes"))?,
            container_records: Records::open(options.run_dir.join(records::CONTAINERS))?,
            null: fs::OpenOptions::new().read(true).write(true).open("/dev/null")?.into(),
            reaper: Reaper::make()?,
            options,
            proof,
            tree,
            poller,
            listener,
            signals,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            execs: HashMap::new(),
            next_exec: 0,
            children: HashMap::new(),
            clients: HashMap::new(),
            filters: HashMap::new(),
            devices: device::Program::load(&device::DEFAULT)
                .inspect_err(|error| tracing::warn!(%error, "cannot load the device program"))
                .ok(),
            ending: None,
            _lock: lock,
        };
        supervisor.inherit()?;
        Ok(supervisor)
    }

    /// Takes over from a supervisor that died: what it ran is killed, since its streams are lost, and on record as
    /// ended in a way that nobody saw.
    fn inherit(&mut self) -> io::Result<()> {
        self.tree.root().child("pods").kill_and_wait(10)?;
        for record in self.sandbox_records.load()? {
            self.inherit_sandbox(record);
        }
        for record in self.container_records.load()? {
            self.inherit_container(record);
        }
        self.end_unrecorded()?;
        self.throw_stale_away()
    }

    fn run(mut self) -> io::Result<()> {
        let mut out = io::stdout();
        out.write_all(READY_LINE.as_bytes())?;
        out.flush()?;
        let error_output = io::stderr();
        process::set_standard_streams([self.null.as_fd(), self.null.as_fd(), error_output.as_fd()])?;
        tracing::info!(pid = std::process::id(), "supervisor is ready");
        loop {
            for (token, source, flags) in self.poller.wait()? {
                self.dispatch(token, source, flags);
            }
            if self.children.is_empty()
                && let Some(clients) = self.ending.take()
            {
                clients.into_iter().for_each(|client| self.reply(client, &Reply::Done, vec![]));
                let _ = fs::remove_file(self.options.run_dir.join(protocol::SOCKET));
                return Ok(());
            }
        }
    }

    fn dispatch(&mut self, token: u64, source: Source, flags: EpollFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.reap(),
            Source::Client => self.serve(token, flags),
            Source::Sandbox(id) => self.sandbox_status(&id),
            Source::Start(id) => self.start_status(&id),
            Source::Exec(number) => self.exec_status(number),
            Source::Output(id, stream) => self.read_output(&id, stream),
            // Nobody can read it any longer; not to be asked again and again.
            Source::Input(id) if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) => {
                self.close_input(&id)
            }
            Source::Input(id) => self.write_input(&id),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let root = socket::peer_uid(&stream).is_ok_and(|uid| uid == 0);
            if !root || stream.set_nonblocking(true).is_err() {
                continue;
            }
            match self.poller.add(&stream, EpollFlags::EPOLLIN, Source::Client) {
                Ok(token) => drop(self.clients.insert(token, Connection::new(stream.into()))),
                Err(error) => tracing::warn!(%error, "cannot watch a client"),
            }
        }
    }

    /// Takes all ended children; containers first, so that a removal that waited for one finds it ended.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        let mut ended: Vec<(i32, Exit)> = std::iter::from_fn(process::reap).collect();
        ended.sort_by_key(|(pid, _)| matches!(self.children.get(pid), Some(Child::Removal(_))));
        for (pid, exit) in ended {
            match self.children.remove(&pid) {
                Some(Child::Init(id)) => self.sandbox_ended(&id),
                Some(Child::Container(id)) => self.container_ended(&id, exit),
                Some(Child::Exec(number)) => self.exec_ended(number, exit),
                Some(Child::Removal(removal)) => self.removed(removal, exit),
                // One that has prepared another one's start, or an orphan of a container, re-parented to this subreaper.
                None => {}
            }
        }
    }

    fn serve(&mut self, token: u64, flags: EpollFlags) {
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.flush(token);
        }
        let Some(client) = self.clients.get_mut(&token) else { return };
        if !flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return;
        }
        match client.receive() {
            Ok(true) => {}
            Ok(false) => return self.disconnect(token),
            Err(error) => {
                tracing::debug!(%error, "client dropped");
                return self.disconnect(token);
            }
        }
        match client.role {
            Role::Fresh => match protocol::decode::<Request>(&mut client.inbox) {
                Ok(None) => {}
                Ok(Some(request)) => {
                    client.role = Role::Waiting;
                    self.call(token, request);
                }
                Err(error) => self.fail(token, Failure::Protocol(error.to_string())),
            },
            Role::Attached { .. } => self.read_frames(token),
            Role::Waiting | Role::Events => client.inbox.clear(),
        }
    }

    fn call(&mut self, client: u64, request: Request) {
        let version = request.version;
        let result = match request.call {
            Call::Hello => {
                let hello = Reply::Hello {
                    version: protocol::NEWEST,
                    oldest: Some(protocol::OLDEST),
                    pid: std::process::id() as i32,
                };
                self.reply(client, &hello, vec![]);
                Ok(())
            }
            Call::Shutdown => {
                self.shut_down(client);
                Ok(())
            }
            _ if !(protocol::OLDEST..=protocol::NEWEST).contains(&version) => {
                Err(Failure::Protocol(format!(
                    "protocol version {version} is not one of {} to {}",
                    protocol::OLDEST,
                    protocol::NEWEST
                )))
            }
            _ if self.ending.is_some() => Err(Failure::Protocol("supervisor is shutting down".into())),
            Call::EnsureSandbox(config) => self.ensure_sandbox(client, *config),
            Call::Start(config) => self.start_container(client, *config),
            Call::Signal { container, signal } => self.signal(client, &container, signal),
            Call::Remove(id) => self.remove_container(client, &id),
            Call::RemoveSandbox(id) => self.remove_sandbox(client, &id),
            Call::Observe => {
                let observed = Reply::Observed(self.observe(|_| true));
                self.reply(client, &observed, vec![]);
                Ok(())
            }
            Call::ObserveLabelled { label, value } => {
                let observed = self.observe(|labels| labels.is_some_and(|l| l.get(&label) == Some(&value)));
                self.reply(client, &Reply::Observed(observed), vec![]);
                Ok(())
            }
            Call::Events => self.watch(client),
            Call::Exec(config) => self.exec(client, &config),
            Call::Attach { container, stdin, stdout, stderr } => {
                self.attach(client, container, stdin, stdout, stderr)
            }
            Call::Network(sandbox) => self.network(client, &sandbox),
        };
        if let Err(failure) = result {
            self.fail(client, failure);
        }
    }

    /// Sandboxes with such labels, and containers whose sandbox has such labels, or none when it is lost.
    fn observe(&self, wanted: impl Fn(Option<&Labels>) -> bool) -> Observed {
        let labels = |sandbox: &String| self.sandboxes.get(sandbox).map(|sandbox| &sandbox.config.labels);
        let sandboxes = self.sandboxes.iter().filter(|(id, _)| wanted(labels(id)));
        let containers = self.containers.iter().filter(|(_, c)| wanted(labels(&c.config.sandbox)));
        Observed {
            sandboxes: sandboxes.map(|(id, sandbox)| sandbox.status(id)).collect(),
            containers: containers.filter_map(|(id, container)| container.status(id)).collect(),
        }
    }

    fn watch(&mut self, client: u64) -> Result<(), Failure> {
        let observed = Reply::Observed(self.observe(|_| true));
        if let Some(connection) = self.clients.get_mut(&client) {
            connection.role = Role::Events;
        }
        self.send(client, &observed, vec![]);
        Ok(())
    }

    /// Tells all watchers.
    fn changed(&mut self, sandbox: &str) {
        let watchers: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| client.role == Role::Events)
            .map(|(token, _)| *token)
            .collect();
        for token in watchers {
            self.send(token, &Changed { sandbox: sandbox.to_owned() }, vec![]);
        }
    }

    /// Sends the only or last message of a connection.
    fn reply(&mut self, client: u64, reply: &impl serde::Serialize, descriptors: Vec<OwnedFd>) {
        if let Some(connection) = self.clients.get_mut(&client) {
            connection.closing = true;
        }
        self.send(client, reply, descriptors);
    }

    fn fail(&mut self, client: u64, failure: Failure) {
        self.reply(client, &Reply::Failed(failure), vec![]);
    }

    fn send(&mut self, client: u64, message: &impl serde::Serialize, descriptors: Vec<OwnedFd>) {
        match protocol::encode(message) {
            Ok(bytes) => self.push(client, &bytes, descriptors),
            Err(error) => {
                tracing::warn!(%error, "cannot answer a client");
                self.disconnect(client);
            }
        }
    }

    fn push(&mut self, client: u64, bytes: &[u8], descriptors: Vec<OwnedFd>) {
        let Some(connection) = self.clients.get_mut(&client) else { return };
        connection.push(bytes, descriptors);
        if connection.unsent() > MOST_UNSENT + bytes.len() {
            return self.disconnect(client);
        }
        self.flush(client);
    }

    fn flush(&mut self, client: u64) {
        let Some(connection) = self.clients.get_mut(&client) else { return };
        let attached_to = match &connection.role {
            Role::Attached { container, .. } => Some(container.clone()),
            _ => None,
        };
        match connection.flush() {
            Ok(true) if connection.closing => return self.disconnect(client),
            Ok(_) => self.update_interest(client),
            Err(_) => return self.disconnect(client),
        }
        if let Some(container) = attached_to {
            self.resume_output(&container);
        }
    }

    /// Watches a client for what it can be served with now.
    fn update_interest(&mut self, client: u64) {
        let Some(connection) = self.clients.get(&client) else { return };
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLOUT, connection.unsent() > 0);
        let full = match &connection.role {
            Role::Attached { container, .. } => {
                self.containers.get(container).is_some_and(Container::input_is_full)
            }
            _ => false,
        };
        interest.set(EpollFlags::EPOLLIN, !full);
        self.poller.change(client, connection, interest);
    }

    fn disconnect(&mut self, client: u64) {
        let Some(connection) = self.clients.remove(&client) else { return };
        self.poller.remove(client, &connection);
        self.abandon_execs(client);
        if let Role::Attached { container, stdin, .. } = connection.role {
            self.detached(&container, stdin);
        }
    }
}

/// A container takes about five descriptors; what the host allows is enough for any number of them.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// A socket file of a dead supervisor (the lock says that it is dead).
fn remove_stale(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether an id is safe as a name of files and groups.
fn check_id(id: &str) -> Result<(), Failure> {
    let plain =
        !id.is_empty() && id.len() <= 128 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    match plain {
        true => Ok(()),
        false => Err(Failure::Protocol(format!("{id:?} is not an id"))),
    }
}
