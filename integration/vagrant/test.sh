#!/bin/sh
# Boots the machines of the Vagrantfile with libvirt and asks their Services: `make test-vagrant`, as root.
#
# Nothing is fetched but Debian packages and the agent's wheels: the box is made here and kept in ~/.cache/ipvsagent. The
# machines run in a network namespace with a libvirtd of its own (lab.sh). Without KVM (IPVSAGENT_LIBVIRT_DRIVER=qemu,
# the default here) each machine takes up to 2 GB of memory, and all of it took 19 to 33 minutes on two processors that
# had other work: half of that until the machines were up, and two to four minutes for the box, once.
set -eu

cd "$(dirname "$0")/../.."
here=integration/vagrant
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ipvsagent
export IPVSAGENT_LIBVIRT_DRIVER="${IPVSAGENT_LIBVIRT_DRIVER:-qemu}" IPVSAGENT_BOX=ipvsagent-test
export VAGRANT_DEFAULT_PROVIDER=libvirt VAGRANT_CHECKPOINT_DISABLE=1
IPVSAGENT_TEST_BEGIN=$(date +%s)
export IPVSAGENT_TEST_BEGIN
say() { printf 'vagrant: %4d s  %s\n' $(($(date +%s) - IPVSAGENT_TEST_BEGIN)) "$*"; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# By content, so that another checkout has the same box.
box=$cache/bookworm-$(cat "$here/box.sh" "$here/packages.txt" requirements.txt pyproject.toml | sha256sum | cut -c1-12).box
if [ ! -s "$box" ]; then
    say "fetching wheels"
    # Those of the box's Python, whatever this machine's is; and what builds the agent.
    download() { .venv/bin/python -m pip download -qq --disable-pip-version-check -d "$work/wheels" "$@"; }
    download --require-hashes --only-binary :all: --python-version 3.11 --platform manylinux2014_x86_64 \
        --platform manylinux_2_28_x86_64 --platform any --no-deps -r requirements.txt
    download hatchling
    say "making the box"
    mkdir -p "$cache"
    rm -f "$cache"/bookworm-*.box
    "$here/box.sh" "$box" "$work/wheels"
    rm -rf "$work/wheels"
fi

export VAGRANT_HOME="$work/home" VAGRANT_DOTFILE_PATH="$work/machines"
mkdir "$VAGRANT_HOME"
"$here/lab.sh" "$here/check.sh" "$box"
say "done"
