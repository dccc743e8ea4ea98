//! How long containers take: from the call to the running program, and from the call to nothing left.
//!
//! `cargo bench --bench runtime` (as root). One run compares containers in one sandbox, and whole sandboxes with and
//! without a network namespace of their own, interleaved, next to the bare kernel's clone and exec.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot measure has nothing else to do")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use minik::runtime::linux::{Config, LinuxRuntime, destroy};
use minik::runtime::{
    ContainerConfig, LogConfig, NetworkMode, PidMode, Process, Resources, Runtime, SandboxConfig, Security,
    Stdin,
};
use minik::sys::{capability, namespace};

const ROUNDS: usize = 100;

fn main() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(run());
}

async fn run() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::create_dir_all(image.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", image.join("bin/sleep")).unwrap();
    let name = format!("minik-bench-{}", std::process::id());
    let config = Config {
        run_dir: Path::new("/run").join(&name),
        state_dir: dir.path().join("state"),
        cgroup_parent: name.clone().into(),
        executable: env!("CARGO_BIN_EXE_minik").into(),
    };
    let runtime = LinuxRuntime::connect(config.clone()).await.unwrap();
    let netns = bind_network_namespace(&name);
    let outcome = tokio::spawn(measure(runtime.clone(), image, dir.path().join("logs"), netns.clone())).await;
    let _ = nix::mount::umount2(&netns, nix::mount::MntFlags::MNT_DETACH);
    let _ = std::fs::remove_file(&netns);
    runtime.shutdown().await.unwrap();
    destroy(config).await.unwrap();
    outcome.unwrap();
}

async fn measure(runtime: LinuxRuntime, image: PathBuf, logs: PathBuf, netns: PathBuf) {
    let mut rows: Vec<(&str, Vec<Duration>)> = [
        "posix_spawn of the same program",
        "sandbox, host network",
        "sandbox, joined network namespace",
        "container start",
        "container remove",
        "exec to exit",
        "sandbox remove",
        "container start, 8 at once, each",
    ]
    .map(|name| (name, Vec::new()))
    .into();
    runtime.ensure_sandbox(&sandbox("steady", NetworkMode::Host)).await.unwrap();
    for round in 0..ROUNDS {
        rows[0].1.push(spawn_and_kill(&image.join("bin/sleep")));
        for (row, network) in [(1, NetworkMode::Host), (2, NetworkMode::Namespace(netns.clone()))] {
            let sandbox = sandbox(&format!("s-{row}-{round}"), network);
            rows[row].1.push(timed(runtime.ensure_sandbox(&sandbox)).await);
            rows[6].1.push(timed(runtime.remove_sandbox(&sandbox.id)).await);
        }
        let container = container("steady", &format!("c-{round}"), &image, &logs);
        rows[3].1.push(timed(runtime.start(&container)).await);
        rows[5].1.push(timed(exec(&runtime, &container.id)).await);
        rows[4].1.push(timed(runtime.remove(&container.id)).await);
    }
    for round in 0..ROUNDS / 8 {
        let containers: Vec<_> =
            (0..8).map(|n| container("steady", &format!("p-{round}-{n}"), &image, &logs)).collect();
        let begun = Instant::now();
        futures::future::try_join_all(containers.iter().map(|container| runtime.start(container)))
            .await
            .unwrap();
        rows[7].1.push(begun.elapsed() / 8);
        futures::future::try_join_all(containers.iter().map(|container| runtime.remove(&container.id)))
            .await
            .unwrap();
    }
    let own = std::process::id();
    for (name, pid) in processes_below(own) {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let figure = |key: &str| rollup.lines().find(|line| line.starts_with(key)).unwrap_or("").to_owned();
        eprintln!("{name:40} {} {}", figure("Rss:"), figure("Pss:"));
    }
    for (name, mut times) in rows {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_micros();
        eprintln!("{name:40} min {:6} p50 {:6} p99 {:6} us", at(0), at(50), at(99));
    }
}

/// The supervisor and what it has cloned: name and id.
fn processes_below(parent: u32) -> Vec<(String, u32)> {
    let children = std::fs::read_dir(format!("/proc/{parent}/task"))
        .unwrap()
        .flatten()
        .map(|task| task.path().join("children"));
    let children: String =
        children.filter_map(|file| std::fs::read_to_string(file).ok()).collect::<Vec<_>>().join(" ");
    let mut found = Vec::new();
    for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        found.push((format!("memory of {}", name.trim()), pid));
        found.extend(processes_below(pid));
    }
    found
}

async fn timed<T, E: std::fmt::Debug>(work: impl Future<Output = Result<T, E>>) -> Duration {
    let begun = Instant::now();
    work.await.unwrap();
    begun.elapsed()
}

async fn exec(runtime: &LinuxRuntime, container: &str) -> Result<(), minik::runtime::Error> {
    let config = minik::runtime::ExecConfig {
        bound: false,
        container: container.into(),
        process: minik::runtime::ExecProcess { args: vec!["/bin/sleep".into(), "0".into()], tty: false },
        stdin: false,
        stdout: true,
        stderr: true,
    };
    let session = runtime.exec(&config).await?;
    session.exit.await.unwrap();
    Ok(())
}

#[allow(clippy::disallowed_methods)]
fn spawn_and_kill(program: &Path) -> Duration {
    let begun = Instant::now();
    let mut child = std::process::Command::new(program).arg("1000").spawn().unwrap();
    let elapsed = begun.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    elapsed
}

fn bind_network_namespace(name: &str) -> PathBuf {
    let path = PathBuf::from(format!("/run/{name}-netns"));
    std::fs::write(&path, "").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            namespace::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let flags = nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(Some("/proc/thread-self/ns/net"), &path, None::<&str>, flags, None::<&str>)
                .unwrap();
        });
    });
    path
}

fn sandbox(id: &str, network: NetworkMode) -> SandboxConfig {
    SandboxConfig {
        id: id.into(),
        labels: Default::default(),
        hostname: Some("bench".into()),
        pid: PidMode::Shared,
        network,
        host_ipc: false,
        sysctls: Default::default(),
        resources: Resources::default(),
        users: None,
    }
}

fn container(sandbox: &str, id: &str, image: &Path, logs: &Path) -> ContainerConfig {
    ContainerConfig {
        id: id.into(),
        sandbox: sandbox.into(),
        labels: Default::default(),
        layers: vec![image.into()],
        read_only_root: false,
        mounts: vec![],
        process: Process {
            args: vec!["/bin/sleep".into(), "1000".into()],
            env: vec![],
            cwd: PathBuf::new(),
            uid: 0,
            gid: 0,
            groups: vec![],
            tty: false,
        },
        security: Security {
            capabilities: capability::DEFAULT.map(str::to_owned).to_vec(),
            ..Security::default()
        },
        resources: Resources { memory_limit: Some(64 << 20), pids_limit: Some(64), ..Resources::default() },
        stdin: Stdin::None,
        log: LogConfig { path: logs.join(id).join("0.log"), max_bytes: 10 << 20, max_files: 5 },
        termination_message: None,
        target: None,
        devices: Vec::new(),
    }
}
