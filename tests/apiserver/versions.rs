//! Objects in other versions than they are stored in: those of today and those that Kubernetes has removed.

use serde_json::{Value, json};

use super::server::{Fixture, names};

const OLD: &str = "/apis/extensions/v1beta1/namespaces/default/deployments";
const NEW: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment() -> Value {
    json!({"apiVersion": "extensions/v1beta1", "kind": "Deployment", "metadata": {"name": "www"},
        "spec": {"template": {"metadata": {"labels": {"app": "www"}},
            "spec": {"containers": [{"name": "c", "image": "nginx"}]}}}})
}

#[tokio::test]
async fn a_removed_version_is_accepted_with_a_warning() {
    let f = Fixture::start().await;
    let mut watch = f.watch(&format!("{NEW}?watch=1")).await;
    let made = f.post(OLD, deployment()).await;
    let warning =
        "extensions/v1beta1 Deployment is deprecated in v1.8+, unavailable in v1.16+; use apps/v1 Deployment";
    assert_eq!(made.warnings(), [warning]);
    let made = made.expect(201);
    assert_eq!(made["apiVersion"], "extensions/v1beta1");
    let seen = watch.next().await;
    assert_eq!(seen["object"]["apiVersion"], "apps/v1");

    // What was left out is what it meant then.
    let now = f.get(&format!("{NEW}/www")).await;
    assert!(now.warnings().is_empty());
    let now = now.expect(200);
    assert_eq!(now["spec"]["selector"], json!({"matchLabels": {"app": "www"}}));
    assert_eq!(now["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 1}));
    assert_eq!(now["metadata"]["labels"], json!({"app": "www"}));

    // Both versions change the same object.
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "apache"}]}}}});
    let (strategic, www) = ("application/strategic-merge-patch+json", format!("{OLD}/www"));
    let patched = f.patch_as(strategic, &www, image.to_string()).await.expect(200);
    assert_eq!(patched["metadata"]["generation"], 2);
    let scaled = f.patch(&format!("{OLD}/www/scale"), json!({"spec": {"replicas": 2}})).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 2);
    let now = f.get(&format!("{NEW}/www")).await.expect(200);
    assert_eq!(now["spec"]["template"]["spec"]["containers"][0]["image"], "apache");
    assert_eq!(now["spec"]["replicas"], 2);

    let list = f.get(OLD).await.expect(200);
    assert_eq!(
        (&list["apiVersion"], &list["items"][0]["apiVersion"]),
        (&json!("extensions/v1beta1"), &json!("extensions/v1beta1"))
    );
    let deleted = f.delete(&format!("{OLD}/www")).await.expect(200);
    assert_eq!(deleted["metadata"]["finalizers"], json!(["orphan"]));
}

#[tokio::test]
async fn discovery_prefers_the_version_of_today() {
    let f = Fixture::start().await;
    for (group, preferred, count) in [("apps", "v1", 1), ("autoscaling", "v2", 2), ("batch", "v1", 1)] {
        let found = f.get(&format!("/apis/{group}")).await.expect(200);
        assert_eq!(found["preferredVersion"]["version"], preferred);
        assert_eq!(found["versions"].as_array().unwrap().len(), count);
    }
    // Who walks through what there is meets no removed version.
    for path in ["/apis/extensions", "/apis/extensions/v1beta1", "/apis/apps/v1beta1"] {
        f.get(path).await.expect(404);
    }
    let services = f.get("/apis/apiregistration.k8s.io/v1/apiservices").await.expect(200);
    assert!(!names(&services).iter().any(|name| name.contains("v1beta1.apps")), "{services}");
    let document = f.get("/openapi/v3/apis/extensions/v1beta1").await.expect(200);
    let schema = &document["components"]["schemas"]["io.k8s.api.extensions.v1beta1.Deployment"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "extensions", "version": "v1beta1", "kind": "Deployment"}])
    );
}

#[tokio::test]
async fn autoscalers_have_two_versions() {
    let f = Fixture::start().await;
    let at =
        |version: &str| format!("/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers");
    let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "www"});
    let old = json!({"metadata": {"name": "www"}, "spec": {"scaleTargetRef": target, "maxReplicas": 5,
        "targetCPUUtilizationPercentage": 60}});
    let made = f.post(&at("v1"), old).await.expect(201);
    assert_eq!(made["spec"]["targetCPUUtilizationPercentage"], 60);
    assert!(made["metadata"].get("annotations").is_none());
    let path = format!("{}/www", at("v2"));
    let new = f.get(&path).await.expect(200);
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 60}}});
    assert_eq!((&new["apiVersion"], &new["spec"]["metrics"]), (&json!("autoscaling/v2"), &json!([cpu])));

    let memory = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
    f.patch(&path, json!({"spec": {"metrics": [memory, cpu]}})).await.expect(200);
    let old = f.get(&format!("{}/www", at("v1"))).await.expect(200);
    assert_eq!(
        old["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"],
        r#"[{"resource":{"name":"memory","targetAverageValue":"1Gi"},"type":"Resource"}]"#
    );
    // A client of version 1 loses nothing of what it does not know.
    f.patch(&format!("{}/www", at("v1")), json!({"spec": {"maxReplicas": 7}})).await.expect(200);
    let new = f.get(&path).await.expect(200);
    assert_eq!((&new["spec"]["maxReplicas"], &new["spec"]["metrics"]), (&json!(7), &json!([memory, cpu])));
    assert!(new["metadata"].get("annotations").is_none());
}

#[tokio::test]
async fn other_removed_versions_mean_what_they_meant() {
    let f = Fixture::start().await;
    let at = |version: &str, plural: &str| format!("/apis/{version}/namespaces/default/{plural}");
    let budget = json!({"metadata": {"name": "none"}, "spec": {"minAvailable": 1, "selector": {}}});
    let made = f.post(&at("policy/v1beta1", "poddisruptionbudgets"), budget).await.expect(201);
    assert_eq!(made["spec"]["selector"], json!({}));
    let now = f.get(&format!("{}/none", at("policy/v1", "poddisruptionbudgets"))).await.expect(200);
    assert_eq!(now["spec"]["selector"]["matchExpressions"][0]["operator"], "Exists");

    let mut set = deployment();
    set["apiVersion"] = json!("apps/v1beta1");
    set["kind"] = json!("StatefulSet");
    f.post(&at("apps/v1beta1", "statefulsets"), set).await.expect(201);
    let now = f.get(&format!("{}/www", at("apps/v1", "statefulsets"))).await.expect(200);
    assert_eq!(now["spec"]["updateStrategy"]["type"], "OnDelete");

    let job = json!({"spec": {"template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "c", "image": "busybox"}]}}}});
    let cron = json!({"metadata": {"name": "tick"}, "spec": {"schedule": "@hourly", "jobTemplate": job}});
    let made = f.post(&at("batch/v1beta1", "cronjobs"), cron).await;
    assert_eq!(
        made.warnings(),
        ["batch/v1beta1 CronJob is deprecated in v1.21+, unavailable in v1.25+; use batch/v1 CronJob"]
    );
    made.expect(201);
    let set = f.get(&format!("{}/www", at("apps/v1beta2", "statefulsets"))).await.expect(200);
    assert_eq!(set["apiVersion"], "apps/v1beta2");
}

#[tokio::test]
async fn old_ingresses_name_their_services_otherwise() {
    let f = Fixture::start().await;
    let at = |version: &str| format!("/apis/{version}/namespaces/default/ingresses");
    for (version, name) in [("extensions/v1beta1", "one"), ("networking.k8s.io/v1beta1", "two")] {
        let backend = json!({"serviceName": "www", "servicePort": 80});
        let ingress = json!({"metadata": {"name": name}, "spec": {"rules": [{"host": "a.example",
            "http": {"paths": [{"path": "/", "backend": backend}]}}]}});
        let made = f.post(&at(version), ingress).await;
        assert_eq!(made.warnings().len(), 1, "{version}");
        assert!(made.warnings()[0].ends_with("use networking.k8s.io/v1 Ingress"), "{version}");
        let made = made.expect(201);
        let path = &made["spec"]["rules"][0]["http"]["paths"][0];
        assert_eq!((&path["backend"], &path["pathType"]), (&backend, &json!("ImplementationSpecific")));
        let now = f.get(&format!("{}/{name}", at("networking.k8s.io/v1"))).await.expect(200);
        assert_eq!(
            now["spec"]["rules"][0]["http"]["paths"][0]["backend"],
            json!({"service": {"name": "www", "port": {"number": 80}}})
        );
        let both = json!({"serviceName": "www", "servicePort": 80, "service": {"name": "b"}});
        let unknown = json!({"spec": {"rules": [{"http": {"paths": [{"path": "/", "backend": both}]}}]}});
        let told = f.patch(&format!("{}/{name}?dryRun=All", at(version)), unknown).await.warnings();
        assert!(
            told.iter().any(|w| w.contains("unknown field \"spec.rules[0].http.paths[0].backend.service\"")),
            "{told:?}"
        );
    }
}
