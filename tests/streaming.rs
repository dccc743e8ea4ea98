//! Exec, attach, cp, logs and port-forward as clients of several years speak them: kubectl over SPDY, over WebSockets, and
//! the Python client; and what `kubectl debug` sees of what it looks into.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::time::Duration;

use testbed::Testbed;

const MINUTE: Duration = Duration::from_secs(60);
/// One that knows no WebSockets, and the current one.
const CLIENTS: [&str; 2] = ["kubectl-1.29", "kubectl"];

#[test]
fn kubectl_old_and_new() {
    let bed = Testbed::up("streams");
    bed.start();
    bed.kubectl("create -f tests/manifests/pod-debug.yaml");
    bed.kubectl("run web --image=nginx");
    bed.wait_ready("debug");
    bed.wait_ready("web");
    bed.ok(&["bash", "-c", "head -c 8000000 /dev/urandom > /root/.kube/data"]);
    let descriptors = || {
        let pid = bed.daemon_pid();
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    };
    let before = descriptors();
    for client in CLIENTS {
        let version = bed.ok(&[client, "version", "--client"]);
        assert_eq!(version.contains("v1.29."), client == "kubectl-1.29", "{version}");
        processes(&bed, client);
        terminal(&bed, client);
        files(&bed, client);
        connections(&bed, client);
    }
    // Nothing of all that is still held.
    bed.wait("the descriptors back", MINUTE, || descriptors() <= before + 2);
    bed.ok(&[testbed::MINIK, "delete"]);
}

fn processes(bed: &Testbed, client: &str) {
    let run = bed.run(&[client, "exec", "debug", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((run.status.code(), run.stdout.as_str()), (Some(7), "out\n"), "{run:?}");
    assert!(run.stderr.contains("err\n") && run.stderr.contains("exit code 7"), "{run:?}");
    let missing = bed.run(&[client, "exec", "debug", "--", "/no/such/program"]);
    assert!(!missing.status.success() && missing.stderr.contains("no such file"), "{missing:?}");
    // Input to its end, and output to its end, more than any queue holds.
    let counted = bed.ok(&["bash", "-c", "$0 exec -i debug -- wc -c < /root/.kube/data", client]);
    assert_eq!(counted.trim(), "8000000");
    let sums = "a=$($0 exec debug -- sh -c 'head -c 5000000 /dev/zero | md5sum'); \
                b=$($0 exec debug -- head -c 5000000 /dev/zero | md5sum); [ \"$a\" = \"$b\" ] && echo same";
    assert_eq!(bed.ok(&["bash", "-c", sums, client]).trim(), "same");
    // Many at once.
    let many =
        "for i in $(seq 100); do echo $i; done | xargs -P 8 -I% $0 exec debug -- echo n% | sort -u | wc -l";
    assert_eq!(bed.ok(&["bash", "-c", many, client]).trim(), "100");
    // A process that was there before: input reaches it, output comes from it.
    let name = format!("attached-{}", client.replace('.', "-"));
    let script = "while read line; do echo got-$line; [ $line = end ] && exit 5; done";
    bed.ok(&[
        "kubectl",
        "run",
        &name,
        "-i",
        "--attach=false",
        "--image=busybox",
        "--restart=Never",
        "--",
        "sh",
        "-c",
        script,
    ]);
    bed.wait_ready(&name);
    let attached = bed.run(&["bash", "-c", "printf 'a\\nend\\n' | $0 attach -i $1", client, &name]);
    assert!(attached.stdout.contains("got-a\ngot-end\n"), "{attached:?}");
    bed.wait("its exit code", MINUTE, || {
        let path = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}";
        bed.kubectl(&format!("get pod {name} -o {path}")) == "5"
    });
}

fn terminal(bed: &Testbed, client: &str) {
    let mut shell = bed.terminal(&[client, "exec", "-it", "debug", "--", "/bin/sh"], 24, 80);
    shell.wait_for("#");
    shell.type_line("until [ \"$(stty size)\" = '24 80' ]; do :; done; echo $((6*7))");
    shell.wait_for("42");
    shell.resize(50, 132);
    shell.type_line("until [ \"$(stty size)\" = '50 132' ]; do :; done; echo resized-$((1+1))");
    shell.wait_for("resized-2");
    shell.type_line("exit 3");
    assert_eq!(shell.end(), Some(3));
}

fn files(bed: &Testbed, client: &str) {
    let there_and_back = "$0 cp /root/.kube/data debug:/tmp/data && $0 cp debug:/tmp/data /root/.kube/back >/dev/null && \
                          cmp /root/.kube/data /root/.kube/back && echo same";
    assert_eq!(bed.ok(&["bash", "-c", there_and_back, client]).trim(), "same");
    let followed = "exec 3< <(exec $0 logs -f --tail=0 web); pid=$!; \
         until $0 exec web -- sh -c 'echo followed > /proc/2/fd/1' && read -r -t 1 line <&3; do :; done; \
         kill $pid; echo \"$line\"";
    assert_eq!(bed.ok(&["bash", "-c", followed, client]).trim(), "followed");
}

fn connections(bed: &Testbed, client: &str) {
    // 300 connections over one session, 16 at a time; in between, some that are broken off in the middle.
    let script = r#"
        exec 3< <(exec $0 port-forward pod/web 8080:80)
        pid=$!
        read -r line <&3
        for i in $(seq 20); do timeout 5 bash -c 'exec 4<>/dev/tcp/127.0.0.1/8080; printf "GET / HTTP/1.1\r\n" >&4' & done
        wait $(jobs -p | grep -v $pid)
        good=$(seq 300 | xargs -P 16 -I@ curl -sS -m 20 -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8080/ | grep -c 200)
        curl -sS -m 5 http://127.0.0.1:8080/ | grep -c '<title>'
        echo $good
        kill $pid
    "#;
    let seen = bed.ok(&["bash", "-c", script, client]);
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["1", "300"], "{client}");
}

#[test]
fn the_python_client() {
    let bed = Testbed::up("python");
    bed.start();
    bed.kubectl("create -f tests/manifests/pod-debug.yaml");
    bed.wait_ready("debug");
    let script = r#"
import time
from kubernetes import client, config
from kubernetes.stream import portforward, stream
config.load_kube_config()
api = client.CoreV1Api()
command = ["sh", "-c", "read line; echo got $line; echo err >&2; exit 4"]
process = stream(api.connect_get_namespaced_pod_exec, "debug", "default", command=command,
                 stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
process.write_stdin("hello\n")
process.run_forever(timeout=20)
print(process.read_stdout().strip(), process.read_stderr().strip(), process.returncode)
print(stream(api.connect_get_namespaced_pod_exec, "debug", "default", command=["echo", "whole"],
             stdin=False, stdout=True, stderr=True, tty=False).strip())
print([pod.metadata.name for pod in api.list_namespaced_pod("default").items])
stream(api.connect_get_namespaced_pod_exec, "debug", "default", stdin=False, stdout=True, stderr=True, tty=False,
       command=["sh", "-c", "(while :; do nc -l -p 8080 -e sh -c 'read line; echo served'; done) >/dev/null 2>&1 & "
                "until grep -q :1F90 /proc/net/tcp /proc/net/tcp6; do :; done"])
forward = portforward(api.connect_get_namespaced_pod_portforward, "debug", "default", ports="8080,9")
connection = forward.socket(8080)
connection.setblocking(True)
connection.sendall(b"hello\n")
answer = b""
while b"served" not in answer:
    answer += connection.recv(4096)
while forward.error(9) is None:
    time.sleep(0.01)
print(answer.decode().strip(), forward.error(8080), "refused" in forward.error(9))
"#;
    let seen = bed.ok(&["python3", "-c", script]);
    assert_eq!(seen, "got hello err 4\nwhole\n['debug']\nserved None True\n");
    bed.ok(&[testbed::MINIK, "delete"]);
}

/// Writes a line in each of its lives, of which the first is short.
const TWICE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: twice}
spec:
  containers:
  - name: c
    image: busybox
    command: [sh, -c, "if [ -e /m/seen ]; then echo second; exec sleep 1000; fi; touch /m/seen; echo first; exit 1"]
    volumeMounts: [{name: m, mountPath: /m}]
  volumes: [{name: m, emptyDir: {}}]
"#;

#[test]
fn logs_of_other_times() {
    let bed = Testbed::up("logs");
    bed.start();
    bed.apply(TWICE);
    bed.wait("the second life", MINUTE, || bed.run(&["kubectl", "logs", "twice"]).stdout.contains("second"));
    let logs = |how: &str| bed.kubectl(&format!("logs twice {how}"));
    assert_eq!(logs("--previous"), "first\n");
    let stamped = logs("--timestamps");
    let (time, text) = stamped.trim_end().split_once(' ').unwrap();
    let written: jiff::Timestamp = time.parse().unwrap();
    assert_eq!(text, "second");
    assert_eq!(logs("--limit-bytes=3"), "sec");
    assert_eq!(logs("--since=1h"), "second\n");
    let moment = |seconds: i64| (written + jiff::SignedDuration::from_secs(seconds)).to_string();
    assert_eq!(logs(&format!("--since-time={}", moment(-2))), "second\n");
    assert_eq!(logs(&format!("--since-time={}", moment(2))), "");
    bed.wait("the line to be older than a second", MINUTE, || logs("--since=1s").is_empty());
    bed.ok(&[testbed::MINIK, "delete"]);
}

/// What dashboards of Kubernetes look at is there, and it moves.
fn dashboards(bed: &Testbed, node: &str) {
    bed.apply(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  containers:
  - {name: c, image: busybox, args: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /data}],
     resources: {limits: {cpu: 100m, memory: 32Mi}}}
  volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]
"#,
    );
    bed.wait_ready("keeper");
    let figure = |page: &str, name: &str| -> f64 {
        let line =
            page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let page = bed.kubectl("get --raw /metrics");
    for name in [
        "workqueue_adds_total{name=\"endpoint_slice\"}",
        "workqueue_work_duration_seconds_count{name=\"endpoint_slice\"}",
        "rest_client_requests_total{code=\"200\"",
        "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"}",
        "scheduler_pod_scheduling_sli_duration_seconds_count{attempts=\"1\"}",
    ] {
        assert!(figure(&page, name) >= 1.0, "{name}");
    }
    let kubelet = |path: &str| bed.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/{path}"));
    let claim = "{namespace=\"default\",persistentvolumeclaim=\"data\"}";
    let page = kubelet("metrics");
    assert!(figure(&page, &format!("kubelet_volume_stats_capacity_bytes{claim}")) > 1e6);
    assert!(figure(&page, "rest_client_requests_total{code=\"200\"") >= 1.0);
    let page = kubelet("metrics/cadvisor");
    let limit = "container_spec_memory_limit_bytes{container=\"c\"";
    let limits: Vec<&str> =
        page.lines().filter(|line| line.starts_with(limit) && line.contains("pod=\"keeper\"")).collect();
    assert!(limits[0].contains(" 33554432 "), "{limits:?}");
    let of_keeper = |name: &str| {
        let mut lines = page.lines().filter(|line| line.starts_with(&format!("{name}{{container=\"c\"")));
        let line = lines.find(|line| line.contains("pod=\"keeper\"")).unwrap_or_else(|| panic!("no {name}"));
        line.split(' ').rev().nth(1).unwrap().parse::<f64>().unwrap()
    };
    assert!(of_keeper("container_fs_usage_bytes") < of_keeper("container_fs_limit_bytes"));
    assert!(figure(&page, "container_fs_limit_bytes{container=\"\"") > 1e6);
    let summary: serde_json::Value = serde_json::from_str(&kubelet("stats/summary")).unwrap();
    let pods = summary["pods"].as_array().unwrap();
    let keeper = pods.iter().find(|pod| pod["podRef"]["name"] == "keeper").unwrap();
    assert_eq!(keeper["volume"][0]["pvcRef"]["name"], "data", "{keeper}");
    let shown = bed.kubectl("get ipaddresses --no-headers");
    let owners: Vec<&str> = shown.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    for owner in ["services/default/kubernetes", "services/default/web", "services/kube-system/kube-dns"] {
        assert!(owners.contains(&owner), "{owner} in {shown}");
    }
}

#[test]
fn proxies_and_figures() {
    let bed = Testbed::up("proxies");
    bed.start();
    bed.kubectl("run web --image=nginx:1.12.2 --port=80 --expose");
    bed.wait_ready("web");
    let node = bed.kubectl("get nodes -o name");
    let node = node.trim().trim_start_matches("node/");
    let title = "<title>Welcome to nginx!</title>";
    for path in ["pods/web/proxy/", "pods/http:web:80/proxy/", "services/web:80/proxy/"] {
        let get = ["kubectl", "get", "--raw", &format!("/api/v1/namespaces/default/{path}")];
        bed.wait(path, MINUTE, || bed.run(&get).stdout.contains(title));
    }
    let script = "exec 3< <(exec kubectl proxy --port=8001); pid=$!; read -r line <&3; \
         curl -sSL http://127.0.0.1:8001/api/v1/namespaces/default/services/web:80/proxy; kill $pid";
    assert!(bed.ok(&["bash", "-c", script]).contains(title));

    let summary = bed.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/stats/summary"));
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let pods = summary["pods"].as_array().unwrap();
    let web = pods.iter().find(|pod| pod["podRef"]["name"] == "web").unwrap();
    assert!(web["containers"][0]["memory"]["workingSetBytes"].as_u64().unwrap() > 100_000, "{web}");
    let resource = bed.kubectl(&format!("get --raw /api/v1/nodes/{node}/proxy/metrics/resource"));
    assert!(
        resource.contains("pod_memory_working_set_bytes{namespace=\"default\",pod=\"web\"}"),
        "{resource}"
    );
    let top = |words: &str| bed.kubectl(&format!("top {words} --no-headers"));
    assert!(top("nodes").starts_with(node));
    let row: Vec<String> = top("pods --containers").split_whitespace().map(str::to_owned).collect();
    assert_eq!((row[0].as_str(), row[1].as_str()), ("web", "web"), "{row:?}");
    assert!(row[2].ends_with('m') && row[3].ends_with("Mi"), "{row:?}");
    let local = bed.kubectl("get apiservices v1. --no-headers");
    assert_eq!(local.split_whitespace().take(3).collect::<Vec<_>>(), ["v1.", "Local", "True"]);
    dashboards(&bed, node);
    bed.ok(&[testbed::MINIK, "delete"]);
}

const LOOKED_INTO: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  shareProcessNamespace: SHARED
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: busybox, command: [sh, -c, "echo here > /mark; exec sleep 1001"]}
  - {name: other, image: busybox, command: [sleep, "1002"]}
"#;

#[test]
fn debuggers_see_what_they_are_to_look_into() {
    let bed = Testbed::up("debug");
    bed.start();
    for (name, shared) in [("apart", "false"), ("shared", "true")] {
        bed.apply(&LOOKED_INTO.replace("NAME", name).replace("SHARED", shared));
    }
    // Who is seen, whether its root can be entered, and whether it can be asked to do something.
    let look = r#"
        for process in /proc/[0-9]*; do
          words=$(tr '\0' ' ' < $process/cmdline)
          case "$words" in
            "sleep 1001 ") echo "$words$(cat $process/root/mark)"; kill -0 ${process#/proc/} && echo reached;;
            "sleep 1002 ") echo "$words";;
          esac
        done
        [ "$(cat /proc/1/comm)" = sleep ] && echo first
        hostname"#;
    for (pod, name, flags, expected) in [
        ("apart", "alone", "", "apart"),
        ("apart", "target", "--target=main", "apart, first, reached, sleep 1001 here"),
        ("apart", "beside", "--target=other --profile=sysadmin", "apart, first, sleep 1002"),
        ("shared", "alone", "", "reached, shared, sleep 1001 here, sleep 1002"),
        ("shared", "target", "--target=main", "reached, shared, sleep 1001 here, sleep 1002"),
    ] {
        bed.wait_ready(pod);
        let begin = format!("exec kubectl debug {pod} --image=busybox -c {name} {flags} -- sh -c \"$0\"");
        bed.ok(&["bash", "-c", &begin, look]);
        let path =
            format!("{{.status.ephemeralContainerStatuses[?(@.name=='{name}')].state.terminated.exitCode}}");
        let get = ["kubectl", "get", "pod", pod, "-o", &format!("jsonpath={path}")];
        bed.wait(&format!("the end of {name} in {pod}"), MINUTE, || bed.ok(&get) == "0");
        let seen = bed.kubectl(&format!("logs {pod} -c {name}"));
        let mut seen: Vec<&str> = seen.lines().map(str::trim).collect();
        seen.sort_unstable();
        assert_eq!(seen.join(", "), expected, "{pod} {name}");
    }
    // In a terminal, as people do it; what was typed reaches the container that is looked into.
    let into =
        ["kubectl", "debug", "-it", "apart", "--image=busybox", "--target=main", "-c", "shell", "--", "sh"];
    let mut shell = bed.terminal(&into, 24, 80);
    shell.wait_for("#");
    shell.type_line("echo seen > /proc/1/root/by; echo typed-$((1+1))");
    shell.wait_for("typed-2");
    shell.type_line("exit");
    shell.end();
    assert_eq!(bed.kubectl("exec apart -c main -- cat /by").trim(), "seen");
    // A target that is not there is told of.
    let none = ["kubectl", "debug", "apart", "--image=busybox", "--target=none", "-c", "lost", "--", "true"];
    let refused = bed.run(&none);
    assert!(!refused.status.success() && refused.stderr.contains("none"), "{refused:?}");
    bed.ok(&[testbed::MINIK, "delete"]);
}
