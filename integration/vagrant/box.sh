#!/bin/sh
# Makes a Vagrant box for libvirt from Debian packages, without a virtual machine and without loop devices.
#
#   box.sh FILE.box WHEELS     as root, in a checkout; takes about two minutes and 3 GB below $TMPDIR
#
# It is Debian 12 with the packages that provision.sh asks for, and the directory WHEELS as pip's only index, from which what
# the agent needs is installed already: machines made from it need no way out to the network. The agent itself is not in it.
set -eu

box=${1:?the box to write}
wheels=${2:?the directory with wheels}
suite=${SUITE:-bookworm}
size=4G
here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/../../requirements.txt
# What a Vagrant machine needs, and what our machines need: one list with provision.sh. No more than that, because a
# processor without KVM pays for every service that starts, and at each login for a session of systemd's.
machine=linux-image-cloud-amd64,openssh-server,sudo,systemd-sysv,dbus,ifupdown,isc-dhcp-client,udev,procps,netbase
machine=$machine,grub-pc-bin,rsync
packages=$machine,$(tr '\n' ',' <"$here/packages.txt")
packages=${packages%,}
public_key=$(find /usr/share /opt/vagrant -path '*keys/vagrant.pub' 2>/dev/null | head -n 1)
[ -n "$public_key" ] || { echo "box: no keys/vagrant.pub; install vagrant" >&2 && exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
root=$work/root

# An initial RAM disk with the drivers of such machines alone: it is unpacked at each boot.
mkdir -p "$work/initramfs-tools/conf.d"
printf 'MODULES=list\nCOMPRESS=gzip\n' >"$work/initramfs-tools/conf.d/machine"
printf '%s\n' virtio_pci virtio_net virtio_blk virtio_scsi sd_mod ahci ext4 crc32c_generic >"$work/initramfs-tools/modules"
mmdebstrap --quiet --variant=minbase --include="$packages" \
    --essential-hook="copy-in $work/initramfs-tools /etc" \
    --dpkgopt='force-confold' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$root"

printf 'LABEL=rootfs / ext4 defaults 0 1\n' >"$root/etc/fstab"
printf 'auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n' >"$root/etc/network/interfaces"
printf 'source-directory /etc/network/interfaces.d\n' >>"$root/etc/network/interfaces"
echo debian >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 debian\n' >"$root/etc/hosts"
rm -f "$root/etc/resolv.conf" "$root/etc/machine-id"
: >"$root/etc/machine-id"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

# Python packages, by content: what `pip install` in the machine would do, with the processor of this one.
mkdir "$root/opt/wheels"
cp "$wheels"/*.whl "$root/opt/wheels"
printf '[global]\nno-index = true\nfind-links = /opt/wheels\n' >"$root/etc/pip.conf"
cp "$requirements" "$root/tmp/requirements.txt"
chroot "$root" env -i PATH=/usr/bin:/bin sh -euc '
    python3 -m venv /opt/ipvsagent
    /opt/ipvsagent/bin/pip install -q --disable-pip-version-check --require-hashes -r /tmp/requirements.txt'
mv "$root/tmp/requirements.txt" "$root/opt/ipvsagent/requirements.txt"

# Vagrant's user, with the key that Vagrant publishes for it and that everybody knows.
chroot "$root" useradd --create-home --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 440 "$root/etc/sudoers.d/vagrant"
mkdir -p "$root/home/vagrant/.ssh"
cp "$public_key" "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" chown -R vagrant:vagrant /home/vagrant/.ssh
chmod 700 "$root/home/vagrant/.ssh"
echo 'UseDNS no' >"$root/etc/ssh/sshd_config.d/vagrant.conf"
# Services are started by provisioning, not by the box; nothing here wants looking after by the clock.
for unit in nginx.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer man-db.timer logrotate.timer; do
    chroot "$root" systemctl disable --quiet "$unit" 2>/dev/null || true
done

# Network cards are there from the start, and nobody logs in on a seat.
chroot "$root" systemctl mask --quiet ifupdown-pre.service systemd-logind.service

mkdir -p "$root/boot/grub"
kernel=$(cd "$root/boot" && ls vmlinuz-*)
cat >"$root/boot/grub/grub.cfg" <<END
set timeout=0
menuentry Debian {
    search --no-floppy --label rootfs --set root
    linux /boot/$kernel root=LABEL=rootfs ro net.ifnames=0 console=ttyS0 mitigations=off apparmor=0 quiet
    initrd /boot/initrd.img-${kernel#vmlinuz-}
}
END
chroot "$root" grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/core.img \
    biosdisk part_msdos ext2 normal linux search search_label configfile
cp "$root/boot/core.img" "$root/usr/lib/grub/i386-pc/boot.img" "$work"

# One partition from 1 MiB on. mke2fs fills the file system by itself, file capabilities with it.
truncate -s $size "$work/disk"
printf 'label: dos\nstart=2048, type=83, bootable\n' | sfdisk --quiet "$work/disk"
sectors=$(sfdisk --dump "$work/disk" | sed -n 's/.*size= *\([0-9]*\).*/\1/p')
mke2fs -q -t ext4 -L rootfs -d "$root" -E offset=1048576 "$work/disk" "$((sectors / 2))k"
rm -rf "$root"
dd if="$work/boot.img" of="$work/disk" bs=446 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$work/disk" bs=512 seek=1 conv=notrunc status=none

qemu-img convert -O qcow2 "$work/disk" "$work/box.img"
printf '{"provider": "libvirt", "format": "qcow2", "virtual_size": %s}\n' "${size%G}" >"$work/metadata.json"
echo "Vagrant.configure('2') { |config| config.vm.synced_folder '.', '/vagrant', type: 'rsync' }" >"$work/Vagrantfile"
mkdir -p "$(dirname "$box")"
tar -C "$work" -cf - metadata.json Vagrantfile box.img | gzip -1 >"$box.part"
mv "$box.part" "$box"
