//! Where systemd runs: the daemon as a service that is started again when it dies, the containers in a scope beside it,
//! with a delegated cgroup tree that outlives the daemon.
//!
//! Two units, because systemd can start no process in a group whose children have controllers, as the containers' do:
//! a service that held both could not be started again while containers run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cluster::write_private;
use super::places::Places;
use crate::runtime::cgroups::Layout;
use crate::sys::program::{self, Helper};

/// Where units live until the next boot; there exactly when systemd is the first process (`sd_booted(3)`).
const DIRECTORY: &str = "/run/systemd/system";
/// What the daemon gets of the environment of who starts it: how it reaches registries, and what it logs.
const ENVIRONMENT: [&str; 11] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "MINIK_LOG",
];

/// How long systemd may take for what it is asked: longer than it gives a daemon to stop (`TimeoutStopSec`).
const JOB: Duration = Duration::from_secs(120);

/// Whether units can be started here.
pub fn available() -> bool {
    Path::new(DIRECTORY).is_dir()
}

fn path(places: &Places) -> PathBuf {
    Path::new(DIRECTORY).join(places.unit())
}

fn systemctl(args: &[&str]) -> Result<(), program::Error> {
    program::run_within(JOB, "systemctl", args, &[]).map(drop)
}

/// Starts the daemon by this command; one that systemd is about to start again is stopped before.
pub fn start(places: &Places, executable: &Path, words: &[String]) -> Result<(), String> {
    let environment: Vec<(&str, String)> =
        ENVIRONMENT.iter().filter_map(|name| Some((*name, std::env::var(name).ok()?))).collect();
    // Not in the unit, which everybody may read: proxies have passwords.
    write_private(&environment_file(places), environment_text(&environment).as_bytes())
        .map_err(|error| error.to_string())?;
    let text = text(places, executable, words);
    let (unit, path) = (places.unit(), path(places));
    let before = fs::read_to_string(&path).ok();
    let told = |error: program::Error| error.to_string();
    if before.is_some() {
        stop(places).map_err(told)?;
    }
    if before.as_ref() != Some(&text) {
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    // A new file is found by itself (since systemd 246), and reading all units again takes longer than a start.
    let is_new = before.is_none();
    if is_new && systemctl(&["start", &unit]).is_ok() {
        return Ok(());
    }
    systemctl(&["daemon-reload"]).and_then(|()| systemctl(&["start", &unit])).map_err(told)
}

/// Ends the daemon, and keeps systemd from starting it again; fine when there is none.
pub fn stop(places: &Places) -> Result<(), program::Error> {
    if !path(places).exists() {
        return Ok(());
    }
    systemctl(&["stop", &places.unit()])?;
    // Forgets how often it failed; there may be nothing to forget.
    let _ = systemctl(&["reset-failed", &places.unit()]);
    Ok(())
}

/// Removes the unit of a daemon that has ended; fine when there is none.
pub fn remove(places: &Places) -> Result<(), String> {
    match fs::remove_file(path(places)) {
        Ok(()) => systemctl(&["daemon-reload"]).map_err(|error| error.to_string()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("{}: {error}", path(places).display())),
    }
}

/// The containers' scope.
fn scope(places: &Places) -> String {
    format!("minik-{}-pods.scope", places.profile)
}

/// The group of the containers' scope, below the root of the one hierarchy; `None` where systemd has none to give.
pub fn control_group(places: &Places) -> Option<PathBuf> {
    let unified = available() && Layout::detect().is_ok_and(|layout| layout.is_unified());
    unified.then(|| Path::new("system.slice").join(scope(places)))
}

/// Makes the scope, which has nothing in it. It stays until the answer is dropped, and for as long as anything is in it;
/// its own root must hold no process, so whoever makes it moves the helper's away.
pub fn make_scope(places: &Places) -> Result<Helper, program::Error> {
    let (unit, before) =
        (format!("--unit={}", scope(places)), format!("--property=Before={}", places.unit()));
    // One that ran empty a moment ago may still be there.
    let _ = systemctl(&["stop", &scope(places)]);
    let description = format!("--description=containers of minik cluster {}", places.profile);
    let args = [
        "--scope",
        "--quiet",
        "--collect",
        "--slice=system.slice",
        &unit,
        &description,
        // When the machine goes down, the daemon ends its containers before systemd does.
        &before,
        "--property=Delegate=yes",
        "--property=TasksMax=infinity",
        "--property=TimeoutStopSec=10",
        "--",
        "sh",
        "-c",
        "echo; read line",
    ];
    Helper::start("systemd-run", &args)
}

/// Whether the machine is on its way down.
pub fn machine_is_stopping() -> bool {
    let state = available().then(|| program::output("systemctl", &["is-system-running"], &[]));
    state.is_some_and(|state| state.is_ok_and(|output| output.stdout.starts_with(b"stopping")))
}

fn environment_file(places: &Places) -> PathBuf {
    places.run().join("environment")
}

/// An environment file (`systemd.exec(5)`): in double quotes, four characters mean something.
fn environment_text(environment: &[(&str, String)]) -> String {
    let escape = |value: &str| {
        let special = |c| matches!(c, '"' | '\\' | '`' | '$');
        value.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect::<String>()
    };
    environment.iter().map(|(name, value)| format!("{name}=\"{}\"\n", escape(value))).collect()
}

/// The unit's file (`systemd.service(5)`).
fn text(places: &Places, executable: &Path, words: &[String]) -> String {
    let command: Vec<String> = std::iter::once(executable.display().to_string())
        .chain(words.iter().cloned())
        .map(|word| quoted(&word))
        .collect();
    format!(
        "[Unit]\n\
         Description=minik cluster {profile}\n\
         After=network.target network-online.target\n\
         StartLimitIntervalSec=30\n\
         StartLimitBurst=5\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={command}\n\
         EnvironmentFile=-{environment}\n\
         Restart=on-failure\n\
         RestartSec=200ms\n\
         KillMode=process\n\
         TimeoutStopSec=60\n\
         LimitNOFILE=1048576\n\
         TasksMax=infinity\n\
         StandardError=append:{log}\n",
        profile = places.profile,
        command = command.join(" "),
        environment = environment_file(places).display(),
        log = places.log().display().to_string().replace('%', "%%"),
    )
}

/// A word of a command as unit files have it: specifiers, variables and quotes mean nothing (`systemd.syntax(7)`).
fn quoted(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_leaves_containers_alone_and_words_as_they_are() {
        let places = Places { data_dir: "/data %1".into(), profile: "demo".into() };
        let words = ["daemon".to_owned(), "--profile".to_owned(), "demo".to_owned()];
        let text = text(&places, Path::new("/opt/my $minik"), &words);
        assert!(
            text.contains("\nExecStart=\"/opt/my $$minik\" \"daemon\" \"--profile\" \"demo\"\n"),
            "{text}"
        );
        assert!(text.contains("\nEnvironmentFile=-/run/minik/demo/environment\n"), "{text}");
        let environment = environment_text(&[("HTTPS_PROXY", "http://u:p%40s$\"@proxy:3128".to_owned())]);
        assert_eq!(environment, "HTTPS_PROXY=\"http://u:p%40s\\$\\\"@proxy:3128\"\n");
        assert!(text.contains("\nStandardError=append:/data %%1/"), "{text}");
        // After the host has its addresses, where anything waits for them; nothing is made to.
        let after = "After=network.target network-online.target";
        for line in ["KillMode=process", "Restart=on-failure", after] {
            assert!(text.lines().any(|l| l == line), "{text}");
        }
    }
}
