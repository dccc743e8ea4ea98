//! Whether this kernel has what a pod network is made of, tried in a namespace that nobody else sees.

use std::os::fd::AsFd;
use std::path::Path;

use super::Error;
use super::links::VethPair;
use super::pods::create_namespace;
use crate::sys::netns;

/// Makes one link of each kind in a namespace bound at `path` for as long as that takes.
///
/// # Errors
/// What the kernel said to the first that it could not make.
pub async fn probe(path: &Path) -> Result<(), Error> {
    let released = |path: &Path| {
        netns::release(path).map_err(Error::io(format!("releasing namespace {}", path.display())))
    };
    if let Some(directory) = path.parent() {
        let tried = format!("making directory {}", directory.display());
        std::fs::create_dir_all(directory).map_err(Error::io(tried))?;
    }
    // Of a probe that was killed.
    released(path)?;
    let (namespace, links) = create_namespace(path.to_owned(), false).await?;
    let attempt = async {
        links.add_portless_bridge("bridge0", [0x0a, 0x58, 0, 0, 0, 1]).await?;
        let pair = VethPair {
            name: "veth0",
            mac: [0x0a, 0x58, 0, 0, 0, 2],
            peer: "veth1",
            peer_mac: [0x0a, 0x58, 0, 0, 0, 3],
            peer_namespace: namespace.as_fd(),
            mtu: 1500,
        };
        links.add_veth(pair).await
    };
    let result = attempt.await;
    // The links end with their namespace.
    result.and(released(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_left_of_a_probe() {
        if !rustix::process::geteuid().is_root() {
            tracing::warn!("skipped: needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/probe");
        probe(&path).await.unwrap();
        probe(&path).await.unwrap();
        assert!(!path.exists());
    }
}
