//! Deaths: of the daemon's handle, of the supervisor.

use minik::runtime::linux::LinuxRuntime;
use minik::runtime::{ContainerState, Runtime};
use minik::stdio::Exit;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::host::{Host, PATIENCE, is_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_handle_adopts_everything() {
    if !is_root() {
        return;
    }
    let mut host = Host::new("adopt").await;
    host.sandbox("s").await;
    let script = "for i in $(seq 1 2000); do echo line $i; done; exit 6";
    let slow = "echo before; until test -e /go; do sleep 0.01; done; echo after; exit 8";
    host.runtime.start(&host.shell("s", "fast", script)).await.unwrap();
    host.runtime.start(&host.shell("s", "slow", slow)).await.unwrap();
    let ContainerState::Running { pid, .. } = host.status("slow").await.unwrap().state else {
        panic!("not running")
    };
    // Nobody is connected while one ends.
    let config = host.config.clone();
    let old = std::mem::replace(&mut host.runtime, LinuxRuntime::connect(config.clone()).await.unwrap());
    drop(old);
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    assert!(matches!(host.ended("slow").await, ContainerState::Exited { exit: Some(Exit::Code(8)), .. }));
    assert!(matches!(host.ended("fast").await, ContainerState::Exited { exit: Some(Exit::Code(6)), .. }));
    assert_eq!(host.log("slow"), "before\nafter\n");
    assert_eq!(host.log("fast").lines().count(), 2000);
    let sandboxes = host.runtime.observe().await.unwrap().sandboxes;
    assert!(sandboxes.len() == 1 && sandboxes[0].alive && sandboxes[0].labels["pod"] == "s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_supervisor_is_replaced_and_its_containers_are_reported_lost() {
    if !is_root() {
        return;
    }
    let host = Host::new("lost").await;
    host.sandbox("s").await;
    host.runtime.start(&host.shell("s", "done", "exit 5")).await.unwrap();
    host.ended("done").await;
    host.runtime.start(&host.container("s", "running", &["sleep", "1000"])).await.unwrap();
    let ContainerState::Running { pid, .. } = host.status("running").await.unwrap().state else {
        panic!("not running")
    };
    let pidfd = minik::sys::process::pidfd_open(pid).unwrap();
    let mut changes = host.runtime.changes();
    minik::sys::process::kill(host.supervisor_pid(), libc::SIGKILL).unwrap();
    tokio::time::timeout(PATIENCE, changes.recv()).await.unwrap().unwrap();
    assert!(matches!(host.ended("running").await, ContainerState::Exited { exit: None, .. }));
    assert!(matches!(host.ended("done").await, ContainerState::Exited { exit: Some(Exit::Code(5)), .. }));
    use std::os::fd::AsFd;
    assert!(minik::sys::process::wait_ended(pidfd.as_fd(), 5000).unwrap(), "leftovers are killed");
    let observed = host.runtime.observe().await.unwrap();
    assert!(!observed.sandboxes[0].alive);
    host.runtime.remove_sandbox("s").await.unwrap();
    host.sandbox("s").await;
    assert_eq!(host.output(&host.shell("s", "again", "echo back")).await, "back\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn writable_layers_without_a_record_are_thrown_away() {
    if !is_root() {
        return;
    }
    let mut host = Host::new("stale").await;
    host.runtime.shutdown().await.unwrap();
    let stale = host.config.state_dir.join("containers/stale");
    std::fs::create_dir_all(stale.join("upper/deep")).unwrap();
    host.runtime = LinuxRuntime::connect(host.config.clone()).await.unwrap();
    assert!(!stale.exists(), "gone before anything can start");
    let trash = host.config.state_dir.join("trash");
    let emptied = async {
        while trash.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, emptied).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_damaged_record_was_about_is_ended() {
    if !is_root() {
        return;
    }
    let host = Host::new("damaged").await;
    host.sandbox("whole").await;
    host.sandbox("lost").await;
    host.runtime.start(&host.container("whole", "one", &["sleep", "1000"])).await.unwrap();
    host.runtime.start(&host.container("lost", "two", &["sleep", "1000"])).await.unwrap();
    let labelled = host.runtime.observe_labelled("pod", "lost").await.unwrap();
    assert_eq!(labelled, host.runtime.observe().await.unwrap().labelled("pod", "lost"));
    assert_eq!((labelled.sandboxes.len(), labelled.containers[0].id.as_str()), (1, "two"));
    let record = |name: &str| host.config.run_dir.join(name);
    std::fs::write(record("containers/one.json"), "{}").unwrap();
    std::fs::write(record("sandboxes/lost.json"), "").unwrap();
    minik::sys::process::kill(host.supervisor_pid(), libc::SIGKILL).unwrap();
    let replaced = async {
        while host.runtime.observe().await.is_ok_and(|observed| observed.sandboxes.len() == 2) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, replaced).await.unwrap();
    let observed = host.runtime.observe().await.unwrap();
    assert_eq!(observed.sandboxes.iter().map(|sandbox| sandbox.id.as_str()).collect::<Vec<_>>(), ["whole"]);
    assert_eq!(
        observed.containers.iter().map(|container| container.id.as_str()).collect::<Vec<_>>(),
        ["two"]
    );
    assert_eq!(host.runtime.observe_labelled("pod", "lost").await.unwrap(), Default::default());
    let pods = host.runtime.cgroups().root().child("pods");
    assert_eq!(pods.children().unwrap(), ["whole"]);
    assert_eq!(pods.child("whole").children().unwrap(), ["init"]);
    assert!(!record("shm/lost").exists());
    assert!(record("sandboxes/lost.damaged").exists() && record("containers/one.damaged").exists());
    host.runtime.remove("two").await.unwrap();
    host.runtime.remove_sandbox("whole").await.unwrap();
    host.sandbox("lost").await;
    assert_eq!(host.output(&host.shell("lost", "again", "echo back")).await, "back\n");
}

/// Sends a message as it is and returns the answer as it is.
fn say(socket: &std::path::Path, message: &str) -> String {
    use std::io::Write;
    let mut connection = std::os::unix::net::UnixStream::connect(socket).unwrap();
    connection.write_all(&(message.len() as u32).to_le_bytes()).unwrap();
    connection.write_all(message.as_bytes()).unwrap();
    receive(&mut connection)
}

fn receive(connection: &mut std::os::unix::net::UnixStream) -> String {
    use std::io::Read;
    let mut length = [0; 4];
    connection.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_le_bytes(length) as usize];
    connection.read_exact(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_understands_daemons_of_other_versions() {
    if !is_root() {
        return;
    }
    let host = Host::new("versions").await;
    let socket = host.config.run_dir.join("supervisor.sock");
    let sandbox = r#"{"id":"s","labels":{},"hostname":null,"pid":"Shared","network":"Host","host_ipc":false,
        "sysctls":{},"resources":{},"later":{"a":[1]}}"#;
    for (version, call, expected) in [
        (99, r#""Hello""#, "\"Hello\""),
        (99, r#""Hello""#, "\"oldest\":1"),
        (1, r#""Observe""#, "\"Observed\""),
        (2, r#"{"ObserveLabelled":{"label":"a","value":"b"}}"#, "\"Observed\""),
        (3, r#""Observe""#, "\"Observed\""),
        (0, r#""Observe""#, "protocol version 0 is not"),
        (99, r#""Observe""#, "protocol version 99 is not"),
        (1, &format!(r#"{{"EnsureSandbox":{sandbox}}}"#), "\"Done\""),
        (1, r#"{"OfTheFuture":1}"#, "OfTheFuture"),
        (99, r#""Shutdown""#, "\"Done\""),
    ] {
        let answer = say(&socket, &format!(r#"{{"version":{version},"call":{call},"later":true}}"#));
        assert!(answer.contains(expected), "{version} {call}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_agrees_with_supervisors_of_other_versions() {
    use std::io::Write;
    for (hello, spoken) in [
        (r#"{"Hello":{"version":1,"pid":1}}"#, Some(1)),
        (r#"{"Hello":{"version":7,"oldest":1,"pid":1,"later":1}}"#, Some(3)),
        (r#"{"Hello":{"version":7,"oldest":7,"pid":1}}"#, None),
        (r#"{"Hello":{"version":0,"pid":1}}"#, None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("supervisor.sock")).unwrap();
        let (sender, asked) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            while let Ok((mut connection, _)) = listener.accept() {
                let request = receive(&mut connection);
                let answer = match request.contains("Hello") {
                    true => hello,
                    false => r#"{"Observed":{"sandboxes":[],"containers":[],"later":1}}"#,
                };
                connection.write_all(&(answer.len() as u32).to_le_bytes()).unwrap();
                connection.write_all(answer.as_bytes()).unwrap();
                if sender.send(request).is_err() {
                    return;
                }
            }
        });
        let config = minik::runtime::linux::Config {
            run_dir: dir.path().into(),
            state_dir: dir.path().join("state"),
            cgroup_parent: "minik-test-agree".into(),
            executable: "/no/such/program".into(),
        };
        let connected = LinuxRuntime::connect(config).await;
        match (connected, spoken) {
            (Ok(runtime), Some(version)) => {
                runtime.observe().await.unwrap();
                // What an old one does not know is not asked of it.
                runtime.observe_labelled("a", "b").await.unwrap();
                let version = format!(r#""version":{version},"#);
                assert!(asked.try_iter().skip(1).all(|request| request.contains(&version)), "{hello}");
            }
            (Err(error), None) => assert!(error.to_string().contains("stop the cluster first"), "{error}"),
            (connected, _) => panic!("{hello}: {:?}", connected.err()),
        }
    }
}

/// Tells the test program to be a daemon instead: in which directories.
const DAEMON: &str = "MINIK_TEST_RUNTIME_DAEMON";

/// Not a test of its own: the process that the next test kills. It is the supervisor's parent, and in the middle of
/// an exec and an attachment.
#[tokio::test(flavor = "multi_thread")]
async fn be_a_daemon() {
    let Some(places) = std::env::var_os(DAEMON) else { return };
    let host = Host::existing(places.to_str().unwrap()).await;
    host.sandbox("s").await;
    let script = "seq 1 1000; until test -e /go; do sleep 0.01; done; seq 1001 2000; exit 8";
    host.runtime.start(&host.shell("s", "c", script)).await.unwrap();
    let exec = minik::runtime::ExecConfig {
        bound: false,
        container: "c".into(),
        process: minik::runtime::ExecProcess { args: vec!["sh".into()], tty: true },
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let _sessions =
        (host.runtime.exec(&exec).await.unwrap(), host.runtime.attach("c", false, true, true).await.unwrap());
    println!("\nup");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods, reason = "the daemon to be killed is this program again")]
async fn killing_the_daemon_loses_nothing() {
    if !is_root() {
        return;
    }
    let mut host = Host::new("killed").await;
    host.runtime.shutdown().await.unwrap();
    let mut daemon = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "recovery::be_a_daemon", "--nocapture"])
        .env(DAEMON, host.places())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let up = async { while lines.next_line().await.unwrap().unwrap() != "up" {} };
    tokio::time::timeout(PATIENCE, up).await.unwrap();
    daemon.kill().await.unwrap();

    host.runtime = LinuxRuntime::connect(host.config.clone()).await.unwrap();
    let ContainerState::Running { pid, .. } = host.status("c").await.unwrap().state else {
        panic!("disturbed")
    };
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    assert!(matches!(host.ended("c").await, ContainerState::Exited { exit: Some(Exit::Code(8)), .. }));
    assert!(host.log("c").lines().eq((1..=2000).map(|number| number.to_string())));
}
