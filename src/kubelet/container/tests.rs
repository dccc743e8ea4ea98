//! From a pod's container to the runtime's, by table.

use super::*;
use crate::runtime::{MountSource, Seccomp};
use serde_json::{Value, json};

fn image() -> Image {
    let mut image = Image::default();
    image.config.entrypoint = vec!["/entry".into()];
    image.config.cmd = vec!["serve".into()];
    image.config.working_dir = "/srv".into();
    image.config.stop_signal = Some("SIGQUIT".into());
    image
}

fn made(pod_context: Value, container: Value) -> Result<ContainerConfig, String> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"containers": [container.clone()], "securityContext": pod_context,
                 "volumes": [{"name": "data", "emptyDir": {}}, {"name": "shown", "secret": {"secretName": "s"}}]},
    }))
    .unwrap();
    let container: Container = serde_json::from_value(container).unwrap();
    let pictures = Image { layers: vec!["/layers/1".into(), "/layers/2".into()], ..Image::default() };
    config(
        &pod,
        &container,
        Parts {
            sandbox: "s",
            attempt: 0,
            image: &image(),
            env: Environment {
                all: vec!["A=1".into(), "IMAGE=2".into()],
                own: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            },
            volumes: &HashMap::from(
                ["data", "shown"].map(|name| (name.to_owned(), Path::new("/vol").join(name))),
            ),
            image_volumes: &BTreeMap::from([("pictures".to_owned(), pictures)]),
            files: &[("/pod/hosts".into(), "/etc/hosts".into())],
            message_file: "/pod/m".into(),
            log: "/log".into(),
            seccomp_dir: Path::new("/seccomp"),
            machine_memory: 1 << 30,
            target: None,
        },
    )
}

#[test]
fn command_and_args_over_the_image() {
    for (command, args, expected) in [
        (json!(null), json!(null), vec!["/entry", "serve"]),
        (json!(["x"]), json!(null), vec!["x"]),
        (json!(["x"]), json!(["$(A)"]), vec!["x", "1"]),
        (json!(null), json!(["y", "$(B)"]), vec!["/entry", "y", "$(B)"]),
        (json!(["$(IMAGE)"]), json!(["$(PATH)"]), vec!["$(IMAGE)", "$(PATH)"]),
    ] {
        let c = made(json!({}), json!({"name": "c", "command": command, "args": args})).unwrap();
        assert_eq!(c.process.args, expected);
    }
}

#[test]
fn stop_signals_by_name_and_number() {
    for (name, number) in [
        ("SIGQUIT", Some(3)),
        ("WINCH", Some(28)),
        ("9", Some(9)),
        ("0", None),
        ("SIGFOO", None),
        ("SIGRTMIN+3", Some(37)),
        ("RTMIN", Some(34)),
        ("SIGRTMAX-1", Some(63)),
        ("SIGRTMIN+31", None),
    ] {
        assert_eq!(signal_number(name), number, "{name}");
    }
    let signal = |own: Value| {
        let made = made(json!({}), json!({"name": "c", "lifecycle": own})).unwrap();
        made.labels[label::STOP_SIGNAL].clone()
    };
    assert_eq!(signal(json!(null)), "3");
    assert_eq!(signal(json!({"stopSignal": "SIGUSR1"})), "10");
}

#[test]
fn capabilities_are_added_and_dropped() {
    let set = |c: Value| {
        made(json!({}), json!({"name": "c", "securityContext": {"capabilities": c}}))
            .map(|c| c.security.capabilities)
    };
    assert_eq!(set(json!({})).unwrap().len(), 14);
    assert_eq!(set(json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})).unwrap(), ["CAP_NET_ADMIN"]);
    assert_eq!(set(json!({"add": ["ALL"], "drop": ["SYS_ADMIN"]})).unwrap().len(), caps::all().len() - 1);
    assert!(set(json!({"drop": ["KILL"]})).unwrap().iter().all(|c| c != "CAP_KILL"));
    assert!(set(json!({"add": ["NOPE"]})).unwrap_err().contains("CAP_NOPE"));
}

#[test]
fn users_are_checked() {
    let c = |pod: Value, own: Value| made(pod, json!({"name": "c", "securityContext": own}));
    assert_eq!(c(json!({"runAsUser": 1000}), json!({})).unwrap().process.uid, 1000);
    assert_eq!(c(json!({"runAsUser": 1000}), json!({"runAsUser": 7})).unwrap().process.uid, 7);
    assert!(c(json!({"runAsNonRoot": true}), json!({})).unwrap_err().contains("will run as root"));
    assert!(c(json!({"runAsUser": 4294967296i64}), json!({})).is_err());
    let groups = c(json!({"supplementalGroups": [5, 4], "fsGroup": 4}), json!({})).unwrap().process.groups;
    assert_eq!(groups, [4, 5]);
}

#[test]
fn the_groups_of_the_image_count_unless_the_policy_is_strict() {
    let user = User { uid: 1, gid: 1, groups: vec![30, 20], ..User::default() };
    for (policy, expected) in
        [(None, vec![5, 20, 30]), (Some("Merge"), vec![5, 20, 30]), (Some("Strict"), vec![5])]
    {
        let context = json!({"supplementalGroups": [5], "supplementalGroupsPolicy": policy});
        let context: PodSecurityContext = serde_json::from_value(context).unwrap();
        assert_eq!(groups(&context, &user), expected, "{policy:?}");
    }
}

#[test]
fn image_volumes_are_layers() {
    let mounts = json!([{"name": "pictures", "mountPath": "/all"},
                        {"name": "pictures", "mountPath": "/one", "subPath": "a/b"}]);
    let mounts = made(json!({}), json!({"name": "c", "volumeMounts": mounts})).unwrap().mounts;
    let shown = |path: &str| {
        let layers = vec!["/layers/1".into(), "/layers/2".into()];
        MountSource::Layers { layers, path: path.into() }
    };
    let sources: Vec<_> =
        mounts.into_iter().filter(|m| m.target != Path::new("/etc/hosts")).map(|m| m.source).collect();
    assert_eq!(sources, [shown(""), shown("a/b")]);
}

#[test]
fn mounts_outer_first_and_own_hosts_file_wins() {
    let c = made(
        json!({}),
        json!({"name": "c", "volumeMounts": [
            {"name": "data", "mountPath": "/a/b"},
            {"name": "data", "mountPath": "/a", "subPathExpr": "x-$(A)", "readOnly": true},
            {"name": "data", "mountPath": "/etc/hosts"},
            {"name": "shown", "mountPath": "/etc/very/secret"},
        ]}),
    )
    .unwrap();
    let writable: Vec<_> = c.mounts.iter().map(|m| !m.read_only).collect();
    assert_eq!(writable, [false, true, true, false], "objects of the API are only shown");
    let targets: Vec<_> = c.mounts.iter().map(|m| m.target.to_str().unwrap()).collect();
    assert_eq!(targets, ["/a", "/a/b", "/etc/hosts", "/etc/very/secret"]);
    assert_eq!(c.mounts[0].source, MountSource::SubPath { base: "/vol/data".into(), path: "x-1".into() });
    let missing = json!([{"name": "data", "mountPath": "/a", "subPathExpr": "$(IMAGE)/$(B)"}]);
    let err = made(json!({}), json!({"name": "c", "volumeMounts": missing}));
    assert_eq!(err.unwrap_err(), "missing value for B, IMAGE");
    let err = made(json!({}), json!({"name": "c", "volumeMounts": [{"name": "no", "mountPath": "/a"}]}));
    assert!(err.unwrap_err().contains("\"no\""));
}

#[test]
fn profiles_of_the_host_are_passed_on() {
    let local = |name: &str| json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": name}});
    let default = json!({"appArmorProfile": {"type": "RuntimeDefault"}});
    for (pod, container, expected) in [
        (json!({}), json!({}), None),
        (default.clone(), json!({}), None),
        (local("pods"), json!({}), Some("pods")),
        (local("pods"), local("own"), Some("own")),
        (local("pods"), default, None),
    ] {
        let made = made(pod, json!({"name": "c", "securityContext": container})).unwrap();
        assert_eq!(made.security.app_armor.as_deref(), expected);
    }
}

#[test]
fn seccomp_profiles_stay_in_their_directory() {
    let c = |p: Value| made(json!({"seccompProfile": p}), json!({"name": "c"})).map(|c| c.security.seccomp);
    assert_eq!(c(json!({"type": "RuntimeDefault"})).unwrap(), Seccomp::Default);
    assert_eq!(c(json!({"type": "Unconfined"})).unwrap(), Seccomp::Unconfined);
    assert_eq!(
        c(json!({"type": "Localhost", "localhostProfile": "p/x.json"})).unwrap(),
        Seccomp::Profile("/seccomp/p/x.json".into())
    );
    assert!(c(json!({"type": "Localhost", "localhostProfile": "../x"})).is_err());
}
