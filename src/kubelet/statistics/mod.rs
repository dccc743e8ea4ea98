//! What the node, its pods and their containers use: read when somebody asks, never in between.
//!
//! Rates need two readings. The last one is remembered; who asks first, or after a long time, waits a moment for the
//! second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::context::Context;
use super::observed::label;
use crate::api::node::{NodeUsage, PodUsage, Taken, Usage};
use crate::api::status::Status;
use crate::clock;
use crate::runtime::{Consumer, ContainerState, Observed, Runtime, Stats, Traffic};

pub mod disks;
pub mod page;
pub mod summary;
pub mod volumes;

/// Rates over less than this say little: who asks again so soon gets the same figures.
const SHORTEST: Duration = Duration::from_millis(100);
/// Between the two readings of somebody who asks first.
const MOMENT: Duration = Duration::from_millis(150);
/// Rates over more than this do not tell what is used now.
const LONGEST: Duration = Duration::from_secs(60);

/// A container that runs, and what it has used.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerReading {
    /// Its name within the pod.
    pub name: String,
    /// The runtime's id.
    pub id: String,
    /// Its image as the status shows it.
    pub image: String,
    /// Since when it runs.
    pub started: SystemTime,
    /// What it has used.
    pub stats: Stats,
}

/// A pod with running containers, and what it has used.
#[derive(Debug, Clone, PartialEq)]
pub struct PodReading {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its sandbox.
    pub sandbox: String,
    /// What it has used.
    pub stats: Stats,
    /// What has gone through the interfaces of its own network.
    pub traffic: Vec<Traffic>,
    /// Its containers, by name.
    pub containers: Vec<ContainerReading>,
}

/// The figures of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The moment by the calendar.
    pub at: Timestamp,
    /// The same by the clock that only goes forward.
    pub clock: Instant,
    /// The whole machine.
    pub machine: Stats,
    /// What has gone through its interfaces.
    pub traffic: Vec<Traffic>,
    /// All pods together.
    pub sandboxes: Stats,
    /// The pods, by namespace and name.
    pub pods: Vec<PodReading>,
}

/// Figures with their rates.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The newer of the two readings.
    pub reading: Reading,
    /// The time between them.
    pub window: Duration,
    rates: HashMap<Consumer, u64>,
}

/// What is to be done with the reading that is remembered (pure).
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// It is as good as a new one.
    Reuse,
    /// Rates since then.
    Since,
    /// Two new readings.
    Afresh,
}

fn plan(age: Option<Duration>) -> Plan {
    match age {
        Some(age) if age < SHORTEST => Plan::Reuse,
        Some(age) if age <= LONGEST => Plan::Since,
        _ => Plan::Afresh,
    }
}

/// Remembers the last figures.
#[derive(Debug, Default)]
pub struct Sampler {
    last: Mutex<Option<Arc<Measured>>>,
}

impl Sampler {
    /// The figures as they are now; those who ask at the same time share them.
    pub async fn measure<R: Runtime>(&self, context: &Arc<Context<R>>) -> Result<Arc<Measured>, Status> {
        let mut last = self.last.lock().await;
        let age = last.as_ref().map(|last| last.reading.clock.elapsed());
        let before = match (plan(age), &*last) {
            (Plan::Reuse, Some(last)) => return Ok(last.clone()),
            (Plan::Since, Some(last)) => last.reading.clone(),
            _ => {
                let first = read(context).await?;
                tokio::time::sleep(MOMENT).await;
                first
            }
        };
        let measured = Arc::new(Measured::between(&before, read(context).await?));
        *last = Some(measured.clone());
        Ok(measured)
    }
}

/// The figures of what runs at this moment.
pub async fn read<R: Runtime>(context: &Arc<Context<R>>) -> Result<Reading, Status> {
    let observed = context.runtime.observe().await.map_err(Status::internal)?;
    let context = context.clone();
    let reading = tokio::task::spawn_blocking(move || reading(&context.runtime, &observed));
    reading.await.map_err(Status::internal)?.map_err(Status::internal)
}

/// Reads the figures of what runs; what has ended since it was observed is left out.
fn reading<R: Runtime>(runtime: &R, observed: &Observed) -> Result<Reading, crate::runtime::Error> {
    let mut pods = Vec::new();
    for sandbox in observed.sandboxes.iter().filter(|sandbox| sandbox.alive) {
        let text = |key: &str| sandbox.labels.get(key).cloned().unwrap_or_default();
        let Ok(stats) = runtime.stats(&Consumer::Sandbox(sandbox.id.clone())) else { continue };
        let inside = observed.containers.iter().filter(|container| container.sandbox == sandbox.id);
        let mut containers: Vec<ContainerReading> = inside
            .filter_map(|container| {
                let ContainerState::Running { started, .. } = container.state else { return None };
                let of = Consumer::Container { sandbox: sandbox.id.clone(), id: container.id.clone() };
                let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
                Some(ContainerReading {
                    name: label(label::CONTAINER),
                    id: container.id.clone(),
                    image: label(label::IMAGE),
                    started,
                    stats: runtime.stats(&of).ok()?,
                })
            })
            .collect();
        if containers.is_empty() {
            continue;
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        pods.push(PodReading {
            namespace: text(label::NAMESPACE),
            name: text(label::POD),
            uid: text(label::UID),
            sandbox: sandbox.id.clone(),
            stats,
            traffic: runtime.traffic(&Consumer::Sandbox(sandbox.id.clone())),
            containers,
        });
    }
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    Ok(Reading {
        at: clock::now(),
        clock: Instant::now(),
        machine: runtime.stats(&Consumer::Machine)?,
        traffic: runtime.traffic(&Consumer::Machine),
        sandboxes: runtime.stats(&Consumer::Sandboxes)?,
        pods,
    })
}

/// CPU nanoseconds a second.
fn rate(nanos: u64, over: Duration) -> u64 {
    let rate = u128::from(nanos) * 1_000_000_000 / over.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

impl Reading {
    /// Everybody's CPU time.
    fn times(&self) -> HashMap<Consumer, u64> {
        let machine =
            [(Consumer::Machine, self.machine.cpu_nanos), (Consumer::Sandboxes, self.sandboxes.cpu_nanos)];
        let pods = self.pods.iter().flat_map(|pod| {
            let containers =
                pod.containers.iter().map(|c| (pod.consumer_of(c), c.stats.cpu_nanos)).collect::<Vec<_>>();
            containers.into_iter().chain([(pod.consumer(), pod.stats.cpu_nanos)])
        });
        machine.into_iter().chain(pods).collect()
    }
}

impl PodReading {
    /// The pod as its figures are asked for.
    pub fn consumer(&self) -> Consumer {
        Consumer::Sandbox(self.sandbox.clone())
    }

    /// One of its containers likewise.
    pub fn consumer_of(&self, container: &ContainerReading) -> Consumer {
        Consumer::Container { sandbox: self.sandbox.clone(), id: container.id.clone() }
    }
}

impl Measured {
    /// What happened between two readings (pure). Of what was not there before, everything did.
    pub fn between(before: &Reading, reading: Reading) -> Measured {
        let window = reading.clock.duration_since(before.clock);
        let earlier = before.times();
        let rates = reading.times().into_iter().map(|(consumer, nanos)| {
            let used = nanos.saturating_sub(earlier.get(&consumer).copied().unwrap_or(0));
            (consumer, rate(used, window))
        });
        Measured { rates: rates.collect(), window, reading }
    }

    /// The rate of a consumer, in thousand-millionths of a CPU.
    pub fn nano_cpus(&self, of: &Consumer) -> u64 {
        self.rates.get(of).copied().unwrap_or(0)
    }

    /// As metrics.k8s.io tells it.
    pub fn usage(&self, node: &str) -> NodeUsage {
        let taken = Taken { at: self.reading.at, window: self.window };
        let usage = |of: &Consumer, stats: &Stats| Usage {
            nano_cpus: self.nano_cpus(of),
            working_set: stats.memory_working_set,
        };
        NodeUsage {
            node: node.to_owned(),
            taken,
            machine: usage(&Consumer::Machine, &self.reading.machine),
            pods: self
                .reading
                .pods
                .iter()
                .map(|pod| PodUsage {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    taken,
                    containers: pod
                        .containers
                        .iter()
                        .map(|c| (c.name.clone(), usage(&pod.consumer_of(c), &c.stats)))
                        .collect(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Way;

    /// A pod `web` of two containers that have used so much, at this moment.
    pub fn moment(clock: Instant, machine: u64, containers: &[(&str, u64)]) -> Reading {
        let stats = |cpu_nanos| Stats {
            cpu_nanos,
            memory_usage: 3 << 20,
            memory_working_set: 2 << 20,
            ..Stats::default()
        };
        let containers: Vec<ContainerReading> = containers
            .iter()
            .map(|(name, nanos)| ContainerReading {
                name: (*name).to_owned(),
                id: format!("id-{name}"),
                image: "nginx".into(),
                started: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
                stats: stats(*nanos),
            })
            .collect();
        let all = containers.iter().map(|c| c.stats.cpu_nanos).sum();
        Reading {
            at: Timestamp::from_second(1_700_000_100).unwrap(),
            clock,
            machine: stats(machine),
            traffic: Vec::new(),
            sandboxes: stats(all),
            pods: vec![PodReading {
                namespace: "default".into(),
                name: "web".into(),
                uid: "u".into(),
                sandbox: "u-0".into(),
                stats: stats(all),
                traffic: vec![Traffic {
                    interface: "eth0".into(),
                    received: Way { bytes: 2000, errors: 3, ..Way::default() },
                    sent: Way { packets: 50, ..Way::default() },
                }],
                containers,
            }],
        }
    }

    #[tokio::test]
    async fn rates_are_what_was_used_in_between() {
        let start = Instant::now();
        let before = moment(start, 1_000, &[("a", 1_000_000_000)]);
        let after =
            moment(start + Duration::from_secs(2), 5_000, &[("a", 2_000_000_000), ("b", 500_000_000)]);
        let usage = Measured::between(&before, after).usage("n");
        assert_eq!((usage.machine.nano_cpus, usage.taken.window), (2_000, Duration::from_secs(2)));
        let of =
            |at: usize| (usage.pods[0].containers[at].0.as_str(), usage.pods[0].containers[at].1.nano_cpus);
        assert_eq!((of(0), of(1)), (("a", 500_000_000), ("b", 250_000_000)));
        assert_eq!(usage.pods[0].containers[0].1.working_set, 2 << 20);
        // A counter that went back counts nothing.
        let back = Measured::between(&moment(start, 9, &[]), moment(start + MOMENT, 1, &[]));
        assert_eq!(back.nano_cpus(&Consumer::Machine), 0);
    }

    #[test]
    fn old_readings_are_not_taken_for_the_present() {
        assert_eq!(plan(None), Plan::Afresh);
        assert_eq!(plan(Some(Duration::from_millis(5))), Plan::Reuse);
        assert_eq!(plan(Some(Duration::from_secs(15))), Plan::Since);
        assert_eq!(plan(Some(Duration::from_secs(600))), Plan::Afresh);
    }
}
