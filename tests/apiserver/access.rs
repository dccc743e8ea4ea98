//! Who may do what: roles, bindings, acting as somebody else, and questions about it.

use std::time::Duration;

use minik::apiserver::pki::LEAF_LIFETIME;
use serde_json::{Value, json};

use super::server::{Answer, Fixture, MAPS, PODS, client, names, sent};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

/// A client that nobody but a test knows.
struct Somebody {
    client: reqwest::Client,
    base: String,
}

impl Somebody {
    fn new(f: &Fixture, name: &str, groups: &[&str]) -> Somebody {
        let leaf = f.pki.client(name, groups, LEAF_LIFETIME).unwrap();
        Somebody { client: client(&f.pki, Some(&leaf)).build().unwrap(), base: f.base.clone() }
    }

    fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = http::Method::from_bytes(method.as_bytes()).unwrap();
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn get(&self, path: &str) -> Answer {
        sent(self.request("GET", path)).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        sent(self.request("POST", path).json(&body)).await
    }

    /// What a refusal says.
    async fn refused(&self, method: &str, path: &str) -> String {
        let answer = sent(self.request(method, path)).await.expect(403);
        assert_eq!(answer["reason"], "Forbidden");
        answer["message"].as_str().unwrap().to_owned()
    }
}

fn role(name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    json!({"metadata": {"name": name},
        "rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources}]})
}

fn binding(name: &str, kind: &str, role: &str, user: &str) -> Value {
    json!({"metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]})
}

#[tokio::test]
async fn everybody_gets_what_roles_give_them() {
    let f = Fixture::start().await;
    let jane = Somebody::new(&f, "jane", &["devs"]);
    assert_eq!(
        jane.refused("GET", PODS).await,
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    assert_eq!(
        jane.refused("GET", "/api/v1/namespaces/default/pods/www/log").await,
        "pods \"www\" is forbidden: User \"jane\" cannot get resource \"pods/log\" in API group \"\" in the namespace \
         \"default\""
    );
    assert_eq!(
        jane.refused("GET", "/metrics").await,
        "forbidden: User \"jane\" cannot get path \"/metrics\""
    );
    // Whether a path is there is nobody's business who may not ask.
    assert_eq!(
        jane.refused("DELETE", "/apis/example.com/v1/widgets").await,
        "widgets.example.com is forbidden: User \"jane\" cannot deletecollection resource \"widgets\" in API group \
         \"example.com\" at the cluster scope"
    );
    // A refused body is not read.
    let broken = sent(jane.request("POST", MAPS).body("{")).await;
    assert_eq!(broken.code, 403);

    let (roles, bindings) =
        (format!("{RBAC}/namespaces/default/roles"), format!("{RBAC}/namespaces/default/rolebindings"));
    f.post(&roles, role("reader", &["get", "list", "watch"], &["configmaps"])).await.expect(201);
    f.post(&bindings, binding("jane", "Role", "reader", "jane")).await.expect(201);
    f.config("one").await;
    assert_eq!(names(&jane.get(MAPS).await.expect(200)), ["one"]);
    jane.get("/api/v1/configmaps").await.expect(403);
    jane.refused("DELETE", &format!("{MAPS}/one")).await;
    // A selection of one name is allowed to who may read that object.
    let mut one = role("one", &["list", "get"], &["secrets"]);
    one["rules"][0]["resourceNames"] = json!(["s"]);
    f.post(&roles, one).await.expect(201);
    f.post(&bindings, binding("one", "Role", "one", "jane")).await.expect(201);
    let secrets = "/api/v1/namespaces/default/secrets";
    jane.get(&format!("{secrets}?fieldSelector=metadata.name%3Ds")).await.expect(200);
    jane.get(secrets).await.expect(403);
    // An update that would make something needs the right to make it.
    f.post(&roles, role("mover", &["update"], &["services"])).await.expect(201);
    f.post(&bindings, binding("mover", "Role", "mover", "jane")).await.expect(201);
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let path = "/api/v1/namespaces/default/services/s";
    let refused = sent(jane.request("PUT", path).json(&service)).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("cannot create resource \"services\""));
    f.put(path, service.clone()).await.expect(201);
    sent(jane.request("PUT", path).json(&service)).await.expect(200);
    // What the cluster's own roles give to everybody and to a namespace's administrator.
    jane.get("/apis").await.expect(200);
    jane.get("/version").await.expect(200);
    let all = format!("{RBAC}/clusterrolebindings");
    f.post(&all, binding("gone", "ClusterRole", "gone", "jane")).await.expect(201);
    assert!(
        jane.refused("GET", PODS)
            .await
            .ends_with(": RBAC: clusterrole.rbac.authorization.k8s.io \"gone\" not found")
    );
    f.post(&all, binding("all", "ClusterRole", "cluster-admin", "jane")).await.expect(201);
    jane.get("/metrics").await.expect(200);
    f.delete(&format!("{all}/all")).await.expect(200);
    jane.get("/metrics").await.expect(403);
}

#[tokio::test]
async fn nobody_in_particular_sees_what_is_public() {
    let f = Fixture::start().await;
    let get = |path: &str| sent(f.stranger.get(format!("{}{path}", f.base)));
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(get(path).await.code, 200, "{path}");
    }
    assert_eq!(
        get("/api").await.expect(403)["message"],
        "forbidden: User \"system:anonymous\" cannot get path \"/api\""
    );
    assert_eq!(
        get(PODS).await.expect(403)["message"],
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \
         \"default\""
    );
    // Wrong credentials are worse than none.
    let wrong = sent(f.stranger.get(format!("{}/version", f.base)).bearer_auth("x")).await;
    assert_eq!(wrong.expect(401)["message"], "Unauthorized");
    let basic = sent(f.stranger.get(format!("{}/version", f.base)).basic_auth("admin", Some("admin"))).await;
    basic.expect(200);
}

#[tokio::test]
async fn rights_are_given_by_those_who_have_them() {
    let f = Fixture::start().await;
    let jane = Somebody::new(&f, "jane", &[]);
    let mine = |plural: &str| format!("{RBAC}/namespaces/default/{plural}");
    f.post(
        &format!("{RBAC}/clusterroles"),
        json!({"metadata": {"name": "delegate"}, "rules": [
        {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}),
    )
    .await
    .expect(201);
    f.post(&mine("rolebindings"), binding("jane", "ClusterRole", "delegate", "jane")).await.expect(201);
    // Every verb on roles is more than Kubernetes' own `admin` has: `escalate` and `bind` are among them.
    jane.post(&mine("roles"), role("secrets", &["get"], &["secrets"])).await.expect(201);
    f.delete(&mine("rolebindings/jane")).await.expect(200);
    let plain = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    f.patch(
        &format!("{RBAC}/clusterroles/delegate"),
        json!({"rules": [
        {"verbs": plain, "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
        {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}]}),
    )
    .await
    .expect(200);
    f.post(&mine("rolebindings"), binding("jane", "ClusterRole", "delegate", "jane")).await.expect(201);
    jane.post(&mine("roles"), role("pods", &["get"], &["pods"])).await.expect(201);
    let refused = jane.post(&mine("roles"), role("more", &["get", "delete"], &["pods"])).await.expect(403);
    assert_eq!(
        refused["message"],
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is \
         attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], \
         Verbs:[\"delete\"]}"
    );
    let patch =
        jane.request("PATCH", &mine("roles/pods")).header("content-type", "application/merge-patch+json");
    let rules = role("pods", &["*"], &["*"])["rules"].clone();
    assert_eq!(sent(patch.body(json!({ "rules": rules }).to_string())).await.code, 403);
    jane.post(&mine("rolebindings"), binding("pods", "Role", "pods", "john")).await.expect(201);
    jane.post(&mine("rolebindings"), binding("all", "ClusterRole", "cluster-admin", "jane"))
        .await
        .expect(403);
    // Who takes rights away gives none.
    sent(jane.request("DELETE", &mine("rolebindings/pods"))).await.expect(200);
}

#[tokio::test]
async fn acting_as_somebody_else() {
    let f = Fixture::start().await;
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let ask = |headers: &[(&str, &str)]| {
        let mut request = f.request("POST", whoami).json(&json!({}));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sent(request)
    };
    let jane = ask(&[
        ("Impersonate-User", "jane"),
        ("Impersonate-Group", "devs"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Extra-acme.com%2Fteam", "blue"),
    ])
    .await
    .expect(201);
    assert_eq!(
        jane["status"]["userInfo"],
        json!({"username": "jane", "uid": "7", "groups": ["devs", "system:authenticated"],
            "extra": {"acme.com/team": ["blue"]}})
    );
    let robot = ask(&[("Impersonate-User", "system:serviceaccount:blue:robot")]).await.expect(201);
    assert_eq!(
        robot["status"]["userInfo"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:blue", "system:authenticated"])
    );
    ask(&[("Impersonate-Group", "devs")]).await.expect(400);
    let list = f.request("GET", PODS).header("Impersonate-User", "jane");
    assert!(sent(list).await.expect(403)["message"].as_str().unwrap().contains("User \"jane\" cannot list"));

    let john = Somebody::new(&f, "john", &[]);
    let as_jane = || sent(john.request("GET", PODS).header("Impersonate-User", "jane"));
    assert_eq!(
        as_jane().await.expect(403)["message"],
        "pods is forbidden: User \"john\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the \
         namespace \"default\""
    );
    let all = format!("{RBAC}/clusterroles");
    let mut impersonator = role("impersonator", &["impersonate"], &["users"]);
    impersonator["rules"][0]["resourceNames"] = json!(["jane"]);
    f.post(&all, impersonator).await.expect(201);
    f.post(&format!("{RBAC}/clusterrolebindings"), binding("john", "ClusterRole", "impersonator", "john"))
        .await
        .expect(201);
    assert!(as_jane().await.expect(403)["message"].as_str().unwrap().contains("User \"jane\" cannot list"));
    sent(john.request("GET", PODS).header("Impersonate-User", "jack")).await.expect(403);
}

#[tokio::test]
async fn questions_are_answered_by_the_same_rules() {
    let f = Fixture::start().await;
    let jane = Somebody::new(&f, "jane", &[]);
    f.post(&format!("{RBAC}/namespaces/default/roles"), role("reader", &["get", "list"], &["pods"]))
        .await
        .expect(201);
    f.post(&format!("{RBAC}/namespaces/default/rolebindings"), binding("jane", "Role", "reader", "jane"))
        .await
        .expect(201);
    let pods = |verb: &str| json!({"verb": verb, "resource": "pods", "namespace": "default"});
    let own = format!("{REVIEWS}/selfsubjectaccessreviews");
    let may = jane.post(&own, json!({"spec": {"resourceAttributes": pods("get")}})).await.expect(201);
    assert_eq!(
        may["status"],
        json!({"allowed": true,
            "reason": "RBAC: allowed by RoleBinding \"jane/default\" of Role \"reader\" to User \"jane\""})
    );
    let may = jane.post(&own, json!({"spec": {"resourceAttributes": pods("create")}})).await.expect(201);
    assert_eq!(may["status"], json!({"allowed": false}));
    let may = jane
        .post(&own, json!({"spec": {"nonResourceAttributes": {"path": "/version", "verb": "get"}}}))
        .await;
    assert_eq!(may.expect(201)["status"]["allowed"], true);
    jane.post(&own, json!({"spec": {}})).await.expect(422);
    let unknown = jane.post(&format!("{own}?fieldValidation=Strict"), json!({"spec": {"x": 1}})).await;
    assert!(unknown.expect(400)["message"].as_str().unwrap().contains("unknown field \"spec.x\""));

    jane.post(&format!("{REVIEWS}/subjectaccessreviews"), json!({})).await.expect(403);
    for (path, namespace) in [
        (format!("{REVIEWS}/subjectaccessreviews"), None),
        (format!("{REVIEWS}/namespaces/default/localsubjectaccessreviews"), Some("default")),
    ] {
        let review = json!({"spec": {"user": "jane", "resourceAttributes": pods("list")}});
        let answer = f.post(&path, review).await.expect(201);
        assert_eq!(answer["status"]["allowed"], true);
        assert_eq!(answer["metadata"]["namespace"].as_str(), namespace);
    }
    let own_rules = format!("{REVIEWS}/selfsubjectrulesreviews");
    let rules = jane.post(&own_rules, json!({"spec": {"namespace": "default"}})).await.expect(201);
    assert_eq!(rules["status"]["incomplete"], false);
    let resource = rules["status"]["resourceRules"].as_array().unwrap();
    assert!(resource.contains(&json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]})));
    assert!(!rules["status"]["nonResourceRules"].as_array().unwrap().is_empty());
    jane.post(&own_rules, json!({})).await.expect(400);
}

#[tokio::test]
async fn the_first_roles_come_with_the_cluster_and_are_completed() {
    let f = Fixture::start().await;
    let view = f.get(&format!("{RBAC}/clusterroles/system:aggregate-to-view")).await.expect(200);
    assert_eq!(view["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    let discovery = format!("{RBAC}/clusterroles/system:discovery");
    let rules = f.get(&discovery).await.expect(200)["rules"].clone();
    assert!(rules[0]["nonResourceURLs"].as_array().unwrap().contains(&json!("/openapi/*")));
    let kept = format!("{RBAC}/clusterroles/system:basic-user");
    let off = json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}, "rules": []});
    f.patch(&kept, off).await.expect(200);
    f.patch(&discovery, json!({"rules": []})).await.expect(200);
    f.delete(&format!("{RBAC}/clusterrolebindings/system:discovery")).await.expect(200);
    f.restarted().bootstrap([192, 0, 2, 1].into(), 6443).await.unwrap();
    // What is missing comes back verb by verb, path by path.
    let count = |rules: &Value| rules.as_array().unwrap().len();
    assert_eq!(count(&f.get(&discovery).await.expect(200)["rules"]), count(&rules[0]["nonResourceURLs"]));
    assert_eq!(count(&f.get(&kept).await.expect(200)["rules"]), 0);
    f.get(&format!("{RBAC}/clusterrolebindings/system:discovery")).await.expect(200);
}

#[tokio::test]
async fn roles_that_are_put_together_follow_their_parts() {
    let f = Fixture::start().await;
    let admin = minik::api::request::User::component("system:kube-controller-manager");
    let controller =
        minik::controllers::aggregated_roles::run(minik::client::Client::new(f.api.clone(), admin));
    let controller = tokio::spawn(controller);
    let rules = async |name: &str| {
        let role = f.get(&format!("{RBAC}/clusterroles/{name}")).await.expect(200);
        role["rules"].as_array().cloned().unwrap_or_default()
    };
    let widgets = json!({"verbs": ["get"], "apiGroups": ["example.com"], "resources": ["widgets"]});
    let part = json!({"metadata": {"name": "widgets-view",
        "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}, "rules": [widgets]});
    f.post(&format!("{RBAC}/clusterroles"), part).await.expect(201);
    // Parts of parts reach the whole: view is part of edit, and edit of admin.
    let complete = async {
        while !rules("admin").await.contains(&widgets) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), complete).await.expect("admin has the rules of its parts");
    assert!(rules("view").await.len() < rules("edit").await.len());
    f.delete(&format!("{RBAC}/clusterroles/widgets-view")).await.expect(200);
    let gone = async {
        while rules("admin").await.contains(&widgets) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("admin loses what its parts lose");
    controller.abort();
}
