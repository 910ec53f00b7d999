#!/bin/sh
# Where libvirt works: boots the machines, asks their Services, provisions again, destroys them.
#
#   check.sh FILE.box    with the Vagrantfile's settings in the environment
set -eu

failed=0
say() { printf 'vagrant: %s\n' "$*"; }
# on MACHINE COMMANDS: runs them there as root.
on() { vagrant ssh "$1" -c "sudo sh -c '$2'" 2>/dev/null; }
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
network=${IPVSAGENT_NETWORK:-192.168.56}

vagrant box add --force --name "$IPVSAGENT_BOX" "$1" >/dev/null
trap 'vagrant destroy -f >/dev/null 2>&1 || true' EXIT
begin=$(date +%s)
# One after the other: side by side they would wait for each other's processor, and for ssh in vain.
vagrant up --no-parallel
say "up after $(($(date +%s) - begin)) s"

pods='     10 node-1/web-1
     10 node-1/web-2
     10 node-2/web-1
     10 node-2/web-2'

on front 'ipvsagent status'
same "status on front shows both Services, in sync" "in sync 2 []" \
    "$(on front 'ipvsagent status -o json' | python3 -c '
import json, sys
agent = json.load(sys.stdin)["agent"]
print("in sync" if agent["in_sync"] else "not in sync", agent["totals"]["services"], agent["findings"])')"
same "curl on front spreads over the pods of both nodes" "$pods" "$(spread front 10.96.0.80)"
same "so does a node port, seen from outside" "$pods" "$(spread front "$network.11:30080")"
same "and a pod's own request" "$pods" \
    "$(spread node-1 10.96.0.80 "ip netns exec web-1")"
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

before=$(on front 'systemctl show -P MainPID ipvsagent')
vagrant provision front
same "provisioning again leaves a running agent alone" "$before" "$(on front 'systemctl show -P MainPID ipvsagent')"
exit $failed
