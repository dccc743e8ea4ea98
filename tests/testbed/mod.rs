//! A test host with a cluster in it: made by `scripts/testbed`, gone when dropped, also when the test fails.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The program under test.
pub const MINIK: &str = env!("CARGO_BIN_EXE_minik");
/// Between two looks at a condition that nothing announces.
const LOOK: Duration = Duration::from_millis(100);
/// How long one command may take.
const COMMAND: &str = "120";

/// What a command did.
#[derive(Debug)]
pub struct Run {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// One test host.
pub struct Testbed {
    /// Of the cluster on it.
    pub name: String,
    /// As `scripts/testbed` calls it.
    host: String,
}

fn script() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/testbed").to_owned()
}

fn text(output: Output) -> Run {
    Run {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Testbed {
    /// Makes a host; needs root.
    pub fn up(name: &str) -> Testbed {
        Self::up_with(name, &[])
    }

    /// Makes a host that has addresses of both families.
    pub fn up_dual(name: &str) -> Testbed {
        Self::up_with(name, &[("TESTBED_IPV6", "1")])
    }

    fn up_with(name: &str, settings: &[(&str, &str)]) -> Testbed {
        let owner = std::process::id().to_string();
        let host = format!("{name}-{owner}");
        let bed = Testbed { name: format!("mtb-{host}"), host };
        let mut up = Command::new(script());
        let made =
            up.args(["up", &bed.host]).env("TESTBED_OWNER", owner).envs(settings.iter().copied()).output();
        let made = text(made.expect("scripts/testbed runs"));
        assert!(made.status.success(), "test host: {}{}", made.stdout, made.stderr);
        bed
    }

    fn command(&self, args: &[&str]) -> Command {
        self.command_within(COMMAND, args)
    }

    fn command_within(&self, seconds: &str, args: &[&str]) -> Command {
        let tools = std::env::var("MINIK_TOOLS").unwrap_or_else(|_| "/opt/minik-tools".into());
        let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(script());
        command
            .args(["exec", &self.host, "--", "timeout", seconds])
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", path)
            .env("PYTHONPATH", format!("{tools}/python"))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command on the host.
    pub fn run(&self, args: &[&str]) -> Run {
        text(self.command(args).output().expect("a command on the test host"))
    }

    /// Begins a command on the host, whose output is to be read when it has ended.
    pub fn begin(&self, args: &[&str]) -> Child {
        let mut command = self.command_within("900", args);
        command.stdout(Stdio::piped()).spawn().expect("a command on the test host")
    }

    /// Runs a command that must succeed; answers what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert!(
            run.status.success(),
            "{args:?}: {}\n{}{}\n{}",
            run.status,
            run.stdout,
            run.stderr,
            self.state()
        );
        run.stdout
    }

    /// kubectl with words separated by blanks.
    pub fn kubectl(&self, words: &str) -> String {
        let args: Vec<&str> = std::iter::once("kubectl").chain(words.split(' ')).collect();
        self.ok(&args)
    }

    /// `kubectl apply` of this text.
    pub fn apply(&self, manifest: &str) {
        let mut command = self.command(&["kubectl", "apply", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl");
        child.stdin.take().expect("its input").write_all(manifest.as_bytes()).expect("a reader");
        let run = text(child.wait_with_output().expect("kubectl's end"));
        assert!(run.status.success(), "apply: {}{}\n{manifest}", run.stdout, run.stderr);
    }

    /// The same as [`Testbed::kubectl`], with what it says on standard error.
    pub fn kubectl_all(&self, words: &str) -> String {
        let args: Vec<&str> = std::iter::once("kubectl").chain(words.split(' ')).collect();
        let run = self.run(&args);
        run.stdout + &run.stderr
    }

    /// `docker.io=URL` of the host's mirror.
    pub fn mirror(&self) -> String {
        let output =
            Command::new(script()).args(["registry", &self.host]).output().expect("scripts/testbed runs");
        format!("docker.io={}", text(output).stdout.trim())
    }

    /// Starts the cluster with the mirror.
    pub fn start(&self) {
        self.ok(&[MINIK, "start", "--registry-mirror", &self.mirror()]);
    }

    /// Waits until a pod is Ready.
    pub fn wait_ready(&self, pod: &str) {
        self.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=90s"));
    }

    /// Waits for a condition that nothing announces.
    pub fn wait(&self, what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + limit;
        while !holds() {
            assert!(Instant::now() < until, "no {what} after {limit:?}\n{}", self.state());
            std::thread::park_timeout(LOOK);
        }
    }

    /// What to know when something went wrong.
    fn state(&self) -> String {
        let pods = self.run(&["kubectl", "get", "pods,events", "-A", "-o", "wide"]);
        let log = self.run(&[MINIK, "logs", "-n", "30"]);
        format!("{}{}\n{}", pods.stdout, pods.stderr, log.stdout)
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> i32 {
        let status = self.ok(&[MINIK, "status", "-o", "json"]);
        let value: serde_json::Value = serde_json::from_str(&status).expect("status is JSON");
        value["daemonPid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid")
    }

    /// Kills a process as the kernel's out-of-memory killer would, and waits until it is gone.
    pub fn kill(&self, pid: i32) {
        self.ok(&["bash", "-c", &format!("kill -9 {pid}; tail --pid={pid} -f /dev/null")]);
    }

    /// Makes a file in the root of the container whose process has this text on its command line.
    pub fn touch_in_container(&self, process: &str, path: &str) {
        let script = format!("pid=$(pgrep -o -f '{process}'); touch /proc/$pid/root/{path}");
        self.ok(&["bash", "-c", &script]);
    }

    /// What minik made on the host and has not removed.
    pub fn leftovers(&self) -> Vec<String> {
        let output =
            Command::new(script()).args(["leftovers", &self.host]).output().expect("scripts/testbed runs");
        assert!(output.status.success(), "{output:?}");
        text(output).stdout.lines().map(str::to_owned).collect()
    }

    /// Processes of minik on the host.
    pub fn processes(&self) -> Vec<String> {
        self.leftovers().into_iter().filter(|line| line.starts_with("process")).collect()
    }

    /// Runs a command in a terminal of this size.
    pub fn terminal(&self, args: &[&str], rows: u16, columns: u16) -> Terminal {
        Terminal::start(self.command(args), rows, columns)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        let _ = Command::new(script()).args(["down", &self.host]).output();
    }
}

/// A command in a terminal, typed into and read.
pub struct Terminal {
    child: Child,
    master: std::fs::File,
    pieces: mpsc::Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(mut command: Command, rows: u16, columns: u16) -> Terminal {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).expect("grant");
        unlockpt(&master).expect("unlock");
        let name = ptsname(&master, Vec::new()).expect("name");
        let path = std::path::PathBuf::from(name.into_string().expect("UTF-8"));
        let open = || std::fs::File::options().read(true).write(true).open(&path).expect("the other end");
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().expect("a command");
        let master = std::fs::File::from(master);
        let (sender, pieces) = mpsc::channel();
        let mut reader = master.try_clone().expect("a reader");
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(got) = reader.read(&mut buffer) {
                if got == 0 || sender.send(buffer[..got].to_vec()).is_err() {
                    return;
                }
            }
        });
        let terminal = Terminal { child, master, pieces, seen: String::new() };
        terminal.resize(rows, columns);
        terminal
    }

    /// Changes the window's size and tells the command.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.master, size).expect("a new size");
        // The terminal is nobody's controlling terminal here, so the kernel tells nobody.
        let group = i32::try_from(self.child.id()).expect("a pid");
        let all = Command::new("pkill").args(["-WINCH", "-P", &group.to_string()]).output();
        let _ = all;
        let _ = Command::new("kill").args(["-WINCH", &group.to_string()]).output();
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        self.master.write_all(format!("{line}\r").as_bytes()).expect("typing");
    }

    /// Reads until the text shows, which is then passed.
    pub fn wait_for(&mut self, text: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.seen.push_str(&String::from_utf8_lossy(&piece)),
                Err(_) => panic!("no {text:?} in {:?}", self.seen),
            }
        }
    }

    /// The command's exit code.
    pub fn end(mut self) -> Option<i32> {
        self.child.wait().expect("its end").code()
    }
}
