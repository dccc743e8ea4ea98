//! `minik names`: a command that knows the cluster's names on a host whose resolver does not.
//!
//! The command gets a mount namespace of its own, where another file lies on `/etc/resolv.conf`. The host's resolver stays as it
//! is, and nothing of it is left when the command has ended.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};

use super::failure::{Failure, Kind};
use super::{Global, target};
use crate::daemon::cluster::{self, Cluster};
use crate::daemon::configs::Ranges;
use crate::daemon::host_names::RESOLV_CONF;
use crate::daemon::{control, host_names};
use crate::sys::mount::{self, Spread};
use crate::sys::{namespace, program};

/// Where the C library finds a program that remembers the host's answers; where it does not, it asks for itself.
const CACHE: &str = "/run/nscd/socket";

/// Flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The namespace whose services are known by their name alone
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// What to run; a shell when nothing is said
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the verb: becomes the command.
pub async fn run(args: &Args, global: &Global) -> Result<u8, Failure> {
    super::require_root("give a command names of its own")?;
    let places = global.places()?;
    target::check_data_dir(&places)?;
    let cluster = Cluster::read(&places).map_err(Failure::general)?.ok_or_else(|| target::none(&places))?;
    if control::status(&places.control()).await.map_err(Failure::general)?.is_none() {
        return Err(Failure::general(format!("the cluster {:?} does not run", places.profile))
            .hint(format!("start it: minik start -p {}", places.profile)));
    }
    let ranges = Ranges::of(&cluster).map_err(Failure::general)?;
    // A host without such a file has nothing to search in either.
    let host = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let text = host_names::resolv_conf(&args.namespace, ranges.dns(), &host);
    let file = places.run().join(format!("resolv.conf-{}", std::process::id()));
    cluster::write_file(&file, text.as_bytes(), 0o644).map_err(Failure::general)?;
    let covered = cover(&file);
    // What is mounted needs no name.
    let removed = fs::remove_file(&file);
    covered
        .map_err(|error| Failure::general(format!("cannot put another file on {RESOLV_CONF}: {error}")))?;
    removed.map_err(|error| Failure::general(format!("cannot remove {}: {error}", file.display())))?;
    let (program, rest) = match args.command.split_first() {
        Some((program, rest)) => (PathBuf::from(program), rest),
        None => (std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into()).into(), &[][..]),
    };
    let error = program::on_behalf(&program).args(rest).exec();
    Err(Failure::new(Kind::Usage, format!("cannot run {}: {error}", program.display())))
}

/// Gives this thread, and what it becomes, a mount namespace where the file lies on what names are looked up by.
fn cover(file: &Path) -> io::Result<()> {
    namespace::unshare(CloneFlags::CLONE_NEWNS)?;
    // What the host mounts and lets go of meanwhile comes and goes here too: nothing is held for it.
    mount::set_spread_of_all(Spread::Slave)?;
    for place in [RESOLV_CONF, CACHE] {
        // Often a link to where something keeps it.
        let place = match fs::canonicalize(place) {
            Ok(place) => place,
            Err(error) if place == CACHE && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let at = rustix::fs::open(&place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        mount::attach(mount::read_only_file(file)?.as_fd(), at.as_fd())?;
    }
    Ok(())
}
