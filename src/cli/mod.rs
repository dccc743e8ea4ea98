//! The command line: one file per verb, output, exit codes and hints.

pub mod delete;
pub mod image;
pub mod kubectl;
pub mod logs;
pub mod start;
pub mod status;
pub mod stop;
pub mod version;

pub mod failure;
pub mod host;
pub mod kubeconfig;
pub mod output;
mod ranges;
mod settle;
mod target;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use clap::{Parser, Subcommand};

use self::failure::{Failure, Kind};
use crate::daemon;
use crate::daemon::cluster::Cluster;
use crate::daemon::places::{DEFAULT_DATA_DIR, DEFAULT_PROFILE, Places};
use crate::daemon::settings;
use crate::runtime::supervisor;

/// A single-node Kubernetes in one program.
#[derive(Debug, Parser)]
#[command(name = "minik", version, about, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags of every verb.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// The cluster that is meant
    #[arg(short, long, global = true, env = "MINIK_PROFILE", default_value = DEFAULT_PROFILE)]
    pub profile: String,
    /// Where clusters and images are kept
    #[arg(long, global = true, env = "MINIK_DATA_DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
}

impl Global {
    /// Where the cluster's files are.
    pub fn places(&self) -> Result<Places, Failure> {
        settings::check_profile(&self.profile).map_err(|error| Failure::new(Kind::Usage, error))?;
        Places::find(&self.profile, &self.data_dir).map_err(|error| {
            Failure::new(Kind::Usage, format!("--data-dir {}: {error}", self.data_dir.display()))
        })
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a cluster, making it when it is new
    Start(Box<start::Args>),
    /// Stop a cluster: all pods and the daemon end, everything is kept
    Stop,
    /// Delete a cluster and all that it made
    Delete(delete::Args),
    /// Show how a cluster is
    Status(status::Args),
    /// Show the daemon's log
    Logs(logs::Args),
    /// Run kubectl on a cluster, fetched when the machine has none
    Kubectl(kubectl::Args),
    /// Work with images
    #[command(subcommand)]
    Image(image::Verb),
    /// Show versions
    Version(version::Args),
    /// Run the daemon in the foreground (started by `minik start`)
    #[command(hide = true)]
    Daemon {
        /// Where to tell that the cluster is ready
        #[arg(long)]
        notify: Option<PathBuf>,
    },
}

/// `90s`, `5m`, `1h30m` or a bare number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let wrong = || format!("{text:?} is not a time such as 90s or 5m");
    let mut total = 0;
    let mut digits = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' => {
                digits.push(c);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(wrong()),
        };
        total += digits.parse::<u64>().map_err(|_| wrong())?.saturating_mul(unit);
        digits.clear();
    }
    if digits.is_empty() && !text.is_empty() { Ok(Duration::from_secs(total)) } else { Err(wrong()) }
}

/// Refuses when the process is not root.
fn require_root(what: &str) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new(Kind::Permission, format!("only root may {what}")).hint(with_sudo()))
}

/// This command, as root.
fn with_sudo() -> String {
    let command: Vec<String> = std::env::args().collect();
    format!("sudo {}", command.join(" "))
}

/// Runs the verb on the command line and says how it went.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|verb| verb == supervisor::SUBCOMMAND) {
        // Before anything that starts a thread: the supervisor has one only.
        return supervisor::main(&args[2..]);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and versions are asked for, and no failures.
            let code = if error.use_stderr() { Kind::Usage as u8 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(code) => {
            // Threads that wait for a detached daemon need not be waited for.
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(failure) => {
            output::note(failure.to_string());
            runtime.shutdown_background();
            ExitCode::from(failure.kind as u8)
        }
    }
}

async fn run(cli: Cli) -> Result<u8, Failure> {
    let global = &cli.global;
    match cli.verb {
        Verb::Start(args) => start::run(*args, global).await?,
        Verb::Stop => stop::run(global).await?,
        Verb::Delete(args) => delete::run(&args, global).await?,
        Verb::Status(args) => return status::run(&args, global).await,
        Verb::Logs(args) => logs::run(&args, global).await?,
        Verb::Kubectl(args) => return kubectl::run(&args, global).await,
        Verb::Image(verb) => image::run(verb, global).await?,
        Verb::Version(args) => version::run(&args),
        Verb::Daemon { notify } => run_daemon(global, notify).await?,
    }
    Ok(0)
}

async fn run_daemon(global: &Global, notify: Option<PathBuf>) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    require_root("run the daemon")?;
    let places = global.places()?;
    let filter = EnvFilter::try_from_env("MINIK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = Mutex::new(daemon::log::Log::new(places.log()));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log).with_ansi(false).init();
    let cluster = Cluster::read(&places)
        .map_err(Failure::general)?
        .ok_or_else(|| Failure::new(Kind::NoCluster, format!("there is no cluster {:?}", places.profile)))?;
    daemon::run(places, cluster, notify).await.map_err(|error| Failure::new(Kind::Start, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let cli =
            Cli::try_parse_from(["minik", "start", "-p", "x", "--wait=false", "--timeout", "2m"]).unwrap();
        assert_eq!(cli.global.profile, "x");
    }

    #[test]
    fn times_have_units() {
        for (text, seconds) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("1h2m3s", Some(3723)),
            ("", None),
            ("5x", None),
            ("s", None),
            ("5m3", None),
        ] {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), seconds, "{text}");
        }
    }
}
