#!/bin/sh
# Runs a command where libvirt works and the machine's own network is out of reach: in a network namespace made for it,
# with a libvirtd of its own. Nothing of it is left afterwards.
#
#   lab.sh COMMAND...   as root; no other libvirtd may run
set -eu

[ "$(id -u)" = 0 ] || { echo "lab: must be root" >&2 && exit 1; }
if [ -z "${LAB_WORK:-}" ]; then
    ! pgrep -x libvirtd >/dev/null || { echo "lab: a libvirtd runs already; stop it first" >&2 && exit 1; }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    # Guests, dnsmasq and the daemons end with the process namespace.
    LAB_WORK=$work unshare --net --mount --propagation private --pid --fork --kill-child --mount-proc "$0" "$@"
    exit
fi

work=$LAB_WORK
unset LAB_WORK
mkdir -p "$work/run"
ip link set lo up
# Of this network namespace, and without control groups: libvirt would try to make some.
umount --lazy /sys
mount -t sysfs sysfs /sys

# QEMU without KVM: where /dev/kvm opens but runs no guest, libvirt probes QEMU again for minutes each time.
if [ "${IPVSAGENT_LIBVIRT_DRIVER:-kvm}" = qemu ] && [ -e /dev/kvm ]; then
    : >"$work/no-kvm"
    chmod 0 "$work/no-kvm"
    mount --bind "$work/no-kvm" /dev/kvm
fi
# The configurations hold what Debian installs, and these words.
printf 'user = "root"\ngroup = "root"\nnamespaces = []\nsecurity_driver = "none"\nremember_owner = 0\n' >"$work/qemu.conf"
mount --bind "$work/qemu.conf" /etc/libvirt/qemu.conf
# State, networks, domains and images of this libvirtd alone.
mkdir -p "$work/lib" "$work/etc-qemu" "$work/etc-storage" /var/lib/libvirt /run/libvirt
mount --bind "$work/lib" /var/lib/libvirt
mkdir -p /var/lib/libvirt/images /var/lib/libvirt/qemu /var/lib/libvirt/dnsmasq /var/lib/libvirt/boot
mount --bind "$work/run" /run/libvirt
mount --bind "$work/etc-qemu" /etc/libvirt/qemu
mkdir -p /etc/libvirt/qemu/networks/autostart
[ ! -d /etc/libvirt/storage ] || mount --bind "$work/etc-storage" /etc/libvirt/storage

virtlogd -d -p "$work/virtlogd.pid"
libvirtd -d -p "$work/libvirtd.pid"
tries=0
until virsh -q -c qemu:///system list >/dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 60 ] || { echo "lab: libvirtd does not answer" >&2 && exit 1; }
    sleep 0.5
done
"$@"
