"""Flows of UDP clients: which of them are stale, and ending those and no others."""

from __future__ import annotations

import contextlib
import errno

import pytest

from ipvsagent.address import Address
from ipvsagent.kernel import conntrack, netlink
from ipvsagent.kernel.conntrack import ConntrackTable, Flow, may_have_stale_flows, stale
from ipvsagent.model import Frontend, Protocol, RealServer, ServicePortName, VirtualServer, VirtualServerId

A, B, C = "10.244.1.1", "10.244.1.2", "10.244.1.3"


@pytest.mark.kernel
def test_other_flows_stay(netns):
    """Of other ports, addresses and protocols, and those that a real server answers."""
    netns.run("ip", "address", "add", "10.96.0.1/32", "dev", "lo")
    netns.run("ip", "address", "add", "10.96.0.2/32", "dev", "lo")
    ours = VirtualServerId(Protocol.UDP, Address("10.96.0.1"), 53)

    def entry(protocol: str, destination: str, port: int, answerer: str, answerer_port: int) -> None:
        words = f"-I -p {protocol} -s 192.0.2.1 -d {destination} --sport 1234 --dport {port} "
        words += f"-r {answerer} -q 192.0.2.1 --reply-port-src {answerer_port} --reply-port-dst 1234 -t 60"
        netns.run("conntrack", *words.split(), *(("--state", "ESTABLISHED") if protocol == "tcp" else ()))

    entry("udp", "10.96.0.1", 53, "10.96.0.1", 53)
    entry("udp", "10.96.0.1", 54, "10.96.0.1", 54)
    entry("udp", "10.96.0.2", 53, "10.96.0.2", 53)
    entry("tcp", "10.96.0.1", 53, "10.96.0.1", 53)
    server = server_of(ours, A)
    with contextlib.closing(ConntrackTable()) as table:
        assert [f.answerer for f in table.flows([ours])] == [("10.96.0.1", 53)]
        assert table.end_stale([server]) == 1
        assert table.end_stale([server]) == 0
    left = netns.run("conntrack", "-L")
    assert left.count("src=192.0.2.1 ") == 3
    assert not [
        line for line in left.splitlines() if line.startswith("udp") and "dst=10.96.0.1 sport=1234 dport=53 " in line
    ]


@pytest.mark.kernel
@pytest.mark.parametrize("kernel_filters", [True, False])
def test_ipv6_and_kernels_that_do_not_filter(netns, kernel_filters, monkeypatch):
    if not kernel_filters:  # before Linux 5.8 the kernel does not know the attribute, and lists everything
        monkeypatch.setattr(conntrack, "_request", lambda family: conntrack._header(family))
    words = "-I -p udp -s fd00::1 -d fd00:96::1 --sport 1 --dport 53 -r fd00:244::7 -q fd00::1 "
    netns.run("conntrack", *(words + "--reply-port-src 8053 --reply-port-dst 1 -t 60").split())
    words = "-I -p tcp -s fd00::1 -d fd00:96::1 --sport 1 --dport 53 -r fd00:244::7 -q fd00::1 --state ESTABLISHED "
    netns.run("conntrack", *(words + "--reply-port-src 8053 --reply-port-dst 1 -t 60").split())
    server = VirtualServerId(Protocol.UDP, Address("fd00:96::1"), 53)
    with contextlib.closing(ConntrackTable()) as table:
        (flow,) = table.flows([server])
        assert flow.answerer == ("fd00:244::7", 8053)
        assert table.end_stale([server_of(server, "fd00:244::7", 8053)]) == 0
        assert table.end_stale([server_of(server, "fd00:244::8", 8053)]) == 1


def server_of(server: VirtualServerId, real: str, port: int = 8080, **more: object) -> VirtualServer:
    name = ServicePortName("shop", "dns", "")
    reals = (RealServer(Address(real), port),)
    return VirtualServer(
        id=server, service=name, frontend=Frontend.CLUSTER_IP, scheduler="rr", **{"real_servers": reals, **more}
    )


UDP = VirtualServerId(Protocol.UDP, Address("10.96.0.1"), 53)


def test_which_flows_are_stale():
    def flow(answerer: str, port: int) -> Flow:
        return Flow(UDP, (Address(answerer), port), b"", b"", None)

    flows = [flow(A, 8080), flow(A, 8081), flow(B, 8080), flow("10.96.0.1", 53)]
    assert stale(flows, {UDP: server_of(UDP, A)}) == flows[1:]
    elsewhere = (RealServer(Address(B), 8080),)
    assert stale(flows, {UDP: server_of(UDP, A, unused=elsewhere)}) == flows[1:]
    inside = VirtualServerId(Protocol.UDP, Address("10.96.0.9"), 53)
    gone = (RealServer(Address(C), 8080),)
    for_node = server_of(UDP, A, unused=(*elsewhere, *gone), node_real_servers=elsewhere, inside=inside)
    assert stale([*flows, flow(C, 8080)], {UDP: for_node}) == [flows[1], flows[3], flow(C, 8080)]
    for_node = server_of(UDP, A, node_real_servers=elsewhere)
    assert stale(flows, {UDP: for_node}) == [flows[1], flows[3]]


def test_which_virtual_servers_are_looked_at():
    assert may_have_stale_flows(server_of(UDP, A))
    assert not may_have_stale_flows(server_of(UDP, A, one_packet=True))
    assert not may_have_stale_flows(server_of(UDP, A, real_servers=()))
    assert not may_have_stale_flows(server_of(VirtualServerId(Protocol.TCP, UDP.address, 53), A))


def test_an_interrupted_listing_is_tried_again_and_then_used(monkeypatch):
    asked = []

    class Interrupted(netlink.NetlinkSocket):
        def __init__(self) -> None:
            pass

        def _dump_once(self, kind, body):
            asked.append(kind)
            return [netlink.Body(b"x", 0, 1)], False

    assert len(Interrupted().dump(1, b"", partial=True)) == 1
    assert len(asked) == 5
    with pytest.raises(netlink.KernelError) as raised:
        Interrupted().dump(1, b"")
    assert raised.value.code == errno.EINTR
