//! Tables of pods and what the levels say of them.

use bytes::Bytes;
use serde_json::json;

use super::*;
use policy::Version;

const LATEST: Rule = Rule { level: Level::Restricted, version: Version::Latest };

fn sentence(level: Level, minor: Option<u32>, pod: &Value) -> String {
    let version = minor.map_or(Version::Latest, Version::Minor);
    let pod = Pod { metadata: &pod["metadata"], spec: &pod["spec"] };
    told(&pod.violations(Rule { level, version })).unwrap_or_default()
}

/// A pod of two containers, the first with this security context.
fn pod(context: Value) -> Value {
    json!({"spec": {"containers": [{"name": "a", "securityContext": context}, {"name": "b"}]}})
}

fn hardened() -> Value {
    json!({"spec": {
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "d", "emptyDir": {}}],
        "containers": [{"name": "c", "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}})
}

#[test]
fn the_restricted_level_wants_much() {
    let plain = json!({"spec": {"containers": [{"name": "nginx", "image": "nginx"}]}});
    assert_eq!(
        sentence(Level::Restricted, None, &plain),
        "allowPrivilegeEscalation != false (container \"nginx\" must set \
         securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"nginx\" must set \
         securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"nginx\" must set \
         securityContext.runAsNonRoot=true), seccompProfile (pod or container \"nginx\" must set \
         securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert_eq!(sentence(Level::Baseline, None, &plain), "");
    assert_eq!(sentence(Level::Restricted, None, &hardened()), "");
    // Each version wants what it wanted then.
    assert_eq!(
        sentence(Level::Restricted, Some(7), &plain),
        "runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true)"
    );
}

#[test]
fn restricted_checks() {
    for (change, expected) in [
        (
            json!({"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}, {"name": "n", "nfs": {}}, {"name": "s", "secret": {}}]}}),
            "restricted volume types (volumes \"h\", \"n\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            json!({"spec": {"securityContext": {"runAsNonRoot": false}}}),
            "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
        ),
        (
            json!({"spec": {"securityContext": {"runAsUser": 0}}}),
            "runAsUser=0 (pod must not set runAsUser=0)",
        ),
        (json!({"spec": {"securityContext": {"runAsUser": 0}, "hostUsers": false}}), ""),
        (
            json!({"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}}),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
    ] {
        let mut pod = hardened();
        json_patch::merge(&mut pod, &change);
        assert_eq!(sentence(Level::Restricted, None, &pod), expected, "{change}");
    }
    let adding = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"], "add": ["NET_RAW", "CHOWN"]}});
    let mut pod = hardened();
    pod["spec"]["containers"][0]["securityContext"] = adding;
    assert_eq!(
        sentence(Level::Restricted, None, &pod),
        "unrestricted capabilities (container \"c\" must not include \"CHOWN\", \"NET_RAW\" in \
         securityContext.capabilities.add)"
    );
}

#[test]
fn baseline_checks() {
    let of_spec = |spec: Value| {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
        json_patch::merge(&mut pod, &json!({ "spec": spec }));
        pod
    };
    for (pod, expected) in [
        (
            pod(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            pod(json!({"capabilities": {"add": ["SYS_ADMIN", "CHOWN"]}})),
            "non-default capabilities (container \"a\" must not include \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            pod(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            pod(json!({"seLinuxOptions": {"type": "spc_t", "user": "u"}})),
            "seLinuxOptions (container \"a\" set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set)",
        ),
        (
            pod(json!({"appArmorProfile": {"type": "Unconfined"}})),
            "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            pod(json!({"windowsOptions": {"hostProcess": true}})),
            "hostProcess (container \"a\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            of_spec(json!({"hostNetwork": true, "hostPID": true})),
            "host namespaces (hostNetwork=true, hostPID=true)",
        ),
        (
            of_spec(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})),
            "hostPath volumes (volume \"v\")",
        ),
        (
            of_spec(json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 443}]}]})),
            "hostPort (container \"a\" uses hostPorts 443, 80)",
        ),
        (
            of_spec(
                json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "10.0.0.1"}}}]}),
            ),
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"10.0.0.1\")",
        ),
        (
            of_spec(
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}, {"name": "net.ipv4.tcp_rmem"}]}}),
            ),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            of_spec(json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})),
            "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
    ] {
        assert_eq!(sentence(Level::Baseline, None, &pod), expected, "{pod}");
        assert_eq!(sentence(Level::Privileged, None, &pod), "");
    }
    let rmem = of_spec(json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem"}]}}));
    assert_eq!(sentence(Level::Baseline, Some(31), &rmem), "forbidden sysctls (net.ipv4.tcp_rmem)");
}

#[test]
fn labels_make_a_policy() {
    let of = |labels: Value| {
        let (policy, errors) = Policy::of(&labels);
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        (format!("{} {} {}", policy.enforce, policy.audit, policy.warn), errors.join(" "))
    };
    for (labels, policy, errors) in [
        (json!(null), "privileged:latest privileged:latest privileged:latest", ""),
        (
            json!({"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.30"}),
            "restricted:v1.30 privileged:latest restricted:v1.30",
            "",
        ),
        (
            json!({"pod-security.kubernetes.io/enforce": "baseline", "pod-security.kubernetes.io/warn": "restricted"}),
            "baseline:latest privileged:latest restricted:latest",
            "",
        ),
        (
            json!({"pod-security.kubernetes.io/enforce": "strict", "pod-security.kubernetes.io/audit-version": "1.2"}),
            "restricted:latest privileged:latest privileged:latest",
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, \
             baseline, restricted metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"1.2\": must \
             be \"latest\" or \"v1.x\"",
        ),
    ] {
        assert_eq!(of(labels), (policy.to_owned(), errors.to_owned()));
    }
}

#[test]
fn pods_that_are_there_are_told_by_their_reasons() {
    let entry = |name: &str, owner: &str, spec: Value| {
        let owners = json!([{"controller": true, "uid": owner}]);
        let pod = json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec});
        Entry::new(name.to_owned(), Bytes::from(pod.to_string()), 1, 1)
    };
    let host = json!({"hostNetwork": true});
    let pods = [entry("b", "1", host.clone()), entry("a", "1", host), entry("c", "2", json!({}))];
    let rule = Rule { level: Level::Baseline, ..LATEST };
    assert_eq!(
        warnings_of("shop", rule, &pods),
        [
            "existing pods in namespace \"shop\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces"
        ]
    );
    assert!(warnings_of("shop", rule, &pods[2..]).is_empty());
}

#[test]
fn only_new_images_are_looked_at_again() {
    let spec = |image: &str, debug: Value| json!({"containers": [{"name": "c", "image": image}], "ephemeralContainers": debug});
    let old = spec("a", json!([]));
    assert!(!is_significant(&spec("a", json!(null)), &old));
    assert!(is_significant(&spec("b", json!([])), &old));
    assert!(is_significant(&spec("a", json!([{"name": "d", "image": "x"}])), &old));
}
