//! Services of a cluster that has addresses of both families.

use serde_json::{Value, json};

use super::server::Fixture;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn named(name: &str, spec: Value) -> Value {
    let mut service =
        json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
    service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    service
}

fn at(name: &str) -> String {
    format!("{SERVICES}/{name}")
}

/// The families, and how many addresses there are of IPv4 and IPv6.
fn shown(service: &Value) -> Value {
    let spec = &service["spec"];
    let addresses: Vec<&str> =
        spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if let [first, ..] = addresses[..] {
        assert_eq!(spec["clusterIP"], first);
    }
    let of = |prefix: &str| addresses.iter().filter(|address| address.starts_with(prefix)).count();
    json!([spec["ipFamilyPolicy"], spec["ipFamilies"], of("10.96."), of("fd00:10:96::")])
}

#[tokio::test]
async fn services_have_the_families_that_they_ask_for() {
    let f = Fixture::start_dual_stack().await;
    for (name, spec, expected) in [
        ("plain", json!({}), json!(["SingleStack", ["IPv4"], 1, 0])),
        ("six", json!({"ipFamilies": ["IPv6"]}), json!(["SingleStack", ["IPv6"], 0, 1])),
        (
            "both",
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            json!(["PreferDualStack", ["IPv4", "IPv6"], 1, 1]),
        ),
        (
            "reversed",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"], "type": "NodePort"}),
            json!(["RequireDualStack", ["IPv6", "IPv4"], 1, 1]),
        ),
        ("headless", json!({"clusterIP": "None"}), json!(["SingleStack", ["IPv4"], 0, 0])),
        (
            "headless-both",
            json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack"}),
            json!(["PreferDualStack", ["IPv4", "IPv6"], 0, 0]),
        ),
        (
            "chosen",
            json!({"clusterIP": "fd00:10:96::77", "clusterIPs": ["fd00:10:96::77"]}),
            json!(["SingleStack", ["IPv6"], 0, 1]),
        ),
    ] {
        let made = f.post(SERVICES, named(name, spec)).await.expect(201);
        assert_eq!(shown(&made), expected, "{name}");
        // A change that says nothing of addresses leaves them.
        let labelled = f.patch(&at(name), json!({"metadata": {"labels": {"x": "y"}}})).await.expect(200);
        assert_eq!(labelled["spec"], made["spec"], "{name}");
        // An older client sends neither lists nor policy.
        let mut old =
            named(name, json!({"clusterIP": made["spec"]["clusterIP"], "type": made["spec"]["type"]}));
        old["spec"]["ports"] = made["spec"]["ports"].clone();
        let replaced = f.put(&at(name), old).await.expect(200);
        assert_eq!(shown(&replaced), expected, "{name}");
    }
    let own = f.get(&at("kubernetes")).await.expect(200);
    assert_eq!(shown(&own), json!(["SingleStack", ["IPv4"], 1, 0]));
    let ranges = f.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.expect(200);
    assert_eq!(ranges["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00:10:96::/112"]));
    const SINGLE: &str = "must be 'RequireDualStack' or 'PreferDualStack' when multiple";
    for (spec, error) in [
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            format!("spec.ipFamilyPolicy: Invalid value: \"SingleStack\": {SINGLE} IP families are specified"),
        ),
        (
            json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00:10:96::20"]}),
            format!("spec.ipFamilyPolicy: Invalid value: \"SingleStack\": {SINGLE} cluster IPs are specified"),
        ),
        (
            json!({"clusterIP": "10.96.0.20", "ipFamilies": ["IPv6"]}),
            "spec.clusterIPs[0]: Invalid value: \"10.96.0.20\": expected an IPv6 value as indicated by \
             `ipFamilies[0]`"
                .to_owned(),
        ),
        (
            json!({"clusterIP": "fd00:10:96::77"}),
            "spec.clusterIPs: Invalid value: [\"fd00:10:96::77\"]: failed to allocate IP fd00:10:96::77: provided IP \
             is already allocated"
                .to_owned(),
        ),
        (
            json!({"clusterIP": "fd00:10:97::1"}),
            "spec.clusterIPs: Invalid value: [\"fd00:10:97::1\"]: failed to allocate IP fd00:10:97::1: the provided \
             network does not match the current range"
                .to_owned(),
        ),
    ] {
        let refused = f.post(SERVICES, named("web", spec)).await.expect(422);
        assert_eq!(refused["message"], format!("Service \"web\" is invalid: {error}"));
    }
}

#[tokio::test]
async fn services_gain_and_lose_their_second_family() {
    let f = Fixture::start_dual_stack().await;
    let first = f.post(SERVICES, named("web", json!({}))).await.expect(201)["spec"]["clusterIP"].clone();
    let patch = async |spec: Value| f.patch(&at("web"), json!({ "spec": spec })).await;
    let both = patch(json!({"ipFamilyPolicy": "PreferDualStack"})).await.expect(200);
    assert_eq!(shown(&both), json!(["PreferDualStack", ["IPv4", "IPv6"], 1, 1]));
    assert_eq!(both["spec"]["clusterIP"], first);
    let second = both["spec"]["clusterIPs"][1].clone();
    const RELEASE: &str = "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the \
                           secondary";
    for (spec, error) in [
        (json!({"clusterIPs": [first]}), format!("{RELEASE} cluster IP")),
        (json!({"ipFamilies": ["IPv4"]}), format!("{RELEASE} IP family")),
        (
            json!({"clusterIPs": [first, "fd00:10:96::9"]}),
            format!(
                "spec.clusterIPs[1]: Invalid value: [{first},\"fd00:10:96::9\"]: may not change once set"
            ),
        ),
    ] {
        let refused = patch(spec).await.expect(422);
        assert_eq!(refused["message"], format!("Service \"web\" is invalid: {error}"));
    }
    let single = patch(json!({"ipFamilyPolicy": "SingleStack"})).await.expect(200);
    assert_eq!(shown(&single), json!(["SingleStack", ["IPv4"], 1, 0]));
    // Its second address is free again, and can be asked for.
    let asked = json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": [first, second]});
    assert_eq!(patch(asked).await.expect(200)["spec"]["clusterIPs"], json!([first, second]));
    let external = json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": null});
    assert_eq!(shown(&patch(external).await.expect(200)), json!([null, null, 0, 0]));
    f.post(SERVICES, named("heir", json!({"clusterIP": second}))).await.expect(201);
    f.post(SERVICES, named("other", json!({"clusterIP": first}))).await.expect(201);
    // What is taken stays so over a restart.
    let again = f.restarted();
    assert_eq!(again.registry().allocator().ranges().all().count(), 2);
    let back = json!({"type": "ClusterIP", "externalName": null, "ipFamilyPolicy": "RequireDualStack"});
    assert_eq!(shown(&patch(back).await.expect(200)), json!(["RequireDualStack", ["IPv4", "IPv6"], 1, 1]));
}

#[tokio::test]
async fn a_cluster_of_one_family_takes_no_other() {
    let f = Fixture::start().await;
    let made =
        f.post(SERVICES, named("prefers", json!({"ipFamilyPolicy": "PreferDualStack"}))).await.expect(201);
    assert_eq!(shown(&made), json!(["PreferDualStack", ["IPv4"], 1, 0]));
    let mut bare = named("bare", json!({"clusterIP": "None"}));
    bare["spec"].as_object_mut().unwrap().remove("selector");
    let bare = f.post(SERVICES, bare).await.expect(201);
    assert_eq!(shown(&bare), json!(["RequireDualStack", ["IPv4", "IPv6"], 0, 0]));
    let refused = f.post(SERVICES, named("six", json!({"clusterIP": "fd00::1"}))).await.expect(422);
    assert_eq!(
        refused["message"],
        "Service \"six\" is invalid: spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this \
         cluster"
    );
    let ranges = f.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.expect(200);
    assert_eq!(ranges["spec"]["cidrs"], json!(["10.96.0.0/16"]));
}
