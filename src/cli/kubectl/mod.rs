//! `minik kubectl`: stock kubectl, led to this cluster, and fetched when the machine has none.

mod fetch;
mod legacy;

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::legacy::Run;
use super::failure::{Failure, Kind};
use super::kubeconfig::Person;
use super::{Global, output};
use crate::sys::program;

/// The name of the program that is looked for.
const PROGRAM: &str = "kubectl";

/// Flags of the verb.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Where kubectl is fetched from when this machine has none
    #[arg(long, env = "MINIK_BINARY_MIRROR", default_value = fetch::OFFICIAL)]
    binary_mirror: String,
    /// What kubectl is to do, with its flags
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "KUBECTL ARGUMENTS")]
    arguments: Vec<String>,
}

/// Runs the verb: becomes kubectl, or answers the exit code of the one that it ran.
pub async fn run(args: &Args, global: &Global) -> Result<u8, Failure> {
    let places = global.places()?;
    let program = match on_path() {
        Some(program) => program,
        None => fetch::fetched(&args.binary_mirror, &fetch::cache(&places)?).await?,
    };
    let mut command = led(&program, &places.profile);
    let legacy = legacy::read(&args.arguments).map_err(|wrong| Failure::new(Kind::Usage, wrong))?;
    let Some(run) = legacy else {
        let error = command.args(&args.arguments).exec();
        return Err(failed(&program, &error));
    };
    output::note(run.warning());
    create(command, &run).map_err(|error| failed(&program, &error))
}

/// The program with the cluster's context, and with the kubeconfig of the person that minik wrote it to.
fn led(kubectl: &Path, profile: &str) -> Command {
    let mut command = program::on_behalf(kubectl);
    command.arg(format!("--context={profile}"));
    if std::env::var_os("KUBECONFIG").is_none() {
        command.env("KUBECONFIG", Person::invoking().kubeconfig());
    }
    command
}

/// Has kubectl create what an old `run` made.
fn create(mut command: Command, run: &Run) -> std::io::Result<u8> {
    let mut child = command.args(["create", "-f", "-"]).args(&run.rest).stdin(Stdio::piped()).spawn()?;
    // One that ends before it has read all says itself why.
    if let Some(mut input) = child.stdin.take() {
        let _ = input.write_all(run.manifest.to_string().as_bytes());
    }
    // Ended by a signal, it has no code of its own.
    let code = child.wait()?.code();
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(Kind::General as u8))
}

fn failed(program: &Path, error: &std::io::Error) -> Failure {
    Failure::general(format!("cannot run {}: {error}", program.display()))
}

/// The kubectl that a shell would find.
fn on_path() -> Option<PathBuf> {
    let path: OsString = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(PROGRAM))
        .find(|candidate| {
            rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file()
        })
}
