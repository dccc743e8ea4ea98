//! Projected volumes that show certificates: those of authorities to trust, and those of the pods themselves.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use minik::clock;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData};
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

use crate::cluster::Cluster;

const SIGNER: &str = "example.com/signer";

/// A pod whose volume `v` has these sources.
fn pod(name: &str, sources: Value) -> String {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "v", "projected": {"sources": sources}}],
        "securityContext": {"runAsUser": 0},
        "containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}})
    .to_string()
}

fn running() -> Value {
    json!({"status": {"phase": "Running"}})
}

/// An authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A bundle with its certificate, said to be of a signer or of none.
    fn bundle(&self, name: &str, signer: Option<&str>, labels: Value) -> String {
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle",
            "metadata": {"name": name, "labels": labels}, "spec": {"signerName": signer, "trustBundle": self.pem}})
        .to_string()
    }

    /// Grants a request: for an hour, of which half goes by before the next one.
    async fn sign(&self, cluster: &Cluster, request: &Value) {
        let stub = STANDARD.decode(request["spec"]["stubPKCS10Request"].as_str().unwrap()).unwrap();
        let (_, stub) = X509CertificationRequest::from_der(&stub).unwrap();
        let key = stub.certification_request_info.subject_pki.raw;
        let key = rcgen::SubjectPublicKeyInfo::from_der(key).unwrap();
        let now = Timestamp::from_second(clock::now().as_second()).unwrap();
        let at = |minutes: i64| now + SignedDuration::from_mins(minutes);
        let mut params = CertificateParams::new(vec!["www.example".to_owned()]).unwrap();
        params.not_before = SystemTime::from(now).into();
        params.not_after = SystemTime::from(at(60)).into();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().pem();
        let status = json!({"conditions": [condition("Issued", "Test", "as asked")],
            "certificateChain": format!("for the pod:\n{leaf}of the authority:\n{}", self.pem),
            "notBefore": now.to_string(), "beginRefreshAt": at(30).to_string(), "notAfter": at(60).to_string()});
        cluster.patch_status(&path(request), status).await;
    }
}

fn condition(kind: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": clock::now().strftime("%FT%TZ").to_string()})
}

fn path(request: &Value) -> String {
    format!("podcertificaterequests/{}", request["metadata"]["name"].as_str().unwrap())
}

/// The request of a pod that nobody has answered yet.
async fn asked(cluster: &Cluster, pod: &str) -> Value {
    let waits = |request: &Value| {
        request["spec"]["podName"] == *pod && request["status"]["conditions"].as_array().is_none()
    };
    let all = cluster.until_all("podcertificaterequests", |all| all.iter().any(waits)).await;
    all.into_iter().find(waits).unwrap()
}

fn read(volume: &Path, file: &str) -> String {
    fs::read_to_string(volume.join(file)).unwrap()
}

/// The certificates in a file, in its order.
fn certificates(text: &str) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(text.as_bytes()).map(|block| block.unwrap().contents).collect()
}

/// Sees to it that a bundle is a key and then the chain for it, without anything between; answers the key.
fn key_of(bundle: &str) -> String {
    assert!(bundle.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{bundle}");
    let end = "-----END PRIVATE KEY-----\n";
    let (key, chain) = bundle.split_at(bundle.find(end).unwrap() + end.len());
    let blocks: Vec<Pem> = Pem::iter_from_buffer(chain.as_bytes()).map(Result::unwrap).collect();
    let whole: usize = chain.lines().filter(|line| line.starts_with("-----")).count();
    assert_eq!((blocks.len(), whole, chain.contains("for the pod")), (2, 4, false), "{chain}");
    let leaf = blocks[0].parse_x509().unwrap();
    let pair = KeyPair::from_pem(key).unwrap();
    assert_eq!(leaf.public_key().raw, pair.subject_public_key_info(), "the key is that of the certificate");
    key.to_owned()
}

#[tokio::test]
async fn trust_bundles_are_shown_and_followed() {
    let cluster = Cluster::start().await;
    let [one, two, three] = ["one", "two", "three"].map(Authority::new);
    cluster.apply(&one.bundle("example.com:signer:one", Some(SIGNER), json!({"live": "yes"}))).await;
    cluster.apply(&two.bundle("example.com:signer:two", Some(SIGNER), json!({"live": "no"}))).await;
    let sources = json!([
        {"clusterTrustBundle": {"path": "named.pem", "name": "own"}},
        {"clusterTrustBundle": {"path": "live.pem", "signerName": SIGNER,
            "labelSelector": {"matchLabels": {"live": "yes"}}}},
        {"clusterTrustBundle": {"path": "all.pem", "signerName": SIGNER, "labelSelector": {}}},
        {"clusterTrustBundle": {"path": "none.pem", "signerName": SIGNER, "optional": true}},
        {"clusterTrustBundle": {"path": "server.pem", "signerName": "kubernetes.io/kube-apiserver-serving",
            "labelSelector": {}}},
    ]);
    cluster.apply(&pod("web", sources)).await;
    let told = "FailedMount: MountVolume.SetUp failed for volume \"v\" : while getting ClusterTrustBundle: \
                clustertrustbundle.certificates.k8s.io \"own\" not found";
    cluster.until_event("Pod/web", told).await;
    cluster.apply(&three.bundle("own", None, json!({}))).await;
    let web = cluster.shows("pods/web", running()).await;
    let volume = cluster.volume(&web, "v");
    let of = |authorities: &[&Authority]| {
        let mut all: Vec<_> = authorities.iter().flat_map(|authority| certificates(&authority.pem)).collect();
        all.sort();
        all
    };
    let shown = |file: &str| certificates(&read(&volume, file));
    assert_eq!(shown("named.pem"), of(&[&three]));
    assert_eq!((shown("live.pem"), shown("all.pem")), (of(&[&one]), of(&[&one, &two])));
    assert_eq!((read(&volume, "none.pem").as_str(), shown("server.pem").len()), ("", 1));

    // Whatever changes is shown within a second.
    let before = fs::read_link(volume.join("..data")).unwrap();
    let two_now = json!({"metadata": {"labels": {"live": "yes"}}});
    cluster.patch(":clustertrustbundles/example.com:signer:two", two_now).await;
    cluster.patch(":clustertrustbundles/own", json!({"spec": {"trustBundle": one.pem}})).await;
    cluster.pass(1).await;
    assert_eq!((shown("live.pem"), shown("named.pem")), (of(&[&one, &two]), of(&[&one])));
    assert_ne!(fs::read_link(volume.join("..data")).unwrap(), before, "by a swap");
    cluster.apply(&three.bundle("example.com:signer:three", Some(SIGNER), json!({}))).await;
    cluster.delete(":clustertrustbundles/example.com:signer:one").await;
    cluster.pass(1).await;
    assert_eq!((shown("live.pem"), shown("all.pem")), (of(&[&two]), of(&[&two, &three])));
    // What nothing is left of stays as it was.
    cluster.delete(":clustertrustbundles/example.com:signer:two").await;
    cluster
        .until_event(
            "Pod/web",
            "FailedMount: MountVolume.SetUp failed for volume \"v\" : combination of signerName and labelSelector \
             matched zero ClusterTrustBundles",
        )
        .await;
    assert_eq!(shown("live.pem"), of(&[&two]));
    cluster.is("pods/web", running()).await;
}

#[tokio::test]
async fn the_servers_own_authority_is_published() {
    let cluster = Cluster::start().await;
    let signer = "kubernetes.io/kube-apiserver-serving";
    let of_signer = |bundle: &&Value| bundle["spec"]["signerName"] == signer;
    let all = cluster.list("clustertrustbundles").await;
    let [published] = &all.iter().filter(of_signer).collect::<Vec<_>>()[..] else { panic!("{all:#?}") };
    let name = published["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("kubernetes.io:kube-apiserver-serving:") && name.len() == 37 + 24, "{name}");
    // It comes back, and stands alone.
    cluster.delete(&format!(":clustertrustbundles/{name}")).await;
    let other =
        Authority::new("other").bundle("kubernetes.io:kube-apiserver-serving:x", Some(signer), json!({}));
    cluster.apply(&other).await;
    let path = format!(":clustertrustbundles/{name}");
    cluster.shows(&path, json!({"spec": {"trustBundle": published["spec"]["trustBundle"]}})).await;
    cluster.until_gone(":clustertrustbundles/kubernetes.io:kube-apiserver-serving:x").await;
}

#[tokio::test]
async fn a_pod_gets_a_certificate_and_new_ones_in_time() {
    let mut cluster = Cluster::start().await;
    let authority = Authority::new("signer");
    let sources = json!([
        {"podCertificate": {"signerName": SIGNER, "keyType": "ECDSAP256", "credentialBundlePath": "both.pem",
            "keyPath": "key.pem", "certificateChainPath": "chain/chain.pem", "maxExpirationSeconds": 3600,
            "userAnnotations": {"example.com/role": "front"}}},
    ]);
    cluster.apply(&pod("web", sources)).await;
    let why = "FailedMount: MountVolume.SetUp failed for volume \"v\" : credential bundle is not issued yet";
    cluster.until_event("Pod/web", why).await;
    let request = asked(&cluster, "web").await;
    let web = cluster.get("pods/web").await.unwrap();
    let account = cluster.get("serviceaccounts/default").await.unwrap();
    let node = cluster.get(":nodes/minik").await.unwrap();
    let uid = |object: &Value| object["metadata"]["uid"].clone();
    let expected = json!({"signerName": SIGNER, "podName": "web", "podUID": uid(&web), "serviceAccountName": "default",
        "serviceAccountUID": uid(&account), "nodeName": "minik", "nodeUID": uid(&node),
        "maxExpirationSeconds": 3600, "unverifiedUserAnnotations": {"example.com/role": "front"}});
    let mut spec = request["spec"].clone();
    spec.as_object_mut().unwrap().remove("stubPKCS10Request");
    assert_eq!(spec, expected);
    assert!(request["metadata"]["name"].as_str().unwrap().starts_with("req-"));

    authority.sign(&cluster, &request).await;
    cluster.shows("pods/web", running()).await;
    let volume = cluster.volume(&web, "v");
    let first = read(&volume, "both.pem");
    assert_eq!(first, [read(&volume, "key.pem"), read(&volume, "chain/chain.pem")].concat());
    let key = key_of(&first);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(volume.join("key.pem")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "it is known whose it is");

    // Half an hour later there is another key.
    cluster.pass(29 * 60).await;
    let left = cluster.list("podcertificaterequests").await;
    assert_eq!((left.len(), read(&volume, "both.pem")), (0, first.clone()));
    cluster.pass(60).await;
    let request = asked(&cluster, "web").await;
    assert_eq!(read(&volume, "both.pem"), first);
    authority.sign(&cluster, &request).await;
    cluster.pass(1).await;
    let second = read(&volume, "both.pem");
    assert_ne!(key_of(&second), key);

    // A signer that keeps silent is asked again, when the request has been cleared away.
    cluster.pass(30 * 60).await;
    let unanswered = asked(&cluster, "web").await;
    let event = "CertificateOverdueForRefresh: PodCertificate refresh overdue";
    cluster.until_event("Pod/web", event).await;
    cluster.until_gone(&path(&unanswered)).await;
    let request = asked(&cluster, "web").await;
    assert_ne!(request["spec"]["stubPKCS10Request"], unanswered["spec"]["stubPKCS10Request"]);
    assert_eq!(read(&volume, "both.pem"), second);
    authority.sign(&cluster, &request).await;
    cluster.pass(1).await;
    let third = read(&volume, "both.pem");
    key_of(&third);

    // A kubelet that begins again has no keys, and leaves the files until it has.
    cluster.delete(&path(&request)).await;
    cluster.silence("minik");
    let runtime = cluster.runtime.clone();
    cluster.wake("minik", runtime).await;
    let request = asked(&cluster, "web").await;
    cluster.pass(60).await;
    assert_eq!(read(&volume, "both.pem"), third);
    authority.sign(&cluster, &request).await;
    cluster.pass(1).await;
    let fourth = read(&volume, "both.pem");
    assert_ne!(key_of(&fourth), key_of(&third));
    cluster
        .is("pods/web", json!({"status": {"phase": "Running", "containerStatuses": [{"restartCount": 0}]}}))
        .await;
    // With the pod goes all that is asked for it.
    cluster.delete("pods/web").await;
    cluster.until_gone("pods/web").await;
    cluster.until_all("podcertificaterequests", <[Value]>::is_empty).await;
    cluster.pass(3600).await;
    assert_eq!(cluster.list("podcertificaterequests").await.len(), 0);
}

#[tokio::test]
async fn a_pod_whose_certificate_is_refused_waits_for_good() {
    let cluster = Cluster::start().await;
    let certificate = |kind: &str| json!([{"podCertificate": {"signerName": SIGNER, "keyType": kind, "credentialBundlePath": "both.pem"}}]);
    for (name, kind, decision, event, told) in [
        (
            "denied",
            "RSA3072",
            condition("Denied", "UnsupportedKeyType", "use ED25519"),
            "was denied, reason=\"UnsupportedKeyType\", message=\"use ED25519\"",
            "was permanently denied: reason=\"UnsupportedKeyType\" message=\"use ED25519\"",
        ),
        (
            "failed",
            "ECDSAP521",
            condition("Failed", "Broken", "no power"),
            "failed, reason=\"Broken\", message=\"no power\"",
            "was permanently failed: reason=\"Broken\" message=\"no power\"",
        ),
    ] {
        cluster.apply(&pod(name, certificate(kind))).await;
        let request = asked(&cluster, name).await;
        let reason = decision["type"].as_str().unwrap().to_owned();
        cluster.patch_status(&path(&request), json!({"conditions": [decision]})).await;
        let about = format!("Pod/{name}");
        let named = format!("default/{}", request["metadata"]["name"].as_str().unwrap());
        cluster.until_event(&about, &format!("{reason}: PodCertificateRequest {named} {event}")).await;
        let failed = "FailedMount: MountVolume.SetUp failed for volume \"v\" : PodCertificateRequest";
        cluster.until_event(&about, &format!("{failed} {told}")).await;
        cluster.pass(3600).await;
        let waiting = json!({"state": {"waiting": {"reason": "ContainerCreating"}}});
        let status = json!({"status": {"phase": "Pending", "containerStatuses": [waiting]}});
        cluster.is(&format!("pods/{name}"), status).await;
        assert_eq!(cluster.list("podcertificaterequests").await.len(), 0, "nothing more is asked for");
    }
}
