//! The simulated runtime by itself.

use std::net::Ipv4Addr;

use super::*;
use crate::runtime::{
    ExecConfig, LogConfig, NetworkMode, Observed, PidMode, Process, Runtime, Security, Stdin,
};

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        id: "s".into(),
        labels: Default::default(),
        hostname: None,
        pid: PidMode::Shared,
        network: NetworkMode::Host,
        host_ipc: false,
        sysctls: Default::default(),
        resources: Resources::default(),
        users: None,
    }
}

fn container(id: &str, command: &str) -> ContainerConfig {
    ContainerConfig {
        id: id.into(),
        sandbox: "s".into(),
        labels: Default::default(),
        layers: vec![],
        read_only_root: false,
        mounts: vec![],
        process: Process {
            args: vec![command.into()],
            env: vec![],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: vec![],
            tty: false,
        },
        security: Security::default(),
        resources: Resources::default(),
        stdin: Stdin::None,
        log: LogConfig { path: "/dev/null".into(), max_bytes: 1, max_files: 1 },
        termination_message: None,
        target: None,
        devices: vec![],
    }
}

async fn state(runtime: &SimRuntime, id: &str) -> Option<ContainerState> {
    let observed = runtime.observe().await.unwrap();
    observed.containers.into_iter().find(|container| container.id == id).map(|container| container.state)
}

#[tokio::test]
async fn programs_do_as_laid_down() {
    let runtime = SimRuntime::new();
    assert!(matches!(runtime.start(&container("a", "web")).await, Err(Error::NoSandbox(_))));
    runtime.ensure_sandbox(&sandbox()).await.unwrap();
    runtime.program("crash", SimProgram::EndAtOnce(Exit::Code(1)));
    runtime.program("crash", SimProgram::RunOutOfMemory);
    runtime.program("bad", SimProgram::FailToStart("exec: no".into()));
    runtime.program("deaf", SimProgram::IgnoreTerm);
    for (id, command) in [("a", "web"), ("b", "crash"), ("c", "crash"), ("d", "deaf")] {
        runtime.start(&container(id, command)).await.unwrap();
    }
    assert_eq!(runtime.start(&container("e", "bad")).await.unwrap_err().to_string(), "exec: no");
    assert!(matches!(
        state(&runtime, "b").await,
        Some(ContainerState::Exited { exit: Some(Exit::Code(1)), .. })
    ));
    assert!(matches!(state(&runtime, "c").await, Some(ContainerState::Exited { oom_killed: true, .. })));
    runtime.signal("a", libc::SIGTERM).await.unwrap();
    runtime.signal("d", libc::SIGTERM).await.unwrap();
    assert!(matches!(
        state(&runtime, "a").await,
        Some(ContainerState::Exited { exit: Some(Exit::Code(0)), .. })
    ));
    assert!(matches!(state(&runtime, "d").await, Some(ContainerState::Running { .. })));
    runtime.remove("a").await.unwrap();
    runtime.remove("a").await.unwrap();
    assert_eq!(state(&runtime, "a").await, None);
    runtime.lose_everything();
    assert!(matches!(state(&runtime, "d").await, Some(ContainerState::Exited { exit: None, .. })));
    runtime.remove_sandbox("s").await.unwrap();
    assert_eq!(runtime.observe().await.unwrap(), Observed::default());
    assert_eq!(runtime.calls().last(), Some(&SimCall::RemoveSandbox("s".into())));
}

#[tokio::test]
async fn sessions_and_changes() {
    let runtime = SimRuntime::new();
    let mut changes = runtime.changes();
    runtime.ensure_sandbox(&sandbox()).await.unwrap();
    assert_eq!(changes.recv().await.unwrap().sandbox, "s");
    runtime.start(&container("a", "web")).await.unwrap();
    let answer = SimExec { stdout: b"out".to_vec(), exit: Exit::Code(3), ..SimExec::default() };
    runtime.answer_exec(&["check"], answer);
    let exec = ExecConfig {
        bound: false,
        container: "a".into(),
        process: crate::runtime::ExecProcess { args: vec!["check".into()], tty: false },
        stdin: false,
        stdout: true,
        stderr: false,
    };
    let session = runtime.exec(&exec).await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut session.stdout.unwrap(), &mut text).await.unwrap();
    assert_eq!((text.as_str(), session.exit.await), ("out", Ok(Exit::Code(3))));
    let attached = runtime.attach("a", false, true, false).await.unwrap();
    runtime.exit("a", Exit::Signal(9));
    assert_eq!(attached.exit.await, Ok(Exit::Signal(9)));
    assert!(matches!(runtime.exec(&exec).await, Err(Error::NotRunning(_))));
    assert!(runtime.dial("s", Ipv4Addr::LOCALHOST, 80).await.is_err());
    let mut listener = runtime.listen("s", 80);
    runtime.dial("s", Ipv4Addr::LOCALHOST, 80).await.unwrap();
    assert!(listener.recv().await.is_some());
}
