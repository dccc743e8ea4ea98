//! The executable: hands the command line to [`minik::cli`] and exits with what it says.

use std::process::ExitCode;

fn main() -> ExitCode {
    minik::cli::main()
}
