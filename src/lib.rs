//! minik: a single-node Kubernetes in one process. This page is the map; read it before the code.
//!
//! ```text
//! manifest ─► kubectl / minik CLI / any client ──HTTPS──►  apiserver ─► registry ─► store (one revisioned log)
//!                                                             ▲                        │ watch
//!                   ┌───────────────┬───────────────┬─────────┴──────┬─────────────────┤
//!              controllers      scheduler        kubelet        service proxy     dns, ingress
//!              (endpoints…)       (bind)       (one worker/pod)   (nftables NAT)   (names, HTTP)
//!                                                │
//!                                       runtime ─┼─ image (pull, unpack)   network (veth, routes, ipam)
//!                                                │
//!                                  supervisor ─► pod init ─► container process
//!                                                │
//!                                        kernel: namespaces, overlayfs, cgroups, nftables
//! ```
//!
//! One binary: the command line, the daemon, and the supervisor that owns the containers' stdio and exit
//! codes are the same executable, told apart by subcommand. Components meet only in the store, through the
//! API: each is an ordinary Kubernetes client and knows no other component.
//!
//! # Layers, lowest first (arrows point down; `tests/tidy.rs` holds the table)
//!
//! | layer | modules | know |
//! |---|---|---|
//! | 0 | [`sys`], [`stdio`], [`clock`] | the kernel; the only `unsafe` |
//! | 1 | [`store`] | bytes, revisions, the disk |
//! | 2 | [`api`] | wire types, the table of kinds, selectors, patches; no I/O |
//! | 3 | [`image`], [`network`], [`runtime`] | containers and packets; no Kubernetes words |
//! | 3 | [`apiserver`] | the only user of the store |
//! | 3 | [`client`] | requests over any transport, reflectors, work queues |
//! | 4 | [`controllers`], [`scheduler`], [`kubelet`], [`proxy`], [`dns`], [`ingress`] | one loop each: observe, plan, act |
//! | 5 | [`daemon`] | every component: build, spawn, drain |
//! | 6 | [`cli`] | verbs, output, exit codes |
//!
//! # Invariants
//!
//! 1. Only `apiserver` touches `store`; everyone else goes through `client`.
//! 2. Decide, then do: each loop observes, calls a pure `plan`, executes. Plans have table tests and no I/O.
//! 3. Level-triggered: an event only names a key; dropping every cache and restarting loses nothing.
//! 4. The daemon never forks and runs Rust code: it spawns its own executable, and that small
//!    single-threaded process sets up and execs. `setns` happens only on a thread or process made for it.
//! 5. Containers outlive the daemon; no log line and no exit code is lost when it dies.
//! 6. Every kernel object minik makes is its own by name, and `minik delete` finds it even after a crash.
//! 7. Durable before acknowledged: a 2xx to a write means it survives power loss.
//! 8. Paths inside a container's root, volume or image are resolved inside that root, never by string join.
//! 9. No polling: an idle cluster uses no CPU beyond heartbeats. The exceptions are asked for: probes; emptyDirs on disk
//!    with a `sizeLimit` and containers with a limit of `ephemeral-storage` are measured every 10 seconds while their
//!    pod runs; other API servers that serve a part of the API (APIServices) are asked every 30 seconds whether they
//!    are there; autoscalers look at what pods use every 15 seconds, and so are volumes looked at that are to be emptied
//!    and in use; a port of the ingress that another program has is asked for again, less and less often; and while pods
//!    run or the node runs short, what is left of its memory, disks and processes is measured every 10 seconds to 5
//!    minutes, the more seldom the more is left.

pub mod sys;

pub mod stdio;

pub mod clock;

pub mod store;

pub mod api;

pub mod image;
pub mod network;
pub mod runtime;

pub mod apiserver;
pub mod client;

pub mod controllers;
pub mod dns;
pub mod ingress;
pub mod kubelet;
pub mod proxy;
pub mod scheduler;

pub mod daemon;

pub mod cli;
