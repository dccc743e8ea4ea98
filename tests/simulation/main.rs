//! Scenarios on a whole cluster whose containers are simulated: seconds of a real cluster in a fraction of one.
#![allow(clippy::unwrap_used)]

mod cluster;
mod scenarios;
mod shows;

mod autoscaling;
mod budget_cases;
mod budgets;
mod cron_cases;
mod cron_jobs;
mod daemon_sets;
mod deployment_cases;
mod deployments;
mod evictions;
mod garbage;
mod garbage_cases;
mod job_cases;
mod job_ends;
mod jobs;
mod namespaces;
mod node;
mod node_cases;
mod orphans;
mod pods;
mod pressure;
mod projected;
mod replica_sets;
mod rollouts;
mod scaling;
mod scheduling;
mod service_ranges;
mod silence;
mod stateful_cases;
mod stateful_sets;
mod static_pods;
mod volumes;
