//! What a kubelet asks for in a PodCertificateRequest, and what it is answered; no I/O.

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{PodCertificateRequest, PodCertificateRequestSpec};
use k8s_openapi::api::core::v1::{Pod, PodCertificateProjection};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::der;

/// For whom a certificate is, beside the pod: names and uids.
pub struct Parties<'a> {
    /// The pod's service account.
    pub account: (&'a str, &'a str),
    /// The node that the pod is on.
    pub node: (&'a str, &'a str),
}

/// The request for what a source of a volume is to show, with the proof of a new key.
pub fn request(
    pod: &Pod,
    parties: &Parties<'_>,
    projection: &PodCertificateProjection,
    proof: Vec<u8>,
) -> PodCertificateRequest {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: name.clone(),
        uid: uid.clone(),
        ..OwnerReference::default()
    };
    let [(account_name, account_uid), (node_name, node_uid)] = [parties.account, parties.node];
    PodCertificateRequest {
        metadata: ObjectMeta {
            namespace: pod.metadata.namespace.clone(),
            generate_name: Some("req-".to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: PodCertificateRequestSpec {
            signer_name: projection.signer_name.clone(),
            pod_name: name,
            pod_uid: uid,
            service_account_name: account_name.to_owned(),
            service_account_uid: account_uid.to_owned(),
            node_name: node_name.to_owned(),
            node_uid: node_uid.to_owned(),
            max_expiration_seconds: projection.max_expiration_seconds,
            stub_pkc_s10_request: ByteString(proof),
            unverified_user_annotations: projection.user_annotations.clone(),
        },
        status: None,
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was granted.
    Issued {
        /// The certificate and those between it and the authority, as PEM.
        chain: String,
        /// When the next one is to be asked for.
        refresh: Timestamp,
        /// When it is over.
        expires: Timestamp,
    },
    /// It was not, for good.
    Refused(Refusal),
}

/// Why there will be no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `Denied` or `Failed`.
    pub condition: String,
    reason: String,
    message: String,
}

impl Refusal {
    /// As a volume that cannot be made says it.
    pub fn told(&self) -> String {
        let Refusal { condition, reason, message } = self;
        let how = condition.to_lowercase();
        format!("PodCertificateRequest was permanently {how}: reason={reason:?} message={message:?}")
    }

    /// As an event says it of a request (`NAMESPACE/NAME`).
    pub fn event(&self, request: &str) -> String {
        let Refusal { condition, reason, message } = self;
        let how = if condition == "Denied" { "was denied" } else { "failed" };
        format!("PodCertificateRequest {request} {how}, reason={reason:?}, message={message:?}")
    }
}

/// What became of a request, if anything has.
pub fn answer(request: &PodCertificateRequest) -> Option<Answer> {
    let status = request.status.as_ref()?;
    let decides = |kind: &str| matches!(kind, "Issued" | "Denied" | "Failed");
    let decision = status.conditions.iter().flatten().find(|condition| decides(&condition.type_))?;
    if decision.type_ != "Issued" {
        return Some(Answer::Refused(Refusal {
            condition: decision.type_.clone(),
            reason: decision.reason.clone(),
            message: decision.message.clone(),
        }));
    }
    let blocks = der::certificates(status.certificate_chain.as_deref()?);
    Some(Answer::Issued {
        chain: blocks.map(|block| der::pem(der::CERTIFICATE, &block)).collect(),
        refresh: status.begin_refresh_at.as_ref()?.0,
        expires: status.not_after.as_ref()?.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_request_says_for_whom_and_what() {
        let pod =
            json!({"metadata": {"name": "web", "namespace": "d", "uid": "u"}, "spec": {"containers": []}});
        let projection = json!({"signerName": "example.com/ca", "keyType": "ED25519", "maxExpirationSeconds": 7200,
            "userAnnotations": {"example.com/role": "front"}, "keyPath": "key"});
        let parties = Parties { account: ("default", "a"), node: ("minik", "n") };
        let made = request(
            &serde_json::from_value(pod).unwrap(),
            &parties,
            &serde_json::from_value(projection).unwrap(),
            vec![1, 2, 3],
        );
        assert_eq!(
            serde_json::to_value(made).unwrap(),
            json!({
                "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
                "metadata": {"namespace": "d", "generateName": "req-",
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "u"}]},
                "spec": {"signerName": "example.com/ca", "podName": "web", "podUID": "u",
                    "serviceAccountName": "default", "serviceAccountUID": "a", "nodeName": "minik", "nodeUID": "n",
                    "maxExpirationSeconds": 7200, "stubPKCS10Request": "AQID",
                    "unverifiedUserAnnotations": {"example.com/role": "front"}},
            })
        );
    }

    #[test]
    fn an_answer_is_one_of_three() {
        let block = |content: u8| der::pem(der::CERTIFICATE, &[content]);
        let condition = |kind: &str| {
            json!([{"type": kind, "status": "True", "reason": "Why", "message": "so it is",
            "lastTransitionTime": "2030-01-01T00:00:00Z"}])
        };
        let issued = json!({"conditions": condition("Issued"), "notBefore": "2030-01-01T00:00:00Z",
            "beginRefreshAt": "2030-01-01T12:00:00Z", "notAfter": "2030-01-02T00:00:00Z",
            "certificateChain": format!("leaf:\n{}over it:\n{}", block(1), block(2))});
        let refused = |condition: &str| {
            let (reason, message) = ("Why".to_owned(), "so it is".to_owned());
            Some(Answer::Refused(Refusal { condition: condition.to_owned(), reason, message }))
        };
        for (status, expected) in [
            (Value::Null, None),
            (json!({}), None),
            (json!({"conditions": condition("Other")}), None),
            (json!({"conditions": condition("Denied")}), refused("Denied")),
            (json!({"conditions": condition("Failed")}), refused("Failed")),
            (
                issued,
                Some(Answer::Issued {
                    chain: [block(1), block(2)].concat(),
                    refresh: "2030-01-01T12:00:00Z".parse().unwrap(),
                    expires: "2030-01-02T00:00:00Z".parse().unwrap(),
                }),
            ),
        ] {
            let request = json!({"metadata": {}, "spec": {"signerName": "", "podName": "", "podUID": "",
                "serviceAccountName": "", "serviceAccountUID": "", "nodeName": "", "nodeUID": "",
                "stubPKCS10Request": ""}, "status": status});
            assert_eq!(answer(&serde_json::from_value(request).unwrap()), expected, "{status}");
        }
    }

    #[test]
    fn refusals_are_told_in_kubernetes_words() {
        for (condition, told, event) in [
            (
                "Denied",
                "PodCertificateRequest was permanently denied: reason=\"Why\" message=\"so it is\"",
                "PodCertificateRequest d/req-1 was denied, reason=\"Why\", message=\"so it is\"",
            ),
            (
                "Failed",
                "PodCertificateRequest was permanently failed: reason=\"Why\" message=\"so it is\"",
                "PodCertificateRequest d/req-1 failed, reason=\"Why\", message=\"so it is\"",
            ),
        ] {
            let (condition, reason, message) =
                (condition.to_owned(), "Why".to_owned(), "so it is".to_owned());
            let refusal = Refusal { condition, reason, message };
            assert_eq!((refusal.told().as_str(), refusal.event("d/req-1").as_str()), (told, event));
        }
    }
}
