#!/bin/sh
# In the guest: the image's files as a read-only root, one agent with few privileges, one pod, one request.
#
#   in_guest.sh DIRECTORY PYTHON    DIRECTORY/root: the image's files; PYTHON: of this machine
set -eu

root=$1/root
python=$2
get() { # URL: its body, without waiting long
    "$python" -S -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=5).read().decode().strip())' \
        "$1" 2>/dev/null
}
fail() { echo "not so: $*" && cat "$1/agent.log" 2>/dev/null; exit 1; }

# A pod that answers, on a bridge of this node.
ip link set lo up
ip netns add pod
ip link add pod type veth peer name eth0 netns pod
ip address add 10.244.1.1/24 dev pod
ip link set pod up
ip -n pod address add 10.244.1.21/24 dev eth0
ip -n pod link set eth0 up
ip -n pod route add default via 10.244.1.1
mkdir -p /tmp/page
echo "from the pod" >/tmp/page/index.html
ip netns exec pod "$python" -S -m http.server --directory /tmp/page 8080 2>/dev/null &

mount --bind "$root" "$root"
mkdir -p "$root/etc/ipvsagent" "$root/run/ipvsagent" "$root/lib/modules"
cat >"$root/etc/ipvsagent/objects.yaml" <<END
{apiVersion: v1, kind: Node, metadata: {name: guest}}
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: web}
spec: {clusterIP: 10.96.0.80, clusterIPs: [10.96.0.80], ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {namespace: default, name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.244.1.21], nodeName: guest}]
END
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"
mount --bind /lib/modules "$root/lib/modules"
mount -o remount,bind,ro "$root"
arguments="run --source /etc/ipvsagent --hostname-override guest --cluster-cidr 10.244.0.0/16"

# As the init container, and then as the container that stays: everything but two capabilities dropped.
# shellcheck disable=SC2086
chroot "$root" /opt/ipvsagent/bin/ipvsagent $arguments --init-only || fail "--init-only failed"
# shellcheck disable=SC2086
chroot "$root" setpriv --no-new-privs --bounding-set=-all,+net_admin,+net_raw \
    env PATH=/opt/ipvsagent/bin:/usr/sbin:/usr/bin:/sbin:/bin ipvsagent $arguments >"$1/agent.log" 2>&1 &
agent=$!

tries=0
until [ "$(get http://10.96.0.80/)" = "from the pod" ]; do
    tries=$((tries + 1))
    [ $tries -lt 30 ] || { ipvsadm -Ln && cat "$1/agent.log" && fail "no answer of the Service"; }
    sleep 0.5
done
ipvsadm -Ln | grep -q '10.244.1.21:8080' || fail "IPVS does not know the pod"
get http://127.0.0.1:10256/livez | grep -q '"healthy":true' || fail "/livez"
get http://127.0.0.1:10256/healthz | grep -q '"nodeEligible":true' || fail "/healthz"
get http://127.0.0.1:10249/metrics | grep -q '^ipvsagent_virtual_servers 1' || fail "/metrics"
chroot "$root" /opt/ipvsagent/bin/ipvsagent status || fail "status"
grep -E 'CapEff' "/proc/$agent/status"
awk '/VmRSS/ { print "memory of the agent: " int($2 / 1024) " MB" }' "/proc/$agent/status"
kill $agent
wait $agent
[ "$(get http://10.96.0.80/)" = "from the pod" ] || fail "traffic does not outlive the agent"
