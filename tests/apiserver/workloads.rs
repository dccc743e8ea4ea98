//! Workloads, autoscalers, budgets, quotas and volumes, as clients make, change and list them.

use serde_json::{Value, json};

use super::server::{Fixture, PODS, names, sent};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

fn template(restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": "www"}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "nginx"}]}})
}

fn workload() -> Value {
    json!({"metadata": {"name": "www"}, "spec": {"selector": {"matchLabels": {"app": "www"}},
        "template": template("Always")}})
}

async fn table(f: &Fixture, path: &str) -> (Vec<String>, Value) {
    let table = sent(f.request("GET", path).header("accept", TABLE)).await.expect(200);
    let columns = table["columnDefinitions"].as_array().unwrap().iter();
    let names = columns.map(|column| column["name"].as_str().unwrap().to_owned()).collect();
    (names, table["rows"][0]["cells"].clone())
}

#[tokio::test]
async fn a_deployment_counts_its_changes() {
    let f = Fixture::start().await;
    let made = f.post(DEPLOYMENTS, workload()).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(
        made["spec"]["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
    );
    assert_eq!((&made["spec"]["replicas"], &made["status"]), (&json!(1), &json!({})));
    let www = format!("{DEPLOYMENTS}/www");
    let changed = f.patch(&www, json!({"spec": {"template": {"spec": {"hostname": "a"}}}})).await.expect(200);
    assert_eq!(changed["metadata"]["generation"], 2);
    let labelled = f.patch(&www, json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(labelled["metadata"]["generation"], 2);
    let status = json!({"status": {"replicas": 1, "observedGeneration": 2}});
    let reported = f.patch(&format!("{www}/status"), status).await.expect(200);
    assert_eq!(
        (&reported["metadata"]["generation"], &reported["status"]["replicas"]),
        (&json!(2), &json!(1))
    );

    let other = json!({"spec": {"selector": {"matchLabels": {"app": "vote"}},
        "template": {"metadata": {"labels": {"app": "vote"}}}}});
    let refused = f.patch(&www, other).await.expect(422);
    assert_eq!(
        refused["message"],
        "Deployment.apps \"www\" is invalid: spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"vote\"}}: \
         field is immutable"
    );
    let (columns, cells) = table(&f, &www).await;
    assert_eq!(
        columns,
        ["Name", "Ready", "Up-to-date", "Available", "Age", "Containers", "Images", "Selector"]
    );
    assert_eq!((&cells[1], &cells[7]), (&json!("0/1"), &json!("app=www")));
}

#[tokio::test]
async fn replicas_are_scaled_whatever_else_an_object_holds() {
    let f = Fixture::start().await;
    let controller = json!({"metadata": {"name": "www"}, "spec": {"template": template("Always")}});
    for (collection, body) in [
        (DEPLOYMENTS, workload()),
        ("/apis/apps/v1/namespaces/default/replicasets", workload()),
        ("/apis/apps/v1/namespaces/default/statefulsets", workload()),
        ("/api/v1/namespaces/default/replicationcontrollers", controller),
    ] {
        f.post(collection, body).await.expect(201);
        let (object, path) = (format!("{collection}/www"), format!("{collection}/www/scale"));
        let mut scale = f.get(&path).await.expect(200);
        assert_eq!(
            (&scale["kind"], &scale["apiVersion"], &scale["spec"]),
            (&json!("Scale"), &json!("autoscaling/v1"), &json!({"replicas": 1})),
            "{collection}"
        );
        assert_eq!(scale["status"], json!({"replicas": 0, "selector": "app=www"}), "{collection}");
        let old = scale.clone();
        scale["spec"]["replicas"] = json!(3);
        let scaled = f.put(&path, scale).await.expect(200);
        assert_eq!(scaled["spec"]["replicas"], 3);
        let now = f.get(&object).await.expect(200);
        assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(3), &json!(2)));
        f.put(&path, old).await.expect(409);
        let scaled = f.patch(&path, json!({"spec": {"replicas": 0}})).await.expect(200);
        assert_eq!(scaled["spec"], json!({}));
        let refused = f.patch(&path, json!({"spec": {"replicas": -1}})).await.expect(422);
        assert_eq!(
            refused["message"],
            "Scale.autoscaling \"www\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal \
             to 0"
        );
        f.get(&format!("{collection}/nobody/scale")).await.expect(404);
    }
    let (columns, cells) = table(&f, &format!("{DEPLOYMENTS}/www/scale")).await;
    assert_eq!(columns, ["Name", "Desired", "Available", "Age"]);
    assert_eq!(cells[1], 0);
}

#[tokio::test]
async fn each_kind_is_made_and_listed() {
    let f = Fixture::start().await;
    let job = json!({"template": template("Never")});
    for (collection, spec, columns) in [
        (
            "/apis/apps/v1/namespaces/default/daemonsets",
            workload()["spec"].clone(),
            "Name Desired Current Ready Up-to-date Available Node Selector Age Containers Images Selector",
        ),
        (
            "/apis/apps/v1/namespaces/default/replicasets",
            workload()["spec"].clone(),
            "Name Desired Current Ready Age Containers Images Selector",
        ),
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            workload()["spec"].clone(),
            "Name Ready Age Containers Images",
        ),
        (
            "/apis/batch/v1/namespaces/default/jobs",
            job.clone(),
            "Name Status Completions Duration Age Containers Images Selector",
        ),
        (
            "/apis/batch/v1/namespaces/default/cronjobs",
            json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": job}}),
            "Name Schedule Timezone Suspend Active Last Schedule Age Containers Images Selector",
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "www"}}}),
            "Name Min Available Max Unavailable Allowed Disruptions Age",
        ),
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}),
            "Name Status Volume Capacity Access Modes StorageClass VolumeAttributesClass Age VolumeMode",
        ),
        (
            "/api/v1/persistentvolumes",
            json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/data"}}),
            "Name Capacity Access Modes Reclaim Policy Status Claim StorageClass VolumeAttributesClass Reason Age \
             VolumeMode",
        ),
        (
            "/api/v1/namespaces/default/resourcequotas",
            json!({"hard": {"pods": "5"}}),
            "Name Request Limit Age",
        ),
        (
            "/api/v1/namespaces/default/limitranges",
            json!({"limits": [{"type": "Container", "default": {"cpu": "1"}}]}),
            "Name Created At",
        ),
    ] {
        let made = f.post(collection, json!({"metadata": {"name": "www"}, "spec": spec})).await;
        let made = made.expect(201);
        let path = format!("{collection}/www");
        let (names, cells) = table(&f, &path).await;
        assert_eq!((names.join(" ").as_str(), &cells[0]), (columns, &json!("www")));
        // What the server answers can be sent back.
        let again = f.put(&path, made.clone()).await.expect(200);
        assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"], "{collection}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_as_kubernetes_tells_it() {
    let f = Fixture::start().await;
    let mut deployment = workload();
    deployment["spec"]["template"]["metadata"]["labels"] = json!({"app": "vote"});
    let refused = f.post(DEPLOYMENTS, deployment).await.expect(422);
    assert_eq!(
        refused["message"],
        "Deployment.apps \"www\" is invalid: spec.template.metadata.labels: Invalid value: {\"app\":\"vote\"}: \
         `selector` does not match template `labels`"
    );
    let job = json!({"metadata": {"name": "www"}, "spec": {"template": template("Always")}});
    let refused = f.post("/apis/batch/v1/namespaces/default/jobs", job).await.expect(422);
    assert_eq!(
        refused["message"],
        "Job.batch \"www\" is invalid: spec.template.spec.restartPolicy: Required value: valid values: \
         \"OnFailure\", \"Never\""
    );
}

#[tokio::test]
async fn the_pods_of_a_job_stay_unless_something_is_said() {
    let f = Fixture::start().await;
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let job = json!({"metadata": {"name": "www"}, "spec": {"template": template("Never")}});
    f.post(jobs, job).await.expect(201);
    let deleted = f.delete(&format!("{jobs}/www")).await;
    assert_eq!(
        deleted.warnings(),
        [
            "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove \
             them or set propagationPolicy=Orphan to suppress this warning"
        ]
    );
    assert_eq!(deleted.expect(200)["metadata"]["finalizers"], json!(["orphan"]));
}

#[tokio::test]
async fn components_are_well_as_long_as_they_can_be_asked() {
    let f = Fixture::start().await;
    let list = f.get("/api/v1/componentstatuses").await;
    assert_eq!(list.warnings(), ["v1 ComponentStatus is deprecated in v1.19+"]);
    let list = list.expect(200);
    assert_eq!(
        (&list["kind"], names(&list)),
        (&json!("ComponentStatusList"), vec!["controller-manager", "etcd-0", "scheduler"])
    );
    let (columns, cells) = table(&f, "/api/v1/componentstatuses/scheduler").await;
    assert_eq!(columns, ["Name", "Status", "Message", "Error"]);
    assert_eq!(cells, json!(["scheduler", "Healthy", "ok", ""]));
    f.get("/api/v1/componentstatuses/other").await.expect(404);
    f.delete("/api/v1/componentstatuses/scheduler").await.expect(405);
}

#[tokio::test]
async fn an_eviction_asks_the_budgets() {
    let f = Fixture::start().await;
    f.pod("www").await;
    let pod = format!("{PODS}/www");
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    f.patch(&pod, json!({"metadata": {"labels": {"app": "www"}}})).await.expect(200);
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    f.patch(&format!("{pod}/status"), json!({ "status": ready })).await.expect(200);
    let budget = json!({"metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "www"}}}});
    f.post(budgets, budget).await.expect(201);
    let evict = async || f.post(&format!("{pod}/eviction"), json!({"metadata": {"name": "www"}})).await;
    let refused = evict().await.expect(429);
    assert_eq!(refused["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(
        refused["details"]["causes"][0]["message"],
        "The disruption budget b is still being processed by the server."
    );
    let counts = |allowed: i64| {
        json!({"status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1,
            "desiredHealthy": 1, "expectedPods": 1}})
    };
    f.patch(&format!("{budgets}/b/status"), counts(0)).await.expect(200);
    assert_eq!(
        evict().await.expect(429)["details"]["causes"][0]["message"],
        "The disruption budget b needs 1 healthy pods and has 1 currently"
    );
    f.patch(&format!("{budgets}/b/status"), counts(1)).await.expect(200);
    evict().await.expect(201);
    let budget = f.get(&format!("{budgets}/b")).await.expect(200);
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert!(budget["status"]["disruptedPods"]["www"].is_string());
}
