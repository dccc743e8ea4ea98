//! minik as a guest of its host: several clusters side by side, settings, ports of the node, a new binary.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use testbed::Testbed;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn clusters_side_by_side_do_not_meet() {
    let bed = Testbed::up("pair");
    let before = bed.leftovers();
    // `scripts/testbed down` takes clusters of this name with it.
    let second = format!("{}--b", bed.name);
    let minik = |args: &[&str]| bed.ok(&[&[testbed::MINIK, "-p", &second], args].concat());
    bed.start();
    minik(&["start", "--registry-mirror", &bed.mirror()]);
    let contexts = bed.kubectl("config get-contexts -o name");
    assert_eq!(contexts.lines().collect::<BTreeSet<_>>(), BTreeSet::from([bed.name.as_str(), &second]));
    assert_eq!(bed.kubectl("config current-context").trim(), second);

    let mut pages = Vec::new();
    for (context, image, text) in
        [(bed.name.as_str(), "instavote/vote:indent", "indent"), (&second, "instavote/vote:movies", "movies")]
    {
        let kubectl = |words: &str| bed.kubectl(&format!("--context={context} {words}"));
        kubectl(&format!("run web --image={image} --labels=app=web"));
        kubectl("expose pod web --port=80");
        kubectl("wait --for=condition=Ready pod/web --timeout=90s");
        let pod = kubectl("get pod web -o jsonpath={.status.podIP}");
        let service = kubectl("get service web -o jsonpath={.spec.clusterIP}");
        pages.extend([(pod, text), (service, text)]);
    }
    assert_eq!(pages.iter().map(|(address, _)| address).collect::<BTreeSet<_>>().len(), 4);
    let all_answer = |pages: &[(String, &str)]| {
        for (address, text) in pages {
            let url = format!("http://{address}/");
            bed.wait(&format!("{text} at {address}"), MINUTE, || {
                bed.run(&["curl", "-sS", "-m", "5", &url]).stdout.contains(&format!("version {text}"))
            });
        }
    };
    all_answer(&pages);
    // Names are a cluster's own.
    bed.kubectl(&format!("--context={} create -f tests/manifests/pod-debug.yaml", bed.name));
    bed.kubectl(&format!("--context={} wait --for=condition=Ready pod/debug --timeout=90s", bed.name));
    let seen = bed.kubectl(&format!("--context={} exec debug -- curl -sS -m 5 http://web", bed.name));
    assert!(seen.contains("version indent"), "{seen}");

    minik(&["delete"]);
    all_answer(&pages[..2]);
    assert_eq!(bed.kubectl("config get-contexts -o name").trim(), bed.name);
    assert!(bed.kubectl(&format!("--context={} get pod web", bed.name)).contains("1/1     Running   0"));
    bed.ok(&[testbed::MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
}

#[test]
fn settings_come_from_a_file_and_flags_win() {
    let bed = Testbed::up("settings");
    let write = |text: &str| bed.ok(&["bash", "-c", "echo \"$0\" > /root/.kube/minik.yaml", text]);
    let start = |more: &[&str]| {
        bed.run(&[&[testbed::MINIK, "start", "--config", "/root/.kube/minik.yaml"], more].concat())
    };
    write("apiserverPotr: 9443");
    let misspelt = start(&[]);
    assert_eq!(misspelt.status.code(), Some(14), "{misspelt:?}");
    assert!(misspelt.stderr.contains("apiserverPotr") && misspelt.stderr.contains("minik.yaml"));
    write("podCidr: 10.96.0.0/16");
    let overlapping = start(&[]);
    assert_eq!(overlapping.status.code(), Some(14), "{overlapping:?}");

    let (registry, url) = bed.mirror().split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    write(&format!(
        "{{apiserverPort: 9443, podCidr: 10.77.128.0/20, serviceCidr: 172.31.0.0/24, nodeName: from-file, \
         shareProcessNamespace: false, registryMirrors: {{{registry}: [\"{url}\"]}}, kubelet: {{maxPods: 30}}}}"
    ));
    let started = start(&["--node-name", "from-flag", "--max-pods", "2"]);
    assert!(started.status.success(), "{started:?}");
    assert!(bed.kubectl("config view --minify").contains("https://127.0.0.1:9443"));
    assert_eq!(bed.kubectl("get nodes -o name").trim(), "node/from-flag");
    assert_eq!(bed.kubectl("get service kubernetes -o jsonpath={.spec.clusterIP}"), "172.31.0.1");
    bed.kubectl("run alone --image=busybox -- sleep 1000");
    bed.wait_ready("alone");
    assert!(bed.kubectl("get pod alone -o jsonpath={.status.podIP}").starts_with("10.77.1"));
    // A third pod is one too many, also where nobody asks the scheduler.
    assert_eq!(bed.kubectl("get node from-flag -o jsonpath={.status.allocatable.pods}"), "2");
    for name in ["second", "third"] {
        let here = r#"--overrides={"spec":{"nodeName":"from-flag"}}"#;
        bed.ok(&["kubectl", "run", name, "--image=busybox", here, "--", "sleep", "1000"]);
        let phase = if name == "second" { "Running" } else { "Failed" };
        bed.kubectl(&format!("wait pod/{name} --for=jsonpath={{.status.phase}}={phase} --timeout=60s"));
    }
    assert_eq!(bed.kubectl("get pod third -o jsonpath={.status.reason}"), "OutOfpods");
    bed.kubectl("delete pod second third --now");
    assert_eq!(bed.kubectl("exec alone -- readlink /proc/1/exe").trim(), "/bin/busybox");

    // Process 1 of its own namespace, it ignores being asked to end.
    bed.kubectl("delete pod alone --now");
    bed.ok(&[testbed::MINIK, "stop"]);
    let refused = bed.run(&[testbed::MINIK, "start", "--pod-cidr", "10.66.0.0/16"]);
    assert_eq!(refused.status.code(), Some(14));
    assert!(refused.stderr.contains("cannot change") && refused.stderr.contains("hint: "), "{refused:?}");
    let stranger = bed.run(&["setpriv", "--reuid=65534", testbed::MINIK, "start"]);
    assert_eq!(stranger.status.code(), Some(27), "{stranger:?}");
    assert!(stranger.stderr.contains("hint: sudo "), "{stranger:?}");
    bed.ok(&[testbed::MINIK, "delete"]);
}

#[test]
fn a_host_with_ipv6_has_a_cluster_of_both_families() {
    let bed = Testbed::up("families");
    let start = |more: &[&str]| {
        bed.run(&[&[testbed::MINIK, "start", "--registry-mirror", &bed.mirror()], more].concat())
    };
    let switch =
        |off: u8| bed.ok(&["bash", "-c", &format!("echo {off} > /proc/sys/net/ipv6/conf/all/disable_ipv6")]);
    switch(1);
    let refused = start(&["--dual-stack"]);
    assert!(
        !refused.status.success()
            && refused.stderr.contains("IPv6 is disabled")
            && refused.stderr.contains("hint: "),
        "{refused:?}"
    );
    switch(0);
    bed.ok(&["ip", "-6", "address", "add", "2001:db8:5::2/64", "dev", "eth0", "nodad"]);
    // What the host uses already is left to it.
    bed.ok(&["ip", "-6", "address", "add", "fd00:10:244::1/64", "dev", "lo", "nodad"]);
    let started = start(&[]);
    assert!(started.status.success(), "{started:?}");
    let status = bed.ok(&[testbed::MINIK, "status"]);
    assert!(
        status.contains("pods: 10.244.0.0/16,fd00:10:245::/64\n")
            && status.contains("services: 10.96.0.0/12,fd00:10:96::/112\n"),
        "{status}"
    );
    let node = |path: &str| bed.kubectl(&format!("get nodes -o jsonpath={{.items[0].{path}}}"));
    assert_eq!(node("spec.podCIDRs"), "[\"10.244.0.0/16\",\"fd00:10:245::/64\"]");
    assert_eq!(node("status.addresses[1].address"), "2001:db8:5::2");
    bed.kubectl("create service clusterip web --tcp=80");
    bed.ok(&[
        "kubectl",
        "patch",
        "service",
        "web",
        "-p",
        r#"{"spec":{"ipFamilyPolicy":"RequireDualStack"}}"#,
    ]);
    let addresses = bed.kubectl("get service web -o jsonpath={.spec.clusterIPs}");
    assert!(addresses.contains("\"10.") && addresses.contains("\"fd00:10:96::"), "{addresses}");
    bed.wait("a slice of each family", MINUTE, || {
        let types = bed.kubectl(
            "get endpointslices -l kubernetes.io/service-name=web -o jsonpath={.items[*].addressType}",
        );
        types.split_whitespace().collect::<BTreeSet<_>>() == BTreeSet::from(["IPv4", "IPv6"])
    });
    bed.ok(&[testbed::MINIK, "stop"]);
    let single = start(&["--dual-stack=false"]);
    assert!(
        single.stderr.contains("--dual-stack of the existing cluster") && single.status.code() == Some(14)
    );
    // It keeps its families when the host has lost its own.
    bed.ok(&["ip", "-6", "address", "del", "2001:db8:5::2/64", "dev", "eth0"]);
    bed.ok(&["ip", "-6", "address", "del", "fd00:10:244::1/64", "dev", "lo"]);
    let again = start(&["--pod-cidr", "10.244.0.0/16"]);
    assert!(again.status.success(), "{again:?}");
    let second = || node("status.addresses[1].address");
    bed.wait("the gateway's address", MINUTE, || second() == "fd00:10:245::1");
    // Where there is no IPv6 at all any more, it goes on with IPv4.
    bed.ok(&[testbed::MINIK, "stop"]);
    switch(1);
    let without = start(&[]);
    assert!(without.status.success() && without.stderr.contains("this host has no IPv6 now"), "{without:?}");
    bed.wait("one address", MINUTE, || node("status.addresses[1].type") == "Hostname");
    assert_eq!(node("spec.podCIDRs"), "[\"10.244.0.0/16\",\"fd00:10:245::/64\"]");
    bed.kubectl("run alone --image=busybox --restart=Never -- sleep 1000");
    bed.wait_ready("alone");
    let addresses = bed.kubectl("get pod alone -o jsonpath={.status.podIPs[*].ip}");
    assert!(addresses.starts_with("10.244.") && !addresses.contains(' '), "{addresses}");
    // What is stored of services stays as it is.
    bed.kubectl("label service web still=here");
    bed.kubectl("delete pod alone --now");
    bed.ok(&[testbed::MINIK, "stop"]);
    switch(0);
    assert!(start(&[]).status.success());
    bed.wait("both addresses", MINUTE, || second() == "fd00:10:245::1");
    bed.ok(&[testbed::MINIK, "delete"]);
}

#[test]
fn pods_on_ports_of_the_node() {
    let bed = Testbed::up("hostport");
    bed.start();
    let pod = |name: &str, port: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","labels":{{"app":"vote"}}}},"spec":{{"containers":[
                {{"name":"vote","image":"instavote/vote","ports":[{{"containerPort":80{port}}}]}}]}}}}"#
        )
    };
    let create = |manifest: &str| bed.ok(&["bash", "-c", "echo \"$0\" | kubectl create -f -", manifest]);
    create(&pod("one", r#","hostPort":8081"#));
    create(&pod("two", ""));
    bed.wait_ready("one");
    bed.wait_ready("two");
    let node = bed.kubectl("get nodes -o jsonpath={.items[0].status.addresses[0].address}");
    for address in [node.as_str(), "127.0.0.1"] {
        bed.wait(&format!("the page at {address}:8081"), MINUTE, || {
            bed.run(&["curl", "-sS", "-m", "5", &format!("http://{address}:8081/")])
                .stdout
                .contains("pod one")
        });
    }
    // From outside the node, too.
    let outside = format!("ip netns exec {}-net curl -sS -m 5 http://{node}:8081/", bed.name);
    let page = std::process::Command::new("bash").args(["-c", &outside]).output().unwrap();
    assert!(String::from_utf8_lossy(&page.stdout).contains("pod one"), "{page:?}");
    // A second pod that wants the port has to wait for it.
    create(&pod("three", r#","hostPort":8081"#));
    bed.wait("a reason", MINUTE, || {
        bed.kubectl("describe pod three").contains("didn't have free ports for the requested pod ports")
    });
    bed.kubectl("delete pod one --now");
    bed.wait_ready("three");

    // A client keeps its pod where the service says so, and meets all of them where it does not.
    bed.kubectl("expose pod two --name=vote --port=80 --selector=app=vote");
    let service = bed.kubectl("get service vote -o jsonpath={.spec.clusterIP}");
    let names = || -> BTreeSet<String> {
        let script = "for i in $(seq 40); do curl -sS -m 5 http://$0/; done; true";
        let pages = bed.ok(&["bash", "-c", script, &service]);
        pages.lines().filter_map(|line| Some(line.split_once("pod ")?.1.trim().to_owned())).collect()
    };
    bed.wait("both pods behind the service", MINUTE, || names().len() == 2);
    bed.ok(&["kubectl", "patch", "service", "vote", "-p", r#"{"spec":{"sessionAffinity":"ClientIP"}}"#]);
    bed.wait("one pod for one client", MINUTE, || names().len() == 1);
    let first = names();
    assert_eq!(names(), first);
    bed.ok(&[testbed::MINIK, "delete"]);
}

/// A name server on loopback that passes datagrams on to the address given.
const FORWARDER: &str = r#"
import socket, sys
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.bind(("127.0.0.1", 53))
while True:
    question, client = own.recvfrom(4096)
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    other.settimeout(2)
    other.sendto(question, (sys.argv[1], 53))
    try:
        own.sendto(other.recv(4096), client)
    except OSError:
        pass
"#;

#[test]
fn pods_find_outside_names_by_whatever_the_host_asks() {
    let bed = Testbed::up("resolvers");
    bed.start();
    bed.kubectl("run asks --image=busybox --restart=Never -- sleep 1000");
    bed.wait_ready("asks");
    let outside = bed.ok(&["awk", "/^nameserver/ {print $2}", "/etc/resolv.conf"]).trim().to_owned();
    let dns = bed.kubectl("get service kube-dns -n kube-system -o jsonpath={.spec.clusterIP}");
    bed.ok(&["bash", "-c", "setsid python3 -c \"$0\" $1 >/dev/null 2>&1 </dev/null &", FORWARDER, &outside]);
    let ask = |times: u32, name: &str| {
        let script =
            format!("for i in $(seq {times}); do nslookup -type=a {name} || exit 1; done; echo all of them");
        bed.run(&["kubectl", "exec", "asks", "--", "sh", "-c", &script]).stdout
    };
    let host_asks = |servers: &[&str]| {
        let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        bed.ok(&["bash", "-c", "printf %s \"$0\" > /etc/resolv.conf", &lines]);
    };
    for (what, servers) in [
        ("a first server that is dead", [Some("198.51.100.77"), Some(outside.as_str())]),
        ("a server on loopback", [Some("127.0.0.1"), None]),
        ("the cluster itself before another", [Some(dns.as_str()), Some(outside.as_str())]),
    ] {
        let servers: Vec<&str> = servers.into_iter().flatten().collect();
        host_asks(&servers);
        bed.wait(what, MINUTE, || ask(1, "www.example.test").contains("all of them"));
        let start = Instant::now();
        assert!(ask(8, "www.example.test").contains("all of them"), "{what}");
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: {:?}", start.elapsed());
    }
    // Nobody but the cluster itself: told, and no circle.
    host_asks(&[&dns]);
    bed.wait("a refusal", MINUTE, || !ask(1, "www.example.test").contains("all of them"));
    assert!(ask(1, "kubernetes.default.svc.cluster.local").contains("all of them"));
    assert!(bed.ok(&[testbed::MINIK, "logs", "-n", "200"]).contains("the host's resolver asks this cluster"));
    // A pod that wants the host's servers gets one that it can reach.
    host_asks(&["127.0.0.1"]);
    bed.ok(&[
        "kubectl",
        "run",
        "plain",
        "--image=busybox",
        r#"--overrides={"spec":{"dnsPolicy":"Default"}}"#,
        "--",
        "sleep",
        "1000",
    ]);
    bed.wait_ready("plain");
    assert_eq!(bed.kubectl("exec plain -- cat /etc/resolv.conf").trim(), format!("nameserver {dns}"));
    bed.kubectl("exec plain -- nslookup -type=a www.example.test");
}

#[test]
fn a_new_binary_takes_over_running_pods() {
    let bed = Testbed::up("upgrade");
    let before = bed.leftovers();
    // The program of a package is replaced by a rename; the old one goes on under the old file.
    bed.ok(&["cp", testbed::MINIK, "/root/.kube/minik"]);
    bed.ok(&["/root/.kube/minik", "start", "--registry-mirror", &bed.mirror()]);
    bed.kubectl("run web --image=nginx");
    bed.wait_ready("web");
    let old = bed.daemon_pid();
    let container = bed.kubectl("get pod web -o jsonpath={.status.containerStatuses[0].containerID}");
    bed.ok(&[
        "bash",
        "-c",
        "cp $0 /root/.kube/next && mv /root/.kube/next /root/.kube/minik",
        testbed::MINIK,
    ]);
    bed.kill(old);
    bed.ok(&["/root/.kube/minik", "start"]);
    assert_ne!(bed.daemon_pid(), old);
    let now = "get pod web -o jsonpath={.status.containerStatuses[0].containerID}";
    assert_eq!(bed.kubectl(now), container);
    assert!(bed.kubectl("get pod web").contains("1/1     Running   0"));
    // What the old supervisor holds is reached by the new daemon.
    assert_eq!(bed.kubectl("exec web -- echo reached").trim(), "reached");
    bed.kubectl("run more --image=busybox -- sleep 1000");
    bed.wait_ready("more");
    bed.ok(&["/root/.kube/minik", "delete"]);
    assert_eq!(bed.leftovers(), before);
}
