//! The verbs of a cluster's life, in order and out of order: started twice and at once, wedged, crashed, with parts of it
//! gone, with its data behind links. Whatever happens, `minik delete` leaves the host as it was.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::collections::BTreeSet;
use std::time::Duration;

use testbed::{MINIK, Run, Testbed};

const MINUTE: Duration = Duration::from_secs(60);
/// A directory that is the test host's own.
const OWN: &str = "/root/.kube";

/// minik with these variables of the environment.
fn with(bed: &Testbed, variables: &[&str], args: &[&str]) -> Run {
    bed.run(&[&["env"], variables, &[MINIK], args].concat())
}

fn minik(bed: &Testbed, args: &[&str]) -> Run {
    with(bed, &[], args)
}

/// minik while another program has a port of all addresses.
fn beside(bed: &Testbed, kind: &str, port: u16, args: &[&str]) -> Run {
    let script = format!(
        "import socket, subprocess, sys\n\
         s = socket.socket(type=socket.{kind}); s.bind(('0.0.0.0', {port}))\n\
         if s.type == socket.SOCK_STREAM: s.listen()\n\
         sys.exit(subprocess.call(sys.argv[1:]))"
    );
    bed.run(&[&["python3", "-c", &script, MINIK], args].concat())
}

fn code(run: &Run) -> i32 {
    run.status.code().unwrap_or(-1)
}

fn json(run: &Run) -> serde_json::Value {
    serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

/// Without files, which a cluster that failed to start may keep.
fn in_kernel(leftovers: &[String]) -> Vec<String> {
    leftovers.iter().filter(|line| !line.starts_with("file ")).cloned().collect()
}

/// How many daemons a cluster has.
fn daemons(bed: &Testbed, cluster: &str) -> usize {
    // The brackets keep the pattern from finding the commands that it is an argument of.
    let pattern = format!("[m]inik daemon --profile {cluster} ");
    bed.run(&["pgrep", "-f", &pattern]).stdout.lines().count()
}

fn shell(bed: &Testbed, script: &str) -> String {
    bed.ok(&["bash", "-c", script])
}

#[test]
fn a_life_in_order() {
    let bed = Testbed::up("life");
    let before = bed.leftovers();
    for wrong in [
        &["start", "-p", "Bad_Name"][..],
        &["start", "--apiserver-port", "0"],
        &["start", "--no-such-flag"],
        &["start", "--pod-cidr", "house"],
    ] {
        let refused = minik(&bed, wrong);
        assert_eq!(code(&refused), 14, "{wrong:?}: {refused:?}");
    }
    let none = minik(&bed, &["status", "-o", "json"]);
    assert_eq!((code(&none), &json(&none)["Host"]), (85, &"Nonexistent".into()));
    assert_eq!(code(&minik(&bed, &["logs"])), 85);
    assert_eq!(code(&minik(&bed, &["stop"])), 85);
    assert!(bed.ok(&[MINIK, "version"]).contains("kubernetes version: v1.37"));

    // What another program has is noticed before the kernel is touched.
    let port = beside(&bed, "SOCK_STREAM", 9444, &["start", "--apiserver-port", "9444"]);
    assert!(code(&port) == 30 && port.stderr.contains("9444") && port.stderr.contains("hint: "), "{port:?}");
    let dns = beside(&bed, "SOCK_DGRAM", 53, &["start"]);
    assert!(code(&dns) == 30 && dns.stderr.contains("53/udp") && dns.stderr.contains("dnsmasq"), "{dns:?}");
    assert_eq!(in_kernel(&bed.leftovers()), in_kernel(&before));

    // The certificate is there although readiness is not waited for.
    let started = minik(&bed, &["start", "--wait=false", "--registry-mirror", &bed.mirror()]);
    assert_eq!(code(&started), 0, "{started:?}");
    let again = minik(&bed, &["start"]);
    assert!(code(&again) == 0 && again.stderr.contains("running already"), "{again:?}");
    assert!(bed.kubectl("get nodes").contains(" Ready "));
    assert_eq!(daemons(&bed, &bed.name), 1);

    // A second start changes nothing: no context, no namespace, no settings.
    bed.kubectl("config set-context --current --namespace=mine");
    bed.kubectl("config set-context other");
    bed.kubectl("config use-context other");
    let config = shell(&bed, "cat /root/.kube/config");
    let other = minik(&bed, &["start", "--insecure-registry", "r.example", "--apiserver-port", "9445"]);
    assert!(code(&other) == 0 && other.stderr.contains("--apiserver-port, --insecure-registry"), "{other:?}");
    assert_eq!(code(&minik(&bed, &["start", "--pod-cidr", "10.66.0.0/16"])), 14);
    assert_eq!(shell(&bed, "cat /root/.kube/config"), config);
    // What is missing or wrong is put right.
    bed.kubectl(&format!("config delete-user {}", bed.name));
    assert_eq!(json(&minik(&bed, &["status", "-o", "json"]))["Kubeconfig"], "Misconfigured");
    bed.ok(&[MINIK, "start"]);
    let status = minik(&bed, &["status", "-o", "json"]);
    assert_eq!((code(&status), &json(&status)["Kubeconfig"]), (0, &"Configured".into()), "{status:?}");
    assert_eq!(bed.kubectl("config current-context").trim(), "other");

    assert!(!bed.ok(&[MINIK, "logs"]).is_empty());
    let follow = format!("exec timeout 60 {MINIK} logs -n 1 -f 2>/dev/null");
    let followed =
        shell(&bed, &format!("exec 3< <({follow}); pid=$!; read -r line <&3; kill $pid; echo \"$line\""));
    assert!(!followed.trim().is_empty());

    bed.ok(&[MINIK, "stop"]);
    assert_eq!(bed.processes(), Vec::<String>::new());
    let stopped = minik(&bed, &["status", "-o", "json"]);
    assert_eq!(code(&stopped), 7);
    assert_eq!(
        (&json(&stopped)["Host"], &json(&stopped)["Kubeconfig"]),
        (&"Stopped".into(), &"Configured".into())
    );
    // One that is ready before anybody looks is no failure.
    let mut impatient = minik(&bed, &["start", "--timeout", "0"]);
    for _ in 0..20 {
        if code(&impatient) != 0 {
            break;
        }
        bed.ok(&[MINIK, "stop"]);
        impatient = minik(&bed, &["start", "--timeout", "0"]);
    }
    assert!(code(&impatient) == 88 && impatient.stderr.contains("minik status"), "{impatient:?}");
    bed.ok(&[MINIK, "start"]);
    assert_eq!(bed.kubectl("config current-context").trim(), "other");

    // The images stay as long as the name of another cluster is mistyped.
    bed.ok(&[MINIK, "image", "pull", "busybox"]);
    let typo = format!("{}--typo", bed.name);
    assert!(minik(&bed, &["delete", "-p", &typo]).stderr.contains("nothing to delete"));
    assert!(bed.ok(&[MINIK, "image", "ls"]).contains("busybox"));
    bed.ok(&[MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
}

#[test]
fn starts_at_once() {
    let bed = Testbed::up("once");
    let before = bed.leftovers();
    let name = |suffix: &str| format!("{}--{suffix}", bed.name);
    let script = "minik=$0; for p in \"$@\"; do $minik start -p $p & $minik start -p $p & done; \
                  code=0; for job in $(jobs -p); do wait $job || code=$?; done; exit $code";
    let (b, c) = (name("b"), name("c"));
    let run = bed.run(&["bash", "-c", script, MINIK, &bed.name, &b, &c]);
    assert!(run.status.success(), "{run:?}");
    assert_eq!(run.stderr.matches("is ready after").count(), 3, "{run:?}");
    assert_eq!(run.stderr.matches("running already").count(), 3, "{run:?}");
    assert_eq!([&bed.name, &b, &c].map(|cluster| daemons(&bed, cluster)), [1; 3]);
    let settings = shell(&bed, "cat /var/lib/minik/*/config.json | grep -E 'apiserverPort|Cidr'");
    let distinct: BTreeSet<&str> = settings.lines().collect();
    assert_eq!(distinct.len(), 9, "{settings}");
    for cluster in [&b, &c] {
        bed.ok(&[MINIK, "delete", "-p", cluster]);
    }
    // One that is stopped while another command is at it waits for that.
    let script = "$0 stop & $0 start; wait";
    let run = bed.run(&["bash", "-c", script, MINIK]);
    assert!(run.status.success(), "{run:?}");
    bed.ok(&[MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
}

#[test]
fn whatever_is_wedged_or_gone() {
    let bed = Testbed::up("gone");
    let before = bed.leftovers();
    let run_dir = format!("/run/minik/{}", bed.name);
    let data = format!("/var/lib/minik/{}", bed.name);
    let manifest = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"talker"},"spec":{
        "volumes":[{"name":"own","hostPath":{"path":"/root/.kube/said","type":"DirectoryOrCreate"}}],
        "containers":[{"name":"main","image":"busybox","volumeMounts":[{"name":"own","mountPath":"/said"}],
            "command":["sh","-c","trap 'echo bye > /said/bye; exit 0' TERM; while :; do sleep 0.1; done"]}]}}"#;

    // Crashed: containers end as they would have.
    bed.start();
    bed.apply(manifest);
    bed.wait_ready("talker");
    bed.kill(bed.daemon_pid());
    bed.ok(&[MINIK, "stop"]);
    assert_eq!(shell(&bed, "cat /root/.kube/said/bye").trim(), "bye");
    assert_eq!(in_kernel(&bed.leftovers()), in_kernel(&before));

    // Named with another data directory: nothing happens, and the right one is named.
    bed.ok(&[MINIK, "start"]);
    for verb in ["delete", "stop", "start", "status"] {
        let refused = minik(&bed, &[verb, "--data-dir", "/root/.kube/other"]);
        assert!(code(&refused) == 14 && refused.stderr.contains("/var/lib/minik"), "{refused:?}");
    }
    bed.wait_ready("talker");

    // Wedged: it says so, and ends.
    let pid = bed.daemon_pid();
    shell(&bed, &format!("kill -STOP {pid}"));
    let status = minik(&bed, &["status", "-o", "json"]);
    assert_eq!((code(&status), &json(&status)["APIServer"]), (4, &"Error".into()), "{status:?}");
    let started = minik(&bed, &["start"]);
    assert!(code(&started) == 80 && started.stderr.contains("minik stop"), "{started:?}");
    let deleted = minik(&bed, &["delete"]);
    assert!(code(&deleted) == 0 && deleted.stderr.contains("is killed"), "{deleted:?}");
    assert_eq!(bed.leftovers(), before);

    // Without what it keeps to be reached by.
    bed.start();
    bed.apply(manifest);
    bed.wait_ready("talker");
    shell(&bed, &format!("rm -rf {run_dir} 2>/dev/null; test ! -e {run_dir}/control.sock"));
    let started = minik(&bed, &["start"]);
    assert!(code(&started) == 80 && started.stderr.contains("minik stop"), "{started:?}");
    bed.ok(&[MINIK, "stop"]);
    assert_eq!(bed.processes(), Vec::<String>::new());
    bed.ok(&[MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);

    // Without its data, or with settings that cannot be read.
    for damage in ["rm -rf $0 2>/dev/null; true", "echo { > $0/config.json"] {
        bed.start();
        bed.apply(manifest);
        bed.wait_ready("talker");
        bed.ok(&["bash", "-c", damage, &data]);
        bed.ok(&[MINIK, "delete"]);
        assert_eq!(bed.leftovers(), before, "{damage}");
    }
}

#[test]
fn data_behind_links() {
    let bed = Testbed::up("links");
    let before = bed.leftovers();
    shell(&bed, "cd /root/.kube; mkdir data precious; ln -s data link; echo kept > precious/file");
    let data = ["MINIK_DATA_DIR=/root/.kube/link"];
    let started = with(&bed, &data, &["start", "--registry-mirror", &bed.mirror()]);
    assert_eq!(code(&started), 0, "{started:?}");
    // What a pod mounts into its volume is not the volume's.
    bed.apply(
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"mounter"},"spec":{
            "volumes":[{"name":"own","emptyDir":{}},{"name":"host","hostPath":{"path":"/root/.kube/precious"}}],
            "containers":[{"name":"main","image":"busybox","securityContext":{"privileged":true},
                "command":["sh","-c","mkdir /own/mounted && mount --bind /host /own/mounted && sleep 1000"],
                "volumeMounts":[{"name":"own","mountPath":"/own","mountPropagation":"Bidirectional"},
                    {"name":"host","mountPath":"/host"}]}]}}"#,
    );
    bed.wait_ready("mounter");
    bed.wait("the mount", MINUTE, || {
        shell(&bed, "cat /root/.kube/data/*/pods/*/volumes/own/mounted/file || true").trim() == "kept"
    });
    // sudo drops the variable.
    let refused = minik(&bed, &["delete"]);
    assert!(code(&refused) == 14 && refused.stderr.contains("--data-dir /root/.kube/data"), "{refused:?}");
    let deleted = with(&bed, &data, &["delete"]);
    assert_eq!(code(&deleted), 0, "{deleted:?}");
    assert_eq!(shell(&bed, "cat /root/.kube/precious/file").trim(), "kept");
    assert_eq!(bed.leftovers(), before);

    // A relative path means the same from everywhere.
    let start = format!(
        "cd {OWN} && mkdir -p data && {MINIK} start --data-dir data --registry-mirror {}",
        bed.mirror()
    );
    shell(&bed, &start);
    bed.kubectl("run web --image=busybox -- sleep 1000");
    bed.wait_ready("web");
    bed.kill(bed_pid(&bed, &["--data-dir", "/root/.kube/data"]));
    shell(&bed, &format!("cd / && {MINIK} start --data-dir {OWN}/link"));
    bed.wait("the pod", MINUTE, || bed.kubectl("get pod web").contains("1/1     Running   0"));
    shell(&bed, &format!("cd {OWN}/precious && {MINIK} delete --data-dir ../link"));
    assert_eq!(bed.leftovers(), before);
}

fn bed_pid(bed: &Testbed, flags: &[&str]) -> i32 {
    let status = minik(bed, &[&["status", "-o", "json"], flags].concat());
    i32::try_from(json(&status)["daemonPid"].as_i64().unwrap()).unwrap()
}

#[test]
fn kubeconfigs_of_whoever_asked() {
    let bed = Testbed::up("config");
    let before = bed.leftovers();
    let show = |path: &str| shell(&bed, &format!("stat -Lc '%U %a' {OWN}/{path}")).trim().to_owned();
    let current = |path: &str| {
        bed.ok(&[
            "kubectl",
            "--kubeconfig",
            &format!("{OWN}/{path}"),
            "config",
            "view",
            "-o",
            "jsonpath={.current-context}",
        ])
    };
    // The first of several is written; directories and file are the person's.
    let several = format!("KUBECONFIG={OWN}/new/deep/config:{OWN}/second");
    let started = with(&bed, &["SUDO_USER=nobody", &several], &["start"]);
    assert_eq!(code(&started), 0, "{started:?}");
    assert_eq!(
        (show("new/deep/config"), show("new"), show("new/deep")),
        ("nobody 600".into(), "nobody 755".into(), "nobody 755".into())
    );
    shell(&bed, &format!("test ! -e {OWN}/second"));
    bed.ok(&["kubectl", "--kubeconfig", &format!("{OWN}/new/deep/config"), "get", "nodes"]);
    // Root's, with work of their own, behind a link.
    shell(
        &bed,
        "cd /root/.kube && echo '{apiVersion: v1, kind: Config, current-context: work, contexts: [{name: work, \
         context: {cluster: x, user: x}}]}' > real && ln -s real config",
    );
    bed.ok(&[MINIK, "stop"]);
    bed.ok(&[MINIK, "start"]);
    assert_eq!((show("config"), current("real")), ("root 600".into(), bed.name.clone()));
    bed.kubectl("get nodes");
    // A file that is something else is left alone.
    shell(&bed, "echo '- list' > /root/.kube/list");
    let refused = with(&bed, &["KUBECONFIG=/root/.kube/list"], &["start"]);
    assert!(code(&refused) == 1 && refused.stderr.contains("is no kubeconfig"), "{refused:?}");
    assert_eq!(shell(&bed, "cat /root/.kube/list").trim(), "- list");

    // Whoever deletes, all of them are cleaned.
    bed.ok(&[MINIK, "delete"]);
    for path in ["new/deep/config", "real"] {
        let text = shell(&bed, &format!("cat {OWN}/{path}"));
        assert!(!text.contains(&bed.name), "{path}: {text}");
    }
    shell(&bed, "test -L /root/.kube/config && ! ls -A /root/.kube | grep -qE 'lock|tmp'");
    assert_eq!((current("real"), current("new/deep/config")), ("work".into(), String::new()));
    assert_eq!(show("new/deep/config"), "nobody 600");
    assert_eq!(bed.leftovers(), before);
}
