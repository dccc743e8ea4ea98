//! The certificate by which the API server is known is published as a ClusterTrustBundle, which pods can have in a volume.
//!
//! Source: Kubernetes `pkg/controller/certificates/clustertrustbundlepublisher`.

use std::sync::Arc;

use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use super::{Next, queue, work};
use crate::api::request::{DeleteOptions, ListOptions};
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::Reflector;

/// Who signs the API server's certificates.
const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// So many bytes of a bundle's checksum are in its name.
const IN_NAME: usize = 12;

/// Runs until dropped.
pub async fn run(client: Client, ca_pem: String) {
    let mut tasks = JoinSet::new();
    let of_signer =
        ListOptions { field_selector: format!("spec.signerName={SIGNER}"), ..ListOptions::default() };
    let (bundles, feed) = Reflector::new(client.all::<ClusterTrustBundle>(), of_signer);
    tasks.spawn(feed);
    bundles.synced().await;
    let queue = queue(&client, "ca_cert_publisher_cluster_trust_bundles");
    // All of the signer's bundles are looked at together.
    queue.add(SIGNER);
    let by_bundle = async {
        let mut changes = bundles.subscribe();
        while changes.next().await.is_some() {
            queue.add(SIGNER);
        }
    };
    let reconcile = |_| act(&client, plan(&bundles.list(), &ca_pem));
    tokio::join!(by_bundle, work("trust bundle", &queue, reconcile));
}

/// What is to be done.
#[derive(Debug, PartialEq)]
enum Step {
    Create(ClusterTrustBundle),
    Update(ClusterTrustBundle),
    Delete(String),
}

/// Of the signer's bundles there is to be one, which says what is named (pure). Others go when it is there.
fn plan(bundles: &[Arc<ClusterTrustBundle>], ca_pem: &str) -> Vec<Step> {
    let sum: String = Sha256::digest(ca_pem)[..IN_NAME].iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("{}:{sum}", SIGNER.replace('/', ":"));
    let name_of = |bundle: &ClusterTrustBundle| bundle.metadata.name.clone().unwrap_or_default();
    let (right, others): (Vec<_>, Vec<_>) = bundles.iter().partition(|bundle| name_of(bundle) == name);
    let spec =
        ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: ca_pem.to_owned() };
    let mut steps = Vec::new();
    match right.first() {
        None => {
            let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
            steps.push(Step::Create(ClusterTrustBundle { metadata, spec }));
        }
        Some(there) if there.spec.trust_bundle != ca_pem => {
            let metadata = there.metadata.clone();
            steps.push(Step::Update(ClusterTrustBundle { metadata, spec }));
        }
        Some(_) => {}
    }
    steps.extend(others.iter().map(|bundle| Step::Delete(name_of(bundle))));
    steps
}

async fn act(client: &Client, steps: Vec<Step>) -> Result<Next, Status> {
    let bundles = client.all::<ClusterTrustBundle>();
    for step in steps {
        match step {
            Step::Create(bundle) => drop(bundles.create(&bundle).await?),
            Step::Update(bundle) => drop(bundles.update(&bundle).await?),
            Step::Delete(name) => match bundles.delete(&name, DeleteOptions::default()).await {
                Err(status) if !status.is("NotFound") => return Err(status),
                _ => {}
            },
        }
    }
    Ok(Next::Await)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "kubernetes.io:kube-apiserver-serving:4b650e5c4785025dee7bd65e";

    fn bundle(name: &str, text: &str) -> ClusterTrustBundle {
        ClusterTrustBundle {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: ClusterTrustBundleSpec {
                signer_name: Some(SIGNER.to_owned()),
                trust_bundle: text.to_owned(),
            },
        }
    }

    #[test]
    fn there_is_one_bundle_named_after_what_it_says() {
        let right = || bundle(NAME, "CA");
        let old = || bundle("kubernetes.io:kube-apiserver-serving:old", "old");
        let gone = || Step::Delete("kubernetes.io:kube-apiserver-serving:old".to_owned());
        for (there, expected) in [
            (vec![], vec![Step::Create(right())]),
            (vec![right()], vec![]),
            (vec![bundle(NAME, "changed")], vec![Step::Update(right())]),
            (vec![old()], vec![Step::Create(right()), gone()]),
            (vec![old(), right()], vec![gone()]),
        ] {
            let there: Vec<_> = there.into_iter().map(Arc::new).collect();
            assert_eq!(plan(&there, "CA"), expected);
        }
    }
}
