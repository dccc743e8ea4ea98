//! External programs: found in the system directories only, fed and read without dead-lock, ended when they hang.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::process;

/// Where system programs live; the caller's `PATH` is not consulted.
const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

/// How long a program may take unless its caller knows better: its work is done in a moment, and one that waits for more
/// than another's lock waits for somebody who is not there (a credential helper that wants its passphrase typed).
const PATIENCE: Duration = Duration::from_secs(30);

/// Why an external program was of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not installed.
    #[error("program {0} is not installed")]
    Missing(String),
    /// It could not be started or talked to.
    #[error("running {program}: {source}")]
    Run {
        /// Its name.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It was ended because it took too long.
    #[error("{program} was still not done after {} s, and was killed", limit.as_secs_f32())]
    TooLong {
        /// Its name.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// It ended with failure.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// Its name.
        program: String,
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it said, trimmed.
        stderr: String,
    },
}

/// The full path of a system program, when it is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}

/// Runs a program with `input` on its standard input and returns its standard output. It has half a minute.
///
/// Blocks until it ends: wrap it in `spawn_blocking` inside async code.
pub fn run(program: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>, Error> {
    run_within(PATIENCE, program, args, input)
}

/// As [`run`], for a program that has so long.
pub fn run_within(limit: Duration, program: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>, Error> {
    let output = output_within(limit, program, args, input)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(Error::Failed {
        program: program.to_owned(),
        status: output.status,
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// As [`run`], whatever the exit status.
pub fn output(program: &str, args: &[&str], input: &[u8]) -> Result<Output, Error> {
    output_within(PATIENCE, program, args, input)
}

fn output_within(limit: Duration, program: &str, args: &[&str], input: &[u8]) -> Result<Output, Error> {
    let mut child = spawn(program, args)?;
    let talked = talk(&mut child, input, Instant::now() + limit);
    if !matches!(talked, Ok(Some(_))) {
        let _ = child.kill();
    }
    let failed = |source| Error::Run { program: program.to_owned(), source };
    let status = child.wait().map_err(failed)?;
    match talked.map_err(failed)? {
        Some([stdout, stderr]) => Ok(Output { status, stdout, stderr }),
        None => Err(Error::TooLong { program: program.to_owned(), limit }),
    }
}

/// Feeds a program and takes what it says on its two outputs until it ends; `None` when the time is over before that.
/// What it has left running may keep its outputs open: nobody waits for those.
fn talk(child: &mut Child, mut input: &[u8], until: Instant) -> io::Result<Option<[Vec<u8>; 2]>> {
    let ended = process::pidfd_open(child.id() as i32)?;
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let pipes =
        [stdin.as_ref().map(AsFd::as_fd), stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd)];
    for pipe in pipes.into_iter().flatten() {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    let mut said = [Vec::new(), Vec::new()];
    loop {
        if input.is_empty() {
            drop(stdin.take());
        }
        let left = until.saturating_duration_since(Instant::now());
        let mut watched = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        watched.extend(stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        watched.extend(stdout.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        watched.extend(stderr.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut watched, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if Instant::now() >= until => return Ok(None),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Asked before the outputs are read for the last time.
        let is_over = watched[0].any() == Some(true);
        if let Some(pipe) = &mut stdin {
            match pipe.write(input) {
                Ok(count) => input = &input[count..],
                Err(error) if is_for_later(&error) => {}
                // A program that ends without reading its input reports by its status.
                Err(_) => input = &[],
            }
        }
        if take(&mut stdout, &mut said[0])? {
            stdout = None;
        }
        if take(&mut stderr, &mut said[1])? {
            stderr = None;
        }
        if is_over {
            return Ok(Some(said));
        }
    }
}

/// As much as any pipe holds: who writes on and on does not keep its reader from looking at the time.
const PIPE_MAX: u64 = 1 << 20;

/// Takes what is in a pipe; whether its end is reached.
fn take(pipe: &mut Option<impl Read>, said: &mut Vec<u8>) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    match pipe.take(PIPE_MAX).read_to_end(said) {
        Ok(count) => Ok((count as u64) < PIPE_MAX),
        Err(error) if is_for_later(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Starts a program that speaks English, with its three streams at hand.
fn spawn(program: &str, args: &[&str]) -> Result<Child, Error> {
    let path = find(program).ok_or_else(|| Error::Missing(program.to_owned()))?;
    let mut command = Command::new(path);
    command.args(args).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|source| Error::Run { program: program.to_owned(), source })
}

/// A program that runs until this is dropped: it says a line when it is up, and ends when its input does.
pub struct Helper {
    child: Child,
}

impl Helper {
    /// Starts the program and waits for its line.
    pub fn start(program: &str, args: &[&str]) -> Result<Helper, Error> {
        use std::io::BufRead;
        let mut child = spawn(program, args)?;
        let mut line = String::new();
        let said = child.stdout.take().map(|stdout| io::BufReader::new(stdout).read_line(&mut line));
        match said {
            Some(Ok(1..)) => Ok(Helper { child }),
            _ => {
                let _ = child.kill();
                let output = child
                    .wait_with_output()
                    .map_err(|source| Error::Run { program: program.to_owned(), source })?;
                Err(Error::Failed {
                    program: program.to_owned(),
                    status: output.status,
                    stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                })
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A program on behalf of whoever runs this one: it has the same terminal, streams and environment.
pub fn on_behalf(executable: &Path) -> Command {
    Command::new(executable)
}

/// Starts `executable` in a session of its own, away from this process's terminal and directory; what it prints
/// goes to `log`. It outlives the caller.
pub fn spawn_detached(
    executable: &Path,
    args: &[String],
    log: std::fs::File,
) -> io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    let errors = log.try_clone()?;
    let mut command = Command::new(executable);
    command.args(args).current_dir("/").stdin(Stdio::null()).stdout(log).stderr(errors);
    // SAFETY: setsid is async-signal-safe and touches nothing of the parent's memory.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_input_comes_back_whole() {
        let input = vec![b'x'; 1 << 20];
        assert_eq!(run("cat", &[], &input).unwrap(), input);
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let short = Duration::from_millis(100);
        let error = run_within(short, "sh", &["-c", "echo up; exec sleep 1000"], &[]).unwrap_err();
        assert!(matches!(error, Error::TooLong { .. }), "{error}");
        assert!(error.to_string().starts_with("sh was still not done after 0.1 s"), "{error}");
        // Nor for what the program leaves running with its outputs.
        let left = run("sh", &["-c", "sleep 1000 & echo $!"], &[]).unwrap();
        let pid: i32 = String::from_utf8(left).unwrap().trim().parse().unwrap();
        process::kill(pid, libc::SIGKILL).unwrap();
        // One that closes its outputs first is known by its status all the same.
        assert!(run("sh", &["-c", "exec >&- 2>&-; read line; exit $line"], b"4\n").is_err());
    }

    #[test]
    fn a_helper_is_up_until_it_is_dropped() {
        let helper = Helper::start("sh", &["-c", "echo; read line"]).unwrap();
        let process = format!("/proc/{}", helper.pid());
        assert!(Path::new(&process).exists());
        drop(helper);
        assert!(!Path::new(&process).exists());
        let error = Helper::start("sh", &["-c", "echo no >&2; exit 2"]).err().unwrap().to_string();
        assert!(error.contains("no") && error.contains('2'), "{error}");
    }

    #[test]
    fn failures_carry_what_the_program_said() {
        let error = run("sh", &["-c", "echo broken >&2; exit 3"], &[]).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
        assert!(matches!(run("no-such-program", &[], &[]), Err(Error::Missing(_))));
    }
}
