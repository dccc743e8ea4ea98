//! External programs: found in the system directories only, fed and read without dead-lock.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Where system programs live; the caller's `PATH` is not consulted.
const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

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

/// Runs a program with `input` on its standard input and returns its standard output.
///
/// Blocks until it ends: wrap it in `spawn_blocking` inside async code.
pub fn run(program: &str, args: &[&str], input: &[u8]) -> Result<Vec<u8>, Error> {
    let output = output(program, args, input)?;
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
    let mut child = spawn(program, args)?;
    let mut stdin = child.stdin.take();
    std::thread::scope(|scope| {
        // A writer of its own: the program may fill its output before it has read all input.
        scope.spawn(move || {
            if let Some(stdin) = stdin.as_mut() {
                // A program that ends without reading its input reports by its status.
                let _ = stdin.write_all(input);
            }
            drop(stdin);
        });
        child.wait_with_output().map_err(|source| Error::Run { program: program.to_owned(), source })
    })
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
