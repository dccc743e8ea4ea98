//! What is on disks and goes through them, for cAdvisor's page: read when somebody asks for that page, never in between.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::page::{Family, float};
use super::summary::Disk;
use super::{Measured, Reading};
use crate::api::exposition::{Exposition, Type};
use crate::api::status::Status;
use crate::kubelet::context::Context;
use crate::runtime::{Consumer, DiskUse, Runtime, disks};

/// What containers have written is walked over: who asks again within this time gets the same sizes.
const FRESH: Duration = Duration::from_secs(60);

/// What has been read and written, and what is there.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Disks {
    /// The device of the file system that pods' files lie on, and how full it is.
    pub filesystem: (String, Disk),
    /// What went through the machine's disks.
    pub machine: Vec<DiskUse>,
    /// The same of pods, by their sandboxes.
    pub pods: BTreeMap<String, Vec<DiskUse>>,
    /// The same of containers, by the runtime's ids, and how many bytes they have on their root.
    pub containers: BTreeMap<String, (Vec<DiskUse>, u64)>,
}

/// Remembers how much containers had written.
#[derive(Debug, Default)]
pub struct Sizes(Mutex<HashMap<String, (Instant, u64)>>);

impl Sizes {
    /// How much a container has written, measured anew when that is not known of a moment ago.
    fn of(&self, id: &str, measure: impl FnOnce() -> u64) -> u64 {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(id).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, size)| *size);
        known.unwrap_or_else(|| {
            let size = measure();
            lock().insert(id.to_owned(), (Instant::now(), size));
            size
        })
    }

    /// Forgets all but these containers.
    fn keep(&self, there: &BTreeMap<String, (Vec<DiskUse>, u64)>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| there.contains_key(id));
    }
}

/// Reads what the machine and those that were measured have read and written.
pub async fn read<R: Runtime>(
    context: &Arc<Context<R>>,
    sizes: &Arc<Sizes>,
    measured: &Arc<Measured>,
    disk: Option<Disk>,
) -> Result<Disks, Status> {
    let (context, sizes, measured) = (context.clone(), sizes.clone(), measured.clone());
    let walk = move || {
        let (runtime, place) = (&context.runtime, &context.config.pods);
        let mut found = Disks {
            filesystem: (device(place), disk.unwrap_or_default()),
            machine: runtime.disks(&Consumer::Machine),
            ..Disks::default()
        };
        for pod in &measured.reading.pods {
            found.pods.insert(pod.sandbox.clone(), runtime.disks(&pod.consumer()));
            for container in &pod.containers {
                let uses = runtime.disks(&pod.consumer_of(container));
                // One that has just ended has nothing any more.
                let written = sizes.of(&container.id, || runtime.root_usage(&container.id).unwrap_or(0));
                found.containers.insert(container.id.clone(), (uses, written));
            }
        }
        sizes.keep(&found.containers);
        found
    };
    tokio::task::spawn_blocking(walk).await.map_err(Status::internal)
}

fn device(place: &Path) -> String {
    disks::device_of_path(place).unwrap_or_default()
}

/// The part of the page (pure).
pub(super) fn write(page: &mut Exposition, reading: &Reading, disks: &Disks) {
    let through: [Family<DiskUse>; 4] = [
        Family {
            name: "container_fs_reads_bytes_total",
            kind: Type::Counter,
            help: "Cumulative count of bytes read",
            of: |disk| float(disk.read.bytes),
        },
        Family {
            name: "container_fs_reads_total",
            kind: Type::Counter,
            help: "Cumulative count of reads completed",
            of: |disk| float(disk.read.operations),
        },
        Family {
            name: "container_fs_writes_bytes_total",
            kind: Type::Counter,
            help: "Cumulative count of bytes written",
            of: |disk| float(disk.written.bytes),
        },
        Family {
            name: "container_fs_writes_total",
            kind: Type::Counter,
            help: "Cumulative count of writes completed",
            of: |disk| float(disk.written.operations),
        },
    ];
    let (device, disk) = &disks.filesystem;
    for family in &through {
        page.family(family.name, family.kind, family.help);
        each(reading, |of, id| {
            let uses = match of {
                Of::Machine => Some(&disks.machine),
                Of::Pod(sandbox) => disks.pods.get(sandbox),
                Of::Container(container) => disks.containers.get(container).map(|(uses, _)| uses),
            };
            for used in uses.into_iter().flatten() {
                sample(page, family.name, (&used.device, id), (family.of)(used), reading);
            }
        });
    }
    // Of how full the file system is, and what somebody has of that.
    type Amount = fn(&Disk, u64) -> u64;
    let there: [(&str, &str, Amount); 2] = [
        (
            "container_fs_limit_bytes",
            "Number of bytes that can be consumed by the container on this filesystem.",
            |disk, _| disk.capacity,
        ),
        (
            "container_fs_usage_bytes",
            "Number of bytes that are consumed by the container on this filesystem.",
            |_, used| used,
        ),
    ];
    for (name, help, amount) in there {
        page.family(name, Type::Gauge, help);
        each(reading, |of, id| {
            let used = match of {
                Of::Machine => Some(disk.used()),
                Of::Pod(_) => None,
                Of::Container(container) => disks.containers.get(container).map(|(_, written)| *written),
            };
            let Some(used) = used else { return };
            sample(page, name, (device, id), float(amount(disk, used)), reading);
        });
    }
}

/// Whose figures they are.
enum Of<'a> {
    Machine,
    Pod(&'a str),
    Container(&'a str),
}

/// The labels that say so: container, id, image, name, namespace and pod.
type Labels<'a> = [&'a str; 6];

/// Names everybody in turn.
fn each(reading: &Reading, mut tell: impl FnMut(Of<'_>, Labels<'_>)) {
    tell(Of::Machine, ["", "/", "", "", "", ""]);
    for pod in &reading.pods {
        let id = format!("/pods/{}", pod.sandbox);
        tell(Of::Pod(&pod.sandbox), ["", &id, "", "", &pod.namespace, &pod.name]);
        for container in &pod.containers {
            let id = format!("{id}/{}", container.id);
            let labels = [&*container.name, &id, &container.image, &container.id, &pod.namespace, &pod.name];
            tell(Of::Container(&container.id), labels);
        }
    }
}

fn sample(
    page: &mut Exposition,
    name: &str,
    (device, [container, id, image, own, namespace, pod]): (&str, Labels<'_>),
    value: f64,
    reading: &Reading,
) {
    let labels = [
        ("container", container),
        ("device", device),
        ("id", id),
        ("image", image),
        ("name", own),
        ("namespace", namespace),
        ("pod", pod),
    ];
    page.sample_at(name, &labels, value, reading.at.as_millisecond());
}

#[cfg(test)]
mod tests {
    use super::super::tests::moment;
    use super::*;
    use crate::runtime::Share;

    #[tokio::test]
    async fn disks_are_told_by_device_and_sizes_of_the_file_system() {
        let reading = moment(Instant::now(), 0, &[("c", 0)]);
        let through = |bytes, operations| {
            let share = Share { bytes, operations };
            vec![DiskUse { device: "/dev/vda".into(), read: share, written: Share::default() }]
        };
        let disks = Disks {
            filesystem: ("/dev/vda1".into(), Disk { capacity: 1000, available: 400, ..Disk::default() }),
            machine: through(9000, 9),
            pods: [("u-0".into(), through(300, 3))].into(),
            containers: [("id-c".into(), (through(200, 2), 77))].into(),
        };
        let mut page = Exposition::default();
        write(&mut page, &reading, &disks);
        let page = page.into_text();
        let container =
            "id=\"/pods/u-0/id-c\",image=\"nginx\",name=\"id-c\",namespace=\"default\",pod=\"web\"}";
        let node = "id=\"/\",image=\"\",name=\"\",namespace=\"\",pod=\"\"}";
        for line in [
            format!(
                "container_fs_reads_bytes_total{{container=\"c\",device=\"/dev/vda\",{container} 200 1700000100000"
            ),
            format!("container_fs_reads_total{{container=\"\",device=\"/dev/vda\",{node} 9 1700000100000"),
            format!(
                "container_fs_usage_bytes{{container=\"c\",device=\"/dev/vda1\",{container} 77 1700000100000"
            ),
            format!("container_fs_usage_bytes{{container=\"\",device=\"/dev/vda1\",{node} 600 1700000100000"),
            format!(
                "container_fs_limit_bytes{{container=\"c\",device=\"/dev/vda1\",{container} 1000 1700000100000"
            ),
        ] {
            assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
        }
        assert_eq!(page.lines().filter(|line| line.starts_with("container_fs_writes_total")).count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_walked_over_just_now_is_not_walked_over_again() {
        let sizes = Sizes::default();
        assert_eq!(sizes.of("a", || 1), 1);
        assert_eq!(sizes.of("a", || 2), 1);
        tokio::time::sleep(FRESH).await;
        assert_eq!(sizes.of("a", || 3), 3);
        sizes.keep(&BTreeMap::new());
        assert_eq!(sizes.of("a", || 4), 4);
    }
}
