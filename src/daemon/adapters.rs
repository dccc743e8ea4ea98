//! The layers that know no Kubernetes words, in the shape in which the kubelet asks for them; the keys of the cluster
//! in that in which controllers do.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

use crate::apiserver::ApiServer;
use crate::apiserver::auth::tokens::Bound;
use crate::apiserver::pki::Pki;
use crate::controllers::Authority;
use crate::image::{Credential, Image, Images, Silent};
use crate::kubelet::context::{Addresses, ImageSource};
use crate::network::{Attachment, PodNetwork};

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
            Images::pull(self, reference, &credentials, &Silent).await.map_err(|error| error.to_string())
        }
        .boxed()
    }
}

impl Addresses for PodNetwork {
    fn attach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Attachment, String>> {
        async move { PodNetwork::attach(self, id).await.map_err(|error| error.to_string()) }.boxed()
    }

    fn detach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), String>> {
        async move { PodNetwork::detach(self, id).await.map_err(|error| error.to_string()) }.boxed()
    }
}
