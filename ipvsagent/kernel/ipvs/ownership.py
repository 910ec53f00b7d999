"""Decides which virtual servers are ours, across restarts of the agent.

IPVS does not store an owner, and other programs (keepalived, an operator's ipvsadm) may use it too. A virtual server is
ours if its address is on our interface, or if the ledger records that we added it. The ledger covers firewall marks,
node ports, and load balancer addresses that are on other interfaces. When the agent replaces kube-proxy, kube-proxy's
ipsets show which virtual servers were its own; these become ours.

A claim is written before the kernel operation that it covers. After a crash between the two, the ledger names a virtual
server that does not exist, which does no harm; in the other order, it would miss one that does.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from ipvsagent.address import Address, parse_address
from ipvsagent.config import Network
from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.kernel.netlink import OutcomeUnknown
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Observed, Op, Owner, Verb, VirtualServerRow

_SLACK = 4096  # obsolete lines that the file may hold before it is rewritten


class Ledger:
    """Stores the ids of the virtual servers that we added.

    The file is a log: `+ TCP 10.0.0.1 80` adds an id, `- TCP 10.0.0.1 80` removes it. A line `! TCP 10.0.0.1 80` names
    a foreign virtual server, which stays foreign even if its address is added to our interface later.

    If `path` is None, or the file cannot be written, the ledger is kept in memory only. The file is read by the
    constructor and not created before the first change, so that reading it takes no privilege.
    """

    def __init__(self, path: Path | None) -> None:
        self.fault: OSError | None = None
        """Why the file cannot be read or written."""
        self._path = path
        self._held: set[VirtualServerId] = set()
        self._foreign: set[VirtualServerId] = set()
        self._unwritten: list[VirtualServerId] = []  # of `_foreign`
        self._lines = 0
        self._whole = 0  # bytes of the file up to the last complete line
        self._file: int | None = None
        if path is not None:
            self._load(path)

    def __contains__(self, server: VirtualServerId) -> bool:
        return server in self._held

    def __len__(self) -> int:
        return len(self._held)

    def claim(self, servers: Iterable[VirtualServerId]) -> None:
        """Record these ids with one write; they are on disk when it returns (a tmpfs needs no fsync)."""
        new = [server for server in dict.fromkeys(servers) if server not in self._held]
        self._held.update(new)
        if self._unwritten and new:
            foreign, self._unwritten = self._unwritten, []
            self._append("!", foreign)
        self._append("+", new)

    def is_recorded_foreign(self, server: VirtualServerId) -> bool:
        """Return whether it was another program's before its address was added to our interface."""
        return server in self._foreign

    def record_foreign(self, server: VirtualServerId) -> None:
        """Record a virtual server of another program. The next claim writes it: reading writes nothing."""
        if server not in self._foreign:
            self._foreign.add(server)
            self._unwritten.append(server)

    def release(self, servers: Iterable[VirtualServerId]) -> None:
        gone = [server for server in dict.fromkeys(servers) if server in self._held]
        self._held.difference_update(gone)
        self._append("-", gone)

    def compact(self, existing: Collection[VirtualServerId]) -> None:
        """Rewrite the file with only those of its ids that exist. The file is replaced atomically."""
        self._held.intersection_update(existing)
        self._foreign.intersection_update(existing)
        self._rewrite()

    def findings(self) -> tuple[Finding, ...]:
        """Return a finding if the ledger has a fault."""
        if self.fault is None:
            return ()
        why = self.fault.strerror
        reason = f"cannot be written ({why}); after a restart, virtual servers on node addresses look foreign"
        return (Finding(FindingKind.HOST, str(self._path), reason, severity=Severity.ERROR),)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _load(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            self.fault = error
            return
        self._whole = data.rfind(b"\n") + 1  # the rest was cut off by a crash, or is being written
        for line in data[: self._whole].decode(errors="replace").splitlines():
            self._lines += 1
            sign, _, rest = line.partition(" ")
            server = _parse(rest)
            if server is None:
                continue
            if sign == "+":
                self._held.add(server)
            elif sign == "-":
                self._held.discard(server)
            elif sign == "!":
                self._foreign.add(server)

    def _append(self, sign: str, servers: Collection[VirtualServerId]) -> None:
        if not servers or self._path is None:
            return
        if self._lines > 2 * len(self._held) + _SLACK:
            self._rewrite()
            return
        data = "".join([f"{sign} {_format(server)}\n" for server in servers]).encode()
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
                os.ftruncate(self._file, self._whole)
            written = os.write(self._file, data)
            if written < len(data):
                os.write(self._file, data[written:])  # raises the reason, usually ENOSPC
            self._lines += len(servers)
        except OSError as error:
            self.fault = error
            self._lines = sys.maxsize  # lines are missing, or the last is cut: rewrite at the next change

    def _rewrite(self) -> None:
        if self._path is None:
            return
        lines = [f"! {_format(server)}\n" for server in sorted(self._foreign)]
        lines += [f"+ {_format(server)}\n" for server in sorted(self._held)]
        data = "".join(lines).encode()
        new = self._path.with_name(self._path.name + ".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            new.write_bytes(data)
            os.replace(new, self._path)
        except OSError as error:
            self.fault = error
            return
        self.fault = None
        self.close()
        self._unwritten.clear()
        self._lines = len(lines)
        self._whole = len(data)


class Claims:
    """Updates the ledger for one write: it claims before the kernel is asked, and settles with the answers."""

    def __init__(self, ledger: Ledger, ops: Sequence[Op]) -> None:
        self._ledger = ledger
        self._changes = [
            (index, op.verb, op.row.id) for index, op in enumerate(ops) if type(op.row) is VirtualServerRow
        ]
        self._held = {server: server in ledger for _, _, server in self._changes}
        if self._changes:
            ledger.claim(server for _, verb, server in self._changes if verb is not Verb.DELETE)

    def settle(self, refused: Mapping[int, KernelError]) -> None:
        """Withdraw the claim on each virtual server that could not be added: it is another program's, or does not
        exist. The claim stays where the outcome is unknown.

        refused: errors by the index of the op.
        """
        held = self._held
        if not held:  # most writes are about real servers only
            return
        for index, verb, server in self._changes:
            error = refused.get(index)
            if error is None:
                held[server] = verb is not Verb.DELETE
            elif isinstance(error, OutcomeUnknown):
                held[server] = True
        self._ledger.release(server for server, ours in held.items() if not ours)


class Ownership:
    """Classifies virtual servers as ours or foreign."""

    def __init__(
        self,
        ledger: Ledger,
        bound: set[Address],
        excluded: Iterable[str | Network] = (),
        routed: Collection[Network] = (),
    ) -> None:
        self.ledger = ledger
        self.bound = bound
        """Addresses on our interface. The address table updates this set."""
        self.routed = routed
        """Ranges that our routes make local. The route table updates this set."""
        self.kube_proxy_servers: Collection[VirtualServerId] = ()
        """Virtual servers that kube-proxy's ipsets name (kube_proxy/sets.py), until they are adopted. They outweigh an
        earlier record that one is foreign."""
        self.set_excluded(excluded)

    def set_excluded(self, networks: Iterable[str | Network]) -> None:
        """Set the CIDRs whose virtual servers are foreign. What we added ourselves stays ours."""
        self._excluded = [ipaddress.ip_network(cidr, strict=False) for cidr in networks]

    def owner_of(self, server: VirtualServerId) -> Owner:
        """Return the owner of a virtual server, by what is known now."""
        if server in self.ledger:
            return Owner.OURS
        if server not in self.kube_proxy_servers and (
            self.ledger.is_recorded_foreign(server) or not self._is_local(server)
        ):
            return Owner.FOREIGN
        return Owner.FOREIGN if _is_in(server, self._excluded) else Owner.OURS

    def observe(self, server: VirtualServerId) -> Owner:
        """Return the owner of a virtual server that the kernel holds. One that is foreign by its address is recorded,
        so that it stays foreign when we add that address for a Service."""
        owner = self.owner_of(server)
        if owner is Owner.FOREIGN and server not in self.kube_proxy_servers and not self._is_local(server):
            self.ledger.record_foreign(server)
        return owner

    def adopt(self, servers: Iterable[VirtualServerId]) -> None:
        """Claim virtual servers that are ours only by their address, as after replacing kube-proxy: an address is
        removed before its virtual server, and after a crash in between the virtual server would be foreign."""
        self.ledger.claim(servers)

    def reconcile_ledger(self, services: Iterable[Observed]) -> None:
        """Make the ledger match all virtual servers that IPVS holds, and adopt those that are ours."""
        owners = {seen.row.id: seen.owner for seen in services if isinstance(seen.row, VirtualServerRow)}
        self.ledger.compact(owners.keys())
        self.adopt(server_id for server_id, owner in owners.items() if owner is Owner.OURS)
        self.kube_proxy_servers = ()  # a set that stays must not claim what another program adds later

    def _is_local(self, server: VirtualServerId) -> bool:
        """Return whether its address is local through our interface or our routes."""
        if server.address in self.bound:
            return True
        return server.protocol is not Protocol.FWM and _is_in(server, self.routed)


def _is_in(server: VirtualServerId, networks: Collection[Network]) -> bool:
    if not networks:
        return False
    address = ipaddress.ip_address(server.address)
    return any(address in network for network in networks)


def state_key() -> str:
    """Return a file name for the state of this network namespace: its cookie, or before Linux 5.14 its inode."""
    so_netns_cookie = 71  # unlike an inode number, a cookie is never reused
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, so_netns_cookie, struct.calcsize("=Q"))
        except OSError:
            return f"inode-{os.stat('/proc/self/ns/net').st_ino}"
    return f"netns-{int.from_bytes(raw, sys.byteorder)}"


def _format(server: VirtualServerId) -> str:
    return f"{server.protocol} {server.address} {server.port}"


def _parse(text: str) -> VirtualServerId | None:
    try:
        protocol, address, port = text.split(" ")
        return VirtualServerId(Protocol(protocol), parse_address(address), int(port))
    except ValueError:
        return None
