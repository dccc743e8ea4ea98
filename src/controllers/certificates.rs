//! Certificate signing requests: approved ones are signed, old ones are removed.
//!
//! Sources: Kubernetes `pkg/controller/certificates/signer` and `cleaner`, `pkg/apis/certificates/helpers.go`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use tokio::task::JoinSet;

use super::{Authority, Next, enqueue, queue, reflect, work};
use crate::api::certificate_request::{self, CertificateRequest};
use crate::api::request::DeleteOptions;
use crate::api::status::Status;
use crate::client::Client;
use crate::client::reflector::Reflector;
use crate::clock;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// What a request gets that asks for no time of its own, and the most that it gets (`--cluster-signing-duration`).
const LONGEST: SignedDuration = SignedDuration::from_hours(365 * 24);
/// The least.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// How long a request stays once it was decided about.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
/// How long one stays about which nobody decides.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// What is to be done about a request.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// Nothing before this time, if ever.
    Wait(Option<Timestamp>),
    /// It gets a certificate for so long.
    Sign(SignedDuration),
    /// It never gets one.
    Fail(String),
    /// It is removed.
    Remove,
}

/// Runs until dropped.
pub async fn run(client: Client, authority: Arc<dyn Authority>) {
    let mut tasks = JoinSet::new();
    let requests: Reflector<CertificateSigningRequest> = reflect(&mut tasks, &client);
    requests.synced().await;
    let queue = queue(&client, "certificate");
    let reconcile = |key: String| {
        let request = requests.get(&key);
        let (client, authority) = (&client, &authority);
        async move {
            match request {
                Some(request) => act(client, authority.as_ref(), &request).await,
                None => Ok(Next::Await),
            }
        }
    };
    tokio::join!(enqueue(requests.subscribe(), queue.clone()), work("certificate", &queue, reconcile));
}

async fn act(
    client: &Client,
    authority: &dyn Authority,
    request: &CertificateSigningRequest,
) -> Result<Next, Status> {
    let now = clock::now();
    let name = request.metadata.name.as_deref().unwrap_or_default();
    let api = client.all::<CertificateSigningRequest>();
    let mut next = request.clone();
    let status = next.status.get_or_insert_default();
    match plan(request, now) {
        Action::Wait(until) => {
            let wait = until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default());
            return Ok(wait.map_or(Next::Await, Next::After));
        }
        Action::Remove => {
            return match api.delete(name, DeleteOptions::default()).await {
                Err(status) if !status.is("NotFound") => Err(status),
                _ => Ok(Next::Await),
            };
        }
        Action::Fail(why) => status.conditions.get_or_insert_default().push(failed(why, now)),
        Action::Sign(lifetime) => {
            let usages = request.spec.usages.as_deref().unwrap_or_default();
            let signed = authority.certificate(&request.spec.request.0, usages, lifetime, now);
            let certificate =
                signed.map_err(|why| Status::internal(format!("error auto signing csr: {why}")))?;
            status.certificate = Some(ByteString(certificate.into_bytes()));
        }
    }
    api.update_status(&next).await.map(|_| Next::Await)
}

fn failed(message: String, now: Timestamp) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: "Failed".to_owned(),
        status: "True".to_owned(),
        reason: Some("SignerValidationFailure".to_owned()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn plan(request: &CertificateSigningRequest, now: Timestamp) -> Action {
    let empty = Vec::new();
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_ref()).unwrap_or(&empty);
    let find = |name: &str| conditions.iter().find(|condition| condition.type_ == name);
    let certificate = status.and_then(|s| s.certificate.as_ref()).filter(|c| !c.0.is_empty());
    let (approved, denied) = (find("Approved"), find("Denied"));
    let since =
        |condition: &CertificateSigningRequestCondition| condition.last_update_time.as_ref().map(|t| t.0);
    let removed = match (approved, denied, certificate) {
        (_, Some(denied), _) => since(denied).map(|at| (at, DECIDED)),
        (Some(approved), None, Some(certificate)) => {
            let ended = end_of(&certificate.0).filter(|end| *end < now);
            ended.map(|end| (end, SignedDuration::ZERO)).or_else(|| since(approved).map(|at| (at, DECIDED)))
        }
        _ if conditions.is_empty() => request.metadata.creation_timestamp.as_ref().map(|t| (t.0, PENDING)),
        _ => None,
    };
    let removed = removed.and_then(|(at, stay)| at.checked_add(stay).ok());
    if removed.is_some_and(|at| at <= now) {
        return Action::Remove;
    }
    if approved.is_none() || denied.is_some() || find("Failed").is_some() || certificate.is_some() {
        return Action::Wait(removed);
    }
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    match check(&request.spec.signer_name, &request.spec.request.0, usages) {
        None => Action::Wait(removed),
        Some(Err(why)) => Action::Fail(why),
        Some(Ok(())) => {
            let asked = request.spec.expiration_seconds.map(|s| SignedDuration::from_secs(s.into()));
            Action::Sign(asked.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST))
        }
    }
}

/// When a certificate in PEM ends.
fn end_of(pem: &[u8]) -> Option<Timestamp> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&block.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// Whether a request is one that its signer signs; `None` for signers that are somebody else's.
fn check(signer: &str, request: &[u8], usages: &[String]) -> Option<Result<(), String>> {
    let set: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    Some(match signer {
        CLIENT => client_usages(usages),
        KUBELET_CLIENT => certificate_request::read(request).and_then(|asked| kubelet_client(&asked, &set)),
        KUBELET_SERVING => certificate_request::read(request).and_then(|asked| kubelet_serving(&asked, &set)),
        _ => return None,
    })
}

fn client_usages(usages: &[String]) -> Result<(), String> {
    let wrong = usages
        .iter()
        .find(|usage| !["digital signature", "key encipherment", "client auth"].contains(&usage.as_str()));
    if let Some(wrong) = wrong {
        return Err(format!("invalid usage for client certificate: {wrong}"));
    }
    if usages.iter().any(|usage| usage == "client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".to_owned())
}

fn kubelet_client(asked: &CertificateRequest, usages: &BTreeSet<&str>) -> Result<(), String> {
    of_nodes(asked)?;
    for (count, what) in
        [(asked.hosts, "DNS"), (asked.emails, "Email"), (asked.addresses, "IP"), (asked.uris, "URI")]
    {
        if count > 0 {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    of_a_node(asked)?;
    exactly(usages, "client auth")
}

fn kubelet_serving(asked: &CertificateRequest, usages: &BTreeSet<&str>) -> Result<(), String> {
    of_nodes(asked)?;
    if asked.hosts == 0 && asked.addresses == 0 {
        return Err("DNS or IP subjectAltName is required".to_owned());
    }
    for (count, what) in [(asked.emails, "Email"), (asked.uris, "URI")] {
        if count > 0 {
            return Err(format!("{what} subjectAltNames are not allowed"));
        }
    }
    exactly(usages, "server auth")?;
    of_a_node(asked)
}

fn of_nodes(asked: &CertificateRequest) -> Result<(), String> {
    let right = asked.organizations == ["system:nodes"];
    if right { Ok(()) } else { Err("subject organization is not system:nodes".to_owned()) }
}

fn of_a_node(asked: &CertificateRequest) -> Result<(), String> {
    let right = asked.common_name.starts_with("system:node:");
    if right { Ok(()) } else { Err("subject common name does not begin with system:node:".to_owned()) }
}

/// The usages are this one and those of its keys.
fn exactly(usages: &BTreeSet<&str>, purpose: &str) -> Result<(), String> {
    let mut wanted: BTreeSet<&str> = ["digital signature", purpose].into();
    if *usages == wanted {
        return Ok(());
    }
    wanted.insert("key encipherment");
    if *usages == wanted {
        return Ok(());
    }
    let mut list: Vec<&str> = wanted.into_iter().collect();
    list.sort_unstable();
    Err(format!("usages did not match [{}]", list.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(spec: Value, status: Value) -> CertificateSigningRequest {
        let mut whole = json!({"signerName": CLIENT, "request": "", "usages": ["client auth"]});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "a", "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": whole, "status": status}))
        .unwrap()
    }

    fn conditions(list: &[(&str, &str)]) -> Value {
        list.iter().map(|(kind, at)| json!({"type": kind, "status": "True", "lastUpdateTime": at})).collect()
    }

    #[test]
    fn approved_requests_are_signed_and_old_ones_go() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = at("2030-01-01T12:00:00Z");
        let recent = "2030-01-01T11:59:00Z";
        let later = Action::Wait(Some(at("2030-01-01T12:59:00Z")));
        let approved = |more: Value| {
            let mut status = json!({"conditions": conditions(&[("Approved", recent)])});
            for (key, value) in more.as_object().unwrap() {
                status[key] = value.clone();
            }
            status
        };
        for (spec, status, action) in [
            (json!({}), json!({}), Action::Wait(Some(at("2030-01-02T00:00:00Z")))),
            (json!({}), approved(json!({})), Action::Sign(LONGEST)),
            (
                json!({"expirationSeconds": 3600}),
                approved(json!({})),
                Action::Sign(SignedDuration::from_hours(1)),
            ),
            (json!({"expirationSeconds": 60}), approved(json!({})), Action::Sign(SHORTEST)),
            (json!({"expirationSeconds": 999_999_999}), approved(json!({})), Action::Sign(LONGEST)),
            (json!({"signerName": "example.com/x"}), approved(json!({})), Action::Wait(None)),
            (
                json!({"usages": ["server auth"]}),
                approved(json!({})),
                Action::Fail("invalid usage for client certificate: server auth".into()),
            ),
            (
                json!({"usages": ["digital signature"]}),
                approved(json!({})),
                Action::Fail("missing required usage for client certificate: client auth".into()),
            ),
            (json!({}), approved(json!({"certificate": "eA=="})), later),
            (
                json!({}),
                json!({"conditions": conditions(&[("Approved", recent), ("Failed", recent)])}),
                Action::Wait(None),
            ),
            (
                json!({}),
                json!({"conditions": conditions(&[("Denied", "2030-01-01T10:00:00Z")])}),
                Action::Remove,
            ),
            (
                json!({}),
                json!({"conditions": conditions(&[("Approved", "2030-01-01T10:00:00Z")]), "certificate": "eA=="}),
                Action::Remove,
            ),
        ] {
            assert_eq!(plan(&request(spec.clone(), status.clone()), now), action, "{spec} {status}");
        }
        assert_eq!(plan(&request(json!({}), json!({})), at("2030-01-03T00:00:00Z")), Action::Remove);
    }

    #[test]
    fn kubelets_ask_for_their_own() {
        let node = |hosts: usize| CertificateRequest {
            common_name: "system:node:minik".into(),
            organizations: vec!["system:nodes".into()],
            hosts,
            ..CertificateRequest::default()
        };
        let client: BTreeSet<&str> = ["digital signature", "client auth"].into();
        let serving: BTreeSet<&str> = ["digital signature", "key encipherment", "server auth"].into();
        let other = CertificateRequest { common_name: "jane".into(), ..node(0) };
        for (checked, expected) in [
            (kubelet_client(&node(0), &client), None),
            (kubelet_client(&node(1), &client), Some("DNS subjectAltNames are not allowed")),
            (kubelet_client(&other, &client), Some("subject common name does not begin with system:node:")),
            (
                kubelet_client(&node(0), &serving),
                Some("usages did not match [client auth digital signature key encipherment]"),
            ),
            (
                kubelet_client(&CertificateRequest::default(), &client),
                Some("subject organization is not system:nodes"),
            ),
            (kubelet_serving(&node(1), &serving), None),
            (kubelet_serving(&node(0), &serving), Some("DNS or IP subjectAltName is required")),
        ] {
            assert_eq!(checked.err().as_deref(), expected);
        }
    }
}
