//! The API server as clients meet it: over TLS on loopback, with a store of its own and no node.
#![allow(clippy::unwrap_used)]

mod server;

mod access;
mod addresses;
mod aggregation;
mod apply;
mod audit;
mod bodies;
mod certificates;
mod collector;
mod collector_elsewhere;
mod custom;
mod deletion;
mod discovery;
mod documents;
mod events;
mod fairness;
mod families;
mod figures;
mod identity;
mod kubectl;
mod kubectl_workloads;
mod objects;
mod pages;
mod platform;
mod pod_security;
mod policies;
mod proxies;
mod quotas;
mod refusals;
mod scheduling;
mod versions;
mod warnings;
mod watches;
mod webhooks;
mod workloads;
mod writes;
