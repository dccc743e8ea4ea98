//! Who may speak to the server: certificates and tokens that are not, or no longer, good.

use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use minik::apiserver::auth::tokens::{Claims, ISSUER};
use minik::apiserver::pki::{LEAF_LIFETIME, Pki};
use serde_json::{Value, json};

use super::server::{Answer, Fixture, MAPS, PODS, client, sent};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

/// Tries until the answer has this code.
async fn until_code(code: u16, ask: impl AsyncFn() -> Answer) -> Answer {
    let patience = async {
        loop {
            let answer = ask().await;
            if answer.code == code {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), patience).await.expect("the code in time")
}

#[tokio::test]
async fn foreign_and_expired_certificates_are_told_so() {
    let f = Fixture::start().await;
    let maps = format!("{}{MAPS}", f.base);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Pki::open(elsewhere.path()).unwrap();
    let foreign = other.client("admin", &["system:masters"], LEAF_LIFETIME).unwrap();
    let foreign = client(&f.pki, Some(&foreign)).build().unwrap();
    let refused = sent(foreign.get(&maps)).await.expect(401);
    assert_eq!((&refused["kind"], &refused["reason"]), (&json!("Status"), &json!("Unauthorized")));
    // Wrong credentials are worse than none.
    assert_eq!(sent(foreign.get(format!("{}/readyz", f.base))).await.code, 401);

    let expired = f.pki.client("admin", &["system:masters"], Duration::ZERO).unwrap();
    let expired = client(&f.pki, Some(&expired)).build().unwrap();
    sent(expired.get(&maps)).await.expect(401);

    // One that ends while its connection lives; on a slow machine only a longer one is there in time.
    let mut lifetime = Duration::from_secs(2);
    let short = loop {
        let short = f.pki.client("admin", &["system:masters"], lifetime).unwrap();
        let short = client(&f.pki, Some(&short)).build().unwrap();
        if sent(short.get(&maps)).await.code == 200 {
            break short;
        }
        lifetime *= 2;
    };
    until_code(401, async || sent(short.get(&maps)).await).await;
}

#[tokio::test]
async fn tokens_end_with_their_time_and_their_account() {
    let f = Fixture::start().await;
    // What every known user may read, and nobody else.
    let api = format!("{}/api", f.base);
    f.post(ACCOUNTS, json!({"metadata": {"name": "robot"}})).await.expect(201);
    let path = format!("{ACCOUNTS}/robot/token");
    let answer = f.post(&path, json!({})).await.expect(201);
    let token = answer["status"]["token"].as_str().unwrap();
    assert_eq!(answer["spec"]["audiences"], json!([ISSUER]));
    let with = |token: &str| sent(f.stranger.get(&api).bearer_auth(token));
    assert_eq!(with(token).await.code, 200);
    let tokens = f.api.tokens();
    let claims = tokens.check(token, &[ISSUER.to_owned()], Timestamp::now()).unwrap();
    let expired = Claims { exp: Timestamp::now().as_second() - 1, ..claims };
    assert_eq!(with(&tokens.sign(&expired).unwrap()).await.code, 401);
    f.delete(&format!("{ACCOUNTS}/robot")).await.expect(200);
    assert_eq!(with(token).await.expect(401)["reason"], "Unauthorized");
    // Another account of the same name is somebody else.
    f.post(ACCOUNTS, json!({"metadata": {"name": "robot"}})).await.expect(201);
    assert_eq!(with(token).await.code, 401);
    let stale = json!({"metadata": {"uid": answer["metadata"]["uid"]}});
    f.post(&path, stale).await.expect(409);
}

#[tokio::test]
async fn tokens_are_bound_to_pods_secrets_and_nodes() {
    let f = Fixture::start().await;
    f.pod("www").await;
    let secrets = "/api/v1/namespaces/default/secrets";
    f.post(secrets, json!({"metadata": {"name": "s"}})).await.expect(201);
    f.post("/api/v1/nodes", json!({"metadata": {"name": "n"}})).await.expect(201);
    let path = format!("{ACCOUNTS}/default/token");
    let ask = |reference: Value| f.post(&path, json!({"spec": {"boundObjectRef": reference}})).boxed_local();
    for (kind, object) in [("Secret", format!("{secrets}/s")), ("Node", "/api/v1/nodes/n".to_owned())] {
        let name = object.rsplit('/').next().unwrap();
        let answer = ask(json!({"apiVersion": "v1", "kind": kind, "name": name})).await.expect(201);
        let token = answer["status"]["token"].as_str().unwrap();
        let with = || sent(f.stranger.get(format!("{}/api", f.base)).bearer_auth(token));
        assert_eq!(with().await.code, 200, "{kind}");
        f.delete(&object).await.expect(200);
        assert_eq!(with().await.code, 401, "{kind}");
    }
    let other = ask(json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "c"})).await.expect(400);
    assert_eq!(other["message"], "cannot bind token to object of type /v1, Kind=ConfigMap");
    ask(json!({"apiVersion": "v1", "kind": "Pod", "name": "nobody"})).await.expect(404);
    ask(json!({"apiVersion": "v1", "kind": "Pod", "name": "www", "uid": "x"})).await.expect(409);
    f.get(&format!("{PODS}/www")).await.expect(200);
}

#[tokio::test]
async fn new_connections_get_the_new_certificate_and_old_ones_live() {
    let f = Fixture::start_for(Duration::from_secs(9)).await;
    f.api.bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
    let leaf = async || {
        let fresh = client(&f.pki, None).tls_info(true).build().unwrap();
        let answer = fresh.get(format!("{}/readyz", f.base)).send().await.unwrap();
        let info = answer.extensions().get::<reqwest::tls::TlsInfo>().unwrap();
        info.peer_certificate().unwrap().to_vec()
    };
    let mut watch = f.watch(&format!("{MAPS}?watch=1")).await;
    let first = leaf().await;
    assert_eq!(leaf().await, first);
    let tls = f.tls.clone();
    let (renewed, mut told) = tokio::sync::mpsc::unbounded_channel();
    let renewing = tokio::spawn(async move {
        let tell = || {
            let _ = renewed.send(());
        };
        tls.renew(tell).await;
    });
    tokio::time::timeout(Duration::from_secs(120), told.recv()).await.unwrap().unwrap();
    assert_ne!(leaf().await, first);
    f.config("late").await;
    assert_eq!(watch.next().await["object"]["metadata"]["name"], "late");
    renewing.abort();
}

#[tokio::test]
async fn others_find_the_keys_of_tokens() {
    let f = Fixture::start().await;
    f.post(ACCOUNTS, json!({"metadata": {"name": "robot"}})).await.expect(201);
    let issued = f.post(&format!("{ACCOUNTS}/robot/token"), json!({})).await.expect(201);
    let token = issued["status"]["token"].as_str().unwrap();
    let get = |path: &str| sent(f.stranger.get(format!("{}{path}", f.base)).bearer_auth(token));
    let configuration = get("/.well-known/openid-configuration").await;
    assert_eq!(configuration.header("cache-control"), "public, max-age=3600");
    assert_eq!(configuration.json()["issuer"], ISSUER);
    let keys = get("/openid/v1/jwks").await;
    assert_eq!(keys.header("content-type"), "application/jwk-set+json");
    assert_eq!(keys.json()["keys"][0]["alg"], "ES256");
    // Service accounts may read them, others only when they are given the right.
    assert_eq!(sent(f.stranger.get(format!("{}/openid/v1/jwks", f.base))).await.code, 403);
}
