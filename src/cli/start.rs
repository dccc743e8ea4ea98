//! `minik start`: checks the host, starts the daemon, waits until the cluster is ready.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixListener;

use super::failure::{Failure, Kind};
use super::kubeconfig::{self, Entries, Person};
use super::settle::{Host, settle};
use super::{Global, host, output};
use crate::daemon::config::{self, Cluster, Places, Settings};
use crate::daemon::{control, unit};
use crate::network;
use crate::sys::program;

/// A settings file that is read when it is there and none is named.
const CONFIG_FILE: &str = "/etc/minik/config.yaml";
/// Above this size the daemon's log begins anew at a start, in bytes; one older one is kept.
const LOG_MAX: u64 = 10 << 20;
/// Lines of the log shown when a start fails.
const LOG_TAIL: usize = 5;

/// Flags of `minik start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask this mirror first, as HOST=URL (repeatable)
    #[arg(long, value_name = "HOST=URL")]
    registry_mirror: Vec<String>,
    /// Accept any certificate of this registry, or none (repeatable)
    #[arg(long, value_name = "HOST")]
    insecure_registry: Vec<String>,
    /// Port of the API server
    #[arg(long)]
    apiserver_port: Option<u16>,
    /// Where pods get their addresses; by default a range that the host does not use
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Where services get their addresses
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<String>,
    /// The node's name; by default the host's
    #[arg(long)]
    node_name: Option<String>,
    /// Settings file; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Return when the cluster is ready
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait for it
    #[arg(long, default_value = "60s", value_parser = super::duration)]
    timeout: Duration,
}

/// Runs the verb.
pub async fn run(args: Args, global: &Global) -> Result<(), Failure> {
    super::require_root("start a cluster")?;
    let places = global.places()?;
    let began = Instant::now();
    let person = Person::invoking();
    if let Some(state) = control::status(&places.control()).await.map_err(Failure::general)? {
        output::note(format!(
            "minik: cluster {:?} is running already (pid {}); nothing to do",
            places.profile, state.pid
        ));
        return write_kubeconfig(&places, &person, state.apiserver_port).map(drop);
    }
    let problems = host::check();
    if !problems.is_empty() {
        let lines: Vec<String> = problems.iter().map(|p| format!("- {}: {}", p.what, p.remedy)).collect();
        return Err(Failure::new(
            Kind::Host,
            format!("this host cannot run a cluster:\n{}", lines.join("\n")),
        ));
    }
    let before = Cluster::read(&places).map_err(Failure::general)?;
    let surroundings = look_around(&places, &person).await?;
    let cluster = settle(&places.profile, asked(&args)?, before, &surroundings, &host::is_free)?;
    cluster.write(&places).map_err(Failure::general)?;
    launch(&args, global, &places).await?;
    let path = write_kubeconfig(&places, &person, cluster.apiserver_port)?;
    output::note(format!(
        "minik: cluster {:?} is {} after {:.2} s; kubectl uses it by {}",
        places.profile,
        if args.wait { "ready" } else { "starting" },
        began.elapsed().as_secs_f64(),
        path.display()
    ));
    Ok(())
}

/// What the flags and the file say.
fn asked(args: &Args) -> Result<Settings, Failure> {
    let usage = |error: config::Error| Failure::new(Kind::Usage, error);
    let file = match &args.config {
        Some(path) => Settings::read(path).map_err(usage)?,
        None if Path::new(CONFIG_FILE).exists() => Settings::read(Path::new(CONFIG_FILE)).map_err(usage)?,
        None => Settings::default(),
    };
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in &args.registry_mirror {
        let (host, url) = text
            .split_once('=')
            .filter(|(host, url)| !host.is_empty() && !url.is_empty())
            .ok_or_else(|| {
                Failure::new(Kind::Usage, format!("--registry-mirror {text:?} must be HOST=URL"))
                    .hint("for example --registry-mirror docker.io=https://mirror.example")
            })?;
        mirrors.entry(host.to_owned()).or_default().push(url.to_owned());
    }
    let flags = Settings {
        apiserver_port: args.apiserver_port,
        pod_cidr: args.pod_cidr.clone(),
        service_cidr: args.service_cidr.clone(),
        node_name: args.node_name.clone(),
        registry_mirrors: mirrors,
        insecure_registries: args.insecure_registry.clone(),
        share_process_namespace: None,
    };
    Ok(flags.over(file))
}

/// What this host leaves open for the cluster.
async fn look_around(places: &Places, person: &Person) -> Result<Host, Failure> {
    let name = nix::unistd::gethostname().map_err(Failure::general)?;
    let mut others = Cluster::all(&places.data_dir);
    others.retain(|(profile, _)| *profile != places.profile);
    Ok(Host {
        name: name.to_string_lossy().into_owned(),
        occupied: network::occupied_ranges().await.map_err(Failure::general)?,
        others,
        docker_config: person.docker_config(),
    })
}

/// Starts the daemon and waits for its word.
async fn launch(args: &Args, global: &Global, places: &Places) -> Result<(), Failure> {
    let run = places.run();
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&run);
    made.map_err(|error| Failure::general(format!("cannot make {}: {error}", run.display())))?;
    let _alone = alone(&run.join("start.lock"), places)?;
    let socket = run.join("start.sock");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)
        .map_err(|error| Failure::general(format!("cannot listen on {}: {error}", socket.display())))?;
    let result = launch_and_wait(args, global, places, &socket, &listener).await;
    let _ = fs::remove_file(&socket);
    result
}

/// Two that start the same cluster at once would take each other's daemon for their own.
fn alone(path: &Path, places: &Places) -> Result<File, Failure> {
    let lock = File::create(path)
        .map_err(|error| Failure::general(format!("cannot make {}: {error}", path.display())))?;
    lock.try_lock().map_err(|_| {
        Failure::general(format!("another minik start of cluster {:?} is under way", places.profile))
            .hint("wait for it")
    })?;
    Ok(lock)
}

async fn launch_and_wait(
    args: &Args,
    global: &Global,
    places: &Places,
    socket: &Path,
    listener: &UnixListener,
) -> Result<(), Failure> {
    let executable = std::env::current_exe().map_err(Failure::general)?;
    let mut words: Vec<String> = vec!["daemon".into(), "--profile".into(), places.profile.clone()];
    words.extend(["--data-dir".into(), global.data_dir.display().to_string()]);
    words.extend(["--notify".into(), socket.display().to_string()]);
    let log = open_log(&places.log()).map_err(Failure::general)?;
    let ended: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = if unit::available() {
        unit::start(places, &executable, &words).map_err(|error| {
            Failure::new(Kind::Start, format!("cannot start unit {}: {error}", places.unit()))
        })?;
        // The service manager says nothing by itself; the time limit has the last word.
        Box::pin(std::future::pending())
    } else {
        let mut child = program::spawn_detached(&executable, &words, log)
            .map_err(|error| Failure::new(Kind::Start, format!("cannot start the daemon: {error}")))?;
        Box::pin(async move {
            // The thread ends with the daemon, or with this process.
            let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        })
    };
    if !args.wait {
        return Ok(());
    }
    let answer = async {
        let (stream, _) = listener.accept().await?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await?;
        Ok::<_, io::Error>(line)
    };
    tokio::select! {
        answer = answer => {
            let line = answer.map_err(Failure::general)?;
            match line.trim_end().split_once(' ') {
                None if line.trim_end() == "ready" => Ok(()),
                Some(("failed", why)) => {
                    // There is no point in trying the same again.
                    let _ = unit::stop(places);
                    Err(Failure::new(Kind::Start, format!("the cluster did not start: {why}")).hint(
                        format!("the daemon's log has more: minik logs -p {}", places.profile),
                    ))
                }
                _ => Err(died(places)),
            }
        }
        () = ended => Err(died(places)),
        () = tokio::time::sleep(args.timeout) => Err(Failure::new(
            Kind::Timeout,
            format!("cluster {:?} is not ready after {} s", places.profile, args.timeout.as_secs()),
        )
        .hint(format!("it may still become so: minik status -p {0}; its log: minik logs -p {0}", places.profile))),
    }
}

fn died(places: &Places) -> Failure {
    let text = fs::read_to_string(places.log()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
    Failure::new(Kind::Start, format!("the daemon ended while starting; it said last:\n{tail}"))
        .hint(format!("the whole log: minik logs -p {}", places.profile))
}

fn open_log(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    if fs::metadata(path).is_ok_and(|m| m.len() > LOG_MAX) {
        fs::rename(path, path.with_extension("log.1"))?;
    }
    File::options().append(true).create(true).mode(0o600).open(path)
}

fn write_kubeconfig(places: &Places, person: &Person, port: u16) -> Result<PathBuf, Failure> {
    let fail = |what: String| {
        Failure::general(format!("the cluster runs, but the kubeconfig was not written: {what}"))
    };
    let bytes =
        fs::read(places.admin()).map_err(|error| fail(format!("{}: {error}", places.admin().display())))?;
    let admin: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
    let text = |field: &str| admin[field].as_str().unwrap_or("").to_owned();
    let entries = Entries {
        name: places.profile.clone(),
        server: server(port),
        ca: text("ca"),
        certificate: text("certificate"),
        key: text("key"),
    };
    kubeconfig::add(person, &entries).map_err(|error| fail(error.to_string()))
}

/// Where this machine's clients reach the API server.
pub fn server(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}
