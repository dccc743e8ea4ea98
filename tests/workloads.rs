//! Jobs, stateful sets and drains as a user meets them: a whole cluster in a test host, driven by stock kubectl.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::time::Duration;

use testbed::Testbed;

const MINUTE: Duration = Duration::from_secs(60);

const JOBS: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: pi}
spec:
  completions: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: pi, image: busybox, command: [sh, -c, "echo 3.14"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: indexed}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: busybox, command: [sh, -c, "echo $JOB_COMPLETION_INDEX of $(hostname)"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: broken}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: c, image: busybox, command: [sh, -c, "exit 7"]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  timeZone: Europe/Paris
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: c, image: busybox, command: [date]}]
"#;

const DATABASE: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox
        command: [sh, -c, "trap 'exit 0' TERM; sleep 100000 & wait"]
        env: [{name: VERSION, value: "1"}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: db}
spec: {minAvailable: 2, selector: {matchLabels: {app: db}}}
"#;

#[test]
fn jobs_come_to_their_end() {
    let bed = Testbed::up("jobs");
    bed.start();
    bed.apply(JOBS);
    for job in ["pi", "indexed"] {
        bed.kubectl(&format!("wait --for=condition=complete job/{job} --timeout=120s"));
    }
    assert!(bed.kubectl("get job pi").contains("pi     Complete   2/2"), "{}", bed.kubectl("get job pi"));
    assert_eq!(bed.kubectl("logs job/pi").trim(), "3.14");
    assert_eq!(bed.kubectl("get job indexed -o jsonpath={.status.completedIndexes}"), "0-2");
    let last = bed.kubectl("logs -l batch.kubernetes.io/job-completion-index=2");
    assert_eq!(last.trim(), "2 of indexed-2");
    bed.kubectl("wait --for=condition=failed job/broken --timeout=120s");
    let described = bed.kubectl("describe job broken");
    assert!(described.contains("BackoffLimitExceeded") && described.contains("0 Active"), "{described}");
    bed.kubectl("create job --from=cronjob/nightly by-hand");
    bed.kubectl("wait --for=condition=complete job/by-hand --timeout=120s");
    let owner = "get job by-hand -o jsonpath={.metadata.ownerReferences[0].name}";
    assert_eq!(bed.kubectl(owner), "nightly");
    assert!(bed.kubectl("get cronjob nightly").contains("0 3 * * *   Europe/Paris   False"));
    bed.kubectl("delete cronjob nightly");
    bed.kubectl("delete job pi indexed broken");
    bed.wait("no pods", MINUTE, || bed.kubectl("get pods").trim().is_empty());
}

#[test]
fn a_database_keeps_its_names_and_its_budget() {
    let bed = Testbed::up("stateful");
    bed.start();
    bed.apply(DATABASE);
    bed.kubectl("rollout status statefulset/db --timeout=120s");
    bed.kubectl("wait --for=condition=ready pod/db-1 --timeout=60s");
    let address = bed.kubectl("get pod db-1 -o jsonpath={.status.podIP}");
    let other = ["kubectl", "exec", "db-0", "--", "nslookup", "db-1.db.default.svc.cluster.local"];
    bed.wait("the other's name", MINUTE, || bed.run(&other).stdout.contains(&address));
    bed.kubectl("scale statefulset db --replicas=3");
    bed.kubectl("rollout status statefulset/db --timeout=120s");
    bed.kubectl("set env statefulset/db VERSION=2");
    bed.kubectl("rollout status statefulset/db --timeout=120s");
    let version = |pod: &str| bed.ok(&["kubectl", "exec", pod, "--", "sh", "-c", "echo $VERSION"]);
    assert_eq!(version("db-0").trim(), "2");
    bed.kubectl("rollout undo statefulset/db");
    bed.kubectl("rollout status statefulset/db --timeout=120s");
    assert_eq!(version("db-2").trim(), "1");

    // One of three may go; the next one has to wait for it, and nothing takes pods meanwhile.
    let node = bed.kubectl("get nodes -o name").trim().to_owned();
    let node = node.trim_start_matches("node/");
    let drain = ["kubectl", "drain", node, "--ignore-daemonsets", "--pod-selector=app=db", "--timeout=15s"];
    let drained = bed.run(&drain);
    assert!(!drained.status.success(), "{drained:?}");
    let refused = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert!(drained.stderr.contains(refused), "{drained:?}");
    assert!(bed.kubectl("get pdb db").contains("2               N/A               0"));
    bed.kubectl(&format!("uncordon {node}"));
    bed.kubectl("rollout status statefulset/db --timeout=120s");
    bed.kubectl("delete pdb db");
    bed.kubectl("scale statefulset db --replicas=1");
    bed.wait("one pod", MINUTE, || bed.kubectl("get pods -o name").trim() == "pod/db-0");
    let drained = bed.ok(&["kubectl", "drain", node, "--pod-selector=app=db"]);
    assert!(drained.contains("drained"), "{drained}");
}
