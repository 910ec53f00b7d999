"""Renders a virtual server as IPVS rows, and the rows that it may share with others: its address, members of sets, and
translations. A shared row is kept while any virtual server needs it.
"""

from __future__ import annotations

from msgspec.structs import replace

from ipvsagent.address import Family
from ipvsagent.model import VirtualServer
from ipvsagent.render.set_members import members
from ipvsagent.rows import (
    FULL_MASK,
    FULL_PREFIX,
    ONE_PACKET,
    PERSISTENT,
    AddressRow,
    RealServerRow,
    Row,
    SharedRow,
    TranslationRow,
    VirtualServerRow,
)


class IpvsRenderer:
    """Renders the rows of virtual servers for the IPVS backend."""

    def __init__(self, *, with_sets: bool = True) -> None:
        """with_sets: the packet rules look up sets, so the members of these are rendered, too."""
        self._with_sets = with_sets

    def rows(self, server: VirtualServer) -> list[Row]:
        """Return the row of a virtual server, then those of its real servers."""
        server_id = server.id
        flags = server.scheduler_flags
        if server.persistence_timeout:
            flags |= PERSISTENT
        if server.one_packet:
            flags |= ONE_PACKET
        rows: list[Row] = [
            VirtualServerRow(
                server_id,
                server.scheduler,
                flags,
                server.persistence_timeout,
                FULL_PREFIX if server_id.family is Family.IPV6 else FULL_MASK,
            )
        ]
        rows.extend([RealServerRow(server_id, r.address, r.port, r.weight) for r in server.real_servers])
        return rows

    def shared(self, server: VirtualServer) -> list[SharedRow]:
        """Return the rows that other virtual servers may need, too."""
        rows: list[SharedRow] = [*members(server)] if self._with_sets else []
        if self._with_sets and server.inside:
            rows.append(TranslationRow(server.id, server.inside))
        if server.bind:
            rows.append(AddressRow(server.id.address))
        return rows

    def shares_alike(self, one: VirtualServer, other: VirtualServer) -> bool:
        """Return whether both have the same shared rows: they differ in their endpoints only, and either both have
        some or neither has."""
        if bool(one.real_servers) is not bool(other.real_servers):
            return False
        return other == replace(
            one,
            real_servers=other.real_servers,
            node_real_servers=other.node_real_servers,
            unused=other.unused,
        )
