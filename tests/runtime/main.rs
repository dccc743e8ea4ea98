//! The Linux runtime on the real kernel: containers are started, looked at from inside, killed and removed.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod devices;
mod host;
mod isolation;
mod life;
mod mounts;
mod recovery;
mod sessions;
mod users;
mod window;
