"""Reads and writes the IPVS table of this network namespace.

Writes are sent in batches, with an exact error for each op (kernel/netlink.py). A read is one dump of the virtual
servers, and one dump of real servers for each of them: the kernel has no dump of all real servers, and answers EBUSY to
a second dump on the same socket.

The table is never flushed. A deleted real server stays on a list of the kernel for about two minutes, and every later
addition searches that list (ip_vs_trash_get_dest, net/netfilter/ipvs/ip_vs_ctl.c), which makes filling a large table 30
to 110 times slower.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice

from msgspec import Struct

from ipvsagent.errors import KernelError, NotThere
from ipvsagent.kernel.ipvs import answers, requests
from ipvsagent.kernel.ipvs.attributes import GENL_NAME, GET_CONFIG, GET_DEST, GET_INFO, GET_SERVICE
from ipvsagent.kernel.ipvs.ownership import Claims, Ownership
from ipvsagent.kernel.ipvs.sync_daemons import GET_DAEMON, SyncDaemon, unpack_daemon
from ipvsagent.kernel.netlink import NETLINK_GENERIC, Body, NetlinkSocket, message
from ipvsagent.model import VirtualServerId
from ipvsagent.rows import Failure, Keys, Observed, Op, Owner, Verb

_QUERIES = 100  # virtual servers queried by one system call


class IpvsInfo(Struct, frozen=True):
    """Holds the version of IPVS, and the size of its connection table."""

    version: tuple[int, int, int]
    """(1, 2, 1) for many years."""
    table_size: int
    """Buckets of the connection table."""


class Timeouts(Struct, frozen=True):
    """Holds the seconds for which an idle connection is kept: TCP established, TCP after FIN, UDP."""

    tcp: int
    tcp_fin: int
    udp: int


class IpvsTable:
    """Implements the `KernelTable` of `VirtualServerRow` and `RealServerRow`, for one thread."""

    def __init__(self, ownership: Ownership, timeout: float = 10.0) -> None:
        """Open the table. Raises OSError if there is no netlink, NotThere if the kernel has no IPVS."""
        self.ownership = ownership
        self._socket = NetlinkSocket(NETLINK_GENERIC, timeout=timeout)
        try:
            self._family = self._socket.family(GENL_NAME)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        self._socket.close()

    def read(self, keys: Keys, counters: bool = False) -> Iterator[Observed]:
        """Yield each virtual server, followed by its real servers; with statistics if `counters` is set."""
        for body in self._all() if keys is None else self._some(keys):
            found = answers.unpack_service(body, counters)
            if found is None:
                continue
            row, statistics = found
            owner = self.ownership.observe(row.id)
            yield Observed(row, owner, counters=statistics)
            yield from self._real_servers(row.id, owner, counters)

    def services(self) -> Iterator[Observed]:
        """Yield the virtual servers alone, with their statistics: one dump."""
        for body in self._all():
            found = answers.unpack_service(body, counters=True)
            if found is not None:
                yield Observed(found[0], self.ownership.observe(found[0].id), counters=found[1])

    def write(self, ops: Sequence[Op]) -> list[Failure]:
        claims = Claims(self.ownership.ledger, ops)
        first = self._socket.reserve(len(ops))
        packed, errors = requests.pack_ops(self._family, ops, first)
        errors.update(self._socket.send(packed))
        refused: dict[int, KernelError] = {}
        for sequence in sorted(errors):
            index = sequence - first
            if not (ops[index].verb is Verb.DELETE and isinstance(errors[sequence], NotThere)):
                refused[index] = errors[sequence]
        claims.settle(refused)
        return [Failure(ops[index], error) for index, error in refused.items()]

    def info(self) -> IpvsInfo:
        """Return version and table size. Raises KernelError, EPERM if this process may not use IPVS."""
        version, size = answers.unpack_info(self._ask(GET_INFO))
        return IpvsInfo(version, size)

    def timeouts(self) -> Timeouts:
        return Timeouts(*answers.unpack_timeouts(self._ask(GET_CONFIG)))

    def sync_daemons(self) -> list[SyncDaemon]:
        """Return the sync daemons in the kernel's order: the master first."""
        return [unpack_daemon(body) for body in self._socket.dump(self._family, requests.request(GET_DAEMON))]

    def set_timeouts(self, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        """Set timeouts in seconds; 0 leaves one unchanged. Raises KernelError, EINVAL for a value that is too large."""
        body = requests.timeouts_request(tcp, tcp_fin, udp)
        for error in self._socket.send([message(self._family, 0, self._socket.reserve(1), body)]).values():
            raise error

    def _ask(self, command: int) -> Body:
        answer = self._socket.get([(self._family, requests.request(command))])[0]
        if isinstance(answer, KernelError):
            raise answer
        return answer

    def _all(self) -> Iterable[Body]:
        return self._socket.dump(self._family, requests.request(GET_SERVICE))

    def _some(self, keys: Collection[object]) -> Iterator[Body]:
        servers = (key for key in keys if isinstance(key, VirtualServerId))
        while part := list(islice(servers, _QUERIES)):
            queries = [(self._family, requests.request(GET_SERVICE, server)) for server in part]
            for answer in self._socket.get(queries):
                if isinstance(answer, Body):
                    yield answer
                elif not isinstance(answer, NotThere):
                    raise answer

    def _real_servers(self, server: VirtualServerId, owner: Owner, counters: bool) -> Iterator[Observed]:
        for body in self._socket.dump(self._family, requests.request(GET_DEST, server)):
            row, active, inactive, persistent = answers.unpack_dest(server, body)
            statistics = answers.unpack_dest_counters(body) if counters else None
            yield Observed(row, owner, active, inactive, persistent, statistics)
