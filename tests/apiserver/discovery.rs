//! What is served, as kubectl asks for it.

use super::server::{Fixture, sent};

/// What kubectl 1.37 accepts when it discovers.
const KUBECTL: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                       application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

#[tokio::test]
async fn aggregated_with_a_tag() {
    let f = Fixture::start().await;
    for (path, resource) in [("/api", "pods"), ("/apis", "leases")] {
        let whole = sent(f.request("GET", path).header("accept", KUBECTL)).await;
        let content = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert_eq!((whole.header("content-type"), whole.header("vary")), (content, "Accept"));
        let tag = whole.header("etag").to_owned();
        let again =
            sent(f.request("GET", path).header("accept", KUBECTL).header("if-none-match", &tag)).await;
        assert_eq!((again.code, again.bytes.len(), again.header("etag")), (304, 0, tag.as_str()));
        let stale =
            sent(f.request("GET", path).header("accept", KUBECTL).header("if-none-match", "\"x\"")).await;
        assert_eq!(stale.code, 200);
        let list = whole.expect(200);
        assert_eq!(
            (&list["kind"], &list["apiVersion"]),
            (&"APIGroupDiscoveryList".into(), &"apidiscovery.k8s.io/v2".into())
        );
        let groups = list["items"].as_array().unwrap();
        let resources = groups.iter().flat_map(|g| g["versions"][0]["resources"].as_array().unwrap());
        let found: Vec<_> = resources.filter(|r| r["resource"] == resource).collect();
        assert_eq!(found.len(), 1, "{path}");
        let subresources: Vec<&str> = found[0]["subresources"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| s["subresource"].as_str().unwrap())
            .collect();
        for name in ["ephemeralcontainers", "log", "resize"] {
            assert_eq!(path == "/api", subresources.contains(&name));
        }
    }
}

#[tokio::test]
async fn group_by_group_for_older_clients() {
    let f = Fixture::start().await;
    let versions = f.get("/api").await.expect(200);
    assert_eq!((&versions["kind"], &versions["versions"][0]), (&"APIVersions".into(), &"v1".into()));
    let groups = f.get("/apis").await.expect(200);
    assert_eq!(groups["kind"], "APIGroupList");
    let names: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"coordination.k8s.io"), "{names:?}");
    for name in names {
        let group = f.get(&format!("/apis/{name}")).await.expect(200);
        let version = group["preferredVersion"]["groupVersion"].as_str().unwrap().to_owned();
        let resources = f.get(&format!("/apis/{version}")).await.expect(200);
        assert_eq!(
            (&resources["kind"], &resources["groupVersion"]),
            (&"APIResourceList".into(), &version.into())
        );
    }
    let core = f.get("/api/v1").await.expect(200);
    let found = core["resources"].as_array().unwrap().iter().any(|r| r["name"] == "pods/log");
    assert!(found, "{core}");
    f.get("/apis/nonsense.k8s.io").await.expect(404);
}
