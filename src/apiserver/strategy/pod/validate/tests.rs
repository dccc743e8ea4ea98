//! Tables of pods and what is wrong with them.

use serde_json::{Value, json};

use super::super::super::Strategy;
use super::super::Pod;

fn wrong(spec: Value) -> Vec<String> {
    let mut pod = json!({ "spec": spec });
    Pod.default(&mut pod);
    Pod.validate(&pod).iter().map(ToString::to_string).collect()
}

/// A pod of one container with these fields more.
fn with(more: Value) -> Value {
    let mut container = json!({"name": "www", "image": "nginx"});
    for (key, value) in more.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({ "containers": [container] })
}

fn spec(more: Value) -> Value {
    let mut spec = with(json!({}));
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

#[test]
fn good_pods_pass() {
    for spec in [
        with(json!({})),
        with(json!({"ports": [{"name": "http", "containerPort": 80}], "env": [{"name": "A", "value": "b"}]})),
        with(
            json!({"livenessProbe": {"httpGet": {"port": "http"}}, "resources": {"limits": {"memory": "1Gi", "cpu": "1"}}}),
        ),
        spec(
            json!({"volumes": [{"name": "v"}, {"name": "w", "hostPath": {"path": "/a"}}], "hostNetwork": true,
                    "initContainers": [{"name": "i", "image": "x", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
                    "tolerations": [{"operator": "Exists"}], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]},
                    "securityContext": {"runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}}),
        ),
        spec(json!({"volumes": [{"name": "d", "downwardAPI": {"items": [
            {"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}},
            {"path": "c", "resourceFieldRef": {"containerName": "www", "resource": "limits.cpu"}}]}}]})),
    ] {
        assert_eq!(wrong(spec.clone()), Vec::<String>::new(), "{spec}");
    }
}

#[test]
fn containers_are_checked_in_kubernetes_words() {
    for (spec, errors) in [
        (json!({}), &["spec.containers: Required value"][..]),
        (
            json!({"containers": [{}]}),
            &["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"],
        ),
        (
            json!({"containers": [{"name": "a", "image": "x"}, {"name": "a", "image": "y"}]}),
            &["spec.containers[1].name: Duplicate value: \"a\""],
        ),
        (
            with(json!({"image": " nginx"})),
            &[
                "spec.containers[0].image: Invalid value: \" nginx\": must not have leading or trailing whitespace",
            ],
        ),
        (
            with(json!({"imagePullPolicy": "Sometimes"})),
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            with(json!({"ports": [{"containerPort": 0}, {"containerPort": 65536, "name": "80"}]})),
            &[
                "spec.containers[0].ports[0].containerPort: Required value",
                "spec.containers[0].ports[1].name: Invalid value: \"80\": must contain at least one letter (a-z)",
                "spec.containers[0].ports[1].containerPort: Invalid value: 65536: must be between 1 and 65535, inclusive",
            ],
        ),
        (
            with(
                json!({"ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]}),
            ),
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""],
        ),
        (
            with(json!({"env": [{"value": "x"}, {"name": "A", "valueFrom": {}}]})),
            &[
                "spec.containers[0].env[0].name: Required value",
                "spec.containers[0].env[1].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        ),
        (
            with(json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]})),
            &["spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value"],
        ),
        (
            with(json!({"envFrom": [{}]})),
            &[
                "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            ],
        ),
        (
            with(json!({"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}})),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2Gi\": must be less than or equal to memory limit of 1Gi",
            ],
        ),
        (
            with(json!({"resources": {"limits": {"cpus": "1"}}})),
            &[
                "spec.containers[0].resources.limits[cpus]: Invalid value: \"cpus\": must be a standard resource type or fully qualified",
                "spec.containers[0].resources.limits[cpus]: Invalid value: \"cpus\": must be a standard resource for containers",
                "spec.containers[0].resources.requests[cpus]: Invalid value: \"cpus\": must be a standard resource type or fully qualified",
                "spec.containers[0].resources.requests[cpus]: Invalid value: \"cpus\": must be a standard resource for containers",
            ],
        ),
        (
            with(json!({"livenessProbe": {}, "lifecycle": {"preStop": {}}})),
            &[
                "spec.containers[0].lifecycle.preStop: Required value: must specify a handler type",
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ],
        ),
        (
            with(json!({"livenessProbe": {"exec": {}, "tcpSocket": {"port": 1}, "successThreshold": 2}})),
            &[
                "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "spec.containers[0].livenessProbe.exec.command: Required value",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            with(json!({"securityContext": {"runAsUser": -1}})),
            &[
                "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            ],
        ),
        (
            spec(
                json!({"initContainers": [{"name": "www", "image": "x", "lifecycle": {"preStop": {"exec": {"command": ["a"]}}}}]}),
            ),
            &[
                "spec.initContainers[0].name: Duplicate value: \"www\"",
                "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
    ] {
        assert_eq!(wrong(spec.clone()), errors, "{spec}");
    }
}

#[test]
fn volumes_and_mounts_are_checked() {
    for (spec, errors) in [
        (
            with(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""][..],
        ),
        (
            spec(json!({"volumes": [{"name": "v"}, {"name": "v"}]})),
            &["spec.volumes[1].name: Duplicate value: \"v\""],
        ),
        (
            spec(json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]})),
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            spec(json!({"volumes": [{"name": "v", "hostPath": {"path": "/a/../b", "type": "Disk"}}]})),
            &[
                "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.volumes[0].hostPath.type: Unsupported value: \"Disk\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
        ),
        (
            spec(
                json!({"volumes": [{"name": "v", "secret": {"secretName": "s", "defaultMode": 512, "items": [{"key": "k", "path": "/p"}]}}]}),
            ),
            &[
                "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "spec.volumes[0].secret.items[0].path: Invalid value: \"/p\": must be a relative path",
            ],
        ),
    ] {
        assert_eq!(wrong(spec.clone()), errors, "{spec}");
    }
}

#[test]
fn a_negative_grace_period_is_only_warned_about() {
    let pod = json!({"spec": {"terminationGracePeriodSeconds": -1}});
    assert_eq!(super::super::warnings::pod(&pod).len(), 1);
    assert!(wrong(spec(json!({"terminationGracePeriodSeconds": -1}))).is_empty());
}

#[test]
fn the_rest_of_the_spec_is_checked() {
    for (more, error) in [
        (
            json!({"restartPolicy": "X"}),
            "spec.restartPolicy: Unsupported value: \"X\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({"dnsPolicy": "X"}),
            "spec.dnsPolicy: Unsupported value: \"X\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\"",
        ),
        (
            json!({"dnsPolicy": "None"}),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            json!({"hostPID": true, "shareProcessNamespace": true}),
            "spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (
            json!({"schedulingGates": [{"name": "a/b"}, {"name": "a/b"}]}),
            "spec.schedulingGates[1]: Duplicate value: \"a/b\"",
        ),
        (
            json!({"readinessGates": [{"conditionType": "/b"}]}),
            "spec.readinessGates[0].conditionType: Invalid value: \"/b\": prefix part must be non-empty",
        ),
        (
            json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "c", "image": "i", "imagePullPolicy":
                "Always", "terminationMessagePolicy": "File", "lifecycle": {"preStop": {"sleep": {"seconds": 6}}}}]}),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 6: must be non-negative and less than \
             terminationGracePeriodSeconds (5)",
        ),
        (
            json!({"activeDeadlineSeconds": 0}),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            json!({"hostAliases": [{"ip": "x"}]}),
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"tolerations": [{"operator": "X", "key": "a"}]}),
            "spec.tolerations[0].operator: Unsupported value: \"X\": supported values: \"Equal\", \"Exists\"",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
    ] {
        assert_eq!(wrong(spec(more.clone())), [error], "{more}");
    }
}
