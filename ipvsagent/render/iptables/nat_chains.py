"""A virtual server as chains of iptables' nat table, for kernels without IPVS.

The chain of a virtual server chooses an endpoint at random, by weight, and translates the destination to it; conntrack
keeps to that choice for as long as the connection lasts, so that a changed chain never cuts one. What does not depend
on endpoints (masquerade, refusals, source ranges) is in the constant rules of nat_rules.py and in sets.

Affinity (ClientIP) is remembered in sets with a timeout, because the match `recent` forgets after 100 clients.
A set's member is (client, Service's port, Service's address), and the set's number stands for the endpoint: a slot of
256, so that the number of sets is bounded by the endpoints of the largest Service with affinity. An endpoint's slot
follows from its address alone unless two collide, so that endpoints that come and go leave the clients of others where
they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from ipvsagent.address import Family, endpoint_text
from ipvsagent.model import RealServer, VirtualServer
from ipvsagent.render.iptables.ipvs_rules import RuleOptions, in_set, not_in_set
from ipvsagent.render.iptables.nat_rules import from_pods, mark_to_masquerade
from ipvsagent.render.set_members import members, set_name
from ipvsagent.rows import SharedRow
from ipvsagent.rows.nat_chains import (
    CLIENT_SETS,
    ENDPOINT,
    ENTRY,
    FOR_NODE,
    ChainsRow,
    ServerChain,
    bucket_name,
    bucket_number,
    chain_name,
    marked_rule,
    server_chain,
)

SLOTS = 256

Rules = list[tuple[str, str]]


class IptablesRenderer:
    """options: of each family, as the constant rules have them."""

    def __init__(self, options: dict[Family, RuleOptions]) -> None:
        self._options = options

    def configure(self, options: dict[Family, RuleOptions]) -> bool:
        """From now on with these; whether any row may be another one."""
        changed = options != self._options
        self._options = options
        return changed

    def rows(self, server: VirtualServer) -> list[ChainsRow]:
        server_id = server.id
        bucket = bucket_name(bucket_number(server_id))
        protocol = server_id.protocol.lower()
        entry = chain_name(ENTRY, server_id)
        full = 128 if server_id.family is Family.IPV6 else 32
        match = f"-d {server_id.address}/{full} -p {protocol} -m {protocol} --dport {server_id.port}"
        dispatch = marked_rule(f"{match} -j {entry}", f"{server.service} {server.frontend}", bucket)
        chains, sets = self._chains(server, entry)
        return [ChainsRow(server_id, bucket, dispatch, chains, sets)]

    def shared(self, server: VirtualServer) -> list[SharedRow]:
        """Without endpoints of any weight it is one without endpoints; with such as a Local policy keeps from clients
        outside, it is in the same sets as beside IPVS, so that these can stay as they are when a node changes over."""
        if server.real_servers and not _weighted(server, server.real_servers):
            server = replace(server, real_servers=())
        if not server.real_servers and server.node_real_servers:
            server = replace(server, real_servers=server.node_real_servers, node_only=True)
        vip = set_name("VIP", server.id.family)
        return [row for row in members(server) if row.set != vip]

    def shares_alike(self, one: VirtualServer, other: VirtualServer) -> bool:
        return False

    def _chains(self, server: VirtualServer, entry: str) -> tuple[tuple[ServerChain, ...], tuple[str, ...]]:
        slots = _slots(server) if server.persistence_timeout else {}
        outside = _weighted(server, server.real_servers)
        on_node = _weighted(server, server.node_real_servers or ())
        rules: Rules = []
        chains: list[ServerChain] = []
        if server.node_real_servers is not None:
            name = chain_name(FOR_NODE, server.id)
            rules += self._short_circuit(server.id.family, name)
            chains.append(server_chain(name, _choice(server, on_node, slots)))
        rules += _choice(server, outside, slots)
        ends = []
        if slots:
            used = sorted({*outside, *on_node})
            ends = [server_chain(_end(server, real), _remember(server, real, slots)) for real in used]
        sets = tuple(
            sorted({_client_set(server, slots[real.address, real.port]) for real in (*outside, *on_node) if slots})
        )
        return (server_chain(entry, rules), *chains, *ends), sets

    def _short_circuit(self, family: Family, chain: str) -> Iterator[tuple[str, str]]:
        """A Local policy does not bind clients on this node: pods keep their address, the node's own processes may
        have one that no endpoint elsewhere could answer."""
        options = self._options[family]
        if options.pods_known and not options.interface:
            # An endpoint on their own node would answer pods of other nodes past this one.
            elsewhere = f"{in_set('POD', family, 'src')} {not_in_set('HOME', family, 'src')}"
            yield f"{elsewhere} {mark_to_masquerade(options)}", ""
        yield f"{from_pods(family, options)} -j {chain}", ""
        yield f"-m addrtype --src-type LOCAL {mark_to_masquerade(options)}", ""
        yield f"-m addrtype --src-type LOCAL -j {chain}", ""


def _choice(
    server: VirtualServer, real_servers: Sequence[RealServer], slots: dict[tuple[str, int], int]
) -> Iterator[tuple[str, str]]:
    """Known clients to where they were, all others at random."""
    if slots:
        for real in real_servers:
            known = f"-m set --match-set {_client_set(server, slots[real.address, real.port])} src,dst,dst"
            yield f"{known} -j {_end(server, real)}", ""
    left = sum(real.weight for real in real_servers)
    for real in real_servers:
        chance = "" if real.weight == left else f"-m statistic --mode random --probability {real.weight / left:.11f} "
        left -= real.weight
        remark = f"weight {real.weight}" if real.weight != 1 else ""
        if slots:
            yield f"{chance}-j {_end(server, real)}", remark
        else:
            yield f"-p {server.id.protocol.lower()} {chance}{_translate(real)}", remark


def _remember(server: VirtualServer, real: RealServer, slots: dict[tuple[str, int], int]) -> Iterator[tuple[str, str]]:
    """Every new connection begins the time anew, as kube-proxy's do."""
    clients = _client_set(server, slots[real.address, real.port])
    yield f"-j SET --add-set {clients} src,dst,dst --exist --timeout {server.persistence_timeout}", ""
    yield f"-p {server.id.protocol.lower()} {_translate(real)}", ""


def _translate(real: RealServer) -> str:
    return f"-j DNAT --to-destination {endpoint_text(real.address, real.port)}"


def _end(server: VirtualServer, real: RealServer) -> str:
    return chain_name(ENDPOINT, server.id, real.address, real.port)


def _client_set(server: VirtualServer, slot: int) -> str:
    return f"{CLIENT_SETS[server.id.family]}{slot:02x}"


def _weighted(server: VirtualServer, real_servers: Iterable[RealServer]) -> list[RealServer]:
    """Those that get connections, with the weights that count: rr knows no weights but 0."""
    some = [real for real in real_servers if real.weight]
    if server.scheduler == "rr":
        return [replace(real, weight=1) if real.weight != 1 else real for real in some]
    return some


def _slots(server: VirtualServer) -> dict[tuple[str, int], int]:
    """Of every endpoint that is listed, used or not: one that is not ready for a while comes back to its own. More than
    SLOTS endpoints take as many slots again, and so on: those that have one keep it."""
    listed = {*server.real_servers, *(server.node_real_servers or ()), *server.unused}
    places = sorted({(real.address, real.port) for real in listed}, key=lambda place: (_hash(place), place))
    taken: set[int] = set()
    slots: dict[tuple[str, int], int] = {}
    for place in places:
        first = len(taken) // SLOTS * SLOTS
        slot = first + _hash(place) % SLOTS
        while slot in taken:
            slot = first + (slot + 1) % SLOTS
        taken.add(slot)
        slots[place] = slot
    return slots


def _hash(place: tuple[str, int]) -> int:
    return zlib.crc32(f"{place[0]} {place[1]}".encode())
