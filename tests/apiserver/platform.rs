//! Kinds around the workloads: how traffic enters, who may do what, where volumes come from, who signs.

use base64::Engine;
use serde_json::{Value, json};

use super::server::{Fixture, sent};

#[tokio::test]
async fn ingresses_and_policies_are_completed_and_counted() {
    let f = Fixture::start().await;
    let path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let spec = json!({"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}});
    let ingress = f.post(path, json!({"metadata": {"name": "web"}, "spec": spec})).await.expect(201);
    assert_eq!(
        (&ingress["metadata"]["generation"], &ingress["status"]),
        (&json!(1), &json!({"loadBalancer": {}}))
    );
    let changed = json!({"spec": {"ingressClassName": "nginx"}});
    let changed = f.patch(&format!("{path}/web"), changed).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}});
    let status = f.patch(&format!("{path}/web/status"), status).await.expect(200);
    assert_eq!(status["metadata"]["generation"], 2);
    let table =
        sent(f.request("GET", path).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")).await;
    assert_eq!(
        table.json()["rows"][0]["cells"].as_array().unwrap()[..5],
        ["web", "nginx", "*", "10.0.0.1", "80"]
    );
    let wrong = f.post(path, json!({"metadata": {"name": "none"}, "spec": {}})).await.expect(422);
    assert_eq!(
        wrong["message"],
        "Ingress.networking.k8s.io \"none\" is invalid: spec: Invalid value: null: either `defaultBackend` or `rules` \
         must be specified"
    );

    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let policy = json!({"metadata": {"name": "closed"}, "spec": {"podSelector": {}}});
    let policy = f.post(policies, policy).await.expect(201);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
}

#[tokio::test]
async fn roles_have_free_names_and_come_by_replace() {
    let f = Fixture::start().await;
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:reader";
    let role = json!({"metadata": {"name": "system:reader"},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    f.put(path, role).await.expect(201);
    let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let binding = json!({"metadata": {"name": "readers"}, "subjects": [{"kind": "User", "name": "jane"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:reader"}});
    let binding = f.post(bindings, binding).await.expect(201);
    assert_eq!(binding["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    let other =
        f.patch(&format!("{bindings}/readers"), json!({"roleRef": {"name": "other"}})).await.expect(422);
    assert!(other["message"].as_str().unwrap().ends_with("cannot change roleRef"), "{other}");
}

#[tokio::test]
async fn classes_need_their_version_where_kubernetes_does() {
    let f = Fixture::start().await;
    let path = "/apis/storage.k8s.io/v1/storageclasses";
    let class = json!({"metadata": {"name": "fast"}, "provisioner": "minik.io/local"});
    let class = f.post(path, class).await.expect(201);
    assert_eq!(class["volumeBindingMode"], "Immediate");
    f.put(&format!("{path}/fast"), class).await.expect(200);
    let drivers = "/apis/storage.k8s.io/v1/csidrivers";
    let driver = f.post(drivers, json!({"metadata": {"name": "a.io"}, "spec": {}})).await.expect(201);
    let mut unversioned = driver.clone();
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    f.put(&format!("{drivers}/a.io"), unversioned).await.expect(422);
    f.put(&format!("{drivers}/a.io"), driver).await.expect(200);
    let priorities = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let high = json!({"metadata": {"name": "high"}, "value": 1000});
    f.post(priorities, high).await.expect(201);
    f.patch(&format!("{priorities}/high"), json!({"value": 1})).await.expect(422);
}

#[tokio::test]
async fn a_certificate_is_asked_for_approved_and_issued() {
    let f = Fixture::start().await;
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = |text: String| Value::from(base64::engine::general_purpose::STANDARD.encode(text));
    let params = || rcgen::CertificateParams::new(vec![]).unwrap();
    let asked = json!({"metadata": {"name": "jane"}, "spec": {
        "request": pem(params().serialize_request(&key).unwrap().pem().unwrap()),
        "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"], "username": "root"}});
    let request = f.post(path, asked).await.expect(201);
    assert_ne!(request["spec"]["username"], "root");
    let decide =
        |status: &str, kind: &str| json!({"status": {"conditions": [{"type": kind, "status": status}]}});
    // A status decides nothing, an approval issues nothing.
    f.patch(&format!("{path}/jane/status"), decide("True", "Approved")).await.expect(422);
    let approved = f.patch(&format!("{path}/jane/approval"), decide("True", "Approved")).await.expect(200);
    assert!(approved["status"]["conditions"][0]["lastUpdateTime"].is_string());
    let certificate = pem(params().self_signed(&key).unwrap().pem());
    let issued = json!({"status": {"certificate": certificate}});
    let ignored = f.patch(&format!("{path}/jane/approval"), issued.clone()).await.expect(200);
    assert!(ignored["status"].get("certificate").is_none());
    let issued = f.patch(&format!("{path}/jane/status"), issued).await.expect(200);
    assert_eq!(issued["status"]["certificate"], certificate);
    let mine =
        f.get(&format!("{path}?fieldSelector=spec.signerName=kubernetes.io/kube-apiserver-client")).await;
    assert_eq!(mine.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn webhooks_services_and_flows_are_objects() {
    let f = Fixture::start().await;
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    let hook = json!({"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": "https://127.0.0.1:8443/validate"},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    let made = f.post(path, json!({"metadata": {"name": "a"}, "webhooks": [hook]})).await.expect(201);
    assert_eq!(made["webhooks"][0]["failurePolicy"], "Fail");
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let service = json!({"metadata": {"name": "v1beta1.metrics.k8s.io"}, "spec": {"group": "metrics.k8s.io",
        "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true,
        "service": {"namespace": "kube-system", "name": "metrics-server"}}});
    f.post(services, service).await.expect(201);
    let flows = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
    let flow =
        json!({"metadata": {"name": "mine"}, "spec": {"priorityLevelConfiguration": {"name": "mine"}}});
    let flow = f.post(flows, flow).await.expect(201);
    assert_eq!((&flow["spec"]["matchingPrecedence"], &flow["status"]), (&json!(1000), &json!({})));
    let classes = "/apis/node.k8s.io/v1/runtimeclasses";
    let class = f.post(classes, json!({"metadata": {"name": "a"}, "handler": "A"})).await.expect(422);
    assert!(class["message"].as_str().unwrap().contains("handler: Invalid value: \"A\""));
}
