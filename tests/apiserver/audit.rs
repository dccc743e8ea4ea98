//! The audit log.

use minik::apiserver::audit::{Audit, Limits};
use serde_json::{Value, json};

use super::server::{Fixture, MAPS};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/readyz*"]
- level: RequestResponse
  resources: [{group: "", resources: [configmaps]}]
  omitManagedFields: true
- level: Metadata
"#;

#[tokio::test]
async fn requests_are_recorded_as_the_policy_wants() {
    let directory = tempfile::tempdir().unwrap();
    let (policy, log) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let audit = Audit::open(&policy, &log, Limits::default()).unwrap();
    let f = Fixture::start_recorded(audit.clone()).await;
    f.config("one").await;
    f.get("/readyz").await;
    f.get("/api/v1/namespaces/none").await.expect(404);
    let request = f.request("GET", &format!("{MAPS}?watch=true&timeoutSeconds=1"));
    let id = "7d9b2c1e-0000-4000-8000-000000000001";
    let watch = request.header("audit-id", id).send().await.unwrap();
    assert_eq!(watch.headers()["audit-id"], id);
    watch.bytes().await.unwrap();
    audit.flush().await;
    let text = std::fs::read_to_string(&log).unwrap();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<String> = events
        .iter()
        .map(|event| {
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {} {} {}",
                text("stage"),
                text("verb"),
                text("level"),
                event["responseStatus"]["code"]
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "ResponseComplete create RequestResponse 201",
            "ResponseComplete get Metadata 404",
            "ResponseStarted watch RequestResponse 200",
            "ResponseComplete watch RequestResponse 200",
        ]
    );
    let created = &events[0];
    assert_eq!(created["objectRef"]["resource"], "configmaps");
    assert_eq!(created["requestObject"]["metadata"]["name"], "one");
    assert_eq!(created["responseObject"]["metadata"]["name"], "one");
    assert_eq!(created["responseObject"]["metadata"].get("managedFields"), None);
    assert_eq!(
        (&created["user"]["username"], &created["sourceIPs"]),
        (&json!("admin"), &json!(["127.0.0.1"]))
    );
    assert_eq!(events[1]["responseStatus"]["reason"], "NotFound");
    assert_eq!(events[2]["auditID"], id);
    assert_eq!(events[3]["requestURI"], format!("{MAPS}?watch=true&timeoutSeconds=1"));
}
