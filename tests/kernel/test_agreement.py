"""The operator's own tools see what we wrote, and we see what they wrote."""

from __future__ import annotations

import errno
import random
import re
import select
import socket
import subprocess
import sys
import time

import pytest

from ipvsagent.address import Address, unpack
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.ipvs.ownership import Ledger, Ownership
from ipvsagent.kernel.ipvs.table import IpvsTable
from ipvsagent.kernel.monitor import AddressChange, AddressMonitor, LinkChange, Overflow
from ipvsagent.kernel.netlink import OutcomeUnknown
from ipvsagent.model import Forwarding, Protocol, VirtualServerId
from ipvsagent.rows import (
    FULL_MASK,
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    SCHED1,
    SCHED2,
    SCHEDULER_FLAGS,
    AddressRow,
    Op,
    Owner,
    RealServerRow,
    Tunnel,
    Verb,
    VirtualServerRow,
)
from tests.support.ops import add

pytestmark = pytest.mark.kernel

SCHEDULERS = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf"]


@pytest.fixture
def addresses(netns):
    table = AddressTable()
    table.ensure_interface()
    yield table
    table.close()


@pytest.fixture
def ipvs(addresses):
    table = IpvsTable(Ownership(Ledger(None), addresses.bound))
    yield table
    table.close()


def some_address(dice: random.Random, v6: bool) -> Address:
    if v6:
        return unpack(bytes([0xFD, *dice.randbytes(15)]))
    return unpack(bytes([10, *dice.randbytes(3)]))


def some_service(dice: random.Random) -> VirtualServerRow:
    v6 = dice.random() < 0.4
    protocol = dice.choice(list(Protocol))
    if protocol is Protocol.FWM:
        server = VirtualServerId(protocol, Address("::" if v6 else "0.0.0.0"), dice.randint(1, 1 << 31))
    else:
        server = VirtualServerId(protocol, some_address(dice, v6), dice.randint(1, 65535))
    flags = 0
    timeout, mask = 0, FULL_PREFIX if v6 else FULL_MASK
    if dice.random() < 0.5:
        flags |= PERSISTENT
        timeout = dice.choice([1, 60, 300, 10800, 86400])
        mask = dice.choice([mask, dice.randint(1, 127) if v6 else 0xFFFFFFFF << dice.randint(1, 31) & 0xFFFFFFFF])
    if protocol is Protocol.UDP and dice.random() < 0.5:
        flags |= ONE_PACKET
    scheduler = dice.choice(SCHEDULERS)
    if dice.random() < 0.3:
        # Of sh and mh ipvsadm knows the names of two flags and prints nothing for the third.
        flags |= dice.randint(0, 0xFF) & (SCHED1 | SCHED2 if scheduler in ("sh", "mh") else SCHEDULER_FLAGS)
    return VirtualServerRow(server, scheduler, flags, timeout, mask)


def some_real_server(dice: random.Random, server: VirtualServerId) -> RealServerRow:
    forwarding = dice.choice([Forwarding.MASQUERADE, Forwarding.ROUTE, Forwarding.TUNNEL])
    v6 = ":" in server.address
    tunnel = None
    if forwarding is Forwarding.TUNNEL:
        kind = dice.randint(0, 2)
        if kind == 1:
            tunnel = Tunnel(1, dice.randint(1, 65535), dice.choice([0, 1, 2]))
        elif kind == 2:
            tunnel = Tunnel(2, 0, dice.choice([0, 1]))
    # ipvsadm shows a real server that is not masqueraded with the port of its virtual server, set or not.
    masqueraded = forwarding is Forwarding.MASQUERADE and server.protocol is not Protocol.FWM
    port = dice.randint(1, 65535) if masqueraded else (0 if server.protocol is Protocol.FWM else server.port)
    upper = dice.randint(0, 1000)
    lower = dice.randint(0, upper)
    address = some_address(dice, v6)
    return RealServerRow(server, address, port, dice.randint(0, 65535), forwarding, upper, lower, tunnel)


def ipvsadm_line(row: VirtualServerRow | RealServerRow) -> str:
    """`str(row)` as ipvsadm 1.31 prints it: it always names the kind of tunnel."""
    tunnel = isinstance(row, RealServerRow) and row.forwarding is Forwarding.TUNNEL and row.tunnel is None
    return f"{row} --tun-type ipip" if tunnel else str(row)


def ipvsadm_rule(row: VirtualServerRow | RealServerRow) -> str:
    """A line for `ipvsadm -R`. `ipvsadm -S` leaves the thresholds out."""
    if isinstance(row, RealServerRow):
        return f"{ipvsadm_line(row)} -x {row.upper_threshold} -y {row.lower_threshold}"
    return str(row)


def generated(seed: int, services: int) -> list[VirtualServerRow | RealServerRow]:
    dice = random.Random(seed)
    rows: dict[object, VirtualServerRow | RealServerRow] = {}
    for _ in range(services):
        service = some_service(dice)
        rows[service.id] = service
        for _ in range(dice.randint(0, 4)):
            real = some_real_server(dice, service.id)
            rows[service.id, real.key] = real
    return list(rows.values())


@pytest.mark.parametrize("seed", range(4))
def test_ipvsadm_lists_what_we_wrote(netns, ipvs, seed):
    rows = generated(seed, 150)
    assert ipvs.write(add(*rows)) == []
    listed = {line.strip() for line in netns.run("ipvsadm", "-Sn").splitlines()}
    assert listed == {ipvsadm_line(row) for row in rows}
    assert {seen.row for seen in ipvs.read(None)} == set(rows)


def test_we_read_what_ipvsadm_wrote(netns, ipvs, addresses):
    rows = generated(9, 150)
    lines = "".join(f"{ipvsadm_rule(row)}\n" for row in rows)
    netns.run("ipvsadm", "-R", stdin=lines)
    seen = list(ipvs.read(None))
    assert {observed.row for observed in seen} == set(rows)
    assert {observed.owner for observed in seen} == {Owner.FOREIGN}


def test_a_set_by_us_is_an_edit_for_ipvsadm(netns, ipvs):
    server = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 80)
    real = RealServerRow(server, Address("10.0.0.1"), 8080)
    ipvs.write(add(VirtualServerRow(server, "rr", PERSISTENT, 300), real))
    ipvs.write([Op(Verb.SET, VirtualServerRow(server, "wlc")), Op(Verb.SET, RealServerRow(server, *real.key, 0))])
    assert netns.run("ipvsadm", "-Sn") == ("-A -t 10.96.0.1:80 -s wlc\n-a -t 10.96.0.1:80 -r 10.0.0.1:8080 -m -w 0\n")


def test_connections_and_counters_are_those_of_the_kernel(netns, ipvs):
    netns.run("sysctl", "-qw", "net.ipv4.vs.conntrack=1")
    netns.run("ip", "address", "add", "10.96.0.1/32", "dev", "lo")
    server = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 80)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        row = VirtualServerRow(server, "rr")
        assert ipvs.write(add(row, RealServerRow(server, Address("127.0.0.1"), port))) == []
        with socket.create_connection((server.address, 80), timeout=10), listener.accept()[0]:
            service, real = ipvs.read([server], counters=True)
            assert (real.active, real.inactive) == (1, 0)
            while service.counters.connections == 0:  # the kernel adds up every two seconds
                time.sleep(0.1)
                service, real = ipvs.read([server], counters=True)
    for observed in (service, real, *ipvs.services()):
        assert observed.counters.connections == 1
        assert observed.counters.in_packets >= 2
        assert observed.counters.in_bytes > 80


# Addresses


def test_ip_lists_what_we_bound(netns, addresses):
    dice = random.Random(1)
    rows = [AddressRow(some_address(dice, v6)) for v6 in [False] * 200 + [True] * 200]
    assert addresses.write(add(*rows)) == []
    listed = netns.run("ip", "-o", "address", "show", "dev", "kube-ipvs0").splitlines()
    assert {re.search(r"inet6? (\S+)", line)[1] for line in listed} == {str(row) for row in rows}
    for line in listed:
        assert "tentative" not in line
        assert "valid_lft forever" in line
        if " inet " in line:
            assert "scope host" in line
    assert addresses.node_addresses() == {}


def test_bound_addresses_are_local_at_once(netns, addresses):
    addresses.write(add(AddressRow(Address("10.96.0.1")), AddressRow(Address("fd00::1"))))
    assert "state DOWN" in netns.run("ip", "link", "show", "kube-ipvs0")
    for address in ("10.96.0.1", "fd00::1"):
        with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            assert netns.run("ip", "route", "get", address).startswith(f"local {address}")


def test_addresses_that_somebody_put_there_with_a_prefix(netns, addresses):
    for address in ("10.1.1.1/24", "fd01::1/64", "10.96.0.1/32"):
        netns.run("ip", "address", "add", address, "dev", "kube-ipvs0")
    found = {seen.row for seen in addresses.read(None)}
    assert {row.address for row in found} == {"10.1.1.1", "fd01::1", "10.96.0.1"}
    assert addresses.write([Op(Verb.DELETE, row) for row in found]) == []
    assert netns.run("ip", "-o", "address", "show", "dev", "kube-ipvs0") == ""


def test_node_addresses(netns, addresses):
    netns.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    netns.run("ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
    netns.run("ip", "address", "add", "169.254.7.7/16", "dev", "eth0")
    netns.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth1", "nodad")
    netns.run("ip", "address", "add", "198.51.100.9/32", "dev", "lo")
    netns.run("ip", "address", "add", "203.0.113.1", "peer", "203.0.113.2", "dev", "eth1")
    netns.run("ip", "link", "set", "eth0", "up")
    netns.run("ip", "link", "set", "eth1", "up")  # now both have IPv6 link-local ones
    addresses.write(add(AddressRow(Address("10.96.0.1"))))
    assert addresses.node_addresses() == {
        "192.0.2.1": "eth0",
        "169.254.7.7": "eth0",
        "2001:db8::1": "eth1",
        "198.51.100.9": "lo",
        "203.0.113.1": "eth1",
    }


def test_kernel_words_come_with_the_error(netns, addresses):
    netns.run("sysctl", "-qw", "net.ipv6.conf.kube-ipvs0.disable_ipv6=1")
    (failure,) = addresses.write(add(AddressRow(Address("fd00::1"))))
    assert failure.error.code == errno.EACCES
    assert str(failure.op) == "ip address add fd00::1/128"


# Lost answers


def test_answers_that_do_not_fit_are_reported_as_unknown(netns, ipvs):
    server = VirtualServerId(Protocol.TCP, Address("10.96.0.1"), 80)
    nobody = VirtualServerId(Protocol.TCP, Address("10.96.0.2"), 80)
    ipvs._socket._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    refused = [RealServerRow(nobody, Address(f"10.0.{n >> 8}.{n & 255}"), 1) for n in range(500)]
    ops = add(*refused, VirtualServerRow(server, "rr"))
    failures = ipvs.write(ops)
    assert len(failures) == 501
    unknown = [f for f in failures if isinstance(f.error, OutcomeUnknown)]
    assert {f.error.code for f in unknown} == {errno.ENOBUFS}
    assert unknown[-1].op is ops[-1]
    assert server in ipvs.ownership.ledger  # it may be there, and it is
    assert [seen.row for seen in ipvs.read(None)] == [ops[-1].row]
    assert ipvs.write(add(RealServerRow(server, Address("10.0.0.1"), 1))) == []


# The monitor


@pytest.fixture
def monitor(netns):
    made = AddressMonitor()
    yield made
    made.close()


def changes(monitor: AddressMonitor) -> list:
    assert select.select([monitor], [], [], 10)[0]
    return monitor.read()


def test_monitor_sees_addresses_and_links(netns, monitor):
    assert monitor.read() == []
    netns.run("ip", "link", "add", "new0", "type", "dummy")
    assert LinkChange("new0", present=True, up=False) in changes(monitor)
    netns.run("ip", "address", "add", "10.96.0.1/32", "dev", "new0")
    assert AddressChange("new0", Address("10.96.0.1"), present=True, odd=True) in changes(monitor)
    netns.run("ip", "address", "add", "fd00::1/128", "dev", "new0", "nodad")
    assert AddressChange("new0", Address("fd00::1"), present=True, odd=True) in changes(monitor)
    netns.run("ip", "address", "del", "10.96.0.1/32", "dev", "new0")
    assert AddressChange("new0", Address("10.96.0.1"), present=False) in changes(monitor)
    netns.run("ip", "link", "set", "new0", "up")
    assert LinkChange("new0", present=True, up=True) in changes(monitor)
    netns.run("ip", "link", "set", "new0", "down")
    netns.run("ip", "link", "set", "new0", "name", "other0")
    assert LinkChange("other0", present=True, up=False) in changes(monitor)
    netns.run("ip", "address", "add", "10.96.0.2/32", "dev", "other0")
    assert AddressChange("other0", Address("10.96.0.2"), present=True, odd=True) in changes(monitor)
    netns.run("ip", "link", "del", "other0")
    seen = changes(monitor)
    assert AddressChange("other0", Address("10.96.0.2"), present=False) in seen
    assert seen[-1] == LinkChange("other0", present=False)
    assert monitor.read() == []


def test_monitor_of_a_port_that_leaves_a_bridge(netns, monitor):
    """The kernel says RTM_DELLINK then, but the interface stays."""
    netns.run("ip", "link", "add", "bridge0", "type", "bridge")
    netns.run("ip", "link", "add", "port0", "type", "veth", "peer", "name", "port1")
    netns.run("ip", "link", "set", "port0", "master", "bridge0")
    netns.run("ip", "link", "set", "port0", "nomaster")
    assert not [c for c in changes(monitor) if isinstance(c, LinkChange) and not c.present]


def test_monitor_overflow(netns, addresses, monitor):
    monitor._socket._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    addresses.write(add(*[AddressRow(Address(f"10.96.1.{n}")) for n in range(200)]))
    seen = changes(monitor)
    while Overflow() not in seen:
        seen += changes(monitor)
    while monitor.read():
        pass
    addresses.write(add(AddressRow(Address("10.96.0.9"))))
    assert changes(monitor) == [AddressChange("kube-ipvs0", Address("10.96.0.9"), present=True)]


def test_table_that_may_not_be_written(netns):
    """Not root: every op is refused, and says so."""
    code = """
import os
from ipvsagent.kernel.ipvs.table import *
from ipvsagent.kernel.ipvs.ownership import *
from ipvsagent.rows import *
from ipvsagent.model import *
row = VirtualServerRow(VirtualServerId(Protocol.TCP, "10.96.0.1", 80), "rr")
os.setuid(65534)
table = IpvsTable(Ownership(Ledger(None), set()))
print([failure.error.code for failure in table.write([Op(Verb.ADD, row)] * 2)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str([errno.EPERM] * 2), done.stderr
