//! The API server as clients meet it: over TLS on loopback, with a store of its own and no node.
#![allow(clippy::unwrap_used)]

mod server;

mod collector;
mod deletion;
mod documents;
mod objects;
mod pages;
mod watches;
mod writes;
