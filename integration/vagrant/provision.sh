#!/bin/sh
# Makes one of the machines what it is: its pods, the agent from the checkout, the Services. Safe to run again.
#
#   provision.sh front|node-1|node-2 NETWORK     as root; NETWORK: the first three numbers of the machines' addresses
#
# Packages and wheels are fetched only if they are not there: wheels from /vagrant/.wheels, if it exists.
set -eu

name=$1
network=$2
checkout=/vagrant
here=$checkout/integration/vagrant
say() { printf '%s: %s\n' "$name" "$*"; }

# Packages
missing=''
for package in $(cat "$here/packages.txt"); do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "installing$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    # shellcheck disable=SC2086
    apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi
systemctl disable --quiet --now nginx 2>/dev/null || true # pods have their own

# The kernel
install -m 644 "$checkout/systemd/modules-load.conf" /etc/modules-load.d/ipvsagent.conf
grep -v '^#' /etc/modules-load.d/ipvsagent.conf | xargs modprobe -a

# Pods, and the way to those of the other node
mkdir -p /etc/pods
install -m 755 "$here/pods.sh" /usr/local/sbin/pods
install -m 644 "$here/pods.service" "$here/pod-web@.service" "$here/pod-dns@.service" /etc/systemd/system/
printf 'NODE=%s\nNETWORK=%s\n' "$name" "$network" >/etc/pods/environment
systemctl daemon-reload
systemctl enable --quiet pods.service
systemctl restart pods.service
case $name in
node-*)
    for unit in pod-web@web-1 pod-web@web-2 pod-dns@dns-1; do
        pods configure "${unit#*@}"
        systemctl enable --quiet "$unit"
        systemctl restart "$unit"
    done
    ;;
esac

# The agent, made anew if its sources changed
sources=$(cd "$checkout" && find ipvsagent pyproject.toml requirements.txt -type f ! -name '*.pyc' -print0 |
    sort -z | xargs -0 sha256sum | sha256sum)
if [ "$(cat /opt/ipvsagent/sources 2>/dev/null)" != "$sources" ]; then
    say "installing the agent"
    if [ -d "$checkout/.wheels" ]; then
        export PIP_NO_INDEX=1 PIP_FIND_LINKS=$checkout/.wheels
    fi
    [ -x /opt/ipvsagent/bin/pip ] || python3 -m venv /opt/ipvsagent
    /opt/ipvsagent/bin/pip install -q --no-compile --disable-pip-version-check --require-hashes -r "$checkout/requirements.txt"
    rm -rf /tmp/ipvsagent-source
    mkdir /tmp/ipvsagent-source
    (cd "$checkout" && cp -r ipvsagent pyproject.toml README.md LICENSE /tmp/ipvsagent-source/)
    /opt/ipvsagent/bin/pip install -q --no-compile --disable-pip-version-check --no-deps --force-reinstall /tmp/ipvsagent-source
    rm -rf /tmp/ipvsagent-source
    ln -sf /opt/ipvsagent/bin/ipvsagent /usr/local/bin/ipvsagent
    printf '%s\n' "$sources" >/opt/ipvsagent/sources
    rm -f /run/ipvsagent.unit
fi

# Its Services: the file takes its place as a whole, and an agent that runs follows it
mkdir -p /etc/ipvsagent/cluster
sed "s/@NETWORK@/$network/g" "$here/services.yaml" >/etc/ipvsagent/.services.yaml
mv /etc/ipvsagent/.services.yaml /etc/ipvsagent/cluster/services.yaml
echo "IPVSAGENT_OPTIONS=--source /etc/ipvsagent/cluster --cluster-cidr 10.244.0.0/16" >/etc/default/ipvsagent
install -m 644 "$checkout/systemd/ipvsagent.service" /etc/systemd/system/ipvsagent.service
systemctl daemon-reload
systemctl enable --quiet ipvsagent
unit=$(sha256sum /etc/default/ipvsagent /etc/systemd/system/ipvsagent.service)
if [ "$(cat /run/ipvsagent.unit 2>/dev/null)" != "$unit" ]; then
    systemctl restart ipvsagent
    printf '%s\n' "$unit" >/run/ipvsagent.unit
else
    systemctl start ipvsagent
fi
say "ready"
