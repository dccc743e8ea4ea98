//! The certificates that ClusterTrustBundles say are to be trusted, as a file of a volume.
//!
//! Source: Kubernetes `pkg/kubelet/clustertrustbundle`.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::certificates::v1::ClusterTrustBundle;
use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use serde_json::Value;

use crate::api::der;
use crate::api::request::ListOptions;
use crate::api::selector::LabelSelector;
use crate::client::Client;

/// Which bundles a projection may show, as a field selector; `None` when it names none.
pub fn field_selector(projection: &ClusterTrustBundleProjection) -> Option<String> {
    match (&projection.name, &projection.signer_name) {
        (Some(name), _) => Some(format!("metadata.name={name}")),
        (None, Some(signer)) => Some(format!("spec.signerName={signer}")),
        (None, None) => None,
    }
}

/// What a projection shows at present.
pub async fn fetch(client: &Client, projection: &ClusterTrustBundleProjection) -> Result<Vec<u8>, String> {
    let Some(field_selector) = field_selector(projection) else {
        return Err("ClusterTrustBundle projection requires either name or signerName to be set".to_owned());
    };
    let options = ListOptions { field_selector, ..ListOptions::default() };
    let bundles = client.all::<ClusterTrustBundle>().list(options).await;
    show(projection, &bundles.map_err(|status| format!("while listing ClusterTrustBundles: {status}"))?)
}

/// What a projection shows of these bundles, others among them (pure).
fn show(
    projection: &ClusterTrustBundleProjection,
    bundles: &[ClusterTrustBundle],
) -> Result<Vec<u8>, String> {
    let wanted: Vec<&ClusterTrustBundle> = match &projection.name {
        Some(name) => bundles.iter().filter(|bundle| bundle.metadata.name.as_ref() == Some(name)).collect(),
        None => {
            let selector = serde_json::to_value(&projection.label_selector).unwrap_or(Value::Null);
            let selector = LabelSelector::from_object(&selector)
                .map_err(|why| format!("while parsing label selector: {why}"))?;
            let (of_signer, unlabelled) = (&projection.signer_name, BTreeMap::new());
            let selected = |bundle: &&ClusterTrustBundle| {
                bundle.spec.signer_name == *of_signer
                    && selector.matches_map(bundle.metadata.labels.as_ref().unwrap_or(&unlabelled))
            };
            bundles.iter().filter(selected).collect()
        }
    };
    if wanted.is_empty() && projection.optional != Some(true) {
        return Err(match &projection.name {
            Some(name) => format!(
                "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found"
            ),
            None => "combination of signerName and labelSelector matched zero ClusterTrustBundles".to_owned(),
        });
    }
    // Each once, and in an order that no bundle has a part in.
    let anchors: BTreeSet<Vec<u8>> =
        wanted.iter().flat_map(|bundle| der::certificates(&bundle.spec.trust_bundle)).collect();
    let blocks: Vec<String> = anchors.iter().map(|anchor| der::pem(der::CERTIFICATE, anchor)).collect();
    Ok(blocks.concat().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pem(content: u8) -> String {
        der::pem(der::CERTIFICATE, &[content])
    }

    fn bundle(name: &str, signer: Option<&str>, labels: Value, text: &str) -> ClusterTrustBundle {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels},
            "spec": {"signerName": signer, "trustBundle": text}}))
        .unwrap()
    }

    #[test]
    fn bundles_are_joined_without_what_stands_around_and_twice() {
        let signer = Some("example.com/ca");
        let bundles = [
            bundle("own", None, json!({}), &format!("of us:\n{}and\n{}{}", pem(3), pem(1), pem(3))),
            bundle("example.com:ca:b", signer, json!({"live": "yes"}), &[pem(9), pem(2)].concat()),
            bundle("example.com:ca:a", signer, json!({"live": "yes"}), &[pem(4), pem(9)].concat()),
            bundle("example.com:ca:c", signer, json!({"live": "no"}), &pem(8)),
            bundle("example.com:other:a", Some("example.com/other"), json!({"live": "yes"}), &pem(7)),
        ];
        const ZERO: &str = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        let missing =
            "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"none\" not found";
        let of = |more: Value| {
            let mut projection = json!({"path": "ca.pem", "signerName": "example.com/ca"});
            projection.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            projection
        };
        for (projection, expected) in [
            (json!({"path": "ca.pem", "name": "own"}), Ok(vec![1, 3])),
            (json!({"path": "ca.pem", "name": "none"}), Err(missing)),
            (json!({"path": "ca.pem", "name": "none", "optional": true}), Ok(vec![])),
            (of(json!({"labelSelector": {"matchLabels": {"live": "yes"}}})), Ok(vec![2, 4, 9])),
            (of(json!({"labelSelector": {}})), Ok(vec![2, 4, 8, 9])),
            (of(json!({})), Err(ZERO)),
            (of(json!({"optional": true})), Ok(vec![])),
            (of(json!({"labelSelector": {"matchLabels": {"live": "maybe"}}})), Err(ZERO)),
        ] {
            let read: ClusterTrustBundleProjection = serde_json::from_value(projection.clone()).unwrap();
            let shown = show(&read, &bundles).map(|bytes| String::from_utf8(bytes).unwrap());
            let expected = expected.map(|all| all.into_iter().map(pem).collect()).map_err(str::to_owned);
            assert_eq!(shown, expected, "{projection}");
        }
    }

    #[test]
    fn only_what_may_be_shown_is_asked_for() {
        for (projection, expected) in [
            (json!({"path": "p", "name": "a"}), Some("metadata.name=a")),
            (json!({"path": "p", "signerName": "a.b/c"}), Some("spec.signerName=a.b/c")),
            (json!({"path": "p"}), None),
        ] {
            let read: ClusterTrustBundleProjection = serde_json::from_value(projection).unwrap();
            assert_eq!(field_selector(&read).as_deref(), expected);
        }
    }
}
