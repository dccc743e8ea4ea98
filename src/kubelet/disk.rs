//! What a pod has on the node's disk at this moment.

use k8s_openapi::api::core::v1::Pod;

use super::context::Context;
use super::storage_limits::Usage;
use super::volumes::empty_dir;
use crate::runtime::Runtime;
use crate::sys::usage;

/// Walks over these volumes of a pod, and over what these containers (ids with names) have written and logged.
pub fn measure<'a, R: Runtime>(
    context: &Context<R>,
    pod: &Pod,
    volumes: impl Iterator<Item = &'a str>,
    containers: impl Iterator<Item = (String, String)>,
) -> Usage {
    let dirs = context.dirs(pod.metadata.uid.as_deref().unwrap_or(""));
    let logs = context.log_dir(pod);
    let mut taken = Usage::default();
    for name in volumes {
        taken.volumes.insert(name.to_owned(), empty_dir::used(&dirs, name));
    }
    for (id, name) in containers {
        // One that has just ended is none's to measure.
        let root = context.runtime.root_usage(&id).unwrap_or(0);
        let log = usage::of_directory(&logs.join(&name)).unwrap_or(0);
        taken.containers.insert(name, root + log);
    }
    taken
}
