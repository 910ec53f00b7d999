"""Every column and number format of ipvsadm's listings, as ipvsadm 1.31 prints them.

The texts are recorded from the real one. Numbers too large for a test to make were put into it by replacing libnl's
nla_get_u64 and nla_get_u32.
"""

from __future__ import annotations

import pytest

from ipvsagent.address import Address
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import Counters, Observed, RealServerRow, Tunnel, VirtualServerRow
from ipvsagent.status.ipvsadm import Columns, large_number, listing, version_line

TCP = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 443)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "        0"),
        (1, "        1"),
        (12345678, " 12345678"),
        (99999999, " 99999999"),
        (100000000, "  100000K"),
        (100000999, "  100000K"),
        (123456789, "  123456K"),
        (999999999, "  999999K"),
        (1000000000, "    1000M"),
        (1999999999, "    1999M"),
        (4294967295, "    4294M"),
        (4294967296, "    4294M"),
        (99999999999, "   99999M"),
        (100000000000, "     100G"),
        (123456789012, "     123G"),
        (99999999999999, "   99999G"),
        (100000000000000, "     100T"),
        (999999999999999, "     999T"),
        (1000000000000000, "    1000T"),
        (9999999999999999, "    9999T"),
        (1000000000000000000, " 1000000T"),
        (9223372036854775808, " 9223372T"),
        (18446744073709551615, "18446744T"),
    ],
)
def test_large_numbers(number, text):
    assert large_number(number) == text
    assert large_number(number, exact=True) == (text if number < 10**8 else f" {number}")


LARGE = (1999999999, 4294967295, 4294967296, 99999999999, 100000000000)


@pytest.mark.parametrize(
    ("columns", "exact", "rows"),
    [
        (
            Columns.STATS,
            False,
            [
                "TCP  10.0.0.1:80                     1999M    4294M    4294M   99999M     100G",
                "  -> 1.2.3.4:80                      1999M    4294M        0   99999M     100G",
            ],
        ),
        (
            Columns.RATE,
            False,
            [
                "TCP  10.0.0.1:80                     1999M    4294M    4294M   99999M     100G",
                "  -> 1.2.3.4:80                   1999999999 4294967295        0    1215M    1215M",
            ],
        ),
        (
            Columns.STATS,
            True,
            [
                "TCP  10.0.0.1:80                  1999999999 4294967295 4294967296 99999999999 100000000000",
                "  -> 1.2.3.4:80                   1999999999 4294967295        0 99999999999 100000000000",
            ],
        ),
        (
            Columns.RATE,
            True,
            [
                "TCP  10.0.0.1:80                  1999999999 4294967295 4294967296 99999999999 100000000000",
                "  -> 1.2.3.4:80                   1999999999 4294967295        0 1215752191 1215752192",
            ],
        ),
    ],
)
def test_counters_of_more_than_32_bits(columns, exact, rows):
    server = VirtualServerId(Protocol.TCP, Address("10.0.0.1"), 80)
    counters = Counters(*LARGE, *LARGE)
    entry = (
        Observed(VirtualServerRow(server, "rr"), counters=counters),
        [Observed(RealServerRow(server, Address("1.2.3.4"), 80), counters=counters)],
    )
    assert listing([entry], columns, exact=exact).splitlines()[2:] == rows


REAL_SERVERS = [
    (RealServerRow(TCP, Address("10.244.0.235"), 8080), 0, 0, 0),
    (RealServerRow(TCP, Address("192.168.100.200"), 65535, 65535, Forwarding.LOCAL, 4294967295, 10), 1, 22, 333),
    (RealServerRow(TCP, Address("fd00:10:244::1234:5678:9abc"), 8080, 0, Forwarding.ROUTE, 1234567890, 0), 7, 0, 0),
    (
        RealServerRow(TCP, Address("10.1.1.1"), 443, 1, Forwarding.TUNNEL, tunnel=Tunnel(1, 65535, 2)),
        *(4294967295, 4294967295, 4294967295),
    ),
]


@pytest.mark.parametrize(
    ("columns", "lines"),
    [
        (
            Columns.DEFAULT,
            [
                "Prot LocalAddress:Port Scheduler Flags",
                "  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn",
                "TCP  10.96.0.1:443 rr",
                "  -> 10.244.0.235:8080            Masq    1      0          0         ",
                "  -> 192.168.100.200:65535        Local   65535  1          22        ",
                "  -> [fd00:10:244::1234:5678:9abc]:8080 Route   0      7          0         ",
                "  -> 10.1.1.1:443                 Tunnel  1      4294967295 4294967295",
            ],
        ),
        (
            Columns.THRESHOLDS,
            [
                "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn ",
                "  -> RemoteAddress:Port",
                "TCP  10.96.0.1:443 rr",
                "  -> 10.244.0.235:8080            0          0          0          0         ",
                "  -> 192.168.100.200:65535        4294967295 10         1          22        ",
                "  -> [fd00:10:244::1234:5678:9abc]:8080 1234567890 0          7          0         ",
                "  -> 10.1.1.1:443                 0          0          4294967295 4294967295",
            ],
        ),
        (
            Columns.PERSISTENT,
            [
                "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn ",
                "  -> RemoteAddress:Port",
                "TCP  10.96.0.1:443 rr",
                "  -> 10.244.0.235:8080            1         0           0          0         ",
                "  -> 192.168.100.200:65535        65535     333         1          22        ",
                "  -> [fd00:10:244::1234:5678:9abc]:8080 0         0           7          0         ",
                "  -> 10.1.1.1:443                 1         4294967295  4294967295 4294967295",
            ],
        ),
        (
            Columns.TUNNEL,
            [
                "Prot LocalAddress:Port Scheduler Flags",
                "  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn",
                "TCP  10.96.0.1:443 rr",
                "  -> 10.244.0.235:8080            Masq    n/a           1      0          0         ",
                "  -> 192.168.100.200:65535        Local   n/a           65535  1          22        ",
                "  -> [fd00:10:244::1234:5678:9abc]:8080 Route   n/a           0      7          0         ",
                "  -> 10.1.1.1:443                 Tunnel  gue:65535:r+c 1      4294967295 4294967295",
            ],
        ),
        (
            Columns.STATS,
            [
                "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes",
                "  -> RemoteAddress:Port",
                "TCP  10.96.0.1:443                       0        0        0        0        0",
                "  -> 10.244.0.235:8080                   0        0        0        0        0",
                "  -> 192.168.100.200:65535               0        0        0        0        0",
                "  -> [fd00:10:244::1234:5678:9abc]:8080        0        0        0        0        0",
                "  -> 10.1.1.1:443                        0        0        0        0        0",
            ],
        ),
        (
            Columns.RATE,
            [
                "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS",
                "  -> RemoteAddress:Port",
                "TCP  10.96.0.1:443                       0        0        0        0        0",
                "  -> 10.244.0.235:8080                   0        0        0        0        0",
                "  -> 192.168.100.200:65535               0        0        0        0        0",
                "  -> [fd00:10:244::1234:5678:9abc]:8080        0        0        0        0        0",
                "  -> 10.1.1.1:443                        0        0        0        0        0",
            ],
        ),
    ],
)
def test_columns(columns, lines):
    reals = [Observed(row, active=a, inactive=i, persistent=p) for row, a, i, p in REAL_SERVERS]
    text = listing([(Observed(VirtualServerRow(TCP, "rr")), reals)], columns, nosort=True)
    assert text == "".join(line + "\n" for line in lines)


@pytest.mark.parametrize(
    ("tunnel", "text"),
    [
        (None, "ipip"),
        (Tunnel(), "ipip"),
        (Tunnel(0, 0, 1), "ipip"),
        (Tunnel(1, 6080, 0), "gue:6080:-c"),
        (Tunnel(1, 6080, 1), "gue:6080:+c"),
        (Tunnel(2, 0, 0), "gre:-c"),
        (Tunnel(2, 0, 1), "gre:+c"),
        (Tunnel(2, 0, 2), "gre:r+c"),
        (Tunnel(9, 0, 9), "n/a"),
    ],
)
def test_tunnels(tunnel, text):
    real = RealServerRow(TCP, Address("10.1.1.1"), 443, 1, Forwarding.TUNNEL, tunnel=tunnel)
    line = listing([(Observed(VirtualServerRow(TCP, "rr")), [Observed(real)])], Columns.TUNNEL).splitlines()[-1]
    assert line == f"  -> 10.1.1.1:443                 Tunnel  {text:<13} 1      0          0         "


def test_version():
    assert version_line((1, 2, 1), 4096) == "IP Virtual Server version 1.2.1 (size=4096)\n"
