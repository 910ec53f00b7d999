"""Virtual servers as ipvsadm 1.31 lists and saves them, and real servers as it saves them."""

from __future__ import annotations

import pytest

from ipvsagent.address import Address
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import (
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    SCHED1,
    SCHED2,
    SCHED3,
    Observed,
    RealServerRow,
    Tunnel,
    VirtualServerRow,
)
from ipvsagent.status.ipvsadm import service_text
from ipvsagent.status.ipvsadm_rules import saved

TCP = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 443)
V6 = VirtualServerId(Protocol.TCP, Address("fd00::1"), 443)
UDP = VirtualServerId(Protocol.UDP, Address("10.96.0.10"), 53)
SCTP = VirtualServerId(Protocol.SCTP, Address("10.0.2.15"), 31514)


def mark(number, v6=False):
    return VirtualServerId(Protocol.FWM, Address("::" if v6 else "0.0.0.0"), number)


# Listed, saved by ipvsadm, and saved whole if that differs.
SERVICES = [
    (VirtualServerRow(TCP, "rr"), "TCP  10.96.0.1:443 rr", "-A -t 10.96.0.1:443 -s rr", None),
    (VirtualServerRow(SCTP, "wlc"), "SCTP 10.0.2.15:31514 wlc", "-A --sctp-service 10.0.2.15:31514 -s wlc", None),
    (
        VirtualServerRow(UDP, "rr", ONE_PACKET),
        "UDP  10.96.0.10:53 rr ops",
        "-A -u 10.96.0.10:53 -s rr -o",
        None,
    ),
    (
        VirtualServerRow(TCP, "sh", SCHED1 | SCHED2 | PERSISTENT, 10800, 0xFFFFFF00, "sip"),
        "TCP  10.96.0.1:443 sh (sh-fallback,sh-port) persistent 10800 mask 255.255.255.0 pe sip",
        "-A -t 10.96.0.1:443 -s sh -p 10800 -M 255.255.255.0 --pe sip -b sh-fallback,sh-port",
        None,
    ),
    (
        VirtualServerRow(V6, "mh", SCHED2 | PERSISTENT, 10800, 64),
        "TCP  [fd00::1]:443 mh (mh-port) persistent 10800 mask 64",
        "-A -t [fd00::1]:443 -s mh -p 10800 -M 64 -b mh-port",
        None,
    ),
    (
        VirtualServerRow(V6, "rr", PERSISTENT, 1, FULL_PREFIX),
        "TCP  [fd00::1]:443 rr persistent 1",
        "-A -t [fd00::1]:443 -s rr -p 1",
        None,
    ),
    (
        VirtualServerRow(TCP, "wrr", SCHED1 | SCHED2 | SCHED3),
        "TCP  10.96.0.1:443 wrr (flag-1,flag-2,flag-3)",
        "-A -t 10.96.0.1:443 -s wrr -b flag-1,flag-2,flag-3",
        None,
    ),
    (
        VirtualServerRow(TCP, "sh", SCHED3),
        "TCP  10.96.0.1:443 sh ()",
        "-A -t 10.96.0.1:443 -s sh -b ",
        "-A -t 10.96.0.1:443 -s sh -b flag-3",
    ),
    (
        VirtualServerRow(UDP, "rr", 0, 0, 0xFFFFFFFF, "sip"),
        "UDP  10.96.0.10:53 rr",
        "-A -u 10.96.0.10:53 -s rr --pe sip",
        None,
    ),
    (VirtualServerRow(mark(7), "wlc"), "FWM  7 wlc", "-A -f 7 -s wlc", None),
    (VirtualServerRow(mark(7, v6=True), "rr", mask=128), "FWM  7 IPv6 rr", "-A -f 7 -6 -s rr", None),
    (VirtualServerRow(mark(2147483647), "rr"), "FWM  2147483647 rr", "-A -f 2147483647 -s rr", None),
    (
        VirtualServerRow(mark(2147483648), "rr"),
        "FWM  -2147483648 rr",
        "-A -f -2147483648 -s rr",
        "-A -f 2147483648 -s rr",
    ),
    (
        VirtualServerRow(mark(4294967295, v6=True), "rr", mask=128),
        "FWM  -1 IPv6 rr",
        "-A -f -1 -6 -s rr",
        "-A -f 4294967295 -6 -s rr",
    ),
]


@pytest.mark.parametrize(("row", "listed", "rule", "whole"), SERVICES)
def test_virtual_servers(row, listed, rule, whole):
    assert service_text(row) == listed
    assert saved([(Observed(row), [])]) == f"{rule}\n"
    assert saved([(Observed(row), [])], complete=True) == f"{whole or rule}\n"


@pytest.mark.parametrize(
    ("row", "rule", "whole"),
    [
        (RealServerRow(TCP, Address("10.1.1.1"), 80, 0), "-t 10.96.0.1:443 -r 10.1.1.1:80 -m -w 0", ""),
        (
            RealServerRow(TCP, Address("10.1.1.1"), 80, 9, Forwarding.LOCAL, 10, 5),
            "-t 10.96.0.1:443 -r 10.1.1.1:80 -g -w 9",
            " -x 10 -y 5",
        ),
        (
            RealServerRow(V6, Address("fd00::2"), 443, 1, Forwarding.ROUTE, 4294967295),
            "-t [fd00::1]:443 -r [fd00::2]:443 -g -w 1",
            " -x 2147483647",
        ),
        (
            RealServerRow(UDP, Address("fd00::2"), 53, 1, Forwarding.TUNNEL),
            "-u 10.96.0.10:53 -r [fd00::2]:53 -i -w 1 --tun-type ipip",
            "",
        ),
        (
            RealServerRow(mark(7), Address("10.1.1.1"), 0, 1, Forwarding.TUNNEL, 0, 0, Tunnel(1, 6080, 2)),
            "-f 7 -r 10.1.1.1:0 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
            "",
        ),
        (
            RealServerRow(TCP, Address("10.1.1.1"), 443, 1, Forwarding.TUNNEL, 3, 3, Tunnel(2, 0, 0)),
            "-t 10.96.0.1:443 -r 10.1.1.1:443 -i -w 1 --tun-type gre --tun-nocsum",
            " -x 3 -y 3",
        ),
        (
            RealServerRow(TCP, Address("10.1.1.1"), 443, 1, Forwarding.TUNNEL, 0, 0, Tunnel(9, 0, 9)),
            "-t 10.96.0.1:443 -r 10.1.1.1:443 -i -w 1",
            "",
        ),
        # Only a tunnel shows how it would encapsulate.
        (
            RealServerRow(TCP, Address("10.1.1.1"), 443, 1, Forwarding.ROUTE, 0, 0, Tunnel(1, 9, 0)),
            "-t 10.96.0.1:443 -r 10.1.1.1:443 -g -w 1",
            "",
        ),
    ],
)
def test_saved_real_servers(row, rule, whole):
    entry = (Observed(VirtualServerRow(row.server, "rr")), [Observed(row)])
    assert saved([entry]).splitlines()[1] == f"-a {rule}"
    assert saved([entry], complete=True).splitlines()[1] == f"-a {rule}{whole}"
