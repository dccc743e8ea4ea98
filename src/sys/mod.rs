//! The only raw kernel calls and the only `unsafe` of the crate: processes, namespaces, mounts, paths, netlink.
#![allow(unsafe_code, clippy::disallowed_methods)]
