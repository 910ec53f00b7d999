"""What only traffic makes: connections, counters, rates; and sync daemons and timeouts. Compared with ipvsadm."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import pytest

from ipvsagent.address import Address
from ipvsagent.kernel.ipvs.connections import connections
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable, Timeouts
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import (
    FULL_MASK,
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    Op,
    RealServerRow,
    Tunnel,
    Verb,
    VirtualServerRow,
)
from tests.support.ipvsadm_outputs import assert_same, theirs

pytestmark = pytest.mark.kernel

VIP, VIP6 = Address("10.96.0.1"), Address("fd00:96::1")
SERVERS, SERVERS6 = [Address(f"10.1.0.{n}") for n in (1, 2)], [Address(f"fd00:1::{n}") for n in (1, 2)]
IPPROTO_SCTP, SO_MARK = 132, 36
TABLES = [(), ("--persistent-conn",), ("--thresholds",), ("--stats",), ("--rate",), ("--stats", "--exact")]


@pytest.fixture
def ipvs(netns):
    for address in (VIP, VIP6, *SERVERS, *SERVERS6):
        # 127.0.0.1 would be the source towards an address of lo's; nodad, because it has no time to settle.
        netns.run("ip", "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
    table = IpvsTable(Ownership(Ledger(None), set()))
    yield table
    table.close()


def same_when_still(ours, *options) -> bytes:
    """Seconds tick and rates decay, so ipvsadm is asked until ours is the same before and after it."""
    for _ in range(50):
        before = ours.status(*options)
        real = theirs("-Ln", *options)
        if ours.status(*options) == before:
            assert_same(before, real)
            return before[1]
    raise AssertionError("no second without a change")


def serve(ipvs, server, reals, flags=0, scheduler="rr", pe_name="", forwarding=Forwarding.MASQUERADE, tunnel=None):
    mask = FULL_PREFIX if ":" in server.address else FULL_MASK
    row = VirtualServerRow(server, scheduler, flags, 3600 if flags & PERSISTENT else 0, mask, pe_name)
    rows = [row, *[RealServerRow(server, a, p, 1, forwarding, 1000, 10, tunnel) for a, p in reals]]
    assert ipvs.write([Op(Verb.ADD, row) for row in rows]) == []


def send(address, port, payload, times=1, mark=0):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, SO_MARK, struct.pack("=I", mark))
        for _ in range(times):
            with contextlib.suppress(ConnectionRefusedError):  # nobody listens, which is reported with the next one
                sender.sendto(payload, (address, port))


def test_connections_of_every_kind(ipvs, ours):
    tcp, tcp6 = VirtualServerId(Protocol.TCP, VIP, 80), VirtualServerId(Protocol.TCP, VIP6, 80)
    serve(ipvs, tcp, [(a, 8080) for a in SERVERS], PERSISTENT)
    serve(ipvs, tcp6, [(a, 8080) for a in SERVERS6], PERSISTENT)
    serve(ipvs, VirtualServerId(Protocol.TCP, VIP, 81), [(SERVERS[0], 1)])
    udp = VirtualServerId(Protocol.UDP, VIP, 53)
    serve(ipvs, udp, [(SERVERS[0], 5353)])
    serve(ipvs, VirtualServerId(Protocol.UDP, VIP6, 53), [(SERVERS6[0], 5353)])
    serve(ipvs, VirtualServerId(Protocol.UDP, VIP, 5060), [(SERVERS[0], 5060)], PERSISTENT, pe_name="sip")
    serve(ipvs, VirtualServerId(Protocol.UDP, VIP6, 5060), [(SERVERS6[0], 5060)], PERSISTENT, pe_name="sip")
    serve(ipvs, VirtualServerId(Protocol.SCTP, VIP, 90), [(SERVERS[0], 9090)])
    serve(ipvs, VirtualServerId(Protocol.FWM, Address("0.0.0.0"), 1 << 31), [(SERVERS[0], 0)], PERSISTENT)
    tunnelled = VirtualServerId(Protocol.UDP, VIP, 54)
    serve(ipvs, tunnelled, [(SERVERS6[0], 54)], forwarding=Forwarding.TUNNEL, tunnel=Tunnel(1, 6080, 1))

    with contextlib.ExitStack() as stack:
        for vip, servers, family in (VIP, SERVERS, socket.AF_INET), (VIP6, SERVERS6, socket.AF_INET6):
            for address in servers:
                listener = stack.enter_context(socket.create_server((address, 8080), family=family, backlog=64))
                listener.settimeout(5)
            kept = [stack.enter_context(socket.create_connection((vip, 80), timeout=5)) for _ in range(20)]
            for connection in kept[:7]:
                connection.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((VIP, 81), timeout=5)
        for address in VIP, VIP6:
            for _ in range(10):
                send(address, 53, b"question")
            send(address, 5060, b"INVITE sip:a@b SIP/2.0\r\nCall-ID: 5a-%s@example\r\n\r\n" % address.encode())
        send(VIP, 54, b"through a tunnel")
        send(VIP, 4242, b"marked", mark=1 << 31)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, IPPROTO_SCTP) as raw:
            init = struct.pack("!BBHIIHHI", 1, 0, 20, 1, 65535, 1, 1, 1)
            raw.sendto(struct.pack("!HHII", 4000, 90, 0, 0) + init, (VIP, 0))

        found = list(connections())
        plain = same_when_still(ours, "-c")
        with_data = same_when_still(ours, "-c", "--persistent-conn")
        for options in TABLES:
            same_when_still(ours, *options)
        same_when_still(ours, "-t", f"{VIP}:80", "--persistent-conn")

    assert min(len(found), plain.count(b"\n"), with_data.count(b"\n")) > 60
    assert {c.protocol for c in found} >= {"TCP", "UDP", "SCTP"}
    states = {c.state for c in found}
    assert len(states) >= 6 and {"ESTABLISHED", "UDP"} <= states, states
    assert {c.pe_data for c in found} == {"", "5a-10.96.0.1@example", "5a-fd00:96::1@example"}
    assert b" sip                5a-" in with_data
    assert {(":" in c.client, ":" in c.destination) for c in found} == {(False, False), (True, True), (False, True)}
    assert any(c.client_port == 0 for c in found)  # a template


def test_counters_that_are_shortened(ipvs, ours):
    """Over 10^8 bytes and over 10^9; larger numbers than a test can make are in test_ipvsadm_columns.py."""
    small, large = VirtualServerId(Protocol.UDP, VIP, 1), VirtualServerId(Protocol.UDP, VIP6, 2)
    serve(ipvs, small, [(a, 1) for a in SERVERS], ONE_PACKET)
    serve(ipvs, large, [(SERVERS6[0], 2)])
    payload = bytes(65000)
    send(VIP, 1, payload, times=2000)
    send(VIP6, 2, payload, times=17000)
    time.sleep(2.5)  # rates are estimated every two seconds
    texts = {options: same_when_still(ours, *options) for options in [("--rate",), ("--rate", "--exact"), *TABLES]}
    assert b"K " in texts["--stats",] and b"M " in texts["--stats",]
    assert texts["--stats",] != texts["--stats", "--exact"]
    exact = texts["--rate", "--exact"]  # on a fast machine the rate itself is over what is shortened
    (rate,) = [line for line in exact.splitlines() if line.startswith(b"UDP  [")]
    assert int(rate.split()[3]) > 0 and int(rate.split()[5]) > 1_000_000


def test_timeouts(ipvs, ours):
    for tcp, fin, udp in (900, 120, 300), (1, 2, 3), (86400, 0, 2_000_000):
        ipvs.set_timeouts(tcp, fin, udp)
        assert_same(ours.status("--timeout"), theirs("-Ln", "--timeout"))
    assert ipvs.timeouts() == Timeouts(86400, 2, 2_000_000)


def test_sync_daemons(ipvs, ours, netns):
    netns.run("ip", "link", "add", "sync0", "type", "dummy")
    netns.run("ip", "link", "set", "sync0", "up", "multicast", "on")
    netns.run("ip", "address", "add", "192.0.2.1/24", "dev", "sync0")
    netns.run("ip", "address", "add", "fd00:5::1/64", "dev", "sync0", "nodad")
    seen = set()
    for role, *options in [
        ("master", "--mcast-interface", "sync0"),
        ("backup", "--mcast-interface", "lo", "--syncid", "255"),
        ("master", "--mcast-interface", "sync0", "--mcast-group", "239.1.2.3", "--mcast-port", "9000"),
        (
            "backup",
            "--mcast-interface",
            "sync0",
            "--mcast-group",
            "ff02::81",
            "--mcast-ttl",
            "7",
            "--sync-maxlen",
            "1200",
        ),
    ]:
        theirs("--stop-daemon", role)
        assert theirs("--start-daemon", role, *options)[0] == 0
        mine = ours.status("--daemon")
        assert_same(mine, theirs("-Ln", "--daemon"))
        seen.update(mine[1].splitlines())
    for role in "master", "backup":
        assert theirs("--stop-daemon", role)[0] == 0
        assert_same(ours.status("--daemon"), theirs("-Ln", "--daemon"))
    assert len(seen) == 4
    assert any(b"group=ff02::81" in line for line in seen)
