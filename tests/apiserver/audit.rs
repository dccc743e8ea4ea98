//! The audit log.

use minik::apiserver::audit::{Audit, Limits};
use serde_json::{Value, json};

use super::server::{Fixture, MAPS, PODS, sent};
use super::webhooks::{self, Hook};

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

/// A server whose requests are recorded.
struct Recorded {
    fixture: Fixture,
    audit: Audit,
    directory: tempfile::TempDir,
}

impl Recorded {
    /// By this policy.
    async fn start(policy: &str) -> Recorded {
        let directory = tempfile::tempdir().unwrap();
        let (path, log) = (directory.path().join("policy.yaml"), directory.path().join("audit.log"));
        std::fs::write(&path, policy).unwrap();
        let audit = Audit::open(&path, &log, Limits::default()).unwrap();
        let fixture = Fixture::start_recorded(audit.clone()).await;
        Recorded { fixture, audit, directory }
    }

    async fn events(&self) -> Vec<Value> {
        self.audit.flush().await;
        let text = std::fs::read_to_string(self.directory.path().join("audit.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// What was noted of the last request.
    async fn notes(&self) -> Value {
        self.events().await.pop().unwrap()["annotations"].clone()
    }
}

#[tokio::test]
async fn requests_are_recorded_as_the_policy_wants() {
    let recorded = Recorded::start(POLICY).await;
    let f = &recorded.fixture;
    f.config("one").await;
    f.get("/readyz").await;
    f.get("/api/v1/namespaces/none").await.expect(404);
    let request = f.request("GET", &format!("{MAPS}?watch=true&timeoutSeconds=1"));
    let id = "7d9b2c1e-0000-4000-8000-000000000001";
    let watch = request.header("audit-id", id).send().await.unwrap();
    assert_eq!(watch.headers()["audit-id"], id);
    watch.bytes().await.unwrap();
    let events = recorded.events().await;
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

const REQUESTS: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Request
"#;

const DECISION: &str = "authorization.k8s.io/decision";
const REASON: &str = "authorization.k8s.io/reason";

#[tokio::test]
async fn it_is_noted_what_allows_or_forbids() {
    let recorded = Recorded::start(REQUESTS).await;
    let f = &recorded.fixture;
    f.get(MAPS).await.expect(200);
    assert_eq!(recorded.notes().await, json!({DECISION: "allow", REASON: ""}));
    let as_jane = || sent(f.request("GET", MAPS).header("impersonate-user", "jane"));
    as_jane().await.expect(403);
    assert_eq!(recorded.notes().await, json!({DECISION: "forbid", REASON: ""}));
    let group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({"metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    f.post(&format!("{group}/roles"), role).await.expect(201);
    let binding = json!({"metadata": {"name": "jane-reads"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "jane"}]});
    f.post(&format!("{group}/rolebindings"), binding).await.expect(201);
    as_jane().await.expect(200);
    let by = "RBAC: allowed by RoleBinding \"jane-reads/default\" of Role \"reader\" to User \"jane\"";
    assert_eq!(recorded.notes().await, json!({DECISION: "allow", REASON: by}));
    f.get("/api/v1/componentstatuses").await.expect(200);
    assert_eq!(recorded.notes().await["k8s.io/deprecated"], "true");
}

#[tokio::test]
async fn it_is_noted_what_admission_says() {
    let recorded = Recorded::start(REQUESTS).await;
    let f = &recorded.fixture;
    let restricted = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/audit": "restricted"}}});
    f.patch("/api/v1/namespaces/default", restricted).await.expect(200);
    f.post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}}))
        .await
        .expect(201);
    let pod = |name: &str, spec: Value| {
        let mut pod =
            json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}});
        json_patch::merge(&mut pod["spec"], &spec);
        pod
    };
    f.post(PODS, pod("host", json!({"hostNetwork": true}))).await.expect(403);
    let notes = recorded.notes().await;
    // Who may make pods may still not make this one.
    assert_eq!(notes[DECISION], "allow");
    assert_eq!(notes["pod-security.kubernetes.io/enforce-policy"], "baseline:latest");
    f.post(PODS, pod("plain", json!({}))).await.expect(201);
    let notes = recorded.notes().await;
    let violations = notes["pod-security.kubernetes.io/audit-violations"].as_str().unwrap();
    assert!(
        violations.starts_with(
            "would violate PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"c\""
        ),
        "{violations}"
    );

    let about_maps = json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"],
        "resources": ["configmaps"]}]});
    let policy = json!({"metadata": {"name": "few.example.com"}, "spec": {"matchConstraints": about_maps,
        "validations": [{"expression": "true"}, {"expression": "size(object.data) < 2", "message": "too many"}],
        "auditAnnotations": [{"key": "keys", "valueExpression": "string(size(object.data))"}]}});
    let group = "/apis/admissionregistration.k8s.io/v1";
    f.post(&format!("{group}/validatingadmissionpolicies"), policy).await.expect(201);
    let binding = json!({"metadata": {"name": "few"},
        "spec": {"policyName": "few.example.com", "validationActions": ["Warn", "Audit"]}});
    f.post(&format!("{group}/validatingadmissionpolicybindings"), binding).await.expect(201);
    let hook = Hook::start(|request| {
        let mut answer = match request["name"].as_str() {
            Some("one") => webhooks::patch(json!([{"op": "add", "path": "/data/c", "value": "3"}])),
            _ => json!({"allowed": true}),
        };
        answer["auditAnnotations"] = json!({"looked": "yes", "a wrong key": "no"});
        Some(answer)
    })
    .await;
    webhooks::mutating(f, json!([hook.webhook(json!({}))])).await;
    f.post(MAPS, json!({"metadata": {"name": "one"}, "data": {"a": "1", "b": "2"}})).await.expect(201);
    let notes = recorded.notes().await;
    assert_eq!(notes["few.example.com/keys"], "3");
    assert_eq!(
        notes["validation.policy.admission.k8s.io/validation_failure"],
        "[{\"message\":\"too many\",\"policy\":\"few.example.com\",\"binding\":\"few\",\
         \"expressionIndex\":1,\"validationActions\":[\"Warn\",\"Audit\"]}]"
    );
    assert_eq!(notes["maps.example.com/looked"], "yes");
    assert_eq!(notes.get("maps.example.com/a wrong key"), None);
    assert_eq!(
        notes["mutation.webhook.admission.k8s.io/round_0_index_0"],
        "{\"configuration\":\"hooks\",\"webhook\":\"maps.example.com\",\"mutated\":true}"
    );
    assert_eq!(
        notes["patch.webhook.admission.k8s.io/round_0_index_0"],
        "{\"configuration\":\"hooks\",\"webhook\":\"maps.example.com\",\"patch\":[{\"op\":\"add\",\
         \"path\":\"/data/c\",\"value\":\"3\"}],\"patchType\":\"JSONPatch\"}"
    );
}
