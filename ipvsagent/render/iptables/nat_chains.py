"""Renders a virtual server as chains of iptables' nat table, for kernels without IPVS.

The chain of a virtual server chooses an endpoint at random, by weight, and translates the destination to it; conntrack
applies that choice as long as the connection lasts, so a changed chain never breaks a connection. What does not depend
on endpoints (masquerading, refusals, source ranges) is in the constant rules of nat_rules.py and in sets.

Affinity (ClientIP) is stored in sets with a timeout, because the match `recent` remembers only 100 clients. A member of
a set is (client, Service's port, Service's address), and the set's number stands for the endpoint: a slot of 256, so
that the number of sets is bounded by the endpoints of the largest Service with affinity. An endpoint's slot depends on
its address alone unless two collide, so other endpoints can come and go without moving its clients.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from ipvsagent.address import Family, endpoint_text
from ipvsagent.model import RealServer, VirtualServer
from ipvsagent.render.iptables.ipvs_rules import RuleOptions, from_pods, in_set, not_in_set
from ipvsagent.render.iptables.nat_rules import mark_to_masquerade
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
"""Rules, each with the remark that its comment contains for people, or ""."""


class IptablesRenderer:
    """Renders the rows of virtual servers for the iptables backend."""

    def __init__(self, options: dict[Family, RuleOptions]) -> None:
        """options: those of the constant rules of each family."""
        self._options = options

    def configure(self, options: dict[Family, RuleOptions]) -> bool:
        """Use these options from now on; return whether any row may change."""
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
        """Return the members of sets. A virtual server whose endpoints all have weight 0 counts as one without
        endpoints. One whose endpoints a Local policy hides from outside clients is in the same sets as with IPVS, so
        that these need not change when the node changes its backend."""
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
        """Yield rules for clients on this node, to which a Local policy does not apply. Pods keep their address; the
        node's own processes may have one that endpoints on other nodes could not answer."""
        options = self._options[family]
        if options.pods_known and not options.interface:
            # An endpoint on their own node would answer pods of other nodes directly, bypassing this node.
            elsewhere = f"{in_set('POD', family, 'src')} {not_in_set('HOME', family, 'src')}"
            yield f"{elsewhere} {mark_to_masquerade(options)}", ""
        yield f"{from_pods(family, options)} -j {chain}", ""
        yield f"-m addrtype --src-type LOCAL {mark_to_masquerade(options)}", ""
        yield f"-m addrtype --src-type LOCAL -j {chain}", ""


def _choice(
    server: VirtualServer, real_servers: Sequence[RealServer], slots: dict[tuple[str, int], int]
) -> Iterator[tuple[str, str]]:
    """Yield the rules that send known clients to their endpoint, and all others to a random one."""
    if slots:
        for real in real_servers:
            known = f"-m set --match-set {_client_set(server, slots[real.address, real.port])} src,dst,dst"
            yield f"{known} -j {_end(server, real)}", ""
    remaining = sum(real.weight for real in real_servers)
    for real in real_servers:
        share = f"{real.weight / remaining:.11f}"
        chance = "" if real.weight == remaining else f"-m statistic --mode random --probability {share} "
        remaining -= real.weight
        remark = f"weight {real.weight}" if real.weight != 1 else ""
        if slots:
            yield f"{chance}-j {_end(server, real)}", remark
        else:
            yield f"-p {server.id.protocol.lower()} {chance}{_translate(real)}", remark


def _remember(server: VirtualServer, real: RealServer, slots: dict[tuple[str, int], int]) -> Iterator[tuple[str, str]]:
    """Yield the rules that record a client and translate its packets; every new connection restarts the client's
    timeout, as with kube-proxy."""
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
    """Return the endpoints that get connections, with their effective weights: rr ignores all weights but 0."""
    some = [real for real in real_servers if real.weight]
    if server.scheduler == "rr":
        return [replace(real, weight=1) if real.weight != 1 else real for real in some]
    return some


def _slots(server: VirtualServer) -> dict[tuple[str, int], int]:
    """Return the slot of every listed endpoint, including unused ones, so that one that is not ready for a while keeps
    its slot. More than SLOTS endpoints use further blocks of SLOTS; those that have a slot keep it."""
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
