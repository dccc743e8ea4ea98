//! `minik start`: checks the host, starts the daemon, waits until the cluster is ready.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixListener;

use super::failure::{Failure, Kind};
use super::kubeconfig::{self, Entries, Person};
use super::{Global, host, output};
use crate::daemon::config::{self, Cluster, DEFAULT_PORT, DEFAULT_SERVICE_CIDR, Places, Settings};
use crate::daemon::control;
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
    /// Speak to this registry without TLS (repeatable)
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
    let cluster = settle(&args, &places, &person).await?;
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

/// Decides everything that was left open, and keeps what an existing cluster cannot change.
async fn settle(args: &Args, places: &Places, person: &Person) -> Result<Cluster, Failure> {
    let asked = asked(args)?;
    let usage = |error: config::Error| Failure::new(Kind::Usage, error);
    let before = Cluster::read(places).map_err(Failure::general)?;
    if let Some(before) = &before {
        for (flag, asked, kept) in [
            ("--pod-cidr", &asked.pod_cidr, &before.pod_cidr),
            ("--service-cidr", &asked.service_cidr, &before.service_cidr),
            ("--node-name", &asked.node_name, &before.node_name),
        ] {
            if asked.as_ref().is_some_and(|asked| asked != kept) {
                return Err(Failure::new(
                    Kind::Usage,
                    format!(
                        "{flag} of the existing cluster {:?} is {kept} and cannot change",
                        places.profile
                    ),
                )
                .hint(format!(
                    "make another cluster (-p NAME), or delete this one first: minik delete -p {}",
                    places.profile
                )));
            }
        }
    }
    let service_cidr = asked
        .service_cidr
        .or(before.as_ref().map(|b| b.service_cidr.clone()))
        .unwrap_or_else(|| DEFAULT_SERVICE_CIDR.to_owned());
    let services = config::parse_cidr("--service-cidr", &service_cidr).map_err(usage)?;
    let mut occupied = network::occupied_ranges().await.map_err(Failure::general)?;
    // An existing cluster may have left its own routes behind, when its daemon was killed.
    let taken = occupied.iter().find(|range| before.is_none() && range.overlaps(&services));
    if let Some(other) = taken {
        return Err(Failure::new(
            Kind::Host,
            format!("--service-cidr {services} overlaps {other}, which this host uses: its packets would be taken for services'"),
        )
        .hint("name a range that is free here: minik start --service-cidr A.B.0.0/16"));
    }
    let pod_cidr = match asked.pod_cidr.or(before.as_ref().map(|b| b.pod_cidr.clone())) {
        Some(text) => text,
        None => {
            occupied.push(services);
            let chosen = network::choose_range(&occupied, &network::PREFERRED_RANGES);
            chosen
                .map_err(|error| {
                    Failure::new(Kind::Host, error)
                        .hint("name a free range: minik start --pod-cidr A.B.0.0/16")
                })?
                .to_string()
        }
    };
    let pods = config::parse_cidr("--pod-cidr", &pod_cidr).map_err(usage)?;
    if pods.overlaps(&services) {
        return Err(Failure::new(
            Kind::Usage,
            format!("--pod-cidr {pods} and --service-cidr {services} overlap"),
        ));
    }
    let kept = before.as_ref().map(|b| b.apiserver_port);
    let wanted = asked.apiserver_port.or(kept).unwrap_or(DEFAULT_PORT);
    let chosen = asked.apiserver_port.or(kept).is_some();
    let apiserver_port = host::free_port(wanted, chosen).ok_or_else(|| {
        Failure::new(Kind::Host, format!("port {wanted} for the API server is taken by another program"))
            .hint("choose another: minik start --apiserver-port PORT")
    })?;
    let name = asked.node_name.or(before.as_ref().map(|b| b.node_name.clone()));
    let older = before.map(|b| Settings {
        registry_mirrors: b.registry_mirrors,
        insecure_registries: b.insecure_registries,
        share_process_namespace: Some(b.share_process_namespace),
        ..Settings::default()
    });
    let lists = Settings {
        registry_mirrors: asked.registry_mirrors,
        insecure_registries: asked.insecure_registries,
        share_process_namespace: asked.share_process_namespace,
        ..Settings::default()
    }
    .over(older.unwrap_or_default());
    Ok(Cluster {
        apiserver_port,
        pod_cidr,
        service_cidr,
        node_name: node_name(name)?,
        registry_mirrors: lists.registry_mirrors,
        insecure_registries: lists.insecure_registries,
        share_process_namespace: lists.share_process_namespace.unwrap_or(true),
        docker_config: Some(person.docker_config()),
    })
}

/// The asked name, or the host's, as Kubernetes accepts it.
fn node_name(asked: Option<String>) -> Result<String, Failure> {
    let name = match asked {
        Some(name) => name,
        None => {
            let host = nix::unistd::gethostname().map_err(Failure::general)?;
            host.to_string_lossy().to_lowercase()
        }
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        return Ok(name);
    }
    Err(Failure::new(
        Kind::Usage,
        format!("node name {name:?} must be lower-case letters, digits, '-' and '.'"),
    )
    .hint("name the node: minik start --node-name NAME"))
}

/// Starts the daemon and waits for its word.
async fn launch(args: &Args, global: &Global, places: &Places) -> Result<(), Failure> {
    let socket = std::env::temp_dir().join(format!("minik-start-{}.sock", std::process::id()));
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(Failure::general)?;
    let result = launch_and_wait(args, global, places, &socket, &listener).await;
    let _ = fs::remove_file(&socket);
    result
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
    let ended: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> =
        if Path::new("/run/systemd/system").is_dir() {
            systemd(&executable, &words, places)?;
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
                Some(("failed", why)) => Err(Failure::new(Kind::Start, format!("the cluster did not start: {why}"))
                    .hint(format!("the daemon's log has more: minik logs -p {}", places.profile))),
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

/// Starts the daemon as a unit with a cgroup tree of its own. Stopping the unit leaves containers alone.
fn systemd(executable: &Path, words: &[String], places: &Places) -> Result<(), Failure> {
    let unit = format!("--unit={}", places.unit());
    let output = format!("--property=StandardError=append:{}", places.log().display());
    let description = format!("--description=minik cluster {}", places.profile);
    let executable = executable.display().to_string();
    let mut args = vec![
        unit.as_str(),
        description.as_str(),
        "--quiet",
        "--collect",
        "--property=Delegate=yes",
        "--property=KillMode=process",
        "--property=LimitNOFILE=1048576",
        "--property=TasksMax=infinity",
        output.as_str(),
        "--",
        executable.as_str(),
    ];
    args.extend(words.iter().map(String::as_str));
    program::run("systemd-run", &args, &[])
        .map(drop)
        .map_err(|error| Failure::new(Kind::Start, format!("cannot start unit {}: {error}", places.unit())))
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
