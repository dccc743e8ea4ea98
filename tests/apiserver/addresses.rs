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

const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

fn range(name: &str, cidrs: &[&str]) -> Value {
    json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}})
}

#[tokio::test]
async fn addresses_come_from_all_ranges_that_are_ready() {
    let f = Fixture::start_dual_stack().await;
    let own = f.get(&format!("{RANGES}/kubernetes")).await.expect(200);
    assert_eq!(own["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00:10:96::/112"]));
    assert_eq!(own["status"]["conditions"][0]["status"], "True");
    let asked = |name: &str, address: &str| service(name, json!({"clusterIP": address}));
    let refused = f.post(SERVICES, asked("early", "10.7.0.5")).await.expect(422);
    let text = "failed to allocate IP 10.7.0.5: the provided network does not match the current range";
    assert!(refused["message"].as_str().unwrap().ends_with(text), "{refused}");
    f.post(RANGES, range("more", &["10.7.0.0/28", "fd07::/64"])).await.expect(201);
    f.post(SERVICES, asked("web", "10.7.0.5")).await.expect(201);
    assert_eq!(f.get(&at("10.7.0.5")).await.expect(200)["spec"]["parentRef"]["name"], "web");
    f.post(SERVICES, asked("far", "fd07::ffff:ffff")).await.expect(201);
    for nobodys in ["10.7.0.0", "10.7.0.15", "10.7.0.16"] {
        f.post(SERVICES, asked("nobody", nobodys)).await.expect(422);
    }
    // One that is not ready, or is to go, gives out no more.
    let says = |status: &str| {
        json!({"status": {"conditions": [{"type": "Ready", "status": status, "reason": "",
        "message": "", "lastTransitionTime": "2027-01-01T00:00:00Z"}]}})
    };
    let status = format!("{RANGES}/more/status");
    f.patch(&status, says("False")).await.expect(200);
    f.post(SERVICES, asked("late", "10.7.0.6")).await.expect(422);
    f.patch(&status, says("True")).await.expect(200);
    f.post(SERVICES, asked("late", "10.7.0.6")).await.expect(201);
    let held = json!({"metadata": {"finalizers": ["networking.k8s.io/service-cidr-finalizer"]}});
    f.patch(&format!("{RANGES}/more"), held).await.expect(200);
    f.delete(&format!("{RANGES}/more")).await.expect(200);
    f.post(SERVICES, asked("later", "10.7.0.7")).await.expect(422);
    // Who has an address of it keeps it.
    f.patch(&format!("{SERVICES}/web"), json!({"spec": {"sessionAffinity": "ClientIP"}})).await.expect(200);

    // Where the cluster's own range gives out none, others do.
    f.post(RANGES, range("other", &["10.8.0.0/24", "fd08::/112"])).await.expect(201);
    f.patch(&format!("{RANGES}/kubernetes/status"), says("False")).await.expect(200);
    let both =
        f.post(SERVICES, service("both", json!({"ipFamilyPolicy": "RequireDualStack"}))).await.expect(201);
    let first = both["spec"]["clusterIPs"][0].as_str().unwrap();
    let second = both["spec"]["clusterIPs"][1].as_str().unwrap();
    assert!(first.starts_with("10.8.0.") && second.starts_with("fd08::"), "{both}");
    f.patch(&format!("{RANGES}/other/status"), says("False")).await.expect(200);
    let refused = f.post(SERVICES, service("none", json!({}))).await.expect(422);
    assert!(refused["message"].as_str().unwrap().ends_with("range is full"), "{refused}");
}
