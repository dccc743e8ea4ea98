//! `minik start`: checks the host, starts the daemon, waits until the cluster is ready.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::failure::{Failure, Kind};
use super::kubeconfig::{self, Entries, Person};
use super::settle::{self, Host, settle};
use super::{Global, host, output, stop, target};
use crate::daemon::cluster::Cluster;
use crate::daemon::configs::Ranges;
use crate::daemon::control::{self, State};
use crate::daemon::ipv6::ipv6;
use crate::daemon::node_settings::NodeSettings;
use crate::daemon::places::Places;
use crate::daemon::settings::{self, DualStack, Settings};
use crate::daemon::{cleanup, unit};
use crate::network::{self, Ipv6};
use crate::sys::program;

/// Lines of the log shown when a start fails.
const LOG_TAIL: usize = 5;
/// How long a daemon that has begun may take until it can be asked.
const REACHABLE: Duration = Duration::from_secs(10);
/// Between two looks for it.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Flags of `minik start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Ask this mirror first, as HOST=URL (repeatable); "" takes away those of an existing cluster
    #[arg(long, value_name = "HOST=URL")]
    registry_mirror: Vec<String>,
    /// Accept any certificate of this registry, or none (repeatable); "" takes away those of an existing cluster
    #[arg(long, value_name = "HOST")]
    insecure_registry: Vec<String>,
    /// Port of the API server
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    apiserver_port: Option<u16>,
    /// Give pods and services addresses of IPv6 beside those of IPv4: auto, if the host has one that others can reach; true; false
    #[arg(long, value_name = "WHEN", num_args = 0..=1, default_missing_value = "true")]
    dual_stack: Option<DualStack>,
    /// Where pods get their addresses, as V4 or V4,V6; by default ranges that the host does not use
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Where services get their addresses, likewise
    #[arg(long, value_name = "CIDR")]
    service_cidr: Option<String>,
    /// The node's name; by default the host's
    #[arg(long)]
    node_name: Option<String>,
    /// Record requests as this Policy of audit.k8s.io/v1 wants it; "" stops recording
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<String>,
    /// Record them in this file, a JSON line each; "" stops recording
    #[arg(long, value_name = "FILE")]
    audit_log_file: Option<String>,
    /// Put that file aside before it would hold more megabytes; 0 is never, 100 the default
    #[arg(long, value_name = "MEGABYTES")]
    audit_log_maxsize: Option<u32>,
    /// Keep so many of the files put aside; 0 is all, 100 the default
    #[arg(long, value_name = "FILES")]
    audit_log_maxbackup: Option<u32>,
    /// Keep them for so many days; 0 is for ever, 366 the default
    #[arg(long, value_name = "DAYS")]
    audit_log_maxage: Option<u32>,
    /// Evict pods when less is left than this, as SIGNAL<AMOUNT,... (memory.available<100Mi,nodefs.available<10%); "" is never
    #[arg(long, value_name = "THRESHOLDS")]
    eviction_hard: Option<String>,
    /// Take so many pods at once; 110 by default
    #[arg(long, value_name = "NUMBER")]
    max_pods: Option<u32>,
    /// Carry out ingresses of the class nginx, which is the default class then; false leaves that to others
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    ingress: Option<bool>,
    /// Port of the ingress for HTTP, opened at the first ingress; 80 by default
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ingress_http_port: Option<u16>,
    /// Port of the ingress for HTTPS; 443 by default
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    ingress_https_port: Option<u16>,
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
    let asked = asked(&args)?;
    let machine = Settings::of_machine().map_err(usage)?;
    let _lock = target::lock(&places, "start", stop::LOCK_LIMIT.max(args.timeout)).await?;
    match reach(&places).await {
        Ok(None) => {}
        Ok(Some(state)) => return be_content(&args, &asked, &places, &person, &state).await,
        Err(error) => {
            return Err(Failure::new(
                Kind::Start,
                format!("cluster {:?} cannot be used: {error}", places.profile),
            )
            .hint(format!("end it: minik stop -p {}", places.profile)));
        }
    }
    if let Some(pid) = cleanup::daemons(&places).first() {
        return Err(Failure::new(
            Kind::Start,
            format!("the daemon of cluster {:?} runs (pid {pid}), but cannot be reached", places.profile),
        )
        .hint(format!("end it: minik stop -p {}", places.profile)));
    }
    let adopts = cleanup::something_runs(&places);
    refuse(host::check(&places).await)?;
    let cluster = decide(asked, machine, &places, &person).await?;
    let ranges = Ranges::of(&cluster).map_err(Failure::general)?;
    refuse(host::check_dns_port(ranges.gateway()).into_iter().collect())?;
    if let Err(failure) = launch(&args, &places).await {
        // Pods that ran before wait for the next start, and what merely takes long may still become ready.
        if !adopts && failure.kind != Kind::Timeout {
            let failures = cleanup::end_without_daemon(&places, Duration::ZERO).await;
            failures.iter().for_each(|failure| output::note(format!("minik: not undone: {failure}")));
        }
        return Err(failure);
    }
    let path = write_kubeconfig(&places, &person, cluster.apiserver_port, true).await?;
    output::note(format!(
        "minik: cluster {:?} is {} after {:.2} s; kubectl uses it by {}",
        places.profile,
        if args.wait { "ready" } else { "starting" },
        began.elapsed().as_secs_f64(),
        path.display()
    ));
    Ok(())
}

/// What is to be done when the cluster runs: nothing, but to see that it is ready and that kubectl finds it.
async fn be_content(
    args: &Args,
    asked: &Settings,
    places: &Places,
    person: &Person,
    state: &State,
) -> Result<(), Failure> {
    if let Some(cluster) = Cluster::read(places).map_err(Failure::general)? {
        settle::refuse_changes(&places.profile, asked, &cluster)?;
        let differing = settle::differing(asked, &cluster);
        if !differing.is_empty() {
            output::note(format!(
                "minik: the running cluster has other values for {}; they change when it is stopped and started",
                differing.join(", ")
            ));
        }
    }
    if args.wait && !state.ready {
        let ready =
            control::ready(&places.control(), args.timeout).await.map_err(|error| match error.kind() {
                io::ErrorKind::TimedOut => not_ready(args, places),
                _ => Failure::new(Kind::Start, error),
            })?;
        if ready.is_none() {
            return Err(died(places));
        }
    }
    write_kubeconfig(places, person, state.apiserver_port, false).await?;
    output::note(format!(
        "minik: cluster {:?} is running already (pid {}); nothing to do",
        places.profile, state.pid
    ));
    Ok(())
}

fn refuse(problems: Vec<host::Problem>) -> Result<(), Failure> {
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = problems.iter().map(|p| format!("- {}\n  {}", p.what, p.remedy)).collect();
    Err(Failure::new(Kind::Host, format!("this host cannot run the cluster:\n{}", lines.join("\n"))))
}

fn usage(error: settings::Error) -> Failure {
    Failure::new(Kind::Usage, error)
}

/// What the flags and the file that they name say.
fn asked(args: &Args) -> Result<Settings, Failure> {
    let file = match &args.config {
        Some(path) => Settings::read(path).map_err(usage)?,
        None => Settings::default(),
    };
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for text in args.registry_mirror.iter().filter(|text| !text.is_empty()) {
        let (host, url) = text
            .split_once('=')
            .filter(|(host, url)| !host.is_empty() && !url.is_empty())
            .ok_or_else(|| {
                Failure::new(Kind::Usage, format!("--registry-mirror {text:?} must be HOST=URL"))
                    .hint("for example --registry-mirror docker.io=https://mirror.example")
            })?;
        mirrors.entry(host.to_owned()).or_default().push(url.to_owned());
    }
    let insecure = args.insecure_registry.iter().filter(|registry| !registry.is_empty()).cloned();
    let flags = Settings {
        apiserver_port: args.apiserver_port,
        dual_stack: args.dual_stack,
        pod_cidr: args.pod_cidr.clone(),
        service_cidr: args.service_cidr.clone(),
        node_name: args.node_name.clone(),
        registry_mirrors: (!args.registry_mirror.is_empty()).then_some(mirrors),
        insecure_registries: (!args.insecure_registry.is_empty()).then(|| insecure.collect()),
        share_process_namespace: None,
        external_ips: None,
        kubelet: NodeSettings::of_flags(args.eviction_hard.as_deref(), args.max_pods).map_err(usage)?,
        audit_policy_file: absolute(args.audit_policy_file.as_deref())?,
        audit_log_file: absolute(args.audit_log_file.as_deref())?,
        audit_log_maxsize: args.audit_log_maxsize,
        audit_log_maxbackup: args.audit_log_maxbackup,
        audit_log_maxage: args.audit_log_maxage,
        ingress: args.ingress,
        ingress_http_port: args.ingress_http_port,
        ingress_https_port: args.ingress_https_port,
    };
    let asked = flags.over(file);
    if asked.apiserver_port == Some(0) {
        return Err(Failure::new(Kind::Usage, "apiserverPort must be 1 to 65535"));
    }
    asked.kubelet.eviction().map_err(usage)?;
    Ok(asked)
}

/// A path as the daemon needs it, which has another directory; an empty one stays empty.
fn absolute(path: Option<&str>) -> Result<Option<PathBuf>, Failure> {
    match path {
        None => Ok(None),
        Some("") => Ok(Some(PathBuf::new())),
        Some(path) => std::path::absolute(path).map(Some).map_err(Failure::general),
    }
}

/// Decides the cluster's settings and keeps them, one command at a time on the whole machine: two that decided at once
/// would both find the same ranges and ports free.
async fn decide(
    asked: Settings,
    machine: Settings,
    places: &Places,
    person: &Person,
) -> Result<Cluster, Failure> {
    let _lock = target::lock_machine().await?;
    let before = Cluster::read(places).map_err(Failure::general)?;
    let surroundings = look_around(places, person, before.as_ref()).await?;
    let cluster = settle(&places.profile, asked, machine, before.clone(), &surroundings, &host::is_free)?;
    if before.as_ref() != Some(&cluster) {
        cluster.write(places).map_err(Failure::general)?;
    }
    if let (true, Ipv6::Absent(why)) = (cluster.is_dual_stack(), surroundings.ipv6) {
        output::note(format!(
            "minik: this host has no IPv6 now ({why}): pods have addresses of IPv4 alone until a start with it"
        ));
    }
    Ok(cluster)
}

/// What this host leaves open for the cluster.
async fn look_around(places: &Places, person: &Person, before: Option<&Cluster>) -> Result<Host, Failure> {
    let name = nix::unistd::gethostname().map_err(Failure::general)?;
    let mut others = Cluster::all(&places.data_dir);
    others.retain(|(profile, _)| *profile != places.profile);
    let directories = [places.data_dir.as_path(), Places::all_runs()];
    let names = directories.into_iter().flat_map(Places::profiles_in);
    let ipv6 = match before {
        Some(before) if !before.is_dual_stack() => Ipv6::Absent("this cluster is without"),
        _ => ipv6().await,
    };
    let occupied6 = match ipv6 {
        Ipv6::Absent(_) => Vec::new(),
        Ipv6::Local | Ipv6::Global => network::occupied_ranges6().await.map_err(Failure::general)?,
    };
    Ok(Host {
        name: name.to_string_lossy().into_owned(),
        occupied: network::occupied_ranges().await.map_err(Failure::general)?,
        occupied6,
        ipv6,
        others,
        names: names.filter(|name| *name != places.profile).collect(),
        docker_config: person.docker_config(),
    })
}

/// The state of the daemon that runs, which may have begun a moment ago; `None` when none can be reached.
async fn reach(places: &Places) -> io::Result<Option<State>> {
    let until = Instant::now() + REACHABLE;
    loop {
        let state = control::status(&places.control()).await?;
        if state.is_some() || Instant::now() > until || cleanup::daemons(places).is_empty() {
            return Ok(state);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Starts the daemon and waits for its word.
async fn launch(args: &Args, places: &Places) -> Result<(), Failure> {
    let socket = places.run().join("start.sock");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)
        .map_err(|error| Failure::general(format!("cannot listen on {}: {error}", socket.display())))?;
    let result = launch_and_wait(args, places, &socket, &listener).await;
    let _ = fs::remove_file(&socket);
    result
}

async fn launch_and_wait(
    args: &Args,
    places: &Places,
    socket: &Path,
    listener: &UnixListener,
) -> Result<(), Failure> {
    let ended = launch_daemon(places, socket)?;
    let (told, mut reachable) = tokio::sync::watch::channel(false);
    let answer = async {
        let (stream, _) = listener.accept().await?;
        follow(stream, args.wait, &told).await
    };
    let late = async {
        tokio::time::sleep(args.timeout).await;
        // The next command is to meet a daemon that answers, or none.
        let _ = tokio::time::timeout(REACHABLE, reachable.wait_for(|reachable| *reachable)).await;
    };
    tokio::select! {
        answer = answer => match answer.map_err(Failure::general)? {
            Word::Well => Ok(()),
            Word::Failed(why) => {
                // There is no point in trying the same again.
                let _ = unit::stop(places);
                Err(Failure::new(Kind::Start, format!("the cluster did not start: {why}")).hint(
                    format!("the daemon's log has more: minik logs -p {}", places.profile),
                ))
            }
            Word::None => Err(died(places)),
        },
        () = ended => Err(died(places)),
        () = late => Err(not_ready(args, places)),
    }
}

/// Starts the daemon; the answer resolves when it has ended, as far as that is known.
fn launch_daemon(
    places: &Places,
    socket: &Path,
) -> Result<Pin<Box<dyn Future<Output = ()> + Send>>, Failure> {
    let executable = std::env::current_exe().map_err(Failure::general)?;
    let mut words: Vec<String> = vec!["daemon".into(), "--profile".into(), places.profile.clone()];
    words.extend(["--data-dir".into(), places.data_dir.display().to_string()]);
    words.extend(["--notify".into(), socket.display().to_string()]);
    let log = open_log(&places.log()).map_err(Failure::general)?;
    if unit::available() {
        unit::start(places, &executable, &words).map_err(|error| {
            Failure::new(Kind::Start, format!("cannot start unit {}: {error}", places.unit()))
        })?;
        // The service manager says nothing by itself; the time limit has the last word.
        return Ok(Box::pin(std::future::pending()));
    }
    let mut child = program::spawn_detached(&executable, &words, log)
        .map_err(|error| Failure::new(Kind::Start, format!("cannot start the daemon: {error}")))?;
    Ok(Box::pin(async move {
        // The thread ends with the daemon, or with this process.
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
    }))
}

/// The daemon's last word on its start.
enum Word {
    /// It is as far as was waited for.
    Well,
    /// It gave up.
    Failed(String),
    /// It fell silent.
    None,
}

/// Listens until the cluster is ready or, when that is not waited for, can be reached.
/// Tells at once when it can be reached.
async fn follow(
    stream: UnixStream,
    wait: bool,
    reachable: &tokio::sync::watch::Sender<bool>,
) -> io::Result<Word> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        if line == "credentials" {
            reachable.send_replace(true);
        }
        match line.split_once(' ') {
            None if line == "ready" || (line == "credentials" && !wait) => return Ok(Word::Well),
            Some(("failed", why)) => return Ok(Word::Failed(why.to_owned())),
            _ => {}
        }
    }
    Ok(Word::None)
}

fn not_ready(args: &Args, places: &Places) -> Failure {
    Failure::new(
        Kind::Timeout,
        format!("cluster {:?} is not ready after {} s", places.profile, args.timeout.as_secs()),
    )
    .hint(format!("it may still become so: minik status -p {0}; its log: minik logs -p {0}", places.profile))
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
    File::options().append(true).create(true).mode(0o600).open(path)
}

async fn write_kubeconfig(
    places: &Places,
    person: &Person,
    port: u16,
    switch: bool,
) -> Result<PathBuf, Failure> {
    let fail = |what: String| {
        Failure::general(format!("the cluster runs, but the kubeconfig was not written: {what}"))
    };
    let entries = Entries::read(places, port).map_err(fail)?;
    kubeconfig::add(person, places, &entries, switch).await.map_err(|error| fail(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn the_daemon_is_listened_to_as_far_as_asked() {
        for (said, wait, is) in [
            ("credentials\nready\n", true, Some(None)),
            ("credentials\n", false, Some(None)),
            ("credentials\n", true, None),
            ("credentials\nfailed no room\n", true, Some(Some("no room"))),
            ("", false, None),
        ] {
            let (mut daemon, own) = UnixStream::pair().unwrap();
            daemon.write_all(said.as_bytes()).await.unwrap();
            drop(daemon);
            let (reachable, told) = tokio::sync::watch::channel(false);
            let word = match follow(own, wait, &reachable).await.unwrap() {
                Word::Well => Some(None),
                Word::Failed(why) => Some(Some(why)),
                Word::None => None,
            };
            assert_eq!(word, is.map(|why| why.map(str::to_owned)), "{said:?}");
            assert_eq!(*told.borrow(), said.starts_with("credentials"), "{said:?}");
        }
    }
}
