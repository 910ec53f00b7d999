#!/bin/sh
# Builds the image and runs it: `make test-image`, as root. Takes a few minutes.
#
# The base image is made from Debian packages and takes the name that the Containerfile asks for, so that no image
# registry is needed; nothing of it enters the machine's own container storage.
set -eu

cd "$(dirname "$0")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ipvsagent
base=$(sed -n 's/^ARG BASE=//p' Containerfile)
suite=$(printf '%s' "$base" | sed 's/.*:\([a-z]*\)-.*/\1/')
image=localhost/ipvsagent:test
work=$(mktemp -d)
netns=ipvsagent-image-$$
failed=0
[ "$(id -u)" = 0 ] || { echo "image: must be root" >&2 && exit 1; }

finish() {
    ip netns delete "$netns" 2>/dev/null || true
    podman_ unmount --all >/dev/null 2>&1 || true
    rm -rf "$work"
}
storage="--root $work/storage --runroot $work/run --storage-driver overlay"
# shellcheck disable=SC2086
podman_() { podman $storage --cgroup-manager=cgroupfs --runtime=runc "$@"; }
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf 'image: %s\n' "$*"; }
# check WORDS: whether the last command did what the words say; its output is in $work/out.
check() {
    if [ "$2" = "$3" ]; then
        say "ok: $1"
    else
        say "NOT OK: $1 (exit status $3, wanted $2)"
        cat "$work/out"
        failed=1
    fi
}

mkdir -p "$cache"
[ -s "$cache/$suite.tar" ] || {
    say "making the base image from packages of $suite"
    mmdebstrap --quiet --variant=minbase "$suite" "$cache/$suite.part.tar"
    mv "$cache/$suite.part.tar" "$cache/$suite.tar"
}
podman_ import --quiet "$cache/$suite.tar" "$base" >/dev/null

# A certificate authority that this machine's pip trusts is trusted by the build, too, and not by the image.
trust=''
if [ -n "${PIP_CERT:-}" ]; then
    printf '[global]\ncert = /run/build-ca.crt\n' >"$work/pip.conf"
    trust="--volume $PIP_CERT:/run/build-ca.crt:ro --volume $work/pip.conf:/etc/pip.conf:ro"
fi
say "building"
# shellcheck disable=SC2086
buildah $storage build --quiet --pull=never --isolation=chroot --network=host $trust -t "$image" -f Containerfile . \
    >"$work/out" 2>&1 || { cat "$work/out" && exit 1; }
size=$(podman_ image inspect --format '{{.Size}}' "$image")
say "$((size / 1000000)) MB"

ip netns add "$netns"
ip -n "$netns" link set lo up
mkdir -p "$work/cluster" "$work/state"
sed 's/@NETWORK@/192.168.56/g' integration/vagrant/services.yaml >"$work/cluster/services.yaml"

# run CAPABILITIES WORDS: as the DaemonSet runs it.
run() {
    capabilities=$1
    shift
    status=0
    # shellcheck disable=SC2086
    podman_ run --rm --network="ns:/run/netns/$netns" --read-only --cap-drop=ALL $capabilities \
        --security-opt=no-new-privileges --ulimit nofile=20000:20000 --ulimit nproc=4096:4096 \
        --volume "$work/cluster:/etc/ipvsagent/cluster:ro" --volume "$work/state:/run/ipvsagent" \
        --volume /run/xtables.lock:/run/xtables.lock $entry "$image" "$@" >"$work/out" 2>&1 || status=$?
}
touch /run/xtables.lock
entry=''

run '' --version
check "says its version" 0 $status
run '' plan --source /etc/ipvsagent/cluster --against empty --hostname-override node-1
check "plan without any capability finds what there is to do" 2 $status
grep -q '10.96.0.80:80' "$work/out" || check "plan names the Service" 0 1
run '' run --source /etc/ipvsagent/cluster --hostname-override node-1
check "run without CAP_NET_ADMIN is refused" 1 $status
grep -q CAP_NET_ADMIN "$work/out" || check "the refusal names CAP_NET_ADMIN" 0 1

entry='--entrypoint=sh'
run '' -c 'touch /etc/x 2>/dev/null || touch /x'
check "its root is read-only" 1 $status
# What was mounted for the build leaves an empty file behind, in this test's image only.
run '' -c '[ ! -s /etc/pip.conf ] && [ ! -e /src ] && ! command -v pip && ! command -v gcc'
check "nothing of the build is left in it" 0 $status
run '--cap-add=NET_ADMIN' -c 'iptables-nft -t nat -A OUTPUT -j RETURN && iptables-nft-save -t nat | grep -q RETURN'
check "iptables, nft variant" 0 $status
run '--cap-add=NET_ADMIN --cap-add=NET_RAW' -c \
    'iptables-legacy -t nat -A OUTPUT -j RETURN && iptables-legacy-save -t nat | grep -q RETURN'
check "iptables, legacy variant" 0 $status
run '--cap-add=NET_ADMIN' -c 'ipset create t hash:ip,port && ipset add t 10.0.0.1,tcp:80 && ipset list t | grep -q 10.0.0.1'
check "ipset" 0 $status

# The backend that needs no ip_vs, as in the DaemonSet: an init container with everything, then one with little.
entry=''
words='run --source /etc/ipvsagent/cluster --hostname-override node-1 --proxy-mode iptables'
# shellcheck disable=SC2086
podman_ run --rm --privileged --network="ns:/run/netns/$netns" --read-only --ulimit nofile=20000:20000 \
    --ulimit nproc=4096:4096 --volume "$work/cluster:/etc/ipvsagent/cluster:ro" --volume "$work/state:/run/ipvsagent" \
    "$image" $words --init-only >"$work/out" 2>&1 && status=0 || status=$?
check "--init-only, privileged" 0 $status
# shellcheck disable=SC2086
run '--cap-add=NET_ADMIN --cap-add=NET_RAW' $words --once
check "iptables backend, with two capabilities" 0 $status
{ ip netns exec "$netns" iptables-nft-save -t nat && ip netns exec "$netns" iptables-legacy-save -t nat; } >"$work/out" 2>&1
grep -q -- '-d 10.96.0.80/32' "$work/out" && grep -q '10.244.2.22:8080' "$work/out" && status=0 || status=1
check "its rules are in the node's network" 0 $status

# Real IPVS: the same files in a guest whose kernel has it.
entry=''
container=$(podman_ create "$image")
mkdir "$work/root"
podman_ export "$container" | tar -x -C "$work/root"
status=0
.venv/bin/python -m integration.guest --share "$work" -- sh integration/image/in_guest.sh "$work" "$PWD/.venv/bin/python" \
    >"$work/out" 2>&1 || status=$?
check "serves a Service with real IPVS, with CAP_NET_ADMIN alone, after --init-only" 0 $status
grep '^memory' "$work/out" || true
[ $failed = 0 ] || exit 1
