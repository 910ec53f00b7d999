#!/bin/sh
# Holds an API server made from Kubernetes' own library to what the double is held to: `make test-apiserver`, as root.
#
# Nothing is fetched but packages of Debian's unstable suite, as only that has a library of this decade: a change there
# may break the build of the three files beside this one, which fit 0.36.4. They are compiled in a directory of
# ~/.cache/ipvsagent (4 GB): 13 minutes at first, on two processors that had other work, and one minute later. The server,
# etcd and the tests run in a network namespace without a way out, and end with it. Words are for pytest.
set -eu

cd "$(dirname "$0")/../../.."
here=integration/apiserver/real
root=${XDG_CACHE_HOME:-$HOME/.cache}/ipvsagent/apiserver
say() { printf 'apiserver: %s\n' "$*"; }

patiently() { # a command, until it succeeds, or after a minute as it fails
    end=$(($(date +%s) + 60))
    while [ "$(date +%s)" -lt $end ]; do
        "$@" >/dev/null 2>&1 && return
        sleep 0.5
    done
    "$@"
}

if [ "${IPVSAGENT_TEST_INSIDE:-}" != 1 ]; then
    if [ ! -e "$root/made" ]; then
        say "fetching Debian packages"
        rm -rf "$root"
        mkdir -p "$root"
        # Unstable says for how many days it is good, which a mirror may have passed.
        mmdebstrap --quiet --variant=apt --aptopt='Acquire::Check-Valid-Until "false"' \
            --include=golang-go,golang-k8s-apiserver-dev,golang-k8s-client-go-dev,etcd-server,etcd-client,kubectl \
            sid "$root"
        touch "$root/made"
    fi
    IPVSAGENT_TEST_INSIDE=1 exec unshare --mount --net --pid --fork --kill-child --mount-proc "$0" "$@"
fi

ip link set lo up
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
# Go's packages are Debian's: no modules, nothing is looked for elsewhere.
inside() { chroot "$root" env HOME=/root GO111MODULE=off GOPATH=/build:/usr/share/gocode GOTOOLCHAIN=local "$@"; }

source=$root/build/src/realserver
mkdir -p "$source/openapi"
cp "$here"/*.go "$source"
if [ ! -s "$source/openapi/generated.go" ]; then
    say "describing the kinds"
    inside go build -o /build/openapi-gen k8s.io/kube-openapi/cmd/openapi-gen
    : >"$root/build/header"
    machinery=k8s.io/apimachinery/pkg
    inside sh -c "cd /build/src/realserver && exec /build/openapi-gen --output-dir openapi --output-pkg realserver/openapi \
        --output-file generated.go --go-header-file /build/header --report-filename /dev/null \
        k8s.io/api/core/v1 k8s.io/api/discovery/v1 k8s.io/api/events/v1 $machinery/apis/meta/v1 $machinery/runtime \
        $machinery/version $machinery/api/resource $machinery/util/intstr"
fi
say "compiling"
inside go build -o /build/realserver realserver

etcd=http://127.0.0.1:2379
inside etcd --data-dir /run/etcd --listen-client-urls $etcd --advertise-client-urls $etcd \
    --listen-peer-urls http://127.0.0.1:2380 --log-level error &
# The first versions must be history before the server looks: the suite asks for the first one, and expects 410.
patiently inside etcdctl --endpoints $etcd put /first version
inside /build/realserver -directory /run/server -etcd $etcd >"$root/server.log" 2>&1 &
kube() { inside kubectl --kubeconfig /run/server/kubeconfig "$@"; }
patiently kube get --raw /readyz
echo '{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}' | kube create -f - >/dev/null

# What an Event must be is validated by kube-apiserver, not by the library.
contract=tests/integration/test_apiserver_contract.py
IPVSAGENT_TEST_KUBECONFIG=$root/run/server/kubeconfig .venv/bin/python -m pytest -q \
    "$contract" tests/integration/test_agent_on_apiserver.py \
    --deselect "$contract::test_events_are_validated_and_never_say_something_else[real]" "$@"
