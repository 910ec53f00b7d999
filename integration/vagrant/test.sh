#!/bin/sh
# Boots the machines of the Vagrantfile with libvirt and asks their Services: `make test-vagrant`, as root.
#
# Nothing is fetched but Debian packages and the agent's wheels: the box is made here and kept in ~/.cache/ipvsagent. The
# machines run in a network namespace with a libvirtd of its own (lab.sh). Without KVM (IPVSAGENT_LIBVIRT_DRIVER=qemu,
# the default here) each machine takes 2 GB of memory, and took eight to fifteen minutes on two busy processors.
set -eu

cd "$(dirname "$0")/../.."
here=integration/vagrant
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ipvsagent
box=$cache/bookworm.box
export IPVSAGENT_LIBVIRT_DRIVER="${IPVSAGENT_LIBVIRT_DRIVER:-qemu}" IPVSAGENT_BOX=ipvsagent-test
export VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_CHECKPOINT_DISABLE=1

mkdir -p "$cache"
if [ ! -s "$box" ] || [ "$here/box.sh" -nt "$box" ] || [ "$here/packages.txt" -nt "$box" ]; then
    echo "vagrant: making the box"
    "$here/box.sh" "$box"
fi
if [ ! -d .wheels ] || [ requirements.txt -nt .wheels ]; then
    echo "vagrant: fetching wheels"
    rm -rf .wheels .wheels.part
    # Those of the box's Python, whatever this machine's is.
    .venv/bin/python -m pip download -qq --disable-pip-version-check --require-hashes --only-binary :all: \
        --python-version 3.11 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 --platform any \
        --no-deps -d .wheels.part -r requirements.txt
    .venv/bin/python -m pip download -qq --disable-pip-version-check -d .wheels.part hatchling
    mv .wheels.part .wheels
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
export VAGRANT_HOME="$work/home" VAGRANT_DOTFILE_PATH="$work/machines"
mkdir "$VAGRANT_HOME"
"$here/lab.sh" "$here/check.sh" "$box"
