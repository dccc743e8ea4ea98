//! The moments between a process's clone and its program: nobody in the container sees more than the container then.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minik::runtime::{ContainerState, ExecConfig, ExecProcess, PidMode, Runtime};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use tokio::time::timeout;

use crate::host::{Host, PATIENCE, is_root, sandbox};

/// How many processes are made under observation.
const TIMES: usize = 60;

/// The capabilities that containers of tests have (`CAP_SYS_PTRACE` among them).
const CAPABILITIES: u64 = 0xa804_25fb | (1 << 19);

/// What one sees who looks, with `CAP_SYS_PTRACE`, at the processes of a container's own procfs.
struct Spy {
    /// The procfs as it is mounted inside.
    proc: PathBuf,
    /// Mounts of the host, where nothing inside may be.
    host: BTreeSet<u64>,
    found: BTreeSet<String>,
    /// Processes seen before they ran their program.
    early: usize,
}

impl Spy {
    fn new(leader: i32) -> Spy {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let host = mounts.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
        let proc = format!("/proc/{leader}/root/proc").into();
        Spy { proc, host, found: BTreeSet::new(), early: 0 }
    }

    fn look(&mut self) {
        let Ok(entries) = fs::read_dir(&self.proc) else { return };
        for pid in entries.flatten().filter_map(|e| e.file_name().to_string_lossy().parse::<i32>().ok()) {
            let process = self.proc.join(pid.to_string());
            for link in ["root", "cwd", "exe"] {
                self.check(&process.join(link));
            }
            let Ok(open) = fs::read_dir(process.join("fd")) else { continue };
            open.flatten().for_each(|fd| self.check(&fd.path()));
            self.check_rights(&process, pid);
        }
    }

    /// Follows a link of procfs: it must not lead to a mount of the host.
    fn check(&mut self, link: &Path) {
        let flags = StatxFlags::MNT_ID | StatxFlags::BASIC_STATS;
        let Ok(stat) = rustix::fs::statx(CWD, link, AtFlags::empty(), flags) else { return };
        // What a process without input has for it: a device leads nowhere.
        let null = (stat.stx_rdev_major, stat.stx_rdev_minor) == (1, 3);
        if self.host.contains(&stat.stx_mnt_id) && !null {
            let name = link.strip_prefix(&self.proc).unwrap().display();
            let target = fs::read_link(link).unwrap_or_default();
            let kind: String = name.to_string().chars().filter(|c| !c.is_ascii_digit()).collect();
            self.found.insert(format!("{kind} -> {}", target.display()));
        }
    }

    /// Who can take a process over has what it has: that is no more than what the container has.
    fn check_rights(&mut self, process: &Path, pid: i32) {
        let Ok(status) = fs::read_to_string(process.join("status")) else { return };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
        let held = u64::from_str_radix(field("CapPrm:"), 16).unwrap_or(0);
        if field("Name:").starts_with("minik-supervise") {
            self.early += 1;
            if held & !CAPABILITIES != 0 || field("Seccomp:") != "2" {
                let seccomp = field("Seccomp:");
                self.found.insert(format!("process with capabilities {held:x} and seccomp {seccomp}"));
            }
        } else if held & !CAPABILITIES != 0 {
            self.found.insert(format!("process {pid} with capabilities {held:x}"));
        }
    }
}

/// Looks on while `work` makes processes in the container.
async fn spied_on(host: &Host, container: &str, work: impl Future<Output = ()>) -> Spy {
    let ContainerState::Running { pid, .. } = host.status(container).await.unwrap().state else {
        panic!("{container} does not run")
    };
    let over = Over::default();
    let mut spy = Spy::new(pid);
    let told = over.0.clone();
    let looking = tokio::task::spawn_blocking(move || {
        while !told.load(Ordering::Relaxed) {
            spy.look();
        }
        spy
    });
    work.await;
    drop(over);
    looking.await.unwrap()
}

/// Ends the looking when it is dropped, also when the test fails.
#[derive(Default)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a program in a container to its end.
async fn exec_to_the_end(host: &Host, tty: bool) {
    let process = ExecProcess { args: vec!["true".into()], tty };
    let container = "c".to_owned();
    let config = ExecConfig { bound: false, container, process, stdin: false, stdout: true, stderr: false };
    let session = host.runtime.exec(&config).await.unwrap();
    timeout(PATIENCE, session.exit).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_on_the_way_to_its_program_shows_nothing_of_the_host() {
    if !is_root() {
        return;
    }
    let host = Host::new("window").await;
    let mut found = Vec::new();
    for (id, pid) in [("shared", PidMode::Shared), ("own", PidMode::PerContainer)] {
        let mut config = sandbox(id);
        config.pid = pid;
        host.runtime.ensure_sandbox(&config).await.unwrap();
        let mut container = host.container(id, "c", &["sleep", "1000"]);
        container.security.capabilities.push("CAP_SYS_PTRACE".into());
        host.runtime.start(&container).await.unwrap();
        let began = std::time::Instant::now();
        let spy = spied_on(&host, "c", async {
            for number in 0..TIMES {
                exec_to_the_end(&host, number % 4 == 3).await;
            }
        });
        let spy = spy.await;
        eprintln!("{id}: {} early looks at execs, {:?} each", spy.early, began.elapsed() / TIMES as u32);
        found.extend(spy.found.into_iter().map(|what| format!("exec, {id}: {what}")));
        if pid == PidMode::Shared {
            let began = std::time::Instant::now();
            let spy = spied_on(&host, "c", async {
                for number in 0..TIMES / 2 {
                    let mut other = host.container(id, &format!("other-{number}"), &["true"]);
                    other.mounts = vec![crate::isolation::bind(host.dir.path(), "/volume", false)];
                    host.runtime.start(&other).await.unwrap();
                }
            });
            let spy = spy.await;
            eprintln!("{} early looks at starts, {:?} each", spy.early, began.elapsed() / (TIMES / 2) as u32);
            found.extend(spy.found.into_iter().map(|what| format!("start, {id}: {what}")));
        }
        host.runtime.remove_sandbox(id).await.unwrap();
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The procfs of a pod's shared process namespace is made before there is anybody in it, and goes with the sandbox.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_procfs_goes_with_its_sandbox() {
    if !is_root() {
        return;
    }
    let host = Host::new("procfs").await;
    host.sandbox("s").await;
    let place = host.config.run_dir.join("proc/s");
    let kind = |path: &Path| rustix::fs::statfs(path).map(|stat| stat.f_type);
    assert_eq!(kind(&place).unwrap(), rustix::fs::PROC_SUPER_MAGIC);
    let seen =
        host.output(&host.shell("s", "c", "readlink /proc/self/exe; cat /proc/self/comm; echo $$")).await;
    assert!(seen.starts_with("/bin/busybox\ncat\n"), "{seen}");
    let own: i32 = seen.lines().nth(2).unwrap().parse().unwrap();
    assert!(own > 1, "a process among others: {seen}");
    host.runtime.remove_sandbox("s").await.unwrap();
    assert!(!place.exists());
}

/// What the supervisor knows of other pods is not to be read in this one's first process.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_process_of_a_pod_remembers_nothing() {
    if !is_root() {
        return;
    }
    let host = Host::new("blank").await;
    host.sandbox("s").await;
    let script = "cat /proc/1/comm; ls /proc/1/fd | wc -l; cat /proc/1/maps";
    let mut container = host.shell("s", "c", script);
    container.security.capabilities.push("CAP_SYS_PTRACE".into());
    let seen = host.output(&container).await;
    let maps = seen.strip_prefix("minik-init\n3\n").unwrap_or_else(|| panic!("{seen}"));
    let names: BTreeSet<&str> = maps.lines().map(|line| line.get(73..).unwrap_or_default()).collect();
    assert!(names.contains("/memfd:minik-init (deleted)"), "{seen}");
    let known = ["/memfd:minik-init (deleted)", "[stack]", "[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}: {seen}");
}
