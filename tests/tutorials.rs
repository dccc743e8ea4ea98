//! The tutorials of Kubernetes' documentation that a beginner meets next, step by step with stock kubectl: the guestbook,
//! WordPress on claims, StatefulSet basics, a work queue, configuration, probes and quotas.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::time::Duration;

use testbed::Testbed;

const MINUTE: Duration = Duration::from_secs(60);

/// A cluster, and a way to wait until kubectl answers this.
struct Tutorial(Testbed);

impl Tutorial {
    fn begin(name: &str) -> Tutorial {
        let bed = Testbed::up(name);
        bed.start();
        Tutorial(bed)
    }

    fn kubectl(&self, words: &str) -> String {
        self.0.kubectl(words).trim().to_owned()
    }

    fn apply(&self, file: &str) {
        self.kubectl(&format!("apply -f tests/tutorials/{file}"));
    }

    fn shell(&self, script: &str) -> String {
        self.0.ok(&["bash", "-c", script]).trim().to_owned()
    }

    fn seen(&self, words: &str, wanted: &str) {
        let args: Vec<&str> = std::iter::once("kubectl").chain(words.split(' ')).collect();
        self.0.wait(&format!("{wanted:?} of {words}"), MINUTE, || self.0.run(&args).stdout.trim() == wanted);
    }

    fn refused(&self, words: &str, why: &str) {
        let args: Vec<&str> = std::iter::once("kubectl").chain(words.split(' ')).collect();
        let run = self.0.run(&args);
        assert!(!run.status.success() && run.stderr.contains(why), "{words}: {run:?}");
    }
}

#[test]
fn the_guestbook_with_redis() {
    let tutorial = Tutorial::begin("guestbook");
    tutorial.apply("guestbook.yaml");
    for deployment in ["redis-leader", "redis-follower", "frontend"] {
        tutorial.kubectl(&format!("rollout status deployment/{deployment} --timeout=120s"));
    }
    let logs = tutorial.kubectl("logs deployment/redis-follower");
    assert!(logs.contains("MASTER <-> REPLICA sync"), "{logs}");
    let port = tutorial.kubectl("get service frontend -o jsonpath={.spec.ports[0].nodePort}");
    let page = |query: &str| {
        let url = format!("http://127.0.0.1:{port}/guestbook.php?{query}");
        tutorial.shell(&format!("curl -fsS -m 10 '{url}'"))
    };
    assert_eq!(page("cmd=set&key=messages&value=hello"), r#"{"message":"Updated"}"#);
    tutorial.0.wait("the message at every follower", MINUTE, || {
        (0..6).all(|_| page("cmd=get&key=messages") == r#"{"data":"hello"}"#)
    });
    tutorial.kubectl("scale deployment frontend --replicas=5");
    tutorial.seen("get deployment frontend -o jsonpath={.status.readyReplicas}", "5");
    tutorial.kubectl("scale deployment frontend --replicas=2");
    tutorial.0.wait("two pods of it", MINUTE, || {
        tutorial.kubectl("get pods -l app=guestbook,tier=frontend -o name").lines().count() == 2
    });
    // The followers keep what the leader loses with its pod, until it is back.
    assert_eq!(page("cmd=get&key=messages"), r#"{"data":"hello"}"#);

    // The variables of services are those of the pods that start after them.
    tutorial.kubectl("set env deployment/frontend GET_HOSTS_FROM=env");
    tutorial.kubectl("rollout status deployment/frontend --timeout=60s");
    tutorial.0.wait("pages of new pods alone", MINUTE, || {
        tutorial.kubectl("get pods -l app=guestbook,tier=frontend -o name").lines().count() == 2
    });
    assert_eq!(page("cmd=set&key=messages&value=by+variables"), r#"{"message":"Updated"}"#);
    tutorial.kubectl("delete deployment -l app=redis");
    tutorial.kubectl("delete service -l app=redis");
    tutorial.kubectl("delete deployment frontend");
    tutorial.kubectl("delete service frontend");
    tutorial.seen("get pods -o name", "");
}

#[test]
fn wordpress_and_mysql_with_claims() {
    let tutorial = Tutorial::begin("wp-claims");
    tutorial.kubectl("apply -k tests/tutorials/wordpress");
    assert!(tutorial.kubectl("get secrets -o name").contains("secret/mysql-pass-"));
    for deployment in ["wordpress-mysql", "wordpress"] {
        tutorial.kubectl(&format!("rollout status deployment/{deployment} --timeout=120s"));
    }
    let claims = "get pvc -o jsonpath={.items[*].status.phase}/{.items[*].spec.storageClassName}";
    assert_eq!(tutorial.kubectl(claims), "Bound Bound/standard standard");
    let address = tutorial.kubectl("get service wordpress -o jsonpath={.status.loadBalancer.ingress[0].ip}");
    let install = format!("curl -fsSL -m 20 http://{address}/wp-admin/install.php");
    tutorial.0.wait("the page of the installation", MINUTE, || {
        tutorial.0.run(&["bash", "-c", &install]).stdout.contains("WordPress")
    });
    // A famous five minutes: the blog is there, and stays when both pods are replaced.
    tutorial.shell(&format!(
        "curl -fsS -m 60 'http://{address}/wp-admin/install.php?step=2' -d weblog_title=Marmots -d user_name=admin \
         -d admin_password=pass-word-1 -d admin_password2=pass-word-1 -d pw_weak=1 -d admin_email=a@example.com \
         -d language= -d Submit=Install"
    ));
    // There is no theme that would show a page.
    let told = format!("curl -fsSL -m 20 'http://{address}/?rest_route=/'");
    let told = || tutorial.0.run(&["bash", "-c", &told]).stdout;
    assert!(told().contains("\"name\":\"Marmots\""), "{}", told());
    tutorial.kubectl("exec deployment/wordpress -- touch /var/lib/wordpress/wp-content/uploads/picture");
    tutorial.kubectl("delete pods -l app=wordpress");
    for deployment in ["wordpress-mysql", "wordpress"] {
        tutorial.kubectl(&format!("rollout status deployment/{deployment} --timeout=120s"));
    }
    tutorial.0.wait("the blog", MINUTE, || told().contains("\"name\":\"Marmots\""));
    tutorial.kubectl("exec deployment/wordpress -- ls /var/lib/wordpress/wp-content/uploads/picture");
    tutorial.kubectl("delete -k tests/tutorials/wordpress");
    tutorial.seen("get pods,pvc,pv -o name", "");
}

#[test]
fn stateful_set_basics() {
    let tutorial = Tutorial::begin("web-set");
    tutorial.apply("stateful-web.yaml");
    tutorial.kubectl("rollout status statefulset/web --timeout=60s");
    let each =
        |script: &str| tutorial.shell(&format!("for i in 0 1; do kubectl exec web-$i -- {script}; done"));
    assert_eq!(each("hostname"), "web-0\nweb-1");
    each("sh -c 'echo $(hostname) > /var/www/html/index.html'");
    let fetch = "curl -fsS -m 5 http://web-1.nginx/";
    tutorial.kubectl("run client --image=alpine --restart=Never -- sleep 1000");
    tutorial.0.wait_ready("client");
    tutorial.seen(&format!("exec client -- {fetch}"), "web-1");
    // The same names and the same data after they are gone; the address may be another.
    tutorial.kubectl("delete pod -l app=nginx");
    tutorial.kubectl("rollout status statefulset/web --timeout=60s");
    tutorial.0.wait("web-1 by name", MINUTE, || {
        let mut args = vec!["kubectl", "exec", "client", "--"];
        args.extend(fetch.split(' '));
        tutorial.0.run(&args).stdout.trim() == "web-1"
    });
    assert_eq!(each("cat /var/www/html/index.html"), "web-0\nweb-1");

    // Claims stay when it shrinks and are taken up again.
    tutorial.kubectl("scale statefulset web --replicas=5");
    tutorial.kubectl("rollout status statefulset/web --timeout=60s");
    let volume = tutorial.kubectl("get pvc www-web-4 -o jsonpath={.spec.volumeName}");
    tutorial.kubectl(r#"patch sts web -p {"spec":{"replicas":3}}"#);
    tutorial.seen("get pods -l app=nginx -o jsonpath={.items[*].metadata.name}", "web-0 web-1 web-2");
    assert_eq!(tutorial.kubectl("get pvc -l app=nginx -o name").lines().count(), 5);
    assert_eq!(tutorial.kubectl("get pvc www-web-4 -o jsonpath={.spec.volumeName}"), volume);

    // Staged: only from the partition on; then a canary; then all.
    let update = |replicas: u32| {
        let patch = format!(
            r#"patch statefulset web -p {{"spec":{{"updateStrategy":{{"type":"RollingUpdate","rollingUpdate":{{"partition":{replicas}}}}}}}}}"#
        );
        tutorial.kubectl(&patch);
    };
    let images = "get pods -l app=nginx -o jsonpath={.items[*].spec.containers[0].image}";
    update(3);
    tutorial.kubectl("set image statefulset/web nginx=nginx:latest");
    tutorial.kubectl("delete pod web-2");
    tutorial.kubectl("wait --for=create pod/web-2 --timeout=30s");
    assert_eq!(tutorial.kubectl(images), "nginx:1.12.2 nginx:1.12.2 nginx:1.12.2");
    update(2);
    tutorial.seen(images, "nginx:1.12.2 nginx:1.12.2 nginx:latest");
    update(0);
    tutorial.kubectl("rollout status statefulset/web --timeout=60s");
    assert_eq!(tutorial.kubectl(images), "nginx:latest nginx:latest nginx:latest");

    // Deleted alone, its pods stay; made again, it takes them back; then they go with it.
    tutorial.kubectl("delete statefulset web --cascade=orphan");
    tutorial.kubectl("delete pod web-0");
    assert_eq!(tutorial.kubectl("get pods -l app=nginx -o name"), "pod/web-1\npod/web-2");
    tutorial.apply("stateful-web.yaml");
    tutorial.kubectl("rollout status statefulset/web --timeout=60s");
    tutorial.seen("get pods -l app=nginx -o name", "pod/web-0\npod/web-1");
    assert_eq!(each("cat /var/www/html/index.html"), "web-0\nweb-1");
    tutorial.kubectl("delete statefulset web");
    tutorial.seen("get pods -l app=nginx -o name", "");
    assert_eq!(tutorial.kubectl("get pvc -l app=nginx -o name").lines().count(), 5);
}

#[test]
fn a_work_queue_in_redis() {
    let tutorial = Tutorial::begin("queue");
    tutorial.apply("queue.yaml");
    tutorial.0.wait_ready("redis-master");
    let items = ["apple", "banana", "cherry", "date", "fig", "grape", "lemon", "melon", "orange"];
    tutorial.kubectl("run temp --image=redis:7.0 --restart=Never --command -- sleep 1000");
    tutorial.0.wait_ready("temp");
    let pushed = tutorial.kubectl(&format!("exec temp -- redis-cli -h redis rpush job2 {}", items.join(" ")));
    assert_eq!(pushed, "9");
    tutorial.apply("queue-job.yaml");
    tutorial.kubectl("wait --for=condition=complete --timeout=60s job/job-wq-2");
    let described = tutorial.kubectl("describe job/job-wq-2");
    assert!(described.contains("0 Active (0 Ready) / 2 Succeeded / 0 Failed"), "{described}");
    let logs = tutorial.kubectl("logs -l job-name=job-wq-2 --tail=-1");
    for item in items {
        assert_eq!(logs.matches(&format!("Working on {item}\n")).count(), 1, "{logs}");
    }
    assert_eq!(tutorial.kubectl("exec temp -- redis-cli -h redis llen done"), "9");
}

#[test]
fn configuration_probes_and_quotas() {
    let tutorial = Tutorial::begin("config");
    tutorial.apply("probes.yaml");
    tutorial.apply("redis-config.yaml");
    tutorial.0.wait_ready("redis");
    let setting = |name: &str| tutorial.kubectl(&format!("exec redis -- redis-cli CONFIG GET {name}"));
    assert_eq!(setting("maxmemory"), "maxmemory\n0");
    let text = r#"maxmemory 2mb\\nmaxmemory-policy allkeys-lru\\n"#;
    let configured = "/root/.kube/configured.yaml";
    tutorial.shell(&format!(
        "sed 's/redis-config: \"\"/redis-config: \"{text}\"/' tests/tutorials/redis-config.yaml > {configured}"
    ));
    let applied = tutorial.kubectl(&format!("apply -f {configured}"));
    assert!(applied.starts_with("configmap/example-redis-config configured\n"), "{applied}");
    // The file follows; the program reads it when it starts.
    tutorial.seen("exec redis -- head -n1 /redis-master/redis.conf", "maxmemory 2mb");
    assert_eq!(setting("maxmemory"), "maxmemory\n0");
    tutorial.kubectl("delete pod redis");
    tutorial.kubectl(&format!("apply -f {configured}"));
    tutorial.0.wait_ready("redis");
    assert_eq!(setting("maxmemory"), "maxmemory\n2097152");
    assert_eq!(setting("maxmemory-policy"), "maxmemory-policy\nallkeys-lru");

    // Alive until the file goes; slow, but not killed for it.
    tutorial.0.wait("a restart", MINUTE, || {
        tutorial.kubectl("get pod liveness-exec -o jsonpath={.status.containerStatuses[0].restartCount}")
            != "0"
    });
    let described = tutorial.kubectl("describe pod liveness-exec");
    let said = "Liveness probe failed: cat: can't open '/tmp/healthy': No such file or directory";
    assert!(described.contains(said), "{described}");
    assert!(described.contains("Container liveness failed liveness probe, will be restarted"), "{described}");
    tutorial.0.wait_ready("slow");
    let restarts = "get pod slow -o jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(tutorial.kubectl(restarts), "0");

    // What is asked for is counted, and what is too much is refused and says so.
    tutorial.apply("quota.yaml");
    tutorial.kubectl("apply -n quota-mem-cpu-example -f tests/tutorials/quota-pods.yaml");
    tutorial.seen(
        "get resourcequota mem-cpu-demo -n quota-mem-cpu-example -o jsonpath={.status.used}",
        r#"{"limits.cpu":"800m","limits.memory":"800Mi","requests.cpu":"400m","requests.memory":"600Mi"}"#,
    );
    let second =
        tutorial.shell("sed 's/name: quota-mem-cpu-demo}/name: second}/' tests/tutorials/quota-pods.yaml");
    let refused = tutorial.0.run(&[
        "bash",
        "-c",
        &format!("kubectl apply -n quota-mem-cpu-example -f - <<'END'\n{second}\nEND"),
    ]);
    let why = "pods \"second\" is forbidden: exceeded quota: mem-cpu-demo, requested: requests.memory=600Mi, \
               used: requests.memory=600Mi, limited: requests.memory=1Gi";
    assert!(refused.stderr.contains(why), "{refused:?}");
    tutorial.kubectl("run default-mem --image=busybox -- sleep 1000");
    let resources = tutorial.kubectl("get pod default-mem -o jsonpath={.spec.containers[0].resources}");
    assert_eq!(resources, r#"{"limits":{"memory":"512Mi"},"requests":{"memory":"256Mi"}}"#);
    let big = r#"run big --image=busybox --overrides={"spec":{"containers":[{"name":"big","image":"busybox","resources":{"limits":{"memory":"2Gi"}}}]}}"#;
    tutorial.refused(big, "maximum memory usage per Container is 1Gi, but limit is 2Gi");
}
