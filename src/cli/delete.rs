//! `minik delete`: the machine as it was before.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::failure::Failure;
use super::kubeconfig::{self, Person};
use super::{Global, output, stop, target};
use crate::daemon::cleanup;
use crate::daemon::places::Places;
use crate::sys::removal;

/// Flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep the images, which the last cluster otherwise takes with it
    #[arg(long)]
    keep_images: bool,
}

/// Runs the verb.
pub async fn run(args: &Args, global: &Global) -> Result<(), Failure> {
    super::require_root("delete a cluster")?;
    let places = global.places()?;
    // One whose data is gone has existed all the same.
    let existed = places.data().exists() || places.run().exists() || cleanup::something_runs(&places);
    let _lock = target::lock(&places, "delete", stop::LOCK_LIMIT).await?;
    // Nothing of a deleted cluster is kept, so nothing is waited for.
    let mut failures = stop::halt(&places, Duration::ZERO).await;
    // The list of them is among the files.
    failures.extend(kubeconfig::remove_all(&Person::invoking(), &places).await);
    failures.extend(cleanup::remove_files(&places));
    if existed && !args.keep_images {
        // A start makes its cluster's directory under the same lock: none comes between the look and the removal.
        let _machine = target::lock_machine().await?;
        if !other_clusters(&places.data_dir) {
            for (what, place) in [("images", places.images()), ("programs", places.programs())] {
                let removed = removal::tree_with_mounts(&place);
                failures.extend(removed.err().map(|error| format!("{what}: {error}")));
            }
            let _ = fs::remove_dir(&places.data_dir);
        }
    }
    // The directory of all that runs is the machine's lock too: it goes when nobody is in it any more.
    let _ = fs::remove_dir(Places::all_runs());
    if !failures.is_empty() {
        return Err(Failure::general(format!(
            "not everything of {:?} could be removed:\n- {}",
            places.profile,
            failures.join("\n- ")
        ))
        .hint("run minik delete once more when the cause is gone"));
    }
    output::note(if existed {
        format!("minik: cluster {:?} is deleted", places.profile)
    } else {
        format!("minik: there is no cluster {:?}; nothing to delete", places.profile)
    });
    Ok(())
}

/// Whether there are directories of other clusters, with settings that can be read or without.
fn other_clusters(data_dir: &Path) -> bool {
    Places::profiles_in(data_dir).next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_that_cannot_be_read_count_too() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!other_clusters(dir.path()));
        for shared in [Places::new("a", dir.path()).images(), Places::new("a", dir.path()).programs()] {
            fs::create_dir(shared).unwrap();
        }
        // Of a file system's own root.
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(!other_clusters(dir.path()));
        fs::create_dir(dir.path().join("broken")).unwrap();
        assert!(other_clusters(dir.path()));
    }
}
