//! The certificates of pods: asked for with new keys, which never leave the node, and again in time.
//!
//! Each source of a volume has a task of its own, which begins when the volume is first made and ends with it. Keys are
//! in memory alone: a kubelet that begins again asks anew, and the volume shows the old ones until it is answered.
//!
//! Source: Kubernetes `pkg/kubelet/podcertificate`.

mod key;
mod request;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::PodCertificateRequest;
use k8s_openapi::api::core::v1::{Node, Pod, PodCertificateProjection, ServiceAccount};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::request::{Answer, Parties};
use crate::api::request::ListOptions;
use crate::client::Client;
use crate::client::events::{EventType, Recorder, reference};
use crate::client::reflector::{Reflector, key_of};
use crate::clock;
use crate::kubelet::backoff::Backoff;

/// How long after it was to be asked for a new certificate is overdue.
const OVERDUE: SignedDuration = SignedDuration::from_mins(10);
/// A new certificate is not asked for sooner than this after the last one, whatever its signer says: the pass that
/// Kubernetes' kubelet makes over all of them.
const SOONEST: Duration = Duration::from_secs(60);

/// Why nothing is shown yet.
const NOT_YET: &str = "credential bundle is not issued yet";

/// What asking for certificates needs.
#[derive(Clone)]
pub struct Issuance {
    /// For the requests.
    pub client: Client,
    /// Of what becomes of them.
    pub recorder: Recorder,
    /// The node's own object.
    pub nodes: Reflector<Node>,
    /// The node's name.
    pub node: String,
}

/// A key with its certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Bundle {
    /// PKCS #8, as PEM.
    pub key: String,
    /// The certificate and those between it and the authority, as PEM.
    pub chain: String,
}

/// A key with its certificate, or why there is none.
type Shown = Result<Bundle, String>;

/// The certificates of one pod.
pub struct Certificates {
    /// Told when there is something else to show.
    changed: Arc<Notify>,
    /// By volume and number of the source.
    kept: HashMap<(String, usize), Kept>,
}

struct Kept {
    shown: watch::Receiver<Shown>,
    _task: AbortOnDropHandle<()>,
}

impl Certificates {
    /// None yet; `changed` is told whenever one of them is another.
    pub fn new(changed: Arc<Notify>) -> Certificates {
        Certificates { changed, kept: HashMap::new() }
    }

    /// What a source of a volume shows at present. The first look has it asked for.
    pub fn get(
        &mut self,
        issuance: &Issuance,
        pod: &Pod,
        (volume, number): (&str, usize),
        projection: &PodCertificateProjection,
    ) -> Shown {
        let kept = self.kept.entry((volume.to_owned(), number)).or_insert_with(|| {
            let (show, shown) = watch::channel(Err(NOT_YET.to_owned()));
            let keeper = Keeper {
                issuance: issuance.clone(),
                pod: pod.clone(),
                projection: projection.clone(),
                show,
                changed: self.changed.clone(),
            };
            Kept { shown, _task: AbortOnDropHandle::new(tokio::spawn(keeper.keep())) }
        });
        kept.shown.borrow().clone()
    }
}

/// When what is shown gets old.
#[derive(Debug, Clone, Copy)]
struct Validity {
    refresh: Timestamp,
    expires: Timestamp,
}

/// A source of a volume, and who looks at what it shows.
struct Keeper {
    issuance: Issuance,
    pod: Pod,
    projection: PodCertificateProjection,
    show: watch::Sender<Shown>,
    changed: Arc<Notify>,
}

impl Keeper {
    /// Has a certificate shown, and a new one in time, until there will be none.
    async fn keep(self) {
        let mut validity = None;
        loop {
            let (request, key, answer) = tokio::select! {
                obtained = self.obtain(validity.is_none()) => obtained,
                never = self.grow_old(validity) => match never {},
            };
            match answer {
                Answer::Issued { chain, refresh, expires } => {
                    self.show(Ok(Bundle { key, chain }));
                    validity = Some(Validity { refresh, expires });
                    tokio::time::sleep(until(refresh).max(SOONEST)).await;
                }
                Answer::Refused(refusal) => {
                    self.event(&refusal.condition, &refusal.event(&key_of(&request)));
                    self.show(Err(refusal.told()));
                    return;
                }
            }
        }
    }

    fn show(&self, shown: Shown) {
        let changed = self.show.send_if_modified(|before| {
            let other = *before != shown;
            *before = shown;
            other
        });
        if changed {
            self.changed.notify_one();
        }
    }

    fn event(&self, reason: &str, message: &str) {
        self.issuance.recorder.record(&reference(&self.pod), EventType::Warning, reason, message);
    }

    /// Asks until there is an answer: one that went unanswered is asked again with another key. Where nothing is shown
    /// yet, it is said why not.
    async fn obtain(&self, first: bool) -> (PodCertificateRequest, String, Answer) {
        let mut backoff = Backoff::quick();
        loop {
            match self.ask().await {
                Ok((key, request)) => {
                    if first {
                        self.show(Err(NOT_YET.to_owned()));
                    }
                    if let Some(answer) = self.answer(&request).await {
                        return (request, key, answer);
                    }
                }
                Err(why) => {
                    let which = if first { "initial" } else { "refresh" };
                    let why = format!("while creating {which} PodCertificateRequest: {why}");
                    tracing::warn!(pod = self.pod.metadata.name, why, "no certificate");
                    if first {
                        self.show(Err(why));
                    }
                }
            }
            let now = Instant::now();
            backoff.grow(now, now);
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    /// Makes a key and a request for its certificate.
    async fn ask(&self) -> Result<(String, PodCertificateRequest), String> {
        let Issuance { client, nodes, node, .. } = &self.issuance;
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or("default");
        let account = self.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let account = account.unwrap_or("default");
        let found = client.namespaced::<ServiceAccount>(namespace).get(account).await;
        let found = found.map_err(|status| format!("while fetching service account: {status}"))?;
        let node_uid = nodes.get(node).and_then(|node| node.metadata.uid.clone());
        let node_uid = node_uid.ok_or_else(|| format!("while getting node object: {node:?} is not known"))?;
        let account_uid = found.metadata.uid.unwrap_or_default();
        let parties = Parties { account: (account, &account_uid), node: (node, &node_uid) };
        let kind = self.projection.key_type.clone();
        let key = super::blocking(move || key::make(&kind)).await;
        let key = key.map_err(|why| format!("while generating keypair: {why}"))?;
        let request = request::request(&self.pod, &parties, &self.projection, key.request);
        let made = client.namespaced::<PodCertificateRequest>(namespace).create(&request).await;
        let made = made.map_err(|status| format!("while creating on API: {status}"))?;
        Ok((key.pem, made))
    }

    /// Waits for the answer to a request; `None` when it is gone.
    async fn answer(&self, request: &PodCertificateRequest) -> Option<Answer> {
        let (namespace, name) = (request.metadata.namespace.as_deref(), request.metadata.name.as_deref());
        let api = self.issuance.client.namespaced::<PodCertificateRequest>(namespace.unwrap_or_default());
        let field_selector = format!("metadata.name={}", name.unwrap_or_default());
        let only = ListOptions { field_selector, ..ListOptions::default() };
        let (reflector, feed) = Reflector::new(api, only);
        let key = key_of(request);
        let told = async {
            reflector.reached(request).await;
            let look = |requests: &Reflector<PodCertificateRequest>| match requests.get(&key) {
                Some(request) => request::answer(&request).map(Some),
                None => Some(None),
            };
            reflector.until(|requests| look(requests).is_some()).await;
            look(&reflector).flatten()
        };
        tokio::select! {
            () = feed => None,
            answer = told => answer,
        }
    }

    /// Tells when what is shown should have been replaced, and when it is no longer good.
    async fn grow_old(&self, validity: Option<Validity>) -> Infallible {
        if let Some(Validity { refresh, expires }) = validity {
            let overdue = refresh.saturating_add(OVERDUE).unwrap_or(Timestamp::MAX);
            tokio::time::sleep(until(overdue)).await;
            self.event("CertificateOverdueForRefresh", "PodCertificate refresh overdue");
            tokio::time::sleep(until(expires)).await;
            self.event("CertificateExpired", "PodCertificate expired");
        }
        std::future::pending().await
    }
}

/// How long it is until then.
fn until(time: Timestamp) -> Duration {
    time.duration_since(clock::now()).try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::testing::FakeApi;
    use serde_json::json;

    #[tokio::test]
    async fn what_stands_in_the_way_is_told_and_lost_requests_are_made_again() {
        let server = FakeApi::default();
        let client = server.client();
        let (recorder, record) = Recorder::new(client.clone(), "kubelet", "n");
        let (nodes, feed) = Reflector::<Node>::new(client.all::<Node>(), ListOptions::default());
        let _tasks =
            [AbortOnDropHandle::new(tokio::spawn(record)), AbortOnDropHandle::new(tokio::spawn(feed))];
        let issuance = Issuance { client, recorder, nodes, node: "n".into() };
        let pod =
            json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": {"containers": []}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let projection = json!({"signerName": "a.b/c", "keyType": "ED25519", "keyPath": "k"});
        let projection: PodCertificateProjection = serde_json::from_value(projection).unwrap();
        let changed = Arc::new(Notify::new());
        let mut certificates = Certificates::new(changed.clone());
        let mut shown = || certificates.get(&issuance, &pod, ("v", 0), &projection).err().unwrap();
        assert_eq!(shown(), NOT_YET);
        changed.notified().await;
        const FAILED: &str = "while creating initial PodCertificateRequest: while";
        assert!(shown().starts_with(&format!("{FAILED} fetching service account: ")), "{}", shown());
        server.put("serviceaccounts", json!({"metadata": {"name": "default", "namespace": "d", "uid": "a"}}));
        changed.notified().await;
        assert_eq!(shown(), format!("{FAILED} getting node object: \"n\" is not known"));
        server.put("nodes", json!({"metadata": {"name": "n", "uid": "m"}}));
        changed.notified().await;
        assert_eq!(shown(), NOT_YET);
        let api = issuance.client.namespaced::<PodCertificateRequest>("d");
        let (requests, feed) = Reflector::new(api, ListOptions::default());
        let _feed = AbortOnDropHandle::new(tokio::spawn(feed));
        requests.until(|all| !all.list().is_empty()).await;
        let first = requests.list().remove(0);
        let name = |request: &PodCertificateRequest| request.metadata.name.clone().unwrap();
        server.remove("podcertificaterequests", "d", &name(&first));
        // The next may be there before anybody has seen that the first was gone.
        requests.until(|all| all.list().iter().any(|request| name(request) != name(&first))).await;
        let second = requests.list().pop().unwrap();
        assert_ne!(first.spec.stub_pkc_s10_request, second.spec.stub_pkc_s10_request, "with another key");
        drop(certificates);
        server.remove("podcertificaterequests", "d", &name(&second));
        assert!(server.all("podcertificaterequests").is_empty(), "nobody asks for volumes that are gone");
    }
}
