//! Thousands of services at a time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testbed::{MINIK, Testbed};

/// How many services there are, and endpoints of each.
const SERVICES: usize = 5_000;
const ENDPOINTS: usize = 10;
/// How many are asked for by one command.
const AT_A_TIME: usize = 1_000;
const LONG: Duration = Duration::from_secs(300);

/// Who may do everything, in files for curl; and where.
struct Admin<'a> {
    bed: &'a Testbed,
    directory: &'a Path,
    server: String,
}

impl Admin<'_> {
    fn of<'a>(bed: &'a Testbed, directory: &'a Path) -> Admin<'a> {
        let config: Value = serde_json::from_str(&bed.kubectl("config view --raw --minify -o json")).unwrap();
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        for (file, data) in [
            ("ca", &cluster["certificate-authority-data"]),
            ("cert", &user["client-certificate-data"]),
            ("key", &user["client-key-data"]),
        ] {
            std::fs::write(directory.join(file), STANDARD.decode(data.as_str().unwrap()).unwrap()).unwrap();
        }
        Admin { bed, directory, server: cluster["server"].as_str().unwrap().to_owned() }
    }

    /// Makes objects, many at a time: kubectl would make fifty a second.
    fn create(&self, objects: impl Iterator<Item = (String, Value)>) {
        let file = |name: &str| self.directory.join(name).display().to_string();
        let mut config = String::new();
        let mut asked = 0;
        for (path, object) in objects {
            // Behind the last one another would be expected.
            config += if asked == 0 { "" } else { "next\n" };
            asked += 1;
            let body = object.to_string();
            write!(
                config,
                "url = \"{}{path}\"\ncacert = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n\
                 header = \"content-type: application/json\"\ndata-raw = {body:?}\n\
                 output = /dev/null\nwrite-out = \"%{{http_code}}\\n\"\n",
                self.server,
                file("ca"),
                file("cert"),
                file("key"),
            )
            .unwrap();
        }
        std::fs::write(self.directory.join("requests"), config).unwrap();
        let script = "curl -sS -Z --parallel-max 16 -K \"$0\" | sort | uniq -c";
        let codes = self.bed.ok(&["bash", "-c", script, &file("requests")]);
        assert_eq!(codes.split_whitespace().collect::<Vec<_>>(), [asked.to_string().as_str(), "201"]);
    }
}

fn service(n: usize) -> (String, Value) {
    let object = json!({"metadata": {"name": format!("s{n}")}, "spec": {"ports": [{"port": 80}]}});
    ("/api/v1/namespaces/many/services".into(), object)
}

/// Endpoints of a service, at addresses that are for benchmarks (RFC 2544) and that nobody asks here.
fn slice(n: usize) -> (String, Value) {
    let address = |at: usize| {
        let number = n * ENDPOINTS + at;
        format!("198.18.{}.{}", number / 250 % 250, number % 250 + 1)
    };
    let endpoints: Vec<Value> =
        (0..ENDPOINTS).map(|at| json!({"addresses": [address(at)], "conditions": {"ready": true}})).collect();
    let object = json!({"metadata": {"name": format!("s{n}"), "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": "IPv4", "ports": [{"port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
    ("/apis/discovery.k8s.io/v1/namespaces/many/endpointslices".into(), object)
}

#[test]
fn services_are_served_among_thousands() {
    let bed = Testbed::up("scale");
    let before = bed.leftovers();
    let directory = tempfile::tempdir().unwrap();
    bed.start();
    bed.kubectl("run web --image=instavote/vote:indent --labels=app=web");
    bed.kubectl("expose pod web --name=early --port=80");
    bed.wait_ready("web");
    bed.kubectl("create namespace many");
    let admin = Admin::of(&bed, directory.path());
    let began = Instant::now();
    let said = |what: &str| eprintln!("{what} after {:.1?}", began.elapsed());
    for from in (0..SERVICES).step_by(AT_A_TIME) {
        admin.create((from..from + AT_A_TIME).map(service));
    }
    said("services");
    for from in (0..SERVICES).step_by(AT_A_TIME) {
        admin.create((from..from + AT_A_TIME).map(slice));
    }
    said("endpoints");

    // A service of a pod is reached among them, by address and by name, from the host and from a pod.
    let address = |name: &str| bed.kubectl(&format!("get service {name} -o jsonpath={{.spec.clusterIP}}"));
    let answers = |url: &str| bed.run(&["curl", "-sS", "-m", "5", url]).stdout.contains("version indent");
    let knows = |name: &str, wanted: &str| {
        let found = bed.run(&[MINIK, "names", "getent", "ahostsv4", name]).stdout;
        found.split_whitespace().next() == Some(wanted)
    };
    let late = |name: &str| {
        let asked = Instant::now();
        bed.kubectl(&format!("expose pod web --name={name} --port=80"));
        let address = address(name);
        bed.wait(name, LONG, || answers(&format!("http://{address}/")));
        bed.wait(name, LONG, || knows(&format!("{name}.default.svc.cluster.local"), &address));
        eprintln!("{name}: reached and known {:.1?} after kubectl was asked for it", asked.elapsed());
    };
    assert!(answers(&format!("http://{}/", address("early"))));
    late("among-thousands");
    // The last of them is known, and its packets go to its endpoints.
    let last = bed.kubectl(&format!("get service s{} -n many -o jsonpath={{.spec.clusterIP}}", SERVICES - 1));
    bed.wait("the last name", LONG, || knows(&format!("s{}.many.svc.cluster.local", SERVICES - 1), &last));
    let table = |what: &str| bed.ok(&["bash", "-c", "nft list ruleset | grep -c -F -- \"$0\" || true", what]);
    bed.wait("the last rule", LONG, || table(&last).trim() != "0");
    let memory = bed.ok(&["awk", "/^VmRSS/ {print $2}", &format!("/proc/{}/status", bed.daemon_pid())]);
    eprintln!("the daemon holds {} MiB", memory.trim().parse::<u64>().unwrap() / 1024);

    // They go again, and the others stay.
    bed.kubectl("delete namespace many --wait=false");
    bed.wait("the end of thousands", LONG, || {
        bed.kubectl("get namespaces").lines().all(|line| !line.starts_with("many "))
    });
    said("all gone");
    bed.wait("the end of their rules", LONG, || table(&last).trim() == "0");
    assert!(answers(&format!("http://{}/", address("early"))));
    late("afterwards");
    bed.ok(&[MINIK, "delete"]);
    assert_eq!(bed.leftovers(), before);
}
