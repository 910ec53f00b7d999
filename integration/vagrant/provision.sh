#!/bin/sh
# Makes one of the machines what it is: its pods, the agent from the checkout, the Services. Safe to run again: what is
# there is left alone, and only what changed is restarted.
#
#   provision.sh front|node-1|node-2 NETWORK     as root; NETWORK: the first three numbers of the machines' addresses
#
# Packages, of Debian and of Python, are fetched only if they are not there.
set -eu

name=$1
network=$2
checkout=/vagrant
here=$checkout/integration/vagrant
seen=/var/lib/provisioned # what was made of which files
mkdir -p $seen /etc/pods /etc/ipvsagent/cluster
say() { printf '%s: %s\n' "$name" "$*"; }
# changed WORD FILES...: whether the files differ from those at the last `done_with WORD`.
changed() {
    word=$1
    shift
    sha256sum "$@" >"$seen/$word.new"
    ! cmp -s "$seen/$word.new" "$seen/$word"
}
done_with() { mv "$seen/$1.new" "$seen/$1"; }
# place MODE FROM TO: a file that takes its place as a whole, and only if it differs.
place() {
    cmp -s "$2" "$3" && return
    install -m "$1" "$2" "$3.new"
    mv "$3.new" "$3"
}

# Packages
# shellcheck disable=SC2046
missing=$({ dpkg-query -W -f '${Package} ${Status}\n' 2>/dev/null | sed -n 's/ install ok installed$//p' &&
    cat "$here/packages.txt" "$here/packages.txt"; } | sort | uniq -c | sed -n 's/^ *2 //p' | tr '\n' ' ')
if [ -n "$missing" ]; then
    say "installing $missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # shellcheck disable=SC2086
    apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi
# Pods have a server of their own.
if systemctl --quiet is-active nginx; then systemctl disable --quiet --now nginx; fi

# The kernel
place 644 "$checkout/systemd/modules-load.conf" /etc/modules-load.d/ipvsagent.conf
grep -v '^#' /etc/modules-load.d/ipvsagent.conf | xargs modprobe -a

# Files of pods, of the Services, and of the agent's unit; an agent that runs follows its Services by itself
units=/etc/systemd/system
place 755 "$here/pods.sh" /usr/local/sbin/pods
for unit in pods.service pod-web@.service pod-dns@.service; do place 644 "$here/$unit" "$units/$unit"; done
place 644 "$checkout/systemd/ipvsagent.service" "$units/ipvsagent.service"
printf 'NODE=%s\nNETWORK=%s\n' "$name" "$network" >/etc/pods/environment
echo "IPVSAGENT_OPTIONS=--source /etc/ipvsagent/cluster --cluster-cidr 10.244.0.0/16" >/etc/default/ipvsagent
sed "s/@NETWORK@/$network/g" "$here/services.yaml" >/etc/ipvsagent/services.yaml
place 644 /etc/ipvsagent/services.yaml /etc/ipvsagent/cluster/services.yaml
pods=''
case $name in node-*) pods='pod-web@web-1 pod-web@web-2 pod-dns@dns-1' ;; esac
for pod in $pods; do pods configure "${pod#*@}"; done
systemctl daemon-reload

# Pods, and the way to those of the other node
if changed pods /usr/local/sbin/pods "$units"/pod*.service /etc/pods/*; then
    say "starting pods"
    # shellcheck disable=SC2086
    systemctl enable --quiet pods.service $pods
    # shellcheck disable=SC2086
    systemctl restart pods.service $pods
    done_with pods
fi

# The agent
pip() { /opt/ipvsagent/bin/python -m pip "$@"; }
if ! cmp -s "$checkout/requirements.txt" /opt/ipvsagent/requirements.txt; then
    say "installing what the agent needs"
    [ -x /opt/ipvsagent/bin/pip ] || python3 -m venv /opt/ipvsagent
    pip install -q --disable-pip-version-check --require-hashes -r "$checkout/requirements.txt"
    cp "$checkout/requirements.txt" /opt/ipvsagent/requirements.txt
fi
cd "$checkout"
# shellcheck disable=SC2046
if changed sources pyproject.toml $(find ipvsagent -type f ! -name '*.pyc' | sort); then
    say "installing the agent"
    # A copy, because a build writes beside its sources.
    rm -rf /tmp/ipvsagent-source
    mkdir /tmp/ipvsagent-source
    cp -r ipvsagent pyproject.toml README.md LICENSE /tmp/ipvsagent-source/
    pip install -q --disable-pip-version-check --no-deps --force-reinstall /tmp/ipvsagent-source
    rm -rf /tmp/ipvsagent-source
    ln -sf /opt/ipvsagent/bin/ipvsagent /usr/local/bin/ipvsagent
    done_with sources
fi
if changed agent "$seen/sources" /opt/ipvsagent/requirements.txt /etc/default/ipvsagent "$units/ipvsagent.service"; then
    say "starting the agent"
    systemctl enable --quiet ipvsagent
    systemctl restart ipvsagent
    done_with agent
fi
# Whatever was stopped by hand.
# shellcheck disable=SC2086
systemctl start $pods ipvsagent
say "ready"
