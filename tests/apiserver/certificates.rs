//! Users made by certificates, and tokens kept in secrets.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use minik::api::request::User;
use minik::apiserver::ApiServer;
use minik::apiserver::auth::tokens::Bound;
use minik::apiserver::pki::{Identity, LEAF_LIFETIME, Pki};
use minik::client::Client;
use minik::controllers::{Authority, account_tokens, certificates};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::server::{Fixture, MAPS, client, sent};

/// How long a controller may take.
const PATIENCE: Duration = Duration::from_secs(60);

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

struct Keys {
    pki: Arc<Pki>,
    api: Arc<ApiServer>,
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

fn controllers(f: &Fixture) -> (AbortOnDropHandle<()>, AbortOnDropHandle<()>) {
    let client = Client::new(f.api.clone(), User::component("system:kube-controller-manager"));
    let keys: Arc<dyn Authority> = Arc::new(Keys { pki: f.pki.clone(), api: f.api.clone() });
    let tokens = account_tokens::run(client.clone(), keys.clone(), f.pki.ca_pem().to_owned());
    let requests = certificates::run(client, keys);
    (AbortOnDropHandle::new(tokio::spawn(tokens)), AbortOnDropHandle::new(tokio::spawn(requests)))
}

/// A key, and the request for a certificate of this user and group.
fn asked(user: &str, group: &str) -> (rcgen::KeyPair, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, user);
    params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    (key, BASE64.encode(pem))
}

fn request(name: &str, pem: &str, usages: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "spec": {"request": pem, "usages": usages, "expirationSeconds": 3600,
        "signerName": "kubernetes.io/kube-apiserver-client"}})
}

fn condition(kind: &str) -> Value {
    json!({"type": kind, "status": "True", "reason": "Test", "message": "by a test"})
}

#[tokio::test]
async fn a_user_is_made_by_a_certificate() {
    let f = Fixture::start().await;
    let _controllers = controllers(&f);
    let (key, pem) = asked("jane", "devs");
    f.post(REQUESTS, request("jane", &pem, &["client auth"])).await.expect(201);
    let path = format!("{REQUESTS}/jane");
    let mut made = f.get(&path).await.expect(200);
    assert_eq!(made["spec"]["username"], "admin");
    made["status"]["conditions"] = json!([condition("Approved")]);
    f.put(&format!("{path}/approval"), made).await.expect(200);
    let signed = f.until(PATIENCE, &path, |r| r["status"]["certificate"].is_string()).await;
    let certificate = BASE64.decode(signed["status"]["certificate"].as_str().unwrap()).unwrap();
    let identity =
        Identity { certificate: String::from_utf8(certificate).unwrap(), key: key.serialize_pem() };
    let jane = client(&f.pki, Some(&identity)).build().unwrap();
    let list = || sent(jane.get(format!("{}{MAPS}", f.base)));
    assert!(list().await.expect(403)["message"].as_str().unwrap().contains("User \"jane\" cannot list"));
    let binding = json!({"metadata": {"name": "devs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:aggregate-to-view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "devs"}]});
    f.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await.expect(201);
    list().await.expect(200);

    // A request that the signer does not sign is told so.
    f.post(REQUESTS, request("wrong", &pem, &["server auth"])).await.expect(201);
    let path = format!("{REQUESTS}/wrong");
    let approval = json!({"status": {"conditions": [condition("Approved")]}});
    f.patch(&format!("{path}/approval"), approval).await.expect(200);
    let refused = f
        .until(PATIENCE, &path, |r| r["status"]["conditions"].as_array().is_some_and(|c| c.len() == 2))
        .await;
    assert_eq!(
        refused["status"]["conditions"][1]["message"],
        "invalid usage for client certificate: server auth"
    );
    let (_, pem) = asked("jane", "system:masters");
    f.post(REQUESTS, request("masters", &pem, &["client auth"])).await.expect(403);
}

#[tokio::test]
async fn approving_and_signing_are_rights_of_their_own() {
    let f = Fixture::start().await;
    let (_, pem) = asked("jane", "devs");
    f.post(REQUESTS, request("jane", &pem, &["client auth"])).await.expect(201);
    let leaf = f.pki.client("officer", &[], LEAF_LIFETIME).unwrap();
    let officer = client(&f.pki, Some(&leaf)).build().unwrap();
    let role = json!({"metadata": {"name": "officer"}, "rules": [
        {"verbs": ["get", "update", "patch"], "apiGroups": ["certificates.k8s.io"],
            "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"]}]});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    f.post(&format!("{rbac}/clusterroles"), role).await.expect(201);
    let bind = |name: &str, role: &str| {
        json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "officer"}]})
    };
    f.post(&format!("{rbac}/clusterrolebindings"), bind("officer", "officer")).await.expect(201);
    let patch = |part: &str, body: Value| {
        let url = format!("{}{REQUESTS}/jane/{part}", f.base);
        sent(officer.patch(url).header("content-type", "application/merge-patch+json").body(body.to_string()))
    };
    let approval = json!({"status": {"conditions": [condition("Approved")]}});
    assert_eq!(
        patch("approval", approval.clone()).await.expect(403)["message"],
        "certificatesigningrequests.certificates.k8s.io \"jane\" is forbidden: user not permitted to approve requests with \
         signerName \"kubernetes.io/kube-apiserver-client\""
    );
    let certificate = json!({"status": {"certificate": BASE64.encode(f.pki.ca_pem())}});
    assert_eq!(
        patch("status", certificate).await.expect(403)["message"],
        "certificatesigningrequests.certificates.k8s.io \"jane\" is forbidden: user not permitted to sign requests with \
         signerName \"kubernetes.io/kube-apiserver-client\""
    );
    let approver = "system:certificates.k8s.io:kube-apiserver-client-approver";
    f.post(&format!("{rbac}/clusterrolebindings"), bind("approver", approver)).await.expect(201);
    let approved = patch("approval", approval).await.expect(200);
    assert_eq!(approved["status"]["conditions"][0]["type"], "Approved");
    assert!(approved["status"]["conditions"][0]["lastTransitionTime"].is_string());
}

#[tokio::test]
async fn secrets_hold_tokens_of_their_account() {
    let f = Fixture::start().await;
    let _controllers = controllers(&f);
    let (accounts, secrets) =
        ("/api/v1/namespaces/default/serviceaccounts", "/api/v1/namespaces/default/secrets");
    f.post(accounts, json!({"metadata": {"name": "robot"}})).await.expect(201);
    let secret = |name: &str, account: &str| {
        json!({"metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token"})
    };
    for name in ["first", "second"] {
        f.post(secrets, secret(name, "robot")).await.expect(201);
    }
    let token = async |name: &str| {
        let path = format!("{secrets}/{name}");
        let filled = f.until(PATIENCE, &path, |s| s["data"]["token"].is_string()).await;
        let uid = &f.get(&format!("{accounts}/robot")).await.json()["metadata"]["uid"];
        assert_eq!(&filled["metadata"]["annotations"]["kubernetes.io/service-account.uid"], uid);
        assert_eq!(filled["data"]["ca.crt"], json!(BASE64.encode(f.pki.ca_pem())));
        let text = BASE64.decode(filled["data"]["token"].as_str().unwrap()).unwrap();
        String::from_utf8(text).unwrap()
    };
    let (first, second) = (token("first").await, token("second").await);
    let with = |token: &str| sent(f.stranger.get(format!("{}/api", f.base)).bearer_auth(token));
    assert_eq!(with(&first).await.code, 200);
    let review =
        f.post("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {"token": first}})).await;
    let review = review.expect(201);
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:robot");
    // A token goes with its secret, and the secrets with their account.
    f.delete(&format!("{secrets}/first")).await.expect(200);
    assert_eq!((with(&first).await.code, with(&second).await.code), (401, 200));
    f.delete(&format!("{accounts}/robot")).await.expect(200);
    assert_eq!(with(&second).await.code, 401);
    f.until(PATIENCE, &format!("{secrets}/second"), |s| s["reason"] == "NotFound").await;
    // One that names nobody does not stay.
    f.post(secrets, secret("third", "nobody")).await.expect(201);
    f.until(PATIENCE, &format!("{secrets}/third"), |s| s["reason"] == "NotFound").await;
}

#[tokio::test]
async fn token_reviews_say_whose_token_it_is() {
    let f = Fixture::start().await;
    f.pod("www").await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let spec =
        json!({"audiences": ["vault"], "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "www"}});
    let issued = f.post(path, json!({ "spec": spec })).await.expect(201);
    let token = issued["status"]["token"].as_str().unwrap();
    let review = async |spec: Value| {
        f.post("/apis/authentication.k8s.io/v1/tokenreviews", json!({ "spec": spec })).await.expect(201)["status"].clone()
    };
    let known = review(json!({"token": token, "audiences": ["vault", "other"]})).await;
    assert_eq!((&known["authenticated"], &known["audiences"]), (&json!(true), &json!(["vault"])));
    let extra = &known["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["www"]));
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["minik"]));
    assert!(extra["authentication.kubernetes.io/credential-id"][0].as_str().unwrap().starts_with("JTI="));
    let other = review(json!({ "token": token })).await;
    assert_eq!(
        other["error"],
        "[invalid bearer token, token audiences [\"vault\"] is invalid for the target audiences \
         [\"https://kubernetes.default.svc\"]]"
    );
    assert_eq!(other["authenticated"], Value::Null);
    assert_eq!(review(json!({"token": "x"})).await["error"], "invalid bearer token");
    f.post("/apis/authentication.k8s.io/v1/tokenreviews", json!({"spec": {}})).await.expect(400);
}

const POD_REQUESTS: &str = "/apis/certificates.k8s.io/v1/namespaces/default/podcertificaterequests";

fn pod_request(name: &str, stub: &[u8]) -> Value {
    json!({"metadata": {"name": name}, "spec": {"signerName": "example.com/signer", "podName": "www", "podUID": "1",
        "serviceAccountName": "default", "serviceAccountUID": "2", "nodeName": "minik", "nodeUID": "3",
        "stubPKCS10Request": BASE64.encode(stub)}})
}

#[tokio::test]
async fn pods_ask_for_certificates() {
    let f = Fixture::start().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let stub = params.serialize_request(&key).unwrap();
    let mut given = pod_request("www", stub.der());
    given["status"] = json!({"certificateChain": "x"});
    let made = f.post(POD_REQUESTS, given).await.expect(201);
    assert_eq!((&made["spec"]["maxExpirationSeconds"], &made["status"]), (&json!(86400), &json!({})));
    let listed = f.get(&format!("{POD_REQUESTS}?fieldSelector=spec.nodeName=minik,spec.podName=www")).await;
    assert_eq!(listed.expect(200)["items"][0]["metadata"]["name"], "www");
    let none = f.get(&format!("{POD_REQUESTS}?fieldSelector=spec.signerName=other.com/signer")).await;
    assert_eq!(none.expect(200)["items"], json!([]));

    let mut bad = pod_request("bad", &[]);
    bad["spec"]["maxExpirationSeconds"] = 60.into();
    let refused = f.post(POD_REQUESTS, bad).await.expect(422);
    let fields: Vec<&Value> =
        refused["details"]["causes"].as_array().unwrap().iter().map(|cause| &cause["field"]).collect();
    assert_eq!(fields, ["spec.maxExpirationSeconds", "spec.stubPKCS10Request"], "{refused}");
    let path = format!("{POD_REQUESTS}/www");
    f.patch(&path, json!({"spec": {"podName": "other"}})).await.expect(422);

    // The right to write the status is not yet the right to sign.
    let leaf = f.pki.client("signer", &[], LEAF_LIFETIME).unwrap();
    let signer = client(&f.pki, Some(&leaf)).build().unwrap();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = |verb: &str, resource: &str| json!({"verbs": [verb], "apiGroups": ["certificates.k8s.io"], "resources": [resource]});
    let role = |rules: Vec<Value>| json!({"metadata": {"name": "signer"}, "rules": rules});
    let write = rule("patch", "podcertificaterequests/status");
    f.post(&format!("{rbac}/clusterroles"), role(vec![write.clone()])).await.expect(201);
    let binding = json!({"metadata": {"name": "signer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "signer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "signer"}]});
    f.post(&format!("{rbac}/clusterrolebindings"), binding).await.expect(201);
    let patch = |status: &Value| {
        let url = format!("{}{path}/status", f.base);
        let body = json!({ "status": status }).to_string();
        sent(signer.patch(url).header("content-type", "application/merge-patch+json").body(body))
    };
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let (begins, ends) = (now, now + SignedDuration::from_hours(24));
    params.not_before = std::time::SystemTime::from(begins).into();
    params.not_after = std::time::SystemTime::from(ends).into();
    let chain = params.self_signed(&key).unwrap().pem();
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "Test", "message": "",
            "lastTransitionTime": now.to_string()})
    };
    let mut issued = json!({"conditions": [condition("Issued")], "certificateChain": chain,
        "notBefore": begins.to_string(), "notAfter": ends.to_string(),
        "beginRefreshAt": (now + SignedDuration::from_hours(12)).to_string()});
    assert_eq!(
        patch(&issued).await.expect(422)["message"],
        "PodCertificateRequest.certificates.k8s.io \"www\" is invalid: spec.signerName: Forbidden: User \"signer\" is not \
         permitted to \"sign\" for signer \"example.com/signer\""
    );
    f.patch(&format!("{rbac}/clusterroles/signer"), role(vec![write, rule("sign", "signers")]))
        .await
        .expect(200);
    issued["beginRefreshAt"] = begins.to_string().into();
    let early = patch(&issued).await.expect(422);
    assert!(
        early["message"].as_str().unwrap().ends_with("must be at least 10 minutes after status.notBefore")
    );
    issued["beginRefreshAt"] = (now + SignedDuration::from_hours(12)).to_string().into();
    assert_eq!(patch(&issued).await.expect(200)["status"], issued);
    let again = patch(&json!({"conditions": [condition("Denied")]})).await.expect(422);
    assert!(
        again["message"]
            .as_str()
            .unwrap()
            .ends_with("immutable after PodCertificateRequest is issued, denied, or failed")
    );
}

#[tokio::test]
async fn who_says_what_to_trust_has_the_right_to() {
    const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
    let f = Fixture::start().await;
    let leaf = f.pki.client("officer", &[], LEAF_LIFETIME).unwrap();
    let officer = client(&f.pki, Some(&leaf)).build().unwrap();
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rule = |verbs: Value, resource: &str, names: Value| json!({"verbs": verbs, "apiGroups": ["certificates.k8s.io"], "resources": [resource], "resourceNames": names});
    let write = rule(json!(["create", "patch"]), "clustertrustbundles", json!([]));
    let role = |rules: Vec<Value>| json!({"metadata": {"name": "officer"}, "rules": rules});
    f.post(&format!("{rbac}/clusterroles"), role(vec![write.clone()])).await.expect(201);
    let binding = json!({"metadata": {"name": "officer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "officer"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "officer"}]});
    f.post(&format!("{rbac}/clusterrolebindings"), binding).await.expect(201);
    let post = |name: &str, signer: &str| {
        let body = json!({"metadata": {"name": name}, "spec": {"signerName": signer, "trustBundle": f.pki.ca_pem()}});
        let url = format!("{}{BUNDLES}", f.base);
        sent(officer.post(url).header("content-type", "application/json").body(body.to_string()))
    };
    post("own", "").await.expect(201);
    assert_eq!(
        post("example.com:ca:a", "example.com/ca").await.expect(403)["message"],
        "clustertrustbundles.certificates.k8s.io \"example.com:ca:a\" is forbidden: user not permitted to attest for \
         signerName \"example.com/ca\""
    );
    let attest = rule(json!(["attest"]), "signers", json!(["example.com/*"]));
    f.patch(&format!("{rbac}/clusterroles/officer"), role(vec![write, attest])).await.expect(200);
    post("example.com:ca:a", "example.com/ca").await.expect(201);
}
