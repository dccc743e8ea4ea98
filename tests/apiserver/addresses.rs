//! The objects of services' cluster IPs.

use serde_json::{Value, json};

use super::server::{Fixture, names};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service
}

fn at(address: &str) -> String {
    format!("{ADDRESSES}/{address}")
}

fn keeping(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"parentRef": {"group": "gateway.networking.k8s.io",
        "resource": "gateways", "namespace": "default", "name": "g"}}})
}

#[tokio::test]
async fn each_cluster_ip_has_its_object() {
    let f = Fixture::start_dual_stack().await;
    let first = f.get(&at("10.96.0.1")).await.expect(200);
    assert_eq!(
        first["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "kubernetes"})
    );
    assert_eq!(
        first["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    let both =
        f.post(SERVICES, service("both", json!({"ipFamilyPolicy": "RequireDualStack"}))).await.expect(201);
    let own: Vec<&str> =
        both["spec"]["clusterIPs"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
    for address in &own {
        assert_eq!(f.get(&at(address)).await.expect(200)["spec"]["parentRef"]["name"], "both");
    }
    f.post(SERVICES, service("headless", json!({"clusterIP": "None"}))).await.expect(201);
    // What is only tried or refused takes nothing.
    f.post(&format!("{SERVICES}?dryRun=All"), service("tried", json!({}))).await.expect(201);
    f.post(SERVICES, service("both", json!({}))).await.expect(409);
    assert_eq!(names(&f.get(ADDRESSES).await.expect(200)).len(), 3);
    // A service that goes back to one family gives one back.
    f.patch(&format!("{SERVICES}/both"), json!({"spec": {"ipFamilyPolicy": "SingleStack"}}))
        .await
        .expect(200);
    f.get(&at(own[1])).await.expect(404);
    f.delete(&format!("{SERVICES}/both")).await.expect(200);
    assert_eq!(names(&f.get(ADDRESSES).await.expect(200)), ["10.96.0.1"]);
    // Its address is whose it is for good.
    let moved = json!({"spec": {"parentRef": {"name": "other"}}});
    f.patch(&at("10.96.0.1"), moved).await.expect(422);
}

#[tokio::test]
async fn objects_of_addresses_come_back_and_keep_addresses_for_others() {
    let f = Fixture::start().await;
    f.post(SERVICES, service("www", json!({"clusterIP": "10.96.0.50"}))).await.expect(201);
    let mut watch = f.watch(&format!("{ADDRESSES}?watch=1&fieldSelector=metadata.name=10.96.0.50")).await;
    assert_eq!(watch.next().await["type"], "ADDED");
    f.delete(&at("10.96.0.50")).await.expect(200);
    assert_eq!(watch.next().await["type"], "DELETED");
    assert_eq!(watch.next().await["type"], "ADDED");
    // One that nobody has goes.
    let labels = json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    let mut stray = keeping("10.96.0.60");
    stray["metadata"]["labels"] = labels;
    let mut watch = f.watch(&format!("{ADDRESSES}?watch=1&fieldSelector=metadata.name=10.96.0.60")).await;
    f.post(ADDRESSES, stray).await.expect(201);
    assert_eq!(watch.next().await["type"], "ADDED");
    assert_eq!(watch.next().await["type"], "DELETED");
    // One that is somebody else's stays, and no service gets the address.
    f.post(ADDRESSES, keeping("10.96.0.70")).await.expect(201);
    let refused = f.post(SERVICES, service("rival", json!({"clusterIP": "10.96.0.70"}))).await.expect(422);
    assert!(refused["message"].as_str().unwrap().ends_with("provided IP is already allocated"), "{refused}");
    f.get(&at("10.96.0.70")).await.expect(200);
}
