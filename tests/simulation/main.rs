//! Scenarios on a whole cluster whose containers are simulated: seconds of a real cluster in a fraction of one.
#![allow(clippy::unwrap_used)]

mod cluster;
mod shows;

mod autoscaling;
mod budgets;
mod cron_jobs;
mod daemon_sets;
mod deployments;
mod evictions;
mod garbage;
mod job_ends;
mod jobs;
mod namespaces;
mod node;
mod orphans;
mod pods;
mod pressure;
mod replica_sets;
mod rollouts;
mod scaling;
mod scheduling;
mod silence;
mod stateful_sets;
mod static_pods;
mod volumes;
