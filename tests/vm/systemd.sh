#!/bin/bash
# On a machine as users have them (scripts/vm): minik as a unit of systemd, cgroup v2, firewalls of others, a reboot.
set -uo pipefail
failures=0

say() { echo "--- $*"; }
# check WHAT COMMAND...: the command must succeed.
check() {
  local what=$1; shift
  if "$@" >/tmp/check.out 2>&1; then
    echo "ok      $what"
  else
    echo "FAILED  $what"
    sed 's/^/        /' /tmp/check.out | tail -n 20
    failures=$((failures + 1))
  fi
}
same() { [ "$1" = "$2" ] || { echo "have: $1"; echo "want: $2"; return 1; }; }
ready() { kubectl wait --for=condition=Ready "pod/$1" --timeout=60s; }
both_ready() { ready www && ready limited; }
page() { curl -sS --fail --max-time 10 "$1" | grep -qi nginx; }
pod() { kubectl get pod "$1" -o "jsonpath={$2}"; }
# A pod asks the service by its address.
asked_by_pod() {
  local address; address=$(kubectl get service limited -o 'jsonpath={.spec.clusterIP}')
  kubectl exec www -- timeout 20 bash -c "exec 3<>/dev/tcp/$address/80; printf 'GET / HTTP/1.0\r\n\r\n' >&3; grep -i nginx <&3"
}
# container_group POD CONTAINER
container_group() {
  find /sys/fs/cgroup -type d -name "$(pod "$1" ".status.containerStatuses[?(@.name==\"$2\")].containerID" | sed 's#.*//##')*" | head -n 1
}
# A disk's node can be made in /dev, but not opened; the harmless devices can.
devices_are_closed() {
  local said; said=$(kubectl exec pair -c lives -- sh -c "mknod /dev/disk b $(printf '%d' "0x$(stat -c %t /dev/vda)") 0
    echo x > /dev/null && dd if=/dev/disk of=/dev/null count=1" 2>&1)
  echo "$said"
  grep -q 'not permitted' <<< "$said"
}
# What a cluster may leave on a machine; the firewalls' own tables may change their counters but nothing else.
traces() {
  ip -o link | awk -F': ' '{print "link", $2}' | sed 's/@.*//'
  ip -4 route show table all | sed 's/^/route /'
  nft list tables | sed 's/^/table /'
  iptables-save 2>/dev/null | grep -v '^[#:]' | sed 's/^/iptables /'
  awk '{print "mount", $5}' /proc/self/mountinfo | grep -v '^mount /run/credentials'
  find /sys/fs/cgroup -type d -name '*minik*' | sed 's/^/cgroup /'
  find /var/lib/minik /run/minik /var/log/pods /var/log/containers /etc/systemd /run/systemd/{system,transient} -not -type d 2>/dev/null \
    | grep -v vm-test | sed 's/^/file /'
  systemctl list-units --all --plain --no-legend 'minik*' | sed 's/^/unit /'
  sysctl -n net.ipv4.ip_forward | sed 's/^/ip_forward /'
  ps -eo comm | grep -E '^minik' | sed 's/^/process /'
}

outside() {
  # The world outside, as far as there is one: a namespace behind the machine's only link.
  ip netns add outside
  ip link add up0 type veth peer name eth0 netns outside
  ip addr add 192.0.2.2/24 dev up0
  ip link set up0 up
  ip route add default via 192.0.2.1
  ip -n outside addr add 192.0.2.1/24 dev eth0
  ip -n outside link set eth0 up
  ip -n outside link set lo up
}

first_boot() {
  outside
  traces | sort > /srv/before

  say "systemd and cgroup v2"
  check "start" minik start
  check "the daemon is a unit" systemctl is-active minik-minik.service
  check "the containers have a scope of their own" same "$(systemctl show -p Delegate --value minik-minik-pods.scope)" yes
  check "images come from archives" minik image load nginx.tar busybox.tar
  kubectl run www --image=nginx --image-pull-policy=IfNotPresent
  cat <<'YAML' | kubectl apply -f -
apiVersion: v1
kind: Pod
metadata: {name: limited, labels: {app: limited}}
spec:
  containers:
  - name: main
    image: nginx
    imagePullPolicy: IfNotPresent
    resources: {limits: {cpu: 100m, memory: 64Mi}, requests: {cpu: 50m}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "tail -c 200m /dev/zero | wc -c; sleep 1000"]
    resources: {limits: {memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: pair}
spec:
  restartPolicy: Never
  containers:
  - name: eats
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "tail -c 200m /dev/zero | wc -c; sleep 1000"]
    resources: {limits: {memory: 32Mi}}
  - name: lives
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "100000"]
    resources: {limits: {cpu: 1, memory: 32Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: ends}
spec:
  restartPolicy: Never
  containers:
  - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, "until [ -e /go ]; do sleep 0.1; done; echo the end; exit 9"]}
---
apiVersion: v1
kind: Service
metadata: {name: limited}
spec:
  type: NodePort
  selector: {app: limited}
  ports: [{port: 80, nodePort: 30080}]
YAML
  check "nginx is ready" ready www
  check "its page shows" page "http://$(pod www .status.podIP)"
  check "a limited pod is ready" ready limited
  local group
  group=$(container_group limited main)
  check "memory.max" same "$(cat "$group/memory.max")" $((64 << 20))
  check "cpu.max" same "$(cat "$group/cpu.max")" "10000 100000"
  check "the service answers on the node's port" page http://127.0.0.1:30080
  check "a greedy container is ended by the kernel" \
    kubectl wait pod/greedy --for=jsonpath='{.status.containerStatuses[0].state.terminated.reason}'=OOMKilled --timeout=60s
  check "and says 137" same "$(pod greedy '.status.containerStatuses[0].state.terminated.exitCode')" 137
  check "of a pair only the greedy one is ended" kubectl wait pod/pair --timeout=60s \
    --for=jsonpath='{.status.containerStatuses[?(@.name=="eats")].state.terminated.reason}'=OOMKilled
  check "the other goes on" test -n "$(pod pair '.status.containerStatuses[?(@.name=="lives")].state.running.startedAt')"
  group=$(container_group pair lives)
  check "a whole CPU weighs as much as a group without a weight" same "$(cat "$group/cpu.weight")" 100
  check "containers end as a whole" same "$(cat "$group/memory.oom.group")" 1
  check "pods do not" same "$(cat "$group/../memory.oom.group")" 0
  check "nor need they a limit for it" same "$(cat "$(container_group www www)/memory.oom.group")" 1
  check "a disk's device cannot be opened" devices_are_closed
  check "the host knows the cluster's names" getent hosts limited.default.svc.cluster.local
  check "and asks the cluster for those alone" same "$(resolvectl domain | grep -c '~cluster.local')" 1
  check "node resources are the machine's" same "$(kubectl get node -o 'jsonpath={.items[0].status.capacity.cpu}')" 2

  say "the daemon is killed, and systemd starts it again"
  ready ends >/dev/null
  local before daemon
  before=$(pod www '.status.containerStatuses[0].containerID')
  daemon=$(minik status -o json | jq .daemonPid)
  # Frozen, so that the container ends while nobody looks.
  local address; address=$(pod www .status.podIP)
  kill -STOP "$daemon"
  local ending; ending=$(pgrep -of 'until . -e /go')
  touch "/proc/$ending/root/go"
  tail --pid="$ending" -f /dev/null
  kill -9 "$daemon"
  check "the page still shows" page "http://$address"
  check "the daemon is back" timeout 60 bash -c 'until minik status >/dev/null; do read -rt 0.1 <> <(:) || :; done'
  check "as another process" test "$(minik status -o json | jq .daemonPid)" != "$daemon"
  check "start finds it running" minik start
  check "the exit code was kept" kubectl wait pod/ends --for=jsonpath='{.status.phase}'=Failed --timeout=60s
  check "the same container" same "$(pod www '.status.containerStatuses[0].containerID')" "$before"

  say "Docker's rules"
  iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -I FORWARD -j DOCKER-USER; iptables -P FORWARD DROP
  ip netns exec outside sh -c 'while :; do printf "HTTP/1.0 200 OK\r\n\r\nnginx outside\n" | timeout 5 nc -l -p 8080 >/dev/null 2>&1; done' &
  check "stop" minik stop
  check "start beside them" minik start
  both_ready >/dev/null
  check "the node's port answers from outside" ip netns exec outside curl -sS --fail --max-time 20 http://192.0.2.2:30080
  check "pods reach pods by their service" asked_by_pod
  check "stop takes the rules away" minik stop
  check "and the names" same "$(resolvectl domain | grep -c cluster.local)" 0
  check "Docker's stay" same "$(iptables -S DOCKER-USER | wc -l)" 2
  iptables -P FORWARD ACCEPT; iptables -D FORWARD -j DOCKER-USER; iptables -F DOCKER-USER; iptables -X DOCKER-USER

  say "firewalld"
  systemctl start firewalld
  check "start beside it" minik start
  both_ready >/dev/null
  check "the page shows" page "http://127.0.0.1:30080"
  check "pods reach services" asked_by_pod
  check "names resolve in pods" kubectl exec www -- getent hosts limited.default.svc.cluster.local
  check "firewalld is told anew" firewall-cmd --reload
  check "and pods still reach services" asked_by_pod
  check "stop" minik stop
  check "no source is left" same "$(firewall-cmd --zone=trusted --list-sources)" ""
  systemctl stop firewalld

  check "start, before the machine goes down" minik start
  both_ready >/dev/null
  pod www '.status.containerStatuses[0].restartCount' > /srv/restarts
  echo "$failures" > /srv/failures
  sync
  date +%s > /srv/down
  say "reboot"
  systemctl reboot
  sleep infinity
}

second_boot() {
  failures=$(cat /srv/failures)
  outside
  say "after the reboot, $(($(date +%s) - $(cat /srv/down))) s later"
  check "nothing runs" same "$(minik status >/dev/null 2>&1; echo $?)" 7
  check "start" minik start
  check "the pods are back" both_ready
  check "with one restart more" same "$(pod www '.status.containerStatuses[0].restartCount')" "$(($(cat /srv/restarts) + 1))"
  check "nginx was asked to end before" kubectl logs www --previous
  check "its page shows" page "http://$(pod www .status.podIP)"
  check "the service is back" page "http://127.0.0.1:30080"
  check "delete" minik delete
  traces | sort > /srv/after
  check "nothing is left" diff /srv/before /srv/after
}

if [ $# = 0 ]; then first_boot; else second_boot; fi
[ "$failures" = 0 ]
