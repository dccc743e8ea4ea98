//! The API server as clients meet it: over TLS on loopback, with a store of its own and no node.
#![allow(clippy::unwrap_used)]

mod server;

mod bodies;
mod collector;
mod deletion;
mod discovery;
mod documents;
mod events;
mod identity;
mod objects;
mod operator;
mod pages;
mod watches;
mod writes;
