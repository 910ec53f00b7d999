#!/bin/sh
# Where libvirt works: boots the machines, asks their Services, provisions again, restarts one, destroys them.
#
#   check.sh FILE.box    with the Vagrantfile's settings in the environment
set -eu

failed=0
begin=${IPVSAGENT_TEST_BEGIN:-$(date +%s)}
network=${IPVSAGENT_NETWORK:-192.168.56}
work=$(mktemp -d)
say() { printf 'vagrant: %4d s  %s\n' $(($(date +%s) - begin)) "$*"; }
# on MACHINE COMMANDS: runs them there as root, without the seconds that `vagrant ssh` takes to start.
on() { printf '%s\n' "$2" | ssh -q -F "$work/ssh" "$1" sudo sh; }
# spread MACHINE ADDRESS [WORDS]: who answers 40 requests, and how many each; WORDS stand before curl.
spread() { on "$1" "for i in \$(seq 40); do ${3:-} curl -s --max-time 10 http://$2; done | sort | uniq -c"; }
# same WORDS WANTED FOUND
same() {
    if [ "$2" = "$3" ]; then
        say "ok: $1"
    else
        say "NOT OK: $1"
        printf 'wanted:\n%s\nfound:\n%s\n' "$2" "$3"
        failed=1
    fi
}
# log COMMAND...: runs it, and prints its output with the time, without machine settings and progress bars.
log() {
    rm -f "$work/failed"
    { "$@" 2>&1 || echo "$?" >"$work/failed"; } | sed -u 's/.*\r//; / -- /d; /^[[:space:]]*$/d' |
        while IFS= read -r line; do say "$line"; done
    [ ! -e "$work/failed" ] || exit "$(cat "$work/failed")"
}
# state: what runs on each machine and since when, and the kernel's tables.
state() {
    for machine in front node-1 node-2; do
        on "$machine" "hostname
            systemctl show -P MainPID,NRestarts ipvsagent
            systemctl list-units --plain --no-legend 'pod*' 'ipvsagent*'
            systemctl show -P MainPID pod-web@web-1 pod-web@web-2 pod-dns@dns-1
            ipvsadm -Sn
            iptables-save | sed 's/\[[0-9:]*\]//; /^#/d'
            ipset save | sort
            ip -o -4 address show | sed 's/valid_lft.*//'
            ip route"
    done
}
# shellcheck disable=SC2317 # called by trap
finish() {
    status=$?
    [ "$status" = 0 ] || say "ended with $status; no machine is kept"
    vagrant destroy -f >/dev/null 2>&1 || true
    rm -rf "$work"
}

vagrant box add --force --name "$IPVSAGENT_BOX" "$1" >/dev/null
trap finish EXIT
trap 'exit 130' INT TERM
say "booting three machines"
log vagrant up
say "up"
vagrant ssh-config >"$work/ssh"
printf 'Host *\n  ControlMaster auto\n  ControlPath %s/%%h\n  ControlPersist 600\n' "$work" >>"$work/ssh"

pods='     10 node-1/web-1
     10 node-1/web-2
     10 node-2/web-1
     10 node-2/web-2'

# The commands that docs/contributing.md names, as it names them.
vagrant ssh front -c 'sudo ipvsagent status'
for address in node-1 node-2; do
    vagrant ssh front -c 'for i in 1 2 3 4; do curl -s http://10.96.0.80; done' 2>/dev/null | grep -q "$address" ||
        same "vagrant ssh and curl show a pod of $address" yes no
done
same "vagrant ssh and dig show a DNS pod" 1 \
    "$(vagrant ssh front -c 'dig +short TXT whoami.pods.example @10.96.0.10' 2>/dev/null | grep -c 'node-./dns-1')"

for machine in front node-1 node-2; do
    same "status on $machine shows both Services, in sync, on IPVS" "ipvs True 2 []" \
        "$(on $machine 'ipvsagent status -o json' | python3 -c '
import json, sys
agent = json.load(sys.stdin)["agent"]
print(agent["backend"], agent["in_sync"], agent["totals"]["services"], agent["findings"])')"
done
same "curl on front spreads over the pods of both nodes" "$pods" "$(spread front 10.96.0.80)"
same "so does a node port, seen from outside" "$pods" "$(spread front "$network.11:30080")"
same "and a pod's own request" "$pods" "$(spread node-1 10.96.0.80 "ip netns exec web-1")"
for transport in +notcp +tcp; do
    same "DNS, $transport, is answered on both nodes" '"node-1/dns-1" "node-2/dns-1"' \
        "$(on front "for i in 1 2 3 4; do dig +short $transport TXT whoami.pods.example @10.96.0.10; done" |
            sort -u | tr "\n" " " | sed "s/ $//")"
done
on front "systemctl stop ipvsagent"
same "traffic outlives an agent that is stopped" "$pods" "$(spread front 10.96.0.80)"
on front "systemctl start ipvsagent; systemctl kill -s KILL ipvsagent"
same "an agent that is killed is started again" "active" \
    "$(on front "for i in \$(seq 60); do sleep 1; systemctl is-active -q ipvsagent && break; done
        systemctl is-active ipvsagent")"
same "systemd hears its watchdog" "1min" "$(on front 'systemctl show -P WatchdogUSec ipvsagent')"

say "provisioning again"
before=$(state)
log vagrant provision
same "provisioning again changes nothing" "$before" "$(state)"

say "restarting node-2"
ssh -q -F "$work/ssh" -O exit node-2 || true
log vagrant reload node-2
same "a machine that was restarted serves as before" "$pods" "$(spread front 10.96.0.80)"
same "by its own address, too" "$pods" "$(spread front "$network.12:30080")"

say "destroying"
vagrant destroy -f >/dev/null
left() { virsh -q -c qemu:///system "$@" | awk '{ print $1 }' | grep -v -e '^vagrant-libvirt$' -e '_box_image_.*_box' || true; }
same "destroy leaves neither machine nor disk nor network" "" \
    "$(virsh -q -c qemu:///system list --all --name | grep . || true; left vol-list default; left net-list --all)"
exit $failed
