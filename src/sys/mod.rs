//! The only raw kernel calls and the only `unsafe` of the crate: processes, namespaces, mounts, paths, netlink.
#![allow(unsafe_code, clippy::disallowed_methods)]

mod allocator;
pub mod capability;
pub mod device;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod netns;
pub mod ownership;
pub mod path;
pub mod process;
pub mod program;
pub mod pty;
pub mod reaper;
pub mod removal;
pub mod seccomp;
pub mod socket;
pub mod stall;
pub mod usage;
pub mod users;
