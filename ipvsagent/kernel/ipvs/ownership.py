"""Which virtual servers are ours, also after a restart.

IPVS has no place for an owner, and other programs (keepalived, an operator's ipvsadm) may use it too. A
virtual server is ours if its address is on our interface, or if the ledger says that we added it: that covers
node ports and load balancer addresses that stand on other interfaces, and firewall marks. At a take-over, kube-proxy's
own sets prove which of those are its, and so ours from then on.

A claim is written before the kernel operation that it is for: after a crash between the two, the ledger names
a virtual server that does not exist, which harms nobody, instead of missing one that does.
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
from ipvsagent.errors import KernelError
from ipvsagent.findings import Finding, FindingKind, Severity
from ipvsagent.kernel.netlink import OutcomeUnknown
from ipvsagent.model import Protocol, VirtualServerId
from ipvsagent.rows import Observed, Op, Owner, Verb, VirtualServerRow

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_SLACK = 4096  # lines that may be out of date before the file is rewritten


class Ledger:
    """Ids of the virtual servers that we added. The file has `+ TCP 10.0.0.1 80` and `- ...` lines, replayed.

    `! ...` lines name virtual servers of others, which stay theirs when their address comes to our interface, too.

    With `path` None, or where the file cannot be written (`fault` then says why), it lives in memory only.
    The file is read at once, and written to first by the first change: looking at it needs no privilege.
    """

    def __init__(self, path: Path | None) -> None:
        self.fault: OSError | None = None
        self._path = path
        self._held: set[VirtualServerId] = set()
        self._strangers: set[VirtualServerId] = set()
        self._unnoted: list[VirtualServerId] = []
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
        """Notes these ids, with one write; on disk when it returns (a tmpfs needs no fsync)."""
        new = [server for server in dict.fromkeys(servers) if server not in self._held]
        self._held.update(new)
        if self._unnoted and new:
            strangers, self._unnoted = self._unnoted, []
            self._append("!", strangers)
        self._append("+", new)

    def is_recorded_foreign(self, server: VirtualServerId) -> bool:
        """It was another program's before its address came to our interface."""
        return server in self._strangers

    def record_foreign(self, server: VirtualServerId) -> None:
        """On disk with the next claim: whoever only looks writes nothing."""
        if server not in self._strangers:
            self._strangers.add(server)
            self._unnoted.append(server)

    def forget(self, servers: Iterable[VirtualServerId]) -> None:
        gone = [server for server in dict.fromkeys(servers) if server in self._held]
        self._held.difference_update(gone)
        self._append("-", gone)

    def compact(self, existing: Collection[VirtualServerId]) -> None:
        """Rewrites the file with only those of its ids that exist; readers see the old or the new one."""
        self._held.intersection_update(existing)
        self._strangers.intersection_update(existing)
        self._rewrite()

    def findings(self) -> tuple[Finding, ...]:
        """What a fault means, if there is one."""
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
        self._whole = data.rfind(b"\n") + 1  # what follows was cut off by a crash, or is being written
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
                self._strangers.add(server)

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
                os.write(self._file, data[written:])  # tells what is wrong, usually ENOSPC
            self._lines += len(servers)
        except OSError as error:
            self.fault = error
            self._lines = sys.maxsize  # the file lacks lines, or ends in part of one: next time, a new one

    def _rewrite(self) -> None:
        if self._path is None:
            return
        lines = [f"! {_format(server)}\n" for server in sorted(self._strangers)]
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
        self._unnoted.clear()
        self._lines = len(lines)
        self._whole = len(data)


class Claims:
    """The ledger's side of one `write`: made before the kernel is asked, settled when it has answered."""

    def __init__(self, ledger: Ledger, ops: Sequence[Op]) -> None:
        self._ledger = ledger
        self._changes = [
            (index, op.verb, op.row.id) for index, op in enumerate(ops) if type(op.row) is VirtualServerRow
        ]
        self._held = {server: server in ledger for _, _, server in self._changes}
        if self._changes:
            ledger.claim(server for _, verb, server in self._changes if verb is not Verb.DELETE)

    def settle(self, refused: Mapping[int, KernelError]) -> None:
        """`refused`: errors by the op's index. What could not be added was somebody else's, or is not there:
        the claim is withdrawn, unless nobody knows what the kernel did."""
        held = self._held
        if not held:  # as in most writes: real servers alone
            return
        for index, verb, server in self._changes:
            error = refused.get(index)
            if error is None:
                held[server] = verb is not Verb.DELETE
            elif isinstance(error, OutcomeUnknown):
                held[server] = True
        self._ledger.forget(server for server, ours in held.items() if not ours)


class Ownership:
    """Answers whose a virtual server is.

    bound: the addresses on our interface, a live set that the address table keeps up to date. routed: the ranges that
    are local by our routes, as live, kept by the route table.
    excluded: CIDRs whose virtual servers are never ours, unless we added them ourselves.
    proved: those that kube-proxy's sets show to be its (kube_proxy_sets.py), until they are adopted; stronger than an
    older word that they are strangers.
    """

    def __init__(
        self,
        ledger: Ledger,
        bound: set[Address],
        excluded: Iterable[str | Network] = (),
        routed: Collection[Network] = (),
    ) -> None:
        self.ledger = ledger
        self.bound = bound
        self.routed = routed
        self.proved: Collection[VirtualServerId] = ()
        self.exclude(excluded)

    def exclude(self, networks: Iterable[str | Network]) -> None:
        """From now on these, and no others. What we added ourselves stays ours."""
        self._excluded = [ipaddress.ip_network(cidr, strict=False) for cidr in networks]

    def owner_of(self, server: VirtualServerId) -> Owner:
        if server in self.ledger:
            return Owner.OURS
        if server in self.proved:
            return Owner.FOREIGN if self._is_excluded(server) else Owner.OURS
        if self.ledger.is_recorded_foreign(server):
            return Owner.FOREIGN
        if server.address not in self.bound and not self._is_routed(server):
            self.ledger.record_foreign(server)
            return Owner.FOREIGN
        return Owner.FOREIGN if self._is_excluded(server) else Owner.OURS

    def _is_excluded(self, server: VirtualServerId) -> bool:
        if not self._excluded:
            return False
        address = ipaddress.ip_address(server.address)
        return any(address in network for network in self._excluded)

    def _is_routed(self, server: VirtualServerId) -> bool:
        if not self.routed or server.protocol is Protocol.FWM:
            return False
        address = ipaddress.ip_address(server.address)
        return any(address in network for network in self.routed)

    def adopt(self, servers: Iterable[VirtualServerId]) -> None:
        """Notes what is ours only by its address, as after a take-over: an address leaves before its virtual
        server does, and a crash in between must not make that one a stranger."""
        self.ledger.claim(servers)

    def settle(self, services: Iterable[Observed]) -> None:
        """Bring the ledger up to date with all that IPVS has: what is ours by its address only, or proved to be
        kube-proxy's, must stay ours when its address or that proof goes first."""
        owners = {seen.row.id: seen.owner for seen in services if isinstance(seen.row, VirtualServerRow)}
        self.ledger.compact(owners.keys())
        self.adopt(server_id for server_id, owner in owners.items() if owner is Owner.OURS)
        self.proved = ()  # a set that stays proves nothing about what others add later


def state_key() -> str:
    """A file name for the state of this network namespace: its cookie, or before Linux 5.14 its inode."""
    so_netns_cookie = 71  # never used twice, unlike the inode
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
