//! Stock kubectl with workloads: manifests of removed versions, and the commands that courses teach.

use super::kubectl::Kubectl;

const OLD_DEPLOYMENT: &str = "apiVersion: extensions/v1beta1
kind: Deployment
metadata:
  name: www
spec:
  template:
    metadata:
      labels: {app: www}
    spec:
      containers:
      - {name: c, image: nginx}
";

const OLD_INGRESS: &str = "apiVersion: networking.k8s.io/v1beta1
kind: Ingress
metadata:
  name: www
spec:
  rules:
  - host: www.example
    http:
      paths:
      - path: /
        pathType: ImplementationSpecific
        backend: {serviceName: www, servicePort: 80}
";

#[tokio::test]
async fn manifests_of_removed_versions_are_applied() {
    let k = Kubectl::start().await;
    for (manifest, old, new, name) in [
        (OLD_DEPLOYMENT, "extensions/v1beta1 Deployment", "apps/v1", "deployment"),
        (OLD_INGRESS, "networking.k8s.io/v1beta1 Ingress", "networking.k8s.io/v1", "ingress"),
    ] {
        let made = k.ok("apply -f -", manifest).await;
        assert!(made.contains(&format!("Warning: {old} is deprecated in ")), "{made}");
        assert!(made.contains("/www created"), "{made}");
        let again = k.ok("apply -f -", manifest).await;
        assert!(again.contains("/www unchanged"), "{again}");
        let version = k.ok(&format!("get {name} www -o jsonpath={{.apiVersion}}"), "").await;
        assert_eq!(version, new);
    }
    let changed = k.ok("apply -f -", &OLD_DEPLOYMENT.replace("nginx", "httpd")).await;
    assert!(changed.contains("/www configured"), "{changed}");
    let image = "get deploy www -o jsonpath={.spec.template.spec.containers[*].image}";
    assert_eq!(k.ok(image, "").await, "httpd");
    let gone = k.ok("delete --wait=false -f -", OLD_INGRESS).await;
    assert!(gone.contains("\"www\" deleted"), "{gone}");
}

#[tokio::test]
async fn who_walks_through_all_kinds_meets_each_once() {
    let k = Kubectl::start().await;
    let names = k.ok("api-resources -o name", "").await;
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    for name in ["bindings", "deployments.apps", "ingresses.networking.k8s.io", "cronjobs.batch"] {
        assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{name}: {names:?}");
    }
    assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with(".extensions")), "{names:?}");
    let versions = k.ok("api-resources --api-group=apps --no-headers", "").await;
    assert!(!versions.contains("apps/v1beta"), "{versions}");
    k.ok("apply -f -", OLD_DEPLOYMENT).await;
    let all = k.ok("get all -o name", "").await;
    assert_eq!(all.matches("/www").count(), 1, "{all}");
}

#[tokio::test]
async fn commands_make_change_and_show_workloads() {
    let k = Kubectl::start().await;
    for (words, said) in [
        ("create deployment www --image=nginx --replicas=2", "deployment.apps/www created"),
        ("scale deployment www --replicas=3", "deployment.apps/www scaled"),
        ("scale deploy/www --current-replicas=3 --replicas=1", "deployment.apps/www scaled"),
        ("set image deployment/www nginx=httpd", "deployment.apps/www image updated"),
        (
            "set resources deployment www --limits=cpu=200m",
            "deployment.apps/www resource requirements updated",
        ),
        ("autoscale deployment www --max=3 --cpu=50%", "horizontalpodautoscaler.autoscaling/www autoscaled"),
        ("create job one --image=busybox -- true", "job.batch/one created"),
        ("create cronjob tick --image=busybox --schedule=@hourly -- true", "cronjob.batch/tick created"),
        ("create job two --from=cronjob/tick", "job.batch/two created"),
        ("create pdb www --selector=app=www --min-available=1", "poddisruptionbudget.policy/www created"),
        ("create quota few --hard=services=2", "resourcequota/few created"),
        ("rollout restart deployment www", "deployment.apps/www restarted"),
        ("rollout pause deployment www", "deployment.apps/www paused"),
        ("get deployments -o wide", "nginx        httpd    app=www"),
        (
            "get all",
            "horizontalpodautoscaler.autoscaling/www   Deployment/www   cpu: <unknown>/50%   1         3",
        ),
        ("get cj", "tick   @hourly    <none>     False     0        <none>"),
        ("get jobs", "one    Running   0/1"),
        ("get pdb", "www    1               N/A"),
        ("get cs", "scheduler"),
        ("get deploy www --subresource=scale", "www    1         0"),
        ("describe deployment www", "StrategyType:           RollingUpdate"),
        ("describe hpa www", "Reference:"),
        ("describe cronjob tick", "Concurrency Policy:            Allow"),
        ("explain deployment.spec.strategy", "GROUP:      apps"),
        ("explain hpa.spec.metrics", "VERSION:    v2"),
        ("delete job one", "\"one\" deleted"),
    ] {
        let told = k.ok(words, "").await;
        assert!(told.contains(said), "{words}: {told}");
    }
}
