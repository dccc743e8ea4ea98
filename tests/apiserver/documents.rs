//! The server's own documents: health, version, OpenAPI.

use super::server::{Fixture, MAPS, sent};

#[tokio::test]
async fn readiness_is_earned_and_its_reasons_are_not_public() {
    let f = Fixture::start_bare().await;
    let early = f.get("/readyz").await;
    assert_eq!(early.code, 500);
    assert_eq!(
        early.text(),
        "[+]ping ok\n[+]log ok\n[+]etcd ok\n[-]poststarthook/start-system-namespaces-controller failed: reason withheld\n\
         [-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n\
         [-]poststarthook/bootstrap-controller failed: reason withheld\n[+]shutdown ok\nreadyz check failed\n"
    );
    let hook = f.get("/readyz/poststarthook/bootstrap-controller").await;
    assert_eq!((hook.code, hook.text().as_str()), (500, "internal server error: not finished\n"));
    let excluded = "/readyz?verbose&exclude=poststarthook/bootstrap-controller&exclude=nonsense\
                    &exclude=poststarthook/start-system-namespaces-controller&exclude=poststarthook/rbac/bootstrap-roles";
    let passed = f.get(excluded).await;
    assert_eq!(passed.code, 200, "{}", passed.text());
    assert!(passed.text().contains("[+]poststarthook/bootstrap-controller excluded: ok\n"));
    assert!(passed.text().contains("no matches for \"nonsense\"\nreadyz check passed\n"));

    f.api.bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
    let ready = f.get("/readyz?verbose").await;
    assert!(ready.text().ends_with("[+]shutdown ok\nreadyz check passed\n"), "{}", ready.text());
    assert_eq!(ready.header("x-content-type-options"), "nosniff");
    assert!(!f.get("/livez?verbose").await.text().contains("shutdown"));
    assert_eq!(f.get("/healthz").await.text(), "ok");
    assert_eq!(f.get("/readyz/ping").await.text(), "ok");
    assert_eq!(f.get("/readyz/nonsense").await.code, 404);
    for (path, code) in [("/readyz", 200), ("/livez", 200), ("/version", 200), ("/readyz/ping", 403)] {
        assert_eq!(sent(f.stranger.get(format!("{}{path}", f.base))).await.code, code, "{path}");
    }

    f.api.registry().store().close().await;
    assert_eq!(f.get("/livez").await.code, 500);
    assert_eq!(f.get("/livez/etcd").await.text(), "internal server error: the store is closed\n");
}

#[tokio::test]
async fn the_version_is_the_builds() {
    let f = Fixture::start().await;
    let version = f.get("/version").await.expect(200);
    let own = format!("v1.37.0+minik.{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(version["gitVersion"], own);
    assert_eq!((&version["major"], &version["minor"]), (&"1".into(), &"37".into()));
    assert!(version["platform"].as_str().unwrap().starts_with("linux/"));
    assert!(version["buildDate"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
}

#[tokio::test]
async fn open_api_is_found_by_hash_and_not_sent_twice() {
    let f = Fixture::start().await;
    let index = f.get("/openapi/v3").await;
    let url = index.json()["paths"]["apis/discovery.k8s.io/v1"]["serverRelativeURL"].clone();
    let document = f.get(url.as_str().unwrap()).await;
    assert_eq!(document.json()["openapi"], "3.0.0");
    assert_eq!(document.header("cache-control"), "public, immutable");
    let tag = document.header("etag").to_owned();
    let again =
        sent(f.request("GET", "/openapi/v3/apis/discovery.k8s.io/v1").header("if-none-match", &tag)).await;
    assert_eq!((again.code, again.bytes.len(), again.header("etag")), (304, 0, tag.as_str()));
    let moved = f.get("/openapi/v3/apis/discovery.k8s.io/v1?hash=OLD").await;
    assert_eq!((moved.code, moved.header("location")), (301, url.as_str().unwrap()));
    let swagger = sent(f.request("GET", "/openapi/v2").header("accept-encoding", "gzip")).await;
    assert_eq!(swagger.header("content-encoding"), "gzip");
    assert!(swagger.bytes.len() < f.get("/openapi/v2").await.bytes.len() / 4);
}

#[tokio::test]
async fn heads_have_the_length_but_no_body() {
    let f = Fixture::start().await;
    f.config("one").await;
    for path in ["/version", "/readyz", MAPS, "/api/v1/namespaces/default/configmaps/one", "/openapi/v2"] {
        let head = sent(f.request("HEAD", path)).await;
        assert_eq!((head.code, head.bytes.len()), (200, 0), "{path}");
        let whole = f.get(path).await;
        assert_eq!(head.header("content-type"), whole.header("content-type"), "{path}");
        let length = head.header("content-length");
        assert!(length.is_empty() || length == whole.bytes.len().to_string(), "{path}: {length}");
    }
    assert_eq!(sent(f.request("HEAD", "/api/v1/namespaces/default/configmaps/two")).await.code, 404);
    assert_eq!(sent(f.request("HEAD", "/nonsense")).await.code, 404);
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_ask() {
    use std::io::Read;
    let f = Fixture::start().await;
    let small = sent(f.request("GET", MAPS).header("accept-encoding", "gzip")).await;
    assert_eq!(small.header("content-encoding"), "");
    let data = "0123456789".repeat(20_000);
    let body = serde_json::json!({"metadata": {"name": "large"}, "data": {"k": data}});
    f.post(MAPS, body).await.expect(201);
    let plain = f.get(MAPS).await;
    assert_eq!(plain.header("content-encoding"), "");
    let packed = sent(f.request("GET", MAPS).header("accept-encoding", "deflate, gzip;q=0.5")).await;
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), ("gzip", "Accept-Encoding"));
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed.bytes.as_slice()).read_to_string(&mut text).unwrap();
    assert_eq!(text.as_bytes(), plain.bytes);
    let refused = sent(f.request("GET", MAPS).header("accept-encoding", "gzip;q=0")).await;
    assert_eq!(refused.header("content-encoding"), "");
}
