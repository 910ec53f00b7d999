"""Connections, timeouts, daemons: read as the kernel writes them, printed as ipvsadm 1.31 does."""

from __future__ import annotations

import struct

import pytest

from ipvsagent.kernel.ipvs.connections import Connection, connections, parse
from ipvsagent.kernel.ipvs.sync_daemons import SyncDaemon, unpack_daemon
from ipvsagent.kernel.ipvs.table import Timeouts
from ipvsagent.kernel.netlink import Body, attribute
from ipvsagent.status.ipvsadm_tables import connection_lines, daemon_lines, timeout_line

# As Linux 6.1 writes it, and as ipvsadm shows it.
LINES = [
    (
        b"TCP 0AF40007 A112 0A600001 01BB C0A8010A 192B ESTABLISHED     899\n",
        "TCP 14:59  ESTABLISHED 10.244.0.7:41234   10.96.0.1:443      192.168.1.10:6443",
    ),
    (
        b"UDP 0A600001 E2C4 0A600001 0035 0A010001 14E9 UDP             300\n",
        "UDP 05:00  UDP         10.96.0.1:58052    10.96.0.1:53       10.1.0.1:5353",
    ),
    (
        b"TCP 0AF40000 0000 0A600001 01BB C0A8010A 192B ASSURED       10800\n",
        "TCP 180:00 ASSURED     10.244.0.0:0       10.96.0.1:443      192.168.1.10:6443",
    ),
    (
        b"TCP fd00:0096:0000:0000:0000:0000:0000:0001 8CA0 fd00:0096:0000:0000:0000:0000:0000:0001 0050"
        b" fd00:0001:0000:0000:0000:0000:0000:0002 1F90 FIN_WAIT        119\n",
        "TCP 01:59  FIN_WAIT    [fd00:96::1]:36000 [fd00:96::1]:80    [fd00:1::2]:8080",
    ),
    (
        b"UDP 0A600001 B3F1 0A600001 0036 fd00:0001:0000:0000:0000:0000:0000:0001 0036 UDP               0\n",
        "UDP 00:00  UDP         10.96.0.1:46065    10.96.0.1:54       [fd00:1::1]:54",
    ),
    (
        b"SCTP 0A600001 0FA0 0A600001 005A 0A010001 2382 INIT1            29\n",
        "SCTP 00:29  INIT1       10.96.0.1:4000     10.96.0.1:90       10.1.0.1:9090",
    ),
]
SIP = b"UDP 0A600001 0000 0A600001 13C4 0A010001 13C4 NONE           5999 sip 5a-10@example\n"


@pytest.mark.parametrize(("line", "text"), LINES)
def test_connections(line, text):
    assert list(connection_lines([parse(line)]))[2:] == [text + "\n"]
    assert list(connection_lines([parse(line)], persistence=True))[2:] == [text + "\n"]


def test_titles():
    assert list(connection_lines([])) == [
        "IPVS connection entries\n",
        "pro expire state       source             virtual            destination\n",
    ]
    assert list(connection_lines([], persistence=True)) == [
        "IPVS connection entries\n",
        "pro expire state       source             virtual            destination        pe name          pe_data\n",
    ]


def test_persistence_engines():
    connection = parse(SIP)
    assert (connection.pe_name, connection.pe_data) == ("sip", "5a-10@example")
    start = "UDP 99:59  NONE        10.96.0.1:0        10.96.0.1:5060     10.1.0.1:5060"
    assert list(connection_lines([connection]))[2] == f"{start}\n"
    assert list(connection_lines([connection], persistence=True))[2] == (
        f"{start}    sip                5a-10@example\n"
    )


def test_bytes_of_a_client_pass_through():
    line = SIP.replace(b"5a-10", b"\xff\xc3\xa4")
    text = list(connection_lines([parse(line)], persistence=True))[2]
    assert text.encode(errors="surrogateescape").endswith(b" \xff\xc3\xa4@example\n")


def test_the_file_of_connections(tmp_path):
    file = tmp_path / "ip_vs_conn"
    title = b"Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"
    file.write_bytes(title + b"".join(line for line, _ in LINES) + b"TCP 0AF40007 A112 0A60\n")
    assert [c.protocol for c in connections(file)] == ["TCP", "UDP", "TCP", "TCP", "UDP", "SCTP"]
    assert next(connections(file)) == Connection(
        "TCP", "10.244.0.7", 41234, "10.96.0.1", 443, "192.168.1.10", 6443, "ESTABLISHED", 899
    )
    file.write_bytes(title)
    assert list(connections(file)) == []
    with pytest.raises(FileNotFoundError):
        list(connections(tmp_path / "none"))


def test_timeouts():
    assert timeout_line(Timeouts(900, 120, 300)) == "Timeout (tcp tcpfin udp): 900 120 300\n"


U8, U16, U32 = struct.Struct("=B"), struct.Struct("=H"), struct.Struct("=I")


def answer(*attributes: bytes) -> Body:
    data = b"\x0b\x01\0\0" + attribute(3, b"".join(attributes))
    return Body(data, 0, len(data))


NEEDED = [attribute(2, b"eth0\0"), attribute(3, U32.pack(7))]


@pytest.mark.parametrize(
    ("body", "daemon", "line"),
    [
        (
            answer(attribute(1, U32.pack(1)), *NEEDED),
            SyncDaemon("master", "eth0", 7),
            "master sync daemon (mcast=eth0, syncid=7)\n",
        ),
        (
            answer(
                attribute(1, U32.pack(2)),
                *NEEDED,
                attribute(4, U16.pack(1472)),
                attribute(5, bytes([224, 0, 0, 81])),
                attribute(7, U16.pack(8848)),
                attribute(8, U8.pack(1)),
            ),
            SyncDaemon("backup", "eth0", 7, 1472, "224.0.0.81", 8848, 1),
            "backup sync daemon (mcast=eth0, syncid=7, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n",
        ),
        (
            answer(attribute(1, U32.pack(1)), *NEEDED, attribute(6, bytes.fromhex("ff02" + "00" * 13 + "81"))),
            SyncDaemon("master", "eth0", 7, group="ff02::81"),
            "master sync daemon (mcast=eth0, syncid=7, group=ff02::81)\n",
        ),
    ],
)
def test_daemons(body, daemon, line):
    assert unpack_daemon(body) == daemon
    assert list(daemon_lines([daemon])) == [line]


def test_no_daemon():
    assert list(daemon_lines([])) == []
