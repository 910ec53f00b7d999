"""Which answers machines on the node's network get to "who has this address?", by packets."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network

import pytest

from integration.lab import Lab, Machine, Namespace, Pod, Topology
from ipvsagent.address import Address
from ipvsagent.kernel.addresses import AddressTable
from ipvsagent.kernel.arp import lan_interfaces
from ipvsagent.kernel.links import Link
from tests.support.agent_processes import Agents
from tests.support.cluster_documents import NODE_ADDRESS, endpoint_slice, service
from tests.support.proxied_node import A, B, ProxiedNode, eventually

ARP, IPV6 = 0x0806, 0x86DD
ASKER = "192.168.56.1"
PATIENCE = 0.4
_ARP = struct.Struct("!HHBBH6s4s6s4s")


class Wire:
    """A machine's view of the node's network: raw frames on the device `lan` of the lab's switch."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    @contextmanager
    def frames(self, kind: int) -> Iterator[socket.socket]:
        with self._namespace.entered():
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(kind))
        with made:
            made.bind(("lan", kind))
            yield made

    def who_has(self, address: str) -> bool:
        """Whether anybody answers."""
        with self.frames(ARP) as wire:
            own = _link_address(wire)
            body = _ARP.pack(1, 0x0800, 6, 4, 1, own, pack(ASKER), bytes(6), pack(address))
            wire.send(b"\xff" * 6 + own + struct.pack("!H", ARP) + body)
            return any(frame[6] == pack(address) for frame in _arp_frames(wire, 2))

    def senders_of_requests(self, wire: socket.socket) -> set[str]:
        """The addresses that others give as theirs when they ask."""
        return {str(ip_address(frame[6])) for frame in _arp_frames(wire, 1)}

    def who_has_v6(self, address: str, source: str) -> bool:
        """Whether anybody advertises it to a neighbour solicitation."""
        target = ip_address(address).packed
        group = ip_address("ff02::1:ff00:0").packed[:13] + target[13:]
        with self.frames(IPV6) as wire:
            own = _link_address(wire)
            icmp = struct.pack("!BBHI", 135, 0, 0, 0) + target + b"\x01\x01" + own
            pseudo = ip_address(source).packed + group + struct.pack("!II", len(icmp), 58)
            icmp = icmp[:2] + struct.pack("!H", _checksum(pseudo + icmp)) + icmp[4:]
            packet = struct.pack("!IHBB", 6 << 28, len(icmp), 58, 255) + ip_address(source).packed + group + icmp
            wire.send(b"\x33\x33" + group[12:] + own + struct.pack("!H", IPV6) + packet)
            deadline = time.monotonic() + PATIENCE
            while (left := deadline - time.monotonic()) > 0:
                wire.settimeout(left)
                try:
                    frame = wire.recv(2048)[14:]
                except TimeoutError:
                    break
                if frame[6] == 58 and frame[40] == 136 and frame[48:64] == target:
                    return True
        return False


def _link_address(wire: socket.socket) -> bytes:
    address: bytes = wire.getsockname()[4]
    return address


def pack(address: str) -> bytes:
    return ip_address(address).packed


def _arp_frames(wire: socket.socket, operation: int) -> Iterator[tuple]:
    deadline = time.monotonic() + PATIENCE
    while (left := deadline - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            frame = _ARP.unpack_from(wire.recv(2048), 14)
        except TimeoutError:
            return
        if frame[4] == operation:
            yield frame


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@pytest.fixture
def wire(place) -> Iterator[Wire]:
    yield Wire(place.lab.wire)
    for name in ("all", "eth0"):
        place.node.set_kernel({f"net/ipv4/conf/{name}/arp_{what}": "0" for what in ("ignore", "announce")})


def value(place: ProxiedNode, name: str) -> int:
    return int(place.node.run("sysctl", "-n", name))


def scopes(place: ProxiedNode) -> dict[str, str]:
    lines = place.node.run("ip", "-4", "-o", "address", "show", "dev", "kube-ipvs0").splitlines()
    return {line.split()[3].split("/")[0]: line.split()[5] for line in lines}


LB = "192.168.56.200"  # of the nodes' own network, as MetalLB hands them out


def load_balancer(place: ProxiedNode) -> tuple[dict, dict]:
    document = service("web", place.free_address())
    document["spec"]["type"] = "LoadBalancer"
    document["status"] = {"loadBalancer": {"ingress": [{"ip": LB}]}}
    return document, endpoint_slice("web", [A, B])


def announced(place: ProxiedNode) -> None:
    """The router knows that LB is at this node, as MetalLB's speaker would tell it."""
    link = json.loads(place.node.run("ip", "-j", "link", "show", "eth0"))[0]["address"]
    place.lab.wire.run("ip", "neighbour", "replace", LB, "lladdr", link, "nud", "permanent", "dev", "lan")


@pytest.mark.kernel
def test_silence_for_service_addresses_only(place, agents: Agents, wire):
    place.node.run("ip", "link", "add", "other0", "type", "dummy")
    place.node.run("ip", "address", "add", "192.168.56.77/32", "dev", "other0")
    agents.wants(*load_balancer(place))
    agent = agents.in_sync()
    assert LB in place.bound()
    assert not wire.who_has(LB)
    assert wire.who_has(NODE_ADDRESS)
    assert wire.who_has("192.168.56.77"), "an address on another interface is not ours to silence"
    assert value(place, "net.ipv4.conf.all.arp_ignore") == value(place, "net.ipv4.conf.all.arp_announce") == 0
    assert value(place, "net.ipv4.conf.pod0.arp_ignore") == 0
    # What the node asks itself, while an answer with a Service's address waits; another program announces that one.
    announced(place)
    with wire.frames(ARP) as frames:
        place.node.run("ip", "neighbour", "flush", "dev", "eth0")
        assert sorted(place.answers(LB, 2)) == ["A", "B"]
        assert wire.senders_of_requests(frames) == {NODE_ADDRESS}
    # Somebody undoes it.
    place.node.run("sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=0")
    agent.says(r"repaired drift \(sysctl\): net.ipv4.conf.eth0.arp_ignore", 15)
    assert not wire.who_has(LB)
    assert agent.stop() == 0
    assert agents.end_of("cleanup", "--yes").wait() == 0
    assert value(place, "net.ipv4.conf.eth0.arp_ignore") == value(place, "net.ipv4.conf.eth0.arp_announce") == 0
    place.node.run("ip", "link", "delete", "other0")


@pytest.mark.kernel
def test_answers_where_it_is_told_to(place, agents: Agents, wire):
    """What the test before this one would see, did the agent nothing."""
    agents.wants(*load_balancer(place))
    agents.in_sync("--answer-arp")
    assert wire.who_has(LB)
    with wire.frames(ARP) as frames:
        place.node.run("ip", "neighbour", "flush", "dev", "eth0")
        place.answers(LB, 1)
        assert LB in wire.senders_of_requests(frames)


@pytest.mark.kernel
def test_strict_arp_is_what_kube_proxy_makes_of_it(place, agents: Agents, wire):
    agents.wants(*load_balancer(place))
    agents.in_sync("--ipvs-strict-arp")
    assert value(place, "net.ipv4.conf.all.arp_ignore") == 1
    assert value(place, "net.ipv4.conf.all.arp_announce") == 2
    assert value(place, "net.ipv4.conf.eth0.arp_ignore") == 0
    assert not wire.who_has(LB) and wire.who_has(NODE_ADDRESS)


@pytest.mark.kernel
@pytest.mark.parametrize("given", [1, 2, 8])
def test_what_others_raised_stays(place, agents: Agents, wire, given):
    place.node.run("sysctl", "-qw", f"net.ipv4.conf.eth0.arp_ignore={given}")
    agents.wants(*load_balancer(place))
    agents.in_sync()
    assert value(place, "net.ipv4.conf.eth0.arp_ignore") == given
    assert not wire.who_has(LB)


@pytest.mark.kernel
def test_addresses_of_kube_proxy_change_scope_under_traffic(place, agents: Agents, wire, web):
    """It binds with scope global. Nobody notices the change, and a second start finds nothing to do."""
    document, pieces, address = web
    balancer = load_balancer(place)[0]
    balancer["metadata"]["name"] = "balancer"
    place.node.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
    for each in (address, LB):
        place.node.run("ip", "address", "add", f"{each}/32", "dev", "kube-ipvs0")
    for real in (A, B):
        place.node.run("ipvsadm", "-R", stdin="") if real == A else None
    place.node.run(
        "ipvsadm",
        "-R",
        stdin=f"-A -t {address}:80 -s rr\n" + "".join(f"-a -t {address}:80 -r {r}:8080 -m\n" for r in (A, B)),
    )
    agents.wants(document, pieces, balancer)
    with place.held(address, 4) as conversations:
        asked = [c.ask() for c in conversations]
        agent = agents.in_sync()
        asked += [c.ask() for _ in range(3) for c in conversations]
        assert [a.failure for a in asked] == [None] * len(asked)
    assert {scopes(place)[each] for each in (address, LB)} == {"host"}
    assert not wire.who_has(LB)
    assert "proto 119" not in place.node.run("ip", "route", "show", "table", "local")
    # The same while it runs.
    place.node.run("ip", "address", "del", f"{LB}/32", "dev", "kube-ipvs0")
    place.node.run("ip", "address", "replace", f"{LB}/32", "dev", "kube-ipvs0")
    eventually(lambda: scopes(place).get(LB) == "host")
    agent.kill()
    assert " (0 writes" in agents.in_sync().log


@pytest.mark.kernel
def test_changing_a_scope_never_leaves_an_address(netns):
    """Every state that the kernel tells of on the way has a local route."""
    netns.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
    netns.run("ip", "address", "add", "10.96.0.1/32", "dev", "kube-ipvs0")
    netns.run("ip", "-6", "address", "add", "fd00::1/128", "dev", "kube-ipvs0")
    table = AddressTable()
    table.refresh()
    assert table.odd == {"10.96.0.1", "fd00::1"}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as monitor:
        monitor.bind((0, 0x40))  # RTMGRP_IPV4_ROUTE
        assert table.mend() == 2
        routes = 1
        seen = []
        monitor.setblocking(False)
        while True:
            try:
                kind = struct.unpack_from("=H", monitor.recv(65536), 4)[0]
            except BlockingIOError:
                break
            routes += 1 if kind == 24 else -1
            seen.append(routes)
    assert min(seen) >= 1 and seen[-1] == 1
    assert table.odd == set() and table.mend() == 0
    assert "scope host" in netns.run("ip", "-4", "address", "show", "dev", "kube-ipvs0")
    assert "deprecated" in netns.run("ip", "-6", "address", "show", "dev", "kube-ipvs0")
    table.close()


@pytest.mark.kernel
def test_ipv6_needs_nothing():
    """The kernel advertises an address on the interface that has it, and on no other."""
    with Lab(Topology(Machine("node", ("fd00:192:168:56::11",), (Pod("pod", ("fd00:10:244:1::11",)),)))) as lab:
        wire = Wire(lab.wire)
        lab.node.run("ip", "link", "add", "kube-ipvs0", "type", "dummy")
        service_address = "fd00:192:168:56::200"
        with lab.node.entered():
            table = AddressTable()
            table.ensure_interface()
            lab.node.run("ip", "-6", "address", "add", f"{service_address}/128", "dev", "kube-ipvs0", "nodad")
            table.close()
        asker = "fd00:192:168:56::1"
        assert wire.who_has_v6("fd00:192:168:56::11", asker)
        assert not wire.who_has_v6(service_address, asker)
        lab.node.run("ip", "link", "set", "kube-ipvs0", "up")
        assert not wire.who_has_v6(service_address, asker)


def link(index: int, name: str, kind: str = "", master: int = 0, *, ethernet: bool = True) -> Link:
    return Link(index, name, kind, master, True, ethernet)


def test_which_interfaces_are_of_the_lan():
    found = [
        link(1, "lo", ethernet=False),
        link(2, "eth0"),
        link(3, "eth1", master=10),
        link(4, "eth2"),
        link(5, "veth1234", "veth"),
        link(6, "kube-ipvs0", "dummy"),
        link(7, "cni0", "bridge"),
        link(8, "flannel.1", "vxlan"),
        link(9, "tunl0", "ipip", ethernet=False),
        link(10, "br0", "bridge"),
        link(11, "eth0.100", "vlan"),
        link(12, "blue", "vrf"),
        link(13, "eth3", master=12),
    ]
    addresses = {
        Address("192.168.56.11"): "eth0",
        Address("10.244.1.1"): "cni0",
        Address("10.244.1.0"): "flannel.1",
        Address("172.16.0.1"): "br0",
        Address("172.16.1.1"): "eth0.100",
        Address("fd00::1"): "veth1234",
    }
    pods = [ip_network("10.244.0.0/16")]
    assert lan_interfaces(found, addresses, pods, "kube-ipvs0") == ["eth0", "eth2", "br0", "eth0.100", "eth3"]
