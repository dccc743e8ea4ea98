//! A runtime of a test's own, and everything it made removed afterwards, also when the test fails.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use minik::runtime::linux::{Config, LinuxRuntime, destroy};
use minik::runtime::{
    ContainerConfig, ContainerState, ContainerStatus, LogConfig, NetworkMode, PidMode, Process, Resources,
    Runtime, SandboxConfig, Seccomp, Security, Stdin,
};
use minik::sys::capability;

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The programs of the test image.
const APPLETS: [&str; 38] = [
    "sh", "cat", "echo", "ls", "sleep", "id", "ps", "mkdir", "touch", "tty", "stty", "head", "dd", "tail",
    "kill", "env", "mount", "test", "grep", "seq", "nc", "printf", "true", "false", "mknod", "unshare",
    "readlink", "rm", "pwd", "wc", "chmod", "tr", "cut", "df", "hostname", "ulimit", "stat", "httpd",
];

/// Whether this process may test the runtime. Skips loudly; fails where root is required.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("MINIK_REQUIRE_ROOT").is_none(), "root is required here");
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// A runtime in directories and cgroups of its own.
pub struct Host {
    pub dir: tempfile::TempDir,
    /// Where images and logs are: `dir`, or that of another process.
    pub root: PathBuf,
    pub config: Config,
    pub runtime: LinuxRuntime,
}

impl Host {
    pub async fn new(name: &str) -> Host {
        let dir = tempfile::Builder::new().prefix("minik-runtime-").tempdir().unwrap();
        let unique = format!("minik-test-{name}-{}", std::process::id());
        let config = Config {
            run_dir: Path::new("/run").join(&unique),
            state_dir: dir.path().join("state"),
            cgroup_parent: unique.into(),
            executable: env!("CARGO_BIN_EXE_minik").into(),
        };
        make_image(&dir.path().join("image"));
        let runtime = LinuxRuntime::connect(config.clone()).await.unwrap();
        Host { root: dir.path().to_owned(), dir, config, runtime }
    }

    /// Directories and cgroup, for [`Host::existing`] in another process.
    pub fn places(&self) -> String {
        format!("{}|{}", self.dir.path().display(), self.config.cgroup_parent.display())
    }

    /// A handle in the places of another process's host, which removes them.
    pub async fn existing(places: &str) -> std::mem::ManuallyDrop<Host> {
        let (dir, unique) = places.split_once('|').unwrap();
        let outer = tempfile::Builder::new().disable_cleanup(true).tempdir_in(dir).unwrap();
        let config = Config {
            run_dir: Path::new("/run").join(unique),
            state_dir: Path::new(dir).join("state"),
            cgroup_parent: unique.into(),
            executable: env!("CARGO_BIN_EXE_minik").into(),
        };
        let runtime = LinuxRuntime::connect(config.clone()).await.unwrap();
        std::mem::ManuallyDrop::new(Host { root: dir.into(), dir: outer, config, runtime })
    }

    pub async fn sandbox(&self, id: &str) -> SandboxConfig {
        let config = sandbox(id);
        self.runtime.ensure_sandbox(&config).await.unwrap();
        config
    }

    /// A shell command in a container.
    pub fn shell(&self, sandbox: &str, id: &str, script: &str) -> ContainerConfig {
        self.container(sandbox, id, &["sh", "-c", script])
    }

    pub fn container(&self, sandbox: &str, id: &str, args: &[&str]) -> ContainerConfig {
        ContainerConfig {
            id: id.into(),
            sandbox: sandbox.into(),
            labels: [("name".to_owned(), id.to_owned())].into(),
            layers: vec![self.root.join("image")],
            read_only_root: false,
            mounts: vec![],
            process: Process {
                args: args.iter().map(|arg| (*arg).to_owned()).collect(),
                env: vec![],
                cwd: PathBuf::new(),
                uid: 0,
                gid: 0,
                groups: vec![],
                tty: false,
            },
            security: Security {
                capabilities: capability::DEFAULT.map(str::to_owned).to_vec(),
                seccomp: Seccomp::Default,
                ..Security::default()
            },
            resources: Resources::default(),
            stdin: Stdin::None,
            log: LogConfig { path: self.log_path(id), max_bytes: 10 << 20, max_files: 5 },
            termination_message: None,
            target: None,
            devices: vec![],
        }
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.root.join("logs").join(id).join("0.log")
    }

    /// The contents of a container's log, without times and tags.
    pub fn log(&self, id: &str) -> String {
        let text = fs::read_to_string(self.log_path(id)).unwrap_or_default();
        text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or("").to_owned() + "\n").collect()
    }

    pub async fn status(&self, id: &str) -> Option<ContainerStatus> {
        let observed = self.runtime.observe().await.unwrap();
        observed.containers.into_iter().find(|container| container.id == id)
    }

    /// Waits until a container has ended.
    pub async fn ended(&self, id: &str) -> ContainerState {
        let mut changes = self.runtime.changes();
        let wait = async {
            loop {
                match self.status(id).await.map(|status| status.state) {
                    Some(state @ ContainerState::Exited { .. }) => return state,
                    _ => drop(changes.recv().await),
                }
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(state) => state,
            Err(_) => panic!("container {id} does not end; log: {}", self.log(id)),
        }
    }

    /// Starts, waits for the end and returns what was written.
    pub async fn output(&self, config: &ContainerConfig) -> String {
        self.runtime.start(config).await.unwrap();
        self.ended(&config.id).await;
        self.log(&config.id)
    }

    /// Waits until a container's log holds a text.
    pub async fn logged(&self, id: &str, text: &str) {
        let wait = async {
            while !self.log(id).contains(text) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("container {id} does not say {text:?}, but: {}", self.log(id));
        }
    }

    pub fn supervisor_pid(&self) -> i32 {
        let wanted = self.config.run_dir.to_string_lossy().into_owned();
        fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
            .find(|pid| {
                let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let args: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
                let own = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                let parent_is_supervisor = own.contains("(minik-init)");
                !parent_is_supervisor
                    && args.get(1) == Some(&b"supervise".as_slice())
                    && args.get(2) == Some(&wanted.as_bytes())
            })
            .unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let (config, runtime) = (self.config.clone(), self.runtime.clone());
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(config.run_dir.join("supervisor.log")).unwrap_or_default());
        }
        let clean = std::thread::spawn(move || {
            let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            tokio.block_on(async {
                let orderly = runtime.shutdown().await;
                destroy(config).await.and(orderly)
            })
        });
        match clean.join() {
            Ok(Ok(())) => {}
            other if std::thread::panicking() => eprintln!("cleaning up failed: {other:?}"),
            other => panic!("cleaning up failed: {other:?}"),
        }
    }
}

pub fn sandbox(id: &str) -> SandboxConfig {
    SandboxConfig {
        id: id.into(),
        labels: [("pod".to_owned(), id.to_owned())].into(),
        hostname: Some("testhost".into()),
        pid: PidMode::Shared,
        network: NetworkMode::Host,
        host_ipc: false,
        sysctls: Default::default(),
        resources: Resources::default(),
        users: None,
    }
}

/// A layer with busybox and what programs expect of a root.
pub fn make_image(root: &Path) {
    for directory in ["bin", "etc", "tmp", "root", "var/www"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/var/www:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\n").unwrap();
}
