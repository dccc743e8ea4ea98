//! Exec, attach, terminals, connections.

use std::net::Ipv4Addr;

use minik::runtime::{ExecConfig, ExecProcess, Runtime, Stdin};
use minik::stdio::{Exit, Session, WindowSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::host::{Host, PATIENCE, is_root};

pub fn exec(container: &str, args: &[&str], tty: bool) -> ExecConfig {
    ExecConfig {
        bound: false,
        container: container.into(),
        process: ExecProcess { args: args.iter().map(|arg| (*arg).to_owned()).collect(), tty },
        stdin: true,
        stdout: true,
        stderr: !tty,
    }
}

pub async fn read_all(reader: Option<minik::stdio::Reader>) -> String {
    let mut text = String::new();
    if let Some(mut reader) = reader {
        timeout(PATIENCE, reader.read_to_string(&mut text)).await.unwrap().unwrap();
    }
    text
}

async fn read_until(reader: &mut minik::stdio::Reader, wanted: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        let mut buffer = [0; 1024];
        let count = timeout(PATIENCE, reader.read(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("saw {seen:?}"))
            .unwrap();
        assert!(count > 0, "ended after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_carries_all_streams_and_the_exit_code() {
    if !is_root() {
        return;
    }
    let host = Host::new("exec").await;
    host.sandbox("s").await;
    let mut config = host.container("s", "c", &["sleep", "1000"]);
    config.process.env = vec!["GREETING=hello".into()];
    host.runtime.start(&config).await.unwrap();
    let script = "cat; echo $GREETING $HOSTNAME; echo bad >&2; exit 42";
    let Session { stdin, stdout, stderr, exit, resize } =
        host.runtime.exec(&exec("c", &["sh", "-c", script], false)).await.unwrap();
    assert!(resize.is_none());
    let mut stdin = stdin.unwrap();
    stdin.write_all(b"from outside\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    assert_eq!(read_all(stdout).await, "from outside\nhello testhost\n");
    assert_eq!(read_all(stderr).await, "bad\n");
    assert_eq!(timeout(PATIENCE, exit).await.unwrap().unwrap(), Exit::Code(42));

    let error = host.runtime.exec(&exec("c", &["nope"], false)).await.err().unwrap();
    assert_eq!(error.to_string(), "exec: \"nope\": executable file not found in $PATH");
    assert!(host.runtime.exec(&exec("gone", &["true"], false)).await.is_err());
    assert!(host.status("c").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_exec_ends_with_its_session() {
    if !is_root() {
        return;
    }
    let host = Host::new("bound").await;
    host.sandbox("s").await;
    host.runtime.start(&host.container("s", "c", &["sleep", "1000"])).await.unwrap();
    let start = async |bound: bool, name: &str| {
        let script = format!("echo {name} up; exec sleep 1000");
        let config = ExecConfig { bound, ..exec("c", &["sh", "-c", &script], false) };
        let mut session = host.runtime.exec(&config).await.unwrap();
        read_until(session.stdout.as_mut().unwrap(), "up").await;
    };
    let sleeping = async || {
        let ps =
            host.runtime.exec(&exec("c", &["sh", "-c", "ps | grep -c '[s]leep 1000'"], false)).await.unwrap();
        drop(ps.stdin);
        read_all(ps.stdout).await.trim().to_owned()
    };
    start(false, "free").await;
    assert_eq!(sleeping().await, "2", "one that is not bound goes on");
    start(true, "bound").await;
    let ended = async {
        while sleeping().await != "2" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_a_terminal() {
    if !is_root() {
        return;
    }
    let host = Host::new("tty").await;
    host.sandbox("s").await;
    host.runtime.start(&host.container("s", "c", &["sleep", "1000"])).await.unwrap();
    let mut session = host.runtime.exec(&exec("c", &["sh"], true)).await.unwrap();
    let (mut stdin, mut stdout) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    let resize = session.resize.take().unwrap();
    resize.send(WindowSize { columns: 123, rows: 45 }).await.unwrap();
    let commands = b"tty; test -e /dev/console || echo $((6*7)) consoles; \
        until stty size | grep '45 123'; do :; done\n";
    stdin.write_all(commands).await.unwrap();
    let seen = read_until(&mut stdout, "\n45 123").await;
    assert!(seen.contains("42 consoles"), "only a container's own terminal is its console: {seen:?}");
    assert!(seen.contains("/dev/pts/0"), "{seen:?}");
    stdin.write_all(b"exit 5\n").await.unwrap();
    assert_eq!(timeout(PATIENCE, session.exit).await.unwrap().unwrap(), Exit::Code(5));

    // A client that leaves hangs the terminal up.
    let script = "trap 'echo hung > /hup; exit' HUP; echo ready; while :; do sleep 0.1; done";
    let mut session = host.runtime.exec(&exec("c", &["sh", "-c", script], true)).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "ready").await;
    drop(session);
    let wait = "until test -s /hup; do sleep 0.05; done; cat /hup";
    let Session { stdout, .. } = host.runtime.exec(&exec("c", &["sh", "-c", wait], false)).await.unwrap();
    assert_eq!(read_all(stdout).await, "hung\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_joins_input_and_output() {
    if !is_root() {
        return;
    }
    let host = Host::new("attach").await;
    host.sandbox("s").await;
    let mut config = host.shell(
        "s",
        "c",
        "echo ready; while read line; do echo got $line; echo err $line >&2; done; exit 9",
    );
    config.stdin = Stdin::Once;
    host.runtime.start(&config).await.unwrap();
    host.logged("c", "ready").await;
    let mut session = host.runtime.attach("c", true, true, true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"one\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got one\n").await;
    read_until(session.stderr.as_mut().unwrap(), "err one\n").await;
    stdin.shutdown().await.unwrap();
    assert_eq!(timeout(PATIENCE, session.exit).await.unwrap().unwrap(), Exit::Code(9));
    assert!(host.log("c").contains("got one"), "attaching takes nothing from the log");
    host.ended("c").await;
    assert!(host.runtime.attach("c", false, true, false).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_to_a_terminal() {
    if !is_root() {
        return;
    }
    let host = Host::new("attachtty").await;
    host.sandbox("s").await;
    let mut config = host.container("s", "c", &["sh"]);
    config.process.tty = true;
    config.stdin = Stdin::Open;
    host.runtime.start(&config).await.unwrap();
    let mut session = host.runtime.attach("c", true, true, true).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"echo $((6*7)) $TERM; tty\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "42 xterm").await;
    drop((stdin, session));
    // It goes on without a client, and takes the next.
    let mut session = host.runtime.attach("c", true, true, true).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"exit 4\n").await.unwrap();
    assert_eq!(timeout(PATIENCE, session.exit).await.unwrap().unwrap(), Exit::Code(4));
    host.logged("c", "42 xterm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_outlives_the_clients_of_its_input() {
    if !is_root() {
        return;
    }
    let host = Host::new("outlives").await;
    host.sandbox("s").await;
    let mut config = host.container("s", "c", &["sh"]);
    config.process.tty = true;
    config.stdin = Stdin::Once;
    host.runtime.start(&config).await.unwrap();
    for ends_its_input in [true, false] {
        let mut session = host.runtime.attach("c", true, true, true).await.unwrap();
        let mut stdin = session.stdin.take().unwrap();
        stdin.write_all(b"test -c /dev/console && echo $((6*7)) here\n").await.unwrap();
        read_until(session.stdout.as_mut().unwrap(), "42 here").await;
        if ends_its_input {
            stdin.shutdown().await.unwrap();
        }
    }
    let mut session = host.runtime.attach("c", true, true, true).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"exit 4\n").await.unwrap();
    assert_eq!(timeout(PATIENCE, session.exit).await.unwrap().unwrap(), Exit::Code(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_attached_client_loses_nothing() {
    if !is_root() {
        return;
    }
    let host = Host::new("slow").await;
    host.sandbox("s").await;
    let mut config = host.shell("s", "c", "read go; seq 1 300000; read go");
    config.stdin = Stdin::Open;
    host.runtime.start(&config).await.unwrap();
    let mut session = host.runtime.attach("c", true, true, false).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    let mut stdout = session.stdout.take().unwrap();
    let seen = timeout(PATIENCE, async {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\n300000\n") {
            tokio::task::yield_now().await;
            stdout.read_buf(&mut seen).await.unwrap();
        }
        seen
    });
    let seen = String::from_utf8(seen.await.unwrap()).unwrap();
    assert!(seen.lines().zip(1..).all(|(line, number)| line == number.to_string()));
    assert_eq!(seen.lines().count(), 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn dial_reaches_a_port_inside() {
    if !is_root() {
        return;
    }
    let host = Host::new("dial").await;
    let netns = crate::isolation::NetworkNamespace::new("dial");
    let mut config = crate::host::sandbox("s");
    config.network = netns.mode();
    host.runtime.ensure_sandbox(&config).await.unwrap();
    host.runtime.start(&host.shell("s", "c", "echo ready; exec nc -ll -p 80 -e echo inside")).await.unwrap();
    host.logged("c", "ready").await;
    let dial = async {
        loop {
            match host.runtime.dial("s", Ipv4Addr::LOCALHOST, 80).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let mut stream = timeout(PATIENCE, dial).await.unwrap();
    let mut text = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "inside\n");
    assert!(host.runtime.dial("s", Ipv4Addr::LOCALHOST, 81).await.is_err());
}
