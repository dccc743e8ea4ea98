//! The command line: one file per verb, output, exit codes and hints.

use std::process::ExitCode;

/// Runs the verb on the command line and says how it went.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
