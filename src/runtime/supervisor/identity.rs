//! Who a container's process is and what it may do: user, capabilities, filter, environment, program.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use caps::{Capability, CapsHashSet};
use nix::unistd::{Gid, Uid};

use super::child::{During, Failed, Step, describe};
use crate::runtime::{Process, Seccomp, Security};
use crate::sys::{capability, seccomp};

/// The `PATH` of an image that sets none (Docker's).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A larger `/etc/passwd` is not searched.
const LARGEST_PASSWD: u64 = 1 << 20;

/// Gives up everything that the process shall not have, but for what [`confine`] still needs. The order matters: the
/// filter needs either `no_new_privs` or a capability that is about to go, and the bounding set goes before the user
/// changes.
pub fn assume(process: &Process, security: &Security, filters: &Filters<'_>) -> Step<()> {
    let mut keep = kept(security)?;
    if let Some(profile) = &security.app_armor {
        change_on_exec(profile).during(format_args!("set AppArmor profile {profile:?}"))?;
    }
    if let Some(filter) = filters.own {
        seccomp::install(filter).during("install seccomp filter")?;
    }
    capability::limit_bounding(&keep).during("limit capabilities")?;
    // The primary group is a supplementary one too: files that deny the group must deny it (CVE-2022-36109).
    let mut gids = vec![process.gid];
    gids.extend(process.groups.iter().filter(|gid| **gid != process.gid));
    let groups: Vec<Gid> = gids.into_iter().map(Gid::from_raw).collect();
    nix::sys::prctl::set_keepcaps(true).during("keep capabilities")?;
    nix::unistd::setgroups(&groups).during("set supplementary groups")?;
    nix::unistd::setgid(Gid::from_raw(process.gid)).during(format_args!("set group {}", process.gid))?;
    nix::unistd::setuid(Uid::from_raw(process.uid)).during(format_args!("set user {}", process.uid))?;
    nix::sys::prctl::set_keepcaps(false).during("keep capabilities")?;
    if filters.given.is_some() && !security.no_new_privileges {
        keep.insert(Capability::CAP_SYS_ADMIN);
    }
    capability::limit(&keep).during("set capabilities")?;
    if security.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().during("set no_new_privs")?;
    }
    Ok(())
}

/// Has the program that comes next be confined by a profile.
fn change_on_exec(profile: &str) -> std::io::Result<()> {
    let ask = |file: &str| {
        fs::OpenOptions::new().write(true).open(file)?.write_all(format!("exec {profile}").as_bytes())
    };
    match ask("/proc/thread-self/attr/apparmor/exec") {
        // Kernels that know one security module at a time have no directory of it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => ask("/proc/thread-self/attr/exec"),
        done => done,
    }
}

/// Installs a filter that somebody else wrote, as the last step: it need not allow what leads there.
pub fn confine(security: &Security, filters: &Filters<'_>) -> Step<()> {
    let Some(filter) = filters.given else { return Ok(()) };
    if security.no_new_privileges {
        return seccomp::install(filter).during("install seccomp filter");
    }
    let keep = kept(security)?;
    seccomp::install(filter).during("install seccomp filter")?;
    capability::limit(&keep).during("set capabilities")
}

fn kept(security: &Security) -> Step<CapsHashSet> {
    match security.privileged {
        true => capability::held().during("read capabilities"),
        false => capability::parse(&security.capabilities)
            .map_err(|name| Failed(format!("unknown capability {name:?}"))),
    }
}

/// The system-call filters of a process, of which there is one at most.
#[derive(Debug, Clone, Copy)]
pub struct Filters<'a> {
    /// minik's own, which allows what is done on the way to the program.
    own: Option<&'a seccomp::Filter>,
    /// One from a file, which may not.
    given: Option<&'a seccomp::Filter>,
}

impl<'a> Filters<'a> {
    /// As the profile that it was compiled from says.
    pub fn new(filter: Option<&'a seccomp::Filter>, security: &Security) -> Filters<'a> {
        match security.seccomp {
            Seccomp::Profile(_) => Filters { own: None, given: filter },
            Seccomp::Default | Seccomp::Unconfined => Filters { own: filter, given: None },
        }
    }
}

/// The environment: what is given (the last of a name wins), and what every program expects when it is not.
pub fn environment(process: &Process, hostname: Option<&str>) -> Vec<String> {
    let mut env: Vec<String> = Vec::with_capacity(process.env.len() + 4);
    for entry in &process.env {
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name);
        match env.iter_mut().find(|known| named(known, name)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    let mut default = |name: &str, value: &dyn Fn() -> Option<String>| {
        if !env.iter().any(|entry| named(entry, name)) {
            env.extend(value().map(|value| format!("{name}={value}")));
        }
    };
    default("PATH", &|| Some(DEFAULT_PATH.into()));
    default("HOSTNAME", &|| hostname.map(str::to_owned));
    default("TERM", &|| process.tty.then(|| "xterm".into()));
    default("HOME", &|| Some(home(process.uid).unwrap_or_else(|| "/".into())));
    env
}

fn named(entry: &str, name: &str) -> bool {
    entry.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
}

/// The home directory in the container's own `/etc/passwd`, which may be anything: only a small plain file is read.
fn home(uid: u32) -> Option<String> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/etc/passwd").ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(LARGEST_PASSWD).read_to_string(&mut text).ok()?;
    home_in(&text, uid)
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let home =
        entry.into_iter().find(|fields| fields.get(2).is_some_and(|field| field.parse() == Ok(uid)))?;
    home.get(5).filter(|home| home.starts_with('/')).map(|home| (*home).to_owned())
}

/// The file to run, looked up in the container as a shell would; messages as users of other runtimes know them.
pub fn find_program(args: &[String], env: &[String]) -> Step<PathBuf> {
    let Some(name) = args.first().filter(|name| !name.is_empty()) else {
        return Err(Failed("no command specified".into()));
    };
    if name.contains('/') {
        return match fs::metadata(name) {
            Ok(metadata) if metadata.is_dir() => Err(Failed(format!("exec: {name:?}: is a directory"))),
            Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => {
                Err(Failed(format!("exec: {name:?}: permission denied")))
            }
            Ok(_) => Ok(PathBuf::from(name)),
            Err(error) => Err(Failed(format!("exec: {name:?}: stat {name}: {}", describe(&error)))),
        };
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .find(|file| {
            fs::metadata(file).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| Failed(format!("exec: {name:?}: executable file not found in $PATH")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(env: &[&str]) -> Process {
        Process {
            args: vec![],
            env: env.iter().map(|entry| (*entry).to_owned()).collect(),
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: vec![],
            tty: true,
        }
    }

    #[test]
    fn the_last_of_a_name_wins_and_defaults_fill_in() {
        let env = environment(&process(&["A=1", "PATH=/x", "A=2", "HOME=/h"]), Some("pod"));
        assert_eq!(env, ["A=2", "PATH=/x", "HOME=/h", "HOSTNAME=pod", "TERM=xterm"]);
    }

    #[test]
    fn home_comes_from_passwd() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:33::/var/www:/bin/sh\nodd:x:5:5::relative:";
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_in(passwd, 5), None);
        assert_eq!(home_in(passwd, 1000), None);
    }

    #[test]
    fn program_messages() {
        let find = |name: &str| find_program(&[name.to_owned()], &["PATH=/bin:/usr/bin".to_owned()]);
        assert!(find("sh").unwrap().ends_with("sh"));
        let message = |name| find(name).unwrap_err().0;
        assert_eq!(message("no-such"), "exec: \"no-such\": executable file not found in $PATH");
        assert_eq!(message("/bin/nope"), "exec: \"/bin/nope\": stat /bin/nope: no such file or directory");
        assert_eq!(message("/etc/passwd"), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(message("/etc"), "exec: \"/etc\": is a directory");
        assert_eq!(find_program(&[], &[]).unwrap_err().0, "no command specified");
    }
}
