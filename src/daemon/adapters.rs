//! The layers that know no Kubernetes words, in the shape in which the kubelet asks for them; the keys of the cluster
//! and the directories of volumes in that in which controllers do.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::apiserver::ApiServer;
use crate::apiserver::auth::tokens::Bound;
use crate::apiserver::pki::Pki;
use crate::controllers::Authority;
use crate::controllers::volumes::Storage;
use crate::dns;
use crate::image::{Credential, Image, Images, Silent};
use crate::ingress;
use crate::kubelet::context::{Addresses, ImageSource};
use crate::network::{self, Attachment, PodNetwork};
use crate::proxy::Led;
use crate::runtime::Users;
use crate::runtime::users::UserRanges;
use crate::sys::path::Root;
use crate::sys::removal;

/// The keys of the cluster, for controllers that hand out what is signed with them.
pub(super) struct Keys {
    pub(super) pki: Arc<Pki>,
    pub(super) api: Arc<ApiServer>,
}

impl Authority for Keys {
    fn token(&self, namespace: &str, secret: &str, account: &str, uid: &str) -> Option<String> {
        let account = Bound { name: account.to_owned(), uid: uid.to_owned() };
        self.api.tokens().sign_for_secret(namespace, secret, &account)
    }

    fn certificate(
        &self,
        request: &[u8],
        usages: &[String],
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<String, String> {
        self.pki.sign_request(request, usages, lifetime, now)
    }
}

/// The directories of the volumes that the cluster makes.
pub(super) struct Volumes {
    pub(super) directory: PathBuf,
}

impl Volumes {
    /// The directory of the cluster that they are of.
    fn data(&self) -> &Path {
        self.directory.parent().unwrap_or(&self.directory)
    }

    /// The one name that leads from the directory to a volume's.
    fn name<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let mut inside = path.strip_prefix(&self.directory).ok()?.components();
        match (inside.next(), inside.next()) {
            (Some(Component::Normal(name)), None) => Some(Path::new(name)),
            _ => None,
        }
    }

    fn make_at(&self, path: &Path, name: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path).is_ok() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
        // It appears with its permissions; no volume's name begins with a dot.
        let new = format!(".{}", name.display());
        Root::open(&self.directory)?.strict().mkdir_all(&new, 0o777)?;
        fs::rename(self.directory.join(new), path)?;
        // The object that names it outlives a loss of power, and so must the directory.
        File::open(&self.directory)?.sync_all()
    }
}

impl Storage for Volumes {
    fn make(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.directory.join(name);
        let Some(name) = self.name(&path) else { return Err(format!("{name:?} cannot be a directory")) };
        self.make_at(&path, name).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path)
    }

    fn remove(&self, path: &Path) -> Result<(), String> {
        if self.name(path).is_none() {
            let own = self.directory.display();
            return Err(format!("{} is not the directory of a volume in {own}", path.display()));
        }
        removal::tree(path).map_err(|error| error.to_string())
    }

    fn scrub(&self, path: &Path) -> Result<(), String> {
        let shown = path.display();
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("{shown} must be absolute and without '..'"));
        }
        let told = |error: io::Error| format!("{shown}: {error}");
        // As for a pod that would use the volume.
        fs::create_dir_all(path).map_err(told)?;
        let own = fs::canonicalize(self.data()).map_err(told)?;
        let there = fs::canonicalize(path).map_err(told)?;
        let is_volume = |volumes: PathBuf| there != volumes && there.starts_with(volumes);
        let volumes = own.join(self.directory.file_name().unwrap_or_default());
        if own.starts_with(&there) || there.starts_with(&own) && !is_volume(volumes) {
            return Err(format!("{shown} holds the cluster itself"));
        }
        removal::contents(&there).map_err(told)
    }
}

impl ImageSource for Images {
    fn find<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<Option<Image>, String>> {
        let (images, reference) = (self.clone(), reference.to_owned());
        async move {
            // It may wait for another process that removes images.
            let found = tokio::task::spawn_blocking(move || Images::find(&images, &reference)).await;
            found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn pull<'a>(
        &'a self,
        reference: &'a str,
        credentials: Vec<Credential>,
    ) -> BoxFuture<'a, Result<Image, String>> {
        async move {
            Images::pull_for(self, reference, &credentials, &Silent).await.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn free(&self, bytes: u64, age: Duration) -> BoxFuture<'_, Result<Option<u64>, String>> {
        let images = self.clone();
        async move {
            let freed = tokio::task::spawn_blocking(move || Images::free(&images, bytes, age)).await;
            freed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
        }
        .boxed()
    }
}

/// The pod network, with what the service proxy says of connections to pods, and the ingress of requests to them.
pub(super) struct Network {
    pub(super) pods: PodNetwork,
    pub(super) users: UserRanges,
    pub(super) led: watch::Receiver<Led>,
    pub(super) gone: UnboundedSender<IpAddr>,
    pub(super) asked: watch::Receiver<ingress::Asked>,
}

impl Network {
    /// Does something about the users of pods.
    async fn with_users<T: Send + 'static>(
        &self,
        work: impl FnOnce(&UserRanges) -> io::Result<T> + Send + 'static,
    ) -> Result<T, String> {
        let users = self.users.clone();
        let done = tokio::task::spawn_blocking(move || work(&users)).await;
        done.map_err(io::Error::from).flatten().map_err(|error| format!("user ids: {error}"))
    }
}

impl Addresses for Network {
    fn attach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Attachment, String>> {
        async move { self.pods.attach(id).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn detach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move {
            let gone = self.pods.detach(id).await.map_err(|error| error.to_string())?;
            for address in gone.iter().flat_map(Attachment::addresses) {
                // The proxy ends only when the daemon does.
                let _ = self.gone.send(address);
            }
            let id = id.to_owned();
            self.with_users(move |users| users.give_back(&id)).await
        }
        .boxed()
    }

    fn held(&self) -> BoxFuture<'_, Result<BTreeSet<String>, String>> {
        async move {
            let mut held = self.with_users(UserRanges::pods).await?;
            held.extend(self.pods.attachments().into_keys());
            Ok(held)
        }
        .boxed()
    }

    fn users<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Users, String>> {
        let id = id.to_owned();
        self.with_users(move |users| users.take(&id)).boxed()
    }

    fn is_waited_for<'a>(&'a self, id: &'a str) -> BoxFuture<'a, bool> {
        async move {
            let Some(pod) = self.pods.attachments().remove(id) else { return false };
            let look = move || network::is_waited_for(&pod.namespace);
            let waits = tokio::task::spawn_blocking(look).await.map_err(std::io::Error::from).flatten();
            // It ends in any case; nobody is helped by waiting for what cannot be seen.
            waits
                .inspect_err(|error| tracing::debug!(id, %error, "looking for waiting connections"))
                .unwrap_or(false)
        }
        .boxed()
    }

    fn left(&self, addresses: Vec<IpAddr>) -> BoxFuture<'static, ()> {
        let mut led = self.led.clone();
        let unasked = unasked(self.asked.clone(), addresses.clone());
        async move {
            // A proxy that has ended leads nobody anywhere else, however long one waits.
            let is_left = |led: &Led| {
                led.as_ref().is_some_and(|led| !addresses.iter().any(|address| led.contains(address)))
            };
            let unled = async { drop(led.wait_for(is_left).await) };
            tokio::join!(unled, unasked);
        }
        .boxed()
    }
}

/// Waits until the ingress asks none of these addresses any more; one that has ended asks nobody.
async fn unasked(mut asked: watch::Receiver<ingress::Asked>, addresses: Vec<IpAddr>) {
    let _ = asked.wait_for(|asked| !addresses.iter().any(|address| asked.contains(address))).await;
}

/// The cluster's names, as its name server says them.
pub(super) struct Names {
    /// Where the server is.
    pub(super) server: SocketAddr,
    /// `cluster.local`.
    pub(super) domain: &'static str,
}

impl ingress::Names for Names {
    fn addresses(&self, name: &str) -> BoxFuture<'static, Vec<IpAddr>> {
        let plain = name.trim_end_matches('.').to_ascii_lowercase();
        let within = plain.strip_suffix(self.domain).is_some_and(|rest| rest.ends_with('.'));
        if !within {
            return futures::future::ready(Vec::new()).boxed();
        }
        let server = self.server;
        async move {
            dns::lookup::addresses(server, &plain).await.unwrap_or_else(|error| {
                tracing::debug!(name = plain, %error, "asking for a name of the cluster");
                Vec::new()
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_pod_is_left_when_the_ingress_asks_it_no_more() {
        let pod: IpAddr = "10.244.0.5".parse().unwrap();
        let asked = watch::Sender::new(ingress::Asked::from([pod].into_iter().collect::<BTreeSet<_>>()));
        let wait = || unasked(asked.subscribe(), vec![pod]);
        assert!(wait().now_or_never().is_none());
        asked.send_replace(ingress::Asked::default());
        assert!(wait().now_or_never().is_some());
        asked.send_replace(ingress::Asked::from([pod].into_iter().collect::<BTreeSet<_>>()));
        let waiting = unasked(asked.subscribe(), vec![pod]);
        drop(asked);
        assert!(waiting.now_or_never().is_some(), "whoever has ended asks nobody");
    }

    #[test]
    fn volumes_are_made_for_everybody_and_removed_only_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes { directory: dir.path().join("volumes") };
        let path = volumes.make("pvc-1").unwrap();
        assert_eq!(path, dir.path().join("volumes/pvc-1"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o777);
        fs::write(path.join("file"), "x").unwrap();
        assert_eq!(volumes.make("pvc-1").unwrap(), path, "data stays");
        assert!(path.join("file").exists());
        for name in ["", "..", "a/b", "/etc"] {
            assert!(volumes.make(name).is_err(), "{name}");
        }
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        for wrong in [
            outside.clone(),
            volumes.directory.clone(),
            volumes.directory.join("../outside"),
            path.join("file"),
        ] {
            assert!(volumes.remove(&wrong).is_err(), "{}", wrong.display());
        }
        std::os::unix::fs::symlink(&outside, volumes.directory.join("link")).unwrap();
        volumes.remove(&volumes.directory.join("link")).unwrap();
        assert!(outside.is_dir());
        volumes.remove(&path).unwrap();
        volumes.remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn volumes_are_scrubbed_wherever_they_are_but_not_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes { directory: dir.path().join("cluster/volumes") };
        let path = volumes.make("pvc-1").unwrap();
        for place in [path.clone(), dir.path().join("by-hand")] {
            fs::create_dir_all(place.join("deep")).unwrap();
            fs::write(place.join("deep/file"), "x").unwrap();
            volumes.scrub(&place).unwrap();
            assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "{}", place.display());
        }
        volumes.scrub(&dir.path().join("new")).unwrap();
        assert!(dir.path().join("new").is_dir());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("cluster"), &link).unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let store = dir.path().join("cluster/store");
        for wrong in [
            dir.path(),
            &link,
            &store,
            &volumes.directory,
            Path::new("/"),
            &path.join("../.."),
            Path::new("by-hand"),
            &dir.path().join("file"),
        ] {
            assert!(volumes.scrub(wrong).is_err(), "{}", wrong.display());
        }
        assert!(path.is_dir());
    }
}
