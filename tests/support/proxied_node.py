"""A node with pods and clients in network namespaces, and the agent on it: in this process, on the real tables.

`Proxy` is what `ipvsagent run` is without its process and its clock: a test moves the time, so that a drain of
fifteen minutes takes none. Connections and packets are real.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from integration.lab import Lab, Machine, Namespace, Pod, Server, Servers, Target, Topology
from integration.lab.ipvs import RealServer, virtual_servers
from integration.lab.load import Conversation
from ipvsagent.address import Address
from ipvsagent.backends.assembly import pipeline_for
from ipvsagent.backends.ipvs import IpvsBackend
from ipvsagent.cluster.manifest_set import ManifestSet
from ipvsagent.cluster.manifests import read_manifest
from ipvsagent.config import Config
from ipvsagent.findings import Finding, FindingBook
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Counters
from tests.support.cluster_documents import NODE_ADDRESS, THIS_NODE, Document, manifest, node

PODS = tuple(f"10.244.1.{n}" for n in range(1, 5))
A, B, C, D = PODS
NAME = dict(zip(PODS, "ABCD", strict=True))
ADDRESS = {name: address for address, name in NAME.items()}
CLIENT = "203.0.113.50"
CLIENTS = tuple(f"203.0.113.{n}" for n in range(100, 200))
PATIENCE = 30.0
POLL = 0.02

T = TypeVar("T")


def eventually(look: Callable[[], T], patience: float = PATIENCE) -> T:
    """Call `look` until its result is true, and return that."""
    deadline = time.monotonic() + patience
    while not (seen := look()):
        assert time.monotonic() < deadline, f"not within {patience} s; seen last: {seen!r}"
        time.sleep(POLL)
    return seen


class ProxiedNode:
    """One node, four pods A to D that serve TCP and UDP on port 8080, and a client machine with many addresses."""

    def __init__(self) -> None:
        pods = tuple(Pod(NAME[address], (address,)) for address in PODS)
        self.lab = Lab(
            Topology(
                Machine(THIS_NODE, (NODE_ADDRESS,), pods),
                lan=("192.168.56.1/24",),
                outside=("203.0.113.1/24",),
                client=(CLIENT, *CLIENTS),
                service_networks=("10.96.0.0/16",),
            )
        )
        self.servers = Servers()
        self.servers.add(self.lab, [Server(NAME[a], a, 8080, p) for a in PODS for p in ("TCP", "UDP")])
        self.node = self.lab.node
        self.client = self.lab.client
        self._addresses = 0

    def close(self) -> None:
        self.servers.close()
        self.lab.close()

    def free_address(self) -> str:
        """Return an address that no test has used: the kernel remembers deleted real servers for minutes."""
        self._addresses += 1
        return f"10.96.0.{self._addresses}"

    # What clients observe

    def answers(self, address: str, count: int, *, port: int = 80) -> str:
        """Return the names of the pods that answered `count` connections, one after the other: `ABCABC`."""
        target = Target(address, port)
        return "".join(self.ask(target) for _ in range(count))

    def spread(self, address: str, count: int, *, port: int = 80) -> Counter[str]:
        return Counter(self.answers(address, count, port=port))

    def ask(self, target: Target, source: str = CLIENT, source_port: int = 0) -> str:
        """Make one TCP connection, and return the name of the pod that answered. Raises OSError if none did."""
        with self.client.socket(target.family, socket.SOCK_STREAM) as connection:
            connection.settimeout(PATIENCE)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if not source_port:
                connection.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
            connection.bind((source, source_port))
            connection.connect((target.address, target.port))
            connection.sendall(target.request(close=True))
            answer = b""
            while data := connection.recv(4096):
                answer += data
            # Reset, or the port of a later connection may still be in TIME_WAIT here.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return _server(answer.partition(b"\r\n\r\n")[2])

    @contextmanager
    def held(self, address: str, count: int = 1) -> Iterator[list[Conversation]]:
        """Open connections one after the other, each of which has been answered once."""
        conversations: list[Conversation] = []
        try:
            for _ in range(count):
                conversations.append(Conversation(self.client, Target(address, 80), timeout=PATIENCE))
                assert conversations[-1].ask().failure is None
            yield conversations
        finally:
            for each in conversations:
                each.close()

    @contextmanager
    def udp(self, address: str, port: int = 53) -> Iterator[UdpClient]:
        with self.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.connect((address, port))
            yield UdpClient(made)

    def name_of(self, address: str) -> str:
        return NAME[address]

    # What the kernel holds

    def real_servers(self, address: str, port: int = 80, protocol: str = "TCP") -> dict[str, RealServer]:
        """Return the real servers by the name of their pod, read from /proc without the code under test."""
        found = virtual_servers(self.node).get(f"{protocol} {address}:{port}", {})
        return {NAME[real.rpartition(":")[0]]: server for real, server in found.items()}

    def weights(self, address: str, port: int = 80, protocol: str = "TCP") -> dict[str, int]:
        return {name: real.weight for name, real in self.real_servers(address, port, protocol).items()}

    def bound(self) -> set[str]:
        """Return the addresses of Services that are bound on the node."""
        lines = self.node.run("ip", "-o", "address", "show", "dev", "kube-ipvs0").splitlines()
        return {line.split()[3].split("/")[0] for line in lines}

    def saved(self) -> set[str]:
        """Return the lines of `ipvsadm -Sn`."""
        return {line.strip() for line in self.node.run("ipvsadm", "-Sn").splitlines()}


class UdpClient:
    """A client that sends from one socket, so all its packets are of one flow."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def ask(self, patience: float = 0.1) -> str:
        """Send one packet, and return the name of the pod that answered; "" if none did."""
        self._socket.settimeout(patience)
        try:
            self._socket.send(b"?")
            return _server(self._socket.recv(4096))
        except (TimeoutError, ConnectionRefusedError, PermissionError):
            return ""

    def ask_until_answered(self, packets: int = 20) -> tuple[str, int]:
        """Return the name of the pod that answered, and how many packets were sent until then."""
        for sent in range(1, packets + 1):
            if name := self.ask():
                return name, sent
        raise AssertionError(f"none of {packets} packets was answered")


def _server(body: bytes) -> str:
    if not body:
        raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
    name: str = json.loads(body.split(b"\n", 1)[0])["server"]
    return name


class Proxy:
    """The agent's pipeline on a namespace's kernel. Times are the test's own: `now` moves when `after` is called.

    rules: packet rules are installed, and kept after everything that is done; they stay when it ends.
    """

    def __init__(
        self, namespace: Namespace, state_dir: Path, now: float = 1000.0, *, rules: bool = False, **settings: Any
    ) -> None:
        self._namespace = namespace
        self._book = FindingBook()
        self._manifests = ManifestSet("test", allow_empty=True)
        self._given = (state_dir, rules, settings)
        self._closed = False
        self.now = now
        self.config = Config(node_name=THIS_NODE, state_dir=state_dir, **settings)
        with namespace.entered():
            self._node = IpvsBackend.open(self.config)
            self._node.prepare()
            self.rules = self._node.packet_filter() if rules else None
            if self.rules:
                self.rules.install()
            self._backend = self._node.kernel_tables()
            self.pipeline = pipeline_for(
                self.config,
                self._backend,
                window=self.config.window,
                scheduler_works=self._node.scheduler_works,
            )
            self.pipeline.set_node_addresses(self._node.addresses.node_addresses())

    @property
    def findings(self) -> list[Finding]:
        return self._book.current()

    @property
    def written(self) -> int:
        return self._backend.ops_written

    def wants(self, *documents: Document) -> int:
        """Make these the objects of the cluster, and return the number of rows written.

        The Node of this node is added unless one is given.
        """
        if not any(each["kind"] == "Node" for each in documents):
            documents = (node(), *documents)
        self._manifests.replace("test.json", read_manifest(manifest(documents).encode()))
        update = self._manifests.take()
        self._learn((("source", name), found) for name, found in update.findings.items())
        self._learn(self.pipeline.apply_changes(replace(update.changes, synced=True), self.now))
        before = self.written
        with self._namespace.entered():
            reconciler = self.pipeline.reconciler
            work = self.pipeline.round if reconciler.started else self.pipeline.start
            self._learn(work(self.now).findings)
            self.keep_rules()
        return self.written - before

    def after(self, seconds: float) -> int:
        """Let time pass, and return the number of rows written.

        Does what the agent's loop does then: drains, retries, and an audit of everything.
        """
        self.now += seconds
        before = self.written
        with self._namespace.entered():
            self.pipeline.audit.poll_drains(100, self.now)
            self._learn(self.pipeline.round(self.now).findings)
            self._learn(self.pipeline.audit.look(1000, self.now).findings)
            self.keep_rules()
        return self.written - before

    def keep_rules(self) -> None:
        """Do what the agent's thread for packet rules does when it is woken."""
        if self.rules:
            self.rules.apply_pending()
            self.rules.repair()

    def counters(self, address: str, port: int = 80, protocol: Protocol = Protocol.TCP) -> Counters:
        """Return the kernel's counters of a virtual server; they start at 0 when it is deleted and added again."""
        wanted = VirtualServerId(protocol, Address(address), port)
        with self._namespace.entered():
            (found,) = [seen for seen in self._node.ipvs.services() if seen.row.key == wanted]
        assert found.counters
        return found.counters

    def restarted(self, seconds: float = 1.0) -> Proxy:
        """Return a new agent on what this one left; this one must not be used any more."""
        self.close()
        state_dir, rules, settings = self._given
        return Proxy(self._namespace, state_dir, self.now + seconds, rules=rules, **settings)

    def end(self) -> None:
        """Remove everything, unless another agent has taken over."""
        if not self._closed:
            self.wants()
            settled(self)
            self.close()

    def close(self) -> None:
        self._closed = True
        self._node.ipvs.close()
        self._node.addresses.close()
        self._node.ownership.ledger.close()
        if self.rules:
            self.rules.close()

    def _learn(self, origins: Iterable[tuple[object, tuple[Finding, ...]]]) -> None:
        for origin, findings in origins:
            self._book.replace(origin, findings)


def settled(proxy: Proxy) -> None:
    """Let the window pass, in which edits are collected."""
    proxy.after(proxy.config.window + 0.01)
