"""An answer of a pod that conntrack can make nothing of, on the kernel that runs the tests: it must not reach the
client untranslated, whose reset would end a connection that works (kubernetes/kubernetes#74839)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from integration.lab.namespaces import Namespace
from ipvsagent.address import Family
from ipvsagent.kernel.ipset.table import SetTable
from ipvsagent.kernel.iptables.commands import Mode, Variant
from ipvsagent.kernel.iptables.kernel_rules import KernelRules
from ipvsagent.kernel.iptables.server_chains import ServerChains, ServerRules
from ipvsagent.render.iptables.ipvs_rules import RuleOptions
from ipvsagent.render.iptables.nat_rules import nat_rule_set
from ipvsagent.render.set_members import set_specs
from tests.support.iptables import skip_unless_native

SERVICE, POD, CLIENT = ("10.96.0.1", 80), ("10.244.0.2", 8080), "10.9.0.2"


class Stand:
    """A client, a node that translates SERVICE to POD, and the pod, with one connection between them."""

    def __init__(self, stack: ExitStack, *, drop_invalid: bool) -> None:
        client, self.node, self.pod = (Namespace(name) for name in ("client", "node", "pod"))
        for namespace in (client, self.node, self.pod):
            stack.callback(namespace.close)
        for outer, address, own in ((client, CLIENT, "10.9.0.1"), (self.pod, POD[0], "10.244.0.1")):
            self.node.ip([f"link add {outer.name} type veth peer name eth0 netns {outer.path}"])
            self.node.ip([f"address add {own}/24 dev {outer.name}", f"link set {outer.name} up"])
            outer.ip([f"address add {address}/24 dev eth0", "link set eth0 up", f"route add default via {own}"])
        self.node.set_kernel({"net/ipv4/ip_forward": "1"})
        with self.node.entered():
            sets = SetTable()
            stack.callback(sets.close)
            sets.ensure(set_specs())
            (rules,) = ServerRules(
                [ServerChains(KernelRules(Family.IPV4, Variant(Mode.NFT, "the test says so")))]
            ).tables
            stack.callback(rules.close)
            rules.apply(nat_rule_set(Family.IPV4, RuleOptions(), drop_invalid=drop_invalid))
        translate = f"-t nat -A PREROUTING -d {SERVICE[0]} -p tcp --dport {SERVICE[1]} -j DNAT --to {POD[0]}:{POD[1]}"
        self.node.run("iptables-nft", *translate.split())
        server = stack.enter_context(self.pod.socket(socket.AF_INET, socket.SOCK_STREAM))
        server.bind(POD)
        server.listen()
        self.client = stack.enter_context(client.socket(socket.AF_INET, socket.SOCK_STREAM))
        self.client.settimeout(5)
        self.client.connect(SERVICE)
        self.served = stack.enter_context(server.accept()[0])
        self.served.settimeout(5)
        self.seen = stack.enter_context(client.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP))
        self.seen.settimeout(0.5)

    def answer_out_of_window(self) -> None:
        """Ahead of what the client takes: what is behind it conntrack lets pass, as something sent twice."""
        sent, received = _sequence_numbers(self.served)
        ahead = (sent + 0x2000_0000) & 0xFFFF_FFFF
        header = [POD[1], self.client.getsockname()[1], ahead, received, 5 << 4, 0x10, 512, 0, 0]
        header[7] = _checksum(socket.inet_aton(POD[0]) + socket.inet_aton(CLIENT), _TCP.pack(*header))
        with self.pod.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
            raw.sendto(_TCP.pack(*header), (CLIENT, 0))

    def client_hears_of_the_pod(self) -> bool:
        while True:
            try:
                _, (source, _) = self.seen.recvfrom(2048)
            except TimeoutError:
                return False
            if source == POD[0]:
                return True

    def works(self) -> bool:
        self.client.sendall(b"ask")
        asked = self.served.recv(3)
        self.served.sendall(b"answer")
        return asked == b"ask" and self.client.recv(6) == b"answer"


_TCP = struct.Struct("!HHIIBBHHH")
# linux/tcp.h
_REPAIR, _REPAIR_QUEUE, _QUEUE_SEQ = 19, 20, 21
_RECV_QUEUE, _SEND_QUEUE, _REPAIR_OFF_IN_SILENCE = 1, 2, -1


def _sequence_numbers(connection: socket.socket) -> tuple[int, int]:
    """Of the next byte to send, and of the next to receive."""
    found = []
    connection.setsockopt(socket.IPPROTO_TCP, _REPAIR, 1)
    for queue in (_SEND_QUEUE, _RECV_QUEUE):
        connection.setsockopt(socket.IPPROTO_TCP, _REPAIR_QUEUE, queue)
        found.append(connection.getsockopt(socket.IPPROTO_TCP, _QUEUE_SEQ) & 0xFFFF_FFFF)
    connection.setsockopt(socket.IPPROTO_TCP, _REPAIR, _REPAIR_OFF_IN_SILENCE)
    return found[0], found[1]


def _checksum(addresses: bytes, segment: bytes) -> int:
    data = addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(segment)) + segment
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    skip_unless_native(Mode.NFT)
    with ExitStack() as made:
        yield made


def test_it_is_dropped_and_the_connection_lives(stack: ExitStack) -> None:
    stand = Stand(stack, drop_invalid=True)
    assert stand.works()
    stand.answer_out_of_window()
    assert not stand.client_hears_of_the_pod()
    assert stand.works()


def test_where_conntrack_is_liberal_nothing_is_dropped(stack: ExitStack) -> None:
    """And the client does hear of it then, so that the test above means something."""
    stand = Stand(stack, drop_invalid=False)
    stand.answer_out_of_window()
    assert stand.client_hears_of_the_pod()
