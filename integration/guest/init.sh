# The guest's process 1: makes a writable copy of the host's root, runs the command, powers off.
# Copied into the work directory, which both sides see, and run twice: first on the read-only hostfs root,
# then on the overlay. Written back into the work directory: started, status, or failure (with the reason).
# shellcheck shell=sh disable=SC2094

PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH
version=$(uname -r)

power_off() {
    busybox sync
    busybox poweroff -f
}

die() {
    echo "init: $*"
    echo "$*" >"$report/failure"
    power_off
}

change_root() {
    here=${0%/*}
    report=$here
    base=$here/root
    new=$base/new
    busybox mount -t tmpfs none "$base" || power_off
    mkdir "$base/upper" "$base/work" "$new" "$base/report"
    busybox mount -t hostfs none "$base/report" -o "$here" || power_off
    report=$base/report

    # A kernel that has everything built in has no modules at all.
    overlay=/usr/lib/uml/modules/$version/kernel/fs/overlayfs/overlay.ko
    [ ! -e "$overlay" ] || busybox insmod "$overlay"
    busybox mount -t overlay none "$new" -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" ||
        die "no overlay file system (kernel $version)"
    busybox mount -t proc none "$new/proc" || die "no /proc"
    busybox mount -t sysfs none "$new/sys" || die "no /sys"
    busybox mount -t devtmpfs none "$new/dev" || die "no /dev"
    mkdir -p "$new/dev/pts" "$new/dev/shm"
    busybox mount -t devpts none "$new/dev/pts" -o mode=620,ptmxmode=666
    ln -sfn /proc/self/fd "$new/dev/fd"
    for name in run tmp dev/shm; do
        busybox mount -t tmpfs none "$new/$name" -o mode=1777 || die "no tmpfs on /$name"
    done
    chmod 755 "$new/run"
    mkdir "$new/run/guest" "$new/run/lock"
    busybox mount -t hostfs none "$new/run/guest" -o "$here" || die "no work directory"
    while IFS= read -r directory; do
        mkdir -p "$new$directory"
        busybox mount -t hostfs none "$new$directory" -o "$directory" || die "directory $directory cannot be shared"
    done <"$here/shares"

    # Where modprobe looks, also when the kernel calls it by itself. It does that in the root of the kernel's
    # own threads: pivot_root moves these too, chroot alone does not.
    if [ -d "/usr/lib/uml/modules/$version" ]; then
        mkdir -p "$new/lib/modules"
        ln -sfn "/usr/lib/uml/modules/$version" "$new/lib/modules/$version"
    elif [ -e "$here/modules.builtin" ]; then
        mkdir -p "$new/lib/modules/$version"
        cp "$here/modules.builtin" "$here/modules.builtin.modinfo" "$new/lib/modules/$version"
        : >"$new/lib/modules/$version/modules.order"
    fi
    mkdir "$new/run/host"
    cd "$new" || die "no new root"
    busybox pivot_root . run/host || die "pivot_root failed"
    exec busybox chroot . /bin/sh /run/guest/init.sh run <dev/console >dev/console 2>&1
}

load_modules() {
    # Not by need: a module loaded by the first use of a name costs a test time, or fails in a namespace.
    modprobe -a -q ipv6 ip_vs dummy veth bridge br_netfilter nf_conntrack nf_conntrack_netlink nf_nat \
        ip_tables iptable_filter iptable_nat iptable_mangle iptable_raw \
        ip6_tables ip6table_filter ip6table_nat ip6table_mangle ip6table_raw ip6t_REJECT ipt_REJECT \
        xt_ipvs xt_set xt_MASQUERADE xt_mark xt_connmark xt_comment xt_conntrack xt_tcpudp xt_multiport \
        xt_addrtype xt_nat xt_REDIRECT xt_physdev xt_statistic xt_recent xt_sctp xt_CT xt_NFLOG xt_LOG \
        xt_limit xt_owner xt_state xt_iprange \
        netlink_diag udp_diag sctp sctp_diag
    set --
    for file in "/lib/modules/$version"/kernel/net/netfilter/ipvs/ip_vs_*.ko* \
        "/lib/modules/$version"/kernel/net/netfilter/ipset/ip_set*.ko*; do
        name=${file##*/}
        case $name in
        *'*'* | ip_vs_ftp.* | ip_vs_pe_sip.*) ;; # helpers that change what tests see
        *) set -- "$@" "${name%%.ko*}" ;;
        esac
    done
    [ $# = 0 ] || modprobe -a -q "$@"
}

load_all() {
    if [ -d "/lib/modules/$version/kernel" ]; then load_modules; else depmod "$version"; fi
    [ -e /proc/net/ip_vs ] || die "kernel $version has no module ip_vs"
}

# choose_iptables VARIANT: the commands of that name become those of one variant.
choose_iptables() {
    for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
        chosen=${name%%tables*}tables-$1${name#*tables}
        [ -x "/usr/sbin/$chosen" ] && [ -L "/etc/alternatives/$name" ] &&
            ln -sfn "/usr/sbin/$chosen" "/etc/alternatives/$name"
    done
}

# Programs choose between the variants by what is installed, so that one alone has to be the only one.
hide_nft_iptables() {
    rm -f /usr/sbin/xtables-nft-multi
}

# open_output NAME TTY: makes /run/NAME the file for the command to write to.
open_output() {
    case $(cat "/run/guest/$1") in
    terminal) ln -s "/dev/$2" "/run/$1" ;;
    pipe)
        mkfifo "/run/$1"
        busybox cat "/run/$1" >"/dev/$2" &
        cats="$cats $!"
        ;;
    esac
}

run_command() {
    report=/run/guest
    busybox umount -l /run/host
    busybox hostname guest
    busybox ip link set lo up
    load_all
    choose_iptables "$(cat /run/guest/iptables)"
    [ "$(cat /run/guest/iptables)" != legacy ] || [ -d "/lib/modules/$version/kernel" ] || hide_nft_iptables
    # Held open: the terminal's settings are lost when nobody has it open.
    exec 8<>/dev/tty1 9<>/dev/tty2
    busybox stty raw -echo <&8
    busybox stty raw -echo <&9
    if [ -s /run/guest/size ]; then
        # shellcheck disable=SC2046
        busybox stty $(cat /run/guest/size) <&8
    fi
    cats=
    open_output stdout tty1
    if [ "$(cat /run/guest/stderr)" = same ]; then
        ln -s stdout /run/stderr
    else
        open_output stderr tty2
    fi
    : >"$report/started"
    # Both outputs the same: one opening, so that what is written to them keeps its order.
    if [ -L /run/stderr ] && [ "$(readlink /run/stderr)" = stdout ]; then
        busybox setsid busybox env -i /bin/sh /run/guest/command.sh </dev/null >/run/stdout 2>&1 8>&- 9>&- &
    else
        busybox setsid busybox env -i /bin/sh /run/guest/command.sh </dev/null >/run/stdout 2>/run/stderr \
            8>&- 9>&- &
    fi
    wait $!
    status=$?

    # What is still in the pipes; a process left behind may hold them open for ever, so not for long.
    [ -z "$cats" ] || {
        (
            sleep 3
            # shellcheck disable=SC2086
            kill $cats
        ) 2>/dev/null &
        # shellcheck disable=SC2086
        wait $cats
    }
    # Setting a terminal waits until all is written.
    busybox stty raw <&8
    busybox stty raw <&9
    echo "$status" >"$report/status.new"
    mv "$report/status.new" "$report/status"
    power_off
}

if [ "$1" = run ]; then run_command; else change_root; fi
