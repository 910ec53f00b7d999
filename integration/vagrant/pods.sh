#!/bin/sh
# Pods as network namespaces: a bridge with the node's pod network, a namespace for each pod, routes to other nodes.
#
#   pods up             make what is missing
#   pods configure POD  write the configuration of its server
set -eu
# shellcheck disable=SC1091 # provision.sh writes it
. /etc/pods/environment

number=${NODE#node-} # "front" has no pods
names='web-1:21 web-2:22 dns-1:53' # pod: last number of its address

up() {
    sysctl -qw net.ipv4.ip_forward=1
    for other in 1 2; do
        [ "$other" = "$number" ] || ip route replace "10.244.$other.0/24" via "$NETWORK.1$other"
    done
    [ "$NODE" != front ] || return 0
    # Pods of one bridge would answer each other past IPVS, with the wrong address: kubeadm asks for this, too. Then the
    # bridge sends the answer of a pod to itself back where it came from, which its port must allow, as the CNI
    # plugin "bridge" does with hairpinMode.
    if modprobe br_netfilter; then sysctl -qw net.bridge.bridge-nf-call-iptables=1; fi
    ip link show pods >/dev/null 2>&1 || ip link add pods type bridge
    ip address replace "10.244.$number.1/24" dev pods
    ip link set pods up
    for pair in $names; do
        pod=${pair%:*}
        [ -e "/run/netns/$pod" ] || ip netns add "$pod"
        ip -n "$pod" link set lo up
        ip link show "$pod" >/dev/null 2>&1 ||
            ip link add "$pod" type veth peer name eth0 netns "$pod"
        ip link set "$pod" master pods up
        ip link set "$pod" type bridge_slave hairpin on
        ip -n "$pod" address replace "10.244.$number.${pair#*:}/24" dev eth0
        ip -n "$pod" link set eth0 up
        ip -n "$pod" route replace default via "10.244.$number.1"
    done
}

configure() {
    case $1 in
    web-*)
        cat >"/etc/pods/$1.conf" <<END
daemon off;
pid /run/$1.pid;
error_log stderr;
events {}
http {
    access_log off;
    server {
        listen 8080;
        location / { return 200 "$NODE/$1\n"; }
    }
}
END
        ;;
    dns-*)
        cat >"/etc/pods/$1.conf" <<END
no-resolv
no-hosts
user=root
pid-file=
local=/pods.example/
txt-record=whoami.pods.example,$NODE/$1
END
        ;;
    esac
}

case $1 in
up) up ;;
configure) configure "$2" ;;
esac
