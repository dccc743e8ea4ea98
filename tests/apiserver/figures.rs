//! What is measured: metrics.k8s.io, and the server's own metrics.

use serde_json::json;

use super::server::{Fixture, MAPS, PODS, sent};

const USAGE: &str = "/apis/metrics.k8s.io/v1beta1";

#[tokio::test]
async fn what_nodes_and_pods_use_is_told_as_kubectl_top_asks() {
    let f = Fixture::start().await;
    f.pod("www").await;
    f.patch(&format!("{PODS}/www"), json!({"metadata": {"labels": {"app": "web"}}})).await.expect(200);
    let groups = f.get("/apis").await.expect(200);
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "metrics.k8s.io"), "{groups}");
    let list = f.get(USAGE).await.expect(200);
    assert_eq!(list["resources"][1]["kind"], "PodMetrics");
    let nodes = f.get(&format!("{USAGE}/nodes")).await.expect(200);
    assert_eq!(nodes["kind"], "NodeMetricsList");
    assert_eq!(nodes["items"][0]["usage"], json!({"cpu": "1500m", "memory": "5120Ki"}));
    assert_eq!(f.get(&format!("{USAGE}/nodes/minik")).await.expect(200)["window"], "15s");
    let pods = format!("{USAGE}/namespaces/default/pods");
    let pod = f.get(&format!("{pods}/www")).await.expect(200);
    assert_eq!(pod["containers"], json!([{"name": "c", "usage": {"cpu": "500m", "memory": "5120Ki"}}]));
    assert_eq!(pod["metadata"]["labels"], json!({"app": "web"}));
    for (query, count) in [("", 1), ("?labelSelector=app%3Dweb", 1), ("?labelSelector=app%3Ddb", 0)] {
        let list = f.get(&format!("{USAGE}/pods{query}")).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), count, "{query}");
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = sent(f.request("GET", &pods).header("accept", table)).await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["www", "500m", "5Mi", "15s"]));
    let gone = f.get(&format!("{pods}/none")).await.expect(404);
    assert_eq!(gone["message"], "podmetrics.metrics.k8s.io \"default/none\" not found");
    assert_eq!(f.delete(&format!("{pods}/www")).await.code, 405);
    assert_eq!(sent(f.stranger.get(format!("{}{USAGE}/nodes", f.base))).await.code, 403);
}

#[tokio::test]
async fn requests_are_counted_by_what_they_are_about() {
    let f = Fixture::start().await;
    f.config("one").await;
    f.get(&format!("{MAPS}/one")).await.expect(200);
    f.get(&format!("{MAPS}/two")).await.expect(404);
    let mut watch = f.watch(&format!("{MAPS}?watch=true")).await;
    watch.next().await;
    f.get("/api/v1/componentstatuses").await.expect(200);
    let page = f.get("/metrics").await;
    assert_eq!(page.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = page.text();
    let of = |scope: &str, verb: &str| {
        format!(
            "component=\"apiserver\",dry_run=\"\",group=\"\",resource=\"configmaps\",scope=\"{scope}\",subresource=\"\",\
             verb=\"{verb}\",version=\"v1\""
        )
    };
    for line in [
        "beside_total 3".to_owned(),
        format!("apiserver_request_total{{code=\"200\",{}}} 1", of("resource", "GET")),
        format!("apiserver_request_total{{code=\"404\",{}}} 1", of("resource", "GET")),
        format!("apiserver_request_total{{code=\"201\",{}}} 1", of("namespace", "POST")),
        format!("apiserver_request_duration_seconds_count{{{}}} 2", of("resource", "GET")),
        format!("apiserver_longrunning_requests{{{}}} 1", of("namespace", "WATCH")),
        format!("apiserver_request_sli_duration_seconds_count{{{}}} 2", of("resource", "GET").replace("dry_run=\"\",", "")),
        // Both the map and the refusal are short.
        format!("apiserver_response_sizes_bucket{{{},le=\"1000\"}} 2", of("resource", "GET").replace("dry_run=\"\",", "")),
        "apiserver_requested_deprecated_apis{group=\"\",removed_release=\"\",resource=\"componentstatuses\",subresource=\"\",\
         version=\"v1\"} 1".into(),
        // Lists are written piece by piece.
        format!("apiserver_response_sizes_count{{{}}} 1", of("cluster", "LIST").replace("dry_run=\"\",", "").replace("configmaps", "componentstatuses")),
        // This one.
        "apiserver_flowcontrol_current_executing_requests{flow_schema=\"exempt\",priority_level=\"exempt\"} 1".into(),
        "apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"catch-all\",priority_level=\"catch-all\"} 0".into(),
        "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"catch-all\"} 13".into(),
        "apiserver_watch_events_total{group=\"\",resource=\"configmaps\",version=\"v1\",scope=\"namespace\"} 1".into(),
        "apiserver_storage_objects{resource=\"configmaps\"} 1".into(),
        "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1".into(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    // Not only this test's own requests are admitted.
    let admitted = "apiserver_admission_step_admission_duration_seconds_count{operation=\"CREATE\",rejected=\"false\",type=\"admit\"} ";
    assert!(text.lines().any(|l| l.starts_with(admitted)), "{admitted} in\n{text}");
}

#[tokio::test]
async fn health_checks_are_figures_too() {
    let f = Fixture::start().await;
    f.get("/readyz").await;
    let text = f.get("/metrics/slis").await.text();
    for line in [
        "kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1",
        "kubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"readyz\"} 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}
