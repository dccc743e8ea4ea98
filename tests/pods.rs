//! What a pod's manifest promises its containers, seen from inside them, on a whole cluster.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod testbed;

use std::time::Duration;

use testbed::Testbed;

const MINUTE: Duration = Duration::from_secs(60);

/// A pod whose containers say something, and what they must say.
struct Case {
    name: &'static str,
    /// Its `spec`, and what else of the manifest matters.
    manifest: &'static str,
    /// The log of the container `main`, line by line.
    says: &'static [&'static str],
}

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, size: "7"}
binaryData: {raw: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {user: dev, password: hunter2}
---
apiVersion: v1
kind: Service
metadata: {name: team}
spec: {clusterIP: None, selector: {app: team}, ports: [{name: web, port: 80}]}
"#;

const CASES: &[Case] = &[
    Case {
        name: "volumes",
        manifest: r#"
metadata: {labels: {app: volumes}, annotations: {note: "two words"}}
spec:
  restartPolicy: Never
  initContainers:
  - {name: first, image: busybox, command: [sh, -c, "echo first > /work/order"], volumeMounts: [{name: work, mountPath: /work}]}
  - {name: second, image: busybox, command: [sh, -c, "echo second >> /work/order"], volumeMounts: [{name: work, mountPath: /work}]}
  containers:
  - name: main
    image: busybox
    resources: {limits: {memory: 64Mi}}
    command:
    - sh
    - -c
    - |
      cat /work/order
      dd if=/dev/zero of=/ram/full bs=64k count=64 2>/dev/null || echo full after $(( $(stat -c %s /ram/full) / 1024 ))K
      cat /config/colour; echo; cat /config/deep/size; echo; ls /config
      stat -Lc %a /config/colour; stat -Lc %a /secret/password; cat /secret/password; echo
      cat /pod/labels; echo; cat /pod/note; echo; cat /pod/memory; echo
      touch /config/x 2>/dev/null || echo config is read-only
      touch /frozen/x 2>/dev/null || echo frozen is read-only
      cat /one; echo
      df -P /secret | awk 'NR == 2 {print $1}'
      cmp /trust/server.pem /trust/ca.crt && echo one authority
    volumeMounts:
    - {name: trust, mountPath: /trust}
    - {name: work, mountPath: /work}
    - {name: work, mountPath: /frozen, readOnly: true}
    - {name: ram, mountPath: /ram}
    - {name: config, mountPath: /config}
    - {name: config, mountPath: /one, subPath: colour}
    - {name: secret, mountPath: /secret}
    - {name: pod, mountPath: /pod}
  volumes:
  - {name: work, emptyDir: {}}
  - {name: ram, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - name: trust
    projected:
      sources:
      - {clusterTrustBundle: {signerName: kubernetes.io/kube-apiserver-serving, labelSelector: {}, path: server.pem}}
      - {configMap: {name: kube-root-ca.crt}}
  - {name: config, configMap: {name: settings, items: [{key: colour, path: colour}, {key: size, path: deep/size, mode: 0o440}]}}
  - {name: secret, secret: {secretName: password, defaultMode: 0o400}}
  - name: pod
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: note, fieldRef: {fieldPath: "metadata.annotations['note']"}}
      - {path: memory, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}
"#,
        says: &[
            "first",
            "second",
            "full after 1024K",
            "blue",
            "7",
            "colour",
            "deep",
            "644",
            "400",
            "hunter2",
            "app=\"volumes\"",
            "two words",
            "64",
            "config is read-only",
            "frozen is read-only",
            "blue",
            "tmpfs",
            "one authority",
        ],
    },
    Case {
        name: "environment",
        manifest: r#"
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    resources: {requests: {cpu: 250m}, limits: {memory: 32Mi}}
    command: [sh, -c, 'echo $NAME; echo $NODE; test $ADDRESS = $(hostname -i) && echo address; echo $CPU; echo $COLOUR; echo $S_user; echo "$MISSING."; echo $JOINED; echo $ESCAPED; echo $(ARG)', "$(NAME)"]
    envFrom:
    - {prefix: S_, secretRef: {name: password}}
    - {configMapRef: {name: nothing, optional: true}}
    env:
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: ADDRESS, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: MISSING, valueFrom: {secretKeyRef: {name: password, key: nothing, optional: true}}}
    - {name: JOINED, value: "$(COLOUR)-$(NOBODY)"}
    - {name: ESCAPED, value: "$$(COLOUR)"}
    - {name: ARG, value: printf}
"#,
        says: &[
            "environment",
            "*",
            "address",
            "250",
            "blue",
            "dev",
            ".",
            "blue-$(NOBODY)",
            "$(COLOUR)",
            "printf",
        ],
    },
    Case {
        name: "rights",
        manifest: r#"
spec:
  restartPolicy: Never
  securityContext: {runAsUser: 1000, runAsGroup: 2000, fsGroup: 3000, supplementalGroups: [4000], seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: main
    image: busybox
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
    command:
    - sh
    - -c
    - |
      id -u; id -g; id -G
      stat -c %g /work; touch /work/mine && stat -c %g /work/mine
      touch /x 2>/dev/null || echo the root is read-only
      grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr '\t' ' '
      ulimit -n
    volumeMounts: [{name: work, mountPath: /work}]
  volumes: [{name: work, emptyDir: {}}]
"#,
        says: &[
            "1000",
            "2000",
            "2000 3000 4000",
            "3000",
            "3000",
            "the root is read-only",
            "CapBnd: 0000000000000400",
            "NoNewPrivs: 1",
            "Seccomp: 2",
            "*",
        ],
    },
    Case {
        name: "names",
        manifest: r#"
metadata: {labels: {app: team}}
spec:
  restartPolicy: Never
  hostname: captain
  subdomain: team
  hostAliases: [{ip: 192.0.2.7, hostnames: [lucky, seven]}]
  dnsConfig: {searches: [extra.test], options: [{name: timeout, value: "3"}]}
  containers:
  - name: main
    image: busybox
    command:
    - sh
    - -c
    - |
      hostname; hostname -f
      awk '/lucky/ {print $1, $2, $3}' /etc/hosts
      grep -E '^(search|options)' /etc/resolv.conf
      cat /proc/sys/kernel/hostname
"#,
        says: &[
            "captain",
            "captain.team.default.svc.cluster.local",
            "192.0.2.7 lucky seven",
            "search default.svc.cluster.local svc.cluster.local cluster.local example.test extra.test",
            "options ndots:5 timeout:3",
            "captain",
        ],
    },
    Case {
        name: "apart",
        manifest: r#"
spec:
  restartPolicy: Never
  shareProcessNamespace: false
  containers:
  - {name: main, image: busybox, command: [sh, -c, "echo $$$$; set -- /proc/[0-9]*; echo $#"]}
  - {name: other, image: busybox, command: [sh, -c, "echo $$$$"]}
"#,
        says: &["1", "1"],
    },
    Case {
        name: "hosts-own",
        manifest: r#"
spec:
  restartPolicy: Never
  hostNetwork: true
  hostPID: true
  hostIPC: true
  dnsPolicy: ClusterFirstWithHostNet
  containers:
  - name: main
    image: busybox
    env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]
    command:
    - sh
    - -c
    - |
      ip -o -4 addr show dev eth0 | grep -q " $NODE/" && echo the node has my address
      ls -d /proc/[0-9]* | wc -l | awk '{print ($1 > 8) ? "all processes" : $1}'
      nslookup -type=a kubernetes.default.svc.cluster.local >/dev/null && echo names
"#,
        says: &["the node has my address", "all processes", "names"],
    },
    Case {
        name: "image-volumes",
        manifest: r#"
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command:
    - sh
    - -c
    - |
      ls -d /site/usr /site/etc; ls /names/passwd
      echo w 2>/dev/null > /site/new || echo read-only
    volumeMounts:
    - {name: site, mountPath: /site}
    - {name: site, mountPath: /names, subPath: etc}
  volumes:
  - {name: site, image: {reference: nginx, pullPolicy: IfNotPresent}}
"#,
        says: &["/site/etc", "/site/usr", "/names/passwd", "read-only"],
    },
    Case {
        name: "own-users",
        manifest: r#"
spec:
  restartPolicy: Never
  hostUsers: false
  securityContext: {fsGroup: 2000}
  containers:
  - name: main
    image: busybox
    command:
    - sh
    - -c
    - |
      awk '{print $1, ($2 > 1000000), $3}' /proc/self/uid_map
      id -u; stat -c '%u %g' / /bin/busybox /work /dev; touch /work/file /root/file && stat -c '%u %g' /work/file
      cat /secret/user; echo; dd if=/dev/zero of=/dev/null count=1 2>/dev/null && echo null
      chown 1000 /work/file && stat -c %u /work/file
      mount -t tmpfs x /mnt 2>/dev/null || echo no mounts
      pwd; touch file && stat -c '%u %g' . /var/run/. /var/run/secrets
      ls /var/run/secrets/kubernetes.io/serviceaccount/token
    workingDir: /new/place
    volumeMounts:
    - {name: work, mountPath: /work}
    - {name: run, mountPath: /var/run}
    - {name: secret, mountPath: /secret}
  volumes:
  - {name: work, emptyDir: {}}
  - {name: run, emptyDir: {}}
  - {name: secret, secret: {secretName: password}}
"#,
        says: &[
            "0 1 65536",
            "0",
            "0 0",
            "0 0",
            "0 2000",
            "0 0",
            "0 2000",
            "dev",
            "null",
            "1000",
            "no mounts",
            "/new/place",
            "0 0",
            "0 2000",
            "0 2000",
            "/var/run/secrets/kubernetes.io/serviceaccount/token",
        ],
    },
    Case {
        name: "outside",
        manifest: r#"
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "wget -qO- http://example.test/ | sed 's/[0-9.]*$/NODE/'; wget -qO- http://198.51.100.1/ | grep -c outside"]
"#,
        says: &["outside world, you are NODE", "1"],
    },
    Case {
        name: "mounts",
        manifest: r#"
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    securityContext: {privileged: true}
    command:
    - sh
    - -c
    - |
      ls -d /made; cat /hosts | grep -c localhost
      mkdir -p /made/shown && mount -t tmpfs shown /made/shown && echo in > /made/shown/file && echo mounted
      grep CapEff /proc/self/status | awk '{print length($2)}'
      test -e /dev/null && test -c /dev/kmsg -o -c /dev/mem -o -c /dev/fuse -o -c /dev/loop-control && echo devices
    volumeMounts:
    - {name: made, mountPath: /made, mountPropagation: Bidirectional}
    - {name: hosts, mountPath: /hosts, readOnly: true}
  volumes:
  - {name: made, hostPath: {path: /var/lib/minik/made-by-pod, type: DirectoryOrCreate}}
  - {name: hosts, hostPath: {path: /etc/hosts, type: File}}
"#,
        says: &["/made", "1", "mounted", "16", "devices"],
    },
];

/// Whether a line is what was expected; `*` is any.
fn fits(line: &str, expected: &str) -> bool {
    expected == "*" || line == expected
}

/// A script that deletes a pod and says what is in its log, from the first line to the last.
fn followed_to_its_end(pod: &str) -> String {
    format!(
        "exec 3< <(exec timeout 60 kubectl logs -f {pod}); read -r first <&3; \
         kubectl delete pod {pod} >/dev/null; echo \"$first\"; cat <&3"
    )
}

#[test]
fn manifests_keep_their_promises() {
    let bed = Testbed::up("promises");
    bed.start();
    bed.apply(OBJECTS);
    for case in CASES {
        let mut pod: serde_json::Value = serde_yaml::from_str(case.manifest).unwrap();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = case.name.into();
        bed.apply(&pod.to_string());
    }
    for case in CASES {
        bed.wait(&format!("the end of {}", case.name), MINUTE, || {
            let phase = bed.kubectl(&format!("get pod {} -o jsonpath={{.status.phase}}", case.name));
            ["Succeeded", "Failed"].contains(&phase.as_str())
        });
        let said = bed.kubectl_all(&format!("logs {} -c main", case.name));
        let lines: Vec<&str> = said.lines().collect();
        let matches = lines.len() == case.says.len()
            && lines.iter().zip(case.says).all(|(line, expected)| fits(line, expected));
        assert!(matches, "{} says {lines:#?}\nnot {:#?}", case.name, case.says);
    }
    let seen = bed.ok(&["cat", "/var/lib/minik/made-by-pod/shown/file"]);
    assert_eq!(seen.trim(), "in", "a bidirectional mount is seen on the host");
    bed.ok(&["umount", "/var/lib/minik/made-by-pod/shown"]);
    let typed = bed.ok(&[
        "bash",
        "-c",
        "echo hello | kubectl run typed --rm -iq --restart=Never --image=busybox -- cat",
    ]);
    assert_eq!(typed.trim(), "hello");
}

const LIVES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: stuck-init}
spec:
  restartPolicy: Never
  initContainers: [{name: bad, image: busybox, command: [sh, -c, "echo no; exit 3"]}]
  containers: [{name: main, image: busybox, command: [echo, never]}]
---
apiVersion: v1
kind: Pod
metadata: {name: on-failure}
spec:
  restartPolicy: OnFailure
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "if [ -e /work/second ]; then echo better; exit 0; fi; touch /work/second; exit 5"]
    volumeMounts: [{name: work, mountPath: /work}]
  volumes: [{name: work, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: last-words}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: busybox, command: [sh, -c, "echo goodbye > /dev/termination-log; exit 4"]}
  - {name: fallback, image: busybox, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, "echo it broke; exit 1"]}
---
apiVersion: v1
kind: Pod
metadata: {name: deadline}
spec:
  activeDeadlineSeconds: 1
  containers: [{name: main, image: busybox, command: [sleep, "1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: missing-map}
spec:
  containers:
  - {name: main, image: busybox, command: [sleep, "1000"], env: [{name: X, valueFrom: {configMapKeyRef: {name: later, key: x}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: missing-file}
spec:
  containers: [{name: main, image: busybox, command: [sleep, "1000"], volumeMounts: [{name: f, mountPath: /f}]}]
  volumes: [{name: f, hostPath: {path: /no/such/file, type: File}}]
---
apiVersion: v1
kind: Pod
metadata: {name: polite}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 60
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.1; done"]
---
apiVersion: v1
kind: Pod
metadata: {name: deaf}
spec:
  containers: [{name: main, image: busybox, command: [sh, -c, "trap '' TERM; while :; do sleep 0.1; done"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: nope}
spec:
  restartPolicy: Never
  containers: [{name: main, image: busybox, command: [/nope]}]
---
apiVersion: v1
kind: Pod
metadata: {name: beside}
spec:
  restartPolicy: Never
  initContainers:
  - {name: helper, image: busybox, restartPolicy: Always, command: [sh, -c, "trap 'echo bye; exit 0' TERM; echo up > /work/up; while :; do sleep 0.1; done"], volumeMounts: [{name: work, mountPath: /work}]}
  containers:
  - {name: main, image: busybox, command: [sh, -c, "until [ -e /work/up ]; do sleep 0.1; done; echo served"], volumeMounts: [{name: work, mountPath: /work}]}
  volumes: [{name: work, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  containers: [{name: main, image: busybox, command: [sh, -c, "dd if=/dev/zero of=/work/big bs=1M count=4; sleep 1000"], volumeMounts: [{name: work, mountPath: /work}]}]
  volumes: [{name: work, emptyDir: {sizeLimit: 1Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: reloads, labels: {stage: one}}
spec:
  containers: [{name: main, image: busybox, command: [sleep, "1000"], volumeMounts: [{name: shown, mountPath: /shown}]}]
  volumes:
  - name: shown
    projected:
      sources:
      - {configMap: {name: changing}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
---
apiVersion: v1
kind: Pod
metadata: {name: leaves}
spec:
  terminationGracePeriodSeconds: 5
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "cat /work/left; sleep 1000"]
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo it was left in order > /work/left"]}}}
    volumeMounts: [{name: work, mountPath: /work}]
  volumes: [{name: work, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: not-root}
spec:
  containers: [{name: main, image: busybox, securityContext: {runAsNonRoot: true}, command: [sleep, "1000"]}]
"#;

#[test]
fn lives_end_as_they_should() {
    let bed = Testbed::up("lives");
    bed.start();
    bed.apply(LIVES);
    let field = |pod: &str, path: &str| bed.kubectl(&format!("get pod {pod} -o jsonpath={{{path}}}"));
    let becomes = |pod: &str, path: &str, expected: &str| {
        bed.wait(&format!("{pod}{path} to be {expected}"), MINUTE, || field(pod, path) == expected);
    };
    let main = ".status.containerStatuses[0]";
    becomes("stuck-init", ".status.phase", "Failed");
    assert_eq!(field("stuck-init", ".status.initContainerStatuses[0].state.terminated.exitCode"), "3");
    assert!(bed.kubectl("get pod stuck-init --no-headers").contains("Init:Error"));
    becomes("on-failure", ".status.phase", "Succeeded");
    assert_eq!(field("on-failure", &format!("{main}.restartCount")), "1");
    assert_eq!(field("on-failure", &format!("{main}.lastState.terminated.exitCode")), "5");
    assert_eq!(bed.kubectl("logs on-failure").trim(), "better");
    becomes("last-words", ".status.phase", "Failed");
    assert_eq!(field("last-words", &format!("{main}.state.terminated.message")).trim(), "goodbye");
    let fallback = ".status.containerStatuses[?(@.name=='fallback')].state.terminated.message";
    assert_eq!(field("last-words", fallback).trim(), "it broke");
    becomes("deadline", ".status.reason", "DeadlineExceeded");
    assert_eq!(field("deadline", ".status.phase"), "Failed");

    becomes("missing-map", &format!("{main}.state.waiting.reason"), "CreateContainerConfigError");
    bed.wait("what is missing", MINUTE, || {
        bed.kubectl("describe pod missing-map").contains("configmap \"later\" not found")
    });
    bed.kubectl("create configmap later --from-literal=x=1");
    bed.wait_ready("missing-map");
    bed.wait("a failed mount", MINUTE, || {
        bed.kubectl("describe pod missing-file")
            .contains("hostPath type check failed: /no/such/file is not a file")
    });
    becomes("not-root", &format!("{main}.state.waiting.reason"), "CreateContainerConfigError");
    bed.wait("who it would be", MINUTE, || {
        bed.kubectl("describe pod not-root").contains("container has runAsNonRoot and image will run as root")
    });

    becomes("nope", ".status.phase", "Failed");
    assert_eq!(field("nope", &format!("{main}.state.terminated.reason")), "StartError");
    assert_eq!(field("nope", &format!("{main}.state.terminated.exitCode")), "128");
    becomes("beside", ".status.phase", "Succeeded");
    assert_eq!(bed.kubectl("logs beside -c main").trim(), "served");
    assert_eq!(bed.kubectl("logs beside -c helper").trim(), "bye");
    becomes("greedy", ".status.reason", "Evicted");
    assert!(field("greedy", ".status.message").contains("\"work\" exceeds the limit \"1Mi\""));

    // What volumes show follows the objects that it comes from.
    bed.kubectl("create configmap changing --from-literal=colour=blue");
    bed.wait_ready("reloads");
    let shown = |path: &str| bed.kubectl(&format!("exec reloads -- cat /shown/{path}"));
    assert_eq!(shown("colour"), "blue");
    bed.ok(&["kubectl", "patch", "configmap", "changing", "-p", r#"{"data":{"colour":"red"}}"#]);
    bed.wait("the new colour", MINUTE, || shown("colour") == "red");
    bed.kubectl("label pod reloads --overwrite stage=two");
    bed.wait("the new label", MINUTE, || shown("labels").contains("stage=\"two\""));

    // A pod that answers its signal goes at once and says so in its log; one that does not goes when its time is over.
    bed.wait_ready("polite");
    bed.wait("polite to listen", MINUTE, || bed.kubectl("logs polite").contains("up"));
    let began = std::time::Instant::now();
    let said = bed.ok(&["bash", "-c", &followed_to_its_end("polite")]);
    assert!(said.contains("asked"), "{said}");
    assert!(began.elapsed() < Duration::from_secs(30), "it was waited for");
    bed.wait_ready("deaf");
    bed.kubectl("delete pod deaf --grace-period=1");
    let events =
        bed.kubectl("get events --field-selector involvedObject.name=deaf -o jsonpath={.items[*].reason}");
    for reason in ["Scheduled", "Pulled", "Created", "Started", "Killing"] {
        assert!(events.contains(reason), "{events}");
    }

    // A node that stops lets hooks run, and has the same pods when it is started again.
    bed.wait_ready("leaves");
    let uid = field("leaves", ".metadata.uid");
    bed.ok(&[testbed::MINIK, "stop"]);
    assert_eq!(bed.processes(), Vec::<String>::new());
    bed.ok(&[testbed::MINIK, "start"]);
    bed.wait("leaves to see what it left", MINUTE, || {
        bed.run(&["kubectl", "logs", "leaves"]).stdout.contains("it was left in order")
    });
    assert_eq!(field("leaves", ".metadata.uid"), uid);
}

const CARE: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: watched}
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "mkdir /www; httpd -f -p 8080 -h /www"]
    ports: [{name: web, containerPort: 8080}]
    startupProbe: {tcpSocket: {port: web}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /ready, port: web}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {exec: {command: [sh, -c, "test ! -e /dead || { echo I am dead; exit 1; }"]}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: hooked}
spec:
  shareProcessNamespace: false
  containers:
  - name: main
    image: busybox
    command: [sh, -c, "trap 'echo asked; exit 0' TERM; until [ -e /begun ]; do sleep 0.1; done; echo begun; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [touch, /begun]}}
      preStop: {exec: {command: [sh, -c, "echo leaving > /proc/1/fd/1"]}}
---
apiVersion: v1
kind: Pod
metadata: {name: ill-begun}
spec:
  containers:
  - {name: main, image: busybox, command: [sleep, "1000"], lifecycle: {postStart: {exec: {command: ["false"]}}}}
---
apiVersion: v1
kind: Pod
metadata: {name: stuck}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: busybox, command: [sleep, "1000"], readinessProbe: {exec: {command: [sleep, "999"]}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: gated}
spec:
  readinessGates: [{conditionType: example.test/open}]
  resources: {limits: {cpu: 300m}}
  containers:
  - {name: main, image: busybox, command: [sleep, "1000"], resources: {requests: {cpu: 50m}, limits: {cpu: 100m}}}
"#;

#[test]
fn containers_are_cared_for() {
    let bed = Testbed::up("care");
    bed.start();
    bed.apply(CARE);
    let field = |pod: &str, path: &str| bed.kubectl(&format!("get pod {pod} -o jsonpath={{{path}}}"));
    let becomes = |pod: &str, path: &str, expected: &str| {
        bed.wait(&format!("{pod}{path} to be {expected}"), MINUTE, || field(pod, path) == expected);
    };
    let said = |pod: &str, text: &str| {
        bed.wait(&format!("{pod} to have {text:?} among its events"), MINUTE, || {
            bed.kubectl(&format!("describe pod {pod}")).contains(text)
        });
    };
    let main = ".status.containerStatuses[0]";
    becomes("watched", &format!("{main}.started"), "true");
    said("watched", "Readiness probe failed: HTTP probe failed with statuscode: 404");
    assert_eq!(field("watched", &format!("{main}.ready")), "false");
    bed.kubectl("exec watched -- touch /www/ready");
    bed.wait_ready("watched");
    bed.kubectl("exec watched -- touch /dead");
    becomes("watched", &format!("{main}.restartCount"), "1");
    said("watched", "Liveness probe failed: I am dead");
    said("watched", "Container main failed liveness probe, will be restarted");
    becomes("watched", &format!("{main}.ready"), "false");

    // Somebody talks to what looks into a pod.
    let talk = "echo hello | kubectl debug -iq watched --image=busybox -c talk -- head -n 1";
    assert_eq!(bed.ok(&["bash", "-c", talk]).trim(), "hello");

    // It gets more of the machine, and goes on.
    let more = r#"{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"200m"}}}]}}"#;
    bed.ok(&["kubectl", "patch", "pod", "gated", "--subresource=resize", "-p", more]);
    becomes("gated", &format!("{main}.resources.limits.cpu"), "200m");
    // So it does as a whole.
    let more = r#"{"spec":{"resources":{"limits":{"cpu":"400m"}}}}"#;
    bed.ok(&["kubectl", "patch", "pod", "gated", "--subresource=resize", "-p", more]);
    becomes("gated", ".status.resources.limits.cpu", "400m");
    let group = r"find /sys/fs/cgroup -path *$0* \( -name cpu.max -o -name cpu.cfs_quota_us \) -exec grep -l ^40000 {} +";
    assert!(!bed.ok(&["bash", "-c", group, &bed.name]).is_empty());
    assert_eq!(field("gated", &format!("{main}.restartCount")), "0");

    said("ill-begun", "PostStartHook failed");
    becomes("ill-begun", &format!("{main}.state.waiting.reason"), "CrashLoopBackOff");
    becomes("gated", ".status.conditions[?(@.type=='ContainersReady')].status", "True");
    assert_eq!(field("gated", ".status.conditions[?(@.type=='Ready')].reason"), "ReadinessGatesNotReady");
    let open = r#"{"status":{"conditions":[{"type":"example.test/open","status":"True"}]}}"#;
    bed.ok(&["kubectl", "patch", "pod", "gated", "--subresource=status", "-p", open]);
    bed.wait_ready("gated");

    // What a probe began ends with its time.
    said("stuck", "Readiness probe failed: command timed out: \"sleep 999\" timed out after 1s");
    bed.wait("more failures", MINUTE, || {
        let told = bed.kubectl("describe pod stuck");
        let times =
            told.split("(x").skip(1).filter_map(|rest| rest.split_once(" over")?.0.parse::<u32>().ok());
        times.max() >= Some(3)
    });
    let left = bed.run(&["kubectl", "exec", "stuck", "--", "sh", "-c", "ps | grep -c '[s]leep 999'"]);
    assert!(["0", "1"].contains(&left.stdout.trim()), "{left:?}");

    bed.wait_ready("hooked");
    bed.wait("hooked to begin", MINUTE, || bed.kubectl("logs hooked").contains("begun"));
    let log = bed.ok(&["bash", "-c", &followed_to_its_end("hooked")]);
    let order: Vec<&str> = log.lines().collect();
    assert_eq!(order, ["begun", "leaving", "asked"]);
}

#[test]
fn static_pods_follow_their_manifests() {
    let bed = Testbed::up("static");
    bed.start();
    let folder = format!("/var/lib/minik/{}/manifests", bed.name);
    let manifest = |word: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: web, namespace: kube-system}}, spec: {{hostNetwork: true, \
             terminationGracePeriodSeconds: 1, containers: [{{name: main, image: busybox, \
             command: [sh, -c, 'echo {word}; sleep 1000']}}]}}}}"
        )
    };
    let put = |text: &str| bed.ok(&["bash", "-c", &format!("cat > {folder}/web.yaml <<'END'\n{text}\nEND")]);
    let node = bed.kubectl("get nodes -o jsonpath={.items[0].metadata.name}");
    let name = format!("web-{node}");
    let field = |path: &str| {
        bed.run(&["kubectl", "-n", "kube-system", "get", "pod", &name, "-o", &format!("jsonpath={{{path}}}")])
            .stdout
    };
    let becomes = |what: &str, holds: &dyn Fn() -> bool| bed.wait(what, MINUTE, holds);
    put(&manifest("first"));
    becomes("the mirror", &|| field(".status.phase") == "Running");
    assert_eq!(field(".metadata.ownerReferences[0].kind"), "Node");
    assert_eq!(field(".metadata.annotations.kubernetes\\.io/config\\.source"), "file");
    let hash = field(".metadata.annotations.kubernetes\\.io/config\\.hash");
    assert_eq!(field(".metadata.annotations.kubernetes\\.io/config\\.mirror"), hash);
    let logs = || bed.kubectl_all(&format!("-n kube-system logs {name}"));
    becomes("its log", &|| logs().trim() == "first");
    becomes("its events", &|| {
        bed.kubectl(&format!("-n kube-system describe pod {name}")).contains("Started")
    });
    assert_eq!(bed.kubectl(&format!("-n kube-system exec {name} -- echo here")).trim(), "here");

    // Deleting the mirror ends nothing: it comes back, and the container is the same.
    let (uid, container) = (field(".metadata.uid"), field(".status.containerStatuses[0].containerID"));
    bed.kubectl(&format!("-n kube-system delete pod {name} --wait=false"));
    becomes("the mirror again", &|| ![String::new(), uid.clone()].contains(&field(".metadata.uid")));
    becomes("its status", &|| field(".status.containerStatuses[0].containerID") == container);

    put(&manifest("second"));
    becomes("the new pod", &|| logs().trim() == "second");
    assert_ne!(field(".metadata.annotations.kubernetes\\.io/config\\.hash"), hash);
    // A bad manifest is told of, and ends what it replaces.
    put("kind: [");
    becomes("a word on the bad manifest", &|| {
        bed.kubectl("get events -A --field-selector reason=FailedValidation").contains("web.yaml")
    });
    becomes("the end of what it was", &|| field(".metadata.uid").is_empty());
    put(&manifest("third"));
    becomes("the third pod", &|| logs().trim() == "third");
    bed.ok(&["rm", &format!("{folder}/web.yaml")]);
    becomes("the end", &|| field(".metadata.uid").is_empty());
    bed.wait("no process of it", MINUTE, || !bed.run(&["pgrep", "-f", "[e]cho third"]).status.success());
}

const NAMES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: one, labels: {app: team}}
spec:
  hostname: one
  subdomain: team
  containers: [{name: main, image: instavote/vote, ports: [{name: web, containerPort: 80}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: two, labels: {app: team}}
spec:
  hostname: two
  subdomain: team
  containers: [{name: main, image: instavote/vote, ports: [{name: web, containerPort: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: team}
spec: {clusterIP: None, selector: {app: team}, ports: [{name: web, port: 80, targetPort: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: own}
spec: {selector: {app: team}, ports: [{name: web, port: 8080, targetPort: web}]}
"#;

#[test]
fn names_lead_to_pods_and_back() {
    let bed = Testbed::up("names");
    bed.start();
    bed.apply(NAMES);
    bed.kubectl("run asks --image=busybox --restart=Never -- sleep 1000");
    for pod in ["one", "two", "asks"] {
        bed.wait_ready(pod);
    }
    bed.wait("both endpoints", MINUTE, || {
        bed.kubectl("get endpoints team -o jsonpath={.subsets[*].addresses[*].ip}").split(' ').count() == 2
    });
    let address = |pod: &str| bed.kubectl(&format!("get pod {pod} -o jsonpath={{.status.podIP}}"));
    let (one, two) = (address("one"), address("two"));
    let ask = |kind: &str, name: &str| bed.kubectl(&format!("exec asks -- nslookup -type={kind} {name}"));
    let all = ask("a", "team.default.svc.cluster.local");
    assert!(all.contains(&one) && all.contains(&two), "{all}");
    let single = ask("a", "two.team.default.svc.cluster.local");
    assert!(single.contains(&two) && !single.contains(&one), "{single}");
    let service = ask("srv", "_web._tcp.team.default.svc.cluster.local");
    assert!(service.contains("80 one.team.default.svc.cluster.local"), "{service}");
    let back = bed.kubectl(&format!("exec asks -- nslookup {one}"));
    assert!(back.contains("one.team.default.svc.cluster.local"), "{back}");
    let dashed = format!("{}.default.pod.cluster.local", two.replace('.', "-"));
    assert!(ask("a", &dashed).contains(&two));
    let unknown = bed.run(&["kubectl", "exec", "asks", "--", "nslookup", "nobody.default.svc.cluster.local"]);
    assert!(unknown.stdout.contains("NXDOMAIN"), "{unknown:?}");
    assert!(ask("a", "www.example.test").contains("Name:\twww.example.test"));
    // A pod reaches itself through its service.
    for _ in 0..8 {
        let page = bed.kubectl("exec one -- timeout 5 wget -qO- http://own:8080/");
        assert!(page.contains("version latest"), "{page}");
    }
    // Endpoints that a user writes lead somewhere, and so does a name for another name.
    bed.apply(&BY_HAND.replace("ADDRESS", &two));
    bed.wait("the endpoint written by hand", MINUTE, || {
        let page = bed.run(&["kubectl", "exec", "asks", "--", "wget", "-qO-", "http://by-hand:8080/"]);
        page.stdout.contains("pod two")
    });
    assert!(ask("a", "db.by-hand.default.svc.cluster.local").contains(&two));
    assert!(ask("a", "alias.default.svc.cluster.local").contains("canonical name = www.example.test"));
}

const BY_HAND: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: by-hand}
spec: {ports: [{port: 8080, targetPort: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: by-hand}
subsets: [{addresses: [{ip: ADDRESS, hostname: db}], ports: [{port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: www.example.test}
"#;
