//! Persistent volumes as people use them: claims of the cluster's own class, volumes made by hand, data that stays and
//! data that goes, on a whole cluster with stock kubectl.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::time::Duration;

use testbed::{MINIK, Testbed};

const MINUTE: Duration = Duration::from_secs(60);

/// A claim of this class and size.
fn claim(name: &str, class: Option<&str>, size: &str) -> String {
    let class = class.map(|class| format!("\"storageClassName\": \"{class}\",")).unwrap_or_default();
    format!(
        r#"{{"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {{"name": "{name}"}}, "spec": {{{class}
            "accessModes": ["ReadWriteOnce"], "resources": {{"requests": {{"storage": "{size}"}}}}}}}}"#
    )
}

/// A pod that runs a script to its end, as an ordinary user, with a claim at `/data`.
fn pod(name: &str, claim: &str, mount: &str, script: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  securityContext: {{runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}}
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "{script}"]
    volumeMounts: [{{name: data, mountPath: /data{mount}}}]
"#
    )
}

/// What a pod says once it has ended.
fn says(bed: &Testbed, name: &str, manifest: &str) -> String {
    bed.apply(manifest);
    bed.wait(&format!("the end of {name}"), MINUTE, || {
        let phase = bed.kubectl(&format!("get pod {name} -o jsonpath={{.status.phase}}"));
        ["Succeeded", "Failed"].contains(&phase.as_str())
    });
    bed.kubectl_all(&format!("logs {name}")).trim().to_owned()
}

fn wait_for(bed: &Testbed, what: &str, field: &str) {
    bed.kubectl(&format!("wait {what} --for=jsonpath={field} --timeout=60s"));
}

#[test]
fn data_stays_with_its_claim_and_goes_with_it() {
    let bed = Testbed::up("storage");
    bed.start();
    let classes = bed.kubectl("get storageclass");
    assert!(classes.contains("standard (default)") && classes.contains("minik.io/hostpath"), "{classes}");

    bed.apply(&claim("data", None, "1Gi"));
    wait_for(&bed, "pvc/data", "{.status.phase}=Bound");
    let volume = bed.kubectl("get pvc data -o jsonpath={.spec.volumeName}");
    let uid = bed.kubectl("get pvc data -o jsonpath={.metadata.uid}");
    assert_eq!(volume, format!("pvc-{uid}"));
    let shown = bed.kubectl("get pv --no-headers");
    for word in ["1Gi", "RWO", "Delete", "Bound", "default/data", "standard"] {
        assert!(shown.contains(word), "no {word} in {shown}");
    }
    let directory = format!("/var/lib/minik/{}/volumes/{volume}", bed.name);

    let written = pod("writer", "data", "", "echo kept > /data/file && chmod 600 /data/file && id -u");
    assert_eq!(says(&bed, "writer", &written), "1000");
    assert_eq!(bed.ok(&["cat", &format!("{directory}/file")]).trim(), "kept");
    bed.kubectl("delete pod writer");
    bed.ok(&[MINIK, "stop"]);
    bed.start();
    let read = pod("reader", "data", "", "cat /data/file; mkdir -p /data/deep && echo below > /data/deep/er");
    assert_eq!(says(&bed, "reader", &read), "kept");
    let below = pod(
        "below",
        "data",
        ", subPath: deep, readOnly: true",
        "cat /data/er; touch /data/x || echo read-only",
    );
    let said = says(&bed, "below", &below);
    assert!(said.starts_with("below") && said.ends_with("read-only"), "{said}");

    // Users of one group share what nobody else may see.
    let one = pod("one", "data", "", "umask 007; echo mine > /data/shared; stat -c %a:%g /data/shared");
    assert_eq!(says(&bed, "one", &one), "660:2000");
    let other =
        pod("other", "data", "", "cat /data/shared; echo ours >> /data/shared && tail -1 /data/shared");
    let other = other.replace("runAsUser: 1000, runAsGroup: 1000", "runAsUser: 1001, runAsGroup: 1001");
    assert_eq!(says(&bed, "other", &other), "mine\nours");

    bed.kubectl(r#"patch pvc data -p {"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#);
    wait_for(&bed, "pvc/data", "{.status.capacity.storage}=2Gi");
    wait_for(&bed, &format!("pv/{volume}"), "{.spec.capacity.storage}=2Gi");

    // A claim stays as long as a pod that has not ended uses it.
    bed.apply(&pod("user", "data", "", "exec sleep 3600"));
    bed.wait_ready("user");
    bed.kubectl("delete pvc data --wait=false");
    let phase = bed.kubectl("get pvc data --no-headers");
    assert!(phase.contains("Terminating"), "{phase}");
    bed.kubectl("delete pod user --grace-period=1");
    bed.wait("the end of the claim and its volume", MINUTE, || {
        bed.kubectl("get pvc,pv -o name").trim().is_empty()
    });
    assert!(!bed.run(&["test", "-e", &directory]).status.success(), "the data is gone");
    bed.kubectl("delete pod reader below one other");

    by_hand(&bed);
    late(&bed);
    kept(&bed);
    recycled(&bed);
    raw(&bed);
    ephemeral(&bed);
    bed.ok(&[MINIK, "delete"]);
    assert!(!bed.run(&["test", "-e", &directory]).status.success());
}

/// A volume that the user made, and what is said where none fits.
fn by_hand(bed: &Testbed) {
    bed.apply(&claim("hand", Some(""), "1Gi"));
    bed.wait("the reason", MINUTE, || {
        let said = bed.kubectl_all("describe pvc hand");
        said.contains("no persistent volumes available for this claim and no storage class is set")
    });
    let volume = |name: &str, size: &str| {
        format!(
            "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{capacity: {{storage: {size}}}, \
             accessModes: [ReadWriteOnce], hostPath: {{path: /var/lib/minik/by-hand}}}}}}"
        )
    };
    bed.apply(&volume("large", "9Gi"));
    wait_for(bed, "pvc/hand", "{.status.phase}=Bound");
    assert_eq!(bed.kubectl("get pvc hand -o jsonpath={.status.capacity.storage}"), "9Gi");
    bed.kubectl("delete pvc hand");
    wait_for(bed, "pv/large", "{.status.phase}=Released");
    bed.kubectl("delete pv large");
}

/// A class that makes volumes for pods that have a node.
fn late(bed: &Testbed) {
    bed.apply(
        "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: late}, provisioner: minik.io/hostpath, \
         volumeBindingMode: WaitForFirstConsumer}",
    );
    bed.apply(&claim("late", Some("late"), "1Mi"));
    bed.wait("the reason", MINUTE, || {
        bed.kubectl_all("describe pvc late")
            .contains("waiting for first consumer to be created before binding")
    });
    assert_eq!(bed.kubectl("get pvc late -o jsonpath={.status.phase}"), "Pending");
    let written = pod("consumer", "late", "", "echo late > /data/file && cat /data/file");
    assert_eq!(says(bed, "consumer", &written), "late");
    let node = bed.kubectl("get pod consumer -o jsonpath={.spec.nodeName}");
    let selected =
        bed.kubectl(r"get pvc late -o jsonpath={.metadata.annotations.volume\.kubernetes\.io/selected-node}");
    assert_eq!(selected, node);
    bed.kubectl("delete pod consumer");
    bed.kubectl("delete pvc late");
    // A pod whose claim is not there says so.
    bed.apply(&pod("early", "nothing", "", "true"));
    bed.wait("the scheduler's words", MINUTE, || {
        bed.kubectl_all("describe pod early").contains("persistentvolumeclaim \"nothing\" not found")
    });
    bed.apply(&claim("nothing", None, "1Mi"));
    bed.wait("the end of early", MINUTE, || {
        bed.kubectl("get pod early -o jsonpath={.status.phase}") == "Succeeded"
    });
    bed.kubectl("delete pod early");
    bed.kubectl("delete pvc nothing");
}

/// A class whose volumes outlive their claims.
fn kept(bed: &Testbed) {
    bed.apply(
        "{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: kept}, \
         provisioner: k8s.io/minikube-hostpath, reclaimPolicy: Retain}",
    );
    bed.apply(&claim("precious", Some("kept"), "1Mi"));
    let written = pod("scribe", "precious", "", "echo precious > /data/file");
    assert_eq!(says(bed, "scribe", &written), "");
    let volume = bed.kubectl("get pvc precious -o jsonpath={.spec.volumeName}");
    let path = bed.kubectl(&format!("get pv {volume} -o jsonpath={{.spec.hostPath.path}}"));
    bed.kubectl("delete pod scribe");
    bed.kubectl("delete pvc precious");
    wait_for(bed, &format!("pv/{volume}"), "{.status.phase}=Released");
    bed.kubectl(&format!("delete pv {volume}"));
    assert_eq!(bed.ok(&["cat", &format!("{path}/file")]).trim(), "precious");
}

/// Volumes that are emptied for the next claim, where that can be done.
fn recycled(bed: &Testbed) {
    let volume = |name: &str, source: &str| {
        format!(
            "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{capacity: {{storage: 1Gi}}, \
             accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Recycle, storageClassName: {name}, {source}}}}}"
        )
    };
    let path = "/var/lib/minik/recycled";
    bed.ok(&[
        "bash",
        "-c",
        &format!("install -d -m 777 {path} {path}-outside && touch {path}-outside/stays"),
    ]);
    bed.apply(&volume("again", &format!("hostPath: {{path: {path}}}")));
    bed.apply(&claim("first", Some("again"), "1Mi"));
    let script =
        format!("mkdir -p /data/a/b && touch /data/a/b/c /data/.d && ln -s {path}-outside /data/out");
    assert_eq!(says(bed, "user", &pod("user", "first", "", &script)), "");
    bed.kubectl("delete pod user");
    bed.kubectl("delete pvc first");
    wait_for(bed, "pv/again", "{.status.phase}=Available");
    assert_eq!(bed.ok(&["find", path, "-mindepth", "1"]), "");
    bed.ok(&["test", "-e", &format!("{path}-outside/stays")]);
    let told = || {
        bed.kubectl("get events --field-selector involvedObject.name=again -o jsonpath={.items[*].reason}")
    };
    bed.wait("the event", MINUTE, || told() == "VolumeRecycled");
    bed.apply(&claim("second", Some("again"), "1Mi"));
    wait_for(bed, "pvc/second", "{.status.phase}=Bound");
    bed.kubectl("delete pvc second");
    wait_for(bed, "pv/again", "{.status.phase}=Available");

    let affinity = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: Exists}]}]}}";
    for (name, source, why) in [
        (
            "local",
            &format!("local: {{path: {path}}}, {affinity}")[..],
            "No recycler plugin found for the volume!",
        ),
        (
            "cluster",
            "hostPath: {path: /var/lib/minik}",
            "Recycle failed: failed to recycle volume: /var/lib/minik holds the cluster itself",
        ),
    ] {
        bed.apply(&volume(name, source));
        bed.apply(&claim(name, Some(name), "1Mi"));
        wait_for(bed, &format!("pvc/{name}"), "{.status.phase}=Bound");
        bed.kubectl(&format!("delete pvc {name}"));
        wait_for(bed, &format!("pv/{name}"), "{.status.phase}=Failed");
        assert_eq!(bed.kubectl(&format!("get pv {name} -o jsonpath={{.status.message}}")), why);
    }
    bed.kubectl("delete pv again local cluster");
    bed.ok(&["rm", "-r", path, &format!("{path}-outside")]);
}

/// A block device of the host, made of a file, until it goes.
struct Disk<'b>(&'b Testbed, String);

impl<'b> Disk<'b> {
    fn of(bed: &'b Testbed, file: &str) -> Disk<'b> {
        let made = bed.ok(&["bash", "-c", &format!("truncate -s 4M {file} && losetup -f --show {file}")]);
        Disk(bed, made.trim().to_owned())
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        drop(self.0.run(&["losetup", "-d", &self.1]));
    }
}

/// Volumes that are devices and not directories.
fn raw(bed: &Testbed) {
    let file = "/var/lib/minik/disk";
    let disk = Disk::of(bed, file);
    let volume = |name: &str, source: &str, mode: &str| {
        bed.apply(&format!(
            "{{apiVersion: v1, kind: PersistentVolume, metadata: {{name: {name}}}, spec: {{capacity: {{storage: 4Mi}}, \
             accessModes: [ReadWriteOnce], storageClassName: raw, volumeMode: {mode}, {source}}}}}"
        ));
    };
    let raw_claim = |name: &str| {
        let mut claim: serde_json::Value = serde_json::from_str(&claim(name, Some("raw"), "1Mi")).unwrap();
        claim["spec"]["volumeMode"] = "Block".into();
        bed.apply(&claim.to_string());
        wait_for(bed, &format!("pvc/{name}"), "{.status.phase}=Bound");
    };
    let user = |name: &str, claim: &str, more: &str, how: &str, script: &str| {
        format!(
            r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}{more}}}}}]
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "{script}"]
    {how}
"#
        )
    };
    let plain = "volumeDevices: [{name: data, devicePath: /dev/xvda}]";
    let privileged =
        "volumeDevices: [{name: data, devicePath: /mnt/disk}]\n    securityContext: {privileged: true}";
    let affinity = "nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: Exists}]}]}}";
    // A volume of the other mode suits nobody here.
    volume("files", "hostPath: {path: /var/lib/minik/files}", "Filesystem");
    volume("disk", &format!("local: {{path: {}}}, {affinity}", disk.1), "Block");
    raw_claim("raw");
    assert_eq!(bed.kubectl("get pvc raw -o jsonpath={.spec.volumeName}"), "disk");
    let write = "test -b /dev/xvda && echo -n first > /dev/xvda && head -c 5 /dev/xvda";
    assert_eq!(says(bed, "writes", &user("writes", "raw", "", plain, write)), "first");
    assert_eq!(bed.ok(&["head", "-c", "5", file]), "first");
    let read = "head -c 5 /dev/xvda; echo; (echo -n again > /dev/xvda) 2>/dev/null || echo kept";
    assert_eq!(says(bed, "reads", &user("reads", "raw", ", readOnly: true", plain, read)), "first\nkept");
    let all = "echo -n third > /mnt/disk && head -c 5 /mnt/disk";
    assert_eq!(says(bed, "all", &user("all", "raw", "", privileged, all)), "third");
    assert_eq!(bed.ok(&["head", "-c", "5", file]), "third");
    // Who takes it for a directory is told.
    bed.apply(&user("mounts", "raw", "", "volumeMounts: [{name: data, mountPath: /data}]", "true"));
    bed.wait("what the kubelet says", MINUTE, || {
        bed.kubectl("describe pod mounts")
            .contains("volume data has volumeMode Block, but is specified in volumeMounts")
    });
    bed.kubectl("delete pod writes reads all mounts --grace-period=1");
    bed.kubectl("delete pvc raw");
    bed.kubectl("delete pv disk");
    volume("host", &format!("hostPath: {{path: {}, type: BlockDevice}}", disk.1), "Block");
    raw_claim("of-host");
    let read = "head -c 5 /dev/xvda";
    assert_eq!(says(bed, "of-host", &user("of-host", "of-host", "", plain, read)), "third");
    bed.kubectl("delete pod of-host");
    bed.kubectl("delete pvc of-host");
    bed.kubectl("delete pv host files");
    drop(disk);
    bed.ok(&["rm", file]);
}

/// A volume that comes and goes with its pod.
fn ephemeral(bed: &Testbed) {
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: brief}
spec:
  containers: [{name: main, image: busybox, command: [sh, -c, "touch /scratch/x && exec sleep 3600"], volumeMounts: [{name: scratch, mountPath: /scratch}]}]
  volumes:
  - name: scratch
    ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}
"#;
    bed.apply(manifest);
    bed.wait_ready("brief");
    assert_eq!(bed.kubectl("get pvc brief-scratch -o jsonpath={.status.phase}"), "Bound");
    bed.kubectl("delete pod brief --grace-period=1");
    bed.wait("the end of the claim", MINUTE, || bed.kubectl("get pvc -o name").trim().is_empty());
}
