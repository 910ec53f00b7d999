#!/bin/sh
# Installs what the project needs from outside. Safe to run again; does nothing when all is there.
#
#   setup.sh            Debian packages for the demo and the tests (as root, or by sudo without a password)
#   setup.sh kernel     what building a kernel for the guest needs as well
#   setup.sh image      what `make test-image` needs as well
#   setup.sh vagrant    what `make test-vagrant` needs as well
#   setup.sh apiserver  what `make test-apiserver` needs as well
#   setup.sh venv DIR   a virtual environment in DIR, with the newest Python that comes first on PATH
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s\n' "setup: $*" >&2; }

# What must be on PATH, or at its path, and the Debian package it comes from.
programs='linux.uml:user-mode-linux modprobe:kmod busybox:busybox-static ip:iproute2
    ipvsadm:ipvsadm ipset:ipset iptables-legacy:iptables conntrack:conntrack nft:nftables make:make
    /usr/lib/cni/portmap:containernetworking-plugins'

kernel_programs='gcc:gcc flex:flex bison:bison bc:bc xz:xz-utils /usr/include/stdio.h:libc6-dev'
image_programs='buildah:buildah podman:podman runc:runc mmdebstrap:mmdebstrap'
vagrant_programs='vagrant:vagrant libvirtd:libvirt-daemon-system virsh:libvirt-clients rsync:rsync sfdisk:fdisk
    qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils dnsmasq:dnsmasq-base mmdebstrap:mmdebstrap'
plugin='' # a file that the package vagrant-libvirt has, if that is needed

missing_packages() {
    [ -z "$plugin" ] || [ -e "$plugin" ] || printf 'vagrant-libvirt '
    for pair in $programs; do
        command -v "${pair%%:*}" >/dev/null 2>&1 || printf '%s ' "${pair#*:}"
    done
    # A Python of any origin will do, if it can make virtual environments.
    python=$(find_python) || { printf 'python3 python3-venv ' && return; }
    case $python in
    /usr/bin/* | /bin/*) can_make_venv "$python" || printf 'python3-venv ' ;;
    esac
}

# The first Python on PATH that is new enough. Asked, not looked at: a name on PATH may be a wrapper that fails.
find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
        path=$(command -v "$name") || continue
        "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue
        printf '%s\n' "$path"
        return 0
    done
    return 1
}

can_make_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

supported_debian() {
    [ -r /etc/os-release ] || return 1
    (
        # shellcheck source=/dev/null
        . /etc/os-release
        [ "${ID:-}" = debian ] && case ${VERSION_ID:-} in 12 | 13) true ;; *) false ;; esac
    )
}

install_packages() {
    packages=$(missing_packages)
    packages=${packages% }
    [ -n "$packages" ] || return 0
    if ! supported_debian; then
        say "missing on this machine: $packages"
        say "these are the names of Debian's packages, and only Debian 12 and 13 are set up by this script;"
        say "install what provides the same programs, then run it again"
        return 1
    fi
    if [ "$(id -u)" = 0 ]; then
        as_root='env'
    elif sudo -n true 2>/dev/null; then
        as_root='sudo -n env'
    else
        say "some Debian packages are missing and this is not root; run this, then try again:"
        say "  sudo sh -c 'apt-get update && apt-get install -y --no-install-recommends $packages'"
        return 1
    fi
    say "installing $packages"
    # Lists may be missing or old. If they cannot be had, the old ones may still do.
    # shellcheck disable=SC2086
    $as_root DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null || say "apt-get update failed, going on"
    # shellcheck disable=SC2086
    $as_root DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 \
        install -y --no-install-recommends $packages </dev/null >/dev/null
    packages=$(missing_packages)
    [ -z "$packages" ] || { say "installed, but still not found: $packages" && return 1; }
}

make_venv() {
    if ! python=$(find_python) || ! can_make_venv "$python"; then
        install_packages # python3 and python3-venv are among them
        python=$(find_python) || { say "no Python from 3.11 on PATH" && return 1; }
        can_make_venv "$python" || { say "$python has no modules venv and ensurepip: install them" && return 1; }
    fi
    # An incomplete one, or one made with a Python that no longer exists, is made again.
    "$1/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$1"
}

case ${1:-} in
'') install_packages ;;
kernel)
    programs="$programs $kernel_programs"
    install_packages
    ;;
image)
    programs="$programs $image_programs"
    install_packages
    ;;
vagrant)
    programs="$programs $vagrant_programs"
    plugin=/usr/share/vagrant-plugins/plugins.d/vagrant-libvirt.json
    install_packages
    ;;
apiserver)
    programs="$programs mmdebstrap:mmdebstrap unshare:util-linux"
    install_packages
    ;;
venv) make_venv "${2:?the directory of the virtual environment}" ;;
*) say "unknown word $1" && exit 2 ;;
esac
