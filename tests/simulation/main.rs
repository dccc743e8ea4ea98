//! Scenarios on a whole cluster whose containers are simulated: seconds of a real cluster in a fraction of one.
#![allow(clippy::unwrap_used)]

mod cluster;

mod autoscaling;
mod daemon_sets;
mod deployments;
mod evictions;
mod jobs;
mod node;
mod pressure;
mod replica_sets;
mod stateful_sets;
mod static_pods;
