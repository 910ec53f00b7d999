"""Two sets of real servers behind one address: clients outside this node and clients on it, each with their own.

A Service with `externalTrafficPolicy: Local` serves clients from outside by the endpoints of this node alone, with
their address kept, and this node's pods and processes by every endpoint (pkg/proxy/iptables/proxier.go does so). An
IPVS virtual server has one set. So there are two: that of the address for clients from outside, and one that is found
by a firewall mark, which the packet rules put on packets of this node's own clients. IPVS looks for a mark first, and
falls through to the address if there is none: a mark that is lost, taken away or added to by another program leaves
what kube-proxy's ipvs mode has, and never a client without an answer. For that reason the virtual server of an address
without endpoints here holds those elsewhere, as kube-proxy does; packet rules keep clients from outside away from it.

One virtual server by mark for each Service port and family, however many addresses it has; it lives as long as the
policy, whatever the endpoints are, so that no connection ends with it. Marks are found again in the kernel after a
restart, by the addresses that they stand for. So a Service has none while older Services claim all its addresses: it
would be told from theirs by nothing. Never persistent: IPVS would send to the Service's port in place of the
endpoint's. A scheduler that hashes the client's address gives the same affinity.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice

from msgspec.structs import replace

from ipvsagent.address import Address, Family, family_of
from ipvsagent.findings import Finding, FindingKind
from ipvsagent.model import (
    Frontend,
    Mark,
    Protocol,
    RealServer,
    ServicePortName,
    VirtualServer,
    VirtualServerId,
    WhenEmpty,
)
from ipvsagent.render.members import place_of
from ipvsagent.rows import SCHED1

ANY_ADDRESS = {Family.IPV4: Address("0.0.0.0"), Family.IPV6: Address("::")}

Name = tuple[Family, ServicePortName]
Key = tuple[str, str]


class NodeClients:
    """Arranges the virtual servers of Services. Knows which Service port has which mark; nothing else here has state.

    mask:        bits of a mark that are ours; 0 = no marks, everybody is served by the same endpoints.
    held:        marks that the kernel has, by place (`members.marks_held`).
    scheduler_works: whether the kernel has a scheduler; asked for mh alone, since sh is as old as IPVS.
    """

    def __init__(
        self,
        mask: int,
        held: Mapping[str, int] | None = None,
        scheduler_works: Callable[[str], bool] = lambda name: True,
    ) -> None:
        self._mask = mask
        self._bits = [bit for bit in range(32) if mask >> bit & 1]
        self._held = dict(held or {})
        self._reserved = Counter((_family_of_place(place), value) for place, value in self._held.items())
        self._scheduler_works = scheduler_works
        self._numbers: dict[Name, int] = {}
        self._names: dict[tuple[Family, int], Name] = {}
        self._used: Counter[Family] = Counter()
        self._of_service: dict[Key, set[Name]] = {}
        self._without: dict[Key, None] = {}
        self._freed = 0

    def arrange(
        self,
        key: Key,
        servers: Sequence[VirtualServer],
        taken: Callable[[VirtualServerId], bool],
        wins: Callable[[VirtualServerId], bool],
    ) -> tuple[Sequence[VirtualServer], tuple[Finding, ...]]:
        """A Service's virtual servers as IPVS can have them, and what had to be left out; none if it is gone.

        taken: whether IPVS has, or may have, a virtual server of that mark. wins: whether no older Service claims it.
        """
        groups: dict[Name, list[VirtualServer]] = {}
        for server in servers:
            if server.node_real_servers is not None:
                groups.setdefault((server.id.family, server.service), []).append(server)
        places = {name: [place_of(server.id) for server in group if wins(server.id)] for name, group in groups.items()}
        marked = {name for name, own in places.items() if own}
        for name in self._of_service.pop(key, set()) - marked:
            self._release(name)
        self._without.pop(key, None)
        if not groups:
            return servers, ()
        if marked:
            self._of_service[key] = marked
        findings: dict[Finding, None] = {}
        outside: dict[VirtualServerId, VirtualServer] = {}
        inside: list[VirtualServer] = []
        for name, group in groups.items():
            mark = self._mark(name, places[name], taken) if name in marked else None
            if mark is None and name in marked and self._mask:
                self._without[key] = None
                findings[self._exhausted(key)] = None
            outside |= {server.id: server for server in _for_outside(group, mark)}
            if mark:
                inside.append(self._for_inside(group[0], mark))
        return [*(outside.get(server.id, server) for server in servers), *inside], tuple(findings)

    def lose(self, server_id: VirtualServerId) -> ServicePortName | None:
        """Another program has the virtual server of this mark. Whose it was here, and who has to be arranged anew."""
        name = self._names.get((server_id.family, server_id.port))
        if name is None:
            return None
        self._release(name)
        return name[1]

    def waiting(self) -> list[Key]:
        """Services that found no free mark, as many as there may be marks for since; to be arranged anew."""
        freed, self._freed = self._freed, 0
        return list(islice(self._without, freed))

    def _for_inside(self, server: VirtualServer, mark: Mark) -> VirtualServer:
        assert server.node_real_servers is not None
        affinity = server.persistence_timeout > 0
        hashing = "mh" if affinity and self._scheduler_works("mh") else "sh"
        return VirtualServer(
            id=VirtualServerId(Protocol.FWM, ANY_ADDRESS[server.id.family], mark.value),
            service=server.service,
            frontend=Frontend.NODE_CLIENTS,
            scheduler=hashing if affinity else server.scheduler,
            scheduler_flags=SCHED1 if affinity else server.scheduler_flags,
            one_packet=server.one_packet,
            real_servers=server.node_real_servers,
            unused=_unused(server),
            bind=False,
            # Its protocol cannot be seen from its id: only TCP has connections worth draining.
            drain_timeout=server.drain_timeout if server.id.protocol is Protocol.TCP else 0.0,
        )

    def _mark(self, name: Name, places: Iterable[str], taken: Callable[[VirtualServerId], bool]) -> Mark | None:
        family = name[0]
        for place in places:
            value = self._held.pop(place, 0)
            if not value:
                continue
            self._reserved[family, value] -= 1
            if name not in self._numbers and self._is_ours(value) and self._is_free(family, value, taken):
                self._take(name, value)
        if name not in self._numbers:
            value = self._find(name, taken)
            if not value:
                return None
            self._take(name, value)
        return Mark(self._numbers[name], self._mask)

    def _find(self, name: Name, taken: Callable[[VirtualServerId], bool]) -> int:
        """The first free value from where the name leads, so that nearly always a Service has the same one on every
        node and after every start; 0 = all are taken. One that the kernel held for somebody comes last: whose it is may
        not be known yet."""
        family, port = name
        count = (1 << len(self._bits)) - 1
        if self._used[family] == count:
            return 0
        first = int.from_bytes(hashlib.blake2s(str(port).encode(), digest_size=8).digest())
        for reserved in (False, True):
            for step in range(count):
                value = self._value((first + step) % count + 1)
                if (self._reserved[family, value] > 0) is reserved and self._is_free(family, value, taken):
                    return value
        return 0

    def _value(self, index: int) -> int:
        return sum(1 << bit for place, bit in enumerate(self._bits) if index >> place & 1)

    def _is_ours(self, value: int) -> bool:
        return value != 0 and not value & ~self._mask

    def _is_free(self, family: Family, value: int, taken: Callable[[VirtualServerId], bool]) -> bool:
        return (family, value) not in self._names and not taken(
            VirtualServerId(Protocol.FWM, ANY_ADDRESS[family], value)
        )

    def _take(self, name: Name, value: int) -> None:
        self._numbers[name] = value
        self._names[name[0], value] = name
        self._used[name[0]] += 1

    def _release(self, name: Name) -> None:
        value = self._numbers.pop(name, None)
        if value is not None:
            del self._names[name[0], value]
            self._used[name[0]] -= 1
            self._freed += 1

    def _exhausted(self, key: Key) -> Finding:
        reason = (
            f"no firewall mark is free in the mask {self._mask:#x}, so pods and processes of this node reach its "
            "external addresses by the endpoints of this node alone, if it has any; --local-mark-mask with more bits "
            "gives more marks"
        )
        return Finding(FindingKind.MARKS_EXHAUSTED, f"Service {'/'.join(key)}", reason)


def _family_of_place(place: str) -> Family:
    return family_of(Address(place.partition(",")[0]))


def _for_outside(group: Iterable[VirtualServer], mark: Mark | None) -> Iterable[VirtualServer]:
    """All of a group have the same endpoints, so they share what is made of them."""
    unused: tuple[RealServer, ...] | None = None
    for server in group:
        if server.real_servers or not server.node_real_servers:
            yield replace(server, node_real_servers=None, node_mark=mark)
            continue
        if unused is None:
            unused = _unused(server)
        yield replace(
            server,
            real_servers=server.node_real_servers,
            node_real_servers=None,
            node_mark=mark,
            node_only=True,
            unused=unused,
            when_empty=WhenEmpty.REFUSE,
        )


def _unused(server: VirtualServer) -> tuple[RealServer, ...]:
    """Listed endpoints that not even clients on this node get."""
    assert server.node_real_servers is not None
    return tuple(sorted({*server.real_servers, *server.unused} - set(server.node_real_servers)))
